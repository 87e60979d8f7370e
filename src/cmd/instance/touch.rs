//! `cyyber instance touch`

use anyhow::{Context as _, Result};

use super::idle;
use super::single::{self, Single, Was};
use super::view;
use crate::context::Context;
use crate::hypervisor::Power;
use crate::instance::{InstanceName, State};
use crate::state::activity;
use crate::state::record::Run;

pub fn run(context: &Context, name: &InstanceName) -> Result<Single> {
    let domain = super::existing(context, name)?;
    // First, and without waiting for a command that holds the instance: it may be looking.
    activity::touch(&context.paths.activity(name))
        .with_context(|| format!("failed to note the activity of {name}"))?;
    let facts = super::facts(&domain, name)?;
    let mut was = None;
    if matches!(facts.power, Power::On | Power::Busy) {
        let record = view::noted(context, name, facts.uuid)?;
        let known = record.and_then(|record| record.boot);
        // One whose run is not noted may have been held back before it was restored.
        if known
            .is_none_or(|boot| Some(boot.run) != facts.id.map(Run::current) || boot.idle.is_some())
        {
            let _lock = super::lock(context, name)?;
            if idle::leave(context, name, &domain)? {
                was = Some(Was::In(State::Idle));
            }
        }
    }
    let single = single::answer(context, name, true, None, None)?;
    Ok(match was {
        Some(was) => single.after(was),
        None => single,
    })
}
