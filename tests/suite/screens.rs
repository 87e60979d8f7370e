//! A page with the screens of a class.

use crate::common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use common::{Run, Sandbox, text, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn all_screens_are_on_one_page_and_to_look_at_them_is_no_use_of_them() {
    let sandbox = Sandbox::with_guests(2);
    sandbox.base(&sandbox.lab);
    for user in ["1", "2"] {
        sandbox.instance("start", user, &[]).ok();
    }
    sandbox.instance("create", "3", &[]).ok();
    let [one, two] = ["1", "2"].map(|user| sandbox.instance_name(user));
    let activity = sandbox.path("state/activity").join(&one);
    let used = SystemTime::now() - std::time::Duration::from_secs(600);
    let file = fs::File::options().write(true).open(&activity).unwrap();
    file.set_modified(used).unwrap();

    let screens = [
        "-o",
        "json",
        "instance",
        "screens",
        &sandbox.lab,
        "--html",
        "wall",
    ];
    let answer = sandbox.cyyber(screens).json();
    assert_eq!(answer["failed"], json!([]));
    let names: Vec<_> = answer["screens"].as_array().unwrap().iter().collect();
    let names: Vec<_> = names.iter().map(|it| text(&it["instance"])).collect();
    assert_eq!(names, [one.clone(), two.clone()]);
    assert!(
        answer["screens"][0]["idle_seconds"].as_i64().unwrap() >= 600,
        "{answer}"
    );
    let wall = sandbox.path("wall");
    let page = wall.join("index.html");
    assert_eq!(answer["page"], page.to_str().unwrap());
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&wall), mode(&page)), (0o700, 0o600));
    for name in [&one, &two] {
        let picture = wall.join(format!("{name}.png"));
        assert_eq!(mode(&picture), 0o600);
        let bytes = fs::File::open(&picture).unwrap();
        let reader = png::Decoder::new(std::io::BufReader::new(bytes))
            .read_info()
            .unwrap();
        assert!(reader.info().width >= 640, "{:?}", reader.info());
    }
    let html = fs::read_to_string(&page).unwrap();
    for said in [
        "http-equiv=\"refresh\" content=\"10\"",
        &format!("<b>{one}</b> <span>starting, unused for 10m</span>"),
        &format!("<img src=\"{two}.png?"),
        "2 screens, 1 instances that are not running",
    ] {
        assert!(html.contains(said), "{said}: {html}");
    }
    let modified = activity.metadata().unwrap().modified().unwrap();
    assert_eq!(modified, used, "it counts as use");

    // What does not run any more is not shown, and nothing else in there is touched.
    fs::write(wall.join("mine.png"), "").unwrap();
    sandbox.instance("stop", "2", &["--force"]).ok();
    let people = ["instance", "screens", &sandbox.lab, "--html", "wall"];
    let said = sandbox.cyyber(people).ok().stdout;
    assert!(said.contains(&one) && !said.contains(&two), "{said}");
    assert!(!wall.join(format!("{two}.png")).exists());
    assert!(wall.join("mine.png").exists());

    // Again and again, until a signal.
    let mut watch = sandbox.command(screens.iter().chain(&["--watch", "1"]));
    let child = watch.spawn().unwrap();
    for _ in 0..2 {
        fs::remove_file(&page).unwrap();
        wait_until("there is a new page", || page.exists());
    }
    assert!(fs::read_to_string(&page).unwrap().contains("content=\"1\""));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    Run::end_of(child).ok();
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_screen_that_cannot_be_taken_does_not_hold_up_the_others() {
    let sandbox = Sandbox::with_guests(2);
    sandbox.base(&sandbox.lab);
    for user in ["1", "2"] {
        sandbox.instance("start", user, &[]).ok();
    }
    kill_process(sandbox.qemu_pid("1"), Signal::STOP).unwrap();
    let screens = [
        "-o",
        "json",
        "instance",
        "screens",
        &sandbox.lab,
        "--html",
        "wall",
    ];
    let ran = sandbox.cyyber(screens);
    kill_process(sandbox.qemu_pid("1"), Signal::CONT).unwrap();
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let answer: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let failed = text(&answer["failed"][0]["error"]);
    assert!(failed.contains("QEMU does not answer"), "{failed}");
    assert!(answer["screens"][1]["picture"].is_string(), "{answer}");
    let html = fs::read_to_string(sandbox.path("wall/index.html")).unwrap();
    assert!(
        html.contains("no picture: its QEMU does not answer"),
        "{html}"
    );

    sandbox
        .cyyber(["-o", "json", "instance", "screens", "nolab", "--html", "x"])
        .error_json(4);
    sandbox
        .cyyber(["-o", "json", "instance", "screens"])
        .error_json(2);
}
