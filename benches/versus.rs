//! Ours beside named rivals, each doing the same work in turn: `cargo bench --bench versus`, or
//! `cargo bench --bench versus -- list reap` for some of it.
//!
//! As root, with libvirtd running. Rival and ours take turns, so that whatever else the machine is
//! doing meets both; what counts is the ratio of their medians. The exit status is 1 when a bound
//! is exceeded.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cyyber::accelerator::{self, Accelerator};
use cyyber::config::Config;
use cyyber::hypervisor::xml::domain::{InstanceDomain, new_uuid};
use cyyber::images::base::{self, Base};
use cyyber::names::{InstanceName, LabId};
use cyyber::network::HostPart;
use cyyber::output::{Page, Table};
use cyyber::paths::Paths;
use tempfile::TempDir;

const URI: &str = "qemu:///system";

/// Where disk images usually are, so that they are measured on the file system that serves them.
const PLACE: &str = "/var/lib/libvirt/images";

/// In a directory of a benchmark: the process it belongs to.
const OWNER: &str = "bench.pid";

/// How many times rival and ours take turns.
const PAIRS: usize = 40;

/// The same for what takes a second.
const FEW_PAIRS: usize = 12;

/// An overlay may take this many bytes before its guest has written anything.
const OVERLAY_BOUND: u64 = 1_000_000;

/// A listing is measured with this many instances.
const LISTED: usize = 1000;

/// A disk that boots.
const BOOTING_IMAGE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/quick-guest.qcow2");

/// How long that may take on a busy machine.
const BOOTING: Duration = Duration::from_secs(900);

/// How long a guest's firmware looks for something to boot before it rests.
const SETTLING: Duration = Duration::from_secs(10);

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

