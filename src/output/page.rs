//! The page that an answer for people is written to.

use std::io::IsTerminal;

use console::Term;

use crate::env;

/// What an answer for people is written on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// How many characters fit on a line; `None` where that does not matter.
    pub columns: Option<usize>,
    /// Whether there may be colours.
    pub colour: bool,
}

impl Page {
    /// Whatever is no terminal.
    pub const PLAIN: Page = Page {
        columns: None,
        colour: false,
    };

    /// Standard output.
    pub fn stdout() -> Page {
        if !std::io::stdout().is_terminal() {
            return Page::PLAIN;
        }
        let columns = Term::stdout()
            .size_checked()
            .map(|(_, columns)| columns.into());
        Page {
            // Some terminals do not know their size, and say that it is none.
            columns: columns.filter(|columns| *columns > 0),
            colour: env::allows_colour(),
        }
    }

    /// The same with so many characters less.
    #[must_use]
    pub fn narrower(self, by: usize) -> Page {
        Page {
            columns: self.columns.map(|columns| columns.saturating_sub(by)),
            ..self
        }
    }
}
