//! What may go through the lab networks, tried with frames by guests that are no VMs
//! (`common/frames.py`), in all the ways in which somebody might get past the firewall or undo it.

use std::process::Command;

use serde_json::{Value, json};

use crate::common;
use common::world::own_world;
use common::{Run, Sandbox, run, tool, virsh};

const FRAMES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/common/frames.py");
const HOOK: &str = "/etc/libvirt/hooks/network.d/cyyber";
const TABLE: &str = "/etc/cyyber/network.nft";

fn frames(what: &str) -> Value {
    let said = run(tool("python3").args([FRAMES, what]));
    println!("{what}: {said}");
    serde_json::from_str(&said).unwrap_or_default()
}

/// Everything that does not go through as it should.
fn leaks(found: &Value) -> Vec<String> {
    let mut leaks = Vec::new();
    let mut expect = |what: &str, found: &Value, wanted: &Value| {
        if found != wanted {
            leaks.push(format!("{what}: {found}, not {wanted}"));
        }
    };
    for (name, gateway) in [("anna", "10.213.0.1"), ("carl", "10.213.16.1")] {
        let of = &found[name];
        expect(name, &of["dhcp"], &json!([format!("{gateway}:67")]));
        expect(name, &of["dns"], &json!(1));
        expect(name, &of["dns by tcp"], &json!(true));
        for (target, said) in of["reaches"].as_object().unwrap() {
            let wanted = match (name, &**target) {
                (_, itself) if itself == name => continue,
                // The greeting by TCP; the next packet by UDP is a stranger's.
                ("anna", "internet") => json!("hello 198.51.100.2 0"),
                _ => json!("TimeoutError 0"),
            };
            expect(&format!("{name} to {target}"), said, &wanted);
        }
    }
    for nobody in ["eve", "mallory"] {
        let of = &found[nobody];
        expect(nobody, &json!([of["dhcp"], of["dns"]]), &json!([[], 0]));
        for (target, said) in of["reaches"].as_object().unwrap() {
            let got = said.as_str().unwrap();
            let is_herself = (nobody, &**target) == ("mallory", "ben");
            if !is_herself && (got.starts_with("hello") || !got.ends_with(" 0")) {
                expect(&format!("{nobody} to {target}"), said, &json!("nothing"));
            }
        }
    }
    for nothing in ["answers to lies", "believed"] {
        expect(nothing, &found[nothing], &json!([]));
    }
    for none in ["lies that reached the host", "seen by ben"] {
        expect(none, &found[none], &json!(0));
    }
    expect("ben after all", &found["ben after all"], &json!(1));
    let silence = json!(["TimeoutError", "TimeoutError"]);
    expect("comes in", &found["comes in"], &silence);
    leaks
}

#[test]
#[ignore = "needs libvirt and root: run by `make test`"]
fn guests_reach_dhcp_dns_and_the_internet_and_nothing_else_whatever_they_send() {
    own_world!();
    frames("set-up");
    let none: [String; 0] = [];
    for bridged_by_ip_firewall in ["1", "0"] {
        let switch = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        if std::path::Path::new(switch).exists() {
            std::fs::write(switch, bridged_by_ip_firewall).unwrap();
        }
        assert_eq!(leaks(&frames("probe")), none);
    }
    // After a restart of libvirtd, as after a crash.
    let pid = std::fs::read_to_string("/run/libvirtd.pid").unwrap();
    run(tool("kill").args(["-KILL", pid.trim()]));
    while std::path::Path::new(&format!("/proc/{}/exe", pid.trim())).exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    run(tool("libvirtd")
        .arg("-d")
        .stderr(std::process::Stdio::null()));
    assert!(!virsh(["uri"]).is_empty());
    assert_eq!(leaks(&frames("probe")), none);

    // The internet is there again without libvirt's rules.
    run(tool("nft").args(["flush", "ruleset"]));
    let sandbox = Sandbox::with_guests(0);
    let put_back = || {
        let pass = sandbox.cyyber(["reap"]).ok();
        assert!(pass.stderr.contains("and was restored"), "{pass:#?}");
    };
    put_back();
    assert_eq!(leaks(&frames("probe")), none);

    // Without it all of that goes through, or this test would see nothing.
    for family in ["bridge", "arp", "inet"] {
        run(tool("nft").args(["delete", "table", family, "cyyber"]));
    }
    let open = leaks(&frames("probe"));
    assert!(open.len() > 25, "{open:#?}");
    put_back();
    assert_eq!(leaks(&frames("probe")), none);
}

#[test]
#[ignore = "needs libvirt and root: run by `make test`"]
fn one_guest_takes_little_of_what_all_share() {
    own_world!();
    frames("set-up");
    let found = frames("share");
    let number = |what: &str| found[what].as_u64().unwrap();
    // 20,000 packets, each to another port: 200 at once, then 100 a second.
    assert!((100..800).contains(&number("tracked")), "{found}");
    assert!((20..150).contains(&number("dns a second")), "{found}");
    assert_eq!(number("held"), 2, "{found}");
    assert_eq!(found["ben by tcp"], json!(true));
}

