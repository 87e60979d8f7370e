//! Instances whose students attack each other and the host, with frames made by hand: nothing
//! answers but DHCP and DNS, and the internet where the lab has it.
//!
//! It gives this host a public address and restarts its libvirtd, so this has a world of its own.

use crate::common;

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::vnc::Client;
use common::world::own_world;
use common::{Run, Sandbox, guest, run, text, tool, virsh, wait_until};
use serde_json::{Value, json};

/// What a student tries.
const ATTACK: &str = include_str!("../common/attack.py");

/// A public address of this host, its router, and a server of the internet beyond: the latter two are
/// a network namespace.
const HOST: &str = "198.51.100.1";
const ROUTER: &str = "198.51.100.2";
const INTERNET: &str = "203.0.113.2";
const INTERNET_PORT: u16 = 8080;

const NAT: &str = "cyyber-nat";

/// The internet: one server, which greets whoever connects and notes whatever else comes.
struct Internet {
    name: String,
    server: Option<Child>,
}

impl Internet {
    fn new() -> Internet {
        let name = format!("cyt{:x}", std::process::id());
        let internet = Internet { name, server: None };
        let (name, outside) = (internet.name.as_str(), internet.outside());
        ip(&["netns", "add", name]);
        ip(&[
            "link", "add", &outside, "type", "veth", "peer", "name", "eth0", "netns", name,
        ]);
        ip(&["addr", "add", &format!("{HOST}/30"), "dev", &outside]);
        ip(&["link", "set", &outside, "up"]);
        ip(&[
            "-n",
            name,
            "addr",
            "add",
            &format!("{ROUTER}/30"),
            "dev",
            "eth0",
        ]);
        ip(&["-n", name, "link", "set", "eth0", "up"]);
        let server = format!("{INTERNET}/32");
        ip(&["-n", name, "addr", "add", &server, "dev", "lo"]);
        ip(&["-n", name, "link", "set", "lo", "up"]);
        ip(&["route", "add", INTERNET, "via", ROUTER]);
        // As somebody who sits on the way and knows the networks of the labs.
        ip(&["-n", name, "route", "add", "default", "via", HOST]);
        internet
    }

    fn outside(&self) -> String {
        format!("{}h", self.name)
    }

    fn python(&self, script: &str) -> Command {
        let mut command = tool("ip");
        command.args(["netns", "exec", &self.name, "python3", "-c", script]);
        command
    }

    fn serve(mut self) -> Internet {
        let script = format!(
            "import socket, threading\n\
             def note():\n\
             \x20   strays = socket.socket(type=socket.SOCK_DGRAM)\n\
             \x20   strays.bind(('', {INTERNET_PORT}))\n\
             \x20   while True: print('stray', strays.recvfrom(99), flush=True)\n\
             threading.Thread(target=note, daemon=True).start()\n\
             server = socket.create_server(('', {INTERNET_PORT}))\n\
             print('ready', flush=True)\n\
             while True:\n\
             \x20   client, (address, _) = server.accept()\n\
             \x20   client.send(b'hello ' + address.encode()); client.close()"
        );
        let mut server = self.python(&script).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(server.stdout.as_mut().unwrap(), &mut ready).unwrap();
        self.server = Some(server);
        self
    }

    /// Ends it; what came that was no connection.
    fn strays(&mut self) -> String {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        String::from_utf8(server.wait_with_output().unwrap().stdout)
            .unwrap()
            .trim()
            .to_owned()
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
        let _ = tool("ip").args(["link", "del", &self.outside()]).output();
        let _ = tool("ip").args(["netns", "del", &self.name]).output();
    }
}

#[track_caller]
fn ip(arguments: &[&str]) -> String {
    run(tool("ip").args(arguments))
}

/// Services of this host on all its addresses, and how often anybody reached them.
struct Services {
    port: u16,
    reached: Arc<AtomicUsize>,
}

