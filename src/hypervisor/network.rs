//! The lab networks.

use anyhow::Result;
use virt::error::ErrorNumber;

use super::{Hypervisor, failed, is, xml};
use crate::network::Subnet;

impl Hypervisor {
    /// The range of addresses of the network called `name`, if there is one.
    pub fn subnet(&self, name: &str) -> Result<Option<Subnet>> {
        let ask = || match self.conn.lookup_network_by_name(name) {
            Err(e) if is(&e, ErrorNumber::NoNetwork) => Ok(None),
            network => network?.xml_desc(0).map(Some),
        };
        let xml = ask().map_err(|e| failed(&format!("look at the network {name}"), e))?;
        xml.map(|xml| xml::network::subnet(&xml)).transpose()
    }
}
