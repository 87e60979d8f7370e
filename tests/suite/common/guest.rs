//! Looking into a booted guest, by its agent, and at its screen; and a guest whose agent lies.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::thread::sleep;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cyyber::images::base;
use cyyber::images::warm::Draft;
use cyyber::instance::warm;
use cyyber::text::json_in_ascii;
use cyyber::units::MIB;
use serde_json::{Value, json};

use super::world::slots;
use super::{QEMU, Sandbox, run, tool, virsh, waits, with};

/// A disk that boots quickly, with an agent that runs from the start: it can do without a build. Made
/// by `tests/quick-guest.sh`.
pub const QUICK_IMAGE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/quick-guest.qcow2");

/// How long a guest may take to boot on a busy machine, with `policy.boot_timeout` longer than that.
pub const BOOTING: Duration = Duration::from_secs(800);

/// Software emulation on a busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(240);

/// The machine of such a guest, with `extra` keys of its lab. All tests have the same one, so that one
/// boot is enough for all forks.
pub fn machine(extra: &Value) -> Value {
    let lab = json!({
        "memory_mb": 512, "vcpus": 2, "disk_size": "4G", "policy": {"boot_timeout": "15m"},
    });
    with(lab, extra)
}

/// What a shell in the guest prints for `script`, which must succeed.
#[track_caller]
pub fn shell(domain: &str, script: &str) -> String {
    let started = agent(
        domain,
        &json!({"execute": "guest-exec", "arguments": {
            "path": "/bin/sh", "arg": ["-c", script], "capture-output": true,
        }}),
    );
    let status = json!({"execute": "guest-exec-status", "arguments": {"pid": started["pid"]}});
    let began = Instant::now();
    loop {
        let ended = agent(domain, &status);
        if ended["exited"] == true {
            let said = |what: &str| {
                let bytes = STANDARD
                    .decode(ended[what].as_str().unwrap_or_default())
                    .unwrap();
                String::from_utf8(bytes).unwrap()
            };
            assert_eq!(
                ended["exitcode"],
                0,
                "{script}: {}{}",
                said("out-data"),
                said("err-data")
            );
            return said("out-data");
        }
        assert!(began.elapsed() < PATIENCE, "{script} does not end");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The answer of a guest's agent. After one that came late, to anybody, libvirt refuses commands for a
/// while instead of sending them.
#[track_caller]
fn agent(domain: &str, command: &Value) -> Value {
    let mut answer = String::new();
    let answers = waits(|| {
        let command = json_in_ascii(&command.to_string());
        answer = virsh(["qemu-agent-command", "--", domain, &command]);
        !answer.is_empty()
    });
    assert!(answers, "the agent of {domain} does not answer");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["return"].clone()
}

/// Makes of the cloud image `image` one at `target` whose kernel starts an agent of ours and nothing
/// else, which takes a few seconds even in software emulation.
pub fn make_lying_image(image: &Path, target: &Path) {
    let directory = tempfile::tempdir_in(target.parent().unwrap()).unwrap();
    let path = |name: &str| directory.path().join(name);
    let convert = |format: &str, from: &Path, to: &Path| {
        run(tool("qemu-img")
            .args(["convert", "-O", format])
            .args([from, to]));
    };
    convert("raw", image, &path("disk"));
    // The image's only partition.
    let disk = format!("{}?offset=1048576", path("disk").display());
    let debugfs = |request: &str| run(tool("debugfs").args(["-w", "-R", request, &disk]));
    let grub = debugfs("cat /boot/grub/grub.cfg");
    assert!(grub.contains(" ro "), "{grub}");
    fs::write(
        path("grub.cfg"),
        grub.replace(" ro ", " ro quiet init=/agent "),
    )
    .unwrap();
    fs::write(path("agent"), include_str!("agent.py")).unwrap();
    debugfs("rm /boot/grub/grub.cfg");
    let write = |name: &str, to: &str| debugfs(&format!("write {} {to}", path(name).display()));
    write("grub.cfg", "/boot/grub/grub.cfg");
    write("agent", "/agent");
    debugfs("set_inode_field /agent mode 0100755");
    convert("qcow2", &path("disk"), target);
}

/// Has the agent of such a guest be of another kind. libvirt does not talk to it for a while after an
/// answer that came late.
#[track_caller]
pub fn be(domain: &str, kind: &str) {
    let command = json!({"execute": "be", "arguments": {"like": kind}}).to_string();
    let began = Instant::now();
    while virsh(["qemu-agent-command", "--", domain, &command]).is_empty() {
        assert!(began.elapsed() < BOOTING, "it does not hear");
        sleep(Duration::from_secs(1));
    }
}

/// Puts the quick image in the place of the base of `lab`, with a warm image.
pub fn warm_base(sandbox: &Sandbox, lab: &str) {
    let link = sandbox.path(format!("storage/base-images/{lab}-base.qcow2"));
    fs::copy(QUICK_IMAGE, link).unwrap();
    warm(sandbox, lab);
}

/// Gives the base of `lab`, which is the quick image, a warm image, so that its guests are forked. The
/// first test that asks for it boots the guest; the others copy what that one saved, if their labs
/// have the same machine.
pub fn warm(sandbox: &Sandbox, lab: &str) {
    let context = sandbox.context(QEMU);
    let lab = context.config.lab(&lab.parse().unwrap()).unwrap();
    let base = base::current(&context.paths, &lab.lab_id).unwrap();
    let kept = slots().join(format!(
        "warm-{}-{}-{}",
        lab.memory_mb, lab.vcpus, lab.disk_size
    ));
    fs::create_dir_all(&kept).unwrap();
    let (layer, memory, whole) = (kept.join("layer"), kept.join("memory"), kept.join("whole"));
    let lock = File::create(kept.join("lock")).unwrap();
    lock.lock().unwrap();
    let began = Instant::now();
    if whole.exists() {
        let (paths, now) = (&context.paths, context.time());
        let size = u64::from(lab.memory_mb) * MIB;
        let draft = Draft::begin(paths, &lab.lab_id, &base, lab.disk_size, size, now).unwrap();
        fs::copy(&layer, draft.disk()).unwrap();
        run(tool("qemu-img")
            .args(["rebase", "-u", "-F", "qcow2", "-b"])
            .args([&base.path, draft.disk()]));
        fs::copy(&memory, draft.memory()).unwrap();
        let fits = warm::fits(&context, lab).unwrap();
        draft.finish(fits, now).unwrap();
    } else {
        let stop = AtomicBool::new(false);
        let made = warm::make(&context, lab, &base, &stop, |_| {}).unwrap();
        fs::copy(&made.path, layer).unwrap();
        fs::copy(made.memory(), memory).unwrap();
        File::create(whole).unwrap();
    }
    println!("there is a warm image after {:.1?}", began.elapsed());
}

/// Width and height of what is on a guest's screen just now.
#[track_caller]
pub fn screen_size(domain: &str) -> (u32, u32) {
    let picture = tempfile::NamedTempFile::new().unwrap();
    screenshot(domain, picture.path());
    let bytes = fs::read(picture.path()).unwrap();
    assert!(
        bytes.starts_with(b"\x89PNG\r\n\x1a\n"),
        "{domain}'s screen is no PNG"
    );
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

/// Writes what is on a guest's screen to a file.
#[track_caller]
pub fn screenshot(domain: &str, picture: &Path) {
    virsh([
        OsStr::new("screenshot"),
        "--".as_ref(),
        domain.as_ref(),
        picture.as_ref(),
    ]);
}
