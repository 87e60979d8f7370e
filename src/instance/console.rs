//! Access to the console of an instance: a password that is valid for a short time.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};

use super::outcome::{ConsoleAccess, Outcome};
use super::{Instance, existing};
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::hypervisor::Power;
use crate::hypervisor::xml::domain::{Console, new_vnc_password};
use crate::names::InstanceName;
use crate::secret::Secret;
use crate::state::token::{Access, Key, Token};

/// How long a new password is valid for new sessions. Open sessions stay open.
const VALID_FOR: SignedDuration = SignedDuration::from_secs(60);

impl Instance<'_> {
    /// Gives access to its console. It must run.
    pub fn open_console(&self) -> Result<Outcome> {
        self.must_run()?;
        // A user who requests a password is about to use the instance.
        self.touch_activity()?;
        self.watch_console()
    }

    /// The same for somebody who only watches, which does not count as use.
    pub fn watch_console(&self) -> Result<Outcome> {
        self.must_run()?;
        let access = self.grant_access(&self.console()?)?;
        Ok(self.outcome(true, None)?.with(access))
    }

    fn must_run(&self) -> Result<()> {
        let name = self.name;
        if self.settled()?.power != Power::On {
            let message = format!("{name} is not running and has no console");
            return Err(Fault::new(Kind::Conflict, message)
                .hint(name.start_it())
                .into());
        }
        if self.record()?.is_some_and(|record| record.forking) {
            let message = format!("the start of {name} was interrupted");
            return Err(Fault::new(Kind::Conflict, message)
                .hint(name.start_it())
                .into());
        }
        Ok(())
    }

    /// The address of its console, if it runs and has one.
    pub(super) fn find_console(&self) -> Result<Option<Console>> {
        Console::from_xml(&self.domain()?.xml()?)
    }

    /// The same, for granting access. An error if the console listens on an address other than the
    /// configured one, as with a guest that was started or saved under another configuration: as
    /// long as nobody has a password, nobody can log in.
    pub(super) fn console(&self) -> Result<Console> {
        let console = self
            .find_console()?
            .context("the running domain has no VNC console")?;
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

    /// Sets a new password for its console. The previous one opens no more sessions.
    pub(super) fn grant_access(&self, console: &Console) -> Result<ConsoleAccess> {
        let host = console.host.parse::<IpAddr>();
        if host.is_ok_and(|ip| !ip.is_loopback()) {
            self.context.warn_of_exposed_console();
        }
        let password = Secret::new(new_vnc_password());
        let expires = self.context.time() + VALID_FOR;
        self.domain()?
            .update_live(console.with_password(password.reveal(), expires)?)
            .context("failed to set the console's password")?;
        Ok(ConsoleAccess {
            password: Some((password, expires)),
            path: path(self.context, self.name, Access::Control),
        })
    }
}

/// Grants access to the console of `name` through the gateway only, in any state.
pub fn console_path(context: &Context, name: &InstanceName, access: Access) -> Result<Outcome> {
    let domain = existing(context, name)?;
    let path = path(context, name, access).ok_or_else(|| {
        let message = "no gateway runs on this host, or its key cannot be read";
        let hint = "start it: systemctl start cyyber-gateway; and run this command as the same \
                    user";
        Fault::new(Kind::Unavailable, message).hint(hint)
    })?;
    let access = ConsoleAccess {
        path: Some(path),
        ..ConsoleAccess::default()
    };
    Ok(Outcome::new(context, name, &domain, false, None)?.with(access))
}

/// A path of the gateway for watching the console of `name`, valid for a minute, if there is a
/// gateway.
pub(crate) fn watch_path(context: &Context, name: &InstanceName) -> Option<Secret> {
    Some(path(context, name, Access::View)?.0)
}

/// A path of the gateway to the console of `name`, if there is a gateway.
fn path(context: &Context, name: &InstanceName, access: Access) -> Option<(Secret, Timestamp)> {
    let key = Key::read(&context.paths.gateway_key());
    let key = key.unwrap_or_else(|error| {
        let text = format!("failed to create a path of the gateway: {error}");
        context.output.detail(&text);
        None
    })?;
    let token = Token::new(name, access, context.time());
    Some((Secret::new(key.path(&token)), token.expires))
}
