//! What the program noted about an instance, so that a listing of a thousand needs no call for
//! each.
//!
//! A record is a note and never the truth: it counts only for the domain, and the run of that
//! domain, that it was written for. Without it the same facts are asked of libvirt.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use jiff::Timestamp;
use rustix::path::Arg;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::saved_memory::fit::Saved;
use crate::files::{self, Directory, Exact};
use crate::hypervisor::xml::domain::Console;
use crate::names::State;

/// A note on one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The domain that this is about.
    pub uuid: Uuid,
    /// The base build that its overlay is based on.
    pub build: String,
    /// Its overlay. Other configurations of this host may have another `storage_dir`.
    #[serde(default)]
    pub disk: Option<PathBuf>,
    /// When the instance was made.
    pub created: Timestamp,
    /// Its last run, if it was started by this program.
    pub boot: Option<Boot>,
    /// Its overlay as it was made, for as long as it was not powered on.
    #[serde(default)]
    pub unused: Option<Exact>,
    /// It is being forked from a warm image, or a command was killed that did so: what runs then is not
    /// yet its own.
    #[serde(default)]
    pub forking: bool,
    /// Its saved memory, if it was saved by this program.
    #[serde(default)]
    pub saved: Option<Saved>,
    /// Why it is in the state that it was last brought to, if that was not simply asked for.
    #[serde(default)]
    pub why: Option<Cause>,
}

impl Record {
    /// On an instance that was just made, or of which nothing else is known.
    pub fn new(uuid: Uuid, build: String, disk: Option<PathBuf>, created: Timestamp) -> Record {
        Record {
            uuid,
            build,
            disk,
            created,
            boot: None,
            unused: None,
            forking: false,
            saved: None,
            why: None,
        }
    }

    /// The note on the present run of its domain, to which libvirt gave the number `id`.
    pub fn boot_of(&self, id: Option<u32>) -> Option<Boot> {
        let run = Run::current(id?);
        self.boot.clone().filter(|boot| boot.run == run)
    }
}

/// A note on why an instance is in a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The state that it was brought to. In another one this tells nothing.
    pub state: State,
    /// The reason, for people.
    pub reason: String,
}

/// A note on one run of a domain, from power-on to power-off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Which run this is.
    pub run: Run,
    /// When the power came on.
    pub powered_on: Timestamp,
    /// When the guest was first known to be up.
    pub ready: Option<Timestamp>,
    /// How that was learned.
    #[serde(default)]
    pub ready_by: ReadyBy,
    /// What it began with; none in a note by an earlier version, or where something else started it.
    #[serde(default)]
    pub started_by: Option<StartedBy>,
    /// Where its console is.
    pub console: Option<Console>,
    /// That nobody uses it, and what was done about that.
    #[serde(default)]
    pub idle: Option<Idle>,
}

/// What a run of an instance began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartedBy {
    /// The memory of a guest that had booted from the same base.
    Fork,
    /// Its disk.
    Boot,
    /// Its own memory, from before a pause.
    Memory,
}

/// How it was learned that a guest is up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadyBy {
    /// Its agent answered.
    #[default]
    Agent,
    /// It was paused, and of its start nothing is noted.
    Pause,
    /// It ran, and of its start nothing is noted.
    Found,
}

/// A note on a run that nobody uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idle {
    /// Since when it counts as idle.
    pub since: Timestamp,
    /// Whether its CPU time is limited: not every hypervisor can.
    pub capped: bool,
}

/// Tells one run of a domain from all others: libvirt counts runs, and begins again when the host
/// boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The kernel's id of the host's present boot.
    pub host_boot: String,
    /// libvirt's number of the running domain.
    pub domain_id: u32,
}

impl Run {
    /// The run `domain_id` since this host was booted.
    pub fn current(domain_id: u32) -> Run {
        Run {
            host_boot: host_boot().to_owned(),
            domain_id,
        }
    }
}

/// The kernel's id of the host's present boot.
pub fn host_boot() -> &'static str {
    static HOST_BOOT: LazyLock<String> = LazyLock::new(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        id.unwrap_or_default().trim().to_owned()
    });
    &HOST_BOOT
}

/// The record at `path` if it is whole and about the domain `uuid`.
pub fn read(path: &Path, uuid: Uuid) -> Option<Record> {
    let directory = Directory::open(path.parent()?).ok()?;
    read_in(&directory, path.file_name()?, uuid)
}

/// The record at `path`, whichever domain it is about.
pub fn read_any(path: &Path) -> Option<Record> {
    serde_json::from_slice(&files::read(path).ok()?).ok()
}

/// As [`read`], from the file `name` in `directory`.
pub fn read_in(directory: &Directory, name: impl Arg, uuid: Uuid) -> Option<Record> {
    let record: Record = serde_json::from_slice(&directory.read(name).ok()?).ok()?;
    (record.uuid == uuid).then_some(record)
}

/// Replaces the record at `path`. The disk is not waited for: right after a guest's memory was saved
/// that would be a wait for all of it, and a note that a power cut took is asked of libvirt.
pub fn write(path: &Path, record: &Record) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        files::make_directory(directory, files::SHARED_DIRECTORY)?;
    }
    files::replace_soon(path, &serde_json::to_vec(record)?, files::SHARED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::xml::domain::new_uuid;

    #[test]
    fn a_record_counts_for_its_own_domain_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("instances/lab01_user_7.json");
        let uuid = new_uuid();
        let record = Record::new(uuid, "1".to_owned(), None, Timestamp::UNIX_EPOCH);
        write(&path, &record).unwrap();
        assert_eq!(read(&path, uuid), Some(record));
        assert_eq!(read(&path, new_uuid()), None);
        std::fs::write(&path, "{\"uuid\":").unwrap();
        assert_eq!(read(&path, uuid), None, "half a record is no record");
    }
}
