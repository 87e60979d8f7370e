//! Slurm: the only module that calls its programs. Each call has a time limit, because a program
//! whose controller is dead or whose host does not answer would wait.

mod parse;
mod step;

use std::net::{TcpStream, ToSocketAddrs};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::Result;

pub use parse::{Lease, Node};
pub use step::{Ended, Step};

use crate::config::{Cluster, HostName};
use crate::error::{Fault, Kind};
use crate::process::{self, Program};

/// Time limit of a query to the controller. It is short, so that a user learns within ten seconds
/// that the controller is dead.
const ANSWER: Duration = Duration::from_secs(5);

/// How long Slurm may look for a host, in seconds, and the time limit of its program.
const PLACING: &str = "--immediate=2";
const PLACED: Duration = Duration::from_secs(6);

/// How long a host may take to accept a connection.
const KNOCK: Duration = Duration::from_secs(1);

/// Slurm with the settings of this configuration.
#[derive(Debug, Clone, Copy)]
pub struct Slurm<'a> {
    cluster: &'a Cluster,
}

/// A request for a lease.
#[derive(Debug, Clone, Default)]
pub struct Request<'a> {
    /// The name of the lease.
    pub name: &'a str,
    /// In MiB.
    pub memory_mb: u64,
    pub cpus: u32,
    /// On this host only.
    pub on: Option<&'a HostName>,
    /// Not on these hosts.
    pub not_on: Vec<&'a HostName>,
    /// Even if a lease with this name exists.
    pub despite_lease: bool,
}

/// The result of a request.
#[derive(Debug)]
pub enum Placed {
    /// The lease.
    On(Lease),
    /// No room; the reason in Slurm's words.
    Full(String),
    /// A limit that is set in Slurm does not allow it; the reason.
    Limited(String),
}

impl<'a> Slurm<'a> {
    /// Slurm as configured in `cluster`.
    pub fn new(cluster: &'a Cluster) -> Slurm<'a> {
        Slurm { cluster }
    }

    /// Our leases; only those called `name`, if it is given.
    pub fn leases(&self, name: Option<&str>) -> Result<Vec<Lease>> {
        let mut squeue = program("squeue")?;
        squeue.args(["--noheader", "--me", "--states=RUNNING,CONFIGURING"]);
        squeue.args(["--format", Lease::FORMAT]);
        if let Some(name) = name {
            squeue.args(["--name", name]);
        }
        Ok(parse::leases(&ask(squeue)?))
    }

    /// Our leases on `host`.
    pub fn leases_on(&self, host: &HostName) -> Result<Vec<Lease>> {
        let mut squeue = program("squeue")?;
        squeue.args(["--noheader", "--me", "--states=RUNNING,CONFIGURING"]);
        squeue.args(["--format", Lease::FORMAT, "--nodelist", host.as_str()]);
        Ok(parse::leases(&ask(squeue)?))
    }

    /// The number of steps that run in a lease.
    pub fn steps(&self, lease: &Lease) -> Result<usize> {
        let mut squeue = program("squeue")?;
        squeue.args(["--noheader", "--steps", "--format=%i"]);
        squeue.args(["--jobs", &lease.job.to_string()]);
        Ok(parse::steps(&ask(squeue)?))
    }

    /// The hosts of this configuration that Slurm knows.
    pub fn nodes(&self) -> Result<Vec<Node>> {
        let mut sinfo = program("sinfo")?;
        sinfo.args(["--noheader", "--Node", "--Format", Node::FORMAT]);
        if let Some(partition) = &self.cluster.partition {
            sinfo.args(["--partition", partition.as_str()]);
        }
        let mut nodes = parse::nodes(&ask(sinfo)?);
        nodes.retain(|node| self.cluster.hosts.contains_key(&node.host));
        Ok(nodes)
    }

    /// Requests a lease.
    pub fn place(&self, request: &Request) -> Result<Placed> {
        let mut salloc = program("salloc")?;
        salloc.args([
            "--no-shell",
            "--nodes=1",
            "--ntasks=1",
            "--chdir=/",
            PLACING,
        ]);
        salloc.args(["--job-name", request.name]);
        salloc.arg(format!("--mem={}M", request.memory_mb));
        salloc.arg(format!("--cpus-per-task={}", request.cpus));
        if !request.despite_lease {
            salloc.arg("--dependency=singleton");
        }
        if let Some(host) = request.on {
            salloc.args(["--nodelist", host.as_str()]);
        }
        if !request.not_on.is_empty() {
            let hosts: Vec<_> = request.not_on.iter().map(|it| it.as_str()).collect();
            salloc.args(["--exclude", &hosts.join(",")]);
        }
        let cluster = self.cluster;
        for (option, value) in [
            ("--partition", &cluster.partition),
            ("--account", &cluster.account),
            ("--qos", &cluster.qos),
        ] {
            if let Some(value) = value {
                salloc.args([option, value.as_str()]);
            }
        }
        let output = bounded(&mut salloc, PLACED)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            let limited = || parse::limit(&said).map(Placed::Limited);
            let placed = parse::refusal(&said).map(Placed::Full).or_else(limited);
            return placed.ok_or_else(|| failed(&salloc, &output));
        }
        let job = parse::granted(&said).ok_or_else(|| failed(&salloc, &output))?;
        if let Some(host) = parse::ready(&said) {
            return Ok(Placed::On(Lease {
                job,
                name: request.name.to_owned(),
                host,
                age: 0,
            }));
        }
        let mut squeue = program("squeue")?;
        squeue.args(["--noheader", "--format", Lease::FORMAT]);
        squeue.args(["--jobs", &job.to_string()]);
        let lease = parse::leases(&ask(squeue)?).pop();
        let lease = lease.ok_or_else(|| {
            let message = format!("Slurm's allocation {job} for {} is gone", request.name);
            Fault::new(Kind::Unavailable, message).hint("try again")
        })?;
        Ok(Placed::On(lease))
    }

