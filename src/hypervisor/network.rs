//! The lab networks.

use anyhow::Result;
use virt::error::{Error, ErrorNumber};
use virt::network::Network;

use super::leases::{self, Lease};
use super::{Hypervisor, failed, is, xml};
use crate::network::{Mac, Subnet};

/// The status of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkFacts {
    /// It is active.
    pub active: bool,
    /// It starts at boot.
    pub autostart: bool,
    /// It has the addresses that instances get.
    pub cards: bool,
}

impl Hypervisor {
    /// The range of addresses of the network called `name`, if there is one.
    pub fn subnet(&self, name: &str) -> Result<Option<Subnet>> {
        let xml = self.of_network(name, |network| network.xml_desc(0))?;
        xml.map(|xml| xml::network::subnet(&xml)).transpose()
    }

    /// Facts about the network called `name`, if there is one.
    pub fn network_facts(&self, name: &str) -> Result<Option<NetworkFacts>> {
        let told = self.of_network(name, |network| {
            let serves = (network.is_active()?, network.autostart()?);
            Ok((serves, network.xml_desc(0)?))
        })?;
        let facts = told.map(|((active, autostart), xml)| {
            Ok(NetworkFacts {
                active,
                autostart,
                // A small network does not have all of them.
                cards: xml::network::has_host(&xml, Mac::FIRST)?,
            })
        });
        facts.transpose()
    }

    /// The leases of the network called `name`; none if there is no such network, or if this kind
    /// of libvirt has no leases.
    pub fn leases(&self, name: &str) -> Result<Vec<Lease>> {
        let leases = self.of_network(name, |network| match leases::of(network) {
            Err(e) if is(&e, ErrorNumber::NoSupport) => Ok(Vec::new()),
            leases => leases,
        })?;
        Ok(leases.unwrap_or_default())
    }

    /// The result of `ask` for the network called `name`, if there is one.
    fn of_network<T>(
        &self,
        name: &str,
        ask: impl FnOnce(&Network) -> Result<T, Error>,
    ) -> Result<Option<T>> {
        let told = match self.conn.lookup_network_by_name(name) {
            Err(e) if is(&e, ErrorNumber::NoNetwork) => return Ok(None),
            network => network.and_then(|network| ask(&network)),
        };
        told.map(Some)
            .map_err(|e| failed(&format!("look up the network {name}"), e))
    }
}
