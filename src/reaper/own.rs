//! Which instances a host brings up for a lesson. Of several hosts, each brings up those whose disks it has,
//! and its share of those that no host has.

use std::collections::HashSet;

use anyhow::Result;

use crate::cluster::Place;
use crate::cluster::storage::Shared;
use crate::config::HostName;
use crate::context::Context;
use crate::names::InstanceName;

/// Those that this host brings up.
pub(super) struct Own<'a> {
    among: Option<(Shared<'a>, &'a HostName)>,
    /// Those of other hosts; `None` if that cannot be told.
    elsewhere: Option<HashSet<InstanceName>>,
}

impl<'a> Own<'a> {
    pub(super) fn of(context: &'a Context) -> Own<'a> {
        let Some(Place::Host(cluster, here)) = context.place() else {
            return Own {
                among: None,
                elsewhere: None,
            };
        };
        let shared = Shared::new(cluster);
        let others = cluster.hosts.keys().filter(|host| *host != here);
        let all: Result<Vec<_>> = others.map(|host| shared.instances(host)).collect();
        let all = all.inspect_err(|error| {
            let left = "instances that no host has are not created for their lessons";
            context.output.warn(&format!("{left}: {error:#}"));
        });
        Own {
            among: Some((shared, here)),
            elsewhere: all.ok().map(|all| all.into_iter().flatten().collect()),
        }
    }

    /// Whether it brings up `name`, of which it has a definition if `is_here`.
    pub(super) fn includes(&self, name: &InstanceName, is_here: bool) -> bool {
        let Some((shared, here)) = &self.among else {
            return true;
        };
        match &self.elsewhere {
            Some(others) if others.contains(name) => false,
            Some(_) => is_here || shared.creator(name) == Some(*here),
            None => is_here,
        }
    }
}
