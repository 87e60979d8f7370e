//! The program's record of an instance, which makes listing a thousand fast, without a call to
//! libvirt for each.
//!
//! A record is only a cache: it is valid only for the domain and the run that it was written for.
//! Without it, libvirt is asked for the same facts.

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

/// The record of one instance.
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
    /// The new overlay, until the instance is powered on.
    #[serde(default)]
    pub unused: Option<Exact>,
    /// It is being forked from a warm image, or a command was killed while doing so: what runs is
    /// not yet the instance.
    #[serde(default)]
    pub forking: bool,
    /// Its saved memory, if it was saved by this program.
    #[serde(default)]
    pub saved: Option<Saved>,
    /// Why it is in its last recorded state, if not simply by request.
    #[serde(default)]
    pub why: Option<Cause>,
}

impl Record {
    /// The record of an instance that was just created, or of which nothing else is known.
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

    /// The note about the present run of its domain, which has the number `id` in libvirt.
    pub fn boot_of(&self, id: Option<u32>) -> Option<Boot> {
        let run = Run::current(id?);
        self.boot.clone().filter(|boot| boot.run == run)
    }
}

/// Why an instance is in a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The state that this is about. In any other state, this does not apply.
    pub state: State,
    /// The reason, for people.
    pub reason: String,
}

/// A note about one run of a domain, from power-on to power-off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Which run this is.
    pub run: Run,
    /// When the power came on.
    pub powered_on: Timestamp,
    /// When the guest was first known to be up.
    pub ready: Option<Timestamp>,
    /// How this became known.
    #[serde(default)]
    pub ready_by: ReadyBy,
    /// How it was started; none in the note of an earlier version, or if something else started it.
    #[serde(default)]
    pub started_by: Option<StartedBy>,
    /// The address of its console.
    pub console: Option<Console>,
    /// Set while it is idle.
    #[serde(default)]
    pub idle: Option<Idle>,
}

/// How a run of an instance was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartedBy {
    /// The memory of a guest that had booted from the same base.
    Fork,
    /// Its disk.
    Boot,
    /// Its own saved memory.
    Memory,
}

/// How it became known that a guest is up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadyBy {
    /// Its agent answered.
    #[default]
    Agent,
    /// It was paused, and its start is not recorded.
    Pause,
    /// It was running, and its start is not recorded.
    Found,
}

/// A note about an idle run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idle {
    /// Since when it is idle.
    pub since: Timestamp,
    /// Whether its CPU time is limited; not every hypervisor can do that.
    pub capped: bool,
}

/// Identifies one run of a domain: libvirt numbers runs, and starts again when the host boots.
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

/// The record at `path` if it is complete and about the domain `uuid`.
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

/// Replaces the record at `path`. Does not wait for the disk: right after a guest's memory was
/// saved, that would wait for all of it. If a power cut loses the record, libvirt is asked instead.
pub fn write(path: &Path, record: &Record) -> io::Result<()> {
    files::make_directory_of(path)?;
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
