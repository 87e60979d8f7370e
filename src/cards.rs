//! The network card in a domain's definition, and the port that it is plugged into. Pure.

use anyhow::{Context, Result};
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, Writer};
use serde::Deserialize;

use crate::config::NetworkMode;
use crate::network::Mac;

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its address.
    pub mac: Mac,
    /// The libvirt network that it is in.
    pub network: Option<String>,
    /// The host's end of it: its port in the bridge.
    pub device: Option<String>,
    /// It has a filter of libvirt's, as cards had before ports had names of their own.
    pub is_filtered: bool,
}

impl Card {
    /// The network card in the definition `xml` of an instance. A second one would be nobody's of
    /// ours.
    pub fn of(xml: &str) -> Result<Card> {
        let [card] = <[Card; 1]>::try_from(cards(xml)?)
            .map_err(|cards| anyhow::anyhow!("the domain has {} network cards", cards.len()))?;
        Ok(card)
    }

    /// The port that is its own, and admitted with its addresses; none in other networks than those
    /// of the labs.
    pub fn own_port(&self) -> Option<String> {
        let network = self.network.as_deref()?;
        let mut modes = NetworkMode::ALL.into_iter();
        let mode = modes.find(|mode| mode.network() == network)?;
        Some(self.mac.of_instance()?.port(mode))
    }

    /// Whether it is plugged into that.
    pub fn is_at_its_port(&self) -> bool {
        self.device.is_some() && self.device == self.own_port()
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
        filterref: Option<Filter>,
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
    struct Filter {}
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
            device: interface.target.and_then(|target| target.device),
            is_filtered: interface.filterref.is_some(),
        })
        .collect())
}

/// The definition `xml` with its card at the card's own port, in place of a filter; `None` where it
/// is so already, or the card is none of the labs'.
pub fn at_own_port(xml: &str) -> Result<Option<String>> {
    let card = Card::of(xml)?;
    let Some(port) = card.own_port() else {
        return Ok(None);
    };
    if card.is_at_its_port() && !card.is_filtered {
        return Ok(None);
    }
    let mut reader = Reader::from_str(xml);
    let mut writer = Writer::new(Vec::new());
    let mut within_card = false;
    loop {
        let event = reader.read_event().context("failed to read a definition")?;
        match &event {
            Event::Eof => break,
            Event::Start(tag) if tag.name().as_ref() == "interface" => within_card = true,
            Event::End(tag) if tag.name().as_ref() == "interface" => {
                let target = BytesStart::new("target").with_attributes([("dev", &*port)]);
                writer.write_event(Event::Empty(target))?;
                within_card = false;
            }
            Event::Start(tag) if within_card && is_replaced(tag) => {
                let end = tag.to_end().into_owned();
                reader.read_to_end(end.name())?;
                continue;
            }
            Event::Empty(tag) if within_card && is_replaced(tag) => continue,
            _ => {}
        }
        writer.write_event(event)?;
    }
    let xml = String::from_utf8(writer.into_inner())?;
    Ok(Some(xml))
}

fn is_replaced(tag: &BytesStart) -> bool {
    matches!(tag.name().as_ref(), "filterref" | "target")
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
    fn cards_are_read() {
        let user = "<interface type='user'><mac address='52:54:00:00:00:02'/></interface><graphics";
        let former = Card {
            mac: "52:63:79:79:00:14".parse().unwrap(),
            network: Some("cyyber-nat".to_owned()),
            device: Some("vnet3".to_owned()),
            is_filtered: true,
        };
        let other = Card {
            mac: "52:54:00:00:00:02".parse().unwrap(),
            network: None,
            device: None,
            is_filtered: false,
        };
        assert_eq!(former.own_port().as_deref(), Some("cyyber-n20"));
        assert!(!former.is_at_its_port() && !other.is_at_its_port());
        let both = FORMER.replace("<graphics", user);
        assert_eq!(cards(&both).unwrap(), [former, other]);
        for none_or_two in ["<domain><devices/></domain>", &*both] {
            assert!(Card::of(none_or_two).is_err(), "{none_or_two}");
        }
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
        // Nor one that is none of ours.
        let foreign = FORMER.replace("cyyber-nat'", "default'");
        assert_eq!(at_own_port(&foreign).unwrap(), None);
    }
}
