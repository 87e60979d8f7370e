//! Overlays: an instance's own disk, which holds what differs from its base.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::fs::{OFlags, SeekFrom, seek};

use super::base::Base;
use super::header::Header;
use super::{allocated, full_disk, rename_new, require_room};
use crate::error::{Fault, Kind};
use crate::files::{self, sync_directory_of};
use crate::names::InstanceName;
use crate::paths::Paths;
use crate::process::{self, Program};
use crate::units::{ByteSize, MIB};

/// An overlay starts small and grows as its guest writes. With less room than this there is no
/// point in making one, or in powering its guest on.
const ROOM_FOR_OVERLAY: u64 = 512 * MIB;

/// The unit in which an overlay grows.
const CLUSTER: u64 = 64 << 10;

/// A write that does not fit as a whole is not made: so much may be left of a full overlay.
const LAST_WRITE: u64 = 4 * MIB;

/// Makes the overlay of an instance. The caller holds the instance's lock.
///
/// An overlay that exists is an error here: it may hold somebody's work, and `qemu-img create`
/// would empty it without a word.
pub fn create(
    paths: &Paths,
    name: &InstanceName,
    base: &Base,
    wanted: ByteSize,
) -> Result<PathBuf> {
    let overlay = paths.overlay(name);
    let new = prepare(paths, name, base, wanted)?;
    rename_new(&new, &overlay)
        .inspect_err(|_| discard(&new))
        .with_context(|| format!("failed to create the disk of {name}"))?;
    Ok(overlay)
}

/// Makes a clean overlay beside the one that an instance has, to take its place by [`replace`]. The
/// caller holds the instance's lock. The disk is as large as `wanted`, or as its base where that is
/// larger, which would lose its end otherwise.
pub fn prepare(
    paths: &Paths,
    name: &InstanceName,
    base: &Base,
    wanted: ByteSize,
) -> Result<PathBuf> {
    let directory = paths.user_instances();
    files::make_directory(&directory, files::PASSABLE_DIRECTORY)?;
    let what = format!("an instance of {}", name.lab);
    require_room(&directory, ROOM_FOR_OVERLAY, &what)?;

    let new = paths.new_overlay(name);
    make(&new, &base.path, wanted)
        .with_context(|| format!("failed to create the disk of {name}"))?;
    Ok(new)
}

/// Makes the overlay `new` on the image `below`, with a disk as large as `wanted` or as below.
pub(super) fn make(new: &Path, below: &Path, wanted: ByteSize) -> Result<()> {
    let size = wanted.0.max(Header::of(below)?.disk_size).to_string();
    let directory = new.parent().unwrap_or(Path::new("/"));
    // In place of one that was left by a command that was killed here. `qemu-img` would follow a
    // link that somebody puts there, so it is given the file itself.
    let file = files::create_anew(new, files::SHARED)?;
    let mut command = Program::find("qemu-img", "qemu-utils")?.command();
    command
        .stdin(file.try_clone()?)
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
        .arg(below)
        .args([process::STDIN, &size]);
    let made = process::run(&mut command)
        .map_err(|error| full_disk(error, directory))
        .and_then(|_| Ok(file.sync_all()?));
    made.inspect_err(|_| discard(new))
}

/// Fails where a guest could not write much to its overlay any more.
pub fn require_room_to_run(paths: &Paths, name: &InstanceName) -> Result<()> {
    let directory = paths.user_instances();
    if directory.is_dir() {
        let what = format!("the disk of {name} to grow");
        require_room(&directory, ROOM_FOR_OVERLAY, &what)?;
    }
    Ok(())
}

/// Makes the overlay as long a file as it may become with the limit `largest`, and tells that
/// length; the space is taken only when it is written to. QEMU can then be told to use no more. An
/// overlay that is longer already, as one that was made before there was a limit, stays as it is,
/// and does not grow any more.
pub fn provide_length(overlay: &Path, largest: Option<ByteSize>) -> Result<Option<u64>> {
    let Some(largest) = largest else {
        return Ok(None);
    };
    // Reading is enough to look; another one than a regular file is nothing of ours.
    let there = overlay.symlink_metadata()?;
    anyhow::ensure!(
        there.is_file(),
        "{} is not a regular file",
        overlay.display()
    );
    let wanted = there.len().max(largest.0).next_multiple_of(CLUSTER);
    if there.len() < wanted {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = fs_err::OpenOptions::new()
            .write(true)
            .custom_flags(flags.bits().cast_signed())
            .open(overlay)?;
        file.set_len(wanted).with_context(|| {
            let message = format!("the disk cannot grow to its limits.overlay_size of {largest}");
            let hint =
                "lower the limit to what the file system supports, or use another file system";
            Fault::new(Kind::Failed, message).hint(hint)
        })?;
        file.sync_all()?;
    }
    Ok(Some(wanted))
}

/// Whether an overlay has no room left within the limit `largest`. Where its guest has trimmed much,
/// less is taken on disk than the limit, and what it wrote reaches to the limit all the same.
pub fn is_full(overlay: &Path, largest: ByteSize) -> bool {
    let near = largest.0.saturating_sub(LAST_WRITE);
    allocated(overlay).is_some_and(|bytes| bytes >= near) || reaches(overlay, near).unwrap_or(false)
}

/// Whether there is content from `offset` on. A file system that knows of no holes cannot tell, and
/// then it is not so.
fn reaches(overlay: &Path, offset: u64) -> io::Result<bool> {
    let file = fs_err::File::open(overlay)?;
    let length = file.metadata()?.len();
    let knows_holes = seek(file.file(), SeekFrom::Hole(0))? < length;
    Ok(knows_holes && seek(file.file(), SeekFrom::Data(offset)).is_ok())
}

/// Puts a prepared overlay in the place of the one that an instance has, whose content is gone
/// then. No domain and no saved memory may use it any more.
pub fn replace(paths: &Paths, name: &InstanceName, new: &Path) -> Result<PathBuf> {
    let overlay = paths.overlay(name);
    fs_err::rename(new, &overlay)?;
    sync_directory_of(&overlay)?;
    Ok(overlay)
}

/// Removes an overlay that was just made and never used.
pub fn discard(overlay: &Path) {
    let _ = std::fs::remove_file(overlay);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_limited_overlay_is_as_long_as_it_may_become_and_takes_no_space_for_that() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (path, limit) = (file.path(), |mib: u64| Some(ByteSize(mib * MIB)));
        assert_eq!(provide_length(path, None).unwrap(), None);
        assert_eq!(path.metadata().unwrap().len(), 0);
        for (largest, length) in [(100, 100), (200, 200), (50, 200)] {
            assert_eq!(
                provide_length(path, limit(largest)).unwrap(),
                Some(length * MIB)
            );
            assert_eq!(path.metadata().unwrap().len(), length * MIB);
        }
        assert!(!is_full(path, ByteSize(200 * MIB)));
        std::fs::write(path, vec![1; 9 << 20]).unwrap();
        assert!(is_full(path, ByteSize(10 * MIB)) && !is_full(path, ByteSize(14 * MIB)));
        // The guest has trimmed all but the end.
        std::fs::write(path, []).unwrap();
        provide_length(path, limit(200)).unwrap();
        file.as_file().write_all_at(&[1; 4096], 199 * MIB).unwrap();
        assert!(is_full(path, ByteSize(200 * MIB)) && !is_full(path, ByteSize(300 * MIB)));
    }
}
