//! Queries to the guest agent.
//!
//! The guest belongs to a student: its agent may say anything, which [`super::answer`] bounds, and may
//! take any time to say it. libvirt waits for longer than it is told to: before a command it has the
//! agent answer to a call of its own. So deadlines are held here, by the wall clock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::json;
use virt::connect::Connect;
use virt::error::{Error, ErrorNumber};

use super::answer::{Begun, ExecStatus, GuestUse, Login, Trouble, logged_in, returned, words};
use super::{Domain, PendingCall, is, job};
use crate::secret::Secret;

/// How long the guest's agent may take to set the clock, in a guest that has just come back, in seconds.
const CLOCK: i32 = 5;

/// How long it may take to answer to a single question on the use of its guest.
const ANSWER: Duration = Duration::from_secs(1);

/// No honest answer to such a question is larger, in bytes, of hundreds of terminals.
const LARGEST: usize = 64 << 10;

/// How often the agent is asked whether a command has ended.
const INTERVAL: Duration = Duration::from_millis(50);

/// Prints the guest's time, when each terminal was last typed at, and how often keyboard and pointer
/// were heard: the kernel sets a terminal's access time when its input is read, as `w` shows it.
const LOOK: &str = r#"
date +%s
stat -c %X /dev/tty[0-9]* /dev/pts/[0-9]* 2>/dev/null
echo interrupts
grep -E 'i8042|virtio[0-9]+-events' /proc/interrupts
"#;

/// Shows its argument to whoever works in the guest.
const TELL: &str = include_str!("tell.sh");

/// What came of asking.
#[derive(Debug)]
pub enum Answer {
    /// There is no agent.
    Nobody,
    /// This.
    Use(GuestUse),
    /// There is one, and it gave no answer that makes sense. With it what was said, by libvirt or by
    /// the guest: not to be kept.
    None(Trouble, String),
}

/// What came of asking whether it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ping {
    /// It answered.
    Answered,
    /// It did not, or not in time.
    Silent,
    /// There is no agent, or not yet.
    Absent,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Silence {
    /// There is no agent.
    Absent,
    /// It does not run commands.
    Disabled,
    /// It, or libvirt, says why.
    Refused(String),
    /// Another reason.
    Trouble(Trouble),
}

impl std::fmt::Display for Silence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Silence::Absent => "there is none",
            Silence::Disabled => "it does not run commands",
            Silence::Refused(why) => why,
            Silence::Trouble(trouble) => trouble.as_str(),
        })
    }
}

impl From<Trouble> for Silence {
    fn from(trouble: Trouble) -> Self {
        Silence::Trouble(trouble)
    }
}

/// A script to be run in a guest.
#[derive(Debug)]
pub struct Script<'a> {
    /// The program that understands it, and its option for a script on the command line.
    pub interpreter: (&'static str, &'static str),
    /// The script itself: every process of the guest can see it.
    pub text: &'a str,
    /// What it gets on its standard input.
    pub input: Secret,
}

impl Domain {
    /// Whether the agent inside the guest answers within `deadline`.
    pub fn agent_answers(&self, deadline: Duration) -> bool {
        self.ping(deadline) == Ping::Answered
    }

    /// The same, and whether there is an agent at all.
    pub fn ping(&self, deadline: Duration) -> Ping {
        let until = Instant::now() + deadline;
        match self.agent(r#"{"execute":"guest-ping"}"#, until) {
            Ok(_) => Ping::Answered,
            Err(Silence::Absent) => Ping::Absent,
            Err(_) => Ping::Silent,
        }
    }

    /// Has the guest's agent shut the guest down. The agent does not answer to this, so whether it
    /// worked shows in the domain's state alone; libvirt's own call for it would wait a minute for
    /// that.
    pub fn shut_down_by_agent(&self) {
        let _ = self.agent(
            r#"{"execute":"guest-shutdown"}"#,
            Instant::now() + Duration::from_secs(1),
        );
    }

