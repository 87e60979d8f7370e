//! The idle policy: decides which step is due, from the facts about an instance. Pure.
//!
//! When in doubt, an instance counts as active: a sign that cannot be read or is implausible counts
//! as use now. How long CPU work, an open connection, or a guest's answer or silence without a
//! console client counts is limited, because a student controls the guest.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::cmp::Reverse;

use jiff::{SignedDuration, Timestamp};

use super::signals::{Bound, Sign, Signal, SignalSource};
use crate::config::Policy;
pub use crate::names::Rung;
use crate::state::keep::Keep;
use crate::timetable::Class;
use crate::units::{Patience, age};

/// The evidence about an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The rung that it is on.
    pub rung: Rung,
    /// The signals of its use.
    pub signals: Vec<Signal>,
    /// Since when it has been running without a break, as seen by passes.
    pub running_since: Option<Timestamp>,
    /// Whether it is exempt.
    pub keep: Keep,
    /// Since when passes have seen it stopped, without a gap.
    pub stopped_since: Option<Timestamp>,
    /// When passes announced that it will be destroyed.
    pub announced: Option<Timestamp>,
    /// What the timetable says about it.
    pub class: Class,
    /// Times before this one come from a wrong clock and count as this one.
    pub trusted_from: Option<Timestamp>,
}

/// Whether its guest can cause or end this doubt.
pub fn is_of_guest(doubt: &str) -> bool {
    doubt.starts_with(SignalSource::GUEST.words)
}

/// The decision about an instance, and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// When it was last used.
    pub used: Timestamp,
    /// How long it has not been used.
    pub unused: SignedDuration,
    /// The sign that says so.
    pub source: SignalSource,
    /// The one step that is due.
    pub step: Option<Rung>,
    /// The next step down, and when it is due if the instance is not used.
    pub next: Option<(Rung, Timestamp)>,
    /// Its destruction is close enough to be announced.
    pub announces: bool,
    /// The reason, for people.
    pub reason: String,
    /// The doubts about the signs.
    pub doubts: Vec<String>,
}

/// Decides about an instance at the time `now`, by the ladder alone: `in_class` adds the timetable.
pub fn decide(now: Timestamp, evidence: &Evidence, policy: &Policy) -> Decision {
    let mut doubts = Vec::new();
    let (used, source) = last_use(now, evidence, policy, &mut doubts);
    let unused = now.duration_since(used).max(SignedDuration::ZERO);
    let reason = match (source, doubts.last()) {
        (_, Some(doubt)) if unused.is_zero() => format!("counts as active: {doubt}"),
        _ if unused.as_secs() == 0 => format!("in use now: {}", source.words),
        _ => format!("not used for {}: {}", age(unused), source.words),
    };
    let kept = match &evidence.keep {
        Keep::Until(until) if *until > now => Some(format!("kept until {until:.0}")),
        Keep::Unreadable(why) => {
            doubts.push(why.clone());
            Some(format!("kept: {why}"))
        }
        Keep::No | Keep::Until(_) => None,
    };
    let mut decision = Decision {
        used,
        unused,
        source,
        step: None,
        next: None,
        announces: false,
        reason,
        doubts,
    };
    if let Some(kept) = kept {
        decision.source = SignalSource::KEPT;
        decision.step = (evidence.rung == Rung::Idle).then_some(Rung::Running);
        decision.reason = kept;
        return decision;
    }
    let end = end_of_run(evidence, policy);
    if let Some((step, _)) = end.filter(|(_, at)| *at <= now) {
        decision.source = SignalSource::RUNTIME;
        (decision.step, decision.next) = (Some(step), end);
        decision.reason = format!("{}: policy.max_runtime", SignalSource::RUNTIME.words);
        return decision;
    }
    let is_due = |rung| after(policy, rung).is_some_and(|after| unused >= after);
    if evidence.rung == Rung::Idle && !is_due(Rung::Idle) {
        decision.step = Some(Rung::Running);
        decision.next = due_at(policy, Rung::Idle, used).map(|at| (Rung::Idle, at));
        return decision;
    }
    let mut next =
        below(policy, evidence.rung).and_then(|rung| Some((rung, due_at(policy, rung, used)?)));
    if let Some((Rung::Destroyed, at)) = &mut next {
        let known = |at: Option<Timestamp>| at.filter(|at| *at <= now).unwrap_or(now);
        *at = (*at).max(plus(known(evidence.stopped_since), policy.destroy_grace.0));
        let notice = policy.destroy_notice.0;
        decision.announces = *at <= plus(now, notice);
        if decision.announces {
            *at = (*at).max(plus(known(evidence.announced), notice));
        }
    }
    decision.next = next.into_iter().chain(end).min_by_key(|(_, at)| *at);
    decision.step = decision
        .next
        .and_then(|(rung, at)| (at <= now).then_some(rung));
    if let (Some((Rung::Destroyed, _)), None) = (decision.next, decision.step)
        && is_due(Rung::Destroyed)
    {
        decision
            .reason
            .push_str("; not seen stopped or announced for long enough yet");
    }
    decision
}

