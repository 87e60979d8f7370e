//! Creates an instance: its disk on the current base image, and its domain.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::Instance;
use super::outcome::{Outcome, Was};
use super::references::References;
use crate::error::{Fault, Kind};
use crate::images::base::{self, Base};
use crate::images::header::Header;
use crate::images::{builds, overlay};

impl Instance<'_> {
    /// Creates it, if it is missing.
    pub fn create(&self) -> Result<Outcome> {
        let made = self.ensure()?;
        Ok(self.outcome(made, None)?.after(Was::Absent))
    }

    /// Defines its domain if there is none; returns whether it did.
    ///
    /// A disk without a domain, left by an interrupted command or by hand, may hold somebody's
    /// work: it gets a new domain.
    pub(super) fn ensure(&self) -> Result<bool> {
        let (context, name) = (self.context, self.name);
        context.config.lab(&name.lab)?;
        let overlay = context.paths.overlay(name);
        let overlay_exists = overlay
            .try_exists()
            .with_context(|| format!("failed to look for the disk of {name}"))?;
        if let Some(domain) = self.find()? {
            if !overlay_exists {
                // It may be on another host.
                self.ensure_own_disk(&domain.stored_xml()?)?;
                let message = format!("the disk of {name} is missing: {}", overlay.display());
                let hint = format!(
                    "restore the file, or remove the VM with `virsh undefine {name}` to start over"
                );
                return Err(Fault::new(Kind::Conflict, message).hint(hint).into());
            }
            return Ok(false);
        }
        if overlay_exists {
            References::new(context).ensure_free(&overlay)?;
            let base = self.base_of(&overlay)?;
            let found = format!("{name}: found its disk without a VM; keeping the disk");
            context.output.note(&found);
            self.define(&overlay, &base, false)?;
            return Ok(true);
        }
        self.ensure_nowhere_else()?;
        let _held = builds::hold(&context.paths, &name.lab)?;
        let base = base::current(&context.paths, &name.lab)?;
        let size = self.disk_size(&base)?;
        let overlay = overlay::create(&context.paths, name, &base, size)?;
        self.define(&overlay, &base, true).inspect_err(|_| {
            // libvirt may have defined the domain before its connection was lost.
            if matches!(self.find(), Ok(None)) {
                overlay::discard(&overlay);
            }
        })?;
        Ok(true)
    }

    /// The base build that is the backing file of its overlay.
    pub(super) fn base_of(&self, overlay: &Path) -> Result<Base> {
        let backing = Header::of(overlay)?.backing_file;
        let backing = backing.as_deref().and_then(Path::to_str);
        base::at(&self.context.paths, &self.name.lab, backing).with_context(|| {
            let message = format!("cannot use the disk {}, which has no VM", overlay.display());
            let hint = "move that file away, or restore the base image it needs";
            Fault::new(Kind::Conflict, message).hint(hint)
        })
    }
}
