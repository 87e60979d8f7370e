//! What it saves to build once what labs have in common: real Packer builds in real VMs, of a lab by
//! itself, of a stage, and of a lab from that stage.
//!
//!     cargo bench --bench stages              the desktop of the product's own labs
//!     cargo bench --bench stages -- none      without a desktop
//!
//! The rival is what a build was before there were stages, and what anybody would write: one Packer
//! build that does everything in one boot. One of each is measured; what several labs cost is added
//! up from that. Both run side by side, each VM with a core of its own: with a desktop that takes
//! most of an hour under software emulation, and whatever else the machine does meanwhile slows both.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// Made by `make image`.
const CLOUD_IMAGE: &str = "/var/cache/cyyber/debian-12-cloud-amd64.qcow2";

/// Labs of a course.
const LABS: u32 = 5;

fn main() -> Result<()> {
    let desktop = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let desktop = desktop.unwrap_or_else(|| "xfce".to_owned());
    let root = tempfile::Builder::new().prefix("cyyber-bench-").tempdir()?;
    let bench = Bench {
        root: root.path().to_owned(),
    };
    bench.configure(&desktop)?;
    println!("desktop {desktop}; each figure is one real build");

    bench.render_alone()?;
    let (alone, ours) = std::thread::scope(|scope| {
        let alone = scope.spawn(|| bench.alone());
        let ours = bench
            .cyyber(&["one"])
            .and_then(|first| Ok((first, bench.cyyber(&["two"])?)));
        (alone.join(), ours)
    });
    let alone = alone.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let (first, second) = ours?;
    println!(
        "a lab by itself, in one boot   {:>6.0} s",
        alone.as_secs_f64()
    );
    let stage = first.saturating_sub(second);
    println!(
        "the stage                      {:>6.0} s",
        stage.as_secs_f64()
    );
    println!(
        "a lab from the stage           {:>6.0} s",
        second.as_secs_f64()
    );
    let (separate, shared) = (alone * LABS, stage + second * LABS);
    println!(
        "{LABS} labs, added up: separate runs {:.0} s, one stage {:.0} s, which is {:.2} of it",
        separate.as_secs_f64(),
        shared.as_secs_f64(),
        shared.as_secs_f64() / separate.as_secs_f64()
    );
    let unchanged = bench.cyyber(&[])?;
    println!(
        "nothing changed                {:>6.2} s",
        unchanged.as_secs_f64()
    );
    Ok(())
}

struct Bench {
    root: PathBuf,
}

impl Drop for Bench {
    /// Base images are immutable, and would keep their directory.
    fn drop(&mut self) {
        // It also complains of links, which cannot be.
        let _ = Command::new("chattr")
            .args(["-f", "-R", "-i"])
            .arg(&self.root)
            .output();
    }
}

impl Bench {
    fn configure(&self, desktop: &str) -> Result<()> {
        // The same but in name, so that what the stage took is the difference.
        let lab = |id: &str| {
            json!({
                "lab_id": id, "lab_name": "Bench", "packages": ["nmap"], "motd": "Hello",
            })
        };
        let config = json!({
            "defaults": {
                "image": {"url": CLOUD_IMAGE}, "disk_size": "10G", "memory_mb": 2048,
                "desktop": desktop,
            },
            "labs": [lab("one"), lab("two")],
            "host": {
                "storage_dir": self.root.join("storage"),
                "state_dir": self.root.join("state"),
                "output_dir": self.root.join("output"),
            },
        });
        fs_err::write(self.root.join("labs.json"), config.to_string())?;
        Ok(())
    }

    fn cyyber(&self, arguments: &[&str]) -> Result<Duration> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cyyber"));
        command
            .args(["-q", "--config"])
            .arg(self.root.join("labs.json"))
            .arg("build")
            .args(arguments);
        timed(&mut command)
    }

    /// What Packer is given for both halves of a build in one boot.
    fn render_alone(&self) -> Result<()> {
        self.cyyber(&["--dry-run", "one"])?;
        let output = self.root.join("output");
        let mut stages = fs_err::read_dir(&output)?.flatten();
        let stage = stages
            .find(|entry| entry.file_name().to_string_lossy().starts_with("_stage-"))
            .context("no stage was rendered")?
            .path();
        let alone = self.root.join("alone");
        fs_err::rename(stage, &alone)?;
        copy(&output.join("one.packer/cyyber"), &alone.join("cyyber"))?;
        let halves = "set -e\nsh /var/tmp/cyyber/stage.sh\nsh /var/tmp/cyyber/install.sh\n";
        fs_err::write(alone.join("cyyber/alone.sh"), halves)?;
        let file = alone.join("lab.auto.pkrvars.json");
        let mut variables: Value = serde_json::from_slice(&fs_err::read(&file)?)?;
        variables["step"] = json!("alone");
        variables["skip_compaction"] = json!(false);
        fs_err::write(&file, variables.to_string())?;
        Ok(())
    }

    /// That build, by Packer itself.
    fn alone(&self) -> Result<Duration> {
        let mut packer = Command::new("packer");
        packer
            .args(["build", "-color=false", "."])
            .env("CHECKPOINT_DISABLE", "1")
            .current_dir(self.root.join("alone"));
        timed(&mut packer)
    }
}

/// Copies what is in a directory of a few small files.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp")
        .arg("-r")
        .arg(from.join("."))
        .arg(to)
        .status()?;
    ensure!(status.success(), "cp failed");
    Ok(())
}

fn timed(command: &mut Command) -> Result<Duration> {
    let began = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let took = began.elapsed();
    ensure!(
        output.status.success(),
        "{command:?} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(took)
}
