//! What the timetable adds to the idle policy: `policy.in_class` applies to an instance that is
//! used in a lesson; at the end of the lesson it is paused unless it is still used; and no instance
//! is taken down shortly before it would be brought up again. Pure.
//!
//! If a user does not come to a lesson, the instance counts as last used when the lesson began.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use jiff::Timestamp;

use super::policy::{self, Decision, Evidence, Rung, known, plus};
use super::signals::{Sign, SignalSource};
use crate::config::Policy;
use crate::timetable::{Attendance, Class, GRACE};

/// Decides about an instance at the time `now`, by the ladder and the timetable.
pub fn decide(now: Timestamp, evidence: &Evidence, policy: &Policy) -> Decision {
    let class = &evidence.class;
    let used = class.now.filter(|lessons| {
        let mut signals = evidence.signals.iter();
        let since = lessons.prepare.max(class.ready.unwrap_or(lessons.prepare));
        signals.any(|it| tells_of_use(now, since, it.source, &it.sign, policy))
    });
    let mut decision = match (used, &class.uncertain) {
        (None, None) => policy::decide(now, evidence, policy),
        _ => policy::decide(now, evidence, &policy.in_class()),
    };
    let why = match (used, &class.uncertain, class.now) {
        (_, Some(why), _) => Some(format!("counts as in class: {why}")),
        (Some(lessons), ..) => Some(format!("in class until {:.0}", lessons.to)),
        (None, None, Some(lessons)) => Some(match now < lessons.from {
            true => format!("ready for its lesson at {:.0}", lessons.from),
            false => format!(
                "not used in its lesson, which lasts until {:.0}",
                lessons.to
            ),
        }),
        (None, None, None) => None,
    };
    if let Some(why) = why {
        decision.reason = format!("{}; {why}", decision.reason);
    }
    let spared = [SignalSource::KEPT, SignalSource::RUNTIME].contains(&decision.source);
    if spared || class.uncertain.is_some() {
        return decision;
    }
    if evidence.rung <= Rung::Idle {
        end_of_class(now, class, &mut decision);
    } else {
        made_ready(now, class, &mut decision);
    }
    decision
}

/// Whether a sign shows use after a pass has finished preparing it, at `since`. A booting guest is
/// busy, and its agent may take that for use.
fn tells_of_use(
    now: Timestamp,
    since: Timestamp,
    source: SignalSource,
    sign: &Sign,
    policy: &Policy,
) -> bool {
    let since = match source {
        SignalSource::TOUCHED | SignalSource::CONSOLE => since,
        SignalSource::GUEST => plus(since, policy.boot_timeout.0),
        _ => return false,
    };
    match known(now, sign) {
        Ok(at) => at.is_some_and(|at| at > since),
        // When in doubt.
        Err(_) => true,
    }
}

/// At the end of a lesson it is paused, once it was unused for a moment. If it is still used, the
/// normal policy applies.
fn end_of_class(now: Timestamp, class: &Class, decision: &mut Decision) {
    let end = match (class.now, class.over) {
        (Some(lessons), _) => lessons.to,
        (None, Some(over)) if decision.used < plus(over, GRACE) => over,
        (None, _) => return,
    };
    let at = end.max(plus(decision.used, GRACE));
    if at <= now && decision.step.is_none_or(|step| step <= Rung::Paused) {
        decision.step = Some(Rung::Paused);
        decision.next = Some((Rung::Paused, at));
        decision.reason = format!("its lesson ended at {end:.0}; {}", decision.reason);
    } else if at > now && decision.next.is_none_or(|(_, other)| at < other) {
        decision.next = Some((Rung::Paused, at));
    }
}

