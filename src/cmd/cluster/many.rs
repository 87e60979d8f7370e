//! A command on the instances of a whole class, each on its own host.

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::arguments::{class, host_command};
use super::elsewhere;
use super::head::{Head, answer, with_host};
use super::merged::{Columns, show, states, text};
use crate::cli::{Class, Instance as Command};
use crate::cmd::instance::many;
use crate::error::{Fault, Kind};
use crate::names::InstanceName;
use crate::output::{Column, Rows};

fn of_states(rows: Rows<Value>, _: Timestamp) -> Rows<Value> {
    states(rows)
        .column(Column::spare(1, "CHANGED"), text("changed"))
        .column(Column::spare(3, "VNC"), text("vnc_port"))
        .column(Column::spare(3, "NOVNC"), text("novnc_port"))
        .column(Column::cut(2, "REASON"), text("reason"))
}

fn of_commands(rows: Rows<Value>, _: Timestamp) -> Rows<Value> {
    rows.column("INSTANCE", text("instance"))
        .column("HOST", text("host"))
        .column(Column::number(0, "EXIT"), text("exit_code"))
        .column(Column::cut(0, "OUTPUT"), text("stdout"))
}

/// Runs `one` for the instance of `class`, or for each that it lists, going on past failures. The failure
/// of a single instance is the command's error.
pub fn of_class(
    head: &Head,
    class: &Class,
    one: impl Fn(&Head, &InstanceName) -> Result<Value> + Sync,
) -> Result<Vec<(InstanceName, Result<Value>)>> {
    let context = head.context;
    let Some(file) = class.users_from.as_deref() else {
        let user = class.user.as_ref();
        let user = user.with_context(|| Fault::new(Kind::Usage, "no user is named"))?;
        let name = context.instance(&class.lab, user)?;
        let done = one(head, &name)?;
        return Ok(vec![(name, Ok(done))]);
    };
    let names = many::names(context, &class.lab, file)?;
    context.config.lab(&class.lab)?;
    let results = many::side_by_side(context, &names, usize::from(class.jobs), |_, name| {
        one(&head.for_worker(), name)
    })?;
    Ok(names.into_iter().zip(results).collect())
}

/// Runs `command` for every user of its list.
pub fn run(head: &Head, command: &Command) -> Result<()> {
    let class = class(command).ok_or_else(|| elsewhere("it has no such command"))?;
    let done = of_class(head, class, |head, name| {
        let host_command =
            host_command(command, name).ok_or_else(|| elsewhere("it has no such command"))?;
        let done = head.run(&host_command, name, "json")?;
        let mut document = answer(&done.ended, &done.host)?;
        let first = document.pointer_mut("/results/0").map(Value::take);
        Ok(with_host(first.unwrap_or(document), &done.host))
    })?;
    let all = done.len();
    let code = |row: &Value| row.get("exit_code").is_some_and(|code| *code != json!(0));
    let of_guest = |(_, done): &&(_, Result<Value>)| done.as_ref().is_ok_and(code);
    let in_guest = done.iter().filter(of_guest).count();
    match command {
        Command::Exec { .. } => report(head, "results", done, of_commands)?,
        _ => report(head, "instances", done, of_states)?,
    }
    if in_guest == 0 {
        return Ok(());
    }
    let message = format!("the command failed in {in_guest} of {all} instances");
    Err(Fault::new(Kind::Failed, message).into())
}

/// Prints what was done, as the list `key`, and what failed, which makes the command fail.
pub fn report(
    head: &Head,
    key: &'static str,
    done: Vec<(InstanceName, Result<Value>)>,
    columns: Columns,
) -> Result<()> {
    let all = done.len();
    let (done, failed) = many::partition(done);
    let document = [
        (key, Value::Array(done)),
        ("failed", serde_json::to_value(&failed)?),
    ];
    show(head, Vec::new(), document, columns, "")?;
    many::fail_if_any(head.context, &failed, all)
}
