//! Files into the guests of a class, and out of them: as one archive, through the guest's agent.
//!
//! In the guest they are taken out beside their place and then renamed to it; on this host likewise. A
//! guest is not to be trusted: what of its archive is taken is settled by [`archive::unpack`].

mod collect;
mod push;
mod resting;

use std::time::Instant;

use anyhow::Result;

pub use collect::{Collect, Collected, Fetched};
pub use push::{Push, Pushed};
pub use resting::Resting;

use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::hypervisor::{Domain, Patience, Ran, words};
use crate::units::Duration;

#[cfg(doc)]
use crate::files::archive;

/// Where an archive goes in the guest: a directory that only its root can see.
const PREPARE: &str = include_str!("prepare.sh");

/// How much of what a guest says is looked at.
const LONGEST_NAME: usize = 100;

/// Until when a transfer may take.
fn patience(context: &Context, timeout: Duration) -> Result<Patience<'_>> {
    Ok(Patience {
        until: Instant::now() + timeout.std(),
        stop: context.interrupted()?,
    })
}

/// Does `job` with a directory in the guest, which is removed after it.
fn with_directory<T>(
    domain: &Domain,
    patience: Patience,
    job: impl FnOnce(&str) -> Result<T>,
) -> Result<T> {
    let made = script(domain, PREPARE, &[], patience)?;
    let made = String::from_utf8_lossy(&made.stdout);
    let directory = made.trim();
    let is_one = directory.starts_with("/var/tmp/cyyber.") && directory.len() < LONGEST_NAME;
    if !is_one {
        anyhow::bail!("its guest did not say where it made a directory");
    }
    let done = job(directory);
    // One that could not be removed goes with the next transfer in an hour.
    let _ = domain.run_in_guest(&["/bin/rm", "-rf", "--", directory], patience);
    done
}

/// Runs a shell script in the guest. What it says is the error, unless it ends well.
fn script(domain: &Domain, script: &str, arguments: &[&str], patience: Patience) -> Result<Ran> {
    let program = [&["/bin/sh", "-c", script, "sh"], arguments].concat();
    let ran = domain.run_in_guest(&program, patience)?;
    let said = String::from_utf8_lossy(&ran.stderr);
    let said = words(said.trim());
    let kind = match ran.exit_code {
        0 => return Ok(ran),
        2 => Kind::Conflict,
        3 => {
            let fault = Fault::new(Kind::Failed, "there is more in it than is allowed");
            return Err(fault
                .hint("allow more with --max-size, or name less")
                .into());
        }
        _ => Kind::Failed,
    };
    Err(Fault::new(kind, said).into())
}
