//! Room for one more guest, looked for before it is powered on: a host that swaps is of no use to
//! anybody.

use anyhow::Result;

use crate::cmd::admission::set_aside;
use crate::context::Context;
use crate::hypervisor::{Domain, Facts, Power};
use crate::images::overlay;
use crate::instance::InstanceName;
use crate::state::reservation::Reservation;

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
    let path = context.paths.reservation(name);
    let not_enough = format!("not enough memory to start {name}");
    set_aside(context, &path, memory, Some(hypervisor), &not_enough).map(Some)
}
