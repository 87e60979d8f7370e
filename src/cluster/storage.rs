//! The shared directory: which host owns an instance, and which hosts are fenced.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use sha2::{Digest, Sha256};

use crate::config::{Cluster, HostName};
use crate::files;
use crate::names::InstanceName;
use crate::paths::{Paths, SharedPaths};
use crate::state::lock::{self, Lock};

/// The directory that the hosts of a cluster share.
#[derive(Debug, Clone)]
pub struct Shared<'a> {
    pub paths: SharedPaths,
    cluster: &'a Cluster,
}

impl<'a> Shared<'a> {
    /// The shared directory of `cluster`.
    pub fn new(cluster: &'a Cluster) -> Shared<'a> {
        Shared {
            paths: SharedPaths::new(&cluster.shared_dir),
            cluster,
        }
    }

    /// The directories of `host`.
    pub fn of(&self, host: &HostName) -> Paths {
        self.paths.of(host)
    }

    /// The host that has the disk of `name`.
    pub fn owner(&self, name: &InstanceName) -> Option<&'a HostName> {
        self.first(|paths| paths.overlay(name))
    }

    /// The host that has the disk of `name`, or at least its record.
    pub fn trace(&self, name: &InstanceName) -> Option<&'a HostName> {
        self.owner(name)
            .or_else(|| self.first(|paths| paths.record(name)))
            .or_else(|| self.first(|paths| paths.destroying(name)))
    }

    /// The host that creates `name` for its lesson if no host has it: the same one whichever host asks, with as
    /// many names for each host.
    pub fn creator(&self, name: &InstanceName) -> Option<&'a HostName> {
        let hosts = self.cluster.hosts.keys();
        let weight = |host: &&HostName| Sha256::digest(format!("{host} {name}"));
        hosts
            .filter(|host| !self.is_fenced(host))
            .max_by_key(weight)
    }

    fn first(&self, file: impl Fn(&Paths) -> PathBuf) -> Option<&'a HostName> {
        let has = |host: &&HostName| file(&self.of(host)).symlink_metadata().is_ok();
        self.cluster.hosts.keys().find(has)
    }

    /// Whether `host` has saved memory of `name`, or may still get it when an interrupted move is
    /// completed.
    pub fn has_memory(&self, host: &HostName, name: &InstanceName) -> bool {
        let files = [
            self.paths.saved_memory(host, name),
            self.of(host).arriving(name),
        ];
        files.iter().any(|file| file.symlink_metadata().is_ok())
    }

    /// The instances whose disks `host` has.
    pub fn instances(&self, host: &HostName) -> Result<Vec<InstanceName>> {
        let directory = self.of(host).user_instances();
        names(&directory).with_context(|| format!("failed to look at {}", directory.display()))
    }

    /// Whether `host` has a disk or a record of any instance.
    pub fn has_instances(&self, host: &HostName) -> Result<bool> {
        let has_records = || files::names_in(&self.of(host).records()).map(|all| !all.is_empty());
        Ok(!self.instances(host)?.is_empty() || has_records()?)
    }

    /// The instances of `host` that must be resumed after their move.
    pub fn to_resume(&self, host: &HostName) -> Result<Vec<InstanceName>> {
        let directory = self.paths.draining(host);
        match directory.try_exists()? {
            true => Ok(names(&directory)?),
            false => Ok(Vec::new()),
        }
    }

    /// Marks `name` to run again after it has moved away from `host`.
    pub fn note_to_resume(&self, host: &HostName, name: &InstanceName) -> Result<()> {
        let directory = self.paths.draining(host);
        files::make_directory(&directory, files::SHARED_DIRECTORY)?;
        files::replace(&directory.join(name.to_string()), &[], files::SHARED)?;
        Ok(())
    }

    /// Removes the mark.
    pub fn forget_to_resume(&self, host: &HostName, name: &InstanceName) -> Result<()> {
        Ok(files::remove(
            &self.paths.draining(host).join(name.to_string()),
        )?)
    }

    /// Whether `host` is fenced.
    pub fn is_fenced(&self, host: &HostName) -> bool {
        self.paths.fenced(host).symlink_metadata().is_ok()
    }

    /// Records that `host` is fenced. This survives a power cut.
    pub fn fence(&self, host: &HostName) -> Result<()> {
        let mark = self.paths.fenced(host);
        if let Some(directory) = mark.parent() {
            files::make_directory(directory, 0o755)?;
        }
        files::replace(&mark, &[], files::SHARED)?;
        Ok(files::sync_directory_of(&mark)?)
    }

    /// Removes the fence.
    pub fn unfence(&self, host: &HostName) -> Result<()> {
        Ok(files::remove(&self.paths.fenced(host))?)
    }

    /// The lock that is held while `name` is placed on a host.
    pub fn lock(&self, name: &InstanceName) -> Result<Lock> {
        let path = self.paths.placing(name);
        Lock::take(&path, &name.to_string(), lock::PATIENCE)
    }

    /// The same lock; `None` if another command holds it.
    pub fn try_lock(&self, name: &InstanceName) -> Option<Lock> {
        Lock::try_take(&self.paths.placing(name))
    }
}

/// The instances that have a file in a directory.
fn names(directory: &std::path::Path) -> std::io::Result<Vec<InstanceName>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let file = entry?.file_name();
        // Incomplete files begin with a dot.
        let file = file.to_str().filter(|file| !file.starts_with('.'));
        names.extend(file.and_then(Paths::instance_of));
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_says_whose_an_instance_is() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = serde_json::json!({
            "engine": "slurm", "shared_dir": dir.path(), "hosts": {"h1": {}, "h2": {}},
        });
        let cluster: Cluster = serde_json::from_value(cluster).unwrap();
        let (shared, name) = (Shared::new(&cluster), "lab01_user_7".parse().unwrap());
        assert_eq!(shared.owner(&name), None);
        let h2: HostName = "h2".parse().unwrap();
        let overlay = shared.of(&h2).overlay(&name);
        std::fs::create_dir_all(overlay.parent().unwrap()).unwrap();
        std::fs::write(&overlay, "").unwrap();
        std::fs::write(overlay.with_file_name(".lab01_user_8.qcow2.new"), "").unwrap();
        assert_eq!(shared.owner(&name), Some(&h2));
        assert_eq!(shared.instances(&h2).unwrap(), [name]);
        assert!(!shared.is_fenced(&h2));
        shared.fence(&h2).unwrap();
        assert!(shared.is_fenced(&h2));
        let names = (0..100).map(|n| format!("lab01_user_{n}").parse().unwrap());
        let mut names: Vec<InstanceName> = names.collect();
        assert!(names.iter().all(|name| shared.creator(name) != Some(&h2)));
        shared.unfence(&h2).unwrap();
        assert!(!shared.is_fenced(&h2));
        names.retain(|name| shared.creator(name) == Some(&h2));
        assert!((30..70).contains(&names.len()), "{names:?}");
    }
}
