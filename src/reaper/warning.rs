//! Warns people in a guest before it is paused or shut down.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};

use super::observer::{Assessment, Observation};
use super::passes::Seen;
use super::policy::{Evidence, Rung, end_of_run};
use crate::config::Policy;
use crate::context::Context;
use crate::names::InstanceName;
use crate::parallel::{contained, side_by_side};
use crate::state::coverage::LONGEST_GAP;

/// How long before a step the warning is given, if passes are more frequent than that.
const AHEAD: SignedDuration = SignedDuration::from_secs(60);

/// The time limit for one guest's agent, and for all of them in one pass.
const AGENT: Duration = Duration::from_secs(2);
const LATEST: Duration = Duration::from_secs(6);

/// How many are warned in parallel.
const AT_ONCE: usize = 8;

/// The time until which steps are announced by this pass: the next pass may take them, judging by
/// when the `last` one was.
pub(super) fn horizon(now: Timestamp, last: Option<Timestamp>) -> Timestamp {
    let since = last.map_or(AHEAD, |last| now.duration_since(last));
    now.saturating_add(since.clamp(AHEAD, LONGEST_GAP))
        .unwrap_or(Timestamp::MAX)
}

/// The pause or stop of a running instance that is due after this pass and before `horizon`.
pub(super) fn upcoming(one: &Assessment, horizon: Timestamp) -> Option<(Rung, Timestamp)> {
    let (evidence, decision) = one.judged()?;
    let runs = evidence.rung <= Rung::Idle && decision.step.is_none();
    let ends = |to: Rung| matches!(to, Rung::Paused | Rung::Stopped);
    decision
        .next
        .filter(|(to, at)| runs && ends(*to) && *at <= horizon)
}

/// The text of the warning about the next step; none if it was given, is switched off, or the guest's
/// agent has not answered.
fn text(
    one: &Assessment,
    seen: &mut Seen,
    policy: &Policy,
    now: Timestamp,
    horizon: Timestamp,
) -> Option<String> {
    let (evidence, decision) = one.judged()?;
    let Some((to, at)) = upcoming(one, horizon) else {
        // A step that is due but was not taken is the same step in the next pass.
        if decision.step.is_none() {
            seen.warned = None;
        }
        return None;
    };
    if seen.warned == Some(to) {
        return None;
    }
    seen.warned = Some(to);
    let is_wanted = policy.announce && seen.trouble.is_none();
    is_wanted.then(|| words(evidence, policy, (to, at), now))
}

/// The text of the warning.
fn words(evidence: &Evidence, policy: &Policy, step: (Rung, Timestamp), now: Timestamp) -> String {
    let (to, at) = step;
    let minutes = at.duration_since(now).as_secs().saturating_add(59) / 60;
    let when = match minutes {
        ..=1 => "about a minute".to_owned(),
        minutes => format!("about {minutes} minutes"),
    };
    let what = match to {
        Rung::Paused => "paused",
        _ => "shut down",
    };
    let is_end = end_of_run(evidence, policy) == Some(step);
    let why = match is_end {
        true => "it has reached its maximum runtime",
        false => "nobody uses it",
    };
    let advice = match (is_end, to) {
        (false, _) => "Use it to keep it running.",
        (true, Rung::Paused) => "It continues here when it is started again.",
        (true, _) => "Save your work.",
    };
    format!("This machine will be {what} in {when}, because {why}. {advice}")
}

/// A warning for the users of a guest.
pub(super) struct Warning {
    name: InstanceName,
    text: String,
}

/// The warnings about the pauses and stops before `horizon`, one per step. They are noted as given in
/// `all`, which is to be recorded: a warning that is lost with a killed pass is better than the same one
/// each minute.
pub(super) fn due(
    context: &Context,
    all: &mut [(Observation, Seen)],
    horizon: Timestamp,
) -> Vec<Warning> {
    let now = context.time();
    let due = all.iter_mut().filter_map(|(one, seen)| {
        let policy = context.policy(&one.name.lab);
        let text = text(&one.assessment, seen, &policy, now, horizon)?;
        let name = one.name.clone();
        Some(Warning { name, text })
    });
    due.collect()
}

