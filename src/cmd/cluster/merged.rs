//! The answers of several hosts, merged into one. Each row names its host, and the hosts that did
//! not answer are listed.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::config::HostName;
use crate::names::State;
use crate::output::{Cell, Column, Report, Table};
use crate::units::age;

/// A column and its content.
pub type Shown = (Column, fn(&Value, Timestamp) -> Cell);

/// A list with rows from several hosts.
#[derive(Serialize)]
pub struct Merged {
    /// The document.
    #[serde(flatten)]
    pub document: Map<String, Value>,
    /// The hosts that did not answer.
    pub unreachable: Vec<Unreachable>,
    /// The key of the list that the table shows.
    #[serde(skip)]
    pub rows: &'static str,
    #[serde(skip)]
    pub columns: &'static [Shown],
    #[serde(skip)]
    pub empty: &'static str,
    #[serde(skip)]
    pub now: Timestamp,
}

/// A host that did not answer.
#[derive(Debug, Clone, Serialize)]
pub struct Unreachable {
    pub host: HostName,
    pub error: String,
}

impl Report for Merged {
    fn text(&self) -> String {
        self.empty.to_owned()
    }

    fn table(&self) -> Option<Table> {
        let rows = self.document.get(self.rows).and_then(Value::as_array)?;
        let columns: Vec<_> = self.columns.iter().map(|(column, _)| *column).collect();
        let cells = rows.iter().map(|row| {
            let cells = self.columns.iter().map(|(_, cell)| cell(row, self.now));
            cells.collect()
        });
        (!rows.is_empty()).then(|| Table::new(&columns, cells))
    }
}

/// A text or a number of a row.
pub fn text(row: &Value, key: &str) -> Cell {
    match row.get(key) {
        Some(Value::String(text)) => Cell::from(text.as_str()),
        Some(Value::Null) | None => Cell::from(None::<&str>),
        Some(value) => Cell::from(value.to_string()),
    }
}

/// The state of a row, in its colour.
pub fn state(row: &Value, _: Timestamp) -> Cell {
    let state = row.get("state").cloned().unwrap_or_default();
    match serde_json::from_value::<State>(state) {
        Ok(state) => state.into(),
        Err(_) => Cell::bad(row.get("state").and_then(Value::as_str).unwrap_or("-")),
    }
}

/// The time until or since a time in a row.
pub fn distance(row: &Value, key: &str, now: Timestamp) -> Cell {
    let at = row.get(key).and_then(Value::as_str);
    let at = at.and_then(|at| at.parse::<Timestamp>().ok());
    Cell::from(at.map(|at| age(now.duration_since(at).abs())))
}

/// Yes or no.
pub fn yes(row: &Value, key: &str) -> Cell {
    let yes = row.get(key).and_then(Value::as_bool);
    Cell::from(yes.map(|yes| if yes { "yes" } else { "no" }))
}
