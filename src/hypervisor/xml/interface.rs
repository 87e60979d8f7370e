//! The network interface in a domain's definition, and its port.

use anyhow::{Context, Result};
use quick_xml::events::BytesStart;

use super::edit::{put_child, take_child};
use super::parse::parse;
use crate::config::NetworkMode;
use crate::network::Mac;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its address.
    pub mac: Mac,
    /// The libvirt network that it is in.
    pub network: Option<String>,
    /// The host's end of it: its bridge port.
    pub device: Option<String>,
    /// It has a libvirt filter, which was used before ports had names of their own.
    pub is_filtered: bool,
}

impl Interface {
    /// The network interface in the definition `xml` of an instance. An instance has exactly one.
    pub fn from_xml(xml: &str) -> Result<Interface> {
        let [interface] = <[Interface; 1]>::try_from(interfaces(xml)?)
            .map_err(|all| anyhow::anyhow!("the domain has {} network interfaces", all.len()))?;
        Ok(interface)
    }

    /// Its own port, for which the firewall accepts its addresses; none outside the lab networks.
    pub fn own_port(&self) -> Option<String> {
        let network = self.network.as_deref()?;
        let mut modes = NetworkMode::ALL.into_iter();
        let mode = modes.find(|mode| mode.network() == network)?;
        Some(self.mac.of_instance()?.port(mode))
    }

    /// Whether it is at its own port.
    pub fn is_at_its_port(&self) -> bool {
        self.device.is_some() && self.device == self.own_port()
    }
}

/// The network interfaces in the definition `xml`.
pub fn interfaces(xml: &str) -> Result<Vec<Interface>> {
    let interfaces = parse(xml)?.devices.interfaces.into_iter();
    interfaces
        .map(|interface| {
            let mac = interface
                .mac
                .context("a network interface has no address")?;
            Ok(Interface {
                mac: mac.address,
                network: interface.source.and_then(|source| source.network),
                device: interface.target.and_then(|target| target.device),
                is_filtered: interface.filterref.is_some(),
            })
        })
        .collect()
}

/// The definition `xml` with its interface at its own port, without a filter; `None` if that is so
/// already, or if the interface is not in a lab network.
pub fn at_own_port(xml: &str) -> Result<Option<String>> {
    let interface = Interface::from_xml(xml)?;
    let Some(port) = interface.own_port() else {
        return Ok(None);
    };
    if interface.is_at_its_port() && !interface.is_filtered {
        return Ok(None);
    }
    let replaced = |tag: &BytesStart| matches!(tag.name().as_ref(), "filterref" | "target");
    let place = ["domain", "devices", "interface"];
    put_child(xml, &place, replaced, |writer| {
        let target = writer.create_element("target");
        let target = target.with_attribute(("dev", &*port));
        target.write_empty().map(drop)
    })
    .map(Some)
}

/// The definition `xml` without its interface, and that interface.
pub fn unplugged(xml: &str) -> Result<(String, String)> {
    let found = take_child(xml, &["domain", "devices"], |tag| {
        tag.name().as_ref() == "interface"
    })?;
    found.context("the domain has no network interface")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMER: &str = "<domain><name>x</name><devices><disk type='file'><target dev='vda'/></disk>\
        <interface type='network'><mac address='52:63:79:79:00:14'/>\
        <source network='cyyber-nat' portid='1' bridge='cyyber0'/><target dev='vnet3'/>\
        <model type='virtio'/><filterref filter='cyyber-nat'>\
        <parameter name='IP' value='10.213.0.20'/></filterref></interface>\
        <graphics type='vnc' passwd='a&amp;b'/></devices></domain>";

    #[test]
    fn interfaces_are_read() {
        let user = "<interface type='user'><mac address='52:54:00:00:00:02'/></interface><graphics";
        let former = Interface {
            mac: "52:63:79:79:00:14".parse().unwrap(),
            network: Some("cyyber-nat".to_owned()),
            device: Some("vnet3".to_owned()),
            is_filtered: true,
        };
        let other = Interface {
            mac: "52:54:00:00:00:02".parse().unwrap(),
            network: None,
            device: None,
            is_filtered: false,
        };
        assert_eq!(former.own_port().as_deref(), Some("cyyber-n20"));
        assert!(!former.is_at_its_port() && !other.is_at_its_port());
        let both = FORMER.replace("<graphics", user);
        assert_eq!(interfaces(&both).unwrap(), [former, other]);
        for none_or_two in ["<domain><devices/></domain>", &*both] {
            assert!(Interface::from_xml(none_or_two).is_err(), "{none_or_two}");
        }
    }

    #[test]
    fn a_card_is_taken_out_as_a_whole() {
        let (without, card) = unplugged(FORMER).unwrap();
        assert!(card.starts_with("<interface ") && card.ends_with("</interface>"));
        assert_eq!(FORMER.replace(&card, ""), without);
        assert!(unplugged(&without).is_err());
    }

    #[test]
    fn a_card_is_put_at_its_own_port_and_nothing_else_is_changed() {
        let moved = at_own_port(FORMER).unwrap().unwrap();
        let wanted = FORMER.replace("<target dev='vnet3'/>", "").replace(
            "<filterref filter='cyyber-nat'><parameter name='IP' value='10.213.0.20'/></filterref>",
            "<target dev=\"cyyber-n20\"/>",
        );
        assert_eq!(moved, wanted);
        assert_eq!(at_own_port(&moved).unwrap(), None);
        // A foreign interface is not changed.
        let foreign = FORMER.replace("cyyber-nat'", "default'");
        assert_eq!(at_own_port(&foreign).unwrap(), None);
    }
}
