//! Instances that begin with the memory of a guest that has booted.

use crate::{common, daemon, timetable};

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::vnc::PASSWORD;
use common::world::own_world;
use common::{Run, Sandbox, guest, is_thorough, rounds, run, text, tool, virsh, wait_until};
use serde_json::{Value, json};

/// A lab of which guests boot quickly, with a Packer that gives the image back as it is.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with_booting_guests(1);
    let build = format!(
        "case $1 in version) echo 'Packer v1.6.6'; exit;; esac
        mkdir out && cp '{}' out/disk.qcow2
        if [ -e cyyber/stage.sh ]; then echo nmap >report; else printf 'nmap\\t7.93\\n' >report; fi",
        guest::QUICK_IMAGE
    );
    sandbox.fake("packer", &build);
    configure(&sandbox, 512, true);
    sandbox
}

fn configure(sandbox: &Sandbox, memory: u32, instant: bool) {
    sandbox.configure(&lab_with(memory, instant));
}

fn lab_with(memory: u32, instant: bool) -> Value {
    let image = json!({"url": guest::QUICK_IMAGE});
    guest::machine(&json!({"memory_mb": memory, "instant": instant, "image": image}))
}

fn build(sandbox: &Sandbox) -> Value {
    let began = Instant::now();
    let built = sandbox.cyyber(["-o", "json", "build"]).json();
    println!("{:.1?} {}", began.elapsed(), built["labs"][0]["warm"]);
    built["labs"][0].clone()
}

fn start(sandbox: &Sandbox, user: &str) -> Value {
    let began = Instant::now();
    let ran = sandbox.instance("start", user, &["-v"]).ok();
    let started: Value = serde_json::from_str(&ran.stdout).unwrap();
    println!("{user}: {:.1?} {}", began.elapsed(), started["started_by"]);
    for line in ran
        .stderr
        .lines()
        .filter(|line| line.contains(": forked ("))
    {
        println!("{line}");
        // The program that waits in the warm image has done it.
        assert!(!line.contains("started for it"), "{line}");
    }
    started
}

/// Files of warm images, by what they end with.
fn warm_files(sandbox: &Sandbox, ends_with: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(sandbox.path("storage/base-images")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| {
            let name = path.to_string_lossy();
            name.contains("-warm.") && name.ends_with(ends_with)
        })
        .collect()
}

/// Memory that an instance is being forked with.
fn forked_memory(sandbox: &Sandbox, user: &str) -> PathBuf {
    let file = format!(".{}.memory", sandbox.instance_name(user));
    sandbox.path("storage/user-instances").join(file)
}

/// What must not be the same in two instances, a line each.
const OWN: &str = "cat /etc/machine-id
    cut -d' ' -f2 /etc/ssh/ssh_host_ecdsa_key.pub /etc/ssh/ssh_host_ed25519_key.pub
    cat /sys/class/net/en*/address; ls /var/log/journal";

/// The first bytes of its random numbers.
const RANDOM: &str = "head -c 16 /dev/urandom | od -An -tx1";

/// What must be as after a boot.
const ALIKE: &str = "hostname; ls /sys/class/net; ls /etc/ssh/ssh_host_*; systemctl is-active ssh;
    systemctl is-system-running; ls -d /var/lib/cyyber-warm* 2>&1 | head -c 2";

/// The kinds of authentication that a console offers, if it answers.
fn offered(port: u16) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.read_exact(&mut [0; 12]).ok()?;
    stream.write_all(b"RFB 003.008\n").ok()?;
    let mut count = [0];
    stream.read_exact(&mut count).ok()?;
    let mut kinds = vec![0; count[0].into()];
    stream.read_exact(&mut kinds).ok()?;
    Some(kinds)
}

/// Starts an instance while its console and the file with its memory are looked at all the time.
fn start_watched(sandbox: &Sandbox, user: &str, port: u16) -> Value {
    let done = AtomicBool::new(false);
    let memory = forked_memory(sandbox, user);
    let (started, consoles, modes) = std::thread::scope(|scope| {
        let watched = scope.spawn(|| {
            let (mut consoles, mut modes) = (HashSet::new(), HashSet::new());
            while !done.load(Ordering::Relaxed) {
                consoles.extend(offered(port));
                let mode = memory.symlink_metadata().map(|it| it.permissions().mode());
                modes.extend(mode.map(|mode| mode & 0o777));
                sleep(Duration::from_millis(2));
            }
            (consoles, modes)
        });
        let started = start(sandbox, user);
        done.store(true, Ordering::Relaxed);
        let (consoles, modes) = watched.join().unwrap();
        (started, consoles, modes)
    });
    assert_eq!(started["vnc_port"], port);
    assert_eq!(consoles, HashSet::from([vec![PASSWORD]]));
    assert_eq!(modes, HashSet::from([0o600]));
    assert!(!memory.exists());
    started
}

