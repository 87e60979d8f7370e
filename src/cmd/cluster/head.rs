//! A command on one instance: it runs on the host that has, or will have, the memory of the
//! instance. The instance is moved there first if necessary.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::arguments::{HostCommand, Needs, host_command};
use super::elsewhere;
use crate::cli::Instance as Command;
use crate::cluster::hosts::{Hosts, Size, counting};
use crate::cluster::slurm::{Ended, Lease};
use crate::config::{Cluster, HostName};
use crate::context::Context;
use crate::error::{Fault, Kind, Passed};
use crate::instance::admission;
use crate::names::InstanceName;
use crate::scope::missing;

/// The time limit for a short step on a host.
pub const SHORT: Duration = Duration::from_secs(30);

/// The head of several hosts.
pub struct Head<'a> {
    pub context: &'a Context,
    pub hosts: Hosts<'a>,
}

/// Where a command runs.
pub struct Placement {
    pub lease: Lease,
    /// The lease was created for this command.
    made: bool,
    /// All leases of the instance.
    leases: Vec<Lease>,
}

/// The result of a command.
pub struct Done {
    pub host: HostName,
    pub ended: Ended,
}

impl<'a> Head<'a> {
    pub fn new(context: &'a Context, cluster: &'a Cluster) -> Head<'a> {
        let hosts = Hosts::new(cluster);
        Head { context, hosts }
    }

    /// A copy for parallel work, which queries Slurm again.
    pub fn for_worker(&self) -> Head<'a> {
        Head::new(self.context, self.hosts.cluster)
    }

    /// The memory of the hosts that Slurm uses, in MiB.
    pub fn memory_mb(&self) -> Result<u64> {
        let nodes = self.hosts.nodes()?.iter().filter(|node| node.takes());
        Ok(nodes.map(|node| node.memory_mb).sum())
    }

    /// Runs `command` for one instance, and prints its answer.
    pub fn one(&self, command: &Command, name: &InstanceName) -> Result<()> {
        let host_command =
            host_command(command, name).ok_or_else(|| elsewhere("it has no such command"))?;
        let done = self.run(&host_command, name, self.format())?;
        let stderr = done.ended.stderr.lines().map(|line| format!("{line}\n"));
        let stderr = stderr.collect::<String>();
        self.hand_on(done, host_command.is_about_instance, stderr.as_bytes())
    }

    /// The output format in which a host answers what is handed on.
    pub fn format(&self) -> &'static str {
        match self.context.output.is_json() {
            true => "json",
            false => "table",
        }
    }

    /// Prints the answer of a host as our own.
    pub fn hand_on(&self, done: Done, is_about_instance: bool, stderr: &[u8]) -> Result<()> {
        let Done { host, ended } = done;
        let stdout = match (self.format(), ended.code) {
            ("json", _) => match serde_json::from_slice(&ended.stdout) {
                Ok(document) => format!("{}\n", with_host(document, &host)).into_bytes(),
                Err(_) => ended.stdout,
            },
            ("table", 0) if is_about_instance => {
                let text = String::from_utf8_lossy(&ended.stdout);
                format!("{}\n  {:<10}{host}\n", text.trim_end(), "host").into_bytes()
            }
            _ => ended.stdout,
        };
        self.context.output.hand_on(None, &stdout, stderr)?;
        match ended.code {
            0 => Ok(()),
            code => Err(Passed(code).into()),
        }
    }

    /// Runs a host command on the host of `name`. If the host turns out to have no room, another one is
    /// tried, once.
    pub fn run(
        &self,
        host_command: &HostCommand,
        name: &InstanceName,
        format: &str,
    ) -> Result<Done> {
        let placement = self.placement(host_command.needs, name, &BTreeSet::new())?;
        let done = self.run_at(&placement, host_command, name, format)?;
        if done.ended.code != Kind::Capacity.exit_code() || !placement.made {
            return Ok(done);
        }
        let text = format!("{} has no room for {name}: trying another host", done.host);
        self.context.output.detail(&text);
        let not_on = BTreeSet::from([done.host.clone()]);
        // If there is no other host, the first answer is reported.
        match self
            .for_worker()
            .placement(host_command.needs, name, &not_on)
        {
            Ok(placement) => self.run_at(&placement, host_command, name, format),
            Err(_) => Ok(done),
        }
    }

    /// Runs a host command at its place, and releases leases that are no longer needed.
    fn run_at(
        &self,
        placement: &Placement,
        host_command: &HostCommand,
        name: &InstanceName,
        format: &str,
    ) -> Result<Done> {
        let ended = self.step(&placement.lease, &host_command.arguments, format);
        match &ended {
            Ok(ended) if ended.code != 0 => self.release_unless_it_runs(placement, name),
            Ok(_) if host_command.frees_memory => self.release(name, &placement.leases)?,
            Ok(_) => {}
            Err(_) => self.release_unless_it_runs(placement, name),
        }
        Ok(Done {
            ended: ended?,
            host: placement.lease.host.clone(),
        })
    }

    /// The place for `name` that satisfies `needs`, moving the instance if necessary.
    fn placement(
        &self,
        needs: Needs,
        name: &InstanceName,
        not_on: &BTreeSet<HostName>,
    ) -> Result<Placement> {
        let (hosts, shared) = (&self.hosts, &self.hosts.shared);
        self.context.scope().check(name)?;
        // Two commands that start at the same time must not place it twice.
        let _placing = shared.lock(name)?;
        let leases = hosts.leases(Some(name))?;
        let owner = shared.owner(name);
        let fenced = owner.is_some_and(|owner| shared.is_fenced(owner));
        if let Some(owner) = owner.filter(|_| !fenced) {
            hosts.answering(owner)?;
        }
        let there = leases
            .iter()
            .filter(|it| !shared.is_fenced(&it.host))
            .cloned();
        let there: Vec<_> = there.collect();
        if let Some(lease) = counting(&there, owner) {
            hosts.answering(&lease.host)?;
            if let Some(owner) = owner.filter(|owner| **owner != lease.host) {
                self.bring(name, owner, lease)?;
            }
            return Ok(Placement {
                lease: lease.clone(),
                made: false,
                leases,
            });
        }
        let saved = owner.is_some_and(|owner| shared.has_memory(owner, name));
        if needs == Needs::Memory || needs == Needs::MemoryIfSaved && saved {
            let size = self.size(name)?;
            let mut not_on = not_on.clone();
            if let Some(owner) = owner.filter(|_| saved) {
                not_on.extend(hosts.of_other_kind(owner)?);
            }
            // Slurm may not have noticed yet that a lease on a dead host has ended.
            let lease = hosts.place(name, size, owner, &not_on, fenced)?;
            let placement = Placement {
                leases: leases.into_iter().chain([lease.clone()]).collect(),
                lease,
                made: true,
            };
            if let Some(owner) = owner.filter(|owner| **owner != placement.lease.host)
                && let Err(error) = self.bring(name, owner, &placement.lease)
            {
                self.release_unless_it_runs(&placement, name);
                return Err(error);
            }
            return Ok(placement);
        }
        let host = match shared.trace(name) {
            Some(host) if !shared.is_fenced(host) => host.clone(),
            Some(_) => hosts.roomiest(not_on)?,
            None if needs == Needs::AnyHost => {
                self.context.config.lab(&name.lab)?;
                hosts.roomiest(not_on)?
            }
            None => {
                self.context.config.lab(&name.lab)?;
                return Err(missing(name).into());
            }
        };
        hosts.answering(&host)?;
        let lease = hosts.service_lease(&host)?;
        if let Some(owner) = owner.filter(|owner| **owner != host) {
            self.bring(name, owner, &lease)?;
        }
        Ok(Placement {
            lease,
            made: false,
            leases,
        })
    }

    /// The resources that `name` needs.
    pub fn size(&self, name: &InstanceName) -> Result<Size> {
        admission::size(&self.context.config, name)
    }

    /// Moves `name`, which is not running, from the host `from` to the host of `to`.
    pub fn bring(&self, name: &InstanceName, from: &HostName, to: &Lease) -> Result<()> {
        let (lab, user) = (name.lab.as_str(), name.user.as_str());
        let fenced = self.hosts.shared.is_fenced(from);
        let target = to.host.as_str();
        let leaves = if fenced {
            None
        } else {
            let service = self.hosts.service_lease(from)?;
            self.act(&service, &["host", "release", lab, user, "--to", target])?;
            Some(service)
        };
        self.act(to, &["host", "adopt", lab, user, "--from", from.as_str()])?;
        if let Some(service) = leaves
            && let Err(error) = self.act(&service, &["host", "forget", lab, user])
        {
            // The next pass does it otherwise.
            self.context.output.detail(&format!("warning: {error:#}"));
        }
        Ok(())
    }

    /// Runs a short internal command on the host of `lease`; failure is an error.
    pub fn act(&self, lease: &Lease, arguments: &[&str]) -> Result<Value> {
        let words: Vec<_> = arguments.iter().map(|&it| it.to_owned()).collect();
        let step = self.hosts.slurm.step(lease)?;
        let ended = step
            .running(program()?, self.whole(&words, "json"))
            .captured(SHORT)?;
        answer(&ended, &lease.host)
    }

    /// Runs a command of cyyber on the host of `lease`.
    pub fn step(&self, lease: &Lease, arguments: &[String], format: &str) -> Result<Ended> {
        let step = self.hosts.slurm.step(lease)?;
        step.running(program()?, self.whole(arguments, format))
            .whole()
    }

    /// The complete command line: global options given here also apply on the host, and the
    /// configuration has the same path there.
    pub fn whole(&self, arguments: &[String], format: &str) -> Vec<String> {
        let context = self.context;
        let config = std::path::absolute(&context.config.path);
        let config = config.unwrap_or_else(|_| context.config.path.clone());
        let mut whole = vec![
            "--config".to_owned(),
            config.to_string_lossy().into_owned(),
            "--output".to_owned(),
            format.to_owned(),
        ];
        whole.extend(context.output.said_how_much().map(str::to_owned));
        if let Some(user) = context.scope().only() {
            whole.extend(["--as-user".to_owned(), user.to_string()]);
        }
        whole.extend_from_slice(arguments);
        whole
    }

    /// Releases the leases of an instance that uses no memory any more.
    pub fn release_all(&self, name: &InstanceName) -> Result<()> {
        let leases = self.hosts.slurm.leases(Some(&name.to_string()))?;
        self.release(name, &leases)
    }

    /// Releases `leases` of an instance that uses no memory any more.
    fn release(&self, name: &InstanceName, leases: &[Lease]) -> Result<()> {
        let _placing = self.hosts.shared.lock(name)?;
        for lease in leases {
            // Another command may have started it in the meantime.
            if self.hosts.slurm.steps(lease)? == 0 {
                self.hosts.slurm.release(lease)?;
            }
        }
        Ok(())
    }

    /// Releases a lease that was created for a command that failed, unless the guest runs all the
    /// same.
    fn release_unless_it_runs(&self, placement: &Placement, name: &InstanceName) {
        if !placement.made {
            return;
        }
        let (lab, user) = (name.lab.as_str(), name.user.as_str());
        let list = ["instance", "list", "--lab", lab, "--user", user];
        let runs = self.act(&placement.lease, &list).is_ok_and(|answer| {
            let state = answer.pointer("/instances/0/state").and_then(Value::as_str);
            state.is_some_and(|state| ["starting", "running", "idle"].contains(&state))
        });
        // If that is unknown, the host's next pass settles it.
        if !runs && let Err(error) = self.hosts.slurm.release(&placement.lease) {
            self.context.output.detail(&format!("warning: {error:#}"));
        }
    }
}

/// This program, which is at the same path on every host.
pub fn program() -> Result<std::path::PathBuf> {
    std::env::current_exe().context("failed to find the path of this program")
}

/// The JSON answer of a command, which it also gives if it failed for some of its instances; else its error.
pub fn answer(ended: &Ended, host: &HostName) -> Result<Value> {
    match serde_json::from_slice(&ended.stdout) {
        Ok(document @ Value::Object(_)) => return Ok(document),
        _ if ended.code == 0 => return Ok(Value::Null),
        _ => {}
    }
    let told = ended.stderr.lines().rev().find_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        line.get("error").cloned()
    });
    let text = |key: &str| told.as_ref()?.get(key)?.as_str();
    let message = text("message").unwrap_or(ended.stderr.trim());
    let fault = Fault::new(
        Kind::of_exit_code(ended.code),
        format!("on {host}: {message}"),
    );
    Err(match text("hint") {
        Some(hint) => fault.hint(hint).into(),
        None => fault.into(),
    })
}

/// A document with a `host` field.
pub fn with_host(mut document: Value, host: &HostName) -> Value {
    if let Some(fields) = document.as_object_mut() {
        fields.entry("host").or_insert_with(|| host.as_str().into());
    }
    document
}
