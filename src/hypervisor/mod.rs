//! libvirt: the only module that uses the `virt` crate.
//!
//! A [`Hypervisor`] is a connection, a [`Domain`] a handle on one of our guests. Both return plain
//! values and never print. Domains are addressed by handle, never by text, because libvirt takes a
//! name such as `17` for an id.

mod agent;
mod answer;
mod channel;
mod command;
mod cpu;
mod domain;
mod hand_over;
mod job;
mod leases;
mod network;
mod pool;
mod readiness;
pub mod save_file;
mod saved_memory;
mod screen;
mod stats;
mod usage;
pub mod xml;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::Result;
use uuid::Uuid;
use virt::connect::Connect;
use virt::enumutil::Enum;
use virt::error::{ErrorDomain, ErrorNumber};
use virt::sys;

pub use agent::{Answer, Ping, Script};
pub use answer::{GuestUse, Ran, Trouble, words};
pub use channel::Channel;
pub use command::Patience;
pub use domain::Domain;
pub use hand_over::Waiting;
pub use network::NetworkFacts;
pub use pool::PendingCall;
pub use readiness::{Account, Version, Versions};
pub use stats::{Detail, GuestMemory};

use pool::Pool;
use xml::domain::is_ours;

use crate::config::connect;
use crate::error::{Fault, Kind};
use crate::names::InstanceName;
use crate::scope::Scope;

/// A connection to libvirt. It hides instances that are out of scope.
#[derive(Debug)]
pub struct Hypervisor {
    conn: Connect,
    scope: Scope,
    pool: Arc<Pool>,
}

/// The power state of a domain according to the hypervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// Not running.
    Off,
    /// Running.
    On,
    /// Frozen by somebody, its memory in RAM.
    Frozen,
    /// Frozen by libvirt for a moment: starting, saving, shutting down. Do not act on this state.
    Busy,
    /// Frozen because its disk cannot be written, for example on a full file system.
    StuckOnDisk,
    /// Ended or stopped by a fault.
    Crashed,
}

/// The facts about a domain from one bulk call.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The domain's name.
    pub name: String,
    /// The domain's UUID; see [`is_ours`].
    pub uuid: Uuid,
    /// libvirt's number of this run of the domain, while it runs.
    pub id: Option<u32>,
    /// Its power state.
    pub power: Power,
    /// Its memory is saved on disk.
    pub saved: bool,
    /// Its memory was restored, and nothing happened to it since then.
    pub restored: bool,
    /// What libvirt reported of [`Facts::usage`], if anything. Boxed, because a listing of a
    /// thousand domains does not ask for it, and would copy the space for it.
    pub usage: Option<Box<Usage>>,
}

impl Facts {
    /// The usage of the domain, if it was requested and is known.
    pub fn usage(&self) -> &Usage {
        static UNKNOWN: LazyLock<Usage> = LazyLock::new(Usage::default);
        self.usage.as_deref().unwrap_or(&UNKNOWN)
    }
}

/// The usage of a domain; `None` where libvirt does not report it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since power-on.
    pub cpu_time_ns: Option<u64>,
    /// Time since power-on in which its virtual CPUs were ready to run but the host's CPUs were
    /// busy.
    pub cpu_wait_ns: Option<u64>,
    /// Virtual CPUs.
    pub vcpus: Option<u64>,
    /// Memory that it may use.
    pub memory_bytes: Option<u64>,
    /// Memory of the host that its QEMU process holds.
    pub resident_bytes: Option<u64>,
    /// Its guest's report on its memory.
    pub guest_memory: GuestMemory,
    /// Read from its disks since power-on.
    pub disk_read_bytes: Option<u64>,
    /// Written to its disks since power-on.
    pub disk_write_bytes: Option<u64>,
    /// Received by its network cards since power-on.
    pub net_rx_bytes: Option<u64>,
    /// Sent by its network cards since power-on.
    pub net_tx_bytes: Option<u64>,
}

/// The memory of a running guest.
#[derive(Debug)]
pub struct RunningGuest {
    /// The domain's name.
    pub name: String,
    /// Its assigned memory, in bytes.
    pub memory: u64,
    /// Memory of the host that its QEMU process uses, in bytes, if known.
    pub resident: Option<u64>,
}

/// The hint for an error when connecting to libvirt.
fn hint_on_connecting(message: &str) -> &'static str {
    if message.contains("system bus") {
        // Seen without systemd.
        "for users other than root, libvirt asks polkit over the system bus, which is not \
         running: start it (service dbus start) and then restart libvirt, or run this as root"
    } else {
        "is libvirtd (or virtqemud) running, and are you root or in the group libvirt? `make setup` \
         prepares a host"
    }
}

