//! Moves an instance to another host. The `rename` of its overlay from the directory of one host to
//! that of the other is the moment at which its owner changes. Every step before and after it may
//! be the last one to run: the next command on the new host completes or cancels the move,
//! according to a note there.
//!
//! 1. [`release`], on the old host: the instance is off and gets marked. A start there removes the
//!    mark.
//! 2. [`adopt`], on the new host: under the locks of both hosts, and only with the mark, unless the
//!    old host is fenced. The facts about the instance are written to a note; then the overlay is
//!    renamed; then [`arrive`] moves the rest.
//! 3. [`forget`], on the old host: removes libvirt's definition, which has no disk any more.
//!
//! [`arrive`]: Instance::arrive

use std::io;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::Instance;
use super::definition::exact;
use super::disk;
use super::qemu_user;
use super::record::{self, Record};
use super::saved_memory::fit::{Saved, misfit};
use super::saved_memory::{disk_at, memory_at};
use crate::cluster::Place;
use crate::cluster::storage::Shared;
use crate::config::{Cluster, HostName};
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::files;
use crate::hypervisor::Detail;
use crate::hypervisor::xml::domain;
use crate::hypervisor::xml::interface::{self, Interface};
use crate::names::InstanceName;
use crate::paths::Paths;
use crate::state::lock::{self, Lock};

/// The note about an instance that is about to move here.
#[derive(Debug, Serialize, Deserialize)]
struct Arrival {
    /// The host that it comes from.
    from: String,
    /// Its record there.
    record: Option<Record>,
    /// Its saved memory was complete and matched its record.
    memory: bool,
    /// It was never powered on.
    unused: bool,
}

/// The name of this host, which must be one of `cluster.hosts`.
fn here(context: &Context) -> Result<(&Cluster, &HostName)> {
    match context.place() {
        Some(Place::Host(cluster, host)) => Ok((cluster, host)),
        _ => {
            let message = "this machine is not one of `cluster.hosts`";
            Err(Fault::new(Kind::Conflict, message).into())
        }
    }
}

/// The other host that has the disk of `name`, if this one does not.
pub fn owner_elsewhere(context: &Context, name: &InstanceName) -> Option<HostName> {
    let Some(Place::Host(cluster, here)) = context.place() else {
        return None;
    };
    let owner = Shared::new(cluster).owner(name)?;
    (owner != here).then(|| owner.clone())
}

/// Marks `name`, which is off, for its move to the host `to`.
pub fn release(context: &Context, name: &InstanceName, to: &HostName) -> Result<()> {
    here(context)?;
    let instance = Instance::lock(context, name)?;
    if instance.find()?.is_some() {
        anyhow::ensure!(
            instance.settled()?.id.is_none(),
            Fault::new(
                Kind::Conflict,
                format!(
                    "{name} is running and cannot be \
                                                moved"
                )
            )
            .hint(format!(
                "pause it: cyyber instance pause {}",
                name.arguments()
            ))
        );
        if instance.is_half_forked()? {
            instance.undo_fork()?;
        }
    }
    let mark = context.paths.leaving(name);
    files::make_directory_of(&mark)?;
    files::replace(&mark, to.as_str().as_bytes(), files::SHARED)
        .with_context(|| format!("failed to mark {name} for its move"))
}

/// Moves `name` here from the host `from`, where it is not running.
pub fn adopt(context: &Context, name: &InstanceName, from: &HostName) -> Result<()> {
    let (cluster, here) = here(context)?;
    let shared = Shared::new(cluster);
    let mut instance = Instance::lock(context, name)?;
    let (own, there) = (context.paths.overlay(name), shared.of(from));
    if own.try_exists()? {
        return Ok(());
    }
    let fenced = shared.is_fenced(from);
    // If that host is off, nobody may be able to release its lock.
    let _theirs = match fenced {
        true => None,
        false => {
            let path = there.instance_lock(name);
            Some(Lock::take(&path, &name.to_string(), lock::PATIENCE)?)
        }
    };
    let marked = files::read(&there.leaving(name)).is_ok_and(|it| it == here.as_str().as_bytes());
    anyhow::ensure!(
        fenced || marked,
        Fault::new(Kind::Busy, format!("{name} is in use on {from} again"))
            .hint("try again: commands find a running instance on its host")
    );
    instance.remove_shell()?;
    let arrival = Arrival::of(name, &there, &shared.paths.saved_memory(from, name), from)?;
    let note = context.paths.arriving(name);
    files::make_directory_of(&note)?;
    files::replace(&note, &serde_json::to_vec(&arrival)?, files::SHARED)?;
    let (leaves, comes) = (there.overlay(name), shared.of(here).overlay(name));
    std::fs::rename(&leaves, &comes).with_context(|| {
        let (leaves, comes) = (leaves.display(), comes.display());
        format!("failed to move {leaves} to {comes}")
    })?;
    files::sync_directory_of(&comes)?;
    instance.arrive()
}