    /// Has the guest's agent set the guest's clock to `now`. A guest does not notice how long its
    /// memory lay on disk; its hardware clock is QEMU's, and went on. The agent's own command for that
    /// would set the hardware clock as well, which takes a second in which the agent hears nobody: so
    /// it runs a program, and where it does not run programs, or has not that one, it gets its command.
    pub fn set_clock(&self, now: Timestamp) -> Result<PendingCall> {
        let (uuid, seconds) = (self.uuid()?, now.as_second());
        let program = json!({"execute": "guest-exec", "arguments": {
            "path": "date", "arg": ["-s", format!("@{seconds}.{:09}", now.subsec_nanosecond())],
        }});
        // In nanoseconds since 1970.
        let own = format!(
            r#"{{"execute":"guest-set-time","arguments":{{"time":{}}}}}"#,
            now.as_nanosecond()
        );
        Ok(self.pool.begin(move |conn| {
            let domain = conn.lookup_domain_by_uuid(uuid)?;
            let told = |command: &str| domain.qemu_agent_command(command, CLOCK, 0).map(drop);
            told(&program.to_string()).or_else(|e| match silence(&e) {
                Silence::Disabled | Silence::Refused(_) => told(&own),
                Silence::Absent | Silence::Trouble(_) => Err(e),
            })
        }))
    }

    /// Asks the guest's agent when its guest was last used, for no longer than `deadline`. The first
    /// time in a run, libvirt is told to wait less for it: by itself it holds one of its workers for
    /// five seconds, also after the deadline.
    pub fn guest_use(&self, deadline: Duration, first: bool) -> Answer {
        let until = Instant::now() + deadline;
        if first && let Ok(uuid) = self.uuid() {
            let patience = i32::try_from(ANSWER.as_secs()).unwrap_or(1);
            let hurry = move |conn: &Connect| {
                job::wait_for_agent(&conn.lookup_domain_by_uuid(uuid)?, patience)
            };
            // One that knows no such call waits as long as it does.
            self.pool.within(ANSWER, hurry);
        }
        let found = match self.look(until) {
            // Guests of some kinds run no commands for us.
            Err(Silence::Disabled) => self.logins(until),
            found => found,
        };
        match found {
            Ok(found) => Answer::Use(found),
            Err(Silence::Absent) => Answer::Nobody,
            Err(Silence::Trouble(trouble)) => Answer::None(trouble, String::new()),
            Err(Silence::Refused(why)) => Answer::None(Trouble::Failed, why),
            Err(Silence::Disabled) => {
                Answer::None(Trouble::Failed, "it does not run commands".to_owned())
            }
        }
    }

    /// Has the guest's agent run `script` as root, as soon as there is an agent, and waits for its end
    /// until then, or until `stop` becomes true.
    pub fn run_script(&self, script: &Script, until: Instant, stop: &AtomicBool) -> Result<()> {
        let (path, option) = script.interpreter;
        let arguments = json!({
            "path": path,
            "arg": [option, script.text],
            "input-data": BASE64_STANDARD.encode(script.input.reveal()),
            "capture-output": true,
        });
        let go_on = |waited: Duration| {
            if stop.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            if Instant::now() + waited > until {
                bail!("its guest agent did not answer in time");
            }
            sleep(waited);
            Ok(())
        };
        let Begun { pid } = loop {
            match self.ask_until("guest-exec", &arguments, until) {
                Ok(begun) => break begun,
                // Not yet: nothing was run.
                Err(Silence::Absent) => go_on(INTERVAL)?,
                Err(silence) => bail!("its guest agent cannot run a script: {silence}"),
            }
        };
        let mut interval = INTERVAL;
        loop {
            let status: Result<ExecStatus, Silence> =
                self.ask("guest-exec-status", &json!({"pid": pid}), until);
            match status.and_then(|status| Ok(status.ended()?)) {
                Ok(Some(ran)) => return ran.succeeded(),
                Ok(None) | Err(Silence::Absent | Silence::Trouble(Trouble::Mute)) => {}
                Err(silence) => bail!("its guest agent does not tell of a script: {silence}"),
            }
            go_on(interval)?;
            interval = (interval * 9 / 8).min(ANSWER);
        }
    }

