//! Several hosts as far as they need no Slurm: that one host alone has nothing of them.

use serde_json::json;

use crate::common::{Sandbox, lab};

#[test]
fn a_single_host_has_no_others() {
    let sandbox = Sandbox::new();
    for command in [&["host", "list"][..], &["host", "fence", "h1", "--yes"]] {
        sandbox
            .cyyber(command)
            .says(3, "the configuration has no `cluster`");
    }
    sandbox.cyyber(["instance", "list"]).ok();
}

#[test]
fn a_head_says_what_it_lacks_and_asks_before_it_fences() {
    let sandbox = Sandbox::new();
    let empty = sandbox.path("bin");
    std::fs::create_dir_all(&empty).unwrap();
    let cluster = json!({"engine": "slurm", "shared_dir": sandbox.path(""), "hosts": {"h1": {}}});
    let with = |cluster: &serde_json::Value| {
        let labs = [lab(&sandbox.lab, &json!({}))];
        let config = json!({"labs": labs, "cluster": cluster});
        sandbox.write_config(&config.to_string());
    };
    with(&cluster);
    // Another that is in the way of Slurm's own is one without a controller.
    sandbox.fake(
        "squeue",
        "echo 'squeue: error: Unable to contact slurm controller' >&2; exit 1",
    );
    sandbox.instance("start", "7", &[]).fails(8);
    sandbox
        .cyyber(["instance", "list"])
        .says(8, "Unable to contact slurm controller");
    sandbox
        .cyyber(["host", "fence", "h1"])
        .says(2, "no terminal to ask");
    sandbox
        .cyyber(["host", "drain", "h7"])
        .says(4, "no host h7 in `cluster.hosts`");
    // Cron of a head runs passes as well, and must not mail.
    let pass = sandbox.cyyber(["reap"]).ok();
    assert_eq!((&*pass.stdout, &*pass.stderr), ("", ""));
    let pass = sandbox.cyyber(["-o", "json", "reap"]).json();
    assert_eq!(
        pass,
        json!({"dry_run": false, "checked": 0, "actions": [], "failed": 0})
    );
    for (key, value, wanted) in [
        (
            "shared_dir",
            json!("here"),
            "cluster.shared_dir: 'here' must begin with /",
        ),
        (
            "hosts",
            json!({}),
            "cluster.hosts: at least one host is needed",
        ),
        ("hosts", json!({"h 1": {}}), "bad host name 'h 1'"),
        (
            "engine",
            json!("kubernetes"),
            "unknown variant `kubernetes`, expected `slurm`",
        ),
    ] {
        let mut wrong = cluster.clone();
        wrong[key] = value;
        with(&wrong);
        sandbox.cyyber(["instance", "list"]).says(3, wanted);
    }
}
