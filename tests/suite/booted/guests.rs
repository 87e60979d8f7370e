//! A guest that has booted, paused and brought back: what is in its memory and on its disk stays,
//! whatever goes wrong on the way.
//!
//! The directory of libvirt's saved memory is covered for a moment, so each has a world of its own.

use crate::common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::host::{field, held_by_processes, idle_time};
use common::world::own_world;
use common::{QEMU, Run, Sandbox, SmallDisk, guest, run, text, tool, virsh, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

const SAVES: &str = "/var/lib/libvirt/qemu/save";

/// A fork of a guest that booted, with files in its memory and on its disk.
struct Booted {
    sandbox: Sandbox,
    /// The domain's name.
    name: String,
    sums: String,
}

impl Booted {
    /// `held` MiB of its memory hold a file of random bytes.
    fn new(held: u32) -> Booted {
        let sandbox = Sandbox::with_booting_guests(1);
        sandbox.configure(&guest::machine(&json!({})));
        guest::warm_base(&sandbox, &sandbox.lab);
        let ready = Run::within(
            guest::BOOTING,
            sandbox
                .instance_command("start", "7", &["--wait=12m"])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        );
        let ready = ready.json();
        assert_eq!(
            (&ready["changed"], &ready["state"], &ready["reason"]),
            (
                &json!(true),
                &json!("running"),
                &json!("the guest agent answered")
            )
        );
        // However long the boot took, whoever waited for it can look at it now.
        let expires: jiff::Timestamp = text(&ready["vnc_password_expires"]).parse().unwrap();
        let valid = expires.duration_since(jiff::Timestamp::now()).as_secs();
        assert!((30..=60).contains(&valid), "{valid}");
        let name = sandbox.instance_name("7");
        let mut booted = Booted {
            sandbox,
            name,
            sums: String::new(),
        };
        booted.sandbox.all_have_booted();
        booted.shell(&format!(
            "mkdir -p /mnt/held && mount -t tmpfs -o size=90% held /mnt/held &&
             head -c {held}M /dev/urandom > /mnt/held/memory &&
             head -c 20M /dev/urandom > /root/disk && sync"
        ));
        booted.sums = booted.sums_now();
        booted
    }

    fn shell(&self, script: &str) -> String {
        guest::shell(&self.name, script)
    }

    fn sums_now(&self) -> String {
        self.shell("md5sum /mnt/held/memory /root/disk")
    }

    #[track_caller]
    fn assert_untouched(&self) {
        assert_eq!(self.sums_now(), self.sums);
    }

    #[track_caller]
    fn assert_its_clock_is_right(&self) {
        let ours = jiff::Timestamp::now().as_second();
        let theirs: i64 = self.shell("date +%s").trim().parse().unwrap();
        println!("its clock is {} s off", theirs - ours);
        assert!((theirs - ours).abs() <= 3, "{theirs} for {ours}");
    }

    /// Memory of the host that its QEMU holds, in MiB, without the program text that it shares.
    fn resident(&self) -> u64 {
        let pid = self.sandbox.qemu_pid("7").as_raw_nonzero();
        let status = format!("/proc/{pid}/status");
        field(&status, "RssAnon:") + field(&status, "RssShmem:")
    }

    fn save_file(&self) -> PathBuf {
        Path::new(SAVES).join(format!("{}.save", self.name))
    }

    fn pause(&self) -> Command {
        self.sandbox.instance_command("pause", "7", &[])
    }
}

fn base_link(sandbox: &Sandbox) -> PathBuf {
    sandbox.path(format!("storage/base-images/{}-base.qcow2", sandbox.lab))
}

#[test]
#[ignore = "needs libvirt, QEMU and the cloud image: run by `make test`"]
fn a_pause_frees_the_memory_and_a_resume_brings_all_of_it_back() {
    own_world!();
    let booted = Booted::new(200);
    let (resident, before) = (booted.resident(), held_by_processes());
    let pid = booted.sandbox.qemu_pid("7");
    let paused = booted.sandbox.instance("pause", "7", &[]).json();
    assert_eq!(paused["state"], "paused");
    let gone = || !Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists();
    wait_until("its QEMU has ended", gone);
    let freed = before.saturating_sub(held_by_processes());
    println!(
        "resident {resident} MiB; held by processes {before} MiB, {freed} MiB less after; saved in {} MiB",
        booted.save_file().metadata().unwrap().len() >> 20
    );
    // All of the process is gone; whatever else the host did meanwhile is in the second figure.
    assert!(freed * 100 >= resident * 95, "{freed} of {resident} MiB");

    sleep(Duration::from_secs(10));
    let resumed = booted.sandbox.instance("resume", "7", &["--wait=2m"]);
    assert_eq!(resumed.json()["state"], "running");
    booted.assert_untouched();
    booted.assert_its_clock_is_right();
    // As a busy guest that comes to it a minute after it was told the time.
    let context = booted.sandbox.context(QEMU);
    let domain = context.hypervisor().unwrap().other(&booted.name);
    let then = jiff::Timestamp::now() - Duration::from_secs(60);
    let told = domain.unwrap().unwrap().set_clock(then).unwrap();
    sleep(Duration::from_secs(3));
    drop(told);
    booted.assert_its_clock_is_right();
    // That one went on by itself.
    let hardware = booted.shell("echo $(($(date +%s) - $(cat /sys/class/rtc/rtc0/since_epoch)))");
    let off: i64 = hardware.trim().parse().unwrap();
    println!("its hardware clock is {off} s off");
    // It would be as late as the pause was long.
    assert!(off.abs() < 9, "{off}");

    hold_back_its_cpu(&booted);
    interrupt_a_save(&booted);
    fill_the_disk_under_a_save(&booted);
    kill_a_save(&booted);
}

/// Idle, it gets half of the CPU time that it would use.
fn hold_back_its_cpu(booted: &Booted) {
    booted.shell("for cpu in 1 2; do nohup sh -c 'while :; do :; done' >/dev/null 2>&1 & done");
    let percent = || {
        let stats = |_| booted.sandbox.instance("stats", "7", &[]).json();
        // On a host this busy its QEMU does not always answer in time.
        let seen: Vec<f64> = (0..5)
            .filter_map(|n| stats(n)["cpu_percent"].as_f64())
            .collect();
        assert!(!seen.is_empty(), "its CPU time is never known");
        seen.iter().sum::<f64>() / seen.len() as f64
    };
    let capped = || virsh(["schedinfo", "--live", "--", &booted.name]).contains(" 50000\n");
    sleep(Duration::from_secs(2));
    let free = percent();
    assert!(!capped());
    booted.sandbox.make_idle("7");
    sleep(Duration::from_secs(2));
    let held = percent();
    assert!(capped());
    booted.sandbox.instance("touch", "7", &[]).ok();
    let (before, began) = (idle_time(), Instant::now());
    sleep(Duration::from_secs(2));
    let back = percent();
    let idle = (idle_time() - before).div_duration_f64(began.elapsed());
    assert!(!capped());
    booted.shell("pkill -f '[w]hile :'; true");
    println!("two busy CPUs: {free:.0} %, idle {held:.0} %, touched {back:.0} %");
    // Each virtual CPU gets half of one at most; QEMU's other threads are not held back.
    assert!(held < 130.0, "{held}");
    // On a host without a moment to spare it gets no more than others leave it.
    assert!(
        back > held || idle < 0.1,
        "{back} after {held}, {idle} of a processor idle"
    );
}

/// Ctrl-C while the memory is being written: it goes on running.
fn interrupt_a_save(booted: &Booted) {
    let child = booted.pause().spawn().unwrap();
    let pid = Pid::from_child(&child);
    let file = booted.save_file();
    wait_until("the save has begun", || {
        file.metadata().is_ok_and(|file| file.len() > 1 << 20)
    });
    kill_process(pid, Signal::INT).unwrap();
    let ended = Run::end_of(child);
    println!("interrupted: {:?} {}", ended.code, ended.stderr.trim());
    match ended.code {
        // The save was faster.
        Some(0) => drop(booted.sandbox.instance("resume", "7", &[]).ok()),
        _ => assert!(ended.stderr.contains("keeps running"), "{ended:#?}"),
    }
    assert_eq!(booted.sandbox.state("7"), "running");
    assert!(!file.exists());
    booted.assert_untouched();
}

/// The disk fills up while the memory is being written: it goes on running.
fn fill_the_disk_under_a_save(booted: &Booted) {
    let disk = SmallDisk::on(Path::new(SAVES), 1400);
    let child = booted.pause().spawn().unwrap();
    let file = booted.save_file();
    wait_until("the save has begun", || file.exists());
    disk.leave(0);
    let ended = Run::end_of(child);
    let error = ended.error_json(7);
    let message = text(&error["message"]);
    assert!(message.contains("keeps running"), "{message}");
    assert_eq!(booted.sandbox.state("7"), "running");
    booted.assert_untouched();
    drop(disk);
    booted.sandbox.instance("pause", "7", &[]).ok();
    booted.sandbox.instance("start", "7", &[]).ok();
    booted.assert_untouched();
}

/// kill -9 while the memory is being written: libvirt finishes it.
fn kill_a_save(booted: &Booted) {
    let mut child = booted.pause().spawn().unwrap();
    let file = booted.save_file();
    wait_until("the save has begun", || file.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    // Waits for libvirt to be done.
    let resumed = booted.sandbox.instance("start", "7", &[]).json();
    assert_eq!(resumed["state"], "running");
    booted.assert_untouched();
}

#[test]
#[ignore = "needs libvirt, QEMU and the cloud image: run by `make test`"]
fn disks_survive_a_rebuild_a_full_disk_and_a_clean_stop_from_a_pause() {
    own_world!();
    let booted = Booted::new(20);
    let sandbox = &booted.sandbox;
    let old = text(&sandbox.listed("7")["base_image"]);

    // A new base, other in content, while the guest runs on the old one.
    let new = base_link(sandbox).with_extension("new");
    fs::copy(guest::QUICK_IMAGE, &new).unwrap();
    run(tool("qemu-io")
        .args(["-f", "qcow2", "-c", "write -P 0xee 0 64M"])
        .arg(&new));
    fs::rename(&new, base_link(sandbox)).unwrap();
    let other = sandbox.instance("create", "8", &[]).json();
    assert_eq!(other["base_is_current"], true);
    assert_ne!(text(&other["base_image"]), old);
    let listed = sandbox.listed("7");
    assert_eq!(listed["base_is_current"], false);
    assert_eq!(text(&listed["base_image"]), old);

    let boot_id = || booted.shell("cat /proc/sys/kernel/random/boot_id");
    let boot_before = boot_id();
    virsh(["reboot", "--mode", "agent", "--", &booted.name]);
    let began = Instant::now();
    let ping = || {
        virsh([
            "qemu-agent-command",
            "--",
            &booted.name,
            r#"{"execute":"guest-ping"}"#,
        ])
        .contains("return")
    };
    sleep(Duration::from_secs(15));
    while !ping() {
        assert!(began.elapsed() < guest::BOOTING, "no reboot");
        sleep(Duration::from_secs(1));
    }
    assert_ne!(boot_id(), boot_before);
    let disk = booted.shell("md5sum /root/disk");
    assert!(booted.sums.ends_with(&disk), "{disk} {}", booted.sums);

    // Paused, it is woken to shut down by itself.
    sandbox.instance("pause", "7", &[]).ok();
    let stopped = sandbox.instance("stop", "7", &["--timeout", "2m"]).json();
    assert_eq!(stopped["reason"], "shut down by its guest", "{stopped:#}");
    run(tool("qemu-img")
        .args(["check", "-q"])
        .arg(sandbox.overlay("7")));

    // What a student wants who broke it.
    let reset = sandbox.instance("reset", "7", &["--yes"]).json();
    assert_eq!(reset["base_image"], other["base_image"]);
    assert!(fs::exists(&old).unwrap());
    let cleaned = sandbox.cyyber([
        "-o",
        "json",
        "instance",
        "cleanup",
        "--lab",
        &sandbox.lab,
        "--yes",
    ]);
    assert_eq!(cleaned.json()["builds"][0]["image"], old.as_str());
    assert!(!fs::exists(&old).unwrap());
}

#[test]
#[ignore = "needs libvirt, QEMU and the cloud image: run by `make test`"]
fn a_guest_whose_disk_cannot_grow_is_held_and_goes_on() {
    own_world!();
    let sandbox = Sandbox::with_booting_guests(1);
    let policy = json!({"boot_timeout": "15m"});
    sandbox.configure(&json!({"memory_mb": 512, "vcpus": 2, "policy": policy}));
    fs::copy(guest::QUICK_IMAGE, base_link(&sandbox)).unwrap();
    let disk = SmallDisk::on(&sandbox.path("storage/user-instances"), 1500);
    sandbox.instance("start", "7", &[]).ok();
    let name = sandbox.instance_name("7");
    let began = Instant::now();
    while sandbox.state("7") != "running" {
        assert!(began.elapsed() < guest::BOOTING, "no agent");
        sleep(Duration::from_secs(1));
    }
    sandbox.all_have_booted();
    // Held too early, by what its first boot still writes, it could not be told what to write.
    guest::shell(&name, "cloud-init status --wait || true; sync");
    let ballast = disk.leave(50);
    guest::shell(
        &name,
        "nohup sh -c 'sleep 5; head -c 300M /dev/urandom > /root/big; sync; sha256sum /root/big > /root/sum; sync' >/dev/null 2>&1 &",
    );
    wait_until("it is held", || sandbox.state("7") == "paused");
    let listed = sandbox.listed("7");
    assert!(text(&listed["reason"]).contains("make space"), "{listed:#}");
    fs::remove_file(ballast).unwrap();
    let started = sandbox.instance("start", "7", &[]).json();
    assert_eq!(started["state"], "running");
    let sum = "while ! [ -s /root/sum ]; do sleep 1; done; sha256sum -c /root/sum";
    assert!(guest::shell(&name, sum).contains("OK"));
    sandbox.instance("stop", "7", &["--timeout", "2m"]).ok();
    run(tool("qemu-img")
        .args(["check", "-q"])
        .arg(sandbox.overlay("7")));
    sandbox.instance("cleanup", "7", &["--yes"]).ok();
}