impl Services {
    fn new() -> Services {
        let tcp = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let udp = UdpSocket::bind(("0.0.0.0", port)).unwrap();
        let reached = Arc::new(AtomicUsize::new(0));
        let (by_tcp, by_udp) = (Arc::clone(&reached), Arc::clone(&reached));
        std::thread::spawn(move || {
            for _ in tcp.incoming() {
                by_tcp.fetch_add(1, Ordering::Relaxed);
            }
        });
        std::thread::spawn(move || {
            while udp.recv_from(&mut [0; 99]).is_ok() {
                by_udp.fetch_add(1, Ordering::Relaxed);
            }
        });
        let services = Services { port, reached };
        // That they count at all.
        UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .send_to(b"x", ("127.0.0.1", port))
            .unwrap();
        wait_until("the service counts", || services.count() == 1);
        services
    }

    fn count(&self) -> usize {
        self.reached.load(Ordering::Relaxed)
    }
}

/// A booted instance, and where it is.
struct Machine {
    domain: String,
    card: String,
    ip: String,
    mac: String,
    gateway: String,
    gateway_mac: String,
}

impl Machine {
    fn of(lab: &str, user: &str, bridge: &str) -> Machine {
        let domain = format!("{lab}_user_{user}");
        let xml = virsh(["dumpxml", "--", &domain]);
        let value = |before: &str| {
            let after = xml.split(before).nth(1).unwrap();
            after.split('\'').next().unwrap().to_owned()
        };
        let mac = value("<mac address='");
        // As src/network.rs has them.
        let port = value("<target dev='cyyber-");
        let (kind, part) = port.split_at(1);
        let (part, net) = (
            part.parse::<u16>().unwrap(),
            if kind == "i" { 16 } else { 0 },
        );
        let card = guest::shell(&domain, &format!("grep -l {mac} /sys/class/net/*/address"));
        Machine {
            card: card.split('/').nth(4).unwrap().to_owned(),
            ip: format!("10.213.{}.{}", net + part / 256, part % 256),
            gateway: format!("10.213.{net}.1"),
            gateway_mac: fs::read_to_string(format!("/sys/class/net/{bridge}/address"))
                .unwrap()
                .trim()
                .to_owned(),
            mac,
            domain,
        }
    }

    /// What the attack has to know for the `neighbour`.
    fn targets(&self, neighbour: &Machine, hosts: &[&str], ports: &[u16]) -> Value {
        json!({
            "card": self.card, "ip": self.ip,
            "gateway": self.gateway, "gateway_mac": self.gateway_mac,
            "neighbour": neighbour.ip, "neighbour_mac": neighbour.mac,
            "host": hosts, "ports": ports,
            "private": ["192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1"],
            "internet": INTERNET, "internet_port": INTERNET_PORT,
        })
    }

    fn shell(&self, script: &str) -> String {
        guest::shell(&self.domain, script)
    }

    /// Puts the attack into the guest, and a service that its neighbours might reach.
    fn prepare(&self) {
        self.shell(&format!(
            "cat > /root/attack.py <<'END'\n{ATTACK}\nEND\n\
             nohup python3 -m http.server 7777 >/root/served 2>&1 &"
        ));
    }

    fn attack(&self, targets: &Value) -> Value {
        let said = self.shell(&format!("python3 /root/attack.py attack '{targets}'"));
        println!("{}: {said}", self.domain);
        serde_json::from_str(&said).unwrap()
    }

    fn watch(&self, targets: &Value) {
        self.shell(&format!(
            "rm -f /run/attack.stop; nohup python3 /root/attack.py watch '{targets}' > /root/caught 2>&1 &"
        ));
    }

