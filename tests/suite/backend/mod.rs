//! cyyber as a web backend uses it, and as a student meets it: the small application beside this
//! file under its real web server, with real instances, and a real browser.

mod gateway;
mod server;
pub mod student;
mod webdriver;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::common;
use common::shape::{LISTED, SECRET, STATS, Type, assert_null, assert_shape};
use common::vnc::Client;
use common::{CODES, Sandbox, UNREACHABLE, lab, run, text, virsh, wait_until};
use serde_json::{Value, json};
use server::{AT_ONCE, Backend};

/// What each exit code becomes, as its document says and as a test finds.
const STATUS: [u16; 9] = [200, 500, 400, 500, 404, 409, 423, 507, 503];

/// Ids that no lab has, as they are in an address.
const BAD_LABS: [&str; 7] = [
    "--force",
    "-h",
    "Lab01",
    "a%20b",
    "a%00b",
    "%2e%2e",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

const DOCUMENT: &str = include_str!("../../../man/backend.md");

/// A sandbox with a base image, for `count` guests at once.
fn sandbox(count: usize) -> Sandbox {
    let sandbox = Sandbox::with_guests(count);
    sandbox.base(&sandbox.lab);
    sandbox
}

fn port(instance: &Value) -> u16 {
    u16::try_from(instance["novnc_port"].as_u64().unwrap()).unwrap()
}

/// A user whom no other test has: a list is of all labs.
fn user(sandbox: &Sandbox, name: &str) -> String {
    format!("{name}.{}", sandbox.lab)
}

/// The users in one part of an answer.
fn users(part: &Value) -> Vec<String> {
    let instances = part.as_array().unwrap().iter();
    instances.map(|one| text(&one["user_id"])).collect()
}

#[test]
#[ignore = "needs libvirt, QEMU and FastAPI: run by `make test`"]
fn every_endpoint_answers_with_what_its_command_does() {
    let sandbox = sandbox(1);
    let lab = &sandbox.lab;
    let backend = Backend::serve(&sandbox, &[]);
    let name = user(&sandbox, "anna");
    let anna = backend.log_in(&name);
    let path = |verb: &str| format!("/vm/{verb}/{lab}");

    assert_eq!(anna.get("/vm/list").ok(), json!({"instances": []}));
    anna.get(&path("status")).fails(404, "not_found");
    anna.get(&path("stats")).fails(404, "not_found");

    let started = anna.post(&path("start")).ok();
    assert_shape(&started, &shown());
    assert_shape(&started, SECRET);
    assert_eq!(fields(&documented()), fields(&started));
    assert_eq!(
        (&started["user_id"], &started["changed"]),
        (&json!(name), &json!(true))
    );
    let console = Client::connect_by_websocket(port(&started));
    assert!(console.accepts(&text(&started["vnc_password"])));

    let status = anna.get(&path("status")).ok();
    assert_shape(&status, &shown());
    assert!(status.get("vnc_password").is_none(), "{status:#}");
    assert_eq!(users(&anna.get("/vm/list").ok()["instances"]), [&*name]);
    let stats = anna.get(&path("stats")).ok();
    assert_shape(&stats, STATS);
    assert_eq!(stats["memory_mb"], 128);
    let seen_at = anna.get(&path("console"));
    let address = format!("127.0.0.1:{}", port(&started));
    assert_eq!((seen_at.status, seen_at.console), (204, Some(address)));

    let state = || sandbox.state(&name);
    assert_eq!(anna.post(&path("pause")).ok()["state"], "paused");
    assert_eq!(state(), "paused");
    anna.get(&path("console")).fails(403, "forbidden");
    let resumed = anna.post(&path("resume")).ok();
    assert_eq!(resumed["state"], state());
    assert!(resumed["vnc_password"].is_string(), "{resumed:#}");
    assert_eq!(anna.post(&path("pause")).ok()["changed"], true);
    let again = anna.post(&path("start")).ok();
    assert_eq!(
        (&again["changed"], &again["state"]),
        (&json!(true), &json!(state()))
    );
    let stopped = anna.post(&(path("stop") + "?force=true")).ok();
    assert_eq!(
        (&stopped["state"], state().as_str()),
        (&json!("stopped"), "stopped")
    );
    assert_null(&stopped, &["vnc_port", "novnc_port", "vnc_password"]);
    assert_eq!(anna.post(&path("stop")).ok()["changed"], false);

    anna.delete("/vm/cleanup").fails(403, "forbidden");
    let admin = backend.log_in_admin();
    let only = format!("/vm/cleanup?lab_id={lab}&inactive_for");
    assert_eq!(
        users_of(&admin.delete(&format!("{only}=1h")).ok()["kept"]),
        [&*name]
    );
    let dry = admin.delete(&format!("{only}=0s&dry_run=true")).ok();
    assert_eq!(users_of(&dry["destroyed"]), [&*name]);
    assert_eq!(state(), "stopped");
    let done = admin.delete(&format!("{only}=0s")).ok();
    assert_eq!(users_of(&done["destroyed"]), [&*name]);
    assert_eq!(anna.get("/vm/list").ok(), json!({"instances": []}));
}

/// The users in a report of a cleanup.
fn users_of(part: &Value) -> Vec<String> {
    let instances = part.as_array().unwrap().iter();
    let name = |one: &Value| text(&one["instance"]);
    instances
        .map(|one| name(one).split_once("_user_").unwrap().1.to_owned())
        .collect()
}

#[test]
#[ignore = "needs libvirt, QEMU and FastAPI: run by `make test`"]
fn users_have_their_own_alone() {
    let sandbox = sandbox(2);
    let lab = &sandbox.lab;
    let backend = Backend::serve(&sandbox, &[]);
    let path = |verb: &str| format!("/vm/{verb}/{lab}");
    let names = ["anna", "ben", "eve"].map(|name| user(&sandbox, name));
    let [anna, ben, eve] = [0, 1, 2].map(|i| backend.log_in(&names[i]));

    let [hers, his] = std::thread::scope(|scope| {
        [&anna, &ben]
            .map(|user| scope.spawn(|| user.post(&path("start")).ok()))
            .map(|started| started.join().unwrap())
    });
    assert_eq!(
        (&hers["user_id"], &his["user_id"]),
        (&json!(names[0]), &json!(names[1]))
    );
    assert_ne!(port(&hers), port(&his));
    assert!(!Client::connect_by_websocket(port(&his)).accepts(&text(&hers["vnc_password"])));
    assert_eq!(users(&anna.get("/vm/list").ok()["instances"]), [&*names[0]]);
    assert_eq!(users(&ben.get("/vm/list").ok()["instances"]), [&*names[1]]);

    // What is Anna's does not depend on Ben, whatever he adds to a request.
    let (hers, stop) = (&names[0], path("stop"));
    let stopped = ben.post(&format!("{stop}?force=true&user={hers}&user_id={hers}"));
    assert_eq!(stopped.ok()["user_id"], names[1]);
    assert_eq!(sandbox.state(&names[0]), "starting");

    // Somebody who has no instance gets at nothing of those who have.
    for (method, verb) in [
        ("POST", "stop"),
        ("POST", "pause"),
        ("POST", "resume"),
        ("GET", "status"),
        ("GET", "stats"),
    ] {
        eve.ask(method, &path(verb)).fails(404, "not_found");
    }
    eve.get(&path("console")).fails(403, "forbidden");
    assert_eq!(eve.get("/vm/list").ok(), json!({"instances": []}));
    assert_eq!(sandbox.state(&names[0]), "starting");

    // Nobody at all, a made-up session, and Eve's with Anna's name in it.
    let (anna_s, _) = anna.cookie.split_once('.').unwrap();
    let (_, signature) = eve.cookie.split_once('.').unwrap();
    for cookie in ["", "session=anna", &format!("{anna_s}.{signature}")] {
        let stranger = backend.with_cookie(cookie);
        for verb in ["start", "stop", "pause", "resume"] {
            stranger.post(&path(verb)).fails(401, "unauthenticated");
        }
        for path in [
            path("status"),
            path("stats"),
            path("console"),
            format!("/lab/{lab}"),
        ] {
            stranger.get(&path).fails(401, "unauthenticated");
        }
        stranger.get("/vm/list").fails(401, "unauthenticated");
        stranger.delete("/vm/cleanup").fails(401, "unauthenticated");
    }
    assert_eq!(sandbox.state(&names[0]), "starting");
}

#[test]
#[ignore = "needs libvirt, QEMU and FastAPI: run by `make test`"]
fn every_failure_has_its_status() {
    let sandbox = sandbox(0);
    let (small, large) = (&sandbox.lab, sandbox.other_lab());
    sandbox.base(&large);
    let labs = [
        lab(small, &json!({})),
        lab(&large, &json!({"memory_mb": 1_000_000})),
    ];
    let config = json!({ "labs": labs }).to_string();
    sandbox.write_config(&config);
    let backend = Backend::serve(&sandbox, &[]);
    let anna = backend.log_in("anna");
    let fails = |user: &str, lab: &str, exit_code: usize| {
        let answer = backend.log_in(user).post(&format!("/vm/start/{lab}"));
        answer.fails(STATUS[exit_code], CODES[exit_code]);
    };

    // Another command holds the lock of Carl's instance, for longer than anybody waits.
    sandbox.instance("create", "carl", &[]).ok();
    let lock = format!("state/locks/{}.lock", sandbox.instance_name("carl"));
    let held = File::open(sandbox.path(lock)).unwrap();
    held.lock().unwrap();
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| fails("carl", small, 6));

        for bad in BAD_LABS {
            fails("anna", bad, 2);
        }
        fails("anna%40example.org", small, 2);
        fails("--help", small, 2);
        fails("anna", "nowhere", 4);
        anna.post(&format!("/vm/resume/{small}"))
            .fails(404, "not_found");
        sandbox.instance("create", "anna", &[]).ok();
        anna.post(&format!("/vm/resume/{small}"))
            .fails(409, "conflict");
        fails("anna", &large, 7);
        fs::write(sandbox.overlay("anna"), "no disk image").unwrap();
        fails("anna", small, 1);

        let broken = Backend::serve(&sandbox, &[("CYYBER_CONNECT", UNREACHABLE)]);
        for (method, path) in [
            ("GET", "/vm/list".to_owned()),
            ("GET", format!("/vm/status/{small}")),
            ("POST", format!("/vm/start/{small}")),
        ] {
            broken
                .log_in("anna")
                .ask(method, &path)
                .fails(503, "unavailable");
        }
        let without = Backend::serve(&sandbox, &[("BACKEND_CYYBER", "/nonexistent/cyyber")]);
        without
            .log_in("anna")
            .get("/vm/list")
            .fails(503, "unavailable");
        // It refuses by itself what is no id: it does not get as far as the program.
        for bad in BAD_LABS {
            let start = format!("/vm/start/{bad}");
            without.log_in("anna").post(&start).fails(400, "usage");
            let cleanup = format!("/vm/cleanup?lab_id={bad}");
            without.log_in_admin().delete(&cleanup).fails(400, "usage");
        }
        let cleanup = "/vm/cleanup?inactive_for=1%00h";
        without.log_in_admin().delete(cleanup).fails(400, "usage");
        let status = format!("/vm/status/{small}");
        without.log_in("a%00b").get(&status).fails(400, "usage");

        let hasty = Backend::serve(&sandbox, &[("BACKEND_TIMEOUT", "1")]);
        let start = format!("/vm/start/{small}");
        hasty.log_in("carl").post(&start).fails(504, "timeout");
        assert_eq!(hasty.children(), 0, "a command is left to itself");

        busy.join().unwrap();
        drop(held);
        assert_eq!(sandbox.state("carl"), "stopped");
    });

    sandbox.write_config("{}");
    fails("anna", small, 3);
    sandbox.write_config(&config);

    // A cleanup of many that went well with some.
    let renamed = format!("{small}-2");
    virsh(["domrename", "--", &sandbox.instance_name("carl"), &renamed]);
    let path = format!("/vm/cleanup?inactive_for=0s&lab_id={small}");
    let report = backend.log_in_admin().delete(&path).json(207);
    assert_eq!(users_of(&report["destroyed"]), ["anna"], "{report:#}");
    assert_eq!(users_of(&report["failed"]), ["carl"], "{report:#}");
}

