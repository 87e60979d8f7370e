//! The page on which an answer for people is printed.

use std::io::IsTerminal;

use console::Term;

use crate::env;

/// The properties of the output for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// The number of characters in a line; `None` if there is no limit.
    pub columns: Option<usize>,
    /// Whether there may be colours.
    pub colour: bool,
}

impl Page {
    /// Anything but a terminal.
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
            // Some terminals do not know their size and report 0.
            columns: columns.filter(|columns| *columns > 0),
            colour: env::allows_colour(),
        }
    }

    /// The same, narrower by this many characters.
    #[must_use]
    pub fn narrower(self, by: usize) -> Page {
        Page {
            columns: self.columns.map(|columns| columns.saturating_sub(by)),
            ..self
        }
    }
}
