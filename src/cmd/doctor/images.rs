//! The base images of the labs: whether they exist, are protected and are unchanged.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context as _;

use super::finding::{Check, Finding};
use crate::context::Context;
use crate::images::base::{self, Base, Place};
use crate::images::warm;
use crate::images::{builds, info, sha256};
use crate::instance::disk;
use crate::instance::warm::misfit;
use crate::names::LabId;
use crate::units::MIB;

const CHECK: Check = Check("images");

/// Checks the current build of each lab, and with `verify` the content of every build, because
/// instances use old ones as well.
pub fn check(context: &Context, verify: bool) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    let mut all: Vec<(LabId, Base)> = Vec::new();
    for lab in &context.config.labs {
        match current(context, &lab.lab_id) {
            Ok(base) => {
                if let Ok(Some(why)) = disk::too_large(&lab.lab_id, &base, lab.disk_size) {
                    let remedy = "use a smaller image, or increase disk_size";
                    findings.push(CHECK.warning(why, remedy));
                }
                all.push((lab.lab_id.clone(), base));
            }
            Err(finding) => findings.push(finding),
        }
    }
    match builds::all(&context.paths) {
        Ok(mut builds) => {
            builds.retain(|build| !all.contains(build));
            all.extend(builds);
        }
        Err(error) => findings.push(CHECK.error(&error, "check the directory of the base images")),
    }
    let progress = context.output.progress(if verify { all.len() } else { 0 });
    for (lab, base) in &all {
        findings.push(whole(lab, base, verify));
        findings.extend(warm(context, lab, base, verify));
        progress.inc(1);
    }
    progress.finish_and_clear();
    findings
}

fn current(context: &Context, lab: &LabId) -> Result<Base, Finding> {
    let remedy = "check the image or link, or rebuild the lab";
    let failed = |error: &_| CHECK.error(error, remedy);
    if base::place(&context.paths, lab).map_err(|e| failed(&e))? == Place::ByHand {
        let link = context.paths.base_link(lab);
        let whole = info(&link).and_then(|info| info.ensure_whole());
        let whole = whole.with_context(|| format!("{} cannot be adopted", link.display()));
        let message = "an image was put there by hand; it is adopted at its first use";
        let found = whole.map(|()| format!("{lab}: {message}"));
        return Err(CHECK.of(found, remedy));
    }
    // It is not a plain file, so nothing is adopted here.
    base::current(&context.paths, lab).map_err(|e| failed(&e))
}

/// Whether a build is read-only and has the recorded size and content.
fn whole(lab: &LabId, base: &Base, verify: bool) -> Finding {
    let name = format!("{lab}, build {}", base.build);
    let anew = format!("rebuild it: cyyber build --force {lab}");
    let anew = anew + "; instances use this one until they are reset";
    let there = base.path.symlink_metadata();
    let Some(there) = there.ok().filter(Metadata::is_file) else {
        return CHECK.failed(format!("{name} is not a regular file"), anew);
    };
    if let Some(finding) = writable(&name, &base.path, &there) {
        return finding;
    }
    let Some(note) = base::note(base) else {
        return CHECK.warning(format!("{name}: it has no record"), anew);
    };
    if there.len() != note.size_bytes {
        let (is, was) = (there.len(), note.size_bytes);
        let message = format!("{name} was changed: it has {is} bytes instead of {was}");
        return CHECK.failed(message, anew);
    }
    if !verify {
        return CHECK.ok(format!("{name} has its recorded size"));
    }
    // The hash is of this file alone. An earlier version adopted any.
    if let Err(error) = info(&base.path).and_then(|info| info.ensure_whole()) {
        let message = format!("{name} cannot be trusted: {error:#}");
        return CHECK.failed(message, anew);
    }
    let sum = match sha256(&base.path) {
        Ok(sum) => sum,
        Err(error) => return CHECK.error(&error, &anew),
    };
    let wanted = note.sha256;
    if sum != wanted {
        let message = format!("{name} was changed: its SHA-256 is {sum} instead of {wanted}");
        return CHECK.failed(message, anew);
    }
    CHECK.ok(format!(
        "{name} is unchanged: its SHA-256 is the recorded one"
    ))
}

/// Whether the warm image of a build is usable, if the lab should have one; only current builds
/// need one.
fn warm(context: &Context, id: &LabId, base: &Base, verify: bool) -> Option<Finding> {
    let lab = context.config.lab(id).ok()?;
    let warm = warm::current(&context.paths, id, base)?;
    let name = format!("{id}, build {}: its warm image", base.build);
    let damage = warm.damage(verify);
    let readable = warm.memory().metadata().map(|there| there.mode() & 0o077);
    let anew = format!("make another one: cyyber build {id}; until then its instances boot");
    if readable.is_ok_and(|others| others != 0) {
        let (memory, what) = (warm.memory(), "can be read by others than root");
        let memory = memory.display();
        let remedy = format!("chattr -i {memory}; chmod 600 {memory}");
        return Some(CHECK.failed(format!("{name} {what}: {memory}"), remedy));
    }
    let why = match (damage, lab.instant) {
        (Some(damage), _) => Some(damage),
        (None, false) => None,
        (None, true) => {
            misfit(context, lab, &warm.note.fits).unwrap_or_else(|error| Some(format!("{error:#}")))
        }
    };
    Some(match why {
        Some(why) => CHECK.warning(format!("{name} is not used: {why}"), anew),
        None => {
            let (memory, disk) = (warm.note.memory.size() / MIB, warm.note.layer.size() / MIB);
            let sizes = format!("{memory} MiB of memory, {disk} MiB of disk");
            let and = if verify {
                ", and its content is unchanged"
            } else {
                ""
            };
            CHECK.ok(format!("{name} fits this host: {sizes}{and}"))
        }
    })
}

/// A base image that its owner, if not root, can write to or make writable.
fn writable(name: &str, path: &Path, there: &Metadata) -> Option<Finding> {
    let (mode, owner) = (there.mode() & 0o7777, there.uid());
    let owned = owner == 0 || owner == rustix::process::geteuid().as_raw();
    if owned && mode & 0o222 == 0 {
        return None;
    }
    let place = path.display();
    let is = format!("it has mode {mode:o} and belongs to user {owner}");
    let remedy = format!("chattr -i {place}; chown root {place} && chmod 444 {place}");
    Some(CHECK.failed(format!("{name} is not protected: {is}"), remedy))
}