#[test]
#[ignore = "needs libvirt, QEMU and FastAPI: run by `make test`"]
fn fifty_requests_at_once_are_answered_and_bounded() {
    let sandbox = sandbox(3);
    let lab = &sandbox.lab;
    let backend = Backend::serve(&sandbox, &[]);
    let users = ["anna", "ben", "carl"]
        .map(|name| user(&sandbox, name))
        .map(|name| (name.clone(), backend.log_in(&name)));
    for (user, _) in &users {
        sandbox.instance("create", user, &[]).ok();
    }
    let requests: Vec<_> = [
        ("POST", format!("/vm/start/{lab}")),
        ("GET", format!("/vm/status/{lab}")),
        ("GET", "/vm/list".to_owned()),
        ("GET", format!("/vm/stats/{lab}")),
        ("POST", "/vm/start/nowhere".to_owned()),
    ]
    .into_iter()
    .cycle()
    .take(50)
    .collect();

    let answered = AtomicBool::new(false);
    let (most, answers) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !answered.load(Ordering::Relaxed) {
                most = most.max(backend.children());
                std::thread::sleep(Duration::from_millis(1));
            }
            most
        });
        // Three does not divide five: each of them asks everything.
        let asked: Vec<_> = requests
            .iter()
            .zip(users.iter().cycle())
            .map(|(request, who)| {
                (
                    request,
                    &*who.0,
                    scope.spawn(|| who.1.ask(request.0, &request.1)),
                )
            })
            .collect();
        let answers: Vec<_> = asked
            .into_iter()
            .map(|(request, user, answer)| (request, user, answer.join()))
            .collect();
        answered.store(true, Ordering::Relaxed);
        (watch.join().unwrap(), answers)
    });

    // Readers and actors have bounds of their own.
    assert!((2..=2 * AT_ONCE).contains(&most), "{most} at once");
    let mut started = Vec::new();
    for ((_, path), user, answer) in answers {
        let answer = answer.unwrap();
        match path.as_str() {
            "/vm/start/nowhere" => answer.fails(404, "not_found"),
            "/vm/list" => {
                let list = answer.ok();
                assert_eq!(self::users(&list["instances"]), [user], "{list:#}");
            }
            _ => {
                let instance = answer.ok();
                assert_eq!(instance["user_id"], user, "{path}: {instance:#}");
                if path.starts_with("/vm/start") {
                    assert_eq!(instance["state"], "starting", "{instance:#}");
                    started.push((user, port(&instance), instance["changed"] == true));
                }
            }
        }
    }
    let ports: BTreeSet<_> = started.iter().map(|(user, port, _)| (user, port)).collect();
    assert_eq!(
        ports.len(),
        3,
        "each has one console, whoever asks: {ports:?}"
    );
    let powered_on = started.iter().filter(|(_, _, changed)| *changed).count();
    assert_eq!((started.len(), powered_on), (10, 3), "{started:?}");
    wait_until("nothing is left running", || backend.children() == 0);
}

