//! One guest, as a libvirt handle.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use uuid::Uuid;
use virt::connect::Connect;
use virt::error::{Error, ErrorNumber};
use virt::sys;

use super::pool::Pool;
use super::{Detail, Facts, Power, answer, failed, is, saved_memory, stats};
use crate::error::{Fault, Kind};
use crate::names::InstanceName;

/// How long a QEMU may take to answer. One on a busy host takes a second.
pub(super) const QEMU_DEADLINE: Duration = Duration::from_secs(20);

/// One guest.
#[derive(Debug)]
pub struct Domain {
    pub(super) inner: virt::domain::Domain,
    pub(super) pool: Arc<Pool>,
}

impl Domain {
    /// Facts about this domain as they are now; `None` when it is gone.
    pub fn facts(&self, detail: Detail) -> Result<Option<Facts>> {
        let Some(mut facts) =
            stats::of_one(&self.inner, detail).map_err(|e| failed("read the domain's state", e))?
        else {
            return Ok(None);
        };
        let saved = match self.inner.has_managed_save(0) {
            Ok(saved) => saved,
            Err(e) if is(&e, ErrorNumber::NoDomain) => return Ok(None),
            Err(e) => return Err(failed("ask for saved memory", e)),
        };
        // If it came from another host, libvirt notices the file when it starts the domain.
        let arrived = || self.saved_memory_file().is_some_and(|file| file.is_file());
        let saved = saved || facts.power == Power::Off && arrived();
        let directory = saved_memory::directory(self.pool.uri());
        saved_memory::note_saved(&mut facts, saved, directory.as_deref());
        Ok(Some(facts))
    }

    /// The definition of the running domain, or the stored one. Without passwords.
    pub fn xml(&self) -> Result<String> {
        let xml = self.inner.xml_desc(0);
        xml.map_err(|e| failed("read the domain's definition", e))
    }

