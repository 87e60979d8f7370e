//! `instance cleanup` and `instance reset`: what goes, and above all what stays.

use crate::common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::vnc::Client;
use common::{Run, Sandbox, files_below, run, text, tool, virsh};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

const SAVES: &str = "/var/lib/libvirt/qemu/save";

/// What a cleanup of the sandbox's lab answers.
#[track_caller]
fn cleanup(sandbox: &Sandbox, options: &[&str]) -> Value {
    try_cleanup(sandbox, options).json()
}

fn try_cleanup(sandbox: &Sandbox, options: &[&str]) -> Run {
    let command = ["-o", "json", "instance", "cleanup", "--lab", &sandbox.lab];
    sandbox.cyyber(command.iter().chain(options))
}

/// The user ids in one part of an answer.
fn users(sandbox: &Sandbox, part: &Value) -> Vec<String> {
    let prefix = sandbox.instance_name("");
    let names = part.as_array().unwrap().iter();
    names
        .map(|entry| text(&entry["instance"]).replace(&prefix, ""))
        .collect()
}

fn defined(sandbox: &Sandbox, user: &str) -> bool {
    let name = sandbox.instance_name(user);
    virsh(["list", "--all", "--name"])
        .lines()
        .any(|line| line == name)
}

fn activity(sandbox: &Sandbox, user: &str) -> PathBuf {
    sandbox
        .path("state/activity")
        .join(sandbox.instance_name(user))
}

fn save_file(sandbox: &Sandbox, user: &str) -> PathBuf {
    Path::new(SAVES).join(format!("{}.save", sandbox.instance_name(user)))
}

