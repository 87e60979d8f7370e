//! An answer that is refreshed: redrawn in place at a terminal, printed repeatedly elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use console::{Term, truncate_str};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Format, Output, Page, Report, shown};

/// How long a signal may go unnoticed: a signal that another thread receives does not end a wait.
const NOTICE: Duration = Duration::from_millis(100);

/// Repeated answers on standard output.
#[derive(Debug)]
pub struct Live<'a> {
    output: &'a Output,
    screen: Option<Screen>,
    begun: bool,
}

impl Output {
    /// Prepares for repeated answers.
    pub fn live(&self) -> Live<'_> {
        let is_screen =
            self.format == Format::Table && std::io::stdout().is_terminal() && !console::is_dumb();
        Live {
            output: self,
            screen: is_screen.then(Screen::new),
            begun: false,
        }
    }
}

impl Live<'_> {
    /// Whether answers are drawn in place, below their `head`.
    pub fn is_drawn(&self) -> bool {
        self.screen.is_some()
    }

    /// Prints an answer: on a screen in place of the previous one, and below `head`. Returns
    /// whether there is still a reader.
    pub fn show(
        &mut self,
        report: &impl Report,
        head: impl FnOnce(Page) -> Option<String>,
    ) -> Result<bool> {
        let text = match (self.output.format, &mut self.screen) {
            (Format::Json, _) => serde_json::to_string(report)? + "\n",
            (Format::Table, None) => {
                let gap = if self.begun { "\n" } else { "" };
                format!("{gap}{}\n", shown(report, Page::stdout()))
            }
            (Format::Table, Some(screen)) => {
                let page = Page::stdout();
                let head = head(page).map_or_else(String::new, |head| head + "\n\n");
                let drawn = screen.draw(&(head + &shown(report, page)));
                return drawn
                    .map(|()| true)
                    .context("failed to draw on the terminal");
            }
        };
        self.begun = true;
        super::write(text.as_bytes())
    }

    /// Waits until `time`. Returns false if `stop` is set or the reader of standard output is gone
    /// before.
    pub fn wait_until(&self, time: Instant, stop: &AtomicBool) -> bool {
        let stdout = std::io::stdout();
        while !stop.load(Ordering::Relaxed) {
            let left = time.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            let slice = Timespec::try_from(left.min(NOTICE)).unwrap_or_default();
            // Only the events that are always reported: that the other end is gone.
            let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
            if poll(&mut fds, Some(&slice)).is_ok_and(|gone| gone > 0) {
                return false;
            }
        }
        false
    }
}

/// A terminal and what is drawn on it, above the cursor.
#[derive(Debug)]
struct Screen {
    term: Term,
    size: (u16, u16),
    lines: usize,
}

impl Screen {
    fn new() -> Screen {
        let term = Term::buffered_stdout();
        let size = term.size();
        Screen {
            term,
            size,
            lines: 0,
        }
    }

    fn draw(&mut self, text: &str) -> std::io::Result<()> {
        let size = self.term.size();
        if size == self.size {
            self.term.move_cursor_up(self.lines)?;
        } else {
            // The terminal itself handles the lines.
            self.term.clear_screen()?;
        }
        let lines = fit(text, size);
        for line in &lines {
            self.term.clear_line()?;
            self.term.write_line(line)?;
        }
        self.term.clear_to_end_of_screen()?;
        self.term.flush()?;
        (self.size, self.lines) = (size, lines.len());
        Ok(())
    }
}

impl Drop for Screen {
    /// Removes the `^C` that a terminal shows.
    fn drop(&mut self) {
        let _ = self.term.clear_line().and_then(|()| self.term.flush());
    }
}

/// The part of `text` that a terminal of this size can show above its cursor.
fn fit(text: &str, (rows, columns): (u16, u16)) -> Vec<String> {
    let room = usize::from(rows).saturating_sub(1).max(1);
    let cut = |line: &str| truncate_str(line, usize::from(columns), "…").into_owned();
    let mut lines: Vec<_> = text.lines().map(cut).collect();
    if lines.len() > room {
        let rest = lines.split_off(room - 1).len();
        lines.push(cut(&format!("… and {rest} more")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_and_counted() {
        let text = "NAME  STATE\none   running\ntwo   running\nthree stopped";
        assert_eq!(fit(text, (5, 80)).join("\n"), text);
        assert_eq!(
            fit(text, (4, 10)),
            ["NAME  STA…", "one   run…", "… and 2 m…"]
        );
        assert_eq!(fit(text, (1, 80)), ["… and 4 more"]);
    }
}
