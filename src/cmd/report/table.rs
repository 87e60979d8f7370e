//! A report as text.

use super::figures::{Figures, Times, UseReport};
use crate::names::Rung;
use crate::output::{Cell, Column, Page, Report, Table};
use crate::units::age;

/// The length of a bar.
const BAR: usize = 20;

pub const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

impl Report for UseReport {
    fn on(&self, page: Page) -> String {
        let mut parts = vec![
            self.headline(),
            self.labs(page),
            self.ladder(page),
            self.times(page),
        ];
        parts.extend(self.failures(page));
        parts.push(self.week(page));
        parts.join("\n\n")
    }
}

impl UseReport {
    /// The summary.
    pub fn headline(&self) -> String {
        let length = age(self.until.duration_since(self.since));
        let of = self
            .lab_id
            .as_ref()
            .map_or_else(String::new, |lab| format!(" of {lab}"));
        format!("Last {length}{of}: {}", self.total.headline().join(", "))
    }

    fn labs(&self, page: Page) -> String {
        let most = self
            .labs
            .iter()
            .map(|lab| lab.figures.memory_without_policy_gib_hours);
        let most = most.fold(0.0, f64::max);
        let row = |name: &str, figures: &Figures| {
            vec![
                name.into(),
                format!("{:.1}", figures.use_hours).into(),
                format!("{:.1}", figures.memory_used_gib_hours).into(),
                format!("{:.1}", figures.freed()).into(),
                figures
                    .memory_saved_percent
                    .map(|it| format!("{it:.0} %"))
                    .into(),
                match name {
                    "" => Cell::from(""),
                    _ => bar(figures.memory_used_gib_hours, figures.freed(), most).into(),
                },
            ]
        };
        let columns = [
            Column::new("LAB"),
            Column::new("HOURS USED").number().spare(2),
            Column::new("GIB HOURS").number(),
            Column::new("FREED").number().spare(1),
            Column::new("SAVED").number().spare(3),
            Column::new("USED, FREED").spare(4),
        ];
        let rows = self.labs.iter().map(|lab| row(&lab.lab_id, &lab.figures));
        Table::new(&columns, rows).draw(page)
    }

    fn ladder(&self, page: Page) -> String {
        let most = self.total.steps.values().max().copied().unwrap_or(0);
        let freed = |step: Rung| self.total.memory_freed_gib_hours.get(&step.state()?);
        let rows = self.total.steps.iter().map(|(step, count)| {
            vec![
                step.as_str().into(),
                count.to_string().into(),
                freed(*step).map(|freed| format!("{freed:.1}")).into(),
                bar(*count as f64, 0.0, most as f64).into(),
            ]
        });
        let columns = [
            Column::new("STEP OF THE POLICY"),
            Column::new("TIMES").number(),
            Column::new("GIB HOURS FREED").number(),
            Column::new("").spare(1),
        ];
        Table::new(&columns, rows).draw(page)
    }

    fn times(&self, page: Page) -> String {
        let total = &self.total;
        let kinds = [
            ("resume", &total.resumes),
            ("start", &total.starts),
            ("build", &total.builds),
        ];
        let rows = kinds.map(|(name, times): (_, &Times)| {
            vec![
                name.into(),
                times.count.to_string().into(),
                times.p50_seconds.map(seconds).into(),
                times.p95_seconds.map(seconds).into(),
                times.longest_seconds.map(seconds).into(),
            ]
        });
        let columns = [
            Column::new("TIME TAKEN BY"),
            Column::new("TIMES").number(),
            Column::new("P50").number(),
            Column::new("P95").number(),
            Column::new("LONGEST").number().spare(1),
        ];
        Table::new(&columns, rows).draw(page)
    }

    fn failures(&self, page: Page) -> Option<String> {
        let failed = &self.total.failed_starts;
        let rows = failed.iter().map(|failed| {
            vec![
                failed.code.as_str().into(),
                Cell::bad(&failed.count.to_string()),
                failed.reason.as_str().into(),
            ]
        });
        let columns = [
            Column::new("FAILED STARTS"),
            Column::new("TIMES").number(),
            Column::new("LAST REASON").cut(),
        ];
        (!failed.is_empty()).then(|| Table::new(&columns, rows).draw(page))
    }

    fn week(&self, page: Page) -> String {
        let week = &self.total.hours_of_week;
        let most = week.iter().copied().fold(0.0, f64::max);
        let rows = DAYS.iter().zip(week.chunks(24)).map(|(day, hours)| {
            let line: String = hours.iter().map(|hours| level(*hours, most)).collect();
            vec![
                (*day).into(),
                format!("{:.1}", hours.iter().sum::<f64>()).into(),
                line.into(),
            ]
        });
        let columns = [
            Column::new("DAY"),
            Column::new("HOURS USED").number(),
            Column::new("0     6     12    18").spare(1),
        ];
        Table::new(&columns, rows).draw(page)
    }
}

impl Figures {
    /// The sums as short texts.
    pub fn headline(&self) -> Vec<String> {
        let saved = self.memory_saved_percent.unwrap_or(0.0);
        let mut parts = vec![
            format!(
                "{:.1} GiB hours used, {:.1} freed ({saved:.0} % saved)",
                self.memory_used_gib_hours,
                self.freed()
            ),
            format!("{} pauses", self.pauses),
            format!("{} resumes", self.resumes.count),
        ];
        if let Some(p95) = self.resumes.p95_seconds {
            parts.push(format!("95 % of them within {}", seconds(p95)));
        }
        let soon = self.woken_too_soon_percent.unwrap_or(0.0);
        parts.push(format!(
            "{} woken within 5 minutes ({soon:.1} %)",
            self.woken_too_soon
        ));
        if self.lessons > 0 {
            parts.push(format!(
                "{} of {} instances ready for {} lessons",
                self.lesson_instances_ready, self.lesson_instances, self.lessons
            ));
        }
        let failed: u64 = self.failed_starts.iter().map(|failed| failed.count).sum();
        parts.push(format!("{failed} failed starts"));
        parts
    }
}

/// A duration, in short.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        short if short < 10.0 => format!("{short:.1}s"),
        short if short < 100.0 => format!("{short:.0}s"),
        long => age(jiff::SignedDuration::from_secs(long as i64)),
    }
}

/// A bar for used memory, followed by one for freed memory.
fn bar(used: f64, freed: f64, most: f64) -> String {
    let length = |value: f64| match most {
        0.0 => 0,
        most => (value / most * BAR as f64).round() as usize,
    };
    let all = length(used + freed);
    "█".repeat(length(used)) + &"░".repeat(all.saturating_sub(length(used)))
}

/// A block character whose height is the share.
fn level(value: f64, most: f64) -> char {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    if value <= 0.0 || most <= 0.0 {
        return '·';
    }
    let n = (value / most * LEVELS.len() as f64).ceil() as usize;
    LEVELS[n.clamp(1, LEVELS.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_share() {
        assert_eq!(bar(1.0, 1.0, 4.0), "█████░░░░░");
        assert_eq!(
            (bar(0.0, 0.0, 0.0), bar(9.0, 0.0, 9.0)),
            (String::new(), "█".repeat(BAR))
        );
        assert_eq!(
            [0.0, 0.01, 0.5, 1.0].map(|it| level(it, 1.0)),
            ['·', '▁', '▄', '█']
        );
        assert_eq!(
            (seconds(0.7), seconds(61.4), seconds(725.0)),
            ("0.7s".into(), "61s".into(), "12m".into())
        );
    }
}
