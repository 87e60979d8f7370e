//! Labs with a desktop, from the cloud image to the student's screen. XFCE takes half an hour under
//! software emulation, GNOME longer, so `make test-desktop` runs them by themselves. They leave what
//! was on the screen in `target/tmp/`, for people to look at.

use crate::common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::world::outside;
use common::{Run, Sandbox, guest, text};
use serde_json::json;

/// Made by `make image`.
const CLOUD_IMAGE: &str = "/var/cache/cyyber/debian-12-cloud-amd64.qcow2";

/// Longer than all that a slow and busy machine takes to show a desktop.
const PATIENCE: Duration = Duration::from_secs(900);

/// Longer than a busy machine takes to install one.
const LONGEST_BUILD: Duration = Duration::from_secs(90 * 60);

/// What QEMU's screen has unless somebody changes it, and nothing in text mode.
const SCREEN: (u32, u32) = (1280, 800);

/// Less than a picture of a desktop or of a login screen has, in bytes, and more than one of a console.
const PLAIN: u64 = 15_000;

#[track_caller]
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// What is to be seen of a desktop.
struct Desktop {
    /// Its name in the configuration.
    name: &'static str,
    memory_mb: u32,
    /// Programs of its session, by the fifteen letters that the kernel keeps of a name; the first one
    /// has the session's environment.
    session: &'static [&'static str],
    /// The one that shows the lab's instructions.
    terminal: &'static str,
    /// The command that reads the wallpaper's setting, what it says, and how it is changed.
    wallpaper: &'static str,
    ours: &'static str,
    change: &'static str,
    /// Another setting of ours.
    theme: (&'static str, &'static str),
    log_out: &'static str,
    /// The user and the program of the login screen.
    login: (&'static str, &'static str),
}

const XFCE: Desktop = Desktop {
    name: "xfce",
    memory_mb: 1536,
    session: &["xfdesktop", "xfce4-session", "xfwm4", "xfce4-panel"],
    terminal: "xfce4-terminal",
    wallpaper: "xfconf-query -c xfce4-desktop -p /backdrop/screen0/monitorVirtual-1/workspace0/last-image",
    ours: "/usr/share/backgrounds/cyyber-wallpaper.jpg",
    change: "xfconf-query -c xfce4-desktop -p /backdrop/screen0/monitorVirtual-1/workspace0/last-image \
             -s /tmp/own.jpg",
    theme: ("xfconf-query -c xsettings -p /Net/ThemeName", "Arc-Dark"),
    log_out: "xfce4-session-logout --logout --fast",
    login: ("lightdm", "lightdm-gtk-gre"),
};

const GNOME: Desktop = Desktop {
    name: "gnome",
    memory_mb: 3072,
    session: &["gnome-shell", "gnome-session-b"],
    terminal: "gnome-terminal-",
    wallpaper: "gsettings get org.gnome.desktop.background picture-uri",
    ours: "'file:///usr/share/backgrounds/cyyber-wallpaper.jpg'",
    change: "gsettings set org.gnome.desktop.background picture-uri /tmp/own.jpg",
    theme: (
        "gsettings get org.gnome.desktop.interface color-scheme",
        "'prefer-dark'",
    ),
    log_out: "gnome-session-quit --logout --no-prompt",
    login: ("Debian-gdm", "gnome-shell"),
};

#[test]
#[ignore = "takes half an hour: run by `make test-desktop`"]
fn a_student_is_logged_in_to_xfce() {
    logged_in_to(&XFCE);
}

#[test]
#[ignore = "takes over an hour: run by `make test-desktop`"]
fn a_student_is_logged_in_to_gnome() {
    logged_in_to(&GNOME);
}

fn logged_in_to(desktop: &Desktop) {
    let sandbox = Sandbox::with_booting_guests(1);
    let picture = |moment: &str| {
        let name = format!("desktop-{}-{moment}.png", desktop.name);
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
    };
    sandbox.configure(&json!({
        "image": {"url": CLOUD_IMAGE}, "packages": ["hello"], "desktop": desktop.name,
        "motd": "Lab 01: Network Scanning — Cyyber Linux",
        "disk_size": "8G", "memory_mb": desktop.memory_mb,
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
    // GNOME's first session on a slow machine may fail, and another one follows it.
    let shows = |what: &str, moment: &str| {
        wait_for(what, || {
            guest::screenshot(&domain, &picture(moment));
            let size = picture(moment).metadata().unwrap().len();
            size > PLAIN && guest::screen_size(&domain) == SCREEN
        });
    };
    shows("the desktop", "desktop");
    for program in desktop.session {
        wait_for(program, || runs("student", program));
    }
    // The lab's instructions are opened with the session.
    wait_for("the instructions", || runs("student", desktop.terminal));
    std::thread::sleep(Duration::from_secs(15));
    shows("the desktop", "desktop");

    assert_eq!(
        shell("systemctl is-system-running --wait || systemctl --failed --quiet"),
        "running\n"
    );
    assert_eq!(shell("ls /dev/dri/card0"), "/dev/dri/card0\n");
    let kernels = shell("ls /boot | grep vmlinuz");
    assert!(!kernels.contains("cloud"), "{kernels}");

    // Ours are defaults: the student's own settings have their way.
    let student = |script: &str| {
        let of = desktop.session[0];
        let bus = format!(
            "tr '\\0' '\\n' </proc/$(pgrep -u student -x {of})/environ \
             | grep ^DBUS_SESSION_BUS_ADDRESS="
        );
        shell(&format!(
            "runuser -u student -- env DISPLAY=:0 \"$({bus})\" {script}"
        ))
    };
    let wallpaper = || student(desktop.wallpaper);
    assert_eq!(wallpaper().trim(), desktop.ours);
    student(desktop.change);
    assert!(wallpaper().contains("/tmp/own.jpg"), "{}", wallpaper());
    let (theme, ours) = desktop.theme;
    assert_eq!(student(theme).trim(), ours);

    // After logging out there is the login screen, and a way back without a password.
    student(desktop.log_out);
    let (user, greeter) = desktop.login;
    wait_for("the login screen", || runs(user, greeter));
    shows("the login screen", "login");
    std::thread::sleep(Duration::from_secs(15));
    shows("the login screen", "login");
    assert!(
        !runs("student", desktop.session[1]),
        "it is the old session"
    );
    // Enter, where the login screen has the student chosen already.
    common::virsh(["send-key", "--", &domain, "KEY_ENTER"]);
    wait_for("the desktop again", || runs("student", desktop.session[1]));
}
