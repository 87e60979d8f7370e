//! Base builds: immutable golden images, each under a name of its own, and a link to the current
//! one of each lab.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::layer::Layer;
use super::{copy, full_disk, info, rename_new, set_immutable, sha256};
use crate::error::{Fault, Kind};
use crate::files::{self, sync_directory_of};
use crate::inputs::Inputs;
use crate::names::LabId;
use crate::paths::Paths;
use crate::state::lock::{self, Lock};

/// One build of a lab's base image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The build's name.
    pub build: String,
    /// The image, absolute.
    pub path: PathBuf,
}

/// The record of a build, to check later whether it is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The lab.
    pub lab_id: LabId,
    /// The build's name.
    pub build: String,
    /// When it was created.
    pub installed: Timestamp,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// The hash of the build's inputs; `None` for an image that was put here by hand.
    pub fingerprint: Option<String>,
    /// The hash of each input.
    #[serde(default)]
    pub inputs: Option<Inputs>,
}

/// The lab's current base. An image that was put in the link's place by hand is adopted, which
/// takes the lab's lock: a caller that holds it calls [`adopt`] first.
pub fn current(paths: &Paths, lab: &LabId) -> Result<Base> {
    let link = paths.base_link(lab);
    let missing = || {
        Fault::new(Kind::NotFound, format!("lab '{lab}' has no base image yet"))
            .hint(format!("build it: cyyber build {lab}"))
    };
    let target = match std::fs::read_link(&link) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing().into()),
        // Not a link.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            let what = format!("lab {lab}");
            let lock = Lock::take(&paths.lab_lock(lab), &what, lock::PATIENCE)?;
            adopt(paths, lab, &lock)?;
            return current(paths, lab);
        }
        Err(error) => {
            return Err(error).with_context(|| format!("failed to read {}", link.display()));
        }
    };
    let build = build_of(lab, &target)
        .with_context(|| format!("{} does not point to a build of this lab", link.display()))?;
    let path = paths.base_build(lab, build);
    match path.symlink_metadata() {
        Ok(there) if there.is_file() => Ok(Base {
            build: build.to_owned(),
            path,
        }),
        Ok(_) => anyhow::bail!("the base image {} is not a file", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing().into()),
        Err(error) => Err(error).with_context(|| format!("failed to inspect {}", path.display())),
    }
}

/// The base at `path`, which an overlay of `lab` has as its backing file; or the backing file of
/// that, if it is the disk of a warm image.
pub fn at(paths: &Paths, lab: &LabId, path: Option<&str>) -> Result<Base> {
    let path = Path::new(path.context("it has no backing file")?);
    let file = path.strip_prefix(paths.base_images()).ok();
    if let Some(layer) = file.and_then(|file| Layer::named(file.to_str()?))
        && layer.lab == *lab
    {
        let base = paths.base_build(lab, &layer.build);
        return at(paths, lab, base.to_str());
    }
    let build = file.and_then(|file| build_of(lab, file));
    let place = path.display();
    let build =
        build.with_context(|| format!("its backing file {place} is not a build of this lab"))?;
    anyhow::ensure!(path.is_file(), "its backing file {place} is missing");
    Ok(Base {
        build: build.to_owned(),
        path: path.to_owned(),
    })
}

/// The build to which a file in `base-images` belongs, by its name.
pub(super) fn build_of<'a>(lab: &LabId, file: &'a Path) -> Option<&'a str> {
    let build = file
        .to_str()?
        .strip_prefix(lab.as_str())?
        .strip_prefix("-base.")?
        .strip_suffix(".qcow2")?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (!build.is_empty() && build.bytes().all(is_plain)).then_some(build)
}

/// The record of a build; `None` if there is no readable one.
pub fn note(base: &Base) -> Option<Note> {
    let note = files::read(&note_path(&base.path)).ok()?;
    serde_json::from_slice(&note).ok()
}

/// Whether a build differs from its record, as far as that can be checked without reading it: it is
/// not a file, has another size, or is writable.
pub fn is_changed(base: &Base) -> bool {
    let Ok(there) = base.path.symlink_metadata() else {
        return true;
    };
    let has_other_size = |note: Note| there.len() != note.size_bytes;
    !there.is_file() || there.mode() & 0o222 != 0 || note(base).is_some_and(has_other_size)
}

pub(super) fn note_path(image: &Path) -> PathBuf {
    image.with_extension("json")
}

/// What exists at the path of the link to the current build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Nothing, or the link.
    Link,
    /// An image that was put there by hand.
    ByHand,
}

