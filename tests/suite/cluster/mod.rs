//! Several hosts, which Slurm places instances on: how they are prepared, and what a class goes through
//! on them. Each test has a head and hosts in a world of its own.

mod class;
mod files;
mod gateway;
mod lessons;
mod overview;

use crate::common;

use common::cluster::Cluster;
use common::world::own_world;
use common::{Run, run, text, wait_until};
use serde_json::{Value, json};

/// What Slurm has of something, on the head.
fn slurm(cluster: &Cluster, command: &str) -> String {
    let words: Vec<_> = command.split(' ').collect();
    Run::of(&mut cluster.on("head", words)).stdout
}

fn allocate(cluster: &Cluster, name: &str) -> Run {
    let salloc = "salloc -Q --no-shell --immediate=2 --mem=256 -c1 -J";
    Run::of(&mut cluster.on("head", salloc.split(' ').chain([name])))
}

#[test]
#[ignore = "needs root, Slurm and QEMU: run by `make test-all`"]
fn hosts_are_prepared_repeatedly_and_leave_and_slurm_survives_its_head() {
    own_world!();
    let Some(cluster) = Cluster::up(&["h1", "h2"], &json!({})) else {
        return;
    };
    let shared = cluster.shared("").display().to_string();
    let join = ["--join", shared.as_str()];

    // What is prepared is left alone.
    for (host, options) in [("head", &[][..]), ("h1", &join[..])] {
        let again = cluster.setup(host, options).ok();
        assert!(again.stdout.starts_with("ready: "), "{again:#?}");
        let check = cluster.setup(host, &[options, &["--check"]].concat()).ok();
        assert_eq!(check.stdout, "", "{check:#?}");
    }

    // A third is told of, and known to Slurm after the head has looked.
    let hosts = cluster.shared("slurm/hosts.conf");
    let told = std::fs::read_to_string(&hosts).unwrap();
    let without = told.replace("NodeName=h2", "#NodeName=h2");
    std::fs::write(&hosts, &without).unwrap();
    let said = cluster.setup("h2", &join).ok().stdout;
    assert!(
        said.contains("write this host's resources for Slurm"),
        "{said}"
    );
    let line = std::fs::read_to_string(&hosts).unwrap();
    let line = line.lines().last().unwrap().to_owned();
    assert!(line.starts_with("NodeName=h2 CPUs="), "{line}");
    assert!(line.contains(" Feature=cpu-"), "{line}");
    let said = cluster.setup("head", &[]).ok().stdout;
    assert!(said.contains("start slurmctld"), "{said}");
    let nodes = || slurm(&cluster, "sinfo -h -N -o %N:%T:%f");
    wait_until("both hosts take instances", || {
        nodes().matches(":idle:").count() == 2
    });

    // As many instances as the limit says, whatever the labs are.
    // The controller looks at the script and at its jobs by whole seconds: two jobs of one second are
    // known after a change in a later one, such as the step of a start.
    let second = || std::thread::sleep(std::time::Duration::from_millis(1100));
    let limit = cluster.shared("slurm/job_submit.lua");
    let script = std::fs::read_to_string(&limit).unwrap();
    second();
    std::fs::write(&limit, script.replace("STUDENT = 0", "STUDENT = 2")).unwrap();
    for lab in ["lab01", "lab02"] {
        allocate(&cluster, &format!("{lab}_user_anna")).ok();
    }
    second();
    let jobs = slurm(&cluster, "squeue -h -o %A");
    let step = format!(
        "srun -Q --overlap --jobid={} true",
        jobs.lines().next().unwrap()
    );
    Run::of(&mut cluster.on("head", step.split(' '))).ok();
    let third = allocate(&cluster, "lab03_user_anna");
    assert_ne!(third.code, Some(0), "{third:#?}");
    let why = "anna has 2 instances running, which is the most that a student may have";
    assert!(third.stderr.contains(why), "{third:#?}");
    allocate(&cluster, "lab03_user_ben").ok();

    // A second head takes over from one that dies, with every allocation, and gives back to it.
    cluster.boot("head2");
    cluster.setup("head", &[]).ok();
    let leases = || {
        let queue = Run::of(&mut cluster.on("head2", ["squeue", "-h", "-o", "%j"]));
        queue.stdout.lines().count()
    };
    wait_until("the second head knows the allocations", || leases() == 3);
    cluster.kill("head");
    wait_until("the second head has taken over", || leases() == 3);
    cluster.boot("head");
    wait_until("the head is back", || {
        slurm(&cluster, "scontrol ping").contains("(primary) at head is UP")
    });
    assert_eq!(slurm(&cluster, "squeue -h -o %j").lines().count(), 3);

    // A host leaves; the rest of it stays.
    let gone = cluster.setup("h2", &["--remove"]).ok().stdout;
    assert!(gone.contains("leave the cluster"), "{gone}");
    let mounts = run(&mut cluster.on("h2", ["cat", "/proc/mounts", "/etc/fstab"]));
    assert!(!mounts.contains("/user-instances "), "{mounts}");
    assert!(cluster.shared("hosts/h2/user-instances").exists());
}

#[test]
#[ignore = "needs root, Slurm and QEMU: run by `make test-all`"]
fn doctor_on_the_head_looks_at_every_host() {
    own_world!();
    let Some(cluster) = Cluster::up(&["h1", "h2"], &json!({})) else {
        return;
    };
    let findings = || {
        let run = cluster.cyyber(&["-o", "json", "doctor"]);
        let answer: Value = serde_json::from_str(&run.stdout).unwrap();
        let all = answer["findings"].as_array().unwrap().clone();
        let of_cluster = all.into_iter().filter(|it| it["check"] == "cluster");
        let told = of_cluster.map(|it| format!("{} {}", text(&it["status"]), text(&it["message"])));
        told.collect::<Vec<_>>().join("\n")
    };
    let said = findings();
    for wanted in [
        "ok h1 has cyyber",
        "ok h2 has cyyber",
        "ok the clock of h2 is correct",
        "ok all hosts have the same CPU model",
    ] {
        assert!(said.contains(wanted), "wanted: {wanted}\n{said}");
    }
    // What is not as it should be there is told here; so is a host that cannot be asked.
    run(&mut cluster.on("h1", ["umount", "/var/lib/cyyber"]));
    cluster.kill("h2");
    let said = findings();
    assert!(
        said.contains("failed h1: cluster: /var/lib/cyyber"),
        "{said}"
    );
    assert!(said.contains("failed h2 does not answer"), "{said}");
}