/// An instance that is off is prepared for its next lesson, if nothing else comes before: from
/// `prepare` on, at the latest when the lesson begins.
fn made_ready(now: Timestamp, class: &Class, decision: &mut Decision) {
    let due = |lessons: &Attendance| class.ready.is_none().then_some(lessons.from.max(now));
    let at = class.now.as_ref().and_then(due).or(class.next);
    let Some(at) = at else {
        return;
    };
    if decision.step.is_none() && decision.next.is_none_or(|(_, other)| at <= other) {
        decision.next = Some((Rung::Running, at));
        decision.announces = false;
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use proptest::prelude::*;

    use super::*;
    use crate::reaper::signals::{Bound, Signal, beginning};
    use crate::state::keep::Keep;

    const NOW: i64 = 1_800_000_000;

    /// So many minutes after a lesson of 9 to 10:30 began.
    fn minute(minutes: i64) -> Timestamp {
        Timestamp::from_second(NOW + 60 * minutes).unwrap()
    }

    fn lesson() -> Attendance {
        Attendance {
            prepare: minute(-10),
            from: minute(0),
            to: minute(90),
        }
    }

    /// What the timetable makes of it at a minute, where a pass made it ready in another one.
    fn class(now: i64, ready: Option<i64>) -> Class {
        Class {
            now: (-10..90).contains(&now).then(lesson),
            over: (90..210).contains(&now).then(|| minute(90)),
            next: (now < -10).then(|| minute(-10)),
            uncertain: None,
            ready: ready.map(minute),
        }
    }

    fn evidence(rung: Rung, touched: i64, class: Class) -> Evidence {
        let signal = |source, sign| Signal {
            source,
            sign,
            bound: Bound::Counts,
        };
        let mut touched = signal(SignalSource::TOUCHED, Sign::At(minute(touched)));
        touched.bound = Bound::Vouches;
        Evidence {
            rung,
            signals: vec![touched, signal(SignalSource::LESSON, beginning(&class))],
            running_since: None,
            keep: Keep::No,
            stopped_since: None,
            announced: None,
            trusted_from: None,
            class,
        }
    }

    fn decided(now: i64, evidence: &Evidence) -> Decision {
        decide(minute(now), evidence, &Policy::default())
    }

    fn at_work(mut evidence: Evidence, now: i64) -> Evidence {
        evidence.signals.push(Signal {
            source: SignalSource::WORK,
            sign: Sign::Seen(minute(now)),
            bound: Bound::Work,
        });
        evidence
    }

    #[test]
    fn who_uses_it_in_a_lesson_keeps_it_until_the_end() {
        // Touched in minute 5, and then they listen.
        for now in [30, 60, 89] {
            let decision = decided(now, &evidence(Rung::Idle, 5, class(now, Some(-9))));
            assert_eq!(decision.step, None, "{now}");
            assert_eq!(decision.next, Some((Rung::Paused, minute(90))));
            assert!(
                decision.reason.contains("; in class until"),
                "{}",
                decision.reason
            );
        }
        let over = decided(90, &evidence(Rung::Idle, 5, class(90, Some(-9))));
        assert_eq!(over.step, Some(Rung::Paused));
        assert!(
            over.reason.starts_with("its lesson ended at"),
            "{}",
            over.reason
        );
    }

    #[test]
    fn who_does_not_come_has_one_that_was_last_used_when_the_lesson_began() {
        // Made ready, which touches it.
        let of = |rung, now| decided(now, &evidence(rung, -9, class(now, Some(-9))));
        assert_eq!(of(Rung::Running, -1).step, None);
        assert_eq!(of(Rung::Running, 9).step, None);
        assert_eq!(of(Rung::Running, 10).step, Some(Rung::Idle));
        assert_eq!(of(Rung::Idle, 19).step, None);
        assert_eq!(of(Rung::Idle, 20).step, Some(Rung::Paused));
        // Whatever a guest does while it boots.
        let boots = at_work(evidence(Rung::Idle, -9, class(20, Some(-9))), -6);
        assert_eq!(decided(20, &boots).step, Some(Rung::Paused));
    }

    #[test]
    fn who_goes_on_after_the_end_is_left_to_the_ladder() {
        let of =
            |touched, now| decided(now, &evidence(Rung::Running, touched, class(now, Some(-9))));
        assert_eq!(of(89, 91).step, None, "not yet");
        assert_eq!(of(89, 91).next, Some((Rung::Paused, minute(92))));
        assert_eq!(of(89, 92).step, Some(Rung::Paused));
        assert_eq!(of(92, 95).step, Some(Rung::Paused));
        assert_eq!(of(93, 96).step, None);
        assert_eq!(of(93, 103).step, Some(Rung::Idle));
        // A job goes on.
        let works = at_work(evidence(Rung::Running, 80, class(95, Some(-9))), 95);
        assert_eq!(decided(95, &works).step, None);
    }

    #[test]
    fn what_is_off_is_made_ready_and_not_taken_down_before() {
        let of =
            |rung, touched, now, ready| decided(now, &evidence(rung, touched, class(now, ready)));
        let paused = of(Rung::Paused, -35, -11, None);
        assert_eq!(
            (paused.step, paused.next),
            (None, Some((Rung::Running, minute(-10))))
        );
        let due = of(Rung::Paused, -50, -5, None);
        assert_eq!(
            (due.step, due.next),
            (None, Some((Rung::Running, minute(0)))),
            "by the bell"
        );
        // Its user stopped it in the lesson.
        let stopped = of(Rung::Stopped, 5, 30, Some(-9));
        assert_eq!(stopped.step, None);
        assert_eq!(stopped.next, None);
        // About to be destroyed, and there is a lesson before that.
        let old = of(Rung::Stopped, -23 * 60, -11, None);
        assert_eq!(old.next, Some((Rung::Running, minute(-10))));
        assert!(!old.announces);
    }

    #[test]
    fn what_cannot_be_told_is_in_class_and_not_paused_at_an_end() {
        let uncertain = |now| Class {
            uncertain: Some("no roster".to_owned()),
            ..class(now, None)
        };
        for now in [30, 95, 2000] {
            let decision = decided(now, &evidence(Rung::Idle, 5, uncertain(now)));
            assert_eq!(decision.step, None, "{now}");
            assert!(decision.reason.ends_with("counts as in class: no roster"));
        }
    }

    proptest! {
        #[test]
        fn never_one_that_works_for_as_long_as_it_may(
            now in -60..220_i64,
            // Below `policy.max_busy`, which is four hours.
            ago in 0..240_i64,
            ready in prop::option::of(-10..90_i64),
            rung in prop_oneof![Just(Rung::Running), Just(Rung::Idle)],
        ) {
            let known = evidence(rung, now - ago, class(now, ready));
            let decision = decided(now, &at_work(known, now));
            prop_assert!(decision.step.is_none_or(|step| step == Rung::Running), "{decision:?}");
        }

        #[test]
        fn never_a_kept_one_never_one_that_is_used_in_class(
            now in -60..220_i64,
            ago in 0..200_i64,
            rung in prop_oneof![Just(Rung::Running), Just(Rung::Idle)],
            kept: bool,
        ) {
            let touched = now - ago;
            let mut known = evidence(rung, touched, class(now, None));
            if kept {
                known.keep = Keep::Until(minute(now) + SignedDuration::from_hours(1));
            }
            let decision = decided(now, &known);
            let down = decision.step.is_some_and(|step| step > rung);
            prop_assert!(!(kept && down));
            let in_class = (-10..90).contains(&now);
            if in_class && touched > -10 {
                prop_assert!(decision.step.is_none_or(|step| step < Rung::Paused));
            }
            if (90..210).contains(&now) && touched < 93 && ago >= 3 && !kept {
                prop_assert_eq!(decision.step, Some(Rung::Paused));
            }
            if let Some((_, next_at)) = decision.next {
                prop_assert_eq!(decision.step.is_some_and(|it| it > rung), next_at <= minute(now));
            }
            prop_assert_eq!(decided(now, &known), decision);
        }
    }
}
