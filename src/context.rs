//! What every command needs: configuration, paths, the hypervisor and the time, each resolved once.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::Timestamp;

use crate::accelerator::{self, Accelerator};
use crate::cli::Global;
use crate::clock::Moment;
use crate::cluster::Place;
use crate::config::{AcceleratorChoice, Config, ConnectUri, Policy};
use crate::env::Overrides;
use crate::error::{Fault, Kind};
use crate::files::trust::Trust;
use crate::hypervisor::Hypervisor;
use crate::interrupt;
use crate::names::{InstanceName, LabId, UserId};
use crate::output::Output;
use crate::paths::{Paths, SharedPaths};
use crate::scope::{Scope, missing};
use crate::state::coverage::Coverage;

/// The context of a command.
#[derive(Debug, Clone)]
pub struct Context {
    /// The checked configuration.
    pub config: Arc<Config>,
    /// Every path, with the environment's overrides.
    pub paths: Paths,
    /// The trusted authors of configurations.
    pub trust: Trust,
    /// The output.
    pub output: Output,
    /// The requested accelerator.
    pub accelerator_choice: AcceleratorChoice,
    began: (Moment, Instant),
    uri: ConnectUri,
    who: String,
    scope: Scope,
    /// The messages that were printed already and are printed only once.
    said: Arc<Mutex<BTreeSet<&'static str>>>,
    hypervisor: Arc<OnceLock<Hypervisor>>,
    stop: OnceLock<Arc<AtomicBool>>,
}

impl Context {
    /// Resolves everything by precedence: option, environment, file, default.
    pub fn new(global: &Global, output: Output, now: Moment) -> Result<Context> {
        let (overrides, config) = settings(global)?;
        Context::with(config?, overrides, global, output, now)
    }

    /// The same for checking the host, even if its configuration cannot be used: then the reason,
    /// and a context with the defaults and no labs.
    pub fn of_host(
        global: &Global,
        output: Output,
        now: Moment,
    ) -> Result<(Context, Option<anyhow::Error>)> {
        let (overrides, config) = settings(global)?;
        let (config, broken) = match config {
            Ok(config) => (config, None),
            Err(error) => (Config::default(), Some(error)),
        };
        let context = Context::with(config, overrides, global, output, now)?;
        Ok((context, broken))
    }

    fn with(
        config: Config,
        overrides: Overrides,
        global: &Global,
        output: Output,
        now: Moment,
    ) -> Result<Context> {
        let host = &config.host;
        let state = overrides.state_dir.as_ref().unwrap_or(&host.state_dir);
        // Resolve an administrator's link once. The path of storage_dir stays, because domains and
        // images contain it.
        let real = state.canonicalize().ok().filter(|_| state.is_symlink());
        let storage = overrides.storage_dir.as_ref().unwrap_or(&host.storage_dir);
        let results = overrides.output_dir.as_ref().unwrap_or(&host.output_dir);
        let uri = global.connect.clone().or(overrides.connect);
        let user = global.as_user.clone().or(overrides.as_user);
        let mut paths = Paths::new(storage, real.as_ref().unwrap_or(state), results)?;
        if let Some(cluster) = &config.cluster {
            paths = paths.beside_others(&SharedPaths::new(&cluster.shared_dir));
        }
        Ok(Context {
            paths,
            trust: overrides.trust,
            output,
            began: (now, Instant::now()),
            accelerator_choice: overrides.accelerator.unwrap_or(host.accelerator),
            uri: uri.unwrap_or_else(|| host.connect.clone()),
            who: rustix::process::getuid().as_raw().to_string(),
            scope: user.map_or(Scope::Everyone, Scope::Only),
            config: Arc::new(config),
            said: Arc::default(),
            hypervisor: Arc::default(),
            stop: OnceLock::new(),
        })
    }

    /// A copy for parallel work, with its own connection to the hypervisor, so that neither waits
    /// for a call of the other.
    pub fn for_worker(&self) -> Context {
        Context {
            hypervisor: Arc::default(),
            ..self.clone()
        }
    }

    /// A copy for the whole host, ignoring `--as-user`. Its results must not be shown to that user.
    #[must_use]
    pub fn for_everyone(&self) -> Context {
        Context {
            scope: Scope::Everyone,
            ..self.for_worker()
        }
    }

    /// The time. The clock was read once, when the command started, and the elapsed time is added,
    /// so that setting the clock in the meantime does no harm.
    pub fn time(&self) -> Timestamp {
        self.moment().time
    }

    /// The time, by both clocks.
    pub fn moment(&self) -> Moment {
        let (began, instant) = self.began;
        began.after(instant.elapsed())
    }

    /// The policy of `lab`; for a lab that is no longer configured, the default one.
    pub fn policy(&self, lab: &LabId) -> Policy {
        let lab = self.config.lab(lab);
        lab.map_or_else(|_| Policy::default(), |lab| lab.policy.clone())
    }

