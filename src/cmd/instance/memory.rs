//! Saved memory: noted when it was saved, checked before it is restored.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;

use super::{define, view};
use crate::context::Context;
use crate::domain;
use crate::error::{Fault, Kind};
use crate::files::Identity;
use crate::hypervisor::Domain;
use crate::instance::InstanceName;
use crate::state::record::{self, Record};
use crate::state::saved::{Memory, Saved, misfit};

/// Notes what the saved memory of `name` and its disk look like now.
pub fn note(context: &Context, name: &InstanceName, domain: &Domain) -> Result<()> {
    let saved = look(context, name, domain)?;
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
    // Before libvirt reads it, which has the program that is named in it tell what it can do.
    let noted = noted(context, name, domain)?;
    match misfit(noted.as_ref(), &look(context, name, domain)?) {
        Some(why) => Ok(Some(why.to_owned())),
        None => Ok(domain.check_saved_memory()?.err()),
    }
}

/// Restores the saved memory of `name`, with the definition that libvirt keeps of it. The one in the
/// file is not used: whoever could write to that file could name another program in it, or another
/// user to run it.
pub fn restore(context: &Context, name: &InstanceName, domain: &Domain) -> Result<()> {
    let Some(path) = domain.saved_memory_file() else {
        return domain.start();
    };
    let definition = define::kept(context, name, domain)?;
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(&path);
    let file = match file {
        Ok(file) => Some(file),
        // It is for root to see.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
        Err(error) => {
            let failed = format!("failed to open the saved memory of {name}");
            return Err(anyhow::Error::from(error).context(failed));
        }
    };
    if let Some(file) = &file {
        // Once more, of the file that is used: the name may be another one's by now.
        let now = Memory::try_from(&file.metadata()?)?;
        let noted = noted(context, name, domain)?.and_then(|saved| saved.file);
        if let Some(why) = now.strange().or_else(|| now.altered(noted.as_ref()?)) {
            return Err(refused(name, why));
        }
    }
    // Restoring changes times of the file, also where it fails.
    forget(context, name, domain)?;
    domain.restore(file.as_ref(), &definition).inspect_err(|_| {
        // It is checked less closely without.
        let _ = note(context, name, domain);
    })
}

fn noted(context: &Context, name: &InstanceName, domain: &Domain) -> Result<Option<Saved>> {
    Ok(view::noted(context, name, domain.uuid()?)?.and_then(|record| record.saved))
}

fn memory_at(path: &Path) -> Option<Memory> {
    Memory::try_from(&path.symlink_metadata().ok()?).ok()
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

/// The saved memory and the disks that it will be restored with, as they are now.
fn look(context: &Context, name: &InstanceName, domain: &Domain) -> Result<Saved> {
    let file = domain.saved_memory_file();
    let disks = domain::disks(&domain.stored_xml()?)?.into_iter();
    let mut paths = disks.flat_map(|disk| disk.files);
    let disk = paths.next().unwrap_or_else(|| context.paths.overlay(name));
    let mut others = Vec::new();
    for path in paths {
        let identity = disk_at(name, &path)?;
        others.push((path, identity));
    }
    Ok(Saved {
        file: file.as_deref().and_then(memory_at),
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
