//! `cyyber instance create`

use std::path::Path;

use anyhow::{Context as _, Result};

use super::define::define;
use super::disk;
use super::references::References;
use super::single::{self, Single, Was};
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::hypervisor::Domain;
use crate::images::base::{self, Base};
use crate::images::header::Header;
use crate::images::{builds, overlay};
use crate::instance::InstanceName;

pub fn run(context: &Context, name: &InstanceName) -> Result<Single> {
    let _lock = super::lock(context, name)?;
    let (_, made) = ensure(context, name)?;
    Ok(single::answer(context, name, made, None, None)?.after(Was::Absent))
}

/// The domain of `name`, and whether it had to be made. The caller holds the instance's lock.
///
/// A disk that is there without a domain is somebody's work, left by an interrupted command or by
/// hand: it gets its domain back.
pub fn ensure(context: &Context, name: &InstanceName) -> Result<(Domain, bool)> {
    context.config.lab(&name.lab)?;
    let overlay = context.paths.overlay(name);
    let overlay_exists = overlay
        .try_exists()
        .with_context(|| format!("failed to look for the disk of {name}"))?;
    if let Some(domain) = context.hypervisor()?.find(name)? {
        if !overlay_exists {
            // It may be elsewhere.
            disk::ensure_own(context, name, &domain.stored_xml()?)?;
            let message = format!("the disk of {name} is gone: {}", overlay.display());
            return Err(Fault::new(Kind::Conflict, message)
                .hint(format!(
                    "restore the file, or remove the VM with `virsh undefine {name}` to begin anew"
                ))
                .into());
        }
        return Ok((domain, false));
    }
    if overlay_exists {
        References::new(context).ensure_free(&overlay)?;
        let base = base_of(context, name, &overlay)?;
        context.output.note(&format!(
            "{name}: found its disk without a VM; keeping the disk"
        ));
        return Ok((define(context, name, &overlay, &base)?, true));
    }
    let _held = builds::hold(&context.paths, &name.lab)?;
    let base = base::current(&context.paths, &name.lab)?;
    let size = disk::size(context, name, &base)?;
    let overlay = overlay::create(&context.paths, name, &base, size)?;
    let domain = define(context, name, &overlay, &base) // libvirt may have made the domain all the same, before the connection to it was lost.
        .inspect_err(|_| {
            if matches!(context.hypervisor().map(|h| h.find(name)), Ok(Ok(None))) {
                overlay::discard(&overlay);
            }
        })?;
    Ok((domain, true))
}

/// The base build that an overlay says it stands on.
fn base_of(context: &Context, name: &InstanceName, overlay: &Path) -> Result<Base> {
    let backing = Header::of(overlay)?.backing_file;
    let backing = backing.as_deref().and_then(Path::to_str);
    base::at(&context.paths, &name.lab, backing).with_context(|| {
        Fault::new(
            Kind::Conflict,
            format!("cannot use the disk {}, which has no VM", overlay.display()),
        )
        .hint("move that file away, or restore the base image it needs")
    })
}
