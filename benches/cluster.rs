//! Verbs on the head of four hosts beside the same verbs on the host itself, and what Slurm takes for 50
//! hosts: `cargo bench --bench cluster`, or `cargo bench --bench cluster -- ROUNDS INSTANCES LEASES` (10,
//! 250 on each host, 5000).
//!
//! As root, on a head and hosts in namespaces of this machine (`tests/cluster/`), with Slurm installed by
//! `setup.sh --with-tests`. The exit status is 1 when a bound is exceeded.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

const HOSTS: [&str; 4] = ["h1", "h2", "h3", "h4"];

/// Hosts that have nothing but Slurm.
const BARE: usize = 50;

/// What a verb takes more on the head, alone.
const OVERHEAD: Duration = Duration::from_millis(150);

/// What a list of all instances takes, of one host's list.
const LIST: f64 = 1.5;

/// What Slurm takes to place an instance among all leases.
const PLACEMENT: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let inside = std::env::var_os("CYYBER_BENCH_INSIDE").is_some();
    match if inside { run() } else { in_world() } {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn project(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(below)
}

/// The same in a world, with which all of it ends.
fn in_world() -> Result<bool> {
    let found =
        which::which("slurmctld").or_else(|_| which::which_in("slurmctld", Some("/usr/sbin"), "/"));
    found.context("Slurm is not installed: templates/host/setup.sh --with-tests")?;
    let mut world = Command::new(project("tests/world.sh"));
    world
        .arg(std::env::current_exe()?)
        .args(std::env::args().skip(1));
    Ok(world.env("CYYBER_BENCH_INSIDE", "1").status()?.success())
}

fn run() -> Result<bool> {
    // cargo adds `--bench` by itself.
    let asked: Vec<_> = std::env::args()
        .skip(1)
        .filter(|it| it != "--bench")
        .collect();
    let number = |at: usize, usual: usize| asked.get(at).map_or(Ok(usual), |word| word.parse());
    let (rounds, instances, leases) = (number(0, 10)?, number(1, 250)?, number(2, 5000)?);
    let bench = Bench::set_up()?;
    println!("load at the start: {}", load()?);
    let verbs = bench.verbs(rounds)?;
    let list = bench.list(rounds, instances)?;
    let placement = bench.placement(rounds, leases)?;
    println!("load at the end: {}", load()?);
    Ok(verbs && list && placement)
}

fn load() -> Result<String> {
    let all = std::fs::read_to_string("/proc/loadavg")?;
    Ok(all.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

struct Bench {
    cluster: PathBuf,
}

impl Bench {
    fn set_up() -> Result<Bench> {
        let world = std::env::var_os("CYYBER_WORLD").context("there is no world")?;
        let cluster = Path::new(&world).join("cluster");
        let bench = Bench { cluster };
        std::fs::create_dir_all(bench.cluster.join("bin"))?;
        std::os::unix::fs::symlink(
            env!("CARGO_BIN_EXE_cyyber"),
            bench.cluster.join("bin/cyyber"),
        )?;
        let bare = (1..=BARE).map(|number| format!("n{number}"));
        let hosts = HOSTS.iter().map(|&host| host.to_owned()).chain(bare);
        done(
            Command::new(project("tests/cluster/cluster.sh"))
                .arg("up")
                .args(hosts),
        )?;
        // The others take part in the last figure alone.
        bench.others("DRAIN")?;
        let base = bench.cluster.join("shared/base-images/lab01-base.qcow2");
        done(
            Command::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2"])
                .arg(base)
                .arg("1G"),
        )?;
        Ok(bench)
    }

    fn others(&self, state: &str) -> Result<()> {
        let words = [
            "scontrol",
            "update",
            &format!("NodeName=n[1-{BARE}]"),
            &format!("State={state}"),
            "Reason=benchmark",
        ];
        done(&mut self.on("head", &words)).map(drop)
    }

    fn on(&self, host: &str, words: &[&str]) -> Command {
        let mut command = Command::new(project("tests/cluster/cluster.sh"));
        command.args(["in", host]).args(words);
        command
    }

    /// How long a command takes that must go well.
    fn time(&self, host: &str, words: &[&str]) -> Result<Duration> {
        let began = Instant::now();
        done(&mut self.on(host, words))?;
        Ok(began.elapsed())
    }

    /// The host of the only instance.
    fn place(&self) -> Result<String> {
        let list = done(&mut self.on("head", &["cyyber", "-o", "json", "instance", "list"]))?;
        let list: Value = serde_json::from_str(&list)?;
        let host = list.pointer("/instances/0/host").and_then(Value::as_str);
        Ok(host.context("there is no instance")?.to_owned())
    }

    /// Each verb on the head and on the host, in turns.
    fn verbs(&self, rounds: usize) -> Result<bool> {
        const SELF: [&str; 2] = ["lab01", "anna"];
        let verb = |name| [&["cyyber", "instance", name][..], &SELF].concat();
        let off = [&verb("stop")[..], &["--force"]].concat();
        self.time("head", &verb("start"))?;
        let host = self.place()?;
        let (mut start, mut pause, mut resume) =
            ([vec![], vec![]], [vec![], vec![]], [vec![], vec![]]);
        let (mut list, mut moves) = ([vec![], vec![]], vec![]);
        for _ in 0..rounds {
            for (side, at) in ["head", &*host].into_iter().enumerate() {
                self.time("head", &off)?;
                start[side].push(self.time(at, &verb("start"))?);
                list[side].push(self.time(at, &["cyyber", "instance", "list"])?);
                pause[side].push(self.time(at, &verb("pause"))?);
                // With a lease whoever paused it.
                resume[side].push(self.time(at, &verb("start"))?);
            }
        }
        let mut well = true;
        for (name, [head, host]) in [
            ("start", start),
            ("list", list),
            ("pause", pause),
            ("resume", resume.clone()),
        ] {
            well &= compare(name, &head, &host);
        }
        for _ in 0..rounds {
            self.time("head", &verb("pause"))?;
            let host = self.place()?;
            let node = format!("NodeName={host}");
            done(&mut self.on(
                "head",
                &["scontrol", "update", &node, "State=DRAIN", "Reason=move"],
            ))?;
            moves.push(self.time("head", &verb("start"))?);
            done(&mut self.on("head", &["scontrol", "update", &node, "State=RESUME"]))?;
        }
        println!(
            "move     start from saved memory on another host {:?}, on the same {:?} (medians)",
            median(&moves),
            median(&resume[0])
        );
        self.time("head", &off)?;
        Ok(well)
    }

    /// A list of all beside that of one host, with as many instances on each; and, because the hosts share the
    /// processors of this machine, beside lists on each of them at once.
    fn list(&self, rounds: usize, instances: usize) -> Result<bool> {
        let file = self.cluster.join("shared/class.txt");
        let names = |host: &str| {
            (0..instances)
                .map(|it| format!("{host}-{it}"))
                .collect::<Vec<_>>()
        };
        let mut running = Vec::new();
        for host in HOSTS {
            let file = file.with_extension(host);
            std::fs::write(&file, names(host).join("\n"))?;
            let path = file.to_string_lossy();
            let words = [
                "cyyber",
                "-q",
                "instance",
                "create",
                "lab01",
                "--users-from",
                &path,
            ];
            running.push(self.on(host, &words).stdout(Stdio::null()).spawn()?);
        }
        for mut create in running {
            ensure!(create.wait()?.success(), "creating instances failed");
        }
        const LISTS: [&str; 5] = ["cyyber", "-o", "json", "instance", "list"];
        let (mut all, mut one, mut each) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            all.push(self.time("head", &LISTS)?);
            one.push(self.time("h1", &LISTS)?);
            let began = Instant::now();
            let there = |host| self.on(host, &LISTS).stdout(Stdio::null()).spawn();
            let lists: Vec<_> = HOSTS.into_iter().map(there).collect::<Result<_, _>>()?;
            for mut list in lists {
                ensure!(list.wait()?.success(), "listing instances failed");
            }
            each.push(began.elapsed());
        }
        let (all, one, each) = (median(&all), median(&one), median(&each));
        let times = |other: Duration| all.as_secs_f64() / other.as_secs_f64();
        println!(
            "list     of {} on {} hosts {all:?}, of {instances} on one of them {one:?}: {:.2} (at most {LIST}); \
             on each of them at once {each:?}: {:.2}",
            instances * HOSTS.len(),
            HOSTS.len(),
            times(one),
            times(each)
        );
        Ok(times(one) <= LIST)
    }

    /// What Slurm takes to place one more instance among `leases` on all hosts, measured on the head.
    fn placement(&self, rounds: usize, leases: usize) -> Result<bool> {
        self.others("RESUME")?;
        const ALLOCATE: &str = r#"
            allocate() { salloc -Q --no-shell --immediate=2 --dependency=singleton --mem=256 -c1 -J "$1"; }
            filled=$1 rounds=$2
            for part in 0 1 2 3; do
                for ((it = part; it < filled; it += 4)); do allocate "lab01_user_l$it" || exit; done &
                parts+=($!)
            done
            for part in "${parts[@]}"; do wait "$part" || exit; done
            for ((it = 0; it < rounds; it++)); do
                began=${EPOCHREALTIME/[.,]/}
                allocate "lab02_user_$it" || exit
                echo $((${EPOCHREALTIME/[.,]/} - began))
            done
        "#;
        let (filled, rounds) = (leases.to_string(), (rounds * 5).to_string());
        let said = done(&mut self.on("head", &["bash", "-c", ALLOCATE, "bash", &filled, &rounds]))?;
        let micros = said
            .lines()
            .map(|line| Ok(Duration::from_micros(line.parse()?)));
        let median = median(&micros.collect::<Result<Vec<_>>>()?);
        let hosts = BARE + HOSTS.len();
        println!(
            "place    with {leases} leases on {hosts} hosts {median:?} (median, at most {PLACEMENT:?})"
        );
        Ok(median <= PLACEMENT)
    }
}

/// Prints both; whether the first takes no more than the bound beyond the second.
fn compare(name: &str, head: &[Duration], host: &[Duration]) -> bool {
    let (head, host) = (median(head), median(host));
    let more = head.saturating_sub(host);
    println!(
        "{name:8} on the head {head:?}, on the host {host:?}: {more:?} more (medians, at most {OVERHEAD:?})"
    );
    more <= OVERHEAD
}

fn median(all: &[Duration]) -> Duration {
    let mut all = all.to_vec();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

/// Runs a program that must succeed, and returns what it printed.
fn done(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?} failed: {}",
        said.trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}
