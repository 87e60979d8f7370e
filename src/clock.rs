//! The time, from two clocks.

use jiff::{SignedDuration, Timestamp};

/// A moment, by the clock, which can be set, and by the time since boot, which cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The time of day.
    pub time: Timestamp,
    /// The time since boot, including suspend.
    pub uptime: SignedDuration,
}

impl Moment {
    /// This moment.
    pub fn now() -> Moment {
        let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let nanoseconds = i32::try_from(uptime.tv_nsec).unwrap_or(0);
        Moment {
            time: Timestamp::now(),
            uptime: SignedDuration::new(uptime.tv_sec, nanoseconds),
        }
    }

    /// The moment this much `later`.
    pub fn after(&self, later: std::time::Duration) -> Moment {
        let later = SignedDuration::try_from(later).unwrap_or(SignedDuration::MAX);
        Moment {
            time: self.time.saturating_add(later).unwrap_or(Timestamp::MAX),
            uptime: self.uptime.saturating_add(later),
        }
    }
}
