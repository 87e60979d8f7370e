//! The story of one build: a moving line at a terminal, plain lines elsewhere.

use std::time::Instant;

use indicatif::ProgressBar;

use crate::instance::LabId;
use crate::output::Output;

/// The stages of one lab's build, as they are told.
pub struct Progress<'a> {
    output: &'a Output,
    lab: &'a LabId,
    began: Instant,
    bar: ProgressBar,
}

impl<'a> Progress<'a> {
    pub fn begin(output: &'a Output, lab: &'a LabId) -> Self {
        let bar = output.spinner(lab.as_str());
        Progress {
            output,
            lab,
            began: Instant::now(),
            bar,
        }
    }

    pub fn stage(&self, stage: &str) {
        if self.output.is_live() {
            self.bar.set_message(stage.to_owned());
        } else {
            let seconds = self.began.elapsed().as_secs();
            self.output
                .note(&format!("{}: {stage} ({seconds}s)", self.lab));
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
