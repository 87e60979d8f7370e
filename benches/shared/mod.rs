//! A lab of a benchmark's own, whose instances are forked or booted. Gone with it.

mod guardian;

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

use guardian::Guardian;

pub const URI: &str = "qemu:///system";

/// Where disk images usually are.
const PLACE: &str = "/var/lib/libvirt/images";

/// No boot takes longer, also of many at once.
const LONGEST: Duration = Duration::from_secs(1800);

/// The exit status of a benchmark: 1 when a bound is exceeded or it cannot be run.
pub fn exit(outcome: Result<bool>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What a benchmark was asked for, without what cargo adds by itself.
pub fn arguments() -> Vec<String> {
    std::env::args()
        .skip(1)
        .filter(|it| it != "--bench")
        .collect()
}

/// The lab, on a directory of its own.
pub struct Bench {
    // Dropped first.
    _guardian: Guardian,
    dir: TempDir,
    pub lab: String,
    memory_mb: u32,
}

impl Bench {
    /// A lab on a copy of `image`.
    pub fn set_up(image: &Path, memory_mb: u32) -> Result<Bench> {
        let dir = TempDir::new_in(PLACE)?;
        let lab = format!("bench-{}", std::process::id());
        let bench = Bench {
            _guardian: Guardian::of(dir.path(), &lab)?,
            dir,
            lab,
            memory_mb,
        };
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

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn configure(&self, instant: bool) -> Result<()> {
        let config = json!({
            // The kernel may merge their memory once it is told to; until then, that changes nothing.
            "host": {"share_memory": true,
                     "storage_dir": self.path("storage"), "state_dir": self.path("state"),
                     "output_dir": self.path("output")},
            "labs": [{"lab_id": self.lab, "lab_name": "Benchmark", "packages": [], "motd": "",
                      "memory_mb": self.memory_mb, "vcpus": 1, "disk_size": "10G", "instant": instant}],
        });
        Ok(std::fs::write(
            self.path("labs-config.json"),
            config.to_string(),
        )?)
    }

    pub fn warm(&self) -> Result<()> {
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

    pub fn cyyber(&self) -> Command {
        // A killed benchmark starts nothing any more.
        let mut command = Command::new("setpriv");
        command
            .args([
                "--pdeathsig",
                "KILL",
                env!("CARGO_BIN_EXE_cyyber"),
                "--config",
            ])
            .arg(self.path("labs-config.json"));
        command.args(["--connect", URI]);
        command
    }

    /// Starts new instances of `users` at once, by a boot or a fork; how long each took to be ready.
    pub fn start(&self, by: &str, users: &[String]) -> Result<Vec<Duration>> {
        self.configure(by == "fork")?;
        let class = self.class(users)?;
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
        Ok(took)
    }

    /// A file with the names of `users`, for `--users-from`.
    pub fn class(&self, users: &[String]) -> Result<PathBuf> {
        let class = self.path("class.txt");
        std::fs::write(&class, users.join("\n"))?;
        Ok(class)
    }

    /// Destroys its instances.
    #[allow(dead_code, reason = "not every benchmark starts anew")]
    pub fn destroy_all(&self) -> Result<()> {
        done(
            self.cyyber()
                .args(["-q", "instance", "cleanup", "--lab", &self.lab, "--yes"]),
        )
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

/// Runs a command, which must succeed.
pub fn done(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
