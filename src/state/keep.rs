//! Which instances are exempt from the idle policy, and until when.

use std::io;
use std::path::Path;

use jiff::Timestamp;
use rustix::path::Arg;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::files::{self, Directory};

/// Whether an instance is exempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// It is not.
    No,
    /// Until then.
    Until(Timestamp),
    /// There is an exemption, but its end cannot be read.
    Unreadable(String),
}

#[derive(Serialize, Deserialize)]
struct Promise {
    /// The domain that it is for.
    uuid: Uuid,
    until: Timestamp,
}

/// Whether the domain `uuid` is exempt, according to the file `name` in `directory`.
pub fn read_in(directory: &Directory, name: impl Arg, uuid: Uuid) -> Keep {
    let content = match directory.read(name) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Keep::No,
        Err(error) => {
            return Keep::Unreadable(format!("the end of its exemption cannot be read: {error}"));
        }
    };
    match serde_json::from_slice::<Promise>(&content) {
        Ok(promise) if promise.uuid == uuid => Keep::Until(promise.until),
        // It belongs to an earlier instance of the same name.
        Ok(_) => Keep::No,
        Err(_) => Keep::Unreadable(
            "the end of its exemption cannot be read: its file is damaged".to_owned(),
        ),
    }
}

/// Exempts the domain `uuid`. This survives a power cut.
pub fn write(path: &Path, uuid: Uuid, until: Timestamp) -> io::Result<()> {
    files::make_directory_of(path)?;
    let promise = Promise { uuid, until };
    files::replace(path, &serde_json::to_vec(&promise)?, files::SHARED)?;
    files::sync_directory_of(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::xml::domain::new_uuid;

    #[test]
    fn a_promise_holds_for_its_own_domain_and_a_damaged_one_for_every() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lab01_user_7");
        let read = |uuid| read_in(&Directory::open(dir.path()).unwrap(), "lab01_user_7", uuid);
        let (uuid, until) = (new_uuid(), Timestamp::MAX);
        assert_eq!(read(uuid), Keep::No);
        write(&path, uuid, until).unwrap();
        assert_eq!(read(uuid), Keep::Until(until));
        assert_eq!(read(new_uuid()), Keep::No);
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(read(uuid), Keep::Unreadable(_)));
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(matches!(read(uuid), Keep::Unreadable(_)));
    }
}
