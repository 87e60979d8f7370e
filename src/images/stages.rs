//! Stages: cloud images turned into Cyyber Linux, from which labs are built. Their names are
//! derived from their inputs, so an existing one with the right name is the right one.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::base::note_path;
use super::{allocated, copy, full_disk};
use crate::files;
use crate::paths::Paths;

/// An existing stage.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Its name.
    pub key: String,
    /// The image, absolute.
    pub path: PathBuf,
    /// Its record.
    pub note: Note,
}

/// The record of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// When it was made.
    pub made: Timestamp,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// SHA-256 of the cloud image, in hexadecimal.
    pub source_sha256: Option<String>,
}

/// The stage called `key`, if it is complete.
pub fn find(paths: &Paths, key: &str) -> Option<Stage> {
    let path = paths.stage(key);
    let note: Note = serde_json::from_slice(&files::read(&note_path(&path)).ok()?).ok()?;
    let key = key.to_owned();
    let whole = std::fs::metadata(&path).is_ok_and(|file| file.len() == note.size_bytes);
    whole.then_some(Stage { key, path, note })
}

impl Stage {
    /// Its report of the packages in its archive.
    pub fn report(&self) -> io::Result<String> {
        fs_err::read_to_string(names_path(&self.path))
    }

    /// Records that it is in use now, so that it is not among the first to be removed.
    pub fn touch(&self) {
        if let Ok(note) = std::fs::File::open(note_path(&self.path)) {
            let _ = note.set_modified(std::time::SystemTime::now());
        }
    }
}

/// Installs `image` as the stage `key`, whose exclusive lock the caller holds. `names` is its
/// report of its archive. An existing stage of that name is replaced.
pub fn install(paths: &Paths, key: &str, image: &Path, names: &Path, note: Note) -> Result<Stage> {
    let directory = paths.stages();
    files::make_directory(&directory, files::PASSABLE_DIRECTORY)?;
    let (path, new) = (paths.stage(key), paths.new_stage(key));
    // Without a record it counts as missing until it is complete.
    files::remove(&note_path(&path))?;
    let put = || {
        files::remove(&new)?;
        move_to(image, &new)?;
        fs_err::set_permissions(&new, Permissions::from_mode(0o444))?;
        fs_err::File::open(&new)?.sync_all()?;
        fs_err::rename(&new, &path)?;
        files::replace(&names_path(&path), &fs_err::read(names)?, files::SHARED)?;
        let said = serde_json::to_vec_pretty(&note)?;
        files::replace(&note_path(&path), &said, files::SHARED)?;
        files::sync_directory_of(&path)?;
        Ok(())
    };
    put()
        .inspect_err(|_| drop(files::remove(&new)))
        .map_err(|error| full_disk(error, &directory))
        .with_context(|| format!("failed to put the stage {} in place", path.display()))?;
    let key = key.to_owned();
    Ok(Stage { key, path, note })
}

/// Renames, or copies if `to` is on another file system.
fn move_to(from: &Path, to: &Path) -> Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            copy(from, to)?;
            fs_err::remove_file(from)?;
        }
        renamed => renamed.with_context(|| format!("failed to move {}", from.display()))?,
    }
    Ok(())
}

/// A stage that no lab of the configuration uses.
#[derive(Debug, PartialEq, Eq)]
pub struct Stale {
    /// Its name.
    pub key: String,
    /// When a lab was last built from it.
    pub used: Timestamp,
}

/// The stages that are neither `needed` nor among the `kept` others that were used last.
pub fn stale(paths: &Paths, needed: &[&str], kept: usize) -> Result<Vec<Stale>> {
    let names = files::names_in(&paths.stages())?;
    let keys = names.iter().filter_map(|name| name.strip_suffix(".qcow2"));
    let others = keys.filter(|key| !needed.contains(key)).map(|key| {
        // A stage without a record is incomplete.
        let note = note_path(&paths.stage(key)).metadata();
        let used = note.and_then(|note| note.modified()).ok();
        let used = used.and_then(|used| Timestamp::try_from(used).ok());
        Stale {
            key: key.to_owned(),
            used: used.unwrap_or(Timestamp::UNIX_EPOCH),
        }
    });
    let mut others: Vec<_> = others.collect();
    others.sort_by(|one, other| other.used.cmp(&one.used).then(one.key.cmp(&other.key)));
    Ok(others.split_off(kept.min(others.len())))
}

/// Removes a stage, whose exclusive lock the caller holds, and returns how many bytes that freed.
pub fn remove(paths: &Paths, key: &str) -> Result<u64> {
    let path = paths.stage(key);
    let freed = allocated(&path).unwrap_or(0);
    // The record first: without it, the rest is not a stage.
    for path in [&note_path(&path), &names_path(&path), &path] {
        files::remove(path)?;
    }
    Ok(freed)
}

fn names_path(image: &Path) -> PathBuf {
    image.with_extension("packages")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(paths: &Paths, key: &str, used: u64) -> Stage {
        let directory = tempfile::tempdir_in(paths.output()).unwrap();
        let [image, names] = ["disk", "report"].map(|name| directory.path().join(name));
        std::fs::write(&image, key).unwrap();
        std::fs::write(&names, "nmap\ngdb\n").unwrap();
        let note = Note {
            made: Timestamp::UNIX_EPOCH,
            size_bytes: key.len() as u64,
            sha256: String::new(),
            source_sha256: None,
        };
        let stage = install(paths, key, &image, &names, note).unwrap();
        let used = std::time::UNIX_EPOCH + std::time::Duration::from_secs(used);
        let note = std::fs::File::open(note_path(&stage.path)).unwrap();
        note.set_modified(used).unwrap();
        stage
    }

    #[test]
    fn stages_are_found_used_and_collected() {
        let directory = tempfile::tempdir().unwrap();
        let (storage, here) = (directory.path().join("storage"), directory.path());
        let paths = Paths::new(&storage, here, here).unwrap();
        assert_eq!(stale(&paths, &[], 0).unwrap(), []);
        for (key, used) in [("aa", 1), ("bb", 2), ("cc", 3), ("dd", 4)] {
            stage(&paths, key, used);
        }
        let found = find(&paths, "bb").unwrap();
        assert_eq!(std::fs::read(&found.path).unwrap(), b"bb");
        assert_eq!(found.report().unwrap(), "nmap\ngdb\n");

        let keys = |needed: &[&str], kept| -> Vec<String> {
            let stale = stale(&paths, needed, kept).unwrap();
            stale.into_iter().map(|stale| stale.key).collect()
        };
        assert_eq!(keys(&["bb"], 1), ["cc", "aa"]);
        find(&paths, "aa").unwrap().touch();
        assert_eq!(keys(&["bb"], 1), ["dd", "cc"]);

        assert!(remove(&paths, "cc").unwrap() > 0);
        assert!(find(&paths, "cc").is_none());
        // Truncated by a full disk or a crash.
        let dd = paths.stage("dd");
        std::fs::set_permissions(&dd, Permissions::from_mode(0o644)).unwrap();
        std::fs::write(&dd, "d").unwrap();
        assert!(find(&paths, "dd").is_none());
        assert!(!paths.new_stage("dd").exists());
    }
}