/// Kills a build while its guest boots: nothing runs on, and what is left is found.
fn a_killed_warming_leaves_nothing_that_runs(sandbox: &Sandbox) {
    let mut child = sandbox.command(["build"]).spawn().unwrap();
    let name = format!("cyyber-warm_{}", sandbox.lab);
    wait_until("it boots", || virsh(["list", "--name"]).contains(&name));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("it has ended", || {
        !virsh(["list", "--all", "--name"]).contains(&name)
    });
    let [layer] = &*warm_files(sandbox, "") else {
        panic!("there is a disk alone");
    };
    let listed = sandbox
        .cyyber(["-o", "json", "instance", "cleanup", "--dry-run"])
        .json();
    assert_eq!(listed["builds"][0]["image"], layer.to_str().unwrap());
}

#[test]
#[ignore = "needs libvirt, QEMU and the cloud image: run by `make test`"]
fn forks_are_themselves_and_instances_like_any_other() {
    own_world!();
    let sandbox = sandbox();
    let name = |user: &str| sandbox.instance_name(user);
    if is_thorough() {
        a_killed_warming_leaves_nothing_that_runs(&sandbox);
        let built = build(&sandbox);
        assert_eq!(built["warm"], "made");
        let metadata = fs::read(sandbox.path("").join(text(&built["metadata"]))).unwrap();
        let metadata: Value = serde_json::from_slice(&metadata).unwrap();
        assert_eq!(metadata["warm"]["fits"]["memory"], "512", "{metadata}");
    } else {
        configure(&sandbox, 512, false);
        build(&sandbox);
        configure(&sandbox, 512, true);
        guest::warm(&sandbox, &sandbox.lab);
    }
    let built = build(&sandbox);
    assert_eq!(
        (&built["result"], &built["warm"]),
        (&json!("unchanged"), &json!("kept"))
    );
    let found = |verify: &[&str]| {
        let found = sandbox
            .cyyber([&["-o", "json", "doctor"], verify].concat())
            .stdout;
        let found: Value = serde_json::from_str(&found).unwrap();
        let mut all = found["findings"].as_array().unwrap().clone();
        all.retain(|it| text(&it["message"]).contains("warm image"));
        all
    };
    let [finding] = &*found(&["--verify"]) else {
        panic!("{:?}", found(&[]))
    };
    assert_eq!(finding["status"], "ok", "{finding}");
    assert!(text(&finding["message"]).contains("unchanged"), "{finding}");
    // For another size of memory, later.
    sandbox.instance("create", "booted", &[]).ok();
    assert_eq!(start(&sandbox, "a")["started_by"], "fork");
    start_watched(&sandbox, "b", 5901);
    // The guest names its card a moment after it was plugged in, and lets nobody log in before.
    for user in ["a", "b"] {
        wait_until_reachable(&name(user));
    }
    let own = |user: &str| guest::shell(&name(user), OWN);
    let random = |user: &str| guest::shell(&name(user), RANDOM);
    let all: Vec<String> = ["a", "b"]
        .iter()
        .map(|user| own(user) + &random(user))
        .collect();
    let lines: Vec<&str> = all.iter().flat_map(|text| text.lines()).collect();
    assert_eq!(lines.len(), 12, "{all:#?}");
    // The journal has the name of the machine.
    assert_eq!(lines.iter().collect::<HashSet<_>>().len(), 10, "{all:#?}");
    let alike = guest::shell(&name("a"), ALIKE);
    assert_eq!(alike, guest::shell(&name("b"), ALIKE));
    assert!(
        alike.contains("enp1s0\nlo\n") && alike.contains("active\nrunning\n"),
        "{alike}"
    );
    let theirs: i64 = guest::shell(&name("a"), "date +%s").trim().parse().unwrap();
    assert!((jiff::Timestamp::now().as_second() - theirs).abs() < 5);
    let status = fs::read_to_string(format!(
        "/proc/{}/status",
        sandbox.qemu_pid("a").as_raw_nonzero()
    ));
    assert!(
        status.unwrap().contains("Uid:\t21000"),
        "it has no user of its own"
    );

    // Its own pause, stop and reset.
    let before = own("a");
    guest::shell(&name("a"), "echo mine >/root/mine && sync");
    sandbox.instance("pause", "a", &[]).ok();
    assert_eq!(start(&sandbox, "a")["started_by"], "memory");
    assert_eq!(own("a"), before);
    sandbox.instance("stop", "a", &["--timeout", "120s"]).ok();
    let check = run(tool("qemu-img").arg("check").arg(sandbox.overlay("a")));
    assert!(check.contains("No errors"), "{check}");
    assert_eq!(start(&sandbox, "a")["started_by"], "boot");
    wait_until_ready(&sandbox, "a");
    guest::shell(&name("a"), "systemctl is-system-running --wait || true");
    assert_eq!(
        (own("a"), &*guest::shell(&name("a"), "cat /root/mine")),
        (before.clone(), "mine\n")
    );
    assert_eq!(guest::shell(&name("a"), ALIKE), alike);
    sandbox.instance("reset", "a", &["--yes"]).ok();
    assert_eq!(start(&sandbox, "a")["started_by"], "fork");
    assert_ne!(own("a").lines().next(), before.lines().next());
    sandbox.instance("stop", "a", &["--force"]).ok();

    no_two_of_a_class_are_the_same(&sandbox);
    if is_thorough() {
        it_makes_keys_by_itself_where_the_host_cannot(&sandbox);
    }
    killed_at_any_moment(&sandbox);
    libvirtd_is_killed_meanwhile(&sandbox);
    // Another boot.
    if is_thorough() {
        a_warm_image_is_renewed_alone(&sandbox);
    }
    let gone = sandbox
        .cyyber(["-o", "json", "instance", "cleanup", "--yes"])
        .json();
    assert_eq!(gone["failed"], json!([]), "{gone}");
    assert_eq!(warm_files(&sandbox, ".qcow2").len(), 1);
}

