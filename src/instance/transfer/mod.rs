//! Copies files into and out of guests: as one archive, through a channel that is plugged in for it.
//!
//! They are unpacked beside their final place and then renamed, in the guest and on this host. A
//! guest is not trusted: [`archive::unpack`] decides what is accepted from its archive.

mod collect;
mod push;
mod resting;

use std::time::Duration;

use anyhow::Result;

pub use collect::{Collect, Collected, Fetched, Unfinished};
pub use push::{Push, Pushed};
pub use resting::Resting;

use super::Instance;
use super::exec::running;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::hypervisor::{Channel, Ran, words};
use crate::names::InstanceName;
use crate::state::lock::Lock;

#[cfg(doc)]
use crate::files::archive;

/// How long to wait for another transfer with the same instance.
const TURN: Duration = Duration::from_secs(5);

/// The turn to transfer files to or from the guest of `name`, which ends when it is dropped.
fn turn(context: &Context, name: &InstanceName) -> Result<Lock> {
    let what = format!("the channel for files of {name}");
    Lock::take(&context.paths.transfer_lock(name), &what, TURN)
}

/// A channel into the guest of `name`, which must run. Needs the `turn` for as long as it exists.
fn channel(context: &Context, name: &InstanceName, _turn: &Lock) -> Result<Channel> {
    // Nobody changes the domain at this moment.
    let _instance = Instance::lock(context, name)?;
    running(context, name)?.open_channel(&context.paths.user_instances())
}

/// The program in a guest that runs `script`, whose first argument is the name of its `port`.
fn program<'a>(script: &'a str, port: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    [&["/bin/sh", "-c", script, "sh", port], arguments].concat()
}

/// What a script printed. If it failed, what it said is the error.
fn printed(ran: Ran) -> Result<Vec<u8>> {
    let said = String::from_utf8_lossy(&ran.stderr);
    let said = words(said.trim());
    let kind = match ran.exit_code {
        0 => return Ok(ran.stdout),
        2 => Kind::Conflict,
        _ => Kind::Failed,
    };
    Err(Fault::new(kind, said).into())
}
