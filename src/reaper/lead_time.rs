//! Decides how long before a lesson its starts must begin: as late as possible, from recent start times of
//! the same kind, so that instances that start in seconds do not run for minutes before it. Pure.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::collections::VecDeque;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// How many starts of a kind are remembered.
const REMEMBERED: usize = 40;

/// How much of a pass is planned for starts: it also saves the memory of other instances, and makes no
/// new start near its end.
const ROOM: SignedDuration = SignedDuration::from_secs(30);

/// The time left when all are up.
const MARGIN: SignedDuration = SignedDuration::from_secs(60);

/// Recent start times of one kind in one lab, in milliseconds, the newest last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartTimes {
    /// Until the guest ran.
    calls: VecDeque<u64>,
    /// From then until it was up.
    boots: VecDeque<u64>,
}

/// The expected time of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Until the guest runs. At most [`Pace::at_once`] starts are in this phase together.
    pub call: SignedDuration,
    /// From then until it is up.
    pub boot: SignedDuration,
}

impl StartTimes {
    /// Adds the time until a guest ran.
    pub fn ran(&mut self, after: Duration) {
        let ms = u64::try_from(after.as_millis());
        add(&mut self.calls, ms.unwrap_or(u64::MAX));
    }

    /// Adds the time from then until it was up.
    pub fn was_up(&mut self, after: SignedDuration) {
        let ms = u64::try_from(after.as_millis());
        add(&mut self.boots, ms.unwrap_or(0));
    }

    /// The expected time of the next start: the 95th percentile of those remembered, or `None` if there are
    /// none. If no guest was seen to come up yet, its boot counts as `longest_boot`.
    pub fn expected(&self, longest_boot: SignedDuration) -> Option<Expected> {
        let boot = most(&self.boots).map_or(longest_boot, |it| it.min(longest_boot));
        Some(Expected {
            call: most(&self.calls)?,
            boot,
        })
    }
}

fn add(times: &mut VecDeque<u64>, ms: u64) {
    times.push_back(ms);
    while times.len() > REMEMBERED {
        times.pop_front();
    }
}

fn most(times: &VecDeque<u64>) -> Option<SignedDuration> {
    let mut sorted: Vec<_> = times.iter().copied().collect();
    sorted.sort_unstable();
    // The nearest rank.
    let rank = sorted.len().saturating_mul(19).div_ceil(20);
    let ms = sorted.get(rank.saturating_sub(1))?;
    Some(SignedDuration::from_millis(
        i64::try_from(*ms).unwrap_or(i64::MAX),
    ))
}

/// When passes run, and how much one can do.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// This one.
    pub now: Timestamp,
    /// The expected time of the next one.
    pub next: Timestamp,
    /// How many starts are made at once.
    pub at_once: usize,
}

/// Which of `starts`, each with the beginning of its lesson and sorted by that, cannot be left to the next
/// pass: those that would not be up in time, and those whose times are unknown.
pub fn due(pace: &Pace, starts: &[(Timestamp, Option<Expected>)]) -> Vec<bool> {
    let gap = pace.next.duration_since(pace.now);
    let at_once = i32::try_from(pace.at_once.max(1)).unwrap_or(i32::MAX);
    let mut calls = SignedDuration::ZERO;
    let (mut longest_call, mut longest_boot) = (SignedDuration::ZERO, SignedDuration::ZERO);
    // Up to there all are due.
    let mut end = 0;
    for (place, (bell, expected)) in starts.iter().enumerate() {
        let Some(expected) = expected else {
            continue;
        };
        calls = calls.saturating_add(expected.call);
        longest_call = longest_call.max(expected.call);
        longest_boot = longest_boot.max(expected.boot);
        let share = calls.checked_div(at_once).unwrap_or(calls);
        let lead = last_begins(share, gap)
            .saturating_add(longest_call)
            .saturating_add(longest_boot)
            .saturating_add(MARGIN);
        let up = pace.next.saturating_add(lead).unwrap_or(Timestamp::MAX);
        if up > *bell {
            end = place.saturating_add(1);
        }
    }
    let places = starts.iter().enumerate();
    places
        .map(|(place, (_, expected))| place < end || expected.is_none())
        .collect()
}

