//! Commands on many instances of a lab at once.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};

use super::single;
use crate::cli::Class;
use crate::cmd::print_failures;
use crate::context::Context;
use crate::error::{Fault, Kind, kind_of};
use crate::hypervisor::Detail;
use crate::instance::outcome::Outcome;
use crate::names::{InstanceName, LabId};
use crate::output::{Report, Table};
use crate::parallel;
use crate::roster;
use crate::text;

/// The maximum size of a list of users, in bytes.
const LONGEST: u64 = 1 << 20;

/// Runs `verb` on the instance of `class`, or on each that it lists. The failure of a single instance is the
/// command's error.
pub fn of_class<R: Send>(
    context: &Context,
    class: &Class,
    verb: impl Fn(&Context, &InstanceName) -> Result<R> + Sync,
) -> Result<Vec<(InstanceName, Result<R>)>> {
    let lab = &class.lab;
    let Some(file) = &class.users_from else {
        let user = class.user.as_ref();
        let user = user.with_context(|| Fault::new(Kind::Usage, "no user is named"))?;
        let name = context.instance(lab, user)?;
        let done = verb(context, &name)?;
        return Ok(vec![(name, Ok(done))]);
    };
    let names = names(context, lab, file)?;
    // Errors that would occur for each of them are reported once: no such lab, and no instances of
    // it either.
    let all = context.hypervisor()?.survey(Detail::Power)?;
    if !all.iter().any(|(name, _)| name.lab == *lab) {
        context.config.lab(lab)?;
    }
    let results = side_by_side(context, &names, usize::from(class.jobs), verb)?;
    Ok(names.into_iter().zip(results).collect())
}

/// Runs `job` on every item, `most` at a time, each with its own context, and shows progress. Items
/// that were not started before an interrupt fail.
pub fn side_by_side<T: Sync, R: Send>(
    context: &Context,
    items: &[T],
    most: usize,
    job: impl Fn(&Context, &T) -> Result<R> + Sync,
) -> Result<Vec<Result<R>>> {
    let stop = context.interrupted()?;
    let progress = context.output.progress(items.len());
    let results = parallel::side_by_side(items, most, |item| {
        let result = if stop.load(Ordering::Relaxed) {
            Err(anyhow!("interrupted before it started"))
        } else {
            job(&context.for_worker(), item)
        };
        progress.inc(1);
        result
    });
    progress.finish_and_clear();
    Ok(results)
}

/// The instances of the users in `file`, where `-` is standard input.
pub fn names(context: &Context, lab: &LabId, file: &Path) -> Result<Vec<InstanceName>> {
    let (source, text) = if file == Path::new("-") {
        ("standard input".to_owned(), whole(std::io::stdin()))
    } else {
        let text = std::fs::File::open(file).and_then(whole);
        (file.display().to_string(), text)
    };
    let text = text.with_context(|| {
        let message = format!("failed to read the users from {source}");
        Fault::new(Kind::Usage, message)
            .hint("name a file with one user id per line, or - for standard input")
    })?;
    let users = roster::parse(&text, &source);
    if let Some(only) = context.scope().only()
        && !matches!(&users, Ok(users) if users.iter().all(|user| user == only))
    {
        // Other users in the list are not named, and none of its lines is shown.
        let message = format!("{source} lists users other than {only}");
        return Err(Fault::new(Kind::NotFound, message)
            .hint(format!("name the one instance: {lab} {only}"))
            .into());
    }
    let users = users?;
    users.iter().map(|it| context.instance(lab, it)).collect()
}

/// The content of a list.
fn whole(file: impl Read) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 <= LONGEST {
        text::utf8(bytes).map_err(std::io::Error::other)
    } else {
        Err(std::io::Error::other("it is too long"))
    }
}

pub fn report(context: &Context, results: Vec<(InstanceName, Result<Outcome>)>) -> Result<()> {
    let all = results.len();
    let (instances, failed) = partition(results);
    let many = Many { instances, failed };
    context.output.answer(&many)?;
    fail_if_any(context, &many.failed, all)
}

/// Successes and failures.
pub fn partition<R>(results: Vec<(InstanceName, Result<R>)>) -> (Vec<R>, Vec<FailedInstance>) {
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for (name, result) in results {
        match result {
            Ok(one) => done.push(one),
            Err(error) => failed.push(FailedInstance::new(&name, &error)),
        }
    }
    (done, failed)
}

/// Prints each failure; fails if there are any among `all`.
pub fn fail_if_any(context: &Context, failed: &[FailedInstance], all: usize) -> Result<()> {
    let failures: Vec<_> = failed.iter().map(ToString::to_string).collect();
    let whole = |count| format!("{count} of {all} instances failed");
    let hint = "fix the cause, then run the command again: the other instances stay unchanged";
    print_failures(context, &failures, whole, hint)
}

#[derive(Serialize)]
struct Many {
    instances: Vec<Outcome>,
    failed: Vec<FailedInstance>,
}

/// An instance for which a command failed.
#[derive(Serialize, Deserialize)]
pub struct FailedInstance {
    instance: String,
    code: Kind,
    error: String,
}

impl FailedInstance {
    pub fn new(name: &InstanceName, error: &anyhow::Error) -> FailedInstance {
        FailedInstance {
            instance: name.to_string(),
            code: kind_of(error),
            error: format!("{error:#}"),
        }
    }
}

impl std::fmt::Display for FailedInstance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let FailedInstance {
            instance, error, ..
        } = self;
        if error.contains(instance) {
            f.write_str(error)
        } else {
            write!(f, "{instance}: {error}")
        }
    }
}

impl Report for Many {
    fn table(&self) -> Option<Table> {
        single::table(&self.instances)
    }
}
