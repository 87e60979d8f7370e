//! The timetable as text.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{Row, Schedule};
use crate::env;
use crate::output::{Column, Page, Report, Table};
use crate::units::{MIB, size};

impl Report for Schedule {
    fn on(&self, page: Page) -> String {
        if self.lessons.is_empty() {
            return "no lessons in this period".to_owned();
        }
        let zone = env::time_zone().unwrap_or(TimeZone::UTC);
        let local = |at, format| local(at, &zone, format);
        let users = |row: &Row| row.users.map(|users| users.to_string());
        let memory = |row: &Row| row.memory_mb.map(|mb| size(mb * MIB));
        let table = Table::of(&self.lessons)
            .column("BEGINS", |row| local(row.from, "%a %F %H:%M"))
            .column("ENDS", |row| local(row.to, "%H:%M"))
            .column("LAB", |row| row.lab_id.as_str())
            .column(Column::number(0, "USERS"), users)
            .column(Column::number(2, "MEMORY"), memory)
            .column(Column::cut(3, "ROSTER"), |row| row.roster.as_str())
            .table();
        format!("{}\n\n{}", table.draw(page), self.most(&zone))
    }
}

impl Schedule {
    /// The highest memory need, compared with what is available.
    fn most(&self, zone: &TimeZone) -> String {
        let Some(peak) = &self.peak else {
            return String::new();
        };
        let at = local(peak.at, zone, "%a %F %H:%M");
        let (instances, need) = (peak.instances, size(peak.memory_mb * MIB));
        let most = format!("Peak: {instances} instances and {need}, {at}");
        match self.host_memory_mb {
            None => most,
            Some(mb) if mb < peak.memory_mb => format!(
                "{most}: more than the {} that instances can have here",
                size(mb * MIB)
            ),
            Some(mb) => format!("{most}, of {} that instances can have here", size(mb * MIB)),
        }
    }

    /// The present and the next lessons, in a few words each.
    pub fn headline(&self, most: usize) -> Vec<String> {
        let zone = env::time_zone().unwrap_or(TimeZone::UTC);
        let words = |row: &Row| {
            let when = match row.from <= self.since {
                true => format!("until {}", local(row.to, &zone, "%H:%M")),
                false => local(row.from, &zone, "%a %H:%M"),
            };
            let users = row.users.map(|users| format!(" ({users})"));
            format!("{} {when}{}", row.lab_id, users.unwrap_or_default())
        };
        self.lessons.iter().take(most).map(words).collect()
    }
}

fn local(at: Timestamp, zone: &TimeZone, format: &str) -> String {
    zone.to_datetime(at).strftime(format).to_string()
}
