//! Starts an instance whose disk was never used from the warm image of its base instead of booting
//! it: with a disk on the warm image's disk, the same memory, a definition of its own, and then,
//! before its network card is connected, a new identity.
//!
//! Until that is done, the running guest is not yet the instance, and nobody can reach it: its
//! console has no valid password, and it has no network. A mark in the record says so. If this is
//! killed at any moment, the next start discards what exists and starts over; a guest that boots
//! from such a disk creates its own identity.

use std::fs::File;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;

use super::Instance;
use super::definition::exact;
use super::host_keys::{self, HostKey};
use super::warm::{IDENTITY, misfit};
use crate::files;
use crate::hypervisor::save_file::SaveFile;
use crate::hypervisor::xml::interface;
use crate::hypervisor::{Script, Waiting};
use crate::images::base::Base;
use crate::images::warm::{self, Warm};
use crate::images::{builds, overlay, require_room};
use crate::packer::render;
use crate::secret::Secret;
use crate::text::hex;
use crate::units::MIB;

/// The script that gives it its identity waits there already: ready.sh has started it.
const WAITING: Waiting = Waiting {
    inbox: "/run/cyyber-warm/inbox",
    answer: "/run/cyyber-warm/answer",
};

/// How long the guest may take for that before it is booted instead.
const PATIENCE: Duration = Duration::from_secs(150);

/// How to start an instance that is off.
#[derive(Debug)]
pub(super) enum Way {
    /// From this warm image.
    Fork(Box<Warm>),
    /// From its disk; with the reason why it is not forked, if its lab permits forks.
    Boot(Option<String>),
}