/// Removes the domain definition of `name`, whose disk is on another host by now.
pub fn forget(context: &Context, name: &InstanceName) -> Result<()> {
    here(context)?;
    if owner_elsewhere(context, name).is_none() {
        return Ok(());
    }
    Instance::lock(context, name)?.remove_shell()
}

/// The same for all instances that left this host. Failures are warnings.
pub fn forget_all(context: &Context) -> Result<()> {
    here(context)?;
    for (name, _) in context.hypervisor()?.survey(Detail::Power)? {
        if let Err(error) = forget(context, &name) {
            context.output.warn(&format!("{name}: {error:#}"));
        }
    }
    Ok(())
}

impl Arrival {
    /// The facts about `name` on the host `from`, whose paths are `there`, with its saved memory in
    /// `memory`.
    fn of(name: &InstanceName, there: &Paths, memory: &Path, from: &HostName) -> Result<Arrival> {
        let overlay = there.overlay(name);
        let record = record::read_any(&there.record(name));
        let file = memory_at(memory);
        let noted = record.as_ref().and_then(|record| record.saved.as_ref());
        let whole = match noted {
            Some(noted) if file.is_some() && noted.file.is_some() => {
                let others = noted.others.iter();
                let now = Saved {
                    file,
                    disk: disk_at(name, &overlay)?,
                    // All hosts share them.
                    others: others
                        .filter_map(|(path, _)| Some((path.clone(), disk_at(name, path).ok()?)))
                        .collect(),
                };
                misfit(Some(noted), &now).is_none()
            }
            _ => false,
        };
        let unused = record.as_ref().and_then(|record| record.unused);
        Ok(Arrival {
            from: from.to_string(),
            memory: whole,
            unused: unused.is_some() && unused == exact(&overlay),
            record,
        })
    }
}

