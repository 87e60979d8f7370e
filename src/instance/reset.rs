//! A clean disk for an instance, on the current base image.

use anyhow::{Context as _, Result};

use super::Instance;
use super::outcome::{Outcome, Was};
use super::references::References;
use super::remains::Traces;
use super::suggest;
use crate::context::Context;
use crate::files;
use crate::images::{base, builds, overlay};
use crate::names::InstanceName;

impl Instance<'_> {
    /// Gives it a clean disk. What was in the old one, and saved memory, is lost.
    pub fn reset(mut self) -> Result<Outcome> {
        let (context, name) = (self.context, self.name);
        let traces = resettable(context, name)?;
        let was = traces.facts.as_ref().map_or(Was::Absent, |it| self.was(it));
        let _held = builds::hold(&context.paths, &name.lab)?;
        let base = base::current(&context.paths, &name.lab)?;
        let size = self.disk_size(&base)?;
        // Ready before anything is given up, so that a full disk costs nothing.
        let new = overlay::prepare(&context.paths, name, &base, size)?;
        let replaced = self
            .give_up_old(&traces)
            .and_then(|()| overlay::replace(&context.paths, name, &new))
            .inspect_err(|_| overlay::discard(&new))
            .with_context(|| format!("failed to reset {name}"))?;
        // Under a new UUID: memory that was saved before can never wake up on this disk.
        self.define(&replaced, &base)?;
        let reason = format!("reset to build {}", base.build);
        Ok(self.outcome(true, Some(reason))?.after(was))
    }

    /// Removes the domain, so that nothing stands on the old disk any more, and its saved memory.
    fn give_up_old(&mut self, traces: &Traces) -> Result<()> {
        self.remove_domain()?;
        for file in &traces.memory {
            files::remove(file)?;
        }
        Ok(())
    }
}

/// What there is of `name`, which must be there, at least its disk, and be ours.
pub fn resettable(context: &Context, name: &InstanceName) -> Result<Traces> {
    let traces = Traces::of(context, name)?.filter(|there| there.facts.is_some() || there.overlay);
    // A domain of somebody else's is an error rather than nothing.
    context.hypervisor()?.find(name)?;
    let traces = traces.ok_or_else(|| suggest::unknown(context, name))?;
    traces.ensure_ours(context, &References::new(context))?;
    Ok(traces)
}
