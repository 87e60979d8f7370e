//! libvirt: the one room where the `virt` crate is named.
//!
//! A [`Hypervisor`] is a connection, a [`Domain`] a handle on one of our guests. Both return plain
//! values and never print. Domains are addressed by handle, never by text: libvirt takes a name
//! such as `17` for an id.

mod stats;

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use uuid::Uuid;
use virt::connect::Connect;
use virt::enumutil::Enum;
use virt::error::{ErrorDomain, ErrorNumber};
use virt::sys;

pub use stats::Detail;

use crate::domain;
use crate::error::{Fault, Kind};
use crate::instance::InstanceName;

/// How long the usage of all domains may take to read. A thousand take a fraction of it.
const USAGE_DEADLINE: Duration = Duration::from_secs(3);

/// How long a QEMU may take to answer. One on a busy host takes a second.
const QEMU_DEADLINE: Duration = Duration::from_secs(20);

/// A connection to libvirt.
#[derive(Debug)]
pub struct Hypervisor {
    conn: Connect,
    uri: String,
}

/// One guest.
#[derive(Debug)]
pub struct Domain {
    inner: virt::domain::Domain,
    uri: String,
}

/// What the hypervisor says of a domain's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// Not running.
    Off,
    /// Running.
    On,
    /// Held still by somebody, its memory in RAM.
    Frozen,
    /// Held still by libvirt for a moment: starting, saving, shutting down. Not a state to act on.
    Busy,
    /// Held still because its disk cannot be written, as on a full file system.
    StuckOnDisk,
    /// Ended or stopped by a fault.
    Crashed,
}

/// What one bulk call tells about a domain.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The domain's name.
    pub name: String,
    /// The domain's UUID; see [`domain::is_ours`].
    pub uuid: Uuid,
    /// libvirt's number of this run of the domain, while it runs.
    pub id: Option<u32>,
    /// Its power state.
    pub power: Power,
    /// Its memory is saved on disk.
    pub saved: bool,
    /// What it uses, as far as it was asked for and is known.
    pub usage: Usage,
}

/// What a domain uses; `None` where libvirt does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since power-on.
    pub cpu_time_ns: Option<u64>,
    /// Virtual CPUs.
    pub vcpus: Option<u64>,
    /// Memory that it may use.
    pub memory_bytes: Option<u64>,
    /// Memory of the host that its QEMU process holds.
    pub resident_bytes: Option<u64>,
    /// Read from its disks since power-on.
    pub disk_read_bytes: Option<u64>,
    /// Written to its disks since power-on.
    pub disk_write_bytes: Option<u64>,
    /// Received by its network cards since power-on.
    pub net_rx_bytes: Option<u64>,
    /// Sent by its network cards since power-on.
    pub net_tx_bytes: Option<u64>,
}

impl Hypervisor {
    /// Opens the connection `uri`.
    pub fn open(uri: &str) -> Result<Hypervisor> {
        // libvirt would print every error on standard error by itself.
        virt::error::clear_error_callback();
        let conn = Connect::open(Some(uri)).map_err(|error| {
            Fault::new(Kind::Unavailable, format!("failed to connect to libvirt at {uri}: {}", error.message()))
                .hint("is libvirtd running, and are you root or in the group libvirt? `make setup` prepares a host")
        })?;
        Ok(Hypervisor {
            conn,
            uri: uri.to_owned(),
        })
    }