/// When it was last used, never after `now`, and the sign that says so.
fn last_use(
    now: Timestamp,
    evidence: &Evidence,
    policy: &Policy,
    doubts: &mut Vec<String>,
) -> (Timestamp, SignalSource) {
    let mut said = Vec::new();
    for signal in &evidence.signals {
        match known(now, &signal.sign) {
            Ok(None) => {}
            Ok(Some(at)) => said.push((at, signal)),
            Err(doubt) => {
                doubts.push(format!("{} {doubt}", signal.source.words));
                said.push((now, signal));
            }
        }
    }
    let vouching = said.iter().filter(|(_, it)| it.bound == Bound::Vouches);
    // Without any sign of that kind it counts as in use.
    let first = vouching
        .map(|(at, it)| (*at, it.source))
        .max_by_key(|it| it.0);
    let first = first.unwrap_or((now, SignalSource::TOUCHED));
    // The limited time of a connection, or of a silent agent, starts with the last use that another
    // sign confirms.
    let mut vouched = first.0;
    for (at, claim) in &said {
        for (seen, connection) in &said {
            // Somebody was connected and could type.
            if let (Bound::Claim, Sign::At(_), Bound::Connection(since)) =
                (claim.bound, &claim.sign, connection.bound)
                && since <= *at
            {
                vouched = vouched.max(*at.min(seen));
            }
        }
    }
    let bounded = |from: Timestamp, at: Timestamp| match policy.max_connected {
        Patience::Never => at,
        Patience::After(limit) => at.min(plus(from, limit.0)),
    };
    // If several give the same time, the first in this order decides.
    let worth = |(at, signal): &(Timestamp, &Signal)| {
        let (rank, at) = match signal.bound {
            Bound::Vouches => (0, *at),
            Bound::Claim => (1, bounded(vouched, *at)),
            Bound::Connection(since) => (2, bounded(vouched.max(since.min(now)), *at)),
            Bound::Counts | Bound::Work => (3, *at),
        };
        (at, Reverse(rank), signal.source)
    };
    let clock = evidence
        .trusted_from
        .map(|from| (from.min(now), Reverse(4), SignalSource::CLOCK));
    let last = |all: &[(Timestamp, Reverse<u8>, SignalSource)]| {
        let last = all.iter().max_by_key(|(at, rank, _)| (*at, *rank));
        last.map_or(first, |(at, _, source)| (*at, *source))
    };
    let (work, others): (Vec<_>, Vec<_>) = said.iter().partition(|(_, it)| it.bound == Bound::Work);
    let mut all: Vec<_> = others.into_iter().map(worth).chain(clock).collect();
    all.push((first.0, Reverse(0), first.1));
    let other = last(&all);
    all.extend(work.into_iter().map(|(at, it)| {
        let at = match policy.max_busy {
            Patience::Never => *at,
            Patience::After(limit) => (*at).min(plus(other.0, limit.0)),
        };
        (at, Reverse(5), it.source)
    }));
    last(&all)
}

