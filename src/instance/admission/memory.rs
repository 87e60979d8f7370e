//! Whether the host has the memory for one more guest. Pure.
//!
//! A guest allocates the host's memory only as it uses it. So the check counts not only the
//! available memory, but also what running guests may still allocate.
#![deny(clippy::arithmetic_side_effects)]

use std::fmt;

use crate::host::Memory;
use crate::units::MIB;

/// Memory of a QEMU process in addition to its guest's, in bytes: for itself, and for images that a
/// guest can make it allocate (`max_hostmem` of QEMU's virtio-gpu). libvirt cannot limit either:
/// with a `hard_limit`, a guest that reaches it would be killed with all unsaved data.
pub const OVERHEAD: u64 = (128 + 256) * MIB;

/// Reserved for the host itself, in bytes, but at most a tenth of its memory.
const RESERVE: u64 = 1 << 30;

/// Memory that a guest may take from the host, in bytes.
pub const fn need(guest_memory: u64) -> u64 {
    guest_memory.saturating_add(OVERHEAD)
}

/// What a running guest may still allocate, in bytes. If its present use is unknown, all of its
/// memory counts.
pub fn claim(guest_memory: u64, resident: Option<u64>) -> u64 {
    need(guest_memory).saturating_sub(resident.unwrap_or(0))
}

/// Reserved for the host itself, in bytes.
pub fn reserve(memory: Memory) -> u64 {
    RESERVE.min(memory.total / 10)
}

/// Too little memory; all in bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Shortage {
    need: u64,
    free: u64,
    available: u64,
    claimed: u64,
    reserve: u64,
}

impl Shortage {
    /// How much must become free, in bytes.
    pub fn missing(&self) -> u64 {
        let spoken_for = self.claimed.saturating_add(self.reserve);
        self.need
            .saturating_add(spoken_for)
            .saturating_sub(self.available)
    }
}

impl std::error::Error for Shortage {}

/// Fails unless `need` bytes are free on a host with `memory`, of which `claimed` bytes are
/// reserved.
pub fn admit(need: u64, memory: Memory, claimed: u64) -> Result<(), Shortage> {
    let reserve = reserve(memory);
    let free = memory
        .available
        .saturating_sub(claimed.saturating_add(reserve));
    if need <= free {
        Ok(())
    } else {
        Err(Shortage {
            need,
            free,
            available: memory.available,
            claimed,
            reserve,
        })
    }
}

/// Fails unless `need` bytes are left of the limit `most` for all instances, which use `taken`.
pub fn admit_within(most: u64, need: u64, taken: u64) -> Result<(), Shortage> {
    // None of it is reserved for the host.
    let all = Memory {
        total: 0,
        available: most,
    };
    admit(need, all, taken)
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "it needs {} MiB and {} MiB are free: {} MiB are available, of which {} MiB are \
             reserved for running and starting instances, and {} MiB for the host",
            self.need / MIB,
            self.free / MIB,
            self.available / MIB,
            self.claimed / MIB,
            self.reserve / MIB
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn host(available: u64) -> Memory {
        Memory {
            total: 32 * GIB,
            available,
        }
    }

    #[test]
    fn what_running_guests_may_still_take_is_spoken_for() {
        let guest = need(2 * GIB);
        assert_eq!(admit(guest, host(4 * GIB), 0), Ok(()));
        assert!(admit(guest, host(4 * GIB), 2 * GIB).is_err());
        assert!(
            admit(guest, host(3 * GIB), 0).is_err(),
            "the host needs some"
        );
        let short = admit(guest, host(4 * GIB), 3 * GIB).unwrap_err();
        assert_eq!(
            admit(guest, host(4 * GIB + short.missing()), 3 * GIB),
            Ok(())
        );
        assert!(admit(guest, host(4 * GIB + short.missing() - 1), 3 * GIB).is_err());
        assert!(admit(guest, host(4 * GIB), u64::MAX).is_err());
    }

    #[test]
    fn a_small_host_keeps_a_tenth() {
        let small = Memory {
            total: 2 * GIB,
            available: GIB,
        };
        assert_eq!(admit(GIB / 2, small, 0), Ok(()));
    }

    #[test]
    fn a_guest_claims_what_it_does_not_hold_yet() {
        assert_eq!(claim(GIB, Some(GIB / 2)), GIB / 2 + OVERHEAD);
        assert_eq!(
            claim(GIB, Some(4 * GIB)),
            0,
            "software emulation holds more"
        );
        assert_eq!(claim(GIB, None), GIB + OVERHEAD);
    }
}
