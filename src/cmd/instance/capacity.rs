//! Room for one more guest, looked for before it is powered on: a host that swaps is of no use to
//! anybody.

use anyhow::{Context as _, Result};

use crate::capacity;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::host;
use crate::hypervisor::{Domain, Facts, Power};
use crate::images::overlay;
use crate::instance::InstanceName;
use crate::state::lock::{self, Lock};
use crate::state::reservation::{self, Reservation};

/// [`admit`]s the guest of `domain`, which is as `before` says, unless it is in RAM already.
pub fn room_for(
    context: &Context,
    name: &InstanceName,
    domain: &Domain,
    before: &Facts,
) -> Result<Option<Reservation>> {
    match before.power {
        Power::Off | Power::Crashed => admit(context, name, domain.memory()?),
        Power::On | Power::Busy | Power::Frozen | Power::StuckOnDisk => Ok(None),
    }
}

/// Sets the memory aside that `name` needs, `memory` bytes for its guest, until it shows as
/// running; an error with the figures where there is not enough, or not enough disk for it to do
/// anything. `None` where the guests are on another host, or on none.
pub fn admit(context: &Context, name: &InstanceName, memory: u64) -> Result<Option<Reservation>> {
    let hypervisor = context.hypervisor()?;
    if !hypervisor.is_local() {
        return Ok(None);
    }
    overlay::require_room_to_run(&context.paths, name)?;
    let paths = &context.paths;
    let _alone = Lock::take(&paths.admission_lock(), "the host's memory", lock::PATIENCE)?;
    // In this order: one that begins to run in between is seen twice rather than not at all, and
    // counted once.
    let reserved = reservation::all(&paths.reservations())
        .context("failed to read what memory is set aside")?;
    let running = hypervisor.memory_of_running()?;
    let runs = |name: &str| running.iter().any(|guest| guest.name == name);
    let still_to_come = reserved.iter().filter(|(name, _)| !runs(name));
    let claimed = still_to_come.map(|(_, bytes)| *bytes).sum::<u64>()
        + running
            .iter()
            .map(|guest| capacity::claim(guest.memory, guest.resident))
            .sum::<u64>();
    let need = capacity::need(memory);
    capacity::admit(need, host::memory()?, claimed).map_err(|shortage| {
        let message = format!("not enough memory to start {name}: {shortage}");
        Fault::new(Kind::Capacity, message)
            .hint("pause or stop other instances: `cyyber instance stats` shows what they use")
    })?;
    let reservation = Reservation::make(&paths.reservation(name), need)
        .with_context(|| format!("failed to set memory aside for {name}"))?;
    Ok(Some(reservation))
}
