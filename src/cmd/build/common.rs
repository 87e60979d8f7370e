//! State shared by the builds of one command, and running Packer for one of them.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::geteuid;

use super::progress::Progress;
use crate::accelerator::Accelerator;
use crate::context::Context;
use crate::error::{Kind, kind_of};
use crate::files;
use crate::images;
use crate::instance::admission::{self, memory, reservation::Reservation};
use crate::packer::run::{Build, Event};
use crate::packer::templates::Templates;
use crate::packer::{Packer, as_nobody, render};
use crate::state::lock::Lock;
use crate::units::MIB;

/// Space for a build in addition to three times its initial image: for packages and for copies of
/// the result.
const ROOM_FOR_BUILD: u64 = 2048 * MIB;

/// How often to check whether something that others hold is free.
const AGAIN: Duration = Duration::from_secs(1);

/// More CPUs than this do not make package managers faster.
const MOST_CPUS: usize = 4;

/// State shared by the builds of one command.
pub struct Common<'a> {
    pub context: &'a Context,
    pub accelerator: Accelerator,
    /// `None` in a dry run without Packer.
    pub packer: Option<Packer>,
    /// The version of QEMU, `None` in a dry run without it.
    pub qemu: Option<String>,
    pub templates: Templates,
    pub dry_run: bool,
    pub force: bool,
    pub stop: Arc<AtomicBool>,
    /// How many builds have reserved their memory.
    pub running: Mutex<usize>,
}

/// One build for Packer.
pub struct Job<'a> {
    /// Its name, in paths and messages.
    pub name: &'a str,
    pub directory: &'a Path,
    pub log: &'a Path,
    /// The directory for the result.
    pub storage: &'a Path,
    /// Size of its initial image, in bytes.
    pub image_size: u64,
    pub memory_mb: u32,
}

impl Common<'_> {
    pub fn wants_plugins(&self) -> bool {
        self.packer.as_ref().is_none_or(Packer::wants_plugins)
    }

    /// The versions of the tools, if known.
    pub fn tools(&self) -> Option<String> {
        let packer = &self.packer.as_ref()?.version;
        Some(format!("packer {packer}, qemu {}", self.qemu.as_ref()?))
    }

    pub fn machine(&self, memory_mb: u32) -> render::Machine {
        let qemu = self.qemu.as_deref().unwrap_or("10");
        render::Machine {
            accelerator: self.accelerator,
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST_CPUS)),
            memory_mb,
            run_as: geteuid().is_root().then(|| as_nobody(qemu)),
        }
    }

    pub fn check_interrupt(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            bail!("interrupted before it started");
        }
        Ok(())
    }

    /// Takes a lock that others may hold during a whole build.
    pub fn wait_for(
        &self,
        take: impl Fn(Duration) -> Result<Lock>,
        progress: &Progress,
    ) -> Result<Lock> {
        let mut waits = false;
        loop {
            match take(AGAIN) {
                Err(error) if kind_of(&error) == Kind::Busy => {}
                taken => return taken,
            }
            self.check_interrupt()?;
            if !std::mem::replace(&mut waits, true) {
                progress.phase("Waiting for another command");
            }
        }
    }

    /// Runs Packer in a prepared directory as soon as there is memory, and passes the result to
    /// `finish`.
    pub fn run<T>(
        &self,
        job: &Job,
        progress: &Progress,
        finish: impl FnOnce(&Packer) -> Result<T>,
    ) -> Result<T> {
        let packer = self.packer.as_ref().context("Packer was not looked for")?;
        let paths = &self.context.paths;
        files::make_directory(job.storage, files::PASSABLE_DIRECTORY)?;
        let cache = paths.download_cache(geteuid().as_raw());
        // Create them one by one: neither may be a link.
        for place in cache.parent().into_iter().chain([&*cache]) {
            files::make_directory(place, files::SHARED_DIRECTORY)?;
        }
        for place in [job.directory, job.storage, &cache] {
            images::require_room(place, 3 * job.image_size + ROOM_FOR_BUILD, "a build")?;
        }
        let build = Build {
            directory: job.directory,
            log: job.log,
            cache: &cache,
        };
        let path = self.context.paths.build_reservation(job.name);
        let bytes = u64::from(job.memory_mb) * MIB;
        let not_enough = format!("not enough memory to build {}", job.name);
        let memory = self.wait_for_memory(&path, bytes, &not_enough, progress)?;
        let built = build.run(packer, &self.stop, |event| match event {
            Event::Phase(phase) => progress.phase(phase),
            Event::Resident(bytes) => memory.holds(bytes),
        });
        drop(memory);
        let finished = built.and_then(|()| {
            progress.phase("Checking the image");
            finish(packer)
        });
        files::remove(&job.directory.join("out"))?;
        finished
    }

    /// Reserves memory for one more guest of `bytes` at `path`. If there is too little, waits for a
    /// running build to finish; if none runs, fails with `not_enough`.
    pub fn wait_for_memory(
        &self,
        path: &Path,
        bytes: u64,
        not_enough: &str,
        progress: &Progress,
    ) -> Result<Memory<'_>> {
        let need = memory::need(bytes);
        let mut waits = false;
        loop {
            // Connect again: since the last time a whole build may have run, and libvirtd been
            // upgraded. A host that only builds needs no libvirt, and has no guests then.
            let anew = self.context.for_worker();
            let hypervisor = anew.hypervisor().ok().filter(|it| it.is_local());
            // Hold this in the meantime: a build with reserved memory must be counted before
            // another one finds too little.
            let mut running = counted(&self.running);
            match admission::set_aside(self.context, path, bytes, hypervisor, not_enough) {
                Ok(reservation) => {
                    *running += 1;
                    let (running, reservation) = (&self.running, Some(reservation));
                    return Ok(Memory {
                        running,
                        reservation,
                        need,
                    });
                }
                Err(error) if kind_of(&error) == Kind::Capacity && *running > 0 => {}
                Err(error) => return Err(error),
            }
            drop(running);
            self.check_interrupt()?;
            if !std::mem::replace(&mut waits, true) {
                progress.phase("Waiting for memory");
            }
            sleep(AGAIN);
        }
    }
}

/// The memory of a build; released when dropped.
pub struct Memory<'a> {
    running: &'a Mutex<usize>,
    reservation: Option<Reservation>,
    need: u64,
}

impl Memory<'_> {
    /// Memory that it uses already is no longer reserved, because it counts as used. If the figure
    /// cannot be written, the reservation is too large at worst.
    fn holds(&self, bytes: u64) {
        if let Some(reservation) = &self.reservation {
            let _ = reservation.change(self.need.saturating_sub(bytes));
        }
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        // Under one lock; otherwise a waiting build could see that no build holds memory and fail.
        let mut running = counted(self.running);
        self.reservation = None;
        *running -= 1;
    }
}

/// A counter is valid even if a thread that held it panicked.
fn counted(running: &Mutex<usize>) -> MutexGuard<'_, usize> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}
