//! Waits until the guest of an instance is ready, which is when its agent answers.
//!
//! That may take minutes, so the lock is not held: other commands may act on the instance.

use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use jiff::Timestamp;

use super::outcome::Outcome;
use super::record::{ReadyBy, Run};
use super::{Instance, existing, facts, status};
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::hypervisor::{Facts, Ping, Power};
use crate::names::InstanceName;
use crate::units::age;

/// How often to check whether the agent has started.
const INTERVAL: Duration = Duration::from_millis(100);

/// The minimum time for an agent to answer, even if the limit is reached before.
const ANSWER: Duration = Duration::from_secs(1);

/// The time after which the agent is asked again. libvirt itself waits for 5 s.
const PATIENCE: Duration = Duration::from_secs(6);

/// Waits for at most `limit` until the guest of `name`, which was `started`, is ready. Its console
/// then gets a new password: after a slow boot, the first one has expired.
pub(crate) fn wait(
    context: &Context,
    name: &InstanceName,
    started: &Outcome,
    limit: Duration,
) -> Result<Outcome> {
    let spinner = context.output.spinner(&name.to_string());
    let waited = until_ready(context, name, limit, |phase| spinner.set_message(phase));
    spinner.finish_and_clear();
    waited?;
    let vm = Instance::lock(context, name)?;
    let now = vm.settled()?;
    if now.power != Power::On {
        return Err(ended(context, name, &now));
    }
    vm.note_ready(&now)?;
    let access = vm.grant_access(&vm.console()?)?;
    Ok(vm.outcome(started.status.changed, None)?.with(access))
}

/// Returns once the agent has answered; reports each `phase` until then.
fn until_ready(
    context: &Context,
    name: &InstanceName,
    limit: Duration,
    phase: impl Fn(&'static str),
) -> Result<()> {
    let (began, stop) = (Instant::now(), context.interrupted()?);
    let domain = existing(context, name)?;
    phase("waiting for libvirt");
    loop {
        let now = facts(&domain, name)?;
        if !matches!(now.power, Power::On | Power::Busy) {
            return Err(ended(context, name, &now));
        }
        let left = limit.saturating_sub(began.elapsed());
        let missing = match domain.ping(left.clamp(ANSWER, PATIENCE)) {
            Ping::Answered => return Ok(()),
            Ping::Silent => "its guest agent does not answer yet",
            Ping::Absent => "its guest agent has not started yet",
        };
        phase(missing);
        if stop.load(Ordering::Relaxed) {
            return Err(anyhow!(
                "interrupted while waiting for {name}, which stays on"
            ));
        }
        if began.elapsed() >= limit {
            let (limit, arguments) = (age(limit.try_into()?), name.arguments());
            let message = format!("{name} is on but was not ready within {limit}: {missing}");
            let hint = format!(
                "wait again: cyyber instance start {arguments} --wait; or look at its screen: \
                 cyyber instance console {arguments}"
            );
            return Err(Fault::new(Kind::Failed, message).hint(hint).into());
        }
        sleep(INTERVAL.min(limit.saturating_sub(began.elapsed())));
    }
}

/// The error that it no longer runs.
fn ended(context: &Context, name: &InstanceName, now: &Facts) -> anyhow::Error {
    let kind = match now.power {
        Power::Crashed => Kind::Failed,
        _ => Kind::Conflict,
    };
    let state = status::state(context, name, now);
    let fault = Fault::new(kind, format!("{name} is {state} before it was ready"));
    fault.hint(name.start_it()).into()
}

/// Whether the guest of `name`, which is starting, is up by now: since when, which is noted.
pub(crate) fn look_if_up(context: &Context, name: &InstanceName) -> Option<Timestamp> {
    let domain = context.hypervisor().ok()?.find(name).ok()??;
    if domain.ping(ANSWER) != Ping::Answered {
        return None;
    }
    // A command that works on it knows better.
    if let Some(vm) = Instance::try_lock(context, name) {
        let noted = vm.facts().and_then(|now| vm.note_ready(&now));
        if let Err(error) = noted {
            let failed = format!("warning: failed to record that {name} is ready: {error:#}");
            context.output.detail(&failed);
        }
    }
    Some(context.time())
}

impl Instance<'_> {
    /// Records that the agent of its guest, whose facts are `now`, has answered.
    fn note_ready(&self, now: &Facts) -> Result<()> {
        let (run, at) = (now.id.map(Run::current), self.context.time());
        self.update(|record| {
            if let Some(boot) = &mut record.boot
                && Some(&boot.run) == run.as_ref()
                && boot.ready.is_none()
            {
                (boot.ready, boot.ready_by) = (Some(at), ReadyBy::Agent);
            }
        })
    }
}
