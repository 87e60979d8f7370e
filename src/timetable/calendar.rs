//! Lessons from an iCalendar file (RFC 5545), as exported by school systems.
//!
//! All-day events, such as holidays, are not lessons. Any unsupported property of another event is
//! an error with its line.

use std::collections::{HashMap, HashSet};

use icalendar::parser::{Component, Property, read_calendar, unfold};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::Lesson;
use super::moment::{Moment, moment};
use super::recurrence::Rule;

/// The maximum length of a lesson.
const LONGEST: SignedDuration = SignedDuration::from_hours(24);

/// Which lessons to read from a calendar.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Only events whose summary contains this.
    pub summary: Option<&'a str>,
    /// The zone for times without a zone or with an unknown one.
    pub own_zone: Option<&'a TimeZone>,
    /// This host's.
    pub host_zone: &'a TimeZone,
    /// Only what is between this
    pub begin: Timestamp,
    /// and that.
    pub end: Timestamp,
}

/// The lessons in the calendar `text`.
pub fn lessons(text: &str, wanted: &Wanted) -> Result<Vec<Lesson>, String> {
    let unfolded = unfold(text);
    let calendar = read_calendar(&unfolded).map_err(|error| {
        let first = error.lines().next().unwrap_or_default();
        format!("it is not a calendar: {first}")
    })?;
    let lines = Lines::new(text);
    let events = calendar.components.iter();
    let events = events.filter(|it| it.name.as_str().eq_ignore_ascii_case("VEVENT"));
    let events: Vec<_> = events
        .enumerate()
        .map(|(number, component)| Event { number, component })
        .collect();
    // The parser accepts less.
    let text = text.trim();
    let is_whole = text.starts_with("BEGIN:VCALENDAR") && text.ends_with("END:VCALENDAR");
    if !is_whole || events.len() != lines.events() {
        return Err("it is not one whole calendar, from BEGIN:VCALENDAR to its END".to_owned());
    }
    let blame = |event: &Event, (property, why): Wrong| {
        let line = lines.of(event.number, property);
        format!("line {line}: {property}: {why}")
    };

    // Events that replace single events of a series, by the series and their original time.
    let mut moved: HashMap<&str, HashSet<Timestamp>> = HashMap::new();
    for event in &events {
        let replaced = event.replaces(wanted).map_err(|why| blame(event, why))?;
        if let Some(at) = replaced {
            let uid = event.text("UID").unwrap_or_default();
            moved.entry(uid).or_default().insert(at);
        }
    }
    let mut all = Vec::new();
    for event in &events {
        if !event.has(wanted.summary) || event.is_cancelled() {
            continue;
        }
        let found = event.lessons(wanted).map_err(|why| blame(event, why))?;
        let uid = event.text("UID").unwrap_or_default();
        let replaced = moved.get(uid).filter(|_| !event.is_replacement());
        let stays = |it: &Lesson| !replaced.is_some_and(|moved| moved.contains(&it.from));
        all.extend(found.into_iter().filter(stays));
    }
    all.retain(|it| it.overlaps(wanted.begin, wanted.end));
    all.sort();
    all.dedup();
    Ok(all)
}

/// A property and its error.
type Wrong = (&'static str, String);

/// One event, the `number`th of its calendar.
struct Event<'a> {
    number: usize,
    component: &'a Component<'a>,
}

