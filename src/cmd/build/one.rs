//! The build of one lab: render, decide whether anything is to be done, run Packer, put the results
//! in their places.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::directory::{self, PUBLIC, PUBLIC_DIRECTORY};
use super::progress::Progress;
use crate::accelerator::Accelerator;
use crate::config::Lab;
use crate::context::Context;
use crate::domain::standalone_xml;
use crate::error::{Kind, kind_of};
use crate::files;
use crate::images;
use crate::images::base::{self, Installation};
use crate::packer::render;
use crate::packer::source::Source;
use crate::packer::{Packer, result, run};
use crate::state::lock::{self, Lock};
use crate::units::MIB;

/// Room for a build beside three times its cloud image: what the packages take, and the copies that
/// are made of the result.
const ROOM_FOR_BUILD: u64 = 2048 * MIB;

/// More CPUs than this do not make package managers faster.
const MOST_CPUS: usize = 4;

/// What became of a lab.
pub struct Outcome {
    pub result: &'static str,
    pub took: Duration,
    pub rendered: PathBuf,
    pub image: Option<PathBuf>,
    pub domain_xml: Option<PathBuf>,
    pub metadata: Option<PathBuf>,
}

/// What the builds of one command share.
pub struct Common<'a> {
    pub context: &'a Context,
    pub accelerator: Accelerator,
    /// `None` in a dry run without Packer.
    pub packer: Option<Packer>,
    pub dry_run: bool,
    pub force: bool,
    pub stop: Arc<AtomicBool>,
}

