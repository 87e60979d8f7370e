//! What a class goes through on four hosts: no disk is lost, and none has two writers.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::common::cluster::{Cluster, HOSTS};
use crate::common::world::{Guests, own_world};
use crate::common::{Run, is_thorough, run, text, wait_until, waits};

/// A class with a lab on a cluster.
struct Class {
    cluster: Arc<Cluster>,
    students: Vec<String>,
    watch: Watch,
}

/// Somebody who looks all the time whether a disk has two writers.
struct Watch {
    end: Arc<AtomicBool>,
    thread: JoinHandle<(BTreeSet<std::path::PathBuf>, u32)>,
}

impl Watch {
    fn over(cluster: &Arc<Cluster>) -> Watch {
        let (end, cluster) = (Arc::new(AtomicBool::new(false)), Arc::clone(cluster));
        let ended = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let (mut found, mut looks) = (BTreeSet::new(), 0);
            while !ended.load(Ordering::Relaxed) {
                found.extend(cluster.disks_with_two_writers());
                looks += 1;
                sleep(Duration::from_millis(200));
            }
            (found, looks)
        });
        Watch { end, thread }
    }

    #[track_caller]
    fn saw_nothing(self) {
        self.end.store(true, Ordering::Relaxed);
        let (found, looks) = self.thread.join().unwrap();
        assert_eq!(found, BTreeSet::new(), "had two writers");
        assert!(looks > 10, "nobody looked");
    }
}

impl Class {
    fn of(size: usize, hosts: &[&str]) -> Option<Class> {
        let lab = json!({"policy": {"boot_timeout": "0s"}});
        let cluster = Arc::new(Cluster::up(hosts, &lab)?);
        let students: Vec<_> = (0..size).map(|number| format!("s{number}")).collect();
        fs::write(cluster.shared("class.txt"), students.join("\n")).unwrap();
        let watch = Watch::over(&cluster);
        let class = Class {
            cluster,
            students,
            watch,
        };
        // Where they start, and so where their disks are, is Slurm's choice.
        assert_eq!(class.all("start")["failed"], json!([]));
        class.all("stop");
        for (number, student) in class.students.iter().enumerate() {
            class.qemu_io(student, &format!("write -q -P {} 0 64k", number + 1));
        }
        assert_eq!(class.all("start")["failed"], json!([]));
        Some(class)
    }

    /// A verb for the whole class; its answer, which some may have failed.
    #[track_caller]
    fn all(&self, verb: &str) -> Value {
        let file = self.cluster.shared("class.txt");
        let file = file.to_str().unwrap();
        let mut options = vec![
            "-o",
            "json",
            "instance",
            verb,
            "lab01",
            "--users-from",
            file,
        ];
        if verb == "stop" {
            options.push("--force");
        }
        let began = Instant::now();
        let answer = self.cyyber(&options);
        eprintln!("{verb} of {}: {:?}", self.students.len(), began.elapsed());
        serde_json::from_str(&answer.stdout).unwrap_or_else(|error| panic!("{error}: {answer:#?}"))
    }

    fn cyyber(&self, arguments: &[&str]) -> Run {
        self.cluster.cyyber(arguments)
    }

    /// The instances as `list` has them, by the student. On a busy machine no host may answer in time.
    #[track_caller]
    fn list(&self) -> Vec<Value> {
        let mut run = self.cyyber(&["-o", "json", "instance", "list"]);
        waits(|| {
            if run.code == Some(8) {
                run = self.cyyber(&["-o", "json", "instance", "list"]);
            }
            run.code != Some(8)
        });
        run.json()["instances"].as_array().unwrap().clone()
    }

    /// All are in a state, as soon as all hosts have had time to answer.
    #[track_caller]
    fn are(&self, state: &str) {
        let mut list = Vec::new();
        let all = waits(|| {
            list = self.list();
            list.len() == self.students.len() && list.iter().all(|it| it["state"] == state)
        });
        assert!(all, "not all are {state}: {list:#?}");
    }

    /// Who is on a host.
    #[track_caller]
    fn on(&self, host: &str) -> Vec<String> {
        let list = self.list();
        let there = list.iter().filter(|it| it["host"] == host);
        there.map(|it| text(&it["user_id"])).collect()
    }

    /// Nobody has used anything for so many minutes, and each host makes a pass.
    fn unused_for(&self, minutes: u64) {
        let at = SystemTime::now() - Duration::from_secs(60 * minutes);
        for host in HOSTS {
            let activities = self.cluster.shared(format!("hosts/{host}/state/activity"));
            for file in fs::read_dir(activities).unwrap().flatten() {
                let file = File::options().write(true).open(file.path()).unwrap();
                file.set_modified(at).unwrap();
            }
            self.cluster
                .cyyber_on(host, &["reap", "--timeout", "0s"])
                .ok();
        }
    }

