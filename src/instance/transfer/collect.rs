//! Copies files from guests to this host.

use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::{Resting, channel, printed, program, turn};
use crate::appliance::too_much;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::files::archive::{self, Amount, LeftOut};
use crate::files::{self, PRIVATE_DIRECTORY};
use crate::hypervisor::{Channel, Patience};
use crate::instance::exec::{patience, running};
use crate::instance::{existing, facts, status};
use crate::names::{GuestPath, InstanceName, State};
use crate::units::{ByteSize, Duration};

/// Script that sends an archive from the guest.
const PACK: &str = concat!(include_str!("port.sh"), include_str!("pack.sh"));

/// Prefix of the directories in which files are collected until they are complete.
const UNFINISHED: &str = ".cyyber-collect-";

/// An archive is larger than its content: it has a header per file, and this many zeros at its end.
pub(super) const HEADERS: u64 = 2048 * archive::MOST_ENTRIES;

/// What to collect, and the target.
#[derive(Debug)]
pub struct Collect {
    pub from: GuestPath,
    pub to: PathBuf,
    pub most: ByteSize,
    pub timeout: Duration,
}

/// What was collected.
#[derive(Debug, Serialize, Deserialize)]
pub struct Collected {
    pub instance: String,
    /// The state of the instance; if it was not running, its disk was read.
    pub state: State,
    pub path: PathBuf,
    #[serde(flatten)]
    pub amount: Amount,
    pub left_out: u64,
    pub left_out_first: Vec<LeftOut>,
}

/// The result of fetching.
#[derive(Debug)]
pub enum Fetched {
    /// Fetched.
    Collected(Collected),
    /// It is not running: its disk must be read, together with others.
    Resting(Resting),
}

/// The kind of file at a path in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    File,
    Directory,
}

impl Collect {
    /// Collects from the guest of `name` into the directory of its user, if the guest is running.
    pub fn of(&self, context: &Context, name: &InstanceName) -> Result<Fetched> {
        let domain = existing(context, name)?;
        let now = facts(&domain, name)?;
        if let Some(resting) = Resting::of(context, name, &now)? {
            return Ok(Fetched::Resting(resting));
        }
        running(context, name)?;
        let state = status::state(context, name, &now);
        let patience = patience(context, self.timeout.std())?;
        let collected = self.place(name, state, |archive| {
            let turn = turn(context, name)?;
            self.by_channel(channel(context, name, &turn)?, archive, patience)
        });
        let collected = collected.with_context(|| format!("failed to collect from {name}"))?;
        Ok(Fetched::Collected(collected))
    }

    /// Unpacks the archive that `fetch` creates into the directory of the user of `name`.
    pub(super) fn place(
        &self,
        name: &InstanceName,
        state: State,
        fetch: impl FnOnce(&mut File) -> Result<What>,
    ) -> Result<Collected> {
        let (unfinished, path) = self.begin(name)?;
        let mut archive = tempfile::tempfile_in(&unfinished.path)?;
        let what = fetch(&mut archive)?;
        let tree = unfinished.path.join("tree");
        files::make_directory(&tree, PRIVATE_DIRECTORY)?;
        let taken = archive::unpack(archive, &tree, self.most)?;
        let whole = match what {
            What::Directory => tree,
            What::File => tree.join(path.file_name().unwrap_or_default()),
        };
        let is_right = whole.symlink_metadata().is_ok_and(|it| match what {
            What::Directory => it.is_dir(),
            What::File => it.is_file(),
        });
        if !is_right {
            let left_out = taken.named.first().map(|it| format!(": {}", it.reason));
            return Err(anyhow!(
                "its guest did not send it{}",
                left_out.unwrap_or_default()
            ));
        }
        unfinished.finish(&whole, &path)?;
        Ok(Collected {
            instance: name.to_string(),
            state,
            path,
            amount: taken.amount,
            left_out: taken.left_out,
            left_out_first: taken.named,
        })
    }

