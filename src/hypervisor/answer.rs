//! Parses the guest agent's answers, with limits on what is trusted. Pure.
//!
//! A student controls the guest: anything that its agent says may be made up. Its answers are
//! limited here, where they enter: in size, in range and in time. Only numbers are kept.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::SignedDuration;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How many bytes of a guest's or a QEMU's message are shown.
const LONGEST_WORDS: usize = 1000;

/// A guest that claims to be unused for longer has a wrong clock, or lies.
const LONGEST_UNUSED: SignedDuration = SignedDuration::from_hours(24 * 10_000);

/// The clock is read a moment before the terminals.
const EARLY: SignedDuration = SignedDuration::from_secs(-10);

/// The report of a guest's agent on the use of its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuestUse {
    /// How long ago somebody last typed at a terminal or logged in; `None` if nobody ever did.
    pub unused: Option<SignedDuration>,
    /// The number of keyboard and pointer interrupts since boot, if known.
    pub input: Option<u64>,
}

/// Why an agent gave no valid answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trouble {
    /// It gave no answer.
    Mute,
    /// Its command does not end.
    Slow,
    /// Its answer is implausible or too large.
    Nonsense,
    /// It reported an error.
    Failed,
}

impl Trouble {
    /// As text after "its guest's agent".
    pub const fn as_str(self) -> &'static str {
        match self {
            Trouble::Mute => "does not answer",
            Trouble::Slow => "takes too long to report its use",
            Trouble::Nonsense => "reports implausible values",
            Trouble::Failed => "does not report its use",
        }
    }
}

/// The start of `text` on one line: a guest, or a QEMU that an attacker controls, may send
/// megabytes.
pub fn words(text: &str) -> String {
    let mut end = text.len().min(LONGEST_WORDS);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    let (shown, rest) = text.split_at(end);
    let shown = shown.replace(char::is_control, " ");
    if rest.is_empty() {
        shown
    } else {
        format!("{shown}…")
    }
}

/// The value that the agent returned in `answer`, which may have at most `largest` bytes.
pub(super) fn returned<T: DeserializeOwned>(answer: &str, largest: usize) -> Result<T, Trouble> {
    #[derive(Deserialize)]
    struct Returned<T> {
        #[serde(rename = "return")]
        value: T,
    }
    if answer.len() > largest {
        return Err(Trouble::Nonsense);
    }
    let returned: Result<Returned<T>, _> = serde_json::from_str(answer);
    // The parser's error would contain text of the guest.
    returned
        .map(|returned| returned.value)
        .map_err(|_| Trouble::Nonsense)
}

/// A command that the agent has started.
#[derive(Debug, Deserialize)]
pub(super) struct Begun {
    pub pid: i64,
}

/// The status of a command.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ExecStatus {
    exited: bool,
    exitcode: Option<u8>,
    signal: Option<u8>,
    out_data: Option<String>,
    err_data: Option<String>,
}

/// A command that has ended in a guest, with its output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Its exit status; 128 plus the signal number if a signal ended it, as in shells.
    pub exit_code: u8,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Ran {
    /// An error with its output, unless it succeeded.
    pub(super) fn succeeded(&self) -> anyhow::Result<()> {
        let said = String::from_utf8_lossy(&self.stderr);
        match (self.exit_code, said.trim()) {
            (0, _) => Ok(()),
            (_, "") => anyhow::bail!("it failed"),
            (_, said) => anyhow::bail!("{}", words(said)),
        }
    }
}

fn decoded(data: &str) -> Result<Vec<u8>, Trouble> {
    BASE64_STANDARD.decode(data).map_err(|_| Trouble::Nonsense)
}

impl ExecStatus {
    /// The output of the command [`super::agent::LOOK`]; `None` while it runs.
    pub(super) fn found(&self) -> Result<Option<GuestUse>, Trouble> {
        if !self.exited {
            return Ok(None);
        }
        let printed = decoded(self.out_data.as_deref().unwrap_or_default())?;
        let printed = String::from_utf8_lossy(&printed);
        printed_use(&printed).ok_or(Trouble::Nonsense).map(Some)
    }

    /// The result of any other command; `None` while it runs.
    pub(super) fn ended(&self) -> Result<Option<Ran>, Trouble> {
        if !self.exited {
            return Ok(None);
        }
        let exit_code = self
            .exitcode
            .or_else(|| self.signal.and_then(|signal| signal.checked_add(128)));
        Ok(Some(Ran {
            exit_code: exit_code.ok_or(Trouble::Nonsense)?,
            stdout: decoded(self.out_data.as_deref().unwrap_or_default())?,
            stderr: decoded(self.err_data.as_deref().unwrap_or_default())?,
        }))
    }
}

