//! Collects files from the disks of instances that are not running, without starting them.
//!
//! A start does not wait for this: if an instance is started in the meantime, this is reported, and
//! nothing of it is kept.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use tar::{Builder, Header};

use super::collect::{Collect, Collected, Unfinished, What};
use crate::appliance::{Appliance, MOST_DISKS};
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::files::archive::FromStart;
use crate::hypervisor::{Facts, Power};
use crate::images::header::Header as ImageHeader;
use crate::instance::outcome::noted_failure;
use crate::instance::{disk, existing, facts, status};
use crate::names::{InstanceName, State};

/// File systems whose copies can be mounted together in one kernel. Others, such as btrfs, get an
/// appliance of their own.
const APART: [&str; 7] = ["ext2", "ext3", "ext4", "xfs", "vfat", "swap", "unknown"];

/// An instance that is not running, as it was found.
#[derive(Debug)]
pub struct Resting {
    name: InstanceName,
    pub(super) state: State,
    overlay: PathBuf,
    found: Found,
}

/// Facts that change once it is started.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    id: Option<u32>,
    frozen: bool,
    file: (u64, i64, i64),
}

/// Whether disks share an appliance.
enum Read {
    Done(Result<Collected>),
    /// It needs its own appliance.
    Alone,
}

impl Resting {
    /// `name`, whose facts are `facts`, if its disk can be read.
    pub(super) fn of(
        context: &Context,
        name: &InstanceName,
        now: &Facts,
    ) -> Result<Option<Resting>> {
        let rests = now.power == Power::Frozen || (now.power == Power::Off && now.id.is_none());
        if !rests {
            return Ok(None);
        }
        let state = status::state(context, name, now);
        Appliance::program().with_context(|| {
            let hint = format!(
                "install it: apt-get install guestfish; or start the instance: cyyber instance start {}",
                name.arguments()
            );
            let message = format!("{name} is {state}: its disk can only be read with libguestfs");
            Fault::new(Kind::Unavailable, message).hint(hint)
        })?;
        let overlay = context.paths.overlay(name);
        let domain = existing(context, name)?;
        // So an attacker who has broken out of a VM cannot make us read another file of this host.
        disk::ensure_own(context, name, &domain.stored_xml()?)?;
        let record = status::noted(context, name, now.uuid)?
            .with_context(|| format!("{name} has no record"))?;
        let base = context.paths.base_build(&name.lab, &record.build);
        disk::ensure_stands_on(name, &overlay, &base)?;
        ImageHeader::of(&overlay)?.ensure_own_data()?;
        let found = Found::of(now, &overlay)?;
        Ok(Some(Resting {
            name: name.clone(),
            state,
            overlay,
            found,
        }))
    }

    fn ensure_rests(&self, context: &Context) -> Result<()> {
        let now = facts(&existing(context, &self.name)?, &self.name)?;
        let is_same = Found::of(&now, &self.overlay).is_ok_and(|found| found == self.found);
        ensure!(
            is_same,
            Fault::new(
                Kind::Busy,
                format!("{} was started while its disk was being read", self.name)
            )
            .hint("collect it again")
        );
        Ok(())
    }
}

impl Found {
    fn of(facts: &Facts, overlay: &std::path::Path) -> Result<Found> {
        let file = overlay.symlink_metadata()?;
        Ok(Found {
            id: facts.id,
            frozen: facts.power == Power::Frozen,
            file: (file.ino(), file.mtime(), file.mtime_nsec()),
        })
    }
}

impl Collect {
    /// Collects from the disks of `all`; returns results in the same order.
    pub fn of_resting(&self, context: &Context, all: &[Resting]) -> Vec<Result<Collected>> {
        let mut results = Vec::new();
        for some in all.chunks(MOST_DISKS) {
            let some: Vec<_> = some.iter().collect();
            results.extend(self.together(context, &some));
        }
        let journaled = all.iter().zip(results).map(|(one, result)| {
            noted_failure(context, "collect", &one.name, || {
                result.with_context(|| format!("failed to collect from {}", one.name))
            })
        });
        journaled.collect()
    }

