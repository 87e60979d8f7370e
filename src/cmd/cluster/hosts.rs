//! `cyyber host`: the hosts themselves.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::drain::drain;
use super::head::Head;
use crate::cli::{Host as Command, Target};
use crate::cluster::hosts::is_service_lease;
use crate::cluster::slurm::Node;
use crate::config::{Cluster, HostName};
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::instance::arrival;
use crate::output::{Cell, Column, Report, Table};
use crate::parallel::side_by_side;

/// How long Slurm may take to place instances on a host again: it asks the host first.
const BACK: Duration = Duration::from_secs(10);

/// Runs a command on hosts.
pub fn run(context: &Context, command: &Command) -> Result<()> {
    let cluster = context.config.cluster.as_ref().ok_or_else(|| {
        let message = "there is one host: the configuration has no `cluster`";
        let hint = "see `cluster` in `man labs-config.json`";
        Fault::new(Kind::Config, message).hint(hint)
    })?;
    let head = Head::new(context, cluster);
    let named = |target: &Target| context.instance(&target.lab, &target.user);
    match command {
        Command::List => list(&head),
        Command::Drain { host } => drain(&head, known(cluster, host)?),
        Command::Resume { host } => resume(&head, known(cluster, host)?),
        Command::Fence { host, yes } => fence(&head, known(cluster, host)?, *yes),
        Command::Release { target, to } => {
            arrival::release(context, &named(target)?, known(cluster, to)?)
        }
        Command::Adopt { target, from } => {
            arrival::adopt(context, &named(target)?, known(cluster, from)?)
        }
        Command::Forget { lab, user } => match lab.as_ref().zip(user.as_ref()) {
            Some((lab, user)) => arrival::forget(context, &context.instance(lab, user)?),
            None => arrival::forget_all(context),
        },
    }
}

fn known<'a>(cluster: &'a Cluster, host: &HostName) -> Result<&'a HostName> {
    cluster.hosts.keys().find(|it| *it == host).ok_or_else(|| {
        let all: Vec<_> = cluster.hosts.keys().map(HostName::as_str).collect();
        let fault = Fault::new(Kind::NotFound, format!("no host {host} in `cluster.hosts`"));
        fault
            .hint(format!("known hosts: {}", all.join(", ")))
            .into()
    })
}

#[derive(Serialize)]
struct Hosts {
    hosts: Vec<HostRow>,
}

/// A host.
#[derive(Serialize)]
struct HostRow {
    host: HostName,
    /// `up`, `draining`, `drained`, `down`, `fenced`, or `unknown` to Slurm.
    state: &'static str,
    reason: Option<String>,
    cpus: Option<u32>,
    cpus_free: Option<u32>,
    memory_mb: Option<u64>,
    memory_free_mb: Option<u64>,
    /// The number of instances whose disks it has.
    instances: Option<usize>,
    /// The number of instances that use memory.
    running: usize,
    labels: BTreeMap<String, String>,
}

impl HostRow {
    fn new(head: &Head, host: &HostName, node: Option<&Node>, running: usize) -> HostRow {
        let hosts = &head.hosts;
        let labels = hosts.cluster.hosts.get(host).map(|it| &it.0.labels);
        let labels = labels.into_iter().flatten();
        HostRow {
            host: host.clone(),
            state: match node {
                _ if hosts.shared.is_fenced(host) => "fenced",
                None => "unknown",
                Some(node) if !node.answers() => "down",
                Some(node) if node.drains() => match running {
                    0 => "drained",
                    _ => "draining",
                },
                Some(node) if node.takes() => "up",
                Some(_) => "down",
            },
            reason: node.and_then(|node| node.reason.clone()),
            cpus: node.map(|node| node.cpus),
            cpus_free: node.map(|node| node.cpus_free),
            memory_mb: node.map(|node| node.memory_mb),
            memory_free_mb: node.map(|node| node.memory_free_mb),
            instances: hosts.shared.instances(host).ok().map(|all| all.len()),
            running,
            labels: labels
                .map(|(key, value)| (key.clone(), value.to_string()))
                .collect(),
        }
    }
}

