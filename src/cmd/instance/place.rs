//! The address of an instance in its lab's network, and the filter that holds it to it.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use uuid::Uuid;

use crate::cards::Card;
use crate::config::NetworkMode;
use crate::context::Context;
use crate::domain::card_xml;
use crate::error::{Fault, Kind};
use crate::firewall::FrameRules;
use crate::host;
use crate::hypervisor::{Domain, LabNetwork};
use crate::instance::InstanceName;
use crate::network::{self, Host, Mac, Place};
use crate::state::lock::Lock;

/// The place of the card `mac` in `network`, where an address is set aside for it if there was none
/// yet. `None` without such a network, where nothing can be powered on either.
pub fn of(context: &Context, network: &str, mac: Mac) -> Result<Option<Place>> {
    let Some(network) = context.hypervisor()?.network(network)? else {
        return Ok(None);
    };
    let plan = network.plan()?;
    if let Some(place) = plan.place_of(mac) {
        return Ok(Some(place));
    }
    let ip = match reserve(&network, mac)? {
        Some(ip) => ip,
        None => {
            release_lost(context, &network)?;
            reserve(&network, mac)?.ok_or_else(|| {
                Fault::new(Kind::Capacity, "the lab network has no free address left")
                    .hint("clean instances up, or give the network a larger range: see its file network-*.xml")
            })?
        }
    };
    Ok(Some(plan.place(ip)))
}

fn reserve(network: &LabNetwork, mac: Mac) -> Result<Option<Ipv4Addr>> {
    let plan = network.plan()?;
    for ip in plan.free_for(mac) {
        if network.reserve(&Host { mac, ip })? {
            return Ok(Some(ip));
        }
        // Another command may have set it aside meanwhile, for this card or for another one.
        if let Some(place) = network.plan()?.place_of(mac) {
            return Ok(Some(place.ip));
        }
    }
    Ok(None)
}

/// Sees to it that `card`, of which nothing else is known, still has its place for itself.
pub fn keep(context: &Context, card: &Card) -> Result<()> {
    let (Some(name), Some(place)) = (&card.network, card.place) else {
        anyhow::bail!("its network card is in no network");
    };
    let network = context.hypervisor()?.network(name)?;
    let network = network.with_context(|| format!("there is no network {name}"))?;
    let host = Host {
        mac: card.mac,
        ip: place.ip,
    };
    let has = network.plan()?.place_of(card.mac) == Some(place);
    anyhow::ensure!(
        has || network.reserve(&host)?,
        "its address {} was given to another instance",
        place.ip
    );
    Ok(())
}

/// Gives the address of an instance back that is gone, and whose domain had the UUID `uuid`.
pub fn release(context: &Context, name: &InstanceName, uuid: Option<Uuid>) -> Result<()> {
    let cards: HashSet<Mac> = [Some(Mac::of(name)), uuid.map(Mac::of_domain)]
        .into_iter()
        .flatten()
        .collect();
    for mode in NetworkMode::ALL {
        if let Some(network) = context.hypervisor()?.network(mode.network())? {
            release_if(&network, |mac| cards.contains(&mac))?;
        }
    }
    Ok(())
}

/// Gives back what is set aside for instances that were removed by other means.
fn release_lost(context: &Context, network: &LabNetwork) -> Result<()> {
    let mut cards = HashSet::from([Mac::STANDALONE]);
    for definition in context.hypervisor()?.definitions()? {
        // A domain that is not ours may have none, or more than one.
        cards.extend(Card::of(&definition.xml).map(|card| card.mac));
    }
    // One that is being made just now loses its address, and gets another one when it is started.
    release_if(network, |mac| mac.may_be_ours() && !cards.contains(&mac))
}

fn release_if(network: &LabNetwork, goes: impl Fn(Mac) -> bool) -> Result<()> {
    for host in network.plan()?.hosts() {
        if goes(host.mac) {
            network.release(host)?;
        }
    }
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
    let Ok(lab) = context.config.lab(&name.lab) else {
        anyhow::ensure!(card.filter.is_some(), "its lab is no longer configured");
        return keep(context, &card);
    };
    // In the network that it is in: another one would be another cable.
    let network = card.network.as_deref().unwrap_or_default();
    let mode = NetworkMode::ALL
        .into_iter()
        .find(|mode| mode.network() == network)
        .with_context(|| format!("it is in the network '{network}', which is none of the labs'"))?;
    let place = of(context, network, card.mac)?;
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
pub fn guard_filters<'a>(
    context: &Context,
    running: impl ExactSizeIterator<Item = &'a InstanceName>,
) -> Result<usize> {
    let hypervisor = context.hypervisor()?;
    if running.len() == 0 || !hypervisor.is_local() {
        return Ok(0);
    }
    let Some(rules) = FrameRules::now().filter(|rules| rules.count() < running.len()) else {
        return Ok(0);
    };
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
