//! The lab networks and the filters on the network cards in them.

use anyhow::{Result, bail};
use virt::error::ErrorNumber;
use virt::network::Network;
use virt::sys;

use super::{Hypervisor, failed, is};
use crate::config::NetworkMode;
use crate::network::{HOST_FILTER, Host, Plan};

/// The filter that those of all lab networks refer to.
const BASE_FILTER: &str = NetworkMode::Isolated.network();

/// A rule that changes nothing: the address belongs to documentation (RFC 5737).
const NO_MATTER: &str =
    "<rule action='drop' direction='out' priority='900'><ip dstipaddr='192.0.2.1'/></rule>";

/// One of the lab networks.
#[derive(Debug)]
pub struct LabNetwork(Network);

impl Hypervisor {
    /// The network called `name`, if there is one.
    pub fn network(&self, name: &str) -> Result<Option<LabNetwork>> {
        match self.conn.lookup_network_by_name(name) {
            Ok(network) => Ok(Some(LabNetwork(network))),
            Err(e) if is(&e, ErrorNumber::NoNetwork) => Ok(None),
            Err(e) => Err(failed(&format!("look up the network {name}"), e)),
        }
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

impl LabNetwork {
    /// Its addresses, and who has which.
    pub fn plan(&self) -> Result<Plan> {
        let xml = self.0.xml_desc(0);
        Plan::of(&xml.map_err(|e| failed("read the network's definition", e))?)
    }

    /// Sets an address aside; `false` where it, or another one for this card, is already. libvirt
    /// sees to it that nobody else gets it at the same moment.
    pub fn reserve(&self, host: &Host) -> Result<bool> {
        let command = sys::VIR_NETWORK_UPDATE_COMMAND_ADD_LAST;
        match self.update(command, host) {
            Ok(()) => Ok(true),
            Err(e) if is(&e, ErrorNumber::OperationInvalid) => Ok(false),
            Err(e) => Err(failed("set an address of the network aside", e)),
        }
    }

    /// Gives an address back. One that is not set aside is fine.
    pub fn release(&self, host: &Host) -> Result<()> {
        match self.update(sys::VIR_NETWORK_UPDATE_COMMAND_DELETE, host) {
            Err(e) if !is(&e, ErrorNumber::OperationInvalid) => {
                Err(failed("give an address of the network back", e))
            }
            _ => Ok(()),
        }
    }

    fn update(
        &self,
        command: sys::virNetworkUpdateCommand,
        host: &Host,
    ) -> Result<(), virt::error::Error> {
        let mut of = sys::VIR_NETWORK_UPDATE_AFFECT_CONFIG;
        if self.0.is_active()? {
            of |= sys::VIR_NETWORK_UPDATE_AFFECT_LIVE;
        }
        let section = sys::VIR_NETWORK_SECTION_IP_DHCP_HOST;
        self.0.update(command, section, -1, &host.xml(), of)
    }
}
