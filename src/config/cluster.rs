//! Several hosts: who they are and what they share.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::json::Object;
use crate::checked::checked;

checked! {
    /// A host's name, as its `hostname` and as Slurm has it.
    #[derive(Hash, PartialOrd, Ord)]
    struct HostName, "host name", "[A-Za-z0-9][A-Za-z0-9-]{0,62}"
}

checked! {
    /// A name of Slurm's, or a label.
    struct Word, "name", "[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
}

/// The hosts that carry instances together, with one Slurm.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// What places instances.
    pub engine: Engine,
    /// A directory that the head and all hosts have at this path.
    pub shared_dir: PathBuf,
    /// The partition of Slurm to use; by default Slurm's own choice.
    #[serde(default)]
    pub partition: Option<Word>,
    /// The account of Slurm to use.
    #[serde(default)]
    pub account: Option<Word>,
    /// The quality of service of Slurm to use, which can limit what is allocated.
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
    /// Words about it by name, which `cyyber host list` shows.
    pub labels: BTreeMap<String, Word>,
}

impl Cluster {
    /// What no single key can tell. An error is the key's place in the file, and what is wrong.
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

    /// The name among the hosts of the machine called `hostname`, which may have a domain; `None` for a
    /// head.
    pub fn named(&self, hostname: &str) -> Option<&HostName> {
        let short = hostname.split('.').next().unwrap_or_default();
        self.hosts.keys().find(|host| host.as_str() == short)
    }
}
