//! The definition of an instance's domain: created once, and updated from the configuration before
//! each power-on.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::Instance;
use super::disk;
use super::qemu_user;
use super::record::{self, Record};
use crate::files::Exact;
use crate::hypervisor::xml::domain::{self, InstanceDomain};
use crate::hypervisor::xml::interface::{self, Interface};
use crate::images::base::Base;
use crate::images::layer::Layer;
use crate::images::overlay;
use crate::network::Mac;
use crate::text;

impl Instance<'_> {
    /// Defines its domain, which must be missing, with its disk `overlay`, which is based on `base`
    /// and was just created if it is `new`.
    pub(super) fn define(&self, overlay: &Path, base: &Base, new: bool) -> Result<()> {
        let (context, name) = (self.context, self.name);
        context.warn_of_emulation();
        let disk = Some(overlay.to_owned());
        let mut record = Record::new(domain::new_uuid(), base.build.clone(), disk, context.time());
        let xml = self.definition(overlay, &base.path, &record, None)?;
        record.unused = new.then(|| exact(overlay)).flatten();
        // Before the domain exists, so that no pass finds it without a sign of use.
        self.touch_activity()?;
        let domain = context.hypervisor()?.define(&xml)?;
        let _ = self.domain.set(domain);
        if let Err(error) = record::write(&context.paths.record(name), &record) {
            // libvirt has the same facts; without the record, listings are only slower.
            let failed = format!("failed to record the creation of {name}: {error}");
            context.output.warn(&failed);
        }
        Ok(())
    }

    /// Updates its definition, while it is off, from the present configuration. Its disk does not
    /// change, nor its address unless a running VM of another configuration has it. If its lab is no
    /// longer configured, only the port of its network interface is updated. Fails if its disks were
    /// changed by other means: a guest that boots from them could lose data.
    pub(super) fn renew(&self) -> Result<()> {
        let (context, name, domain) = (self.context, self.name, self.domain()?);
        let xml = domain.stored_xml()?;
        let card = Interface::from_xml(&xml)?;
        let xml = match (context.config.lab(&name.lab), self.record()?) {
            (Ok(_), Some(record)) => {
                self.ensure_own_disk(&xml)?;
                let overlay = context.paths.overlay(name);
                let base = context.paths.base_build(&name.lab, &record.build);
                disk::ensure_stands_on(name, &overlay, &base)?;
                self.definition(&overlay, &base, &record, Some(card.mac))?
            }
            _ => self
                .kept_definition()
                .with_context(|| format!("cannot power on {name}"))?,
        };
        context.hypervisor()?.define(&xml).map(drop)
    }

    /// Its complete stored definition, with its own port and its own user: definitions of an
    /// earlier version have neither.
    pub(super) fn kept_definition(&self) -> Result<String> {
        let xml = self.domain()?.whole_xml()?;
        let card = Interface::from_xml(&xml)?;
        self.hold_address(&card)?;
        let xml = interface::at_own_port(&xml)?.unwrap_or(xml);
        qemu_user::put_into(self.context, card.mac, xml)
    }

    pub(super) fn definition(
        &self,
        overlay: &Path,
        base: &Path,
        record: &Record,
        preferred: Option<Mac>,
    ) -> Result<String> {
        let (context, name) = (self.context, self.name);
        let lab = context.config.lab(&name.lab)?;
        let largest = overlay::provide_length(overlay, lab.limits.overlay_size)
            .with_context(|| format!("failed to limit the disk of {name}"))?;
        let layer = Layer::below(overlay)?.map(|layer| layer.path(&context.paths));
        let card = self.reserve_address(lab.network.network(), preferred)?;
        let xml = InstanceDomain {
            name,
            uuid: record.uuid,
            lab,
            overlay: text::path(overlay)?,
            base: text::path(base)?,
            layer: layer.as_deref().map(text::path).transpose()?,
            build: &record.build,
            largest,
            card,
            accelerator: context.accelerator()?,
            vnc_listen: context.config.host.vnc_listen,
            share_memory: context.config.host.share_memory,
            created: record.created,
        }
        .xml()?;
        qemu_user::put_into(context, Mac::from_host_part(card), xml)
    }
}

/// The identity and the state of the file at `path`, to recognise a replaced or changed file.
pub(super) fn exact(path: &Path) -> Option<Exact> {
    Exact::try_from(&path.symlink_metadata().ok()?).ok()
}
