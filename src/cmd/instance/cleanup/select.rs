//! Which instances a cleanup destroys, and why. Pure.

use jiff::Timestamp;

use super::inactive::Inactive;
use crate::names::{InstanceName, LabId, State, UserId};
use crate::units::{Duration, age};

/// The selection of a cleanup.
#[derive(Debug, Default)]
pub struct Filter<'a> {
    pub lab: Option<&'a LabId>,
    pub user: Option<&'a UserId>,
    pub state: Option<State>,
    pub inactive_for: Option<Duration>,
}

/// The facts about an instance, or about the remains of one.
#[derive(Debug)]
pub struct Inspected {
    /// `None` if there is no VM.
    pub state: Option<State>,
    /// Why it is in that state, or what remains of it.
    pub reason: String,
    pub last_activity: Option<Timestamp>,
    /// How long it has been unused, if requested.
    pub inactive: Option<Inactive>,
    /// An earlier cleanup began to destroy it, and it was not used since then.
    pub half_destroyed: bool,
}

/// The decision.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is destroyed, and why.
    Destroy(String),
    /// It matches but is kept, and why.
    Keep(String),
    /// It does not match.
    Ignore,
}

impl Filter<'_> {
    /// Whether the instance called `name` matches.
    pub fn names(&self, name: &InstanceName) -> bool {
        self.lab.is_none_or(|lab| *lab == name.lab)
            && self.user.is_none_or(|user| *user == name.user)
    }

    /// The decision for an instance that matches by name.
    pub fn judge(&self, seen: &Inspected) -> Verdict {
        if seen.half_destroyed {
            return Verdict::Destroy("an earlier cleanup was interrupted".to_owned());
        }
        if self.state.is_some() && self.state != seen.state {
            return Verdict::Ignore;
        }
        let Some(limit) = self.inactive_for else {
            return Verdict::Destroy(seen.reason.clone());
        };
        let Some(inactive) = &seen.inactive else {
            return Verdict::Keep("its last use is unknown".to_owned());
        };
        match inactive.length {
            Some(length) if length >= limit.0 => {
                Verdict::Destroy(format!("inactive for {}", age(length)))
            }
            _ => Verdict::Keep(inactive.reason.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn seen(state: Option<State>, inactive: Option<Option<i64>>) -> Inspected {
        Inspected {
            state,
            reason: "because".to_owned(),
            last_activity: None,
            inactive: inactive.map(|minutes| Inactive {
                length: minutes.map(SignedDuration::from_mins),
                reason: "because of that".to_owned(),
            }),
            half_destroyed: false,
        }
    }

    #[test]
    fn without_limits_everything_goes() {
        for state in [None, Some(State::Running)] {
            let verdict = Filter::default().judge(&seen(state, None));
            assert_eq!(verdict, Verdict::Destroy("because".to_owned()));
        }
    }

    #[test]
    fn another_state_was_not_asked_for() {
        let filter = Filter {
            state: Some(State::Stopped),
            ..Filter::default()
        };
        let judge = |state| filter.judge(&seen(state, None));
        assert_eq!(judge(Some(State::Running)), Verdict::Ignore);
        assert_eq!(judge(None), Verdict::Ignore);
        assert!(matches!(judge(Some(State::Stopped)), Verdict::Destroy(_)));
    }

    #[test]
    fn what_may_be_in_use_stays() {
        let filter = |inactive_for: &str| Filter {
            inactive_for: Some(inactive_for.parse().unwrap()),
            ..Filter::default()
        };
        let judge = |limit, inactive| filter(limit).judge(&seen(Some(State::Stopped), inactive));
        let goes = |limit, inactive| matches!(judge(limit, inactive), Verdict::Destroy(_));
        assert!(goes("1h", Some(Some(60))));
        for stays in [None, Some(None), Some(Some(0)), Some(Some(59))] {
            assert!(!goes("1h", stays), "{stays:?}");
        }
        let why = Verdict::Keep("because of that".to_owned());
        assert_eq!(judge("0s", Some(None)), why);
    }

    #[test]
    fn what_was_begun_is_finished_whatever_was_asked() {
        let filter = Filter {
            state: Some(State::Stopped),
            inactive_for: Some("1h".parse().unwrap()),
            ..Filter::default()
        };
        let half = Inspected {
            half_destroyed: true,
            ..seen(None, None)
        };
        assert!(matches!(filter.judge(&half), Verdict::Destroy(_)));
    }
}