    fn caught(&self) -> Value {
        let said = self.shell("touch /run/attack.stop; while pgrep -f '[a]ttack.py watch' >/dev/null; do sleep 0.2; done; cat /root/caught");
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    /// Where the bridge sends frames for it, and what the host takes for its MAC address.
    fn assert_itself(&self, bridge: &str) {
        let neighbours = ip(&["neigh", "show", "dev", bridge]);
        for line in neighbours.lines().filter(|line| line.contains("lladdr")) {
            let is_ours = line.starts_with(&format!("{} ", self.ip));
            assert_eq!(is_ours, line.contains(&self.mac), "{neighbours}");
        }
    }
}

fn wait_for_agent(domain: &str) {
    let ping = "{\"execute\": \"guest-ping\"}";
    let began = Instant::now();
    while virsh(["qemu-agent-command", domain, ping]).is_empty() {
        assert!(began.elapsed() < guest::BOOTING, "no agent");
        sleep(Duration::from_secs(1));
    }
}

fn wait_for_agents(sandbox: &Sandbox, instances: &[(&str, &str)]) {
    let began = Instant::now();
    let states = || -> Vec<String> {
        let list = |(lab, user): &(&str, &str)| {
            let options = [
                "-o", "json", "instance", "list", "--lab", lab, "--user", user,
            ];
            text(&sandbox.cyyber(options).json()["instances"][0]["state"])
        };
        instances.iter().map(list).collect()
    };
    while states().iter().any(|state| state != "running") {
        assert!(began.elapsed() < guest::BOOTING, "no agent");
        sleep(Duration::from_secs(2));
    }
}

/// All that may answer.
fn assert_alone(found: &Value, gateway: &str, internet: bool) {
    let only = |port: u16| json!({ format!("{gateway}:{port}"): 1 });
    assert_eq!(found["dns"], only(53), "{found:#}");
    assert_eq!(found["dhcp"], only(67), "{found:#}");
    assert_eq!(found["tcp"], only(53), "{found:#}");
    for what in ["arp", "arp scan"] {
        // The host asks as well.
        let from: Vec<_> = found[what].as_object().unwrap().keys().collect();
        assert_eq!(from, [gateway], "{what} {found:#}");
    }
    for silent in ["ping", "udp", "spoofed", "around", "ip6"] {
        assert_eq!(found[silent], json!({}), "{silent} {found:#}");
    }
    let (out, said) = match internet {
        true => (
            json!({ format!("{INTERNET}:{INTERNET_PORT}"): 1 }),
            format!("hello {HOST}"),
        ),
        false => (json!({}), "OSError".to_owned()),
    };
    assert_eq!(
        (&found["out"], text(&found["internet"])),
        (&out, said),
        "{found:#}"
    );
}

#[test]
#[ignore = "needs libvirt, QEMU and the cloud image: run by `make test`"]
fn an_instance_reaches_dhcp_and_dns_and_nothing_else_of_the_host_and_its_neighbours() {
    own_world!();
    let sandbox = Sandbox::with_booting_guests(1);
    let mut internet = Internet::new().serve();
    let services = Services::new();
    let (lab, other) = (sandbox.lab.clone(), sandbox.other_lab());
    let small = guest::machine(&json!({
        "network": "nat", "limits": {"overlay_size": "700M", "disk_bytes_per_second": "60M"},
    }));
    let isolated = guest::machine(&json!({"network": "isolated"}));
    let labs = [common::lab(&lab, &small), common::lab(&other, &isolated)];
    sandbox.configure_labs(&labs);
    guest::warm_base(&sandbox, &lab);
    guest::warm_base(&sandbox, &other);
    let all = [(lab.as_str(), "anna"), (&lab, "ben"), (&other, "carl")];
    let began = Instant::now();
    let start = |(lab, user): (&str, &str)| {
        let start = ["-o", "json", "instance", "start", lab, user];
        sandbox.cyyber(start).json()
    };
    let [by_anna, ..] = all.map(start);
    wait_for_agents(&sandbox, &all);
    sandbox.all_have_booted();
    // One that somebody starts without us.
    let of_carl = format!("{other}_user_carl");
    virsh(["managedsave", &of_carl]);
    assert!(virsh(["domstate", &of_carl]).contains("shut off"));
    virsh(["start", &of_carl]);
    wait_for_agent(&of_carl);
    println!("booted after {:?}", began.elapsed());
    passwords_expire(&sandbox, &by_anna);
    let [anna, ben, carl] = all.map(|(lab, user)| {
        let bridge = if lab == other { "cyyber1" } else { "cyyber0" };
        let machine = Machine::of(lab, user, bridge);
        machine.prepare();
        machine
    });
    let leases = || virsh(["net-dhcp-leases", NAT]).lines().count();
    let leased = leases();

    let ports = [22, 53, 5700, 5900, 5901, 7777, services.port];
    ben.watch(&ben.targets(&anna, &[], &[]));
    let found = anna.attack(&anna.targets(&ben, &[HOST, &carl.gateway], &ports));
    assert_eq!(ben.caught(), json!({"caught": []}));
    assert_alone(&found, &anna.gateway, true);
    ben.assert_itself("cyyber0");
    assert_eq!(leases(), leased, "made-up machines got addresses");
    let learned = run(tool("bridge").args(["fdb", "show", "br", "cyyber0"]));
    let of_guests = |line: &&str| line.starts_with("52:") && !line.contains("permanent");
    for line in learned.lines().filter(of_guests) {
        let [a, b] = [&anna, &ben].map(|one| line.starts_with(&one.mac));
        assert!(a || b || !learned_by(line, &anna), "{learned}");
    }

    let quick = |machine: &Machine, hosts: &[&str]| {
        let mut targets = machine.targets(&ben, hosts, &ports);
        targets["quick"] = json!(true);
        machine.attack(&targets)
    };
    println!("attacked after {:?}", began.elapsed());
    let found = quick(&carl, &[HOST, &anna.gateway]);
    assert_alone(&found, &carl.gateway, false);
    assert_eq!(services.count(), 1, "the host's services were reached");
    for machine in [&anna, &ben, &carl] {
        assert_eq!(machine.shell("grep -c GET /root/served; true"), "0\n");
    }

    // Nobody comes in from outside, who knows the way.
    let connect = format!(
        "import socket\n\
         for port in (22, 7777):\n\
         \x20   try: socket.create_connection(('{}', port), 3); print('open', port)\n\
         \x20   except OSError: pass",
        anna.ip
    );
    assert_eq!(run(&mut internet.python(&connect)), "");
    // Nor from the host itself.
    let refused = Run::within(
        Duration::from_secs(3),
        tool("python3")
            .args([
                "-c",
                &format!(
                    "import socket; socket.create_connection(('{}', 22))",
                    anna.ip
                ),
            ])
            .stderr(Stdio::null())
            .stdout(Stdio::null()),
    );
    assert_ne!(refused.code, Some(0));

    // As a firewall that is set up anew does to the rules of libvirt.
    for chain in ["LIBVIRT_INP", "LIBVIRT_FWI", "LIBVIRT_FWO", "LIBVIRT_FWX"] {
        run(tool("iptables").args(["-w", "-F", chain]));
    }
    let nothing = |found: &Value| {
        let silent = ["ping", "udp", "spoofed", "around", "ip6"].map(|what| found[what].clone());
        assert!(silent.iter().all(|it| *it == json!({})), "{found:#}");
    };
    nothing(&quick(&anna, &[HOST]));
    // As one does that is emptied as a whole: the next pass of the reaper sees it.
    run(tool("nft").args(["flush", "ruleset"]));
    let pass = sandbox.cyyber(["reap"]).ok();
    assert!(pass.stderr.contains("and was restored"), "{pass:#?}");
    assert_eq!(sandbox.cyyber(["reap"]).ok().stderr, "");
    nothing(&quick(&anna, &[HOST]));
    restart_libvirtd();
    // It connects to the agents again after it has begun to answer.
    wait_for_agent(&anna.domain);
    assert_alone(&quick(&anna, &[HOST]), &anna.gateway, true);
    assert_eq!(services.count(), 1);
    assert_eq!(internet.strays(), "", "packets in another's name");

    println!("restarted after {:?}", began.elapsed());
    fill_the_disk(&sandbox, &anna, &ben);
}

/// A password that was given more than a minute ago lets nobody in any more; a fresh one does.
fn passwords_expire(sandbox: &Sandbox, started: &Value) {
    let expires: jiff::Timestamp = text(&started["vnc_password_expires"]).parse().unwrap();
    wait_until("it has expired", || {
        jiff::Timestamp::now().as_second() > expires.as_second()
    });
    let port = |name: &str| u16::try_from(started[name].as_u64().unwrap()).unwrap();
    let (tcp, web) = (port("vnc_port"), port("novnc_port"));
    let expired = text(&started["vnc_password"]);
    assert!(!Client::connect(tcp).accepts(&expired));
    assert!(!Client::connect_by_websocket(web).accepts(&expired));
    let fresh = text(&sandbox.instance("console", "anna", &[]).json()["vnc_password"]);
    let (width, height, bytes) = Client::connect(tcp).picture(&fresh);
    assert!(width > 0 && height > 0 && bytes > 0);
    assert_eq!(Client::connect_by_websocket(web).picture(&fresh).0, width);
}

fn learned_by(line: &str, machine: &Machine) -> bool {
    let card = text_after(&virsh(["dumpxml", "--", &machine.domain]), "<target dev='");
    line.contains(&format!("dev {card} "))
}

fn text_after(text: &str, before: &str) -> String {
    let after = text.split(before).nth(1).unwrap();
    after.split('\'').next().unwrap().to_owned()
}

fn restart_libvirtd() {
    if std::path::Path::new("/run/systemd/system").is_dir() {
        run(tool("systemctl").args(["restart", "libvirtd"]));
    } else {
        let pid = fs::read_to_string("/run/libvirtd.pid").unwrap();
        run(tool("kill").arg(pid.trim()));
        wait_until("libvirtd is gone", || {
            !std::path::Path::new(&format!("/proc/{}/fd/0", pid.trim())).exists()
        });
        let daemon = tool("libvirtd")
            .arg("-d")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(daemon.unwrap().success());
    }
    wait_until("libvirtd answers", || !virsh(["uri"]).is_empty());
}

/// She writes 100 GB: it stops at the limit, he works on.
fn fill_the_disk(sandbox: &Sandbox, anna: &Machine, ben: &Machine) {
    const LIMIT: u64 = 700 << 20;
    anna.shell(
        "nohup dd if=/dev/urandom of=/root/fill bs=1M count=100000 conv=fsync >/dev/null 2>&1 &",
    );
    let began = Instant::now();
    let listed = || sandbox.listed("anna");
    while listed()["state"] != "paused" {
        assert!(began.elapsed() < guest::BOOTING, "it is not held");
        sleep(Duration::from_secs(1));
    }
    // QEMU stops the guest at the first write that does not fit, and those before it are still under way.
    let overlay = sandbox.overlay("anna");
    let taken = || cyyber::images::allocated(&overlay).unwrap();
    while !text(&listed()["reason"]).contains("limits.overlay_size of 700M") {
        assert!(
            began.elapsed() < guest::BOOTING,
            "{}, at {}",
            listed(),
            taken()
        );
        sleep(Duration::from_secs(1));
    }
    let taken = taken();
    println!("held at {} MiB", taken >> 20);
    assert!(taken <= LIMIT && taken > LIMIT / 2, "{taken}");
    assert_eq!(overlay.metadata().unwrap().len(), LIMIT);
    let error = sandbox.instance("start", "anna", &[]).error_json(7);
    assert!(
        text(&error["message"]).contains("overlay_size"),
        "{error:#}"
    );

    assert_eq!(
        ben.shell("head -c 20M /dev/urandom > /root/work && sync && echo done"),
        "done\n"
    );
    assert_eq!(sandbox.state("ben"), "running");
    sandbox.instance("stop", "anna", &["--force"]).ok();
    run(tool("qemu-img").args(["check", "-q"]).arg(&overlay));
    sandbox.instance("reset", "anna", &["--yes"]).ok();
    assert!(cyyber::images::allocated(&overlay).unwrap() < 1 << 20);
}
