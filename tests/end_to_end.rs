//! The whole way on real parts: a cloud image, Packer, guests that boot.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{Run, Sandbox, guest, run, text, tool};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Made by `make image`.
const CLOUD_IMAGE: &str = "/var/cache/cyyber/debian-12-cloud-amd64.qcow2";

/// A message that every layer on its way would like to read as something else.
const MOTD: &str = "Willkommen — läuft! $(reboot) `id` '; rm -rf / # \\n %{ for } ${file(\"/etc/shadow\")} {{ isotime }}";

/// A lab of a real package on the cloud image, with `extra` keys.
fn lab(extra: Value) -> Value {
    let mut lab = json!({
        "image": {"url": CLOUD_IMAGE}, "packages": ["hello"], "motd": MOTD,
        "instructions": "Say hello.", "memory_mb": 512, "disk_size": "4G",
    });
    lab.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    lab
}

fn build(sandbox: &Sandbox) -> Run {
    sandbox.cyyber(["-o", "json", "build"])
}

/// Names in a directory; none where it is not there.
fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Processes that work in the sandbox's directory, by name.
fn processes_of(sandbox: &Sandbox) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let works_there = |process: &std::fs::DirEntry| {
        let cwd = std::fs::read_link(process.path().join("cwd")).unwrap_or_default();
        cwd.starts_with(sandbox.path(""))
    };
    processes
        .filter(works_there)
        .map(|process| std::fs::read_to_string(process.path().join("comm")).unwrap_or_default())
        .collect()
}

fn wait_for_state(sandbox: &Sandbox, user: &str, state: &str) {
    let began = Instant::now();
    while sandbox.state(user) != state {
        assert!(
            began.elapsed() < Duration::from_secs(290),
            "{user} is {}",
            sandbox.state(user)
        );
        std::thread::sleep(Duration::from_secs(2));
    }
}

#[test]
#[ignore = "needs libvirt, Packer and the cloud image: run by `make test`"]
fn a_lab_is_built_and_each_of_two_instances_is_itself() {
    let sandbox = Sandbox::with_guests(2);
    sandbox.configure(&lab(json!({})));

    let built = &build(&sandbox).json()["labs"][0];
    assert_eq!(built["result"], "built", "{built}");
    let file = |key: &str| sandbox.path("").join(text(&built[key]));
    let metadata: Value =
        serde_json::from_slice(&std::fs::read(file("metadata")).unwrap()).unwrap();
    assert_eq!(metadata["packages"][0]["name"], "hello");
    assert!(
        text(&metadata["packages"][0]["version"]).starts_with("2."),
        "{metadata}"
    );
    let sum = run(tool("sha256sum").arg(file("image")));
    assert_eq!(sum.split(' ').next(), metadata["sha256"].as_str());
    let source = run(tool("sha256sum").arg(CLOUD_IMAGE));
    assert_eq!(source.split(' ').next(), metadata["source_sha256"].as_str());
    run(tool("virt-xml-validate").arg(file("domain_xml")));
    assert_eq!(
        names_in(
            &sandbox
                .path("output")
                .join(format!("{}.packer/out", sandbox.lab))
        ),
        [""; 0]
    );

    let again = &build(&sandbox).json()["labs"][0];
    assert_eq!(again["result"], "unchanged", "{again}");

    for user in ["anna", "ben"] {
        let started = sandbox.instance("start", user, &[]).json();
        assert_eq!(started["state"], "starting", "{started}");
    }
    let [anna, ben] = ["anna", "ben"].map(|user| {
        wait_for_state(&sandbox, user, "running");
        look_inside(&sandbox, user)
    });
    assert_ne!(anna.machine_id, ben.machine_id);
    assert_ne!(anna.host_keys, ben.host_keys);
    assert_ne!(anna.address, ben.address);

    for user in ["anna", "ben"] {
        let stopped = sandbox.instance("stop", user, &["--timeout", "2m"]).json();
        assert_eq!(stopped["state"], "stopped", "{stopped}");
        assert_eq!(stopped["reason"], "shut down by its guest", "{stopped}");
    }
}

/// What makes an instance itself.
struct Identity {
    machine_id: String,
    host_keys: String,
    address: String,
}

