//! Exempts an instance from the idle policy for a time.

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use super::Instance;
use super::outcome::{Outcome, Was};
use crate::files;
use crate::hypervisor::Power;
use crate::names::State;
use crate::state::keep::{self, Keep};

impl Instance<'_> {
    /// Exempts it until the given time, or ends its exemption. A throttled instance gets its full
    /// CPU time back.
    pub fn keep(&self, until: Option<Timestamp>) -> Result<Outcome> {
        let (context, name, facts) = (self.context, self.name, self.facts()?);
        let path = context.paths.keep(name);
        let before = files::Directory::open(&context.paths.keeps()).map_or(Keep::No, |keeps| {
            keep::read_in(&keeps, name.to_string(), facts.uuid)
        });
        let changed = match until {
            None => {
                files::remove(&path)?;
                matches!(before, Keep::Unreadable(_))
                    || matches!(before, Keep::Until(until) if until > context.time())
            }
            Some(until) => {
                keep::write(&path, facts.uuid, until)
                    .with_context(|| format!("failed to exempt {name} from the idle policy"))?;
                before != Keep::Until(until)
            }
        };
        let is_idle =
            until.is_some() && facts.power == Power::On && self.state(&facts) == State::Idle;
        let freed = is_idle && self.unthrottle()?;
        let outcome = self.outcome(changed || freed, None)?;
        Ok(Outcome {
            was: freed.then_some(Was::In(State::Idle)),
            ..outcome
        })
    }
}
