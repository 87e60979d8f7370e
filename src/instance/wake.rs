//! Makes a domain run, from any state.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Instance;
use super::record::{Boot, ReadyBy, Run, StartedBy};
use super::status;
use crate::error::{Fault, Kind};
use crate::hypervisor::xml::domain::Console;
use crate::hypervisor::{Facts, PendingCall, Power};

/// How long libvirt may take to complete its current job on a domain. Saving a large guest takes a
/// while.
const SETTLING: Duration = Duration::from_secs(60);

/// How a domain was made to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// It was running.
    Already,
    /// It was running with limited CPU time.
    Uncapped,
    /// It was frozen in RAM.
    Thawed,
    /// Its memory was restored from disk.
    Restored,
    /// It was powered on.
    Booted,
    /// It was forked from the memory of a guest that had booted from the same base.
    Forked,
}

impl Instance<'_> {
    /// The facts once libvirt has completed its current job on the domain. Also removes the file of
    /// an interrupted save whose guest is still running: it is out of date, and must never be
    /// restored.
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
                let fault = Fault::new(Kind::Busy, message).hint(
                    "try again when libvirt has \
                                                                  finished",
                );
                return Err(fault.into());
            }
            sleep(Duration::from_millis(100));
        }
    }

    /// Makes it, whose facts are `before`, run at full speed with the right time. The caller has
    /// reserved memory and checked its saved memory.
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
                    // Something else saved it while it was frozen.
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
        // Without an agent, only the guest itself can set its clock.
        if let Err(error) = clock.and_then(PendingCall::leave_to_libvirt) {
            let failed = format!("warning: the clock of {name} was not set: {error:#}");
            context.output.detail(&failed);
        }
        Ok(woken)
    }

    /// Records the present run, for listings; returns whether it was recorded as idle.
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
                // A resumed guest had been up; otherwise its start would be recorded.
                (Woken::Restored | Woken::Thawed, _, None) => (now, Some(now), ReadyBy::Pause),
                // A starting guest is never throttled.
                (Woken::Uncapped, _, None) => (now, Some(now), ReadyBy::Found),
                // Powered on by something else, or by a command that was killed before it could
                // record that.
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
            // Without the record, a listing asks libvirt, and cannot distinguish starting from
            // running.
            let failed = format!("failed to record that {} runs: {error:#}", self.name);
            self.context.output.warn(&failed);
        }
        was_idle
    }
}
