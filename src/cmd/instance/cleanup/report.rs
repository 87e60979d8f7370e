//! What a cleanup answers.

use std::path::PathBuf;

use serde::Serialize;

use crate::images::base::Base;
use crate::instance::{InstanceName, LabId, State, UserId};
use crate::output::{self, table};
use crate::units::MIB;

/// The document of the contract.
#[derive(Debug, Serialize)]
pub struct Report {
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

/// A base build that nothing stood on any more.
#[derive(Debug, Serialize)]
pub struct Collected {
    lab_id: LabId,
    build: String,
    image: PathBuf,
    freed_mb: u64,
    #[serde(skip)]
    bytes: u64,
}

impl Report {
    pub fn new(dry_run: bool) -> Report {
        Report {
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

impl output::Report for Report {
    fn text(&self) -> String {
        let destroyed = match self.dry_run {
            true => "would be destroyed",
            false => "destroyed",
        };
        let dash = || "-".to_owned();
        let row = |instance: &str, result: &str, state: Option<State>, freed, reason: &str| {
            vec![
                instance.to_owned(),
                result.to_owned(),
                state.map_or_else(dash, |state| state.to_string()),
                freed,
                reason.to_owned(),
            ]
        };
        let size = |mib: u64| format!("{mib} MiB");
        let mut rows = Vec::new();
        for Destroyed {
            instance,
            state,
            freed_mb,
            reason,
            ..
        } in &self.destroyed
        {
            rows.push(row(instance, destroyed, *state, size(*freed_mb), reason));
        }
        for Collected {
            lab_id,
            build,
            freed_mb,
            ..
        } in &self.builds
        {
            let name = format!("{lab_id} build {build}");
            let reason = "no instance stands on it";
            rows.push(row(&name, destroyed, None, size(*freed_mb), reason));
        }
        for Kept { instance, reason } in &self.kept {
            rows.push(row(instance, "kept", None, dash(), reason));
        }
        for Failed { instance, .. } in &self.failed {
            rows.push(row(instance, "failed", None, dash(), "see below"));
        }
        match rows.is_empty() {
            true => "nothing to destroy".to_owned(),
            false => table(&["WHAT", "RESULT", "STATE", "FREED", "REASON"], rows),
        }
    }
}