    /// Facts about all domains of ours, in a number of calls that does not depend on how many
    /// there are. Usage is left out, of all, where a guest's QEMU does not answer in time.
    pub fn survey(&self, detail: Detail) -> Result<Vec<Facts>> {
        let answered = match detail {
            Detail::Power => None,
            Detail::Usage => apart(&self.uri, USAGE_DEADLINE, move |conn| {
                stats::of_all(conn, detail)
            }),
        };
        let mut all = answered
            .unwrap_or_else(|| stats::of_all(&self.conn, Detail::Power))
            .map_err(|e| failed("read the state of all domains", e))?;
        all.retain(|facts| domain::is_ours(facts.uuid));
        let saved = self
            .conn
            .list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)
            .map_err(|e| failed("list saved domains", e))?;
        let saved: HashSet<Uuid> = saved
            .iter()
            .filter_map(|domain| domain.uuid().ok())
            .collect();
        for facts in &mut all {
            facts.saved = saved.contains(&facts.uuid);
        }
        Ok(all)
    }

    /// The domain of an instance, if there is one. A domain of that name that is not ours is a
    /// conflict.
    pub fn find(&self, name: &InstanceName) -> Result<Option<Domain>> {
        let inner = match self.conn.lookup_domain_by_name(&name.to_string()) {
            Ok(inner) => inner,
            Err(e) if is(&e, ErrorNumber::NoDomain) => return Ok(None),
            Err(e) => return Err(failed(&format!("look up {name}"), e)),
        };
        let uuid = inner
            .uuid()
            .map_err(|e| failed(&format!("look up {name}"), e))?;
        if domain::is_ours(uuid) {
            return Ok(Some(Domain {
                inner,
                uri: self.uri.clone(),
            }));
        }
        Err(Fault::new(
            Kind::Conflict,
            format!("the libvirt domain {name} was not made by cyyber"),
        )
        .hint("rename that domain, or use another user id; cyyber leaves it alone")
        .into())
    }

    /// Defines a domain, or changes the definition of the one with the same UUID.
    pub fn define(&self, xml: &str) -> Result<Domain> {
        let inner = self
            .conn
            .define_domain_xml(xml)
            .map_err(|e| failed("define the domain", e))?;
        Ok(Domain {
            inner,
            uri: self.uri.clone(),
        })
    }
}

impl Domain {
    /// Facts about this domain as they are now; `None` when it is gone.
    pub fn facts(&self, detail: Detail) -> Result<Option<Facts>> {
        let Some(mut facts) =
            stats::of_one(&self.inner, detail).map_err(|e| failed("read the domain's state", e))?
        else {
            return Ok(None);
        };
        facts.saved = match self.inner.has_managed_save(0) {
            Ok(saved) => saved,
            Err(e) if is(&e, ErrorNumber::NoDomain) => return Ok(None),
            Err(e) => return Err(failed("ask for saved memory", e)),
        };
        Ok(Some(facts))
    }

    /// The definition of the running domain, or the stored one. Without passwords.
    pub fn xml(&self) -> Result<String> {
        self.inner
            .xml_desc(0)
            .map_err(|e| failed("read the domain's definition", e))
    }

    /// Powers it on, or restores its saved memory.
    pub fn start(&self) -> Result<()> {
        self.inner.create().map_err(|e| {
            if e.message().contains("Cannot allocate memory") {
                return Fault::new(
                    Kind::Capacity,
                    format!("failed to start the domain: {}", e.message()),
                )
                .hint("the host has not enough free memory for it")
                .into();
            }
            let networkless = is(&e, ErrorNumber::NoNetwork)
                || e.message().contains("is not active") && e.message().contains("network");
            match networkless {
                true => Fault::new(
                    Kind::Unavailable,
                    format!("failed to start the domain: {}", e.message()),
                )
                .hint("`make setup` defines and starts the lab networks")
                .into(),
                false => failed("start the domain", e),
            }
        })
    }

    /// Lets a frozen domain run on.
    pub fn thaw(&self) -> Result<()> {
        self.by_qemu("let the domain run on", |domain| domain.resume().map(drop))
    }

    /// Presses the guest's ACPI power button; whether that worked shows in the domain's state. A
    /// QEMU that does not answer within `deadline` is not waited for.
    pub fn press_power_button(&self, deadline: Duration) {
        let Ok(uuid) = self.inner.uuid() else {
            return;
        };
        apart(&self.uri, deadline, move |conn| {
            conn.lookup_domain_by_uuid(uuid)?
                .shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
        });
    }

