//! Builds on a host: all of them share the images.

use std::collections::BTreeSet;

use anyhow::Result;

use super::arguments::Words;
use super::head::{Done, Head, program};
use crate::cli::Build;

/// `cyyber build`
pub fn run(head: &Head, options: &Build) -> Result<()> {
    let mut words = Words::of(["build"])
        .flag(options.force, "--force")
        .option("--jobs", Some(options.jobs));
    words.0.extend(options.labs.iter().map(ToString::to_string));
    let host = head.hosts.roomiest(&BTreeSet::new())?;
    let service = head.hosts.service_lease(&host)?;
    let output = &head.context.output;
    if !output.is_json() {
        output.note(&format!("building on {host}"));
    }
    // So that logs, unless `host.output_dir` says otherwise, can be read on the head.
    let directory = &head.hosts.cluster.shared_dir;
    let step = head.hosts.slurm.step(&service)?;
    let whole = head.whole(&words.0, head.format());
    let step = step.running_in(directory, program()?, whole);
    let ended = step.told(|line| {
        // Progress; who cannot be told of it sees the answer.
        let _ = output.hand_on(None, &[], format!("{line}\n").as_bytes());
    })?;
    head.hand_on(Done { host, ended }, false, &[])
}