#[test]
#[ignore = "needs libvirt and root: run by `make test`"]
fn a_firewall_that_somebody_changed_is_found_and_put_back() {
    own_world!();
    let sandbox = Sandbox::with_guests(0);
    let doctor = |sandbox: &Sandbox| {
        let run = sandbox.cyyber(["-o", "json", "doctor"]);
        let told: Value = serde_json::from_str(&run.stdout).unwrap();
        let findings = told["findings"].as_array().unwrap();
        let firewall = findings.iter().find(|it| it["check"] == "firewall");
        firewall.unwrap()["status"].clone()
    };
    let nft = |command: &str| Run::of(tool("nft").arg(command));
    let warned = |by: &str| {
        assert_eq!(doctor(&sandbox), "failed", "{by}");
        let pass = sandbox.cyyber(["reap"]).ok();
        assert!(pass.stderr.contains("and was restored"), "{by}: {pass:#?}");
        assert_eq!(doctor(&sandbox), "ok", "{by}");
        assert_eq!(sandbox.cyyber(["reap"]).ok().stderr, "", "{by}");
    };
    assert_eq!(doctor(&sandbox), "ok");
    let handles = |of: &str| {
        run(tool("nft")
            .args(["-a", "-t", "list", "chain"])
            .args(of.split(' ')))
    };
    let rule = handles("bridge cyyber prerouting");
    let (_, handle) = rule.split_once("\"cyyber-*\" drop # handle ").unwrap();
    let handle = handle.lines().next().unwrap();
    for change in [
        "flush ruleset",
        "delete table arp cyyber",
        "flush chain inet cyyber from_guest",
        "insert rule inet cyyber input accept",
        &format!("delete rule bridge cyyber prerouting handle {handle}"),
        "add chain inet cyyber more",
        // The same rule once more, at another place.
        "flush chain bridge cyyber forward; add rule bridge cyyber forward iifname \"cyyber-*\" drop; \
         add rule bridge cyyber forward oifname \"cyyber-*\" drop",
    ] {
        nft(change).ok();
        warned(change);
    }
    // Who is admitted cannot be changed as long as a rule asks for it.
    let card = "element bridge cyyber cards { \"vnet1\" . 52:63:79:79:00:14 }";
    for change in [
        &*format!("add {card}"),
        "delete element bridge cyyber cards { \"cyyber-n20\" . 52:63:79:79:00:14 }",
        "flush set bridge cyyber cards",
    ] {
        assert_ne!(nft(change).code, Some(0), "{change}");
    }
    for chain in ["prerouting", "from_guest", "to_guest"] {
        nft(&format!("flush chain bridge cyyber {chain}")).ok();
    }
    nft("delete element bridge cyyber cards { \"cyyber-n20\" . 52:63:79:79:00:14 }").ok();
    nft(&format!("add {card}")).ok();
    warned("another card");
    // Other tables are no concern of ours.
    nft("add table inet other; add chain inet other a").ok();
    assert_eq!(sandbox.cyyber(["reap"]).ok().stderr, "");

    // What cannot be looked at, or put back, is told.
    let path = sandbox.path("bin");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("nft"), "#!/bin/sh\nexit 1\n").unwrap();
    run(tool("chmod").arg("755").arg(path.join("nft")));
    let blind = |words: &[&str]| {
        let mut command: Command = sandbox.command(words);
        Run::of(command.env("PATH", format!("{}:/usr/bin:/bin", path.display())))
    };
    let pass = blind(&["reap"]).ok();
    assert!(
        pass.stderr
            .contains("failed to check or restore the firewall"),
        "{pass:#?}"
    );
    let told = blind(&["doctor"]);
    assert!(
        told.stdout.contains("firewall") && told.code == Some(1),
        "{told:#?}"
    );
}

