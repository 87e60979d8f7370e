//! A lab with a desktop, from the cloud image to the student's screen. It takes half an hour under
//! software emulation, so `make test-desktop` runs it by itself. It leaves what was on the
//! screen in `target/tmp/`, for people to look at.

use crate::common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::world::outside;
use common::{Run, Sandbox, guest, text};
use serde_json::json;

/// Made by `make image`.
const CLOUD_IMAGE: &str = "/var/cache/cyyber/debian-12-cloud-amd64.qcow2";

/// Longer than all that a slow machine takes to show a desktop.
const PATIENCE: Duration = Duration::from_secs(300);

/// Longer than a busy machine takes to install one.
const LONGEST_BUILD: Duration = Duration::from_secs(90 * 60);

/// What QEMU's screen has unless somebody changes it, and nothing in text mode.
const SCREEN: (u32, u32) = (1280, 800);

#[track_caller]
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Where a picture of the screen is put.
fn picture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("desktop-{name}.png"))
}

#[test]
#[ignore = "takes half an hour: run by `make test-desktop`"]
fn a_student_is_logged_in_to_the_desktop() {
    let sandbox = Sandbox::with_booting_guests(1);
    sandbox.configure(&json!({
        "image": {"url": CLOUD_IMAGE}, "packages": ["hello"], "desktop": "xfce",
        "motd": "Lab 01: Network Scanning — Cyyber Linux", "disk_size": "8G", "memory_mb": 1536,
        // For the boot menu to be seen.
        "instant": false,
        "instructions": "You are root by sudo in a machine of your own.\nTry:  hello",
    }));
    let mut build = outside(&sandbox.command(["-o", "json", "build"]));
    let built = &Run::within(LONGEST_BUILD, &mut build).json()["labs"][0];
    assert_eq!(built["result"], "built", "{built}");

    let domain = sandbox.instance_name("anna");
    sandbox.instance("start", "anna", &[]).json();
    wait_for("the boot menu", || guest::screen_size(&domain) == SCREEN);
    // Its parts appear one by one.
    std::thread::sleep(Duration::from_secs(2));
    guest::screenshot(&domain, &picture("boot"));

    wait_for("the guest's agent", || {
        text(&sandbox.listed("anna")["state"]) == "running"
    });
    let shell = |script: &str| guest::shell(&domain, script);
    let runs = |who: &str, what: &str| {
        let script = format!("pgrep -u {who} -x {what} >/dev/null && echo yes || echo no");
        shell(&script) == "yes\n"
    };
    for program in ["xfce4-session", "xfwm4", "xfdesktop", "xfce4-panel"] {
        wait_for(program, || runs("student", program));
    }
    // The lab's instructions are opened with the session.
    wait_for("the instructions", || runs("student", "xfce4-terminal"));
    wait_for("a graphical screen", || {
        guest::screen_size(&domain) == SCREEN
    });
    std::thread::sleep(Duration::from_secs(15));
    guest::screenshot(&domain, &picture("desktop"));

    assert_eq!(
        shell("systemctl is-system-running --wait || systemctl --failed --quiet"),
        "running\n"
    );
    assert_eq!(shell("ls /dev/dri/card0"), "/dev/dri/card0\n");
    let kernels = shell("ls /boot | grep vmlinuz");
    assert!(!kernels.contains("cloud"), "{kernels}");

    // Ours are defaults: the student's own settings have their way.
    let student = |script: &str| {
        let bus = "tr '\\0' '\\n' </proc/$(pgrep -u student -x xfdesktop)/environ | grep ^DBUS_SESSION_BUS_ADDRESS=";
        shell(&format!(
            "runuser -u student -- env DISPLAY=:0 \"$({bus})\" {script}"
        ))
    };
    let wallpaper =
        "xfconf-query -c xfce4-desktop -p /backdrop/screen0/monitorVirtual-1/workspace0/last-image";
    assert_eq!(
        student(wallpaper),
        "/usr/share/backgrounds/cyyber-wallpaper.jpg\n"
    );
    student(&format!("{wallpaper} -s /tmp/own.jpg"));
    assert_eq!(student(wallpaper), "/tmp/own.jpg\n");
    assert_eq!(
        student("xfconf-query -c xsettings -p /Net/ThemeName"),
        "Arc-Dark\n"
    );

    // After logging out there is the login screen, and a way back without a password.
    student("xfce4-session-logout --logout --fast");
    // The kernel keeps fifteen letters of a program's name.
    wait_for("the login screen", || runs("lightdm", "lightdm-gtk-gre"));
    std::thread::sleep(Duration::from_secs(15));
    guest::screenshot(&domain, &picture("login"));
    assert_eq!(guest::screen_size(&domain), SCREEN);
    virsh_keys(&domain);
    wait_for("the desktop again", || runs("student", "xfce4-session"));
}

/// Enter, where the login screen has the student chosen already.
fn virsh_keys(domain: &str) {
    common::virsh(["send-key", "--", domain, "KEY_ENTER"]);
}
