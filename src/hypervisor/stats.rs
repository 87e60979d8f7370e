//! The state and statistics of all domains in one call.
//!
//! The `virt` crate returns bulk statistics only as raw pointers, so this file uses libvirt's C
//! interface. The counters of a guest come from its QEMU, which may lie if the guest controls it.
#![allow(unsafe_code)]
#![deny(clippy::arithmetic_side_effects)]

use std::ffi::CStr;
use std::ptr;

use jiff::Timestamp;
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

use super::{Facts, Power, Usage};

/// With NOWAIT, a domain whose QEMU does not answer is reported with what libvirt itself knows,
/// instead of delaying the call for 30 seconds.
const FLAGS: u32 = sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT;

/// How much to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Power state only.
    Power,
    /// Of running domains, CPU time as well.
    Work,
    /// Of running domains, memory as well.
    Memory,
    /// CPU, memory, disk and network as well.
    Usage,
}

impl Detail {
    fn groups(self) -> u32 {
        match self {
            Detail::Power => sys::VIR_DOMAIN_STATS_STATE,
            Detail::Work => {
                sys::VIR_DOMAIN_STATS_STATE
                    | sys::VIR_DOMAIN_STATS_CPU_TOTAL
                    | sys::VIR_DOMAIN_STATS_VCPU
            }
            Detail::Memory => sys::VIR_DOMAIN_STATS_STATE | sys::VIR_DOMAIN_STATS_BALLOON,
            Detail::Usage => {
                Detail::Memory.groups()
                    | sys::VIR_DOMAIN_STATS_CPU_TOTAL
                    | sys::VIR_DOMAIN_STATS_VCPU
                    | sys::VIR_DOMAIN_STATS_INTERFACE
                    | sys::VIR_DOMAIN_STATS_BLOCK
            }
        }
    }
}

/// How old the guest's report may be, in seconds. A running guest is asked every ten.
const FRESH: i64 = 60;

/// A guest's report on its memory, which its kernel sends to the balloon device, if it has the
/// driver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GuestMemory {
    total_bytes: Option<u64>,
    /// Memory available to its programs, including caches that can be dropped.
    usable_bytes: Option<u64>,
    /// Unused memory.
    free_bytes: Option<u64>,
    /// The time of the report, in seconds since 1970; 0 for never.
    updated: Option<u64>,
}

impl GuestMemory {
    /// Memory used by the guest's programs and kernel, without caches; `None` if the guest has not
    /// reported recently, or implausibly.
    pub fn used_bytes(&self, now: Timestamp) -> Option<u64> {
        let updated = i64::try_from(self.updated?).ok()?;
        if updated < now.as_second().saturating_sub(FRESH) {
            return None;
        }
        let left = self.usable_bytes.or(self.free_bytes)?;
        self.total_bytes?.checked_sub(left)
    }
}

/// Facts about every domain of the connection.
pub(super) fn of_all(conn: &Connect, detail: Detail) -> Result<Vec<Facts>, Error> {
    let flags = match detail {
        Detail::Work | Detail::Memory => FLAGS | sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE,
        Detail::Power | Detail::Usage => FLAGS,
    };
    let mut records = ptr::null_mut();
    // SAFETY: the connection is open for as long as `conn` lives; `records` is ours to write to.
    let count = unsafe {
        sys::virConnectGetAllDomainStats(conn.as_ptr(), detail.groups(), &mut records, flags)
    };
    collect(records, count)
}

/// Facts about one domain; `None` when it is gone.
pub(super) fn of_one(domain: &Domain, detail: Detail) -> Result<Option<Facts>, Error> {
    let mut records = ptr::null_mut();
    // SAFETY: the list is terminated by a null pointer as libvirt wants it, and the domain lives
    // at least as long as `domain`; `records` is ours to write to.
    let count = unsafe {
        let mut domains = [domain.as_ptr(), ptr::null_mut()];
        sys::virDomainListGetStats(domains.as_mut_ptr(), detail.groups(), &mut records, FLAGS)
    };
    Ok(collect(records, count)?.pop())
}

