//! The card of an instance in its lab's network, and the address that is its alone for as long as it
//! exists: one file for each host part that is taken, with the name of the instance in it.

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
    /// Its network card in `network`, which is the `preferred` one where that can be.
    pub(super) fn reserve_address(
        &self,
        network: &str,
        preferred: Option<Mac>,
    ) -> Result<HostPart> {
        let context = self.context;
        let addresses = addresses(context)?;
        let preferred = preferred.and_then(Mac::of_instance);
        let reserve = || {
            let reserved = addresses.reserve(self.name, preferred);
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
        // Without such a network nothing can be powered on either.
        if let Some(subnet) = context.hypervisor()?.subnet(network)? {
            subnet.address(part).with_context(|| {
                format!("the network {network} has no address that ends with {part}")
            })?;
        }
        Ok(part)
    }

    /// Sees to it that its `card` is its alone.
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

    /// Gives its address back.
    pub(super) fn release_address(&self) -> Result<()> {
        if arrival::owner_elsewhere(self.context, self.name).is_some() {
            return Ok(());
        }
        let name = self.name.to_string();
        addresses(self.context)?.release(|_, owner| owner == name)?;
        Ok(())
    }

    /// Makes sure that its network card is its alone while it runs; otherwise it is frozen. What it may
    /// send and get is not settled here: at its own port the firewall sees to that, and at another one
    /// it has no network.
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

    /// Fails where nothing would stand between the guests of this host and their networks.
    pub(super) fn ensure_guarded(&self) -> Result<()> {
        if self.context.hypervisor()?.is_local() {
            firewall::ensure_loaded()?;
        }
        Ok(())
    }
}

fn addresses(context: &Context) -> Result<Addresses> {
    Addresses::open(&context.paths.addresses())
        .context("failed to read the reservations of addresses")
}

/// The addresses that guests have from the DHCP servers of the lab networks, by the names of their
/// instances. Those of guests that are off by now are among them for a while.
pub(crate) fn leased(context: &Context) -> Result<HashMap<String, IpAddr>> {
    // None was ever reserved.
    let Ok(directory) = Directory::open(&context.paths.addresses()) else {
        return Ok(HashMap::new());
    };
    let mut leases = Vec::new();
    for mode in NetworkMode::ALL {
        leases.append(&mut context.hypervisor()?.leases(mode.network())?);
    }
    // Of one that was in both networks the newer counts.
    leases.sort_by_key(|lease| lease.expires);
    let addresses = Addresses(directory);
    let owned = leases.iter().filter_map(|lease| {
        let owner = addresses.owner(lease.mac.of_instance()?)?;
        Some((owner, lease.ip))
    });
    Ok(owned.collect())
}

/// Releases what is reserved for instances that were removed by other means.
fn release_lost(context: &Context, addresses: &Addresses) -> Result<()> {
    let definitions = context.hypervisor()?.definitions()?;
    // A domain that is not ours may have no card, or more than one.
    let interfaces = definitions
        .iter()
        .filter_map(|(_, xml)| Interface::from_xml(xml).ok()?.mac.of_instance());
    let used: HashSet<HostPart> = interfaces.collect();
    let is_elsewhere = |owner: &str| {
        let name = owner.parse();
        name.is_ok_and(|name| arrival::owner_elsewhere(context, &name).is_some())
    };
    // One that is being made just now loses its address, and gets another one when it is started.
    addresses.release(|part, owner| !used.contains(&part) && !is_elsewhere(owner))?;
    Ok(())
}

/// Mode of the files that say who has which address.
const MODE: u32 = 0o640;

/// The addresses of a state directory.
#[derive(Debug)]
pub struct Addresses(Directory);

impl Addresses {
    /// Those in `directory`, which is made where it is missing.
    pub fn open(directory: &Path) -> io::Result<Addresses> {
        files::make_directory(directory, files::SHARED_DIRECTORY)?;
        Ok(Addresses(Directory::open(directory)?))
    }

    /// Has `part` be that of the instance `name`; `false` where it is another one's.
    pub fn hold(&self, name: &InstanceName, part: HostPart) -> io::Result<bool> {
        let (file, name) = (part.to_string(), name.to_string());
        Ok(self.0.put_new(file.as_ref(), name.as_bytes(), MODE)? || self.owner(part) == Some(name))
    }

    /// The one that the instance `name` has, or else one for it: `preferred`, if nobody has it.
    /// `None` when all are taken.
    pub fn reserve(
        &self,
        name: &InstanceName,
        preferred: Option<HostPart>,
    ) -> io::Result<Option<HostPart>> {
        if let Some(part) = preferred
            && self.hold(name, part)?
        {
            return Ok(Some(part));
        }
        let taken = self.taken()?;
        let own = name.to_string();
        if let Some((part, _)) = taken.iter().find(|(_, owner)| *owner == own) {
            return Ok(Some(*part));
        }
        let (first, last) = HostPart::OF_INSTANCES.into_inner();
        // Where nobody else has it by now, an instance gets the address that it had before.
        let [a, b, ..]: [u8; 32] = Sha256::digest(&own).into();
        let middle = first + u16::from_be_bytes([a, b]) % (last - first + 1);
        let all = (middle..=last).chain(first..middle);
        let free = all
            .filter_map(HostPart::of_instance)
            .filter(|part| !taken.iter().any(|(other, _)| other == part));
        for part in free {
            // Another command may have taken it meanwhile.
            if self.hold(name, part)? {
                return Ok(Some(part));
            }
        }
        Ok(None)
    }

    /// Gives back each of which `gone` says so, told its owner's name.
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
            // What is unreadable is somebody's.
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

    #[test]
    fn each_instance_has_one_and_keeps_it() {
        let directory = tempfile::tempdir().unwrap();
        let addresses = Addresses::open(&directory.path().join("addresses")).unwrap();
        let first = addresses.reserve(&name(1), None).unwrap().unwrap();
        assert_eq!(addresses.reserve(&name(1), None).unwrap(), Some(first));
        assert!(addresses.hold(&name(1), first).unwrap());
        assert!(!addresses.hold(&name(2), first).unwrap());
        let second = addresses.reserve(&name(2), Some(first)).unwrap().unwrap();
        assert_ne!(second, first);
        addresses
            .release(|_, owner| owner == "lab01_user_1")
            .unwrap();
        assert!(addresses.hold(&name(3), first).unwrap());
        assert_ne!(
            addresses.reserve(&name(1), Some(first)).unwrap(),
            Some(first)
        );
        assert_eq!(addresses.reserve(&name(2), None).unwrap(), Some(second));
    }

    #[test]
    fn all_of_them_are_given_out_once_and_then_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let addresses = Addresses::open(directory.path()).unwrap();
        // Two that cannot be told whose they are.
        std::fs::write(directory.path().join("16"), b"\xff").unwrap();
        std::os::unix::fs::symlink("lab01_user_0", directory.path().join("17")).unwrap();
        let count = HostPart::OF_INSTANCES.len() - 2;
        let mut all: Vec<_> = std::thread::scope(|scope| {
            let half = |from: usize| {
                let addresses = &addresses;
                move || {
                    (from..count)
                        .step_by(2)
                        .map(|user| addresses.reserve(&name(user), None).unwrap().unwrap())
                        .collect::<Vec<_>>()
                }
            };
            let (one, other) = (scope.spawn(half(0)), scope.spawn(half(1)));
            [one.join().unwrap(), other.join().unwrap()].concat()
        });
        assert_eq!(addresses.reserve(&name(count), None).unwrap(), None);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(all[0] > HostPart::of_instance(17).unwrap());
    }
}
