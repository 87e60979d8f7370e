//! What a cleanup answers.

use std::path::PathBuf;

use serde::Serialize;

use crate::images::base::Base;
use crate::names::{InstanceName, LabId, State, UserId};
use crate::output::{self, Cell, Column, Table};
use crate::units::{MIB, size};

/// The document of the contract.
#[derive(Debug, Serialize)]
pub struct CleanupReport {
    pub destroyed: Vec<Destroyed>,
    pub kept: Vec<Kept>,
    pub failed: Vec<Failed>,
    pub builds: Vec<Collected>,
    pub freed_mb: u64,
    pub dry_run: bool,
}

#[derive(Debug, Serialize)]
pub struct Destroyed {
    instance: String,
    lab_id: LabId,
    user_id: UserId,
    /// The state it was in; `None` for what had no VM.
    state: Option<State>,
    freed_mb: u64,
    reason: String,
    #[serde(skip)]
    bytes: u64,
}

#[derive(Debug, Serialize)]
pub struct Kept {
    instance: String,
    reason: String,
}

#[derive(Debug, Serialize)]
pub struct Failed {
    instance: String,
    #[serde(serialize_with = "whole")]
    error: anyhow::Error,
}

/// A base build that nothing uses any more.
#[derive(Debug, Serialize)]
pub struct Collected {
    lab_id: LabId,
    build: String,
    image: PathBuf,
    freed_mb: u64,
    #[serde(skip)]
    bytes: u64,
}

impl CleanupReport {
    pub fn new(dry_run: bool) -> CleanupReport {
        CleanupReport {
            destroyed: Vec::new(),
            kept: Vec::new(),
            failed: Vec::new(),
            builds: Vec::new(),
            freed_mb: 0,
            dry_run,
        }
    }

    /// Adds up what was freed.
    pub fn add_up(&mut self) {
        let instances = self.destroyed.iter().map(|destroyed| destroyed.bytes);
        let builds = self.builds.iter().map(|build| build.bytes);
        self.freed_mb = instances.chain(builds).sum::<u64>() / MIB;
    }
}

impl Destroyed {
    pub fn new(name: &InstanceName, state: Option<State>, reason: &str, bytes: u64) -> Destroyed {
        Destroyed {
            instance: name.to_string(),
            lab_id: name.lab.clone(),
            user_id: name.user.clone(),
            state,
            freed_mb: bytes / MIB,
            reason: reason.to_owned(),
            bytes,
        }
    }
}

impl Kept {
    pub fn new(name: &InstanceName, reason: String) -> Kept {
        Kept {
            instance: name.to_string(),
            reason,
        }
    }
}

impl Failed {
    pub fn new(name: &InstanceName, error: anyhow::Error) -> Failed {
        Failed {
            instance: name.to_string(),
            error,
        }
    }

    pub fn text(&self) -> String {
        format!("failed to destroy {}: {:#}", self.instance, self.error)
    }

    pub fn into_error(self) -> anyhow::Error {
        self.error
            .context(format!("failed to destroy {}", self.instance))
    }
}

impl Collected {
    pub fn new(lab: &LabId, base: &Base, bytes: u64) -> Collected {
        Collected {
            lab_id: lab.clone(),
            build: base.build.clone(),
            image: base.path.clone(),
            freed_mb: bytes / MIB,
            bytes,
        }
    }
}

fn whole<S: serde::Serializer>(error: &anyhow::Error, serializer: S) -> Result<S::Ok, S::Error> {
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
        let destroyed = if self.dry_run {
            "would be destroyed"
        } else {
            "destroyed"
        };
        let row =
            |what: &str, result: Cell, state: Option<State>, freed: Option<u64>, reason: &str| {
                vec![
                    what.into(),
                    result,
                    state.into(),
                    freed.map(size).into(),
                    reason.into(),
                ]
            };
        let mut rows = Vec::new();
        for one in &self.destroyed {
            let freed = Some(one.bytes);
            rows.push(row(
                &one.instance,
                destroyed.into(),
                one.state,
                freed,
                &one.reason,
            ));
        }
        for build in &self.builds {
            let name = format!("{} build {}", build.lab_id, build.build);
            let reason = "no instance uses it";
            rows.push(row(
                &name,
                destroyed.into(),
                None,
                Some(build.bytes),
                reason,
            ));
        }
        for Kept { instance, reason } in &self.kept {
            rows.push(row(instance, "kept".into(), None, None, reason));
        }
        for Failed { instance, .. } in &self.failed {
            rows.push(row(instance, Cell::bad("failed"), None, None, "see below"));
        }
        (!rows.is_empty()).then(|| Table::new(&COLUMNS, rows))
    }
}
