//! Room for one more guest, looked for before it is powered on: a host that swaps is of no use to
//! anybody. Its memory is reserved under a lock, so that commands side by side do not all find the
//! same.

pub mod memory;
pub mod reservation;

use std::path::Path;

use anyhow::{Context as _, Result};

use super::Instance;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::host;
use crate::hypervisor::{Facts, Hypervisor, Power};
use crate::images::overlay;
use crate::names::InstanceName;
use crate::sharing;
use crate::state::lock::{self, Lock};
use crate::units::ByteSize;
use memory::Shortage;
use reservation::Reservation;

/// Sets aside at `path` what a guest of `memory` bytes needs; an error with the figures, that it is
/// `not enough` for something, where there is too little. What the guests of `hypervisor` may still
/// take counts as taken.
pub fn set_aside(
    context: &Context,
    path: &Path,
    memory: u64,
    hypervisor: Option<&Hypervisor>,
    not_enough: &str,
) -> Result<Reservation> {
    let paths = &context.paths;
    let _alone = Lock::take(&paths.admission_lock(), "the host's memory", lock::PATIENCE)?;
    // In this order: one that begins to run in between is seen twice rather than not at all, and
    // counted once.
    let reserved = reservation::all(&paths.reservations())
        .context("failed to read the reservations of memory")?;
    let running = match hypervisor {
        Some(hypervisor) => hypervisor.memory_of_running()?,
        None => Vec::new(),
    };
    let runs = |name: &str| running.iter().any(|guest| guest.name == name);
    let still_to_come = reserved.iter().filter(|(name, _)| !runs(name));
    let still_to_come = still_to_come.map(|(_, bytes)| *bytes).sum::<u64>();
    let need = memory::need(memory);
    if let Some(ByteSize(most)) = context.config.host.max_memory {
        let is_ours = |name: &str| {
            let name: Option<InstanceName> = name.parse().ok();
            name.is_some_and(|name| context.config.lab(&name.lab).is_ok())
        };
        let ours = running.iter().filter(|guest| is_ours(&guest.name));
        let needs = ours.map(|guest| memory::need(guest.memory));
        let taken = still_to_come + needs.sum::<u64>();
        memory::admit_within(most, need, taken).map_err(|short| refused(short, not_enough))?;
    }
    let claimed = still_to_come
        + running
            .iter()
            .map(|guest| memory::claim(guest.memory, guest.resident))
            .sum::<u64>()
        // Merged pages are in each guest's share as well, and no guest keeps them if it writes.
        + sharing::saved();
    // What else there is does not count where guests are on another host, or on none.
    if hypervisor.is_none_or(Hypervisor::is_local) {
        memory::admit(need, host::memory()?, claimed)
            .map_err(|short| refused(short, not_enough))?;
    }
    Reservation::make(path, need).context("failed to reserve memory")
}

fn refused(shortage: Shortage, not_enough: &str) -> anyhow::Error {
    let fault = Fault::new(Kind::Capacity, not_enough)
        .hint("pause or stop other instances: `cyyber instance stats` shows what they use");
    anyhow::Error::new(shortage).context(fault)
}

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
        let not_enough = format!("not enough memory to start {name}");
        if !hypervisor.is_local() && context.config.host.max_memory.is_none() {
            return Ok(None);
        }
        if hypervisor.is_local() {
            overlay::require_room_to_run(&context.paths, name)?;
        }
        let path = context.paths.reservation(name);
        set_aside(context, &path, memory, Some(hypervisor), &not_enough).map(Some)
    }
}
