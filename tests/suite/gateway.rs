//! The gateway: one door to all consoles. A client in Rust plays the browser here; a real one is in
//! `backend/`.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tungstenite::protocol::CloseFrame;
use tungstenite::{Message, WebSocket};

use crate::backend::student::{echo_guest, first_line};
use crate::common::cluster::Cluster;
use crate::common::{Sandbox, is_thorough, run, text, tool, wait_until};

/// Gone with this.
#[derive(Debug)]
pub struct Gateway {
    process: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Gateway {
    /// Starts the one of `sandbox`, on a port of its own.
    pub fn start(sandbox: &Sandbox, options: &[&str]) -> Gateway {
        let mut command = sandbox.command(["gateway", "--listen", "127.0.0.1:0"]);
        command
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        let mut process = command.spawn().unwrap();
        let status = sandbox.path("state/gateway.json");
        let mut address = None;
        wait_until("the gateway listens", || {
            assert_eq!(process.try_wait().unwrap(), None, "it has ended");
            let Ok(status) = fs::read(&status) else {
                return false;
            };
            let status: Value = serde_json::from_slice(&status).unwrap();
            address = Some(text(&status["listen"]).parse().unwrap());
            true
        });
        Gateway {
            process,
            address: address.unwrap(),
        }
    }

    /// Starts the one of a host of `cluster`, which listens on `listen`. For whoever is in its network,
    /// it is at `address`.
    pub fn of_host(cluster: &Cluster, host: &str, listen: &str, address: &str) -> Gateway {
        let mut command = cluster.on(host, ["cyyber", "gateway", "-v", "--listen", listen]);
        command.stdout(Stdio::null()).stderr(Stdio::inherit());
        let process = command.spawn().unwrap();
        let address = address.parse().unwrap();
        wait_until("the gateway listens", || {
            TcpStream::connect(address).is_ok()
        });
        Gateway { process, address }
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = kill_process(self.pid(), Signal::TERM);
        let _ = self.process.wait();
    }
}

/// A browser with noVNC, as far as the gateway can tell.
pub struct Browser {
    socket: WebSocket<TcpStream>,
    received: Vec<u8>,
}

impl Browser {
    /// Connects; whether it is let in shows later.
    pub fn connect(gateway: &Gateway, path: &str) -> Browser {
        let stream = TcpStream::connect(gateway.address).unwrap();
        stream
            .set_read_timeout(Some(crate::common::PATIENCE))
            .unwrap();
        let url = format!("ws://{}{path}", gateway.address);
        let (socket, _) = tungstenite::client(url, stream).unwrap();
        Browser {
            socket,
            received: Vec::new(),
        }
    }

    /// Connects, and sees the greeting of QEMU: the size of the screen.
    pub fn enter(gateway: &Gateway, path: &str) -> Browser {
        let mut browser = Browser::connect(gateway, path);
        assert_eq!(browser.read(12), b"RFB 003.008\n");
        browser.send(b"RFB 003.008\n");
        assert_eq!(browser.read(2), [1, 1], "no password is asked for");
        browser.send(&[1]);
        assert_eq!(browser.read(4), [0; 4]);
        // It would like to be alone, and is not.
        browser.send(&[0]);
        let greeting = browser.read(24);
        let length = u32::from_be_bytes(greeting[20..].try_into().unwrap());
        browser.read(length.try_into().unwrap());
        browser
    }

    fn send(&mut self, bytes: &[u8]) {
        self.socket.send(Message::binary(bytes.to_vec())).unwrap();
    }

