//! Which class has which lab at what time: the `timetable` of the configuration.
//!
//! Rosters and calendars are read when they are needed, because they change.

use std::path::Path;

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::Deserialize;

use super::custom::SourcePath;
use super::text::Line;
use crate::checked::checked;
use crate::names::LabId;

/// The lessons of one class in one lab: weekly, on single days, or from a calendar.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Course {
    /// The lab.
    pub lab: LabId,
    /// A file with the users who attend, one id per line.
    pub roster: SourcePath,
    /// The days of the week with a lesson.
    #[serde(default)]
    pub days: Vec<Day>,
    /// Single dates with a lesson.
    #[serde(default)]
    pub dates: Vec<IsoDate>,
    /// When the lesson begins.
    pub from: Option<TimeOfDay>,
    /// When the lesson ends; a time before `from` is on the next day.
    pub to: Option<TimeOfDay>,
    /// The first day of the course.
    pub starting: Option<IsoDate>,
    /// The last day of the course.
    pub until: Option<IsoDate>,
    /// Only every N weeks, counted from the week of `starting`.
    #[serde(default = "every_week")]
    #[schemars(range(min = 1, max = 52))]
    pub every: u8,
    /// Days without a lesson, such as holidays.
    #[serde(default)]
    pub except: Vec<Days>,
    /// An iCalendar file (RFC 5545) whose events are the lessons.
    pub ics: Option<SourcePath>,
    /// Only use events that contain this text in their summary; case is ignored.
    pub summary: Option<Line>,
    /// The time zone of these times, and of calendar times without a time zone or with an unknown
    /// one; default: this host's.
    pub timezone: Option<Zone>,
}

fn every_week() -> u8 {
    1
}

/// Checks that involve several keys: the key's place in the course, and the problem.
type Wrong = (&'static str, String);

impl Course {
    pub(super) fn resolve_against(&mut self, directory: &Path) {
        self.roster.resolve_against(directory);
        if let Some(ics) = &mut self.ics {
            ics.resolve_against(directory);
        }
    }

    pub(super) fn check(&self) -> Result<(), Wrong> {
        let wrong = |place: &'static str, what: &str| Err((place, what.to_owned()));
        let by_hand = [
            ("days", !self.days.is_empty()),
            ("dates", !self.dates.is_empty()),
            ("from", self.from.is_some()),
            ("to", self.to.is_some()),
            ("starting", self.starting.is_some()),
            ("until", self.until.is_some()),
            ("every", self.every != 1),
            ("except", !self.except.is_empty()),
        ];
        if self.ics.is_some() {
            return match by_hand.iter().find(|(_, given)| *given) {
                Some((place, _)) => wrong(
                    place,
                    "must not be set with \"ics\": the events have \
                                                  it",
                ),
                None => Ok(()),
            };
        }
        if self.summary.is_some() {
            return wrong("summary", "can only be set with \"ics\"");
        }
        if self.days.is_empty() && self.dates.is_empty() {
            return wrong("days", "\"days\", \"dates\" or \"ics\" is required");
        }
        let (Some(from), Some(to)) = (self.from, self.to) else {
            return wrong(
                "from",
                "both \"from\" and \"to\" are required, for example \"09:00\"",
            );
        };
        if from == to {
            return wrong(
                "to",
                "is the same as \"from\": the lesson would have no duration",
            );
        }
        if !(1..=52).contains(&self.every) {
            return wrong("every", "is out of range: allowed is 1 to 52");
        }
        if self.every > 1 && self.starting.is_none() {
            return wrong("every", "requires \"starting\", the week to count from");
        }
        match (self.starting, self.until) {
            (Some(first), Some(last)) if last < first => wrong("until", "is before \"starting\""),
            _ => Ok(()),
        }
    }
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "their names say it")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl From<Day> for Weekday {
    fn from(day: Day) -> Weekday {
        match day {
            Day::Mon => Weekday::Monday,
            Day::Tue => Weekday::Tuesday,
            Day::Wed => Weekday::Wednesday,
            Day::Thu => Weekday::Thursday,
            Day::Fri => Weekday::Friday,
            Day::Sat => Weekday::Saturday,
            Day::Sun => Weekday::Sunday,
        }
    }
}

/// A time of day, in minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = Self::PATTERN))]
pub struct TimeOfDay(#[schemars(with = "String")] pub Time);

checked!(
    impl TimeOfDay,
    "time of day",
    "([01][0-9]|2[0-3]):[0-5][0-9]",
    "write it as 09:00",
    |text| text.parse().ok().map(TimeOfDay)
);

/// A date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = Self::PATTERN))]
pub struct IsoDate(#[schemars(with = "String")] pub Date);

checked!(
    impl IsoDate,
    "date",
    "2[0-9]{3}-[0-9]{2}-[0-9]{2}",
    "write it as 2027-01-31",
    |text| text.parse().ok().map(IsoDate)
);

/// A date, or a range of dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = Self::PATTERN))]
pub struct Days(
    #[schemars(with = "String")] pub Date,
    #[schemars(with = "String")] pub Date,
);

checked!(
    impl Days,
    "date",
    "2[0-9]{3}-[0-9]{2}-[0-9]{2}(/2[0-9]{3}-[0-9]{2}-[0-9]{2})?",
    "write it as 2027-01-31, or 2027-01-31/2027-02-07 for a range of days",
    |text| {
        let (first, last) = text.split_once('/').unwrap_or((text, text));
        let days = Days(first.parse().ok()?, last.parse().ok()?);
        (days.0 <= days.1).then_some(days)
    }
);

impl Days {
    /// Whether the date is in the range.
    pub fn have(&self, date: Date) -> bool {
        (self.0..=self.1).contains(&date)
    }
}

/// A time zone, by its name in the IANA database.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = Self::PATTERN))]
pub struct Zone(#[schemars(with = "String")] pub TimeZone);

checked!(
    impl Zone,
    "time zone",
    "[A-Za-z0-9_+/-]{1,64}",
    "use a name in this host's tzdata, such as Europe/Berlin",
    |text| TimeZone::get(text).ok().map(Zone)
);