    /// A copy for actions of `who`, as in the journal: `reap` or `gateway`.
    #[must_use]
    pub fn acting_as(self, who: &str) -> Context {
        Context {
            who: who.to_owned(),
            ..self
        }
    }

    /// The actor, for the journal: the id of a user, `reap` or `gateway`.
    pub fn who(&self) -> &str {
        &self.who
    }

    /// The role of this machine, if there are several hosts.
    pub fn place(&self) -> Option<Place<'_>> {
        self.config.cluster.as_ref().map(Place::here)
    }

    /// The scope of this command.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The instance of `user` that the command line names. If it is out of scope, it is reported as
    /// missing, whether it exists or not.
    pub fn instance(&self, lab: &LabId, user: &UserId) -> Result<InstanceName> {
        let (lab, user) = (lab.clone(), user.clone());
        let name = InstanceName { lab, user };
        if !self.scope.covers(&name) {
            self.config.lab(&name.lab)?;
            return Err(missing(&name).into());
        }
        Ok(name)
    }

    /// Fails with `--as-user`: `what` acts on the whole host.
    pub fn require_everyone(&self, what: &str) -> Result<()> {
        let Some(user) = self.scope.only() else {
            return Ok(());
        };
        let message =
            format!("`{what}` acts on the whole host and cannot be used for {user} alone");
        let hint = "run it without --as-user and CYYBER_AS_USER";
        Err(Fault::new(Kind::NotFound, message).hint(hint).into())
    }

    /// The hypervisor, connected on first use.
    pub fn hypervisor(&self) -> Result<&Hypervisor> {
        if let Some(open) = self.hypervisor.get() {
            return Ok(open);
        }
        let open = Hypervisor::open(self.uri.as_str(), self.scope.clone())?;
        Ok(self.hypervisor.get_or_init(|| open))
    }

    /// Whether libvirt answers the simplest call within `deadline`, even with an error.
    pub fn libvirt_answers(&self, deadline: Duration) -> bool {
        Hypervisor::answers(self.uri.as_str(), deadline)
    }

    /// A flag that is set on SIGINT or SIGTERM. After the first call, signals only set the flag.
    pub fn interrupted(&self) -> Result<&AtomicBool> {
        if let Some(stop) = self.stop.get() {
            return Ok(stop);
        }
        let stop = interrupt::flag()?;
        Ok(self.stop.get_or_init(|| stop))
    }

    /// Asks for confirmation; anything but a yes ends the command.
    pub fn confirm(&self, lines: &[String], question: &str) -> Result<()> {
        self.output.confirm(lines, question, self.interrupted()?)
    }

    /// The libvirt connection.
    pub fn uri(&self) -> &str {
        self.uri.as_str()
    }

    /// The accelerator for a new guest.
    pub fn accelerator(&self) -> Result<Accelerator> {
        Ok(accelerator::choose(self.accelerator_choice, accelerator::Host::probe())?.0)
    }

    /// Warns, once, that a guest will be slow, if hardware virtualisation is missing.
    pub fn warn_of_emulation(&self) {
        let chosen = accelerator::choose(self.accelerator_choice, accelerator::Host::probe());
        if let Ok((_, Some(warning))) = chosen {
            self.once("emulation", || self.output.warn(&warning));
        }
    }

    fn once(&self, what: &'static str, say: impl FnOnce()) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.insert(what) {
            say();
        }
    }

    /// Warns, once, that other hosts can reach the consoles.
    pub fn warn_of_exposed_console(&self) {
        self.once("console", || {
            let what = "their passwords are weak, and their traffic is not encrypted";
            let text = format!("consoles listen on {}: {what}", self.config.host.vnc_listen);
            self.output.warn(&text);
        });
    }

    /// Warns, once, that instances of `lab` keep running until somebody stops them.
    pub fn warn_of_no_reaper(&self, lab: &LabId) {
        if !self.policy(lab).takes_down() {
            return;
        }
        self.once("reaper", || {
            let gap = match Coverage::read(&self.paths.coverage()) {
                Ok(coverage) => coverage.gap(lab.as_str(), &self.moment()),
                Err(error) => Some(format!("its passes are unknown: {error}")),
            };
            if let Some(why) = gap {
                self.output.warn(&format!(
                    "no reaper covers instances of {lab}, which use memory until they are stopped: \
                     {why}; see `cyyber doctor`"
                ));
            }
        });
    }

    /// Notes, once, that this hypervisor cannot throttle. The reason of each idle instance says so
    /// too.
    pub fn tell_of_no_cpu_control(&self) {
        let text = "this hypervisor cannot limit CPU time: idle instances are not throttled";
        self.once("cpu", || self.output.detail(text));
    }
}

/// The environment's settings, and the configuration that options or the environment name.
fn settings(global: &Global) -> Result<(Overrides, Result<Config>)> {
    let overrides = Overrides::read()?;
    let file = global.config.as_deref().or(overrides.config.as_deref());
    let config = Config::load_trusted(file, overrides.trust);
    Ok((overrides, config))
}
