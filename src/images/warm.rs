//! Warm images: the memory of a guest that has booted from a build, and the disk that belongs to
//! it. Instances are forked from the two instead of booting.
//!
//! A build has at most one current warm image, which its record names. Others are older ones whose
//! disks are still backing files of instances, and remains of killed commands.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::base::{Base, protect};
use super::layer::Layer;
use super::{overlay, require_room, set_immutable, sha256};
use crate::files::{self, Identity, sync_directory_of};
use crate::inputs::Inputs;
use crate::names::LabId;
use crate::paths::Paths;
use crate::units::{ByteSize, MIB};

/// Space for what a guest writes while it boots.
const ROOM_FOR_BOOT: u64 = 1024 * MIB;

/// The record of the current warm image of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Its serial number.
    pub serial: String,
    /// When it was made.
    pub made: Timestamp,
    /// What must be unchanged for it to be usable: versions, CPU model, the lab's machine.
    pub fits: Inputs,
    /// The file with the memory.
    pub memory: Content,
    /// The disk that belongs to it.
    pub layer: Content,
}

/// The identity of a file when it was installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    #[serde(flatten)]
    identity: Identity,
    /// SHA-256 in hexadecimal.
    sha256: String,
}

impl Content {
    fn of(path: &Path) -> Result<Content> {
        Ok(Content {
            identity: Identity::of(path)?,
            sha256: sha256(path)?,
        })
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.identity.size
    }

    /// Why the file at `path` is not this one; with `verify` its content is read.
    fn differs(&self, path: &Path, verify: bool) -> Option<String> {
        let what = path.display();
        match Identity::of(path) {
            Err(error) => return Some(format!("failed to inspect {what}: {error}")),
            Ok(now) if now != self.identity => return Some(format!("{what} was changed")),
            Ok(_) if !verify => return None,
            Ok(_) => {}
        }
        match sha256(path) {
            Ok(sum) if sum == self.sha256 => None,
            Ok(_) => Some(format!("{what} was changed: its SHA-256 is another one")),
            Err(error) => Some(format!("failed to read {what}: {error:#}")),
        }
    }
}

/// The current warm image of a build.
#[derive(Debug)]
pub struct Warm {
    /// Its record.
    pub note: Note,
    /// Its disk, based on the build.
    pub layer: Layer,
    /// The path of its disk.
    pub path: PathBuf,
}

/// The current warm image of the build `base` of `lab`; `None` if there is no readable record.
pub fn current(paths: &Paths, lab: &LabId, base: &Base) -> Option<Warm> {
    let note = files::read(&paths.warm_note(lab, &base.build)).ok()?;
    let note: Note = serde_json::from_slice(&note).ok()?;
    let layer = Layer::new(lab, &base.build, &note.serial)?;
    Some(Warm {
        path: layer.path(paths),
        note,
        layer,
    })
}

impl Warm {
    /// The file with its memory.
    pub fn memory(&self) -> PathBuf {
        memory_of(&self.path)
    }

    /// Why its files are not the original ones; with `verify` their content is read.
    pub fn damage(&self, verify: bool) -> Option<String> {
        let layer = self.note.layer.differs(&self.path, verify);
        layer.or_else(|| self.note.memory.differs(&self.memory(), verify))
    }
}

/// A layer in the form of a removable build.
fn as_base(layer: &Layer, paths: &Paths) -> Base {
    Base {
        build: format!("{}.{}", layer.build, layer.serial),
        path: layer.path(paths),
    }
}

fn memory_of(layer: &Path) -> PathBuf {
    layer.with_extension("memory")
}

/// Every layer that does not belong to the current warm image of a build, in the form of removable
/// builds.
pub fn superseded(paths: &Paths) -> Result<Vec<(LabId, Base)>> {
    let mut all = Vec::new();
    for layer in layers(paths)? {
        let base = Base {
            path: paths.base_build(&layer.lab, &layer.build),
            build: layer.build.clone(),
        };
        let current = current(paths, &layer.lab, &base);
        if !current.is_some_and(|warm| warm.layer == layer) {
            all.push((layer.lab.clone(), as_base(&layer, paths)));
        }
    }
    Ok(all)
}

fn layers(paths: &Paths) -> Result<Vec<Layer>> {
    let names = files::names_in(&paths.base_images())?;
    let mut layers: Vec<_> = names.iter().filter_map(|name| Layer::named(name)).collect();
    layers.sort_by(|one, other| one.serial.cmp(&other.serial));
    Ok(layers)
}

