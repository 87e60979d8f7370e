//! One finding, and the answer made of all findings.

use serde::Serialize;

use crate::error::hint_of;
use crate::output::{self, Cell, Column, Table};

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, but not as well or as safely as it could.
    Warning,
    /// It does not work.
    Failed,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub status: Status,
    pub message: String,
    pub remedy: Option<String>,
}

impl Finding {
    pub fn ok(check: &'static str, message: impl Into<String>) -> Finding {
        Finding {
            check,
            status: Status::Ok,
            message: message.into(),
            remedy: None,
        }
    }

    pub fn warning(
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding {
            check,
            status: Status::Warning,
            message: message.into(),
            remedy: Some(remedy.into()),
        }
    }

    pub fn failed(
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding {
            check,
            status: Status::Failed,
            message: message.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// An error in place of a finding; `remedy` where it has no hint of its own.
    pub fn error(check: &'static str, error: &anyhow::Error, remedy: &str) -> Finding {
        let remedy = hint_of(error).unwrap_or(remedy);
        Finding::failed(check, format!("{error:#}"), remedy)
    }
}

/// The document.
#[derive(Debug, Serialize)]
pub struct Report {
    pub ready: bool,
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn of(findings: Vec<Finding>) -> Report {
        Report {
            ready: !findings.iter().any(|it| it.status == Status::Failed),
            findings,
        }
    }

    /// How many are failures.
    pub fn failures(&self) -> usize {
        let failed = |it: &&Finding| it.status == Status::Failed;
        self.findings.iter().filter(failed).count()
    }
}

const COLUMNS: [Column; 3] = [
    Column::new("CHECK"),
    Column::new("STATUS"),
    Column::new("FINDING").folded(),
];

impl output::Report for Report {
    fn text(&self) -> String {
        String::new()
    }

    fn table(&self) -> Option<Table> {
        let rows = self.findings.iter().flat_map(|finding| {
            let status = match finding.status {
                Status::Ok => Cell::good("ok"),
                Status::Warning => Cell::doubtful("warning"),
                Status::Failed => Cell::bad("FAILED"),
            };
            let found = vec![
                finding.check.into(),
                status,
                finding.message.as_str().into(),
            ];
            let remedy = finding.remedy.as_ref();
            let remedy =
                remedy.map(|remedy| vec!["".into(), "".into(), format!("→ {remedy}").into()]);
            [found].into_iter().chain(remedy)
        });
        Some(Table::new(&COLUMNS, rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Page, Report as _};

    #[test]
    fn a_warning_does_not_keep_a_host_from_being_ready() {
        let ok = || Finding::ok("packer", "Packer 1.6.6");
        let warning = || Finding::warning("kvm", "emulation", "enable it");
        assert!(Report::of(vec![ok(), warning()]).ready);
        let report = Report::of(vec![ok(), Finding::failed("libvirt", "away", "start it")]);
        assert!(!report.ready);
        assert_eq!(
            report.table().unwrap().draw(Page::PLAIN),
            "CHECK    STATUS  FINDING\npacker   ok      Packer 1.6.6\n\
             libvirt  FAILED  away\n                 → start it"
        );
    }
}