    /// Has the guest's agent shut the guest down. The agent does not answer to this, so whether it
    /// worked shows in the domain's state alone; libvirt's own call for it would wait a minute for
    /// that.
    pub fn shut_down_by_agent(&self) {
        let _ = self.agent(r#"{"execute":"guest-shutdown"}"#, Duration::from_secs(1));
    }

    /// Powers it off at once. A domain that is off already is fine.
    pub fn power_off(&self) -> Result<()> {
        match self.inner.destroy() {
            Err(e) if !is(&e, ErrorNumber::OperationInvalid) => {
                Err(failed("power the domain off", e))
            }
            _ => Ok(()),
        }
    }

    /// Removes its saved memory from disk.
    pub fn drop_saved_memory(&self) -> Result<()> {
        self.inner
            .managed_save_remove(0)
            .map_err(|e| failed("drop the saved memory", e))
    }

    /// Changes a device of the running domain, and of it alone.
    pub fn update_live(&self, device: String) -> Result<()> {
        self.by_qemu("change a device of the running domain", move |domain| {
            domain
                .update_device_flags(&device, sys::VIR_DOMAIN_AFFECT_LIVE)
                .map(drop)
        })
    }

    /// Does what needs an answer of the domain's QEMU, which is waited for within bounds.
    fn by_qemu(
        &self,
        what: &str,
        call: impl FnOnce(&virt::domain::Domain) -> Result<(), virt::error::Error> + Send + 'static,
    ) -> Result<()> {
        let uuid = self.inner.uuid().map_err(|e| failed(what, e))?;
        let answer = apart(&self.uri, QEMU_DEADLINE, move |conn| {
            call(&conn.lookup_domain_by_uuid(uuid)?)
        });
        match answer {
            Some(answer) => answer.map_err(|e| failed(what, e)),
            None => Err(Fault::new(
                Kind::Failed,
                format!("failed to {what}: its QEMU does not answer"),
            )
            .hint("power it off: cyyber instance stop LAB USER --force")
            .into()),
        }
    }

    /// Whether the agent inside the guest answers within `deadline` (whole seconds, at least one).
    pub fn agent_answers(&self, deadline: Duration) -> bool {
        self.agent(r#"{"execute":"guest-ping"}"#, deadline).is_ok()
    }

    fn agent(&self, command: &str, deadline: Duration) -> Result<String> {
        let seconds = i32::try_from(deadline.as_secs()).unwrap_or(i32::MAX).max(1);
        self.inner
            .qemu_agent_command(command, seconds, 0)
            .map_err(|e| failed("ask the guest agent", e))
    }

    /// The address that the lab network's DHCP server gave to the guest.
    pub fn leased_address(&self) -> Option<IpAddr> {
        let source = sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE;
        let interfaces = self.inner.interface_addresses(source, 0).ok()?;
        interfaces
            .iter()
            .flat_map(|interface| &interface.addrs)
            .find_map(|address| address.addr.parse().ok())
    }
}

/// What `call` returns, if it does so within `deadline`, on a connection of its own.
///
/// libvirt waits for a QEMU that does not answer, some calls for ever, and later calls on the same
/// connection wait with it. Such a call is left behind with its connection, to end with this
/// process.
fn apart<T: Send + 'static>(
    uri: &str,
    deadline: Duration,
    call: impl FnOnce(&Connect) -> Result<T, virt::error::Error> + Send + 'static,
) -> Option<Result<T, virt::error::Error>> {
    let uri = uri.to_owned();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let answer = Connect::open(Some(&uri)).and_then(|conn| call(&conn));
        sender.send(answer)
    });
    receiver.recv_timeout(deadline).ok()
}

fn is(error: &virt::error::Error, number: ErrorNumber) -> bool {
    matches!(error.code(), Enum::Known(code) if code == number)
}

fn failed(what: &str, error: virt::error::Error) -> anyhow::Error {
    let message = format!("failed to {what}: {}", error.message());
    let lost = is(&error, ErrorNumber::NoConnect)
        || is(&error, ErrorNumber::Rpc)
        || matches!(
            error.domain(),
            Enum::Known(ErrorDomain::Rpc | ErrorDomain::Remote)
        );
    match lost {
        true => Fault::new(Kind::Unavailable, message)
            .hint("the connection to libvirtd was lost; try again when it is back")
            .into(),
        false => anyhow::anyhow!(message),
    }
}
