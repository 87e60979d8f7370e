//! `cyyber instance exec`: runs a command in the guest of one user, or in the guests of a class.

use anyhow::Result;
use serde::Serialize;

use super::acted;
use super::many::{self, FailedInstance};
use crate::cli::Class;
use crate::context::Context;
use crate::error::{Fault, Kind, Passed, kind_of};
use crate::instance::Instance;
use crate::instance::exec::{self, Done};
use crate::names::InstanceName;
use crate::output::Report;
use crate::units::Duration;

/// Runs `command` in the guests of `class`.
pub fn run(
    context: &Context,
    class: &Class,
    wake: bool,
    limit: Duration,
    command: &[String],
) -> Result<()> {
    let verb = |context: &Context, name: &InstanceName| {
        if wake {
            bring_up(context, name)?;
        }
        exec::exec(context, name, command, limit.std())
    };
    let mut all = many::of_class(context, class, verb)?;
    match all.pop() {
        Some((name, done)) if class.users_from.is_none() => report_one(context, &name, done?),
        last => report_all(context, all.into_iter().chain(last).collect()),
    }
}

/// Starts `name` unless it runs, and waits for its guest's agent.
pub fn bring_up(context: &Context, name: &InstanceName) -> Result<()> {
    if !exec::is_up(context, name)? {
        acted(context, "start", name, || {
            Instance::lock(context, name)?.start()
        })?;
        exec::wait_for_agent(context, name)?;
    }
    Ok(())
}

fn report_one(context: &Context, name: &InstanceName, done: Done) -> Result<()> {
    let result = Outcome::of(name, Ok(&done));
    if context.output.is_json() {
        let results = vec![result];
        context.output.answer(&Results { results })?;
    } else {
        let ran = &done.ran;
        context.output.hand_on(None, &ran.stdout, &ran.stderr)?;
        warn(context, &result);
    }
    match done.ran.exit_code {
        0 => Ok(()),
        status => Err(Passed(status).into()),
    }
}

fn report_all(context: &Context, all: Vec<(InstanceName, Result<Done>)>) -> Result<()> {
    let output = &context.output;
    let results = all
        .iter()
        .map(|(name, done)| Outcome::of(name, done.as_ref()));
    let results: Vec<_> = results.collect();
    for ((name, done), result) in all.iter().zip(&results) {
        match done {
            Ok(Done { ran, .. }) if !output.is_json() => {
                output.hand_on(Some(name.user.as_str()), &ran.stdout, &ran.stderr)?;
                warn(context, result);
                if ran.exit_code != 0 {
                    output.problem(&format!("{name}: exit status {}", ran.exit_code));
                }
            }
            Ok(_) => {}
            Err(error) => output.problem(&FailedInstance::new(name, error).to_string()),
        }
    }
    let failed = results.iter().filter(|it| it.exit_code != Some(0)).count();
    if output.is_json() {
        output.answer(&Results { results })?;
    }
    if failed == 0 {
        return Ok(());
    }
    let message = format!("the command failed in {failed} of {} instances", all.len());
    Err(Fault::new(Kind::Failed, message).into())
}

fn warn(context: &Context, result: &Outcome) {
    let name = &result.instance;
    if let Some(error) = &result.error {
        context.output.problem(&format!("{name}: {error}"));
    }
    if result.truncated {
        let most = exec::LARGEST_OUTPUT >> 20;
        let warning = format!("{name}: only the first {most} MiB of its output are shown");
        context.output.warn(&warning);
    }
}

#[derive(Serialize)]
struct Results {
    results: Vec<Outcome>,
}

impl Report for Results {}

#[derive(Default, Serialize)]
struct Outcome {
    instance: String,
    exit_code: Option<u8>,
    stdout: Option<String>,
    stderr: Option<String>,
    truncated: bool,
    code: Option<Kind>,
    error: Option<String>,
}

impl Outcome {
    fn of(name: &InstanceName, done: Result<&Done, &anyhow::Error>) -> Outcome {
        let text = |bytes: &[u8]| Some(String::from_utf8_lossy(bytes).into_owned());
        let killed = || "it did not end in time and was killed".to_owned();
        match done {
            Ok(done) => Outcome {
                instance: name.to_string(),
                exit_code: Some(done.ran.exit_code),
                stdout: text(&done.ran.stdout),
                stderr: text(&done.ran.stderr),
                truncated: done.truncated,
                code: done.timed_out.then_some(Kind::Failed),
                error: done.timed_out.then(killed),
            },
            Err(error) => Outcome {
                instance: name.to_string(),
                code: Some(kind_of(error)),
                error: Some(format!("{error:#}")),
                ..Outcome::default()
            },
        }
    }
}
