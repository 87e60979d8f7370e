//! The resource use of instances on all hosts.

use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::all::{ANSWER, Answers, Whom, ask, leave_ghosts_out};
use super::arguments::{HostCommand, Needs, Words};
use super::head::{Head, answer, with_host};
use super::merged::{Merged, states, text};
use crate::cluster::slurm::Node;
use crate::cmd::instance::watch::{counts, labelled};
use crate::names::{InstanceName, State};
use crate::output::{Column, Page, Report, Rows, Table};
use crate::units::{MIB, size};

/// `cyyber instance stats` of all instances.
pub fn run(head: &Head) -> Result<()> {
    let (answers, rows) = all(head)?;
    answers.tell(head)?;
    head.context.output.answer(&merged(head, answers, rows))
}

/// The same, or that of the one called `name`, repeated until interrupted.
pub fn watch(head: &Head, name: Option<&InstanceName>, every: Duration) -> Result<()> {
    let stop = head.context.interrupted()?;
    let mut live = head.context.output.live();
    loop {
        let began = Instant::now();
        let head = &head.for_worker();
        let has_reader = if let Some(name) = name {
            live.show(&One(of_one(head, name)?), |_| None)?
        } else {
            let (answers, mut rows) = all(head)?;
            if live.is_drawn() {
                answers.any()?;
                // Those that use most come first.
                rows.sort_by(|one, other| cost(other).total_cmp(&cost(one)));
            } else {
                answers.tell(head)?;
            }
            let heading = Heading::new(head, &answers, &rows)?;
            let merged = merged(head, answers, rows);
            live.show(&merged, |page| Some(heading.draw(page)))?
        };
        if !has_reader || !live.wait_until(began + every, stop) {
            return Ok(());
        }
    }
}

/// The resource use of all instances.
fn all(head: &Head) -> Result<(Answers, Vec<Value>)> {
    let words = Words::of(["instance", "stats"]);
    let mut answers = ask(head, Whom::WithInstances, &words, ANSWER)?;
    let mut rows = answers.rows("instances");
    leave_ghosts_out(head, &mut rows);
    Ok((answers, rows))
}

fn merged(head: &Head, answers: Answers, rows: Vec<Value>) -> Merged {
    let document = [("instances", Value::Array(rows))];
    Merged::new(head, answers.unreachable, document, used, "no instances")
}

fn used(rows: Rows<Value>, _: Timestamp) -> Rows<Value> {
    states(rows)
        .column(Column::number(1, "CPU %"), text("cpu_percent"))
        .column(Column::number(7, "VCPUS"), text("cpu_count"))
        .column(Column::number(5, "MEMORY MB"), text("memory_mb"))
        .column(Column::number(2, "USED MB"), text("memory_used_mb"))
        .column(Column::number(4, "DISK MB"), text("disk_used_mb"))
}

/// The resource use of one instance.
#[derive(Serialize)]
#[serde(transparent)]
struct One(Value);

impl Report for One {
    fn table(&self) -> Option<Table> {
        used(Table::of([&self.0]), Timestamp::default()).if_any()
    }
}

fn of_one(head: &Head, name: &InstanceName) -> Result<Value> {
    let command = HostCommand {
        arguments: Words::on("stats", name).0,
        needs: Needs::ItsHost,
        frees_memory: false,
        is_about_instance: false,
    };
    let done = head.run(&command, name, "json")?;
    Ok(with_host(answer(&done.ended, &done.host)?, &done.host))
}

fn number(row: &Value, key: &str) -> f64 {
    row.get(key).and_then(Value::as_f64).unwrap_or(0.0)
}

/// For the order of rows: a whole CPU counts as much as a gigabyte.
fn cost(row: &Value) -> f64 {
    number(row, "cpu_percent") + number(row, "memory_used_mb") / 10.0
}

/// The free resources of the hosts, and the totals of the instances.
struct Heading {
    hosts: Vec<String>,
    instances: Vec<String>,
    used: Vec<String>,
}

impl Heading {
    fn new(head: &Head, answers: &Answers, rows: &[Value]) -> Result<Heading> {
        let nodes = head.hosts.nodes()?;
        let sum = |of: fn(&Node) -> u64| nodes.iter().map(of).sum::<u64>();
        let memory = |mib: u64| size(mib.saturating_mul(MIB));
        let [total, free] = [sum(|it| it.memory_mb), sum(|it| it.memory_free_mb)];
        let [cpus, cpus_free] = [sum(|it| it.cpus.into()), sum(|it| it.cpus_free.into())];
        let mut hosts = vec![
            format!(
                "{} of {} memory taken",
                memory(total.saturating_sub(free)),
                memory(total)
            ),
            format!("{} of {cpus} CPUs", cpus.saturating_sub(cpus_free)),
        ];
        hosts.extend(answers.unreachable.iter().map(ToString::to_string));
        let states = rows
            .iter()
            .filter_map(|row| State::deserialize(row.get("state")?).ok());
        let total = |key| rows.iter().fold(0.0, |sum, row| sum + number(row, key));
        Ok(Heading {
            hosts,
            instances: counts(&states.collect::<Vec<_>>()),
            used: vec![
                format!("{} memory used", memory(total("memory_used_mb") as u64)),
                format!("CPU {:.0} %", total("cpu_percent")),
            ],
        })
    }

    fn draw(&self, page: Page) -> String {
        let lines = [
            labelled("Hosts", &self.hosts, page),
            labelled("Instances", &self.instances, page),
            labelled("", &self.used, page),
        ];
        lines.concat().join("\n")
    }
}
