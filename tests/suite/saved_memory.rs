//! Memory saved to disk: it frees the RAM, comes back running, and never wakes up on a disk that it
//! does not belong to.

use crate::common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Run, Sandbox, run, text, tool, virsh};
use serde_json::Value;

/// Where the system's libvirt keeps saved memory.
const SAVES: &str = "/var/lib/libvirt/qemu/save";

/// A sandbox with an instance whose memory is on disk.
struct Paused(Sandbox);

impl Paused {
    fn new() -> Paused {
        let sandbox = Sandbox::with_guests(1);
        sandbox.base(&sandbox.lab);
        sandbox.instance("start", "7", &[]).ok();
        let paused = sandbox.instance("pause", "7", &[]).json();
        assert_eq!(
            (text(&paused["state"]), &paused["changed"]),
            ("paused".to_owned(), &true.into())
        );
        Paused(sandbox)
    }

    fn file(&self) -> PathBuf {
        Path::new(SAVES).join(format!("{}.save", self.0.instance_name("7")))
    }

    /// What was put aside.
    fn aside(&self) -> Vec<PathBuf> {
        let prefix = format!("{}.unusable-", self.0.instance_name("7"));
        let entries = fs::read_dir(SAVES)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        entries
            .filter(|path| {
                path.file_name()
                    .unwrap()
                    .to_string_lossy()
                    .starts_with(&prefix)
            })
            .collect()
    }

    /// Asserts that the memory is refused by `resume`, and put aside by `start`.
    fn assert_unusable(&self) {
        let before = fs::read(self.file()).ok();
        let error = self.0.instance("resume", "7", &[]).error_json(5);
        assert!(
            text(&error["message"]).contains("cannot be restored"),
            "{error:#}"
        );
        assert_eq!(
            fs::read(self.file()).ok(),
            before,
            "resume changed something"
        );
        assert_eq!(self.0.state("7"), "paused");

        let started = self.0.instance("start", "7", &[]).ok();
        assert!(
            started.stderr.contains("cannot be restored"),
            "{started:#?}"
        );
        assert_eq!(started.json()["changed"], true);
        assert!(
            self.reason().starts_with("running (booted)"),
            "{}",
            self.reason()
        );
        let kept: Vec<_> = self
            .aside()
            .iter()
            .map(|path| fs::read(path).unwrap())
            .collect();
        assert_eq!(kept, Vec::from_iter(before));
        self.0.instance("stop", "7", &["--force"]).ok();
        assert_eq!(self.0.state("7"), "stopped", "old memory is left");
    }

    fn reason(&self) -> String {
        virsh(["domstate", "--reason", "--", &self.0.instance_name("7")])
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        for path in self.aside() {
            let _ = fs::remove_file(path);
        }
    }
}