/// The step for an instance that reaches its maximum runtime, and when that is.
pub(super) fn end_of_run(evidence: &Evidence, policy: &Policy) -> Option<(Rung, Timestamp)> {
    let (Rung::Running | Rung::Idle, Patience::After(limit)) = (evidence.rung, policy.max_runtime)
    else {
        return None;
    };
    // With a wrong clock, it may seem to have run for years.
    let since = Some(evidence.running_since?).max(evidence.trusted_from)?;
    let mut down = [Rung::Paused, Rung::Stopped].into_iter();
    let down = down.find(|rung| after(policy, *rung).is_some());
    Some((down.unwrap_or(Rung::Stopped), plus(since, limit.0)))
}

/// The time that a sign gives, or a doubt.
pub(super) fn known(now: Timestamp, sign: &Sign) -> Result<Option<Timestamp>, String> {
    match sign {
        Sign::Silent(_) => Ok(None),
        Sign::Unreadable(why) => Err(why.clone()),
        Sign::Seen(at) => Ok(Some((*at).min(now))),
        Sign::At(at) => match unused_for(*at, now) {
            Some(_) => Ok(Some((*at).min(now))),
            None => Err(format!("has an implausible time, {at:.0}")),
        },
    }
}

/// This program was not used before 2020-01-01: an earlier time is invalid.
const EARLIEST: Timestamp = Timestamp::constant(1_577_836_800, 0);

/// The clock of the file system may differ from ours by this much.
const SLACK: SignedDuration = SignedDuration::from_secs(2);

/// How long an instance has been unused at `now`; `None` if that is unknown or implausible, for
/// example a time in the future; it then counts as active.
pub fn unused_for(last: Timestamp, now: Timestamp) -> Option<SignedDuration> {
    let unused = now.duration_since(last);
    let makes_sense = last >= EARLIEST && unused.saturating_add(SLACK) >= SignedDuration::ZERO;
    makes_sense.then(|| unused.max(SignedDuration::ZERO))
}

/// How long an instance must be unused to step down to `rung`; `None` for never.
fn after(policy: &Policy, rung: Rung) -> Option<SignedDuration> {
    let patience = match rung {
        Rung::Running => return None,
        Rung::Idle => policy.idle_after,
        Rung::Paused => policy.pause_after,
        Rung::Stopped => policy.stop_after,
        Rung::Destroyed => policy.destroy_after,
    };
    match patience {
        Patience::After(after) => Some(after.0),
        Patience::Never => None,
    }
}

/// The next rung down in the policy. An instance that is not stopped is never destroyed.
fn below(policy: &Policy, rung: Rung) -> Option<Rung> {
    let ladder = [Rung::Idle, Rung::Paused, Rung::Stopped, Rung::Destroyed];
    let may_follow = |to: &Rung| *to > rung && (*to != Rung::Destroyed || rung == Rung::Stopped);
    let mut ladder = ladder.into_iter().filter(may_follow);
    ladder.find(|rung| after(policy, *rung).is_some())
}

fn due_at(policy: &Policy, rung: Rung, used: Timestamp) -> Option<Timestamp> {
    Some(plus(used, after(policy, rung)?))
}

