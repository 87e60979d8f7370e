//! The whole way on real parts: a cloud image, Packer, guests that boot.

use crate::common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::world::outside;
use common::{Run, Sandbox, guest, is_thorough, run, text, tool};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Made by `make image`.
const CLOUD_IMAGE: &str = "/var/cache/cyyber/debian-12-cloud-amd64.qcow2";

/// A message that every layer on its way would like to read as something else.
const MOTD: &str = "Willkommen — läuft! $(reboot) `id` '; rm -rf / # \\n %{ for } ${file(\"/etc/shadow\")} {{ isotime }}";

/// [`MOTD`] and what makes it longer than ten kilobytes.
fn motd() -> String {
    let line = "\n%{ if true }'\"ünï $(id) {{ .Vars }}\\%{ endif } $$ %% </motd>\t#";
    format!("{MOTD}{}", line.repeat(180))
}

/// The first resolution that the boot menu asks for. Nothing else of this lab is seen in it: the
/// firmware and the cloud kernel, which has no display driver, show text.
const BOOT_MENU: (u32, u32) = (1280, 800);

/// A lab of a real package on the cloud image, with `extra` keys.
fn lab(extra: Value) -> Value {
    let lab = json!({
        "image": {"url": CLOUD_IMAGE}, "packages": ["hello"], "motd": motd(),
        "instructions": "Say hello.", "memory_mb": 512, "disk_size": "4G",
        "policy": {"boot_timeout": "15m"}, "instant": is_thorough(),
    });
    common::with(lab, &extra)
}

/// `cyyber -o json build` with `options`, which reaches the package mirrors.
fn build(sandbox: &Sandbox, options: &[&str]) -> Run {
    let words = [&["-o", "json", "build"], options].concat();
    Run::of(&mut outside(&sandbox.command(words)))
}

/// Names in a directory; none where it is not there.
fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Processes that work in the sandbox's directory, by name.
fn processes_of(sandbox: &Sandbox) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let works_there = |process: &std::fs::DirEntry| {
        let cwd = std::fs::read_link(process.path().join("cwd")).unwrap_or_default();
        // The web server is the test's own.
        cwd.starts_with(sandbox.path("")) && !cwd.starts_with(sandbox.path("web"))
    };
    processes
        .filter(works_there)
        .map(|process| std::fs::read_to_string(process.path().join("comm")).unwrap_or_default())
        .collect()
}

fn wait_for_state(sandbox: &Sandbox, user: &str, state: &str) {
    let began = Instant::now();
    while sandbox.state(user) != state {
        assert!(
            began.elapsed() < guest::BOOTING,
            "{user} is {}",
            sandbox.state(user)
        );
        std::thread::sleep(Duration::from_secs(2));
    }
}

/// The name of no package, which one provides.
const VIRTUAL: &str = "fortune";

/// Where the instructor's file goes in the guest.
const FLAG: &str = "/srv/a place/flag $(id) ü";

/// The sandbox's lab with files and scripts of its instructor, and where there is time another one
/// with a larger disk, on one stage.
fn configure_labs(sandbox: &Sandbox, packages: Value) {
    let scripts = [
        (
            "first; id",
            format!(
                "#!/bin/bash\nset -eu\n[[ -f '{FLAG}' ]]\n\
                 echo $(id -u) $CYYBER_LAB $(hello) '{FLAG}' >/srv/ran\n"
            ),
        ),
        (
            "second.py",
            "#!/usr/bin/python3\nopen('/srv/ran', 'a').write('python after sh\\n')\n".to_owned(),
        ),
    ];
    for (name, content) in &scripts {
        std::fs::write(sandbox.path(name), content).unwrap();
    }
    std::fs::write(sandbox.path("flag"), "FLAG{$(id)}\n").unwrap();
    let provision = json!({
        "files": [{"source": "flag", "target": FLAG, "mode": "4750", "owner": "student"}],
        "scripts": scripts.map(|(name, _)| name),
    });
    let own = json!({"packages": packages, "provision": provision});
    let mut labs = vec![common::lab(&sandbox.lab, &lab(own))];
    if is_thorough() {
        let other = json!({"packages": ["sl"], "disk_size": "6G"});
        labs.push(common::lab(&sandbox.other_lab(), &lab(other)));
    }
    sandbox.write_config(&json!({"labs": labs}).to_string());
}