fn assert_state(answer: &Value, state: &str, changed: bool) {
    assert_eq!(answer["state"], state, "{answer:#}");
    assert_eq!(answer["changed"], changed, "{answer:#}");
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn paused_memory_is_on_disk_and_comes_back() {
    let paused = Paused::new();
    let sandbox = &paused.0;
    assert!(paused.file().exists());
    assert_eq!(paused.reason().trim(), "shut off (saved)");
    assert_state(&sandbox.instance("pause", "7", &[]).json(), "paused", false);
    assert_state(
        &sandbox.instance("pause", "7", &["--keep-memory"]).json(),
        "paused",
        false,
    );
    sandbox.instance("console", "7", &[]).error_json(5);

    let resumed = sandbox.instance("resume", "7", &[]).json();
    assert_state(&resumed, "starting", true);
    assert!(resumed["vnc_password"].is_string(), "{resumed:#}");
    assert_eq!(paused.reason().trim(), "running (restored)");
    assert!(!paused.file().exists());
    assert_state(
        &sandbox.instance("resume", "7", &[]).json(),
        "starting",
        false,
    );
    let console = sandbox.instance("console", "7", &[]).json();
    assert_ne!(console["vnc_password"], resumed["vnc_password"]);

    sandbox.instance("stop", "7", &["--force"]).ok();
    for verb in ["pause", "resume", "console"] {
        sandbox.instance(verb, "7", &[]).error_json(5);
        sandbox.instance(verb, "8", &[]).error_json(4);
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_guest_frozen_first_wakes_up_running() {
    let paused = Paused::new();
    let (sandbox, name) = (&paused.0, paused.0.instance_name("7"));
    sandbox.instance("resume", "7", &[]).ok();
    assert_state(
        &sandbox.instance("pause", "7", &["--keep-memory"]).json(),
        "paused",
        true,
    );
    assert!(paused.reason().starts_with("paused"), "{}", paused.reason());
    assert_state(&sandbox.instance("pause", "7", &[]).json(), "paused", true);
    assert!(paused.file().exists());
    assert_state(
        &sandbox.instance("start", "7", &[]).json(),
        "starting",
        true,
    );
    // By somebody else, who did not ask for it to wake up running.
    virsh(["suspend", "--", &name]);
    virsh(["managedsave", "--", &name]);
    assert_state(
        &sandbox.instance("resume", "7", &[]).json(),
        "starting",
        true,
    );
    assert!(
        paused.reason().starts_with("running"),
        "{}",
        paused.reason()
    );
    assert!(paused.aside().is_empty());
}

/// These guests have no agent.
#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_guest_whose_notes_are_lost_is_not_said_to_have_answered() {
    let paused = Paused::new();
    let sandbox = &paused.0;
    let lose = || fs::remove_dir_all(sandbox.path("state/instances")).unwrap();
    let goes_on = |answer: &Value| {
        assert_state(answer, "running", true);
        let reason = text(&answer["reason"]);
        assert!(
            reason.starts_with("it was resumed from a pause"),
            "{reason}"
        );
        // What is noted now says the same.
        assert_eq!(sandbox.listed("7")["reason"], answer["reason"]);
    };
    lose();
    goes_on(&sandbox.instance("resume", "7", &[]).json());
    // A pause keeps how it was learned.
    sandbox.instance("pause", "7", &[]).ok();
    goes_on(&sandbox.instance("resume", "7", &[]).json());
    sandbox.instance("pause", "7", &["--keep-memory"]).ok();
    lose();
    goes_on(&sandbox.instance("resume", "7", &[]).json());
    lose();
    let reason = text(&sandbox.listed("7")["reason"]);
    assert!(reason.contains("its record was lost"), "{reason}");
    sandbox.make_idle("7");
    let touched = sandbox.instance("start", "7", &[]).json();
    assert_state(&touched, "running", true);
    assert_eq!(text(&touched["reason"]), reason);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_damaged_file_is_put_aside() {
    let damages: [fn(&Path); 3] = [
        |file| {
            fs::File::options()
                .write(true)
                .open(file)
                .unwrap()
                .set_len(100_000)
                .unwrap()
        },
        |file| fs::File::create(file).map(drop).unwrap(),
        |file| fs::remove_file(file).unwrap(),
    ];
    for damage in damages {
        let paused = Paused::new();
        damage(&paused.file());
        paused.assert_unusable();
    }
}

/// However this host's libvirt is written.
#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn what_is_damaged_is_put_aside_by_other_addresses_of_the_same_libvirt() {
    let paused = Paused::new();
    let file = fs::File::options().write(true).open(paused.file());
    file.unwrap().set_len(100_000).unwrap();
    let mut start = paused.0.instance_command("start", "7", &[]);
    let started = Run::of(start.env("CYYBER_CONNECT", "qemu+unix:///system")).ok();
    assert!(
        started.stderr.contains("cannot be restored"),
        "{started:#?}"
    );
    assert_eq!(paused.aside().len(), 1);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn old_memory_does_not_wake_up_on_a_newer_disk() {
    let paused = Paused::new();
    let overlay = paused.0.overlay("7");
    run(tool("qemu-io")
        .args(["-f", "qcow2", "-c", "write 0 4k"])
        .arg(overlay));
    paused.assert_unusable();
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_cap_that_comes_back_with_the_memory_is_lifted() {
    let paused = Paused::new();
    let name = paused.0.instance_name("7");
    let quota = || {
        let all = virsh(["schedinfo", "--live", "--", &name]);
        let line = all
            .lines()
            .find(|line| line.starts_with("vcpu_quota"))
            .unwrap();
        line.split(':').nth(1).unwrap().trim().to_owned()
    };
    for lifting in ["touch", "start", "resume"] {
        paused.0.instance("start", "7", &[]).ok();
        virsh([
            "schedinfo",
            "--live",
            "--set",
            "vcpu_quota=50000",
            "--",
            &name,
        ]);
        paused.0.instance("pause", "7", &[]).ok();
        if lifting == "touch" {
            virsh(["start", "--", &name]);
            assert_eq!(quota(), "50000", "libvirt restores the limit");
        }
        paused.0.instance(lifting, "7", &[]).ok();
        assert!(
            !["50000", "0"].contains(&quota().as_str()),
            "{lifting}: {}",
            quota()
        );
    }
}

/// Makes a snapshot of a running instance with libvirt's own client; the file that its guest writes
/// to from then on.
fn snapshot(sandbox: &Sandbox) -> PathBuf {
    let name = sandbox.instance_name("7");
    virsh([
        "snapshot-create-as",
        "--disk-only",
        "--atomic",
        "--",
        &name,
        "s1",
    ]);
    let made = sandbox.overlay("7").with_extension("s1");
    assert!(made.exists());
    made
}

fn qemu_io(command: &str, image: &Path) {
    run(tool("qemu-io")
        .args(["-f", "qcow2", "-c", command])
        .arg(image));
}

/// Asserts that nothing is done over the disks of an instance, and returns the hint of `start`.
fn assert_left_alone(sandbox: &Sandbox, found: &str) -> String {
    let mut hint = String::new();
    for (verb, options) in [("reset", &["--yes"][..]), ("start", &[])] {
        let error = sandbox.instance(verb, "7", options).error_json(5);
        let message = text(&error["message"]);
        assert!(message.contains(found), "{verb}: {error:#}");
        hint = text(&error["hint"]);
    }
    let cleanup = sandbox.instance("cleanup", "7", &["--yes"]);
    assert_ne!(cleanup.code, Some(0), "{cleanup:#?}");
    let said = format!("{}{}", cleanup.stdout, cleanup.stderr);
    assert!(said.contains(found), "{cleanup:#?}");
    assert_eq!(sandbox.state("7"), "stopped");
    hint
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn an_instance_whose_disks_somebody_changed_is_not_defined_over() {
    let paused = Paused::new();
    let (sandbox, name) = (&paused.0, paused.0.instance_name("7"));
    let overlay = sandbox.overlay("7");
    sandbox.instance("start", "7", &[]).ok();
    let snapshot = snapshot(sandbox);
    sandbox.instance("stop", "7", &["--force"]).ok();
    // As the guest would.
    qemu_io("write -P 7 0 4k", &snapshot);
    let hint = assert_left_alone(sandbox, &snapshot.display().to_string());

    // What the hint says keeps what was written.
    let (own, place) = (overlay.display(), snapshot.display());
    let commit = format!("qemu-img commit -b {own} {place} && rm {place}");
    let undefine = format!("virsh undefine {name} --snapshots-metadata");
    assert!(hint.contains(&commit) && hint.contains(&undefine), "{hint}");
    let follow = |line: &str| run(tool("sh").args(["-c", line]));
    follow(&undefine);
    let error = sandbox.instance("create", "7", &[]).error_json(5);
    assert!(
        text(&error["message"]).contains("is based on the disk"),
        "{error:#}"
    );
    follow(&commit);
    sandbox.instance("create", "7", &[]).ok();
    qemu_io("read -P 7 0 4k", &overlay);

    let extra = sandbox.path("storage/extra.qcow2");
    run(tool("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&extra)
        .arg("1M"));
    let extra = extra.to_str().unwrap();
    virsh(["attach-disk", "--config", "--", &name, extra, "vdb"]);
    let hint = assert_left_alone(sandbox, "an additional disk, vdb");
    assert!(hint.contains("virsh detach-disk"), "{hint}");
    virsh(["detach-disk", "--config", "--", &name, "vdb"]);
    sandbox.instance("start", "7", &[]).ok();
    sandbox.instance("stop", "7", &["--force"]).ok();

    // Changed behind libvirt's back.
    run(tool("qemu-img")
        .args(["rebase", "-u", "-b", ""])
        .arg(&overlay));
    let error = sandbox.instance("start", "7", &[]).error_json(5);
    assert!(
        text(&error["hint"]).contains("qemu-img rebase"),
        "{error:#}"
    );
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn memory_does_not_wake_up_on_a_changed_disk_under_or_in_a_snapshot() {
    let paused = Paused::new();
    let sandbox = &paused.0;
    sandbox.instance("resume", "7", &[]).ok();
    let snapshot = snapshot(sandbox);
    sandbox.instance("pause", "7", &[]).ok();
    assert_state(
        &sandbox.instance("resume", "7", &[]).json(),
        "starting",
        true,
    );
    for changed in [&snapshot, &sandbox.overlay("7")] {
        sandbox.instance("pause", "7", &[]).ok();
        let before = filetime(changed);
        fs::File::options()
            .write(true)
            .open(changed)
            .unwrap()
            .set_modified(std::time::SystemTime::now())
            .unwrap();
        let error = sandbox.instance("resume", "7", &[]).error_json(5);
        let message = text(&error["message"]);
        assert!(message.contains("the disk was changed"), "{error:#}");
        // Not powered on with another disk either.
        sandbox.instance("start", "7", &[]).error_json(5);
        assert_eq!(sandbox.state("7"), "paused");
        let file = fs::File::options().write(true).open(changed).unwrap();
        file.set_modified(before).unwrap();
        sandbox.instance("resume", "7", &[]).ok();
    }
}

fn filetime(path: &Path) -> std::time::SystemTime {
    path.metadata().unwrap().modified().unwrap()
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_paused_instance_whose_storage_was_moved_says_what_to_do() {
    let paused = Paused::new();
    let sandbox = &paused.0;
    let (old, new) = (sandbox.path("storage"), sandbox.path("moved"));
    fs::rename(&old, &new).unwrap();
    let moved = |verb: &str, options: &[&str]| {
        let mut command = sandbox.instance_command(verb, "7", options);
        common::Run::of(command.env("CYYBER_STORAGE_DIR", &new))
    };
    for verb in ["resume", "start", "stop"] {
        let error = moved(verb, &[]).error_json(5);
        assert!(
            text(&error["message"]).contains("which is missing"),
            "{error:#}"
        );
        assert!(text(&error["hint"]).contains("a link"), "{error:#}");
    }
    std::os::unix::fs::symlink(&new, &old).unwrap();
    assert_state(&moved("resume", &[]).json(), "starting", true);
    moved("stop", &["--force"]).ok();
    fs::remove_file(&old).unwrap();
    // Off, it goes along.
    moved("start", &[]).ok();
    moved("stop", &["--force"]).ok();
    // Two copies: one of them is out of date.
    fs::create_dir_all(sandbox.path("storage/user-instances")).unwrap();
    let stale = sandbox.overlay("7");
    fs::copy(
        new.join("user-instances").join(stale.file_name().unwrap()),
        &stale,
    )
    .unwrap();
    let error = sandbox.instance("start", "7", &[]).error_json(5);
    assert!(text(&error["hint"]).contains("two copies"), "{error:#}");
}
