//! When an instance was last used: the modification time of an empty file, which the web backend
//! may also touch by itself.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use jiff::Timestamp;

use crate::files::open_or_make;

/// Records activity at `now`.
pub fn touch(path: &Path, now: Timestamp) -> io::Result<()> {
    let now = SystemTime::try_from(now).map_err(io::Error::other)?;
    open_or_make(path)?.set_modified(now)
}

/// The last activity; `None` where it is not known, which must count as active. The file is not
/// opened, and a link is not followed.
pub fn last(path: &Path) -> Option<Timestamp> {
    let metadata = path
        .symlink_metadata()
        .ok()
        .filter(|metadata| metadata.is_file())?;
    Timestamp::try_from(metadata.modified().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_touched_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("activity/lab01_user_7");
        let now = "2026-11-23T10:00:00Z".parse().unwrap();
        assert_eq!(last(&path), None);
        touch(&path, now).unwrap();
        assert_eq!(last(&path), Some(now));
        assert_eq!(last(dir.path()), None, "a directory is no sign of activity");
    }
}