/// What the document says that `start` answers.
fn documented() -> Value {
    let mut examples = DOCUMENT.split("```json\n").skip(1);
    let example = examples.find(|example| example.contains("\"vnc_password\""));
    let (example, _) = example.unwrap().split_once("```").unwrap();
    let example = serde_json::from_str(example).unwrap();
    assert_shape(&example, &shown());
    assert_shape(&example, SECRET);
    example
}

/// What a user is told of an instance: all but the server's paths.
fn shown() -> Vec<(&'static str, Type)> {
    let mut shown = LISTED.to_vec();
    shown.retain(|(name, _)| !["base_image", "disk_path"].contains(name));
    shown
}

/// The names of an object's fields.
fn fields(object: &Value) -> BTreeSet<&str> {
    let fields = object.as_object().unwrap().keys();
    fields.map(String::as_str).collect()
}

#[test]
#[ignore = "needs libvirt, QEMU and FastAPI: run by `make test`"]
fn pages_of_other_sites_change_nothing() {
    let sandbox = sandbox(0);
    let lab = &sandbox.lab;
    let backend = Backend::serve(&sandbox, &[]);
    let mut anna = backend.log_in("anna");
    sandbox.instance("create", "anna", &[]).ok();
    for origin in [
        None,
        Some("null"),
        Some("https://labs.example.org"),
        Some(&*(backend.url.clone() + "0")),
    ] {
        anna.origin = origin.map(str::to_owned);
        for verb in ["start", "stop", "pause", "resume"] {
            anna.post(&format!("/vm/{verb}/{lab}"))
                .fails(403, "forbidden");
        }
        anna.delete("/vm/cleanup").fails(403, "forbidden");
        anna.post("/login?user=ben").fails(403, "forbidden");
        if origin.is_some() {
            anna.get(&format!("/vm/console/{lab}"))
                .fails(403, "forbidden");
        }
    }
    assert_eq!(sandbox.state("anna"), "stopped");

    let page = anna.get(&format!("/lab/{lab}"));
    let policy = page.content_policy.unwrap();
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    for described in ["/docs", "/redoc", "/openapi.json"] {
        assert_eq!(anna.get(described).status, 404, "{described}");
    }
}