    /// The names of leases of instances.
    fn leases(&self) -> BTreeSet<String> {
        let queue = run(&mut self.cluster.on("head", ["squeue", "-h", "-o", "%j"]));
        let names = queue.lines().filter(|name| name.contains("_user_"));
        names.map(str::to_owned).collect()
    }

    /// Reads or writes a disk where the base is that it has below it. Fails where a pattern that is read is
    /// not there.
    #[track_caller]
    fn qemu_io(&self, student: &str, command: &str) {
        let (host, disk) = self.cluster.owner(student);
        let mut on = self.cluster.on(&host, ["qemu-io", "-c", command]);
        let said = run(on.arg(&disk));
        assert!(!said.contains("fail"), "{}: {said}", disk.display());
    }

    /// Every disk is there once, as it was written, and every instance can be used.
    #[track_caller]
    fn ends_whole(self) {
        assert_eq!(self.all("start")["failed"], json!([]));
        self.are("running");
        assert_eq!(self.leases().len(), self.students.len());
        self.all("stop");
        for (number, student) in self.students.iter().enumerate() {
            self.qemu_io(student, &format!("read -q -P {} 0 64k", number + 1));
        }
        self.watch.saw_nothing();
    }
}

/// What a command that must not be obeyed now ends with: busy, or unavailable.
#[track_caller]
fn is_refused(run: &Run) {
    assert!(matches!(run.code, Some(6 | 8)), "{run:#?}");
    assert!(run.stderr.contains("fence"), "{run:#?}");
}

#[test]
#[ignore = "needs root, Slurm and QEMU: run by `make test-all`"]
fn a_class_goes_through_a_bad_day_and_loses_nothing() {
    own_world!();
    let _all = Guests::firmware(6);
    let size = if is_thorough() { 40 } else { 12 };
    let Some(class) = Class::of(size, &HOSTS) else {
        return;
    };
    let cluster = Arc::clone(&class.cluster);
    class.are("running");
    assert_eq!(class.leases().len(), size);
    for host in HOSTS {
        assert!(!class.on(host).is_empty(), "nobody is on {host}");
    }

    // Idle, which keeps the lease, and paused, which gives it back.
    class.unused_for(1);
    class.unused_for(11);
    class.are("idle");
    assert_eq!(class.leases().len(), size);
    class.unused_for(21);
    class.are("paused");
    wait_until("the leases are given back", || class.leases().is_empty());

    // Resumed elsewhere, with the memory.
    cluster.cyyber(&["host", "drain", "h1"]).ok();
    let resumed = class.all("start");
    let from_memory = |it: &Value| it["started_by"] == "memory";
    let instances = resumed["instances"].as_array().unwrap();
    assert!(instances.iter().all(from_memory), "{resumed:#}");
    class.are("running");
    assert_eq!(class.on("h1"), [""; 0]);
    cluster.cyyber(&["host", "resume", "h1"]).ok();

    // A host is drained while all run, twice, because somebody stopped the first.
    let there = class.on("h2").len();
    assert!(there > 0);
    let mut drain = cluster.on(
        "head",
        ["timeout", "-s", "INT", "2", "cyyber", "host", "drain", "h2"],
    );
    let _ = Run::of(&mut drain);
    cluster.cyyber(&["host", "drain", "h2"]).ok();
    class.are("running");
    assert_eq!(class.on("h2"), [""; 0]);
    cluster.cyyber(&["host", "resume", "h2"]).ok();

    // A host dies under those who work on it. Nothing starts by itself, nor by a click.
    let dead = class.on("h3");
    assert!(dead.len() >= size / 4, "only {dead:?} are on h3");
    cluster.kill("h3");
    let began = Instant::now();
    let unknown = class.list();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "list took {took:?}");
    for student in &dead {
        let row = unknown
            .iter()
            .find(|it| it["user_id"] == **student)
            .unwrap();
        assert_eq!(row["state"], "unknown", "{row:#}");
    }
    let click = ["-o", "json", "instance", "start", "lab01", &dead[0]];
    is_refused(&class.cyyber(&click));
    cluster.cyyber(&["host", "fence", "h3", "--yes"]).ok();
    assert_eq!(class.all("start")["failed"], json!([]));
    class.are("running");
    cluster.boot("h3");
    cluster.cyyber(&["host", "resume", "h3"]).ok();
    class.are("running");
    assert_eq!(class.on("h3"), [""; 0]);

    // Slurm's controller dies: a click is refused soon.
    run(&mut cluster.on("head", ["pkill", "-KILL", "slurmctld"]));
    let began = Instant::now();
    let click = ["-o", "json", "instance", "start", "lab01", &dead[0]];
    let refused = class.cyyber(&click).error_json(8);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}: {refused}");
    // The head dies: what runs runs on, and the head knows all of it when it is back.
    cluster.kill("head");
    assert!(run(&mut cluster.on("h4", ["virsh", "-q", "list", "--name"])).contains("_user_"));
    cluster.boot("head");
    wait_until("the head is back", || class.leases().len() == size);
    class.are("running");

    // A host is cut off: its instances run on, and nobody starts them a second time.
    let cut = class.on("h4");
    assert!(!cut.is_empty());
    cluster.cut("h4");
    is_refused(&class.cyyber(&["-o", "json", "instance", "start", "lab01", &cut[0]]));
    cluster.mend("h4");
    wait_until("h4 is back", || {
        let list = class.cyyber(&["-o", "json", "instance", "list"]);
        list.code == Some(0) && !list.stdout.contains("\"unknown\"")
    });
    class.are("running");
    class.ends_whole();
}

