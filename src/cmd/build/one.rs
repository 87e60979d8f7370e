//! Builds one lab from its stage: renders, runs Packer, installs the results.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;

use super::common::{Common, Job};
use super::directory::{self, PUBLIC};
use super::plan::{self, Plan, PlannedLab};
use super::progress::Progress;
use super::report::Outcome;
use crate::config::{Lab, PackageName};
use crate::error::{Fault, Kind};
use crate::files;
use crate::hypervisor::xml::domain::standalone_xml;
use crate::images;
use crate::images::base::{self, Installation};
use crate::images::stages::{self, Stage};
use crate::inputs::Why;
use crate::packer::archive::{Archive, Unknown};
use crate::packer::render::{self, Step};
use crate::packer::{Packer, result};
use crate::state::lock::{self, Lock};
use crate::text;

/// Memory of a build's VM in MiB: package managers need some, but do not get faster with more.
const LEAST_MEMORY: u32 = 1024;
const MOST_MEMORY: u32 = 4096;

impl Common<'_> {
    /// Only renders the lab.
    pub fn rendered(&self, plan: &Plan, planned: &PlannedLab) -> Result<Outcome> {
        let began = Instant::now();
        let paths = &self.context.paths;
        let _lock = self.lock(planned.lab)?;
        let stage = plan.stage_of(planned)?;
        let there = stages::find(paths, &stage.key);
        if let Some(there) = &there {
            for unknown in self.unknown_packages(there, planned.lab) {
                let note = format!("{}: {unknown}", planned.lab.lab_id);
                self.context.output.warn(&note);
            }
        }
        let checksum = there.as_ref().map(|stage| stage.note.sha256.as_str());
        let directory = self.render_lab(planned, &paths.stage(&stage.key), checksum)?;
        let mut outcome = Outcome::new(planned.lab, "rendered", &planned.why, &stage.key, began);
        outcome.place = Some(directory);
        Ok(outcome)
    }

    /// Builds the lab if needed.
    pub fn build(&self, plan: &Plan, planned: &PlannedLab) -> Result<Outcome> {
        let began = Instant::now();
        let lab = planned.lab;
        let lock = self.lock(lab)?;
        self.check_interrupt()?;
        base::adopt(&self.context.paths, &lab.lab_id, &lock)?;
        let stage = plan.stage_of(planned)?;
        // Another command may have built it since then. Taking the locks in the opposite order
        // would block building its stage.
        let why = match planned.why {
            Why::Unchanged => Why::Unchanged,
            _ => plan::why(self, lab, &planned.inputs)?,
        };
        if why == Why::Unchanged {
            // It may have changed without the image: memory, CPUs, network.
            self.write_domain(lab)?;
            let warm = self.warm(lab);
            let mut outcome = Outcome::new(lab, "unchanged", &why, &stage.key, began);
            outcome.warm = warm;
            return Ok(outcome.with_results(&self.context.paths, lab));
        }
        let progress = Progress::begin(&self.context.output, lab.lab_id.as_str());
        let name = format!("stage-{}", stage.key);
        if stage.done.get().is_none() {
            progress.phase(&format!("Waiting for {name}"));
        }
        let made = stage.done.wait().as_ref().map_err(|fault| {
            let what = format!("failed to build its stage image, {name}");
            anyhow::Error::new(fault.clone()).context(what)
        })?;
        let place = self.context.paths.stage_lock(&stage.key);
        let share = |patience| Lock::share(&place, &name, patience);
        let _in_use = self.wait_for(share, &progress)?;
        self.make(planned, made, &why, &progress)?;
        drop(progress);
        let warm = self.warm(lab);
        let mut outcome = Outcome::new(lab, "built", &why, &stage.key, began);
        outcome.warm = warm;
        outcome.log = Some(self.context.paths.build_log(&lab.lab_id));
        Ok(outcome.with_results(&self.context.paths, lab))
    }

    fn lock(&self, lab: &Lab) -> Result<Lock> {
        let place = self.context.paths.lab_lock(&lab.lab_id);
        Lock::take(&place, &format!("lab {}", lab.lab_id), lock::PATIENCE)
    }

    fn write_domain(&self, lab: &Lab) -> Result<()> {
        let paths = &self.context.paths;
        let image = paths.built_image(&lab.lab_id);
        let xml = standalone_xml(lab, text::path(&image)?, self.accelerator)?;
        let place = paths.built_domain(&lab.lab_id);
        // It contains a console password. Each build writes it again, so losing it does no harm.
        Ok(files::replace_soon(&place, xml.as_bytes(), files::PRIVATE)?)
    }

    /// Writes the lab's build directory.
    fn render_lab(
        &self,
        planned: &PlannedLab,
        stage: &std::path::Path,
        checksum: Option<&str>,
    ) -> Result<PathBuf> {
        let lab = planned.lab;
        let directory = self.context.paths.build_dir(&lab.lab_id);
        let (own, plugins) = (&planned.provisioned, self.wants_plugins());
        let rendered = render::lab_files(lab, &self.templates, own, plugins);
        let (source, machine) = (render::SOURCE_LINK, self.machine(memory_mb(lab)));
        let variables = render::variables(Step::Lab, source, checksum, lab.disk_size, machine);
        directory::fill(&directory, &rendered, &variables, Some(stage))?;
        Ok(directory)
    }

    fn unknown_packages(&self, stage: &Stage, lab: &Lab) -> Vec<Unknown> {
        let report = match stage.report() {
            Ok(report) => report,
            Err(error) => {
                let what = "its packages were not checked before the build";
                let text = format!("{}: {what}: {error}", lab.lab_id);
                self.context.output.warn(&text);
                return Vec::new();
            }
        };
        Archive::of(&report).unknown(lab.packages.iter().map(PackageName::as_str))
    }

    fn make(
        &self,
        planned: &PlannedLab,
        stage: &Stage,
        why: &Why,
        progress: &Progress,
    ) -> Result<()> {
        let (paths, lab) = (&self.context.paths, planned.lab);
        let unknown = self.unknown_packages(stage, lab);
        if !unknown.is_empty() {
            let hint = "correct the name in the lab's packages; if the archive has it only \
                        recently, add --force";
            return Err(Fault::new(Kind::Failed, told(&unknown)).hint(hint).into());
        }
        let started = self.context.time();
        let log = paths.build_log(&lab.lab_id);
        let note = format!("{}: {why}; the log is {}", lab.lab_id, log.display());
        self.context.output.note(&note);
        self.context.warn_of_emulation();
        stage.touch();
        let directory = self.render_lab(planned, &stage.path, Some(&stage.note.sha256))?;
        // Left by a build that was killed while it installed its image.
        files::remove(&paths.new_base(&lab.lab_id))?;
        let job = Job {
            name: lab.lab_id.as_str(),
            directory: &directory,
            log: &log,
            storage: &paths.base_images(),
            image_size: stage.note.size_bytes,
            memory_mb: memory_mb(lab),
        };
        let finish = |packer: &Packer| self.finish(planned, packer, stage, started);
        self.run(&job, progress, finish)
    }

    /// Installs Packer's results: first the base image, then its metadata. If the second part is
    /// missing, the next build does not consider the lab unchanged.
    fn finish(
        &self,
        planned: &PlannedLab,
        packer: &Packer,
        stage: &Stage,
        started: jiff::Timestamp,
    ) -> Result<()> {
        let (paths, lab) = (&self.context.paths, planned.lab);
        let directory = paths.build_dir(&lab.lab_id);
        let built = directory.join(render::DISK);
        let info = result::check(&built)?;
        let sha256 = images::sha256(&built)?;
        let finished = self.context.time();
        let (sha256, at) = (&*sha256, finished);
        let installation = Installation {
            lab: &lab.lab_id,
            sha256,
            at,
        };
        let metadata = result::Description {
            lab,
            image: &info,
            sha256,
            inputs: &planned.inputs,
            build: &installation.build(),
            stage,
            installed: &fs_err::read_to_string(directory.join(render::REPORT))?,
            started,
            finished,
            accelerator: self.accelerator,
            packer: &packer.version,
        }
        .to_json()?;

        base::install(paths, &installation, &built, &planned.inputs)?;
        let image = paths.built_image(&lab.lab_id);
        fs_err::set_permissions(&built, Permissions::from_mode(PUBLIC))?;
        fs_err::File::open(&built)?.sync_all()?;
        fs_err::rename(&built, &image)?;
        files::replace(&paths.built_metadata(&lab.lab_id), &metadata, PUBLIC)?;
        self.write_domain(lab)
    }
}

fn memory_mb(lab: &Lab) -> u32 {
    lab.memory_mb.clamp(LEAST_MEMORY, MOST_MEMORY)
}

/// The errors in package names: missing ones together, the others one by one.
fn told(unknown: &[Unknown]) -> String {
    let (mut missing, mut others) = (Vec::new(), Vec::new());
    for one in unknown {
        match one {
            Unknown::Missing(name) => missing.push(name.as_str()),
            other => others.push(other.to_string()),
        }
    }
    if !missing.is_empty() {
        others.insert(0, format!("no such package: {}", missing.join(" ")));
    }
    others.join("; ")
}
