//! Warm images that cannot be used, on guests that stay in their firmware: instances boot in place of a
//! fork, and nothing is lost or left. Real forks are in `booted/forks.rs`.

use crate::common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{QEMU, Sandbox, SmallDisk, run, text, tool, virsh};
use cyyber::images::base::{self, Base};
use cyyber::images::warm::{Draft, Warm};
use cyyber::instance::warm::fits;
use cyyber::units::{ByteSize, MIB};
use jiff::Timestamp;
use serde_json::{Value, json};

/// A sandbox with a base whose warm image fits by all that is noted, and has `memory` in it.
fn with_warm_image(memory: impl FnOnce(&fs::File)) -> (Sandbox, Warm) {
    let sandbox = Sandbox::with_guests(1);
    sandbox.base(&sandbox.lab);
    let warm = make_warm(&sandbox, 0, memory);
    (sandbox, warm)
}

fn current(sandbox: &Sandbox) -> Base {
    let context = sandbox.context(QEMU);
    base::current(&context.paths, &context.config.labs[0].lab_id).unwrap()
}

/// The same of the sandbox's lab, made so many seconds after 1970.
fn make_warm(sandbox: &Sandbox, second: i64, memory: impl FnOnce(&fs::File)) -> Warm {
    let context = sandbox.context(QEMU);
    let lab = &context.config.labs[0];
    let base = current(sandbox);
    let now = Timestamp::from_second(second).unwrap();
    let (paths, size) = (&context.paths, ByteSize(1 << 30));
    let draft = Draft::begin(paths, &lab.lab_id, &base, size, 128 * MIB, now).unwrap();
    memory(&fs::File::create(draft.memory()).unwrap());
    draft.finish(fits(&context, lab).unwrap(), now).unwrap()
}

/// Powers a new instance on, which boots for the reason `why`.
#[track_caller]
fn boots(sandbox: &Sandbox, user: &str, why: &str) {
    let run = sandbox.instance("start", user, &["-v"]).ok();
    let started: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (&started["started_by"], &started["state"]),
        (&json!("boot"), &json!("starting"))
    );
    let reason = text(&started["reason"]);
    assert!(
        reason.contains("booted: ") && reason.contains(why),
        "{reason}"
    );
    assert!(run.stderr.contains(why), "{run:#?}");
    assert_eq!(sandbox.listed(user)["started_by"], "boot");
    let left = names_in(&sandbox.path("storage/user-instances"));
    assert_eq!(left, [format!("{}.qcow2", sandbox.instance_name(user))]);
    let below = run_qemu_img_info(&sandbox.overlay(user));
    assert!(below.contains("-base."), "{below}");
    sandbox.instance("stop", user, &["--force"]).ok();
    sandbox.instance("cleanup", user, &["--yes"]).ok();
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn run_qemu_img_info(image: &Path) -> String {
    let info = run(tool("qemu-img")
        .args(["info", "-U", "--output=json"])
        .arg(image));
    text(&serde_json::from_str::<Value>(&info).unwrap()["backing-filename"])
}

