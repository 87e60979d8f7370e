//! The answer of a cleanup.

use std::path::PathBuf;

use serde::{Serialize, Serializer};

use crate::names::{LabId, State, UserId};
use crate::output::{self, Cell, Column, Table};
use crate::units::{MIB, size};

/// The JSON document.
#[derive(Debug, Default, Serialize)]
pub struct CleanupReport {
    pub destroyed: Vec<Destroyed>,
    pub kept: Vec<Kept>,
    pub failed: Vec<Failed>,
    pub builds: Vec<Collected>,
    /// Freed by instances and builds, in bytes.
    #[serde(rename = "freed_mb", serialize_with = "in_mib")]
    pub freed: u64,
    pub dry_run: bool,
}

#[derive(Debug, Serialize)]
pub struct Destroyed {
    pub instance: String,
    pub lab_id: LabId,
    pub user_id: UserId,
    /// The previous state; `None` if there was no VM.
    pub state: Option<State>,
    /// In bytes.
    #[serde(rename = "freed_mb", serialize_with = "in_mib")]
    pub freed: u64,
    pub reason: String,
}

#[derive(Debug, Serialize)]
pub struct Kept {
    pub instance: String,
    pub reason: String,
}

#[derive(Debug, Serialize)]
pub struct Failed {
    pub instance: String,
    #[serde(serialize_with = "whole")]
    pub error: anyhow::Error,
}

/// A base build that nothing uses any more.
#[derive(Debug, Serialize)]
pub struct Collected {
    pub lab_id: LabId,
    pub build: String,
    pub image: PathBuf,
    /// In bytes.
    #[serde(rename = "freed_mb", serialize_with = "in_mib")]
    pub freed: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn in_mib<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(bytes / MIB)
}

fn whole<S: Serializer>(error: &anyhow::Error, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{error:#}"))
}

impl output::Report for CleanupReport {
    fn text(&self) -> String {
        "nothing to destroy".to_owned()
    }

    fn table(&self) -> Option<Table> {
        let gone = if self.dry_run {
            "would be destroyed"
        } else {
            "destroyed"
        };
        let gone = || Cell::from(gone);
        let mut rows = Vec::new();
        for it in &self.destroyed {
            let (what, reason) = (it.instance.clone(), it.reason.as_str());
            rows.push((what, gone(), it.state, Some(it.freed), reason));
        }
        for it in &self.builds {
            let what = format!("{} build {}", it.lab_id, it.build);
            rows.push((what, gone(), None, Some(it.freed), "no instance uses it"));
        }
        for Kept { instance, reason } in &self.kept {
            rows.push((instance.clone(), "kept".into(), None, None, reason));
        }
        for Failed { instance, .. } in &self.failed {
            let failed = Cell::bad("failed");
            rows.push((instance.clone(), failed, None, None, "see below"));
        }
        Table::of(&rows)
            .column("WHAT", |(what, ..)| what.as_str())
            .column("RESULT", |(_, result, ..)| result.clone())
            .column(Column::spare(2, "STATE"), |(_, _, state, ..)| *state)
            .column(Column::number(1, "FREED"), |(.., freed, _)| freed.map(size))
            .column(Column::cut(3, "REASON"), |(.., reason)| *reason)
            .if_any()
    }
}
