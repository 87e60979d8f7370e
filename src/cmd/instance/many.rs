//! A verb on many instances of a lab at once.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, anyhow};
use serde::Serialize;

use super::view::Single;
use crate::cli::Class;
use crate::cmd::side_by_side::side_by_side;
use crate::context::Context;
use crate::error::{Fault, Kind, kind_of};
use crate::instance::{InstanceName, LabId};
use crate::output::{Report, table};
use crate::roster;

/// A verb on one instance.
pub trait Verb: Fn(&Context, &InstanceName) -> Result<Single> + Sync {}

impl<T: Fn(&Context, &InstanceName) -> Result<Single> + Sync> Verb for T {}

/// Runs `verb` on the instance of every user in the file that `class` names, some at a time, going
/// on past failures.
pub fn run(
    context: &Context,
    lab: &LabId,
    class: &Class,
    file: &Path,
    verb: impl Verb,
) -> Result<()> {
    let names = names(lab, file)?;
    context.config.lab(lab)?;
    let stop = context.interrupted()?;
    let progress = context.output.progress(names.len());
    let results = side_by_side(&names, usize::from(class.jobs), |name| {
        let result = match stop.load(Ordering::Relaxed) {
            true => Err(anyhow!("interrupted before it was its turn")),
            false => verb(&context.beside(), name),
        };
        progress.inc(1);
        result
    });
    progress.finish_and_clear();
    report(context, names.iter().zip(results))
}

/// The instances of the users in `file`, where `-` is standard input.
fn names(lab: &LabId, file: &Path) -> Result<Vec<InstanceName>> {
    let (source, text) = match file == Path::new("-") {
        true => {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            ("standard input".to_owned(), read.map(|_| text))
        }
        false => (file.display().to_string(), std::fs::read_to_string(file)),
    };
    let text = text.with_context(|| {
        Fault::new(
            Kind::Usage,
            format!("failed to read the users from {source}"),
        )
    })?;
    let users = roster::parse(&text, &source)?.into_iter();
    Ok(users
        .map(|user| InstanceName {
            lab: lab.clone(),
            user,
        })
        .collect())
}

fn report<'a>(
    context: &Context,
    results: impl Iterator<Item = (&'a InstanceName, Result<Single>)>,
) -> Result<()> {
    let mut many = Many {
        instances: Vec::new(),
        failed: Vec::new(),
    };
    for (name, result) in results {
        match result {
            Ok(instance) => many.instances.push(instance),
            Err(error) => many.failed.push(Failed {
                instance: name.to_string(),
                code: kind_of(&error).code(),
                error: format!("{error:#}"),
            }),
        }
    }
    context.output.answer(&many)?;
    for Failed {
        instance, error, ..
    } in &many.failed
    {
        context.output.problem(&match error.contains(instance) {
            true => error.clone(),
            false => format!("{instance}: {error}"),
        });
    }
    let (failed, all) = (many.failed.len(), many.instances.len() + many.failed.len());
    match failed {
        0 => Ok(()),
        _ => Err(Fault::new(Kind::Failed, format!("{failed} of {all} instances failed")).into()),
    }
}

#[derive(Serialize)]
struct Many {
    instances: Vec<Single>,
    failed: Vec<Failed>,
}

#[derive(Serialize)]
struct Failed {
    instance: String,
    code: &'static str,
    error: String,
}

impl Report for Many {
    fn text(&self) -> String {
        match self.instances.is_empty() {
            true => String::new(),
            false => table(&Single::HEADER, self.instances.iter().map(Single::row)),
        }
    }
}