impl Event<'_> {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &Property<'_>> {
        let all = self.component.properties.iter();
        all.filter(move |it| it.name.as_str().eq_ignore_ascii_case(name))
    }

    fn get(&self, name: &'static str) -> Option<&Property<'_>> {
        self.all(name).next()
    }

    fn text(&self, name: &'static str) -> Option<&str> {
        self.get(name).map(|it| it.val.as_str())
    }

    fn has(&self, summary: Option<&str>) -> bool {
        let own = self.text("SUMMARY").unwrap_or_default().to_lowercase();
        summary.is_none_or(|wanted| own.contains(&wanted.to_lowercase()))
    }

    fn is_cancelled(&self) -> bool {
        let status = self.text("STATUS");
        status.is_some_and(|status| status.eq_ignore_ascii_case("CANCELLED"))
    }

    fn is_replacement(&self) -> bool {
        self.get("RECURRENCE-ID").is_some()
    }

    /// The original time of the event in a series that this one replaces.
    fn replaces(&self, wanted: &Wanted) -> Result<Option<Timestamp>, Wrong> {
        let Some(property) = self.get("RECURRENCE-ID") else {
            return Ok(None);
        };
        if parameter(property, "RANGE").is_some() {
            let why = "changing all following events (RANGE) is not supported";
            return Err(("RECURRENCE-ID", why.to_owned()));
        }
        match when(property, wanted).map_err(|why| ("RECURRENCE-ID", why))? {
            (Moment::Day(_), _) => Ok(None),
            (at, zone) => in_zone(at, &zone)
                .map(Some)
                .map_err(|why| ("RECURRENCE-ID", why)),
        }
    }

    fn lessons(&self, wanted: &Wanted) -> Result<Vec<Lesson>, Wrong> {
        let start = self.get("DTSTART");
        let start = start.ok_or_else(|| ("BEGIN", "an event without DTSTART".to_owned()))?;
        let (moment, zone) = when(start, wanted).map_err(|why| ("DTSTART", why))?;
        if matches!(moment, Moment::Day(_)) {
            return Ok(Vec::new());
        }
        let first = in_zone(moment, &zone).map_err(|why| ("DTSTART", why))?;
        let length = self.length(first, wanted)?;
        let mut starts = match self.text("RRULE") {
            None => vec![first],
            Some(rule) => {
                let local = zone.to_datetime(first);
                let rule = Rule::read(rule).map_err(|why| ("RRULE", why))?;
                let starts = rule.starts(local, &zone, wanted.end);
                starts.map_err(|why| ("RRULE", why))?
            }
        };
        if self.all("RRULE").count() > 1 || self.get("EXRULE").is_some() {
            let why = "more than one rule is not supported";
            return Err(("RRULE", why.to_owned()));
        }
        starts.extend(self.times("RDATE", wanted)?.0);
        let (times, days) = self.times("EXDATE", wanted)?;
        starts.retain(|at| !times.contains(at) && !days.contains(&zone.to_datetime(*at).date()));
        let lesson = |from: Timestamp| Lesson {
            from,
            to: from.saturating_add(length).unwrap_or(Timestamp::MAX),
        };
        Ok(starts.into_iter().map(lesson).collect())
    }

    fn length(&self, start: Timestamp, wanted: &Wanted) -> Result<SignedDuration, Wrong> {
        let (name, length) = match (self.get("DTEND"), self.get("DURATION")) {
            (Some(end), _) => {
                let end = when(end, wanted).and_then(|(end, zone)| in_zone(end, &zone));
                let end = end.map_err(|why| ("DTEND", why))?;
                ("DTEND", end.duration_since(start))
            }
            (None, Some(length)) => {
                let length = length.val.as_str();
                let bad = || format!("'{}' is not understood", length.escape_debug());
                let span: jiff::Span = length.parse().map_err(|_| ("DURATION", bad()))?;
                let length = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours());
                ("DURATION", length.map_err(|_| ("DURATION", bad()))?)
            }
            (None, None) => return Err(("DTSTART", "an event without an end".to_owned())),
        };
        if length <= SignedDuration::ZERO || length > LONGEST {
            let why = "a lesson must end after it begins and last at most 24 hours";
            return Err((name, why.to_owned()));
        }
        Ok(length)
    }

    /// The times and the days in a list.
    fn times(
        &self,
        name: &'static str,
        wanted: &Wanted,
    ) -> Result<(Vec<Timestamp>, Vec<Date>), Wrong> {
        let (mut times, mut days) = (Vec::new(), Vec::new());
        for property in self.all(name) {
            let zone = zone_of(property, wanted).map_err(|why| (name, why))?;
            for text in property.val.as_str().split(',') {
                let bad = || (name, format!("'{}' is not understood", text.escape_debug()));
                match (moment(text.trim()).ok_or_else(bad)?, name) {
                    (Moment::Day(day), "EXDATE") => days.push(day),
                    (Moment::Day(_), _) => return Err(bad()),
                    (at, _) => times.push(in_zone(at, &zone).map_err(|why| (name, why))?),
                }
            }
        }
        Ok((times, days))
    }
}

/// The time of a property and its zone.
fn when(property: &Property, wanted: &Wanted) -> Result<(Moment, TimeZone), String> {
    let text = property.val.as_str();
    let moment = moment(text.trim());
    let moment = moment.ok_or_else(|| format!("'{}' is not understood", text.escape_debug()))?;
    let zone = match moment {
        Moment::Utc(_) => TimeZone::UTC,
        _ => zone_of(property, wanted)?,
    };
    Ok((moment, zone))
}

fn in_zone(moment: Moment, zone: &TimeZone) -> Result<Timestamp, String> {
    match moment {
        Moment::Utc(at) => Ok(at),
        Moment::Local(local) => {
            let at = zone.to_ambiguous_timestamp(local).compatible();
            at.map_err(|error| error.to_string())
        }
        Moment::Day(_) => Err("a date without a time is not allowed here".to_owned()),
    }
}

fn parameter<'a>(property: &'a Property, name: &str) -> Option<&'a str> {
    let mut all = property.params.iter();
    let found = all.find(|it| it.key.as_str().eq_ignore_ascii_case(name))?;
    Some(found.val.as_ref()?.as_str().trim_matches('"'))
}

fn zone_of(property: &Property, wanted: &Wanted) -> Result<TimeZone, String> {
    let own = wanted.own_zone;
    match parameter(property, "TZID") {
        None => Ok(own.unwrap_or(wanted.host_zone).clone()),
        Some(name) => match (TimeZone::get(name), own) {
            (Ok(zone), _) => Ok(zone),
            (Err(_), Some(own)) => Ok(own.clone()),
            (Err(_), None) => Err(format!(
                "the time zone '{}' is not known here: set \"timezone\" for this calendar",
                name.escape_debug()
            )),
        },
    }
}

/// Line numbers in the file.
struct Lines<'a> {
    lines: Vec<&'a str>,
}

fn is(line: &str, word: &str) -> bool {
    let head = line.get(..word.len());
    head.is_some_and(|head| head.eq_ignore_ascii_case(word))
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Lines<'a> {
        Lines {
            lines: text.lines().collect(),
        }
    }

    /// The number of events.
    fn events(&self) -> usize {
        let lines = self.lines.iter();
        lines.filter(|line| is(line, "BEGIN:VEVENT")).count()
    }

    /// The line of a property of the `number`th event, or else the line where that event begins.
    fn of(&self, number: usize, property: &str) -> usize {
        let begins = self.lines.iter().enumerate();
        let mut begins = begins.filter(|(_, line)| is(line, "BEGIN:VEVENT"));
        let begin = begins.nth(number).map_or(0, |(line, _)| line);
        let inside = self.lines.iter().enumerate().skip(begin);
        let mut inside = inside.take_while(|(_, line)| !is(line, "END:VEVENT"));
        let found = inside.find(|(_, line)| is(line, property));
        found.map_or(begin, |(line, _)| line) + 1
    }
}