/// Parses the output of [`super::agent::LOOK`].
fn printed_use(printed: &str) -> Option<GuestUse> {
    let (times, interrupts) = printed.split_once("interrupts\n")?;
    let mut times = times.lines().map(str::parse::<i64>);
    let now = times.next()?.ok()?;
    let last = times.try_fold(None, |last: Option<i64>, time| {
        time.ok().map(|time| last.max(Some(time)))
    })?;
    // The interrupt's number, and then a count for each CPU.
    let counts = interrupts.lines().flat_map(|line| {
        let counts = line.split_whitespace().skip(1);
        counts.map_while(|word| word.parse::<u64>().ok())
    });
    Some(GuestUse {
        unused: match last {
            Some(last) => Some(plausible(SignedDuration::from_secs(
                now.saturating_sub(last),
            ))?),
            None => None,
        },
        input: Some(counts.fold(0, u64::saturating_add)),
    })
}

/// A logged-in user.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Login {
    login_time: f64,
}

/// The report from the guest's time in nanoseconds and its logged-in users.
pub(super) fn logged_in(now: i64, logins: &[Login]) -> Result<GuestUse, Trouble> {
    let last = logins.iter().map(|login| login.login_time).reduce(f64::max);
    #[allow(clippy::cast_precision_loss, reason = "seconds are enough")]
    let unused = last.map(|last| now as f64 / 1e9 - last);
    let unused = unused.map(|unused| {
        let unused = SignedDuration::try_from_secs_f64(unused).ok();
        unused.and_then(plausible).ok_or(Trouble::Nonsense)
    });
    Ok(GuestUse {
        unused: unused.transpose()?,
        input: None,
    })
}