fn list(head: &Head) -> Result<()> {
    let hosts = &head.hosts;
    let leases = hosts.leases(None)?;
    let nodes = hosts.nodes()?;
    let all: Vec<_> = hosts.cluster.hosts.keys().collect();
    let rows = side_by_side(&all, all.len(), |host| {
        let there = leases
            .iter()
            .filter(|it| it.host == **host && !is_service_lease(it));
        let node = nodes.iter().find(|node| node.host == **host);
        HostRow::new(head, host, node, there.count())
    });
    head.context.output.answer(&Hosts { hosts: rows })
}

impl Report for Hosts {
    fn table(&self) -> Option<Table> {
        let state = |row: &HostRow| match row.state {
            "up" => Cell::good(row.state),
            "draining" | "drained" => Cell::doubtful(row.state),
            _ => Cell::bad(row.state),
        };
        let number = |number: Option<u64>| number.map(|it| it.to_string());
        let cpus = |cpus: Option<u32>| number(cpus.map(u64::from));
        let instances = |row: &HostRow| row.instances.map(|it| it.to_string());
        Table::of(&self.hosts)
            .column("HOST", |row| row.host.as_str())
            .column("STATE", state)
            .column(Column::number(3, "MEMORY MB"), |row| number(row.memory_mb))
            .column(Column::number(0, "FREE"), |row| number(row.memory_free_mb))
            .column(Column::number(4, "CPUS"), |row| cpus(row.cpus))
            .column(Column::number(4, "FREE"), |row| cpus(row.cpus_free))
            .column(Column::number(0, "INSTANCES"), instances)
            .column(Column::number(0, "RUNNING"), |row| row.running.to_string())
            .column(Column::cut(1, "REASON"), |row| row.reason.as_deref())
            .if_any()
    }
}

/// The host after a command.
fn answer(head: &Head, host: &HostName) -> Result<()> {
    let head = head.for_worker();
    let nodes = head.hosts.nodes()?;
    let leases = head.hosts.slurm.leases_on(host)?;
    let running = leases.iter().filter(|it| !is_service_lease(it)).count();
    let node = nodes.iter().find(|node| node.host == *host);
    let row = HostRow::new(&head, host, node, running);
    head.context.output.answer(&Hosts { hosts: vec![row] })
}

/// Returns a host to service.
fn resume(head: &Head, host: &HostName) -> Result<()> {
    let hosts = &head.hosts;
    let takes = hosts.answering(host)?.takes();
    hosts.shared.unfence(host)?;
    if !takes {
        hosts.slurm.resume(host)?;
        let until = Instant::now() + BACK;
        while !head.for_worker().hosts.answering(host)?.takes() && Instant::now() < until {
            sleep(Duration::from_millis(200));
        }
    }
    let service = head.for_worker().hosts.service_lease(host);
    if let Err(error) = service.and_then(|service| head.act(&service, &["host", "forget"])) {
        // The host's next pass does it otherwise.
        head.context.output.detail(&format!("warning: {error:#}"));
    }
    answer(head, host)
}

/// Fences a host.
fn fence(head: &Head, host: &HostName, yes: bool) -> Result<()> {
    let hosts = &head.hosts;
    if !yes {
        let disks = hosts.shared.instances(host);
        let count = disks.map_or(0, |all| all.len());
        let lines = [format!(
            "{host} has the disks of {count} instances. If it still runs, two VMs will write to one disk"
        )];
        head.context
            .confirm(&lines, "Are you sure that it is off?")?;
    }
    let node = hosts.nodes()?.iter().find(|node| node.host == *host);
    if node.is_some_and(Node::answers) && !hosts.shared.is_fenced(host) {
        let message = format!("{host} still answers: it is not off");
        let hint = format!("switch it off first, or move its instances: cyyber host drain {host}");
        return Err(Fault::new(Kind::Conflict, message).hint(hint).into());
    }
    hosts.shared.fence(host)?;
    // Slurm ends its jobs there. It does not matter whether Slurm considers the host up or down.
    let told = hosts.slurm.down(host, "cyyber host fence");
    let leases = hosts.slurm.leases_on(host)?;
    for lease in &leases {
        hosts.slurm.release(lease)?;
    }
    if let Err(error) = told {
        head.context.output.detail(&format!("warning: {error:#}"));
    }
    answer(head, host)
}
