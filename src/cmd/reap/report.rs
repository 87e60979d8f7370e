//! How the answer of a pass looks.

use crate::output::{self, Cell, Column, Table};
use crate::reaper::policy::Rung;
use crate::reaper::report::{Report, Row, Shown, Signs};
use crate::units::age;

const COLUMNS: [Column; 8] = [
    Column::new("INSTANCE"),
    Column::new("STATE"),
    Column::new("TOUCHED").spare(5),
    Column::new("CONSOLE").spare(5),
    Column::new("GUEST").cut().spare(5),
    Column::new("STEP").spare(2),
    Column::new("NEXT").spare(1),
    Column::new("REASON").cut().spare(3),
];

impl output::Report for Report {
    /// Nothing of a pass: cron would mail it.
    fn text(&self) -> String {
        match &self.instances {
            None => String::new(),
            Some(_) => "no instances".to_owned(),
        }
    }

    fn table(&self) -> Option<Table> {
        let instances = self.instances.as_ref()?;
        let rows = instances.iter().map(cells);
        (!instances.is_empty()).then(|| Table::new(&COLUMNS, rows))
    }
}

fn cells(row: &Row) -> Vec<Cell> {
    let sign = |shown: fn(&Signs) -> &Shown| {
        let shown = row.signs.as_ref().map(shown);
        Cell::from(shown.map(text))
    };
    vec![
        row.instance.as_str().into(),
        row.state.into(),
        sign(|signs| &signs.touched),
        sign(|signs| &signs.console),
        sign(|signs| &signs.guest),
        row.step.map(Rung::as_str).into(),
        row.next_in.as_str().into(),
        row.reason.as_str().into(),
    ]
}

fn text(shown: &Shown) -> String {
    match (shown.age_seconds, &shown.note) {
        (Some(seconds), _) => age(jiff::SignedDuration::from_secs(seconds)),
        (None, Some(note)) => note.clone(),
        (None, None) => "-".to_owned(),
    }
}
