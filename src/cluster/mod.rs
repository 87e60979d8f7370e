//! Several hosts that carry instances together: where this program is, what it shares with the others,
//! and what Slurm is asked.
//!
//! A host carries out commands on its own instances as if it was alone. The head has none of its own: it
//! finds or has Slurm choose the host of an instance, and runs the same command there. Slurm's allocation
//! for an instance, its lease, has the instance's name, and goes with its memory. Where its disk is says
//! whose it is: the one `rename` of the overlay from one host's directory to another's changes that.

pub(crate) mod hosts;
pub(crate) mod slurm;
pub(crate) mod storage;

use crate::config::{Cluster, HostName};

/// What this machine is among several.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// It carries instances.
    Host(&'a Cluster, &'a HostName),
    /// It commands the hosts.
    Head(&'a Cluster),
}

impl<'a> Place<'a> {
    /// That of the machine that this runs on.
    pub fn here(cluster: &'a Cluster) -> Place<'a> {
        let names = rustix::system::uname();
        let host = cluster.named(&names.nodename().to_string_lossy());
        host.map_or(Place::Head(cluster), |host| Place::Host(cluster, host))
    }
}
