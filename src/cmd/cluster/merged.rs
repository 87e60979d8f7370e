//! The answers of several hosts, merged into one. Each row names its host, and the hosts that did
//! not answer are listed.

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Head;
use crate::cluster::hosts::Unreachable;
use crate::names::{Rung, State};
use crate::output::{Cell, Report, Rows, Table};
use crate::reaper::report::due;
use crate::units::age;

/// The columns of such a list.
pub type Columns = for<'r> fn(Rows<'r, Value>, Timestamp) -> Rows<'r, Value>;

/// A list with rows from several hosts.
#[derive(Serialize)]
pub struct Merged {
    #[serde(flatten)]
    document: Map<String, Value>,
    unreachable: Vec<Unreachable>,
    /// The key of the list that the table shows.
    #[serde(skip)]
    rows: &'static str,
    #[serde(skip)]
    columns: Columns,
    #[serde(skip)]
    empty: &'static str,
    #[serde(skip)]
    now: Timestamp,
}

/// Prints such a list.
pub fn show<const N: usize>(
    head: &Head,
    unreachable: Vec<Unreachable>,
    document: [(&'static str, Value); N],
    columns: Columns,
    empty: &'static str,
) -> Result<()> {
    let merged = Merged::new(head, unreachable, document, columns, empty);
    head.context.output.answer(&merged)
}

impl Merged {
    /// A table shows the first part of the `document`, or `empty` if that has no rows. The `unreachable`
    /// hosts did not answer.
    pub fn new<const N: usize>(
        head: &Head,
        unreachable: Vec<Unreachable>,
        document: [(&'static str, Value); N],
        columns: Columns,
        empty: &'static str,
    ) -> Merged {
        let rows = document.first().map_or("", |(key, _)| *key);
        let document = document.map(|(key, part)| (key.to_owned(), part));
        Merged {
            document: Map::from_iter(document),
            unreachable,
            rows,
            columns,
            empty,
            now: head.context.time(),
        }
    }
}

impl Report for Merged {
    fn text(&self) -> String {
        self.empty.to_owned()
    }

    fn table(&self) -> Option<Table> {
        let rows = self.document.get(self.rows).and_then(Value::as_array)?;
        (self.columns)(Table::of(rows), self.now).if_any()
    }
}

/// The first columns of a table with states.
pub fn states(rows: Rows<Value>) -> Rows<Value> {
    rows.column("INSTANCE", text("instance"))
        .column("HOST", text("host"))
        .column("STATE", |row| {
            let state = row.get("state").unwrap_or(&Value::Null);
            match State::deserialize(state) {
                Ok(state) => state.into(),
                Err(_) => Cell::bad(state.as_str().unwrap_or("-")),
            }
        })
}

/// A text, a number, or yes or no.
pub fn text(key: &str) -> impl Fn(&Value) -> Cell {
    move |row| match row.get(key) {
        Some(Value::String(text)) => Cell::from(text.as_str()),
        Some(Value::Bool(yes)) => Cell::from(*yes),
        Some(Value::Null) | None => Cell::from(None::<&str>),
        Some(value) => Cell::from(value.to_string()),
    }
}

/// The time until or since a time in a row.
pub fn distance(key: &str, now: Timestamp) -> impl Fn(&Value) -> Option<String> {
    move |row| {
        let at = row.get(key)?.as_str()?.parse::<Timestamp>().ok()?;
        Some(age(now.duration_since(at).abs()))
    }
}

/// The step in a row, and when it is due.
pub fn step(key: &str, now: Timestamp) -> impl Fn(&Value) -> Option<String> {
    move |row| {
        let step = Rung::deserialize(row.get(key)?).ok()?;
        let at = row.get(format!("{key}_at")).and_then(Value::as_str);
        let at = at.and_then(|at| at.parse().ok());
        Some(due(step, at.unwrap_or(now), now))
    }
}
