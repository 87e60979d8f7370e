//! Limits the CPU time of a running guest, by libvirt's scheduler parameters.
//!
//! Only the running domain is changed. A quota in its stored definition would limit it for ever; a
//! live one ends at the next boot, but is restored with saved memory.

use anyhow::Result;
use virt::domain::{Domain as Inner, SchedBandwidth, SchedulerInfo};
use virt::error::{Error, ErrorNumber};
use virt::sys;

use super::{Domain, is};
use crate::hypervisor::xml::domain::CPU_PERIOD;

/// The smallest quota that libvirt takes, in microseconds.
const SMALLEST: i64 = 1000;

/// No limit. Zero would change nothing.
const UNLIMITED: i64 = -1;

impl Domain {
    /// Limits each of its virtual CPUs to `percent` of the quota in its definition; returns whether
    /// this hypervisor can, which needs the kernel's CPU controller.
    pub fn cap_cpu(&self, percent: u8) -> Result<bool> {
        self.by_qemu("limit its CPU time", move |domain| {
            let capped = entitlement(domain).and_then(|entitled| {
                let whole = match entitled {
                    UNLIMITED => i64::from(CPU_PERIOD),
                    quota => quota,
                };
                set_quota(domain, (whole * i64::from(percent) / 100).max(SMALLEST))
            });
            or_unavailable(capped.map(|()| true))
        })
    }

    /// Restores the quota of its definition; returns whether that changed anything.
    pub fn lift_cpu_cap(&self) -> Result<bool> {
        self.by_qemu("lift the limit on its CPU time", |domain| {
            let lifted = entitlement(domain).and_then(|entitled| {
                let capped = quota(domain, sys::VIR_DOMAIN_AFFECT_LIVE)? != entitled;
                if capped {
                    set_quota(domain, entitled)?;
                }
                Ok(capped)
            });
            or_unavailable(lifted)
        })
    }
}

/// The quota of the stored definition.
fn entitlement(domain: &Inner) -> Result<i64, Error> {
    quota(domain, sys::VIR_DOMAIN_AFFECT_CONFIG)
}

/// A virtual CPU's time in each period, in microseconds.
fn quota(domain: &Inner, of: sys::virDomainModificationImpact) -> Result<i64, Error> {
    let quota = domain.scheduler_parameters_flags(of)?.vcpu_bw.quota;
    // libvirt has more than one value for "none".
    Ok(quota
        .filter(|quota| (1..i64::from(u32::MAX)).contains(quota))
        .unwrap_or(UNLIMITED))
}

fn set_quota(domain: &Inner, quota: i64) -> Result<(), Error> {
    let limit = SchedulerInfo {
        vcpu_bw: SchedBandwidth {
            period: Some(CPU_PERIOD.into()),
            quota: Some(quota),
        },
        ..SchedulerInfo::default()
    };
    domain.set_scheduler_parameters_flags(&limit, sys::VIR_DOMAIN_AFFECT_LIVE)
}

/// The result of a change; `false` if nothing can be limited.
fn or_unavailable(changed: Result<bool, Error>) -> Result<bool, Error> {
    match changed {
        Err(error) if is_unavailable(&error) => Ok(false),
        changed => changed,
    }
}

fn is_unavailable(error: &Error) -> bool {
    let says = |words: &str| error.message().contains(words);
    is(error, ErrorNumber::NoSupport)
        || is(error, ErrorNumber::OperationUnsupported)
        || is(error, ErrorNumber::ArgumentUnsupported)
        || says("cgroup CPU controller")
        || is(error, ErrorNumber::InvalidArg) && (says("vcpu_") || says("unsupported flags"))
}
