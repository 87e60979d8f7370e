//! Ending what libvirt is doing to a domain, for which the `virt` crate has no binding.
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
