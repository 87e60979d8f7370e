//! Lessons from the rules in the configuration.

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

use super::Lesson;
use crate::config::Course;
use crate::units::latest;

/// The lessons of `course` that overlap `begin` to `end`. `zone` is the host's.
pub fn lessons(
    course: &Course,
    zone: &TimeZone,
    begin: Timestamp,
    end: Timestamp,
) -> Result<Vec<Lesson>, String> {
    let zone = course.timezone.as_ref().map_or(zone, |zone| &zone.0);
    let date_of = |at: Timestamp| zone.to_datetime(at).date();
    // A lesson that began the day before may still last.
    let first = date_of(begin).yesterday().unwrap_or(Date::MIN);
    let dates = first.series(1.day());
    let dates = dates.take_while(|date| *date <= date_of(end));
    let mut lessons = Vec::new();
    for date in dates.filter(|date| is_on(course, *date)) {
        lessons.extend(lesson(course, zone, date)?);
    }
    lessons.retain(|lesson| lesson.overlaps(begin, end));
    Ok(lessons)
}

fn is_on(course: &Course, date: Date) -> bool {
    let within = course.starting.is_none_or(|first| first.0 <= date)
        && course.until.is_none_or(|last| date <= last.0)
        && !course.except.iter().any(|days| days.have(date));
    let single = course.dates.iter().any(|it| it.0 == date);
    within && (single || is_weekly(course, date))
}

fn is_weekly(course: &Course, date: Date) -> bool {
    let mut days = course.days.iter();
    let every = i64::from(course.every.max(1));
    let weeks = course.starting.map_or(0, |first| {
        week(date, Weekday::Monday) - week(first.0, Weekday::Monday)
    });
    days.any(|day| Weekday::from(*day) == date.weekday()) && weeks.rem_euclid(every) == 0
}

/// The number of the week of `date`, where weeks begin on `first`.
pub fn week(date: Date, first: Weekday) -> i64 {
    let days = SignedDuration::as_hours(&date.duration_since(Date::MIN)) / 24;
    let into = date.weekday().since(first);
    (days - i64::from(into)).div_euclid(7)
}

fn lesson(course: &Course, zone: &TimeZone, date: Date) -> Result<Option<Lesson>, String> {
    let (Some(from), Some(to)) = (course.from, course.to) else {
        return Ok(None);
    };
    let last = match to > from {
        true => Ok(date),
        false => date.tomorrow(),
    };
    let last = last.map_err(|error| error.to_string())?;
    let (begins, ends) = (date.to_datetime(from.0), last.to_datetime(to.0));
    let from = zone.to_ambiguous_timestamp(begins).compatible();
    let from = from.map_err(|error| error.to_string())?;
    // If clocks are set back, it lasts until the later of the two times; if they are set forward
    // over the whole lesson, it keeps its length.
    let to = match latest(ends, zone)? {
        to if to > from => to,
        _ => from + ends.duration_since(begins),
    };
    Ok(Some(Lesson { from, to }))
}
