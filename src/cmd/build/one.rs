//! The build of one lab: render, decide whether anything is to be done, run Packer, put the results
//! in their places.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::accelerator::Accelerator;
use crate::config::Lab;
use crate::context::Context;
use crate::domain::standalone_xml;
use crate::files;
use crate::images;
use crate::images::base::{self, Installation};
use crate::packer::render::{self, Files};
use crate::packer::source::Source;
use crate::packer::{Packer, result, run};
use crate::process::Program;
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
        let _lock = Lock::take(
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
        self.write(lab, &rendered, &source)?;

        let packer = match &self.packer {
            Some(packer) if !self.dry_run => packer,
            _ => return Ok(self.outcome(lab, "rendered", began)),
        };
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

    /// Renders everything into the build's directory.
    fn write(&self, lab: &Lab, rendered: &Files, source: &Source) -> Result<()> {
        let directory = self.context.paths.build_dir(&lab.lab_id);
        // What an earlier version rendered must not be copied into the guest.
        for stale in [
            "cyyber",
            "http",
            "plugins.pkr.hcl",
            "installed",
            render::SOURCE_LINK,
        ] {
            files::remove(&directory.join(stale))?;
        }
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST_CPUS));
        let variables = render::variables(lab, self.accelerator, cpus);
        for (path, content) in rendered {
            write_file(&directory.join(path), content)?;
        }
        write_file(&directory.join("lab.auto.pkrvars.json"), &variables)?;
        if let Some(file) = &source.file {
            let link = directory.join(render::SOURCE_LINK);
            symlink(file, &link)
                .with_context(|| format!("failed to make the link {}", link.display()))?;
        }
        let public_key = key(&directory)?;
        write_file(
            &directory.join("http/user-data"),
            &render::build_user_data(&public_key),
        )
    }

    /// Whether the current base was made from just this, and all that a build leaves is there.
    fn is_current(&self, lab: &Lab, fingerprint: &str) -> Result<bool> {
        let paths = &self.context.paths;
        let Ok(base) = base::current(paths, &lab.lab_id) else {
            return Ok(false);
        };
        let Some(note) = base::note(&base) else {
            return Ok(false);
        };
        let whole = std::fs::metadata(&base.path).is_ok_and(|file| file.len() == note.size_bytes);
        let left = [
            paths.built_image(&lab.lab_id),
            paths.built_metadata(&lab.lab_id),
        ];
        if !whole
            || note.fingerprint.as_deref() != Some(fingerprint)
            || !left.iter().all(|path| path.exists())
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
        write_file(&paths.built_domain(&lab.lab_id), xml.as_bytes())
    }

    fn make(&self, lab: &Lab, packer: &Packer, source: &Source, fingerprint: String) -> Result<()> {
        let paths = &self.context.paths;
        let started = self.context.time();
        self.context.warn_of_emulation();
        let directory = paths.build_dir(&lab.lab_id);
        let log = paths.output().join(format!("{}.log", lab.lab_id));
        let base_images = paths.base_images();
        files::make_directory(&base_images, files::PASSABLE_DIRECTORY)?;
        for place in [&directory, &base_images] {
            images::require_room(place, 3 * source.size + ROOM_FOR_BUILD, "a build")?;
        }
        files::remove(&directory.join("out"))?;

        let build = run::Build {
            directory: &directory,
            log: &log,
            cache: &paths.download_cache(),
        };
        let progress = Progress::begin(self.context, lab);
        let done = build.run(packer, &self.stop, |stage| progress.stage(stage));
        let finished = done.and_then(|()| {
            progress.stage("Checking the image");
            self.finish(lab, packer, source, fingerprint, started)
        });
        files::remove(&directory.join("out"))?;
        finished
    }

    /// Puts what Packer made into its places: first all that describes it, last the base, with
    /// which the build counts.
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

        let image = paths.built_image(&lab.lab_id);
        fs_err::set_permissions(&built, std::fs::Permissions::from_mode(0o644))?;
        fs_err::File::open(&built)?.sync_all()?;
        fs_err::rename(&built, &image)?;
        write_file(&paths.built_metadata(&lab.lab_id), &metadata)?;
        self.write_domain(lab)?;
        base::install(paths, &installation, &image, &fingerprint)?;
        Ok(())
    }
}

/// The public half of the build's key, which is made where there is none. It opens a VM that lives
/// for one build, to a port of this machine alone.
fn key(directory: &Path) -> Result<String> {
    let private = directory.join(render::KEY);
    let public = private.with_extension("pub");
    if !private.exists() || !public.exists() {
        files::remove(&private)?;
        let args = ["-q", "-t", "ed25519", "-N", "", "-C", "cyyber-build", "-f"];
        Program::find("ssh-keygen", "openssh-client")?.run(
            args.iter()
                .map(std::ffi::OsStr::new)
                .chain([private.as_os_str()]),
        )?;
    }
    Ok(fs_err::read_to_string(public)?)
}

/// Writes a file as a whole, readable for its owner alone, with the directories above it.
fn write_file(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs_err::create_dir_all(directory)?;
    }
    Ok(files::replace(path, content, files::PRIVATE)?)
}

/// The story of one build: a moving line at a terminal, plain lines elsewhere.
struct Progress<'a> {
    context: &'a Context,
    lab: &'a Lab,
    began: Instant,
    bar: indicatif::ProgressBar,
}

impl<'a> Progress<'a> {
    fn begin(context: &'a Context, lab: &'a Lab) -> Self {
        let bar = context.output.spinner(lab.lab_id.as_str());
        Progress {
            context,
            lab,
            began: Instant::now(),
            bar,
        }
    }

    fn stage(&self, stage: &str) {
        if self.context.output.is_live() {
            self.bar.set_message(stage.to_owned());
        } else {
            let seconds = self.began.elapsed().as_secs();
            self.context
                .output
                .note(&format!("{}: {stage} ({seconds}s)", self.lab.lab_id));
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
