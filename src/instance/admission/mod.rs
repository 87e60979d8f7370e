//! Checks that there is memory for one more guest before it is powered on: a host that swaps is
//! useless to everyone. The memory is reserved under a lock, so that parallel commands do not all
//! count the same free memory.

pub mod memory;
pub mod reservation;

use std::path::Path;

use anyhow::{Context as _, Result};

use super::Instance;
use crate::cluster::hosts::Size;
use crate::config::Config;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::host;
use crate::hypervisor::{Facts, Hypervisor, Power};
use crate::images::overlay;
use crate::names::InstanceName;
use crate::sharing;
use crate::state::lock::{self, Lock};
use crate::units::{ByteSize, MIB};
use memory::Shortage;
use reservation::Reservation;

/// The resources that `name` needs, as admission on its host counts them.
pub fn size(config: &Config, name: &InstanceName) -> Result<Size> {
    let lab = config.lab(&name.lab)?;
    let bytes = memory::need(u64::from(lab.memory_mb) * MIB);
    Ok(Size {
        memory_mb: bytes.div_ceil(MIB),
        cpus: lab.vcpus,
    })
}

/// Reserves at `path` the memory for a guest of `memory` bytes; if there is too little, an error
/// with the figures that begins with `not enough`. What the guests of `hypervisor` may still
/// allocate counts as used.
pub fn set_aside(
    context: &Context,
    path: &Path,
    memory: u64,
    hypervisor: Option<&Hypervisor>,
    not_enough: &str,
) -> Result<Reservation> {
    let paths = &context.paths;
    let _alone = Lock::take(&paths.admission_lock(), "the host's memory", lock::PATIENCE)?;
    // In this order: a guest that starts in between is then seen twice instead of not at all, and
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
        // Merged pages count for each guest, since a guest needs its own copy when it writes.
        + sharing::saved();
    // Other reservations do not count if the guests are on another host or on none.
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
    /// [`Instance::admit`]s its guest, whose state is `before`, unless its memory is already in
    /// RAM.
    pub(super) fn room_for(&self, before: &Facts) -> Result<Option<Reservation>> {
        match before.power {
            Power::Off | Power::Crashed => self.admit(self.domain()?.memory()?),
            Power::On | Power::Busy | Power::Frozen | Power::StuckOnDisk => Ok(None),
        }
    }

    /// Reserves the memory that it needs, `memory` bytes for its guest, until the guest shows as
    /// running; an error with the figures if there is too little, or not enough disk space to run
    /// at all. `None` if the guests are on another host, or on none.
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