#[test]
#[ignore = "needs libvirt, QEMU and FastAPI: run by `make test`"]
fn the_servers_paths_are_told_to_nobody() {
    let sandbox = sandbox(0);
    let lab = &sandbox.lab;
    let backend = Backend::serve(&sandbox, &[]);
    let anna = backend.log_in("anna");
    sandbox.instance("create", "anna", &[]).ok();
    assert!(!anna.get("/vm/list").text.contains('/'));
    let domain = sandbox.instance_name("anna");
    let other = sandbox.path("other.qcow2");
    fs::copy(sandbox.overlay("anna"), &other).unwrap();
    virsh([
        "attach-disk",
        "--config",
        "--",
        &domain,
        &other.to_string_lossy(),
        "vdb",
    ]);
    // cyyber's own words name the disk's file.
    let refused = sandbox.instance("start", "anna", &[]).fails(5).stderr;
    assert!(refused.contains("other.qcow2"), "{refused}");
    anna.post(&format!("/vm/start/{lab}"))
        .fails(409, "conflict");
}

#[test]
#[ignore = "needs libvirt and FastAPI: run by `make test`"]
fn one_users_reads_hold_up_nobody_elses() {
    let sandbox = sandbox(0);
    // A server that is slow today.
    let slow = sandbox.path("slow");
    let script = format!(
        "#!/bin/sh\nsleep 1\nexec {} \"$@\"\n",
        env!("CARGO_BIN_EXE_cyyber")
    );
    fs::write(&slow, script).unwrap();
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).unwrap();
    let slow = slow.to_string_lossy();
    let settings = [("BACKEND_CYYBER", &*slow), ("BACKEND_WAITING", "12")];
    let backend = Backend::serve(&sandbox, &settings);
    let [anna, eve] = ["anna", "eve"].map(|user| backend.log_in(user));
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let hers: Vec<_> = (0..30)
            .map(|_| {
                scope.spawn(|| {
                    let answer = eve.get("/vm/list");
                    answered.fetch_add(1, Ordering::Relaxed);
                    answer
                })
            })
            .collect();
        wait_until("what is too much is refused", || {
            answered.load(Ordering::Relaxed) >= 17
        });
        let before = answered.load(Ordering::Relaxed);
        anna.get("/vm/list").ok();
        let meanwhile = answered.load(Ordering::Relaxed) - before;
        // One after the other, and hers beside them.
        assert!(meanwhile <= 3, "{meanwhile} of Eve's were answered before");
        let statuses = hers.into_iter().map(|answer| answer.join().unwrap());
        let (good, refused): (Vec<_>, Vec<_>) = statuses.partition(|answer| answer.status == 200);
        assert_eq!((good.len(), refused.len()), (13, 17));
        for answer in refused {
            answer.fails(429, "too_many");
        }
    });
}

#[test]
#[ignore = "needs FastAPI: run by `make test`"]
fn the_document_has_every_endpoint() {
    let mut python = Command::new("/usr/bin/python3");
    python
        .args([
            "-c",
            "import json, trusting; print(json.dumps(trusting.app.openapi()))",
        ])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/backend"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("BACKEND_SECRET", "known to the tests");
    let schema: Value = serde_json::from_str(&run(&mut python)).unwrap();
    let paths = schema["paths"].as_object().unwrap();
    assert!(paths.len() > 8, "{schema:#}");
    for (path, methods) in paths.iter().filter(|(path, _)| *path != "/login") {
        for method in fields(methods) {
            let row = format!("| `{} {path}` |", method.to_uppercase());
            assert!(DOCUMENT.contains(&row), "{row}");
        }
    }
}

#[test]
fn the_document_has_the_statuses_that_are_used() {
    for (exit_code, (status, code)) in STATUS.iter().zip(CODES).enumerate().skip(1) {
        let row = format!("| {exit_code} | `{code}` | {status} |");
        assert!(DOCUMENT.contains(&row), "{row}");
    }
}
