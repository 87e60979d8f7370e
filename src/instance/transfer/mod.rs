//! Copies files into and out of guests: as one archive, through the guest's agent.
//!
//! They are unpacked beside their final place and then renamed, in the guest and on this host. A
//! guest is not trusted: [`archive::unpack`] decides what is accepted from its archive.

mod collect;
mod push;
mod resting;

use anyhow::Result;

pub use collect::{Collect, Collected, Fetched};
pub use push::{Push, Pushed};
pub use resting::Resting;

use crate::appliance::too_much;
use crate::error::{Fault, Kind};
use crate::hypervisor::{Domain, Patience, Ran, words};

#[cfg(doc)]
use crate::files::archive;

/// Where the archive is in the guest: a directory that only the guest's root can read.
const PREPARE: &str = include_str!("prepare.sh");

/// How much output of a guest is read.
const LONGEST_NAME: usize = 100;

/// Runs `job` with a temporary directory in the guest.
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
        anyhow::bail!("its guest did not report its temporary directory");
    }
    let done = job(directory);
    // If it cannot be removed now, a transfer after an hour removes it.
    let _ = domain.run_in_guest(&["/bin/rm", "-rf", "--", directory], patience);
    done
}

/// Runs a shell script in the guest. If it fails, its output is the error.
fn script(domain: &Domain, script: &str, arguments: &[&str], patience: Patience) -> Result<Ran> {
    let program = [&["/bin/sh", "-c", script, "sh"], arguments].concat();
    let ran = domain.run_in_guest(&program, patience)?;
    let said = String::from_utf8_lossy(&ran.stderr);
    let said = words(said.trim());
    let kind = match ran.exit_code {
        0 => return Ok(ran),
        2 => Kind::Conflict,
        3 => return Err(too_much()),
        _ => Kind::Failed,
    };
    Err(Fault::new(kind, said).into())
}