fn collect(records: *mut sys::virDomainStatsRecordPtr, count: i32) -> Result<Vec<Facts>, Error> {
    let Ok(count) = usize::try_from(count) else {
        return Err(Error::last_error());
    };
    // SAFETY: libvirt returned `count` records, each pointing to a domain and to `nparams`
    // parameters, all valid until the list is freed below; `Facts` owns copies.
    unsafe {
        let facts = (0..count).map(|i| facts(&**records.add(i))).collect();
        sys::virDomainStatsRecordListFree(records);
        Ok(facts)
    }
}

/// # Safety
///
/// `record` must come from libvirt and must not have been freed.
unsafe fn facts(record: &sys::virDomainStatsRecord) -> Facts {
    let mut uuid = [0_u8; sys::VIR_UUID_BUFLEN as usize];
    // SAFETY: the domain is valid by the caller's promise, the buffer has libvirt's length, and
    // the name belongs to the domain.
    let name = unsafe {
        sys::virDomainGetUUID(record.dom, uuid.as_mut_ptr());
        let name = CStr::from_ptr(sys::virDomainGetName(record.dom));
        name.to_string_lossy().into_owned()
    };
    let (mut state, mut reason, mut usage) = (0, 0, None::<Box<Usage>>);
    for i in 0..usize::try_from(record.nparams).unwrap_or(0) {
        // SAFETY: `params` holds `nparams` parameters by the caller's promise.
        let param = unsafe { &*record.params.add(i) };
        // SAFETY: libvirt terminates field names.
        let field = unsafe { CStr::from_ptr(param.field.as_ptr()) };
        let (Ok(field), Some(value)) = (field.to_str(), number(param)) else {
            continue;
        };
        match field {
            "state.state" => state = u32::try_from(value).unwrap_or(0),
            "state.reason" => reason = u32::try_from(value).unwrap_or(0),
            _ => usage.get_or_insert_default().take(field, value),
        }
    }
    // Each call formats the UUID for libvirt's debug log, which a thousand domains notice.
    let id = (state != sys::VIR_DOMAIN_SHUTOFF).then(|| {
        // SAFETY: the domain is valid by the caller's promise.
        unsafe { sys::virDomainGetID(record.dom) }
    });
    // -1 is libvirt's value for "none".
    let id = id.filter(|id| *id != u32::MAX);
    if let (None, Some(usage)) = (id, &mut usage) {
        // For a guest that has ended, libvirt reports figures of other processes.
        usage.cpu_time_ns = None;
    }
    Facts {
        name,
        uuid: Uuid::from_bytes(uuid),
        id,
        power: power(state, reason),
        saved: false,
        restored: (state, reason) == (sys::VIR_DOMAIN_RUNNING, sys::VIR_DOMAIN_RUNNING_RESTORED),
        usage,
    }
}

/// A whole, non-negative parameter.
fn number(param: &sys::virTypedParameter) -> Option<u64> {
    // SAFETY: the type says which member of the union was written.
    unsafe {
        match u32::try_from(param.type_).ok()? {
            sys::VIR_TYPED_PARAM_INT => u64::try_from(param.value.i).ok(),
            sys::VIR_TYPED_PARAM_UINT => Some(param.value.ui.into()),
            sys::VIR_TYPED_PARAM_LLONG => u64::try_from(param.value.l).ok(),
            sys::VIR_TYPED_PARAM_ULLONG => Some(param.value.ul),
            _ => None,
        }
    }
}

