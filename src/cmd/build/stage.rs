//! Stage images, from which labs are built: finds them, builds missing ones, and removes those that
//! no lab uses any more.

use std::path::PathBuf;

use anyhow::Result;
use jiff::Timestamp;

use super::common::{Common, Job};
use super::directory;
use super::plan::{Plan, PlannedStage};
use super::progress::Progress;
use crate::config::{Desktop, Sha256};
use crate::files;
use crate::images;
use crate::images::stages::{self, Note, Stage};
use crate::packer::render::{self, Step};
use crate::packer::result;
use crate::state::lock::Lock;
use crate::units::{MIB, age};

/// Memory of a stage's VM in MiB; installing a desktop needs more.
const MEMORY: u32 = 1024;
const MEMORY_FOR_DESKTOP: u32 = 2048;

/// How many unused stages are kept, for people who try something out and go back.
const KEPT: usize = 1;

impl Common<'_> {
    /// The existing stage, or a new one.
    pub fn stage(&self, planned: &PlannedStage) -> Result<Stage> {
        self.check_interrupt()?;
        let paths = &self.context.paths;
        let name = format!("stage-{}", planned.key);
        let progress = Progress::begin(&self.context.output, &name);
        let lock = |patience| Lock::take(&paths.stage_lock(&planned.key), &name, patience);
        let began = self.context.time();
        let _alone = self.wait_for(lock, &progress)?;
        let found = stages::find(paths, &planned.key);
        // Even with --force, if another command built it while this one waited.
        if let Some(stage) = found.filter(|stage| !self.force || stage.note.made > began) {
            stage.touch();
            return Ok(stage);
        }
        let log = paths.stage_log(&planned.key);
        let note = format!("{name}: the log is {}", log.display());
        self.context.output.note(&note);
        self.context.warn_of_emulation();
        progress.phase("Checking the cloud image");
        let source_sha256 = planned.source.sha256(planned.lab)?;
        let directory = self.render_stage(planned, source_sha256.as_deref())?;
        files::remove(&paths.new_stage(&planned.key))?;
        let job = Job {
            name: &name,
            directory: &directory,
            log: &log,
            storage: &paths.stages(),
            image_size: planned.source.size,
            memory_mb: memory_mb(planned.desktop),
        };
        let done = self.run(&job, &progress, |_| {
            let built = directory.join(render::DISK);
            result::check(&built)?;
            let note = Note {
                made: self.context.time(),
                size_bytes: fs_err::metadata(&built)?.len(),
                sha256: images::sha256(&built)?,
                source_sha256,
            };
            let names = directory.join(render::REPORT);
            stages::install(paths, &planned.key, &built, &names, note)
        });
        done.map_err(|error| match planned.source.file {
            Some(_) => error,
            None => error.context(format!("from {}", planned.lab.image.url)),
        })
    }

    /// Only renders the stage. Skips one that is being built.
    pub fn stage_rendered(&self, planned: &PlannedStage) -> Result<()> {
        if let Some(_alone) = Lock::try_take(&self.context.paths.stage_lock(&planned.key)) {
            let checksum = planned.lab.image.checksum.as_ref();
            self.render_stage(planned, checksum.map(Sha256::digits))?;
        }
        Ok(())
    }

    /// Writes the stage's build directory.
    fn render_stage(&self, planned: &PlannedStage, source_sha256: Option<&str>) -> Result<PathBuf> {
        let directory = self.context.paths.stage_dir(&planned.key);
        let (assets, desktop, size) = (&planned.assets, planned.desktop, planned.disk_size);
        let plugins = self.wants_plugins();
        let rendered = render::stage_files(&self.templates, assets, desktop, plugins);
        let (url, machine) = (
            planned.source.url(planned.lab),
            self.machine(memory_mb(desktop)),
        );
        let variables = render::variables(Step::Stage, url, source_sha256, size, machine);
        let image = planned.source.file.as_deref();
        directory::fill(&directory, &rendered, &variables, image)?;
        Ok(directory)
    }

    /// Removes the stages that no lab of the configuration uses, except those used last.
    pub fn collect_stages(&self, plan: &Plan) -> Result<()> {
        let paths = &self.context.paths;
        let needed: Vec<&str> = plan.stages.iter().map(|stage| stage.key.as_str()).collect();
        for stale in stages::stale(paths, &needed, KEPT)? {
            // Another command may be building labs from it.
            let Some(_alone) = Lock::try_take(&paths.stage_lock(&stale.key)) else {
                continue;
            };
            let freed = stages::remove(paths, &stale.key)?;
            for left in [paths.stage_dir(&stale.key), paths.stage_log(&stale.key)] {
                files::remove(&left)?;
            }
            let unused = if stale.used == Timestamp::UNIX_EPOCH {
                "it was incomplete".to_owned()
            } else {
                let ago = self.context.time().duration_since(stale.used);
                format!("no lab was built from it for {}", age(ago))
            };
            let (key, freed) = (&stale.key, freed / MIB);
            let text = format!("removed unused stage-{key} ({unused}): {freed} MiB freed");
            self.context.output.note(&text);
        }
        Ok(())
    }
}

fn memory_mb(desktop: Desktop) -> u32 {
    match desktop {
        Desktop::None => MEMORY,
        Desktop::Xfce | Desktop::Gnome => MEMORY_FOR_DESKTOP,
    }
}
