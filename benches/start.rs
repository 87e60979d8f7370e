//! Forks beside boots, each from the command to "the agent answers, and the address is there", and
//! what ten of each hold of the memory: `cargo bench --bench start`, as root, with libvirtd running.
//!
//! For less time, some parts: `cargo bench --bench start -- boots=3 forks=3`. The parts are `boots`
//! and `forks`, one alone after the other, and `boots-at-once` and `forks-at-once`; each with how many
//! (10). Figures of earlier parts are kept and compared with as well; those alone add up. `anew`
//! forgets them, as a run of all parts does. A word with a slash is another image than `make image`'s.
//!
//! Boots and forks alone take turns, so that whatever else the machine is doing meets both. The
//! memory is looked at before and after the kernel has merged equal pages (KSM). The exit status is
//! 1 when a bound is exceeded.

#[path = "shared/merging.rs"]
mod merging;
mod shared;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use merging::Merging;
use serde::{Deserialize, Serialize};
use shared::Bench;

const IMAGE: &str = "/var/cache/cyyber/debian-12-cloud-amd64.qcow2";

/// Where figures are kept until the next part.
const FIGURES: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/start-bench.json");

/// What a guest has, in MiB.
const MEMORY: u32 = 1024;

const PARTS: [&str; 4] = ["boots", "forks", "boots-at-once", "forks-at-once"];

/// How many of each part.
const USUALLY: usize = 10;

/// A fork alone takes no more than this part of a boot, and forks at once of boots at once.
const ALONE: f64 = 0.06;
const AT_ONCE: f64 = 0.12;

/// How long guests are left alone before their memory is looked at.
const SETTLING: Duration = Duration::from_secs(10);

/// The figures of a part.
#[derive(Default, Serialize, Deserialize)]
struct Figures {
    /// How long each took to be ready, in seconds.
    took: Vec<f64>,
    /// What all of them held, before and after merging.
    memory: Option<[Memory; 2]>,
}

/// What the QEMUs of instances hold, in MiB: whole, and with what several hold shared out among them.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Memory {
    resident: u64,
    proportional: u64,
}

fn main() -> ExitCode {
    shared::exit(run())
}

fn run() -> Result<bool> {
    let (mut counts, mut image, mut anew) = (BTreeMap::new(), IMAGE.to_owned(), false);
    for word in shared::arguments() {
        let (part, count) = word.split_once('=').unwrap_or((&word, ""));
        if let Some(part) = PARTS.iter().find(|it| **it == part) {
            let count = if count.is_empty() {
                USUALLY
            } else {
                count.parse()?
            };
            ensure!(count > 0, "{word}: of nothing there are no figures");
            counts.insert(*part, count);
        } else if word == "anew" {
            anew = true;
        } else {
            ensure!(word.contains('/'), "{word}: no part; parts are {PARTS:?}");
            image = word;
        }
    }
    if counts.is_empty() {
        (counts, anew) = (PARTS.map(|part| (part, USUALLY)).into(), true);
    }
    let kept = std::fs::read(FIGURES).ok().filter(|_| !anew);
    let kept = kept.and_then(|kept| serde_json::from_slice(&kept).ok());
    let mut figures: BTreeMap<String, Figures> = kept.unwrap_or_default();

    let bench = Bench::set_up(Path::new(&image), MEMORY)?;
    if counts.keys().any(|part| part.starts_with("forks")) {
        bench.warm()?;
    }
    let count = |part: &str| counts.get(part).copied().unwrap_or(0);
    for round in 0..count("boots").max(count("forks")) {
        for (part, by) in [("boots", "boot"), ("forks", "fork")] {
            if round >= count(part) {
                continue;
            }
            let took = bench.start(by, &[format!("{by}{round}")])?;
            bench.destroy_all()?;
            let all = &mut figures.entry(part.to_owned()).or_default().took;
            all.extend(took.iter().map(Duration::as_secs_f64));
            keep(&figures)?;
        }
    }
    for (part, by) in [("boots-at-once", "boot"), ("forks-at-once", "fork")] {
        if count(part) > 0 {
            figures.insert(part.to_owned(), at_once(&bench, by, count(part))?);
            keep(&figures)?;
        }
    }
    Ok(table(&figures))
}

fn keep(figures: &BTreeMap<String, Figures>) -> Result<()> {
    Ok(std::fs::write(FIGURES, serde_json::to_vec(figures)?)?)
}

fn at_once(bench: &Bench, by: &str, count: usize) -> Result<Figures> {
    let users: Vec<_> = (0..count).map(|number| format!("{by}-{number}")).collect();
    let took = bench.start(by, &users)?;
    sleep(SETTLING);
    let before = memory(&bench.lab, &users)?;
    let merging = Merging::start()?;
    let (began, scans) = (Instant::now(), merging.wait()?);
    let after = memory(&bench.lab, &users)?;
    println!(
        "{by}: merging was on for {:.0?}, all pages scanned {scans} times",
        began.elapsed()
    );
    drop(merging);
    bench.destroy_all()?;
    Ok(Figures {
        took: took.iter().map(Duration::as_secs_f64).collect(),
        memory: Some([before, after]),
    })
}

/// Prints all; whether the forks took no more than their bounds of the boots.
fn table(figures: &BTreeMap<String, Figures>) -> bool {
    println!("{:14} {:>4} {:>9} {:>9}", "", "runs", "median s", "p95 s");
    for (part, Figures { took, .. }) in figures {
        let (median, p95) = (at(took, 50), at(took, 95));
        println!("{part:14} {:4} {median:9.2} {p95:9.2}", took.len());
    }
    for (part, Figures { took, memory, .. }) in figures {
        let Some(memory) = memory else { continue };
        for (when, held) in ["separate", "merged"].iter().zip(memory) {
            println!(
                "{part:14} memory of {}, {when}: resident {} MiB, proportional {} MiB",
                took.len(),
                held.resident,
                held.proportional
            );
        }
    }
    let pairs = [
        ("boots", "forks", ALONE),
        ("boots-at-once", "forks-at-once", AT_ONCE),
    ];
    let mut kept = true;
    for (boots, forks, bound) in pairs {
        let (Some(boots), Some(forks)) = (figures.get(boots), figures.get(forks)) else {
            continue;
        };
        // A class of another size takes another time.
        if forks.memory.is_some() && forks.took.len() != boots.took.len() {
            println!("not compared: not as many forks at once as boots");
            continue;
        }
        let ratio = at(&forks.took, 50) / at(&boots.took, 50);
        let what = if forks.memory.is_some() {
            "at once"
        } else {
            "alone"
        };
        println!("{what:8} ratio {ratio:.3} (at most {bound})");
        kept &= ratio <= bound;
    }
    kept
}

/// What `part` of a hundred are below; 0 of none.
fn at(all: &[f64], part: usize) -> f64 {
    let mut all = all.to_vec();
    all.sort_by(f64::total_cmp);
    let at = (all.len() * part / 100).min(all.len().saturating_sub(1));
    all.get(at).copied().unwrap_or_default()
}

fn memory(lab: &str, users: &[String]) -> Result<Memory> {
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
    Ok(Memory {
        resident: resident >> 10,
        proportional: proportional >> 10,
    })
}
