//! Queries to the guest agent.
//!
//! A student controls the guest: its agent may send anything, which [`super::answer`] limits, and
//! may take any time to do so. libvirt waits longer than it is told to, because before each command
//! it first pings the agent. So deadlines are enforced here, by the wall clock.

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
use crate::text::json_in_ascii;

/// How long the agent of a guest that was just resumed may take to set the clock, in seconds.
const CLOCK: i32 = 5;

/// How long it may take to answer a single query about the use of its guest.
const ANSWER: Duration = Duration::from_secs(1);

/// How long it may take to report whether a script has ended. It reports that only once: an answer that
/// comes after we have stopped waiting is lost, and the result of the script with it.
const STATUS: Duration = Duration::from_secs(20);

/// The maximum size of an honest answer to such a query, in bytes, with hundreds of terminals.
const LARGEST: usize = 64 << 10;

/// How often to check whether a command has ended.
pub(super) const INTERVAL: Duration = Duration::from_millis(50);

/// How often to check on a script that takes long: each check is work for its guest.
const LONGEST_INTERVAL: Duration = Duration::from_secs(1);

/// Prints the guest's time, the last input at each terminal, and the number of keyboard and pointer
/// interrupts: the kernel updates a terminal's access time when its input is read, which is also
/// what `w` shows.
const LOOK: &str = r#"
date +%s
stat -c %X /dev/tty[0-9]* /dev/pts/[0-9]* 2>/dev/null
echo interrupts
grep -E 'i8042|virtio[0-9]+-events' /proc/interrupts
"#;

/// Sets the clock to these seconds and nanoseconds since 1970; or to the hardware clock if that is
/// later by a plausible time: a busy guest comes late to this.
const SET_CLOCK: &str = r#"
{ read -r now </sys/class/rtc/rtc0/since_epoch; } 2>/dev/null
late=$((${now:-0} - $1))
if [ "$late" -gt 1 ] && [ "$late" -lt 600 ]; then exec date -s "@$now"; fi
exec date -s "@$1.$2"
"#;

/// Shows its argument to the people who work in the guest.
const TELL: &str = include_str!("tell.sh");

/// The result of a query.
#[derive(Debug)]
pub enum Answer {
    /// There is no agent.
    Nobody,
    /// The answer.
    Use(GuestUse),
    /// There is one, but it gave no valid answer. With the message of libvirt or the guest, which
    /// must not be stored.
    None(Trouble, String),
}

/// The result of a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ping {
    /// It answered.
    Answered,
    /// It did not answer, or not in time.
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
    /// It, or libvirt, gives a reason.
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

/// A script to run in a guest.
#[derive(Debug)]
pub struct Script<'a> {
    /// Its interpreter, and the option for a script on the command line.
    pub interpreter: (&'static str, &'static str),
    /// The script itself: every process of the guest can see it.
    pub text: &'a str,
    /// Its standard input.
    pub input: Secret,
}

impl Domain {
    /// Whether the agent inside the guest answers within `deadline`.
    pub fn agent_answers(&self, deadline: Duration) -> bool {
        self.ping(deadline) == Ping::Answered
    }

    /// The same; also tells whether there is an agent at all.
    pub fn ping(&self, deadline: Duration) -> Ping {
        let until = Instant::now() + deadline;
        match self.agent(r#"{"execute":"guest-ping"}"#, until) {
            Ok(_) => Ping::Answered,
            Err(Silence::Absent) => Ping::Absent,
            Err(_) => Ping::Silent,
        }
    }

    /// Asks the guest's agent to shut the guest down. The agent does not answer this, so only the
    /// domain's state shows whether it worked; libvirt's own call for it would wait a minute for an
    /// answer.
    pub fn shut_down_by_agent(&self) {
        let _ = self.agent(
            r#"{"execute":"guest-shutdown"}"#,
            Instant::now() + Duration::from_secs(1),
        );
    }

