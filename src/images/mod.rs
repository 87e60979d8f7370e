//! Disk images: [`base`] builds, which never change, the [`overlay`]s that stand on them, and the
//! [`stages`] that bases are made from.
//!
//! Nothing here replaces an existing image: images are made under a temporary name, synced, and
//! moved into place.

pub mod base;
pub mod builds;
pub mod overlay;
pub mod stages;

use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, RenameFlags};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{Fault, Kind};
use crate::files::sync_directory_of;
use crate::process::Program;
use crate::units::MIB;

/// A failed `qemu-img` on a full disk is a matter of capacity.
fn full_disk(error: anyhow::Error, directory: &Path) -> anyhow::Error {
    match format!("{error:#}").contains("No space left") {
        true => error.context(no_room(directory, "it")),
        false => error,
    }
}

fn no_room(directory: &Path, what: &str) -> Fault {
    Fault::new(
        Kind::Capacity,
        format!("no room for {what} in {}", directory.display()),
    )
    .hint("free disk space, or move storage_dir to a larger file system")
}

/// Fails when fewer than `bytes` are free where `directory` is.
pub fn require_room(directory: &Path, bytes: u64, what: &str) -> Result<()> {
    let stat = rustix::fs::statvfs(directory).with_context(|| {
        format!(
            "failed to ask for the free space of {}",
            directory.display()
        )
    })?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= bytes {
        return Ok(());
    }
    let why = format!(
        "{} MiB are free, {} MiB are needed",
        free / MIB,
        bytes / MIB
    );
    Err(anyhow::anyhow!(why).context(no_room(directory, what)))
}

/// Renames within a file system, never over something.
fn rename_new(from: &Path, to: &Path) -> Result<()> {
    rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
        .with_context(|| format!("failed to put {} in place", to.display()))?;
    sync_directory_of(to)?;
    Ok(())
}

/// Space that a file takes on disk, in bytes; `None` where it cannot be seen.
pub fn allocated(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(u64::try_from(stat.st_blocks).ok()? * 512)
}

/// SHA-256 of a file, in hexadecimal.
pub fn sha256(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    io::copy(
        fs_err::File::open(path)?.file_mut(),
        &mut HashWriter(&mut hasher),
    )?;
    Ok(hex(&hasher.finalize()))
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What `qemu-img info` says of an image, as far as it matters here.
#[derive(Debug, Deserialize)]
pub struct ImageInfo {
    /// `qcow2`, `raw`, …
    pub format: String,
    /// Size of the disk that a guest sees, in bytes.
    #[serde(rename = "virtual-size")]
    pub virtual_size: u64,
    /// Size of the file on disk, in bytes.
    #[serde(rename = "actual-size")]
    pub actual_size: u64,
    /// The image below it.
    #[serde(rename = "backing-filename")]
    pub backing_filename: Option<String>,
}

/// Asks `qemu-img` about an image, which may be in use.
pub fn info(image: &Path) -> Result<ImageInfo> {
    let said = Program::find("qemu-img", "qemu-utils")?.run([
        "info".as_ref(),
        "-U".as_ref(),
        "--output=json".as_ref(),
        std::path::absolute(image)?.as_os_str(),
    ])?;
    serde_json::from_str(&said).with_context(|| {
        format!(
            "failed to understand what qemu-img says of {}",
            image.display()
        )
    })
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
