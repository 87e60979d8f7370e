//! What a teacher does with a class: commands in all guests, and their files, beside virsh, which asks
//! one guest after the other: `cargo bench --bench class`, or `cargo bench --bench class -- GUESTS ROUNDS`
//! (30, 5).
//!
//! As root, with libvirtd running; the guests are forks of `tests/quick-guest.sh`'s. The exit status is 1
//! when a bound is exceeded.

mod shared;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use shared::{Bench, URI, done};

const IMAGE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/quick-guest.qcow2");

/// What a guest has, in MiB.
const MEMORY: u32 = 256;

/// How long a command in all guests may take, and the files of all.
const EXEC: Duration = Duration::from_secs(5);
const COLLECT: Duration = Duration::from_secs(30);

/// What every guest has to collect.
const HOME: &str = "/root/home";

fn main() -> ExitCode {
    shared::exit(run())
}

fn run() -> Result<bool> {
    let asked = shared::arguments();
    let number = |at: usize, usually| {
        asked
            .get(at)
            .map_or(Ok(usually), |word| word.parse::<usize>())
    };
    let (guests, rounds) = (number(0, 30)?, number(1, 5)?);
    let bench = Bench::set_up(Path::new(IMAGE), MEMORY)?;
    bench.warm()?;
    let users: Vec<String> = (0..guests).map(|number| format!("u{number}")).collect();
    for some in users.chunks(10) {
        bench.start("fork", some)?;
    }
    let class = bench.class(&users)?;
    let verb = |verb: &str| {
        let mut command = bench.cyyber();
        command.args(["-q", "instance", verb, &bench.lab, "--users-from"]);
        command.arg(&class);
        command
    };
    let exec = |script: &str| done(verb("exec").args(["--", "sh", "-c", script]));
    exec(&format!(
        "mkdir {HOME} && head -c 10M /dev/urandom >{HOME}/work"
    ))?;

    let (mut ours, mut rivals) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        rivals.push(timed(|| {
            users
                .iter()
                .try_for_each(|user| by_virsh(&format!("{}_user_{user}", bench.lab)))
        })?);
        ours.push(timed(|| exec("true"))?);
    }
    let (ours, rival) = (median(ours), median(rivals));
    println!(
        "a command in {guests} guests: virsh {:.2} s, ours {:.2} s (at most {EXEC:?}), ratio {:.2}",
        rival.as_secs_f64(),
        ours.as_secs_f64(),
        ours.div_duration_f64(rival)
    );

    let mut collected = Vec::new();
    for round in 0..rounds {
        let to = bench.path(&format!("collected{round}"));
        collected.push(timed(|| {
            done(verb("collect").args(["--from", HOME, "--to"]).arg(&to))
        })?);
        let mut find = Command::new("find");
        let files = find
            .arg(&to)
            .args(["-type", "f", "-size", "10485760c"])
            .output()?;
        let files = String::from_utf8_lossy(&files.stdout).lines().count();
        ensure!(files == guests, "{files} of {guests} were collected");
    }
    let collected = median(collected);
    println!(
        "10 MiB of each of {guests} guests: {:.1} s (at most {COLLECT:?})",
        collected.as_secs_f64()
    );
    Ok(ours <= EXEC && collected <= COLLECT)
}

/// Runs a program in a guest, and waits for its end.
fn by_virsh(domain: &str) -> Result<()> {
    let ask = |question: Value| -> Result<Value> {
        let mut virsh = Command::new("virsh");
        virsh.args(["-q", "-c", URI, "qemu-agent-command", "--", domain]);
        let answer = virsh.arg(question.to_string()).output()?;
        let answer: Value = serde_json::from_slice(&answer.stdout).context("no answer")?;
        Ok(answer["return"].clone())
    };
    let arguments = json!({"path": "sh", "arg": ["-c", "true"], "capture-output": true});
    let pid = &ask(json!({"execute": "guest-exec", "arguments": arguments}))?["pid"];
    let status = json!({"execute": "guest-exec-status", "arguments": {"pid": pid}});
    while ask(status.clone())?["exited"] != true {
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn timed(mut what: impl FnMut() -> Result<()>) -> Result<Duration> {
    let began = Instant::now();
    what()?;
    Ok(began.elapsed())
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}
