//! Locks: one command at a time on one instance or one lab.
//!
//! A lock is a kernel lock on a file that is never removed: it ends with its process, however that
//! ends. Removing the file while another process waits for it would allow two holders.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::error::{Fault, Kind};
use crate::files::open_or_make;

/// How long a command waits for another one on the same instance: longer than a graceful stop takes
/// by default.
pub const PATIENCE: Duration = Duration::from_secs(45);

/// How often a waiting command tries again.
const INTERVAL: Duration = Duration::from_millis(20);

/// A held lock; released when dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock at `path`, waiting up to `patience`. `what` it protects is named in the
    /// error.
    pub fn take(path: &Path, what: &str, patience: Duration) -> Result<Lock> {
        Lock::wait(path, what, patience, File::try_lock)
    }

    /// Like [`Lock::take`], but shared.
    pub fn share(path: &Path, what: &str, patience: Duration) -> Result<Lock> {
        Lock::wait(path, what, patience, File::try_lock_shared)
    }

    fn wait(
        path: &Path,
        what: &str,
        patience: Duration,
        attempt: impl Fn(&File) -> Result<(), TryLockError>,
    ) -> Result<Lock> {
        let deadline = Instant::now() + patience;
        let file = open(path, what)?;
        loop {
            match attempt(&file) {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(INTERVAL),
                Err(TryLockError::WouldBlock) => {
                    let seconds = patience.as_secs();
                    let message =
                        format!("{what} is in use by another command for more than {seconds}s");
                    let fault = Fault::new(Kind::Busy, message).hint("try again when it is done");
                    return Err(fault.into());
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("failed to lock {what}"));
                }
            }
        }
    }

    /// Takes the lock if it is free.
    pub fn try_take(path: &Path) -> Option<Lock> {
        let file = open_or_make(path).ok()?;
        file.try_lock().is_ok().then_some(Lock { _file: file })
    }
}

fn open(path: &Path, what: &str) -> Result<File> {
    let failed = || format!("failed to lock {what}");
    match open_or_make(path) {
        // The same applies to libvirt, which such a user cannot use either.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let fault = Fault::new(Kind::Unavailable, failed());
            Err(error).context(fault.hint(
                "only root and members of the group libvirt may do this: add yourself, and log \
                     in again",
            ))
        }
        opened => opened.with_context(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::kind_of;

    #[test]
    fn a_second_holder_waits_and_then_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks/a.lock");
        let first = Lock::take(&path, "a", Duration::ZERO).unwrap();
        let error = Lock::take(&path, "a", Duration::from_millis(30)).unwrap_err();
        assert_eq!(kind_of(&error), Kind::Busy);
        assert!(Lock::try_take(&path).is_none());
        drop(first);
        assert!(Lock::try_take(&path).is_some());
        let shared = || Lock::share(&path, "a", Duration::ZERO);
        let (_one, _other) = (shared().unwrap(), shared().unwrap());
        assert!(Lock::try_take(&path).is_none());
    }
}
