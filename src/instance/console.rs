//! Access to the console of an instance: a password that is good for a short while.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};

use super::Instance;
use super::outcome::Outcome;
use crate::error::{Fault, Kind};
use crate::hypervisor::Power;
use crate::hypervisor::xml::domain::{Console, new_vnc_password};
use crate::secret::Secret;

/// How long a new password opens new sessions. Sessions that are open stay open.
const VALID_FOR: SignedDuration = SignedDuration::from_secs(60);

impl Instance<'_> {
    /// Gives access to its console. It must run.
    pub fn open_console(&self) -> Result<Outcome> {
        if self.settled()?.power != Power::On {
            let name = self.name;
            let message = format!("{name} is not running and has no console");
            let hint = format!("start it: cyyber instance start {}", name.arguments());
            return Err(Fault::new(Kind::Conflict, message).hint(hint).into());
        }
        if self.record()?.is_some_and(|record| record.forking) {
            let name = self.name;
            let message = format!("{name} was interrupted while it was being started");
            let hint = format!("start it again: cyyber instance start {}", name.arguments());
            return Err(Fault::new(Kind::Conflict, message).hint(hint).into());
        }
        // Whoever asks is about to look.
        self.touch_activity()?;
        let access = self.grant_access(&self.console()?)?;
        Ok(self.outcome(true, None)?.with(access))
    }

    /// Where its console is, while it runs. An error where that is an address on which the configuration
    /// does not want it, as with a guest that was started or saved under another one: as long as nobody
    /// has a password for it, nobody gets in.
    pub(super) fn console(&self) -> Result<Console> {
        let console = Console::from_xml(&self.domain()?.xml()?)?;
        let console = console.context("the running domain has no VNC console")?;
        let wanted = self.context.config.host.vnc_listen;
        let allowed = |ip: IpAddr| ip == wanted || ip.is_loopback();
        if console.host.parse().is_ok_and(allowed) {
            return Ok(console);
        }
        let name = self.name;
        let (host, arguments) = (console.host, name.arguments());
        let message = format!("the console of {name} listens on {host} instead of {wanted}");
        let hint = format!("power it off and on: cyyber instance stop {arguments}, then start");
        Err(Fault::new(Kind::Conflict, message).hint(hint).into())
    }

    /// Gives its console a fresh password. The one before opens no more sessions.
    pub(super) fn grant_access(&self, console: &Console) -> Result<(Secret, Timestamp)> {
        let host = console.host.parse::<IpAddr>();
        if host.is_ok_and(|ip| !ip.is_loopback()) {
            self.context.warn_of_exposed_console();
        }
        let password = Secret::new(new_vnc_password());
        let expires = self.context.time() + VALID_FOR;
        self.domain()?
            .update_live(console.with_password(password.reveal(), expires)?)
            .context("failed to set the console's password")?;
        Ok((password, expires))
    }
}
