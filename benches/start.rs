//! Forks beside boots, each from the command to "the agent answers, and the address is there":
//! `cargo bench --bench start`, or `cargo bench --bench start -- ROUNDS AT_ONCE IMAGE` (10, 10, the
//! image that `make image` makes).
//!
//! As root, with libvirtd running. Boots and forks take turns, so that whatever else the machine is
//! doing meets both. The exit status is 1 when a bound is exceeded.

mod shared;

use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};
use shared::Bench;

const IMAGE: &str = "/var/cache/cyyber/debian-12-cloud-amd64.qcow2";

/// What a guest has, in MiB.
const MEMORY: u32 = 1024;

/// A fork alone takes no more than this part of a boot, and forks at once of boots at once.
const ALONE: f64 = 0.06;
const AT_ONCE: f64 = 0.12;

/// How long guests are left alone before their memory is looked at.
const SETTLING: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    shared::exit(run())
}

fn run() -> Result<bool> {
    let asked = shared::arguments();
    let number = |at: usize| asked.get(at).map_or(Ok(10), |word| word.parse::<usize>());
    let (rounds, at_once) = (number(0)?, number(1)?);
    let bench = Bench::set_up(
        Path::new(asked.get(2).map_or(IMAGE, String::as_str)),
        MEMORY,
    )?;
    bench.warm()?;

    let (mut boots, mut forks) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for (by, took) in [("boot", &mut boots), ("fork", &mut forks)] {
            took.extend(bench.start(by, &[format!("{by}{round}")])?);
            bench.destroy_all()?;
        }
    }
    let users = |by: &str| {
        (0..at_once)
            .map(|it| format!("{by}-{it}"))
            .collect::<Vec<_>>()
    };
    let class = |by: &str| {
        let users = users(by);
        let took = bench.start(by, &users)?;
        sleep(SETTLING);
        println!("{by}: memory of {at_once}: {}", memory(&bench.lab, &users)?);
        bench.destroy_all()?;
        Ok::<_, anyhow::Error>(took)
    };
    let (all_boots, all_forks) = (class("boot")?, class("fork")?);
    let alone = compare("alone", &boots, &forks, ALONE);
    let together = compare("at once", &all_boots, &all_forks, AT_ONCE);
    Ok(alone && together)
}

/// Prints both; whether the forks took no more than `bound` of the boots.
fn compare(what: &str, boots: &[Duration], forks: &[Duration], bound: f64) -> bool {
    let told = |name: &str, all: &[Duration]| {
        let mut all = all.to_vec();
        all.sort_unstable();
        let at = |part: usize| all.get((all.len() * part / 100).min(all.len() - 1));
        let seconds = |part| at(part).map_or(0.0, Duration::as_secs_f64);
        println!(
            "{what:8} {name:5} {:3} runs: median {:.2} s, p95 {:.2} s",
            all.len(),
            seconds(50),
            seconds(95)
        );
        seconds(50)
    };
    if boots.is_empty() || forks.is_empty() {
        return true;
    }
    let ratio = told("fork", forks) / told("boot", boots);
    println!("{what:8} ratio {ratio:.3} (at most {bound})");
    ratio <= bound
}

/// What the QEMUs of instances hold: whole, and with what several hold shared out among them.
fn memory(lab: &str, users: &[String]) -> Result<String> {
    let (mut resident, mut proportional) = (0, 0);
    for user in users {
        let pid = format!("/run/libvirt/qemu/{lab}_user_{user}.pid");
        let pid = std::fs::read_to_string(pid)?;
        let memory = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pid.trim()))?;
        let kib = |field: &str| {
            let line = memory.lines().find_map(|line| line.strip_prefix(field));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|number| number.parse::<u64>().ok())
        };
        resident += kib("Rss:").context("no Rss")?;
        proportional += kib("Pss:").context("no Pss")?;
    }
    let mib = |kib: u64| kib >> 10;
    Ok(format!(
        "resident {} MiB, proportional {} MiB",
        mib(resident),
        mib(proportional)
    ))
}
