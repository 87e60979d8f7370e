//! The hosts as seen from the head: which of them answer, on which host an instance is or should be
//! placed, and how commands reach it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::OnceLock;

use anyhow::Result;
use serde::Serialize;

use super::slurm::{Lease, Node, Placed, Request, Slurm};
use super::storage::Shared;
use crate::config::{Cluster, HostName};
use crate::error::{Fault, Kind};
use crate::names::InstanceName;
use crate::parallel::both;

/// Prefix of the name of a host's service lease, before the host's name. Commands that need no
/// instance's memory run in it. No instance has such a name.
const SERVICE: &str = "cyyber_at_";

/// The memory that such commands need, in MiB.
const SERVICE_MEMORY: u64 = 64;

/// The hosts of a cluster.
#[derive(Debug)]
pub struct Hosts<'a> {
    pub cluster: &'a Cluster,
    pub slurm: Slurm<'a>,
    pub shared: Shared<'a>,
    nodes: OnceLock<Vec<Node>>,
}

/// A host that did not answer.
#[derive(Debug, Clone, Serialize)]
pub struct Unreachable {
    /// The host.
    pub host: HostName,
    /// Why not.
    pub error: String,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to query {}: {}", self.host, self.error)
    }
}

/// The resources that an instance needs.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub memory_mb: u64,
    pub cpus: u32,
}

