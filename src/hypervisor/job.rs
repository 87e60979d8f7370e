//! What libvirt is doing to a domain: ending it, and how long it may wait. The `virt` crate has no
//! binding for either.
#![allow(unsafe_code)]

use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

/// Ends the long job, such as a save, that libvirt is doing to `domain`.
pub(super) fn abort(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain is valid for as long as `domain` lives.
    match unsafe { sys::virDomainAbortJob(domain.as_ptr()) } {
        0 => Ok(()),
        _ => Err(Error::last_error()),
    }
}

/// Has libvirt wait no longer than `seconds` for signs of life of the agent in `domain`, for as long
/// as it runs.
pub(super) fn wait_for_agent(domain: &Domain, seconds: i32) -> Result<(), Error> {
    // SAFETY: the domain is valid for as long as `domain` lives.
    match unsafe { sys::virDomainAgentSetResponseTimeout(domain.as_ptr(), seconds, 0) } {
        0 => Ok(()),
        _ => Err(Error::last_error()),
    }
}
