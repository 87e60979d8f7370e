//! Several hosts: their names and what they share.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::json::Object;
use crate::checked::checked;

checked! {
    /// A host's name, as printed by `hostname` and known to Slurm.
    #[derive(Hash, PartialOrd, Ord)]
    struct HostName, "host name", word("A-Za-z0-9", "A-Za-z0-9-", 62)
}

checked! {
    /// The name of a Slurm object, or a label.
    struct Word, "name", word("A-Za-z0-9_", "A-Za-z0-9_.-", 63)
}

/// Several hosts that run instances, with one Slurm.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// What places instances.
    pub engine: Engine,
    /// A directory that the head and all hosts mount at this path.
    pub shared_dir: PathBuf,
    /// The Slurm partition to use; by default Slurm's default partition.
    #[serde(default)]
    pub partition: Option<Word>,
    /// The Slurm account to use.
    #[serde(default)]
    pub account: Option<Word>,
    /// The Slurm QOS to use, which can limit allocations.
    #[serde(default)]
    pub qos: Option<Word>,
    /// The hosts, by name. Any other machine with this configuration is a head.
    pub hosts: BTreeMap<HostName, Object<ClusterHost>>,
}

/// What places instances on hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Slurm.
    Slurm,
}

/// One of the hosts.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterHost {
    /// Labels that `cyyber host list` shows.
    pub labels: BTreeMap<String, Word>,
}

impl Cluster {
    /// Checks that involve several keys. An error is the key's place in the file, and the problem.
    pub(super) fn check(&self) -> Result<(), String> {
        if !self.shared_dir.is_absolute() {
            let given = self.shared_dir.display();
            return Err(format!(
                "cluster.shared_dir: '{given}' must begin with /: it is the same path on every host"
            ));
        }
        if self.hosts.is_empty() {
            return Err("cluster.hosts: at least one host is needed".to_owned());
        }
        Ok(())
    }

    /// The name in `hosts` of the machine called `hostname`, which may include a domain; `None` for
    /// a head.
    pub fn named(&self, hostname: &str) -> Option<&HostName> {
        let short = hostname.split('.').next().unwrap_or_default();
        self.hosts.keys().find(|host| host.as_str() == short)
    }
}