#[test]
#[ignore = "needs libvirt and root: run by `make test`"]
fn a_lab_network_does_not_come_up_without_its_firewall_nor_a_guest() {
    own_world!();
    let sandbox = Sandbox::with_guests(1);
    let network = "cyyber-isolated";
    let restart = || {
        virsh(["net-destroy", network]);
        Run::of(tool("virsh").args(["-q", "-c", common::QEMU, "net-start", network]))
    };
    let tables = || run(tool("nft").args(["list", "tables"]));
    let ours = [
        "table bridge cyyber",
        "table arp cyyber",
        "table inet cyyber",
    ];
    // As after a boot: libvirt starts the networks by itself, and asks its hook first.
    for family in ["bridge", "arp", "inet"] {
        run(tool("nft").args(["delete", "table", family, "cyyber"]));
    }
    restart().ok();
    assert!(
        ours.iter().all(|table| tables().contains(table)),
        "{}",
        tables()
    );
    let flag = "/sys/class/net/cyyber1/bridge/";
    let read = |of: &str| std::fs::read_to_string(format!("{flag}{of}")).unwrap();
    assert_eq!(read("no_linklocal_learn").trim(), "1");
    assert_eq!(read("stp_state").trim(), "0");

    let whole = std::fs::read(TABLE).unwrap();
    std::fs::write(TABLE, "no table\n").unwrap();
    assert_ne!(restart().code, Some(0));
    assert!(!std::path::Path::new("/sys/class/net/cyyber1").exists());
    std::fs::write(TABLE, whole).unwrap();
    assert!(std::path::Path::new(HOOK).exists());
    restart().ok();

    // A host on which it was never loaded, as with the program alone brought up to date.
    sandbox.base(&sandbox.lab);
    std::fs::remove_file("/run/cyyber/network.loaded").unwrap();
    let error = sandbox.instance("start", "7", &[]).error_json(8);
    assert!(
        error["message"].as_str().unwrap().contains("firewall"),
        "{error}"
    );
    sandbox.cyyber(["reap"]).ok();
    sandbox.instance("start", "7", &[]).ok();
}

#[test]
#[ignore = "needs libvirt and QEMU: run by `make test`"]
fn guests_of_an_earlier_version_keep_their_network() {
    own_world!();
    let sandbox = Sandbox::with_guests(1);
    sandbox.base(&sandbox.lab);
    sandbox.instance("create", "7", &[]).ok();
    let name = sandbox.instance_name("7");
    let file = sandbox.path("former.xml");
    let xml = virsh(["dumpxml", "--inactive", "--security-info", &name]);
    let (before, after) = xml.split_once("<target dev='cyyber-n").unwrap();
    let (part, after) = after.split_once("'/>").unwrap();
    let own_port = format!("cyyber-n{part}");
    let filter =
        "<filterref filter='cyyber-nat'><parameter name='IP' value='10.213.0.20'/></filterref>";
    let former = format!("{before}{after}").replacen(
        "<port isolated='yes'/>",
        &format!("<port isolated='yes'/>{filter}"),
        1,
    );
    assert!(former.contains(filter), "{former}");
    std::fs::write(&file, former).unwrap();
    let define = || virsh(["define", file.to_str().unwrap()]);
    let definition = sandbox.path("filter.xml");
    std::fs::write(&definition, "<filter name='cyyber-nat' chain='root'/>").unwrap();
    virsh(["nwfilter-define", definition.to_str().unwrap()]);
    let setup = || {
        let setup = concat!(env!("CARGO_MANIFEST_DIR"), "/templates/host/setup.sh");
        run(tool(setup).arg("--no-packages"))
    };
    let port = || {
        let xml = virsh(["dumpxml", &name]);
        let card = xml.split("<interface").nth(1).unwrap();
        let port = card
            .split("<target dev='")
            .nth(1)
            .unwrap()
            .split('\'')
            .next();
        let port = port.unwrap().to_owned();
        assert_eq!(
            xml.contains("<filterref"),
            port.starts_with("vnet"),
            "{xml}"
        );
        port
    };
    let isolation = || {
        let run = sandbox.cyyber(["-o", "json", "doctor"]);
        let told: Value = serde_json::from_str(&run.stdout).unwrap();
        let findings = told["findings"].as_array().unwrap();
        findings
            .iter()
            .find(|it| it["check"] == "isolation")
            .unwrap()["status"]
            .clone()
    };

    // One that runs is admitted where it is, as long as it does.
    define();
    virsh(["start", &name]);
    let there = port();
    assert!(there.starts_with("vnet"), "{there}");
    assert_eq!(isolation(), "failed");
    setup();
    assert_eq!(isolation(), "ok");
    let admitted = run(tool("nft").args(["list", "set", "bridge", "cyyber", "addresses"]));
    assert!(
        admitted.contains(&format!("\"{there}\" . 10.213.")),
        "{admitted}"
    );
    assert!(virsh(["nwfilter-list"]).contains("cyyber-nat"));
    sandbox.instance("start", "7", &[]).ok();
    assert_eq!(port(), there);

    // One that was saved comes back at its own port, with its password, and without the filter. There
    // is a reaper, or a start would say that there is none.
    sandbox.cyyber(["reap"]).ok();
    sandbox.instance("pause", "7", &[]).ok();
    let said = setup();
    assert!(said.contains("filter cyyber-nat"), "{said}");
    assert!(!virsh(["nwfilter-list"]).contains("cyyber-nat"));
    let resumed = sandbox.instance("resume", "7", &[]).ok();
    assert_eq!(resumed.stderr, "");
    assert_eq!(port(), own_port);
    assert!(virsh(["dumpxml", "--security-info", &name]).contains(" passwd='"));
    assert_eq!(isolation(), "ok");

    // One that is off is defined anew.
    sandbox.instance("stop", "7", &["--force"]).ok();
    define();
    sandbox.instance("start", "7", &[]).ok();
    assert_eq!(port(), own_port);
}