    /// Copies what `fetch` has collected for `name` on another host to its place.
    pub fn bring(
        &self,
        name: &InstanceName,
        fetch: impl FnOnce() -> Result<PathBuf>,
    ) -> Result<PathBuf> {
        let (unfinished, path) = self.begin(name)?;
        let copied = archive::copy(&[fetch()?], &unfinished.path, self.most)?;
        let whole = unfinished.path.join(copied.concat());
        unfinished.finish(&whole, &path)?;
        Ok(path)
    }

    /// Begins with the files of `name`: the place for them until they are complete, and their path
    /// then.
    fn begin(&self, name: &InstanceName) -> Result<(Unfinished, PathBuf)> {
        let called = self.from.file_name().context("it has no name")?;
        let directory = self.to.join(name.user.as_str());
        let path = directory.join(called);
        files::make_directory(&directory, PRIVATE_DIRECTORY)?;
        if path.symlink_metadata().is_ok() {
            let message = format!("{} already exists", path.display());
            return Err(Fault::new(Kind::Conflict, message)
                .hint("move it away, or collect into another directory")
                .into());
        }
        Ok((Unfinished::begin(&directory)?, path))
    }

    fn by_channel(&self, channel: Channel, archive: &mut File, patience: Patience) -> Result<What> {
        let most = self.most.0.saturating_add(HEADERS);
        let end = format!("{:032x}", rand::random::<u128>());
        let port = channel.name().to_owned();
        let pack = program(PACK, &port, &[&end, self.from.as_str()]);
        let sink = archive.try_clone()?;
        let ran = channel.receive(&pack, &end, most, sink, patience)?;
        let packed = printed(ran.ok_or_else(too_much)?)?;
        archive.rewind()?;
        match packed.trim_ascii() {
            b"directory" => Ok(What::Directory),
            b"file" => Ok(What::File),
            _ => Err(anyhow!("its guest did not report what it packed")),
        }
    }
}

/// A directory with incomplete files. It is removed when this is dropped, or, if the command was
/// killed, by the next one.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    lock: File,
}

impl Unfinished {
    /// Makes one in `directory`.
    pub fn begin(directory: &Path) -> Result<Unfinished> {
        // One at a time: what somebody else has just made has no lock yet.
        let turn = File::open(directory)?;
        rustix::fs::flock(&turn, FlockOperation::LockExclusive)?;
        for entry in directory.read_dir()?.flatten() {
            let is_ours = entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.starts_with(UNFINISHED));
            // A command that is using one holds its lock.
            if is_ours && lock(&entry.path()).is_ok() {
                files::remove(&entry.path())?;
            }
        }
        let path = directory.join(format!("{UNFINISHED}{:016x}", rand::random::<u64>()));
        files::make_directory(&path, PRIVATE_DIRECTORY)?;
        let lock = lock(&path)?;
        Ok(Unfinished { path, lock })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Renames `whole` to its final name.
    fn finish(self, whole: &Path, path: &Path) -> Result<()> {
        rustix::fs::syncfs(self.lock.as_fd()).map_err(io::Error::from)?;
        files::rename_new(rustix::fs::CWD, whole, path)
            .with_context(|| format!("failed to make {}", path.display()))?;
        Ok(files::sync_directory_of(path)?)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = files::remove(&self.path);
    }
}

fn lock(path: &Path) -> io::Result<File> {
    let directory = File::open(path)?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::side_by_side;

    #[test]
    fn those_who_begin_at_once_leave_each_other_alone() {
        let directory = tempfile::tempdir().unwrap();
        let begun = side_by_side(&[(); 200], 8, |()| {
            let unfinished = Unfinished::begin(directory.path())?;
            std::fs::write(unfinished.path().join("file"), "whole")?;
            let kept = std::fs::read(unfinished.path().join("file"))?;
            anyhow::Ok((unfinished, kept))
        });
        for one in begun {
            assert_eq!(one.unwrap().1, b"whole");
        }
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }
}
