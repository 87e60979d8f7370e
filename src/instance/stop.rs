//! Shuts an instance down or powers it off.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Instance;
use super::outcome::Outcome;
use crate::hypervisor::Power;
use crate::units::{self, age};

/// How long the guest's agent may take to answer. If it does not, ACPI is used instead.
const AGENT: Duration = Duration::from_secs(2);

/// How often a guest that is shutting down is checked.
const INTERVAL: Duration = Duration::from_millis(200);

/// How a guest was stopped.
#[derive(Debug)]
pub enum Down {
    /// It was off.
    Already(String),
    /// It shut down.
    Clean(String),
    /// It did not shut down, and was powered off.
    Cut(String),
}

impl Down {
    /// As text.
    pub fn reason(self) -> String {
        match self {
            Down::Already(reason) | Down::Clean(reason) | Down::Cut(reason) => reason,
        }
    }
}

impl Instance<'_> {
    /// Shuts it down, or powers it off at once with `force`.
    pub fn stop(&self, timeout: units::Duration, force: bool) -> Result<Outcome> {
        let was = self.was(&self.facts()?);
        let (changed, reason) = if force {
            self.cut_power()?
        } else {
            let down = self.shut_down(timeout)?;
            let changed = !matches!(down, Down::Already(_));
            if let Down::Cut(reason) = &down {
                let cut = format!("{} was {reason}", self.name);
                self.context.output.warn(&cut);
            }
            (changed, down.reason())
        };
        Ok(self.outcome(changed, Some(reason))?.after(was))
    }

    /// Shuts it down; returns how.
    pub fn shut_down(&self, timeout: units::Duration) -> Result<Down> {
        let deadline = Instant::now() + timeout.std();
        let before = self.settled()?;
        let off = match before.power {
            Power::Off if !before.saved => Some("not running"),
            Power::Crashed if !before.saved => Some("off since the hypervisor reported a crash"),
            _ => None,
        };
        if let Some(reason) = off {
            return Ok(Down::Already(reason.to_owned()));
        }
        if before.saved
            && let Some(why) = self.unusable_memory()?
        {
            self.set_memory_aside(&why)?;
            let reason = "its saved memory could not be restored";
            return Ok(Down::Clean(reason.to_owned()));
        }
        // Only a running guest can shut down cleanly.
        if before.power != Power::On {
            self.stay()?;
            let _room = self.room_for(&before)?;
            self.wake(&before)?;
            self.forget_memory()?;
        }
        if self.ask_to_shut_down(deadline)? {
            return Ok(Down::Clean("shut down by its guest".to_owned()));
        }
        self.domain()?.power_off()?;
        let timeout = age(timeout.0);
        let reason = format!("powered off: its guest did not shut down within {timeout}");
        Ok(Down::Cut(reason))
    }

    /// Powers it off at once and drops its saved memory, with a warning about what is lost.
    fn cut_power(&self) -> Result<(bool, String)> {
        // Do not wait for libvirt's jobs: this is for guests that hang.
        let before = self.facts()?;
        let runs = before.id.is_some();
        if runs {
            self.domain()?.power_off()?;
        }
        if self.facts()?.saved {
            if !runs {
                let name = self.name;
                let lost = format!("{name}: dropping its saved memory and unsaved data in it");
                self.context.output.warn(&lost);
            }
            self.domain()?.drop_saved_memory()?;
            self.forget_memory()?;
        }
        Ok(match (runs, before.saved) {
            (true, _) => (true, "powered off by force".to_owned()),
            (false, true) => (true, "its saved memory was dropped".to_owned()),
            (false, false) => (false, "not running".to_owned()),
        })
    }

    /// Asks the guest to shut down; returns whether it did before the deadline.
    ///
    /// Ask its agent first: a guest without logind ignores the power button. Press the power button
    /// at once if no agent answers, or at half time if the agent's request had no effect.
    fn ask_to_shut_down(&self, deadline: Instant) -> Result<bool> {
        let domain = self.domain()?;
        let left = deadline.saturating_duration_since(Instant::now());
        let by_agent = left >= AGENT && domain.agent_answers(AGENT);
        let mut button_at = Some(Instant::now());
        if by_agent {
            domain.shut_down_by_agent();
            button_at = Some(deadline - left / 2);
        }
        loop {
            if matches!(self.facts()?.power, Power::Off | Power::Crashed) {
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
}