    /// Releases a lease. It is no error if the lease is gone.
    pub fn release(&self, lease: &Lease) -> Result<()> {
        let mut scancel = program("scancel")?;
        scancel.args(["--quiet", &lease.job.to_string()]);
        ask(scancel).map(drop)
    }

    /// Drains a host: Slurm places nothing more on it.
    pub fn drain(&self, host: &HostName, why: &str) -> Result<()> {
        self.update(host, "DRAIN", Some(why))
    }

    /// Tells Slurm that a host is off.
    pub fn down(&self, host: &HostName, why: &str) -> Result<()> {
        self.update(host, "DOWN", Some(why))
    }

    /// Returns a host to service.
    pub fn resume(&self, host: &HostName) -> Result<()> {
        self.update(host, "RESUME", None)
    }

    fn update(&self, host: &HostName, state: &str, why: Option<&str>) -> Result<()> {
        let mut scontrol = program("scontrol")?;
        scontrol.args([
            "update",
            &format!("NodeName={host}"),
            &format!("State={state}"),
        ]);
        if let Some(why) = why {
            scontrol.arg(format!("Reason={why}"));
        }
        ask(scontrol).map(drop)
    }

    /// A step in a lease: `program` with `arguments` on the lease's host.
    pub fn step(&self, lease: &Lease) -> Result<Step> {
        Ok(Step::new(program("srun")?, lease))
    }
}

impl Node {
    /// Whether the host answers now, which Slurm may not have noticed yet.
    pub fn answers(&self) -> bool {
        let addresses = (self.address.as_str(), self.port).to_socket_addrs();
        let mut addresses = addresses.into_iter().flatten();
        // Slurm's own status may be out of date.
        addresses.any(|it| TcpStream::connect_timeout(&it, KNOCK).is_ok())
    }
}

fn program(name: &str) -> Result<Command> {
    Ok(Program::find(name, "slurm-client")?.command())
}

/// Runs a program that queries the controller, and returns its output.
fn ask(mut command: Command) -> Result<String> {
    let output = bounded(&mut command, ANSWER)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(&command, &output))
}

fn bounded(command: &mut Command, limit: Duration) -> Result<Output> {
    process::within(command, limit)?.ok_or_else(|| {
        let (line, limit) = (process::line(command), limit.as_secs());
        unavailable(format!("`{line}` did not end within {limit}s"))
    })
}

fn failed(command: &Command, output: &Output) -> anyhow::Error {
    let said = String::from_utf8_lossy(&output.stderr);
    let (line, said) = (process::line(command), parse::words(&said));
    unavailable(format!("`{line}` failed: {said}"))
}

fn unavailable(message: String) -> anyhow::Error {
    let hint =
        "check that Slurm's controller runs: scontrol ping; running instances are not affected";
    Fault::new(Kind::Unavailable, message).hint(hint).into()
}
