//! The network cards in a domain's definition, and what the filters on them refer to. Pure.

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::config::NetworkMode;
use crate::network::{Mac, Place};

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its address.
    pub mac: Mac,
    /// The libvirt network that it is in.
    pub network: Option<String>,
    /// What is let through: the name of libvirt's filter.
    pub filter: Option<String>,
    /// The address that the filter is for.
    pub place: Option<Place>,
    /// The host's end of it, while the guest runs.
    pub device: Option<String>,
}

impl Card {
    /// The network card in the definition `xml` of an instance. A second one would be nobody's of
    /// ours, and not filtered.
    pub fn of(xml: &str) -> Result<Card> {
        let [card] = <[Card; 1]>::try_from(cards(xml)?)
            .map_err(|cards| anyhow::anyhow!("the domain has {} network cards", cards.len()))?;
        Ok(card)
    }

    /// The card that an instance in the network `mode` must have, as long as it does not run.
    pub fn wanted(mode: NetworkMode, mac: Mac, place: Option<Place>) -> Card {
        let network = mode.network().to_owned();
        Card {
            mac,
            network: Some(network.clone()),
            filter: Some(network),
            place,
            device: None,
        }
    }
}

/// The cards in the definition `xml`.
pub fn cards(xml: &str) -> Result<Vec<Card>> {
    #[derive(Deserialize)]
    struct Domain {
        devices: Devices,
    }
    #[derive(Deserialize)]
    struct Devices {
        #[serde(default, rename = "interface")]
        interfaces: Vec<Interface>,
    }
    #[derive(Deserialize)]
    struct Interface {
        mac: Address,
        source: Option<Source>,
        filterref: Option<FilterRef>,
        target: Option<Target>,
    }
    #[derive(Deserialize)]
    struct Address {
        #[serde(rename = "@address")]
        address: Mac,
    }
    #[derive(Deserialize)]
    struct Source {
        #[serde(rename = "@network")]
        network: Option<String>,
    }
    #[derive(Deserialize)]
    struct Target {
        #[serde(rename = "@dev")]
        device: Option<String>,
    }
    let domain: Domain =
        quick_xml::de::from_str(xml).context("failed to understand the domain's definition")?;
    let interfaces = domain.devices.interfaces.into_iter();
    Ok(interfaces
        .map(|interface| Card {
            mac: interface.mac.address,
            network: interface.source.and_then(|source| source.network),
            place: interface.filterref.as_ref().and_then(FilterRef::place),
            filter: interface.filterref.map(|filter| filter.name),
            device: interface.target.and_then(|target| target.device),
        })
        .collect())
}

/// The filters that the filter with the definition `xml` refers to.
pub fn filters_below(xml: &str) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Filter {
        #[serde(default, rename = "$value")]
        parts: Vec<Part>,
    }
    #[derive(Deserialize)]
    enum Part {
        #[serde(rename = "filterref")]
        Ref(FilterRef),
        #[serde(other)]
        Other,
    }
    let filter: Filter =
        quick_xml::de::from_str(xml).context("failed to understand the filter's definition")?;
    let parts = filter.parts.into_iter();
    Ok(parts
        .filter_map(|part| match part {
            Part::Ref(filter) => Some(filter.name),
            Part::Other => None,
        })
        .collect())
}

#[derive(Deserialize)]
struct FilterRef {
    #[serde(rename = "@filter")]
    name: String,
    #[serde(default, rename = "parameter")]
    parameters: Vec<Parameter>,
}

#[derive(Deserialize)]
struct Parameter {
    #[serde(rename = "@name")]
    name: String,
    #[serde(rename = "@value")]
    value: String,
}

impl FilterRef {
    fn place(&self) -> Option<Place> {
        let value = |name: &str| {
            let mut all = self.parameters.iter();
            all.find(|parameter| parameter.name == name)?
                .value
                .parse()
                .ok()
        };
        Some(Place {
            ip: value("IP")?,
            gateway: value("GATEWAY")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "<domain><name>x</name><devices><disk type='file'><target dev='vda'/></disk>\
        <interface type='network'><mac address='52:54:00:00:00:01'/>\
        <source network='cyyber-nat' portid='1' bridge='cyyber0'/><target dev='vnet3'/>\
        <filterref filter='cyyber-nat'><parameter name='IP' value='10.0.0.2'/>\
        <parameter name='GATEWAY' value='10.0.0.1'/></filterref></interface>\
        <interface type='user'><mac address='52:54:00:00:00:02'/></interface></devices></domain>";

    #[test]
    fn cards_are_read() {
        let mac = |last| format!("52:54:00:00:00:0{last}").parse().unwrap();
        let some = |text: &str| Some(text.to_owned());
        let place = Place {
            ip: "10.0.0.2".parse().unwrap(),
            gateway: "10.0.0.1".parse().unwrap(),
        };
        assert_eq!(
            cards(DOMAIN).unwrap(),
            [
                Card {
                    device: some("vnet3"),
                    ..Card::wanted(NetworkMode::Nat, mac(1), Some(place))
                },
                Card {
                    mac: mac(2),
                    network: None,
                    filter: None,
                    place: None,
                    device: None,
                },
            ]
        );
        assert_eq!(cards("<domain><devices/></domain>").unwrap(), []);
    }

    #[test]
    fn an_instance_has_one_card() {
        for none_or_two in ["<domain><devices/></domain>", DOMAIN] {
            assert!(Card::of(none_or_two).is_err(), "{none_or_two}");
        }
    }

    #[test]
    fn what_a_filter_refers_to_is_read() {
        let xml = "<filter name='a' chain='root'>\n  <uuid>1</uuid>\n  <filterref filter='b'/>\n\
                   <rule action='drop' direction='in'><mac/></rule><filterref filter='c'/></filter>";
        assert_eq!(filters_below(xml).unwrap(), ["b", "c"]);
        assert!(filters_below("<filter name='a'/>").unwrap().is_empty());
    }
}
