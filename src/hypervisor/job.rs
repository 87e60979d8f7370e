//! What libvirt does to a domain: saving it to a file, ending what takes long, and how long it may wait.
//! The `virt` crate has no binding for these.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::ptr;

use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

/// Ends the long job, such as a save, that libvirt is doing to `domain`.
pub(super) fn abort(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain is valid for as long as `domain` lives.
    done(unsafe { sys::virDomainAbortJob(domain.as_ptr()) })
}

/// Has libvirt wait no longer than `seconds` for signs of life of the agent in `domain`, for as long
/// as it runs.
pub(super) fn wait_for_agent(domain: &Domain, seconds: i32) -> Result<(), Error> {
    // SAFETY: the domain is valid for as long as `domain` lives.
    done(unsafe { sys::virDomainAgentSetResponseTimeout(domain.as_ptr(), seconds, 0) })
}

/// Saves the memory of `domain` into the file `path`, and ends it; it will come back running.
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
