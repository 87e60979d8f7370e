//! The lab networks and the filters on the network cards in them.

use anyhow::{Result, bail};
use virt::error::ErrorNumber;

use super::{Hypervisor, failed, is};
use crate::config::NetworkMode;
use crate::network::{HOST_FILTER, Subnet};

/// The filter that those of all lab networks refer to.
const BASE_FILTER: &str = NetworkMode::Isolated.network();

/// A rule that changes nothing: the address belongs to documentation (RFC 5737).
const NO_MATTER: &str =
    "<rule action='drop' direction='out' priority='900'><ip dstipaddr='192.0.2.1'/></rule>";

impl Hypervisor {
    /// The range of addresses of the network called `name`, if there is one.
    pub fn subnet(&self, name: &str) -> Result<Option<Subnet>> {
        let ask = || match self.conn.lookup_network_by_name(name) {
            Err(e) if is(&e, ErrorNumber::NoNetwork) => Ok(None),
            network => network?.xml_desc(0).map(Some),
        };
        let xml = ask().map_err(|e| failed(&format!("look at the network {name}"), e))?;
        xml.map(|xml| Subnet::of(&xml)).transpose()
    }

    /// Makes the filter of the host's own addresses be `wanted`, which takes effect at once, also
    /// for guests that run; whether that changed anything. Nothing is done where `make setup` has
    /// not made that filter.
    pub fn guard_host(&self, wanted: &str) -> Result<bool> {
        let what = format!("change the filter {HOST_FILTER}");
        let filter = match self.conn.lookup_nwfilter_by_name(HOST_FILTER) {
            Ok(filter) => filter,
            Err(e) if is(&e, ErrorNumber::NoNwfilter) || is(&e, ErrorNumber::NoSupport) => {
                return Ok(false);
            }
            Err(e) => return Err(failed(&what, e)),
        };
        let xml = filter.xml_desc(0).map_err(|e| failed(&what, e))?;
        let (before, uuid): (Vec<_>, Vec<_>) = xml
            .lines()
            .filter(|line| !line.trim().is_empty())
            .partition(|line| !line.contains("<uuid>"));
        if before.into_iter().eq(wanted.lines()) {
            return Ok(false);
        }
        // A definition under a known name must carry the UUID of that name.
        let wanted = wanted.replacen('\n', &format!("\n{}\n", uuid.concat()), 1);
        self.conn
            .define_nwfilter_xml(&wanted)
            .map_err(|e| failed(&what, e))?;
        Ok(true)
    }

    /// Has libvirt make the rules of all filters anew for guests that run. It does so for a filter
    /// that changes, and not for one that is defined as it was: so it is changed and changed back.
    pub fn renew_filters(&self) -> Result<()> {
        let Some(xml) = self.filter(BASE_FILTER)? else {
            bail!("there is no filter {BASE_FILTER}");
        };
        let changed = xml.replace("</filter>", &format!("{NO_MATTER}</filter>"));
        for xml in [&changed, &xml] {
            self.conn
                .define_nwfilter_xml(xml)
                .map_err(|e| failed(&format!("renew the filter {BASE_FILTER}"), e))?;
        }
        Ok(())
    }
}