/// What is measured, by the word that asks for it.
type Group = (&'static str, fn(&Bench) -> Result<Vec<Comparison>>);

const GROUPS: [Group; 7] = [
    ("start", start_of_the_program),
    ("create", creating),
    ("power", powering_on),
    ("pause", pausing),
    ("answer", answering),
    ("list", listing),
    ("reap", reaping),
];

fn run() -> Result<bool> {
    // cargo adds `--bench` by itself.
    let asked: Vec<_> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    for word in &asked {
        let known = GROUPS.iter().any(|(name, _)| name == word);
        ensure!(
            known,
            "no such measurement: {word} (there are {})",
            GROUPS.map(|(name, _)| name).join(", ")
        );
    }
    let bench = Bench::set_up()?;
    let mut results = Vec::new();
    for (name, measure) in GROUPS {
        if asked.is_empty() || asked.iter().any(|word| word == name) {
            results.extend(measure(&bench)?);
        }
    }
    print(&results);
    Ok(results.iter().all(|result| !result.over()))
}

fn start_of_the_program(bench: &Bench) -> Result<Vec<Comparison>> {
    let compared = bench.compare(
        "program start",
        "virsh --version",
        PAIRS,
        None,
        |_| timed(|| done(Command::new("virsh").arg("--version"))),
        |_| timed(|| done(bench.cyyber().arg("--version"))),
    )?;
    Ok(vec![compared])
}

fn creating(bench: &Bench) -> Result<Vec<Comparison>> {
    // The first one adopts the base.
    bench.create("warm-up")?;
    let build = base::current(&bench.paths, &bench.lab)?;
    let xml = bench.dir.path().join("rival.xml");
    let speed = bench.compare(
        "create an instance",
        "qemu-img create + virsh define",
        PAIRS,
        Some(1.3),
        |turn| {
            let (name, overlay) = bench.rival(turn);
            std::fs::write(&xml, bench.domain(&bench.lab, &name, &overlay, &build)?)?;
            timed(|| {
                done(
                    Command::new("qemu-img")
                        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
                        .args([&build.path, &overlay]),
                )?;
                done(virsh().arg("define").arg(&xml))
            })
        },
        |turn| timed(|| bench.create(&turn.to_string())),
    )?;

    // What is alike for all is measured once.
    let bytes = |path: &Path| cyyber::images::allocated(path).context("no overlay");
    let size = Comparison {
        name: "overlay on disk",
        rival: "qemu-img create",
        figures: Figures::Bytes {
            rival: bytes(&bench.rival(0).1)?,
            ours: bytes(&bench.paths.overlay(&bench.instance("0")))?,
            bound: OVERLAY_BOUND,
        },
    };
    Ok(vec![speed, size])
}

/// Two guests alike are powered on in turn, one of them by virsh alone.
fn powering_on(bench: &Bench) -> Result<Vec<Comparison>> {
    let rival = pair(bench, &bench.lab, "powered")?;
    let rivals = |verb: &str| done(virsh().arg(verb).arg(&rival));
    let ours = |verb: &str, options: &[&str]| {
        let words = ["instance", verb, bench.lab.as_str(), "powered"];
        done(bench.cyyber().args(words).args(options))
    };
    let compared = bench.compare(
        "power on an instance",
        "virsh start",
        FEW_PAIRS,
        Some(1.15),
        |_| {
            let took = timed(|| rivals("start"))?;
            rivals("destroy").map(|()| took)
        },
        |_| {
            let took = timed(|| ours("start", &[]))?;
            ours("stop", &["--force"]).map(|()| took)
        },
    )?;
    done(virsh().args(["undefine", &rival]))?;
    Ok(vec![compared])
}

/// Makes an instance of `lab` and `user`, and a domain like it that is not ours; its name.
fn pair(bench: &Bench, lab: &LabId, user: &str) -> Result<String> {
    // The first one adopts the base.
    done(
        bench
            .cyyber()
            .args(["instance", "create", lab.as_str(), user]),
    )?;
    let build = base::current(&bench.paths, lab)?;
    let (rival, overlay) = bench.rival(PAIRS);
    let _ = std::fs::remove_file(&overlay);
    done(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
            .args([&build.path, &overlay]),
    )?;
    let xml = bench.dir.path().join("rival.xml");
    std::fs::write(&xml, bench.domain(lab, &rival, &overlay, &build)?)?;
    done(virsh().arg("define").arg(&xml))?;
    Ok(rival.to_string())
}

/// Two running guests alike, one of them ours, are saved and restored in turn.
fn pausing(bench: &Bench) -> Result<Vec<Comparison>> {
    let rival = pair(bench, &bench.lab, "paused")?;
    let rivals = |verb: &str| done(virsh().arg(verb).arg(&rival));
    let ours = |verb: &str| {
        let lab = bench.lab.as_str();
        done(bench.cyyber().args(["instance", verb, lab, "paused"]))
    };
    rivals("start")?;
    ours("start")?;
    std::thread::sleep(SETTLING);

    let pause = bench.compare(
        "pause an instance",
        "virsh managedsave",
        FEW_PAIRS,
        Some(1.1),
        |_| {
            let took = timed(|| rivals("managedsave"))?;
            rivals("start").map(|()| took)
        },
        |_| {
            let took = timed(|| ours("pause"))?;
            ours("resume").map(|()| took)
        },
    )?;
    let resume = bench.compare(
        "resume an instance",
        "virsh start",
        FEW_PAIRS,
        Some(1.1),
        |_| {
            rivals("managedsave")?;
            timed(|| rivals("start"))
        },
        |_| {
            ours("pause")?;
            timed(|| ours("resume"))
        },
    )?;
    rivals("destroy")?;
    done(virsh().args(["undefine", &rival]))?;
    done(
        bench
            .cyyber()
            .args(["instance", "stop", bench.lab.as_str(), "paused", "--force"]),
    )?;
    Ok(vec![pause, resume])
}

/// As [`pausing`] with guests that have booted: until their agents answer.
fn answering(bench: &Bench) -> Result<Vec<Comparison>> {
    let lab = &bench.booting;
    std::fs::copy(BOOTING_IMAGE, bench.paths.base_link(lab))
        .with_context(|| format!("{BOOTING_IMAGE} is needed, which tests/quick-guest.sh makes"))?;
    let rival = pair(bench, lab, "paused")?;
    let ours = format!("{lab}_user_paused");
    let rivals = |verb: &str| done(virsh().arg(verb).arg(&rival));
    let verb = |verb: &str| {
        done(
            bench
                .cyyber()
                .args(["instance", verb, lab.as_str(), "paused"]),
        )
    };
    rivals("start")?;
    verb("start")?;
    for guest in [&rival, &ours] {
        bench.answered(guest)?;
    }
    // Both are done with their boot.
    std::thread::sleep(SETTLING * 2);
    let compared = bench.compare(
        "resume until its agent answers",
        "virsh start",
        FEW_PAIRS,
        Some(1.1),
        |_| {
            rivals("managedsave")?;
            timed(|| rivals("start").and_then(|()| bench.answered(&rival)))
        },
        |_| {
            verb("pause")?;
            timed(|| verb("resume").and_then(|()| bench.answered(&ours)))
        },
    )?;
    rivals("destroy")?;
    done(
        bench
            .cyyber()
            .args(["instance", "stop", lab.as_str(), "paused", "--force"]),
    )?;
    Ok(vec![compared])
}

/// Has a thousand instances, and none that nobody noted anything about.
fn have_a_thousand(bench: &Bench) -> Result<()> {
    for turn in 0..=PAIRS {
        // Where they were not measured there are none.
        let rival = bench.rival(turn).0.to_string();
        let _ = virsh().args(["undefine", &rival]).output()?;
    }
    let class = bench.dir.path().join("class.txt");
    let users: String = (0..LISTED).map(|user| format!("{user}\n")).collect();
    std::fs::write(&class, users)?;
    let lab = bench.lab.as_str();
    done(
        bench
            .cyyber()
            .args(["instance", "create", lab, "--users-from"])
            .arg(&class),
    )
}

fn listing(bench: &Bench) -> Result<Vec<Comparison>> {
    have_a_thousand(bench)?;
    let compared = bench.compare(
        "list 1000 instances",
        "virsh list --all",
        PAIRS,
        Some(0.2),
        |_| timed(|| done(virsh().args(["list", "--all"]))),
        |_| timed(|| done(bench.cyyber().args(["-o", "json", "instance", "list"]))),
    )?;
    Ok(vec![compared])
}

/// Passes that find nothing to do.
fn reaping(bench: &Bench) -> Result<Vec<Comparison>> {
    have_a_thousand(bench)?;
    // The first one only looks, and has more to note.
    done(bench.cyyber().arg("reap"))?;
    let compared = bench.compare(
        "reap 1000 instances",
        "virsh list --all",
        PAIRS,
        Some(0.3),
        |_| timed(|| done(virsh().args(["list", "--all"]))),
        |_| timed(|| done(bench.cyyber().arg("reap"))),
    )?;
    let memory = std::fs::read_to_string(bench.paths.passes())?;
    let seen = memory.matches("stopped_since").count();
    ensure!(seen >= LISTED, "a pass saw {seen} instances only");
    Ok(vec![compared])
}

/// One rival and ours, measured.
struct Comparison {
    name: &'static str,
    rival: &'static str,
    figures: Figures,
}

enum Figures {
    /// Pairs of rival and ours; the bound is on the ratio.
    Time {
        pairs: Vec<(Duration, Duration)>,
        bound: Option<f64>,
    },
    /// The bound is on ours.
    Bytes { rival: u64, ours: u64, bound: u64 },
}

impl Comparison {
    /// Of the medians.
    fn ratio(&self) -> f64 {
        match &self.figures {
            Figures::Time { pairs, .. } => {
                let (rival, ours) = medians(pairs);
                ours / rival
            }
            Figures::Bytes { rival, ours, .. } => *ours as f64 / *rival as f64,
        }
    }

    fn over(&self) -> bool {
        match &self.figures {
            Figures::Time { bound, .. } => bound.is_some_and(|bound| self.ratio() > bound),
            Figures::Bytes { ours, bound, .. } => ours > bound,
        }
    }

    fn row(&self) -> Vec<String> {
        let (turns, rival, ours, paired, bound) = match &self.figures {
            Figures::Time { pairs, bound } => {
                let (rival, ours) = medians(pairs);
                let ratios = pairs.iter().map(|(r, o)| o.div_duration_f64(*r)).collect();
                (
                    pairs.len().to_string(),
                    format!("{:.1} ms", rival * 1e3),
                    format!("{:.1} ms", ours * 1e3),
                    format!("{:.2}", median(ratios)),
                    bound.map_or("-".to_owned(), |bound| format!("ratio {bound}")),
                )
            }
            Figures::Bytes { rival, ours, bound } => (
                "1".to_owned(),
                format!("{rival} B"),
                format!("{ours} B"),
                "-".to_owned(),
                format!("{bound} B"),
            ),
        };
        let verdict = match &self.figures {
            Figures::Time { bound: None, .. } => "-",
            _ if self.over() => "OVER",
            _ => "ok",
        };
        vec![
            self.name.to_owned(),
            self.rival.to_owned(),
            turns,
            rival,
            ours,
            format!("{:.2}", self.ratio()),
            paired,
            bound,
            verdict.to_owned(),
        ]
    }
}

fn medians(pairs: &[(Duration, Duration)]) -> (f64, f64) {
    (
        median(pairs.iter().map(|(rival, _)| rival.as_secs_f64()).collect()),
        median(pairs.iter().map(|(_, ours)| ours.as_secs_f64()).collect()),
    )
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

fn print(results: &[Comparison]) {
    let header = [
        "COMPARISON",
        "RIVAL",
        "TURNS",
        "RIVAL'S",
        "OURS",
        "RATIO",
        "PAIRED",
        "BOUND",
        "VERDICT",
    ];
    let rows: Vec<_> = results.iter().map(Comparison::row).collect();
    let mut table = Table::of(&rows);
    for (n, title) in header.into_iter().enumerate() {
        table = table.column(title, move |row| row[n].as_str());
    }
    println!("{}", table.table().draw(Page::PLAIN));
    println!("\nMedians of all turns; PAIRED is the median of each turn's own ratio.");
}

/// A lab of our own with a base that boots nothing, in directories of our own.
struct Bench {
    dir: TempDir,
    paths: Paths,
    config: Config,
    lab: LabId,
    /// Another lab, whose guests boot.
    booting: LabId,
    accelerator: Accelerator,
    /// Raised by a signal to end.
    stop: Arc<AtomicBool>,
}

impl Bench {
    fn set_up() -> Result<Bench> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        sweep()?;
        // QEMU, which is another user, must be able to look into it.
        let dir = tempfile::Builder::new()
            .prefix("cyyber-bench-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in(PLACE)
            .with_context(|| format!("{PLACE} is needed: run this as root on a libvirt host"))?;
        std::fs::write(dir.path().join(OWNER), std::process::id().to_string())?;
        // Names that nobody else has.
        let lab = format!("bench-{}", std::process::id());
        let booting = format!("{lab}-booting");
        let config = dir.path().join("labs-config.json");
        std::fs::write(
            &config,
            serde_json::to_vec(&serde_json::json!({"labs": [
                {"lab_id": lab, "lab_name": "Bench", "packages": [], "motd": ""},
                {"lab_id": booting, "lab_name": "Bench", "packages": [], "motd": "", "memory_mb": 512},
            ]}))?,
        )?;
        let bench = Bench {
            paths: Paths::new(
                &dir.path().join("storage"),
                &dir.path().join("state"),
                &dir.path().join("output"),
            )?,
            config: Config::load(Some(&config))?,
            lab: lab.parse()?,
            booting: booting.parse()?,
            accelerator: accelerator::choose(
                cyyber::config::AcceleratorChoice::Auto,
                accelerator::Host::probe(),
            )?
            .0,
            stop,
            dir,
        };
        std::fs::create_dir_all(bench.paths.base_images())?;
        done(
            Command::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2"])
                .arg(bench.paths.base_link(&bench.lab))
                .arg("1G"),
        )?;
        Ok(bench)
    }

    /// The program, with our lab alone.
    fn cyyber(&self) -> Command {
        let dir = self.dir.path();
        let mut command = Command::new(env!("CARGO_BIN_EXE_cyyber"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CYYBER_") {
                command.env_remove(name);
            }
        }
        command
            .env("CYYBER_CONFIG", dir.join("labs-config.json"))
            .env("CYYBER_CONNECT", URI)
            .env("CYYBER_STORAGE_DIR", dir.join("storage"))
            .env("CYYBER_STATE_DIR", dir.join("state"))
            .env("CYYBER_OUTPUT_DIR", dir.join("output"));
        command
    }

    fn create(&self, user: &str) -> Result<()> {
        done(
            self.cyyber()
                .args(["instance", "create", self.lab.as_str(), user]),
        )
    }

    fn instance(&self, user: &str) -> InstanceName {
        InstanceName {
            lab: self.lab.clone(),
            user: user.parse().expect("a valid id"),
        }
    }

    /// The rival's instance of this turn, and its overlay.
    fn rival(&self, turn: usize) -> (InstanceName, std::path::PathBuf) {
        let name = self.instance(&format!("rival-{turn}"));
        let overlay = self.dir.path().join(format!("{name}.qcow2"));
        (name, overlay)
    }

    /// The definition that `cyyber instance create` would make.
    fn domain(
        &self,
        lab: &LabId,
        name: &InstanceName,
        overlay: &Path,
        base: &Base,
    ) -> Result<String> {
        InstanceDomain {
            name,
            uuid: new_uuid(),
            lab: self.config.lab(lab)?,
            overlay: overlay.to_str().context("path")?,
            base: base.path.to_str().context("path")?,
            layer: None,
            build: &base.build,
            largest: None,
            // The guest never gets so far as to use them.
            card: HostPart::STANDALONE,
            accelerator: self.accelerator,
            vnc_listen: self.config.host.vnc_listen,
            share_memory: self.config.host.share_memory,
            created: jiff::Timestamp::now(),
        }
        .xml()
    }

    /// Waits until the agent of the domain `guest` answers.
    fn answered(&self, guest: &str) -> Result<()> {
        let began = Instant::now();
        let ping = ["qemu-agent-command", guest, r#"{"execute":"guest-ping"}"#];
        while !virsh().args(ping).output()?.status.success() {
            ensure!(began.elapsed() < BOOTING, "the agent of {guest} is mute");
            ensure!(!self.stop.load(Ordering::Relaxed), "interrupted");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Lets rival and ours take turns. Each returns what of its work counts.
    fn compare(
        &self,
        name: &'static str,
        rival: &'static str,
        turns: usize,
        bound: Option<f64>,
        mut rivals: impl FnMut(usize) -> Result<Duration>,
        mut ours: impl FnMut(usize) -> Result<Duration>,
    ) -> Result<Comparison> {
        eprintln!("{name} ...");
        let mut pairs = Vec::new();
        for turn in 0..turns {
            if self.stop.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            pairs.push((rivals(turn)?, ours(turn)?));
        }
        Ok(Comparison {
            name,
            rival,
            figures: Figures::Time { pairs, bound },
        })
    }

    /// Removes every domain of ours and what guards the files, which go with their directory.
    fn tear_down(&self) -> Result<()> {
        let labs = [&self.lab, &self.booting].map(|lab| format!("{lab}_user_"));
        remove_domains(|name| labs.iter().any(|lab| name.starts_with(lab)))?;
        unguard(&self.paths.base_images())
    }
}

/// Removes what benchmarks left behind that were killed: their domains would be listed with ours.
fn sweep() -> Result<()> {
    let is_gone = |process: &str| !Path::new("/proc").join(process).exists();
    remove_domains(|name| {
        let process = name
            .strip_prefix("bench-")
            .and_then(|rest| rest.split_once("_user_"));
        process.is_some_and(|(process, _)| is_gone(process.trim_end_matches("-booting")))
    })?;
    for entry in std::fs::read_dir(PLACE)? {
        let directory = entry?.path();
        let owner = std::fs::read_to_string(directory.join(OWNER));
        if owner.is_ok_and(|process| is_gone(&process)) {
            unguard(&directory.join("storage/base-images"))?;
            std::fs::remove_dir_all(directory)?;
        }
    }
    Ok(())
}

fn remove_domains(go: impl Fn(&str) -> bool) -> Result<()> {
    let names = virsh().args(["list", "--all", "--name"]).output()?;
    let names = String::from_utf8(names.stdout)?;
    for name in names.lines().filter(|name| go(name)) {
        // Most are off, which `destroy` calls an error.
        let _ = virsh().args(["destroy", name]).output()?;
        done(virsh().args(["undefine", "--managed-save", name]))?;
    }
    Ok(())
}

/// Lets the base images in `directory` be removed.
fn unguard(directory: &Path) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            done(Command::new("chattr").arg("-i").arg(entry.path()))?;
        }
    }
    Ok(())
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Err(error) = self.tear_down() {
            eprintln!("error: failed to clean up {}: {error:#}", self.lab);
        }
    }
}

fn virsh() -> Command {
    let mut command = Command::new("virsh");
    command.args(["-q", "-c", URI]);
    command
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed())
}

/// Runs a command that must succeed.
fn done(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("failed to run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
