//! The progress of one build: a progress line at a terminal, plain lines elsewhere.

use std::time::Instant;

use indicatif::ProgressBar;

use crate::output::Output;

/// Reports the phases of one build.
pub struct Progress<'a> {
    output: &'a Output,
    what: String,
    began: Instant,
    bar: ProgressBar,
}

impl<'a> Progress<'a> {
    /// Starts the progress of `what`: a lab, or a shared stage.
    pub fn begin(output: &'a Output, what: &str) -> Self {
        Progress {
            output,
            what: what.to_owned(),
            began: Instant::now(),
            bar: output.spinner(what),
        }
    }

    pub fn phase(&self, phase: &str) {
        if self.output.is_live() {
            self.bar.set_message(phase.to_owned());
        } else {
            let (what, seconds) = (&self.what, self.began.elapsed().as_secs());
            self.output.note(&format!("{what}: {phase} ({seconds}s)"));
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
