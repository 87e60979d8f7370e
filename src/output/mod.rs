//! Everything that is printed. Only the answer goes to standard output; progress, warnings and
//! errors go to standard error.

mod live;
mod page;
mod table;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

pub use live::Live;
pub use page::Page;
pub use table::{Cell, Column, Rows, Table};

use crate::error::{Fault, Kind, hint_of, kind_of};

/// The format of standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Tables and sentences for people.
    #[default]
    Table,
    /// One JSON document.
    Json,
}

/// The answer of a command: a document for programs, and text for people.
pub trait Report: Serialize {
    /// The answer for people, without a newline at its end; empty for none.
    fn text(&self) -> String {
        String::new()
    }

    /// The same for a page of a certain width.
    fn on(&self, _page: Page) -> String {
        self.text()
    }

    /// The answer for people if it is a table, which replaces the text.
    fn table(&self) -> Option<Table> {
        None
    }
}

/// An error for a program, with its fields in the order of the manual.
#[derive(Serialize)]
struct Failure<'a> {
    code: Kind,
    message: String,
    hint: Option<&'a str>,
}

/// A report as printed on `page`.
fn shown(report: &impl Report, page: Page) -> String {
    report
        .table()
        .map_or_else(|| report.on(page), |table| table.draw(page))
}

/// The output of a command and its verbosity.
#[derive(Debug, Clone)]
pub struct Output {
    format: Format,
    quiet: bool,
    verbose: bool,
    progress: MultiProgress,
}

impl Output {
    /// Output in `format`; `quiet` drops notes and warnings, `verbose` adds detail.
    pub fn new(format: Format, quiet: bool, verbose: bool) -> Self {
        Output {
            format,
            quiet,
            verbose,
            progress: MultiProgress::new(),
        }
    }

