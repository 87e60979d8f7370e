//! When an instance was last used: the modification time of an empty file, which the web backend
//! may also set.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::io;
use std::path::Path;

use jiff::Timestamp;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};
use rustix::path::Arg;

use crate::files::{Directory, open_or_make};

/// Records activity now. Setting the current time only needs write access, so members of the group
/// can touch a file that another one created.
pub fn touch(path: &Path) -> io::Result<()> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let times = Timestamps {
        last_access: now,
        last_modification: now,
    };
    Ok(futimens(open_or_make(path)?, &times)?)
}

/// The last activity; `None` if it is unknown, which must count as active. The file is not opened,
/// and a link is not followed.
pub fn last(path: &Path) -> Option<Timestamp> {
    last_in(&Directory::open(path.parent()?).ok()?, path.file_name()?)
}

/// Like [`last`], for the file `name` in `directory`.
pub fn last_in(directory: &Directory, name: impl Arg) -> Option<Timestamp> {
    directory.modified(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_touched_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("activity/lab01_user_7");
        assert_eq!(last(&path), None);
        touch(&path).unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        open_or_make(&path).unwrap().set_modified(long_ago).unwrap();
        assert_eq!(last(&path), Some(Timestamp::UNIX_EPOCH));
        let before = Timestamp::now();
        touch(&path).unwrap();
        // The kernel's clock for files lags by up to a tick.
        assert!(last(&path).unwrap() + jiff::SignedDuration::from_millis(20) >= before);
        assert_eq!(last(dir.path()), None, "a directory is no sign of activity");
    }
}
