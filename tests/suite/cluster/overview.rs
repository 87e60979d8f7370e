//! What the head shows of all hosts, and whom a limit stops.

use std::fs;

use serde_json::{Value, json};

use crate::common::cluster::Cluster;
use crate::common::world::{Guests, own_world};
use crate::common::{Run, run, text};

#[test]
#[ignore = "needs root, Slurm and QEMU: run by `make test`"]
fn the_head_shows_the_instances_of_all_hosts_and_what_it_cannot_ask() {
    own_world!();
    let _all = Guests::firmware(3);
    let lab = json!({"policy": {"boot_timeout": "0s"}, "image": {"url": "/no/image.qcow2"}});
    let Some(cluster) = Cluster::up(&["h1", "h2", "h3"], &lab) else {
        return;
    };
    let answer = |words: &[&str]| cluster.cyyber(&[&["-o", "json"], words].concat());
    let start = |student: &str, on: &str| {
        let others = ["h1", "h2", "h3"].into_iter().filter(|it| *it != on);
        for host in others.clone() {
            let drain = format!("scontrol update nodename={host} state=drain reason=test");
            run(&mut cluster.on("head", drain.split(' ')));
        }
        let started = answer(&["instance", "start", "lab01", student]).json();
        assert_eq!(started["host"], on);
        for host in others {
            let resumed = answer(&["host", "resume", host]).json();
            assert_eq!(resumed["hosts"][0]["state"], "up", "{resumed}");
        }
    };
    let of_instances = |document: &Value, key: &str| {
        let rows = document[key].as_array().unwrap().iter();
        let row = |row: &Value| (text(&row["instance"]), text(&row["host"]));
        rows.map(row).collect::<Vec<_>>()
    };
    let wanted = |hosts: [&str; 2]| {
        let names = ["lab01_user_anna", "lab01_user_ben"].map(str::to_owned);
        Vec::from_iter(names.into_iter().zip(hosts.map(str::to_owned)))
    };
    start("anna", "h1");
    start("ben", "h2");
    answer(&["instance", "create", "lab01", "cleo"]).ok();
    answer(&["instance", "cleanup", "lab01", "cleo", "--yes"]).ok();

    // Pictures of both are on one page.
    let wall = cluster.directory("head").join("wall");
    let place = wall.to_str().unwrap();
    let screens = ["instance", "screens", "--html", place];
    let taken = answer(&screens).json();
    assert_eq!(of_instances(&taken, "screens"), wanted(["h1", "h2"]));
    assert_eq!(
        (&taken["failed"], &taken["unreachable"], &taken["off"]),
        (&json!([]), &json!([]), &json!(0))
    );
    for name in ["anna", "ben"] {
        let picture = fs::read(wall.join(format!("lab01_user_{name}.png"))).unwrap();
        assert!(picture.starts_with(b"\x89PNG"), "{name}");
    }
    let page = || fs::read_to_string(wall.join("index.html")).unwrap();
    assert!(
        page().contains("<b>lab01_user_ben</b> <span>h2, "),
        "{}",
        page()
    );
    let left: Vec<_> = fs::read_dir(cluster.shared("transfers")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");

    // Use, again and again, of all and of one.
    for (words, key) in [(&[][..], "/instances/1/host"), (&["lab01", "ben"], "/host")] {
        let watch = "timeout --signal=INT 5 cyyber -o json instance stats";
        let watch = watch.split(' ').chain(words.iter().copied());
        let watched = Run::of(&mut cluster.on("head", watch.chain(["--watch", "1"])));
        let lines: Vec<_> = watched.stdout.lines().collect();
        assert!(lines.len() >= 2, "{watched:#?}");
        for line in lines {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(line.pointer(key), Some(&json!("h2")), "{line}");
        }
    }

    // An image is built on a host, whose failure is that of the command.
    let failed = answer(&["build", "lab01"]).error_json(3);
    assert!(
        text(&failed["message"]).contains("/no/image.qcow2"),
        "{failed}"
    );

    // What happened to an instance on two hosts is one course in the report.
    answer(&["instance", "pause", "lab01", "anna"]).ok();
    start("anna", "h3");
    let report = answer(&["report", "--since", "1h"]).json();
    assert_eq!(
        (&report["pauses"], &report["resumes"]["count"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(report["starts"]["count"], 2);
    assert!(
        report["state_hours"]["running"].as_f64() > Some(0.0),
        "{report}"
    );
    let html = cluster.directory("head").join("report.html");
    answer(&["report", "--html", html.to_str().unwrap()]).ok();
    assert!(fs::read_to_string(html).unwrap().contains("lab01"));

    // A dead host without instances is none of a list's business; one with some is named.
    cluster.kill("h1");
    let list = answer(&["instance", "list"]).json();
    assert_eq!(of_instances(&list, "instances"), wanted(["h3", "h2"]));
    assert_eq!(list["unreachable"], json!([]));
    cluster.kill("h2");
    let taken = answer(&screens).json();
    assert_eq!(of_instances(&taken, "screens"), wanted(["h3", "h2"])[..1]);
    assert_eq!(taken["unreachable"][0]["host"], "h2");
    assert!(page().contains("failed to query h2: "), "{}", page());
    assert!(!wall.join("lab01_user_ben.png").exists());
    let report = answer(&["report", "--since", "1h"]).ok();
    assert!(
        report.stderr.contains("left out: failed to query h2"),
        "{report:#?}"
    );
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(report["starts"]["count"], 2, "{report}");
}

#[test]
#[ignore = "needs root, Slurm and QEMU: run by `make test-all`"]
fn a_student_has_as_many_instances_running_as_the_limit_allows() {
    own_world!();
    let _all = Guests::firmware(2);
    let lab = json!({"policy": {"boot_timeout": "0s"}});
    let Some(cluster) = Cluster::up(&["h1", "h2"], &lab) else {
        return;
    };
    let file = cluster.shared("labs-config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let mut second = config["labs"][0].clone();
    second["lab_id"] = "lab02".into();
    config["labs"].as_array_mut().unwrap().push(second);
    fs::write(file, config.to_string()).unwrap();
    let images = |lab: &str| cluster.shared(format!("base-images/{lab}-base.qcow2"));
    fs::copy(images("lab01"), images("lab02")).unwrap();
    let limit = cluster.shared("slurm/job_submit.lua");
    let script = fs::read_to_string(&limit).unwrap();
    // The controller reads it again when its second of change is another one.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    fs::write(&limit, script.replace("STUDENT = 0", "STUDENT = 1")).unwrap();

    let verb =
        |verb: &str, lab: &str| cluster.cyyber(&["-o", "json", "instance", verb, lab, "anna"]);
    verb("start", "lab01").ok();
    let refused = verb("start", "lab02").error_json(7);
    let why = "lab02_user_anna may not start: anna has 1 instances running, which is the most";
    assert!(text(&refused["message"]).starts_with(why), "{refused}");
    assert!(
        !cluster
            .shared("hosts/h1/user-instances/lab02_user_anna.qcow2")
            .exists()
    );
    assert!(
        !cluster
            .shared("hosts/h2/user-instances/lab02_user_anna.qcow2")
            .exists()
    );
    // A paused one does not count, and comes back only in turn.
    verb("pause", "lab01").ok();
    verb("start", "lab02").ok();
    let refused = verb("resume", "lab01").error_json(7);
    assert!(
        text(&refused["message"]).contains("anna has 1"),
        "{refused}"
    );
    verb("stop", "lab02");
    verb("resume", "lab01").ok();
}
