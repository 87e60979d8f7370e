//! Whether passes can follow the timetable: what it names can be read by them, and is about something.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::finding::{Check, Finding};
use crate::config::Course;
use crate::context::Context;
use crate::env;
use crate::files::trust::Trust;
use crate::reaper::lessons;

const CHECK: Check = Check("timetable");

/// What has no lesson for so long has none any more.
const AHEAD: SignedDuration = SignedDuration::from_hours(3 * 366 * 24);

/// How it stands; nothing without one.
pub fn check(context: &Context) -> Vec<Finding> {
    let courses = &context.config.timetable;
    if courses.is_empty() {
        return Vec::new();
    }
    let zone = env::time_zone().unwrap_or(TimeZone::UTC);
    let now = context.time();
    let until = now.saturating_add(AHEAD).unwrap_or(Timestamp::MAX);
    let mut findings: Vec<Finding> = Vec::new();
    for (number, course) in courses.iter().enumerate() {
        for found in of_course(number, course, &zone, now, until) {
            // Several courses may have the same roster or calendar.
            if !findings.iter().any(|it| it.message == found.message) {
                findings.push(found);
            }
        }
    }
    if findings.is_empty() {
        let (count, s) = (courses.len(), if courses.len() == 1 { "" } else { "s" });
        findings.push(CHECK.ok(format!("{count} course{s}, with lessons to come")));
    }
    findings
}

fn of_course(
    number: usize,
    course: &Course,
    zone: &TimeZone,
    now: Timestamp,
    until: Timestamp,
) -> Vec<Finding> {
    // Cron and systemd do not know who was behind sudo.
    let trust = Trust::new(None);
    let mut findings = Vec::new();
    if let Err(why) = lessons::users(trust, course.roster.as_path()) {
        let message =
            format!("{why}: during its lessons every instance of the lab counts as in class");
        findings.push(unreadable(
            message,
            "write one user id a line; the file and its directories must belong to root, and be writable by \
             nobody else",
        ));
    }
    match lessons::lessons(trust, course, zone, now, until) {
        Err(why) => findings.push(unreadable(
            format!("{why}: its class always counts as in class"),
            "export it again as iCalendar (RFC 5545); it and its directories must belong to root, and be \
             writable by nobody else",
        )),
        Ok(lessons) if lessons.is_empty() => {
            let what = match &course.ics {
                Some(file) => format!("the calendar {}", file.as_path().display()),
                None => "it".to_owned(),
            };
            let which = match &course.summary {
                Some(summary) => format!(" with '{}' in its summary", summary.as_str()),
                None => String::new(),
            };
            let (lab, roster) = (&course.lab, course.roster.as_path().display());
            let message = format!(
                "timetable[{number}] ({lab}, {roster}): {what} has no lesson{which} from now on"
            );
            let remedy = "correct its dates, or remove it from the configuration: cyyber timetable shows \
                          what comes";
            findings.push(CHECK.warning(message, remedy));
        }
        Ok(_) => {}
    }
    findings
}

/// That something cannot be read; by others than root it may be just for them.
fn unreadable(message: String, remedy: &str) -> Finding {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root && message.contains("Permission denied") {
        return CHECK.warning(message, "run doctor as root");
    }
    CHECK.failed(message, remedy)
}
