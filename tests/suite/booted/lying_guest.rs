//! A guest whose agent lies, floods, is slow or mute, beside an innocent one that must be taken down on
//! time.

use crate::common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use common::host::idle_time;
use common::world::own_world;
use common::{QEMU, Run, Sandbox, guest, lab, text};
use cyyber::hypervisor::Waiting;
use cyyber::secret::Secret;
use serde_json::{Value, json};

/// Instances of the lab that stays in the firmware.
fn other(sandbox: &Sandbox, verb: &str, user: &str) -> Value {
    let lab = sandbox.other_lab();
    let command = ["-o", "json", "instance", verb, &lab, user];
    sandbox.cyyber(command).json()
}

/// How long a pass may take beside a guest whose agent does not answer: that one has a second. libvirt
/// by itself waits for five.
const BESIDE_A_MUTE_ONE: Duration = Duration::from_millis(4500);

#[test]
#[ignore = "needs libvirt, QEMU and the cloud image: run by `make test`"]
fn a_guest_that_lies_floods_or_is_mute_is_no_matter_of_its_neighbour() {
    own_world!();
    let sandbox = Sandbox::with_booting_guests(1);
    let configure = |max_runtime: &str| {
        // Its work is no matter here: on a busy host it waits for a processor, which counts as work.
        let liar = json!({
            "memory_mb": 512,
            "policy": {"boot_timeout": "0s", "max_runtime": max_runtime, "max_busy": "0s"},
        });
        let innocent = json!({"policy": {"boot_timeout": "0s"}});
        let labs = [
            lab(&sandbox.lab, &liar),
            lab(&sandbox.other_lab(), &innocent),
        ];
        sandbox.write_config(&json!({"labs": labs}).to_string());
    };
    configure("never");
    let link = format!("storage/base-images/{}-base.qcow2", sandbox.lab);
    guest::make_lying_image(Path::new(guest::QUICK_IMAGE), &sandbox.path(link));
    sandbox.base(&sandbox.other_lab());
    sandbox.instance("start", "liar", &[]).ok();
    other(&sandbox, "start", "innocent");
    let liar = sandbox.instance_name("liar");
    let began = Instant::now();
    guest::be(&liar, "honest");
    println!("its agent is there after {:?}", began.elapsed());

    let activity = |name: &str| sandbox.path("state/activity").join(name);
    let unused = |name: &str, minutes: u64| {
        let at = SystemTime::now() - Duration::from_secs(60 * minutes);
        let file = fs::File::options().write(true).open(activity(name));
        file.unwrap().set_modified(at).unwrap();
    };
    let innocent = format!("{}_user_innocent", sandbox.other_lab());
    // The first pass only looks.
    sandbox.cyyber(["reap"]).ok();
    // A pass in which the innocent one is due; what it did to the liar, what it said and how long it
    // took.
    let beside = |kind: &str, minutes: u64| {
        unused(&liar, minutes);
        unused(&innocent, 11);
        let (idle, began) = (idle_time(), Instant::now());
        let pass = sandbox.cyyber(["-o", "json", "reap"]).ok();
        let took = began.elapsed();
        // On a host without a moment to spare time says nothing of the pass.
        let idle = (idle_time() - idle).div_duration_f64(took);
        let took = if idle < 0.1 { Duration::ZERO } else { took };
        let answer: Value = serde_json::from_str(&pass.stdout).unwrap();
        println!("{kind}: {:?}: {answer} {}", began.elapsed(), pass.stderr);
        let actions = answer["actions"].as_array().unwrap();
        let to = |name: &str| {
            let action = actions.iter().find(|action| action["instance"] == name);
            action.map(|action| text(&action["to"]))
        };
        assert_eq!(to(&innocent).as_deref(), Some("idle"), "{kind}");
        let kept = fs::metadata(sandbox.path("state/reaper.json"))
            .unwrap()
            .len();
        assert!(kept < 4096, "{kind}: {kept}");
        assert!(pass.stdout.len() + pass.stderr.len() < 2048, "{kind}");
        other(&sandbox, "touch", "innocent");
        (to(&liar), pass.stderr, took)
    };
    let be = |kind: &str| guest::be(&liar, kind);

    be("far");
    let (to, said, _) = beside("far", 11);
    assert_eq!(to, None, "in doubt it is in use");
    assert!(
        said.contains("its guest's agent reports implausible values"),
        "{said}"
    );
    for kind in ["flood", "refuse", "refuse"] {
        be(kind);
        let (to, said, _) = beside(kind, 11);
        assert_eq!(to, None);
        // Told once of each kind, and never in the guest's words.
        assert!(
            said.lines().count() <= 1 && !said.contains("nono"),
            "{said}"
        );
    }
    be("far");
    assert_eq!(beside("far", 11).1, "", "that was said");
    be("slow");
    let (to, _, took) = beside("slow", 11);
    assert_eq!(to, None);
    assert!(took < Duration::from_millis(7500), "{took:?}");

    be("busy");
    assert_eq!(beside("busy", 60).0, None);
    // Nobody looks at its console, and its own word is worth four hours.
    assert_eq!(beside("busy", 5 * 60).0.as_deref(), Some("idle"));
    assert_eq!(beside("busy", 11).0.as_deref(), Some("running"));
    configure("1s");
    assert_eq!(beside("busy", 0).0.as_deref(), Some("paused"));
    configure("never");
    sandbox.instance("resume", "liar", &[]).ok();

    // Of a command that an instructor runs in there it says what it likes.
    let exec = |kind: &str| {
        be(kind);
        let began = Instant::now();
        let mut exec = sandbox.instance_command("exec", "liar", &["--timeout", "1s"]);
        let ran = Run::within(Duration::from_secs(60), exec.args(["--", "true"]));
        println!("exec {kind}: {:?}: {:?}", began.elapsed(), ran.code);
        assert!(ran.stderr.len() < 2048, "{kind}: {}", ran.stderr);
        ran
    };
    let honest = exec("honest").json();
    assert_eq!(honest["results"][0]["stdout"], "1800000000\ninterrupts\n");
    let flood = exec("flood").json();
    assert_eq!(flood["results"][0]["truncated"], true);
    assert_eq!(text(&flood["results"][0]["stdout"]).len(), 1 << 20);
    let fails = |kind: &str, said: &str| {
        let error = exec(kind).error_json(1);
        assert!(text(&error["message"]).contains(said), "{kind}: {error}");
    };
    fails("refuse", "agent refused");
    fails("slow", "took too long");

    gives_its_input_to_a_program_that_may_lie(&sandbox, &liar);

    be("mute");
    // The second time libvirt knows of its silence, and would wait for a sign of life.
    for _ in 0..2 {
        let (to, _, took) = beside("mute", 11);
        assert_eq!(to, None);
        assert!(took < BESIDE_A_MUTE_ONE, "{took:?}");
    }
    assert_eq!(beside("mute", 5 * 60).0.as_deref(), Some("idle"));
    // It hears nothing any more.
    let mut exec = sandbox.instance_command("exec", "liar", &["--timeout", "1s"]);
    let mute = Run::within(Duration::from_secs(60), exec.args(["--", "true"])).error_json(1);
    assert!(text(&mute["message"]).contains("does not answer"), "{mute}");
}

