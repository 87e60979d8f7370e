//! Bringing a domain to run, from whatever state it is in.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Instance;
use super::record::{Boot, ReadyBy, Run, StartedBy};
use super::status;
use crate::error::{Fault, Kind};
use crate::hypervisor::xml::domain::Console;
use crate::hypervisor::{Facts, PendingCall, Power};

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
    /// It began with the memory of a guest that had booted from the same base.
    Forked,
}

impl Instance<'_> {
    /// The facts once libvirt is done with what it is doing to the domain, and what an interrupted save
    /// left of a guest that runs on is out of the way: it is old by now, and must never be restored.
    pub(super) fn settled(&self) -> Result<Facts> {
        let deadline = Instant::now() + SETTLING;
        loop {
            let mut facts = self.facts()?;
            if facts.power != Power::Busy {
                if facts.saved && facts.id.is_some() {
                    self.domain()?.drop_saved_memory()?;
                    facts.saved = false;
                }
                return Ok(facts);
            }
            if Instant::now() > deadline {
                let name = self.name;
                let message = format!("libvirt is still starting, saving or stopping {name}");
                let fault = Fault::new(Kind::Busy, message).hint("try again when it is done");
                return Err(fault.into());
            }
            sleep(Duration::from_millis(100));
        }
    }

    /// Makes it, which is as `before` says, run at its full speed and with the right time. The
    /// caller has room for it, and has checked its saved memory.
    pub(super) fn wake(&self, before: &Facts) -> Result<Woken> {
        let woken = self.bring_up(before)?;
        self.confine()?;
        Ok(woken)
    }

    fn bring_up(&self, before: &Facts) -> Result<Woken> {
        let (context, name, domain) = (self.context, self.name, self.domain()?);
        let woken = match before.power {
            Power::On | Power::Busy => {
                return Ok(if domain.lift_cpu_cap()? {
                    Woken::Uncapped
                } else {
                    Woken::Already
                });
            }
            Power::Frozen | Power::StuckOnDisk => {
                if before.power == Power::StuckOnDisk
                    && let Some(why) = status::full_disk(context, name)
                {
                    let hint = format!(
                        "reset it, or raise the limit and power it off and on: cyyber instance stop {} --force, then start",
                        name.arguments()
                    );
                    let message = format!("{name} cannot continue: {why}");
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
                self.restore_memory()?;
                let after = self.facts()?;
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
        if let Err(error) = clock.and_then(PendingCall::leave_to_libvirt) {
            let failed = format!("warning: the clock of {name} was not set: {error:#}");
            context.output.detail(&failed);
        }
        Ok(woken)
    }

    /// Notes the run that it was woken to, for listings; whether it was noted as idle.
    pub(super) fn note_run(&self, woken: Woken, after: &Facts, console: Option<&Console>) -> bool {
        let Some(run) = after.id.map(Run::current) else {
            return false;
        };
        let now = self.context.time();
        let mut was_idle = false;
        let noted = self.update(|record| {
            let last = record.boot.as_ref();
            let known = last.filter(|boot| boot.run == run);
            let as_noted = |boot: &Boot| (boot.powered_on, boot.ready, boot.ready_by);
            let started_by = match woken {
                Woken::Booted => Some(StartedBy::Boot),
                Woken::Forked => Some(StartedBy::Fork),
                Woken::Restored => Some(StartedBy::Memory),
                _ => known.and_then(|boot| boot.started_by),
            };
            let (powered_on, ready, ready_by) = match (woken, last, known) {
                (Woken::Booted, _, _) => (now, None, ReadyBy::Agent),
                (Woken::Forked, _, _) => (now, Some(now), ReadyBy::Agent),
                (Woken::Restored, Some(last), _) => as_noted(last),
                (_, _, Some(known)) => as_noted(known),
                // What comes back had been up, or else we would know of its start.
                (Woken::Restored | Woken::Thawed, _, None) => (now, Some(now), ReadyBy::Pause),
                // Nobody limits a guest that is starting.
                (Woken::Uncapped, _, None) => (now, Some(now), ReadyBy::Found),
                // Powered on by somebody else, or by a command that was killed before it could
                // note that.
                (Woken::Already, _, None) => (now, None, ReadyBy::Agent),
            };
            was_idle = known.is_some_and(|boot| boot.idle.is_some());
            record.boot = Some(Boot {
                run,
                powered_on,
                ready,
                ready_by,
                started_by,
                console: console.cloned(),
                idle: None,
            });
            (record.saved, record.why) = (None, None);
            (record.unused, record.forking) = (None, false);
        });
        if let Err(error) = noted {
            // A listing then asks libvirt, and cannot tell starting from running.
            let failed = format!("failed to record that {} runs: {error:#}", self.name);
            self.context.output.warn(&failed);
        }
        was_idle
    }
}
