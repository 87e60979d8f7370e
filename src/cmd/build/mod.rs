//! `cyyber build`

mod directory;
mod one;
mod progress;

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use super::journal::{self, Entry};
use super::side_by_side::side_by_side;
use crate::cli::Build;
use crate::config::Lab;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::instance::LabId;
use crate::interrupt;
use crate::output::{Report, table};
use crate::packer::Packer;
use crate::process::Program;
use crate::units::age;

pub use one::Outcome;

pub fn run(context: &Context, options: &Build) -> Result<()> {
    let labs = chosen(context, &options.labs)?;
    let packer = match Packer::find() {
        // Nothing is run, so it is rendered for the Packer that people install today.
        Err(_) if options.dry_run => None,
        found => Some(found?),
    };
    if !options.dry_run {
        Program::find("qemu-system-x86_64", "qemu-system-x86")?;
        Program::find("qemu-img", "qemu-utils")?;
    }
    let common = one::Common {
        context,
        accelerator: context.accelerator()?,
        packer,
        dry_run: options.dry_run,
        force: options.force,
        stop: interrupt::flag()?,
    };
    let built = side_by_side(&labs, usize::from(options.jobs), |lab| {
        let began = Instant::now();
        let built = common.build(lab);
        note(context, lab, began, &built);
        built
    });
    report(context, &labs, built)
}

/// Writes down that `lab` was built, or was not. Rendering alone changes nothing.
fn note(context: &Context, lab: &Lab, began: Instant, built: &Result<Outcome>) {
    match built {
        Ok(Outcome {
            result: "built", ..
        }) => {
            let entry = Entry {
                action: "build",
                from: None,
                to: None,
                ok: true,
                reason: "built",
            };
            journal::write(context, &lab.lab_id, began, &entry);
        }
        Ok(_) => {}
        Err(error) => journal::failure(context, "build", &lab.lab_id, began, None, error),
    }
}

/// The labs by these ids, each once; all when there are none.
fn chosen<'a>(context: &'a Context, ids: &[LabId]) -> Result<Vec<&'a Lab>> {
    if ids.is_empty() {
        return Ok(context.config.labs.iter().collect());
    }
    let mut labs: Vec<&Lab> = Vec::new();
    for id in ids {
        let lab = context.config.lab(id)?;
        if !labs.iter().any(|other| other.lab_id == lab.lab_id) {
            labs.push(lab);
        }
    }
    Ok(labs)
}

/// Prints what became of each lab. One lab's failure is the command's own; of several, that some
/// failed.
fn report(context: &Context, labs: &[&Lab], built: Vec<Result<Outcome>>) -> Result<()> {
    let mut rows = Vec::new();
    let mut errors = Vec::new();
    for (lab, result) in labs.iter().zip(built) {
        match result {
            Ok(outcome) => rows.push(Row::new(&lab.lab_id, outcome)),
            Err(error) => {
                rows.push(Row::failed(&lab.lab_id, format!("{error:#}")));
                errors.push((lab, error));
            }
        }
    }
    if labs.len() == 1
        && let Some((lab, error)) = errors.pop()
    {
        return Err(error.context(format!("failed to build {}", lab.lab_id)));
    }
    context.output.answer(&Rows { labs: rows })?;
    if errors.is_empty() {
        return Ok(());
    }
    for (lab, error) in &errors {
        context
            .output
            .problem(&format!("failed to build {}: {error:#}", lab.lab_id));
    }
    Err(Fault::new(
        Kind::Failed,
        format!("{} of {} labs failed to build", errors.len(), labs.len()),
    )
    .into())
}

#[derive(Serialize)]
struct Rows {
    labs: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    lab_id: LabId,
    result: &'static str,
    seconds: Option<f64>,
    image: Option<std::path::PathBuf>,
    domain_xml: Option<std::path::PathBuf>,
    metadata: Option<std::path::PathBuf>,
    error: Option<String>,
    /// Where it was rendered, for people.
    #[serde(skip)]
    place: Option<std::path::PathBuf>,
}

impl Row {
    fn new(lab_id: &LabId, outcome: Outcome) -> Row {
        Row {
            lab_id: lab_id.clone(),
            result: outcome.result,
            seconds: Some((outcome.took.as_secs_f64() * 10.0).round() / 10.0),
            place: outcome.image.clone().or(Some(outcome.rendered)),
            image: outcome.image,
            domain_xml: outcome.domain_xml,
            metadata: outcome.metadata,
            error: None,
        }
    }

    fn failed(lab_id: &LabId, error: String) -> Row {
        Row {
            lab_id: lab_id.clone(),
            result: "failed",
            seconds: None,
            image: None,
            domain_xml: None,
            metadata: None,
            error: Some(error),
            place: None,
        }
    }
}

impl Report for Rows {
    fn text(&self) -> String {
        let rows = self.labs.iter().map(|row| {
            let took = row.seconds.map(jiff::SignedDuration::from_secs_f64);
            vec![
                row.lab_id.to_string(),
                row.result.to_owned(),
                took.map_or_else(|| "-".to_owned(), age),
                row.place
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |path| path.display().to_string()),
            ]
        });
        table(&["LAB", "RESULT", "TIME", "WHERE"], rows)
    }
}
