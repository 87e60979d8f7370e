//! Facts about libvirt itself: its version, and the user that it runs QEMU as.

use anyhow::Result;

use super::xml::capabilities::{SecurityModel, security_models};
use super::{Hypervisor, failed};

/// Versions, as in `9.0.0`.
#[derive(Debug)]
pub struct Versions {
    /// Of libvirt.
    pub libvirt: Version,
    /// Of QEMU, or what else runs the guests.
    pub hypervisor: Version,
}

/// A version, in libvirt's encoding.
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

    /// The user that QEMU runs as; `None` if libvirt does not say.
    pub fn qemu_account(&self) -> Result<Option<Account>> {
        Ok(account(self.security()?))
    }

    /// The security models with which libvirt confines QEMU, such as `dac` and `apparmor`.
    pub fn security_models(&self) -> Result<Vec<String>> {
        Ok(self.security()?.into_iter().map(|it| it.model).collect())
    }

    fn security(&self) -> Result<Vec<SecurityModel>> {
        let capabilities = self.conn.capabilities();
        let failed = |e| failed("read the capabilities of libvirt", e);
        security_models(&capabilities.map_err(failed)?)
    }
}

/// From the base label of libvirt's security model "dac": `+64055:+64055`.
fn account(models: Vec<SecurityModel>) -> Option<Account> {
    let models = models.into_iter();
    let mut labels = models
        .filter(|model| model.model == "dac")
        .flat_map(|model| model.labels);
    labels.find_map(|label| {
        let number = |text: &str| text.trim().strip_prefix('+')?.parse().ok();
        let (uid, gid) = label.split_once(':')?;
        Some(Account {
            uid: number(uid)?,
            gid: number(gid)?,
        })
    })
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
            let xml = format!(
                "<capabilities><host><cpu><model>x</model></cpu>{models}</host></capabilities>"
            );
            account(security_models(&xml).unwrap())
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