fn open_to_change(path: &Path) {
    let _ = tool("chattr").args(["-f", "-i"]).arg(path).status();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn note_of(sandbox: &Sandbox) -> PathBuf {
    let base = current(sandbox);
    let file = format!("{}-base.{}.warm.json", sandbox.lab, base.build);
    sandbox.path("storage/base-images").join(file)
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn what_is_no_memory_is_not_restored_and_the_instance_boots() {
    let (sandbox, warm) = with_warm_image(|memory| memory.set_len(1 << 20).unwrap());
    boots(&sandbox, "7", "it is not a complete file with saved memory");
    // Larger than any disk.
    open_to_change(&warm.memory());
    fs::remove_file(warm.memory()).unwrap();
    let note = note_of(&sandbox);
    let mut changed: Value = serde_json::from_slice(&fs::read(&note).unwrap()).unwrap();
    fs::File::create(warm.memory())
        .unwrap()
        .set_len(8 << 40)
        .unwrap();
    let there = cyyber::files::Identity::of(&warm.memory()).unwrap();
    changed["memory"]["size"] = there.size.into();
    changed["memory"]["modified"] = serde_json::to_value(there.modified).unwrap();
    fs::write(&note, changed.to_string()).unwrap();
    boots(&sandbox, "7", "not enough space for a fork");
}

/// As libvirt begins such a file, in this format of memory; what follows is none.
fn begun_by_libvirt(format: u32) -> Vec<u8> {
    let definition = b"<domain/>\0<cookie/>\0";
    let mut content = b"LibvirtQemudSave".to_vec();
    for number in [2, definition.len() as u32, 1, format, 10] {
        content.extend(number.to_le_bytes());
    }
    content.resize(92, 0);
    content.extend(definition);
    content.extend([b'?'; 1 << 16]);
    content
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn memory_that_cannot_be_restored_means_a_boot() {
    let with = |content: &[u8]| with_warm_image(|mut memory| memory.write_all(content).unwrap());
    let (sandbox, _) = with(&begun_by_libvirt(0));
    boots(&sandbox, "7", "");
    // As libvirt writes it with save_image_format = "sparse".
    let (sandbox, _) = with(&begun_by_libvirt(6));
    boots(&sandbox, "7", "format 6");
}

/// Neither a fork nor a boot has room for its disk; afterwards it is forked or booted as any other.
#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn on_a_full_disk_nothing_is_lost_of_what_was_to_be_forked() {
    let (sandbox, _) = with_warm_image(|memory| memory.set_len(1 << 20).unwrap());
    let disk = SmallDisk::on(&sandbox.path("storage/user-instances"), 700);
    sandbox.instance("create", "7", &[]).ok();
    let ballast = disk.exhaust();
    let error = sandbox.instance("start", "7", &[]).error_json(7);
    assert!(
        text(&error["message"]).contains("No space left"),
        "{error:#}"
    );
    assert!(sandbox.overlay("7").exists());
    for file in ballast {
        fs::remove_file(file).unwrap();
    }
    let started = sandbox.instance("start", "7", &[]).json();
    assert_eq!(started["started_by"], "boot", "{started}");
    sandbox.instance("stop", "7", &["--force"]).ok();
    sandbox.instance("cleanup", "7", &["--yes"]).ok();
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_warm_image_that_was_changed_or_made_elsewhere_is_not_used() {
    let (sandbox, warm) = with_warm_image(|memory| memory.set_len(1 << 20).unwrap());
    let doctor = || {
        let found = sandbox.cyyber(["-o", "json", "doctor", "--verify"]).stdout;
        let found: Value = serde_json::from_str(&found).unwrap();
        let all = found["findings"].as_array().unwrap().clone();
        let mut all = all
            .iter()
            .filter(|it| text(&it["message"]).contains("its warm image"));
        all.next().cloned().unwrap_or_default()
    };
    assert_eq!(doctor()["status"], "ok");
    let note = note_of(&sandbox);
    let noted = fs::read_to_string(&note).unwrap();
    for part in ["CPU", "QEMU", "libvirt", "vCPUs", "domain template"] {
        let mut changed: Value = serde_json::from_str(&noted).unwrap();
        assert!(changed["fits"][part].is_string(), "{noted}");
        changed["fits"][part] = "another".into();
        fs::write(&note, changed.to_string()).unwrap();
        assert!(text(&doctor()["message"]).contains(part));
        assert_eq!(doctor()["status"], "warning");
        if part == "CPU" {
            boots(&sandbox, "7", "the warm image was made for another CPU");
        }
    }
    fs::write(&note, &noted).unwrap();
    open_to_change(&warm.memory());
    fs::write(warm.memory(), "short").unwrap();
    boots(&sandbox, "7", "was changed");
    fs::remove_file(warm.memory()).unwrap();
    boots(&sandbox, "7", "failed to inspect");
    assert_eq!(doctor()["status"], "warning");
    fs::write(&note, "{\"serial\":\"../../etc\"}").unwrap();
    let started = sandbox.instance("start", "7", &[]).json();
    assert!(!text(&started["reason"]).contains("booted"), "{started}");
}

/// As a command leaves it that is killed while its fork runs already.
#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_fork_that_is_not_finished_is_begun_anew_and_lets_nobody_in() {
    let (sandbox, _) = with_warm_image(|memory| memory.set_len(1 << 20).unwrap());
    sandbox.instance("start", "7", &[]).ok();
    let record = format!("state/instances/{}.json", sandbox.instance_name("7"));
    let record = sandbox.path(record);
    let mut forking: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    (forking["forking"], forking["boot"]) = (true.into(), Value::Null);
    fs::write(&record, forking.to_string()).unwrap();
    let left = format!(".{}.memory", sandbox.instance_name("7"));
    let left = sandbox.path("storage/user-instances").join(left);
    fs::write(&left, "memory").unwrap();
    let pid = sandbox.qemu_pid("7");

    let listed = sandbox.listed("7");
    assert_eq!(listed["state"], "starting");
    assert!(
        text(&listed["reason"]).contains("start it again"),
        "{listed}"
    );
    let refused = sandbox.instance("console", "7", &[]).error_json(5);
    assert!(
        text(&refused["message"]).contains("interrupted"),
        "{refused}"
    );
    let again = sandbox.instance("start", "7", &[]).json();
    assert_eq!(
        (&again["started_by"], &again["changed"]),
        (&json!("boot"), &json!(true))
    );
    assert_ne!(sandbox.qemu_pid("7"), pid);
    assert!(!left.exists());
    sandbox.instance("console", "7", &[]).ok();

    // Paused meanwhile, and resumed.
    let mut forking: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    forking["forking"] = true.into();
    fs::write(&record, forking.to_string()).unwrap();
    sandbox.instance("pause", "7", &[]).ok();
    assert_eq!(
        sandbox.instance("resume", "7", &[]).json()["started_by"],
        "boot"
    );
}

/// Its kernel draws new random numbers by that, and libvirt restores none but the one it was saved with.
#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_guest_gets_a_new_generation_id_with_each_resume() {
    let sandbox = Sandbox::with_guests(1);
    sandbox.base(&sandbox.lab);
    sandbox.instance("start", "7", &[]).ok();
    let mut ids = std::collections::HashSet::new();
    for _ in 0..3 {
        let xml = virsh(["dumpxml", "--", &sandbox.instance_name("7")]);
        let id = xml.lines().find(|line| line.contains("<genid>"));
        assert!(ids.insert(id.unwrap().to_owned()), "{xml}");
        sandbox.instance("pause", "7", &[]).ok();
        let resumed = sandbox.instance("resume", "7", &[]).json();
        assert_eq!(resumed["started_by"], "memory");
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn warm_images_go_with_their_builds_and_not_before() {
    let (sandbox, first) = with_warm_image(|memory| memory.set_len(1 << 20).unwrap());
    let second = make_warm(&sandbox, 1, |memory| memory.set_len(2 << 20).unwrap());
    let cleanup = |options: &[&str]| {
        let lab = ["-o", "json", "instance", "cleanup", "--lab", &sandbox.lab];
        sandbox.cyyber([&lab, options].concat()).json()
    };
    // An instance that was forked from the first.
    sandbox.instance("create", "7", &[]).ok();
    let overlay = sandbox.overlay("7");
    run(tool("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
        .args([&first.path, &overlay]));
    let started = sandbox.instance("start", "7", &[]).json();
    assert_eq!(started["started_by"], "boot");
    let kept = |user: &str| cleanup(&["--user", user, "--dry-run"]);
    assert_eq!(kept("nobody")["builds"], json!([]), "the first is in use");
    sandbox.instance("stop", "7", &["--force"]).ok();
    let doomed = cleanup(&["--dry-run"]);
    assert_eq!(
        doomed["builds"][0]["image"],
        first.path.to_str().unwrap(),
        "{doomed}"
    );
    let gone = cleanup(&["--yes"]);
    assert_eq!(gone["builds"].as_array().unwrap().len(), 1, "{gone}");
    assert!(!first.path.exists() && !first.memory().exists());
    assert!(second.path.exists() && second.memory().exists());

    // Another build takes the place of theirs.
    let link = sandbox.path(format!("storage/base-images/{}-base.qcow2", sandbox.lab));
    fs::remove_file(&link).unwrap();
    sandbox.base(&sandbox.lab);
    fs::OpenOptions::new()
        .append(true)
        .open(&link)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    current(&sandbox);
    let gone = cleanup(&["--yes"]);
    assert_eq!(gone["builds"].as_array().unwrap().len(), 1, "{gone}");
    let left = names_in(&sandbox.path("storage/base-images"));
    assert!(!left.iter().any(|file| file.contains("warm")), "{left:?}");
}
