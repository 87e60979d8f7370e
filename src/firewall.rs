//! The kernel's rules for frames, which libvirt makes of the filters on network cards.

use std::io;

use anyhow::Result;

use crate::process::Program;

/// The kernel's network devices; those that are ports of a bridge have a `brport`.
const DEVICES: &str = "/sys/class/net";

/// The rules at one moment.
#[derive(Debug)]
pub struct FrameRules(String);

impl FrameRules {
    /// Those of this moment. Fails where they cannot be seen, as by whoever is not root.
    ///
    /// Not by `ebtables -L`: where nftables is behind it, that writes as well, and rules that
    /// libvirt makes at the same moment fail.
    pub fn now() -> Result<FrameRules> {
        let ebtables_save = Program::find("ebtables-save", "iptables")?;
        Ok(FrameRules(ebtables_save.run::<[&str; 0], _>([])?))
    }

    /// Whether there is one about what comes in from the bridge's port `device`.
    pub fn cover(&self, device: &str) -> bool {
        self.ports().any(|port| port == device)
    }

    /// The ports of the bridges that have none. A guest behind one may be anybody's.
    pub fn open_ports(&self) -> io::Result<Vec<String>> {
        let mut open = Vec::new();
        for device in fs_err::read_dir(DEVICES)? {
            let device = device?;
            let name = device.file_name().to_string_lossy().into_owned();
            if device.path().join("brport").exists() && !self.cover(&name) {
                open.push(name);
            }
        }
        Ok(open)
    }

    fn ports(&self) -> impl Iterator<Item = &str> {
        self.0.lines().filter_map(|line| {
            let (device, target) = line.strip_prefix("-A PREROUTING -i ")?.split_once(' ')?;
            target.starts_with("-j ").then_some(device)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_about_a_port_by_its_whole_name() {
        let rules = "*nat\n:PREROUTING ACCEPT\n:libvirt-I-vnet12 ACCEPT\n\
                     -A PREROUTING -i vnet12 -j libvirt-I-vnet12\n\
                     -A POSTROUTING -o vnet12 -j libvirt-O-vnet12\n\
                     -A libvirt-I-vnet12 -j DROP\n";
        let rules = FrameRules(rules.to_owned());
        assert!(rules.cover("vnet12") && !rules.cover("vnet1"));
    }
}
