//! Instances on the real hypervisor. The guests have empty disks and stay in their firmware, which
//! is enough for everything but what a guest itself answers.

use crate::common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::shape::{LISTED, SECRET, STATS, assert_null, assert_shape};
use common::vnc::{self, Client};
use common::{QEMU, Run, Sandbox, run, text, tool, virsh, wait_until};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

const CONSOLE: &[&str] = &[
    "vnc_host",
    "vnc_port",
    "novnc_port",
    "vnc_password",
    "vnc_password_expires",
];

/// A sandbox with a base image, for `count` guests at once.
fn sandbox(count: usize) -> Sandbox {
    let sandbox = Sandbox::with_guests(count);
    sandbox.base(&sandbox.lab);
    sandbox
}

/// As [`sandbox`], with a guest that is running.
fn running() -> (Sandbox, Value) {
    let sandbox = sandbox(1);
    let instance = sandbox.instance("start", "7", &[]).json();
    (sandbox, instance)
}

fn port(instance: &Value, name: &str) -> u16 {
    u16::try_from(instance[name].as_u64().unwrap()).unwrap()
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn create_makes_an_instance_once() {
    let sandbox = sandbox(0);
    let made = sandbox.instance("create", "7", &[]).json();
    assert_shape(&made, LISTED);
    assert_shape(&made, SECRET);
    assert_null(&made, CONSOLE);
    assert_null(&made, &["ip", "kept_until"]);
    assert_eq!(made["changed"], true);
    assert_eq!(made["state"], "stopped");
    assert_eq!(made["instance"], sandbox.instance_name("7"));
    assert_eq!(made["base_is_current"], true);
    assert_eq!(made["disk_path"], *sandbox.overlay("7").to_str().unwrap());

    let again = sandbox.instance("create", "7", &[]).json();
    assert_eq!(again["changed"], false);
    assert_eq!(again["created"], made["created"]);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn create_can_start_what_it_makes() {
    let sandbox = sandbox(1);
    let made = sandbox.instance("create", "7", &["--start"]).json();
    assert_eq!(
        (&made["changed"], &made["state"]),
        (&json!(true), &json!("starting"))
    );
    assert!(made["vnc_password"].is_string(), "{made:#}");
    let again = sandbox.instance("create", "7", &["--start"]).json();
    assert_eq!(again["changed"], false);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn start_makes_and_powers_on_and_repeats_itself() {
    let (sandbox, started) = running();
    assert_shape(&started, LISTED);
    assert_shape(&started, SECRET);
    assert_eq!(
        (&started["changed"], &started["state"]),
        (&json!(true), &json!("starting"))
    );
    assert_eq!(started["vnc_host"], "127.0.0.1");
    assert!(
        CONSOLE.iter().all(|field| !started[*field].is_null()),
        "{started:#}"
    );

    let again = sandbox.instance("start", "7", &[]).json();
    assert_eq!(again["changed"], false);
    assert_eq!(again["vnc_port"], started["vnc_port"]);
    assert_ne!(
        again["vnc_password"], started["vnc_password"],
        "a password is used once"
    );
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_silent_guest_counts_as_running_after_the_boot_timeout() {
    let sandbox = sandbox(1);
    sandbox.configure(&json!({"policy": {"boot_timeout": "2s"}}));
    assert_eq!(
        sandbox.instance("start", "7", &[]).json()["state"],
        "starting"
    );
    wait_until("it is running", || sandbox.state("7") == "running");
    let reason = text(&sandbox.listed("7")["reason"]);
    assert!(reason.contains("boot timeout of 2s"), "{reason}");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn stop_powers_off_at_the_timeout_and_says_so() {
    let (sandbox, _) = running();
    let stopped = sandbox.instance("stop", "7", &["--timeout", "1s"]).ok();
    assert!(
        stopped.stderr.contains("did not shut down within 1s"),
        "{stopped:#?}"
    );
    let stopped = stopped.json();
    assert_eq!(
        (&stopped["changed"], &stopped["state"]),
        (&json!(true), &json!("stopped"))
    );
    assert!(
        text(&stopped["reason"]).contains("did not shut down within 1s"),
        "{stopped:#}"
    );
    assert_null(&stopped, CONSOLE);

    let again = sandbox.instance("stop", "7", &[]).json();
    assert_eq!(
        (&again["changed"], &again["state"]),
        (&json!(false), &json!("stopped"))
    );
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn stop_by_force_does_not_wait() {
    let (sandbox, _) = running();
    let began = std::time::Instant::now();
    let stopped = sandbox.instance("stop", "7", &["--force"]).json();
    assert_eq!(
        (&stopped["changed"], &stopped["state"]),
        (&json!(true), &json!("stopped"))
    );
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "as long as a graceful stop"
    );
    assert_eq!(
        sandbox.instance("stop", "7", &["--force"]).json()["changed"],
        false
    );
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn list_and_stats_tell_of_running_and_stopped_ones() {
    let (sandbox, started) = running();
    let listed = sandbox.listed("7");
    assert_shape(&listed, LISTED);
    assert_eq!(listed["vnc_port"], started["vnc_port"]);
    for secret in ["vnc_password", "vnc_password_expires"] {
        assert_eq!(listed.get(secret), None, "{listed:#}");
    }

    let stats = sandbox.instance("stats", "7", &[]).json();
    assert_shape(&stats, STATS);
    assert_eq!(
        (&stats["cpu_count"], &stats["memory_mb"]),
        (&json!(1), &json!(128))
    );
    for known in [
        "cpu_time_ns",
        "cpu_percent",
        "memory_used_mb",
        "disk_used_mb",
        "idle_seconds",
    ] {
        assert!(stats[known].is_number(), "{known} in {stats:#}");
    }
    let all = sandbox.cyyber(["-o", "json", "instance", "stats"]).json();
    let of_all = all["instances"].as_array().unwrap().iter();
    assert_eq!(
        of_all
            .filter(|one| one["instance"] == started["instance"])
            .count(),
        1
    );

    sandbox.instance("stop", "7", &["--force"]).ok();
    let stats = sandbox.instance("stats", "7", &[]).json();
    assert_shape(&stats, STATS);
    assert_eq!(stats["state"], "stopped");
    assert_null(&stats, &["cpu_percent", "memory_used_mb"]);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn list_filters_by_lab_user_and_state() {
    let sandbox = sandbox(1);
    let other = sandbox.other_lab();
    let labs = [
        common::lab(&sandbox.lab, &json!({})),
        common::lab(&other, &json!({})),
    ];
    sandbox.write_config(&json!({ "labs": labs }).to_string());
    sandbox.base(&other);
    let create = |lab: &str, user| sandbox.cyyber(["instance", "create", lab, user]).ok();
    create(&sandbox.lab, "7");
    create(&sandbox.lab, "17");
    create(&other, "7");
    sandbox.instance("start", "17", &[]).ok();

    let (lab, other) = (sandbox.lab.as_str(), other.as_str());
    let cases: [(&[&str], &[&str]); 6] = [
        (&["--lab", lab], &["lab_user_17", "lab_user_7"]),
        (&["--lab", lab, "--user", "7"], &["lab_user_7"]),
        (&["--user", "7"], &["lab_user_7", "other_user_7"]),
        (&["--lab", lab, "--state", "stopped"], &["lab_user_7"]),
        (&["--lab", lab, "--state", "starting"], &["lab_user_17"]),
        (&["--lab", other, "--state", "paused"], &[]),
    ];
    let prefix = lab.strip_suffix("lab").unwrap();
    for (options, wanted) in cases {
        let list = ["-o", "json", "instance", "list"];
        let all = sandbox.cyyber(list.iter().chain(options)).json();
        let names: Vec<_> = all["instances"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| text(&one["instance"]))
            .collect();
        // Other sandboxes' instances are in sight where no lab is named.
        let ours: Vec<_> = names
            .iter()
            .filter_map(|name| name.strip_prefix(prefix))
            .collect();
        assert_eq!(ours, wanted, "{options:?}");
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn the_overlay_is_small_and_stands_on_the_exact_build() {
    let sandbox = sandbox(0);
    let made = sandbox.instance("create", "7", &[]).json();
    let overlay = sandbox.overlay("7");
    assert!(overlay.metadata().unwrap().blocks() * 512 < 1 << 20);
    let info = image_info(&overlay);
    assert_eq!(info["format"], "qcow2");
    assert_eq!(info["backing-filename-format"], "qcow2");
    let base = text(&info["backing-filename"]);
    assert_eq!(made["base_image"], *base);
    assert!(
        Path::new(&base).is_absolute() && !Path::new(&base).is_symlink(),
        "{base}"
    );
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn the_definition_is_valid_and_names_overlay_and_base() {
    const LAB_NAME: &str = "Fish & <Chips> \"'; {{ 7 }} ${id} — 魚";
    let sandbox = sandbox(0);
    sandbox.configure(&json!({
        "lab_name": LAB_NAME,
        "limits": {"disk_iops": 500, "disk_bytes_per_second": "50M", "network_bytes_per_second": "2M"},
    }));
    let made = sandbox.instance("create", "7", &[]).json();
    let name = sandbox.instance_name("7");
    let xml = virsh(["dumpxml", "--inactive", "--", &name]);
    let file = sandbox.path("domain.xml");
    fs::write(&file, &xml).unwrap();
    run(tool("virt-xml-validate").arg(&file).arg("domain"));

    let title = virsh(["desc", "--title", "--config", "--", &name]);
    assert!(title.starts_with(LAB_NAME), "{title}");
    for file in ["disk_path", "base_image"] {
        assert!(
            xml.contains(&format!("<source file='{}'", text(&made[file]))),
            "{file} in {xml}"
        );
    }
    assert!(xml.contains("<total_iops_sec>500<"), "{xml}");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_base_keeps_its_owner_and_mode_and_content() {
    let sandbox = sandbox(1);
    let base = text(&sandbox.instance("create", "7", &[]).json()["base_image"]);
    // As on a file system that cannot hold this flag, which would hide an attempt.
    let _ = tool("chattr").args(["-i", &base]).output();
    let seen = || {
        let file = Path::new(&base).metadata().unwrap();
        (
            file.uid(),
            file.gid(),
            file.mode() & 0o7777,
            fs::read(&base).unwrap(),
        )
    };
    let before = seen();
    let us = rustix::process::getuid().as_raw();
    assert_eq!((before.0, before.2), (us, 0o444));
    sandbox.instance("start", "7", &[]).ok();
    assert!(seen() == before, "the base changed with the start");
    sandbox.instance("stop", "7", &["--force"]).ok();
    assert!(seen() == before, "the base changed with the stop");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_base_is_immutable_where_the_file_system_can_hold_that() {
    let sandbox = sandbox(0);
    let base = text(&sandbox.instance("create", "7", &[]).json()["base_image"]);
    let probe = sandbox.path("probe");
    fs::write(&probe, "").unwrap();
    let can_hold = tool("chattr").arg("+i").arg(&probe).status().unwrap();
    if can_hold.success() {
        assert!(File::options().append(true).open(&base).is_err());
        assert!(fs::rename(&base, sandbox.path("elsewhere")).is_err());
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_base_put_there_by_hand_becomes_a_build() {
    let sandbox = Sandbox::with_guests(0);
    let link = sandbox.base(&sandbox.lab);
    let sum = run(tool("sha256sum").arg("--").arg(&link));
    let sum = sum.split_whitespace().next().unwrap();
    let base = text(&sandbox.instance("create", "7", &[]).json()["base_image"]);

    let target = fs::read_link(&link).unwrap();
    assert_eq!(
        Path::new(&base).file_name().unwrap(),
        target,
        "a relative link to the build"
    );
    let build = target.to_str().unwrap().strip_suffix(".qcow2").unwrap();
    assert!(
        build.starts_with(&format!("{}-base.", sandbox.lab)),
        "{build}"
    );
    assert!(build.ends_with(&sum[..8]), "{build}");
    let note = fs::read(Path::new(&base).with_extension("json")).unwrap();
    let note: Value = serde_json::from_slice(&note).unwrap();
    assert_eq!(note["sha256"], sum);
    assert_eq!(note["lab_id"], *sandbox.lab);
    assert_eq!(
        note["size_bytes"],
        Path::new(&base).metadata().unwrap().len()
    );

    // A newer one that takes the link's place leaves the first where it is needed.
    fs::remove_file(&link).unwrap();
    sandbox.base(&sandbox.lab);
    run(tool("qemu-io").args(["-c", "write -P 7 0 64k"]).arg(&link));
    let second = text(&sandbox.instance("create", "8", &[]).json()["base_image"]);
    assert_ne!(base, second);
    let first = sandbox.listed("7");
    assert_eq!(
        (&first["base_image"], &first["base_is_current"]),
        (&json!(base), &json!(false))
    );
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_base_that_is_put_there_again_is_the_same_build() {
    let sandbox = Sandbox::with_guests(0);
    let link = sandbox.base(&sandbox.lab);
    let first = text(&sandbox.instance("create", "7", &[]).json()["base_image"]);
    fs::remove_file(&link).unwrap();
    run(tool("cp")
        .args(["--preserve=timestamps", "--", &first])
        .arg(&link));
    let second = text(&sandbox.instance("create", "8", &[]).json()["base_image"]);
    assert_eq!(second, first);
    assert!(link.is_symlink());
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn what_is_no_golden_image_is_not_adopted() {
    let sandbox = Sandbox::with_guests(0);
    let link = sandbox.path(format!("storage/base-images/{}-base.qcow2", sandbox.lab));
    let image = |options: &[&str]| {
        let _ = fs::remove_file(&link);
        run(tool("qemu-img")
            .args(["create", "-q"])
            .args(options)
            .arg(&link)
            .arg("1G"));
    };
    let other = sandbox.base(&sandbox.other_lab());
    let data = format!("data_file={}", sandbox.path("data.raw").display());
    let key = ["--object", "secret,id=k,data=secret"];
    // Not LUKS, which measures the processor first and refuses a busy one.
    let aes = "encrypt.format=aes,encrypt.key-secret=k";
    let cases: [(&[&str], &str); 5] = [
        (&["-f", "raw"], "it is not a qcow2 image"),
        (&["-f", "vmdk"], "it is not a qcow2 image"),
        (
            &["-f", "qcow2", "-o", &data],
            "content in an external data file",
        ),
        (
            &[key[0], key[1], "-f", "qcow2", "-o", aes],
            "it is encrypted",
        ),
        (
            &["-f", "qcow2", "-F", "qcow2", "-b", other.to_str().unwrap()],
            "backing file",
        ),
    ];
    for (options, wanted) in cases {
        image(options);
        let before = fs::read(&link).unwrap();
        let error = sandbox.instance("create", "7", &[]).error_json(1);
        assert!(text(&error["message"]).contains(wanted), "{error:#}");
        assert!(fs::read(&link).unwrap() == before, "it is left as it was");
        assert!(!sandbox.overlay("7").exists());
        let doctor = sandbox.cyyber(["-o", "json", "doctor"]);
        assert!(doctor.stdout.contains(wanted), "{wanted}: {doctor:#?}");
    }
}

#[test]
fn what_is_no_file_in_the_place_of_a_base_is_named_at_once() {
    let sandbox = Sandbox::new();
    let link = sandbox.path(format!("storage/base-images/{}-base.qcow2", sandbox.lab));
    let build = link.with_file_name(format!("{}-base.1.qcow2", sandbox.lab));
    let pipe = |path: &Path| run(tool("mkfifo").arg(path));
    let cases: [&dyn Fn(); 4] = [
        &|| fs::create_dir(&link).unwrap(),
        &|| drop(pipe(&link)),
        // A link to something like that.
        &|| {
            pipe(&build);
            std::os::unix::fs::symlink(build.file_name().unwrap(), &link).unwrap();
        },
        &|| {
            fs::create_dir(&build).unwrap();
            std::os::unix::fs::symlink(build.file_name().unwrap(), &link).unwrap();
        },
    ];
    for case in cases {
        case();
        let began = Instant::now();
        let create = sandbox.instance("create", "7", &[]);
        assert!(!["0", "6"].contains(&&*create.code.unwrap().to_string()));
        assert!(create.stderr.contains("-base."), "{create:#?}");
        let doctor = sandbox.cyyber(["-o", "json", "doctor", "--verify"]);
        let found: Value = serde_json::from_str(&doctor.stdout).unwrap();
        let findings = found["findings"].as_array().unwrap();
        let bad = |it: &&Value| it["check"] == "images" && it["status"] == "failed";
        assert!(findings.iter().any(|it| bad(&it)), "{found:#}");
        assert!(began.elapsed() < Duration::from_secs(20), "it waited");
        for path in [&link, &build] {
            let _ = fs::remove_file(path);
            let _ = fs::remove_dir(path);
        }
    }
}

#[test]
fn a_disk_is_as_large_as_its_lab_wants_it_also_on_a_base_put_there_by_hand() {
    let sandbox = Sandbox::new();
    let base = sandbox.path(format!("storage/base-images/{}-base.qcow2", sandbox.lab));
    let mut image = tool("qemu-img");
    image.args(["create", "-q", "-f", "qcow2"]).arg(base);
    run(image.arg("2G"));
    let created = |user: &str, size: &str| {
        sandbox.configure(&json!({"disk_size": size}));
        let run = sandbox.instance("create", user, &[]).ok();
        let size = image_info(&sandbox.overlay(user))["virtual-size"].as_u64();
        (size.unwrap() >> 20, run.stderr)
    };
    let (size, said) = created("7", "20G");
    assert_eq!((size, &*said), (20 << 10, ""));
    // A smaller one would lose the end of the base's.
    let (size, said) = created("8", "1G");
    assert_eq!(size, 2 << 10);
    assert!(said.contains("disk_size 1G does not apply"), "{said}");
    let doctor = sandbox.cyyber(["-o", "json", "doctor"]).stdout;
    assert!(doctor.contains("disk_size 1G does not apply"), "{doctor}");
}

#[test]
fn directories_that_the_configuration_names_may_be_links_and_those_below_not() {
    let sandbox = Sandbox::new();
    sandbox.base(&sandbox.lab);
    for name in ["storage", "state"] {
        let real = sandbox.path(format!("real-{name}"));
        fs::rename(sandbox.path(name), &real).unwrap();
        std::os::unix::fs::symlink(&real, sandbox.path(name)).unwrap();
    }
    let created = sandbox.instance("create", "7", &[]).ok();
    assert_eq!(created.stderr, "");
    assert!(sandbox.path("real-state/events.jsonl").exists());
    sandbox.cyyber(["reap"]).ok();
    let doctor = || sandbox.cyyber(["-o", "json", "doctor"]).stdout;
    assert!(!doctor().contains("symbolic link"), "{}", doctor());

    let instances = sandbox.path("storage/user-instances");
    fs::rename(&instances, sandbox.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(sandbox.path("elsewhere"), &instances).unwrap();
    let wanted = "a symbolic link, which is not followed";
    sandbox
        .cyyber(["instance", "create", &sandbox.lab, "8"])
        .says(1, wanted);
    assert!(doctor().contains(wanted), "{}", doctor());
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_killed_qemu_is_a_crash_and_start_works_again() {
    let (sandbox, _) = running();
    kill_process(sandbox.qemu_pid("7"), Signal::KILL).unwrap();
    wait_until("the crash is seen", || sandbox.state("7") == "crashed");
    let again = sandbox.instance("start", "7", &[]).json();
    assert_eq!(
        (&again["changed"], &again["state"]),
        (&json!(true), &json!("starting"))
    );
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_domain_of_somebody_else_is_left_alone() {
    let sandbox = sandbox(0);
    let name = sandbox.instance_name("7");
    let xml = format!(
        "<domain type='qemu'><name>{name}</name><uuid>{}</uuid><memory unit='MiB'>64</memory>\
         <os><type>hvm</type></os></domain>",
        uuid::Uuid::new_v4()
    );
    let file = sandbox.path("foreign.xml");
    fs::write(&file, xml).unwrap();
    run(tool("virsh").args(["-q", "-c", QEMU, "define"]).arg(&file));
    let seen = || virsh(["dumpxml", "--inactive", "--", &name]);
    let before = seen();

    for (verb, options) in [
        ("create", &[][..]),
        ("start", &[]),
        ("stop", &["--force"]),
        ("stats", &[]),
    ] {
        let error = sandbox.instance(verb, "7", options).error_json(5);
        assert!(
            text(&error["message"]).contains("not created by cyyber"),
            "{error:#}"
        );
    }
    assert_eq!(seen(), before);
    assert!(!sandbox.overlay("7").exists());
    assert_eq!(sandbox.listed("7"), Value::Null);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn without_a_base_the_hint_is_to_build_it() {
    let sandbox = Sandbox::with_guests(0);
    let error = sandbox.instance("create", "7", &[]).error_json(4);
    assert!(
        text(&error["hint"]).contains(&format!("cyyber build {}", sandbox.lab)),
        "{error:#}"
    );
    sandbox.instance("start", "7", &[]).error_json(4);
    assert_eq!(sandbox.listed("7"), Value::Null);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_lost_overlay_is_a_conflict_and_is_not_made_anew() {
    let sandbox = sandbox(0);
    sandbox.instance("create", "7", &[]).ok();
    fs::remove_file(sandbox.overlay("7")).unwrap();
    for verb in ["create", "start"] {
        let error = sandbox.instance(verb, "7", &[]).error_json(5);
        assert!(text(&error["message"]).contains("is missing"), "{error:#}");
    }
    assert!(!sandbox.overlay("7").exists());
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn an_overlay_without_a_domain_keeps_its_data() {
    let sandbox = sandbox(0);
    let made = sandbox.instance("create", "7", &[]).json();
    let overlay = sandbox.overlay("7");
    run(tool("qemu-io")
        .args(["-c", "write -P 0xab 0 64k"])
        .arg(&overlay));
    let before = fs::read(&overlay).unwrap();
    virsh(["undefine", "--", &sandbox.instance_name("7")]);
    assert_eq!(sandbox.listed("7"), Value::Null);

    let again = sandbox.instance("create", "7", &[]).ok();
    assert!(again.stderr.contains("keeping the disk"), "{again:#?}");
    let again = again.json();
    assert_eq!(
        (&again["changed"], &again["base_image"]),
        (&json!(true), &made["base_image"])
    );
    assert!(fs::read(&overlay).unwrap() == before, "the overlay changed");
    run(tool("qemu-io")
        .args(["-c", "read -P 0xab 0 64k"])
        .arg(&overlay));
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn an_overlay_that_stands_on_a_strange_file_is_not_used() {
    let sandbox = sandbox(0);
    sandbox.base("elsewhere");
    let strange = sandbox.path("storage/base-images/elsewhere-base.qcow2");
    run(tool("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
        .args([&strange, &sandbox.overlay("7")]));
    let error = sandbox.instance("create", "7", &[]).error_json(5);
    assert!(
        text(&error["message"]).contains("is not a build of this lab"),
        "{error:#}"
    );
    assert_eq!(sandbox.listed("7"), Value::Null);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn one_of_many_at_once_makes_it_and_all_succeed() {
    let sandbox = sandbox(1);
    for verb in ["create", "start"] {
        let children: Vec<Child> = (0..4)
            .map(|_| sandbox.instance_command(verb, "7", &[]).spawn().unwrap())
            .collect();
        let changed = children
            .into_iter()
            .map(|child| Run::end_of(child).json()["changed"] == true);
        assert_eq!(changed.filter(|changed| *changed).count(), 1, "{verb}");
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn many_users_at_once_share_a_base_that_is_adopted_meanwhile() {
    let sandbox = Sandbox::with_guests(0);
    let link = sandbox.base(&sandbox.lab);
    let create = |user: &str| {
        sandbox
            .instance_command("create", user, &[])
            .spawn()
            .unwrap()
    };
    let mut children: Vec<Child> = ["1", "2", "3", "4"].map(create).into();
    let mut always_there = true;
    while children
        .iter_mut()
        .any(|child| child.try_wait().unwrap().is_none())
    {
        always_there &= link.symlink_metadata().is_ok();
    }
    let bases: BTreeSet<String> = children
        .into_iter()
        .map(|child| text(&Run::end_of(child).json()["base_image"]))
        .collect();
    assert_eq!(bases.len(), 1, "{bases:?}");
    assert!(always_there, "who looked at the wrong moment found no base");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_command_waits_for_another_on_the_same_instance() {
    let sandbox = sandbox(0);
    sandbox.instance("create", "7", &[]).ok();
    let lock = sandbox.path(format!("state/locks/{}.lock", sandbox.instance_name("7")));
    let held = File::open(&lock).unwrap();
    held.lock().unwrap();

    let mut waiting = sandbox
        .instance_command("create", "7", &[])
        .spawn()
        .unwrap();
    wait_until("the command is at the lock", || has_open(&waiting, &lock));
    // Another instance is not held up, and shows that time enough went by.
    sandbox.instance("create", "8", &[]).ok();
    sandbox.instance("stats", "8", &[]).ok();
    assert_eq!(waiting.try_wait().unwrap(), None, "it did not wait");
    drop(held);
    assert_eq!(Run::end_of(waiting).json()["changed"], false);
    assert!(lock.exists(), "a lock file stays");
}

/// Whether a process has opened `file`.
fn has_open(process: &Child, file: &Path) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{}/fd", process.id())) else {
        return false;
    };
    descriptors
        .flatten()
        .any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|target| target == file))
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn the_console_asks_for_a_password_on_both_ports() {
    let (sandbox, started) = running();
    let (tcp, web) = (port(&started, "vnc_port"), port(&started, "novnc_port"));
    for (port, security) in [
        (tcp, Client::connect(tcp).security),
        (web, Client::connect_by_websocket(web).security),
    ] {
        assert_eq!(
            listening_addresses(port),
            BTreeSet::from(["0100007F".to_owned()]),
            "port {port}"
        );
        assert!(
            security.contains(&vnc::PASSWORD) && !security.contains(&vnc::NONE),
            "{security:?}"
        );
    }
    let password = text(&started["vnc_password"]);
    assert!(Client::connect(tcp).accepts(&password));
    assert!(Client::connect_by_websocket(web).accepts(&password));
    assert!(!Client::connect(tcp).accepts("wrong"));
    assert!(!Client::connect(tcp).accepts(""));

    let next = text(&sandbox.instance("start", "7", &[]).json()["vnc_password"]);
    assert!(
        !Client::connect(tcp).accepts(&password),
        "the password before still works"
    );
    assert!(Client::connect(tcp).accepts(&next));
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_password_expires_after_a_minute() {
    let (_sandbox, started) = running();
    let expires: jiff::Timestamp = text(&started["vnc_password_expires"]).parse().unwrap();
    let left = expires.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((30..=60).contains(&left), "{left}");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn the_password_is_told_to_the_caller_alone() {
    let (sandbox, started) = running();
    let password = text(&started["vnc_password"]);
    let name = sandbox.instance_name("7");
    let command_line = fs::read(format!(
        "/proc/{}/cmdline",
        sandbox.qemu_pid("7").as_raw_nonzero()
    ))
    .unwrap();
    let mut places = vec![
        ("dumpxml", virsh(["dumpxml", "--", &name])),
        (
            "the command line",
            String::from_utf8_lossy(&command_line).into_owned(),
        ),
        ("list", sandbox.listed("7").to_string()),
        (
            "the log",
            fs::read_to_string(format!("/var/log/libvirt/qemu/{name}.log")).unwrap_or_default(),
        ),
    ];
    for (path, content) in common::files_below(&sandbox.path("state")) {
        places.push((
            "the state directory",
            format!("{path:?} {}", String::from_utf8_lossy(&content)),
        ));
    }
    for (place, content) in places {
        assert!(
            !content.is_empty() && !content.contains(&password),
            "{place}: {content}"
        );
    }
    assert!(
        virsh(["dumpxml", "--security-info", "--", &name])
            .contains(&format!("passwd='{password}'")),
        "the search above would find it"
    );
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn files_that_hold_a_password_are_for_root_alone() {
    let (sandbox, started) = running();
    let password = text(&started["vnc_password"]);
    let mut holding = 0;
    for directory in [
        "/etc/libvirt",
        "/run/libvirt",
        "/var/lib/libvirt/qemu",
        "/var/log/libvirt",
    ] {
        // Others' files come and go.
        let found = tool("grep")
            .args(["-rlsF", "--devices=skip", "--", &password, directory])
            .output();
        for file in String::from_utf8(found.unwrap().stdout).unwrap().lines() {
            let mode = Path::new(file).metadata().unwrap().mode();
            assert_eq!(mode & 0o077, 0, "{file}");
            holding += 1;
        }
    }
    assert!(
        holding > 0,
        "the search finds what libvirt keeps of a running domain"
    );
    // Not in the process list at any moment: not even as an argument of ours.
    let stored = format!("/etc/libvirt/qemu/{}.xml", sandbox.instance_name("7"));
    assert_eq!(Path::new(&stored).metadata().unwrap().mode() & 0o077, 0);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn the_password_of_another_instance_does_not_help() {
    let (sandbox, started) = running();
    let other = sandbox.instance("start", "8", &[]).json();
    let (mine, others) = (text(&started["vnc_password"]), text(&other["vnc_password"]));
    let (tcp, web) = (port(&started, "vnc_port"), port(&started, "novnc_port"));
    assert!(!Client::connect(tcp).accepts(&others));
    assert!(!Client::connect_by_websocket(web).accepts(&others));
    let (width, height, bytes) = Client::connect(tcp).picture(&mine);
    assert!(
        width >= 640 && height >= 350 && bytes > 0,
        "{width}x{height}, {bytes} bytes"
    );
    let by_websocket = Client::connect_by_websocket(web).picture(&mine);
    assert_eq!((by_websocket.0, by_websocket.1), (width, height));
    assert!(by_websocket.2 > 0);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_console_that_others_reach_is_warned_of_and_goes_with_the_configuration() {
    let sandbox = sandbox(1);
    let lab = common::lab(&sandbox.lab, &json!({}));
    let exposed = json!({"labs": [lab], "host": {"vnc_listen": "0.0.0.0", "vnc_exposed": true}});
    sandbox.write_config(&exposed.to_string());
    let started = sandbox.instance("start", "7", &[]).ok();
    assert!(
        started
            .stderr
            .contains("warning: consoles listen on 0.0.0.0"),
        "{started:#?}"
    );
    let started = started.json();
    assert_eq!(started["vnc_host"], "0.0.0.0");
    let everywhere = BTreeSet::from(["00000000".to_owned()]);
    assert_eq!(listening_addresses(port(&started, "vnc_port")), everywhere);

    // No password for what the configuration does not want any more.
    sandbox.configure(&json!({}));
    for verb in ["console", "start"] {
        let error = sandbox.instance(verb, "7", &[]).error_json(5);
        let message = text(&error["message"]);
        assert!(
            message.contains("listens on 0.0.0.0 instead of 127.0.0.1"),
            "{message}"
        );
    }
    sandbox.instance("stop", "7", &["--force"]).ok();
    let started = sandbox.instance("start", "7", &[]).json();
    assert_eq!(started["vnc_host"], "127.0.0.1");
}

/// The part of a domain's definition that is about its network card.
fn card(xml: &str) -> &str {
    let card = xml.split("<interface").nth(1).unwrap();
    card.split("</interface>").next().unwrap()
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_network_card_keeps_its_addresses_and_is_confined_to_them() {
    let sandbox = sandbox(1);
    let name = sandbox.instance_name("7");
    let owners = || -> Vec<String> {
        let files = fs::read_dir(sandbox.path("state/addresses")).unwrap();
        let owner = |file: std::io::Result<fs::DirEntry>| fs::read_to_string(file.unwrap().path());
        files.map(|file| owner(file).unwrap()).collect()
    };
    let started = |verb: &str, options: &[&str]| {
        sandbox.instance(verb, "7", options).ok();
        let xml = virsh(["dumpxml", "--", &name]);
        let value = |before: &str| {
            let after = card(&xml)
                .split(before)
                .nth(1)
                .unwrap_or_else(|| panic!("no {before} in {xml}"));
            after.split('\'').next().unwrap().to_owned()
        };
        let (port, mac) = (value("<target dev='"), value("<mac address='"));
        let isolated = fs::read_to_string(format!("/sys/class/net/{port}/brport/isolated"));
        assert_eq!(isolated.unwrap().trim(), "1");
        let table = fs::read_to_string("/etc/cyyber/network.nft").unwrap();
        let part = port
            .strip_prefix("cyyber-n")
            .unwrap()
            .parse::<u16>()
            .unwrap();
        let ip = format!("10.213.{}.{}", part / 256, part % 256);
        for admitted in [&mac, &ip] {
            assert!(
                table.contains(&format!("\"{port}\" . {admitted},")),
                "{port} {admitted}"
            );
        }
        let network = virsh(["net-dumpxml", "cyyber-nat"]);
        assert!(
            network.contains(&format!("<host mac='{mac}' ip='{ip}'/>")),
            "{network}"
        );
        assert_eq!(owners(), [&*name]);
        (mac, ip)
    };
    let first = started("start", &[]);
    sandbox.instance("reset", "7", &["--yes"]).ok();
    assert_eq!(started("start", &[]), first, "after a reset");

    sandbox.instance("cleanup", "7", &["--yes"]).ok();
    assert_eq!(owners(), [""; 0]);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn an_address_that_a_vm_of_another_configuration_has_is_exchanged_before_a_boot() {
    let (here, there) = (sandbox(2), sandbox(0));
    let owned = |sandbox: &Sandbox| {
        let files = fs::read_dir(sandbox.path("state/addresses")).unwrap();
        let mut names = files.map(|file| file.unwrap().file_name());
        let name = names.next().unwrap();
        assert_eq!(names.next(), None);
        name
    };
    here.instance("create", "7", &[]).ok();
    let address = owned(&here);
    fs::create_dir(there.path("state/addresses")).unwrap();
    let same = there.path("state/addresses").join(&address);
    fs::write(same, there.instance_name("7")).unwrap();
    there.instance("create", "7", &[]).ok();
    assert_eq!(owned(&there), address, "both were off");
    here.instance("start", "7", &[]).ok();
    there.instance("start", "7", &[]).ok();
    assert_ne!(owned(&there), address);

    // Saved memory has the old one.
    here.instance("pause", "7", &[]).ok();
    there.instance("cleanup", "7", &["--yes"]).ok();
    fs::write(
        there.path("state/addresses").join(&address),
        there.instance_name("7"),
    )
    .unwrap();
    there.instance("start", "7", &[]).ok();
    assert_eq!(owned(&there), address);
    let error = here.instance("resume", "7", &[]).error_json(5);
    assert!(text(&error["hint"]).contains("state_dir"), "{error:#}");
    assert_eq!(here.state("7"), "paused");
    there.instance("stop", "7", &["--force"]).ok();
    here.instance("resume", "7", &[]).ok();
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_guest_has_few_devices_and_its_qemu_few_rights() {
    let sandbox = sandbox(1);
    sandbox.configure(
        &json!({"limits": {"cpu_percent": 40, "overlay_size": "100M", "disk_iops": 500}}),
    );
    sandbox.instance("start", "7", &[]).ok();
    let process = format!("/proc/{}", sandbox.qemu_pid("7").as_raw_nonzero());
    let line = fs::read(format!("{process}/cmdline")).unwrap();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    assert!(
        line.contains(
            "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
        ),
        "{line}"
    );
    for absent in [
        "usb-",
        "-usb",
        "xhci",
        "intel-hda",
        "AC97",
        "9p",
        "virtiofs",
        "vhost-user",
        "isa-serial",
        "spice",
        "cdrom",
        "floppy",
    ] {
        assert!(!line.contains(absent), "{absent} in {line}");
    }
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .trim()
    };
    assert!(
        field("Uid:").split_whitespace().all(|uid| uid != "0"),
        "{status}"
    );
    assert_eq!(
        (field("CapEff:"), field("NoNewPrivs:"), field("Seccomp:")),
        ("0000000000000000", "1", "2")
    );

    let name = sandbox.instance_name("7");
    let limits = virsh(["schedinfo", "--live", "--", &name]);
    let quota = limits
        .lines()
        .find(|line| line.starts_with("vcpu_quota"))
        .unwrap();
    assert!(quota.ends_with(" 40000"), "{limits}");
    assert!(line.contains(r#""size":104857600"#), "{line}");
    assert_eq!(sandbox.overlay("7").metadata().unwrap().len(), 100 << 20);
    assert!(virsh(["blkdeviotune", "--", &name, "vda"]).contains("total_iops_sec : 500"));

    // Idle, it has half of that, and all of it again afterwards.
    sandbox.make_idle("7");
    assert!(virsh(["schedinfo", "--live", "--", &name]).contains(" 20000"));
    sandbox.instance("touch", "7", &[]).ok();
    assert!(virsh(["schedinfo", "--live", "--", &name]).contains(" 40000"));

    // What is configured by the next power-on holds from then on.
    sandbox.configure(&json!({"limits": {"overlay_size": "200M"}, "memory_mb": 160}));
    sandbox.instance("stop", "7", &["--force"]).ok();
    let started = sandbox.instance("start", "7", &[]).json();
    assert_eq!(sandbox.overlay("7").metadata().unwrap().len(), 200 << 20);
    let xml = virsh(["dumpxml", "--", &name]);
    assert!(
        xml.contains("size='209715200'/>") && !xml.contains("<cputune>"),
        "{xml}"
    );
    assert_eq!(sandbox.instance("stats", "7", &[]).json()["memory_mb"], 160);
    assert_eq!(sandbox.listed("7")["created"], started["created"]);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn whoever_breaks_out_into_qemu_cannot_change_a_base() {
    let (sandbox, started) = running();
    let base = text(&started["base_image"]);
    // As on a file system that cannot hold this flag.
    let _ = tool("chattr").args(["-i", &base]).output();
    let status = fs::read_to_string(format!(
        "/proc/{}/status",
        sandbox.qemu_pid("7").as_raw_nonzero()
    ))
    .unwrap();
    let ids = |name: &str| -> Vec<String> {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    };
    let as_qemu = |program: &str, arguments: &[&str]| {
        let mut command = tool("setpriv");
        command
            .arg("--reuid")
            .arg(&ids("Uid:")[0])
            .arg("--regid")
            .arg(&ids("Gid:")[0]);
        match ids("Groups:").join(",") {
            none if none.is_empty() => command.arg("--clear-groups"),
            groups => command.args(["--groups", &groups]),
        };
        Run::of(command.args(["--", program]).args(arguments)).code == Some(0)
    };
    let overlay = sandbox.overlay("7").into_os_string().into_string().unwrap();
    assert!(
        as_qemu("sh", &["-c", "exec 3>>\"$1\"", "sh", &overlay]),
        "its own disk is its own"
    );
    assert!(
        as_qemu("sh", &["-c", "exec 3<\"$1\"", "sh", &base]),
        "a base can be read"
    );
    let before = fs::read(&base).unwrap();
    let elsewhere = format!("{base}.mine");
    let (note, link) = (
        base.replace(".qcow2", ".json"),
        sandbox.path(format!("storage/base-images/{}-base.qcow2", sandbox.lab)),
    );
    let link = link.to_str().unwrap();
    for (program, arguments) in [
        ("sh", &["-c", "exec 3>>\"$1\"", "sh", &base][..]),
        ("chmod", &["u+w", &base]),
        ("chown", &["libvirt-qemu", &base]),
        ("truncate", &["-s", "0", &base]),
        ("mv", &[&base, &elsewhere]),
        ("rm", &["-f", &base]),
        ("cp", &["-f", &overlay, &base]),
        ("ln", &["-sfn", &overlay, link]),
        ("rm", &["-f", link]),
        ("rm", &["-f", &note]),
        ("sh", &["-c", "exec 3>>\"$1\"", "sh", &note]),
        ("touch", &[&elsewhere]),
    ] {
        assert!(!as_qemu(program, arguments), "{program} {arguments:?}");
    }
    assert!(fs::read(&base).unwrap() == before);
}

/// The addresses on which something listens on a TCP port, as the kernel writes them.
fn listening_addresses(port: u16) -> BTreeSet<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"]
        .map(|table| fs::read_to_string(table).unwrap_or_default());
    let listening = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        let (address, number) = local.split_once(':')?;
        (state == "0A" && number == format!("{port:04X}")).then(|| address.to_owned())
    };
    tables
        .iter()
        .flat_map(|table| table.lines().filter_map(listening))
        .collect()
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn users_whose_ids_read_like_something_else_get_their_own_instance() {
    let sandbox = sandbox(0);
    for user in [
        "1",
        "17",
        "0x1",
        "a.b-c",
        "A",
        "a",
        "7.qcow2",
        &"9".repeat(64),
    ] {
        let made = sandbox.instance("create", user, &[]).json();
        assert_eq!(
            (&made["user_id"], &made["changed"]),
            (&json!(user), &json!(true))
        );
        assert!(sandbox.overlay(user).exists(), "{user}");
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn too_little_disk_is_told_with_figures_and_leaves_nothing() {
    let mut sandbox = Sandbox::with_guests(0);
    sandbox.small_storage("64m");
    sandbox.base(&sandbox.lab);
    let error = sandbox.instance("create", "7", &[]).error_json(7);
    let message = text(&error["message"]);
    assert!(
        message.contains("MiB are free, 512 MiB are needed"),
        "{message}"
    );
    assert!(error["hint"].is_string(), "{error:#}");
    assert_eq!(
        fs::read_dir(sandbox.path("storage/user-instances"))
            .unwrap()
            .count(),
        0
    );
    assert_eq!(sandbox.listed("7"), Value::Null);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_new_storage_directory_lets_qemu_in() {
    let sandbox = Sandbox::with_guests(1);
    fs::remove_dir(sandbox.path("storage/user-instances")).unwrap();
    sandbox.base(&sandbox.lab);
    sandbox.instance("start", "7", &[]).ok();
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_guest_frozen_by_hand_is_paused_and_has_no_console() {
    let (sandbox, started) = running();
    virsh(["suspend", "--", &sandbox.instance_name("7")]);
    let frozen = sandbox.listed("7");
    assert_eq!(frozen["state"], "paused");
    assert_null(&frozen, &["vnc_host", "vnc_port", "novnc_port"]);
    let resumed = sandbox.instance("start", "7", &[]).json();
    assert_eq!(resumed["changed"], true);
    assert_eq!(resumed["vnc_port"], started["vnc_port"]);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn saved_memory_comes_back_with_start_and_goes_with_a_forced_stop() {
    let (sandbox, _) = running();
    let name = sandbox.instance_name("7");
    virsh(["managedsave", "--running", "--", &name]);
    assert_eq!(sandbox.state("7"), "paused");
    sandbox.instance("start", "7", &[]).ok();
    assert!(virsh(["domstate", "--reason", "--", &name]).contains("restored"));

    virsh(["managedsave", "--running", "--", &name]);
    let stopped = sandbox.instance("stop", "7", &["--force"]).json();
    assert_eq!(
        (&stopped["changed"], &stopped["state"]),
        (&json!(true), &json!("stopped"))
    );
    assert!(virsh(["dominfo", "--", &name]).contains("Managed save:   no"));
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn activity_is_the_modification_time_of_a_file() {
    let (sandbox, started) = running();
    let file = sandbox
        .path("state/activity")
        .join(sandbox.instance_name("7"));
    let modified = jiff::Timestamp::try_from(file.metadata().unwrap().modified().unwrap()).unwrap();
    assert_eq!(started["last_activity"], modified.to_string());
    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_modified(hour_ago)
        .unwrap();
    let idle = sandbox.instance("stats", "7", &[]).json()["idle_seconds"]
        .as_u64()
        .unwrap();
    assert!((3600..3700).contains(&idle), "{idle}");
    sandbox.instance("start", "7", &[]).ok();
    assert!(
        sandbox.instance("stats", "7", &[]).json()["idle_seconds"]
            .as_u64()
            .unwrap()
            < 60
    );
}

#[track_caller]
fn image_info(image: &Path) -> Value {
    let mut command: Command = tool("qemu-img");
    command.args(["info", "-U", "--output=json"]).arg(image);
    serde_json::from_str(&run(&mut command)).unwrap()
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn it_is_told_until_when_an_instance_is_kept() {
    let sandbox = Sandbox::with_guests(0);
    sandbox.base(&sandbox.lab);
    sandbox.instance("create", "7", &[]).ok();
    let keep = |until: &str, zone: &str| {
        let words = ["instance", "keep", &sandbox.lab, "7", "--until", until];
        Run::of(sandbox.command(words).env("TZ", zone))
    };
    // In Beirut that Saturday's last hour comes twice: the later one counts.
    let kept = keep("2027-10-30", "EET-2EEST,M3.5.0/0,M10.5.0/0")
        .ok()
        .stdout;
    assert!(kept.contains("until 2027-10-30 21:59:59 UTC"), "{kept}");
    let list = sandbox.cyyber(["instance", "list"]).ok().stdout;
    assert!(list.contains("KEPT"), "{list}");

    keep("9999-12-31", "EST5").says(2, "is too late: the last day is 9999-12-30");
    keep("2027-01-31", "No/Where").says(2, "TZ is not a known time zone");
    keep("2027-01-31T18:00:00Z", "No/Where").ok();
    keep("2020-01-31", "EST5").says(2, "--until is in the past");
}
