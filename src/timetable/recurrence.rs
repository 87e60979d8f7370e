//! The recurrence rules of iCalendar (RFC 5545, 3.3.10) that schools export: daily and weekly ones.
//! A rule with any other part is refused, since ignoring a part would change its meaning.

use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::moment::{Moment, moment};
use super::weekly::week;

/// The maximum number of days that a rule is evaluated for: half a century.
const MOST_DAYS: usize = 50 * 366;

/// A supported rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    weekly: bool,
    interval: i64,
    days: Vec<Weekday>,
    week_begins: Weekday,
    count: Option<u64>,
    until: Option<Moment>,
}

impl Rule {
    /// Reads the value of an `RRULE`.
    pub fn read(text: &str) -> Result<Rule, String> {
        let mut weekly = None;
        let mut rule = Rule {
            weekly: false,
            interval: 1,
            days: Vec::new(),
            week_begins: Weekday::Monday,
            count: None,
            until: None,
        };
        for part in text.split(';').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let bad = || format!("'{}' is not understood", part.escape_debug());
            let positive = || value.parse().ok().filter(|number: &u32| *number > 0);
            match (&*key.to_ascii_uppercase(), &*value.to_ascii_uppercase()) {
                ("FREQ", "WEEKLY") => weekly = Some(true),
                ("FREQ", "DAILY") => weekly = Some(false),
                ("FREQ", _) => return Err(format!("{}: only DAILY and WEEKLY are", bad())),
                ("INTERVAL", _) => rule.interval = positive().ok_or_else(bad)?.into(),
                ("COUNT", _) => rule.count = Some(positive().ok_or_else(bad)?.into()),
                ("UNTIL", value) => rule.until = Some(moment(value).ok_or_else(bad)?),
                ("WKST", value) => rule.week_begins = weekday(value).ok_or_else(bad)?,
                ("BYDAY", value) => {
                    let days: Option<_> = value.split(',').map(weekday).collect();
                    rule.days = days.ok_or_else(bad)?;
                }
                _ => return Err(bad()),
            }
        }
        rule.weekly = weekly.ok_or("a rule without FREQ is not understood")?;
        if rule.count.is_some() && rule.until.is_some() {
            return Err("a rule must not have both COUNT and UNTIL".to_owned());
        }
        Ok(rule)
    }

    /// The occurrences up to `end` of an event that began at `start` in `zone`.
    pub fn starts(
        &self,
        start: DateTime,
        zone: &TimeZone,
        end: Timestamp,
    ) -> Result<Vec<Timestamp>, String> {
        let last = zone.to_datetime(end).date();
        let mut starts: Vec<Timestamp> = Vec::new();
        let dates = start.date().series(1.day());
        for (day, date) in dates.take_while(|date| *date <= last).enumerate() {
            if day > MOST_DAYS {
                return Err("a rule that began more than 50 years ago is not supported".to_owned());
            }
            if !self.is_on(start.date(), date) {
                continue;
            }
            let local = date.to_datetime(start.time());
            let at = zone.to_ambiguous_timestamp(local).compatible();
            let at = at.map_err(|error| error.to_string())?;
            let is_past = match self.until {
                None => false,
                Some(Moment::Utc(until)) => at > until,
                Some(Moment::Local(until)) => local > until,
                Some(Moment::Day(until)) => date > until,
            };
            let counted = u64::try_from(starts.len()).unwrap_or(u64::MAX);
            if is_past || self.count.is_some_and(|count| counted >= count) {
                break;
            }
            starts.push(at);
        }
        Ok(starts)
    }

    /// Whether there is an occurrence on `date`; the `first` date always has one.
    fn is_on(&self, first: Date, date: Date) -> bool {
        if date == first {
            return true;
        }
        let steps = match self.weekly {
            true => week(date, self.week_begins) - week(first, self.week_begins),
            false => date.duration_since(first).as_hours() / 24,
        };
        let on_day = match (&*self.days, self.weekly) {
            ([], true) => date.weekday() == first.weekday(),
            ([], false) => true,
            (days, _) => days.contains(&date.weekday()),
        };
        on_day && steps % self.interval == 0
    }
}

fn weekday(text: &str) -> Option<Weekday> {
    Some(match text {
        "MO" => Weekday::Monday,
        "TU" => Weekday::Tuesday,
        "WE" => Weekday::Wednesday,
        "TH" => Weekday::Thursday,
        "FR" => Weekday::Friday,
        "SA" => Weekday::Saturday,
        "SU" => Weekday::Sunday,
        _ => return None,
    })
}
