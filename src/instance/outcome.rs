//! What a verb made of an instance.

use std::time::Instant;

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use super::facts;
use super::status::{InstanceStatus, StatusReader};
use crate::context::Context;
use crate::hypervisor::{Domain, Power};
use crate::journal;
use crate::names::{InstanceName, State};
use crate::secret::Secret;

/// What a verb made of an instance.
#[derive(Debug, Serialize)]
pub struct Outcome {
    #[serde(flatten)]
    pub status: InstanceStatus,
    pub vnc_password: Option<Secret>,
    pub vnc_password_expires: Option<Timestamp>,
    /// Which instances were paused to make room for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub displaced: Vec<String>,
    /// The path with which a browser can connect to the console through the gateway, once; `None`
    /// if no gateway runs.
    pub console_path: Option<Secret>,
    pub console_expires: Option<Timestamp>,
    /// Its previous state, if the operation may have changed it.
    #[serde(skip)]
    pub was: Option<Was>,
}

/// Access to a console: each kind with its expiry.
#[derive(Debug, Default)]
pub struct ConsoleAccess {
    /// A password for QEMU.
    pub password: Option<(Secret, Timestamp)>,
    /// A path of the gateway.
    pub path: Option<(Secret, Timestamp)>,
}

/// The state of an instance before an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Was {
    /// Missing.
    Absent,
    /// In this state.
    In(State),
}

impl Outcome {
    /// The outcome of an operation on `name`, whose domain is `domain`: its present state, whether
    /// the operation `changed` it, and why.
    pub fn new(
        context: &Context,
        name: &InstanceName,
        domain: &Domain,
        changed: bool,
        reason: Option<String>,
    ) -> Result<Outcome> {
        let facts = facts(domain, name)?;
        let mut status = StatusReader::new(context).status(name, &facts)?;
        status.changed = changed;
        if let Some(reason) = reason {
            status.reason = reason;
        }
        if facts.power == Power::On {
            status.ip = domain.leased_address().map(|address| address.to_string());
        }
        Ok(Outcome {
            status,
            vnc_password: None,
            vnc_password_expires: None,
            displaced: Vec::new(),
            console_path: None,
            console_expires: None,
            was: None,
        })
    }

    /// The same, with the previous state of the instance, `was`.
    #[must_use]
    pub fn after(self, was: Was) -> Outcome {
        Outcome {
            was: Some(was),
            ..self
        }
    }

    /// The same with access to its console.
    #[must_use]
    pub fn with(self, access: ConsoleAccess) -> Outcome {
        let (vnc_password, vnc_password_expires) = access.password.unzip();
        let (console_path, console_expires) = access.path.unzip();
        Outcome {
            vnc_password,
            vnc_password_expires,
            console_path,
            console_expires,
            ..self
        }
    }

    /// The change, if there was one: the states before and after, and the reason.
    pub fn change(&self) -> Option<(Option<State>, State, &str)> {
        let from = match self.was.filter(|_| self.status.changed)? {
            Was::Absent => None,
            Was::In(state) => Some(state),
        };
        Some((from, self.status.state, &self.status.reason))
    }
}

/// Runs the operation `action` on an instance, and writes its change or its failure to the journal.
pub(crate) fn noted(
    context: &Context,
    action: &str,
    name: &InstanceName,
    verb: impl FnOnce() -> Result<Outcome>,
) -> Result<Outcome> {
    let began = Instant::now();
    let done = noted_failure(context, action, name, verb)?;
    if let Some((from, to, reason)) = done.change() {
        journal::done(context, action, name, began, from, Some(to), reason);
    }
    Ok(done)
}

/// Runs `action` on an instance, and writes its failure, if any, to the journal.
pub(crate) fn noted_failure<T>(
    context: &Context,
    action: &str,
    name: &InstanceName,
    verb: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let began = Instant::now();
    verb().inspect_err(|error| journal::failure(context, action, name, began, None, error))
}
