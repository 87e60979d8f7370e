//! The result of each lab, for people and programs.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use super::one::Outcome;
use super::plan::Plan;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::names::LabId;
use crate::output::{Cell, Column, Report, Table};
use crate::units::age;

/// Prints what became of each lab; `results` are those of the labs that could be planned. One lab's
/// failure is the command's own; of several, that some failed.
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
            Some(Ok(outcome)) => rows.push(Row::new(&lab.lab_id, outcome)),
            Some(Err(error)) => {
                rows.push(Row::failed(&lab.lab_id, format!("{error:#}")));
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
    context.output.answer(&Rows { labs: rows })?;
    if errors.is_empty() {
        return Ok(());
    }
    for (lab, error) in &errors {
        context
            .output
            .problem(&format!("failed to build {lab}: {error:#}"));
    }
    Err(Fault::new(
        Kind::Failed,
        format!("{} of {all} labs failed to build", errors.len()),
    )
    .hint("fix the cause, then run the command again: what is built already is not built again")
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
    /// Why it was built or would be.
    reason: Option<String>,
    seconds: Option<f64>,
    image: Option<PathBuf>,
    domain_xml: Option<PathBuf>,
    metadata: Option<PathBuf>,
    log: Option<PathBuf>,
    stage: Option<String>,
    error: Option<String>,
    /// Where it was rendered, for people.
    #[serde(skip)]
    place: Option<PathBuf>,
}

impl Row {
    fn new(lab_id: &LabId, outcome: Outcome) -> Row {
        Row {
            lab_id: lab_id.clone(),
            result: outcome.result,
            reason: Some(outcome.why.to_string()),
            seconds: Some((outcome.took.as_secs_f64() * 10.0).round() / 10.0),
            place: outcome.image.clone().or(Some(outcome.rendered)),
            image: outcome.image,
            domain_xml: outcome.domain_xml,
            metadata: outcome.metadata,
            log: outcome.log,
            stage: Some(outcome.stage),
            error: None,
        }
    }

    fn failed(lab_id: &LabId, error: String) -> Row {
        Row {
            lab_id: lab_id.clone(),
            result: "failed",
            reason: None,
            seconds: None,
            image: None,
            domain_xml: None,
            metadata: None,
            log: None,
            stage: None,
            error: Some(error),
            place: None,
        }
    }
}

const COLUMNS: [Column; 5] = [
    Column::new("LAB"),
    Column::new("RESULT"),
    Column::new("TIME").number().spare(1),
    Column::new("WHY").cut().spare(3),
    // A path of which the end is gone is of no use.
    Column::new("WHERE").spare(2),
];

impl Report for Rows {
    fn text(&self) -> String {
        String::new()
    }

    fn table(&self) -> Option<Table> {
        let rows = self.labs.iter().map(|row| {
            let took = row.seconds.map(jiff::SignedDuration::from_secs_f64);
            let place = row.place.as_ref().map(|path| path.display().to_string());
            vec![
                row.lab_id.as_str().into(),
                match row.result {
                    "built" => Cell::good(row.result),
                    "failed" => Cell::bad(row.result),
                    other => other.into(),
                },
                took.map(age).into(),
                row.reason.as_deref().into(),
                place.into(),
            ]
        });
        Some(Table::new(&COLUMNS, rows))
    }
}