fn wait_until_ready(sandbox: &Sandbox, user: &str) {
    let began = Instant::now();
    while sandbox.state(user) != "running" {
        assert!(began.elapsed() < guest::BOOTING, "no agent");
        sleep(Duration::from_secs(1));
    }
}

/// Waits until it has an address, a program that lets users in, and its own journal.
fn wait_until_reachable(domain: &str) {
    let began = Instant::now();
    let is_there = || {
        virsh(["domifaddr", domain]).contains("ipv4")
            && guest::shell(
                domain,
                "systemctl is-active ssh && ls /var/log/journal || true",
            )
            .lines()
            .count()
                == 2
    };
    while !is_there() {
        assert!(
            began.elapsed() < guest::BOOTING,
            "{domain} cannot be reached"
        );
        sleep(Duration::from_millis(500));
    }
    println!("{domain}: reachable {:.1?} later", began.elapsed());
}

/// As many instances as asked for, three at once: nothing that is to be their own is there twice.
fn no_two_of_a_class_are_the_same(sandbox: &Sandbox) {
    let all = rounds("CYYBER_TEST_FORKS", 2, 100);
    let mut seen = HashSet::new();
    for first in (0..all).step_by(3) {
        let users: Vec<String> = (first..all.min(first + 3))
            .map(|it| format!("c{it}"))
            .collect();
        let class = sandbox.path("class.txt");
        fs::write(&class, users.join("\n")).unwrap();
        let begin = [
            "-o",
            "json",
            "instance",
            "start",
            &sandbox.lab,
            "--users-from",
        ];
        let class = class.to_str().unwrap();
        let began = Instant::now();
        let started = sandbox.cyyber([&begin[..], &[class]].concat()).json();
        for one in started["instances"].as_array().unwrap() {
            assert_eq!(one["started_by"], "fork", "{started}");
        }
        for user in &users {
            let name = sandbox.instance_name(user);
            wait_until_reachable(&name);
            let own = guest::shell(&name, &format!("{OWN}; {RANDOM}"));
            let [id, ecdsa, ed25519, card, _journal, random] = &*own.lines().collect::<Vec<_>>()
            else {
                panic!("{own}")
            };
            let addresses = virsh(["domifaddr", &name]);
            let address = addresses
                .split_whitespace()
                .find(|word| word.contains('/'))
                .unwrap();
            // What a DHCP server knows it by.
            let leases = virsh(["net-dhcp-leases", "cyyber-nat"]);
            let lease = leases.lines().find(|line| line.contains(address)).unwrap();
            let client = lease.split_whitespace().last().unwrap();
            assert!(client.len() >= 20, "{lease}");
            for one in [id, ecdsa, ed25519, card, address, client, random] {
                assert!(
                    seen.insert((*one).to_owned()),
                    "{one} is {user}'s and another's"
                );
            }
        }
        println!("{} forks in {:.1?}", users.len(), began.elapsed());
        // The address would be given to the next otherwise.
        for user in &users {
            sandbox.instance("stop", user, &["--force"]).ok();
        }
    }
    assert_eq!(seen.len(), 7 * all);
    for user in 0..all {
        let user = format!("c{user}");
        sandbox.instance("cleanup", &user, &["--yes"]).ok();
    }
}

