//! The network interface of an instance in its lab's network, and its reserved address. There is
//! one file per address in use, named after the host part, which contains the name of the instance.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use sha2::{Digest, Sha256};

use super::{Instance, arrival};
use crate::config::NetworkMode;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::files::{self, Directory};
use crate::firewall;
use crate::hypervisor::xml::interface::Interface;
use crate::names::InstanceName;
use crate::network::{HostPart, Mac};

impl Instance<'_> {
    /// Its network interface in `network`, while it is off, with the `preferred` address if possible.
    pub(super) fn reserve_address(
        &self,
        network: &str,
        preferred: Option<Mac>,
    ) -> Result<HostPart> {
        let context = self.context;
        let addresses = addresses(context)?;
        let preferred = preferred.and_then(Mac::of_instance);
        let reserve = || {
            let reserved = addresses.reserve(self.name, preferred, is_plugged_in);
            reserved.context("failed to reserve an address of the lab networks")
        };
        let part = match reserve()? {
            Some(part) => part,
            None => {
                release_lost(context, &addresses)?;
                reserve()?.ok_or_else(|| {
                    let message = "the lab networks have no free address left";
                    let hint =
                        "destroy unused instances: cyyber instance cleanup --inactive-for 30d";
                    Fault::new(Kind::Capacity, message).hint(hint)
                })?
            }
        };
        // Without such a network, nothing can be powered on either.
        if let Some(subnet) = context.hypervisor()?.subnet(network)? {
            subnet.address(part).with_context(|| {
                format!("the network {network} has no address that ends with {part}")
            })?;
        }
        Ok(part)
    }

    /// Whether a running VM of another configuration has its address, while it is off.
    pub(super) fn is_address_in_use(&self) -> Result<bool> {
        let card = Interface::from_xml(&self.domain()?.stored_xml()?)?;
        Ok(card.mac.of_instance().is_some_and(is_plugged_in))
    }

    /// Makes sure that no other instance has its `card`.
    pub(super) fn hold_address(&self, card: &Interface) -> Result<()> {
        let part = card.mac.of_instance();
        let part = part.with_context(|| {
            let mac = card.mac;
            format!(
                "its network interface has the address {mac}, which is not one of the lab networks'"
            )
        })?;
        anyhow::ensure!(
            addresses(self.context)?.hold(self.name, part)?,
            "the address of its network interface was given to another instance"
        );
        Ok(())
    }

    /// Releases its address.
    pub(super) fn release_address(&self) -> Result<()> {
        if arrival::owner_elsewhere(self.context, self.name).is_some() {
            return Ok(());
        }
        let name = self.name.to_string();
        addresses(self.context)?.release(|_, owner| owner == name)?;
        Ok(())
    }

    /// Makes sure that no other instance has its network interface while it runs; otherwise freezes
    /// it. The firewall filters its traffic at its own port; at any other port it has no network
    /// access.
    pub(super) fn confine(&self) -> Result<()> {
        let domain = self.domain()?;
        let attempt = || self.hold_address(&Interface::from_xml(&domain.xml()?)?);
        attempt().or_else(|error| {
            domain.freeze()?;
            let name = self.name;
            let failed = format!("failed to confine the network interface of {name}; it is frozen");
            Err(error.context(failed))
        })
    }

    /// Fails if no firewall separates the guests of this host from their networks.
    pub(super) fn ensure_guarded(&self) -> Result<()> {
        if self.context.hypervisor()?.is_local() {
            firewall::ensure_loaded()?;
        }
        Ok(())
    }
}

/// Whether a running guest has this interface. It may belong to a configuration with another state
/// directory.
fn is_plugged_in(part: HostPart) -> bool {
    let port = |mode: &NetworkMode| Path::new("/sys/class/net").join(part.port(*mode));
    NetworkMode::ALL.iter().any(|mode| port(mode).exists())
}

fn addresses(context: &Context) -> Result<Addresses> {
    Addresses::open(&context.paths.addresses())
        .context("failed to read the reservations of addresses")
}

