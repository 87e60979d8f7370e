//! Pauses an instance: its memory is saved to disk, or stays in RAM.

use anyhow::{Context as _, Result, anyhow};

use super::Instance;
use super::outcome::Outcome;
use crate::error::{Fault, Kind};
use crate::hypervisor::{Facts, Power};
use crate::images;

impl Instance<'_> {
    /// Pauses it: its memory is saved to disk, or stays in RAM with `keep_memory`.
    pub fn pause(&self, keep_memory: bool) -> Result<Outcome> {
        let before = self.settled()?;
        let was = self.was(&before);
        let changed = match before.power {
            Power::Off | Power::Crashed if before.saved => false,
            Power::Off | Power::Crashed => {
                let message = format!("{} is not running: nothing to pause", self.name);
                let hint = "it uses no memory now; power it on with `start`";
                return Err(Fault::new(Kind::Conflict, message).hint(hint).into());
            }
            Power::Frozen | Power::StuckOnDisk if keep_memory => false,
            _ if keep_memory => {
                self.domain()?.freeze()?;
                true
            }
            _ => {
                self.save(&before)?;
                true
            }
        };
        Ok(self.outcome(changed, None)?.after(was))
    }

    /// Saves its memory, whether it runs or is frozen. If that fails, its state does not change.
    fn save(&self, before: &Facts) -> Result<()> {
        let (context, name, domain) = (self.context, self.name, self.domain()?);
        let goes_on = match before.power {
            Power::On => format!("{name} was not paused and keeps running"),
            _ => format!("the memory of {name} was not saved and stays in RAM"),
        };
        self.require_room_to_save()
            .with_context(|| goes_on.clone())?;
        self.forget_memory()?;

        let stop = context.interrupted()?;
        let spinner = context.output.spinner(&name.to_string());
        spinner.set_message("saving its memory");
        let saved = domain.save_memory(stop);
        spinner.finish_and_clear();

        // Do not trust libvirt's answer: it may have completed a save whose client it lost, and
        // leave an incomplete file when it was killed itself.
        let after = match self.settled() {
            Ok(after) => after,
            Err(error) => return Err(saved.err().unwrap_or(error)),
        };
        let failed = |why| saved.err().unwrap_or_else(|| anyhow!("{why}"));
        match (after.id, after.saved) {
            (None, true) => {
                if let Err(error) = self.note_memory() {
                    // Without the record, fewer checks are made when it is restored.
                    let failed = format!("failed to record the saved memory of {name}: {error:#}");
                    context.output.warn(&failed);
                }
                Ok(())
            }
            (None, false) => Err(failed("it stopped in the meantime")
                .context(format!("{name} was not paused and is off now"))),
            (Some(_), _) => {
                if before.power == Power::On && after.power == Power::Frozen {
                    domain.thaw()?;
                }
                Err(failed("libvirt did not save its memory").context(goes_on))
            }
        }
    }

    /// libvirt only detects that the disk is too small for a save when it is full.
    fn require_room_to_save(&self) -> Result<()> {
        let Some(directory) = self.context.hypervisor()?.saved_memory_directory() else {
            return Ok(());
        };
        let memory = self.domain()?.memory()?;
        images::require_room(&directory, memory + memory / 10, "the saved memory")
    }
}
