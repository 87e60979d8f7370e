//! Destroys one instance, and nothing else.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::Instance;
use super::references::References;
use super::remains::Remains;
use crate::files;
use crate::state::activity;

impl Instance<'_> {
    /// Destroys its `remains`, which were read under its lock; fails if any of them belongs, or may
    /// belong, to something else. If this is killed in the middle, the next cleanup completes it:
    /// the instance is marked first, and the mark is removed last.
    pub fn destroy(mut self, remains: &Remains, references: &References) -> Result<()> {
        remains.ensure_ours(self.context, references)?;
        let (name, paths) = (self.name, &self.context.paths);
        let mark = paths.destroying(name);
        activity::touch(&mark).with_context(|| format!("failed to mark {name} for destruction"))?;
        self.remove_domain()?;
        // An overlay is never removed while saved memory needs it; that is gone by now.
        let files: [PathBuf; 7] = [
            paths.new_overlay(name),
            paths.forked_memory(name),
            paths.overlay(name),
            paths.activity(name),
            paths.reservation(name),
            paths.keep(name),
            paths.record(name),
        ];
        for file in remains.memory.iter().chain(&files) {
            files::remove(file)?;
        }
        // Its user id is released with its address, so that the next instance gets them only when
        // no file of this one is left.
        if let Err(error) = self.release_address() {
            // It is found and released when addresses run out.
            let kept = format!("warning: failed to release the address of {name}: {error:#}");
            self.context.output.detail(&kept);
        }
        files::remove(&mark)?;
        Ok(())
    }

    /// Powers its domain off, if it has one, drops its saved memory and undefines the domain.
    pub(super) fn remove_domain(&mut self) -> Result<()> {
        let Some(domain) = self.find()? else {
            return Ok(());
        };
        if self.settled()?.id.is_some() {
            domain.power_off()?;
        }
        // A save in progress may have ended only now.
        if self.settled()?.saved {
            domain.drop_saved_memory()?;
        }
        domain.undefine()?;
        self.domain.take();
        Ok(())
    }
}
