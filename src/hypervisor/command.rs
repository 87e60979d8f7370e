//! Runs commands and transfers files in a guest, through its agent. Its answers are limited in size
//! and in time.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::agent::Silence;
use super::answer::{Begun, ExecStatus, Piece, Ran, Trouble, Written, returned};
use super::{Domain, job};
use crate::error::{Fault, Kind};

/// How long the agent of a busy guest may take to answer to one call.
const CALL: Duration = Duration::from_secs(60);

/// How long libvirt waits for an agent to answer a ping, in seconds.
const LIBVIRTS_PATIENCE: i32 = 5;

/// The maximum size of an answer, in bytes: libvirt passes on no text of 4 MiB.
const LARGEST: usize = 4 << 20;

/// How much of a file is read in one call, in bytes; a third more as text.
const PIECE: usize = 192 << 10;

/// How much is sent to the guest in one call: the agent never answers a text of some 200 KiB.
const SENT: usize = 32 << 10;

/// How often to check whether a command has ended; less often the longer it takes.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

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
        let (path, arguments) = program.split_first().context("no program is named")?;
        let arguments = json!({"path": path, "arg": arguments, "capture-output": true});
        patience.check("the command")?;
        self.be_patient();
        let Begun { pid } = self.have("guest-exec", &arguments, patience)?;
        let mut interval = INTERVALS.0;
        loop {
            let asked = self.call("guest-exec-status", &json!({"pid": pid}), patience.until);
            match asked.and_then(|status: ExecStatus| Ok(status.ended()?)) {
                Ok(Some(ran)) => return Ok(ran),
                // The guest may be busy with the command.
                Ok(None) | Err(Silence::Trouble(Trouble::Mute)) => {}
                Err(silence) => return Err(silence.into()),
            }
            patience.check("the command")?;
            sleep(interval);
            interval = INTERVALS.1.min(interval * 2);
        }
    }

    /// Writes the content of `content` to a file in the guest.
    pub fn write_in_guest(
        &self,
        path: &str,
        content: &mut impl Read,
        patience: Patience,
    ) -> Result<()> {
        let handle = self.open_in_guest(path, "w", patience)?;
        let mut piece = Vec::new();
        loop {
            piece.clear();
            content.take(SENT as u64).read_to_end(&mut piece)?;
            let mut rest = piece.as_slice();
            while !rest.is_empty() {
                patience.check("sending files to its guest")?;
                let data = json!({"handle": handle, "buf-b64": BASE64_STANDARD.encode(rest)});
                let Written { count } = self.have("guest-file-write", &data, patience)?;
                rest = rest
                    .get(count..)
                    .filter(|_| count > 0)
                    .ok_or(Silence::Trouble(Trouble::Nonsense))?;
            }
            if piece.len() < SENT {
                break;
            }
        }
        self.close_in_guest(handle, patience)
    }

    /// Reads a file of the guest, of at most `most` bytes, into `sink`.
    pub fn read_in_guest(
        &self,
        path: &str,
        most: u64,
        sink: &mut impl Write,
        patience: Patience,
    ) -> Result<()> {
        let handle = self.open_in_guest(path, "r", patience)?;
        let (mut total, mut empty) = (0, 0);
        loop {
            patience.check("reading files from its guest")?;
            let arguments = json!({"handle": handle, "count": PIECE});
            let piece: Piece = self.have("guest-file-read", &arguments, patience)?;
            let bytes = piece.bytes(PIECE).map_err(Silence::from)?;
            total += bytes.len() as u64;
            // An agent that sends empty pieces would keep us here until the deadline.
            empty = if bytes.is_empty() { empty + 1 } else { 0 };
            ensure!(
                total <= most && empty < 100,
                "its guest's agent sends invalid answers"
            );
            sink.write_all(&bytes)?;
            if piece.eof {
                break;
            }
        }
        self.close_in_guest(handle, patience)
    }

    fn open_in_guest(&self, path: &str, mode: &str, patience: Patience) -> Result<i64> {
        let arguments = json!({"path": path, "mode": mode});
        self.have("guest-file-open", &arguments, patience)
    }

    fn close_in_guest(&self, handle: i64, patience: Patience) -> Result<()> {
        let arguments = json!({"handle": handle});
        let _: Value = self.have("guest-file-close", &arguments, patience)?;
        Ok(())
    }

    /// Restores libvirt's own time to wait for the agent, which may have been shortened for a query
    /// about its use.
    fn be_patient(&self) {
        self.within(CALL, |domain| {
            job::wait_for_agent(domain, LIBVIRTS_PATIENCE)
        });
    }

    /// The answer of the agent to a command; no answer is an error.
    fn have<T: DeserializeOwned>(
        &self,
        command: &'static str,
        arguments: &Value,
        patience: Patience,
    ) -> Result<T> {
        let answer = self.call(command, arguments, patience.until);
        answer.map_err(anyhow::Error::from).context(command)
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
