//! Several hosts that run instances together: the role of this machine, what the hosts share, and
//! all calls to Slurm.
//!
//! A host runs commands on its own instances as if it were alone. The head has no instances: it
//! looks up the host of an instance, or lets Slurm choose one, and runs the same command there.
//! Slurm's allocation for an instance, called its lease, has the name of the instance and lasts
//! while the instance uses memory. The host whose directory contains the disk owns the instance:
//! one `rename` of the overlay from one host's directory to another's moves it.

pub(crate) mod hosts;
pub(crate) mod slurm;
pub(crate) mod storage;

use crate::config::{Cluster, HostName};

/// The role of this machine.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// It runs instances.
    Host(&'a Cluster, &'a HostName),
    /// It controls the hosts.
    Head(&'a Cluster),
}

impl<'a> Place<'a> {
    /// The role of the machine that this runs on.
    pub fn here(cluster: &'a Cluster) -> Place<'a> {
        let names = rustix::system::uname();
        let host = cluster.named(&names.nodename().to_string_lossy());
        host.map_or(Place::Head(cluster), |host| Place::Host(cluster, host))
    }
}