impl<'a> Hosts<'a> {
    /// The hosts of `cluster`.
    pub fn new(cluster: &'a Cluster) -> Hosts<'a> {
        Hosts {
            cluster,
            slurm: Slurm::new(cluster),
            shared: Shared::new(cluster),
            nodes: OnceLock::new(),
        }
    }

    /// The hosts as Slurm reported them when first asked; cached.
    pub fn nodes(&self) -> Result<&[Node]> {
        if let Some(nodes) = self.nodes.get() {
            return Ok(nodes);
        }
        let nodes = self.slurm.nodes()?;
        Ok(self.nodes.get_or_init(|| nodes))
    }

    /// Our leases, or those of one instance, while Slurm is asked about the hosts as well: commands
    /// that ask for leases need both.
    pub fn leases(&self, name: Option<&InstanceName>) -> Result<Vec<Lease>> {
        let name = name.map(ToString::to_string);
        let leases = || self.slurm.leases(name.as_deref());
        // Who needs the hosts asks again if this fails.
        both(leases, || self.nodes().map(drop)).0
    }

    /// The host `host`, which must answer.
    pub fn answering(&self, host: &HostName) -> Result<&Node> {
        let node = self.nodes()?.iter().find(|node| node.host == *host);
        let node = node.ok_or_else(|| {
            let message = format!("Slurm does not know the host {host}");
            let hint = "add it to slurm.conf, or remove it from `cluster.hosts`";
            Fault::new(Kind::Unavailable, message).hint(hint)
        })?;
        if node.answers() {
            return Ok(node);
        }
        let message = format!("the host {host} does not answer");
        let hint = format!(
            "bring it back; or, if it is certainly off: cyyber host fence {host}; its instances \
             then \
             start elsewhere, from their disks"
        );
        Err(Fault::new(Kind::Unavailable, message).hint(hint).into())
    }

    /// The name of the service lease of `host`.
    fn service_lease_name(host: &HostName) -> String {
        format!("{SERVICE}{host}")
    }

    /// A lease in which a command can run on `host`, even if the host has no free memory: the
    /// host's service lease, which is created if it is missing, or else the lease of any instance
    /// there.
    pub fn service_lease(&self, host: &HostName) -> Result<Lease> {
        self.service_lease_from(host, &self.slurm.leases_on(host)?)
    }

    /// The same, chosen from `leases`, which were listed before.
    pub fn service_lease_from(&self, host: &HostName, leases: &[Lease]) -> Result<Lease> {
        let own = Hosts::service_lease_name(host);
        let mut there = leases.iter().filter(|lease| lease.host == *host).cloned();
        let there: Vec<_> = there.by_ref().collect();
        if let Some(lease) = there.iter().find(|lease| lease.name == own) {
            return Ok(lease.clone());
        }
        let made = self.slurm.place(&Request {
            name: &own,
            memory_mb: SERVICE_MEMORY,
            cpus: 1,
            on: Some(host),
            ..Request::default()
        })?;
        match (made, there.into_iter().next()) {
            (Placed::On(lease), _) | (_, Some(lease)) => Ok(lease),
            (Placed::Full(why) | Placed::Limited(why), None) => {
                let message = format!("Slurm cannot run a command on {host}: {why}");
                let hint = format!("see `scontrol show node {host}`");
                Err(Fault::new(Kind::Unavailable, message).hint(hint).into())
            }
        }
    }

    /// A lease for `name`: on `owner`, which has its disk, if there is room, else on any host
    /// except `not_on`.
    pub fn place(
        &self,
        name: &InstanceName,
        size: Size,
        owner: Option<&HostName>,
        not_on: &BTreeSet<HostName>,
        despite_lease: bool,
    ) -> Result<Lease> {
        let called = name.to_string();
        let mut out: BTreeSet<HostName> = self.unusable()?.into_iter().collect();
        out.extend(not_on.iter().cloned());
        // Slurm would wait a moment if the host has no room.
        let small = self
            .nodes()?
            .iter()
            .filter(|node| node.memory_free_mb < size.memory_mb || node.cpus_free < size.cpus);
        out.extend(small.map(|node| node.host.clone()));
        if let Some(owner) = owner.filter(|owner| !out.contains(owner)) {
            let there = Request {
                on: Some(owner),
                despite_lease,
                ..size.request(&called)
            };
            match self.slurm.place(&there)? {
                Placed::On(lease) => return Ok(lease),
                Placed::Limited(why) => return Err(limited(name, &why)),
                Placed::Full(_) => out.insert(owner.clone()),
            };
        }
        if self.cluster.hosts.keys().all(|host| out.contains(host)) {
            return Err(self.full(name, size, None));
        }
        let others = Request {
            not_on: out.iter().collect(),
            despite_lease,
            ..size.request(&called)
        };
        match self.slurm.place(&others)? {
            Placed::On(lease) if self.cluster.hosts.contains_key(&lease.host) => Ok(lease),
            Placed::On(lease) => {
                self.slurm.release(&lease)?;
                let host = &lease.host;
                let message = format!("Slurm chose {host}, which is not one of `cluster.hosts`");
                let hint = "create a partition for cyyber, and name it in `cluster.partition`";
                Err(Fault::new(Kind::Unavailable, message).hint(hint).into())
            }
            Placed::Full(why) => Err(self.full(name, size, Some(&why))),
            Placed::Limited(why) => Err(limited(name, &why)),
        }
    }

    /// The hosts on which nothing can start now. Without this, Slurm would wait for a dead host
    /// that it still considers up.
    fn unusable(&self) -> Result<Vec<HostName>> {
        let nodes = self.nodes()?;
        let usable = |host: &HostName| {
            let node = nodes.iter().find(|node| node.host == *host);
            node.is_some_and(|node| node.takes() && node.answers()) && !self.shared.is_fenced(host)
        };
        // In parallel: each dead host takes its timeout of a second.
        let all: Vec<_> = self.cluster.hosts.keys().collect();
        let usable = crate::parallel::side_by_side(&all, all.len(), |host| usable(host));
        let unusable = all.into_iter().zip(usable).filter(|(_, usable)| !usable);
        Ok(unusable.map(|(host, _)| host.clone()).collect())
    }

    /// The usable host with the most memory for each instance that it has, except `not_on`: for commands
    /// that need no memory now.
    pub fn roomiest(&self, not_on: &BTreeSet<HostName>) -> Result<HostName> {
        let unusable = self.unusable()?;
        let usable = self
            .nodes()?
            .iter()
            .filter(|node| !unusable.contains(&node.host) && !not_on.contains(&node.host));
        let best = usable.max_by_key(|node| {
            let disks = self
                .shared
                .instances(&node.host)
                .map(|all| all.len() as u64);
            node.memory_mb / (disks.unwrap_or(u64::MAX - 1) + 1)
        });
        best.map(|node| node.host.clone()).ok_or_else(|| {
            let message = "no host can be used";
            let hint = "see `cyyber host list`";
            Fault::new(Kind::Unavailable, message).hint(hint).into()
        })
    }

    /// The hosts that cannot restore memory that was saved on `host`.
    pub fn of_other_kind(&self, host: &HostName) -> Result<Vec<HostName>> {
        let nodes = self.nodes()?;
        let own = nodes.iter().find(|node| node.host == *host);
        let own = own.and_then(Node::processors);
        let others = nodes.iter().filter(|node| node.processors() != own);
        Ok(others.map(|node| node.host.clone()).collect())
    }

    fn full(&self, name: &InstanceName, size: Size, why: Option<&str>) -> anyhow::Error {
        let free = self.nodes().unwrap_or_default().iter().map(|node| {
            let host = &node.host;
            match node.takes() {
                true => format!("{host} {} MiB and {}", node.memory_free_mb, node.cpus_free),
                false => format!("{host} is {}", node.state),
            }
        });
        let free: Vec<_> = free.collect();
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        let message = format!(
            "no host has room for {name}, which needs {} MiB and {} CPUs; free: {}{why}",
            size.memory_mb,
            size.cpus,
            free.join(", ")
        );
        let hint = "pause or stop other instances; `cyyber host list` shows what the hosts have";
        Fault::new(Kind::Capacity, message).hint(hint).into()
    }
}

impl Size {
    fn request(self, name: &str) -> Request<'_> {
        Request {
            name,
            memory_mb: self.memory_mb,
            cpus: self.cpus,
            ..Request::default()
        }
    }
}

fn limited(name: &InstanceName, why: &str) -> anyhow::Error {
    let message = format!("{name} may not start: {why}");
    let hint = "pause or stop another instance first, or raise the limit: see man/several-hosts.md";
    Fault::new(Kind::Capacity, message).hint(hint).into()
}

/// Whether this is a host's service lease.
pub fn is_service_lease(lease: &Lease) -> bool {
    lease.name.starts_with(SERVICE)
}

/// The valid one among the `leases` of an instance: the one on the host that has its disk.
pub fn counting<'l>(leases: &'l [Lease], owner: Option<&HostName>) -> Option<&'l Lease> {
    let on_owner = leases.iter().find(|lease| Some(&lease.host) == owner);
    on_owner.or_else(|| leases.first())
}