    /// Whether the answer is for a program.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// The option with which another run of this program prints as much.
    pub fn said_how_much(&self) -> Option<&'static str> {
        match (self.quiet, self.verbose) {
            (true, _) => Some("--quiet"),
            (_, true) => Some("--verbose"),
            _ => None,
        }
    }

    /// Prints a command's answer.
    pub fn answer(&self, report: &impl Report) -> Result<()> {
        let mut text = match self.format {
            // Compact: a third of indented JSON would be blanks.
            Format::Json if !std::io::stdout().is_terminal() => serde_json::to_vec(report)?,
            Format::Json => serde_json::to_vec_pretty(report)?,
            Format::Table => match shown(report, Page::stdout()) {
                text if text.is_empty() => return Ok(()),
                text => text.into_bytes(),
            },
        };
        text.push(b'\n');
        write(&text).map(drop)
    }

    /// Prints `bytes` as they are.
    pub fn raw(&self, bytes: &[u8]) -> Result<()> {
        write(bytes).map(drop)
    }

    /// Prints the output of a program in a guest, each stream to our own: unchanged, except that a
    /// terminal receives no control sequences. With a `prefix`, each line begins with it.
    pub fn hand_on(&self, prefix: Option<&str>, stdout: &[u8], stderr: &[u8]) -> Result<()> {
        let shown = |bytes: &[u8], terminal: bool| match prefix {
            None if !terminal => bytes.to_vec(),
            None => harmless(&String::from_utf8_lossy(bytes)).into_bytes(),
            Some(prefix) => {
                let text = harmless(&String::from_utf8_lossy(bytes));
                let lines = text.lines().map(|line| format!("{prefix}: {line}\n"));
                lines.collect::<String>().into_bytes()
            }
        };
        self.raw(&shown(stdout, std::io::stdout().is_terminal()))?;
        let stderr = shown(stderr, std::io::stderr().is_terminal());
        // Nobody is left to tell when standard error itself is gone.
        self.progress
            .suspend(|| drop(std::io::stderr().write_all(&stderr)));
        Ok(())
    }

    /// A success message for people at a terminal.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.say(text);
        }
    }

    /// Detail for `--verbose`.
    pub fn detail(&self, text: &str) {
        if self.verbose {
            self.say(text);
        }
    }

    /// A warning.
    pub fn warn(&self, text: &str) {
        if !self.quiet {
            self.say(&format!("warning: {text}"));
        }
    }

    /// One of several failures, printed completely before the error that ends the command. In JSON,
    /// the answer contains it.
    pub fn problem(&self, text: &str) {
        if self.format == Format::Table {
            self.say(&format!("error: {text}"));
        }
    }

    /// The error that ended the command.
    pub fn error(&self, error: &anyhow::Error) {
        match self.format {
            Format::Table => {
                self.say(&format!("error: {error:#}"));
                if let Some(hint) = hint_of(error) {
                    self.say(&format!("hint: {hint}"));
                }
            }
            Format::Json => {
                let error = Failure {
                    code: kind_of(error),
                    message: one_line(&format!("{error:#}")),
                    hint: hint_of(error),
                };
                if let Ok(document) = serde_json::to_string(&BTreeMap::from([("error", error)])) {
                    self.say(&document);
                }
            }
        }
    }

    /// Whether animated progress may be drawn.
    pub fn is_live(&self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }

    /// A line of progress with a spinner and the elapsed time. If it cannot be animated, pass its
    /// phases to [`Output::note`] instead.
    pub fn spinner(&self, name: &str) -> ProgressBar {
        let template = "{spinner} {prefix} {elapsed:>4} {wide_msg}";
        self.moving(ProgressBar::new_spinner, template)
            .with_prefix(name.to_owned())
    }

    /// A progress bar for `all` items.
    pub fn progress(&self, all: usize) -> ProgressBar {
        let template = "{wide_bar} {pos}/{len} {elapsed:>4}";
        self.moving(|| ProgressBar::new(all as u64), template)
    }

    fn moving(&self, bar: impl FnOnce() -> ProgressBar, template: &str) -> ProgressBar {
        if !self.is_live() {
            return ProgressBar::hidden();
        }
        let bar = self.progress.add(bar());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(std::time::Duration::from_millis(120));
        bar
    }

    /// Asks for confirmation of what `lines` say; fails unless it is given. A signal, which sets
    /// `stop`, counts as a no.
    pub fn confirm(&self, lines: &[String], question: &str, stop: &AtomicBool) -> Result<()> {
        if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
            let message = "this destroys data, and there is no terminal to ask for confirmation";
            let hint = "add --yes to do it, or --dry-run, if the command has it, to see what would be done";
            return Err(Fault::new(Kind::Usage, message).hint(hint).into());
        }
        for line in lines {
            self.say(line);
        }
        let answer = dialoguer::Confirm::new()
            .with_prompt(question)
            .default(false)
            .interact_opt();
        // The prompt hides the cursor, and does not show it again if it is interrupted.
        let _ = dialoguer::console::Term::stderr().show_cursor();
        match answer {
            Ok(Some(true)) if !stop.load(Ordering::Relaxed) => Ok(()),
            _ => Err(Fault::new(Kind::Failed, "not confirmed: nothing was changed").into()),
        }
    }

    fn say(&self, text: &str) {
        let text = one_line(text);
        // Nobody is left to tell when standard error itself is gone.
        self.progress.suspend(|| {
            let _ = writeln!(std::io::stderr(), "{text}");
        });
    }
}

/// Writes to standard output. Returns whether there was a reader; one that has read enough
/// (`cyyber … | head`) is no failure.
fn write(bytes: &[u8]) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    // Not of the kind capacity, whatever is full: that is about the resources of instances.
    let failed = Fault::new(Kind::Failed, "failed to write to standard output");
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        done => done.map(|()| true).context(failed),
    }
}

/// Text on one line without control characters: names and messages of guests and files are not
/// trusted.
fn one_line(text: &str) -> String {
    harmless(&text.trim_end().replace(['\n', '\t'], " "))
}

/// Lines without control characters.
fn harmless(text: &str) -> String {
    text.replace(
        |c: char| c.is_control() && !matches!(c, '\n' | '\t'),
        "\u{fffd}",
    )
}

/// Prints messages of the command-line parser: help and version on standard output, an error on
/// standard error.
pub fn of_parser(said: &clap::Error) -> Result<()> {
    // It contains user input, which cannot be told from its own colours.
    let typed =
        std::env::args_os().any(|argument| argument.to_string_lossy().contains(char::is_control));
    if said.use_stderr() && typed {
        let _ = std::io::stderr().write_all(harmless(&said.render().to_string()).as_bytes());
        return Ok(());
    }
    match said.print().and_then(|()| std::io::stdout().flush()) {
        // Nobody is left to tell when standard error itself is gone.
        Err(_) if said.use_stderr() => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.context("failed to write to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_one_harmless_line() {
        assert_eq!(one_line("a\nb\tc\x1b[2J\n"), "a b c\u{fffd}[2J");
    }
}