/// Builds until the VM of the first lab runs, interrupts that, and returns the name of the stage,
/// which is done then.
fn an_interrupted_build_leaves_its_stage(sandbox: &Sandbox) -> String {
    let child = outside(&sandbox.command(["build", &sandbox.lab]))
        .spawn()
        .unwrap();
    let log = sandbox.path(format!("output/{}.log", sandbox.lab));
    let runs = || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        said.contains("Waiting for SSH")
    };
    let began = Instant::now();
    while !runs() {
        assert!(began.elapsed() < Duration::from_secs(900), "no VM runs");
        std::thread::sleep(Duration::from_millis(200));
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let run = Run::end_of(child);
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert!(run.stderr.contains("interrupted"), "{run:#?}");
    nothing_is_left(sandbox);
    let stages = names_in(&sandbox.path("storage/stages"));
    let mut images = stages.iter().filter_map(|name| name.strip_suffix(".qcow2"));
    images.next().unwrap().to_owned()
}

#[test]
#[ignore = "needs libvirt, Packer and the cloud image: run by `make test`"]
fn a_lab_is_built_and_its_instances_are_themselves() {
    let sandbox = Sandbox::with_booting_guests(if is_thorough() { 2 } else { 1 });
    configure_labs(&sandbox, json!(["hello", VIRTUAL]));

    let begun = is_thorough().then(|| an_interrupted_build_leaves_its_stage(&sandbox));
    let labs = build(&sandbox, &["--jobs", "2"]).json();
    let built = &labs["labs"][0];
    let stage = begun.unwrap_or_else(|| text(&built["stage"]));
    for lab in labs["labs"].as_array().unwrap() {
        assert_eq!(lab["result"], "built", "{lab}");
        assert_eq!(lab["stage"], stage.as_str(), "{lab}");
    }
    assert!(
        !sandbox
            .path(format!("output/_stage-{stage}.packer/out"))
            .exists()
    );
    let file = |key: &str| sandbox.path("").join(text(&built[key]));
    let metadata: Value =
        serde_json::from_slice(&std::fs::read(file("metadata")).unwrap()).unwrap();
    assert_eq!(metadata["packages"][0]["name"], "hello");
    assert!(
        text(&metadata["packages"][0]["version"]).starts_with("2."),
        "{metadata}"
    );
    assert_eq!(metadata["packages"][1]["name"], VIRTUAL);
    assert_eq!(metadata["packages"][1]["provided_by"], "fortune-mod");
    let sum = run(tool("sha256sum").arg(file("image")));
    assert_eq!(sum.split(' ').next(), metadata["sha256"].as_str());
    let source = run(tool("sha256sum").arg(CLOUD_IMAGE));
    assert_eq!(source.split(' ').next(), metadata["source_sha256"].as_str());
    run(tool("virt-xml-validate").arg(file("domain_xml")));
    assert_eq!(
        names_in(
            &sandbox
                .path("output")
                .join(format!("{}.packer/out", sandbox.lab))
        ),
        [""; 0]
    );

    let console = format!("output/{}.packer/console.log", sandbox.lab);
    let console =
        String::from_utf8_lossy(&std::fs::read(sandbox.path(console)).unwrap()).into_owned();
    assert!(console.contains("Cloud-init"), "{console}");

    assert_eq!(metadata["stage"]["name"], stage);
    assert_eq!(metadata["provision"]["files"][0], FLAG);

    let took = common::quickest(|| {
        let again = build(&sandbox, &[]).json();
        for lab in again["labs"].as_array().unwrap() {
            assert_eq!(lab["result"], "unchanged", "{again}");
        }
    });
    assert!(
        took < Duration::from_secs(1),
        "nothing was done for {took:?}"
    );

    configure_labs(
        &sandbox,
        json!(["hello", VIRTUAL, "no-such.package", "mail-transport-agent"]),
    );
    let run = build(&sandbox, &[]);
    assert_eq!(run.code, Some(1), "{run:#?}");
    let said =
        "no such package: no-such.package; 'mail-transport-agent' is provided by several packages";
    // One that was all that was asked for has failed as a whole; of two it is a row.
    let told = [&run.stdout, &run.stderr].map(|told| told.contains(said));
    assert!(told.contains(&true), "{run:#?}");
    assert!(!run.stderr.contains("Booting"), "{run:#?}");
    configure_labs(&sandbox, json!(["hello", VIRTUAL]));

    let users = if is_thorough() {
        &["anna", "ben"][..]
    } else {
        &["anna"]
    };
    for &user in users {
        let started = sandbox.instance("start", user, &[]).json();
        if is_thorough() {
            assert_eq!(started["started_by"], "fork", "{started}");
        } else {
            assert_eq!(started["state"], "starting", "{started}");
            see_the_boot_menu(&sandbox, user);
        }
    }
    let identities = users.iter().map(|user| {
        wait_for_state(&sandbox, user, "running");
        look_inside(&sandbox, user)
    });
    if let [anna, ben] = &identities.collect::<Vec<_>>()[..] {
        assert_ne!(anna.machine_id, ben.machine_id);
        assert_ne!(anna.host_keys, ben.host_keys);
        assert_ne!(anna.address, ben.address);
        // A fork is what it was after a boot of its own.
        sandbox.instance("stop", "anna", &["--timeout", "2m"]).ok();
        sandbox.instance("start", "anna", &[]).ok();
        see_the_boot_menu(&sandbox, "anna");
        wait_for_state(&sandbox, "anna", "running");
        let again = look_inside(&sandbox, "anna");
        assert_eq!(
            (&again.machine_id, &again.host_keys, &again.address),
            (&anna.machine_id, &anna.host_keys, &anna.address)
        );
    }

    for user in users {
        let stopped = sandbox.instance("stop", user, &["--timeout", "2m"]).json();
        assert_eq!(stopped["state"], "stopped", "{stopped}");
        assert_eq!(stopped["reason"], "shut down by its guest", "{stopped}");
    }
}

