//! Files to and from a guest on one of several hosts, from their head.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::common::cluster::Cluster;
use crate::common::guest::{QUICK_IMAGE, machine};
use crate::common::world::{Guests, own_world};
use crate::common::{text, tool};

#[test]
#[ignore = "needs root, Slurm, QEMU and the cloud image: run by `make test-all`"]
fn files_pass_through_the_head() {
    own_world!();
    let _one = Guests::booted(1);
    let Some(cluster) = Cluster::up(&["h1"], &machine(&json!({}))) else {
        return;
    };
    fs::copy(QUICK_IMAGE, cluster.shared("base-images/lab01-base.qcow2")).unwrap();
    let answer = |words: &[&str]| cluster.cyyber(&[&["-o", "json", "instance"], words].concat());
    let started = answer(&["start", "lab01", "anna", "--wait=12m"]).json();
    assert_eq!(started["host"], "h1");

    let here = |path: &str| cluster.shared(path).display().to_string();
    fs::create_dir_all(here("work/deep")).unwrap();
    fs::write(here("work/deep/data"), vec![7; 300_000]).unwrap();
    fs::write(here("work/run.sh"), "echo ran\n").unwrap();
    fs::set_permissions(here("work/run.sh"), Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("deep/data", here("work/link")).unwrap();
    let push =
        |whom: &[&str], work: &str| answer(&[&["push", "lab01"], whom, &[work, "/opt"]].concat());
    let pushed = push(&["anna"], &here("work")).json()["pushed"][0].clone();
    assert_eq!(pushed["host"], "h1");
    assert_eq!(pushed["instance"], "lab01_user_anna");
    assert_eq!(
        (&pushed["files"], &pushed["target"]),
        (&json!(5), &json!("/opt"))
    );
    let script = "cd /opt/work && ./run.sh && readlink link && stat -c %U:%s deep/data";
    let ran = answer(&["exec", "lab01", "anna", "--", "sh", "-c", script]).json();
    assert_eq!(ran["results"][0]["stdout"], "ran\ndeep/data\nroot:300000\n");
    let again = push(&["anna"], &here("work")).error_json(5);
    assert!(text(&again["message"]).contains("on h1: "), "{again}");
    fs::write(here("class.txt"), "anna\nnobody\n").unwrap();
    let class = ["--users-from", &here("class.txt"), "--replace"];
    let some = push(&class, &here("work"));
    let said: serde_json::Value = serde_json::from_str(&some.stdout).unwrap();
    assert_eq!(some.code, Some(1), "{some:#?}");
    assert_eq!(said["pushed"].as_array().unwrap().len(), 1, "{said}");
    assert_eq!(said["failed"][0]["instance"], "lab01_user_nobody");

    let to = cluster.directory("head").join("collected");
    let collect = || {
        let to = to.to_str().unwrap();
        answer(&[
            "collect",
            "lab01",
            "anna",
            "--from",
            "/opt/work",
            "--to",
            to,
        ])
    };
    let collected = collect().json()["collected"][0].clone();
    let place = to.join("anna/work");
    assert_eq!(collected["path"], json!(place));
    assert_eq!(
        (&collected["host"], &collected["state"]),
        (&json!("h1"), &json!("running"))
    );
    assert_eq!(fs::read(place.join("deep/data")).unwrap(), vec![7; 300_000]);
    assert_eq!(
        fs::read_link(place.join("link")).unwrap().to_str(),
        Some("deep/data")
    );
    let again = collect().error_json(5);
    assert!(
        text(&again["message"]).ends_with("anna/work already exists"),
        "{again}"
    );

    // The disk of one that does not run is read on its host, without special files.
    let special = "mkfifo /opt/work/pipe && sync";
    answer(&["exec", "lab01", "anna", "--", "sh", "-c", special]).ok();
    answer(&["pause", "lab01", "anna"]).ok();
    fs::remove_dir_all(&place).unwrap();
    let rest = collect();
    if tool("guestfish").arg("--version").output().is_ok() {
        for said in [
            "lab01_user_anna is paused: its files",
            "lab01_user_anna: left out pipe: ",
        ] {
            assert!(rest.stderr.contains(said), "{rest:#?}");
        }
        let collected = rest.json()["collected"][0].clone();
        assert_eq!(
            (&collected["host"], &collected["state"]),
            (&json!("h1"), &json!("paused"))
        );
        assert_eq!(fs::read(place.join("deep/data")).unwrap(), vec![7; 300_000]);
    } else {
        let error = rest.error_json(8);
        assert!(text(&error["message"]).contains("libguestfs"), "{error}");
    }
    let left: Vec<_> = fs::read_dir(cluster.shared("transfers")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let left: Vec<_> = fs::read_dir(to.join("anna")).unwrap().collect();
    assert!(left.len() <= 1, "{left:?}");
}
