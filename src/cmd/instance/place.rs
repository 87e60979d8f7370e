//! The card of an instance in its lab's network, and the port that it is plugged into.

use std::collections::HashSet;

use anyhow::{Context as _, Result};

use super::handle::Instance;
use crate::cards::Card;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::firewall;
use crate::network::{HostPart, Mac};
use crate::state::addresses::Addresses;

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
            reserved.context("failed to set an address of the lab networks aside")
        };
        let part = match reserve()? {
            Some(part) => part,
            None => {
                release_lost(context, &addresses)?;
                reserve()?.ok_or_else(|| {
                    Fault::new(Kind::Capacity, "the lab networks have no free address left")
                        .hint("destroy instances that nobody needs: cyyber instance cleanup --inactive-for 30d")
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
    pub(super) fn hold_address(&self, card: &Card) -> Result<()> {
        let part = card.mac.of_instance();
        let part = part.with_context(|| {
            format!(
                "its network card has the address {}, which is none of the labs'",
                card.mac
            )
        })?;
        anyhow::ensure!(
            addresses(self.context)?.hold(self.name, part)?,
            "the address of its network card was given to another instance"
        );
        Ok(())
    }

    /// Gives its address back.
    pub(super) fn release_address(&self) -> Result<()> {
        let name = self.name.to_string();
        addresses(self.context)?.release(|_, owner| owner == name)?;
        Ok(())
    }

    /// Makes sure that its network card is its alone while it runs; otherwise it is frozen. What it may
    /// send and get is not settled here: at its own port the firewall sees to that, and at another one
    /// it has no network.
    pub(super) fn confine(&self) -> Result<()> {
        let domain = self.domain()?;
        let attempt = || self.hold_address(&Card::of(&domain.xml()?)?);
        attempt().or_else(|error| {
            domain.freeze()?;
            Err(error.context(format!(
                "failed to confine the network card of {}, which is held still therefore",
                self.name
            )))
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
    Addresses::open(&context.paths.addresses()).context("failed to read who has which address")
}

/// Gives back what is set aside for instances that were removed by other means.
fn release_lost(context: &Context, addresses: &Addresses) -> Result<()> {
    let definitions = context.hypervisor()?.definitions()?;
    // A domain that is not ours may have no card, or more than one.
    let cards = definitions
        .iter()
        .filter_map(|definition| Card::of(&definition.xml).ok()?.mac.of_instance());
    let used: HashSet<HostPart> = cards.collect();
    // One that is being made just now loses its address, and gets another one when it is started.
    addresses.release(|part, _| !used.contains(&part))?;
    Ok(())
}
