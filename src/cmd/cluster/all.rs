//! Queries all hosts at once. A host that does not answer in time is reported, never silently left
//! out: the state of its instances is unknown, but they still exist.

use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::arguments::Words;
use super::head::{Head, answer, program, with_host};
use super::merged::{distance, show, states, step, text};
use crate::cli::{Cleanup, Reap};
use crate::cluster::hosts::{Unreachable, is_service_lease};
use crate::cluster::slurm::Lease;
use crate::config::HostName;
use crate::error::{Fault, Kind};
use crate::names::{InstanceName, LabId, State, UserId};
use crate::output::{Column, Rows};
use crate::parallel::side_by_side;
use crate::prometheus::Metric;
use crate::reaper::report::PassReport;

/// The time limit for an answer of a host.
pub const ANSWER: Duration = Duration::from_secs(3);

/// The time limit for destroying instances on a host.
const DESTROYING: Duration = Duration::from_secs(600);

/// The answers of the hosts, and the hosts that did not answer.
pub struct Answers {
    pub documents: Vec<(HostName, Value)>,
    pub unreachable: Vec<Unreachable>,
    /// Fenced hosts: their instances are only known from files.
    pub fenced: Vec<HostName>,
}

/// The hosts that a command is run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    Every,
    /// Those that have a disk, a record or a lease of an instance.
    WithInstances,
}

/// Runs `arguments` on hosts.
pub fn ask(head: &Head, whom: Whom, arguments: &Words, limit: Duration) -> Result<Answers> {
    ask_each(head, whom, limit, |_| arguments.clone())
}

/// Runs on each host what `arguments` says for it.
pub fn ask_each(
    head: &Head,
    whom: Whom,
    limit: Duration,
    arguments: impl Fn(&HostName) -> Words + Sync,
) -> Result<Answers> {
    // The leases are listed once for all hosts, so that a dead controller is an error of the
    // command.
    let leases = head.hosts.leases(None)?;
    let nodes = head.hosts.nodes()?;
    let all = head.hosts.cluster.hosts.keys();
    let (fenced, mut hosts): (Vec<_>, Vec<_>) = all.partition(|it| head.hosts.shared.is_fenced(it));
    hosts.retain(|host| {
        let of_instance = |it: &Lease| it.host == **host && !is_service_lease(it);
        whom == Whom::Every
            || leases.iter().any(of_instance)
            // If that is unknown, the host knows.
            || head.hosts.shared.has_instances(host).unwrap_or(true)
    });
    let answers = side_by_side(&hosts, hosts.len(), |host| -> Result<Value> {
        let head = head.for_worker();
        let node = nodes.iter().find(|node| node.host == **host);
        if !node.is_some_and(|node| node.answers()) {
            head.hosts.answering(host)?;
        }
        let service = head.hosts.service_lease_from(host, &leases)?;
        let step = head.hosts.slurm.step(&service)?;
        let whole = head.whole(&arguments(host).0, "json");
        answer(&step.running(program()?, whole).captured(limit)?, host)
    });
    let (mut documents, mut unreachable) = (Vec::new(), Vec::new());
    for (host, answer) in hosts.into_iter().zip(answers) {
        let host = host.clone();
        match answer {
            Ok(document) => documents.push((host, document)),
            Err(error) => unreachable.push(Unreachable {
                host,
                error: format!("{error:#}"),
            }),
        }
    }
    Ok(Answers {
        documents,
        unreachable,
        fenced: fenced.into_iter().cloned().collect(),
    })
}

impl Answers {
    /// The lists called `key` of all documents, joined, with the host in each row.
    pub fn rows(&mut self, key: &str) -> Vec<Value> {
        let mut all = Vec::new();
        for (host, document) in &mut self.documents {
            let rows = document.get_mut(key).and_then(Value::as_array_mut);
            let rows = rows.map(std::mem::take).unwrap_or_default().into_iter();
            all.extend(rows.map(|row| with_host(row, host)));
        }
        all
    }

    /// The sum of the numbers called `key`.
    fn sum(&self, key: &str) -> u64 {
        let numbers = self
            .documents
            .iter()
            .filter_map(|(_, it)| it.get(key)?.as_u64());
        numbers.sum()
    }

    /// Warns about the hosts that did not answer. If no host answered, this is an error.
    pub fn tell(&self, head: &Head) -> Result<()> {
        let output = &head.context.output;
        for it in &self.unreachable {
            output.warn(&it.to_string());
        }
        self.any()
    }