/// As a fork gets its identity: by a program that waits in its guest, and is started where the agent
/// permits no files.
fn gives_its_input_to_a_program_that_may_lie(sandbox: &Sandbox, liar: &str) {
    let context = sandbox.context(QEMU);
    let domain = context.hypervisor().unwrap().other(liar).unwrap().unwrap();
    let waiting = Waiting {
        inbox: "/in",
        answer: "/out",
    };
    let handed = |kind: &str| {
        guest::be(liar, kind);
        let began = Instant::now();
        let input = Secret::new("a secret\n".to_owned());
        let handed = domain.hand_over(&waiting, &input, began + Duration::from_secs(5));
        let handed = handed.map_err(|error| format!("{error:#}"));
        println!("files {kind}: {:?}: {handed:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(15), "{kind}");
        handed
    };
    assert_eq!(handed("done"), Ok(true));
    assert_eq!(handed("closed"), Ok(false));
    let told = handed("curses").unwrap_err();
    let is_harmless = !told.contains(char::is_control) && told.len() <= 1000;
    assert!(told.starts_with(" [2Jno") && is_harmless, "{told}");
    let told = handed("flood").unwrap_err();
    assert!(
        told.contains("did not answer") && told.len() < 200,
        "{told}"
    );
    let told = handed("at work").unwrap_err();
    assert!(told.contains("did not answer in time"), "{told}");
}
