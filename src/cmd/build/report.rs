//! The result of each lab, for people and programs.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use jiff::SignedDuration;
use serde::Serialize;

use super::plan::Plan;
use crate::cmd::print_failures;
use crate::config::Lab;
use crate::context::Context;
use crate::inputs::Why;
use crate::output::{Cell, Column, Report, Table};
use crate::paths::Paths;
use crate::units::age;

/// Prints the result of each lab; `results` are those of the labs that could be planned. The
/// failure of a single lab is the command's own error; for several labs, the error says how many
/// failed.
pub fn give(context: &Context, plan: Plan, results: Vec<Result<Outcome>>) -> Result<()> {
    let mut rows = Vec::new();
    let mut errors = Vec::new();
    let mut results = results.into_iter();
    for (lab, planned) in plan.labs {
        let result = match planned {
            Ok(_) => results.next(),
            Err(error) => Some(Err(error)),
        };
        match result {
            Some(Ok(outcome)) => rows.push(outcome),
            Some(Err(error)) => {
                rows.push(Outcome {
                    lab_id: lab.lab_id.to_string(),
                    result: "failed",
                    error: Some(format!("{error:#}")),
                    ..Outcome::default()
                });
                errors.push((&lab.lab_id, error));
            }
            None => {}
        }
    }
    if rows.len() == 1
        && let Some((lab, error)) = errors.pop()
    {
        return Err(error.context(format!("failed to build {lab}")));
    }
    let all = rows.len();
    context.output.answer(&Outcomes { labs: rows })?;
    let failures = errors.iter();
    let failures = failures.map(|(lab, error)| format!("failed to build {lab}: {error:#}"));
    let whole = |count| format!("{count} of {all} labs failed to build");
    let hint = "fix the cause, then run the command again: finished builds are not repeated";
    print_failures(context, &failures.collect::<Vec<_>>(), whole, hint)
}

#[derive(Serialize)]
struct Outcomes {
    labs: Vec<Outcome>,
}

/// The result of a lab.
#[derive(Default, Serialize)]
pub struct Outcome {
    lab_id: String,
    pub result: &'static str,
    /// Why it was built or would be.
    reason: Option<String>,
    seconds: Option<f64>,
    image: Option<PathBuf>,
    domain_xml: Option<PathBuf>,
    metadata: Option<PathBuf>,
    pub log: Option<PathBuf>,
    stage: Option<String>,
    /// The result for the warm image of its base.
    pub warm: Option<&'static str>,
    error: Option<String>,
    /// The directory or image, as text.
    #[serde(skip)]
    pub place: Option<PathBuf>,
}

impl Outcome {
    /// A report about a lab and its stage, whose work `began` then, without results.
    pub fn new(lab: &Lab, result: &'static str, why: &Why, stage: &str, began: Instant) -> Outcome {
        Outcome {
            reason: Some(why.to_string()),
            seconds: Some((began.elapsed().as_secs_f64() * 10.0).round() / 10.0),
            stage: Some(stage.to_owned()),
            lab_id: lab.lab_id.to_string(),
            result,
            ..Outcome::default()
        }
    }

    /// The same with the files of a build.
    #[must_use]
    pub fn with_results(self, paths: &Paths, lab: &Lab) -> Outcome {
        let image = paths.built_image(&lab.lab_id);
        Outcome {
            place: Some(image.clone()),
            image: Some(image),
            domain_xml: Some(paths.built_domain(&lab.lab_id)),
            metadata: Some(paths.built_metadata(&lab.lab_id)),
            ..self
        }
    }
}

impl Report for Outcomes {
    fn text(&self) -> String {
        "no labs".to_owned()
    }

    fn table(&self) -> Option<Table> {
        let result = |row: &Outcome| match row.result {
            "built" => Cell::good(row.result),
            "failed" => Cell::bad(row.result),
            other => other.into(),
        };
        let took = |row: &Outcome| row.seconds.map(SignedDuration::from_secs_f64).map(age);
        let place = |row: &Outcome| row.place.as_ref().map(|it| it.display().to_string());
        Table::of(&self.labs)
            .column("LAB", |row| row.lab_id.as_str())
            .column("RESULT", result)
            .column(Column::number(1, "TIME"), took)
            .column(Column::cut(3, "WHY"), |row| row.reason.as_deref())
            // A cut path would be useless.
            .column(Column::spare(2, "WHERE"), place)
            .if_any()
    }
}
