//! Prints the answer of a pass.

use crate::output::{self, Column, Table};
use crate::reaper::policy::Rung;
use crate::reaper::report::{InstanceRow, PassReport, Shown};
use crate::reaper::signals::SIGNALS;
use crate::units::age;

impl output::Report for PassReport {
    /// Nothing for a pass: cron would mail it.
    fn text(&self) -> String {
        self.instances
            .as_ref()
            .map_or("", |_| "no instances")
            .to_owned()
    }

    fn table(&self) -> Option<Table> {
        let mut table = Table::of(self.instances.as_ref()?)
            .column("INSTANCE", |row| row.instance.as_str())
            .column("STATE", |row| row.state);
        for (source, _) in &SIGNALS {
            let sign = |row: &InstanceRow| {
                let mut signs = row.signs.iter().flatten();
                signs
                    .find(|(other, _)| other == source)
                    .map(|(_, shown)| text(shown))
            };
            if let Some(title) = source.title {
                table = table.column(Column::cut(5, title), sign);
            }
        }
        table
            .column(Column::spare(2, "STEP"), |row| row.step.map(Rung::as_str))
            .column(Column::spare(1, "NEXT"), |row| row.next_in.as_str())
            .column(Column::cut(3, "REASON"), |row| row.reason.as_str())
            .if_any()
    }
}

fn text(shown: &Shown) -> String {
    match (shown.age_seconds, &shown.note) {
        (Some(seconds), _) => age(jiff::SignedDuration::from_secs(seconds)),
        (None, Some(note)) => note.clone(),
        (None, None) => "-".to_owned(),
    }
}
