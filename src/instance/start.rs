//! Powers an instance on, or resumes it.

use anyhow::{Context as _, Result};

use super::Instance;
use super::admission::reservation::Reservation;
use super::fork::Way;
use super::outcome::{Outcome, Was};
use super::saved_memory;
use super::wake::Woken;
use crate::error::{Fault, Kind};
use crate::hypervisor::{Facts, Power};
use crate::images::warm::Warm;
use crate::units::MIB;

/// What a command that powers an instance on has done so far, and its options.
#[derive(Debug, Default)]
struct Start {
    /// It changed something.
    changed: bool,
    /// It made room for the guest.
    room: Option<Reservation>,
    /// Saved memory that cannot be restored is an error, instead of being set aside.
    as_it_was: bool,
    /// No user is waiting: no console access is created.
    unattended: bool,
}

impl Instance<'_> {
    /// Starts or resumes it from any state; creates it if it is missing. Grants access to its
    /// console.
    pub fn start(&self) -> Result<Outcome> {
        self.start_for(false)
    }

    /// The same without a waiting user, so without console access.
    pub fn start_unattended(&self) -> Result<Outcome> {
        self.start_for(true)
    }

    fn start_for(&self, unattended: bool) -> Result<Outcome> {
        let room = match self.find()? {
            Some(_) => None,
            None => {
                // Refuse before anything is created for it.
                let lab = self.context.config.lab(&self.name.lab)?;
                self.admit(u64::from(lab.memory_mb) * MIB)?
            }
        };
        let changed = self.ensure()?;
        self.power_on(Start {
            changed,
            room,
            as_it_was: false,
            unattended,
        })
    }

    /// Resumes it from a pause.
    pub fn resume(&self) -> Result<Outcome> {
        let before = self.settled()?;
        if matches!(before.power, Power::Off | Power::Crashed) && !before.saved {
            let name = self.name;
            let message = format!("{name} is not paused: nothing to resume");
            let hint = format!("power it on: cyyber instance start {}", name.arguments());
            return Err(Fault::new(Kind::Conflict, message).hint(hint).into());
        }
        self.power_on(Start {
            as_it_was: true,
            ..Start::default()
        })
    }

    /// Makes it run, from any state, and grants access to its console, unless it is unattended.
    fn power_on(&self, mut start: Start) -> Result<Outcome> {
        self.stay()?;
        if self.is_half_forked()? {
            self.undo_fork()
                .with_context(|| format!("failed to start {} again", self.name))?;
        }
        let before = self.settled()?;
        let unusable = if before.saved {
            self.unusable_memory()?
        } else {
            None
        };
        if let (Some(why), true) = (&unusable, start.as_it_was) {
            return Err(saved_memory::refused(self.name, why));
        }
        let boots = matches!(before.power, Power::Off | Power::Crashed)
            && (!before.saved || unusable.is_some());
        self.ensure_guarded()?;
        let way = match boots {
            true => self.way_to_start(),
            false => Way::Boot(None),
        };
        // A fork gets a definition with its disk.
        if boots && !start.changed && matches!(way, Way::Boot(_)) {
            self.renew()?;
        }
        // Before anything changes, so that an unwritable state directory makes this fail here.
        self.touch_activity()?;
        let room = match start.room.take() {
            None => self.room_for(&before)?,
            made => made,
        };
        let done = self.up(before.clone(), unusable, &start, way);
        drop(room);
        match done {
            // Its QEMU had died, and libvirt had not noticed yet.
            Err(_) if before.id.is_some() && self.settled()?.id.is_none() => self.power_on(start),
            // It lost its address to a VM of another configuration in the meantime.
            Err(_) if boots && self.settled()?.id.is_none() && self.is_address_in_use()? => {
                self.renew()?;
                self.power_on(start)
            }
            done => done,
        }
    }

    fn up(
        &self,
        mut before: Facts,
        unusable: Option<String>,
        start: &Start,
        way: Way,
    ) -> Result<Outcome> {
        if let Some(why) = unusable {
            self.set_memory_aside(&why)?;
            before.saved = false;
        }
        let was = if start.changed {
            Was::Absent
        } else {
            self.was(&before)
        };
        let (woken, why_booted) = match way {
            Way::Fork(warm) => self.fork_or_boot(&warm)?,
            Way::Boot(why) => (self.wake(&before)?, why),
        };
        let console = match start.unattended {
            true => self.find_console()?,
            false => Some(self.console()?),
        };
        let was_idle = self.note_run(woken, &self.facts()?, console.as_ref());
        let wanted = console.filter(|_| !start.unattended);
        let access = wanted.map(|console| self.grant_access(&console));
        let access = access.transpose()?.unwrap_or_default();
        let changed = start.changed || woken != Woken::Already || was_idle;
        self.context.warn_of_no_reaper(&self.name.lab);
        let mut outcome = self.outcome(changed, None)?.with(access).after(was);
        if let Some(why) = why_booted {
            let status = &mut outcome.status;
            status.reason = format!("{}; booted: {why}", status.reason);
            let note = format!("{}: booted instead of forked: {why}", self.name);
            self.context.output.detail(&note);
        }
        Ok(outcome)
    }

    /// Forks it from `warm`; if that fails, boots it and reports why.
    fn fork_or_boot(&self, warm: &Warm) -> Result<(Woken, Option<String>)> {
        match self.fork(warm).and_then(|()| self.confine()) {
            Ok(()) => Ok((Woken::Forked, None)),
            Err(error) => {
                let undone = match self.is_half_forked()? {
                    true => self.undo_fork(),
                    false => self.renew(),
                };
                undone.with_context(|| {
                    format!(
                        "failed to boot {} after its fork failed: {error:#}",
                        self.name
                    )
                })?;
                let why = format!("it could not be forked: {error:#}");
                Ok((self.wake(&self.settled()?)?, Some(why)))
            }
        }
    }
}
