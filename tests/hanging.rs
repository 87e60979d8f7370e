//! A QEMU that does not answer, as one on a dead network disk. libvirt waits for it for ever, and
//! holds up others meanwhile; so this test has a file, and with it a time, of its own.

mod common;

use std::time::Duration;

use common::{Run, Sandbox, text};
use rustix::process::{Signal, kill_process};

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_qemu_that_hangs_holds_nobody_up_and_can_be_stopped() {
    let sandbox = Sandbox::with_guests(1);
    sandbox.base(&sandbox.lab);
    sandbox.instance("start", "7", &[]).ok();
    sandbox.instance("create", "8", &[]).ok();
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
    }

    let mut stop = sandbox.instance_command("stop", "7", &["--timeout", "1s"]);
    let stopped = Run::within(Duration::from_secs(40), &mut stop).json();
    assert_eq!(stopped["state"], "stopped");
}
