//! What libvirt itself is like: its version, whom it runs QEMU as, and its networks.

use anyhow::{Context, Result};
use serde::Deserialize;
use virt::error::ErrorNumber;

use super::{Hypervisor, failed, is, xml};
use crate::network::Mac;

/// Versions, as in `9.0.0`.
#[derive(Debug)]
pub struct Versions {
    /// Of libvirt.
    pub libvirt: Version,
    /// Of QEMU, or what else runs the guests.
    pub hypervisor: Version,
}

/// A version, as libvirt counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl From<u32> for Version {
    fn from(number: u32) -> Self {
        Version(number / 1_000_000, number / 1000 % 1000, number % 1000)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Version(major, minor, release) = self;
        write!(f, "{major}.{minor}.{release}")
    }
}

/// Whether a network serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkFacts {
    /// It is there now.
    pub active: bool,
    /// It will be there after a boot.
    pub autostart: bool,
    /// It has the cards that instances get.
    pub cards: bool,
}

/// A user and a group, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Hypervisor {
    /// The versions.
    pub fn versions(&self) -> Result<Versions> {
        let ask = || {
            Ok(Versions {
                libvirt: self.conn.lib_version()?.into(),
                hypervisor: self.conn.hyp_version()?.into(),
            })
        };
        ask().map_err(|e| failed("read the version of libvirt", e))
    }

    /// Whom QEMU runs as; `None` where libvirt does not say so.
    pub fn qemu_account(&self) -> Result<Option<Account>> {
        let capabilities = self.conn.capabilities();
        account(&capabilities.map_err(|e| failed("read the capabilities of libvirt", e))?)
    }

    /// The ways in which libvirt confines QEMU, as `dac` and `apparmor`.
    pub fn security_models(&self) -> Result<Vec<String>> {
        let capabilities = self.conn.capabilities();
        let all =
            models(&capabilities.map_err(|e| failed("read the capabilities of libvirt", e))?)?;
        Ok(all.into_iter().map(|it| it.model).collect())
    }

    /// Facts about the network called `name`, if there is one.
    pub fn network_facts(&self, name: &str) -> Result<Option<NetworkFacts>> {
        let failed = |e| failed(&format!("look at the network {name}"), e);
        let network = match self.conn.lookup_network_by_name(name) {
            Err(e) if is(&e, ErrorNumber::NoNetwork) => return Ok(None),
            network => network.map_err(failed)?,
        };
        let xml = network.xml_desc(0).map_err(failed)?;
        Ok(Some(NetworkFacts {
            active: network.is_active().map_err(failed)?,
            autostart: network.autostart().map_err(failed)?,
            // Of which a small network has not all.
            cards: xml::network::has_host(&xml, Mac::FIRST)?,
        }))
    }
}

#[derive(Deserialize)]
struct Model {
    model: String,
    #[serde(default, rename = "baselabel")]
    labels: Vec<Label>,
}

#[derive(Deserialize)]
struct Label {
    #[serde(default, rename = "$text")]
    text: String,
}

fn models(capabilities: &str) -> Result<Vec<Model>> {
    #[derive(Deserialize)]
    struct Capabilities {
        host: Host,
    }
    #[derive(Deserialize)]
    struct Host {
        #[serde(default, rename = "secmodel")]
        models: Vec<Model>,
    }
    let capabilities: Capabilities = quick_xml::de::from_str(capabilities)
        .context("failed to understand the capabilities of libvirt")?;
    Ok(capabilities.host.models)
}

/// From the base label of libvirt's security model "dac": `+64055:+64055`.
fn account(capabilities: &str) -> Result<Option<Account>> {
    let models = models(capabilities)?.into_iter();
    let mut labels = models
        .filter(|model| model.model == "dac")
        .flat_map(|model| model.labels);
    Ok(labels.find_map(|label| {
        let number = |text: &str| text.trim().strip_prefix('+')?.parse().ok();
        let (uid, gid) = label.text.split_once(':')?;
        Some(Account {
            uid: number(uid)?,
            gid: number(gid)?,
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let version = Version::from(9_000_002);
        assert_eq!(
            (version.to_string().as_str(), version),
            ("9.0.2", Version(9, 0, 2))
        );
        assert!(Version::from(10_000_000) > version);
    }

    #[test]
    fn whom_qemu_runs_as_is_read() {
        let with = |models: &str| {
            account(&format!(
                "<capabilities><host><cpu><model>x</model></cpu>{models}</host></capabilities>"
            ))
            .unwrap()
        };
        let dac = "<secmodel><model>none</model><doi>0</doi></secmodel><secmodel>\
                   <model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+107</baselabel>\
                   <baselabel type='qemu'>+64055:+107</baselabel></secmodel>";
        let wanted = Account {
            uid: 64055,
            gid: 107,
        };
        assert_eq!(with(dac), Some(wanted));
        assert_eq!(with(""), None);
        assert_eq!(with("<secmodel><model>dac</model></secmodel>"), None);
    }
}
