//! A QEMU that does not answer, as one on a dead network disk. libvirt waits for it for ever, and
//! holds up others meanwhile; so this has a world of its own.

use crate::common;

use std::time::Duration;

use common::world::own_world;
use common::{Run, Sandbox, text};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_qemu_that_hangs_holds_nobody_up_and_can_be_stopped() {
    own_world!();
    let sandbox = Sandbox::with_guests(2);
    sandbox.base(&sandbox.lab);
    let now = "0s";
    sandbox.configure(
        &json!({"policy": {"boot_timeout": now, "idle_after": now, "pause_after": now}}),
    );
    for user in ["7", "8"] {
        sandbox.instance("start", user, &[]).ok();
    }
    sandbox.cyyber(["reap"]).ok();
    kill_process(sandbox.qemu_pid("7"), Signal::STOP).unwrap();

    for verb in ["list", "stats"] {
        let mut command = sandbox.command(["-o", "json", "instance", verb]);
        let all = Run::within(Duration::from_secs(15), &mut command).json();
        let names: Vec<_> = all["instances"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| text(&one["instance"]))
            .collect();
        for user in ["7", "8"] {
            let name = sandbox.instance_name(user);
            assert!(names.contains(&name), "{verb}: {names:?}");
        }
        if verb == "stats" {
            let healthy = all["instances"].as_array().unwrap().iter();
            let mut healthy = healthy.filter(|one| one["user_id"] == "8");
            assert_eq!(healthy.next().unwrap()["memory_mb"], 128, "{all:#}");
        }
    }

    // The one that hangs is taken down as far as that goes without it, and then fails; the other one
    // is not kept waiting.
    for wanted in ["idle", "paused"] {
        let mut command = sandbox.command(["-o", "json", "reap"]);
        let pass = Run::within(Duration::from_secs(60), &mut command);
        let answer: Value = serde_json::from_str(&pass.stdout).unwrap();
        println!("{:?} {answer} {}", pass.code, pass.stderr);
        let name = sandbox.instance_name("8");
        let actions = answer["actions"].as_array().unwrap();
        let healthy = actions.iter().find(|action| action["instance"] == name);
        let healthy = healthy.unwrap();
        assert_eq!(
            (&healthy["to"], &healthy["ok"]),
            (&json!(wanted), &json!(true))
        );
        assert_eq!(sandbox.state("8"), wanted);
    }

    let mut stop = sandbox.instance_command("stop", "7", &["--timeout", "1s"]);
    let stopped = Run::within(Duration::from_secs(40), &mut stop).json();
    assert_eq!(stopped["state"], "stopped");
}
