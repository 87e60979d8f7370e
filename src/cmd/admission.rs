//! Memory for one more guest, set aside under a lock, so that commands side by side do not all find
//! the same.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::capacity;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::host;
use crate::hypervisor::Hypervisor;
use crate::state::lock::{self, Lock};
use crate::state::reservation::{self, Reservation};

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
        .context("failed to read what memory is set aside")?;
    let running = match hypervisor {
        Some(hypervisor) => hypervisor.memory_of_running()?,
        None => Vec::new(),
    };
    let runs = |name: &str| running.iter().any(|guest| guest.name == name);
    let still_to_come = reserved.iter().filter(|(name, _)| !runs(name));
    let claimed = still_to_come.map(|(_, bytes)| *bytes).sum::<u64>()
        + running
            .iter()
            .map(|guest| capacity::claim(guest.memory, guest.resident))
            .sum::<u64>();
    let need = capacity::need(memory);
    capacity::admit(need, host::memory()?, claimed).map_err(|shortage| {
        Fault::new(Kind::Capacity, format!("{not_enough}: {shortage}"))
            .hint("pause or stop other instances: `cyyber instance stats` shows what they use")
    })?;
    Reservation::make(path, need).context("failed to set memory aside")
}
