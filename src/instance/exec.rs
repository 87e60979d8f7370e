//! Runs a command in the guest of an instance. Its lock is not held in the meantime: a student's
//! click must not have to wait for it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{existing, facts, status};
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::hypervisor::{Domain, Facts, Patience, Power, Ran};
use crate::names::InstanceName;

/// How much of each stream is kept, in bytes. Both fit into one answer of the agent.
pub const LARGEST_OUTPUT: usize = 1 << 20;

/// The exit status of a command that took too long, as in timeout(1).
const TIMED_OUT: u8 = 124;

/// Extra time to wait after a command's time limit: its guest may be busy.
const GRACE: Duration = Duration::from_secs(15);

/// The minimum time for an agent to come up after a start.
const COMING_UP: Duration = Duration::from_secs(60);

/// Runs a command for at most a number of seconds, and passes on at most a number of bytes of each
/// stream, without the command noticing.
const RUN: &str = r#"
limit=$1 seconds=$2
shift 2
command -v timeout >/dev/null && set -- timeout -s KILL "$seconds" "$@"
cut() { head -c "$limit"; cat >/dev/null; }
exec 3>&1 4>&2
code=$({ { { "$@" 3>&- 4>&- 5>&- 6>&-; echo "$?" >&5; } 2>&6 | cut >&3; } 6>&1 | cut >&4; } 5>&1)
exit "$code"
"#;

/// The result of a command.
#[derive(Debug)]
pub struct Done {
    pub ran: Ran,
    /// There was more output than is kept.
    pub truncated: bool,
    /// It was killed at the end of its time.
    pub timed_out: bool,
}

/// Whether `name` runs.
pub fn is_up(context: &Context, name: &InstanceName) -> Result<bool> {
    Ok(is_on(&facts(&existing(context, name)?, name)?))
}

fn is_on(facts: &Facts) -> bool {
    matches!(facts.power, Power::On | Power::Busy)
}

/// The domain of `name`, which must run.
pub fn running(context: &Context, name: &InstanceName) -> Result<Domain> {
    let domain = existing(context, name)?;
    let facts = facts(&domain, name)?;
    if is_on(&facts) {
        return Ok(domain);
    }
    let state = status::state(context, name, &facts);
    let fault = Fault::new(Kind::Conflict, format!("{name} is {state}, not running"));
    Err(fault.hint(name.start_it()).into())
}

/// A deadline after `limit`, which also ends when the command is interrupted.
pub fn patience(context: &Context, limit: Duration) -> Result<Patience<'_>> {
    Ok(Patience {
        until: Instant::now() + limit,
        stop: context.interrupted()?,
    })
}

/// Waits until the agent of `name`, which was just started, answers.
pub fn wait_for_agent(context: &Context, name: &InstanceName) -> Result<()> {
    let domain = running(context, name)?;
    let boot_timeout = context.policy(&name.lab).boot_timeout.std();
    let patience = patience(context, boot_timeout.max(COMING_UP))?;
    while !domain.agent_answers(Duration::from_secs(2)) {
        patience.check(&format!("the guest agent of {name}"))?;
        sleep(Duration::from_millis(300));
    }
    Ok(())
}

/// Runs `command` in the guest of `name` for at most `limit`.
pub fn exec(
    context: &Context,
    name: &InstanceName,
    command: &[String],
    limit: Duration,
) -> Result<Done> {
    ensure!(
        limit >= Duration::from_secs(1),
        Fault::new(Kind::Usage, "--timeout is shorter than a second")
    );
    let domain = running(context, name)?;
    let began = Instant::now();
    let patience = patience(context, limit + GRACE)?;
    // Read one byte more than is kept, to know whether there was more.
    let (most, seconds) = (
        (LARGEST_OUTPUT + 1).to_string(),
        limit.as_secs().to_string(),
    );
    let mut program = vec!["/bin/sh", "-c", RUN, "sh", &most, &seconds];
    program.extend(command.iter().map(String::as_str));
    let mut ran = domain
        .run_in_guest(&program, patience)
        .with_context(|| format!("failed to run the command in {name}"))?;
    let mut truncated = false;
    for stream in [&mut ran.stdout, &mut ran.stderr] {
        truncated |= stream.len() > LARGEST_OUTPUT;
        stream.truncate(LARGEST_OUTPUT);
    }
    // timeout(1) dies with what it kills.
    let timed_out = ran.exit_code == 137 && began.elapsed() >= limit;
    if timed_out {
        ran.exit_code = TIMED_OUT;
    }
    Ok(Done {
        ran,
        truncated,
        timed_out,
    })
}
