//! Times as iCalendar writes them (RFC 5545, 3.3.4 and 3.3.5).

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

/// A time in a calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// In UTC.
    Utc(Timestamp),
    /// Local time of some time zone.
    Local(DateTime),
    /// All day.
    Day(Date),
}

/// Reads `20270131T090000Z`, the same without the Z, and `20270131`.
pub fn moment(text: &str) -> Option<Moment> {
    let parse = |format: &str| DateTime::strptime(format, text).ok();
    let digits = |from: usize, to: usize| {
        let part = text.get(from..to)?;
        part.bytes().all(|byte| byte.is_ascii_digit()).then_some(())
    };
    digits(0, 8)?;
    match (text.len(), text.get(8..9), text.get(15..)) {
        (8, _, _) => Some(Moment::Day(Date::strptime("%Y%m%d", text).ok()?)),
        (15, Some("T"), _) => parse("%Y%m%dT%H%M%S").map(Moment::Local),
        (16, Some("T"), Some("Z")) => {
            let local = parse("%Y%m%dT%H%M%SZ")?;
            let at = TimeZone::UTC.to_timestamp(local).ok()?;
            Some(Moment::Utc(at))
        }
        _ => None,
    }
}
