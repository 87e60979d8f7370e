//! Gives an instance a clean disk on the current base image.

use anyhow::{Context as _, Result};

use super::Instance;
use super::outcome::{Outcome, Was};
use super::references::References;
use super::remains::Remains;
use super::suggest;
use crate::context::Context;
use crate::files;
use crate::images::{base, builds, overlay};
use crate::names::InstanceName;

impl Instance<'_> {
    /// Gives it a clean disk. The content of the old one and saved memory are lost.
    pub fn reset(mut self) -> Result<Outcome> {
        let (context, name) = (self.context, self.name);
        let remains = resettable(context, name)?;
        let before = remains.facts.as_ref();
        let was = before.map_or(Was::Absent, |before| self.was(before));
        let _held = builds::hold(&context.paths, &name.lab)?;
        let base = base::current(&context.paths, &name.lab)?;
        let size = self.disk_size(&base)?;
        // Create the new disk before anything is deleted, so that a full disk loses nothing.
        let new = overlay::prepare(&context.paths, name, &base, size)?;
        let replaced = self
            .give_up_old(&remains)
            .and_then(|()| overlay::replace(&context.paths, name, &new))
            .inspect_err(|_| overlay::discard(&new))
            .with_context(|| format!("failed to reset {name}"))?;
        // Use a new UUID, so that previously saved memory can never be restored with this disk.
        self.define(&replaced, &base, true)?;
        let reason = format!("reset to build {}", base.build);
        Ok(self.outcome(true, Some(reason))?.after(was))
    }

    /// Removes the domain, so that nothing uses the old disk any more, and its saved memory.
    fn give_up_old(&mut self, remains: &Remains) -> Result<()> {
        self.remove_domain()?;
        for file in &remains.memory {
            files::remove(file)?;
        }
        Ok(())
    }
}

/// What exists of `name`: at least its disk must, and it must be ours.
pub fn resettable(context: &Context, name: &InstanceName) -> Result<Remains> {
    let remains =
        Remains::find(context, name)?.filter(|there| there.facts.is_some() || there.overlay);
    // A foreign domain is an error, not a missing instance.
    context.hypervisor()?.find(name)?;
    let remains = remains.ok_or_else(|| suggest::unknown(context, name))?;
    remains.ensure_ours(context, &References::new(context))?;
    Ok(remains)
}
