//! `cyyber host drain`: all instances leave a host. Running ones are marked before they are paused,
//! so that the next run completes an interrupted one.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;

use super::arguments::{HostCommand, Words};
use super::head::{Head, answer};
use crate::cmd::instance::many::{self, FailedInstance};
use crate::config::HostName;
use crate::error::{Fault, Kind};
use crate::names::InstanceName;
use crate::output::{Report, Table};

/// How many instances move at once: each writes its memory to the shared directory.
const AT_ONCE: usize = 4;

/// An instance that has moved.
#[derive(Serialize)]
struct Moved {
    instance: String,
    from: HostName,
    host: HostName,
    /// It was running before, and is again.
    resumed: bool,
}

#[derive(Serialize)]
struct Drained {
    host: HostName,
    moved: Vec<Moved>,
    failed: Vec<FailedInstance>,
}

impl Report for Drained {
    fn text(&self) -> String {
        match self.failed.len() {
            0 => format!("{} has no instances to move", self.host),
            _ => String::new(),
        }
    }

    fn table(&self) -> Option<Table> {
        Table::of(&self.moved)
            .column("INSTANCE", |it| it.instance.as_str())
            .column("HOST", |it| it.host.as_str())
            .column("RESUMED", |it| it.resumed)
            .if_any()
    }
}

/// Moves everything off `host`.
pub fn drain(head: &Head, host: &HostName) -> Result<()> {
    let (context, hosts) = (head.context, &head.hosts);
    hosts.answering(host)?;
    // Get this lease first: a drained host accepts no new ones.
    let service = hosts.service_lease(host)?;
    hosts.slurm.drain(host, "cyyber host drain")?;
    let listed = head.act(&service, &["instance", "list"])?;
    let rows = listed.get("instances").and_then(Value::as_array);
    let own: BTreeSet<InstanceName> = hosts.shared.instances(host)?.into_iter().collect();
    let mut all = own.clone();
    for row in rows.into_iter().flatten() {
        let state = row.get("state").and_then(Value::as_str).unwrap_or_default();
        let name = row.get("instance").and_then(Value::as_str);
        let Some(Ok(name)) = name.map(str::parse::<InstanceName>) else {
            continue;
        };
        if own.contains(&name) && ["starting", "running", "idle"].contains(&state) {
            hosts.shared.note_to_resume(host, &name)?;
        }
    }
    let marked: BTreeSet<InstanceName> = hosts.shared.to_resume(host)?.into_iter().collect();
    // Instances that an earlier run moved but did not resume.
    all.extend(marked.iter().cloned());
    let all: Vec<_> = all.into_iter().collect();
    let results = many::side_by_side(context, &all, AT_ONCE, |_, name| {
        let head = head.for_worker();
        let moved = head.take_off(host, name, marked.contains(name));
        if let Ok(moved) = &moved {
            context
                .output
                .detail(&format!("{name}: now on {}", moved.host));
        }
        moved
    })?;
    let count = all.len();
    let (moved, failed) = many::partition(all.into_iter().zip(results).collect());
    let drained = Drained {
        host: host.clone(),
        moved,
        failed,
    };
    context.output.answer(&drained)?;
    many::fail_if_any(context, &drained.failed, count)
}

impl Head<'_> {
    /// Moves `name` off `host`, and resumes it there if `runs`.
    fn take_off(&self, host: &HostName, name: &InstanceName, runs: bool) -> Result<Moved> {
        let hosts = &self.hosts;
        let moved = |to: &HostName| Moved {
            instance: name.to_string(),
            from: host.clone(),
            host: to.clone(),
            resumed: runs,
        };
        if let Some(owner) = hosts.shared.owner(name).filter(|owner| *owner != host) {
            self.resume(name, owner)?;
            hosts.shared.forget_to_resume(host, name)?;
            return Ok(moved(owner));
        }
        let placing = hosts.shared.lock(name)?;
        let mut not_on = BTreeSet::from([host.clone()]);
        not_on.extend(hosts.of_other_kind(host)?);
        if !runs {
            let service = hosts.service_lease(&hosts.roomiest(&not_on)?)?;
            // An instance that is frozen in RAM is first saved to disk.
            let frozen = hosts.slurm.leases(Some(&name.to_string()))?;
            if !frozen.is_empty() {
                self.pause(name, host)?;
            }
            self.bring(name, host, &service)?;
            for lease in &frozen {
                hosts.slurm.release(lease)?;
            }
            return Ok(moved(&service.host));
        }
        // Reserve the new place first: without one, the instance keeps running.
        let old = hosts.slurm.leases(Some(&name.to_string()))?;
        let new = hosts.place(name, self.size(name)?, None, &not_on, true)?;
        let away = self
            .pause(name, host)
            .and_then(|()| self.bring(name, host, &new));
        if let Err(error) = away {
            hosts.slurm.release(&new)?;
            drop(placing);
            // If it is still here, resume it.
            if hosts.shared.owner(name) == Some(host) {
                let _ = self.resume(name, host);
                hosts.shared.forget_to_resume(host, name)?;
            }
            return Err(error);
        }
        for lease in old.iter().filter(|lease| lease.host == *host) {
            hosts.slurm.release(lease)?;
        }
        drop(placing);
        self.resume(name, &new.host)?;
        hosts.shared.forget_to_resume(host, name)?;
        Ok(moved(&new.host))
    }

    fn pause(&self, name: &InstanceName, host: &HostName) -> Result<()> {
        let service = self.hosts.service_lease(host)?;
        let words = Words::on("pause", name).0;
        answer(&self.step(&service, &words, "json")?, host).map(drop)
    }

    fn resume(&self, name: &InstanceName, host: &HostName) -> Result<()> {
        let done = self.run(&HostCommand::start(name), name, "json")?;
        answer(&done.ended, &done.host).map(drop).with_context(|| {
            let message = format!("{name} was moved to {host} but not resumed");
            Fault::new(Kind::Failed, message).hint(name.start_it())
        })
    }
}
