//! `host.share_memory`: a directory stands in for the kernel's settings, which are the whole host's and
//! not a test's to change.

use crate::common;

use std::fs;

use common::world::own_world;
use common::{Sandbox, lab, run, tool};
use serde_json::{Value, json};

const KSM: &str = "/sys/kernel/mm/ksm";

fn configure(sandbox: &Sandbox, share_memory: bool) {
    let labs = [lab(&sandbox.lab, &json!({}))];
    let config = json!({"labs": labs, "host": {"share_memory": share_memory}});
    sandbox.write_config(&config.to_string());
}

/// What `doctor` finds of it.
fn finding(sandbox: &Sandbox) -> Option<Value> {
    let ran = sandbox.cyyber(["-o", "json", "doctor"]);
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    let mut findings = answer["findings"].as_array().unwrap().iter();
    findings.find(|it| it["check"] == "sharing").cloned()
}

/// Whether the QEMU of user 7 keeps its memory from being merged.
fn is_excluded(sandbox: &Sandbox) -> bool {
    let pid = sandbox.qemu_pid("7").as_raw_nonzero();
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    line.contains("mem-merge=off")
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn equal_pages_are_merged_where_that_is_wanted_and_there_alone() {
    own_world!();
    let sandbox = Sandbox::with_guests(1);
    sandbox.base(&sandbox.lab);
    let stand_in = sandbox.path("ksm");
    fs::create_dir(&stand_in).unwrap();
    let set = |name: &str, value: &str| fs::write(stand_in.join(name), value).unwrap();
    let get = |name: &str| fs::read_to_string(stand_in.join(name)).unwrap();
    for (name, value) in [
        ("run", "0\n"),
        ("pages_to_scan", "100\n"),
        ("sleep_millisecs", "20\n"),
        ("pages_sharing", "0\n"),
    ] {
        set(name, value);
    }
    run(tool("mount").arg("--bind").arg(&stand_in).arg(KSM));

    configure(&sandbox, false);
    sandbox.instance("start", "7", &[]).ok();
    assert!(is_excluded(&sandbox));
    sandbox.cyyber(["reap"]).ok();
    assert_eq!((get("run").as_str(), finding(&sandbox)), ("0\n", None));

    configure(&sandbox, true);
    assert_eq!(finding(&sandbox).unwrap()["status"], "warning");
    sandbox.cyyber(["reap"]).ok();
    assert_eq!(
        (get("run"), get("pages_to_scan")),
        ("1".into(), "500".into())
    );
    sandbox.instance("stop", "7", &["--force"]).ok();
    sandbox.instance("start", "7", &[]).ok();
    assert!(!is_excluded(&sandbox));
    set("pages_sharing", "2560\n");
    let found = finding(&sandbox).unwrap();
    assert_eq!(
        (&found["status"], &found["message"]),
        (
            &json!("ok"),
            &json!("host.share_memory: equal pages save 10 MiB")
        )
    );
    let stats = sandbox.cyyber(["-o", "json", "instance", "stats"]).json();
    assert_eq!(stats["memory_merged_mb"], 10);
    let metrics = sandbox.cyyber(["metrics"]).ok().stdout;
    assert!(
        metrics.contains("\ncyyber_memory_merged_bytes 10485760\n"),
        "{metrics}"
    );

    // Guests may need again what is saved: as much as all there is.
    let all = cyyber::host::memory().unwrap().total / 4096;
    set("pages_sharing", &all.to_string());
    sandbox.instance("start", "8", &[]).error_json(7);

    configure(&sandbox, false);
    assert_eq!(finding(&sandbox).unwrap()["status"], "warning");
    set("pages_sharing", "2560\n");
    sandbox.cyyber(["reap"]).ok();
    let settings = ["run", "pages_to_scan", "sleep_millisecs"].map(get);
    assert_eq!(settings, ["0", "100", "20"]);
    assert_eq!(finding(&sandbox), None);

    // A kernel that cannot is a finding, and stops nothing else.
    fs::remove_file(stand_in.join("run")).unwrap();
    configure(&sandbox, true);
    sandbox.cyyber(["reap"]).ok();
    assert_eq!(finding(&sandbox).unwrap()["status"], "failed");
    let stats = sandbox.cyyber(["-o", "json", "instance", "stats"]).json();
    assert_eq!(stats["memory_merged_mb"], Value::Null);
    run(tool("umount").arg(KSM));
}