impl Hypervisor {
    /// Opens the connection `uri`, for the instances within `reach`.
    pub fn open(uri: &str, scope: Scope) -> Result<Hypervisor> {
        // libvirt would print every error on standard error by itself.
        virt::error::clear_error_callback();
        let conn = Connect::open(Some(uri)).map_err(|error| {
            let message = format!("failed to connect to libvirt at {uri}: {}", error.message());
            let hint = hint_on_connecting(error.message());
            Fault::new(Kind::Unavailable, message).hint(hint)
        })?;
        Ok(Hypervisor {
            conn,
            scope,
            pool: Arc::new(Pool::new(uri)),
        })
    }

    /// All instances in scope with their facts, by name, in a constant number of calls. Instances
    /// whose QEMU does not answer in time have no usage.
    pub fn survey(&self, detail: Detail) -> Result<Vec<(InstanceName, Facts)>> {
        let answered = match detail {
            Detail::Power | Detail::Work | Detail::Memory => None,
            Detail::Usage => usage::of_all(&self.pool),
        };
        let held_up = detail == Detail::Usage && answered.is_none();
        // In parallel: for each call, libvirt inspects every domain.
        let (all, saved, work) = std::thread::scope(|scope| {
            let saved = scope.spawn(|| self.saved());
            let work =
                (detail == Detail::Work).then(|| scope.spawn(|| usage::work_of_all(&self.pool)));
            let all = answered.unwrap_or_else(|| stats::of_all(&self.conn, Detail::Power));
            (all, saved.join(), work.map(|work| work.join()))
        });
        let mut all = all.map_err(|e| failed("read the state of all domains", e))?;
        all.retain(|facts| is_ours(facts.uuid));
        if held_up {
            usage::add(&self.pool, &mut all, usage::SHOWN);
        }
        if let Some(work) = work {
            let work = work.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            usage::add_work(&self.pool, &mut all, work);
        }
        let saved = saved.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let directory = saved_memory::directory(self.pool.uri());
        // One that came from another host: libvirt notices its file when it starts the domain. All are
        // read at once, because a thousand domains are many to look for.
        let files = directory.as_deref().and_then(|it| it.read_dir().ok());
        let files = files.into_iter().flatten().flatten();
        let files: HashSet<OsString> = files.map(|entry| entry.file_name()).collect();
        // `collect` knows no size for a filtered iterator, and moves a thousand items while it
        // grows.
        let mut instances = Vec::with_capacity(all.len());
        instances.extend(
            all.into_iter()
                // If its name does not parse, a domain with our UUID was renamed by hand and is no
                // instance.
                .filter_map(|facts| Some((facts.name.parse::<InstanceName>().ok()?, facts)))
                .filter(|(name, _)| self.scope.covers(name)),
        );
        for (_, facts) in &mut instances {
            let has_file = || files.contains(OsStr::new(&saved_memory::file_name(&facts.name)));
            let saved = saved.contains(&facts.uuid) || facts.power == Power::Off && has_file();
            saved_memory::note_saved(facts, saved, directory.as_deref());
        }
        instances.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(instances)
    }

    /// The domains whose memory is saved, as libvirt knows them.
    fn saved(&self) -> Result<HashSet<Uuid>> {
        let saved = sys::VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE;
        let saved = self.conn.list_all_domains(saved);
        let saved = saved.map_err(|e| failed("list saved domains", e))?;
        Ok(saved.iter().filter_map(|it| it.uuid().ok()).collect())
    }

    /// Whether libvirt at `uri` answers at all within `deadline`, even with an error.
    pub fn answers(uri: &str, deadline: Duration) -> bool {
        let pool = Arc::new(Pool::new(uri));
        pool.within(deadline, Connect::lib_version).is_some()
    }

    /// Whether the guests run on this host.
    pub fn is_local(&self) -> bool {
        connect::local(self.pool.uri()).is_some()
    }

    /// Whether this is the system's libvirt, which can run each guest as a different user.
    pub fn is_system(&self) -> bool {
        connect::is_system(self.pool.uri())
    }

    /// The memory of all running guests, ours or not and in scope or not: they share the host.
    pub fn memory_of_running(&self) -> Result<Vec<RunningGuest>> {
        let all = usage::memory_of_all(&self.pool, &self.conn)?;
        let running = all.into_iter().filter(|facts| facts.id.is_some());
        let guests = running.map(|facts| {
            let memory = match facts.usage().memory_bytes {
                Some(bytes) => bytes,
                // Not every driver has a bulk call for it.
                None => match self.look_up(&facts.name)? {
                    Some((_, domain)) => domain.memory()?,
                    None => 0,
                },
            };
            Ok(RunningGuest {
                memory,
                resident: facts.usage().resident_bytes,
                name: facts.name,
            })
        });
        guests.collect()
    }