/// The disks of the warm images of a build.
fn layers_of(paths: &Paths, lab: &LabId, build: &str) -> Result<Vec<PathBuf>> {
    let mut layers = layers(paths)?;
    layers.retain(|layer| layer.lab == *lab && layer.build == build);
    Ok(layers.iter().map(|layer| layer.path(paths)).collect())
}

/// Removes the layer at `path`, on which nothing is based, with its memory.
pub(super) fn remove_layer(path: &Path) -> Result<()> {
    drop_memory(path)?;
    set_immutable(path, false);
    files::remove(path)?;
    Ok(())
}

fn drop_memory(layer: &Path) -> Result<()> {
    let memory = memory_of(layer);
    set_immutable(&memory, false);
    files::remove(&memory)?;
    files::remove(&saved(layer))?;
    Ok(())
}

/// Removes the warm images of a build that is being removed; nothing is based on them.
pub(super) fn remove_of(paths: &Paths, lab: &LabId, build: &str) -> Result<()> {
    files::remove(&paths.warm_note(lab, build))?;
    let layers = layers_of(paths, lab, build)?;
    layers.iter().try_for_each(|layer| remove_layer(layer))
}

/// Removes the current warm image of a build. The memory of all its warm images is deleted at once:
/// only their disks may still be needed.
pub fn forget(paths: &Paths, lab: &LabId, build: &str) -> Result<()> {
    files::remove(&paths.warm_note(lab, build))?;
    let layers = layers_of(paths, lab, build)?;
    layers.iter().try_for_each(|layer| drop_memory(layer))
}

/// The path where libvirt saves the memory that belongs to the layer at `path`.
fn saved(layer: &Path) -> PathBuf {
    layer.with_extension("memory.new")
}

/// A warm image that is being created; incomplete files are removed on drop.
#[derive(Debug)]
pub struct Draft<'a> {
    paths: &'a Paths,
    layer: Layer,
    path: PathBuf,
    finished: bool,
}

impl<'a> Draft<'a> {
    /// Creates the disk of a warm image of `base`, with the size `wanted`, for a guest of `memory`
    /// bytes. The caller holds the lab's lock.
    pub fn begin(
        paths: &'a Paths,
        lab: &LabId,
        base: &Base,
        wanted: ByteSize,
        memory: u64,
        now: Timestamp,
    ) -> Result<Draft<'a>> {
        let serial = now.strftime("%Y%m%dT%H%M%SZ").to_string();
        let layer = Layer::new(lab, &base.build, &serial).context("a build has an odd name")?;
        let path = layer.path(paths);
        require_room(
            &paths.base_images(),
            2 * memory + ROOM_FOR_BOOT,
            "a warm image",
        )?;
        anyhow::ensure!(!path.exists(), "it was made just now");
        overlay::make(&path, &base.path, wanted)?;
        Ok(Draft {
            paths,
            layer,
            path,
            finished: false,
        })
    }

    /// The disk to boot from.
    pub fn disk(&self) -> &Path {
        &self.path
    }

    /// The path to save the memory to.
    pub fn saved(&self) -> PathBuf {
        saved(&self.path)
    }

    /// The final path of the memory.
    pub fn memory(&self) -> PathBuf {
        memory_of(&self.path)
    }

    /// Makes it the current warm image of its build, replacing the previous one.
    pub fn finish(mut self, fits: Inputs, now: Timestamp) -> Result<Warm> {
        let memory = self.memory();
        files::remove(&self.saved())?;
        protect(&self.path)?;
        protect(&memory)?;
        // It contains everything in the memory of a guest of the lab.
        fs_err::set_permissions(&memory, Permissions::from_mode(files::PRIVATE))?;
        for file in [&self.path, &memory] {
            File::open(file)
                .and_then(|file| file.sync_all())
                .with_context(|| format!("failed to write {}", file.display()))?;
        }
        sync_directory_of(&memory)?;
        let note = Note {
            serial: self.layer.serial.clone(),
            made: now,
            fits,
            memory: Content::of(&memory)?,
            layer: Content::of(&self.path)?,
        };
        self.write(&note)?;
        self.finished = true;
        set_immutable(&self.path, true);
        set_immutable(&memory, true);
        Ok(Warm {
            note,
            layer: self.layer.clone(),
            path: self.path.clone(),
        })
    }

    fn write(&self, note: &Note) -> Result<()> {
        let path = self.paths.warm_note(&self.layer.lab, &self.layer.build);
        files::replace(&path, &serde_json::to_vec_pretty(note)?, files::SHARED)?;
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let _ = remove_layer(&self.path);
        }
    }
}
