//! Bringing a domain to run, from whatever state it is in.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{memory, place, view};
use crate::context::Context;
use crate::domain::Console;
use crate::error::{Fault, Kind};
use crate::hypervisor::{Domain, Errand, Facts, Power};
use crate::instance::InstanceName;
use crate::state::record::{self, Boot, ReadyBy, Record, Run};

/// How long libvirt may take to be done with what it is doing to a domain. A large guest that is
/// being saved takes a while.
const SETTLING: Duration = Duration::from_secs(60);

/// How a domain came to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// It ran.
    Already,
    /// It ran, with its CPU time limited.
    Uncapped,
    /// It was frozen in RAM.
    Thawed,
    /// Its memory was restored from disk.
    Restored,
    /// It was powered on.
    Booted,
}

/// The facts once libvirt is done with what it is doing to the domain, and what an interrupted save
/// left of a guest that runs on is out of the way: it is old by now, and must never be restored.
pub fn settled(domain: &Domain, name: &InstanceName) -> Result<Facts> {
    let deadline = Instant::now() + SETTLING;
    loop {
        let mut facts = super::facts(domain, name)?;
        if facts.power != Power::Busy {
            if facts.saved && facts.id.is_some() {
                domain.drop_saved_memory()?;
                facts.saved = false;
            }
            return Ok(facts);
        }
        if Instant::now() > deadline {
            let message = format!("libvirt is still starting, saving or stopping {name}");
            return Err(Fault::new(Kind::Busy, message)
                .hint("try again when it is done")
                .into());
        }
        sleep(Duration::from_millis(100));
    }
}

/// Makes `domain`, which is as `before` says, run at its full speed and with the right time. The
/// caller has room for it, and has checked its saved memory.
pub fn wake(
    context: &Context,
    name: &InstanceName,
    domain: &Domain,
    before: &Facts,
) -> Result<Woken> {
    let woken = bring_up(context, name, domain, before)?;
    place::confine(context, name, domain)?;
    Ok(woken)
}

fn bring_up(
    context: &Context,
    name: &InstanceName,
    domain: &Domain,
    before: &Facts,
) -> Result<Woken> {
    let woken = match before.power {
        Power::On | Power::Busy => {
            return Ok(match domain.lift_cpu_cap()? {
                true => Woken::Uncapped,
                false => Woken::Already,
            });
        }
        Power::Frozen | Power::StuckOnDisk => {
            if let (Power::StuckOnDisk, Some(why)) = (before.power, view::full_disk(context, name))
            {
                let hint = format!(
                    "reset it, or raise the limit and power it off and on: cyyber instance stop {} {} --force, then start",
                    name.lab, name.user
                );
                let message = format!("{name} cannot go on: {why}");
                return Err(Fault::new(Kind::Capacity, message).hint(hint).into());
            }
            domain.thaw()?;
            Woken::Thawed
        }
        Power::Off | Power::Crashed => {
            if !before.saved {
                domain.start()?;
                return Ok(Woken::Booted);
            }
            memory::restore(context, name, domain)?;
            let after = super::facts(domain, name)?;
            if after.power == Power::Frozen {
                // Saved by somebody else, while it was frozen.
                domain.thaw()?;
            } else if !after.restored {
                context.output.warn(&format!(
                    "{name} was booted from its disk: libvirt did not restore its saved memory"
                ));
                return Ok(Woken::Booted);
            }
            Woken::Restored
        }
    };
    let clock = domain.set_clock(context.time());
    // A limit is saved and restored with the memory.
    domain.lift_cpu_cap()?;
    // Without an agent only the guest itself can set its clock.
    if let Err(error) = clock.and_then(Errand::leave_to_libvirt) {
        context.output.detail(&format!(
            "warning: the clock of {name} was not set: {error:#}"
        ));
    }
    Ok(woken)
}

/// Notes the run that `domain` was woken to, for listings; whether it was noted as idle.
pub fn note(
    context: &Context,
    name: &InstanceName,
    woken: Woken,
    after: &Facts,
    console: &Console,
) -> Result<bool> {
    let (Some(run), Some(record)) = (
        after.id.map(Run::current),
        view::noted(context, name, after.uuid)?,
    ) else {
        return Ok(false);
    };
    let now = context.time();
    let last = record.boot.as_ref();
    let known = last.filter(|boot| boot.run == run);
    let as_noted = |boot: &Boot| (boot.powered_on, boot.ready, boot.ready_by);
    let (powered_on, ready, ready_by) = match (woken, last, known) {
        (Woken::Booted, _, _) => (now, None, ReadyBy::Agent),
        (Woken::Restored, Some(last), _) => as_noted(last),
        (_, _, Some(known)) => as_noted(known),
        // What comes back had been up, or else we would know of its start.
        (Woken::Restored | Woken::Thawed, _, None) => (now, Some(now), ReadyBy::Pause),
        // Nobody limits a guest that is starting.
        (Woken::Uncapped, _, None) => (now, Some(now), ReadyBy::Found),
        // Powered on by somebody else, or by a command that was killed before it could note that.
        (Woken::Already, _, None) => (now, None, ReadyBy::Agent),
    };
    let was_idle = known.is_some_and(|boot| boot.idle.is_some());
    let boot = Some(Boot {
        run,
        powered_on,
        ready,
        ready_by,
        console: Some(console.clone()),
        idle: None,
    });
    if record.boot == boot && record.saved.is_none() && record.why.is_none() {
        return Ok(false);
    }
    let record = Record {
        boot,
        saved: None,
        why: None,
        ..record
    };
    if let Err(error) = record::write(&context.paths.record(name), &record) {
        // A listing then asks libvirt, and cannot tell starting from running.
        context
            .output
            .warn(&format!("failed to note that {name} runs: {error}"));
    }
    Ok(was_idle)
}