fn see_the_boot_menu(sandbox: &Sandbox, user: &str) {
    common::wait_until("the boot menu is seen", || {
        guest::screen_size(&sandbox.instance_name(user)) == BOOT_MENU
    });
}

/// What makes an instance itself.
struct Identity {
    machine_id: String,
    host_keys: String,
    address: String,
}

/// Checks in the guest what every instance of the lab has, and returns what each has for itself.
fn look_inside(sandbox: &Sandbox, user: &str) -> Identity {
    let domain = sandbox.instance_name(user);
    let shell = |script: &str| guest::shell(&domain, script);
    shell("cloud-init status --wait");
    assert_eq!(shell("hello"), "Hello, world!\n");
    assert_eq!(
        shell("cat /etc/motd"),
        format!("{}\n\nSay hello.\n", motd())
    );
    let quoted = format!("'{FLAG}'");
    assert_eq!(shell(&format!("cat {quoted}")), "FLAG{$(id)}\n");
    assert_eq!(
        shell(&format!("stat -c '%a %U %G' {quoted}")),
        "4750 student student\n"
    );
    assert_eq!(
        shell("cat /srv/ran"),
        format!(
            "0 {} Hello, world! {}\npython after sh\n",
            sandbox.lab, FLAG
        )
    );
    assert_eq!(shell("hostname"), format!("cyyber-lab-{}\n", sandbox.lab));
    look_at_the_branding(&shell);
    assert_eq!(shell("id -un 1000"), "student\n");
    assert_eq!(shell("su - student -c 'sudo -n id -u'"), "0\n");
    let left = "cat /root/.ssh/* 2>/dev/null; ls -d /var/tmp/cyyber 2>/dev/null; true";
    assert_eq!(shell(left), "", "the build left something");
    let others = r#"ls /var/log/journal | grep -v -x "$(cat /etc/machine-id)"; true"#;
    assert_eq!(shell(others), "", "the build left its journal");
    let grown: u64 = shell("df --output=size -B1M / | tail -1")
        .trim()
        .parse()
        .unwrap();
    assert!(
        grown > 3500,
        "the file system has {grown} MiB of the disk's 4096"
    );
    // The guest is asked every ten seconds.
    common::wait_until("the guest tells of its memory", || {
        let stats = sandbox.instance("stats", user, &[]).json();
        let used = stats["memory_guest_used_mb"].as_u64();
        assert!(used.is_none_or(|used| 0 < used && used < 512), "{stats:#}");
        used.is_some()
    });
    let again = sandbox.instance("start", user, &[]).json();
    assert_eq!(
        (&again["changed"], &again["state"]),
        (&json!(false), &json!("running"))
    );
    let listed = sandbox.listed(user);
    assert!(
        again["ip"].is_string() && listed["ip"] == again["ip"],
        "{listed:#}"
    );
    let table = sandbox.cyyber(["instance", "list"]).ok().stdout;
    assert!(
        table.contains(" ADDRESS ") && table.contains(&text(&again["ip"])),
        "{table}"
    );
    Identity {
        machine_id: shell("cat /etc/machine-id"),
        host_keys: shell("cat /etc/ssh/ssh_host_*_key.pub"),
        address: text(&again["ip"]),
    }
}

