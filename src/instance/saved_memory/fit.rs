//! Whether saved memory still matches the disk that it would be restored with.
//!
//! libvirt restores any complete file, even an old one over a newer disk, which destroys the
//! guest's file system, and it keeps no checksum. So the identity of both files is recorded when
//! the memory is saved, and compared before it is restored. Pure.
//!
//! libvirt's directory of saved memory belongs to QEMU's default user, who can replace our file
//! with one of their own or of root.

use std::fs::Metadata;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::files::{Exact, Identity};

/// The record of saved memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The file with the memory; `None` if it could not be inspected.
    pub file: Option<MemoryFile>,
    /// The file that the guest writes to.
    pub disk: Identity,
    /// Its backing files, and the files of other disks; none in the record of an earlier version.
    #[serde(default)]
    pub others: Vec<(PathBuf, Identity)>,
}

/// A file with saved memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryFile {
    #[serde(flatten)]
    content: Identity,
    /// None in the record of an earlier version.
    #[serde(flatten)]
    exact: Option<Exact>,
}

impl TryFrom<&Metadata> for MemoryFile {
    type Error = io::Error;

    fn try_from(there: &Metadata) -> io::Result<MemoryFile> {
        Ok(MemoryFile {
            content: there.try_into()?,
            exact: Some(there.try_into()?),
        })
    }
}

impl MemoryFile {
    /// Why libvirt cannot have saved it: its files belong to root.
    pub fn strange(&self) -> Option<&'static str> {
        let owner = self.exact.map_or(0, |exact| exact.owner);
        (owner != 0).then_some("its file belongs to a user other than root")
    }

    /// Why it is not the recorded file.
    pub fn altered(&self, noted: &MemoryFile) -> Option<&'static str> {
        let same =
            self.content == noted.content && (noted.exact.is_none() || noted.exact == self.exact);
        (!same).then_some("its file was changed after it was saved")
    }
}

impl Saved {
    fn has_disks_of(&self, now: &Saved) -> bool {
        self.disk == now.disk && (self.others.is_empty() || self.others == now.others)
    }

    /// Whether a disk was changed after the memory was saved.
    fn has_younger_disk(&self) -> bool {
        let others = self.others.iter().map(|(_, disk)| disk);
        self.file.is_some_and(|file| {
            let mut disks = others.chain([&self.disk]);
            disks.any(|disk| disk.modified > file.content.modified)
        })
    }
}

/// Why saved memory and its disks, whose present facts are `now`, do not fit; `None` if they do.
/// The file with the memory may be unreadable.
///
/// Without a record, as when something else saved it, no disk may be newer than the memory.
pub fn misfit(noted: Option<&Saved>, now: &Saved) -> Option<&'static str> {
    let (file, younger_disk) = (now.file, now.has_younger_disk());
    if let Some(why) = file.and_then(|file| file.strange()) {
        return Some(why);
    }
    let altered = |noted: &Saved| file?.altered(noted.file.as_ref()?);
    match noted {
        Some(noted) if noted.has_disks_of(now) => altered(noted),
        // Saved again by something else, after a run that is not recorded.
        Some(noted)
            if file.is_some()
                && (noted.file.is_none() || altered(noted).is_some())
                && !younger_disk =>
        {
            None
        }
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

    fn memory(size: u64, second: i64) -> MemoryFile {
        let changed = Timestamp::from_second(second).unwrap();
        MemoryFile {
            content: identity(size, second),
            exact: Some(Exact {
                inode: 7,
                changed,
                owner: 0,
            }),
        }
    }

    #[test]
    fn another_file_of_the_same_size_and_time_is_noticed() {
        let noted = memory(100, 20);
        let with = |change: &dyn Fn(&mut Exact)| {
            let mut exact = noted.exact.unwrap();
            change(&mut exact);
            MemoryFile {
                exact: Some(exact),
                ..noted
            }
        };
        assert_eq!(noted.altered(&noted), None);
        let others = [
            with(&|it| it.inode = 8),
            with(&|it| it.changed = Timestamp::MAX),
        ];
        assert!(others.iter().all(|other| other.altered(&noted).is_some()));
        assert!(others.iter().all(|other| other.strange().is_none()));
        let planted = with(&|it| it.owner = 64055);
        let saved = |file| Saved {
            file: Some(file),
            disk: identity(50, 10),
            others: Vec::new(),
        };
        for noted in [None, Some(&saved(noted)), Some(&saved(planted))] {
            let why = misfit(noted, &saved(planted)).unwrap();
            assert!(why.contains("a user other than root"), "{why}");
        }
        // By an earlier version.
        let earlier = r#"{"size":100,"modified":"1970-01-01T00:00:20Z"}"#;
        let earlier: MemoryFile = serde_json::from_str(earlier).unwrap();
        assert_eq!(others[0].altered(&earlier), None);
        let written = serde_json::to_string(&noted).unwrap();
        assert_eq!(serde_json::from_str::<MemoryFile>(&written).unwrap(), noted);
    }

    #[test]
    fn memory_wakes_up_only_on_the_disk_it_knew() {
        let (file, disk) = (memory(100, 20), identity(50, 10));
        let saved = |file, disk, others: &[_]| Saved {
            file,
            disk,
            others: others.to_vec(),
        };
        let noted = saved(Some(file), disk, &[]);
        let (later_file, later_disk) = (memory(100, 40), identity(50, 30));
        let truncated = memory(99, 20);
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
