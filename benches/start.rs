//! Forks beside boots, each from the command to "the agent answers, and the address is there":
//! `cargo bench --bench start`, or `cargo bench --bench start -- ROUNDS AT_ONCE IMAGE` (10, 10, the
//! image that `make image` makes).
//!
//! As root, with libvirtd running. Boots and forks take turns, so that whatever else the machine is
//! doing meets both. The exit status is 1 when a bound is exceeded.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cyyber::cli::Global;
use cyyber::clock::Moment;
use cyyber::context::Context;
use cyyber::images::base;
use cyyber::instance::warm;
use cyyber::output::{Format, Output};
use serde_json::json;
use tempfile::TempDir;

const URI: &str = "qemu:///system";

/// Where disk images usually are.
const PLACE: &str = "/var/lib/libvirt/images";

const IMAGE: &str = "/var/cache/cyyber/debian-12-cloud-amd64.qcow2";

/// A fork alone takes no more than this part of a boot, and forks at once of boots at once.
const ALONE: f64 = 0.06;
const AT_ONCE: f64 = 0.12;

/// How long guests are left alone before their memory is looked at.
const SETTLING: Duration = Duration::from_secs(10);

/// No boot takes longer, also of many at once.
const LONGEST: Duration = Duration::from_secs(1800);

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    // cargo adds `--bench` by itself.
    let asked: Vec<_> = std::env::args()
        .skip(1)
        .filter(|it| it != "--bench")
        .collect();
    let number = |at: usize| asked.get(at).map_or(Ok(10), |word| word.parse::<usize>());
    let (rounds, at_once) = (number(0)?, number(1)?);
    let bench = Bench::set_up(Path::new(asked.get(2).map_or(IMAGE, String::as_str)))?;
    bench.warm()?;

    let (mut boots, mut forks) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for (by, took) in [("boot", &mut boots), ("fork", &mut forks)] {
            took.extend(bench.start(by, &[format!("{by}{round}")])?);
        }
    }
    let users = |by: &str| {
        (0..at_once)
            .map(|it| format!("{by}-{it}"))
            .collect::<Vec<_>>()
    };
    let all_boots = bench.start("boot", &users("boot"))?;
    let all_forks = bench.start("fork", &users("fork"))?;
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

struct Bench {
    dir: TempDir,
    lab: String,
}

