//! A command on the instances of a whole class, each on its own host.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::arguments::{class, errand};
use super::elsewhere;
use super::head::{Head, answer};
use super::merged::{Merged, Shown, state, text, yes};
use crate::cli::Instance as Command;
use crate::cmd::instance::many::{self, FailedInstance};
use crate::error::{Fault, Kind};
use crate::names::InstanceName;
use crate::output::Column;

const COLUMNS: &[Shown] = &[
    (Column::new("INSTANCE"), |row, _| text(row, "instance")),
    (Column::new("HOST"), |row, _| text(row, "host")),
    (Column::new("STATE"), state),
    (Column::new("CHANGED").spare(1), |row, _| {
        yes(row, "changed")
    }),
    (Column::new("VNC").spare(3), |row, _| text(row, "vnc_port")),
    (Column::new("NOVNC").spare(3), |row, _| {
        text(row, "novnc_port")
    }),
    (Column::new("REASON").cut().spare(2), |row, _| {
        text(row, "reason")
    }),
];

const RESULTS: &[Shown] = &[
    (Column::new("INSTANCE"), |row, _| text(row, "instance")),
    (Column::new("HOST"), |row, _| text(row, "host")),
    (Column::new("EXIT").number(), |row, _| {
        text(row, "exit_code")
    }),
    (Column::new("OUTPUT").cut(), |row, _| text(row, "stdout")),
];

/// Runs `command` for every user of its list, going on past failures.
pub fn run(head: &Head, command: &Command) -> Result<()> {
    let (context, missing) = (head.context, || Fault::new(Kind::Usage, "no user is named"));
    let class = class(command).ok_or_else(|| elsewhere("it has no such command"))?;
    let file = class.users_from.as_deref().with_context(missing)?;
    let names = many::names(context, &class.lab, file)?;
    context.config.lab(&class.lab)?;
    let one = |name: &InstanceName| -> Result<Value> {
        let head = head.beside();
        let errand = errand(command, name).ok_or_else(|| elsewhere("it has no such command"))?;
        let done = head.run(&errand, name, "json")?;
        // A failed command in a guest has an answer too.
        let mut document = match serde_json::from_slice(&done.ended.stdout) {
            Ok(document @ Value::Object(_)) => document,
            _ => answer(&done.ended, &done.host)?,
        };
        let first = document.pointer_mut("/results/0").map(Value::take);
        let mut document = first.unwrap_or(document);
        if let Some(fields) = document.as_object_mut() {
            fields
                .entry("host")
                .or_insert_with(|| done.host.as_str().into());
        }
        Ok(document)
    };
    let results = many::side_by_side(context, &names, usize::from(class.jobs), |_, name| {
        one(name)
    })?;
    let all = names.len();
    let (done, failed) = many::apart(names.into_iter().zip(results).collect());
    let (rows, columns) = match command {
        Command::Exec { .. } => ("results", RESULTS),
        _ => ("instances", COLUMNS),
    };
    report(head, done, failed, all, (rows, columns))
}

fn report(
    head: &Head,
    done: Vec<Value>,
    failed: Vec<FailedInstance>,
    all: usize,
    (rows, columns): (&'static str, &'static [Shown]),
) -> Result<()> {
    let context = head.context;
    let code = |row: &&Value| row.get("exit_code").is_some_and(|code| *code != json!(0));
    let in_guest = done.iter().filter(code).count();
    let document = Map::from_iter([
        (rows.to_owned(), Value::Array(done)),
        ("failed".to_owned(), serde_json::to_value(&failed)?),
    ]);
    context.output.answer(&Merged {
        document,
        unreachable: Vec::new(),
        rows,
        columns,
        empty: "",
        now: context.time(),
    })?;
    many::tell(context, &failed, all)?;
    if in_guest == 0 {
        return Ok(());
    }
    let message = format!("the command failed in {in_guest} of {all} instances");
    Err(Fault::new(Kind::Failed, message).into())
}
