//! Prints the answer of a pass.

use crate::output::{self, Cell, Column, Table};
use crate::reaper::policy::Rung;
use crate::reaper::report::{InstanceRow, PassReport, Shown};
use crate::reaper::signals::SIGNALS;
use crate::units::age;

/// The columns: one for each signal, between the fixed ones.
fn columns() -> Vec<Column> {
    let mut columns = vec![Column::new("INSTANCE"), Column::new("STATE")];
    let titles = SIGNALS.iter().filter_map(|(source, _)| source.title);
    columns.extend(titles.map(|title| Column::new(title).cut().spare(5)));
    columns.extend([
        Column::new("STEP").spare(2),
        Column::new("NEXT").spare(1),
        Column::new("REASON").cut().spare(3),
    ]);
    columns
}

impl output::Report for PassReport {
    /// Nothing for a pass: cron would mail it.
    fn text(&self) -> String {
        self.instances
            .as_ref()
            .map_or("", |_| "no instances")
            .to_owned()
    }

    fn table(&self) -> Option<Table> {
        let instances = self.instances.as_ref()?;
        let rows = instances.iter().map(cells);
        (!instances.is_empty()).then(|| Table::new(&columns(), rows))
    }
}

fn cells(row: &InstanceRow) -> Vec<Cell> {
    let mut cells = vec![row.instance.as_str().into(), row.state.into()];
    let titled = SIGNALS.iter().filter(|(source, _)| source.title.is_some());
    cells.extend(titled.map(|(source, _)| {
        let mut signs = row.signs.iter().flatten();
        let shown = signs.find(|(other, _)| other == source);
        Cell::from(shown.map(|(_, shown)| text(shown)))
    }));
    cells.extend([
        row.step.map(Rung::as_str).into(),
        row.next_in.as_str().into(),
        row.reason.as_str().into(),
    ]);
    cells
}

fn text(shown: &Shown) -> String {
    match (shown.age_seconds, &shown.note) {
        (Some(seconds), _) => age(jiff::SignedDuration::from_secs(seconds)),
        (None, Some(note)) => note.clone(),
        (None, None) => "-".to_owned(),
    }
}
