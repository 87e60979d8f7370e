//! Tables for people: aligned, without lines, as `virsh`, `gh` and `kubectl` print them.
//!
//! At a terminal, a table fits the width: texts are cut where allowed, then the least important
//! columns are left out. The first column, which has the name, is never cut, so that it can be
//! copied. Elsewhere a table is complete and without colour.
//!
//! comfy-table lays out the cells. The column widths are computed here, because comfy-table would
//! break long words, such as paths, wrap cells that may be cut, and never leave out a column.

use std::collections::BTreeSet;

use comfy_table::{CellAlignment, ContentArrangement, presets};
use console::{Style, measure_text_width, truncate_str};

use super::one_line;
use super::page::Page;
use crate::names::State;

/// The gap between two columns.
const GAP: usize = 2;

/// The minimum width of a column that may be cut.
const SHORTEST: usize = 16;

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    title: &'static str,
    rank: u8,
    is_number: bool,
    overflow: Overflow,
}

/// What happens to a text that is wider than its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overflow {
    /// Nothing: the column is as wide as its texts.
    Never,
    /// It is cut at its end.
    Cut,
    /// It is wrapped between words.
    Fold,
}

impl From<&'static str> for Column {
    /// A column that is never left out.
    fn from(title: &'static str) -> Column {
        Column::spare(0, title)
    }
}

impl Column {
    /// A column that is left out if there is no room. Those with the highest rank go first, those with
    /// rank 0 never.
    pub const fn spare(rank: u8, title: &'static str) -> Column {
        Column {
            title,
            rank,
            is_number: false,
            overflow: Overflow::Never,
        }
    }

    /// The same for numbers, aligned to the right.
    pub const fn number(rank: u8, title: &'static str) -> Column {
        Column {
            is_number: true,
            ..Column::spare(rank, title)
        }
    }

    /// The same for texts that may be cut.
    pub const fn cut(rank: u8, title: &'static str) -> Column {
        Column {
            overflow: Overflow::Cut,
            ..Column::spare(rank, title)
        }
    }

    /// A column that is never left out, for texts that may be wrapped.
    pub const fn folded(title: &'static str) -> Column {
        Column {
            overflow: Overflow::Fold,
            ..Column::spare(0, title)
        }
    }

    /// Its minimum width if its texts need `width`.
    fn least(self, width: usize) -> usize {
        match self.overflow {
            Overflow::Never => width,
            Overflow::Cut | Overflow::Fold => width.min(SHORTEST),
        }
    }
}

/// A cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    style: Style,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::styled(text, Style::new())
    }
}

impl From<bool> for Cell {
    fn from(yes: bool) -> Cell {
        Cell::from(if yes { "yes" } else { "no" })
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell::from(text.as_str())
    }
}

impl From<State> for Cell {
    fn from(state: State) -> Cell {
        let style = match state {
            State::Running => Style::new().green(),
            State::Starting => Style::new().cyan(),
            State::Idle => Style::new().yellow(),
            State::Paused => Style::new().blue(),
            State::Crashed => Style::new().red(),
            State::Stopped => Style::new(),
        };
        Cell::styled(state.as_str(), style)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    /// A dash for an unknown value.
    fn from(known: Option<T>) -> Cell {
        known.map_or_else(|| Cell::from("-"), Into::into)
    }
}

impl Cell {
    /// A success.
    pub fn good(text: &str) -> Cell {
        Cell::styled(text, Style::new().green())
    }

    /// A warning.
    pub fn doubtful(text: &str) -> Cell {
        Cell::styled(text, Style::new().yellow())
    }

    /// A failure.
    pub fn bad(text: &str) -> Cell {
        Cell::styled(text, Style::new().red())
    }

    fn styled(text: &str, style: Style) -> Cell {
        let text = one_line(text);
        Cell { text, style }
    }

    /// Its words on lines of `width`. A longer word, such as a path, gets its own line: it is
    /// useless without its end.
    fn fold(&self, width: usize) -> String {
        let mut folded = String::new();
        let mut room = width + 1;
        for word in self.text.split(' ') {
            let needed = measure_text_width(word) + 1;
            if !folded.is_empty() {
                folded.push(if needed <= room { ' ' } else { '\n' });
            }
            room = if needed <= room { room } else { width + 1 }.saturating_sub(needed);
            folded.push_str(word);
        }
        folded
    }

    fn draw(&self, width: usize, column: Column, page: Page) -> String {
        let text = match column.overflow {
            Overflow::Fold => self.fold(width).into(),
            _ => truncate_str(&self.text, width, "…"),
        };
        let style = self.style.clone().force_styling(page.colour);
        style.apply_to(text).to_string()
    }
}

/// Rows of cells under the titles of their columns.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

/// The rows of a table that is being made; columns are added one by one.
#[derive(Debug)]
pub struct Rows<'r, R> {
    of: Vec<&'r R>,
    table: Table,
}

