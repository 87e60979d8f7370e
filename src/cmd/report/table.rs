//! A report as text.

use super::figures::{Figures, LabFigures, UseReport};
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
        let hours = |hours: f64| format!("{hours:.1}");
        let saved = |lab: &LabFigures| {
            let percent = lab.figures.memory_saved_percent;
            percent.map(|it| format!("{it:.0} %"))
        };
        let used_and_freed = |lab: &LabFigures| {
            let figures = &lab.figures;
            bar(figures.memory_used_gib_hours, figures.freed(), most)
        };
        Table::of(&self.labs)
            .column("LAB", |lab| lab.lab_id.as_str())
            .column(Column::number(2, "HOURS USED"), |lab| {
                hours(lab.figures.use_hours)
            })
            .column(Column::number(0, "GIB HOURS"), |lab| {
                hours(lab.figures.memory_used_gib_hours)
            })
            .column(Column::number(1, "FREED"), |lab| hours(lab.figures.freed()))
            .column(Column::number(3, "SAVED"), saved)
            .column(Column::spare(4, "USED, FREED"), used_and_freed)
            .table()
            .draw(page)
    }

    fn ladder(&self, page: Page) -> String {
        let most = self.total.steps.values().max().copied().unwrap_or(0);
        let freed = |step: Rung| self.total.memory_freed_gib_hours.get(&step.state()?);
        let steps: Vec<_> = self.total.steps.iter().collect();
        Table::of(&steps)
            .column("STEP OF THE POLICY", |(step, _)| step.as_str())
            .column(Column::number(0, "TIMES"), |(_, count)| count.to_string())
            .column(Column::number(0, "GIB HOURS FREED"), |(step, _)| {
                freed(**step).map(|freed| format!("{freed:.1}"))
            })
            .column(Column::spare(1, ""), |(_, count)| {
                bar(**count as f64, 0.0, most as f64)
            })
            .table()
            .draw(page)
    }

    fn times(&self, page: Page) -> String {
        let total = &self.total;
        let kinds = [
            ("resume", &total.resumes),
            ("start", &total.starts),
            ("build", &total.builds),
        ];
        let took = |length: Option<f64>| length.map(seconds);
        Table::of(&kinds)
            .column("TIME TAKEN BY", |(name, _)| *name)
            .column(Column::number(0, "TIMES"), |(_, it)| it.count.to_string())
            .column(Column::number(0, "P50"), |(_, it)| took(it.p50_seconds))
            .column(Column::number(0, "P95"), |(_, it)| took(it.p95_seconds))
            .column(Column::number(1, "LONGEST"), |(_, it)| {
                took(it.longest_seconds)
            })
            .table()
            .draw(page)
    }

    fn failures(&self, page: Page) -> Option<String> {
        let table = Table::of(&self.total.failed_starts)
            .column("FAILED STARTS", |failed| failed.code.as_str())
            .column(Column::number(0, "TIMES"), |failed| {
                Cell::bad(&failed.count.to_string())
            })
            .column(Column::cut(0, "LAST REASON"), |failed| {
                failed.reason.as_str()
            })
            .if_any()?;
        Some(table.draw(page))
    }

    fn week(&self, page: Page) -> String {
        let week = &self.total.hours_of_week;
        let most = week.iter().copied().fold(0.0, f64::max);
        let days: Vec<_> = DAYS.into_iter().zip(week.chunks(24)).collect();
        let levels = |hours: &[f64]| hours.iter().map(|it| level(*it, most)).collect::<String>();
        Table::of(&days)
            .column("DAY", |(day, _)| *day)
            .column(Column::number(0, "HOURS USED"), |(_, hours)| {
                format!("{:.1}", hours.iter().sum::<f64>())
            })
            .column(Column::spare(1, "0     6     12    18"), |(_, hours)| {
                levels(hours)
            })
            .table()
            .draw(page)
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
