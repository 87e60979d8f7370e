//! `cyyber instance start`

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::view::{self, Single};
use super::{console, create};
use crate::context::Context;
use crate::domain::Console;
use crate::error::{Fault, Kind};
use crate::hypervisor::{Domain, Facts, Power};
use crate::instance::InstanceName;
use crate::state::activity;
use crate::state::record::{self, Boot, Record, Run};

/// How long libvirt may take to be done with what it is doing to a domain. A large guest that is
/// being saved takes a while.
const SETTLING: Duration = Duration::from_secs(60);

pub fn run(context: &Context, name: &InstanceName) -> Result<Single> {
    let _lock = super::lock(context, name)?;
    let (domain, made) = create::ensure(context, name)?;
    power_on(context, name, &domain, made)
}

/// Brings `domain` to run, from whatever state it is in, and gives access to its console. The
/// caller holds the instance's lock; `changed` says whether it changed something before.
pub fn power_on(
    context: &Context,
    name: &InstanceName,
    domain: &Domain,
    changed: bool,
) -> Result<Single> {
    let before = settled(domain, name)?;
    // Before anything changes, so that a state directory that cannot be written stops it here.
    activity::touch(&context.paths.activity(name))
        .with_context(|| format!("failed to note the activity of {name}"))?;
    match before.power {
        Power::On | Power::Busy => {}
        Power::Frozen | Power::StuckOnDisk => domain.thaw()?,
        Power::Off | Power::Crashed => domain.start()?,
    }
    let changed = changed || before.power != Power::On;
    let console = console::locate(domain)?;
    note(
        context,
        name,
        &before,
        &super::facts(domain, name)?,
        &console,
    )?;
    let access = console::grant(context, domain, &console)?;
    view::single(context, name, changed, None, Some(access))
}

/// The facts once libvirt is done with what it is doing to the domain.
pub fn settled(domain: &Domain, name: &InstanceName) -> Result<Facts> {
    let deadline = Instant::now() + SETTLING;
    loop {
        let facts = super::facts(domain, name)?;
        if facts.power != Power::Busy {
            return Ok(facts);
        }
        if Instant::now() > deadline {
            let message = format!("libvirt is still starting, saving or stopping {name}");
            return Err(Fault::new(Kind::Busy, message)
                .hint("try again when it is done")
                .into());
        }
        sleep(Duration::from_millis(100));
    }
}

/// Notes the run that a start led to, for listings.
fn note(
    context: &Context,
    name: &InstanceName,
    before: &Facts,
    after: &Facts,
    console: &Console,
) -> Result<()> {
    let (Some(run), Some(record)) = (
        after.id.map(Run::current),
        view::noted(context, name, after.uuid)?,
    ) else {
        return Ok(());
    };
    let (powered_on, ready) = match before.power {
        // Its memory came back, and with it a guest that was up.
        Power::Off | Power::Crashed if before.saved => {
            let known = record.boot.as_ref().map(|boot| boot.powered_on);
            (
                known.unwrap_or_else(|| context.time()),
                Some(context.time()),
            )
        }
        Power::Off | Power::Crashed => (context.time(), None),
        // It has been running all the while, and that is known.
        _ if record.boot.as_ref().is_some_and(|boot| boot.run == run) => return Ok(()),
        // Powered on by somebody else, or by a command that was killed before it could note that.
        _ => (context.time(), None),
    };
    let boot = Boot {
        run,
        powered_on,
        ready,
        console: Some(console.clone()),
    };
    let record = Record {
        boot: Some(boot),
        ..record
    };
    if let Err(error) = record::write(&context.paths.record(name), &record) {
        // A listing then asks libvirt, and cannot tell starting from running.
        context.output.warn(&format!(
            "failed to note that {name} was powered on: {error}"
        ));
    }
    Ok(())
}