impl Instance<'_> {
    /// How to start it. It is off and has no saved memory. When in doubt, it is booted.
    pub(super) fn way_to_start(&self) -> Way {
        let way = self.way();
        way.unwrap_or_else(|error| Way::Boot(Some(format!("{error:#}"))))
    }

    fn way(&self) -> Result<Way> {
        let (context, name) = (self.context, self.name);
        let (Ok(lab), Some(record)) = (context.config.lab(&name.lab), self.record()?) else {
            return Ok(Way::Boot(None));
        };
        let unused =
            record.unused.is_some() && record.unused == exact(&context.paths.overlay(name));
        if !lab.instant || !unused || !context.hypervisor()?.is_system() {
            return Ok(Way::Boot(None));
        }
        let base = Base {
            path: context.paths.base_build(&name.lab, &record.build),
            build: record.build,
        };
        let Some(warm) = warm::current(&context.paths, &name.lab, &base) else {
            context
                .output
                .detail(&format!("{name}: its base has no warm image"));
            return Ok(Way::Boot(None));
        };
        let misfit = match warm.damage(false) {
            Some(damage) => Some(damage),
            None => misfit(context, lab, &warm.note.fits)?,
        };
        if let Some(why) = misfit {
            return Ok(Way::Boot(Some(why)));
        }
        // Not every user of libvirt can read it.
        File::open(warm.memory()).context("failed to open the memory of the warm image")?;
        Ok(Way::Fork(Box::new(warm)))
    }

    /// Starts it from `warm`. If that fails, parts of the fork may exist and must be undone.
    pub(super) fn fork(&self, warm: &Warm) -> Result<()> {
        let (context, name) = (self.context, self.name);
        let paths = &context.paths;
        let memory_size = warm.note.memory.size();
        require_room(&paths.user_instances(), memory_size + 64 * MIB, "a fork")?;
        let mut steps = Steps::default();
        let host = render::hostname(context.config.lab(&name.lab)?);
        // In a guest under software emulation, this would take longer than everything else.
        let keys = std::thread::spawn(move || host_keys::make(&host));
        self.put_on(warm)?;
        steps.done("disk");

        let domain = self.domain()?;
        let (definition, card) = interface::unplugged(&domain.whole_xml()?)?;
        let memory = paths.forked_memory(name);
        let copied = File::open(warm.memory())
            .and_then(SaveFile::open)
            .and_then(|saved| {
                let file = files::create_anew(&memory, files::PRIVATE)?;
                saved.write_with(&definition, &file)
            })
            .context("failed to copy the memory of the warm image");
        steps.done("memory");
        let restored = copied.and_then(|()| domain.restore_from(&memory, &definition));
        // It contains the password of the console.
        files::remove(&memory)?;
        restored?;
        steps.done("restore");

        let made = keys
            .join()
            .unwrap_or_else(|_| bail!("generating them panicked"));
        let keys = made.unwrap_or_else(|error| {
            let note = format!("{name}: the guest generates its own SSH host keys: {error:#}");
            context.output.detail(&note);
            Vec::new()
        });
        steps.done("host keys");
        let identity = Script {
            interpreter: ("/usr/bin/perl", "-e"),
            text: IDENTITY,
            input: identity(context.time(), &keys),
        };
        let until = Instant::now() + PATIENCE;
        let handed = domain
            .hand_over(&WAITING, &identity.input, until)
            .and_then(|handed| {
                // Not every guest's agent may write to files.
                if !handed {
                    domain.run_script(&identity, until, &AtomicBool::new(false))?;
                }
                Ok(handed)
            })
            .context("failed to give it an identity of its own")?;
        steps.done(match handed {
            true => "identity",
            false => "identity by a program started for it",
        });
        domain.plug_in(card)?;
        steps.done("network card");
        let took = steps.told.join(", ");
        context.output.detail(&format!("{name}: forked ({took})"));
        Ok(())
    }

    /// Gives it a new disk on the disk of `warm`.
    fn put_on(&self, warm: &Warm) -> Result<()> {
        let _held = builds::hold(&self.context.paths, &self.name.lab)?;
        self.mark_as_forking(true)?;
        let layer = Base {
            build: warm.layer.build.clone(),
            path: warm.path.clone(),
        };
        self.put_anew_on(&layer)
    }

    fn put_anew_on(&self, image: &Base) -> Result<()> {
        let (context, name) = (self.context, self.name);
        let size = context.config.lab(&name.lab)?.disk_size;
        let new = overlay::prepare(&context.paths, name, image, size)?;
        overlay::replace(&context.paths, name, &new).inspect_err(|_| overlay::discard(&new))?;
        self.renew()
    }

    fn mark_as_forking(&self, forking: bool) -> Result<()> {
        self.update(|record| (record.forking, record.unused) = (forking, None))?;
        let record = self.record()?;
        ensure!(
            record.is_some_and(|record| record.forking == forking),
            "failed to record that it is being forked"
        );
        Ok(())
    }

    /// Whether a command was killed while it forked the instance.
    pub(super) fn is_half_forked(&self) -> Result<bool> {
        Ok(self.record()?.is_some_and(|record| record.forking))
    }

    /// Undoes an incomplete fork: powers it off and gives it a clean disk on its base. Nobody has
    /// used it.
    pub(super) fn undo_fork(&self) -> Result<()> {
        let (context, name) = (self.context, self.name);
        let domain = self.domain()?;
        if self.settled()?.id.is_some() {
            domain.power_off()?;
        }
        if self.settled()?.saved {
            domain.drop_saved_memory()?;
        }
        files::remove(&context.paths.forked_memory(name))?;
        let record = self.record()?.context("its record is gone")?;
        self.put_anew_on(&Base {
            path: context.paths.base_build(&name.lab, &record.build),
            build: record.build,
        })?;
        self.mark_as_forking(false)?;
        let unused = exact(&context.paths.overlay(name));
        self.update(|record| record.unused = unused)
    }
}

/// The duration of each step of a fork.
struct Steps {
    at: Instant,
    told: Vec<String>,
}

impl Default for Steps {
    fn default() -> Self {
        Steps {
            at: Instant::now(),
            told: Vec::new(),
        }
    }
}

impl Steps {
    fn done(&mut self, step: &str) {
        let took = self.at.elapsed().as_secs_f64();
        self.told.push(format!("{step} {took:.2} s"));
        self.at = Instant::now();
    }
}

/// The input of the script that gives a fork its identity.
fn identity(now: Timestamp, keys: &[HostKey]) -> Secret {
    let seed: [u8; 64] = rand::random();
    let seed = hex(&seed);
    let (seconds, nanoseconds) = (now.as_second(), now.subsec_nanosecond());
    let mut told = format!("{seconds}.{nanoseconds:09}\n{seed}\n");
    for key in keys {
        told += &format!("{}\n{}.\n", key.file, key.content.reveal());
    }
    Secret::new(told)
}
