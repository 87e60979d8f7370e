//! Lessons on several hosts: each brings up its own instances, and its share of those that are missing.

use std::fs;

use serde_json::{Value, json};

use crate::common::cluster::Cluster;
use crate::common::world::{Guests, own_world};
use crate::common::{Run, text};
use crate::timetable::lesson;

const HOSTS: [&str; 2] = ["h1", "h2"];

#[test]
#[ignore = "needs root, Slurm and QEMU: run by `make test`"]
fn a_class_comes_up_once_on_all_hosts_together() {
    own_world!();
    let _all = Guests::firmware(6);
    let lab = json!({"policy": {"boot_timeout": "0s"}});
    let Some(cluster) = Cluster::up(&HOSTS, &lab) else {
        return;
    };
    let answer = |words: &[&str]| cluster.cyyber(&[&["-o", "json", "instance"], words].concat());
    // One is there already, and keeps its disk and its host.
    answer(&["create", "lab01", "s0"]).ok();
    let before = cluster.owner("s0");
    let students: Vec<_> = (0..6).map(|number| format!("s{number}")).collect();
    fs::write(cluster.shared("7b.txt"), students.join("\n")).unwrap();
    let file = cluster.shared("labs-config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let mut course = lesson(-2, 90);
    course["lab"] = "lab01".into();
    course["roster"] = json!(cluster.shared("7b.txt"));
    course["timezone"] = "UTC".into();
    config["timetable"] = json!([course]);
    let mut other = config["labs"][0].clone();
    other["lab_id"] = "lab02".into();
    config["labs"].as_array_mut().unwrap().push(other);
    fs::write(file, config.to_string()).unwrap();
    let base = |lab: &str| cluster.shared(format!("base-images/{lab}-base.qcow2"));
    fs::copy(base("lab01"), base("lab02")).unwrap();
    // Another has all that a student may have, which is nobody else's loss. The controller reads its script
    // again when its second of change is another one.
    let other = answer(&["start", "lab02", "s5"]).json();
    let limit = cluster.shared("slurm/job_submit.lua");
    let script = fs::read_to_string(&limit).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    fs::write(&limit, script.replace("STUDENT = 0", "STUDENT = 1")).unwrap();

    let coming = cluster.cyyber(&["-o", "json", "timetable"]).json();
    assert_eq!(coming["peak"]["instances"], 6, "{coming}");
    assert_eq!(coming["host_memory_mb"], 2 * 65536, "{coming}");

    let passes = || {
        let reap = |host| cluster.on(host, ["cyyber", "-o", "json", "reap"]).spawn();
        let both = HOSTS.map(|host| reap(host).unwrap());
        let acted = both.map(|pass| Run::end_of(pass).json()["actions"].clone());
        acted.map(|actions| actions.as_array().unwrap().clone())
    };
    let acted = passes();
    assert_eq!(acted.iter().map(Vec::len).sum::<usize>(), 5, "{acted:?}");
    assert!(acted.iter().all(|host| !host.is_empty()), "{acted:?}");
    // Each has one disk, on the host where it runs with a lease.
    assert_eq!(cluster.owner("s0"), before);
    let list = answer(&["list"]).json()["instances"].clone();
    let place = |row: &Value| format!("{}|{}", text(&row["instance"]), text(&row["host"]));
    let running = list.as_array().unwrap().iter();
    let running = running.inspect(|row| assert_eq!(row["state"], "running", "{row}"));
    let mut running: Vec<_> = running.map(place).collect();
    running.sort();
    let owned = students[..5].iter().map(|student| {
        let (host, _) = cluster.owner(student);
        format!("lab01_user_{student}|{host}")
    });
    assert_eq!(running, Vec::from_iter(owned.chain([place(&other)])));
    for host in HOSTS {
        let disk = format!("hosts/{host}/user-instances/lab01_user_s5.qcow2");
        assert!(!cluster.shared(disk).exists());
    }
    let queue = ["squeue", "-h", "-o", "%j|%N"];
    let leases = Run::of(&mut cluster.on("head", queue)).stdout;
    let of_instance = |line: &&str| !line.starts_with("cyyber_at");
    let mut leases: Vec<_> = leases.lines().filter(of_instance).collect();
    leases.sort_unstable();
    assert_eq!(leases, running);

    assert_eq!(
        passes(),
        [(); 2].map(|()| Vec::<Value>::new()),
        "once is enough"
    );
    // A student's own stop is respected, and so is the other host's.
    answer(&["stop", "lab01", "s1", "--force"]).ok();
    assert_eq!(passes(), [(); 2].map(|()| Vec::<Value>::new()));
}
