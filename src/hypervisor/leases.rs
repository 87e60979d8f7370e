//! The leases of a network's DHCP server. The `virt` crate has no binding for them.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};
use std::net::IpAddr;
use std::ptr;

use virt::error::Error;
use virt::network::Network;
use virt::sys;

use crate::network::Mac;

unsafe extern "C" {
    /// The function that frees libvirt's list.
    fn free(list: *mut c_void);
}

/// A valid lease.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    /// The MAC address.
    pub mac: Mac,
    /// The address.
    pub ip: IpAddr,
    /// When it expires, in seconds since 1970.
    pub expires: i64,
}

/// The present leases of `network`.
pub(super) fn of(network: &Network) -> Result<Vec<Lease>, Error> {
    let mut leases = ptr::null_mut();
    // SAFETY: the network is valid for as long as `network` lives, no MAC address means all, and
    // `leases` is ours to write to.
    let count =
        unsafe { sys::virNetworkGetDHCPLeases(network.as_ptr(), ptr::null(), &mut leases, 0) };
    let count = usize::try_from(count).map_err(|_| Error::last_error())?;
    let mut found = Vec::with_capacity(count);
    for number in 0..count {
        // SAFETY: libvirt returned `count` leases, each valid until it is freed here, whose texts it
        // terminates, or leaves out by a null pointer; what is kept are copies.
        unsafe {
            let lease = *leases.add(number);
            let card = parsed((*lease).mac).zip(parsed((*lease).ipaddr));
            found.extend(card.map(|(mac, ip)| Lease {
                mac,
                ip,
                expires: (*lease).expirytime,
            }));
            sys::virNetworkDHCPLeaseFree(lease);
        }
    }
    // SAFETY: the list comes from libvirt's allocator, which is that of C, or is null; nothing refers to
    // it any more.
    unsafe { free(leases.cast()) };
    Ok(found)
}

/// # Safety
///
/// `text` must be null or a terminated text.
unsafe fn parsed<T: std::str::FromStr>(text: *const c_char) -> Option<T> {
    if text.is_null() {
        return None;
    }
    // SAFETY: by the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_str().ok()?.parse().ok()
}
