//! `cyyber doctor`: a host that is ready, and each thing that can be wrong with it. It looks at all
//! of a host, so a test has one of its own.

use crate::common;

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use common::world::own_world;
use common::{
    Run, Sandbox, SmallDisk, TEST_DRIVER, UNREACHABLE, files_below, run, text, tool, virsh,
};
use cyyber::accelerator::Host;
use serde_json::{Value, json};

/// A sandbox on a host that is ready, with a base image that is in use, and `guests` at most.
fn ready(guests: usize) -> Sandbox {
    let sandbox = Sandbox::with_guests(guests);
    sandbox.base(&sandbox.lab);
    sandbox.instance("create", "7", &[]).json();
    let group = run(tool("getent").args(["group", "libvirt"]));
    let group = group.split(':').nth(2).unwrap().parse().unwrap();
    sandbox.as_set_up(group);
    sandbox.cyyber(["reap"]).ok();
    sandbox
}

/// What is found, by a command that may fail, but only for that.
#[track_caller]
fn findings(command: &mut Command) -> (bool, Vec<Value>) {
    let run = Run::of(command.env("CYYBER_OUTPUT", "json"));
    let document: Value =
        serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}: {run:#?}"));
    let findings = document["findings"].as_array().unwrap().clone();
    for finding in &findings {
        let (check, status) = (text(&finding["check"]), text(&finding["status"]));
        assert!(!check.is_empty() && !text(&finding["message"]).is_empty());
        let has_remedy = finding["remedy"].is_string();
        assert_eq!(has_remedy, status != "ok", "{finding}");
        assert!(["ok", "warning", "failed"].contains(&&*status), "{finding}");
    }
    let failed = findings.iter().any(|finding| finding["status"] == "failed");
    assert_eq!(document["ready"], !failed);
    if failed {
        assert_eq!(run.code, Some(1), "{run:#?}");
        let error: Value = serde_json::from_str(&run.stderr).unwrap();
        assert_eq!(error["error"]["code"], "failed");
    } else {
        assert_eq!(run.code, Some(0), "{run:#?}");
    }
    (!failed, findings)
}

fn doctor(sandbox: &Sandbox, options: &[&str]) -> Command {
    sandbox.command(["doctor"].iter().chain(options))
}

