//! Overlays: an instance's own disk, which contains the differences from its base.

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

/// An overlay starts small and grows as its guest writes. With less free space than this, it is
/// useless to create one or to power on its guest.
const ROOM_FOR_OVERLAY: u64 = 512 * MIB;

/// The unit in which an overlay grows.
const CLUSTER: u64 = 64 << 10;

/// A write that does not fit completely fails: this much may be left in a full overlay.
const LAST_WRITE: u64 = 4 * MIB;

/// Creates the overlay of an instance. The caller holds the instance's lock.
///
/// An existing overlay is an error: it may contain somebody's work, and `qemu-img create` would
/// empty it silently.
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

/// Creates a clean overlay beside the present one, to replace it with [`replace`]. The caller holds
/// the instance's lock. The disk has the size `wanted`, or that of its base if that is larger,
/// because a smaller disk would cut off the end of the base.
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

/// Creates the overlay `new` on the image `below`, with a disk of the size `wanted`, or that of
/// `below` if larger.
pub(super) fn make(new: &Path, below: &Path, wanted: ByteSize) -> Result<()> {
    let size = wanted.0.max(Header::of(below)?.disk_size).to_string();
    let directory = new.parent().unwrap_or(Path::new("/"));
    // Replaces one that a killed command left here. `qemu-img` would follow a link that somebody
    // creates there, so it gets the open file itself.
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

/// Fails if a guest could hardly write to its overlay any more.
pub fn require_room_to_run(paths: &Paths, name: &InstanceName) -> Result<()> {
    let directory = paths.user_instances();
    if directory.is_dir() {
        let what = format!("the disk of {name} to grow");
        require_room(&directory, ROOM_FOR_OVERLAY, &what)?;
    }
    Ok(())
}

/// Extends the overlay's file to the maximum length `largest`, and returns that length; space is
/// only used when it is written to. QEMU is then told to use no more. An overlay that is already
/// longer, for example because it was created without a limit, keeps its length and does not grow
/// any more.
pub fn provide_length(overlay: &Path, largest: Option<ByteSize>) -> Result<Option<u64>> {
    let Some(largest) = largest else {
        return Ok(None);
    };
    // Read access is enough to check it; anything but a regular file is not ours.
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

/// Whether an overlay has reached the limit `largest`. After its guest has trimmed much, it may use
/// less space than the limit, and its content may still reach to the limit.
pub fn is_full(overlay: &Path, largest: ByteSize) -> bool {
    let near = largest.0.saturating_sub(LAST_WRITE);
    allocated(overlay).is_some_and(|bytes| bytes >= near) || reaches(overlay, near).unwrap_or(false)
}

/// Whether there is content from `offset` on. If the file system does not report holes, the answer
/// is no.
fn reaches(overlay: &Path, offset: u64) -> io::Result<bool> {
    let file = fs_err::File::open(overlay)?;
    let length = file.metadata()?.len();
    let knows_holes = seek(file.file(), SeekFrom::Hole(0))? < length;
    Ok(knows_holes && seek(file.file(), SeekFrom::Data(offset)).is_ok())
}

/// Replaces an instance's overlay with a prepared one; the old content is lost. No domain and no
/// saved memory may use it any more.
pub fn replace(paths: &Paths, name: &InstanceName, new: &Path) -> Result<PathBuf> {
    let overlay = paths.overlay(name);
    fs_err::rename(new, &overlay)?;
    sync_directory_of(&overlay)?;
    Ok(overlay)
}

/// Removes an overlay that was just created and never used.
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
