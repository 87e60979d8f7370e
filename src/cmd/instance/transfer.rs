//! `cyyber instance push` and `cyyber instance collect`: copy files to or from the guest of one
//! user, or the guests of a class.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Serialize;

use super::many::{self, FailedInstance};
use crate::checked::BadText;
use crate::cli::{Bounds, Class, Push as Options};
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::instance::outcome::noted_failure;
use crate::instance::transfer::{Collect, Collected, Fetched, Push, Pushed};
use crate::names::{GuestPath, InstanceName, State};
use crate::output::{Column, Report, Table};
use crate::units::ByteSize;

/// The users, the sources and the target of a push, whose `paths` are `[USER] SOURCE... TARGET`.
pub fn parts(options: &Options) -> Result<(Class, Vec<PathBuf>, GuestPath)> {
    let (target, rest) = options.paths.split_last().context("clap wants two")?;
    let (user, sources) = match rest.split_first() {
        Some((user, sources)) if options.users_from.is_none() => (Some(user), sources),
        _ => (None, rest),
    };
    ensure!(
        !sources.is_empty(),
        usage("no file to push is named").hint("give USER SOURCE... TARGET")
    );
    let user = user.map(|user| user.parse()).transpose();
    let class = Class {
        lab: options.lab.clone(),
        user: user.map_err(|why: BadText| usage(why.to_string()))?,
        users_from: options.users_from.clone(),
        jobs: options.jobs,
    };
    let target = target.parse();
    let target = target.map_err(|why: BadText| usage(why.to_string()))?;
    Ok((class, sources.iter().map(PathBuf::from).collect(), target))
}

/// Copies files into guests.
pub fn push(context: &Context, options: &Options) -> Result<()> {
    let (class, sources, target) = parts(options)?;
    let Bounds { max_size, timeout } = options.bounds;
    let mut push = Push::of(context, &sources, target, max_size, timeout)?;
    (push.owner, push.replace) = (options.owner.clone(), options.replace);
    let verb = |context: &Context, name: &InstanceName| {
        noted_failure(context, "push", name, || push.to(context, name))
    };
    let done = many::of_class(context, &class, verb)?;
    let all = done.len();
    let (pushed, failed) = many::partition(done);
    let answer = AllPushed { pushed, failed };
    context.output.answer(&answer)?;
    many::fail_if_any(context, &answer.failed, all)
}

/// What to collect: `from` in the guest, into the directory `to`.
pub fn collection(from: &GuestPath, to: &Path, bounds: &Bounds) -> Result<Collect> {
    ensure!(
        from.file_name().is_some(),
        usage(format!("--from {from} names no file or directory"))
            .hint("collect a directory below the root, as /home/student")
    );
    // Resolve an administrator's link once.
    let to = std::path::absolute(to)?;
    Ok(Collect {
        from: from.clone(),
        to: to.canonicalize().unwrap_or(to),
        most: bounds.max_size,
        timeout: bounds.timeout,
    })
}

/// Copies files out of guests.
pub fn collect(context: &Context, class: &Class, collect: &Collect) -> Result<()> {
    let verb = |context: &Context, name: &InstanceName| {
        noted_failure(context, "collect", name, || collect.of(context, name))
    };
    let done = many::of_class(context, class, verb)?;
    let done = with_resting(context, collect, done)?;
    let done = match class.user {
        // For one instance, its failure is the command's error.
        Some(_) => done
            .into_iter()
            .map(|(name, one)| Ok((name, Ok(one?))))
            .collect::<Result<_>>()?,
        None => done,
    };
    let all = done.len();
    let (collected, failed) = many::partition(done);
    let answer = AllCollected { collected, failed };
    context.output.answer(&answer)?;
    for one in &answer.collected {
        warn(context, one);
    }
    many::fail_if_any(context, &answer.failed, all)
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

/// Warns about what is not among the files, and when they may be incomplete.
pub fn warn(context: &Context, collected: &Collected) {
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
        let reason = &left_out.reason;
        let warning = format!("{instance}: left out {path}: {reason}");
        context.output.warn(&warning);
    }
    let more = collected.left_out.saturating_sub(named.len() as u64);
    if more > 0 {
        let warning = format!("{}: left out {more} more", collected.instance);
        context.output.warn(&warning);
    }
}

#[derive(Serialize)]
struct AllPushed {
    pushed: Vec<Pushed>,
    failed: Vec<FailedInstance>,
}

impl Report for AllPushed {
    fn table(&self) -> Option<Table> {
        Table::of(&self.pushed)
            .column("INSTANCE", |one| one.instance.as_str())
            .column(Column::cut(0, "TARGET"), |one| one.target.as_str())
            .column(Column::spare(1, "FILES"), |one| {
                one.amount.files.to_string()
            })
            .column(Column::spare(1, "BYTES"), |one| {
                ByteSize(one.amount.bytes).to_string()
            })
            .if_any()
    }
}

#[derive(Serialize)]
struct AllCollected {
    collected: Vec<Collected>,
    failed: Vec<FailedInstance>,
}

impl Report for AllCollected {
    fn table(&self) -> Option<Table> {
        Table::of(&self.collected)
            .column("INSTANCE", |one| one.instance.as_str())
            .column(Column::spare(2, "STATE"), |one| one.state)
            .column("PATH", |one| one.path.display().to_string())
            .column(Column::spare(1, "FILES"), |one| {
                one.amount.files.to_string()
            })
            .column(Column::spare(1, "BYTES"), |one| {
                ByteSize(one.amount.bytes).to_string()
            })
            .column(Column::spare(1, "LEFT OUT"), |one| one.left_out.to_string())
            .if_any()
    }
}
