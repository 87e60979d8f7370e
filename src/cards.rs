//! The network cards in a domain's definition, and what the filters on them refer to. Pure.

use anyhow::{Context, Result};
use serde::Deserialize;

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// The libvirt network that it is in.
    pub network: Option<String>,
    /// The filter on it.
    pub filter: Option<String>,
    /// The host's end of it, while the guest runs.
    pub device: Option<String>,
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
        source: Option<Source>,
        filterref: Option<FilterRef>,
        target: Option<Target>,
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
            network: interface.source.and_then(|source| source.network),
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_read() {
        let xml = "<domain><name>x</name><devices><disk type='file'><target dev='vda'/></disk>\
                   <interface type='network'><mac address='52:54:00:00:00:01'/>\
                   <source network='cyyber-nat' portid='1' bridge='cyyber0'/><target dev='vnet3'/>\
                   <filterref filter='cyyber-nat'><parameter name='IP' value='10.0.0.1'/></filterref>\
                   </interface><interface type='user'/></devices></domain>";
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            cards(xml).unwrap(),
            [
                Card {
                    network: some("cyyber-nat"),
                    filter: some("cyyber-nat"),
                    device: some("vnet3"),
                },
                Card {
                    network: None,
                    filter: None,
                    device: None,
                },
            ]
        );
        assert_eq!(cards("<domain><devices/></domain>").unwrap(), []);
    }

    #[test]
    fn what_a_filter_refers_to_is_read() {
        let xml = "<filter name='a' chain='root'>\n  <uuid>1</uuid>\n  <filterref filter='b'/>\n\
                   <rule action='drop' direction='in'><mac/></rule><filterref filter='c'/></filter>";
        assert_eq!(filters_below(xml).unwrap(), ["b", "c"]);
        assert!(filters_below("<filter name='a'/>").unwrap().is_empty());
    }
}
