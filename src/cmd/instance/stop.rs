//! `cyyber instance stop`

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::single::{self, Single, Was};
use super::wake::{settled, wake};
use super::{capacity, memory, view};
use crate::context::Context;
use crate::hypervisor::{Domain, Power};
use crate::instance::InstanceName;
use crate::units::{self, age};

/// How long the guest's agent may take to answer. One that does not is asked by ACPI instead.
const AGENT: Duration = Duration::from_secs(2);

/// How often a guest that was asked to shut down is looked at.
const INTERVAL: Duration = Duration::from_millis(200);

pub fn run(
    context: &Context,
    name: &InstanceName,
    timeout: units::Duration,
    force: bool,
) -> Result<Single> {
    let _lock = super::lock(context, name)?;
    let domain = super::existing(context, name)?;
    let before = super::facts(&domain, name)?;
    let was = Was::In(view::state(context, name, &before));
    let (changed, reason) = match force {
        true => cut_power(context, name, &domain)?,
        false => match down(context, name, &domain, timeout)? {
            Down::Already(reason) => (false, reason),
            Down::Clean(reason) => (true, reason),
            Down::Cut(reason) => {
                context.output.warn(&format!("{name} was {reason}"));
                (true, reason)
            }
        },
    };
    Ok(single::answer(context, name, changed, Some(reason), None)?.after(was))
}

/// How a guest came to be off, in words.
#[derive(Debug)]
pub enum Down {
    /// It was off.
    Already(String),
    /// As it should.
    Clean(String),
    /// It would not, and its power was cut.
    Cut(String),
}

impl Down {
    /// The words.
    pub fn reason(self) -> String {
        match self {
            Down::Already(reason) | Down::Clean(reason) | Down::Cut(reason) => reason,
        }
    }
}

/// Shuts `domain` down. The caller holds the instance's lock.
pub fn down(
    context: &Context,
    name: &InstanceName,
    domain: &Domain,
    timeout: units::Duration,
) -> Result<Down> {
    let deadline = Instant::now() + timeout.std();
    let before = settled(domain, name)?;
    match before.power {
        Power::Off if !before.saved => return Ok(Down::Already("not running".to_owned())),
        Power::Crashed if !before.saved => {
            let reason = "off since the hypervisor reported a crash";
            return Ok(Down::Already(reason.to_owned()));
        }
        _ => {}
    }
    if before.saved
        && let Some(why) = memory::unusable(context, name, domain)?
    {
        memory::set_aside(context, name, domain, &why)?;
        let reason = "its saved memory could not be restored";
        return Ok(Down::Clean(reason.to_owned()));
    }
    // Only a guest that runs can shut down cleanly.
    if before.power != Power::On {
        let _room = capacity::room_for(context, name, domain, &before)?;
        wake(context, name, domain, &before)?;
        memory::forget(context, name, domain)?;
    }
    if shut_down(domain, name, deadline)? {
        return Ok(Down::Clean("shut down by its guest".to_owned()));
    }
    domain.power_off()?;
    Ok(Down::Cut(format!(
        "powered off: its guest did not shut down within {}",
        age(timeout.0)
    )))
}

/// Powers `domain` off at once, and drops its saved memory, saying what is lost.
fn cut_power(context: &Context, name: &InstanceName, domain: &Domain) -> Result<(bool, String)> {
    // Not the settled facts: one that hangs is what this is for.
    let before = super::facts(domain, name)?;
    let runs = before.id.is_some();
    if runs {
        domain.power_off()?;
    }
    if super::facts(domain, name)?.saved {
        if !runs {
            context.output.warn(&format!(
                "{name}: dropping its saved memory and what was unsaved in it"
            ));
        }
        domain.drop_saved_memory()?;
        memory::forget(context, name, domain)?;
    }
    Ok(match (runs, before.saved) {
        (true, _) => (true, "powered off by force".to_owned()),
        (false, true) => (true, "its saved memory was dropped".to_owned()),
        (false, false) => (false, "not running".to_owned()),
    })
}

/// Asks the guest to shut down; whether it did so by the deadline.
///
/// Its agent is asked first: a guest without logind ignores the power button. The button comes at
/// once where no agent answers, and at half time where the agent's request led to nothing.
fn shut_down(domain: &Domain, name: &InstanceName, deadline: Instant) -> Result<bool> {
    let left = deadline.saturating_duration_since(Instant::now());
    let by_agent = left >= AGENT && domain.agent_answers(AGENT);
    let mut button_at = Some(Instant::now());
    if by_agent {
        domain.shut_down_by_agent();
        button_at = Some(deadline - left / 2);
    }
    loop {
        let power = super::facts(domain, name)?.power;
        if matches!(power, Power::Off | Power::Crashed) {
            return Ok(true);
        }
        if button_at.is_some_and(|at| Instant::now() >= at) {
            button_at = None;
            domain.press_power_button(deadline.saturating_duration_since(Instant::now()));
            continue;
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        sleep(INTERVAL);
    }
}
