//! Access to an instance's console: a password that is good for a short while.

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};

use crate::context::Context;
use crate::domain::{Console, new_vnc_password};
use crate::hypervisor::Domain;
use crate::secret::Secret;

/// How long a new password opens new sessions. Sessions that are open stay open.
const VALID_FOR: SignedDuration = SignedDuration::from_secs(60);

/// A password for the console of a running instance.
#[derive(Debug)]
pub struct Access {
    pub password: Secret,
    pub expires: Timestamp,
}

/// Where the console of a running domain is.
pub fn locate(domain: &Domain) -> Result<Console> {
    Console::of(&domain.xml()?)?.context("the running domain has no VNC console")
}

/// Gives the running `domain`, whose console is `console`, a fresh password. The one before opens
/// no more sessions.
pub fn grant(context: &Context, domain: &Domain, console: &Console) -> Result<Access> {
    let password = Secret::new(new_vnc_password());
    let expires = context.time() + VALID_FOR;
    domain
        .update_live(console.with_password(password.reveal(), expires))
        .context("failed to set the console's password")?;
    Ok(Access { password, expires })
}