    /// If no host answered, this is an error.
    pub fn any(&self) -> Result<()> {
        if self.documents.is_empty() && !self.unreachable.is_empty() {
            let hint = "see `cyyber host list`";
            let fault = Fault::new(Kind::Unavailable, "no host answered");
            return Err(fault.hint(hint).into());
        }
        Ok(())
    }
}

fn listed(rows: Rows<Value>, now: Timestamp) -> Rows<Value> {
    states(rows)
        .column(Column::spare(4, "VNC"), text("vnc_port"))
        .column(Column::spare(5, "ADDRESS"), text("ip"))
        .column(Column::number(1, "ACTIVE"), distance("last_activity", now))
        .column(Column::spare(5, "NEXT"), step("next_step", now))
        .column(Column::number(7, "KEPT"), distance("kept_until", now))
        .column(Column::cut(2, "REASON"), text("reason"))
}

/// `cyyber instance list`
pub fn list(
    head: &Head,
    lab: Option<&LabId>,
    user: Option<&UserId>,
    only: Option<State>,
) -> Result<()> {
    if let Some(lab) = lab {
        head.context.config.lab(lab)?;
    }
    let (answers, rows) = instances(head, lab, user, only)?;
    answers.tell(head)?;
    let document = [("instances", Value::Array(rows))];
    show(head, answers.unreachable, document, listed, "no instances")
}

/// The rows of a list, with those of instances that their hosts did not report.
pub fn instances(
    head: &Head,
    lab: Option<&LabId>,
    user: Option<&UserId>,
    only: Option<State>,
) -> Result<(Answers, Vec<Value>)> {
    let arguments = Words::of(["instance", "list"])
        .option("--lab", lab)
        .option("--user", user)
        .option("--state", only);
    let mut answers = ask(head, Whom::WithInstances, &arguments, ANSWER)?;
    let mut rows = answers.rows("instances");
    leave_ghosts_out(head, &mut rows);
    let shared = &head.hosts.shared;
    let of = |host: &HostName| {
        let mut names = shared.instances(host).unwrap_or_default();
        names.retain(|name| {
            let named = lab.is_none_or(|lab| *lab == name.lab);
            named && user.is_none_or(|it| *it == name.user) && head.context.scope().covers(name)
        });
        names
    };
    for Unreachable { host, error } in answers.unreachable.iter().filter(|_| only.is_none()) {
        rows.extend(
            of(host)
                .iter()
                .map(|name| row(name, host, "unknown", error)),
        );
    }
    for host in &answers.fenced {
        for name in of(host) {
            let saved = shared.has_memory(host, &name);
            let state = if saved { State::Paused } else { State::Stopped };
            let why = format!("{host} is off: it starts on another host");
            if only.is_none_or(|only| only == state) {
                rows.push(row(&name, host, state.as_str(), &why));
            }
        }
    }
    rows.sort_by(|a, b| a["instance"].as_str().cmp(&b["instance"].as_str()));
    Ok((answers, rows))
}

/// A host that an instance has left may still have its empty domain definition.
pub fn leave_ghosts_out(head: &Head, rows: &mut Vec<Value>) {
    rows.retain(|row| {
        let text = |key: &str| row.get(key).and_then(Value::as_str);
        let (Some(name), Some(host)) = (text("instance"), text("host")) else {
            return true;
        };
        // libvirt still reports saved memory that was moved away.
        let off = match text("state") {
            Some("stopped" | "crashed") => true,
            Some("paused") => text("reason").is_some_and(|it| it.starts_with("memory saved")),
            _ => false,
        };
        let Ok(name) = name.parse::<InstanceName>() else {
            return true;
        };
        // A running instance is listed, whatever the files say.
        !off || head
            .hosts
            .shared
            .owner(&name)
            .is_none_or(|owner| owner.as_str() == host)
    });
}

/// An instance that its host did not report.
fn row(name: &InstanceName, host: &HostName, state: &str, why: &str) -> Value {
    json!({
        "instance": name.to_string(), "lab_id": name.lab, "user_id": name.user, "host": host,
        "state": state, "changed": false, "vnc_host": null, "vnc_port": null,
        "novnc_port": null, "ip": null, "reason": why,
    })
}

fn freed(rows: Rows<Value>, _: Timestamp) -> Rows<Value> {
    states(rows)
        .column(Column::number(1, "FREED MB"), text("freed_mb"))
        .column(Column::cut(3, "REASON"), text("reason"))
}

