//! What every command stands on: configuration, paths, the hypervisor and the time, each settled
//! once.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Once, OnceLock};
use std::time::Instant;

use anyhow::Result;
use jiff::Timestamp;

use crate::accelerator::{self, Accelerator};
use crate::cli::Global;
use crate::config::{AcceleratorChoice, Config};
use crate::env::Overrides;
use crate::hypervisor::Hypervisor;
use crate::interrupt;
use crate::output::Output;
use crate::paths::Paths;

/// The surroundings of a command.
#[derive(Debug)]
pub struct Context {
    /// The checked configuration.
    pub config: Arc<Config>,
    /// Every path, with the environment's overrides.
    pub paths: Paths,
    /// Where words go.
    pub output: Output,
    began: (Timestamp, Instant),
    accelerator: AcceleratorChoice,
    uri: String,
    warned: Arc<Once>,
    warned_of_cpu: Arc<Once>,
    hypervisor: OnceLock<Hypervisor>,
    stop: OnceLock<Arc<AtomicBool>>,
}

impl Context {
    /// Settles everything by the contract's precedence: option, environment, file, default.
    pub fn new(global: &Global, output: Output, now: Timestamp) -> Result<Context> {
        let overrides = Overrides::read()?;
        let config = Config::load(global.config.as_deref().or(overrides.config.as_deref()))?;
        let host = &config.host;
        let paths = Paths::new(
            overrides.storage_dir.as_ref().unwrap_or(&host.storage_dir),
            overrides.state_dir.as_ref().unwrap_or(&host.state_dir),
            overrides.output_dir.as_ref().unwrap_or(&host.output_dir),
        )?;
        Ok(Context {
            paths,
            output,
            began: (now, Instant::now()),
            accelerator: overrides.accelerator.unwrap_or(host.accelerator),
            uri: global
                .connect
                .clone()
                .or(overrides.connect)
                .unwrap_or_else(|| host.connect.clone()),
            config: Arc::new(config),
            warned: Arc::new(Once::new()),
            warned_of_cpu: Arc::new(Once::new()),
            hypervisor: OnceLock::new(),
            stop: OnceLock::new(),
        })
    }

    /// The same for work beside this: with a connection of its own to the hypervisor, so that
    /// neither waits for a call of the other.
    pub fn beside(&self) -> Context {
        Context {
            config: Arc::clone(&self.config),
            paths: self.paths.clone(),
            output: self.output.clone(),
            began: self.began,
            accelerator: self.accelerator,
            uri: self.uri.clone(),
            warned: Arc::clone(&self.warned),
            warned_of_cpu: Arc::clone(&self.warned_of_cpu),
            hypervisor: OnceLock::new(),
            stop: self.stop.clone(),
        }
    }

    /// The time. The clock was read once, when the command began; what went by since then is
    /// counted, so that a clock that jumps meanwhile does no harm.
    pub fn time(&self) -> Timestamp {
        let (now, instant) = self.began;
        now + instant.elapsed()
    }

    /// The hypervisor, connected on first use.
    pub fn hypervisor(&self) -> Result<&Hypervisor> {
        if let Some(open) = self.hypervisor.get() {
            return Ok(open);
        }
        let open = Hypervisor::open(&self.uri)?;
        Ok(self.hypervisor.get_or_init(|| open))
    }

    /// A flag that is raised when the program is asked to end. From the first call on, signals do
    /// nothing but that.
    pub fn interrupted(&self) -> Result<&AtomicBool> {
        if let Some(stop) = self.stop.get() {
            return Ok(stop);
        }
        let stop = interrupt::flag()?;
        Ok(self.stop.get_or_init(|| stop))
    }

    /// The accelerator for a new guest.
    pub fn accelerator(&self) -> Result<Accelerator> {
        Ok(accelerator::choose(self.accelerator, accelerator::Host::probe())?.0)
    }

    /// Says, once, that what is about to run will be slow, where it will be for want of hardware
    /// virtualisation.
    pub fn warn_of_emulation(&self) {
        let chosen = accelerator::choose(self.accelerator, accelerator::Host::probe());
        if let Ok((_, Some(warning))) = chosen {
            self.warned.call_once(|| self.output.warn(&warning));
        }
    }

    /// Says, once, that nothing can be held back here.
    pub fn warn_of_no_cpu_control(&self) {
        self.warned_of_cpu.call_once(|| {
            self.output
                .warn("this hypervisor cannot limit CPU time: idle instances keep all of theirs");
        });
    }
}