/// Checks in the guest all that makes it Cyyber Linux.
fn look_at_the_branding(shell: &dyn Fn(&str) -> String) {
    for (asset, place) in [
        ("logo.png", "/usr/share/pixmaps/cyyber-logo.png"),
        (
            "wallpaper.jpg",
            "/usr/share/backgrounds/cyyber-wallpaper.jpg",
        ),
        ("login.png", "/usr/share/backgrounds/cyyber-login.png"),
        ("grub/theme.txt", "/boot/grub/themes/cyyber/theme.txt"),
        ("grub/splash.png", "/boot/grub/themes/cyyber/splash.png"),
        ("grub/select_c.png", "/boot/grub/themes/cyyber/select_c.png"),
        (
            "grub/cyyber-20.pf2",
            "/boot/grub/themes/cyyber/cyyber-20.pf2",
        ),
    ] {
        let ours = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("branding")
            .join(asset);
        let sum = |said: String| said.split(' ').next().unwrap().to_owned();
        assert_eq!(
            sum(shell(&format!("sha256sum {place}"))),
            sum(run(tool("sha256sum").arg(ours))),
            "{place}"
        );
    }
    let menu = shell("cat /boot/grub/grub.cfg");
    for wanted in [
        "set theme=($root)/boot/grub/themes/cyyber/theme.txt",
        "loadfont ($root)/boot/grub/themes/cyyber/cyyber-20.pf2",
        "terminal_output gfxterm",
        "set timeout=3",
        "menuentry 'Cyyber GNU/Linux'",
    ] {
        assert!(menu.contains(wanted), "{wanted}\n{menu}");
    }
    // People see our name; package tools see the distribution.
    assert_eq!(
        shell(". /etc/os-release && echo \"$PRETTY_NAME, $ID, $VERSION_CODENAME\""),
        "Cyyber Linux (Debian GNU/Linux 12), debian, bookworm\n"
    );
    assert!(shell("hostnamectl").contains("Operating System: Cyyber Linux"));
    assert!(shell("cat /etc/issue").starts_with("Cyyber Linux "));
    // The student's console has letters that the kernel's own font lacks: a dash, ł, я.
    let letters = shell("setfont -C /dev/tty1 -O /run/font && psfgettable /run/font");
    for letter in ["U+2014", "U+0142", "U+044f"] {
        assert!(letters.contains(letter), "{letter}\n{letters}");
    }
    // An upgrade of base-files writes its own beside ours.
    let theirs = shell("dpkg-divert --truename /usr/lib/os-release");
    assert_eq!(theirs, "/usr/lib/os-release.distribution\n");
    assert!(shell(&format!("cat {theirs}")).contains("PRETTY_NAME=\"Debian GNU/Linux 12"));
}

