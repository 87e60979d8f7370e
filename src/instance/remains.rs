//! Everything that belongs to an instance on this host, even if its VM or its disk is missing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;

use super::disk;
use super::references::References;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::files;
use crate::hypervisor::xml::domain;
use crate::hypervisor::{Detail, Facts, Hypervisor};
use crate::images;
use crate::names::InstanceName;
use crate::paths::Paths;
use crate::state::activity;

/// What exists of an instance.
#[derive(Debug)]
pub struct Remains {
    pub name: InstanceName,
    /// Its domain.
    pub facts: Option<Facts>,
    /// Its disk.
    pub overlay: bool,
    /// Files with saved memory, of the domain or of a former one.
    pub memory: Vec<PathBuf>,
    /// Other files left by an interrupted command.
    pub rest: Vec<PathBuf>,
    /// An earlier cleanup began to destroy it, and it was not used since then.
    pub half_destroyed: bool,
}

impl Remains {
    /// What exists of `name`; `None` if nothing does.
    pub fn find(context: &Context, name: &InstanceName) -> Result<Option<Remains>> {
        if !context.scope().covers(name) {
            return Ok(None);
        }
        let hypervisor = context.hypervisor()?;
        // A foreign domain does not count; it is an error when the remains are acted on.
        let facts = match hypervisor.find(name) {
            Ok(Some(domain)) => domain.facts(Detail::Power)?,
            _ => None,
        };
        let memory = memory_files(hypervisor)?.remove(name).unwrap_or_default();
        let remains = Remains::gather(context, name.clone(), facts, memory);
        Ok((!remains.is_empty()).then_some(remains))
    }

    /// The remains of all instances in scope, by name.
    pub fn all(context: &Context) -> Result<Vec<Remains>> {
        let paths = &context.paths;
        // Report first if the user may not use libvirt, rather than which directory is unreadable
        // as well.
        let hypervisor = context.hypervisor()?;
        let mut facts: BTreeMap<InstanceName, Option<Facts>> = BTreeMap::new();
        for directory in [paths.user_instances(), paths.records(), paths.marks()] {
            for file in files::names_in(&directory)? {
                if let Some(name) = Paths::instance_of(&file) {
                    facts.insert(name, None);
                }
            }
        }
        let mut memory = memory_files(hypervisor)?;
        facts.extend(memory.keys().map(|name| (name.clone(), None)));
        for (name, of_domain) in hypervisor.survey(Detail::Power)? {
            facts.insert(name, Some(of_domain));
        }
        facts.retain(|name, _| context.scope().covers(name));
        let gathered = facts.into_iter().map(|(name, facts)| {
            let memory = memory.remove(&name).unwrap_or_default();
            Remains::gather(context, name, facts, memory)
        });
        Ok(gathered.filter(|remains| !remains.is_empty()).collect())
    }

    fn gather(
        context: &Context,
        name: InstanceName,
        facts: Option<Facts>,
        memory: Vec<PathBuf>,
    ) -> Remains {
        let paths = &context.paths;
        let is_there = |path: &PathBuf| path.symlink_metadata().is_ok();
        let mark = paths.destroying(&name);
        let half_destroyed = activity::last(&mark)
            .is_some_and(|marked| activity::last(&paths.activity(&name)) <= Some(marked));
        let rest = [
            paths.new_overlay(&name),
            paths.forked_memory(&name),
            paths.record(&name),
            mark,
        ];
        Remains {
            facts,
            overlay: is_there(&paths.overlay(&name)),
            memory,
            rest: rest.into_iter().filter(is_there).collect(),
            half_destroyed,
            name,
        }
    }

    fn is_empty(&self) -> bool {
        self.facts.is_none() && !self.overlay && self.memory.is_empty() && self.rest.is_empty()
    }

    /// What is left, if there is no VM any more.
    pub fn leftover(&self) -> &'static str {
        match (self.overlay, self.memory.is_empty()) {
            (true, _) => "a disk without a VM",
            (false, false) => "saved memory without a VM",
            (false, true) => "files left by an interrupted command",
        }
    }

    /// The space that destroying it frees, in bytes.
    pub fn bytes(&self, paths: &Paths) -> u64 {
        let overlay = paths.overlay(&self.name);
        let files = self.memory.iter().chain(&self.rest).chain([&overlay]);
        files.filter_map(|file| images::allocated(file)).sum()
    }

    /// Fails if any of it belongs, or may belong, to something else.
    pub fn ensure_ours(&self, context: &Context, references: &References) -> Result<()> {
        let (name, overlay) = (&self.name, context.paths.overlay(&self.name));
        let hypervisor = context.hypervisor()?;
        if let Some(domain) = hypervisor.find(name)? {
            // Its running definition may have other disks than its stored one.
            return [domain.xml()?, domain.stored_xml()?]
                .iter()
                .try_for_each(|xml| disk::ensure_own(context, name, xml));
        }
        if self.overlay {
            references.ensure_free(&overlay)?;
        }
        for file in &self.memory {
            let owner = hypervisor.saved_memory_owner(file);
            if !owner.is_some_and(domain::is_ours) {
                let file = file.display();
                let message =
                    format!("it is unclear which instance the saved memory {file} belongs to");
                let hint = "check that file and remove it by hand";
                return Err(Fault::new(Kind::Conflict, message).hint(hint).into());
            }
        }
        Ok(())
    }
}

/// Files with saved memory, by the instance that they are named after.
fn memory_files(hypervisor: &Hypervisor) -> Result<BTreeMap<InstanceName, Vec<PathBuf>>> {
    let mut files: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let Some(directory) = hypervisor.saved_memory_directory() else {
        return Ok(files);
    };
    // Only root can read this directory; libvirt itself removes the file of a domain.
    for file in files::names_in(&directory).unwrap_or_default() {
        if let Some(name) = Hypervisor::saved_memory_name(&file).and_then(|name| name.parse().ok())
        {
            files.entry(name).or_default().push(directory.join(file));
        }
    }
    Ok(files)
}