    /// The domain of an instance, if there is one. A foreign domain with that name is a conflict.
    pub fn find(&self, name: &InstanceName) -> Result<Option<Domain>> {
        if !self.scope.covers(name) {
            return Ok(None);
        }
        let Some((uuid, domain)) = self.look_up(&name.to_string())? else {
            return Ok(None);
        };
        if is_ours(uuid) {
            return Ok(Some(domain));
        }
        let message = format!("the libvirt domain {name} was not created by cyyber");
        let hint = "rename that domain, or use another user id; cyyber does not change it";
        Err(Fault::new(Kind::Conflict, message).hint(hint).into())
    }

    fn look_up(&self, name: &str) -> Result<Option<(Uuid, Domain)>> {
        let found = self.conn.lookup_domain_by_name(name);
        match found.and_then(|inner| Ok((inner.uuid()?, self.domain(inner)))) {
            Err(e) if is(&e, ErrorNumber::NoDomain) => Ok(None),
            Err(e) => Err(failed(&format!("look up {name}"), e)),
            Ok(found) => Ok(Some(found)),
        }
    }

    fn domain(&self, inner: virt::domain::Domain) -> Domain {
        let pool = Arc::clone(&self.pool);
        Domain { inner, pool }
    }

    /// The names and definitions of all domains, ours or not and in scope or not; for a running
    /// one, also its present definition. This takes a call per domain: use it rarely. It tells who
    /// uses a file; these names must not be shown with `--as-user`.
    pub fn definitions(&self) -> Result<Vec<(String, String)>> {
        let all = self.conn.list_all_domains(0);
        let mut definitions = Vec::new();
        for domain in all.map_err(|e| failed("list all domains", e))? {
            for form in [0, sys::VIR_DOMAIN_XML_INACTIVE] {
                let xml = domain.xml_desc(form);
                let named = xml.and_then(|xml| Ok((domain.name()?, xml)));
                match named {
                    Ok(definition) => definitions.push(definition),
                    Err(e) if is(&e, ErrorNumber::NoDomain) => {}
                    Err(e) => return Err(failed("read a domain's definition", e)),
                }
            }
        }
        Ok(definitions)
    }

    /// The definition `xml` of a domain that does not exist, completed by libvirt, for example with
    /// addresses of devices.
    pub fn expanded(&self, xml: &str) -> Result<String> {
        let domain = self.define(xml)?;
        let whole = domain.whole_xml();
        domain.undefine()?;
        whole
    }

    /// Starts a transient domain that ends with this connection, however that ends.
    pub fn run(&self, xml: &str) -> Result<Domain> {
        let flags = sys::VIR_DOMAIN_START_AUTODESTROY;
        let inner = self.conn.create_domain_xml(xml, flags);
        Ok(self.domain(inner.map_err(|e| failed("start the domain", e))?))
    }

    /// The domain called `name`, which does not belong to an instance, if it exists and is ours.
    pub fn other(&self, name: &str) -> Result<Option<Domain>> {
        let found = self.look_up(name)?.filter(|(uuid, _)| is_ours(*uuid));
        Ok(found.map(|(_, domain)| domain))
    }

    /// Defines a domain, or changes the definition of the one with the same UUID.
    pub fn define(&self, xml: &str) -> Result<Domain> {
        let defined = self.conn.define_domain_xml(xml);
        let inner = defined.map_err(|e| failed("define the domain", e))?;
        Ok(self.domain(inner))
    }
}

fn is(error: &virt::error::Error, number: ErrorNumber) -> bool {
    matches!(error.code(), Enum::Known(code) if code == number)
}

fn failed(what: &str, error: virt::error::Error) -> anyhow::Error {
    // They may contain QEMU's messages, and QEMU may be controlled by a guest.
    let message = format!("failed to {what}: {}", answer::words(error.message()));
    if is_lost(&error) {
        let hint = "try again when that daemon of libvirt runs again; `make setup` starts those \
                    that do \
                    not run";
        Fault::new(Kind::Unavailable, message).hint(hint).into()
    } else {
        anyhow::anyhow!(message)
    }
}

/// Whether the connection failed.
fn is_lost(error: &virt::error::Error) -> bool {
    is(error, ErrorNumber::NoConnect)
        || is(error, ErrorNumber::Rpc)
        || matches!(
            error.domain(),
            Enum::Known(ErrorDomain::Rpc | ErrorDomain::Remote)
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_system_bus_is_told_apart() {
        let said = "internal error: Unable to get system bus connection: Could not connect";
        assert!(hint_on_connecting(said).contains("service dbus start"));
        assert!(hint_on_connecting("Permission denied").contains("make setup"));
    }
}
