//! Saved memory: noted when it was saved, checked before it is restored.

use anyhow::{Context as _, Result};

use super::view;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::files::Identity;
use crate::hypervisor::Domain;
use crate::instance::InstanceName;
use crate::state::record::{self, Record};
use crate::state::saved::{Saved, misfit};

/// Notes what the saved memory of `name` and its disk look like now.
pub fn note(context: &Context, name: &InstanceName, domain: &Domain) -> Result<()> {
    let saved = Saved {
        file: file(domain),
        disk: disk(context, name)?,
    };
    renote(context, name, domain, Some(saved))
}

/// Forgets what was noted of saved memory that is no longer there.
pub fn forget(context: &Context, name: &InstanceName, domain: &Domain) -> Result<()> {
    renote(context, name, domain, None)
}

fn renote(
    context: &Context,
    name: &InstanceName,
    domain: &Domain,
    saved: Option<Saved>,
) -> Result<()> {
    match view::noted(context, name, domain.uuid()?)? {
        Some(record) if record.saved != saved => {
            let record = Record { saved, ..record };
            record::write(&context.paths.record(name), &record)?;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Why the saved memory of `name` cannot be restored; `None` where nothing speaks against it.
pub fn unusable(context: &Context, name: &InstanceName, domain: &Domain) -> Result<Option<String>> {
    if let Some(why) = domain.saved_memory_fault()? {
        return Ok(Some(why));
    }
    let noted = view::noted(context, name, domain.uuid()?)?.and_then(|record| record.saved);
    let why = misfit(noted.as_ref(), file(domain).as_ref(), &disk(context, name)?);
    Ok(why.map(str::to_owned))
}

/// That saved memory cannot be restored, where nothing else will do.
pub fn refused(name: &InstanceName, why: &str) -> anyhow::Error {
    let message = format!("the saved memory of {name} cannot be restored: {why}");
    Fault::new(Kind::Conflict, message)
        .hint(format!(
            "power it on: cyyber instance start {} {}; the memory is put aside then",
            name.lab, name.user
        ))
        .into()
}

/// Puts saved memory that cannot be restored aside, and says so.
pub fn set_aside(context: &Context, name: &InstanceName, domain: &Domain, why: &str) -> Result<()> {
    let kept = domain
        .set_saved_memory_aside(context.time())
        .with_context(|| format!("failed to put the unusable saved memory of {name} aside"))?;
    let kept = kept.map_or_else(
        || "its file was gone".to_owned(),
        |kept| format!("it is kept as {}", kept.display()),
    );
    context.output.warn(&format!(
        "{name}: its saved memory cannot be restored ({why}), what was unsaved in it is lost; {kept}"
    ));
    Ok(())
}

fn file(domain: &Domain) -> Option<Identity> {
    Identity::of(&domain.saved_memory_file()?).ok()
}

fn disk(context: &Context, name: &InstanceName) -> Result<Identity> {
    Identity::of(&context.paths.overlay(name))
        .with_context(|| format!("failed to look at the disk of {name}"))
}
