//! The labs that come with the program: complete, valid, and made of packages that exist.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use cyyber::config::{Config, Lab};

fn labs_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("labs")
}

fn load(name: &str) -> Config {
    Config::load(Some(&labs_directory().join(name))).unwrap_or_else(|error| panic!("{error:#}"))
}

/// The labs of every configuration in `labs/`.
fn all_labs() -> Vec<Lab> {
    let mut labs = Vec::new();
    for entry in std::fs::read_dir(labs_directory()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".json") && !name.ends_with(".schema.json") {
            labs.extend(load(&name).labs);
        }
    }
    labs
}

#[test]
fn the_five_labs_are_there() {
    let labs = load("labs-config.json").labs;
    let names: Vec<(&str, &str)> = labs
        .iter()
        .map(|lab| (lab.lab_id.as_str(), lab.lab_name.as_str()))
        .collect();
    assert_eq!(
        names,
        [
            ("lab01", "Network Scanning"),
            ("lab02", "Web Exploitation"),
            ("lab03", "Password Attacks"),
            ("lab04", "Wireless Security"),
            ("lab05", "Reverse Engineering"),
        ]
    );
}

#[test]
fn a_student_is_told_where_they_are_and_what_to_do() {
    for lab in all_labs() {
        let id = lab.lab_id.as_str();
        assert!(lab.motd.as_str().contains("Cyyber Linux"), "{id}");
        assert!(!lab.instructions.as_str().is_empty(), "{id}");
        // A text console has eighty columns.
        let said = [lab.motd.as_str(), lab.instructions.as_str()];
        for line in said.iter().flat_map(|text| text.lines()) {
            assert!(line.chars().count() < 80, "{id}: {line}");
        }
        assert!(lab.instructions.as_str().lines().count() <= 20, "{id}");
    }
}

#[test]
fn what_is_copied_into_a_lab_is_there() {
    for lab in all_labs() {
        let files = lab.provision.files.iter().map(|file| &file.source);
        for path in files.chain(&lab.provision.scripts) {
            assert!(path.as_path().is_file(), "{}", path.as_path().display());
        }
    }
}

#[test]
fn every_package_is_in_debian_12() {
    let packages: BTreeSet<String> = all_labs()
        .iter()
        .flat_map(|lab| lab.packages.iter().map(ToString::to_string))
        .collect();
    assert!(packages.len() > 50);
    // Names that it does not know are left out, and the failure is theirs.
    let said = Command::new("apt-cache")
        .arg("madison")
        .args(&packages)
        .output();
    let said = said.map_or(String::new(), |output| {
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
    // `nmap | 7.93+dfsg1-1 | http://deb.debian.org/debian bookworm/main amd64 Packages`
    let in_main: BTreeSet<String> = said
        .lines()
        .filter(|line| line.contains(" bookworm/main "))
        .map(|line| line.split('|').next().unwrap().trim().to_owned())
        .collect();
    if in_main.is_empty() {
        // Past the test harness, which keeps the words of a passing test to itself.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: this host knows no Debian 12 archive, so the packages of labs/ were not looked for"
        );
        return;
    }
    let missing: Vec<_> = packages.difference(&in_main).collect();
    assert!(missing.is_empty(), "not in Debian 12: {missing:?}");
}