/// Pretends that an instance was last used so long ago.
fn age(path: &Path, by: Duration) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - by).unwrap();
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn an_instance_goes_with_all_it_has_and_nothing_else() {
    let sandbox = Sandbox::with_guests(1);
    sandbox.base(&sandbox.lab);
    for user in ["1", "2", "3"] {
        sandbox.instance("create", user, &[]).ok();
    }
    sandbox.instance("start", "1", &[]).ok();
    sandbox.instance("pause", "1", &[]).ok();
    sandbox.instance("start", "2", &[]).ok();
    let bystander = sandbox.path("storage/user-instances/notes.txt");
    fs::write(&bystander, "not ours").unwrap();
    let bases = || files_below(&sandbox.path("storage/base-images"));
    let bases_before = bases();

    let dry = cleanup(&sandbox, &["--dry-run"]);
    assert_eq!(users(&sandbox, &dry["destroyed"]), ["1", "2", "3"]);
    assert_eq!(dry["dry_run"], true);
    try_cleanup(&sandbox, &[]).fails(2);
    assert_eq!(sandbox.state("1"), "paused");
    assert_eq!(sandbox.state("2"), "starting");

    let done = cleanup(&sandbox, &["--user", "1", "--yes"]);
    assert_eq!(users(&sandbox, &done["destroyed"]), ["1"]);
    assert_eq!(done["destroyed"][0]["state"], "paused");
    assert!(done["freed_mb"].as_u64() > Some(0), "{done:#}");
    assert!(!save_file(&sandbox, "1").exists());

    let done = cleanup(&sandbox, &["--state", "starting", "--yes"]);
    assert_eq!(users(&sandbox, &done["destroyed"]), ["2"]);
    for user in ["1", "2"] {
        assert!(!defined(&sandbox, user));
        let name = sandbox.instance_name(user);
        for (file, _) in files_below(&sandbox.path("")) {
            let is_lock = file.starts_with("state/locks");
            assert!(
                is_lock || !file.to_string_lossy().contains(&name),
                "{file:?}"
            );
        }
    }
    assert!(defined(&sandbox, "3") && bystander.exists());
    assert_eq!(bases(), bases_before);

    let single = sandbox.instance("cleanup", "3", &["--yes"]).json();
    assert_eq!(users(&sandbox, &single["destroyed"]), ["3"]);
    let again = sandbox.instance("cleanup", "3", &["--yes"]).json();
    assert_eq!(again["destroyed"], Value::Array(Vec::new()));
    sandbox
        .cyyber(["-o", "json", "instance", "cleanup", "nowhere", "3", "--yes"])
        .error_json(4);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn what_may_be_in_use_stays() {
    let sandbox = Sandbox::with_guests(0);
    sandbox.base(&sandbox.lab);
    let all = ["lost", "future", "absurd", "pipe", "fresh", "old"];
    for user in all {
        sandbox.instance("create", user, &[]).ok();
    }
    let hour = Duration::from_secs(3600);
    let file = |user| activity(&sandbox, user);
    fs::remove_file(file("lost")).unwrap();
    let ahead = fs::File::options()
        .write(true)
        .open(file("future"))
        .unwrap();
    ahead.set_modified(SystemTime::now() + hour).unwrap();
    let epoch = fs::File::options()
        .write(true)
        .open(file("absurd"))
        .unwrap();
    epoch.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    fs::remove_file(file("pipe")).unwrap();
    run(tool("mkfifo").arg(file("pipe")));
    age(&file("old"), 2 * hour);

    let done = cleanup(&sandbox, &["--inactive-for", "1h", "--yes"]);
    assert_eq!(users(&sandbox, &done["destroyed"]), ["old"]);
    assert_eq!(
        users(&sandbox, &done["kept"]),
        ["absurd", "fresh", "future", "lost", "pipe"]
    );
    assert_eq!(done["destroyed"][0]["reason"], "inactive for 2h");
    for user in all {
        assert_eq!(sandbox.overlay(user).exists(), user != "old", "{user}");
    }
}

/// As in an evening in which nobody touched anything for three hours.
#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_cleanup_judges_use_as_the_reaper_does() {
    let sandbox = Sandbox::with_guests(1);
    sandbox.base(&sandbox.lab);
    sandbox.configure(&json!({"policy": {"boot_timeout": "0s"}}));
    for user in ["kept", "over", "plain"] {
        sandbox.instance("create", user, &[]).ok();
    }
    let viewed = sandbox.instance("start", "viewed", &[]).json();
    sandbox.instance("keep", "kept", &["--until", "3d"]).ok();
    sandbox.instance("keep", "over", &["--until", "off"]).ok();
    let port = viewed["vnc_port"].as_u64().unwrap().try_into().unwrap();
    let viewer = Client::connect(port).enter(&text(&viewed["vnc_password"]));
    let hour = Duration::from_secs(3600);
    for user in ["kept", "over", "plain", "viewed"] {
        age(&activity(&sandbox, user), 3 * hour);
    }
    let options = ["--inactive-for", "1h", "--dry-run"];
    let dry = cleanup(&sandbox, &options);
    assert_eq!(
        users(&sandbox, &dry["destroyed"]),
        ["over", "plain"],
        "{dry:#}"
    );
    assert_eq!(users(&sandbox, &dry["kept"]), ["kept", "viewed"]);
    let reason = |of: usize| text(&dry["kept"][of]["reason"]);
    assert!(reason(0).starts_with("kept until "), "{}", reason(0));
    assert_eq!(reason(1), "in use now: a client of its console");
    drop(viewer);

    // Passes saw that the host's clock was set, ten minutes ago.
    let passes = |trusted_from: Timestamp| {
        let passes = json!({"last": null, "trusted_from": trusted_from, "seen": {}});
        fs::write(sandbox.path("state/reaper.json"), passes.to_string()).unwrap();
    };
    let now = Timestamp::now();
    passes(now - SignedDuration::from_mins(10));
    let dry = cleanup(&sandbox, &options);
    assert_eq!(dry["destroyed"], json!([]), "{dry:#}");
    passes(now - SignedDuration::from_hours(2));
    let done = cleanup(&sandbox, &["--inactive-for", "1h", "--yes"]);
    assert_eq!(
        users(&sandbox, &done["destroyed"]),
        ["over", "plain", "viewed"]
    );
    assert_eq!(users(&sandbox, &done["kept"]), ["kept"]);
    // Whoever names it means it.
    let done = cleanup(&sandbox, &["--user", "kept", "--yes"]);
    assert_eq!(users(&sandbox, &done["destroyed"]), ["kept"]);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn leftovers_are_found_and_strangers_left_alone() {
    let sandbox = Sandbox::with_guests(1);
    sandbox.base(&sandbox.lab);
    let name = |user: &str| sandbox.instance_name(user);
    for user in ["disk", "domain", "memory", "stranger", "renamed", "garbage"] {
        sandbox.instance("create", user, &[]).ok();
    }
    virsh(["undefine", "--", &name("disk")]);
    fs::remove_file(sandbox.overlay("domain")).unwrap();
    // Memory of a domain that is gone.
    sandbox.instance("start", "memory", &[]).ok();
    sandbox.instance("pause", "memory", &[]).ok();
    let save = save_file(&sandbox, "memory");
    let kept = save.with_extension("kept");
    fs::hard_link(&save, &kept).unwrap();
    virsh(["undefine", "--managed-save", "--", &name("memory")]);
    fs::rename(&kept, &save).unwrap();
    fs::remove_file(sandbox.overlay("memory")).unwrap();
    fs::remove_file(
        sandbox
            .path("state/instances")
            .join(name("memory") + ".json"),
    )
    .unwrap();
    // Somebody else's domain in the place of ours.
    virsh(["undefine", "--", &name("stranger")]);
    let xml = sandbox.path("stranger.xml");
    fs::write(
        &xml,
        format!(
            "<domain type='qemu'><name>{}</name><memory unit='MiB'>64</memory>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>",
            name("stranger")
        ),
    )
    .unwrap();
    virsh(["define", &xml.to_string_lossy()]);
    let other_name = format!("{}-2", sandbox.lab);
    virsh(["domrename", "--", &name("renamed"), &other_name]);
    virsh(["undefine", "--", &name("garbage")]);
    fs::write(save_file(&sandbox, "garbage"), "nobody knows").unwrap();

    let run = try_cleanup(&sandbox, &["--yes"]);
    assert_eq!(run.code, Some(1), "{run:#?}");
    let done: Value = serde_json::from_str(&run.stdout).unwrap();
    let _ = fs::remove_file(save_file(&sandbox, "garbage"));
    assert_eq!(
        users(&sandbox, &done["destroyed"]),
        ["disk", "domain", "memory"],
        "{done:#}"
    );
    assert_eq!(
        users(&sandbox, &done["failed"]),
        ["garbage", "renamed", "stranger"],
        "{done:#}"
    );
    let reasons: Vec<_> = (0..3)
        .map(|i| text(&done["destroyed"][i]["reason"]))
        .collect();
    assert_eq!(
        reasons,
        [
            "a disk without a VM",
            "a VM without a disk",
            "saved memory without a VM"
        ]
    );
    assert!(!save.exists());
    for user in ["garbage", "renamed", "stranger"] {
        assert!(sandbox.overlay(user).exists(), "{user}");
    }
    assert!(defined(&sandbox, "stranger"));
    for user in ["stranger", "renamed"] {
        sandbox.instance("cleanup", user, &["--yes"]).error_json(5);
        sandbox.instance("reset", user, &["--yes"]).error_json(5);
        sandbox.instance("start", user, &[]).error_json(5);
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn an_instance_of_another_place_stays() {
    let sandbox = Sandbox::with_guests(0);
    sandbox.base(&sandbox.lab);
    sandbox.instance("create", "7", &[]).ok();
    for verb in ["cleanup", "reset"] {
        let mut command = sandbox.instance_command(verb, "7", &["--yes"]);
        fs::create_dir_all(sandbox.path("elsewhere/base-images")).unwrap();
        Run::of(command.env("CYYBER_STORAGE_DIR", sandbox.path("elsewhere"))).error_json(5);
        assert!(defined(&sandbox, "7") && sandbox.overlay("7").exists());
    }
    sandbox.instance("start", "7", &[]).ok();
    // Also where nothing is noted of it.
    for state in ["state", "other-state"] {
        let mut list = sandbox.command(["-o", "json", "instance", "list", "--lab", &sandbox.lab]);
        list.env("CYYBER_STORAGE_DIR", sandbox.path("elsewhere"))
            .env("CYYBER_STATE_DIR", sandbox.path(state));
        let listed = &Run::of(&mut list).json()["instances"][0];
        assert_eq!(listed["disk_path"], *sandbox.overlay("7").to_str().unwrap());
        assert_eq!(listed["base_image"], Value::Null, "{listed:#}");
        assert_eq!(listed["base_is_current"], Value::Null);
        let reason = text(&listed["reason"]);
        assert!(reason.contains("another storage_dir") && !reason.contains("other than"));
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn what_was_begun_is_finished_unless_it_was_used_since() {
    let sandbox = Sandbox::with_guests(0);
    sandbox.base(&sandbox.lab);
    for user in ["half", "used"] {
        sandbox.instance("create", user, &[]).ok();
        let mark = sandbox
            .path("state/destroying")
            .join(sandbox.instance_name(user));
        fs::create_dir_all(mark.parent().unwrap()).unwrap();
        fs::write(mark, "").unwrap();
        virsh(["undefine", "--", &sandbox.instance_name(user)]);
    }
    sandbox.instance("start", "used", &[]).ok();
    let done = cleanup(
        &sandbox,
        &["--state", "running", "--inactive-for", "9d", "--yes"],
    );
    assert_eq!(users(&sandbox, &done["destroyed"]), ["half"]);
    assert!(!sandbox.overlay("half").exists());
    assert!(sandbox.overlay("used").exists());
}

/// Puts a new image in the place of the lab's base, as an instructor would; the build that it was.
fn rebuild(sandbox: &Sandbox, megabytes: u32) {
    let new = sandbox.base("new");
    run(tool("qemu-io")
        .args(["-f", "qcow2", "-c", &format!("write -P 7 0 {megabytes}M")])
        .arg(&new));
    let link = new.with_file_name(format!("{}-base.qcow2", sandbox.lab));
    fs::rename(new, link).unwrap();
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn builds_go_when_nothing_stands_on_them() {
    let sandbox = Sandbox::with_guests(0);
    rebuild(&sandbox, 1);
    let build_of = |user: &str| PathBuf::from(text(&sandbox.listed(user)["base_image"]));
    for user in ["1", "2"] {
        sandbox.instance("create", user, &[]).ok();
    }
    let old = build_of("1");
    rebuild(&sandbox, 2);
    sandbox.instance("create", "3", &[]).ok();
    let new = build_of("3");
    assert_ne!(old, new);
    assert_eq!(sandbox.listed("1")["base_is_current"], false);

    // A disk without its VM counts as well.
    virsh(["undefine", "--", &sandbox.instance_name("2")]);
    let done = cleanup(&sandbox, &["--user", "1", "--yes"]);
    assert_eq!(done["builds"], Value::Array(Vec::new()), "{done:#}");
    assert!(old.exists());
    let dry = cleanup(&sandbox, &["--user", "2", "--dry-run"]);
    assert_eq!(dry["builds"][0]["image"], old.to_str().unwrap());
    let done = cleanup(&sandbox, &["--user", "2", "--yes"]);
    assert_eq!(done["builds"][0]["image"], old.to_str().unwrap());
    assert_eq!(done["builds"][0]["freed_mb"], 1);
    assert!(!old.exists() && !old.with_extension("json").exists());
    cleanup(&sandbox, &["--user", "3", "--yes"]);
    assert!(new.exists(), "the current build stays");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_reset_instance_is_clean_and_on_the_current_base() {
    let sandbox = Sandbox::with_guests(1);
    rebuild(&sandbox, 1);
    sandbox.instance("start", "7", &[]).ok();
    sandbox.instance("stop", "7", &["--force"]).ok();
    let io = |command: &str| {
        run(tool("qemu-io")
            .args(["-f", "qcow2", "-c", command])
            .arg(sandbox.overlay("7")))
    };
    io("write -P 9 500M 1M");
    sandbox.instance("start", "7", &[]).ok();
    sandbox.instance("pause", "7", &[]).ok();
    rebuild(&sandbox, 2);
    let uuid = || virsh(["domuuid", "--", &sandbox.instance_name("7")]);
    let uuid_before = uuid();
    sandbox.instance("reset", "7", &[]).error_json(2);
    assert_eq!(sandbox.state("7"), "paused");

    let after = sandbox.instance("reset", "7", &["--yes"]).json();
    assert_eq!(after["state"], "stopped");
    assert_eq!(after["changed"], true);
    assert_eq!(after["base_is_current"], true);
    assert!(!save_file(&sandbox, "7").exists());
    assert_ne!(uuid(), uuid_before);
    io("read -P 0 500M 1M");
    io("read -P 7 0 2M");
    let left: Vec<_> = files_below(&sandbox.path("storage/user-instances"))
        .into_keys()
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");

    // Without a base nothing is given up.
    fs::remove_file(sandbox.path(format!("storage/base-images/{}-base.qcow2", sandbox.lab)))
        .unwrap();
    let uuid_before = uuid();
    sandbox.instance("reset", "7", &["--yes"]).error_json(4);
    assert_eq!(uuid(), uuid_before);
    sandbox.instance("reset", "8", &["--yes"]).error_json(4);
}
