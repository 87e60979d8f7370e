//! Whether saved memory still belongs to the disk it would wake up on.
//!
//! libvirt restores any whole file, also an old one over a newer disk, which wrecks the guest's
//! file system; and it keeps no checksum. So the size and modification time of both files are noted
//! when the memory is saved, and compared before it is restored. Pure.

use serde::{Deserialize, Serialize};

use crate::files::Identity;

/// What was noted when a guest's memory was saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The file with the memory; `None` where it could not be looked at.
    pub file: Option<Identity>,
    /// The guest's disk.
    pub disk: Identity,
}

/// Why saved memory in `file`, which may be out of sight, does not fit `disk`; `None` where it does.
///
/// Without a note, as when somebody else saved it, the disk must not be younger than the memory.
pub fn misfit(
    noted: Option<&Saved>,
    file: Option<&Identity>,
    disk: &Identity,
) -> Option<&'static str> {
    let younger_disk = file.is_some_and(|file| disk.modified > file.modified);
    match noted {
        Some(noted) if noted.disk == *disk => {
            let touched = file.is_some() && noted.file.is_some() && file != noted.file.as_ref();
            touched.then_some("its file was changed after it was saved")
        }
        // Saved anew by somebody else, after a run that is not noted.
        Some(noted) if file.is_some() && file != noted.file.as_ref() && !younger_disk => None,
        Some(_) => Some("the disk was changed after it was saved"),
        None => younger_disk.then_some("the disk was changed after it was saved"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn identity(size: u64, second: i64) -> Identity {
        Identity {
            size,
            modified: Timestamp::from_second(second).unwrap(),
        }
    }

    #[test]
    fn memory_wakes_up_only_on_the_disk_it_knew() {
        let (file, disk) = (identity(100, 20), identity(50, 10));
        let noted = Saved {
            file: Some(file),
            disk,
        };
        let (later_file, later_disk) = (identity(100, 40), identity(50, 30));
        let truncated = identity(99, 20);
        // noted, file, disk, does it fit
        for (noted, file, disk, fits) in [
            (Some(&noted), Some(&file), &disk, true),
            (Some(&noted), None, &disk, true),
            (Some(&noted), Some(&truncated), &disk, false),
            (Some(&noted), Some(&later_file), &disk, false),
            (Some(&noted), Some(&file), &later_disk, false),
            (Some(&noted), None, &later_disk, false),
            (Some(&noted), Some(&later_file), &later_disk, true),
            (None, Some(&file), &disk, true),
            (None, Some(&file), &later_disk, false),
            (None, None, &disk, true),
        ] {
            let why = misfit(noted, file, disk);
            assert_eq!(why.is_none(), fits, "{noted:?} {file:?} {disk:?}: {why:?}");
        }
    }
}