/// How long after the beginning of a pass the last start begins, if the starts take `share` in all, each
/// pass has [`ROOM`] for them, and passes are `gap` apart.
fn last_begins(share: SignedDuration, gap: SignedDuration) -> SignedDuration {
    let room = ROOM.as_millis();
    let passes = share.as_millis().saturating_sub(1).checked_div(room);
    let passes = passes.and_then(|it| i32::try_from(it).ok());
    let passes = gap.checked_mul(passes.unwrap_or(i32::MAX));
    passes.unwrap_or(SignedDuration::MAX).saturating_add(ROOM)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn seconds(seconds: i64) -> SignedDuration {
        SignedDuration::from_secs(seconds)
    }

    fn pace(now: i64, next: i64, at_once: usize) -> Pace {
        Pace {
            now: at(now),
            next: at(next),
            at_once,
        }
    }

    fn takes(call: i64, boot: i64) -> Option<Expected> {
        Some(Expected {
            call: seconds(call),
            boot: seconds(boot),
        })
    }

    #[test]
    fn what_nineteen_in_twenty_took_is_expected_of_the_next() {
        let longest = seconds(300);
        let mut times = StartTimes::default();
        assert_eq!(times.expected(longest), None);
        times.ran(Duration::from_millis(900));
        let expected = times.expected(longest).unwrap();
        assert_eq!(expected.call, SignedDuration::from_millis(900));
        assert_eq!(expected.boot, longest, "none was seen to be up");
        for second in 1..=40 {
            times.ran(Duration::from_secs(second));
            times.was_up(seconds(10));
        }
        let expected = times.expected(longest).unwrap();
        assert_eq!((expected.call, expected.boot), (seconds(38), seconds(10)));
        for _ in 0..3 {
            times.was_up(seconds(4000));
        }
        assert_eq!(times.expected(longest).unwrap().boot, longest);
        for _ in 0..1000 {
            times.ran(Duration::MAX);
            times.was_up(seconds(-5));
        }
        let expected = times.expected(longest).unwrap();
        assert_eq!(expected.boot, SignedDuration::ZERO, "a clock that was set");
        let read = serde_json::to_string(&times).unwrap();
        assert!(read.len() < 2000, "{}", read.len());
        assert_eq!(serde_json::from_str::<StartTimes>(&read).unwrap(), times);
    }

    #[test]
    fn a_class_of_forks_begins_minutes_before_the_bell_and_a_slow_one_earlier() {
        // A pass a minute, four at once: when the first ones begin before the bell.
        let begins = |count: usize, each: Option<Expected>| {
            let starts = vec![(at(0), each); count];
            let mut passes = (-60..=0).map(|minute| 60 * minute);
            let first = passes.find(|now| due(&pace(*now, now + 60, 4), &starts)[0]);
            -first.unwrap()
        };
        assert_eq!(begins(30, takes(2, 0)), 120);
        assert_eq!(begins(30, takes(2, 40)), 180, "they boot");
        assert_eq!(begins(100, takes(8, 0)), 480);
        assert_eq!(begins(1, None), 3600, "who knows how long it takes");
    }

    #[test]
    fn who_is_unknown_makes_nobody_else_begin_and_an_early_bell_no_later_one() {
        let fork = takes(2, 0);
        let starts = [(at(600), fork), (at(600), None), (at(600), fork)];
        assert_eq!(due(&pace(0, 60, 4), &starts), [false, true, false]);
        let starts = [(at(100), fork), (at(600), fork)];
        assert_eq!(due(&pace(0, 60, 4), &starts), [true, false]);
        // There are so many later ones that the first must be done by then.
        let mut starts = vec![(at(600), fork)];
        starts.extend(vec![(at(660), takes(20, 0)); 80]);
        assert!(due(&pace(0, 60, 4), &starts).iter().all(|due| *due));
    }

    /// Makes passes until all have begun, at `interval` each, in which starts begin for half a minute.
    /// When each was up.
    fn school(
        starts: &[(Timestamp, Option<Expected>)],
        first: i64,
        interval: i64,
        at_once: usize,
    ) -> Vec<SignedDuration> {
        let mut up = vec![None; starts.len()];
        let mut now = first;
        while up.iter().any(Option::is_none) {
            let left: Vec<_> = (0..starts.len()).filter(|n| up[*n].is_none()).collect();
            let waiting: Vec<_> = left.iter().map(|n| starts[*n]).collect();
            let due = due(&pace(now, now + interval, at_once), &waiting);
            let mut workers = vec![SignedDuration::ZERO; at_once];
            for (n, _) in left.iter().zip(due).filter(|(_, due)| *due) {
                let free = workers.iter_mut().min().unwrap();
                let expected = starts[*n].1.unwrap_or(Expected {
                    call: seconds(1),
                    boot: seconds(1),
                });
                if *free < ROOM {
                    *free += expected.call;
                    up[*n] = Some(at(now) + *free + expected.boot - at(0));
                }
            }
            now += interval;
        }
        up.into_iter().map(Option::unwrap).collect()
    }

    proptest! {
        #[test]
        fn all_are_up_at_the_bell_and_none_longer_before_than_its_pass_must(
            mut starts in prop::collection::vec((0..4_i64, prop::option::weighted(0.9, (1..9_i64, 0..90_i64))), 1..60),
            phase in 0..600_i64,
            interval in 30..600_i64,
            at_once in 1..9_usize,
        ) {
            starts.sort_by_key(|(bell, _)| *bell);
            let starts: Vec<_> = starts
                .into_iter()
                .map(|(bell, it)| (at(bell * 300), it.and_then(|(call, boot)| takes(call, boot))))
                .collect();
            // Early enough for all of them, one after the other.
            let first = phase - 20 * 600;
            let up = school(&starts, first, interval, at_once);
            for (n, (bell, expected)) in starts.iter().enumerate() {
                if expected.is_some() {
                    prop_assert!(at(0) + up[n] + MARGIN <= *bell, "{n} of {starts:?}");
                }
            }
            prop_assert_eq!(school(&starts, first, interval, at_once), up);
        }

        #[test]
        fn more_time_or_fewer_starts_never_make_one_begin(
            count in 1..60_usize,
            call in 1..20_i64,
            boot in 0..100_i64,
            bell in 0..2000_i64,
            later in 0..500_i64,
            interval in 30..600_i64,
        ) {
            let begin = |count: usize, bell: i64| {
                due(&pace(0, interval, 4), &vec![(at(bell), takes(call, boot)); count])[0]
            };
            prop_assert!(begin(count, bell) || !begin(count, bell + later));
            prop_assert!(begin(count, bell) || !begin(count.div_ceil(2), bell));
            // One that can begin in the next pass, and be up in time, does.
            let alone = interval + 30 + call + boot + 60;
            prop_assert_eq!(begin(1, bell), bell < alone);
        }
    }
}