    /// The same for as many disks as fit into one appliance. If a file system crashes the
    /// appliance, the disks are retried one by one.
    fn together(&self, context: &Context, all: &[&Resting]) -> Vec<Result<Collected>> {
        let mut results = Vec::new();
        let begun = (|| {
            crate::files::make_directory(&self.to, crate::files::PRIVATE_DIRECTORY)?;
            let directory = Unfinished::begin(&self.to)?;
            let disks: Vec<_> = all.iter().map(|one| one.overlay.as_path()).collect();
            let (accelerator, stop) = (context.accelerator()?, context.interrupted()?);
            let appliance = Appliance::boot(&disks, directory.path(), accelerator, stop)?;
            // It must be dropped before its directory.
            Ok((appliance, directory))
        })();
        let (mut appliance, _directory) = match begun {
            Ok(begun) => begun,
            Err(error) if all.len() == 1 => return vec![Err(error)],
            Err(error) => {
                let (some, others) = all.split_at(all.len() / 2);
                return match context.interrupted() {
                    Ok(stop) if !stop.load(std::sync::atomic::Ordering::Relaxed) => {
                        let mut results = self.together(context, some);
                        results.extend(self.together(context, others));
                        results
                    }
                    _ => all.iter().map(|_| Err(anyhow!("{error:#}"))).collect(),
                };
            }
        };
        let mut alone = Vec::new();
        for (number, one) in all.iter().enumerate() {
            match self.read(context, &mut appliance, (number, all.len()), one) {
                Read::Done(result) => results.push(result),
                Read::Alone => {
                    alone.push(number);
                    results.push(Err(anyhow!("it was not read")));
                }
            }
            if appliance.has_ended() {
                break;
            }
        }
        drop((appliance, _directory));
        for number in alone {
            if let Some(result) = self.together(context, &all[number..=number]).pop() {
                results[number] = result;
            }
        }
        if results.len() < all.len() {
            results.extend(self.together(context, &all[results.len()..]));
        }
        results
    }

    fn read(
        &self,
        context: &Context,
        appliance: &mut Appliance,
        (number, of): (usize, usize),
        one: &Resting,
    ) -> Read {
        let mut file_systems = appliance.file_systems(Some(number));
        let others = appliance.file_systems(None);
        let is_apart = file_systems
            .iter()
            .all(|(_, kind)| APART.contains(&&**kind));
        if of > 1 && !(is_apart && others.is_empty()) {
            return Read::Alone;
        }
        if of == 1 {
            file_systems.extend(others);
        }
        let until = Instant::now() + self.timeout.std();
        Read::Done(self.place(&one.name, one.state, |archive| {
            let what = self.by_appliance(appliance, &file_systems, archive, until)?;
            one.ensure_rests(context)?;
            Ok(what)
        }))
    }

    /// Creates an archive, as a guest would, of the path on the first of these file systems that
    /// has it.
    fn by_appliance(
        &self,
        appliance: &mut Appliance,
        file_systems: &[(String, String)],
        archive: &mut std::fs::File,
        until: Instant,
    ) -> Result<What> {
        const KIND: u32 = 0o170_000;
        let from = self.from.as_str();
        let real = self.find(appliance, file_systems, until)?;
        if appliance.entry(from.trim_end_matches('/'), until)?.mode & KIND == 0o120_000 {
            bail!("{from} is a link in its guest: name its target instead");
        }
        let entry = appliance.entry(&real, until)?;
        match entry.mode & KIND {
            0o040_000 => {
                let most = self.most_in_archive();
                appliance.archive(&real, archive, most, until)?;
                Ok(What::Directory)
            }
            0o100_000 => {
                ensure!(
                    entry.size <= self.most.0,
                    Fault::new(Kind::Failed, "it contains more than allowed")
                        .hint("raise the limit with --max-size")
                );
                let mut content = tempfile::tempfile_in(&self.to)?;
                appliance.content(&real, &mut content, entry.size, until)?;
                let size = content.metadata()?.len();
                let mut header = Header::new_gnu();
                header.set_size(size);
                header.set_mode(entry.mode & 0o777);
                let called = self.from.file_name().context("it has no name")?;
                let mut whole = Builder::new(archive);
                whole.append_data(&mut header, called, FromStart::of(&content))?;
                whole.finish()?;
                Ok(What::File)
            }
            _ => bail!("{from} is neither a file nor a directory in its guest"),
        }
    }

    /// Mounts the first of these file systems that has the path, and returns the path without
    /// links.
    fn find(
        &self,
        appliance: &mut Appliance,
        file_systems: &[(String, String)],
        until: Instant,
    ) -> Result<String> {
        let mut failed = None;
        for (device, kind) in file_systems {
            if ["swap", "unknown"].contains(&&**kind) {
                continue;
            }
            if let Err(error) = appliance.mount(device, until) {
                if appliance.has_ended() {
                    return Err(error);
                }
                failed = Some(error.context("a file system of its disk cannot be read"));
            } else if let Some(real) = appliance.real_path(self.from.as_str(), until)? {
                return Ok(real);
            }
        }
        let missing = || anyhow!("there is no {} on its disk", self.from);
        Err(failed.unwrap_or_else(missing))
    }

    fn most_in_archive(&self) -> u64 {
        self.most.0.saturating_add(super::collect::HEADERS)
    }
}
