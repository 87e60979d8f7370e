//! Disk images: base builds, which never change, and the overlays that stand on them.
//!
//! A build has a name of its own and stays for as long as anything stands on it; a link names the
//! current one. Nothing here replaces an existing image: files are made under a temporary name,
//! synced, and moved into place.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, IFlags, RenameFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Fault, Kind};
use crate::files::{self, sync_directory_of};
use crate::instance::{InstanceName, LabId};
use crate::paths::Paths;
use crate::process::Program;
use crate::state::lock::{self, Lock};
use crate::units::MIB;

/// An overlay starts small and grows as its guest writes. With less room than this there is no
/// point in making one.
const ROOM_FOR_OVERLAY: u64 = 512 * MIB;

/// One build of a lab's base image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The build's name.
    pub build: String,
    /// The image, absolute.
    pub path: PathBuf,
}

/// What is recorded beside a build, to tell later whether it is still what was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseNote {
    /// The lab.
    pub lab_id: LabId,
    /// The build's name.
    pub build: String,
    /// When it was put here.
    pub installed: Timestamp,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// What the build was made from, as one hash; `None` for an image put here by hand.
    pub fingerprint: Option<String>,
}

/// The lab's current base. An image that was put in the link's place by hand is adopted.
///
/// The caller holds the lab's lock, or makes do with a build that is replaced a moment later.
pub fn current_base(paths: &Paths, lab: &LabId) -> Result<Base> {
    let link = paths.base_link(lab);
    let missing = || {
        Fault::new(Kind::NotFound, format!("lab '{lab}' has no base image yet"))
            .hint(format!("make it: cyyber build {lab}"))
    };
    let target = match std::fs::read_link(&link) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing().into()),
        // Not a link.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            return adopt(paths, lab)
                .with_context(|| format!("failed to adopt {}", link.display()));
        }
        Err(error) => {
            return Err(error).with_context(|| format!("failed to read {}", link.display()));
        }
    };
    let build = build_of(lab, &target)
        .with_context(|| format!("{} does not point at a build of this lab", link.display()))?;
    let path = paths.base_build(lab, build);
    match path.try_exists() {
        Ok(true) => Ok(Base {
            build: build.to_owned(),
            path,
        }),
        _ => Err(missing().into()),
    }
}

/// The base at `path`, which an overlay of `lab` names as its backing file.
pub fn base_at(paths: &Paths, lab: &LabId, path: Option<&str>) -> Result<Base> {
    let path = Path::new(path.context("it has no backing file")?);
    let build = path
        .strip_prefix(paths.base_images())
        .ok()
        .and_then(|file| build_of(lab, file));
    let build = build.with_context(|| {
        format!(
            "its backing file {} is no build of this lab",
            path.display()
        )
    })?;
    anyhow::ensure!(
        path.is_file(),
        "its backing file {} is gone",
        path.display()
    );
    Ok(Base {
        build: build.to_owned(),
        path: path.to_owned(),
    })
}

/// The build that a file in `base-images` is, by its name.
fn build_of<'a>(lab: &LabId, file: &'a Path) -> Option<&'a str> {
    let build = file
        .to_str()?
        .strip_prefix(lab.as_str())?
        .strip_prefix("-base.")?
        .strip_suffix(".qcow2")?;
    let plain = !build.is_empty()
        && build
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-');
    plain.then_some(build)
}

/// What is noted about a build; `None` where nothing readable is.
pub fn note(base: &Base) -> Option<BaseNote> {
    let note = files::read(&note_path(&base.path)).ok()?;
    serde_json::from_slice(&note).ok()
}

fn note_path(image: &Path) -> PathBuf {
    image.with_extension("json")
}

/// Gives an image that stands in the link's place a build name, and the link its place.
fn adopt(paths: &Paths, lab: &LabId) -> Result<Base> {
    let link = paths.base_link(lab);
    let _lock = Lock::take(&paths.lab_lock(lab), &format!("lab {lab}"), lock::PATIENCE)?;
    if link.is_symlink() {
        // Somebody else was faster.
        return current_base(paths, lab);
    }
    let info = info(&link)?;
    anyhow::ensure!(
        info.format == "qcow2",
        "it is a {} image: convert it to qcow2",
        info.format
    );
    anyhow::ensure!(
        info.backing_filename.is_none(),
        "it needs another image as its backing file: flatten it with qemu-img convert"
    );
    let at = Timestamp::try_from(link.metadata()?.modified()?)?;
    let installation = Installation {
        lab,
        sha256: &sha256(&link)?,
        at,
    };
    let base = installation.base(paths);
    installation.write_note(&base, None, link.metadata()?.len())?;
    protect(&link)?;
    rename_new(&link, &base.path)?;
    point_at(paths, lab, &base)?;
    make_immutable(&base.path);
    Ok(base)
}

/// An image that becomes a build.
#[derive(Debug)]
pub struct Installation<'a> {
    /// The lab.
    pub lab: &'a LabId,
    /// SHA-256 of the image, in hexadecimal.
    pub sha256: &'a str,
    /// When it was made.
    pub at: Timestamp,
}

impl Installation<'_> {
    /// The build's name: when it was made, and the beginning of its hash.
    pub fn build(&self) -> String {
        let digest: String = self.sha256.chars().take(8).collect();
        format!("{}-{digest}", self.at.strftime("%Y%m%dT%H%M%SZ"))
    }

    fn base(&self, paths: &Paths) -> Base {
        let build = self.build();
        Base {
            path: paths.base_build(self.lab, &build),
            build,
        }
    }

    fn write_note(&self, base: &Base, fingerprint: Option<&str>, size_bytes: u64) -> Result<()> {
        let note = BaseNote {
            lab_id: self.lab.clone(),
            build: base.build.clone(),
            installed: self.at,
            size_bytes,
            sha256: self.sha256.to_owned(),
            fingerprint: fingerprint.map(str::to_owned),
        };
        files::replace(
            &note_path(&base.path),
            &serde_json::to_vec_pretty(&note)?,
            files::SHARED,
        )?;
        Ok(())
    }
}

