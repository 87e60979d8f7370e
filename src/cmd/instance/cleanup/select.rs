//! Which instances a cleanup destroys, and why. Pure.

use jiff::{SignedDuration, Timestamp};

use crate::instance::{InstanceName, LabId, State, UserId};
use crate::state::activity;
use crate::units::{Duration, age};

/// What a cleanup was asked for.
#[derive(Debug, Default)]
pub struct Filter<'a> {
    pub lab: Option<&'a LabId>,
    pub user: Option<&'a UserId>,
    pub state: Option<State>,
    pub inactive_for: Option<Duration>,
}

/// What is known of an instance, or of what is left of one.
#[derive(Debug)]
pub struct Seen {
    /// `None` for what has no VM.
    pub state: Option<State>,
    /// Why it is in that state, or what is left of it.
    pub reason: String,
    pub last_activity: Option<Timestamp>,
    /// An earlier cleanup began to destroy it, and it was not used since.
    pub half_destroyed: bool,
}

/// What becomes of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes, and why.
    Destroy(String),
    /// It was asked for and stays all the same, and why.
    Keep(String),
    /// It was not asked for.
    Ignore,
}

impl Filter<'_> {
    /// Whether the instance called `name` was asked for.
    pub fn names(&self, name: &InstanceName) -> bool {
        self.lab.is_none_or(|lab| *lab == name.lab)
            && self.user.is_none_or(|user| *user == name.user)
    }

    /// What becomes of an instance that was asked for by name.
    pub fn judge(&self, seen: &Seen, now: Timestamp) -> Verdict {
        if seen.half_destroyed {
            return Verdict::Destroy("an earlier cleanup was interrupted".to_owned());
        }
        if self.state.is_some() && self.state != seen.state {
            return Verdict::Ignore;
        }
        let Some(limit) = self.inactive_for else {
            return Verdict::Destroy(seen.reason.clone());
        };
        match activity::unused_for(seen.last_activity, now) {
            None => Verdict::Keep("its last activity is not known: it counts as active".to_owned()),
            Some(unused) if unused >= limit.0 => {
                Verdict::Destroy(format!("inactive for {}", age(unused)))
            }
            Some(SignedDuration::ZERO) => Verdict::Keep("active now".to_owned()),
            Some(unused) => Verdict::Keep(format!("active {} ago", age(unused))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(state: Option<State>, last_activity: Option<i64>) -> Seen {
        Seen {
            state,
            reason: "because".to_owned(),
            last_activity: last_activity.map(|second| Timestamp::from_second(second).unwrap()),
            half_destroyed: false,
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(2_000_000_000).unwrap()
    }

    const AN_HOUR_AGO: i64 = 2_000_000_000 - 3600;

    #[test]
    fn without_limits_everything_goes() {
        for state in [None, Some(State::Running)] {
            let verdict = Filter::default().judge(&seen(state, None), now());
            assert_eq!(verdict, Verdict::Destroy("because".to_owned()));
        }
    }

    #[test]
    fn another_state_was_not_asked_for() {
        let filter = Filter {
            state: Some(State::Stopped),
            ..Filter::default()
        };
        let judge = |state| filter.judge(&seen(state, None), now());
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
        let judge = |limit, last| filter(limit).judge(&seen(Some(State::Stopped), last), now());
        let goes = |limit, last| matches!(judge(limit, last), Verdict::Destroy(_));
        assert!(goes("1h", Some(AN_HOUR_AGO)));
        assert!(!goes("61m", Some(AN_HOUR_AGO)));
        for unknown in [None, Some(0), Some(-5), Some(2_000_000_100)] {
            assert!(!goes("1h", unknown), "{unknown:?}");
        }
    }

    #[test]
    fn what_was_begun_is_finished_whatever_was_asked() {
        let filter = Filter {
            state: Some(State::Stopped),
            inactive_for: Some("1h".parse().unwrap()),
            ..Filter::default()
        };
        let half = Seen {
            half_destroyed: true,
            ..seen(None, None)
        };
        assert!(matches!(filter.judge(&half, now()), Verdict::Destroy(_)));
    }
}
