//! Runs commands in a guest, through its agent. Its answers are limited in size and in time.

use std::iter::successors;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::agent::Silence;
use super::answer::{Begun, ExecStatus, Ran, Trouble, returned};
use super::{Domain, job};
use crate::error::{Fault, Kind};

/// How long the agent of a busy guest may take to answer to one call.
const CALL: Duration = Duration::from_secs(60);

/// How long libvirt waits for an agent to answer a ping, in seconds.
const LIBVIRTS_PATIENCE: i32 = 5;

/// The maximum size of an answer, in bytes: libvirt passes on no text of 4 MiB.
const LARGEST: usize = 4 << 20;

/// How long to wait before it is first checked whether a command has ended; longer each time.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How long to wait before each check whether a command has ended.
pub(super) fn pauses() -> impl Iterator<Item = Duration> {
    successors(Some(SHORTEST_PAUSE), |pause| {
        Some(LONGEST_PAUSE.min(*pause * 2))
    })
}

/// The deadline of an operation in a guest, and what else ends it.
#[derive(Debug, Clone, Copy)]
pub struct Patience<'a> {
    /// When it is over.
    pub until: Instant,
    /// Set when we are interrupted.
    pub stop: &'a AtomicBool,
}

impl Patience<'_> {
    /// Fails if it is over; `what` is the operation that did not end.
    pub fn check(&self, what: &str) -> Result<()> {
        ensure!(!self.stop.load(Ordering::Relaxed), "interrupted");
        ensure!(Instant::now() < self.until, "{what} took too long");
        Ok(())
    }
}

impl From<Silence> for anyhow::Error {
    fn from(silence: Silence) -> Self {
        match silence {
            Silence::Absent => Fault::new(Kind::Unavailable, "its guest has no agent that runs")
                .hint("wait until it has booted; a base image that was made by hand needs qemu-guest-agent")
                .into(),
            Silence::Disabled => Fault::new(Kind::Unavailable, "its guest's agent runs no commands")
                .hint("allow guest-exec and guest-file-open in the guest's qemu-ga configuration")
                .into(),
            Silence::Refused(why) => anyhow!("its guest's agent refused: {why}"),
            Silence::Trouble(Trouble::Nonsense) => anyhow!("its guest's agent sends invalid \
                                                            answers"),
            Silence::Trouble(_) => anyhow!("its guest's agent does not answer"),
        }
    }
}

impl Domain {
    /// Runs a program in the guest, as root, with these arguments and no input.
    pub fn run_in_guest(&self, program: &[&str], patience: Patience) -> Result<Ran> {
        let running = self.begin_in_guest(program, patience)?;
        let mut pauses = pauses();
        loop {
            if let Some(ran) = running.look(patience.until)? {
                return Ok(ran);
            }
            patience.check("the command")?;
            sleep(pauses.next().unwrap_or(LONGEST_PAUSE));
        }
    }

    /// Starts a program in the guest, as root, with these arguments and no input.
    pub(super) fn begin_in_guest(
        &self,
        program: &[&str],
        patience: Patience,
    ) -> Result<Running<'_>> {
        patience.check("starting a command")?;
        let (path, arguments) = program.split_first().context("no program is named")?;
        let arguments = json!({"path": path, "arg": arguments, "capture-output": true});
        self.be_patient();
        let begun = self.call("guest-exec", &arguments, patience.until);
        let Begun { pid } = begun.map_err(anyhow::Error::from).context("guest-exec")?;
        Ok(Running { domain: self, pid })
    }

    /// Restores libvirt's own time to wait for the agent, which may have been shortened for a query
    /// about its use.
    fn be_patient(&self) {
        self.within(CALL, |domain| {
            job::wait_for_agent(domain, LIBVIRTS_PATIENCE)
        });
    }

    fn call<T: DeserializeOwned>(
        &self,
        command: &str,
        arguments: &Value,
        until: Instant,
    ) -> Result<T, Silence> {
        let question = json!({"execute": command, "arguments": arguments});
        let until = until.min(Instant::now() + CALL);
        Ok(returned(
            &self.agent(&question.to_string(), until)?,
            LARGEST,
        )?)
    }
}

/// A program that was started in a guest.
#[derive(Debug)]
pub(super) struct Running<'a> {
    domain: &'a Domain,
    pid: i64,
}

impl Running<'_> {
    /// Its result if it has ended; otherwise, or if the guest is too busy to answer, `None`.
    pub(super) fn look(&self, until: Instant) -> Result<Option<Ran>> {
        let asked = self
            .domain
            .call("guest-exec-status", &json!({"pid": self.pid}), until);
        match asked.and_then(|status: ExecStatus| Ok(status.ended()?)) {
            Ok(ran) => Ok(ran),
            Err(Silence::Trouble(Trouble::Mute)) => Ok(None),
            Err(silence) => Err(silence.into()),
        }
    }
}