/// The addresses that the DHCP servers of the lab networks gave to guests, by instance name. Guests
/// that were powered off recently may still be included.
pub(crate) fn leased(context: &Context) -> Result<HashMap<String, IpAddr>> {
    // No address was ever reserved.
    let Ok(directory) = Directory::open(&context.paths.addresses()) else {
        return Ok(HashMap::new());
    };
    let mut leases = Vec::new();
    for mode in NetworkMode::ALL {
        leases.append(&mut context.hypervisor()?.leases(mode.network())?);
    }
    // If it was in both networks, the newer lease counts.
    leases.sort_by_key(|lease| lease.expires);
    let addresses = Addresses(directory);
    let owned = leases.iter().filter_map(|lease| {
        let owner = addresses.owner(lease.mac.of_instance()?)?;
        Some((owner, lease.ip))
    });
    Ok(owned.collect())
}

/// Releases the addresses of instances that were removed by other means.
fn release_lost(context: &Context, addresses: &Addresses) -> Result<()> {
    let definitions = context.hypervisor()?.definitions()?;
    // A foreign domain may have no interface, or several.
    let interfaces = definitions
        .iter()
        .filter_map(|(_, xml)| Interface::from_xml(xml).ok()?.mac.of_instance());
    let used: HashSet<HostPart> = interfaces.collect();
    let is_elsewhere = |owner: &str| {
        let name = owner.parse();
        name.is_ok_and(|name| arrival::owner_elsewhere(context, &name).is_some())
    };
    // An instance that is being created just now loses its address, and gets another one when it is
    // started.
    addresses.release(|part, owner| !used.contains(&part) && !is_elsewhere(owner))?;
    Ok(())
}

/// The mode of the files that record the owners of addresses.
const MODE: u32 = 0o640;

/// The addresses of a state directory.
#[derive(Debug)]
pub struct Addresses(Directory);

impl Addresses {
    /// The addresses in `directory`, which is created if it is missing.
    pub fn open(directory: &Path) -> io::Result<Addresses> {
        files::make_directory(directory, files::SHARED_DIRECTORY)?;
        Ok(Addresses(Directory::open(directory)?))
    }

    /// Reserves `part` for the instance `name`; `false` if another instance has it.
    pub fn hold(&self, name: &InstanceName, part: HostPart) -> io::Result<bool> {
        let (file, name) = (part.to_string(), name.to_string());
        Ok(self.0.put_new(file.as_ref(), name.as_bytes(), MODE)? || self.owner(part) == Some(name))
    }

    /// The address of the instance `name`, which is off: `preferred` if it is free, else the one that
    /// it has, else a new one, and in each case one that is not `in_use`. `None` if all are.
    pub fn reserve(
        &self,
        name: &InstanceName,
        preferred: Option<HostPart>,
        in_use: impl Fn(HostPart) -> bool,
    ) -> io::Result<Option<HostPart>> {
        if let Some(part) = preferred
            && !in_use(part)
            && self.hold(name, part)?
        {
            return Ok(Some(part));
        }
        let taken = self.taken()?;
        let own = name.to_string();
        let mut its = taken.iter().filter(|(_, owner)| *owner == own);
        if let Some((part, _)) = its.find(|(part, _)| !in_use(*part)) {
            return Ok(Some(*part));
        }
        let (first, last) = HostPart::OF_INSTANCES.into_inner();
        // If no other instance has it now, the instance gets its previous address back.
        let [a, b, ..]: [u8; 32] = Sha256::digest(&own).into();
        let middle = first + u16::from_be_bytes([a, b]) % (last - first + 1);
        let all = (middle..=last).chain(first..middle);
        let free = all
            .filter_map(HostPart::of_instance)
            .filter(|part| !taken.iter().any(|(other, _)| other == part) && !in_use(*part));
        for part in free {
            // Another command may have reserved it in the meantime.
            if self.hold(name, part)? {
                self.release(|other, owner| owner == own && other != part)?;
                return Ok(Some(part));
            }
        }
        Ok(None)
    }

    /// Releases every address for whose owner `gone` returns true.
    pub fn release(&self, gone: impl Fn(HostPart, &str) -> bool) -> io::Result<()> {
        for (part, owner) in self.taken()? {
            if gone(part, &owner) {
                self.0.remove(part.to_string())?;
            }
        }
        Ok(())
    }

