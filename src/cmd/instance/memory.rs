//! Saved memory: noted when it was saved, checked before it is restored.

use std::io;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::view;
use crate::context::Context;
use crate::domain;
use crate::error::{Fault, Kind};
use crate::files::Identity;
use crate::hypervisor::Domain;
use crate::instance::InstanceName;
use crate::state::record::{self, Record};
use crate::state::saved::{Saved, misfit};

/// Notes what the saved memory of `name` and its disk look like now.
pub fn note(context: &Context, name: &InstanceName, domain: &Domain) -> Result<()> {
    let definition = domain.saved_definition()?.ok().flatten();
    let saved = look(context, name, domain, definition)?;
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
    let definition = match domain.saved_definition()? {
        Ok(definition) => definition,
        Err(why) => return Ok(Some(why)),
    };
    let noted = view::noted(context, name, domain.uuid()?)?.and_then(|record| record.saved);
    let why = misfit(noted.as_ref(), &look(context, name, domain, definition)?);
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

/// The saved memory and the disks that it needs, as they are now: those that it knows by its own
/// `definition`, or else those of the domain.
fn look(
    context: &Context,
    name: &InstanceName,
    domain: &Domain,
    definition: Option<String>,
) -> Result<Saved> {
    let file = domain.saved_memory_file();
    let definition = definition.map_or_else(|| domain.stored_xml(), Ok)?;
    let disks = domain::disks(&definition)?.into_iter();
    let mut paths = disks.flat_map(|disk| disk.files);
    let disk = paths.next().unwrap_or_else(|| context.paths.overlay(name));
    let mut others = Vec::new();
    for path in paths {
        let identity = disk_at(name, &path)?;
        others.push((path, identity));
    }
    Ok(Saved {
        file: file.and_then(|file| Identity::of(&file).ok()),
        disk: disk_at(name, &disk)?,
        others,
    })
}

fn disk_at(name: &InstanceName, path: &Path) -> Result<Identity> {
    Identity::of(path).map_err(|error| {
        let failed = format!("failed to look at a disk of {name}: {}", path.display());
        let (lab, user) = (&name.lab, &name.user);
        match error.kind() {
            io::ErrorKind::NotFound => Fault::new(
                Kind::Conflict,
                format!(
                    "the saved memory of {name} needs {}, which is gone",
                    path.display()
                ),
            )
            .hint(format!(
                "put it back; where storage_dir was moved, put a link in its old place; or give \
                 the memory up: cyyber instance stop {lab} {user} --force"
            ))
            .into(),
            _ => anyhow::Error::from(error).context(failed),
        }
    })
}