impl Usage {
    /// Stores one parameter by its libvirt name. Memory is in KiB.
    fn take(&mut self, field: &str, value: u64) {
        let ends =
            |prefix: &str, suffix: &str| field.starts_with(prefix) && field.ends_with(suffix);
        // A guest may say anything.
        let kib = |value: u64| value.checked_mul(1024);
        let add = |sum: &mut Option<u64>| *sum = Some(sum.unwrap_or(0).saturating_add(value));
        match field {
            "cpu.time" => self.cpu_time_ns = Some(value),
            _ if ends("vcpu.", ".delay") => add(&mut self.cpu_wait_ns),
            "vcpu.maximum" => self.vcpus = Some(value),
            "balloon.maximum" => self.memory_bytes = kib(value),
            "balloon.rss" => self.resident_bytes = kib(value),
            "balloon.available" => self.guest_memory.total_bytes = kib(value),
            "balloon.usable" => self.guest_memory.usable_bytes = kib(value),
            "balloon.unused" => self.guest_memory.free_bytes = kib(value),
            "balloon.last-update" => self.guest_memory.updated = Some(value),
            _ if ends("net.", ".rx.bytes") => add(&mut self.net_rx_bytes),
            _ if ends("net.", ".tx.bytes") => add(&mut self.net_tx_bytes),
            _ if ends("block.", ".rd.bytes") => add(&mut self.disk_read_bytes),
            _ if ends("block.", ".wr.bytes") => add(&mut self.disk_write_bytes),
            _ => {}
        }
    }
}

fn power(state: u32, reason: u32) -> Power {
    match (state, reason) {
        (sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED, _) => Power::On,
        (sys::VIR_DOMAIN_SHUTDOWN, _) => Power::Busy,
        (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_IOERROR) => Power::StuckOnDisk,
        (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_CRASHED) => Power::Crashed,
        // Temporary states in which libvirt itself has frozen the guest.
        (
            sys::VIR_DOMAIN_PAUSED,
            sys::VIR_DOMAIN_PAUSED_SAVE
            | sys::VIR_DOMAIN_PAUSED_STARTING_UP
            | sys::VIR_DOMAIN_PAUSED_SNAPSHOT
            | sys::VIR_DOMAIN_PAUSED_SHUTTING_DOWN,
        ) => Power::Busy,
        (sys::VIR_DOMAIN_PAUSED | sys::VIR_DOMAIN_PMSUSPENDED, _) => Power::Frozen,
        (sys::VIR_DOMAIN_CRASHED, _) => Power::Crashed,
        (sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_CRASHED) => Power::Crashed,
        _ => Power::Off,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_and_cards_are_added_up() {
        let mut usage = Usage::default();
        for (field, value) in [
            ("net.0.rx.bytes", 5),
            ("net.1.rx.bytes", 7),
            ("net.count", 2),
            ("balloon.rss", 3),
            ("vcpu.0.delay", 30),
            ("vcpu.1.delay", 12),
            ("vcpu.1.wait", 9),
        ] {
            usage.take(field, value);
        }
        assert_eq!(usage.net_rx_bytes, Some(12));
        assert_eq!(usage.resident_bytes, Some(3072));
        assert_eq!(usage.net_tx_bytes, None);
        assert_eq!(usage.cpu_wait_ns, Some(42));
    }

    #[test]
    fn a_guest_that_says_something_sensible_and_recent_is_believed() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let used = |said: &[(&str, u64)]| {
            let mut usage = Usage::default();
            for (field, value) in said {
                usage.take(&format!("balloon.{field}"), *value);
            }
            usage.guest_memory.used_bytes(now)
        };
        let recent = ("last-update", 1_799_999_940);
        let (all, free) = (("available", 500), ("unused", 100));
        assert_eq!(used(&[all, free, ("usable", 300), recent]), Some(200 << 10));
        // An old kernel does not know what is usable.
        assert_eq!(used(&[all, free, recent]), Some(400 << 10));

        for unknown in [
            &[][..],
            &[recent],
            &[all, recent],
            &[free, recent],
            &[all, free],
            &[all, free, ("last-update", 0)],
            &[all, free, ("last-update", 1_799_999_939)],
            &[all, free, ("last-update", u64::MAX)],
            &[all, ("usable", 501), recent],
            &[("available", u64::MAX), free, recent],
        ] {
            assert_eq!(used(unknown), None, "{unknown:?}");
        }
    }

    #[test]
    fn a_guest_that_is_being_saved_is_not_paused() {
        assert_eq!(
            power(sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_SAVE),
            Power::Busy
        );
        assert_eq!(
            power(sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_USER),
            Power::Frozen
        );
    }
}