/// `cyyber instance cleanup` of many instances: each host destroys its own.
pub fn cleanup(head: &Head, options: &Cleanup) -> Result<()> {
    let arguments = Words::of(["instance", "cleanup"])
        .option("--lab", options.of_lab.as_ref())
        .option("--user", options.of_user.as_ref())
        .filters(options);
    if options.dry_run {
        return cleaned(head, ask(head, Whom::Every, &arguments, ANSWER)?, true);
    }
    if !options.yes {
        let dry_run = arguments.clone().flag(true, "--dry-run");
        let mut answers = ask(head, Whom::Every, &dry_run, ANSWER)?;
        let line = |row: Value| {
            let text = |key: &str| row.get(key).and_then(Value::as_str).unwrap_or("-");
            let (name, host) = (text("instance"), text("host"));
            format!("{name} on {host}: {}", text("reason"))
        };
        let lines: Vec<_> = answers.rows("destroyed").into_iter().map(line).collect();
        if !lines.is_empty() {
            head.context.confirm(&lines, "Destroy all this?")?;
        }
    }
    let arguments = arguments.flag(true, "--yes");
    cleaned(head, ask(head, Whom::Every, &arguments, DESTROYING)?, false)
}

fn cleaned(head: &Head, mut answers: Answers, dry_run: bool) -> Result<()> {
    answers.tell(head)?;
    let freed_mb = answers.sum("freed_mb");
    let (destroyed, kept) = (answers.rows("destroyed"), answers.rows("kept"));
    let (failed, builds) = (answers.rows("failed"), answers.rows("builds"));
    for name in destroyed.iter().filter(|_| !dry_run) {
        if let Some(Ok(name)) = name["instance"].as_str().map(str::parse::<InstanceName>) {
            head.release_all(&name)?;
        }
    }
    let (problems, all) = (failed.len(), failed.len() + destroyed.len());
    let document = [
        ("destroyed", Value::Array(destroyed)),
        ("kept", Value::Array(kept)),
        ("failed", Value::Array(failed)),
        ("builds", Value::Array(builds)),
        ("freed_mb", freed_mb.into()),
        ("dry_run", dry_run.into()),
    ];
    show(
        head,
        answers.unreachable,
        document,
        freed,
        "nothing to destroy",
    )?;
    if problems == 0 {
        return Ok(());
    }
    let message = format!("{problems} of {all} instances were not destroyed");
    Err(Fault::new(Kind::Failed, message).into())
}

fn due(rows: Rows<Value>, now: Timestamp) -> Rows<Value> {
    states(rows)
        .column(Column::spare(2, "STEP"), text("step"))
        .column(Column::spare(1, "NEXT"), step("next", now))
        .column(Column::cut(3, "REASON"), text("reason"))
}

/// `cyyber reap --dry-run`. A pass of the head, whose cron runs them as on each host, has nothing to do.
pub fn reap(head: &Head, options: &Reap) -> Result<()> {
    if !options.dry_run {
        let output = &head.context.output;
        output.detail("passes run on each host, and this is the head: nothing to do");
        return output.answer(&PassReport::default());
    }
    let mut answers = ask(head, Whom::Every, &Words::of(["reap", "--dry-run"]), ANSWER)?;
    answers.tell(head)?;
    let document = [
        ("instances", Value::Array(answers.rows("instances"))),
        ("actions", Value::Array(answers.rows("actions"))),
        ("checked", answers.sum("checked").into()),
        ("failed", 0.into()),
    ];
    show(head, answers.unreachable, document, due, "no instances")
}

/// `cyyber metrics` of all hosts, with the host in each sample.
pub fn metrics(head: &Head, options: &crate::cli::Metrics) -> Result<()> {
    let answers = ask(head, Whom::Every, &Words::of(["metrics"]), ANSWER)?;
    answers.tell(head)?;
    let mut up = Metric::new("cyyber_host_up", "Whether the host answered.");
    for Unreachable { host, .. } in &answers.unreachable {
        up.add([("host", host.as_str())], 0.0);
    }
    let mut all: Vec<Metric> = Vec::new();
    for (host, mut document) in answers.documents {
        up.add([("host", host.as_str())], 1.0);
        let metrics = document.get_mut("metrics").map(Value::take);
        let metrics: Vec<Metric> = serde_json::from_value(metrics.unwrap_or_default())?;
        for metric in metrics {
            match all.iter_mut().find(|it| it.name() == metric.name()) {
                Some(known) => known.take_from(host.as_str(), metric),
                None => {
                    let mut new = metric.bare();
                    new.take_from(host.as_str(), metric);
                    all.push(new);
                }
            }
        }
    }
    all.insert(0, up);
    crate::cmd::metrics::tell(head.context, options, all)
}