impl Instance<'_> {
    /// Fails if it must not be started here: because another host has its disk, or because this
    /// host is fenced. If it was marked for a move, the mark is removed.
    pub(super) fn stay(&self) -> Result<()> {
        let context = self.context;
        let Some(Place::Host(cluster, here)) = context.place() else {
            return Ok(());
        };
        if Shared::new(cluster).is_fenced(here) {
            let message = format!("{here} is fenced and starts no instances");
            let hint = format!("on the head: cyyber host resume {here}");
            return Err(Fault::new(Kind::Conflict, message).hint(hint).into());
        }
        self.ensure_nowhere_else()?;
        Ok(files::remove(&context.paths.leaving(self.name))?)
    }

    /// Fails if another host has its disk.
    pub(super) fn ensure_nowhere_else(&self) -> Result<()> {
        let name = self.name;
        match owner_elsewhere(self.context, name) {
            None => Ok(()),
            Some(host) => {
                let message = format!("the disk of {name} is on the host {host}");
                let hint = "run the command there, or on the head, which finds the instance";
                Err(Fault::new(Kind::Conflict, message).hint(hint).into())
            }
        }
    }

    /// Completes an interrupted move to this host; usually there is none.
    pub(super) fn arrive(&self) -> Result<()> {
        let (context, name) = (self.context, self.name);
        let Some(Place::Host(cluster, here)) = context.place() else {
            return Ok(());
        };
        let note = context.paths.arriving(name);
        let arrival: Arrival = match files::read(&note) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{} is damaged", note.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let overlay = context.paths.overlay(name);
        // It never arrived.
        if !overlay.try_exists()? {
            return Ok(files::remove(&note)?);
        }
        let shared = Shared::new(cluster);
        let from: HostName = arrival.from.parse()?;
        let (there, own) = (shared.of(&from), shared.of(here));
        let memory = shared.paths.saved_memory(here, name);
        follow(&shared.paths.saved_memory(&from, name), &memory)?;
        follow(&there.activity(name), &own.activity(name))?;
        follow(&there.keep(name), &own.keep(name))?;
        let record = arrival.record.map(|record| Record {
            // Each host numbers runs separately.
            boot: None,
            unused: arrival.unused.then(|| exact(&overlay)).flatten(),
            saved: record.saved.clone().map(|saved| Saved {
                file: memory_at(&memory).filter(|_| arrival.memory),
                ..saved
            }),
            ..record
        });
        if self.find()?.is_none() {
            let saved = memory.try_exists()?.then_some((&*memory, arrival.memory));
            self.define_again(record.as_ref(), saved).with_context(|| {
                format!(
                    "failed to define {name} on this host, where its disk is \
                                          now"
                )
            })?;
        }
        for file in [there.record(name), there.leaving(name), note] {
            files::remove(&file)?;
        }
        Ok(())
    }

    /// Defines its domain as it was on the old host: from its saved memory, if that can be trusted,
    /// or else from the configuration. `memory` is the file with the memory, and whether it is
    /// complete.
    fn define_again(&self, record: Option<&Record>, memory: Option<(&Path, bool)>) -> Result<()> {
        let (context, name) = (self.context, self.name);
        let overlay = context.paths.overlay(name);
        let restored = match (record, memory) {
            (Some(record), Some((file, true))) => self.definition_saved(record, file),
            (_, Some(_)) => Err(anyhow::anyhow!("it does not match its record")),
            (_, None) => Ok(String::new()),
        };
        let xml = match (restored, record) {
            (Ok(xml), _) if !xml.is_empty() => xml,
            (restored, record) => {
                if let (Err(error), Some((file, _))) = (restored, memory) {
                    let aside = file.with_extension("save.unusable-moved");
                    std::fs::rename(file, &aside)?;
                    context.output.warn(&format!(
                        "{name}: its saved memory cannot be restored ({error:#}), unsaved data in it \
                         is lost; it is kept as {}",
                        aside.display()
                    ));
                }
                let Some(record) = record else {
                    let base = self.base_of(&overlay)?;
                    return self.define(&overlay, &base, false);
                };
                let base = context.paths.base_build(&name.lab, &record.build);
                disk::ensure_stands_on(name, &overlay, &base)?;
                self.definition(&overlay, &base, record, None)?
            }
        };
        if let Some(record) = record {
            record::write(&context.paths.record(name), record)?;
        }
        self.keep_domain(context.hypervisor()?.define(&xml)?);
        Ok(())
    }

    fn definition_saved(&self, record: &Record, file: &Path) -> Result<String> {
        let (context, name) = (self.context, self.name);
        let xml = context.hypervisor()?.definition_in(file)?;
        anyhow::ensure!(
            domain::uuid_of(&xml)? == record.uuid,
            "it belongs to another VM"
        );
        disk::ensure_own(context, name, &xml)?;
        let card = Interface::from_xml(&xml)?;
        self.hold_address(&card)?;
        let xml = interface::at_own_port(&xml)?.unwrap_or(xml);
        qemu_user::put_into(context, card.mac, xml)
    }

    /// Removes the definition and the record of an instance whose disk is not here. Saved memory
    /// that is still here is kept.
    fn remove_shell(&mut self) -> Result<()> {
        let (context, name) = (self.context, self.name);
        let (cluster, here) = here(context)?;
        let shared = Shared::new(cluster);
        if context.paths.overlay(name).try_exists()? {
            return Ok(());
        }
        // The host with the disk still needs these files from here.
        if let Some(owner) = shared.owner(name)
            && shared.of(owner).arriving(name).try_exists()?
        {
            return Ok(());
        }
        if self.find()?.is_some() {
            anyhow::ensure!(
                self.settled()?.id.is_none(),
                Fault::new(
                    Kind::Conflict,
                    format!("{name} is running on {here}, which does not have its disk")
                )
                .hint(format!("power it off there: virsh destroy {name}"))
            );
            let memory = shared.paths.saved_memory(here, name);
            if memory.try_exists()? {
                std::fs::rename(&memory, memory.with_extension("save.unusable-left"))?;
            }
            self.remove_domain()?;
        }
        let paths = &context.paths;
        for file in [
            paths.record(name),
            paths.activity(name),
            paths.keep(name),
            paths.leaving(name),
        ] {
            files::remove(&file)?;
        }
        Ok(())
    }
}

/// Moves a file, if it still exists.
fn follow(from: &Path, to: &Path) -> Result<()> {
    files::make_directory_of(to)?;
    match std::fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let (from, to) = (from.display(), to.display());
            Err(error).with_context(|| format!("failed to move {from} to {to}"))
        }
        _ => Ok(()),
    }
}
