//! Reads the timetable for passes and listings: rosters, calendars, and which instances earlier
//! passes prepared.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::passes::{Passes, Ready};
use crate::config::{Course, untrusted};
use crate::context::Context;
use crate::env;
use crate::files::trust::Trust;
use crate::names::{InstanceName, UserId};
use crate::roster;
use crate::text;
use crate::timetable::calendar::{self, Wanted};
use crate::timetable::{Class, Lesson, OVER, Taught, Timetable, weekly};

/// How far a pass looks ahead.
const AHEAD: SignedDuration = SignedDuration::from_hours(48);

/// The maximum size of a roster or calendar.
const LARGEST_FILE: u64 = 16 << 20;

/// The lessons near the present time.
#[derive(Debug, Default)]
pub struct Lessons {
    /// All of them.
    pub timetable: Timetable,
    /// What could not be read.
    pub troubles: Vec<String>,
    ready: BTreeMap<String, Ready>,
}

impl Lessons {
    /// The lessons that matter now. Without a timetable, this costs nothing.
    pub fn read(context: &Context, passes: &Passes) -> Lessons {
        if context.config.timetable.is_empty() {
            return Lessons::default();
        }
        let now = context.time();
        let before = now.saturating_sub(OVER).unwrap_or(now);
        let after = now.saturating_add(AHEAD).unwrap_or(now);
        let (timetable, troubles) = read(context, before, after);
        Lessons {
            timetable,
            troubles,
            ready: passes.ready.clone(),
        }
    }

    /// What the timetable says about `name`.
    pub fn class(&self, context: &Context, name: &InstanceName, now: Timestamp) -> Class {
        if self.timetable.courses.is_empty() {
            return Class::default();
        }
        let policy = context.policy(&name.lab);
        let mut class = self.timetable.class(name, now, policy.prewarm);
        class.ready = class.now.and_then(|lessons| {
            let ready = self.ready.get(&name.to_string())?;
            (ready.done && ready.at >= lessons.prepare).then_some(ready.at)
        });
        class
    }
}

/// All courses with their lessons between `begin` and `end`, and an error for each file that cannot
/// be read.
pub fn read(context: &Context, begin: Timestamp, end: Timestamp) -> (Timetable, Vec<String>) {
    let zone = env::time_zone().unwrap_or(TimeZone::UTC);
    let mut troubles = Vec::new();
    let mut told =
        |read: Result<Vec<Lesson>, String>| read.inspect_err(|why| troubles.push(why.clone()));
    let courses = context.config.timetable.iter().map(|course| {
        let lessons = told(lessons(context.trust, course, &zone, begin, end));
        (course, lessons)
    });
    let courses: Vec<_> = courses.collect();
    let courses = courses.into_iter().map(|(course, lessons)| {
        let users = users(context.trust, course.roster.as_path());
        troubles.extend(users.as_ref().err().cloned());
        Taught::new(course.lab.clone(), lessons, users)
    });
    let courses = courses.collect();
    troubles.dedup();
    (Timetable { courses }, troubles)
}

/// The lessons of `course` between `begin` and `end`, where `zone` is that of the host; or why they cannot
/// be told.
pub fn lessons(
    trust: Trust,
    course: &Course,
    zone: &TimeZone,
    begin: Timestamp,
    end: Timestamp,
) -> Result<Vec<Lesson>, String> {
    let Some(file) = &course.ics else {
        return weekly::lessons(course, zone, begin, end);
    };
    let wanted = Wanted {
        summary: course.summary.as_ref().map(|line| line.as_str()),
        own_zone: course.timezone.as_ref().map(|zone| &zone.0),
        host_zone: zone,
        begin,
        end,
    };
    let path = file.as_path();
    let failed = |why: String| format!("the calendar {}: {why}", path.display());
    let text = content(trust, path).map_err(|error| failed(format!("{error:#}")))?;
    calendar::lessons(&text, &wanted).map_err(failed)
}

/// Who is on the roster at `path`, or why that cannot be told.
pub fn users(trust: Trust, path: &Path) -> Result<Vec<UserId>, String> {
    let failed = |why: String| format!("the roster {}: {why}", path.display());
    let text = content(trust, path).map_err(|error| failed(format!("{error:#}")))?;
    roster::parse(&text, "roster").map_err(|error| failed(error.to_string()))
}

fn content(trust: Trust, path: &Path) -> Result<String> {
    let opened = trust.open(path);
    let file = opened.map_err(|refusal| untrusted(refusal, path))?;
    let mut content = Vec::new();
    let length = file
        .take(LARGEST_FILE + 1)
        .read_to_end(&mut content)
        .context("it cannot be read")?;
    let most = LARGEST_FILE >> 20;
    ensure!(
        length as u64 <= LARGEST_FILE,
        "it is larger than {most} MiB"
    );
    text::utf8(content).map_err(anyhow::Error::msg)
}
