//! Records that an instance is in use.

use anyhow::Result;

use super::outcome::{Outcome, Was};
use super::{Instance, touch_activity};
use super::{existing, facts, status};
use crate::context::Context;
use crate::hypervisor::Power;
use crate::names::{InstanceName, State};

/// Records that `name` is in use, without waiting for a command that holds its lock, which may take
/// long. A throttled instance gets its full CPU time back.
pub fn touch(context: &Context, name: &InstanceName) -> Result<Outcome> {
    let domain = existing(context, name)?;
    touch_activity(context, name)?;
    let facts = facts(&domain, name)?;
    let mut was = None;
    if matches!(facts.power, Power::On | Power::Busy) {
        let record = status::noted(context, name, facts.uuid)?;
        let known = record.and_then(|record| record.boot_of(facts.id));
        // An instance whose run is not recorded may have been throttled before it was restored.
        if known.is_none_or(|boot| boot.idle.is_some())
            && Instance::lock(context, name)?.unthrottle()?
        {
            was = Some(Was::In(State::Idle));
        }
    }
    let outcome = Outcome::new(context, name, &domain, true, None)?;
    Ok(Outcome { was, ..outcome })
}