    /// The stored definition, also of a running domain. Without passwords.
    pub fn stored_xml(&self) -> Result<String> {
        let xml = self.inner.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE);
        xml.map_err(|e| failed("read the domain's stored definition", e))
    }

    /// The stored definition with everything in it, including the password of its console;
    /// redefining the domain without it would open the console to everyone.
    pub fn whole_xml(&self) -> Result<String> {
        let all = sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE;
        let xml = self.inner.xml_desc(all);
        xml.map_err(|e| failed("read the domain's whole definition", e))
    }

    /// Powers it on, or restores its saved memory.
    pub fn start(&self) -> Result<()> {
        self.inner.create().map_err(|e| self.start_failed(e))
    }

    /// Freezes it, with its memory in RAM.
    pub fn freeze(&self) -> Result<()> {
        self.by_qemu("freeze the domain", |domain| domain.suspend().map(drop))
    }

    /// Unfreezes a domain. It is fine if it runs already: a call of a killed command may still be
    /// in progress in libvirt.
    pub fn thaw(&self) -> Result<()> {
        let thawed = self.by_qemu("unfreeze the domain", |domain| domain.resume().map(drop));
        thawed.or_else(|error| match self.facts(Detail::Power)? {
            Some(facts) if facts.power == Power::On => Ok(()),
            _ => Err(error),
        })
    }

    /// Presses the guest's ACPI power button; the domain's state shows whether that worked. Does
    /// not wait for a QEMU that does not answer within `deadline`.
    pub fn press_power_button(&self, deadline: Duration) {
        self.within(deadline, |domain| {
            match domain.shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN) {
                // A hypervisor with only one kind of shutdown.
                Err(e) if is(&e, ErrorNumber::InvalidArg) => domain.shutdown().map(drop),
                pressed => pressed.map(drop),
            }
        });
    }

    /// Powers it off at once. It is no error if it is off already.
    pub fn power_off(&self) -> Result<()> {
        match self.inner.destroy() {
            Err(e) if !is(&e, ErrorNumber::OperationInvalid) => {
                Err(failed("power the domain off", e))
            }
            _ => Ok(()),
        }
    }

    /// Undefines the domain, which must be off, with all that libvirt keeps for it, but never a
    /// disk.
    pub fn undefine(&self) -> Result<()> {
        self.forget_own_name();
        let all = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
        match self.inner.undefine_flags(all) {
            Err(e) if !is(&e, ErrorNumber::NoDomain) => Err(failed("undefine the domain", e)),
            _ => Ok(()),
        }
    }

    /// Changes a device of the running domain only.
    pub fn update_live(&self, device: String) -> Result<()> {
        self.by_qemu("change a device of the running domain", move |domain| {
            domain
                .update_device_flags(&device, sys::VIR_DOMAIN_AFFECT_LIVE)
                .map(drop)
        })
    }

    /// Plugs a device into the running domain only.
    pub fn plug_in(&self, device: String) -> Result<()> {
        self.by_qemu("plug a device into the running domain", move |domain| {
            domain.attach_device_flags(&device, sys::VIR_DOMAIN_AFFECT_LIVE)
        })
    }

    /// Unplugs a device of the running domain only, if it has it.
    pub fn unplug(&self, device: String) -> Result<()> {
        self.by_qemu(
            "unplug a device of the running domain",
            move |domain| match domain.detach_device_flags(&device, sys::VIR_DOMAIN_AFFECT_LIVE) {
                Err(e) if !is(&e, ErrorNumber::DeviceMissing) => Err(e),
                _ => Ok(()),
            },
        )
    }

    /// Calls libvirt about this domain on a separate connection; `None` if that takes too long.
    pub(super) fn within<T: Send + 'static>(
        &self,
        deadline: Duration,
        call: impl FnOnce(&virt::domain::Domain) -> Result<T, Error> + Send + 'static,
    ) -> Option<Result<T, Error>> {
        let uuid = self.inner.uuid();
        let of_own = move |conn: &Connect| call(&conn.lookup_domain_by_uuid(uuid?)?);
        self.pool.within(deadline, of_own)
    }

    /// Runs a call that needs an answer of the domain's QEMU, with a time limit.
    pub(super) fn by_qemu<T: Send + 'static>(
        &self,
        what: &str,
        call: impl FnOnce(&virt::domain::Domain) -> Result<T, virt::error::Error> + Send + 'static,
    ) -> Result<T> {
        match self.within(QEMU_DEADLINE, call) {
            Some(answer) => answer.map_err(|e| failed(what, e)),
            None => {
                let message = format!("failed to {what}: its QEMU does not answer");
                let hint = format!("power it off: {}", self.by_force());
                Err(Fault::new(Kind::Failed, message).hint(hint).into())
            }
        }
    }

    /// Its UUID.
    pub fn uuid(&self) -> Result<Uuid> {
        let uuid = self.inner.uuid();
        uuid.map_err(|e| failed("read the domain's UUID", e))
    }

    /// The address that the lab network's DHCP server gave to the guest.
    pub fn leased_address(&self) -> Option<IpAddr> {
        let source = sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE;
        let interfaces = self.inner.interface_addresses(source, 0).ok()?;
        let mut addresses = interfaces.iter().flat_map(|interface| &interface.addrs);
        addresses.find_map(|address| address.addr.parse().ok())
    }

    /// The command that powers it off by force, whatever happens to its memory.
    fn by_force(&self) -> String {
        let name = self.inner.name().unwrap_or_default();
        match name.parse::<InstanceName>() {
            Ok(name) => format!("cyyber instance stop {} --force", name.arguments()),
            Err(_) => format!("virsh destroy {name}"),
        }
    }

    /// The error of a domain that failed to start.
    pub(super) fn start_failed(&self, e: Error) -> anyhow::Error {
        let says = |what: &str| e.message().contains(what);
        let of_its_disk = says("Cannot access storage file") || says("Cannot access backing file");
        let changed = format!(
            "a device or limit was changed by other means since its memory was saved: make the \
             same change in its stored definition (virsh edit), or discard the memory: {}",
            self.by_force()
        );
        let (kind, hint) = if says("Cannot allocate memory") {
            (
                Kind::Capacity,
                "the host does not have enough free memory for it",
            )
        } else if of_its_disk && says("No such file") {
            let hint = "restore that file; if storage_dir was moved, create a link at its old path";
            (Kind::Conflict, hint)
        } else if of_its_disk {
            let hint = "`cyyber doctor` checks whether QEMU can reach the images";
            (Kind::Failed, hint)
        } else if says("Permission denied") {
            let hint = "`cyyber doctor` checks whether QEMU can reach what it needs; \
                        dynamic_ownership must not be 0 in /etc/libvirt/qemu.conf";
            (Kind::Failed, hint)
        } else if says("interface already exists") {
            let hint = "a running VM of another configuration of this host has its address: stop \
                        that one, or let both configurations use the same state_dir";
            (Kind::Conflict, hint)
        } else if says("cgroup") {
            let hint = "libvirt cannot limit CPU time here: the host's control groups lack the cpu \
                        controller where libvirtd runs";
            (Kind::Unavailable, hint)
        } else if is(&e, ErrorNumber::ConfigUnsupported) {
            (Kind::Conflict, &*changed)
        } else if is(&e, ErrorNumber::NoNetwork) || says("is not active") && says("network") {
            let hint = "`make setup` defines and starts the lab networks";
            (Kind::Unavailable, hint)
        } else {
            return failed("start the domain", e);
        };
        let message = format!("failed to start the domain: {}", answer::words(e.message()));
        Fault::new(kind, message).hint(hint).into()
    }
}