/// What exists at the path of the link of `lab`; a directory, pipe or device is an error.
pub fn place(paths: &Paths, lab: &LabId) -> Result<Place> {
    let link = paths.base_link(lab);
    match link.symlink_metadata() {
        Ok(there) if there.is_file() => Ok(Place::ByHand),
        Ok(there) if !there.is_symlink() => {
            let message = format!("{} is neither an image nor a link to one", link.display());
            let hint =
                format!("move it away, and put an image there or build one: cyyber build {lab}");
            Err(Fault::new(Kind::Conflict, message).hint(hint).into())
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to inspect {}", link.display()))
        }
        _ => Ok(Place::Link),
    }
}

/// Adopts an image in the link's place: it gets a build name, and the link takes its place. Does
/// nothing if there is none. There is always a base, and each step can be repeated.
pub fn adopt(paths: &Paths, lab: &LabId, _lock: &Lock) -> Result<()> {
    let link = paths.base_link(lab);
    if place(paths, lab)? == Place::Link {
        return Ok(());
    }
    let adopt = || {
        info(&link)?.ensure_whole()?;
        let there = link.metadata()?;
        let installation = Installation {
            lab,
            sha256: &sha256(&link)?,
            at: Timestamp::try_from(there.modified()?)?,
        };
        let base = installation.base(paths);
        protect(&link)?;
        match std::fs::hard_link(&link, &base.path) {
            // It was here before, for example if a copy of it is put back.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => anyhow::ensure!(
                sha256(&base.path)? == installation.sha256,
                "another image has the name {}",
                base.path.display()
            ),
            // Without hard links there would be a moment without a base.
            made => made.context(
                "it cannot have a hard link: build the lab, or put storage_dir \
                                  on a file system with hard links",
            )?,
        }
        if note(&base).is_none() {
            installation.write_note(&base, None, there.len())?;
        }
        point_at(paths, lab, &base)?;
        set_immutable(&base.path, true);
        Ok(())
    };
    adopt().with_context(|| format!("failed to adopt {}", link.display()))
}

/// An image that becomes a build.
#[derive(Debug)]
pub struct Installation<'a> {
    /// The lab.
    pub lab: &'a LabId,
    /// SHA-256 of the image, in hexadecimal.
    pub sha256: &'a str,
    /// When it was created.
    pub at: Timestamp,
}

impl Installation<'_> {
    /// The build's name: its time and the beginning of its hash.
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

    fn write_note(&self, base: &Base, inputs: Option<&Inputs>, size_bytes: u64) -> Result<()> {
        let note = Note {
            lab_id: self.lab.clone(),
            build: base.build.clone(),
            installed: self.at,
            size_bytes,
            sha256: self.sha256.to_owned(),
            fingerprint: inputs.map(Inputs::fingerprint),
            inputs: inputs.cloned(),
        };
        let note = serde_json::to_vec_pretty(&note)?;
        Ok(files::replace(
            &note_path(&base.path),
            &note,
            files::SHARED,
        )?)
    }
}

/// Installs `image` as the current build of its lab, whose lock the caller holds. It is copied, so
/// it may be on another file system and is not changed; the copy shares its blocks if the file
/// system supports that.
pub fn install(
    paths: &Paths,
    installation: &Installation,
    image: &Path,
    inputs: &Inputs,
) -> Result<Base> {
    let base = installation.base(paths);
    let directory = paths.base_images();
    files::make_directory(&directory, files::PASSABLE_DIRECTORY)?;
    let link = paths.base_link(installation.lab);
    let there = link.symlink_metadata();
    anyhow::ensure!(
        there.map_or(true, |there| there.is_symlink()),
        "an image was put in the place of the link {} during the build",
        link.display()
    );
    // Under a predictable name, so that the remains of a killed build are found again.
    let new = paths.new_base(installation.lab);
    let copied = copy(image, &new).and_then(|size| {
        protect(&new)?;
        rename_new(&new, &base.path)?;
        Ok(size)
    });
    let size = copied
        .inspect_err(|_| drop(files::remove(&new)))
        .map_err(|error| full_disk(error, &directory))?;
    installation.write_note(&base, Some(inputs), size)?;
    point_at(paths, installation.lab, &base)?;
    set_immutable(&base.path, true);
    Ok(base)
}

/// Makes an image readable for the QEMU user and writable for nobody. It must not belong to the
/// QEMU user, as it does after a VM ran on it directly, because an owner can change its mode.
pub(super) fn protect(image: &Path) -> Result<()> {
    let owner = image.metadata()?.uid();
    let us = rustix::process::geteuid().as_raw();
    if owner != 0 && owner != us {
        std::os::unix::fs::lchown(image, Some(us), None)
            .with_context(|| format!("{} belongs to another user", image.display()))?;
    }
    fs_err::set_permissions(image, Permissions::from_mode(0o444))?;
    Ok(())
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
}
