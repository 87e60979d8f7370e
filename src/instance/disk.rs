//! Checks that the disk of an instance is still the one that it was given: other clients of libvirt
//! make snapshots, attach disks and move them. Such disks are never overwritten, because they may
//! contain a student's work.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Once;

use anyhow::Result;

use super::Instance;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::hypervisor::xml::domain::{self, Disk, Origin};
use crate::images::base::Base;
use crate::images::header::Header;
use crate::images::layer::Layer;
use crate::names::{InstanceName, LabId};
use crate::units::ByteSize;

impl Instance<'_> {
    /// Fails if the disks in its definition `xml` are anything but its overlay.
    pub(super) fn ensure_own_disk(&self, xml: &str) -> Result<()> {
        ensure_own(self.context, self.name, xml)
    }

    /// The size of a new disk on `base` according to its lab. Says so if that is not possible.
    pub(super) fn disk_size(&self, base: &Base) -> Result<ByteSize> {
        static SAID: Once = Once::new();
        let wanted = self.context.config.lab(&self.name.lab)?.disk_size;
        if let Some(why) = too_large(&self.name.lab, base, wanted)? {
            SAID.call_once(|| self.context.output.warn(&why));
        }
        Ok(wanted)
    }
}

/// Fails if the disks in the definition `xml` of `name` are anything but its overlay, on the base
/// build that it was created from.
pub fn ensure_own(context: &Context, name: &InstanceName, xml: &str) -> Result<()> {
    let own = context.paths.overlay(name);
    let disks = domain::disks(xml)?;
    let Some((disk, more)) = disks.split_first() else {
        return Err(strange(name, "it has no disk", &by_hand(name, &own)));
    };
    if let Some(Disk { target, files }) = more.first() {
        let file = files.first().map(|file| format!(", {}", file.display()));
        let file = file.unwrap_or_default();
        let found = format!("it has an additional disk, {target}{file}");
        let hint = format!(
            "detach it: virsh detach-disk {name} {target} --config (--live as well while it runs)"
        );
        return Err(strange(name, &found, &hint));
    }
    let file = disk.files.first();
    if !file.is_some_and(|file| is_same(file, &own)) {
        return Err(elsewhere(name, disk, &own));
    }
    let build = Origin::from_xml(xml)?.map(|origin| origin.build);
    let base = build.map(|build| context.paths.base_build(&name.lab, &build));
    // Compare file names only: the directory changes if `storage_dir` is moved.
    let below = disk.files.iter().skip(1).map(|it| it.file_name());
    let below: Vec<_> = match base.as_deref().and_then(Path::file_name) {
        // The disk of a warm image may be in between.
        Some(base) => below.filter(|file| !is_layer_on(*file, base)).collect(),
        None => below.collect(),
    };
    let wanted: Vec<_> = base.iter().map(|base| base.file_name()).collect();
    if below == wanted {
        Ok(())
    } else {
        Err(strange(
            name,
            "its backing file is not the base image that it was created from",
            &by_hand(name, &own),
        ))
    }
}

/// Whether `file` is the disk of a warm image of the build with the file name `base`.
fn is_layer_on(file: Option<&OsStr>, base: &OsStr) -> bool {
    let layer = file.and_then(|file| Layer::named(file.to_str()?));
    layer.is_some_and(|layer| base == &*layer.base_name())
}

/// Fails if the backing file of the disk `own` of `name` is neither `base` nor the disk of a warm
/// image of it.
pub fn ensure_stands_on(name: &InstanceName, own: &Path, base: &Path) -> Result<()> {
    let below = Header::of(own)?.backing_file;
    let file = below.as_deref().and_then(Path::file_name);
    if file == base.file_name() || base.file_name().is_some_and(|base| is_layer_on(file, base)) {
        return Ok(());
    }
    let below = below.map_or("no image".to_owned(), |it| it.display().to_string());
    let (own, base) = (own.display(), base.display());
    let found = format!("the backing file of {own} is {below} instead of {base}");
    let hint =
        "it was changed with qemu-img: undo that with `qemu-img rebase`, or reset the instance";
    Err(strange(name, &found, hint))
}

/// Warns if a disk on `base` is larger than `wanted`.
pub fn too_large(lab: &LabId, base: &Base, wanted: ByteSize) -> Result<Option<String>> {
    let size = ByteSize(Header::of(&base.path)?.disk_size);
    let why = format!(
        "{lab}: disk_size {wanted} does not apply: its base image has {size}, and a disk cannot shrink"
    );
    Ok((size > wanted).then_some(why))
}

/// Whether both are the same file, even if `storage_dir` was moved with its content.
pub fn is_same(file: &Path, own: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    let moved = || {
        let gone = file.try_exists().is_ok_and(|there| !there);
        gone && own.is_file() && file.file_name() == own.file_name()
    };
    file == own || real(file).is_some_and(|it| Some(it) == real(own)) || moved()
}

fn elsewhere(name: &InstanceName, disk: &Disk, own: &Path) -> anyhow::Error {
    let (own_place, target) = (own.display(), &disk.target);
    let Some(file) = disk.files.first() else {
        return strange(
            name,
            &format!("{target} is not a file; it was {own_place}"),
            &by_hand(name, own),
        );
    };
    let place = file.display();
    let below = disk.files.iter().skip(1);
    if let Some(below) = below.into_iter().find(|below| is_same(below, own)) {
        let below = below.display();
        return strange(
            name,
            &format!("it has a snapshot: it writes to {place}, which is based on {own_place}"),
            &format!(
                "merge the snapshot into its disk: stop it, `qemu-img commit -b {below} {place} && \
                 rm {place}`, `virsh undefine {name} --snapshots-metadata`, and start it again"
            ),
        );
    }
    let found = format!("{target} is {place} instead of {own_place}");
    if file.file_name() == own.file_name() {
        let hint = "use the configuration that it was created with, or move all of storage_dir; if \
                    there are two copies, remove the old one";
        return strange(name, &found, hint);
    }
    strange(name, &found, &by_hand(name, own))
}

fn by_hand(name: &InstanceName, own: &Path) -> String {
    format!(
        "find out which file has its data, and correct the definition with `virsh edit {name}`: \
         its only disk is {}",
        own.display()
    )
}

fn strange(name: &InstanceName, found: &str, hint: &str) -> anyhow::Error {
    let message = format!("the disks of {name} are not as cyyber created them: {found}");
    Fault::new(Kind::Conflict, message).hint(hint).into()
}
