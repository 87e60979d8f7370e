//! `cyyber instance push` and `cyyber instance collect`: copy files to or from the guest of one
//! user, or the guests of a class.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Serialize;

use super::many::{self, FailedInstance};
use crate::cli::{Bounds, Class};
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::instance::outcome::noted_failure;
use crate::instance::transfer::{Collect, Collected, Fetched, Push, Pushed};
use crate::names::{GuestOwner, GuestPath, InstanceName, LabId, State, UserId};
use crate::output::{Cell, Column, Report, Table};
use crate::units::ByteSize;

/// What to push, the target, and the users.
pub struct Request {
    user: Option<UserId>,
    sources: Vec<PathBuf>,
    target: GuestPath,
}

impl Request {
    /// From `[USER] SOURCE... TARGET`.
    pub fn new(words: &[String], of_many: bool) -> Result<Request> {
        let (target, rest) = words.split_last().context("clap wants two")?;
        let (user, sources) = match rest.split_first() {
            Some((user, sources)) if !of_many => {
                let user = user.parse().map_err(|why| usage(format!("{why}")))?;
                (Some(user), sources)
            }
            _ => (None, rest),
        };
        ensure!(
            !sources.is_empty(),
            usage("no file to push is named").hint("give USER SOURCE... TARGET")
        );
        Ok(Request {
            user,
            sources: sources.iter().map(PathBuf::from).collect(),
            target: target.parse().map_err(|why| usage(format!("{why}")))?,
        })
    }
}

/// Copies files into guests.
pub fn push(
    context: &Context,
    lab: &LabId,
    (users_from, jobs): (Option<&Path>, u8),
    request: Request,
    bounds: &Bounds,
    owner: Option<&GuestOwner>,
    replace: bool,
) -> Result<()> {
    let Request {
        user,
        sources,
        target,
    } = request;
    let push = Push::of(context, &sources, target, bounds.max_size, bounds.timeout)?
        .with(owner.cloned(), replace);
    let verb = |context: &Context, name: &InstanceName| {
        noted_failure(context, "push", name, || push.to(context, name))
    };
    let done = many::one_or_all(context, lab, user.as_ref(), users_from, jobs, verb)?;
    let all = done.len();
    let (pushed, failed) = many::apart(done);
    let answer = AllPushed { pushed, failed };
    context.output.answer(&answer)?;
    many::tell(context, &answer.failed, all)
}

/// Copies files out of guests.
pub fn collect(
    context: &Context,
    class: &Class,
    from: &GuestPath,
    to: &Path,
    bounds: &Bounds,
) -> Result<()> {
    ensure!(
        from.file_name().is_some(),
        usage(format!("--from {from} names no file or directory"))
            .hint("collect a directory below the root, as /home/student")
    );
    // Resolve an administrator's link once.
    let to = std::path::absolute(to)?;
    let collect = Collect {
        from: from.clone(),
        to: to.canonicalize().unwrap_or(to),
        most: bounds.max_size,
        timeout: bounds.timeout,
    };
    let verb = |context: &Context, name: &InstanceName| {
        noted_failure(context, "collect", name, || collect.of(context, name))
    };
    let done = many::of_class(context, class, verb)?;
    let done = with_resting(context, &collect, done)?;
    let done = match class.user {
        // For one instance, its failure is the command's error.
        Some(_) => done
            .into_iter()
            .map(|(name, one)| Ok((name, Ok(one?))))
            .collect::<Result<_>>()?,
        None => done,
    };
    let all = done.len();
    let (collected, failed) = many::apart(done);
    let answer = AllCollected { collected, failed };
    context.output.answer(&answer)?;
    for one in &answer.collected {
        warn(context, one);
    }
    many::tell(context, &answer.failed, all)
}

fn usage(what: impl Into<String>) -> Fault {
    Fault::new(Kind::Usage, what)
}

/// Files that were collected from guests, and now those from the disks of instances that are not
/// running.
fn with_resting(
    context: &Context,
    collect: &Collect,
    done: Vec<(InstanceName, Result<Fetched>)>,
) -> Result<Vec<(InstanceName, Result<Collected>)>> {
    let mut resting = Vec::new();
    let mut done: Vec<_> = done
        .into_iter()
        .map(|(name, fetched)| match fetched {
            Ok(Fetched::Collected(one)) => (name, Some(Ok(one))),
            Ok(Fetched::Resting(one)) => {
                resting.push(one);
                (name, None)
            }
            Err(error) => (name, Some(Err(error))),
        })
        .collect();
    if !resting.is_empty() {
        let spinner = context.output.spinner("disks");
        spinner.set_message("booting the appliance of libguestfs");
        let mut read = collect.of_resting(context, &resting).into_iter();
        spinner.finish_and_clear();
        for (_, one) in done.iter_mut().filter(|(_, one)| one.is_none()) {
            *one = read.next();
        }
    }
    let missing = || Err(anyhow!("it was not read"));
    Ok(done
        .into_iter()
        .map(|(name, one)| (name, one.unwrap_or_else(missing)))
        .collect())
}

fn warn(context: &Context, collected: &Collected) {
    if collected.state == State::Paused {
        context.output.warn(&format!(
            "{} is paused: its files are as after a power cut, without data that its guest had \
             not yet \
             written to its disk",
            collected.instance
        ));
    }
    let named = collected.left_out_first.iter();
    for left_out in named.clone() {
        let (instance, path) = (&collected.instance, &left_out.path);
        let reason = left_out.reason;
        let warning = format!("{instance}: left out {path}: {reason}");
        context.output.warn(&warning);
    }
    let more = collected.left_out.saturating_sub(named.len() as u64);
    if more > 0 {
        let warning = format!("{}: left out {more} more", collected.instance);
        context.output.warn(&warning);
    }
}

fn size(bytes: u64) -> Cell {
    Cell::from(ByteSize(bytes).to_string())
}

#[derive(Serialize)]
struct AllPushed {
    pushed: Vec<Pushed>,
    failed: Vec<FailedInstance>,
}

impl Report for AllPushed {
    fn table(&self) -> Option<Table> {
        const COLUMNS: [Column; 4] = [
            Column::new("INSTANCE"),
            Column::new("TARGET").cut(),
            Column::new("FILES").spare(1),
            Column::new("BYTES").spare(1),
        ];
        let rows = self.pushed.iter().map(|one| {
            vec![
                one.instance.as_str().into(),
                one.target.as_str().into(),
                one.amount.files.to_string().into(),
                size(one.amount.bytes),
            ]
        });
        (!self.pushed.is_empty()).then(|| Table::new(&COLUMNS, rows))
    }
}

#[derive(Serialize)]
struct AllCollected {
    collected: Vec<Collected>,
    failed: Vec<FailedInstance>,
}

impl Report for AllCollected {
    fn table(&self) -> Option<Table> {
        const COLUMNS: [Column; 6] = [
            Column::new("INSTANCE"),
            Column::new("STATE").spare(2),
            Column::new("PATH"),
            Column::new("FILES").spare(1),
            Column::new("BYTES").spare(1),
            Column::new("LEFT OUT").spare(1),
        ];
        let rows = self.collected.iter().map(|one| {
            vec![
                one.instance.as_str().into(),
                one.state.into(),
                one.path.display().to_string().into(),
                one.amount.files.to_string().into(),
                size(one.amount.bytes),
                one.left_out.to_string().into(),
            ]
        });
        (!self.collected.is_empty()).then(|| Table::new(&COLUMNS, rows))
    }
}
