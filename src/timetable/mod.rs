//! When there are lessons, and what they mean for an instance. Pure.
//!
//! A course is a lab, a roster and its lessons, given by rules in the configuration ([`weekly`]) or
//! by the events of a calendar ([`calendar`]). Nothing is guessed if one of them cannot be read:
//! users who may be in class count as in class.

pub mod calendar;
mod moment;
mod recurrence;
pub mod weekly;

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};

use crate::names::{InstanceName, LabId, UserId};
use crate::units::Patience;

/// How long the end of a lesson is taken into account.
pub const OVER: SignedDuration = SignedDuration::from_hours(2);

/// How long an instance must be unused at the end of a lesson to be paused.
pub const GRACE: SignedDuration = SignedDuration::from_mins(3);

/// A lesson.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lesson {
    /// It begins.
    pub from: Timestamp,
    /// It is over.
    pub to: Timestamp,
}

impl Lesson {
    /// Whether it overlaps `begin` to `end`.
    pub fn overlaps(&self, begin: Timestamp, end: Timestamp) -> bool {
        self.from < end && self.to > begin
    }
}

/// A course as it was read; what could not be read is an error message.
#[derive(Debug, Clone)]
pub struct Taught {
    /// Its lab.
    pub lab: LabId,
    /// Its past, present and next lessons near the current time, in order.
    pub lessons: Result<Vec<Lesson>, String>,
    /// The users, in the order of the roster.
    pub users: Result<Vec<UserId>, String>,
    /// The same as a set.
    attend: HashSet<UserId>,
}

impl Taught {
    /// A course of these lessons for these users.
    pub fn new(
        lab: LabId,
        lessons: Result<Vec<Lesson>, String>,
        users: Result<Vec<UserId>, String>,
    ) -> Taught {
        let lessons = lessons.map(|mut lessons| {
            lessons.sort();
            lessons
        });
        let attend = users.iter().flatten().cloned().collect();
        Taught {
            lab,
            lessons,
            users,
            attend,
        }
    }
}

/// What the timetable says about an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Class {
    /// The present lesson, from its preparation on; lessons without a break in between are one.
    pub now: Option<Attendance>,
    /// When its last lesson ended, if that was recently.
    pub over: Option<Timestamp>,
    /// When it will be prepared for its next lesson.
    pub next: Option<Timestamp>,
    /// Why it may be in class although that is unknown.
    pub uncertain: Option<String>,
    /// When a pass had prepared it.
    pub ready: Option<Timestamp>,
}

/// One or more lessons of a user without a break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attendance {
    /// When preparation of the instance begins.
    pub prepare: Timestamp,
    /// The lesson begins.
    pub from: Timestamp,
    /// The last one ends.
    pub to: Timestamp,
}

impl Class {
    /// Whether it is, or may be, in class or in preparation.
    pub fn is_in(&self) -> bool {
        self.now.is_some() || self.uncertain.is_some()
    }
}

/// All courses.
#[derive(Debug, Clone, Default)]
pub struct Timetable {
    /// In the order of the configuration.
    pub courses: Vec<Taught>,
}

impl Timetable {
    /// What the timetable says about `name` at the time `now`. Instances are prepared `prewarm`
    /// before a lesson.
    pub fn class(&self, name: &InstanceName, now: Timestamp, prewarm: Patience) -> Class {
        let mut class = Class::default();
        let mut lessons = Vec::new();
        for course in self.courses.iter().filter(|it| it.lab == name.lab) {
            let may_attend = course.users.is_err() || course.attend.contains(&name.user);
            match (&course.lessons, &course.users) {
                _ if !may_attend => {}
                (Err(why), _) => class.uncertain = Some(why.clone()),
                (Ok(all), Ok(_)) => lessons.extend(all),
                (Ok(all), Err(why)) => {
                    let of_now = attendances(all.clone(), prewarm);
                    if of_now.iter().any(|it| (it.prepare..it.to).contains(&now)) {
                        class.uncertain = Some(why.clone());
                    }
                }
            }
        }
        lessons.sort();
        for it in attendances(lessons, prewarm) {
            if it.to <= now {
                class.over = Some(it.to).filter(|to| now.duration_since(*to) < OVER);
            } else if it.prepare <= now {
                class.now = Some(it);
            } else {
                class.next = class.next.or(Some(it.prepare));
            }
        }
        class
    }
}

/// Combines lessons, which are in order, into attendances: a lesson whose preparation begins before
/// the previous lesson ends is part of the same attendance.
pub fn attendances(lessons: Vec<Lesson>, prewarm: Patience) -> Vec<Attendance> {
    let before = match prewarm {
        Patience::Never => SignedDuration::ZERO,
        Patience::After(before) => before.0,
    };
    let mut all: Vec<Attendance> = Vec::new();
    for Lesson { from, to } in lessons {
        let prepare = from.saturating_sub(before).unwrap_or(Timestamp::MIN);
        match all.last_mut() {
            Some(last) if prepare <= last.to => last.to = last.to.max(to),
            _ => all.push(Attendance { prepare, from, to }),
        }
    }
    all
}

#[cfg(test)]
mod tests;
