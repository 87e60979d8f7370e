//! Commands and files in the guests of a class.

use crate::common;

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Run, Sandbox, guest, is_thorough, run, text, tool, virsh, wait_until};
use serde_json::{Value, json};

/// A class of three: one that runs, one that is paused or off, and one that is not there.
struct Class {
    sandbox: Sandbox,
}

impl Class {
    fn new() -> Class {
        let sandbox = Sandbox::with_booting_guests(1);
        sandbox.configure(&guest::machine(&json!({})));
        guest::warm_base(&sandbox, &sandbox.lab);
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
    told_of_a_pause(&class);
    commands(&class);
    files_in(&class);
    files_out(&class);
    from_docker(&class);
    killed(&class);
    left_behind(&class);
    from_disks(&class);
}

/// Who works in a guest is told of what the reaper will do, once, and that is no use of it.
fn told_of_a_pause(class: &Class) {
    let sandbox = &class.sandbox;
    let name = sandbox.instance_name("on");
    guest::shell(
        &name,
        "nohup script -qfc 'sleep 3000' /var/tmp/terminal </dev/null >/dev/null 2>&1 &
         systemd-run --quiet agetty --autologin root --noclear tty3 linux
         until who | grep -q tty3; do sleep 1; done",
    );
    let policy = |announce: bool| {
        let policy = json!({
            "idle_after": "never", "pause_after": "58s", "stop_after": "never",
            "destroy_after": "never", "boot_timeout": "15m", "announce": announce,
        });
        sandbox.configure(&guest::machine(&json!({"policy": policy})));
    };
    let told = || {
        let both = "cat /var/tmp/terminal; tr -s ' ' </dev/vcs3";
        let text = guest::shell(&name, both);
        let said = "This machine will be paused in about a minute, because nobody uses it.";
        text.matches(said).count()
    };
    let used = || sandbox.listed("on")["last_activity"].clone();
    wait_until("its agent has answered", || {
        sandbox.state("on") == "running"
    });
    let pass = || {
        sandbox.instance("touch", "on", &[]).ok();
        let before = used();
        let ran = sandbox.cyyber(["reap", "-v"]).ok();
        assert_eq!(used(), before, "it counts as use");
        ran.stderr.contains("warned its users")
    };
    policy(false);
    // The first pass only observes.
    pass();
    assert!(!pass(), "it is switched off");
    assert_eq!(sandbox.listed("on")["next_step"], "paused");
    policy(true);
    assert!(!pass(), "it is the same pause");
    assert_eq!(told(), 0, "that was switched off");
    // It is not to be paused, and then it is. Nobody is told by an agent that is late.
    wait_until("its users are warned", || {
        sandbox.instance("keep", "on", &["--until", "1h"]).ok();
        pass();
        sandbox.instance("keep", "on", &["--until", "off"]).ok();
        pass()
    });
    wait_until("both terminals were told", || told() == 2);
    pass();
    assert_eq!(told(), 2, "once");
    assert_eq!(sandbox.state("on"), "running");
    sandbox.configure(&guest::machine(&json!({})));
}

/// A push and a collect that are killed at so many moments: what has its name is whole, and what is not has
/// a name that says so, and goes with the next one.
fn killed(class: &Class) {
    let sandbox = &class.sandbox;
    let name = sandbox.instance_name("on");
    let moments: u64 = if is_thorough() { 50 } else { 2 };
    let data = fs::read(sandbox.path("work/deep/data")).unwrap();
    let verb = |verb: &str, rest: &[&str]| {
        let began = Instant::now();
        class.run("json", verb, &["on"], rest).ok();
        began.elapsed()
    };
    let push = verb("push", &["work", "/opt/whole"]);
    let collect = verb("collect", &["--from", "/home/pupil/work", "--to", "whole"]);
    println!("a push takes {push:?}, a collect {collect:?}");
    let kill = |command: &mut std::process::Command, after: Duration| {
        let mut child = command.spawn().unwrap();
        sleep(after);
        let _ = child.kill();
        child.wait().unwrap();
    };
    let mut collected = 0;
    for moment in 0..moments {
        let part = |whole: Duration| {
            whole * u32::try_from(moment).unwrap() / u32::try_from(moments).unwrap()
        };
        let target = format!("/opt/killed{moment}");
        let words = [
            "-o",
            "json",
            "instance",
            "push",
            &sandbox.lab,
            "on",
            "work",
            &target,
        ];
        kill(&mut sandbox.command(words), part(push));
        let to = format!("killed/{moment}");
        let from = ["--from", "/home/pupil/work", "--to", &to];
        let words = ["-o", "json", "instance", "collect", &sandbox.lab, "on"];
        kill(
            &mut sandbox.command(words.iter().chain(&from)),
            part(collect),
        );
        let directory = sandbox.path(&to).join("on");
        if directory.join("work").exists() {
            assert_eq!(fs::read(directory.join("work/deep/data")).unwrap(), data);
            collected += 1;
        }
        for entry in fs::read_dir(&directory).into_iter().flatten() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            assert!(
                file == "work" || file.starts_with(".cyyber-collect-"),
                "{file}"
            );
        }
        let again = ["--from", "/home/pupil/.hidden", "--to", &to];
        class.run("json", "collect", &["on"], &again).ok();
        let left = fs::read_dir(&directory)
            .unwrap()
            .map(|it| it.unwrap().file_name());
        let left: Vec<_> = left.filter(|it| it != "work" && it != ".hidden").collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let wanted = guest::shell(&name, "cd /opt/whole && md5sum deep/data run.sh");
    let look = format!(
        "cd /opt && for d in killed*; do [ -e $d ] || continue; echo $d >&2
         [ \"$(cd $d && md5sum deep/data run.sh)\" = '{}' ] || echo $d; done
         ls -A | grep -v -e ^killed -e ^whole$ -e '^\\.cyyber' -e ^named$ -e ^work$; true",
        wanted.trim_end()
    );
    assert_eq!(guest::shell(&name, &look), "", "half of it is there");
    let pushed = guest::shell(&name, "ls -d /opt/killed* 2>/dev/null | wc -l");
    let pushed = pushed.trim();
    println!("of {moments} each, {pushed} were pushed and {collected} collected by then");
}

/// A push that is killed leaves its channel plugged in, and at some moments its socket: nobody else can use
/// it until then, memory that is saved with it is restored, and the next transfer takes its place.
fn left_behind(class: &Class) {
    let sandbox = &class.sandbox;
    let name = sandbox.instance_name("on");
    let large = fs::File::create(sandbox.path("large")).unwrap();
    large.set_len(400 << 20).unwrap();
    let words = [
        "instance",
        "push",
        &sandbox.lab,
        "on",
        "large",
        "/opt/large",
    ];
    let mut push = sandbox.command(words).spawn().unwrap();
    wait_until("its channel is plugged in", || is_plugged_in(&name));
    let collect = |to| {
        let words = ["--from", "/etc/hostname", "--to", to];
        class.run("json", "collect", &["on"], &words)
    };
    let error = collect("busy").error_json(6);
    assert!(text(&error["message"]).contains("in use"), "{error}");
    push.kill().unwrap();
    push.wait().unwrap();
    assert!(is_plugged_in(&name));
    let id = virsh(["domuuid", &name]).replace('-', "");
    let images = sandbox.path("storage/user-instances");
    UnixListener::bind(images.join(format!(".{}.a.socket", &id[..16]))).unwrap();
    sandbox.instance("pause", "on", &[]).ok();
    sandbox.instance("resume", "on", &[]).ok();
    assert!(is_plugged_in(&name), "its memory was saved with it");
    wait_until("its agent answers", || collect("later").code == Some(0));
    assert!(!is_plugged_in(&name));
    // A program that opens a port while it is unplugged may make a file in place of its node.
    let make = "agent=$(readlink -f /dev/virtio-ports/org.qemu.guest_agent.0)
                for n in 2 3 4; do echo >${agent%p*}p$n; done";
    guest::shell(&name, make);
    collect("last").ok();
    guest::shell(&name, "find /dev -name 'vport*' -type f -delete");
    let files = images.read_dir().unwrap().map(|it| it.unwrap().path());
    let sockets: Vec<_> = files
        .filter(|it| it.extension().is_some_and(|it| it == "socket"))
        .collect();
    assert!(sockets.is_empty(), "{sockets:?}");
    assert_eq!(
        guest::shell(&name, "ls -A /opt | grep -e large -e push; true"),
        ""
    );
}

/// From disks of those that do not run, where libguestfs is there.
fn from_disks(class: &Class) {
    let sandbox = &class.sandbox;
    let name = sandbox.instance_name("on");
    if !has_guestfish() {
        // Past the test harness, which keeps the words of a passing test to itself.
        let _ = writeln!(std::io::stderr(), "skipped: guestfish is not installed");
        return;
    }
    // What a student may put there, beside what is there from before.
    guest::shell(
        &name,
        "cd /home/pupil && echo late >late && ln -s /etc/shadow shadow && ln -s work alias &&
         truncate -s 1T huge && echo own >/etc/hostname && mkdir many && cd many &&
         seq 3000 | xargs touch && sync",
    );
    sandbox.instance("pause", "on", &[]).ok();
    let began = Instant::now();
    let work = ["--from", "/home/pupil/work", "--to", "rest", "--jobs", "2"];
    let all = class.run("json", "collect", ALL, &work);
    println!("two disks in {:?}", began.elapsed());
    assert_eq!(all.code, Some(1), "{all:#?}");
    let answer: Value = serde_json::from_str(&all.stdout).unwrap();
    let collected = &answer["collected"];
    assert_eq!(collected[0]["instance"], name.as_str(), "{answer:#}");
    assert_eq!(collected[0]["state"], "paused");
    assert_eq!(collected[0]["left_out_first"][0]["path"], "link");
    let data = fs::read(sandbox.path("work/deep/data")).unwrap();
    assert_eq!(
        fs::read(sandbox.path("rest/on/work/deep/data")).unwrap(),
        data
    );
    let failed = answer["failed"].as_array().unwrap();
    let said = text(&failed[0]["error"]);
    assert!(
        said.contains("there is no /home/pupil/work on its disk"),
        "{said}"
    );
    assert_eq!(failed[1]["code"], "not_found");
    assert!(
        all.stderr
            .contains("is paused: its files are as after a power cut"),
        "{all:#?}"
    );

    // A file, of both; what is too much, and links, of one.
    let one = ["--from", "/etc/hostname", "--to", "names"];
    let all = class.run("json", "collect", ALL, &one);
    let answer: Value = serde_json::from_str(&all.stdout).unwrap();
    let states: Vec<_> = answer["collected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| text(&it["state"]))
        .collect();
    assert_eq!(states, ["paused", "stopped"], "{answer:#}");
    let [on, off] = ["on", "off"]
        .map(|user| fs::read(sandbox.path("names").join(user).join("hostname")).unwrap());
    assert!(!off.is_empty() && on != off, "{on:?}, {off:?}");
    for (from, said) in [
        ("/home/pupil", "more"),
        ("/home/pupil/huge", "more"),
        ("/home/pupil/alias", "is a link"),
        ("/home/pupil/shadow", "is a link"),
        ("/home/pupil/pipe", "neither a file nor a directory"),
        ("/home/pupil/a b\"; !touch x | sh", "there is no"),
    ] {
        let words = ["--from", from, "--to", "too-much", "--max-size", "10M"];
        let error = class.run("json", "collect", &["on"], &words).error_json(1);
        assert!(text(&error["message"]).contains(said), "{from}: {error}");
        assert_eq!(
            fs::read_dir(sandbox.path("too-much/on")).unwrap().count(),
            0
        );
    }
    let left: Vec<_> = fs::read_dir(sandbox.path("too-much")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let states = ["on", "off"].map(|user| sandbox.state(user));
    assert_eq!(states, ["paused", "stopped"], "it wakes nobody");
}

fn has_guestfish() -> bool {
    tool("guestfish").arg("--version").output().is_ok()
}

/// Asserts that nothing of a transfer is left in the guest.
fn nothing_is_left(name: &str) {
    let left = "ls -d /home/pupil/.cyyber* 2>/dev/null; true";
    assert_eq!(guest::shell(name, left), "");
    assert!(!is_plugged_in(name));
}

/// Whether the channel for files is plugged into a guest.
fn is_plugged_in(name: &str) -> bool {
    virsh(["dumpxml", name]).contains("org.cyyber.")
}

fn files_in(class: &Class) {
    let sandbox = &class.sandbox;
    let name = sandbox.instance_name("on");
    guest::shell(&name, "useradd -m pupil");
    let work = sandbox.path("work");
    fs::create_dir_all(work.join("deep")).unwrap();
    // More than goes in one piece.
    let data: Vec<u8> = (0..2_500_000_u32).map(|n| (n % 251) as u8).collect();
    fs::write(work.join("deep/data"), &data).unwrap();
    fs::write(work.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(work.join("run.sh"), Permissions::from_mode(0o6777)).unwrap();
    symlink("/etc/hostname", work.join("link")).unwrap();
    fs::write(sandbox.path(".hidden"), "1").unwrap();

    let whole = ["work", ".hidden", "/home/pupil", "--timeout", "4m"];
    let answer = class.run("json", "push", &["on"], &whole).json();
    let pushed = &answer["pushed"][0];
    assert_eq!(pushed["instance"], name.as_str());
    assert_eq!(
        (&pushed["files"], &pushed["bytes"]),
        (&json!(6), &json!(2_500_011))
    );
    let look = "cd /home/pupil && stat -c '%n %U:%G %a' work work/run.sh work/link .hidden && \
                md5sum <work/deep/data && readlink work/link";
    let sum = run(tool("md5sum").stdin(fs::File::open(work.join("deep/data")).unwrap()));
    assert_eq!(
        guest::shell(&name, look),
        format!(
            "work pupil:pupil 755\nwork/run.sh pupil:pupil 755\nwork/link pupil:pupil 777\n\
             .hidden pupil:pupil 644\n{sum}/etc/hostname\n"
        )
    );

    // Nothing of a student's is replaced unless that is asked for.
    guest::shell(&name, "echo mine >/home/pupil/.hidden");
    let error = class.run("json", "push", &["on"], &whole).error_json(5);
    assert!(
        text(&error["message"]).contains("already exists"),
        "{error}"
    );
    assert_eq!(guest::shell(&name, "cat /home/pupil/.hidden"), "mine\n");
    let replace = ["work", ".hidden", "/home/pupil", "--replace"];
    class.run("json", "push", &["on"], &replace).ok();
    assert_eq!(guest::shell(&name, "cat /home/pupil/.hidden"), "1");

    // Under another name, and for somebody else where that is safe.
    let named = [".hidden", "/opt/named", "--owner", "pupil:games"];
    class.run("json", "push", &["on"], &named).ok();
    let owner = guest::shell(&name, "stat -c %U:%G /opt/named");
    assert_eq!(owner, "pupil:games\n");
    for (words, said) in [
        (
            &[".hidden", "/home/pupil/x", "--owner", "root"][..],
            "does not belong to root",
        ),
        (&[".hidden", "/nowhere/x"], "no directory /nowhere"),
        (
            &[".hidden", "/opt/", "--owner", "nobody-here"],
            "nobody-here",
        ),
    ] {
        let error = class.run("json", "push", &["on"], words).error_json(1);
        assert!(text(&error["message"]).contains(said), "{error}");
    }
    let error = class.run(
        "json",
        "push",
        &["on"],
        &["work", "/opt", "--timeout", "0s"],
    );
    error.error_json(1);

    // For a class, and who did not get it.
    let all = class.run("json", "push", ALL, &["work", "/opt", "--jobs", "2"]);
    assert_eq!(all.code, Some(1), "{all:#?}");
    let answer: Value = serde_json::from_str(&all.stdout).unwrap();
    assert_eq!(answer["pushed"].as_array().unwrap().len(), 1);
    let codes = [&answer["failed"][0]["code"], &answer["failed"][1]["code"]];
    assert_eq!(codes, ["conflict", "not_found"]);
    nothing_is_left(&name);
}

fn files_out(class: &Class) {
    let sandbox = &class.sandbox;
    let name = sandbox.instance_name("on");
    let options = [
        "--from",
        "/home/pupil",
        "--to",
        "handed-in",
        "--timeout",
        "4m",
    ];
    let collect =
        |rest: &[&str]| class.run("json", "collect", &["on"], &[&options[..], rest].concat());
    // What a student may put there.
    guest::shell(
        &name,
        "cd /home/pupil && ln -s work/deep/data near && ln -s ../../../../etc/passwd far &&
         mkfifo pipe && mknod null c 1 3 && touch \"$(printf 'latin\\351')\" \"$(printf 'a\\033[2J')\" &&
         mkdir -p a/b && ln -s ../../work a/b/up && ln work/run.sh hard",
    );
    // One that was killed left this.
    let stale = sandbox.path("handed-in/on/.cyyber-collect-1");
    fs::create_dir_all(stale.join("tree")).unwrap();
    let answer = collect(&[]).json();
    let collected = &answer["collected"][0];
    println!("{collected:#}");
    let pupil = sandbox.path("handed-in/on/pupil");
    assert_eq!(collected["path"], pupil.to_str().unwrap());
    let left_out = collected["left_out_first"].as_array().unwrap().iter();
    let mut left_out: Vec<_> = left_out.map(|it| text(&it["path"])).collect();
    left_out.sort();
    assert_eq!(
        left_out,
        [
            "a\u{fffd}[2J",
            "far",
            "latin\u{fffd}",
            "null",
            "pipe",
            "work/link"
        ]
    );
    let data = fs::read(sandbox.path("work/deep/data")).unwrap();
    assert_eq!(fs::read(pupil.join("near")).unwrap(), data);
    assert_eq!(
        fs::read(pupil.join("a/b/up/run.sh")).unwrap(),
        b"#!/bin/sh\n"
    );
    let mode = |name: &str| pupil.join(name).metadata().unwrap().mode() & 0o7777;
    assert_eq!(
        [mode(""), mode("work/run.sh"), mode(".hidden")],
        [0o700, 0o700, 0o600]
    );
    let there: Vec<_> = fs::read_dir(sandbox.path("handed-in/on"))
        .unwrap()
        .collect();
    assert_eq!(there.len(), 1, "{there:?}");

    // Nothing here is replaced either, and what is too much leaves nothing.
    let error = collect(&[]).error_json(5);
    assert!(
        text(&error["message"]).contains("already exists"),
        "{error}"
    );
    guest::shell(&name, "truncate -s 1T /home/pupil/huge");
    let into = ["--to", "too-much", "--from", "/home/pupil"];
    for most in ["1G", "100K"] {
        let words = [&into[..], &["--max-size", most]].concat();
        let error = class.run("json", "collect", &["on"], &words).error_json(1);
        assert!(text(&error["message"]).contains("more"), "{error}");
    }
    assert_eq!(
        fs::read_dir(sandbox.path("too-much/on")).unwrap().count(),
        0
    );
    guest::shell(&name, "rm /home/pupil/huge");

    // A single file, for a class.
    let words = [
        "--from",
        "/home/pupil/.hidden",
        "--to",
        "handed-in",
        "--jobs",
        "2",
    ];
    let all = class.run("json", "collect", ALL, &words);
    assert_eq!(all.code, Some(1), "{all:#?}");
    let answer: Value = serde_json::from_str(&all.stdout).unwrap();
    assert_eq!(answer["failed"].as_array().unwrap().len(), 2);
    let code = &answer["failed"][0]["code"];
    assert_eq!(code == "unavailable", !has_guestfish(), "{answer:#}");
    assert_eq!(
        fs::read(sandbox.path("handed-in/on/.hidden")).unwrap(),
        b"1"
    );
    let words = ["--from", "/home/pupil/none", "--to", "handed-in"];
    class.run("json", "collect", &["on"], &words).error_json(1);
    nothing_is_left(&name);
}

/// As the README has it, with the archive that `docker export` makes.
fn from_docker(class: &Class) {
    let sandbox = &class.sandbox;
    let container = sandbox.path("container");
    let home = container.join("home/student");
    fs::create_dir_all(home.join("project")).unwrap();
    fs::write(home.join("project/notes"), "old").unwrap();
    fs::write(home.join(".profile-of-mine"), "").unwrap();
    run(tool("mkfifo").arg(home.join("pipe")));
    for path in ["", "project", "project/notes"] {
        chown(home.join(path), Some(1001), Some(1001)).unwrap();
    }
    let archive = sandbox.path("container.tar");
    run(tool("tar")
        .arg("-C")
        .arg(&container)
        .arg("-cf")
        .arg(&archive)
        .arg("."));

    let mut script = tool("bash");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/labs/from-docker.sh");
    sandbox.confine(
        script
            .arg(path)
            .args([&sandbox.lab, "on", "/home/student", "/home/pupil"]),
    );
    let program = Path::new(env!("CARGO_BIN_EXE_cyyber")).parent().unwrap();
    let programs = std::env::var("PATH").unwrap();
    script.env("PATH", format!("{}:{programs}", program.display()));
    let ran = Run::of(script.stdin(fs::File::open(&archive).unwrap())).ok();
    assert!(ran.stderr.contains("left out"), "{ran:#?}");
    let look = "cd /home/pupil && stat -c '%n %U' project project/notes .profile-of-mine && cat project/notes";
    let name = sandbox.instance_name("on");
    assert_eq!(
        guest::shell(&name, look),
        "project pupil\nproject/notes pupil\n.profile-of-mine pupil\nold"
    );
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
    assert_eq!(json("pgrep -fx 'sleep 600'", &[]).0, Some(1), "it goes on");

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
