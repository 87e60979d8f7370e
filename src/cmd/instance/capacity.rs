//! Room for one more guest, looked for before it is powered on: a host that swaps is of no use to
//! anybody.

use anyhow::Result;

use super::handle::Instance;
use crate::cmd::admission::set_aside;
use crate::hypervisor::{Facts, Power};
use crate::images::overlay;
use crate::state::reservation::Reservation;

impl Instance<'_> {
    /// [`Instance::admit`]s its guest, which is as `before` says, unless that is in RAM already.
    pub(super) fn room_for(&self, before: &Facts) -> Result<Option<Reservation>> {
        match before.power {
            Power::Off | Power::Crashed => self.admit(self.domain()?.memory()?),
            Power::On | Power::Busy | Power::Frozen | Power::StuckOnDisk => Ok(None),
        }
    }

    /// Sets the memory aside that it needs, `memory` bytes for its guest, until it shows as running; an
    /// error with the figures where there is not enough, or not enough disk for it to do anything.
    /// `None` where the guests are on another host, or on none.
    pub(super) fn admit(&self, memory: u64) -> Result<Option<Reservation>> {
        let (context, name) = (self.context, self.name);
        let hypervisor = context.hypervisor()?;
        if !hypervisor.is_local() {
            return Ok(None);
        }
        overlay::require_room_to_run(&context.paths, name)?;
        let path = context.paths.reservation(name);
        let not_enough = format!("not enough memory to start {name}");
        set_aside(context, &path, memory, Some(hypervisor), &not_enough).map(Some)
    }
}
