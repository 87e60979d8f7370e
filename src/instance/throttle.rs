//! Throttling an instance that nobody uses, and lifting that again. No verb of its own: it is a step
//! of the idle policy, undone by `start`, `resume` and `touch`.

use anyhow::{Context as _, Result};

use super::Instance;
use super::outcome::Outcome;
use super::record::{Boot, Idle, ReadyBy, Run};
use crate::error::{Fault, Kind};
use crate::hypervisor::Power;

/// What is left to an idle instance of the CPU time that it is entitled to, in percent.
const SHARE: u8 = 50;

impl Instance<'_> {
    /// Makes it idle, which must run: its CPU time is limited, where the hypervisor can.
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
            // Nobody would know of the limit.
            .inspect_err(|_| drop(domain.lift_cpu_cap()))
            .with_context(|| format!("failed to record that {name} is idle"))?;
        Ok(self.outcome(true, None)?.after(was))
    }

    /// Lifts that, if it is throttled; whether it was.
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
