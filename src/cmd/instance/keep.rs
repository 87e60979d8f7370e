//! `cyyber instance keep`

use anyhow::{Context as _, Result};

use super::single::{self, Single};
use super::{idle, view};
use crate::context::Context;
use crate::env;
use crate::error::{Fault, Kind};
use crate::files;
use crate::hypervisor::Power;
use crate::instance::{InstanceName, State};
use crate::policy::Keep;
use crate::state::keep;
use crate::units::{Until, latest};

pub fn run(context: &Context, name: &InstanceName, until: &Until) -> Result<Single> {
    let now = context.time();
    let until = match until {
        Until::Off => None,
        Until::At(at) => Some(*at),
        Until::Local(local) => Some(
            latest(*local, &env::time_zone()?)
                .map_err(|why| Fault::new(Kind::Usage, format!("bad --until: {why}")))?,
        ),
        Until::For(length) => Some(now + length.0),
    };
    if let Some(past) = until.filter(|until| *until <= now) {
        let message = format!("--until is in the past: {past:.0}");
        return Err(Fault::new(Kind::Usage, message)
            .hint("give a time to come, as in 2h, 3d or 2027-01-31T18:00:00Z")
            .into());
    }
    let _lock = super::lock(context, name)?;
    let domain = super::existing(context, name)?;
    let facts = super::facts(&domain, name)?;
    let path = context.paths.keep(name);
    let before = files::Directory::open(&context.paths.keeps()).map_or(Keep::No, |keeps| {
        keep::read_in(&keeps, name.to_string(), facts.uuid)
    });
    let changed = match until {
        None => {
            files::remove(&path)?;
            matches!(before, Keep::Unreadable(_))
                || matches!(before, Keep::Until(until) if until > now)
        }
        Some(until) => {
            keep::write(&path, facts.uuid, until)
                .with_context(|| format!("failed to keep {name}"))?;
            before != Keep::Until(until)
        }
    };
    let mut freed = false;
    if until.is_some() && facts.power == Power::On {
        let is_idle = view::state(context, name, &facts) == State::Idle;
        freed = is_idle && idle::leave(context, name, &domain)?;
    }
    let single = single::answer(context, name, changed || freed, None, None)?;
    Ok(match freed {
        true => single.after(single::Was::In(State::Idle)),
        false => single,
    })
}
