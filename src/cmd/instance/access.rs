//! Access to an instance's console: a password that is good for a short while.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};

use crate::context::Context;
use crate::domain::{Console, new_vnc_password};
use crate::error::{Fault, Kind};
use crate::hypervisor::Domain;
use crate::instance::InstanceName;
use crate::secret::Secret;

/// How long a new password opens new sessions. Sessions that are open stay open.
const VALID_FOR: SignedDuration = SignedDuration::from_secs(60);

/// A password for the console of a running instance.
#[derive(Debug)]
pub struct Access {
    pub password: Secret,
    pub expires: Timestamp,
}

/// Where the console is of a domain that runs with the definition `xml`. An error where that is an
/// address on which the configuration does not want it, as with a guest that was started or saved
/// under another one: as long as nobody has a password for it, nobody gets in.
pub fn locate(context: &Context, name: &InstanceName, xml: &str) -> Result<Console> {
    let console = Console::of(xml)?.context("the running domain has no VNC console")?;
    let wanted = context.config.host.vnc_listen;
    let allowed = |ip: IpAddr| ip == wanted || ip.is_loopback();
    if console.host.parse().is_ok_and(allowed) {
        return Ok(console);
    }
    let message = format!(
        "the console of {name} listens on {} instead of {wanted}",
        console.host
    );
    let hint = format!(
        "power it off and on: cyyber instance stop {lab} {user}, then start",
        lab = name.lab,
        user = name.user
    );
    Err(Fault::new(Kind::Conflict, message).hint(hint).into())
}

/// Gives the running `domain`, whose console is `console`, a fresh password. The one before opens
/// no more sessions.
pub fn grant(context: &Context, domain: &Domain, console: &Console) -> Result<Access> {
    if console
        .host
        .parse()
        .is_ok_and(|ip: IpAddr| !ip.is_loopback())
    {
        context.warn_of_exposed_console();
    }
    let password = Secret::new(new_vnc_password());
    let expires = context.time() + VALID_FOR;
    domain
        .update_live(console.with_password(password.reveal(), expires))
        .context("failed to set the console's password")?;
    Ok(Access { password, expires })
}