impl Common<'_> {
    /// Builds `lab` where that is needed.
    pub fn build(&self, lab: &Lab) -> Result<Outcome> {
        let began = Instant::now();
        let paths = &self.context.paths;
        let lock = Lock::take(
            &paths.lab_lock(&lab.lab_id),
            &format!("lab {}", lab.lab_id),
            lock::PATIENCE,
        )?;
        if self.stop.load(std::sync::atomic::Ordering::Relaxed) {
            anyhow::bail!("interrupted before it began");
        }
        let rendered =
            render::lab_files(lab, self.packer.as_ref().is_none_or(Packer::wants_plugins));
        let source = Source::of(lab)?;
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST_CPUS));
        let variables = render::variables(lab, self.accelerator, cpus);
        files::make_directory(paths.output(), PUBLIC_DIRECTORY)?;
        directory::fill(
            &paths.build_dir(&lab.lab_id),
            &rendered,
            &variables,
            &source,
        )?;

        let packer = match &self.packer {
            Some(packer) if !self.dry_run => packer,
            _ => return Ok(self.outcome(lab, "rendered", began)),
        };
        base::adopt(paths, &lab.lab_id, &lock)?;
        let tools = [format!("packer {}", packer.version)];
        let fingerprint = render::fingerprint(lab, &rendered, &source.identity, &tools);
        if !self.force && self.is_current(lab, &fingerprint)? {
            return Ok(self.outcome(lab, "unchanged", began));
        }
        self.make(lab, packer, &source, fingerprint)?;
        Ok(self.outcome(lab, "built", began))
    }

    fn outcome(&self, lab: &Lab, result: &'static str, began: Instant) -> Outcome {
        let paths = &self.context.paths;
        let made = |path: PathBuf| (result != "rendered").then_some(path);
        Outcome {
            result,
            took: began.elapsed(),
            rendered: paths.build_dir(&lab.lab_id),
            image: made(paths.built_image(&lab.lab_id)),
            domain_xml: made(paths.built_domain(&lab.lab_id)),
            metadata: made(paths.built_metadata(&lab.lab_id)),
        }
    }

    /// Whether the current base was made from just this, and all that a build leaves is there.
    fn is_current(&self, lab: &Lab, fingerprint: &str) -> Result<bool> {
        let paths = &self.context.paths;
        let base = match base::current(paths, &lab.lab_id) {
            Err(error) if kind_of(&error) == Kind::NotFound => return Ok(false),
            found => found?,
        };
        let Some(note) = base::note(&base) else {
            return Ok(false);
        };
        let whole = std::fs::metadata(&base.path).is_ok_and(|file| file.len() == note.size_bytes);
        let described = std::fs::read(paths.built_metadata(&lab.lab_id))
            .is_ok_and(|metadata| result::is_about(&metadata, &base.build));
        if !whole
            || !described
            || note.fingerprint.as_deref() != Some(fingerprint)
            || !paths.built_image(&lab.lab_id).exists()
        {
            return Ok(false);
        }
        // It may have changed without the image: memory, CPUs, network.
        self.write_domain(lab)?;
        Ok(true)
    }

    fn write_domain(&self, lab: &Lab) -> Result<()> {
        let paths = &self.context.paths;
        let image = paths.built_image(&lab.lab_id);
        let image = image
            .to_str()
            .with_context(|| format!("{} is not valid Unicode", image.display()))?;
        let xml = standalone_xml(lab, image, self.accelerator)?;
        // It has a console password.
        files::replace(
            &paths.built_domain(&lab.lab_id),
            xml.as_bytes(),
            files::PRIVATE,
        )?;
        Ok(())
    }

    fn make(&self, lab: &Lab, packer: &Packer, source: &Source, fingerprint: String) -> Result<()> {
        let paths = &self.context.paths;
        let started = self.context.time();
        self.context.warn_of_emulation();
        let directory = paths.build_dir(&lab.lab_id);
        let base_images = paths.base_images();
        files::make_directory(&base_images, files::PASSABLE_DIRECTORY)?;
        let cache = paths.download_cache(rustix::process::geteuid().as_raw());
        // One by one: neither may be a link.
        for place in cache.parent().into_iter().chain([&*cache]) {
            files::make_directory(place, files::SHARED_DIRECTORY)?;
        }
        for place in [&directory, &base_images, &cache] {
            images::require_room(place, 3 * source.size + ROOM_FOR_BUILD, "a build")?;
        }
        // Left by a build that was killed while it put its image there.
        files::remove(&paths.new_base(&lab.lab_id))?;

        let build = run::Build {
            directory: &directory,
            log: &paths.build_log(&lab.lab_id),
            cache: &cache,
        };
        let progress = Progress::begin(&self.context.output, &lab.lab_id);
        let done = build.run(packer, &self.stop, |stage| progress.stage(stage));
        let finished = done.and_then(|()| {
            progress.stage("Checking the image");
            self.finish(lab, packer, source, fingerprint, started)
        });
        files::remove(&directory.join("out"))?;
        finished
    }

    /// Puts what Packer made into its places: first the base, then what describes it. Where the
    /// second part is missing, the next build does not find the lab unchanged.
    fn finish(
        &self,
        lab: &Lab,
        packer: &Packer,
        source: &Source,
        fingerprint: String,
        started: jiff::Timestamp,
    ) -> Result<()> {
        let paths = &self.context.paths;
        let directory = paths.build_dir(&lab.lab_id);
        let built = directory.join("out/lab.qcow2");
        let info = result::check(&built)?;
        let sha256 = images::sha256(&built)?;
        let finished = self.context.time();
        let installation = Installation {
            lab: &lab.lab_id,
            sha256: &sha256,
            at: finished,
        };
        let metadata = result::Facts {
            lab,
            image: &info,
            sha256: &sha256,
            fingerprint: &fingerprint,
            build: &installation.build(),
            source_image: &lab.image.url.to_string(),
            source_sha256: source.sha256(lab)?,
            installed: &fs_err::read_to_string(directory.join("installed"))?,
            started,
            finished,
            packer: &packer.version,
        }
        .to_json()?;

        base::install(paths, &installation, &built, &fingerprint)?;
        let image = paths.built_image(&lab.lab_id);
        fs_err::set_permissions(&built, Permissions::from_mode(PUBLIC))?;
        fs_err::File::open(&built)?.sync_all()?;
        fs_err::rename(&built, &image)?;
        files::replace(&paths.built_metadata(&lab.lab_id), &metadata, PUBLIC)?;
        self.write_domain(lab)
    }
}
