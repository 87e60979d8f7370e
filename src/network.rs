//! The lab networks: the address that each instance's network card gets for good, and what of the
//! host that card must not reach. No I/O.
//!
//! A card's MAC follows from the instance's name, and its IP address is set aside in the network's
//! own definition. The filter on the card lets nothing else through, so that no instance can take
//! the address of another one, nor be given it while that one is paused.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use anyhow::{Context, Result};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::instance::InstanceName;

/// The filter of libvirt's that has the host's own public addresses.
pub const HOST_FILTER: &str = "cyyber-host";

/// Addresses at the beginning of a network that no instance gets.
const RESERVED: u32 = 16;

/// A network card's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

impl Mac {
    /// That of the machine which a build's own domain definition describes; the definitions of the
    /// networks have an IP address for it.
    pub const STANDALONE: Mac = Mac(*b"Rcyybr");

    /// That of an instance: the same for every disk and every domain that it ever has. Locally
    /// administered, with 40 bits that differ.
    pub fn of(name: &InstanceName) -> Mac {
        let [a, b, c, d, e, ..]: [u8; 32] = Sha256::digest(name.to_string()).into();
        Mac([0x52, a, b, c, d, e])
    }

    /// Whether this may have been made here; QEMU and libvirt make up others.
    pub fn may_be_ours(self) -> bool {
        self.0[0] == 0x52 && !self.0.starts_with(&[0x52, 0x54, 0x00])
    }

    /// That of an instance made by an earlier version, which went by the domain.
    pub fn of_domain(uuid: Uuid) -> Mac {
        let [.., a, b, c, d, e] = *uuid.as_bytes();
        Mac([0x52, a, b, c, d, e])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("bad MAC address '{s}'");
        let bytes: Vec<u8> = s
            .split(':')
            .map(|part| u8::from_str_radix(part, 16).map_err(|_| bad()))
            .collect::<Result<_, _>>()?;
        bytes.try_into().map(Mac).map_err(|_| bad())
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Where an instance is in its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The instance's address.
    pub ip: Ipv4Addr,
    /// The bridge's.
    pub gateway: Ipv4Addr,
}

/// The addresses of a network, and who has which.
#[derive(Debug)]
pub struct Plan {
    gateway: Ipv4Addr,
    mask: u32,
    hosts: Vec<Host>,
}

/// An address that is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Host {
    /// For this card.
    #[serde(rename = "@mac")]
    pub mac: Mac,
    /// The address.
    #[serde(rename = "@ip")]
    pub ip: Ipv4Addr,
}

impl Host {
    /// As libvirt has it in a network's definition.
    pub fn xml(&self) -> String {
        format!("<host mac='{}' ip='{}'/>", self.mac, self.ip)
    }
}

impl Plan {
    /// The plan in the network definition `xml`.
    pub fn of(xml: &str) -> Result<Plan> {
        let network: NetworkXml = quick_xml::de::from_str(xml)
            .context("failed to understand the network's definition")?;
        let found = network.ips.into_iter().find_map(|ip| {
            Some((
                ip.address.parse().ok()?,
                ip.mask()?,
                ip.dhcp.unwrap_or_default(),
            ))
        });
        let (gateway, mask, dhcp) =
            found.context("the network's definition has no IPv4 address and netmask")?;
        Ok(Plan {
            gateway,
            mask,
            // Others may have entries by name.
            hosts: dhcp.hosts.iter().filter_map(HostXml::host).collect(),
        })
    }

    /// All addresses that are set aside.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The place of the card `mac`, if it has one.
    pub fn place_of(&self, mac: Mac) -> Option<Place> {
        let host = self.hosts.iter().find(|host| host.mac == mac)?;
        Some(self.place(host.ip))
    }

    /// The place of whoever has the address `ip`.
    pub fn place(&self, ip: Ipv4Addr) -> Place {
        Place {
            ip,
            gateway: self.gateway,
        }
    }

    /// The addresses that are free for the card `mac`, the best one first: where nobody else has it
    /// by now, a card gets the address that it had before.
    pub fn free_for(&self, mac: Mac) -> impl Iterator<Item = Ipv4Addr> {
        let first = (self.gateway.to_bits() & self.mask).saturating_add(RESERVED);
        // Without the last one, which is for broadcasts.
        let count = (self.gateway.to_bits() | !self.mask).saturating_sub(first);
        let digest: [u8; 32] = Sha256::digest(mac.0).into();
        let [a, b, c, d, ..] = digest;
        let start = u32::from_be_bytes([a, b, c, d])
            .checked_rem(count)
            .unwrap_or(0);
        (0..count)
            .map(move |step| match step < count - start {
                true => first + start + step,
                false => first + (step - (count - start)),
            })
            .map(Ipv4Addr::from_bits)
            .filter(|ip| *ip != self.gateway && !self.hosts.iter().any(|host| host.ip == *ip))
    }
}

#[derive(Deserialize)]
struct NetworkXml {
    #[serde(default, rename = "ip")]
    ips: Vec<IpXml>,
}

#[derive(Deserialize)]
struct IpXml {
    #[serde(rename = "@address")]
    address: String,
    #[serde(rename = "@netmask")]
    netmask: Option<Ipv4Addr>,
    #[serde(rename = "@prefix")]
    prefix: Option<u32>,
    dhcp: Option<DhcpXml>,
}

