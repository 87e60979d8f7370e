//! The lab networks: their interfaces with addresses and ports. No I/O.
//!
//! `make setup` defines all interfaces that a network can ever have, each with a MAC and an IP
//! address that belong together: the MAC address ends with the host part of the IP address. An
//! instance has one of these interfaces while it exists, and the host's end of it, its bridge port,
//! has a matching name. So nothing in the network changes when an instance is created or destroyed:
//! the firewall knows in advance which addresses belong to which port. It blocks everything else,
//! so that no instance can use the address of another one, or be given it while that one is paused.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::Deserialize;

use crate::config::NetworkMode;

/// The prefix of our MAC addresses: locally administered, and "cyy".
const PREFIX: [u8; 4] = *b"Rcyy";

/// The host part of an IP address, which is also the end of the MAC address and identifies an
/// interface in its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPart(u16);

impl HostPart {
    /// The host parts of instances, as defined by setup.sh.
    pub const OF_INSTANCES: RangeInclusive<u16> = 16..=2015;

    /// The host part of the VM in the domain definition of a build.
    pub const STANDALONE: HostPart = HostPart(2);

    /// The host part `number`, if an instance can have it.
    pub fn of_instance(number: u16) -> Option<HostPart> {
        let is_one = HostPart::OF_INSTANCES.contains(&number);
        is_one.then_some(HostPart(number))
    }

    /// Its number.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The port of the interface with this host part in the network of this mode.
    pub fn port(self, mode: NetworkMode) -> String {
        let kind = match mode {
            NetworkMode::Isolated => 'i',
            NetworkMode::Nat => 'n',
        };
        format!("cyyber-{kind}{self}")
    }
}

impl fmt::Display for HostPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A network card's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

impl Mac {
    /// The MAC address of the first interface of instances.
    pub const FIRST: Mac = Mac::from_host_part(HostPart(*HostPart::OF_INSTANCES.start()));

    /// The MAC address of the interface with this host part.
    pub const fn from_host_part(part: HostPart) -> Mac {
        let ([a, b, c, d], [e, g]) = (PREFIX, part.0.to_be_bytes());
        Mac([a, b, c, d, e, g])
    }

    /// The host part, if this is an interface of an instance.
    pub fn of_instance(self) -> Option<HostPart> {
        let [.., a, b] = self.0;
        let part = HostPart::of_instance(u16::from_be_bytes([a, b]))?;
        self.0.starts_with(&PREFIX).then_some(part)
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
        let bytes = s.split(':').map(|part| u8::from_str_radix(part, 16));
        let bytes: Vec<u8> = bytes.collect::<Result<_, _>>().map_err(|_| bad())?;
        bytes.try_into().map(Mac).map_err(|_| bad())
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The range of addresses of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// The host's own address.
    pub gateway: Ipv4Addr,
    /// The network prefix.
    pub mask: u32,
}

impl Subnet {
    /// The address of the interface with this host part; `None` if the network is too small for it.
    pub fn address(self, part: HostPart) -> Option<Ipv4Addr> {
        let part = u32::from(part.0);
        let ip = Ipv4Addr::from_bits(self.gateway.to_bits() & self.mask | part);
        // All ones are for broadcasts.
        (part < !self.mask && ip != self.gateway).then_some(ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u16) -> HostPart {
        HostPart::of_instance(number).unwrap()
    }

    #[test]
    fn a_mac_is_a_local_unicast_address_and_tells_the_host_part() {
        for number in [16, 255, 256, 2015] {
            let mac = Mac::from_host_part(part(number));
            assert_eq!(mac.0[0] & 0b11, 0b10, "{mac}");
            assert_eq!(mac.to_string().parse(), Ok(mac));
            assert_eq!(mac.of_instance(), Some(part(number)));
        }
        assert_eq!(
            Mac::from_host_part(part(515)).to_string(),
            "52:63:79:79:02:03"
        );
        assert_eq!(HostPart::of_instance(15), None);
        assert_eq!(
            Mac::from_host_part(HostPart::STANDALONE).of_instance(),
            None
        );
        assert_eq!(Mac([0x52, 0x54, 0, 1, 0, 99]).of_instance(), None);
        for bad in ["", "52:00", "52:00:00:00:00:00:00", "52:00:00:00:00:0g"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn setup_makes_the_cards_that_instances_get() {
        let setup = include_str!("../templates/host/steps/networks.sh");
        let (first, last) = HostPart::OF_INSTANCES.into_inner();
        let of_instances = format!(
            "-v alone={} -v first={first} -v last={last} ",
            HostPart::STANDALONE
        );
        assert!(setup.contains(&of_instances), "{of_instances}");
        assert!(setup.contains("52:63:79:79:%02x:%02x"));
        assert_eq!(part(20).port(NetworkMode::Isolated), "cyyber-i20");
        let last = HostPart(last).port(NetworkMode::Nat);
        assert!(last.len() < 16, "{last} is too long for a network device");
        let table = include_str!("../templates/host/steps/table.sh");
        for ports in [
            "ports cyyber-nat \"$nat\" n",
            "ports cyyber-isolated \"$isolated\" i",
            "\"cyyber-\" kind",
        ] {
            assert!(table.contains(ports), "{ports}");
        }
    }
}