/// `at` plus `length`, saturating.
pub(super) fn plus(at: Timestamp, length: SignedDuration) -> Timestamp {
    at.saturating_add(length).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reaper::passes::Connection;
    use crate::units::Duration;

    /// What is known, by the names of the signals.
    #[derive(Debug, Clone)]
    struct Facts {
        rung: Rung,
        touched: Sign,
        powered_on: Option<Timestamp>,
        running_since: Option<Timestamp>,
        console: Option<Connection>,
        guest: Sign,
        work: Sign,
        keep: Keep,
        stopped_since: Option<Timestamp>,
        announced: Option<Timestamp>,
        trusted_from: Option<Timestamp>,
    }

    fn decide(now: Timestamp, facts: &Facts, policy: &Policy) -> Decision {
        let facts = facts.clone();
        let signal = |source, sign, bound| Signal {
            source,
            sign,
            bound,
        };
        let mut signals = vec![
            signal(SignalSource::TOUCHED, facts.touched, Bound::Vouches),
            signal(SignalSource::GUEST, facts.guest, Bound::Claim),
            signal(SignalSource::WORK, facts.work, Bound::Work),
        ];
        if let Some(Connection { since, seen }) = facts.console {
            let bound = Bound::Connection(since);
            signals.push(signal(SignalSource::CONSOLE, Sign::Seen(seen), bound));
        }
        if let Some(at) = facts.powered_on {
            signals.push(signal(SignalSource::POWER, Sign::Seen(at), Bound::Counts));
        }
        let facts = super::Evidence {
            rung: facts.rung,
            signals,
            running_since: facts.running_since,
            keep: facts.keep,
            stopped_since: facts.stopped_since,
            announced: facts.announced,
            trusted_from: facts.trusted_from,
            class: Class::default(),
        };
        super::decide(now, &facts, policy)
    }

    const NOW: i64 = 1_800_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ago(minutes: i64) -> Timestamp {
        at(NOW - 60 * minutes)
    }

    fn on(rung: Rung, touched: Timestamp) -> Facts {
        Facts {
            rung,
            touched: Sign::At(touched),
            powered_on: None,
            running_since: None,
            console: None,
            guest: Sign::Silent("not asked"),
            work: Sign::Silent("not measured"),
            keep: Keep::No,
            stopped_since: None,
            announced: None,
            trusted_from: None,
        }
    }

    fn decided(facts: &Facts) -> Decision {
        decide(at(NOW), facts, &Policy::default())
    }

    fn step(facts: &Facts) -> Option<Rung> {
        decided(facts).step
    }

    #[test]
    fn the_ladder_of_the_default_policy() {
        for (rung, minutes, wanted) in [
            (Rung::Running, 9, None),
            (Rung::Running, 10, Some(Rung::Idle)),
            (Rung::Running, 10_000, Some(Rung::Idle)),
            (Rung::Idle, 9, Some(Rung::Running)),
            (Rung::Idle, 19, None),
            (Rung::Idle, 20, Some(Rung::Paused)),
            (Rung::Paused, 0, None),
            (Rung::Paused, 29, None),
            (Rung::Paused, 30, Some(Rung::Stopped)),
            (Rung::Stopped, 0, None),
            (Rung::Stopped, 24 * 60 - 1, None),
        ] {
            let found = step(&on(rung, ago(minutes)));
            assert_eq!(found, wanted, "{rung:?} after {minutes} min");
        }
    }

    #[test]
    fn what_was_not_seen_stopped_for_an_hour_is_not_destroyed() {
        let seen = |since| {
            step(&Facts {
                stopped_since: since,
                announced: Some(ago(120)),
                ..on(Rung::Stopped, ago(24 * 60))
            })
        };
        assert_eq!(seen(None), None);
        assert_eq!(seen(Some(ago(59))), None);
        assert_eq!(seen(Some(ago(-5))), None, "seen in the future");
        assert_eq!(seen(Some(ago(60))), Some(Rung::Destroyed));
    }

    #[test]
    fn nothing_is_destroyed_that_was_not_announced_for_two_hours() {
        let announced = |unused, announced| {
            decided(&Facts {
                stopped_since: Some(ago(23 * 60)),
                announced,
                ..on(Rung::Stopped, ago(unused))
            })
        };
        let destroyed = |minutes: i64| Some((Rung::Destroyed, ago(-minutes)));
        let early = announced(22 * 60 - 1, None);
        assert_eq!((early.announces, early.next), (false, destroyed(121)));
        let told = announced(22 * 60, None);
        assert_eq!((told.announces, told.next), (true, destroyed(120)));
        for (since, step) in [
            (None, None),
            (Some(ago(119)), None),
            (Some(ago(-5)), None),
            (Some(ago(120)), Some(Rung::Destroyed)),
        ] {
            let late = announced(25 * 60, since);
            assert_eq!((late.announces, late.step), (true, step), "{since:?}");
        }
        // Used again, an announcement from before is none.
        let used = announced(5, Some(ago(300)));
        assert_eq!((used.announces, used.next), (false, destroyed(24 * 60 - 5)));
    }

    #[test]
    fn a_client_that_never_types_is_worth_four_hours() {
        let connected = |touched, since| {
            let console = Some(Connection {
                since: ago(since),
                seen: at(NOW),
            });
            decided(&Facts {
                console,
                ..on(Rung::Running, ago(touched))
            })
        };
        let decision = connected(240, 239);
        assert_eq!(
            (decision.step, decision.source),
            (None, SignalSource::CONSOLE)
        );
        assert_eq!(connected(260, 249).step, None);
        assert_eq!(connected(260, 250).step, Some(Rung::Idle));
        assert_eq!(connected(260, 5).step, None, "it came back");
        // One that has left was there when it was last seen.
        let left = Facts {
            console: Some(Connection {
                since: ago(100),
                seen: ago(15),
            }),
            ..on(Rung::Running, ago(120))
        };
        assert_eq!(decided(&left).unused, SignedDuration::from_mins(15));
    }

    #[test]
    fn an_agent_that_does_not_answer_is_a_doubt_of_bounded_worth() {
        let silent = |touched| {
            decided(&Facts {
                guest: Sign::Unreadable("does not answer".to_owned()),
                ..on(Rung::Running, ago(touched))
            })
        };
        assert_eq!(silent(60).step, None);
        assert_eq!(silent(60).doubts, ["its guest's agent does not answer"]);
        assert_eq!(silent(250).step, Some(Rung::Idle));
    }

    #[test]
    fn a_guests_own_word_is_worth_no_more_than_a_viewer() {
        let says_now = |touched, console| {
            decided(&Facts {
                guest: Sign::At(at(NOW)),
                console,
                ..on(Rung::Running, ago(touched))
            })
        };
        let connection = |since, seen| {
            Some(Connection {
                since: ago(since),
                seen: ago(seen),
            })
        };
        let decision = says_now(249, None);
        assert_eq!(
            (decision.step, decision.source),
            (None, SignalSource::GUEST)
        );
        assert_eq!(says_now(250, None).step, Some(Rung::Idle));
        assert_eq!(says_now(100_000, None).step, Some(Rung::Idle));
        // Somebody looks on, or did until lately.
        assert_eq!(says_now(100_000, connection(90_000, 0)).step, None);
        assert_eq!(says_now(100_000, connection(90_000, 249)).step, None);
        let left = says_now(100_000, connection(90_000, 250));
        assert_eq!(left.step, Some(Rung::Idle));
        // What was typed before that one came is the guest's word alone.
        let before = Facts {
            guest: Sign::At(ago(20)),
            console: connection(10, 10),
            ..on(Rung::Running, ago(100_000))
        };
        assert_eq!(decided(&before).unused, SignedDuration::from_mins(10));
    }

    #[test]
    fn work_is_use_for_four_hours_after_the_last_other_sign() {
        let works = |touched, work| {
            decided(&Facts {
                work,
                ..on(Rung::Running, ago(touched))
            })
        };
        let now = || Sign::Seen(at(NOW));
        let decision = works(249, now());
        assert_eq!((decision.step, decision.source), (None, SignalSource::WORK));
        assert_eq!(works(250, now()).step, Some(Rung::Idle), "a miner");
        assert_eq!(works(60, Sign::Seen(ago(9))).step, None);
        assert_eq!(works(60, Sign::Seen(ago(10))).step, Some(Rung::Idle));
        // Any other sign begins it anew.
        let viewed = Facts {
            work: now(),
            console: Some(Connection {
                since: ago(200),
                seen: ago(200),
            }),
            ..on(Rung::Running, ago(1000))
        };
        assert_eq!(decided(&viewed).source, SignalSource::WORK);
        let unknown = Sign::Unreadable("is not known".to_owned());
        assert_eq!(works(249, unknown.clone()).step, None);
        assert_eq!(
            works(249, unknown.clone()).doubts,
            ["its CPU time is not known"]
        );
        assert_eq!(works(250, unknown).step, Some(Rung::Idle));
        let never = Policy {
            max_busy: Patience::Never,
            ..Policy::default()
        };
        let miner = Facts {
            work: now(),
            ..on(Rung::Running, ago(100_000))
        };
        assert_eq!(decide(at(NOW), &miner, &never).step, None);
    }

    #[test]
    fn what_has_run_for_as_long_as_it_may_is_paused_whatever_its_signs_say() {
        let policy = |pause_after, max_runtime| Policy {
            pause_after,
            max_runtime: Patience::After(Duration(SignedDuration::from_mins(max_runtime))),
            ..Policy::default()
        };
        let in_use = |rung, running| Facts {
            running_since: Some(ago(running)),
            guest: Sign::At(at(NOW)),
            ..on(rung, at(NOW))
        };
        let step = |facts: &Facts, policy: &Policy| decide(at(NOW), facts, policy).step;
        let hour = policy(Policy::default().pause_after, 60);
        assert_eq!(step(&in_use(Rung::Running, 59), &hour), None);
        let decision = decide(at(NOW), &in_use(Rung::Running, 60), &hour);
        assert_eq!(decision.step, Some(Rung::Paused));
        assert_eq!(decision.source, SignalSource::RUNTIME);
        assert_eq!(step(&in_use(Rung::Idle, 60), &hour), Some(Rung::Paused));
        assert_eq!(step(&in_use(Rung::Paused, 60), &hour), None);
        let never = policy(Patience::Never, 60);
        assert_eq!(
            step(&in_use(Rung::Running, 60), &never),
            Some(Rung::Stopped)
        );
        assert_eq!(
            step(&in_use(Rung::Running, 100_000), &Policy::default()),
            None
        );
        for spared in [
            Facts {
                keep: Keep::Until(ago(-1)),
                ..in_use(Rung::Running, 100)
            },
            Facts {
                trusted_from: Some(ago(5)),
                ..in_use(Rung::Running, 100_000)
            },
            Facts {
                running_since: None,
                ..in_use(Rung::Running, 0)
            },
        ] {
            assert_eq!(step(&spared, &hour), None, "{spared:?}");
        }
    }

    #[test]
    fn a_kept_instance_is_let_go_and_left_alone() {
        let kept = |rung, keep| {
            step(&Facts {
                keep,
                ..on(rung, ago(60))
            })
        };
        assert_eq!(kept(Rung::Running, Keep::Until(ago(-1))), None);
        assert_eq!(kept(Rung::Idle, Keep::Until(ago(-1))), Some(Rung::Running));
        assert_eq!(kept(Rung::Paused, Keep::Unreadable("x".to_owned())), None);
        assert_eq!(kept(Rung::Running, Keep::Until(ago(1))), Some(Rung::Idle));
    }

    #[test]
    fn a_rung_that_is_never_taken_is_passed_over() {
        let policy = Policy {
            idle_after: Patience::Never,
            stop_after: Patience::Never,
            ..Policy::default()
        };
        let step = |rung| decide(at(NOW), &on(rung, ago(10_000)), &policy).step;
        assert_eq!(step(Rung::Running), Some(Rung::Paused));
        assert_eq!(step(Rung::Idle), Some(Rung::Running));
        assert_eq!(
            step(Rung::Paused),
            None,
            "only what is stopped is destroyed"
        );
    }

    #[test]
    fn times_of_a_clock_that_was_wrong_count_from_when_it_was_set() {
        let facts = Facts {
            trusted_from: Some(ago(5)),
            ..on(Rung::Running, ago(500))
        };
        let decision = decided(&facts);
        assert_eq!(
            (decision.step, decision.source),
            (None, SignalSource::CLOCK)
        );
    }

    #[test]
    fn absurd_times_tell_nothing() {
        let now = Timestamp::from_second(2_000_000_000).unwrap();
        let unused = |second: i64| {
            let last = Timestamp::from_second(second).unwrap();
            unused_for(last, now).map(|unused| unused.as_secs())
        };
        assert_eq!(unused(2_000_000_000 - 60), Some(60));
        assert_eq!(unused(2_000_000_001), Some(0));
        assert_eq!(unused(2_000_000_060), None);
        assert_eq!(unused(0), None);
        assert_eq!(unused(-1), None);
    }

    fn rungs() -> impl Strategy<Value = Rung> {
        prop::sample::select(vec![Rung::Running, Rung::Idle, Rung::Paused, Rung::Stopped])
    }

    fn times() -> impl Strategy<Value = Timestamp> {
        let any = Timestamp::MIN.as_second()..=Timestamp::MAX.as_second();
        prop_oneof![any, NOW - 200_000..=NOW + 1000].prop_map(at)
    }

    fn signs() -> impl Strategy<Value = Sign> {
        prop_oneof![
            4 => times().prop_map(Sign::At),
            1 => Just(Sign::Silent("")),
            1 => Just(Sign::Unreadable("x".to_owned())),
        ]
    }

    fn patience() -> impl Strategy<Value = Patience> {
        let after = |s| Patience::After(Duration(SignedDuration::from_secs(s)));
        prop_oneof![4 => (0..90_000_i64).prop_map(after), 1 => Just(Patience::Never)]
    }

    prop_compose! {
        fn policies()(
            mut steps in prop::collection::vec(patience(), 4),
            max_connected in patience(),
            max_busy in patience(),
            max_runtime in patience(),
        ) -> Policy {
            // As the configuration's check wants it.
            let mut least = SignedDuration::ZERO;
            for step in &mut steps {
                if let Patience::After(after) = step {
                    after.0 = after.0.max(least);
                    least = after.0;
                }
            }
            Policy {
                idle_after: steps[0],
                pause_after: steps[1],
                stop_after: steps[2],
                destroy_after: steps[3],
                max_connected,
                max_busy,
                max_runtime,
                ..Policy::default()
            }
        }
    }

    prop_compose! {
        fn any_facts()(
            rung in rungs(),
            touched in signs(),
            powered_on in prop::option::of(times()),
            running_since in prop::option::of(times()),
            console in prop::option::of((times(), times())),
            guest in signs(),
            work in signs(),
            kept in prop::option::of(times()),
            stopped_since in prop::option::of(times()),
            announced in prop::option::of(times()),
            trusted_from in prop::option::of(times()),
        ) -> Facts {
            Facts {
                rung,
                touched,
                powered_on,
                running_since,
                console: console.map(|(since, seen)| Connection { since, seen }),
                guest,
                work,
                keep: kept.map_or(Keep::No, Keep::Until),
                stopped_since,
                announced,
                trusted_from,
            }
        }
    }

    proptest! {
        #[test]
        fn it_never_skips_a_rung_and_never_wakes_anyone(
            facts in any_facts(), policy in policies(),
        ) {
            let rung = facts.rung;
            let decision = decide(at(NOW), &facts, &policy);
            if decision.source == SignalSource::RUNTIME {
                let ways = [Some(Rung::Paused), Some(Rung::Stopped)];
                prop_assert!(rung <= Rung::Idle && ways.contains(&decision.step));
            } else if let Some(to) = decision.step {
                let between = [Rung::Idle, Rung::Paused, Rung::Stopped];
                let skipped = between.iter().any(|r| rung < *r && *r < to && after(&policy, *r).is_some());
                prop_assert!(!skipped, "{rung:?} to {to:?}");
                prop_assert!(to > rung || (rung, to) == (Rung::Idle, Rung::Running));
                prop_assert!(to != Rung::Destroyed || rung == Rung::Stopped);
            }
        }

        #[test]
        fn it_is_announced_for_long_enough_before_it_is_destroyed(
            facts in any_facts(), policy in policies(),
        ) {
            let decision = decide(at(NOW), &facts, &policy);
            if decision.step == Some(Rung::Destroyed) {
                prop_assert!(decision.announces);
                let since = facts.announced.filter(|since| *since <= at(NOW));
                prop_assert!(since.is_some_and(|since| plus(since, policy.destroy_notice.0) <= at(NOW)));
            }
        }

        #[test]
        fn it_never_acts_on_one_that_is_in_use(
            facts in any_facts(), policy in policies(), seconds in 0..600_i64,
        ) {
            let facts = Facts { touched: Sign::At(at(NOW - seconds)), ..facts };
            let policy = Policy { max_runtime: Patience::Never, ..policy };
            let decision = decide(at(NOW), &facts, &policy);
            prop_assert!(decision.unused <= SignedDuration::from_secs(seconds));
            if let Some(to) = decision.step.filter(|to| *to > facts.rung) {
                let due = after(&policy, to).unwrap();
                prop_assert!(due <= SignedDuration::from_secs(seconds));
            }
        }

        #[test]
        fn what_cannot_be_read_is_active(
            facts in any_facts(), policy in policies(),
            bad in prop_oneof![
                Just(Sign::Unreadable("x".to_owned())),
                (NOW + 3..NOW * 2).prop_map(|second| Sign::At(at(second))),
                (-NOW..1_577_836_800).prop_map(|second| Sign::At(at(second))),
            ],
        ) {
            let facts = Facts { touched: bad, ..facts };
            let policy = Policy { max_runtime: Patience::Never, ..policy };
            let decision = decide(at(NOW), &facts, &policy);
            prop_assert_eq!(decision.unused, SignedDuration::ZERO);
            prop_assert!(!decision.doubts.is_empty());
            if let Some(to) = decision.step.filter(|to| *to > facts.rung) {
                prop_assert_eq!(after(&policy, to), Some(SignedDuration::ZERO));
            }
        }

        #[test]
        fn nothing_that_a_guest_says_keeps_it_for_longer_than_a_viewer_would(
            facts in any_facts(), policy in policies(), seconds in 0..200_000_i64,
        ) {
            let touched = at(NOW - seconds);
            let facts = Facts {
                touched: Sign::At(touched),
                powered_on: None,
                console: None,
                trusted_from: None,
                ..facts
            };
            let decision = decide(at(NOW), &facts, &policy);
            if let (Patience::After(limit), Patience::After(busy)) = (policy.max_connected, policy.max_busy) {
                let least = SignedDuration::from_secs(seconds) - limit.0 - busy.0;
                prop_assert!(decision.unused >= least, "{decision:?}");
            }
            prop_assert!(decision.reason.len() + decision.doubts.concat().len() < 500);
        }

        #[test]
        fn more_time_without_use_never_means_a_higher_rung(
            facts in any_facts(), policy in policies(), later in 0..100_000_i64,
        ) {
            // Signs of the future come true as time goes on, which is use; those of the past do not.
            let past = |sign: &Sign| !matches!(sign, Sign::At(at) if at.as_second() > NOW)
                && !matches!(sign, Sign::Unreadable(_));
            let work = Some(facts.work.clone()).filter(past);
            let facts = Facts { work: work.unwrap_or(Sign::Silent("")), ..facts };
            let target = |now| {
                let decision = decide(at(now), &facts, &policy);
                (decision.unused, decision.step.unwrap_or(facts.rung))
            };
            let before = |time: &Option<Timestamp>| time.is_none_or(|time| time.as_second() <= NOW);
            prop_assume!(past(&facts.touched) && past(&facts.guest));
            prop_assume!(!matches!(facts.touched, Sign::Silent(_)));
            prop_assume!(before(&facts.powered_on) && before(&facts.trusted_from));
            prop_assume!(before(&facts.console.map(|console| console.seen)));
            // What may run no longer is paused at once, and is then on the ladder again.
            let ((sooner, high), (longer, low)) = (target(NOW), target(NOW + later));
            prop_assert!(longer >= sooner);
            prop_assert!(low >= high, "{high:?} and then {low:?}");
        }
    }
}
