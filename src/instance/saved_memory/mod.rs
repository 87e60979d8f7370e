//! Saved memory: recorded when it is saved, checked before it is restored.

pub mod fit;

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;

use super::Instance;
use crate::error::{Fault, Kind};
use crate::files::Identity;
use crate::hypervisor::save_file;
use crate::hypervisor::xml::{channel, domain};
use crate::names::InstanceName;
use fit::{MemoryFile, Saved, misfit};

impl Instance<'_> {
    /// Records the present identity of its saved memory and its disk.
    pub(super) fn note_memory(&self) -> Result<()> {
        let saved = self.memory_now()?;
        self.update(|record| record.saved = Some(saved))
    }

    /// Removes the record of saved memory that no longer exists.
    pub(super) fn forget_memory(&self) -> Result<()> {
        self.update(|record| record.saved = None)
    }

    fn noted_memory(&self) -> Result<Option<Saved>> {
        Ok(self.record()?.and_then(|record| record.saved))
    }

    /// Why its saved memory cannot be restored; `None` if nothing is known against it.
    pub(super) fn unusable_memory(&self) -> Result<Option<String>> {
        // Check before libvirt reads it, because libvirt runs the program that is named in it to
        // query its capabilities.
        let noted = self.noted_memory()?;
        match misfit(noted.as_ref(), &self.memory_now()?) {
            Some(why) => Ok(Some(why.to_owned())),
            None => Ok(self.domain()?.check_saved_memory()?.err()),
        }
    }

    /// Restores its saved memory with libvirt's own definition. The definition in the file is not
    /// used: someone who can write to the file could name another program in it, or another user to
    /// run it.
    pub(super) fn restore_memory(&self) -> Result<()> {
        let domain = self.domain()?;
        let Some(path) = domain.saved_memory_file() else {
            return domain.start();
        };
        let definition = self.kept_definition()?;
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = match File::options().read(true).custom_flags(flags).open(&path) {
            Ok(file) => Some(file),
            // Only root may read it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            Err(error) => {
                let failed = format!("failed to open the saved memory of {}", self.name);
                return Err(anyhow::Error::from(error).context(failed));
            }
        };
        if let Some(file) = &file {
            // Check again, with the file that is used: the name may refer to another file by now.
            let now = MemoryFile::try_from(&file.metadata()?)?;
            let noted = self.noted_memory()?.and_then(|saved| saved.file);
            if let Some(why) = now.strange().or_else(|| now.altered(noted.as_ref()?)) {
                return Err(refused(self.name, why));
            }
        }
        let saved = match &file {
            Some(file) => save_file::definition(file).context("its saved memory is damaged")?,
            None => domain.saved_definition(&path)?,
        };
        let definition = domain::with_generation(definition, &saved)?;
        let definition = channel::as_saved(definition, &saved)?;
        // Restoring changes times of the file, even if it fails.
        self.forget_memory()?;
        domain.restore(file.as_ref(), &definition).inspect_err(|_| {
            // Without the record, fewer checks are made.
            let _ = self.note_memory();
        })
    }

    /// Sets saved memory that cannot be restored aside, and says so.
    pub(super) fn set_memory_aside(&self, why: &str) -> Result<()> {
        let name = self.name;
        let kept = self.domain()?.set_saved_memory_aside(self.context.time());
        let kept = kept
            .with_context(|| format!("failed to set the unusable saved memory of {name} aside"))?
            .map(|kept| format!("it is kept as {}", kept.display()));
        let kept = kept.unwrap_or_else(|| "its file was missing".to_owned());
        self.context.output.warn(&format!(
            "{name}: its saved memory cannot be restored ({why}), unsaved data in it is lost; \
             {kept}"
        ));
        Ok(())
    }

    /// The present facts of the saved memory and the disks that it will be restored with.
    fn memory_now(&self) -> Result<Saved> {
        let (name, domain) = (self.name, self.domain()?);
        let file = domain.saved_memory_file();
        let disks = domain::disks(&domain.stored_xml()?)?.into_iter();
        let mut paths = disks.flat_map(|disk| disk.files);
        let disk = paths.next();
        let disk = disk.unwrap_or_else(|| self.context.paths.overlay(name));
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
}

/// The error that saved memory cannot be restored, for commands that need it.
pub fn refused(name: &InstanceName, why: &str) -> anyhow::Error {
    let arguments = name.arguments();
    let message = format!("the saved memory of {name} cannot be restored: {why}");
    let hint = format!(
        "power it on: cyyber instance start {arguments}; its saved memory is then set aside"
    );
    Fault::new(Kind::Conflict, message).hint(hint).into()
}

pub(super) fn memory_at(path: &Path) -> Option<MemoryFile> {
    MemoryFile::try_from(&path.symlink_metadata().ok()?).ok()
}

pub(super) fn disk_at(name: &InstanceName, path: &Path) -> Result<Identity> {
    let (place, arguments) = (path.display(), name.arguments());
    Identity::of(path).map_err(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            let failed = format!("failed to inspect a disk of {name}: {place}");
            return anyhow::Error::from(error).context(failed);
        }
        let message = format!("the saved memory of {name} needs {place}, which is missing");
        let hint = format!(
            "restore it; if storage_dir was moved, create a link at its old path; or discard the \
             memory: cyyber instance stop {arguments} --force"
        );
        Fault::new(Kind::Conflict, message).hint(hint).into()
    })
}
