//! libvirt's jobs on a domain: saving it to a file, aborting long jobs, and agent timeouts. The
//! `virt` crate has no binding for these.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::ptr;

use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

/// Aborts libvirt's present job, such as a save, on `domain`.
pub(super) fn abort(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain is valid for as long as `domain` lives.
    done(unsafe { sys::virDomainAbortJob(domain.as_ptr()) })
}

/// Limits libvirt's wait for the agent in `domain` to `seconds`, for as long as the domain runs.
pub(super) fn wait_for_agent(domain: &Domain, seconds: i32) -> Result<(), Error> {
    // SAFETY: the domain is valid for as long as `domain` lives.
    done(unsafe { sys::virDomainAgentSetResponseTimeout(domain.as_ptr(), seconds, 0) })
}

/// Saves the memory of `domain` to the file `path` and powers it off; it will be restored running.
pub(super) fn save(domain: &Domain, path: &str) -> Result<(), Error> {
    let path = CString::new(path)?;
    let flags = sys::VIR_DOMAIN_SAVE_RUNNING;
    // SAFETY: the domain and the path are valid for as long as the call takes, and there is no other
    // definition.
    done(unsafe { sys::virDomainSaveFlags(domain.as_ptr(), path.as_ptr(), ptr::null(), flags) })
}

fn done(returned: i32) -> Result<(), Error> {
    match returned {
        0 => Ok(()),
        _ => Err(Error::last_error()),
    }
}