    /// Has the guest's agent, if there is one, show `text` to whoever works in the guest. It has until
    /// `deadline` to begin with that; how it ends is not waited for.
    pub fn tell_users(&self, text: &str, deadline: Duration) -> Result<()> {
        let arguments = json!({"path": "/bin/sh", "arg": ["-c", TELL, "sh", text]});
        let begun = self.ask_until("guest-exec", &arguments, Instant::now() + deadline);
        match begun.map(|Begun { .. }| ()) {
            Ok(()) | Err(Silence::Absent) => Ok(()),
            Err(silence) => bail!("its guest's agent was asked in vain: {silence}"),
        }
    }

    fn look(&self, until: Instant) -> Result<GuestUse, Silence> {
        let arguments = json!({"path": "/bin/sh", "arg": ["-c", LOOK], "capture-output": true});
        let Begun { pid } = self.ask("guest-exec", &arguments, until)?;
        loop {
            let progress: ExecStatus =
                self.ask("guest-exec-status", &json!({"pid": pid}), until)?;
            if let Some(found) = progress.found()? {
                return Ok(found);
            }
            if Instant::now() + INTERVAL > until {
                return Err(Trouble::Slow.into());
            }
            sleep(INTERVAL);
        }
    }

    fn logins(&self, until: Instant) -> Result<GuestUse, Silence> {
        let now: i64 = self.ask("guest-get-time", &json!({}), until)?;
        let logins: Vec<Login> = self.ask("guest-get-users", &json!({}), until)?;
        Ok(logged_in(now, &logins)?)
    }

    fn ask<T: DeserializeOwned>(
        &self,
        command: &str,
        arguments: &serde_json::Value,
        until: Instant,
    ) -> Result<T, Silence> {
        self.ask_until(command, arguments, until.min(Instant::now() + ANSWER))
    }

    fn ask_until<T: DeserializeOwned>(
        &self,
        command: &str,
        arguments: &serde_json::Value,
        until: Instant,
    ) -> Result<T, Silence> {
        let question = json!({"execute": command, "arguments": arguments});
        Ok(returned(
            &self.agent(&question.to_string(), until)?,
            LARGEST,
        )?)
    }

    /// What the agent answers to `command` until then.
    pub(super) fn agent(&self, command: &str, until: Instant) -> Result<String, Silence> {
        let left = until.saturating_duration_since(Instant::now());
        // libvirt counts whole seconds.
        let seconds = i32::try_from(left.as_secs()).unwrap_or(i32::MAX).max(1);
        let (uuid, command) = (
            self.uuid().map_err(|_| Silence::Absent)?,
            command.to_owned(),
        );
        let answer = self.pool.within(left, move |conn| {
            conn.lookup_domain_by_uuid(uuid)?
                .qemu_agent_command(&command, seconds, 0)
        });
        answer.ok_or(Trouble::Mute)?.map_err(|e| silence(&e))
    }
}

/// What libvirt's refusal means: `qemuDomainAgentAvailable` says in words that there is no agent, and
/// what the agent says itself comes after others.
fn silence(error: &Error) -> Silence {
    let said = error.message();
    let contains = |any: &[&str]| any.iter().any(|words| said.contains(words));
    match said.contains("unable to execute QEMU agent command") {
        true if contains(&["has been disabled", "has not been found"]) => Silence::Disabled,
        true => Silence::Refused(words(said)),
        false if contains(&["is not connected", "is not configured", "not supported"]) => {
            Silence::Absent
        }
        false if is(error, ErrorNumber::AgentUnresponsive) => Trouble::Mute.into(),
        false => Silence::Refused(words(said)),
    }
}
