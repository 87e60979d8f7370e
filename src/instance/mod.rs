//! The engine: the states of an instance, and all operations on it.
//!
//! ```text
//!            create            start            the agent answers            throttle
//! (missing) ───────► stopped ───────► starting ───────────────────► running ─────────► idle
//!                       ▲                 │                          │ ▲ ▲              │ │
//!                       │                 │ pause              pause │ │ └──────────────┘ │
//!                       │      stop       ▼                          │ │  touch, keep,    │
//!                       └────────────── paused ◄─────────────────────┘ │  start, resume   │
//!                                        │ ▲      start, resume        │                  │
//!                                        └─┼───────────────────────────┘                  │
//!                                          └──────────────────────────────────────────────┘
//!                                                               pause
//! ```
//!
//! From any state `stop` leads to `stopped`, `reset` to `stopped` with a clean disk, and `destroy`
//! to nothing. A guest whose agent does not answer is `running` as well, once `boot_timeout` has
//! passed. `crashed` is what libvirt reports for a guest that ended by a fault: `start` and `stop`
//! lead out of it. The state is never stored: [`state`] derives it from what libvirt reports and
//! from the [`record`] of the present run.
//!
//! An [`Instance`] is a handle that holds the instance's lock. Each operation reads the state
//! again, decides, acts, records what it did, and returns an [`Outcome`](outcome::Outcome).
//! Commands and the reaper use the same operations.

pub mod address;
pub mod admission;
pub mod arrival;
mod console;
mod create;
mod definition;
mod destroy;
pub(crate) mod disk;
pub(crate) mod exec;
mod fork;
mod host_keys;
mod keep;
pub(crate) mod outcome;
mod pause;
pub(crate) mod qemu_user;
pub(crate) mod ready;
pub mod record;
pub(crate) mod references;
pub(crate) mod remains;
mod reset;
pub mod saved_memory;
mod start;
pub mod state;
pub(crate) mod status;
mod stop;
mod suggest;
mod throttle;
mod touch;
pub(crate) mod transfer;
mod wake;
pub mod warm;

use std::cell::OnceCell;

use anyhow::{Context as _, Result};

use crate::context::Context;
use crate::hypervisor::xml::domain::Console;
use crate::hypervisor::{Detail, Domain, Facts};
use crate::names::{InstanceName, State};
use crate::scope::missing;
use crate::state::activity;
use crate::state::lock::{self, Lock};
pub(crate) use console::{console_path, watch_path};
use outcome::{Outcome, Was};
use record::Record;
pub(crate) use reset::resettable;
pub(crate) use suggest::{absent, unknown};
pub(crate) use touch::touch;

/// A locked instance: everything that changes an instance needs this handle. The instance may be
/// missing.
#[derive(Debug)]
pub struct Instance<'a> {
    context: &'a Context,
    name: &'a InstanceName,
    /// Looked up when first needed.
    domain: OnceCell<Domain>,
    _lock: Lock,
}

impl<'a> Instance<'a> {
    /// Locks `name`, waiting for a command that holds the lock. Fails if `name` is out of scope.
    pub fn lock(context: &'a Context, name: &'a InstanceName) -> Result<Instance<'a>> {
        context.scope().check(name)?;
        let path = context.paths.instance_lock(name);
        let lock = Lock::take(&path, &name.to_string(), lock::PATIENCE)?;
        let instance = Instance::with(context, name, lock);
        instance.arrive()?;
        Ok(instance)
    }

    /// The same, unless another command is working on it.
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

    /// Keeps its domain, which was just defined.
    fn keep_domain(&self, domain: Domain) {
        let _ = self.domain.set(domain);
    }

    /// Its domain, which must exist.
    pub fn domain(&self) -> Result<&Domain> {
        match self.find()? {
            Some(domain) => Ok(domain),
            None => Err(absent(self.context, self.name)),
        }
    }

    /// Facts about its domain as they are now.
    pub fn facts(&self) -> Result<Facts> {
        facts(self.domain()?, self.name)
    }

    /// Its state according to `facts` and its record.
    fn state(&self, facts: &Facts) -> State {
        status::state(self.context, self.name, facts)
    }

    /// Its record, or else the facts in its domain's metadata.
    fn record(&self) -> Result<Option<Record>> {
        status::noted(self.context, self.name, self.domain()?.uuid()?)
    }

    /// Changes its record; there is no other way to do so. Does nothing if there is no record.
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

    /// Records that it is in use.
    fn touch_activity(&self) -> Result<()> {
        touch_activity(self.context, self.name)
    }

    /// The outcome of an operation: its present state, whether the operation `changed` it, and why.
    fn outcome(&self, changed: bool, reason: Option<String>) -> Result<Outcome> {
        Outcome::new(self.context, self.name, self.domain()?, changed, reason)
    }

    /// Its state before an operation.
    fn was(&self, facts: &Facts) -> Was {
        Was::In(self.state(facts))
    }
}

/// Records that `name` is in use.
fn touch_activity(context: &Context, name: &InstanceName) -> Result<()> {
    activity::touch(&context.paths.activity(name))
        .with_context(|| format!("failed to record the activity of {name}"))
}

/// The domain of an instance that must exist.
pub(crate) fn existing(context: &Context, name: &InstanceName) -> Result<Domain> {
    let domain = context.hypervisor()?.find(name)?;
    domain.ok_or_else(|| absent(context, name))
}

/// The address of the console of `name`, if it runs and has one.
pub(crate) fn console_of(context: &Context, name: &InstanceName) -> Result<Option<Console>> {
    match context.hypervisor()?.find(name)? {
        Some(domain) => Console::from_xml(&domain.xml()?),
        None => Ok(None),
    }
}

/// Facts about a domain that existed a moment ago.
fn facts(domain: &Domain, name: &InstanceName) -> Result<Facts> {
    let facts = domain.facts(Detail::Power)?;
    facts.ok_or_else(|| missing(name).into())
}
