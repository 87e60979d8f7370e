//! Throttles an unused instance, and undoes that. This is not a command: it is a step of the idle
//! policy, undone by `start`, `resume` and `touch`.

use anyhow::{Context as _, Result};

use super::Instance;
use super::outcome::Outcome;
use super::record::{Boot, Idle, ReadyBy, Run};
use crate::error::{Fault, Kind};
use crate::hypervisor::Power;

/// The share of its CPU time that an idle instance keeps, in percent.
const SHARE: u8 = 50;

impl Instance<'_> {
    /// Makes a running instance idle: limits its CPU time, if the hypervisor can.
    pub fn throttle(&self) -> Result<Outcome> {
        let (context, name) = (self.context, self.name);
        let before = self.settled()?;
        let was = self.was(&before);
        let (Power::On, Some(run), Some(record)) =
            (before.power, before.id.map(Run::current), self.record()?)
        else {
            let message = format!("{name} is not running: it cannot be idle");
            return Err(Fault::new(Kind::Conflict, message).into());
        };
        let boot = record.boot_of(before.id);
        if boot.as_ref().is_some_and(|boot| boot.idle.is_some()) {
            return self.outcome(false, None);
        }
        let domain = self.domain()?;
        let capped = domain.cap_cpu(SHARE)?;
        if !capped {
            context.tell_of_no_cpu_control();
        }
        let now = context.time();
        let boot = boot.unwrap_or(Boot {
            run,
            powered_on: now,
            ready: Some(now),
            ready_by: ReadyBy::Found,
            started_by: None,
            console: None,
            idle: None,
        });
        let idle = Some(Idle { since: now, capped });
        self.update(|record| record.boot = Some(Boot { idle, ..boot }))
            // Otherwise nothing would know of the limit.
            .inspect_err(|_| drop(domain.lift_cpu_cap()))
            .with_context(|| format!("failed to record that {name} is idle"))?;
        Ok(self.outcome(true, None)?.after(was))
    }

    /// Removes the limit, if it is throttled; returns whether it was.
    pub fn unthrottle(&self) -> Result<bool> {
        if self.settled()?.power != Power::On {
            return Ok(false);
        }
        let mut changed = self.domain()?.lift_cpu_cap()?;
        self.update(|record| {
            if let Some(boot) = &mut record.boot
                && boot.idle.take().is_some()
            {
                record.why = None;
                changed = true;
            }
        })
        .with_context(|| format!("failed to record that {} is no longer idle", self.name))?;
        Ok(changed)
    }
}