impl IpXml {
    fn mask(&self) -> Option<u32> {
        match (self.netmask, self.prefix) {
            (Some(mask), _) => Some(mask.to_bits()),
            (None, Some(prefix)) => Some(!u32::MAX.checked_shr(prefix).unwrap_or(0)),
            (None, None) => None,
        }
    }
}

#[derive(Default, Deserialize)]
struct DhcpXml {
    #[serde(default, rename = "host")]
    hosts: Vec<HostXml>,
}

#[derive(Deserialize)]
struct HostXml {
    #[serde(rename = "@mac")]
    mac: Option<String>,
    #[serde(rename = "@ip")]
    ip: Option<Ipv4Addr>,
}

impl HostXml {
    fn host(&self) -> Option<Host> {
        Some(Host {
            mac: self.mac.as_ref()?.parse().ok()?,
            ip: self.ip?,
        })
    }
}

/// Whether the filter of the network `nat` lets nothing through to `ip`, whoever has it.
fn is_private(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    ip.is_private() || ip.is_link_local() || (a == 100 && b & 0xc0 == 64) || a >= 224
}

/// The filter that keeps instances from those of the host's `addresses` that no other rule covers.
pub fn host_filter(mut addresses: Vec<Ipv4Addr>) -> String {
    addresses.retain(|ip| !is_private(*ip) && !ip.is_loopback());
    addresses.sort_unstable();
    addresses.dedup();
    let rules: String = addresses
        .iter()
        .map(|ip| {
            format!(
                "  <rule action='drop' direction='out' priority='300'>\n    <ip dstipaddr='{ip}'/>\n  </rule>\n"
            )
        })
        .collect();
    format!("<filter name='{HOST_FILTER}' chain='root'>\n{rules}</filter>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: &str = "<network connections='1'><name>cyyber-nat</name>\
        <ip address='10.213.0.1' netmask='255.255.255.224'><dhcp><range start='10.213.0.2' end='10.213.0.30'/>\
        <host mac='52:63:79:79:62:72' ip='10.213.0.2'/><host name='x' ip='10.213.0.20'/>\
        <host mac='52:00:00:00:00:01' ip='10.213.0.17'/></dhcp></ip>\
        <ip family='ipv6' address='fd00::1' prefix='64'/></network>";

    fn mac(user: &str) -> Mac {
        Mac::of(&format!("lab01_user_{user}").parse().unwrap())
    }

    #[test]
    fn a_mac_is_a_local_unicast_address_and_goes_by_the_name() {
        assert_eq!(mac("7"), mac("7"));
        assert_ne!(mac("7"), mac("8"));
        for mac in [mac("7"), Mac::of_domain(Uuid::new_v4()), Mac::STANDALONE] {
            assert_eq!(mac.0[0] & 0b11, 0b10, "{mac}");
            assert_eq!(mac.to_string().parse(), Ok(mac));
            assert!(mac.may_be_ours() || mac.0[1..3] == [0x54, 0x00]);
        }
        assert!(!Mac([0x52, 0x54, 0, 1, 2, 3]).may_be_ours());
        for bad in ["", "52:00", "52:00:00:00:00:00:00", "52:00:00:00:00:0g"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_place_is_found_in_the_networks_definition() {
        let plan = Plan::of(NETWORK).unwrap();
        let place = plan.place_of("52:00:00:00:00:01".parse().unwrap());
        assert_eq!(place, Some(plan.place("10.213.0.17".parse().unwrap())));
        assert_eq!(
            plan.place_of(Mac::STANDALONE).unwrap().ip.to_string(),
            "10.213.0.2"
        );
        assert_eq!(plan.place_of(mac("7")), None);
    }

    #[test]
    fn free_addresses_are_all_those_that_nobody_has() {
        let plan = Plan::of(NETWORK).unwrap();
        let free: Vec<_> = plan.free_for(mac("7")).collect();
        let mut all = free.clone();
        all.sort_unstable();
        all.dedup();
        let last = |ip: &Ipv4Addr| ip.octets()[3];
        let all: Vec<_> = all.iter().map(last).collect();
        // 17 is another's; 20 is, by a name, and libvirt refuses it.
        let wanted: Vec<_> = (16..=30).filter(|last| *last != 17).collect();
        assert_eq!(all, wanted);
        assert_eq!(free.first(), plan.free_for(mac("7")).next().as_ref());
    }

    #[test]
    fn a_network_without_addresses_is_an_error() {
        for bad in [
            "<network/>",
            "<network><ip address='fd00::1' prefix='64'/></network>",
            "<net",
        ] {
            assert!(Plan::of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_public_addresses_of_the_host_need_a_rule() {
        let addresses = |all: &[&str]| all.iter().map(|ip| ip.parse().unwrap()).collect();
        let filter = host_filter(addresses(&[
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "100.64.0.1",
            "203.0.113.9",
            "100.128.0.1",
            "203.0.113.9",
            "172.32.0.1",
        ]));
        let ruled: Vec<_> = filter.matches("dstipaddr='").collect();
        assert_eq!(ruled.len(), 3, "{filter}");
        for ip in ["203.0.113.9", "100.128.0.1", "172.32.0.1"] {
            assert!(
                filter.contains(&format!("<ip dstipaddr='{ip}'/>")),
                "{filter}"
            );
        }
        // As setup.sh makes it.
        let ours = include_str!("../templates/host/filter-host.xml");
        assert!(ours.ends_with(&host_filter(addresses(&[]))));
    }
}
