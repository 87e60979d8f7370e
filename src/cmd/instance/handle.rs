//! One instance in the hands of the command that changes it.

use std::cell::OnceCell;

use anyhow::{Context as _, Result};

use super::outcome::{Outcome, Was};
use super::{facts, suggest, view};
use crate::context::Context;
use crate::hypervisor::{Domain, Facts};
use crate::instance::{InstanceName, State};
use crate::state::activity;
use crate::state::lock::{self, Lock};
use crate::state::record::{self, Record};

/// An instance under its lock, which everything that changes one holds. It may be missing.
#[derive(Debug)]
pub struct Instance<'a> {
    pub(super) context: &'a Context,
    pub(super) name: &'a InstanceName,
    /// Looked up when it is first needed.
    pub(super) domain: OnceCell<Domain>,
    _lock: Lock,
}

impl<'a> Instance<'a> {
    /// Locks `name`, waiting for a command that is at work on it. One that is out of reach has no
    /// lock.
    pub fn lock(context: &'a Context, name: &'a InstanceName) -> Result<Instance<'a>> {
        context.reach().check(name)?;
        let path = context.paths.instance_lock(name);
        let lock = Lock::take(&path, &name.to_string(), lock::PATIENCE)?;
        Ok(Instance::with(context, name, lock))
    }

    /// The same, unless another command is at work on it.
    pub fn try_lock(context: &'a Context, name: &'a InstanceName) -> Option<Instance<'a>> {
        let lock = Lock::try_take(&context.paths.instance_lock(name))?;
        Some(Instance::with(context, name, lock))
    }

    fn with(context: &'a Context, name: &'a InstanceName, lock: Lock) -> Instance<'a> {
        Instance {
            context,
            name,
            domain: OnceCell::new(),
            _lock: lock,
        }
    }

    /// Its name.
    pub fn name(&self) -> &'a InstanceName {
        self.name
    }

    /// Its domain, if there is one.
    pub fn find(&self) -> Result<Option<&Domain>> {
        if self.domain.get().is_none()
            && let Some(domain) = self.context.hypervisor()?.find(self.name)?
        {
            let _ = self.domain.set(domain);
        }
        Ok(self.domain.get())
    }

    /// Its domain, which must be there.
    pub fn domain(&self) -> Result<&Domain> {
        match self.find()? {
            Some(domain) => Ok(domain),
            None => Err(suggest::absent(self.context, self.name)),
        }
    }

    /// Facts about its domain as they are now.
    pub fn facts(&self) -> Result<Facts> {
        facts(self.domain()?, self.name)
    }

    /// Its state, as far as `facts` and its record tell.
    pub(super) fn state(&self, facts: &Facts) -> State {
        view::state(self.context, self.name, facts)
    }

    /// What was noted of it, or else what libvirt keeps in its domain's metadata.
    pub(super) fn record(&self) -> Result<Option<Record>> {
        view::noted(self.context, self.name, self.domain()?.uuid()?)
    }

    /// Changes its record: the one way to do so. Where nothing is known of it there is none to change.
    pub fn update(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        let Some(before) = self.record()? else {
            return Ok(());
        };
        let mut record = before.clone();
        change(&mut record);
        if record != before {
            record::write(&self.context.paths.record(self.name), &record)?;
        }
        Ok(())
    }

    /// Notes that it is in use.
    pub(super) fn touch_activity(&self) -> Result<()> {
        touch_activity(self.context, self.name)
    }

    /// What a verb made of it: how it is now, whether the verb `changed` it, and why it is so.
    pub(super) fn outcome(&self, changed: bool, reason: Option<String>) -> Result<Outcome> {
        view::outcome(self.context, self.name, self.domain()?, changed, reason)
    }

    /// What it was before a verb.
    pub(super) fn was(&self, facts: &Facts) -> Was {
        Was::In(self.state(facts))
    }
}

/// Notes that `name` is in use.
pub(super) fn touch_activity(context: &Context, name: &InstanceName) -> Result<()> {
    activity::touch(&context.paths.activity(name))
        .with_context(|| format!("failed to note the activity of {name}"))
}
