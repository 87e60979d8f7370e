//! Labs, users and instances by name, and the states an instance can be in.
//!
//! Pure: names are checked here once, so values of these types are safe in a path, in XML, in HCL
//! and as a program argument.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::checked::{BadText, checked};

/// The separator of lab and user in an instance's name. Neither id may contain `_`, so a name is
/// unambiguous.
const INFIX: &str = "_user_";

checked! {
    /// A lab's id.
    #[derive(Hash, PartialOrd, Ord)]
    struct LabId, "lab id", word("a-z0-9", "a-z0-9-", 31)
}

checked! {
    /// A user's id as the web backend knows it.
    #[derive(Hash, PartialOrd, Ord)]
    struct UserId, "user id", word("A-Za-z0-9", "A-Za-z0-9.-", 63)
}

checked! {
    /// An absolute path in a guest.
    struct GuestPath, "path in the guest", "/.{0,1000}",
    |_| "write an absolute path, for example /home/student/work"
}

impl GuestPath {
    /// Its last part; `None` for the root and for `..`.
    pub fn file_name(&self) -> Option<&str> {
        std::path::Path::new(self.as_str()).file_name()?.to_str()
    }
}

checked! {
    /// The owner of files in a guest, as for chown(1).
    struct GuestOwner, "owner",
    "[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?",
    |_| "write it as USER or USER:GROUP, with names of the guest"
}

/// An instance's name, which is also its libvirt domain name: `{lab_id}_user_{user_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceName {
    /// The lab it is an instance of.
    pub lab: LabId,
    /// The user it belongs to.
    pub user: UserId,
}

impl InstanceName {
    /// As arguments of a command.
    pub fn arguments(&self) -> String {
        format!("{} {}", self.lab, self.user)
    }

    /// A hint for commands that need it to run.
    pub fn start_it(&self) -> String {
        format!("start it: cyyber instance start {}", self.arguments())
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{INFIX}{}", self.lab, self.user)
    }
}

impl FromStr for InstanceName {
    type Err = BadText;

    fn from_str(s: &str) -> Result<Self, BadText> {
        let bad = || BadText::new("instance name", s, "allowed is {lab_id}_user_{user_id}");
        let (lab, user) = s.split_once(INFIX).ok_or_else(bad)?;
        Ok(InstanceName {
            lab: lab.parse()?,
            user: user.parse()?,
        })
    }
}

/// The state of an instance, exactly one of these.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Defined, not running, no saved memory.
    Stopped,
    /// Running; the guest's agent has not answered since power-on and the boot timeout has not
    /// passed.
    Starting,
    /// Running and ready.
    Running,
    /// Running, no user activity, CPU capped.
    Idle,
    /// Memory saved to disk, or frozen in RAM.
    Paused,
    /// The hypervisor reports a crash.
    Crashed,
}

impl State {
    /// The state's name, as in JSON and in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Stopped => "stopped",
            State::Starting => "starting",
            State::Running => "running",
            State::Idle => "idle",
            State::Paused => "paused",
            State::Crashed => "crashed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The rungs of the idle policy's ladder, from the top.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Rung {
    /// Running at full speed.
    Running,
    /// Running with half of its CPU time.
    Idle,
    /// Its memory is saved to disk.
    Paused,
    /// Shut down.
    Stopped,
    /// Gone, with its disk.
    Destroyed,
}

impl Rung {
    /// The state of an instance on this rung, if it still exists.
    pub const fn state(self) -> Option<State> {
        match self {
            Rung::Running => Some(State::Running),
            Rung::Idle => Some(State::Idle),
            Rung::Paused => Some(State::Paused),
            Rung::Stopped => Some(State::Stopped),
            Rung::Destroyed => None,
        }
    }

    /// Its name: that of the state, if there is one.
    pub fn as_str(self) -> &'static str {
        self.state().map_or("destroyed", State::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_outside_their_pattern_are_refused() {
        let long = "a".repeat(33);
        for bad in [
            "", "Lab01", "-lab", "lab_01", "lab/01", "../lab", "lab 1", "lab\n", "lab\0x", "läb",
            &long,
        ] {
            assert!(bad.parse::<LabId>().is_err(), "{bad:?}");
        }
        let long = "a".repeat(65);
        for bad in [
            "", ".", "..", "-o", "a_b", "a/b", "a\0b", "а", "a b", "$(id)", &long,
        ] {
            assert!(bad.parse::<UserId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_bad_id_is_shown_harmless_and_short() {
        let error = format!("\x1b[2J{}", "x".repeat(500)).parse::<UserId>();
        let text = error.unwrap_err().to_string();
        assert!(!text.contains('\x1b') && text.len() < 250, "{text}");
    }

    proptest! {
        #[test]
        fn names_read_back(lab in "[a-z0-9][a-z0-9-]{0,31}", user in "[A-Za-z0-9][A-Za-z0-9.-]{0,63}") {
            let name = InstanceName { lab: lab.parse().unwrap(), user: user.parse().unwrap() };
            prop_assert_eq!(name.to_string().parse::<InstanceName>().unwrap(), name);
        }

        #[test]
        fn no_accepted_name_can_leave_its_directory(s in "[a-z0-9./-]{0,4}_user_[A-Za-z0-9./_-]{0,6}") {
            if let Ok(name) = s.parse::<InstanceName>() {
                let text = name.to_string();
                prop_assert!(!text.contains('/') && !text.starts_with(['.', '-']));
            }
        }
    }
}