    fn read(&mut self, length: usize) -> Vec<u8> {
        while self.received.len() < length {
            match self.socket.read().unwrap() {
                Message::Binary(bytes) => self.received.extend(bytes),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
        let rest = self.received.split_off(length);
        std::mem::replace(&mut self.received, rest)
    }

    /// Asks for the whole picture, and waits for its beginning.
    pub fn see(&mut self) {
        self.send(&[3, 0, 0, 0, 0, 0, 2, 0xD0, 1, 0x90]);
        assert_eq!(self.read(1), [0], "a picture");
    }

    fn press(&mut self, letter: u8) {
        for down in [1, 0] {
            self.send(&[4, down, 0, 0, 0, 0, 0, letter]);
        }
    }

    /// The code with which the gateway ends the session.
    pub fn end(&mut self) -> u16 {
        loop {
            match self.socket.read() {
                Ok(Message::Close(Some(CloseFrame { code, reason }))) => {
                    assert!(!reason.is_empty());
                    return code.into();
                }
                Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn path(sandbox: &Sandbox, user: &str, options: &[&str]) -> String {
    let answer = sandbox.instance("console", user, options).json();
    assert!(answer["vnc_password"].is_null(), "{answer:#}");
    text(&answer["console_path"])
}

fn last_use(sandbox: &Sandbox, user: &str) -> SystemTime {
    let file = sandbox
        .path("state/activity")
        .join(sandbox.instance_name(user));
    fs::metadata(file).unwrap().modified().unwrap()
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn a_path_opens_a_console_once_and_wakes_its_instance() {
    let sandbox = Sandbox::with_guests(1);
    echo_guest(&sandbox);
    let instance = sandbox.instance_name("anna");
    sandbox.instance("create", "anna", &[]).ok();
    let without = sandbox.instance("console", "anna", &["--path-only"]);
    let why = without.error_json(8)["message"].clone();
    assert!(text(&why).contains("no gateway runs"), "{why}");
    let gateway = Gateway::start(&sandbox, &["-v"]);
    let control = || path(&sandbox, "anna", &["--path-only"]);

    // Stopped: powered on while the browser waits.
    let first = control();
    let mut browser = Browser::enter(&gateway, &first);
    browser.see();
    assert_eq!(
        sandbox.listed("anna")["vnc_port"].as_u64().map(|_| ()),
        Some(())
    );
    wait_until("the guest is up", || first_line(&instance) == "Type:");
    // Looking on is no use, typing is.
    let before = last_use(&sandbox, "anna");
    browser.see();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(last_use(&sandbox, "anna"), before);
    browser.press(b'a');
    wait_until("the key arrives", || first_line(&instance) == "Type: a");
    wait_until("it is noted", || last_use(&sandbox, "anna") > before);
    // Not at each key.
    let noted = last_use(&sandbox, "anna");
    browser.press(b'b');
    wait_until("the key arrives", || first_line(&instance) == "Type: ab");
    assert_eq!(last_use(&sandbox, "anna"), noted);

    // Used, changed, of before; another user's, whose own it was.
    assert_eq!(Browser::connect(&gateway, &first).end(), 4401);
    let mut forged = control();
    let last = forged.pop().unwrap();
    forged.push(if last == 'A' { 'B' } else { 'A' });
    forged.replace_range(15..16, if &forged[15..16] == "Y" { "Z" } else { "Y" });
    assert_eq!(Browser::connect(&gateway, &forged).end(), 4401);
    let others = sandbox.cyyber([
        "--as-user",
        "ben",
        "instance",
        "console",
        &sandbox.lab,
        "anna",
        "--path-only",
    ]);
    others.fails(4);

    // Paused under her hands: told so, and left alone until somebody asks again.
    sandbox.instance("pause", "anna", &[]).ok();
    assert_eq!(browser.end(), 4410);
    assert_eq!(Browser::connect(&gateway, &first).end(), 4401);
    assert_eq!(sandbox.state("anna"), "paused");
    let mut browser = Browser::enter(&gateway, &control());
    browser.see();
    browser.press(b'c');
    wait_until("it goes on as it was", || {
        first_line(&instance) == "Type: abc"
    });
    let journal = fs::read_to_string(sandbox.path("state/events.jsonl")).unwrap();
    assert!(journal.contains(r#""who":"gateway""#), "{journal}");

    // Two at one screen, and one that breaks the rules ends alone.
    let started = sandbox.instance("start", "anna", &[]).json();
    let mut other = Browser::enter(&gateway, &text(&started["console_path"]));
    other.send(&[250, 0, 0, 0]);
    assert_eq!(other.end(), 1002);
    browser.see();

    // Gone: not made again.
    let gone = control();
    sandbox
        .cyyber(["instance", "cleanup", &sandbox.lab, "anna", "--yes"])
        .ok();
    assert_eq!(browser.end(), 4410);
    assert_eq!(Browser::connect(&gateway, &gone).end(), 4404);
    assert_eq!(sandbox.listed("anna"), Value::Null);
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn who_watches_sees_and_neither_touches_nor_wakes() {
    let sandbox = Sandbox::with_guests(1);
    // It is running at once, for the reaper.
    sandbox.configure(&json!({"policy": {"boot_timeout": "0s"}}));
    echo_guest(&sandbox);
    let instance = sandbox.instance_name("anna");
    sandbox.instance("create", "anna", &[]).ok();
    let gateway = Gateway::start(&sandbox, &[]);
    let view = || path(&sandbox, "anna", &["--view"]);
    assert_eq!(Browser::connect(&gateway, &view()).end(), 4409);
    assert_eq!(sandbox.state("anna"), "stopped");

    sandbox.instance("start", "anna", &[]).ok();
    wait_until("the guest is up", || first_line(&instance) == "Type:");
    let console = |wanted: &str| {
        let told = sandbox.cyyber(["-o", "json", "reap", "--dry-run"]).json();
        let all = told["instances"].as_array().unwrap().clone();
        let one = all
            .into_iter()
            .find(|row| row["instance"] == instance)
            .unwrap();
        let console = &one["signs"]["console"];
        assert_eq!(
            console["note"] == "none seen",
            wanted == "unseen",
            "{one:#}"
        );
    };
    let before = last_use(&sandbox, "anna");
    let mut watchers = [view(), view()].map(|path| Browser::enter(&gateway, &path));
    for watcher in &mut watchers {
        watcher.see();
        for event in 0..250_u16 {
            let [x, y] = event.to_be_bytes();
            watcher.press(b'x');
            watcher.send(&[5, 1, x, y, x, y]);
            watcher.send(&[6, 0, 0, 0, 0, 0, 0, 1, b'x']);
            watcher.send(&[255, 0, 0, 1, 0, 0, 0, b'x', 0, 0, 0, 45]);
        }
        watcher.see();
    }
    assert_eq!(
        first_line(&instance),
        "Type:",
        "2,500 events, of which none arrives"
    );
    assert_eq!(last_use(&sandbox, "anna"), before);
    // A link of the wall of screens.
    let viewer = "https://labs.example.org/vnc.html";
    let wall = ["instance", "screens", "--html", "wall", "--viewer", viewer];
    sandbox.cyyber(wall).ok();
    let page = fs::read_to_string(sandbox.path("wall/index.html")).unwrap();
    let (_, link) = page.split_once("<a href=\"").unwrap();
    let (link, _) = link.split_once('"').unwrap();
    let (before_path, path_of_link) = link.split_once("&amp;path=").unwrap();
    let wanted = format!("{viewer}#autoconnect=true&amp;reconnect=false&amp;view_only=true");
    assert_eq!(before_path.replace("&#x2f;", "/"), wanted);
    let mut teacher = Browser::enter(
        &gateway,
        &format!("/{}", path_of_link.replace("&#x2f;", "/")),
    );
    teacher.see();
    teacher.press(b'x');
    teacher.see();
    assert_eq!(first_line(&instance), "Type:");
    assert_eq!(last_use(&sandbox, "anna"), before);
    console("unseen");
    let mut student = Browser::enter(&gateway, &path(&sandbox, "anna", &["--path-only"]));
    student.see();
    student.press(b's');
    wait_until("hers does", || first_line(&instance) == "Type: s");
    console("seen");
    for watcher in &mut watchers {
        watcher.see();
    }
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn it_is_bounded_and_takes_leave() {
    let sandbox = Sandbox::with_guests(1);
    sandbox.base(&sandbox.lab);
    let started = sandbox.instance("start", "anna", &[]).json();
    assert!(started["console_path"].is_null(), "{started:#}");
    let gateway = Gateway::start(&sandbox, &["--sessions", "1"]);
    sandbox
        .cyyber(["gateway", "--listen", "127.0.0.1:0"])
        .says(6, "the gateway of this host");
    let view = || path(&sandbox, "anna", &["--view"]);
    let mut first = Browser::enter(&gateway, &view());
    assert_eq!(Browser::connect(&gateway, &view()).end(), 4429);
    let figure = |name: &str| {
        let metrics = sandbox.cyyber(["metrics"]).ok().stdout;
        let line = metrics.lines().find(|line| line.starts_with(name));
        line.map(|line| line.rsplit(' ').next().unwrap().to_owned())
    };
    assert_eq!(figure("cyyber_gateway_up").as_deref(), Some("1"));
    let finding = || {
        let found = Value::from(sandbox.cyyber(["-o", "json", "doctor"]).stdout);
        let found: Value = serde_json::from_str(found.as_str().unwrap()).unwrap();
        let all = found["findings"].as_array().unwrap().clone();
        all.into_iter().find(|it| it["check"] == "gateway")
    };
    assert_eq!(finding().unwrap()["status"], "ok");

    // One that does not read is no burden: all its memory is bounded, and others go on.
    gateway.signal(Signal::TERM);
    assert_eq!(first.end(), 1001);
    drop(gateway);
    assert!(!sandbox.path("state/gateway.key").exists());
    assert_eq!(figure("cyyber_gateway_up"), None);
    assert!(finding().is_none());
    assert!(sandbox.instance("console", "anna", &[]).json()["console_path"].is_null());

    // Killed: what was given before is void, and the doctor tells.
    let mut gateway = Gateway::start(&sandbox, &[]);
    let old = view();
    let mut session = Browser::enter(&gateway, &view());
    gateway.signal(Signal::KILL);
    gateway.process.wait().unwrap();
    assert!(session.socket.read().is_err());
    assert_eq!(figure("cyyber_gateway_up").as_deref(), Some("0"));
    assert_eq!(finding().unwrap()["status"], "failed");
    fs::remove_file(sandbox.path("state/gateway.json")).unwrap();
    gateway = Gateway::start(&sandbox, &[]);
    assert_eq!(Browser::connect(&gateway, &old).end(), 4401);
    Browser::enter(&gateway, &view());
}

/// A certificate for `name`, in the files `certificate` and `key`.
fn certify(name: &str, certificate: &Path, key: &Path) {
    run(tool("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args([
            "-nodes",
            "-days",
            "2",
            "-subj",
            &format!("/CN={name}"),
            "-out",
        ])
        .arg(certificate)
        .arg("-keyout")
        .arg(key)
        .stderr(Stdio::null()));
}

#[test]
fn it_does_tls_itself_and_reads_a_new_certificate() {
    let sandbox = Sandbox::new();
    let refused = sandbox.cyyber(["gateway", "--listen", "0.0.0.0:0"]);
    refused.says(2, "without encryption");
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| sandbox.path(name));
    let words = [&certificate, &key].map(|path| path.to_str().unwrap());
    let options = ["--certificate", words[0], "--key", words[1]];
    let bad = sandbox
        .command(["gateway", "--listen", "127.0.0.1:0"])
        .args(options)
        .output();
    assert_eq!(
        bad.unwrap().status.code(),
        Some(1),
        "there are no such files"
    );
    certify("one.example", &certificate, &key);
    let gateway = Gateway::start(&sandbox, &options);
    let subject = || {
        let script = format!(
            "openssl s_client -connect {} </dev/null 2>/dev/null | openssl x509 -noout -subject",
            gateway.address
        );
        run(tool("sh").args(["-c", &script]))
    };
    assert!(subject().contains("one.example"), "{}", subject());
    fs::write(&certificate, "broken").unwrap();
    gateway.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        subject().contains("one.example"),
        "what is broken is not used"
    );
    certify("two.example", &certificate, &key);
    gateway.signal(Signal::HUP);
    wait_until("the new one is used", || subject().contains("two.example"));
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn one_that_is_killed_leaves_nothing_half_made() {
    let sandbox = Sandbox::with_guests(1);
    echo_guest(&sandbox);
    let instance = sandbox.instance_name("anna");
    sandbox.instance("start", "anna", &[]).ok();
    wait_until("the guest is up", || first_line(&instance) == "Type:");
    let moments: u32 = if is_thorough() { 50 } else { 5 };
    let mut whole = None;
    for moment in 0..=moments {
        sandbox.instance("pause", "anna", &[]).ok();
        let gateway = Gateway::start(&sandbox, &[]);
        let path = path(&sandbox, "anna", &["--path-only"]);
        let began = Instant::now();
        // The first time is how long the others may take.
        let Some(whole) = whole else {
            Browser::enter(&gateway, &path).see();
            whole = Some(began.elapsed());
            continue;
        };
        let browser = Browser::connect(&gateway, &path);
        sleep((whole * moment / moments).saturating_sub(began.elapsed()));
        gateway.signal(Signal::KILL);
        drop(browser);
        drop(gateway);
        // What it had begun, libvirt ends.
        wait_until("it is one or the other", || {
            ["paused", "starting", "running"].contains(&&*sandbox.state("anna"))
        });
        let started = sandbox.instance("start", "anna", &[]).json();
        assert_ne!(started["started_by"], "boot", "{moment}: {started:#}");
        assert_eq!(first_line(&instance), "Type:", "{moment}");
        let checks = sandbox.cyyber(["-o", "json", "doctor"]).stdout;
        assert!(
            checks.contains("has died: browsers cannot reach consoles"),
            "{checks}"
        );
        fs::remove_file(sandbox.path("state/gateway.json")).unwrap();
    }
    let gateway = Gateway::start(&sandbox, &[]);
    Browser::enter(&gateway, &path(&sandbox, "anna", &["--path-only"])).see();
}
