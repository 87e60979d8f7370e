//! The address of an instance in its lab's network, and the filter that holds it to it.

use std::collections::HashSet;

use anyhow::{Context as _, Result};

use crate::cards::Card;
use crate::config::NetworkMode;
use crate::context::Context;
use crate::domain::card_xml;
use crate::error::{Fault, Kind};
use crate::firewall::FrameRules;
use crate::host;
use crate::hypervisor::Domain;
use crate::instance::InstanceName;
use crate::network::{self, HostPart, Mac, Place};
use crate::state::addresses::Addresses;
use crate::state::lock::Lock;

/// The network card of the instance `name` in `network`: its MAC address, which is `preferred` where
/// that can be, and its place. No place without such a network, where nothing can be powered on
/// either.
pub fn of(
    context: &Context,
    network: &str,
    name: &InstanceName,
    preferred: Option<Mac>,
) -> Result<(Mac, Option<Place>)> {
    let addresses = addresses(context)?;
    let preferred = preferred.and_then(Mac::of_instance);
    let reserve = || {
        let reserved = addresses.reserve(name, preferred);
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
    Ok((Mac::of(part), place(context, network, part)?))
}

fn addresses(context: &Context) -> Result<Addresses> {
    Addresses::open(&context.paths.addresses()).context("failed to read who has which address")
}

fn place(context: &Context, network: &str, part: HostPart) -> Result<Option<Place>> {
    let Some(subnet) = context.hypervisor()?.subnet(network)? else {
        return Ok(None);
    };
    let place = subnet.place(part);
    place
        .with_context(|| format!("the network {network} has no address that ends with {part}"))
        .map(Some)
}

/// Sees to it that the `card` of the instance `name` is its alone; its place.
pub fn keep(context: &Context, name: &InstanceName, card: &Card) -> Result<Option<Place>> {
    let part = hold(context, name, card)?;
    place(context, card.network.as_deref().unwrap_or_default(), part)
}

/// Sees to it that the `card` of the instance `name` is its alone; what tells it from all others.
pub fn hold(context: &Context, name: &InstanceName, card: &Card) -> Result<HostPart> {
    let part = card.mac.of_instance();
    let part = part.with_context(|| {
        format!(
            "its network card has the address {}, which is none of the labs'",
            card.mac
        )
    })?;
    anyhow::ensure!(
        addresses(context)?.hold(name, part)?,
        "the address of its network card was given to another instance"
    );
    Ok(part)
}

/// Gives the address of an instance back that is gone.
pub fn release(context: &Context, name: &InstanceName) -> Result<()> {
    let name = name.to_string();
    addresses(context)?.release(|_, owner| owner == name)?;
    Ok(())
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

/// Makes sure that the network card of the running `domain` is held to its own address and to what
/// its lab allows. One that was made or saved by an earlier version may not be. Where it cannot be
/// confined it is held still.
pub fn confine(context: &Context, name: &InstanceName, domain: &Domain) -> Result<()> {
    attempt(context, name, domain).or_else(|error| {
        domain.freeze()?;
        Err(error.context(format!(
            "failed to confine the network card of {name}, which is held still therefore"
        )))
    })
}

fn attempt(context: &Context, name: &InstanceName, domain: &Domain) -> Result<()> {
    let card = Card::of(&domain.xml()?)?;
    let place = keep(context, name, &card)?;
    let Ok(lab) = context.config.lab(&name.lab) else {
        anyhow::ensure!(card.filter.is_some(), "its lab is no longer configured");
        return Ok(());
    };
    // In the network that it is in: another one would be another cable.
    let network = card.network.as_deref().unwrap_or_default();
    let mode = NetworkMode::ALL
        .into_iter()
        .find(|mode| mode.network() == network)
        .with_context(|| format!("it is in the network '{network}', which is none of the labs'"))?;
    let wanted = Card {
        device: card.device.clone(),
        ..Card::wanted(mode, card.mac, place)
    };
    if card == wanted {
        return Ok(());
    }
    domain.update_live(card_xml(lab, mode, card.mac, place)?)?;
    anyhow::ensure!(
        Card::of(&domain.xml()?)? == wanted,
        "libvirt did not put the filter in force"
    );
    Ok(())
}

/// Keeps instances from the addresses that this host has now; whether there was anything to do.
pub fn guard_host(context: &Context) -> Result<bool> {
    let hypervisor = context.hypervisor()?;
    if !hypervisor.is_local() {
        return Ok(false);
    }
    hypervisor.guard_host(&network::host_filter(host::addresses()?))
}

/// Puts the filters on the network cards of `running` instances in force again where the kernel has
/// no rules for them, as after something emptied its firewall; for how many that was so.
pub fn guard_filters(context: &Context, running: &[&InstanceName]) -> Result<usize> {
    let hypervisor = context.hypervisor()?;
    if running.is_empty() || !hypervisor.is_local() {
        return Ok(0);
    }
    let rules = FrameRules::now()?;
    if rules.open_ports()?.is_empty() {
        return Ok(0);
    }
    let mut open = 0;
    for name in running {
        // One that a command is at work on may get its rules just now.
        let Some(_lock) = Lock::try_take(&context.paths.instance_lock(name)) else {
            continue;
        };
        let Some(domain) = hypervisor.find(name)? else {
            continue;
        };
        let card = Card::of(&domain.xml()?)?;
        let (Some(_), Some(device)) = (card.filter, card.device) else {
            continue;
        };
        open += usize::from(!rules.cover(&device));
    }
    if open > 0 {
        hypervisor.renew_filters()?;
    }
    Ok(open)
}
