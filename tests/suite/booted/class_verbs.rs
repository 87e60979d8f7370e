//! Commands and files in the guests of a class.

use crate::common;

use std::fs;
use std::time::Instant;

use common::{Run, Sandbox, guest, text};
use serde_json::{Value, json};

/// A class of three: one that runs, one that is paused or off, and one that is not there.
struct Class {
    sandbox: Sandbox,
}

impl Class {
    fn new() -> Class {
        let sandbox = Sandbox::with_booting_guests(1);
        let policy = json!({"boot_timeout": "15m"});
        sandbox.configure(&json!({"memory_mb": 256, "policy": policy}));
        let link = format!("storage/base-images/{}-base.qcow2", sandbox.lab);
        fs::copy(guest::QUICK_IMAGE, sandbox.path(link)).unwrap();
        fs::write(sandbox.path("class.txt"), "on\noff\nnobody\n").unwrap();
        Class { sandbox }
    }

    fn run(&self, format: &str, verb: &str, whom: &[&str], rest: &[&str]) -> Run {
        let words = ["-o", format, "instance", verb, &self.sandbox.lab];
        self.sandbox.cyyber(words.iter().chain(whom).chain(rest))
    }
}

const ALL: &[&str] = &["--users-from", "class.txt"];

#[test]
#[ignore = "needs libvirt, QEMU and the cloud image: run by `make test`"]
fn a_class_runs_commands_and_gets_and_gives_files() {
    let class = Class::new();
    let sandbox = &class.sandbox;
    sandbox.instance("create", "on", &[]).ok();
    sandbox.instance("create", "off", &[]).ok();
    // It is started, and its agent is waited for.
    let began = Instant::now();
    let hostname = class.run("json", "exec", &["on", "--wake"], &["--", "uname", "-s"]);
    println!("started and asked in {:?}", began.elapsed());
    assert_eq!(hostname.json()["results"][0]["stdout"], "Linux\n");
    sandbox.all_have_booted();
    commands(&class);
}

fn commands(class: &Class) {
    let one = |script: &str| class.run("table", "exec", &["on"], &["--", "sh", "-c", script]);
    // As over ssh: streams and exit status are those of the command.
    let ran = one("echo out; echo 'err or' >&2; exit 7");
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (Some(7), "out\n", "err or\n")
    );
    assert_eq!(one("kill -TERM $$").code, Some(143));
    assert_eq!(one("id -u").ok().stdout, "0\n");
    let missing = class.run("table", "exec", &["on"], &["--", "no-such-program"]);
    assert_eq!(missing.code, Some(127), "{missing:#?}");
    // No shell is involved but the one that was asked for, and each argument is one.
    let arguments = ["--", "printf", "%s|", "a b", "$HOME; x", "'", "*"];
    let printed = class.run("table", "exec", &["on"], &arguments).ok();
    assert_eq!(printed.stdout, "a b|$HOME; x|'|*|");

    let json = |script: &str, options: &[&str]| {
        let whom = [&["on"], options].concat();
        let run = class.run("json", "exec", &whom, &["--", "sh", "-c", script]);
        let answer: Value = serde_json::from_str(&run.stdout).unwrap();
        (run.code, answer["results"][0].clone())
    };
    // More than is kept, which the command does not notice.
    let (code, result) = json("head -c 3000000 /dev/zero | tr '\\0' x; echo end >&2", &[]);
    assert_eq!((code, &result["truncated"]), (Some(0), &json!(true)));
    assert_eq!(text(&result["stdout"]).len(), 1 << 20);
    assert_eq!(result["stderr"], "end\n");
    let (code, result) = json("echo begun; sleep 600; echo not", &["--timeout", "2s"]);
    assert_eq!((code, &result["exit_code"]), (Some(124), &json!(124)));
    assert_eq!(result["stdout"], "begun\n");
    assert!(text(&result["error"]).contains("was killed"), "{result}");
    assert_eq!(json("pgrep -x sleep", &[]).0, Some(1), "it goes on");

    // Of a class: each line with its user, and who did not run.
    let all = class.run("table", "exec", ALL, &["--", "sh", "-c", "echo 1; echo 2"]);
    assert_eq!((all.code, all.stdout.as_str()), (Some(1), "on: 1\non: 2\n"));
    let off = class.sandbox.instance_name("off");
    assert!(
        all.stderr.contains(&format!("{off} is stopped")),
        "{all:#?}"
    );
    assert!(all.stderr.contains("user_nobody"), "{all:#?}");
    assert!(
        all.stderr.contains("failed in 2 of 3 instances"),
        "{all:#?}"
    );
}