/// Asserts that `check` fails for `why`, with a remedy that says `remedy`, and that nothing else
/// does.
#[track_caller]
fn fails(command: &mut Command, check: &str, why: &str, remedy: &str) {
    let (ready, findings) = findings(command);
    assert!(!ready, "{check}: {why}: it counts as ready");
    let failed: Vec<_> = findings
        .iter()
        .filter(|it| it["status"] == "failed")
        .collect();
    let says = |finding: &&&Value, key: &str, wanted: &str| text(&finding[key]).contains(wanted);
    let wanted = failed
        .iter()
        .any(|it| it["check"] == check && says(&it, "message", why) && says(&it, "remedy", remedy));
    assert!(wanted, "{check}: {why}: {remedy}: {failed:#?}");
    assert!(failed.iter().all(|it| it["check"] == check), "{failed:#?}");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_host_that_is_ready_is_said_to_be() {
    own_world!();
    let sandbox = ready(1);
    let before = files_below(&sandbox.path(""));
    for options in [&[][..], &["--verify"]] {
        let (is_ready, findings) = findings(&mut doctor(&sandbox, options));
        assert!(is_ready, "{findings:#?}");
        for check in [
            "config",
            "kvm",
            "libvirt",
            "qemu-user",
            "instance-users",
            "svirt",
            "networks",
            "packer",
            "qemu",
            "programs",
            "directories",
            "memory",
            "disk",
            "images",
            "reaper",
        ] {
            assert!(findings.iter().any(|it| it["check"] == check), "no {check}");
        }
    }
    assert!(
        files_below(&sandbox.path("")) == before,
        "it changed something"
    );
    let table = Run::of(&mut doctor(&sandbox, &[])).ok();
    assert!(table.stdout.starts_with("CHECK "), "{table:#?}");
    assert_eq!(table.stderr, "");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn what_is_wrong_is_told_with_its_remedy() {
    own_world!();
    let sandbox = ready(0);
    let lab = sandbox.lab.clone();
    let doctor = |options: &[&str]| doctor(&sandbox, options);

    // Of a configuration that cannot be used nothing more is known; the host is looked at.
    let config = fs::read_to_string(sandbox.path("labs-config.json")).unwrap();
    sandbox.write_config(&config.replace("\"memory_mb\"", "\"memroy_mb\""));
    fails(
        &mut doctor(&[]),
        "config",
        "labs[0].memroy_mb: unknown field",
        "labs-config.json",
    );
    fs::remove_file(sandbox.path("labs-config.json")).unwrap();
    fails(&mut doctor(&[]), "config", "No such file", "--config");
    sandbox.write_config(&config);

    fails(
        doctor(&[]).env("CYYBER_CONNECT", UNREACHABLE),
        "libvirt",
        "failed to connect",
        "libvirtd",
    );
    let (_, on_test_driver) = findings(doctor(&[]).env("CYYBER_CONNECT", TEST_DRIVER));
    let gone = on_test_driver
        .iter()
        .find(|it| it["check"] == "networks")
        .unwrap();
    assert!(
        text(&gone["message"]).contains("there is no network cyyber-nat"),
        "{gone}"
    );
    assert_eq!(gone["remedy"], "run `make setup`");

    for (program, check, remedy) in [
        // Not every release has a package of it.
        (
            "packer",
            "packer",
            "install it: `make setup` does so or says how",
        ),
        (
            "qemu-system-x86_64",
            "qemu",
            "apt-get install qemu-system-x86",
        ),
        ("qemu-img", "programs", "apt-get install qemu-utils"),
        ("ss", "programs", "apt-get install iproute2"),
    ] {
        let (why, path) = (
            format!("{program} is not installed"),
            path_without(&sandbox, program),
        );
        let mut command = doctor(&[]);
        fails(command.env("PATH", path), check, &why, remedy);
    }
    if !Host::probe().cpu_flag {
        let mut command = doctor(&[]);
        fails(
            command.env("CYYBER_ACCELERATOR", "kvm"),
            "kvm",
            "no vmx or svm flag",
            "firmware",
        );
    }

    let mode = |directory: &str, mode: u32| {
        fs::set_permissions(sandbox.path(directory), Permissions::from_mode(mode)).unwrap();
    };
    mode("state", 0o2777);
    fails(
        &mut doctor(&[]),
        "directories",
        "open to everyone",
        "chmod 2770",
    );
    mode("state", 0o2770);
    mode("storage/user-instances", 0o2775);
    fails(
        &mut doctor(&[]),
        "directories",
        "open to everyone",
        "chmod 2771",
    );
    mode("storage/user-instances", 0o2771);
    mode("storage", 0o2770);
    fails(
        &mut doctor(&[]),
        "directories",
        "has no search permission on",
        "chmod o+x",
    );
    mode("storage", 0o2771);
    chown(sandbox.path("state"), Some(65534), None).unwrap();
    fails(
        &mut doctor(&[]),
        "directories",
        "belongs to user 65534",
        "chown root:libvirt",
    );
    chown(sandbox.path("state"), Some(0), None).unwrap();

    for directory in ["storage/user-instances", "state"] {
        let place = sandbox.path(directory);
        let read_only = |options: &str| run(tool("mount").args(["-o", options]).arg(&place));
        run(tool("mount").arg("--bind").args([&place, &place]));
        read_only("remount,ro,bind");
        let done = std::panic::catch_unwind(|| {
            fails(
                &mut doctor(&[]),
                "directories",
                "cannot create files in",
                "file system",
            );
        });
        run(tool("umount").arg(&place));
        done.unwrap();
    }

    let (activity, aside) = (sandbox.path("state/activity"), sandbox.path("aside"));
    fs::rename(&activity, &aside).unwrap();
    fails(&mut doctor(&[]), "directories", "is missing", "make setup");
    symlink(&aside, &activity).unwrap();
    fails(&mut doctor(&[]), "directories", "is a symbolic link", "");
    fs::remove_file(&activity).unwrap();
    fs::rename(&aside, &activity).unwrap();
    for planted in [
        "state/locks/x.lock",
        "state/events",
        "storage/user-instances/x",
        "storage/base-images/x",
    ] {
        let planted = sandbox.path(planted);
        symlink("/etc/shadow", &planted).unwrap();
        fails(
            &mut doctor(&[]),
            "directories",
            "links, pipes or devices",
            "remove them",
        );
        fs::remove_file(&planted).unwrap();
    }

    let link = sandbox
        .path("storage/base-images")
        .join(format!("{lab}-base.qcow2"));
    let build = link.with_file_name(fs::read_link(&link).unwrap());
    fs::rename(&link, link.with_extension("aside")).unwrap();
    fails(
        &mut doctor(&[]),
        "images",
        "no base image yet",
        &format!("cyyber build {lab}"),
    );
    fs::rename(link.with_extension("aside"), &link).unwrap();

    changed_images(&sandbox, &build);
    fs::remove_file(sandbox.path("state/reaper.json")).unwrap();
    let (_, found) = findings(&mut doctor(&[]));
    let reaper = found.iter().find(|it| it["check"] == "reaper").unwrap();
    assert_ne!(reaper["status"], "ok", "{reaper}");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn it_is_told_which_configuration_passes_read() {
    own_world!();
    let sandbox = ready(0);
    run(tool("mount").args(["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/etc/cron.d"]));
    let reaper = |command: &mut Command| {
        let (_, found) = findings(command);
        let found = found.into_iter().find(|it| it["check"] == "reaper");
        let found = found.unwrap();
        (text(&found["status"]), text(&found["message"]))
    };
    let look = || reaper(&mut doctor(&sandbox, &[]));
    let says = |status: &str, message: &str| {
        let (found, told) = look();
        assert_eq!(found, status, "{told}");
        assert!(told.contains(message), "wanted: {message}: {told}");
    };
    says("ok", "the last pass");
    let ours = fs::read_to_string(sandbox.path("labs-config.json")).unwrap();
    let theirs = sandbox.path("theirs.json");
    fs::write(&theirs, ours.replace(&sandbox.lab, &sandbox.other_lab())).unwrap();
    let notes = sandbox.path("state/reaper-labs.json");
    fs::remove_file(&notes).unwrap();
    sandbox
        .cyyber(["--config", theirs.to_str().unwrap(), "reap"])
        .ok();
    let wanted = format!(
        "instances of {}: `cyyber reap` reads {}",
        sandbox.lab,
        theirs.display()
    );
    says("warning", &wanted);
    fs::write(&notes, "{").unwrap();
    says("warning", "cannot determine");

    // Without a pass: by what should make them.
    fs::remove_file(sandbox.path("state/reaper.json")).unwrap();
    says("failed", "nothing calls `cyyber reap`");
    let calls = |config: &Path| {
        let line = format!("* * * * * root cyyber --config {} reap\n", config.display());
        fs::write("/etc/cron.d/cyyber", line).unwrap();
    };
    calls(&sandbox.path("labs-config.json"));
    says("warning", "but there was no pass yet");
    calls(&theirs);
    says("warning", &format!("which does not have {}", sandbox.lab));
    fs::write(
        &theirs,
        ours.replace(sandbox.path("state").to_str().unwrap(), "/elsewhere"),
    )
    .unwrap();
    says("warning", "which has another state_dir: /elsewhere");
    fs::write(&theirs, "{").unwrap();
    says("warning", "which cannot be used");

    fs::set_permissions("/etc/cron.d", Permissions::from_mode(0o700)).unwrap();
    let plain = doctor(&sandbox, &[]);
    let mut nobody = tool("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    nobody.arg(plain.get_program()).args(plain.get_args());
    sandbox.confine(&mut nobody);
    let (status, told) = reaper(&mut nobody);
    assert_eq!(status, "warning", "{told}");
    assert!(told.contains("/etc/cron.d (Permission denied"), "{told}");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn limits_that_this_host_cannot_keep_are_found() {
    own_world!();
    let sandbox = ready(1);
    let limits = |extra: Value| {
        sandbox.configure(&json!({"limits": extra}));
        let (_, found) = findings(&mut doctor(&sandbox, &[]));
        let found = found.into_iter().filter(|it| it["check"] == "limits");
        found.collect::<Vec<_>>()
    };
    assert!(limits(json!({"disk_iops": 100})).is_empty());
    let found = limits(json!({"overlay_size": "1G"}));
    assert_eq!(found[0]["status"], "ok", "{found:#?}");
    {
        let _disk = SmallDisk::on(&sandbox.path("storage/user-instances"), 600);
        let found = limits(json!({"overlay_size": "16T"}));
        assert_eq!(found[0]["status"], "failed", "{found:#?}");
        let message = text(&found[0]["message"]);
        assert!(
            message.contains("does not support files of 16T: File too large"),
            "{message}"
        );
        let error = sandbox.instance("start", "8", &[]).error_json(1);
        let said = text(&error["message"]);
        assert!(said.contains("limits.overlay_size of 16T"), "{said}");
        assert!(text(&error["hint"]).contains("lower the limit"), "{error}");
    }

    // What doctor says is what comes of a start, whichever kernel this is.
    let found = limits(json!({"network_bytes_per_second": "1M"}));
    let started = sandbox.instance("start", "7", &[]);
    let wanted = if started.code == Some(0) {
        "ok"
    } else {
        "failed"
    };
    assert_eq!(found[0]["status"], wanted, "{found:#?} {started:#?}");

    sandbox.fake("tc", "echo 'no such thing' >&2; exit 1");
    let found = limits(json!({"network_bytes_per_second": "1M"}));
    assert_eq!(found[0]["status"], "failed", "{found:#?}");
    let message = text(&found[0]["message"]);
    assert!(message.contains("no such thing"), "{message}");
    sandbox.fake("unshare", "echo 'not now' >&2; exit 1");
    let found = limits(json!({"network_bytes_per_second": "1M"}));
    assert_eq!(found[0]["status"], "warning", "{found:#?}");
    assert!(text(&found[0]["message"]).contains("not now"), "{found:#?}");
}

/// A base that was changed, or could be.
fn changed_images(sandbox: &Sandbox, build: &Path) {
    let doctor = |options: &[&str]| doctor(sandbox, options);
    let _ = tool("chattr").arg("-i").arg(build).output();
    for (owner, mode) in [(0, 0o644), (64055, 0o444)] {
        chown(build, Some(owner), None).unwrap();
        fs::set_permissions(build, Permissions::from_mode(mode)).unwrap();
        fails(&mut doctor(&[]), "images", "is not protected", "chmod 444");
    }
    chown(build, Some(0), None).unwrap();
    fs::set_permissions(build, Permissions::from_mode(0o444)).unwrap();
    let (is_ready, _) = findings(&mut doctor(&["--verify"]));
    assert!(is_ready);

    // One byte of it, which neither its size nor `qemu-img check` shows.
    let mut content = fs::read(build).unwrap();
    let last = content.len() - 1;
    content[last] ^= 1;
    fs::write(build, &content).unwrap();
    assert!(findings(&mut doctor(&[])).0, "its size is the same");
    fails(
        &mut doctor(&["--verify"]),
        "images",
        "was changed: its SHA-256",
        "rebuild it",
    );
    content.push(0);
    fs::write(build, &content).unwrap();
    fails(
        &mut doctor(&[]),
        "images",
        "was changed: it has",
        "rebuild it",
    );
    content.pop();
    content[last] ^= 1;
    fs::write(build, &content).unwrap();
    assert!(findings(&mut doctor(&["--verify"])).0);
}

/// A `PATH` with all programs of this machine but one.
fn path_without(sandbox: &Sandbox, program: &str) -> OsString {
    let directory = sandbox.path(format!("without-{program}"));
    fs::create_dir_all(&directory).unwrap();
    for name in [
        "packer",
        "qemu-system-x86_64",
        "qemu-img",
        "ss",
        "setpriv",
        "ssh-keygen",
        "nft",
    ] {
        if let (true, Ok(found)) = (name != program, which::which(name)) {
            symlink(found, directory.join(name)).unwrap();
        }
    }
    directory.into()
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn the_port_of_each_running_instance_is_looked_at() {
    own_world!();
    let sandbox = ready(1);
    sandbox.instance("start", "7", &[]).json();
    let name = sandbox.instance_name("7");
    let isolation = || {
        let (_, findings) = findings(&mut doctor(&sandbox, &[]));
        let found = findings.into_iter().find(|it| it["check"] == "isolation");
        found.expect("nothing on the instance that runs")
    };
    assert_eq!(isolation()["status"], "ok");
    let xml = virsh(["dumpxml", "--inactive", &name]);
    let target = between(&xml, "<target dev='cyyber-n", "/>");
    let device = target.split('\'').nth(1).unwrap();

    // A port that is open to its neighbours.
    let flag = format!("/sys/class/net/{device}/brport/isolated");
    fs::write(&flag, "0").unwrap();
    let found = isolation();
    let wanted = format!("{name} sees the frames of other instances");
    assert!(text(&found["message"]).contains(&wanted), "{found}");
    assert_eq!(found["status"], "failed");

    // One that somebody else started at another port: the firewall does not know it.
    sandbox.instance("stop", "7", &["--force"]).ok();
    let file = sandbox.path("other.xml");
    fs::write(&file, xml.replace(target, "")).unwrap();
    virsh(["define", file.to_str().unwrap()]);
    virsh(["start", &name]);
    let found = isolation();
    let wanted = format!("{name} has no network");
    assert!(text(&found["message"]).contains(&wanted), "{found}");
    assert_eq!(found["status"], "failed");
    sandbox.instance("stop", "7", &["--force"]).ok();
    sandbox.instance("start", "7", &[]).ok();
    assert_eq!(isolation()["status"], "ok");
}

/// The first part of `text` from `begin` to `end`, both included.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let from = text
        .find(begin)
        .unwrap_or_else(|| panic!("no {begin} in {text}"));
    let rest = &text[from..];
    let length = rest[begin.len()..]
        .find(end)
        .map_or(rest.len(), |at| begin.len() + at + end.len());
    &rest[..length]
}