impl<'r, R> Rows<'r, R> {
    /// Adds a column; `cell` returns its content in a row.
    #[must_use]
    pub fn column<C: Into<Cell>>(
        mut self,
        column: impl Into<Column>,
        cell: impl Fn(&'r R) -> C,
    ) -> Rows<'r, R> {
        self.table.columns.push(column.into());
        for (row, of) in self.table.rows.iter_mut().zip(&self.of) {
            row.push(cell(of).into());
        }
        self
    }

    /// The table.
    pub fn table(self) -> Table {
        self.table
    }

    /// The table, unless it has no rows.
    pub fn if_any(self) -> Option<Table> {
        (!self.of.is_empty()).then_some(self.table)
    }
}

impl Table {
    /// A table of `rows`, still without columns.
    pub fn of<'r, R>(rows: impl IntoIterator<Item = &'r R>) -> Rows<'r, R> {
        let of: Vec<_> = rows.into_iter().collect();
        let rows = of.iter().map(|_| Vec::new()).collect();
        let columns = Vec::new();
        Rows {
            of,
            table: Table { columns, rows },
        }
    }

    /// The table as text, without a newline at its end.
    pub fn draw(&self, page: Page) -> String {
        match fit(&self.natural(), page.columns) {
            Some(widths) => self.lines(&widths, page).concat().join("\n"),
            None => self.stacked(page),
        }
    }

    /// The columns, and the width that each needs for its complete content.
    fn natural(&self) -> Vec<(Column, usize)> {
        let widths = (0..self.columns.len()).map(|n| self.width(n));
        self.columns.iter().copied().zip(widths).collect()
    }

    fn width(&self, number: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(number));
        let texts = cells.map(|cell| cell.text.as_str());
        let texts = texts.chain([self.columns[number].title]);
        texts.map(measure_text_width).max().unwrap_or(0)
    }

    /// The lines of the titles and of each row, with columns of these `widths`; `None` is a column
    /// that is left out.
    fn lines(&self, widths: &[Option<usize>], page: Page) -> Vec<Vec<String>> {
        let titles: Vec<_> = self.columns.iter().map(|it| Cell::from(it.title)).collect();
        let shown = |row: &Vec<Cell>| -> Vec<String> {
            let cells = row.iter().zip(&self.columns).zip(widths);
            let drawn =
                cells.filter_map(|((cell, of), width)| Some(cell.draw((*width)?, *of, page)));
            drawn.collect()
        };
        let rows: Vec<_> = [&titles].into_iter().chain(&self.rows).map(shown).collect();

        let mut grid = comfy_table::Table::new();
        grid.load_style(presets::NOTHING);
        grid.set_content_arrangement(ContentArrangement::Disabled);
        grid.add_rows(&rows);
        let columns = self.columns.iter().zip(widths);
        let columns = columns.filter(|(_, width)| width.is_some());
        for (drawn, (column, _)) in grid.column_iter_mut().zip(columns) {
            drawn.set_padding((0, GAP as u16));
            if column.is_number {
                drawn.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut lines = grid.lines().map(|line| line.trim_end().to_owned());
        let height = |row: &Vec<String>| row.iter().map(|it| it.split('\n').count()).max();
        rows.iter()
            .map(|row| lines.by_ref().take(height(row).unwrap_or(0)).collect())
            .collect()
    }

    /// The first column on a line of its own, and the others below it.
    fn stacked(&self, page: Page) -> String {
        let rest = Table {
            columns: self.columns.iter().skip(1).copied().collect(),
            rows: self.rows.iter().map(|row| row[1..].to_vec()).collect(),
        };
        let narrower = page.narrower(GAP);
        let columns = rest.natural();
        // If it still does not fit, the terminal wraps it.
        let widths = fit(&columns, narrower.columns)
            .unwrap_or_else(|| columns.iter().map(|(_, width)| Some(*width)).collect());
        let below = rest.lines(&widths, narrower);
        let titles = self.columns.iter().take(1).map(|column| column.title);
        let names = self.rows.iter().map(|row| row[0].text.as_str());
        let mut lines = Vec::new();
        for (name, below) in titles.chain(names).zip(below) {
            lines.push(name.to_owned());
            let below = below.iter().map(|line| format!("{:GAP$}{line}", ""));
            lines.extend(below);
        }
        lines.join("\n")
    }
}

/// The widths of the columns so that all fit into `limit`; `None` for a column that is left out,
/// and instead of the list if even the required columns do not fit.
fn fit(columns: &[(Column, usize)], limit: Option<usize>) -> Option<Vec<Option<usize>>> {
    let limit = limit.unwrap_or(usize::MAX);
    let ranks: BTreeSet<u8> = columns.iter().map(|(column, _)| column.rank).collect();
    // Try with all columns, then without those of the highest rank, and so on.
    ranks.into_iter().rev().find_map(|rank| {
        let kept = columns.iter().filter(|(column, _)| column.rank <= rank);
        let needed: usize = kept.map(|(column, width)| column.least(*width) + GAP).sum();
        let mut spare = limit.checked_sub(needed.saturating_sub(GAP))?;
        let widths = columns.iter().map(|(column, width)| {
            let least = column.least(*width);
            (column.rank <= rank).then(|| {
                let more = (width - least).min(spare);
                spare -= more;
                least + more
            })
        });
        Some(widths.collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let rows = [
            ("lab01_user_anna", State::Running, "1.5 GiB"),
            ("lab01_user_7", State::Stopped, "-"),
        ];
        Table::of(&rows)
            .column("NAME", |row| row.0)
            .column(Column::spare(2, "LAB"), |_| "lab01")
            .column("STATE", |row| row.1)
            .column(Column::number(1, "USED"), |row| row.2)
            .column(
                Column::cut(3, "REASON"),
                |_| "it was not used for a long time",
            )
            .table()
    }

    fn at(columns: usize) -> String {
        table().draw(Page {
            columns: Some(columns),
            colour: false,
        })
    }

    #[test]
    fn a_table_is_whole_where_nothing_limits_it() {
        let wanted = "\
NAME             LAB    STATE       USED  REASON
lab01_user_anna  lab01  running  1.5 GiB  it was not used for a long time
lab01_user_7     lab01  stopped        -  it was not used for a long time";
        assert_eq!(table().draw(Page::PLAIN), wanted);
        assert_eq!(at(73), wanted);
    }

    #[test]
    fn texts_are_cut_and_then_columns_go() {
        assert_eq!(
            at(60),
            "\
NAME             LAB    STATE       USED  REASON
lab01_user_anna  lab01  running  1.5 GiB  it was not used f…
lab01_user_7     lab01  stopped        -  it was not used f…"
        );
        assert_eq!(
            at(50),
            "\
NAME             LAB    STATE       USED
lab01_user_anna  lab01  running  1.5 GiB
lab01_user_7     lab01  stopped        -"
        );
        assert_eq!(at(24).lines().last(), Some("lab01_user_7     stopped"));
    }

    #[test]
    fn no_line_is_wider_than_the_page_and_no_name_is_cut() {
        for columns in 15..90 {
            let text = at(columns);
            assert!(text.contains("lab01_user_anna"), "{text}");
            for line in text.lines() {
                assert!(measure_text_width(line) <= columns, "{columns}:\n{text}");
            }
        }
        let narrow = "\
NAME
  STATE
lab01_user_anna
  running
lab01_user_7
  stopped";
        assert_eq!(at(15), narrow);
    }

    #[test]
    fn a_text_that_must_be_read_goes_on_below() {
        let rows = [
            ("kvm", "the processor has no virtualisation"),
            ("disk", "/var/lib/libvirt/images/cyyber-labs is full"),
        ];
        let table = Table::of(&rows)
            .column("CHECK", |row| row.0)
            .column(Column::folded("FINDING"), |row| row.1)
            .table();
        let page = Page {
            columns: Some(24),
            colour: false,
        };
        let text = table.draw(page);
        assert_eq!(
            text,
            "\
CHECK  FINDING
kvm    the processor has
       no virtualisation
disk   /var/lib/libvirt/images/cyyber-labs
       is full"
        );
    }

    #[test]
    fn states_have_colours_where_colours_are_wanted() {
        let page = Page {
            columns: None,
            colour: true,
        };
        let text = table().draw(page);
        assert!(
            text.contains("\u{1b}[32mrunning\u{1b}[0m  1.5 GiB"),
            "{text:?}"
        );
        assert!(text.contains("  stopped  "), "{text:?}");
        let plain = console::strip_ansi_codes(&text).into_owned();
        assert_eq!(plain, table().draw(Page::PLAIN));
    }

    #[test]
    fn wide_characters_are_aligned_and_control_characters_harmless() {
        let rows = [["漢字", "x"], ["a\u{1b}[2J", "y"]];
        let table = Table::of(&rows)
            .column("A", |row| row[0])
            .column("B", |row| row[1])
            .table();
        let text = table.draw(Page::PLAIN);
        assert_eq!(text, "A      B\n漢字   x\na\u{fffd}[2J  y");
    }
}
