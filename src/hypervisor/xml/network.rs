//! Network definitions.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::network::{Mac, Subnet};

/// The range of addresses of the network with the definition `xml`.
pub fn subnet(xml: &str) -> Result<Subnet> {
    let network = parse(xml)?;
    let mut found = network.ips.iter().filter_map(IpXml::subnet);
    found
        .next()
        .context("the network's definition has no IPv4 address and netmask")
}

/// Whether the network with the definition `xml` has an address for `mac`.
pub fn has_host(xml: &str, mac: Mac) -> Result<bool> {
    let ips = parse(xml)?.ips.into_iter();
    let mut hosts = ips.filter_map(|ip| ip.dhcp).flat_map(|dhcp| dhcp.hosts);
    Ok(hosts.any(|host| host.mac == Some(mac)))
}

fn parse(xml: &str) -> Result<NetworkXml> {
    quick_xml::de::from_str(xml).context("failed to parse the network's definition")
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

#[derive(Deserialize)]
struct DhcpXml {
    #[serde(default, rename = "host")]
    hosts: Vec<HostXml>,
}

#[derive(Deserialize)]
struct HostXml {
    #[serde(rename = "@mac")]
    mac: Option<Mac>,
}

impl IpXml {
    fn subnet(&self) -> Option<Subnet> {
        Some(Subnet {
            gateway: self.address.parse().ok()?,
            mask: match (self.netmask, self.prefix) {
                (Some(mask), _) => mask.to_bits(),
                (None, prefix) => !u32::MAX.checked_shr(prefix?).unwrap_or(0),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::HostPart;

    fn part(number: u16) -> HostPart {
        HostPart::of_instance(number).unwrap()
    }

    #[test]
    fn an_address_follows_from_the_networks_range() {
        let address = |ip: &str, number| {
            let xml = format!(
                "<network connections='1'><name>cyyber-nat</name><ip family='ipv6' address='fd00::1' \
                 prefix='64'/>{ip}</network>"
            );
            let address = subnet(&xml).unwrap().address(part(number));
            address.map(|ip| ip.to_string())
        };
        let wide = "<ip address='10.213.0.1' netmask='255.255.240.0'><dhcp>\
                    <host mac='52:63:79:79:00:02' ip='10.213.0.2'/></dhcp></ip>";
        let at = |ip: &str| Some(ip.to_owned());
        assert_eq!(address(wide, 16), at("10.213.0.16"));
        assert_eq!(address(wide, 2015), at("10.213.7.223"));
        let small = "<ip address='192.168.9.20' prefix='24'/>";
        assert_eq!(address(small, 254), at("192.168.9.254"));
        for none in [20, 255, 256] {
            assert_eq!(address(small, none), None, "{none}");
        }
    }

    #[test]
    fn a_network_without_addresses_is_an_error() {
        for bad in [
            "<network/>",
            "<network><ip address='fd00::1' prefix='64'/></network>",
            "<net",
        ] {
            assert!(subnet(bad).is_err(), "{bad}");
        }
    }
}