    fn taken(&self) -> io::Result<Vec<(HostPart, String)>> {
        let part = |name: &str| HostPart::of_instance(name.parse().ok()?);
        let parts = self.0.names()?.into_iter();
        Ok(parts
            .filter_map(|name| part(name.to_str()?))
            // An unreadable file may belong to an instance.
            .map(|part| (part, self.owner(part).unwrap_or_default()))
            .collect())
    }

    fn owner(&self, part: HostPart) -> Option<String> {
        String::from_utf8(self.0.read(part.to_string()).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(user: usize) -> InstanceName {
        format!("lab01_user_{user}").parse().unwrap()
    }

    fn free(_: HostPart) -> bool {
        false
    }

    #[test]
    fn the_address_of_a_guest_of_another_configuration_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let reserved = |name: &InstanceName, in_use: &dyn Fn(HostPart) -> bool| {
            let addresses = Addresses::open(&directory.path().join("addresses")).unwrap();
            let part = addresses.reserve(name, None, in_use).unwrap();
            addresses.release(|_, _| true).unwrap();
            part.unwrap()
        };
        let first = reserved(&name(1), &free);
        let other = reserved(&name(1), &|part| part == first);
        assert_eq!(other.number(), first.number() + 1);
    }

    #[test]
    fn an_address_that_came_into_use_elsewhere_is_exchanged() {
        let directory = tempfile::tempdir().unwrap();
        let addresses = Addresses::open(directory.path()).unwrap();
        let reserve = |preferred, in_use: &dyn Fn(HostPart) -> bool| {
            let part = addresses.reserve(&name(1), preferred, in_use).unwrap();
            part.unwrap()
        };
        let first = reserve(None, &free);
        let second = reserve(Some(first), &|part| part == first);
        assert_ne!(second, first);
        assert_eq!(addresses.taken().unwrap().len(), 1);
        assert_eq!(reserve(None, &free), second);
    }

    #[test]
    fn each_instance_has_one_and_keeps_it() {
        let directory = tempfile::tempdir().unwrap();
        let addresses = Addresses::open(&directory.path().join("addresses")).unwrap();
        let first = addresses.reserve(&name(1), None, free).unwrap().unwrap();
        assert_eq!(
            addresses.reserve(&name(1), None, free).unwrap(),
            Some(first)
        );
        assert!(addresses.hold(&name(1), first).unwrap());
        assert!(!addresses.hold(&name(2), first).unwrap());
        let second = addresses
            .reserve(&name(2), Some(first), free)
            .unwrap()
            .unwrap();
        assert_ne!(second, first);
        addresses
            .release(|_, owner| owner == "lab01_user_1")
            .unwrap();
        assert!(addresses.hold(&name(3), first).unwrap());
        assert_ne!(
            addresses.reserve(&name(1), Some(first), free).unwrap(),
            Some(first)
        );
        assert_eq!(
            addresses.reserve(&name(2), None, free).unwrap(),
            Some(second)
        );
    }

    #[test]
    fn all_of_them_are_given_out_once_and_then_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let addresses = Addresses::open(directory.path()).unwrap();
        // Two files with unknown owners.
        std::fs::write(directory.path().join("16"), b"\xff").unwrap();
        std::os::unix::fs::symlink("lab01_user_0", directory.path().join("17")).unwrap();
        let count = HostPart::OF_INSTANCES.len() - 2;
        let mut all: Vec<_> = std::thread::scope(|scope| {
            let half = |from: usize| {
                let addresses = &addresses;
                move || {
                    (from..count)
                        .step_by(2)
                        .map(|user| addresses.reserve(&name(user), None, free).unwrap().unwrap())
                        .collect::<Vec<_>>()
                }
            };
            let (one, other) = (scope.spawn(half(0)), scope.spawn(half(1)));
            [one.join().unwrap(), other.join().unwrap()].concat()
        });
        assert_eq!(addresses.reserve(&name(count), None, free).unwrap(), None);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(all[0] > HostPart::of_instance(17).unwrap());
    }
}
