//! Several hosts: checks that this host has its shared directories, and that the head reaches all
//! hosts and finds them equal where they must be.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::finding::{Check, Finding};
use crate::cluster::Place;
use crate::cluster::hosts::Hosts;
use crate::cluster::slurm::{Node, Slurm};
use crate::config::{Cluster, HostName};
use crate::context::Context;
use crate::paths::SharedPaths;

const CLUSTER: Check = Check("cluster");

/// How long a host may take to check itself.
const LOOKING: Duration = Duration::from_secs(60);

/// Clocks that differ by more make times of use wrong; Slurm's keys expire after five minutes.
const APART: SignedDuration = SignedDuration::from_secs(2);
const FAR_APART: SignedDuration = SignedDuration::from_secs(60);

/// The findings about a cluster; none if there is no cluster.
pub fn check(context: &Context) -> Vec<Finding> {
    match context.place() {
        None => Vec::new(),
        Some(Place::Host(cluster, host)) => on_host(context, cluster, host),
        Some(Place::Head(cluster)) => on_head(context, cluster),
    }
}

/// Whether a host has its directories, and Slurm knows it and accepts its key.
fn on_host(context: &Context, cluster: &Cluster, host: &HostName) -> Vec<Finding> {
    let own = SharedPaths::new(&cluster.shared_dir).of(host);
    let shared = cluster.shared_dir.display();
    let join = format!("mount it: setup.sh --join {shared}");
    let mounted = [
        (context.paths.user_instances(), own.user_instances()),
        (context.paths.activities(), own.activities()),
        (
            context.paths.base_images(),
            cluster.shared_dir.join("base-images"),
        ),
    ];
    let mut findings: Vec<_> = mounted
        .iter()
        .map(|(here, there)| {
            let found = is_same(here, there).map(|same| {
                let (here, there) = (here.display(), there.display());
                match same {
                    true => CLUSTER.ok(format!("{here} is {there}")),
                    false => CLUSTER.failed(format!("{here} is not {there}"), &join),
                }
            });
            CLUSTER.or_error(found, &join)
        })
        .collect();
    let known = Slurm::new(cluster)
        .nodes()
        .map(|nodes| match known(&nodes, host) {
            Ok(_) => CLUSTER.ok(format!("Slurm knows this host as {host}")),
            Err(finding) => finding,
        });
    findings.push(CLUSTER.or_error(known, &join));
    findings
}

/// Whether two paths lead to the same file.
fn is_same(one: &Path, other: &Path) -> Result<bool> {
    let identity = |path: &Path| {
        let stat = rustix::fs::stat(path);
        let stat = stat.with_context(|| format!("cannot look at {}", path.display()))?;
        anyhow::Ok((stat.st_dev, stat.st_ino))
    };
    Ok(identity(one)? == identity(other)?)
}

/// The host as Slurm knows it, or the problem with it.
fn known<'n>(nodes: &'n [Node], host: &HostName) -> Result<&'n Node, Finding> {
    let Some(node) = nodes.iter().find(|node| node.host == *host) else {
        let remedy = "`setup.sh --join` there, then `make setup` on the head";
        return Err(CLUSTER.failed(format!("Slurm does not know {host}"), remedy));
    };
    if node.takes() {
        return Ok(node);
    }
    let why = node
        .reason
        .as_ref()
        .map(|why| format!(": {why}"))
        .unwrap_or_default();
    let message = format!(
        "Slurm places nothing on {host}, which is {}{why}",
        node.state
    );
    let remedy = format!("to use it again: cyyber host resume {host}");
    Err(CLUSTER.warning(message, remedy))
}

/// Whether each host answers, what it reports about itself, and whether all hosts are equal.
fn on_head(context: &Context, cluster: &Cluster) -> Vec<Finding> {
    let hosts = Hosts::new(cluster);
    let nodes = match hosts.nodes() {
        Ok(nodes) => nodes,
        Err(error) => return vec![CLUSTER.error(&error, "check Slurm: scontrol ping")],
    };
    let all: Vec<_> = cluster.hosts.keys().collect();
    let looked = crate::parallel::side_by_side(&all, all.len(), |host| {
        let node = match known(nodes, host) {
            Ok(node) => node,
            Err(finding) => return vec![finding],
        };
        if !node.answers() {
            let remedy = format!("bring it back; if it is certainly off: cyyber host fence {host}");
            return vec![CLUSTER.failed(format!("{host} does not answer"), remedy)];
        }
        let asked = ask(context, &Hosts::new(cluster), host);
        asked.unwrap_or_else(|error| {
            let remedy = format!("run `cyyber doctor` on {host}");
            vec![CLUSTER.error(&error.context(format!("failed to query {host}")), remedy)]
        })
    });
    let mut findings: Vec<_> = looked.into_iter().flatten().collect();
    findings.push(alike(nodes));
    findings
}

