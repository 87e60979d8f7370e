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

const COLUMNS: [Column; 5] = [
    Column::new("WHAT"),
    Column::new("RESULT"),
    Column::new("STATE").spare(2),
    Column::new("FREED").number().spare(1),
    Column::new("REASON").cut().spare(3),
];

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
        let mut rows = Vec::new();
        let mut add = |what: &str, result: Cell, state: Option<State>, freed: Option<u64>, why| {
            let freed = freed.map(size).into();
            rows.push(vec![
                what.into(),
                result,
                state.into(),
                freed,
                Cell::from(why),
            ]);
        };
        for it in &self.destroyed {
            let (state, freed) = (it.state, Some(it.freed));
            add(&it.instance, gone.into(), state, freed, &*it.reason);
        }
        for it in &self.builds {
            let name = format!("{} build {}", it.lab_id, it.build);
            add(
                &name,
                gone.into(),
                None,
                Some(it.freed),
                "no instance uses it",
            );
        }
        for Kept { instance, reason } in &self.kept {
            add(instance, "kept".into(), None, None, reason);
        }
        for Failed { instance, .. } in &self.failed {
            add(instance, Cell::bad("failed"), None, None, "see below");
        }
        (!rows.is_empty()).then(|| Table::new(&COLUMNS, rows))
    }
}
