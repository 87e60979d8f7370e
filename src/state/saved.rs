//! Whether saved memory still belongs to the disk it would wake up on.
//!
//! libvirt restores any whole file, also an old one over a newer disk, which wrecks the guest's
//! file system; and it keeps no checksum. So the size and modification time of both files are noted
//! when the memory is saved, and compared before it is restored. Pure.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::files::Identity;

/// What was noted when a guest's memory was saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The file with the memory; `None` where it could not be looked at.
    pub file: Option<Identity>,
    /// The file that the guest writes to.
    pub disk: Identity,
    /// Those below it, and those of other disks; none in a note by an earlier version.
    #[serde(default)]
    pub others: Vec<(PathBuf, Identity)>,
}

impl Saved {
    fn has_disks_of(&self, now: &Saved) -> bool {
        self.disk == now.disk && (self.others.is_empty() || self.others == now.others)
    }

    /// Whether a disk was written to after the memory was saved.
    fn has_younger_disk(&self) -> bool {
        let others = self.others.iter().map(|(_, disk)| disk);
        self.file.is_some_and(|file| {
            let mut disks = others.chain([&self.disk]);
            disks.any(|disk| disk.modified > file.modified)
        })
    }
}

/// Why saved memory and its disks, which are as `now` says, do not fit; `None` where they do. The
/// file with the memory may be out of sight.
///
/// Without a note, as when somebody else saved it, no disk may be younger than the memory.
pub fn misfit(noted: Option<&Saved>, now: &Saved) -> Option<&'static str> {
    let (file, younger_disk) = (now.file, now.has_younger_disk());
    match noted {
        Some(noted) if noted.has_disks_of(now) => {
            let touched = file.is_some() && noted.file.is_some() && file != noted.file;
            touched.then_some("its file was changed after it was saved")
        }
        // Saved anew by somebody else, after a run that is not noted.
        Some(noted) if file.is_some() && file != noted.file && !younger_disk => None,
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
        let saved = |file, disk, others: &[_]| Saved {
            file,
            disk,
            others: others.to_vec(),
        };
        let noted = saved(Some(file), disk, &[]);
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
            let why = misfit(noted, &saved(file.copied(), *disk, &[]));
            assert_eq!(why.is_none(), fits, "{noted:?} {file:?} {disk:?}: {why:?}");
        }
        // Below a snapshot.
        let (below, changed) = (("b".into(), disk), ("b".into(), later_disk));
        let now = saved(Some(file), disk, &[changed]);
        let noted_both = saved(Some(file), disk, &[below]);
        assert!(misfit(Some(&noted_both), &now).is_some());
        assert!(misfit(None, &now).is_some());
        assert_eq!(misfit(Some(&noted_both), &noted_both), None);
        assert_eq!(misfit(Some(&noted), &noted_both), None, "an earlier note");
    }
}
