//! Holding back an instance that nobody uses, and letting it go again. No verb of its own: it is a
//! step of the idle policy, undone by `start`, `resume` and `touch`.

use anyhow::{Context as _, Result};

use super::single::{self, Single, Was};
use super::view;
use super::wake::settled;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::hypervisor::{CpuControl, Domain, Facts, Power};
use crate::instance::InstanceName;
use crate::state::record::{self, Boot, Idle, ReadyBy, Record, Run};

/// What is left to an idle instance of the CPU time that it is entitled to.
const SHARE: u8 = 50;

/// Makes the running `name` idle: its CPU time is limited, where the hypervisor can.
pub fn enter(context: &Context, name: &InstanceName) -> Result<Single> {
    let _lock = super::lock(context, name)?;
    let domain = super::existing(context, name)?;
    hold_back(context, name, &domain)
}

/// As [`enter`]. The caller holds the instance's lock.
pub fn hold_back(context: &Context, name: &InstanceName, domain: &Domain) -> Result<Single> {
    let before = settled(domain, name)?;
    let was = Was::In(view::state(context, name, &before));
    let (Power::On, Some(record), Some(boot)) = (
        before.power,
        view::noted(context, name, before.uuid)?,
        present(context, name, &before)?,
    ) else {
        let message = format!("{name} is not running: it cannot be idle");
        return Err(Fault::new(Kind::Conflict, message).into());
    };
    if boot.idle.is_some() {
        return single::answer(context, name, false, None, None);
    }
    let capped = domain.cap_cpu(SHARE)? == CpuControl::InForce;
    if !capped {
        context.tell_of_no_cpu_control();
    }
    let idle = Some(Idle {
        since: context.time(),
        capped,
    });
    let record = Record {
        boot: Some(Boot { idle, ..boot }),
        ..record
    };
    record::write(&context.paths.record(name), &record)
        // Nobody would know of the limit.
        .inspect_err(|_| drop(domain.lift_cpu_cap()))
        .with_context(|| format!("failed to note that {name} is idle"))?;
    Ok(single::answer(context, name, true, None, None)?.after(was))
}

/// Lets `domain` go again if it is held back; whether it was. The caller holds the lock.
pub fn leave(context: &Context, name: &InstanceName, domain: &Domain) -> Result<bool> {
    let facts = settled(domain, name)?;
    if facts.power != Power::On {
        return Ok(false);
    }
    let lifted = domain.lift_cpu_cap()?;
    let Some(record) = view::noted(context, name, facts.uuid)? else {
        return Ok(lifted);
    };
    match record.boot {
        Some(boot) if boot.idle.is_some() => {
            let record = Record {
                boot: Some(Boot { idle: None, ..boot }),
                why: None,
                ..record
            };
            record::write(&context.paths.record(name), &record)
                .with_context(|| format!("failed to note that {name} is no longer idle"))?;
            Ok(true)
        }
        _ => Ok(lifted),
    }
}

/// The note on the present run, or one to begin with; `None` when it does not run.
pub fn present(context: &Context, name: &InstanceName, facts: &Facts) -> Result<Option<Boot>> {
    let Some(run) = facts.id.map(Run::current) else {
        return Ok(None);
    };
    let noted = view::noted(context, name, facts.uuid)?.and_then(|record| record.boot);
    Ok(Some(noted.filter(|boot| boot.run == run).unwrap_or(Boot {
        run,
        powered_on: context.time(),
        ready: Some(context.time()),
        ready_by: ReadyBy::Found,
        console: None,
        idle: None,
    })))
}