/// Checks in the guest what every instance of the lab has, and returns what each has for itself.
fn look_inside(sandbox: &Sandbox, user: &str) -> Identity {
    let domain = sandbox.instance_name(user);
    let shell = |script: &str| guest::shell(&domain, script);
    shell("cloud-init status --wait");
    assert_eq!(shell("hello"), "Hello, world!\n");
    assert_eq!(shell("cat /etc/motd"), format!("{MOTD}\n\nSay hello.\n"));
    assert_eq!(shell("hostname"), format!("cyyber-lab-{}\n", sandbox.lab));
    assert_eq!(
        shell("head -c 4 /usr/share/pixmaps/cyyber-logo.png | tail -c 3"),
        "PNG"
    );
    assert_eq!(shell("id -un 1000"), "student\n");
    assert_eq!(shell("su - student -c 'sudo -n id -u'"), "0\n");
    let left = "cat /root/.ssh/* 2>/dev/null; ls -d /var/tmp/cyyber 2>/dev/null; true";
    assert_eq!(shell(left), "", "the build left something");
    let others = r#"ls /var/log/journal | grep -v -x "$(cat /etc/machine-id)"; true"#;
    assert_eq!(shell(others), "", "the build left its journal");
    let grown: u64 = shell("df --output=size -B1M / | tail -1")
        .trim()
        .parse()
        .unwrap();
    assert!(
        grown > 3500,
        "the file system has {grown} MiB of the disk's 4096"
    );
    // The guest is asked every ten seconds.
    common::wait_until("the guest tells of its memory", || {
        let stats = sandbox.instance("stats", user, &[]).json();
        let used = stats["memory_guest_used_mb"].as_u64();
        assert!(used.is_none_or(|used| 0 < used && used < 512), "{stats:#}");
        used.is_some()
    });
    let again = sandbox.instance("start", user, &[]).json();
    assert_eq!(
        (&again["changed"], &again["state"]),
        (&json!(false), &json!("running"))
    );
    Identity {
        machine_id: shell("cat /etc/machine-id"),
        host_keys: shell("cat /etc/ssh/ssh_host_*_key.pub"),
        address: text(&again["ip"]),
    }
}

#[test]
#[ignore = "needs Packer and the cloud image: run by `make test`"]
fn a_package_that_does_not_exist_is_named_and_nothing_half_made_is_left() {
    let sandbox = Sandbox::with_guests(1);
    sandbox.configure(&lab(json!({"packages": ["hello", "no-such.package"]})));
    let run = build(&sandbox);
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert!(
        run.stderr.contains("E: no such package: no-such.package"),
        "{run:#?}"
    );
    assert!(
        run.stderr.contains(&format!("{}.log", sandbox.lab)),
        "{run:#?}"
    );
    assert_eq!(run.stdout, "", "{run:#?}");
    nothing_is_left(&sandbox);
}

#[test]
#[ignore = "needs Packer and the cloud image: run by `make test`"]
fn a_wrong_checksum_fails_before_anything_boots() {
    let sandbox = Sandbox::with_guests(1);
    let wrong = format!("sha256:{}", "0".repeat(64));
    sandbox.configure(&lab(
        json!({"image": {"url": CLOUD_IMAGE, "checksum": wrong}}),
    ));
    let run = build(&sandbox);
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert!(run.stderr.to_lowercase().contains("checksum"), "{run:#?}");
    nothing_is_left(&sandbox);
}

#[test]
#[ignore = "needs Packer and the cloud image: run by `make test`"]
fn an_interrupted_build_leaves_no_process_and_no_image() {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let sandbox = Sandbox::with_guests(1);
        sandbox.configure(&lab(json!({})));
        let child = sandbox.command(["build"]).spawn().unwrap();
        common::wait_until("the build's VM runs", || {
            processes_of(&sandbox)
                .iter()
                .any(|name| name.starts_with("qemu-system"))
        });
        kill_process(Pid::from_child(&child), signal).unwrap();
        let run = Run::end_of(child);
        if signal != Signal::KILL {
            assert_eq!(run.code, Some(1), "{run:#?}");
            assert!(run.stderr.contains("interrupted"), "{run:#?}");
        }
        nothing_is_left(&sandbox);
    }
}

fn nothing_is_left(sandbox: &Sandbox) {
    common::wait_until("no process is left", || processes_of(sandbox).is_empty());
    common::wait_until("no built disk is left", || {
        !sandbox
            .path("output")
            .join(format!("{}.packer/out", sandbox.lab))
            .exists()
    });
    assert_eq!(names_in(&sandbox.path("storage/base-images")), [""; 0]);
    assert!(
        !sandbox
            .path("output")
            .join(format!("{}.qcow2", sandbox.lab))
            .exists()
    );
}