/// The warnings and failures of a host, and how it differs from this machine.
fn ask(context: &Context, hosts: &Hosts, host: &HostName) -> Result<Vec<Finding>> {
    let service = hosts.service_lease(host)?;
    let program = std::env::current_exe().context("failed to find the path of this program")?;
    let config = std::path::absolute(&context.config.path)?;
    let arguments = [
        "--config".as_ref(),
        config.as_os_str(),
        "-ojson".as_ref(),
        "doctor".as_ref(),
    ];
    let before = Timestamp::now();
    let ended = hosts
        .slurm
        .step(&service)?
        .running(program, arguments)
        .captured(LOOKING)?;
    let after = Timestamp::now();
    let report: Value = serde_json::from_slice(&ended.stdout)
        .with_context(|| format!("it only printed: {}", ended.stderr.trim()))?;
    let mut findings = vec![version(host, &report), clock(host, &report, before, after)];
    for finding in report["findings"].as_array().into_iter().flatten() {
        let text = |key: &str| finding[key].as_str().unwrap_or_default();
        let message = format!("{host}: {}: {}", text("check"), text("message"));
        match text("status") {
            "failed" => findings.push(CLUSTER.failed(message, text("remedy"))),
            "warning" => findings.push(CLUSTER.warning(message, text("remedy"))),
            _ => {}
        }
    }
    Ok(findings)
}

fn version(host: &HostName, report: &Value) -> Finding {
    let ours = env!("CARGO_PKG_VERSION");
    match report["version"].as_str() {
        Some(theirs) if theirs == ours => {
            CLUSTER.ok(format!("{host} has cyyber {theirs}, as this machine"))
        }
        theirs => CLUSTER.failed(
            format!(
                "{host} has cyyber {}, but this machine has {ours}",
                theirs.unwrap_or("of unknown version")
            ),
            "install the same version on all hosts",
        ),
    }
}

/// The difference between our clock and that of a host that read it between `before` and `after`.
fn clock(host: &HostName, report: &Value, before: Timestamp, after: Timestamp) -> Finding {
    let remedy = "synchronise the clocks of all hosts, for example with chrony";
    let theirs = report["time"]
        .as_str()
        .and_then(|it| it.parse::<Timestamp>().ok());
    let Some(theirs) = theirs else {
        return CLUSTER.failed(format!("{host} does not report its time"), remedy);
    };
    let off = before
        .duration_since(theirs)
        .max(theirs.duration_since(after));
    let message = format!("the clock of {host} is {} s off", off.as_secs().max(0));
    match off {
        off if off > FAR_APART => CLUSTER.failed(message, remedy),
        off if off > APART => CLUSTER.warning(message, remedy),
        _ => CLUSTER.ok(format!("the clock of {host} is correct")),
    }
}

/// Whether memory that was saved on one host can be restored on every other.
fn alike(nodes: &[Node]) -> Finding {
    let mut kinds: BTreeMap<Option<&str>, Vec<&str>> = BTreeMap::new();
    for node in nodes {
        kinds
            .entry(node.processors())
            .or_default()
            .push(node.host.as_str());
    }
    if kinds.len() < 2 && !kinds.contains_key(&None) {
        return CLUSTER.ok("all hosts have the same CPU model");
    }
    let told = kinds
        .iter()
        .map(|(kind, hosts)| format!("{}: {}", kind.unwrap_or("unknown"), hosts.join(", ")));
    let told: Vec<_> = told.collect();
    CLUSTER.warning(
        format!(
            "saved memory can only move between equal CPU models: {}",
            told.join("; ")
        ),
        "use equal hosts; setup.sh --join records the model in slurm/hosts.conf of the shared \
         directory",
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;

    #[test]
    fn a_clock_is_right_that_fits_between_question_and_answer() {
        let host: HostName = "h1".parse().unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (before, after) = (at("2026-01-01T10:00:00Z"), at("2026-01-01T10:00:20Z"));
        let said = |time: &str| {
            let report = serde_json::json!({"time": format!("2026-01-01T{time}Z")});
            let finding = clock(&host, &report, before, after);
            (finding.status, finding.message)
        };
        assert_eq!(said("10:00:11").0, Status::Ok);
        assert_eq!(said("09:59:59").0, Status::Ok);
        let (status, message) = said("10:00:30");
        assert_eq!(
            (status, &*message),
            (Status::Warning, "the clock of h1 is 10 s off")
        );
        assert_eq!(said("09:50:00").0, Status::Failed);
        assert_eq!(
            clock(&host, &Value::Null, before, after).status,
            Status::Failed
        );
    }
}