/// The program that makes SSH host keys is not there, or does not work.
fn it_makes_keys_by_itself_where_the_host_cannot(sandbox: &Sandbox) {
    sandbox.fake("ssh-keygen", "echo no >&2; exit 1");
    let started = sandbox.instance("start", "s", &["-v"]).ok();
    assert!(
        started
            .stderr
            .contains("the guest generates its own SSH host keys"),
        "{started:#?}"
    );
    assert!(started.stdout.contains("\"fork\""), "{started:#?}");
    fs::remove_file(sandbox.path("bin/ssh-keygen")).unwrap();
    let name = sandbox.instance_name("s");
    wait_until_reachable(&name);
    assert_eq!(
        guest::shell(&name, "ls /etc/ssh/ssh_host_*_key | wc -l").trim(),
        "2"
    );
    sandbox.instance("stop", "s", &["--force"]).ok();
}

/// What runs on, and what the daemon forgets, is no obstacle to another try.
fn libvirtd_is_killed_meanwhile(sandbox: &Sandbox) {
    for round in 0..rounds("CYYBER_TEST_DAEMON_KILLS", 0, 10) {
        let mut child = sandbox.instance_command("start", "d", &[]).spawn().unwrap();
        let after = Duration::from_millis(700 + 1300 * round as u64);
        sleep(after);
        daemon::kill();
        daemon::start();
        child.wait().unwrap();
        let listed = sandbox.listed("d");
        println!(
            "libvirtd killed after {after:?}: {} {}",
            listed["state"], listed["reason"]
        );
        let started = start(sandbox, "d");
        assert_eq!(started["state"], "running", "{started}");
        assert!(!forked_memory(sandbox, "d").exists());
        let id = guest::shell(&sandbox.instance_name("d"), "cat /etc/machine-id");
        assert_eq!(id.trim().len(), 32, "{id}");
        let gone = sandbox.instance("cleanup", "d", &["--yes"]).json();
        assert_eq!(gone["destroyed"].as_array().unwrap().len(), 1, "{gone}");
    }
}

/// Kills starts, and starts again: what comes up is an instance, and nothing is left.
fn killed_at_any_moment(sandbox: &Sandbox) {
    let rounds = rounds("CYYBER_TEST_FORK_KILLS", 1, 100) as u64;
    for round in 0..rounds {
        let mut child = sandbox.instance_command("start", "k", &[]).spawn().unwrap();
        let most = if rounds > 3 {
            rand::random::<u64>() % 6000
        } else {
            400 + 1200 * round
        };
        sleep(Duration::from_millis(most));
        child.kill().unwrap();
        child.wait().unwrap();
        let listed = sandbox.listed("k");
        let is_disk_alone = listed["state"].is_null() && sandbox.overlay("k").exists();
        println!(
            "killed after {most} ms: {} {}",
            listed["state"], listed["reason"]
        );
        if listed["state"] == "starting" && listed["started_by"].is_null() {
            sandbox.instance("console", "k", &[]).error_json(5);
        }
        let started = start(sandbox, "k");
        // Killed between the disk and the record of a domain: the disk might be somebody's work, so it
        // boots.
        let is_early = is_disk_alone || listed["state"] == "stopped";
        if is_early && started["started_by"] == "boot" {
            wait_until_ready(sandbox, "k");
        } else {
            assert_eq!(started["started_by"], "fork", "{started}");
        }
        assert!(!forked_memory(sandbox, "k").exists());
        let id = guest::shell(&sandbox.instance_name("k"), "cat /etc/machine-id");
        assert_eq!(id.trim().len(), 32, "{id}");
        let all = sandbox.instance("cleanup", "k", &["--yes"]).json();
        assert_eq!(
            all["destroyed"][0]["instance"],
            sandbox.instance_name("k").as_str()
        );
    }
}

