//! Announces that an instance will be destroyed: in the journal and by the administrator's program,
//! `host.notify`.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::Serialize;

use super::observer::Observation;
use super::passes::{Announcement, Seen};
use super::policy::{Decision, Rung};
use crate::config::untrusted;
use crate::context::Context;
use crate::journal;
use crate::names::State;
use crate::parallel::side_by_side;
use crate::process::feed;

/// How long the administrator's program may take.
const LONGEST: Duration = Duration::from_secs(10);

/// It is not started later than this in a pass; the next pass continues.
const LATEST: Duration = Duration::from_secs(20);

/// How many of these programs run in parallel.
const AT_ONCE: usize = 4;

/// The input of the program.
#[derive(Debug, Serialize)]
struct Notice<'a> {
    event: &'static str,
    time: Timestamp,
    instance: String,
    lab_id: &'a str,
    user_id: &'a str,
    state: State,
    next_step: Rung,
    next_step_at: Timestamp,
    idle_seconds: i64,
    reason: &'a str,
}

/// The destruction of `one`, if it must be announced.
fn end(one: &Observation) -> Option<(&Decision, Timestamp)> {
    let (_, decision) = one.assessment.judged().filter(|(_, it)| it.announces)?;
    Some((decision, decision.next?.1))
}

/// Announces in the journal which of `all` will be destroyed, and withdraws announcements that are
/// void. If the journal cannot be written, nothing is announced.
pub(super) fn announce(context: &Context, all: &mut [(Observation, Seen)]) {
    for (one, seen) in all {
        let Some((decision, at)) = end(one) else {
            seen.announced = None;
            continue;
        };
        if seen.announced.is_some() {
            continue;
        }
        let reason = format!(
            "it will be destroyed at {at:.0} unless it is used: {}",
            decision.reason
        );
        let (now, state) = (Instant::now(), Some(one.state));
        if journal::done(context, "announce", &one.name, now, state, state, &reason) {
            context.output.detail(&format!("{}: {reason}", one.name));
            seen.announced = Some(Announcement {
                at: context.time(),
                told: context.config.host.notify.is_none(),
            });
        }
    }
}

/// Runs the administrator's program once for each announcement; returns whether any was made.
pub(super) fn run_hook(context: &Context, all: &mut [(Observation, Seen)]) -> bool {
    let Some(program) = &context.config.host.notify else {
        return false;
    };
    let untold = |seen: &Seen| seen.announced.is_some_and(|it| !it.told);
    let mut due: Vec<_> = all.iter_mut().filter(|(_, seen)| untold(seen)).collect();
    let began = Instant::now();
    let told = side_by_side(&due, AT_ONCE, |(one, _)| {
        let (decision, next_step_at) = end(one)?;
        let notice = Notice {
            event: "destroy_notice",
            time: context.time(),
            instance: one.name.to_string(),
            lab_id: one.name.lab.as_str(),
            user_id: one.name.user.as_str(),
            state: one.state,
            next_step: Rung::Destroyed,
            next_step_at,
            idle_seconds: decision.unused.as_secs(),
            reason: &decision.reason,
        };
        (began.elapsed() < LATEST).then(|| run(context, program, &notice))
    });
    for ((one, seen), told) in due.iter_mut().zip(&told) {
        let (Some(result), Some(announced)) = (told, &mut seen.announced) else {
            continue;
        };
        announced.told = true;
        if let Err(error) = result {
            context
                .output
                .warn(&format!("{}: host.notify failed: {error:#}", one.name));
            journal::failure(context, "notify", &one.name, began, Some(one.state), error);
        }
    }
    told.iter().any(Option::is_some)
}

/// Runs the program with one line on its standard input.
fn run(context: &Context, program: &std::path::Path, notice: &Notice) -> Result<()> {
    context
        .trust
        .open(program)
        .map_err(|refusal| untrusted(refusal, program))
        .with_context(|| format!("failed to open {}", program.display()))?;
    let mut line = serde_json::to_vec(notice)?;
    line.push(b'\n');
    let mut command = Command::new(program);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    feed(&mut command, &line, LONGEST)
}