    /// Asks the guest's agent to set the guest's clock to `now`, or to what the time is when the
    /// guest comes to do it. A guest does not notice how long its memory was on disk, but its
    /// hardware clock, which belongs to QEMU, is right. The agent's own command would also set the
    /// hardware clock, which takes a second in which the agent does not answer. So the agent runs a
    /// script; its own command is used if it cannot run programs, or not this one.
    pub fn set_clock(&self, now: Timestamp) -> Result<PendingCall> {
        let (uuid, seconds) = (self.uuid()?, now.as_second());
        let program = json!({"execute": "guest-exec", "arguments": {
            "path": "/bin/sh", "arg": [
                "-c", SET_CLOCK, "sh",
                seconds.to_string(), format!("{:09}", now.subsec_nanosecond()),
            ],
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

    /// Asks the guest's agent when its guest was last used, for at most `deadline`. For the first
    /// time in a run, libvirt is told to wait less for it: by default libvirt blocks one of its
    /// workers for five seconds, even after the deadline.
    pub fn guest_use(&self, deadline: Duration, first: bool) -> Answer {
        let until = Instant::now() + deadline;
        if first && let Ok(uuid) = self.uuid() {
            let patience = i32::try_from(ANSWER.as_secs()).unwrap_or(1);
            let hurry = move |conn: &Connect| {
                job::wait_for_agent(&conn.lookup_domain_by_uuid(uuid)?, patience)
            };
            // A libvirt without that call waits for its own time.
            self.pool.within(ANSWER, hurry);
        }
        let found = match self.look(until) {
            // Some kinds of guests do not permit running commands.
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

    /// Runs `script` as root through the guest's agent, as soon as there is one, and waits for its
    /// end until the deadline, or until `stop` becomes true.
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
                // Not yet: nothing has run.
                Err(Silence::Absent) => go_on(INTERVAL)?,
                Err(silence) => bail!("its guest agent cannot run a script: {silence}"),
            }
        };
        let mut interval = INTERVAL;
        loop {
            let patience = until.min(Instant::now() + STATUS);
            let status: Result<ExecStatus, Silence> =
                self.ask_until("guest-exec-status", &json!({"pid": pid}), patience);
            match status.and_then(|status| Ok(status.ended()?)) {
                Ok(Some(ran)) => return ran.succeeded(),
                Ok(None) | Err(Silence::Absent | Silence::Trouble(Trouble::Mute)) => {}
                Err(silence) => bail!("its guest agent does not report on a script: {silence}"),
            }
            go_on(interval)?;
            interval = (interval * 9 / 8).min(LONGEST_INTERVAL);
        }
    }

    /// Shows `text` to the people who work in the guest, if it has an agent. It must start before
    /// `deadline`; its end is not waited for.
    pub fn tell_users(&self, text: &str, deadline: Duration) -> Result<()> {
        let arguments = json!({"path": "/bin/sh", "arg": ["-c", TELL, "sh", text]});
        let begun = self.ask_until("guest-exec", &arguments, Instant::now() + deadline);
        match begun.map(|Begun { .. }| ()) {
            Ok(()) | Err(Silence::Absent) => Ok(()),
            Err(silence) => bail!("its guest's agent did not show it: {silence}"),
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

    pub(super) fn ask_until<T: DeserializeOwned>(
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

    /// The answer of the agent to `command`, until the deadline.
    pub(super) fn agent(&self, command: &str, until: Instant) -> Result<String, Silence> {
        let left = until.saturating_duration_since(Instant::now());
        // libvirt counts whole seconds.
        let seconds = i32::try_from(left.as_secs()).unwrap_or(i32::MAX).max(1);
        let (uuid, command) = (
            self.uuid().map_err(|_| Silence::Absent)?,
            json_in_ascii(command),
        );
        let answer = self.pool.within(left, move |conn| {
            conn.lookup_domain_by_uuid(uuid)?
                .qemu_agent_command(&command, seconds, 0)
        });
        answer.ok_or(Trouble::Mute)?.map_err(|e| silence(&e))
    }
}

/// The meaning of libvirt's error: `qemuDomainAgentAvailable` says in words that there is no agent,
/// and the agent's own message follows other words.
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
