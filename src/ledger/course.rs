//! Figures over time, and by hours of the week. Pure.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::is_up;
use crate::names::State;

/// From Monday, midnight, to Sunday.
pub const HOURS_OF_WEEK: usize = 7 * 24;

const HOUR: i64 = 3_600_000;

/// Memory and states over time, in steps of the same length.
#[derive(Debug)]
pub struct Course {
    from: Timestamp,
    /// The length of a step.
    pub step: SignedDuration,
    /// The sums of each step.
    pub moments: Vec<Moment>,
}

/// One step of it.
#[derive(Debug, Clone, Default)]
pub struct Moment {
    /// Memory of running instances, in MiB × milliseconds.
    pub used: u64,
    /// Memory that the idle policy freed, in MiB × milliseconds.
    pub freed: u64,
    /// How long instances were in each state, in milliseconds.
    pub ms: BTreeMap<State, u64>,
}

impl Course {
    /// From `from` to `until` in this many steps.
    pub fn new(from: Timestamp, until: Timestamp, steps: u32) -> Course {
        let length = until.duration_since(from).as_millis_f64().max(1.0);
        let step = (length / f64::from(steps)).ceil() as i64;
        Course {
            from,
            step: SignedDuration::from_millis(step),
            moments: vec![Moment::default(); steps as usize],
        }
    }

    /// When a step begins.
    pub fn time(&self, step: usize) -> Timestamp {
        let after = self
            .step
            .checked_mul(i32::try_from(step).unwrap_or(i32::MAX));
        self.from + after.unwrap_or(SignedDuration::ZERO)
    }

    pub(super) fn add(
        &mut self,
        state: State,
        memory_mb: u64,
        freed: bool,
        from: Timestamp,
        until: Timestamp,
    ) {
        let step = self.step.as_millis() as i64;
        let begin = self.from.as_millisecond();
        let end = begin + step * self.moments.len() as i64;
        let (mut at, until) = (
            from.as_millisecond().max(begin),
            until.as_millisecond().min(end),
        );
        while at < until {
            let n = (at - begin) / step;
            let next = (begin + (n + 1) * step).min(until);
            let ms = (next - at) as u64;
            let moment = &mut self.moments[n as usize];
            *moment.ms.entry(state).or_default() += ms;
            if is_up(state) {
                moment.used += memory_mb * ms;
            } else if freed {
                moment.freed += memory_mb * ms;
            }
            at = next;
        }
    }
}

/// Splits the time from `from` to `until` by hours of the week in `zone`, and passes each part, in
/// milliseconds, to `each`.
pub fn by_hour_of_week(
    from: Timestamp,
    until: Timestamp,
    zone: &TimeZone,
    mut each: impl FnMut(usize, u64),
) {
    let (mut at, until) = (from.as_millisecond(), until.as_millisecond());
    while at < until {
        let Ok(time) = Timestamp::from_millisecond(at) else {
            return;
        };
        // Clocks change at the full hour.
        let offset = i64::from(zone.to_offset(time).seconds()) * 1000;
        let hour = (at + offset).div_euclid(HOUR);
        let next = ((hour + 1) * HOUR - offset).min(until);
        // 1970 began on a Thursday.
        let of_week = (hour + 3 * 24).rem_euclid(HOURS_OF_WEEK as i64);
        each(of_week as usize, (next - at) as u64);
        at = next;
    }
}
