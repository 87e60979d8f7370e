//! What is asked of the agent inside a guest.
//!
//! The guest belongs to a student: whatever its agent says may be made up, and it may take any time
//! to say it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Domain, Errand, failed};

/// How long the guest's agent may take to set the clock, in a guest that has just come back.
const CLOCK: Duration = Duration::from_secs(5);

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

/// What a guest's agent tells of the use of its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuestUse {
    /// For how long nobody typed at a terminal or logged in; `None` where nobody ever did.
    pub unused: Option<SignedDuration>,
    /// How often keyboard and pointer were heard since boot, where that is known.
    pub input: Option<u64>,
}

/// What came of asking.
#[derive(Debug)]
pub enum Answer {
    /// There is no agent.
    Nobody,
    /// This.
    Use(GuestUse),
    /// There is one, and it gave no answer that makes sense.
    None(anyhow::Error),
}

impl Domain {
    /// Whether the agent inside the guest answers within `deadline` (whole seconds, at least one).
    pub fn agent_answers(&self, deadline: Duration) -> bool {
        self.agent(r#"{"execute":"guest-ping"}"#, deadline).is_ok()
    }

    /// Has the guest's agent shut the guest down. The agent does not answer to this, so whether it
    /// worked shows in the domain's state alone; libvirt's own call for it would wait a minute for
    /// that.
    pub fn shut_down_by_agent(&self) {
        let _ = self.agent(r#"{"execute":"guest-shutdown"}"#, Duration::from_secs(1));
    }

    /// Has the guest's agent set the guest's clock to `now`. A guest does not notice how long its
    /// memory lay on disk. The agent sets the clock at once, but then takes a second to set the
    /// guest's hardware clock as well, which nobody needs to wait for.
    pub fn set_clock(&self, now: Timestamp) -> Result<Errand> {
        // What QEMU's guest-set-time takes: nanoseconds since 1970.
        let nanoseconds = now.as_nanosecond();
        let command =
            format!(r#"{{"execute":"guest-set-time","arguments":{{"time":{nanoseconds}}}}}"#);
        let uuid = self.uuid()?;
        Ok(self.side.begin(move |conn| {
            let seconds = i32::try_from(CLOCK.as_secs()).unwrap_or(i32::MAX);
            conn.lookup_domain_by_uuid(uuid)?
                .qemu_agent_command(&command, seconds, 0)
                .map(drop)
        }))
    }

    /// Asks the guest's agent when its guest was last used, for no longer than about `deadline`.
    pub fn guest_use(&self, deadline: Duration) -> Answer {
        let until = Instant::now() + deadline;
        match self.look(until).or_else(|error| match is_refusal(&error) {
            // Guests of some kinds run no commands for us.
            true => self.logins(),
            false => Err(error),
        }) {
            Ok(found) => Answer::Use(found),
            Err(error) if is_absent(&error) => Answer::Nobody,
            Err(error) => Answer::None(error),
        }
    }

    fn look(&self, until: Instant) -> Result<GuestUse> {
        #[derive(Deserialize)]
        struct Started {
            pid: i64,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Status {
            exited: bool,
            out_data: Option<String>,
        }
        let arguments = json!({"path": "/bin/sh", "arg": ["-c", LOOK], "capture-output": true});
        let Started { pid } = self.ask("guest-exec", &arguments)?;
        loop {
            let status: Status = self.ask("guest-exec-status", &json!({"pid": pid}))?;
            if status.exited {
                let said = BASE64_STANDARD.decode(status.out_data.unwrap_or_default())?;
                return parse(&String::from_utf8_lossy(&said)).context("makes no sense");
            }
            if Instant::now() > until {
                bail!("takes too long");
            }
            sleep(INTERVAL);
        }
    }

    fn logins(&self) -> Result<GuestUse> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Login {
            login_time: f64,
        }
        let now: i64 = self.ask("guest-get-time", &json!({}))?;
        let logins: Vec<Login> = self.ask("guest-get-users", &json!({}))?;
        let last = logins.iter().map(|login| login.login_time).reduce(f64::max);
        #[allow(clippy::cast_precision_loss, reason = "seconds are enough")]
        let unused = last.map(|last| now as f64 / 1e9 - last);
        Ok(GuestUse {
            unused: match unused.map(SignedDuration::try_from_secs_f64) {
                Some(Ok(unused)) => Some(plausible(unused)?),
                Some(Err(_)) => bail!("makes no sense"),
                None => None,
            },
            input: None,
        })
    }

    fn ask<T: DeserializeOwned>(&self, command: &str, arguments: &serde_json::Value) -> Result<T> {
        #[derive(Deserialize)]
        struct Returned<T> {
            #[serde(rename = "return")]
            value: T,
        }
        let question = json!({"execute": command, "arguments": arguments});
        let answer = self.agent(&question.to_string(), Duration::from_secs(1))?;
        let Returned { value } = serde_json::from_str(&answer).context("makes no sense")?;
        Ok(value)
    }

    fn agent(&self, command: &str, deadline: Duration) -> Result<String> {
        let seconds = i32::try_from(deadline.as_secs()).unwrap_or(i32::MAX).max(1);
        self.inner
            .qemu_agent_command(command, seconds, 0)
            .map_err(|e| failed("ask the guest agent", e))
    }
}

/// Whether there is no agent, in libvirt's words (`qemuDomainAgentAvailable`).
fn is_absent(error: &anyhow::Error) -> bool {
    let said = format!("{error:#}");
    ["is not connected", "is not configured", "not supported"]
        .iter()
        .any(|absent| said.contains(absent))
}

/// Whether the agent does not run commands, in its own words.
fn is_refusal(error: &anyhow::Error) -> bool {
    let said = format!("{error:#}");
    ["has been disabled", "has not been found"]
        .iter()
        .any(|refusal| said.contains(refusal))
}

/// Understands what [`LOOK`] prints.
fn parse(said: &str) -> Result<GuestUse> {
    let (times, interrupts) = said
        .split_once("interrupts\n")
        .ok_or_else(|| anyhow!("it is cut short"))?;
    let mut times = times.lines().map(str::parse::<i64>);
    let now = times.next().ok_or_else(|| anyhow!("it has no time"))??;
    let last = times.try_fold(None, |last: Option<i64>, time| {
        time.map(|time| last.max(Some(time)))
    })?;
    let unused = last.map(|last| SignedDuration::from_secs(now.saturating_sub(last)));
    // A number, and then a count of each CPU.
    let counts = interrupts.lines().flat_map(|line| {
        let words = line.split_whitespace().skip(1);
        words.map_while(|word| word.parse::<u64>().ok())
    });
    let input = counts.fold(0, u64::saturating_add);
    Ok(GuestUse {
        unused: unused.map(plausible).transpose()?,
        input: Some(input),
    })
}

/// A terminal was not used in the future; a clock is read before it by a moment.
fn plausible(unused: SignedDuration) -> Result<SignedDuration> {
    match unused < SignedDuration::from_secs(-10) {
        true => bail!("speaks of the future"),
        false => Ok(unused.max(SignedDuration::ZERO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_prints_is_understood() {
        let said = "1800000100\n1800000000\n1799990000\ninterrupts\n  \
                    1:   9   3  IO-APIC   1-edge      i8042\n \
                    12:  15   0  IO-APIC  12-edge      i8042\n";
        let found = parse(said).unwrap();
        assert_eq!(found.unused, Some(SignedDuration::from_secs(100)));
        assert_eq!(found.input, Some(27));
        let never = parse("1800000100\ninterrupts\n").unwrap();
        assert_eq!((never.unused, never.input), (None, Some(0)));
        for bad in ["", "x\ninterrupts\n", "5\n", "100\n2000\ninterrupts\n"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
