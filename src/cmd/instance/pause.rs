//! `cyyber instance pause`

use anyhow::{Context as _, Result};

use super::memory;
use super::single::{self, Single, Was};
use super::view;
use super::wake::settled;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::hypervisor::{Domain, Facts, Power};
use crate::images;
use crate::instance::InstanceName;

pub fn run(context: &Context, name: &InstanceName, keep_memory: bool) -> Result<Single> {
    let _lock = super::lock(context, name)?;
    let domain = super::existing(context, name)?;
    hold(context, name, &domain, keep_memory)
}

/// Pauses `domain`. The caller holds the instance's lock.
pub fn hold(
    context: &Context,
    name: &InstanceName,
    domain: &Domain,
    keep_memory: bool,
) -> Result<Single> {
    let before = settled(domain, name)?;
    let was = Was::In(view::state(context, name, &before));
    let changed = match before.power {
        Power::Off | Power::Crashed if before.saved => false,
        Power::Off | Power::Crashed => {
            let message = format!("{name} is not running: nothing to pause");
            return Err(Fault::new(Kind::Conflict, message)
                .hint("it takes no memory as it is; `start` powers it on")
                .into());
        }
        Power::Frozen | Power::StuckOnDisk if keep_memory => false,
        _ if keep_memory => {
            domain.freeze()?;
            true
        }
        _ => {
            save(context, name, domain, &before)?;
            true
        }
    };
    Ok(single::answer(context, name, changed, None, None)?.after(was))
}

/// Saves the memory of the running or frozen `domain`. When that fails it is as it was before.
fn save(context: &Context, name: &InstanceName, domain: &Domain, before: &Facts) -> Result<()> {
    let goes_on = match before.power {
        Power::On => format!("{name} was not paused and goes on running"),
        _ => format!("the memory of {name} was not saved and stays in RAM"),
    };
    require_room(context, domain).with_context(|| goes_on.clone())?;
    memory::forget(context, name, domain)?;

    let stop = context.interrupted()?;
    let spinner = context.output.spinner(&name.to_string());
    spinner.set_message("saving its memory");
    let saved = domain.save_memory(stop);
    spinner.finish_and_clear();

    // What libvirt says of the save is not the truth: it may have finished one whose client it
    // lost, and leave half a file when it was ended itself.
    let after = match settled(domain, name) {
        Ok(after) => after,
        Err(error) => return Err(saved.err().unwrap_or(error)),
    };
    match (after.id, after.saved) {
        (None, true) => {
            if let Err(error) = memory::note(context, name, domain) {
                // Restoring it is checked less closely then.
                context.output.warn(&format!(
                    "failed to note the saved memory of {name}: {error:#}"
                ));
            }
            Ok(())
        }
        (None, false) => Err(saved
            .err()
            .unwrap_or_else(|| anyhow::anyhow!("it ended meanwhile"))
            .context(format!("{name} was not paused and is off now"))),
        (Some(_), _) => {
            if before.power == Power::On && after.power == Power::Frozen {
                domain.thaw()?;
            }
            Err(saved
                .err()
                .unwrap_or_else(|| anyhow::anyhow!("libvirt did not save its memory"))
                .context(goes_on))
        }
    }
}

/// A save that runs out of disk is refused by libvirt only after it has filled it.
fn require_room(context: &Context, domain: &Domain) -> Result<()> {
    let Some(directory) = context.hypervisor()?.saved_memory_directory() else {
        return Ok(());
    };
    let memory = domain.memory()?;
    images::require_room(&directory, memory + memory / 10, "the saved memory")
}
