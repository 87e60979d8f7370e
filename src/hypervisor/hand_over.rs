//! Input for a program that waits in a guest whose memory was restored. To start one would take most
//! of the time there, under software emulation.

use std::thread::sleep;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Domain;
use super::agent::{INTERVAL, Silence};
use super::answer::{Trouble, words};
use crate::secret::Secret;

/// What the program says when it has done its work.
const DONE: &[u8] = b"done\n";

/// The longest answer, in bytes.
const LONGEST: usize = 1000;

/// A program that waits in a guest.
#[derive(Debug)]
pub struct Waiting {
    /// The named pipe that it reads from.
    pub inbox: &'static str,
    /// The file where it answers.
    pub answer: &'static str,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Read {
    buf_b64: String,
}

impl Domain {
    /// Gives `input` to the program that waits in its guest, as soon as there is an agent, and waits
    /// for its answer until the deadline; `false` if no program waits. An error if it did not do its
    /// work.
    pub fn hand_over(&self, to: &Waiting, input: &Secret, until: Instant) -> Result<bool> {
        let go_on = || {
            ensure!(
                Instant::now() + INTERVAL < until,
                "its guest agent did not answer in time"
            );
            sleep(INTERVAL);
            Ok(())
        };
        // For reading as well, which waits for no reader.
        let open = |path: &str, mode: &str| -> Result<i64, Silence> {
            let arguments = json!({"path": path, "mode": mode});
            self.ask_until("guest-file-open", &arguments, until)
        };
        let pipe = loop {
            match open(to.inbox, "r+") {
                Ok(pipe) => break pipe,
                Err(Silence::Absent | Silence::Trouble(Trouble::Mute)) => go_on()?,
                Err(Silence::Disabled | Silence::Refused(_)) => return Ok(false),
                Err(silence) => bail!("asking its guest agent failed: {silence}"),
            }
        };
        let told = |command, mut arguments: Value, handle: i64| {
            arguments["handle"] = handle.into();
            self.ask_until::<Value>(command, &arguments, until)
        };
        let written = json!({"buf-b64": BASE64_STANDARD.encode(input.reveal())});
        let given = told("guest-file-write", written, pipe)
            .and_then(|_| told("guest-file-close", json!({}), pipe));
        if let Err(silence) = given {
            bail!("its guest agent cannot give a program its input: {silence}");
        }
        let file = loop {
            match open(to.answer, "r") {
                Ok(file) => break file,
                // Not yet.
                Err(Silence::Absent | Silence::Refused(_) | Silence::Trouble(Trouble::Mute)) => {
                    go_on()?
                }
                Err(silence) => bail!("asking its guest agent failed: {silence}"),
            }
        };
        let most = json!({"handle": file, "count": LONGEST});
        let answer = match self.ask_until::<Read>("guest-file-read", &most, until) {
            Ok(read) => BASE64_STANDARD.decode(read.buf_b64)?,
            Err(silence) => bail!("a program in the guest did not answer: {silence}"),
        };
        // Nothing depends on it: the agent would keep the file open.
        let _ = told("guest-file-close", json!({}), file);
        ensure!(
            answer == DONE,
            "{}",
            words(&String::from_utf8_lossy(&answer))
        );
        Ok(true)
    }
}