/// Gives the warnings. A guest that does not answer does not delay the step.
pub(super) fn give(context: &Context, warnings: &[Warning]) {
    let began = Instant::now();
    let told = side_by_side(warnings, AT_ONCE, |Warning { name, text }| {
        if began.elapsed() > LATEST {
            return Ok(false);
        }
        contained(|| show(context, name, text)).unwrap_or_else(Err)
    });
    for (Warning { name, text }, told) in warnings.iter().zip(told) {
        context.output.detail(&match told {
            Ok(true) => format!("{name}: warned its users: {text}"),
            Ok(false) => format!("{name}: could not warn its users: there was no time"),
            Err(error) => format!("{name}: could not warn its users: {error:#}"),
        });
    }
}

fn show(context: &Context, name: &InstanceName, text: &str) -> Result<bool> {
    if let Some(domain) = context.hypervisor()?.find(name)? {
        domain.tell_users(text, AGENT)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reaper::policy::Decision;
    use crate::reaper::signals::SignalSource;
    use crate::state::keep::Keep;
    use crate::timetable::Class;
    use crate::units;
    use crate::units::Patience;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn evidence(rung: Rung) -> Evidence {
        Evidence {
            rung,
            signals: Vec::new(),
            running_since: Some(at(-60)),
            keep: Keep::No,
            stopped_since: None,
            announced: None,
            trusted_from: None,
            class: Class::default(),
        }
    }

    #[test]
    fn what_is_said_tells_when_and_why() {
        let policy = Policy::default();
        let said = |to, seconds| words(&evidence(Rung::Idle), &policy, (to, at(seconds)), at(0));
        assert_eq!(
            said(Rung::Paused, 42),
            "This machine will be paused in about a minute, because nobody uses it. Use it to keep \
             it running."
        );
        assert!(said(Rung::Stopped, 61).contains("shut down in about 2 minutes, because nobody"));
        let policy = Policy {
            max_runtime: Patience::After(units::Duration(SignedDuration::from_mins(2))),
            ..policy
        };
        let end = words(
            &evidence(Rung::Idle),
            &policy,
            (Rung::Paused, at(60)),
            at(0),
        );
        assert!(end.ends_with("its maximum runtime. It continues here when it is started again."));
    }

    #[test]
    fn the_horizon_is_the_next_pass_and_a_minute_at_least() {
        for (last, wanted) in [
            (None, 60),
            (Some(at(-5)), 60),
            (Some(at(-300)), 300),
            (Some(at(-86_400)), 600),
            (Some(at(100)), 60),
        ] {
            assert_eq!(horizon(at(0), last), at(wanted), "{last:?}");
        }
    }

    #[test]
    fn a_step_is_told_of_once() {
        let policy = Policy::default();
        let mut seen = Seen::new(crate::hypervisor::xml::domain::new_uuid());
        let mut pass = |rung, step, next, policy: &Policy| {
            let decision = Decision {
                used: at(-600),
                unused: SignedDuration::from_secs(600),
                source: SignalSource::TOUCHED,
                step,
                next,
                announces: false,
                reason: String::new(),
                doubts: Vec::new(),
            };
            let one = Assessment::Judged(Box::new(evidence(rung)), decision);
            text(&one, &mut seen, policy, at(0), at(60)).is_some()
        };
        let soon = Some((Rung::Paused, at(30)));
        assert!(!pass(
            Rung::Running,
            None,
            Some((Rung::Idle, at(30))),
            &policy
        ));
        assert!(!pass(
            Rung::Idle,
            None,
            Some((Rung::Paused, at(61))),
            &policy
        ));
        assert!(pass(Rung::Idle, None, soon, &policy));
        assert!(!pass(Rung::Idle, None, soon, &policy), "it was");
        assert!(!pass(Rung::Idle, Some(Rung::Paused), soon, &policy));
        assert!(!pass(Rung::Idle, None, soon, &policy), "it was left");
        // Somebody came back in the meantime.
        assert!(!pass(
            Rung::Idle,
            None,
            Some((Rung::Paused, at(900))),
            &policy
        ));
        assert!(pass(Rung::Idle, None, soon, &policy));
        assert!(pass(
            Rung::Idle,
            None,
            Some((Rung::Stopped, at(30))),
            &policy
        ));
        assert!(!pass(
            Rung::Paused,
            None,
            Some((Rung::Stopped, at(30))),
            &policy
        ));
        let off = Policy {
            announce: false,
            ..policy
        };
        assert!(!pass(Rung::Idle, None, soon, &off));
    }
}