#[test]
#[ignore = "needs Packer: run by `make test`"]
fn a_download_is_checked_kept_and_used_again() {
    let sandbox = Sandbox::new();
    let web = Web::serve(&sandbox);
    let build = |url: &str, checksum: &str| {
        let image = json!({"url": url, "checksum": format!("sha256:{checksum}")});
        sandbox.configure(&lab(json!({"image": image})));
        let mut command = sandbox.command(["-q", "build"]);
        Run::of(command.env("SSL_CERT_FILE", &web.certificate))
    };
    let (wrong, url) = ("0".repeat(64), web.url("image.img"));
    let run = build(&url, &wrong).says(1, "hecksums did not match");
    assert!(
        run.stderr
            .contains("hint: the image does not match image.checksum"),
        "{run:#?}"
    );
    for url in [
        web.url("missing.img"),
        "https://no-such-host.invalid/x.img".to_owned(),
    ] {
        let run = build(&url, &wrong).says(1, &url);
        assert!(run.stderr.contains("can this host reach"), "{run:#?}");
    }
    nothing_is_left(&sandbox);

    // The right one comes as far as QEMU, which finds the disk that it has to have too small.
    let sum = run_sum(&sandbox.path("web/image.img"));
    let before = web.requests("image.img");
    for _ in 0..2 {
        let run = build(&url, &sum).says(3, "--shrink");
        assert!(run.stderr.contains("disk_size is smaller"), "{run:#?}");
    }
    assert_eq!(
        web.requests("image.img") - before,
        1,
        "it was fetched again"
    );
    nothing_is_left(&sandbox);
}

fn run_sum(file: &Path) -> String {
    let said = run(tool("sha256sum").arg(file));
    said.split(' ').next().unwrap().to_owned()
}

/// A web server with an image of 8 GiB that takes no space, and its certificate.
struct Web {
    server: std::process::Child,
    port: String,
    certificate: std::path::PathBuf,
    log: std::path::PathBuf,
}

impl Web {
    fn serve(sandbox: &Sandbox) -> Web {
        let directory = sandbox.path("web");
        std::fs::create_dir(&directory).unwrap();
        run(tool("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(directory.join("image.img"))
            .arg("8G"));
        run(tool("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ])
            .args(["-keyout", "key.pem", "-out", "certificate.pem"])
            .args([
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=DNS:localhost",
            ])
            .current_dir(&directory));
        let script = "import http.server, ssl\n\
            server = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)\n\
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n\
            context.load_cert_chain('certificate.pem', 'key.pem')\n\
            server.socket = context.wrap_socket(server.socket, server_side=True)\n\
            open('port.new', 'w').write(str(server.server_port))\n\
            import os; os.rename('port.new', 'port')\n\
            server.serve_forever()";
        let log = directory.join("log");
        let server = tool("python3")
            .args(["-c", script])
            .current_dir(&directory)
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        common::wait_until("the web server runs", || directory.join("port").exists());
        Web {
            server,
            port: std::fs::read_to_string(directory.join("port")).unwrap(),
            certificate: directory.join("certificate.pem"),
            log,
        }
    }

    fn url(&self, file: &str) -> String {
        format!("https://localhost:{}/{file}", self.port)
    }

    /// How often it was asked for a file's content.
    fn requests(&self, file: &str) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap();
        log.matches(&format!("GET /{file} ")).count()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
#[ignore = "needs Packer and the cloud image: run by `make test`"]
fn an_interrupted_build_leaves_no_process_and_no_image() {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let sandbox = Sandbox::with_booting_guests(1);
        sandbox.configure(&lab(json!({})));
        let child = sandbox.command(["build"]).spawn().unwrap();
        common::wait_until("the build's VM runs", || {
            processes_of(&sandbox)
                .iter()
                .any(|name| name.starts_with("qemu-system"))
        });
        kill_process(Pid::from_child(&child), signal).unwrap();
        let run = Run::end_of(child);
        if signal != Signal::KILL {
            assert_eq!(run.code, Some(1), "{run:#?}");
            assert!(run.stderr.contains("interrupted"), "{run:#?}");
        }
        nothing_is_left(&sandbox);
    }
}

fn nothing_is_left(sandbox: &Sandbox) {
    common::wait_until("no process is left", || processes_of(sandbox).is_empty());
    common::wait_until("no built disk is left", || {
        !sandbox
            .path("output")
            .join(format!("{}.packer/out", sandbox.lab))
            .exists()
    });
    assert_eq!(names_in(&sandbox.path("storage/base-images")), [""; 0]);
    assert!(
        !sandbox
            .path("output")
            .join(format!("{}.qcow2", sandbox.lab))
            .exists()
    );
}