impl Bench {
    fn set_up(image: &Path) -> Result<Bench> {
        let dir = TempDir::new_in(PLACE)?;
        let lab = format!("bench-{}", std::process::id());
        let bench = Bench { dir, lab };
        // QEMU's users pass through.
        done(Command::new("chmod").arg("711").arg(bench.dir.path()))?;
        bench.configure(true)?;
        let bases = bench.path("storage/base-images");
        std::fs::create_dir_all(&bases)?;
        done(
            Command::new("chmod")
                .arg("711")
                .args([&bench.path("storage"), &bases]),
        )?;
        let link = bases.join(format!("{}-base.qcow2", bench.lab));
        std::fs::copy(image, link).with_context(|| format!("no image: {}", image.display()))?;
        Ok(bench)
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn configure(&self, instant: bool) -> Result<()> {
        let config = json!({
            "host": {"storage_dir": self.path("storage"), "state_dir": self.path("state"),
                     "output_dir": self.path("output")},
            "labs": [{"lab_id": self.lab, "lab_name": "Benchmark", "packages": [], "motd": "",
                      "memory_mb": 1024, "vcpus": 1, "disk_size": "10G", "instant": instant}],
        });
        Ok(std::fs::write(
            self.path("labs-config.json"),
            config.to_string(),
        )?)
    }

    fn warm(&self) -> Result<()> {
        let global = Global {
            config: Some(self.path("labs-config.json")),
            connect: Some(URI.parse()?),
            output: None,
            as_user: None,
            quiet: true,
            verbose: false,
        };
        let context = Context::new(
            &global,
            Output::new(Format::Json, true, false),
            Moment::now(),
        )?;
        let lab = context.config.labs.first().context("no lab")?;
        let base = base::current(&context.paths, &lab.lab_id)?;
        let began = Instant::now();
        let warm = warm::make(&context, lab, &base, &AtomicBool::new(false), |_| {})?;
        println!(
            "warmed in {:.1} s: memory {} MiB, disk {} MiB",
            began.elapsed().as_secs_f64(),
            warm.note.memory.size() >> 20,
            warm.note.layer.size() >> 20
        );
        Ok(())
    }

    fn cyyber(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cyyber"));
        command
            .args(["--config"])
            .arg(self.path("labs-config.json"));
        command.args(["--connect", URI]);
        command
    }

    /// Starts new instances of `users` at once, by a boot or a fork, and destroys them; how long each took
    /// to be ready.
    fn start(&self, by: &str, users: &[String]) -> Result<Vec<Duration>> {
        self.configure(by == "fork")?;
        let class = self.path("class.txt");
        std::fs::write(&class, users.join("\n"))?;
        let began = Instant::now();
        let lab = self.lab.as_str();
        let mut start = self.cyyber();
        start
            .args(["-v", "instance", "start", lab, "--users-from"])
            .arg(&class);
        let mut started = start.stderr(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let mut waiting: Vec<String> = users
            .iter()
            .map(|user| format!("{lab}_user_{user}"))
            .collect();
        let mut took = Vec::new();
        while !waiting.is_empty() {
            ensure!(began.elapsed() < LONGEST, "{waiting:?} are not ready");
            sleep(Duration::from_millis(50));
            waiting.retain(|name| {
                let ready = is_ready(name);
                took.extend(ready.then(|| began.elapsed()));
                !ready
            });
        }
        let mut said = String::new();
        if let Some(mut stderr) = started.stderr.take() {
            std::io::Read::read_to_string(&mut stderr, &mut said)?;
        }
        started.wait()?;
        for line in said.lines().filter(|line| line.contains("forked")) {
            println!("{line}");
        }
        let forked = said.matches(": forked (").count();
        ensure!(
            forked == if by == "fork" { users.len() } else { 0 },
            "{by}: {said}"
        );
        let took_all: Vec<_> = took
            .iter()
            .map(|it| format!("{:.1}", it.as_secs_f64()))
            .collect();
        println!("{by}: {} s", took_all.join(" "));
        if users.len() > 1 {
            sleep(SETTLING);
            println!("{by}: memory of {}: {}", users.len(), self.memory(users)?);
        }
        self.destroy_all()?;
        Ok(took)
    }

    /// What the QEMUs of instances hold: whole, and with what several hold shared out among them.
    fn memory(&self, users: &[String]) -> Result<String> {
        let (mut resident, mut proportional) = (0, 0);
        for user in users {
            let pid = format!("/run/libvirt/qemu/{}_user_{user}.pid", self.lab);
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

    fn destroy_all(&self) -> Result<()> {
        done(
            self.cyyber()
                .args(["-q", "instance", "cleanup", "--lab", &self.lab, "--yes"]),
        )
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.destroy_all();
        let _ = Command::new("chattr")
            .args(["-R", "-f", "-i"])
            .arg(self.dir.path())
            .status();
    }
}

/// Whether its agent answers, and it has an address.
fn is_ready(name: &str) -> bool {
    let ask = |arguments: &[&str]| {
        let mut virsh = Command::new("timeout");
        virsh.args(["5", "virsh", "-q", "-c", URI]).args(arguments);
        let output = virsh.stderr(Stdio::null()).output().ok();
        output.filter(|output| output.status.success())
    };
    let address = ask(&["domifaddr", name]);
    address.is_some_and(|it| String::from_utf8_lossy(&it.stdout).contains("ipv4"))
        && ask(&[
            "qemu-agent-command",
            "--timeout",
            "3",
            name,
            r#"{"execute":"guest-ping"}"#,
        ])
        .is_some()
}

fn done(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