/// Puts `image` among the bases as the current build of its lab, whose lock the caller holds. It is
/// copied, so that it may lie on another file system and stays where it is; a copy on the same file
/// system shares its blocks where the file system can.
pub fn install_base(
    paths: &Paths,
    installation: &Installation,
    image: &Path,
    fingerprint: &str,
) -> Result<Base> {
    let base = installation.base(paths);
    let directory = paths.base_images();
    files::make_directory(&directory, files::PASSABLE_DIRECTORY)?;
    let mut copy = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(&directory)?;
    let mut source = fs_err::File::open(image)?;
    let size = io::copy(source.file_mut(), copy.as_file_mut()).with_context(|| {
        format!(
            "failed to copy {} to {}",
            image.display(),
            directory.display()
        )
    })?;
    copy.as_file().sync_all()?;
    protect(copy.path())?;
    installation.write_note(&base, Some(fingerprint), size)?;
    copy.persist_noclobber(&base.path)?;
    point_at(paths, installation.lab, &base)?;
    make_immutable(&base.path);
    Ok(base)
}

/// Makes an image readable for the QEMU user and writable for nobody. An owner may give himself
/// more, so it must not be the QEMU user's, as an image is that a VM once ran on directly.
fn protect(image: &Path) -> Result<()> {
    let owner = image.metadata()?.uid();
    let us = rustix::process::geteuid().as_raw();
    if owner != 0 && owner != us {
        std::os::unix::fs::lchown(image, Some(us), None)
            .with_context(|| format!("{} belongs to another user", image.display()))?;
    }
    fs_err::set_permissions(image, Permissions::from_mode(0o444))?;
    Ok(())
}

/// Guards a build against being written, renamed or removed by mistake. Only root may set this, and
/// not every file system can hold it, so it is welcome rather than needed.
fn make_immutable(image: &Path) {
    if let Ok(file) = std::fs::File::open(image) {
        let _ = rustix::fs::ioctl_getflags(&file)
            .and_then(|flags| rustix::fs::ioctl_setflags(&file, flags | IFlags::IMMUTABLE));
    }
}

/// Makes `base` the current build.
fn point_at(paths: &Paths, lab: &LabId, base: &Base) -> Result<()> {
    let link = paths.base_link(lab);
    let new = link.with_extension(format!("new-{}", std::process::id()));
    let target = base.path.file_name().unwrap_or_default();
    let _ = std::fs::remove_file(&new);
    fs_err::os::unix::fs::symlink(target, &new)?;
    fs_err::rename(&new, &link)?;
    sync_directory_of(&link)?;
    Ok(())
}

/// Makes the overlay of an instance. The caller holds the instance's lock.
///
/// An overlay that exists is an error here: it may hold somebody's work, and `qemu-img create`
/// would empty it without a word.
pub fn create_overlay(paths: &Paths, name: &InstanceName, base: &Base) -> Result<PathBuf> {
    let overlay = paths.overlay(name);
    let directory = paths.user_instances();
    files::make_directory(&directory, files::PASSABLE_DIRECTORY)?;
    require_room(
        &directory,
        ROOM_FOR_OVERLAY,
        &format!("an instance of {}", name.lab),
    )?;

    let new = directory.join(format!(".{name}.qcow2.new"));
    // Left by a command that was killed here; whoever holds the lock may clear it.
    let _ = std::fs::remove_file(&new);
    let made = Program::find("qemu-img", "qemu-utils")?
        .run([
            "create".as_ref(),
            "-q".as_ref(),
            "-f".as_ref(),
            "qcow2".as_ref(),
            "-F".as_ref(),
            "qcow2".as_ref(),
            "-b".as_ref(),
            base.path.as_os_str(),
            new.as_os_str(),
        ])
        .map_err(|error| full_disk(error, &directory))
        .and_then(|_| {
            std::fs::set_permissions(&new, Permissions::from_mode(0o660))?;
            fs_err::File::open(&new)?.sync_all()?;
            rename_new(&new, &overlay)
        });
    if made.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    made.with_context(|| format!("failed to make the disk of {name}"))?;
    Ok(overlay)
}

/// Removes an overlay that was just made and never used.
pub fn discard_new_overlay(overlay: &Path) {
    let _ = std::fs::remove_file(overlay);
}

/// A failed `qemu-img` on a full disk is a matter of capacity.
fn full_disk(error: anyhow::Error, directory: &Path) -> anyhow::Error {
    match error.to_string().contains("No space left") {
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
    fn a_build_is_known_by_its_name() {
        let lab: LabId = "lab01".parse().unwrap();
        let build = |name: &'static str| build_of(&lab, Path::new(name));
        assert_eq!(
            build("lab01-base.20261123T100000Z-00ff.qcow2"),
            Some("20261123T100000Z-00ff")
        );
        for other in [
            "lab01-base.qcow2",
            "lab01-base..qcow2",
            "lab011-base.1.qcow2",
            "../lab01-base.1.qcow2",
            "lab01-base.../../x.qcow2",
            "lab01-base.1.json",
        ] {
            assert_eq!(build(other), None, "{other}");
        }
    }

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
