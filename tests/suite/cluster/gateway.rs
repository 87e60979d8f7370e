//! The gateway of the head: one door to the screens on all hosts.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;
use std::fs::File;
use std::os::fd::AsFd;

use crate::common::cluster::Cluster;
use crate::common::world::{Guests, own_world};
use crate::common::{Run, run, text, wait_until};
use crate::gateway::{Browser, Gateway};

#[test]
#[ignore = "needs root, Slurm and QEMU: run by `make test`"]
fn a_path_leads_through_the_head_to_the_host_and_wakes_its_instance_where_there_is_room() {
    own_world!();
    let _all = Guests::firmware(2);
    let lab = json!({"policy": {"boot_timeout": "0s"}});
    let Some(cluster) = Cluster::up(&["h1", "h2"], &lab) else {
        return;
    };
    let answer = |words: &[&str]| cluster.cyyber(&[&["-o", "json", "instance"], words].concat());
    let path = |options: &[&str]| {
        let answer = answer(&[&["console", "lab01", "anna"], options].concat()).json();
        text(&answer["console_path"])
    };
    let listed = || answer(&["list"]).json()["instances"][0].clone();
    let leases = || {
        let queue = ["squeue", "-h", "-n", "lab01_user_anna", "-o", "%N"];
        Run::of(&mut cluster.on("head", queue)).stdout
    };
    answer(&["create", "lab01", "anna"]).ok();
    let without = answer(&["console", "lab01", "anna", "--path-only"]).error_json(8);
    assert!(
        text(&without["message"]).contains("no gateway runs"),
        "{without}"
    );

    // From here on, this is in the network of the head.
    let head = std::fs::read_to_string(cluster.directory("head").join("pid")).unwrap();
    let head = File::open(format!("/proc/{}/ns/net", head.trim())).unwrap();
    move_into_link_name_space(head.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    let [h1, h2] = ["10.77.0.101:5690", "10.77.0.102:5690"];
    let hosts = [
        Gateway::of_host(&cluster, "h1", h1, h1),
        Gateway::of_host(&cluster, "h2", "0.0.0.0:5690", h2),
    ];
    let [door, local] = ["127.0.0.1:5690"; 2];
    let door = Gateway::of_host(&cluster, "head", door, local);

    // Stopped: powered on with a lease while the browser waits; once.
    let first = path(&["--path-only"]);
    assert_eq!(leases(), "");
    let mut browser = Browser::enter(&door, &first);
    browser.see();
    let host = text(&listed()["host"]);
    assert_eq!(leases().trim(), host);
    assert_eq!(Browser::connect(&door, &first).end(), 4401);
    assert_eq!(Browser::connect(&door, "/console/AAAA").end(), 4401);
    // It runs: another window, and one that only looks.
    Browser::enter(&door, &path(&["--path-only"])).see();
    Browser::enter(&door, &path(&["--view"])).see();

    // What the host's gateway says of the end is said here.
    let view = path(&["--view"]);
    answer(&["pause", "lab01", "anna"]).ok();
    assert_eq!(browser.end(), 4410);
    assert_eq!(Browser::connect(&door, &view).end(), 4409);
    assert_eq!(listed()["state"], "paused");

    // Paused, and its host takes nobody any more: it wakes on the other one, with its memory.
    let click = path(&["--path-only"]);
    let drain = format!("scontrol update nodename={host} state=drain reason=test");
    run(&mut cluster.on("head", drain.split(' ')));
    let mut browser = Browser::enter(&door, &click);
    browser.see();
    let there = listed();
    assert_ne!(there["host"], host.as_str());
    assert_eq!(there["state"], "running");
    assert_eq!(leases().trim(), text(&there["host"]));

    // Without the gateway there, the door tells so.
    let click = path(&["--path-only"]);
    drop(hosts);
    for host in ["h1", "h2"] {
        Run::of(&mut cluster.on(host, ["pkill", "-f", "cyyber gateway"])).ok();
    }
    assert_eq!(browser.end(), 1001);
    wait_until("both have ended", || {
        !Run::of(&mut cluster.on("head", ["ss", "-Htn", "dst", h1]))
            .stdout
            .contains("ESTAB")
    });
    assert_eq!(
        Browser::connect(&door, &click).end(),
        4401,
        "its key is gone"
    );
}