/// A terminal cannot have been used in the future, nor before computers had any.
fn plausible(unused: SignedDuration) -> Option<SignedDuration> {
    let possible = EARLY..=LONGEST_UNUSED;
    possible
        .contains(&unused)
        .then(|| unused.max(SignedDuration::ZERO))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LARGEST: usize = 64 << 10;

    #[test]
    fn how_a_command_ended_is_understood() {
        let ended = |fields: &str| {
            let answer = format!(r#"{{"return":{{{fields}}}}}"#);
            returned::<ExecStatus>(&answer, LARGEST).and_then(|status| status.ended())
        };
        assert_eq!(ended(r#""exited":false"#), Ok(None));
        let ran = |exit_code, stdout: &[u8], stderr: &[u8]| {
            Ok(Some(Ran {
                exit_code,
                stdout: stdout.to_owned(),
                stderr: stderr.to_owned(),
            }))
        };
        let printed = r#""exited":true,"exitcode":3,"out-data":"AP8=","err-data":"aGk=""#;
        assert_eq!(ended(printed), ran(3, b"\0\xff", b"hi"));
        assert_eq!(ended(r#""exited":true,"signal":9"#), ran(137, b"", b""));
        for lie in [
            r#""exited":true"#,
            r#""exited":true,"exitcode":300"#,
            r#""exited":true,"exitcode":-1"#,
            r#""exited":true,"signal":200"#,
            r#""exited":true,"exitcode":0,"out-data":"?""#,
            r#""exited":1,"exitcode":0"#,
        ] {
            assert_eq!(ended(lie), Err(Trouble::Nonsense), "{lie}");
        }
    }

    #[test]
    fn what_a_guest_prints_is_understood() {
        let said = "1800000100\n1800000000\n1799990000\ninterrupts\n  \
                    1:   9   3  IO-APIC   1-edge      i8042\n \
                    12:  15   0  IO-APIC  12-edge      i8042\n";
        let found = printed_use(said).unwrap();
        assert_eq!(found.unused, Some(SignedDuration::from_secs(100)));
        assert_eq!(found.input, Some(27));
        let never = printed_use("1800000100\ninterrupts\n").unwrap();
        assert_eq!((never.unused, never.input), (None, Some(0)));
        for bad in [
            "",
            "x\ninterrupts\n",
            "5\n",
            "100\n2000\ninterrupts\n",
            // The year 126,000.
            "3913000000000\n1800000000\ninterrupts\n",
            "9223372036854775807\n-9223372036854775808\ninterrupts\n",
        ] {
            assert_eq!(printed_use(bad), None, "{bad:?}");
        }
        let most = format!("7\ninterrupts\n1: {} {0}\n", u64::MAX);
        assert_eq!(printed_use(&most).unwrap().input, Some(u64::MAX));
    }

    #[test]
    fn an_answer_that_is_too_large_is_none() {
        let answer = |length: usize| format!(r#"{{"return":"{}"}}"#, "x".repeat(length));
        assert!(returned::<String>(&answer(60_000), LARGEST).is_ok());
        let large = returned::<String>(&answer(4 << 20), LARGEST);
        assert_eq!(large.unwrap_err(), Trouble::Nonsense);
    }

    #[test]
    fn words_of_a_guest_are_few_and_on_one_line() {
        assert_eq!(words("not\nnow\u{7}"), "not now ");
        let shown = words(&"ä\n".repeat(1 << 20));
        assert!(shown.len() < 2 * LONGEST_WORDS && shown.ends_with('…'));
    }

    /// Numbers of all sizes, those at the ends of their types among them.
    fn number() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<i64>().prop_map(|n| n.to_string()),
            any::<u64>().prop_map(|n| n.to_string()),
            (1_700_000_000..1_900_000_000_i64).prop_map(|n| n.to_string()),
            (-400.0..400.0_f64).prop_map(|power| format!("{:e}", 10_f64.powf(power))),
            "-?[0-9]{1,40}",
        ]
    }

    /// What a liar's command prints.
    fn printed() -> impl Strategy<Value = String> {
        let line = prop_oneof![
            4 => number(),
            1 => Just("interrupts".to_owned()),
            1 => "\\PC{0,20}",
        ];
        let count = (number(), prop::collection::vec(number(), 0..5))
            .prop_map(|(irq, counts)| format!("{irq}: {} i8042", counts.join(" ")));
        let lines = |line| prop::collection::vec(line, 0..6);
        prop_oneof![
            4 => (lines(number().boxed()), lines(count.boxed()))
                .prop_map(|(times, counts)| {
                    format!("{}\ninterrupts\n{}\n", times.join("\n"), counts.join("\n"))
                }),
            1 => lines(line.boxed()).prop_map(|lines| lines.join("\n")),
        ]
    }

    /// What a liar's agent returns.
    fn answers() -> impl Strategy<Value = String> {
        let status = (printed(), any::<bool>()).prop_map(|(printed, whole)| {
            let mut data = BASE64_STANDARD.encode(printed);
            if !whole {
                data.pop();
            }
            format!(r#"{{"return":{{"exited":true,"out-data":"{data}"}}}}"#)
        });
        let logins = prop::collection::vec(number(), 0..4).prop_map(|times| {
            let logins = times.iter().map(|at| format!(r#"{{"login-time":{at}}}"#));
            format!(r#"{{"return":[{}]}}"#, logins.collect::<Vec<_>>().join(","))
        });
        prop_oneof![
            4 => status,
            2 => logins,
            2 => number().prop_map(|n| format!(r#"{{"return":{n}}}"#)),
            1 => number().prop_map(|n| format!(r#"{{"return":{{"pid":{n}}}}}"#)),
            1 => r#"\{"return":[\[\]{}",:0-9a-z-]{0,60}\}"#,
            1 => "\\PC{0,80}",
        ]
    }

    fn is_bounded(found: GuestUse) -> bool {
        let range = SignedDuration::ZERO..=LONGEST_UNUSED;
        found.unused.is_none_or(|unused| range.contains(&unused))
    }

    proptest! {
        #[test]
        fn whatever_an_agent_says_comes_to_bounded_numbers_or_to_nothing(
            answer in answers(), now in number(), printed in printed(),
        ) {
            let _: Result<Begun, _> = returned(&answer, LARGEST);
            if let Ok(progress) = returned::<ExecStatus>(&answer, LARGEST)
                && let Ok(Some(found)) = progress.found()
            {
                prop_assert!(is_bounded(found), "{found:?}");
            }
            let now = returned::<i64>(&format!(r#"{{"return":{now}}}"#), LARGEST).unwrap_or(i64::MIN);
            if let Ok(logins) = returned::<Vec<Login>>(&answer, LARGEST)
                && let Ok(found) = logged_in(now, &logins)
            {
                prop_assert!(is_bounded(found), "{found:?}");
            }
            if let Some(found) = printed_use(&printed) {
                prop_assert!(is_bounded(found), "{found:?}");
            }
            prop_assert!(words(&answer).len() <= 4 * LONGEST_WORDS);
        }
    }
}
