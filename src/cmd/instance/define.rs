//! The definition of an instance's domain: made once, and brought up to date with the configuration
//! before each power-on.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::{disk, own_user, place, view};
use crate::cards::{self, Card};
use crate::context::Context;
use crate::domain::{self, InstanceDomain};
use crate::hypervisor::Domain;
use crate::images::base::Base;
use crate::images::overlay;
use crate::instance::InstanceName;
use crate::network::Mac;
use crate::state::activity;
use crate::state::record::{self, Record};

/// Defines the domain of an instance that has none on its disk `overlay`, which stands on `base`.
pub fn define(
    context: &Context,
    name: &InstanceName,
    overlay: &Path,
    base: &Base,
) -> Result<Domain> {
    context.warn_of_emulation();
    let record = Record {
        uuid: domain::new_uuid(),
        build: base.build.clone(),
        created: context.time(),
        boot: None,
        saved: None,
        why: None,
    };
    let xml = definition(context, name, overlay, &base.path, &record, None)?;
    // Before the domain exists, so that it is never seen without a sign of life.
    activity::touch(&context.paths.activity(name))
        .with_context(|| format!("failed to note the activity of {name}"))?;
    let domain = context.hypervisor()?.define(&xml)?;
    if let Err(error) = record::write(&context.paths.record(name), &record) {
        // libvirt has the same facts; a listing is merely slower without the note.
        context
            .output
            .warn(&format!("failed to note that {name} was made: {error}"));
    }
    Ok(domain)
}

/// Makes the definition of `domain`, which is off, what the configuration says by now. Its disk and
/// its address stay. Where its lab is no longer configured the whole definition does, but for the
/// port of its network card. Fails where its disks are not those that it was given: what it wrote
/// would be out of sight.
pub fn renew(context: &Context, name: &InstanceName, domain: &Domain) -> Result<()> {
    let xml = domain.stored_xml()?;
    let card = Card::of(&xml)?;
    let noted = view::noted(context, name, domain.uuid()?)?;
    let (Ok(_), Some(record)) = (context.config.lab(&name.lab), noted) else {
        let xml = kept(context, name, domain);
        let xml = xml.with_context(|| format!("cannot power {name} on"))?;
        return context.hypervisor()?.define(&xml).map(drop);
    };
    disk::ensure_own(context, name, &xml)?;
    let overlay = context.paths.overlay(name);
    let base = context.paths.base_build(&name.lab, &record.build);
    disk::ensure_stands_on(name, &overlay, &base)?;
    let xml = definition(context, name, &overlay, &base, &record, Some(card.mac))?;
    context.hypervisor()?.define(&xml).map(drop)
}

/// The whole stored definition of `domain`, with its card at the card's own port and with a user of its
/// own: one that an earlier version made has neither.
pub fn kept(context: &Context, name: &InstanceName, domain: &Domain) -> Result<String> {
    let xml = domain.whole_xml()?;
    let card = Card::of(&xml)?;
    place::keep(context, name, &card)?;
    let xml = cards::at_own_port(&xml)?.unwrap_or(xml);
    match own_user::of(context, card.mac) {
        Some(user) => user.put_into(&xml),
        None => Ok(xml),
    }
}

fn definition(
    context: &Context,
    name: &InstanceName,
    overlay: &Path,
    base: &Path,
    record: &Record,
    preferred: Option<Mac>,
) -> Result<String> {
    let utf8 = |path: &Path| {
        path.to_str()
            .map(str::to_owned)
            .with_context(|| format!("{} is not valid Unicode", path.display()))
    };
    let lab = context.config.lab(&name.lab)?;
    let largest = overlay::provide_length(overlay, lab.limits.overlay_size)
        .with_context(|| format!("failed to limit the disk of {name}"))?;
    let card = place::of(context, lab.network.network(), name, preferred)?;
    let xml = InstanceDomain {
        name,
        uuid: record.uuid,
        lab,
        overlay: &utf8(overlay)?,
        base: &utf8(base)?,
        build: &record.build,
        largest,
        card,
        accelerator: context.accelerator()?,
        vnc_listen: context.config.host.vnc_listen,
        created: record.created,
    }
    .xml()?;
    match own_user::of(context, Mac::of(card)) {
        Some(user) => user.put_into(&xml),
        None => Ok(xml),
    }
}
