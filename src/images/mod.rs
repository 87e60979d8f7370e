//! Disk images: immutable [`base`] builds, the [`overlay`]s that are based on them, the [`warm`]
//! images that instances are forked from, and the [`stages`] that bases are built from.
//!
//! Nothing here replaces an existing image: images are created under a temporary name, synced, and
//! renamed.

pub mod base;
pub mod builds;
pub mod cloud;
pub mod header;
pub mod layer;
pub mod overlay;
pub mod stages;
pub mod warm;

use std::io::{self, Read as _};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, IFlags};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use self::header::Header;
use crate::error::{Fault, Kind};
use crate::files::{self, sync_directory_of};
use crate::process::{self, Program};
use crate::text::hex;
use crate::units::MIB;

/// If `qemu-img` fails because the disk is full, the error is of the kind capacity.
fn full_disk(error: anyhow::Error, directory: &Path) -> anyhow::Error {
    if format!("{error:#}").contains("No space left") {
        error.context(no_room(directory, "it"))
    } else {
        error
    }
}

fn no_room(directory: &Path, what: &str) -> Fault {
    let message = format!("not enough space for {what} in {}", directory.display());
    let hint = "free disk space, or move storage_dir to a larger file system";
    Fault::new(Kind::Capacity, message).hint(hint)
}

/// Fails if fewer than `bytes` are free on the file system of `directory`.
pub fn require_room(directory: &Path, bytes: u64, what: &str) -> Result<()> {
    let stat = rustix::fs::statvfs(directory)
        .with_context(|| format!("failed to read the free space of {}", directory.display()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= bytes {
        return Ok(());
    }
    let (free, bytes) = (free / MIB, bytes / MIB);
    let why = format!("{free} MiB are free, {bytes} MiB are needed");
    Err(anyhow::anyhow!(why).context(no_room(directory, what)))
}

/// Copies an image to a new file, and returns its size in bytes.
fn copy(image: &Path, new: &Path) -> Result<u64> {
    let mut source = fs_err::File::open(image)?;
    let mut copy = files::create_anew(new, files::PRIVATE)?;
    let size = io::copy(source.file_mut(), &mut copy)
        .with_context(|| format!("failed to copy {} to {}", image.display(), new.display()))?;
    copy.sync_all()?;
    Ok(size)
}

/// Marks an image immutable against accidental changes, or removes the mark. Only root can do this,
/// and not every file system supports it, so it is optional.
fn set_immutable(image: &Path, is_immutable: bool) {
    if let Ok(file) = std::fs::File::open(image) {
        let _ = rustix::fs::ioctl_getflags(&file).and_then(|mut flags| {
            flags.set(IFlags::IMMUTABLE, is_immutable);
            rustix::fs::ioctl_setflags(&file, flags)
        });
    }
}

/// Renames within a file system, never over something.
fn rename_new(from: &Path, to: &Path) -> Result<()> {
    files::rename_new(CWD, from, to)
        .with_context(|| format!("failed to put {} in place", to.display()))?;
    sync_directory_of(to)?;
    Ok(())
}

/// Space that a file uses on disk, in bytes; `None` if it is unreadable.
pub fn allocated(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(u64::try_from(stat.st_blocks).ok()? * 512)
}

/// SHA-256 of a file, in hexadecimal.
pub fn sha256(path: &Path) -> Result<String> {
    let mut file = fs_err::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut bytes = vec![0; 64 << 10];
    loop {
        match file.read(&mut bytes)? {
            0 => return Ok(hex(&hasher.finalize())),
            length => hasher.update(&bytes[..length]),
        }
    }
}

/// Limits for `qemu-img info`: an address space of 1 GiB, and this many seconds of CPU time.
const INFO_MEMORY: &str = "--as=1073741824";
const INFO_SECONDS: &str = "--cpu=20";

/// The relevant output of `qemu-img info` for an image.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    /// Size of the disk that a guest sees, in bytes.
    pub virtual_size: u64,
    /// Size of the file on disk, in bytes.
    pub actual_size: u64,
    /// Its backing file.
    pub backing_filename: Option<String>,
    #[serde(default)]
    encrypted: bool,
    #[serde(default)]
    format_specific: Value,
}

impl ImageInfo {
    /// Fails unless it is a complete qcow2 image that can be used as it is.
    pub fn ensure_whole(&self) -> Result<()> {
        anyhow::ensure!(
            self.backing_filename.is_none(),
            "it needs another image as its backing file: flatten it with qemu-img convert"
        );
        anyhow::ensure!(
            !self.encrypted,
            "it is encrypted: decrypt it with qemu-img convert"
        );
        anyhow::ensure!(
            self.format_specific["data"]["corrupt"] != true,
            "it is marked as corrupt: repair it with qemu-img check"
        );
        Ok(())
    }
}

/// Runs `qemu-img info` for a qcow2 image, which may be in use. It may be foreign: the files that
/// it refers to are not opened, and memory and CPU time are limited.
pub fn info(image: &Path) -> Result<ImageInfo> {
    Header::of(image)?.ensure_own_data()?;
    let qemu_img = Program::find("qemu-img", "qemu-utils")?;
    let mut command = Program::find("prlimit", "util-linux")?.command();
    command
        .args([INFO_MEMORY, INFO_SECONDS])
        .arg(qemu_img.path())
        .args(["info", "-U", "-f", "qcow2", "--output=json"])
        .arg(std::path::absolute(image)?);
    let said = process::run(&mut command)?;
    serde_json::from_str(&said)
        .with_context(|| format!("failed to parse qemu-img's output for {}", image.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_room_is_a_matter_of_capacity_and_says_the_figures() {
        let error = require_room(Path::new("/"), u64::MAX, "a whale").unwrap_err();
        assert_eq!(crate::error::kind_of(&error), Kind::Capacity);
        assert!(format!("{error:#}").contains("MiB are free"), "{error:#}");
    }

    #[test]
    fn known_hash() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        assert_eq!(
            sha256(file.path()).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