/// Other jobs take the memory of all hosts.
#[test]
#[ignore = "needs root, Slurm and QEMU: run by `make test`"]
fn where_no_host_has_room_the_error_says_what_is_free() {
    own_world!();
    let _all = Guests::firmware(6);
    let Some(class) = Class::of(1, &["h1", "h2"]) else {
        return;
    };
    let hosts = class.cyyber(&["-o", "json", "host", "list"]).json();
    for row in hosts["hosts"].as_array().unwrap() {
        let (host, free) = (text(&row["host"]), &row["memory_free_mb"]);
        let alloc =
            format!("salloc -Q --no-shell --immediate=9 --mem={free} -c1 -w {host} -J other");
        Run::of(&mut class.cluster.on("head", alloc.split(' '))).ok();
    }
    let click = ["-o", "json", "instance", "start", "lab01", "late"];
    let full = class.cyyber(&click).error_json(7);
    let said = text(&full["message"]);
    assert!(
        said.starts_with("no host has room for lab01_user_late"),
        "{said}"
    );
    assert!(
        said.contains("free: h1 ") && said.contains(", h2 "),
        "{said}"
    );
    // It is there for when there is room.
    run(&mut class.cluster.on("head", ["scancel", "-n", "other"]));
    assert_eq!(class.cyyber(&click).json()["state"], "running");

    // Slurm knows of room on a host that has none: the other one is tried.
    let meminfo = class.cluster.shared("meminfo");
    fs::write(&meminfo, "MemTotal: 99999 kB\nMemAvailable: 99 kB\n").unwrap();
    let bind = [
        "mount",
        "--bind",
        meminfo.to_str().unwrap(),
        "/proc/meminfo",
    ];
    run(&mut class.cluster.on("h1", bind));
    let mut refused = 0;
    for student in ["x", "y", "z"] {
        let click = ["-v", "-o", "json", "instance", "start", "lab01", student];
        let started = class.cyyber(&click);
        refused += started.stderr.matches("h1 has no room for").count();
        assert_eq!(started.json()["host"], "h2");
    }
    assert!(refused > 0, "h1 was never asked");
    class.watch.saw_nothing();
}

#[test]
#[ignore = "needs root, Slurm and QEMU: run by `make test-all`"]
fn a_host_that_was_said_to_be_off_and_is_not_keeps_its_disks() {
    own_world!();
    let _all = Guests::firmware(6);
    let Some(class) = Class::of(2, &["h1", "h2"]) else {
        return;
    };
    let cluster = Arc::clone(&class.cluster);
    let alive = class.on("h1");
    cluster.cut("h1");
    cluster.cyyber(&["host", "fence", "h1", "--yes"]).ok();
    // QEMU has locked the disk, which is the second line.
    let start = class.cyyber(&["-o", "json", "instance", "start", "lab01", &alive[0]]);
    assert_ne!(start.code, Some(0), "{start:#?}");
    assert!(start.stderr.contains("lock"), "{start:#?}");
    assert_eq!(
        cluster.disks_with_two_writers(),
        [""; 0].map(std::path::PathBuf::from)
    );
    let qemu = run(&mut cluster.on("h1", ["virsh", "-q", "list", "--name"]));
    assert!(qemu.contains("_user_"), "{qemu}");
    class.watch.saw_nothing();
}
