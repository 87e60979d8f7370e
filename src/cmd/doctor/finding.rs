//! One finding, and the answer with all findings.

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use crate::error::hint_of;
use crate::output::{self, Cell, Column, Table};

/// The status of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All is well.
    Ok,
    /// It works, but not as well or as safely as it could.
    Warning,
    /// It does not work.
    Failed,
}

/// One finding.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub status: Status,
    pub message: String,
    pub remedy: Option<String>,
}

/// The name of the check.
#[derive(Debug, Clone, Copy)]
pub struct Check(pub &'static str);

impl Check {
    pub fn ok(self, message: impl Into<String>) -> Finding {
        self.found(Status::Ok, message.into(), None)
    }

    pub fn warning(self, message: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.found(Status::Warning, message.into(), Some(remedy.into()))
    }

    pub fn failed(self, message: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.found(Status::Failed, message.into(), Some(remedy.into()))
    }

    /// A finding for an error; `remedy` is used if the error has no hint.
    pub fn error(self, error: &anyhow::Error, remedy: impl AsRef<str>) -> Finding {
        let remedy = hint_of(error).unwrap_or(remedy.as_ref());
        self.failed(format!("{error:#}"), remedy)
    }

    /// A finding that all is well, or for the error.
    pub fn of(self, found: Result<String>, remedy: &str) -> Finding {
        self.or_error(found.map(|message| self.ok(message)), remedy)
    }

    /// The findings, or one for the error.
    pub fn or_error(self, found: Result<Finding>, remedy: impl AsRef<str>) -> Finding {
        found.unwrap_or_else(|error| self.error(&error, remedy))
    }

    fn found(self, status: Status, message: String, remedy: Option<String>) -> Finding {
        let check = self.0;
        Finding {
            check,
            status,
            message,
            remedy,
        }
    }
}

/// The document.
#[derive(Debug, Serialize)]
pub struct Findings {
    pub ready: bool,
    pub findings: Vec<Finding>,
    /// Of this program.
    pub version: &'static str,
    /// By the clock of this host.
    pub time: Timestamp,
}

impl Findings {
    pub fn of(findings: Vec<Finding>, time: Timestamp) -> Findings {
        let ready = !findings.iter().any(|it| it.status == Status::Failed);
        let version = env!("CARGO_PKG_VERSION");
        Findings {
            ready,
            findings,
            version,
            time,
        }
    }

    /// The number of failures.
    pub fn failures(&self) -> usize {
        let failed = |it: &&Finding| it.status == Status::Failed;
        self.findings.iter().filter(failed).count()
    }
}

impl output::Report for Findings {
    fn table(&self) -> Option<Table> {
        let lines = self.findings.iter().flat_map(|finding| {
            let status = match finding.status {
                Status::Ok => Cell::good("ok"),
                Status::Warning => Cell::doubtful("warning"),
                Status::Failed => Cell::bad("FAILED"),
            };
            let remedy = finding.remedy.as_ref();
            let remedy = remedy.map(|it| ("", Cell::from(""), format!("→ {it}")));
            let line = (finding.check, status, finding.message.clone());
            [line].into_iter().chain(remedy)
        });
        let lines: Vec<_> = lines.collect();
        Table::of(&lines)
            .column("CHECK", |(check, ..)| *check)
            .column("STATUS", |(_, status, _)| status.clone())
            .column(Column::folded("FINDING"), |(.., text)| text.as_str())
            .if_any()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Page, Report as _};

    #[test]
    fn a_warning_does_not_keep_a_host_from_being_ready() {
        let ok = || Check("packer").ok("Packer 1.6.6");
        let warning = || Check("kvm").warning("emulation", "enable it");
        let of = |findings| Findings::of(findings, Timestamp::UNIX_EPOCH);
        assert!(of(vec![ok(), warning()]).ready);
        let report = of(vec![ok(), Check("libvirt").failed("away", "start it")]);
        assert!(!report.ready);
        assert_eq!(
            report.table().unwrap().draw(Page::PLAIN),
            "CHECK    STATUS  FINDING\npacker   ok      Packer 1.6.6\n\
             libvirt  FAILED  away\n                 → start it"
        );
    }
}