/// Another size of the lab's memory, with an instance on the image that was made before.
fn a_warm_image_is_renewed_alone(sandbox: &Sandbox) {
    configure(sandbox, 576, true);
    let booted = start(sandbox, "booted");
    assert_eq!(booted["started_by"], "boot");
    assert!(
        text(&booted["reason"]).ends_with("booted: the warm image was made for another memory"),
        "{booted}"
    );
    sandbox.instance("stop", "booted", &["--force"]).ok();
    let built = build(sandbox);
    assert_eq!(
        (&built["result"], &built["warm"]),
        (&json!("unchanged"), &json!("made"))
    );
    // b stands on the one before, whose memory is of no use any more.
    assert_eq!(warm_files(sandbox, ".qcow2").len(), 2);
    assert_eq!(warm_files(sandbox, ".memory").len(), 1);
    assert_eq!(start(sandbox, "c")["started_by"], "fork");
    let doomed =
        Run::of(&mut sandbox.command(["-o", "json", "instance", "cleanup", "--dry-run"])).json();
    assert_eq!(doomed["builds"].as_array().unwrap().len(), 1, "{doomed}");
}

/// The lab is built anew while a fork of its former build runs.
#[test]
#[ignore = "needs root and QEMU, takes minutes: run by `make test-all`"]
fn a_rebuild_under_a_fork_is_no_matter_to_it() {
    let sandbox = &sandbox();
    build(sandbox);
    assert_eq!(start(sandbox, "b")["started_by"], "fork");
    let name = sandbox.instance_name("b");
    wait_until_reachable(&name);
    guest::shell(&name, "echo mine >/root/mine && sync");
    let own = guest::shell(&name, OWN);
    let built = sandbox.cyyber(["-o", "json", "build", "--force"]).json();
    assert_eq!(built["labs"][0]["warm"], "made", "{built}");
    let is_as_before = || {
        assert_eq!(guest::shell(&name, OWN), own);
        assert_eq!(guest::shell(&name, "cat /root/mine"), "mine\n");
        assert_eq!(sandbox.listed("b")["base_is_current"], false);
    };
    is_as_before();
    sandbox.instance("pause", "b", &[]).ok();
    // What it stands on is in use.
    sandbox
        .cyyber(["instance", "cleanup", "--yes", "--user", "nobody"])
        .ok();
    assert_eq!(start(sandbox, "b")["started_by"], "memory");
    is_as_before();
    sandbox.instance("stop", "b", &["--timeout", "120s"]).ok();
    let check = run(tool("qemu-img").arg("check").arg(sandbox.overlay("b")));
    assert!(check.contains("No errors"), "{check}");
    assert_eq!(start(sandbox, "b")["started_by"], "boot");
    wait_until_ready(sandbox, "b");
    is_as_before();
    sandbox.instance("reset", "b", &["--yes"]).ok();
    assert_eq!(start(sandbox, "b")["started_by"], "fork");
    assert_eq!(sandbox.listed("b")["base_is_current"], true);
    assert_eq!(guest::shell(&name, "ls /root/mine || true"), "");
}

#[test]
#[ignore = "needs root and QEMU, takes minutes: run by `make test-all`"]
fn a_class_is_forked_for_its_lesson_and_paused_after_it() {
    let sandbox = sandbox();
    build(&sandbox);
    sandbox.all_have_booted();
    let users: Vec<_> = (0..10).map(|number| format!("u{number}")).collect();
    timetable::roster(&sandbox, &users);
    let lab = lab_with(512, true);
    timetable::configure(&sandbox, &lab, &[timetable::lesson(9, 90)]);
    let began = Instant::now();
    let all_are = |state: &str| {
        let listed = sandbox.cyyber(["-o", "json", "instance", "list"]).json();
        let all = listed["instances"].as_array().unwrap();
        all.len() == users.len() && all.iter().all(|one| one["state"] == state)
    };
    while !all_are("running") {
        let told = "they are not ready at the bell";
        assert!(began.elapsed() < Duration::from_secs(9 * 60), "{told}");
        sandbox.cyyber(["reap", "--jobs", "3"]).ok();
    }
    println!("ten forks were ready after {:.1?}", began.elapsed());
    for user in &users {
        let one = sandbox.listed(user);
        assert_eq!(one["started_by"], "fork", "{one:#}");
    }

    // It ends now: the forks were at work until a moment ago, which would be use after an earlier end.
    timetable::configure(&sandbox, &lab, &[timetable::lesson(-60, 1)]);
    for user in &users {
        timetable::unused(&sandbox, user, 7);
    }
    let began = Instant::now();
    while !all_are("paused") {
        let told = "they are not paused after the lesson";
        assert!(began.elapsed() < Duration::from_secs(9 * 60), "{told}");
        let pass = sandbox.cyyber(["reap", "-v"]).ok();
        println!("{:.0?}: {}", began.elapsed(), pass.stderr);
        // Asked all the time, their agents have work, which is use.
        sleep(Duration::from_secs(20));
    }
    println!("they were paused after {:.1?}", began.elapsed());
}
