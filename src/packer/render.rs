//! Creates the content of a build's directory. Pure: values in, files out.
//!
//! There are two builds: of a stage, which many labs share, and of a lab, which starts from its
//! stage. The Packer template and the scripts are constant. A lab's values reach them only as data:
//! for Packer in a variables file, for the guest in files that are copied and never run, except for
//! the instructor's scripts.

use std::collections::BTreeMap;

use serde_json::json;

use super::branding::Assets;
use super::provision::{Content, Provisioned};
use super::templates::{PLUGINS, Templates};
use crate::accelerator::Accelerator;
use crate::config::{Desktop, Lab};
use crate::units::ByteSize;

/// The link in the build's directory to an image on this machine, so that no path of ours passes
/// through Packer, which expands `{{ }}` in it.
pub const SOURCE_LINK: &str = "source.img";

/// The file with the template's variables for Packer.
pub const VARIABLES: &str = "lab.auto.pkrvars.json";

/// The build's SSH key.
pub const KEY: &str = "id_ed25519";

/// The disk that a build produces.
pub const DISK: &str = "out/disk.qcow2";

/// The guest's report at the end: for a stage the content of its archive, for a lab the installed
/// packages with versions.
pub const REPORT: &str = "report";

/// Output of the guest's kernel and systemd on the serial port during the build.
pub const CONSOLE: &str = "console.log";

/// The directory that is copied into the guest.
pub const GUEST: &str = "cyyber";

/// The proxies for the guest's apt, if this host has some. Not an input of the image.
pub const APT: &str = "cyyber/apt.conf";

/// The directory that is served to cloud-init.
pub const SERVED: &str = "http";

/// Templates that a lab's build needs in the guest. An instructor's additions are included.
const LAB_SCRIPTS: [&str; 4] = ["common.sh", "install.sh", "finish.sh", "seed-user-data"];

/// Files by their path in the build's directory.
pub type Files = BTreeMap<String, Content>;

/// Which of the two builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// From a cloud image to a stage.
    Stage,
    /// From a stage to a lab.
    Lab,
}

/// The VM that a build runs in.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// Hardware virtualisation or software emulation.
    pub accelerator: Accelerator,
    /// Number of virtual CPUs.
    pub cpus: usize,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// QEMU's option to run as another user than we.
    pub run_as: Option<[&'static str; 2]>,
}

/// All files of a stage's build, except those that differ between machines.
pub fn stage_files(
    templates: &Templates,
    assets: &Assets,
    desktop: Desktop,
    with_plugins: bool,
) -> Files {
    let mut files = common_files(templates, with_plugins);
    for (name, content) in templates.of_stages(desktop) {
        if let Some(name) = name.strip_prefix("guest/") {
            files.insert(in_guest(name), bytes(content));
        }
    }
    for (name, content) in assets {
        files.insert(in_guest(&format!("branding/{name}")), bytes(content));
    }
    files.insert(in_guest("desktop"), line(desktop.name()));
    files
}

/// All files of a lab's build, except those that differ between machines.
pub fn lab_files(
    lab: &Lab,
    templates: &Templates,
    provisioned: &Provisioned,
    with_plugins: bool,
) -> Files {
    let mut files = common_files(templates, with_plugins);
    for (name, content) in templates.all() {
        if let Some(short) = name.strip_prefix("guest/")
            && (LAB_SCRIPTS.contains(&short) || templates.is_added(name))
        {
            files.insert(in_guest(short), bytes(content));
        }
    }
    for (name, content) in [
        ("desktop", line(lab.desktop.name())),
        ("hostname", line(&hostname(lab))),
        ("lab_id", line(lab.lab_id.as_str())),
        ("motd", bytes(motd(lab).as_bytes())),
        ("packages", bytes(packages(lab).as_bytes())),
        ("seed-meta-data", bytes(seed_meta_data(lab).as_bytes())),
    ] {
        files.insert(in_guest(name), content);
    }
    for (name, content) in &provisioned.files {
        files.insert(in_guest(&format!("provision/{name}")), content.clone());
    }
    files
}

fn common_files(templates: &Templates, with_plugins: bool) -> Files {
    let template = |name: &str| bytes(templates.get(name));
    let mut files = Files::from([
        ("lab.pkr.hcl".to_owned(), template("packer/lab.pkr.hcl")),
        // cloud-init requires both files of a seed; this one has all that is needed at build time.
        (
            format!("{SERVED}/meta-data"),
            line("instance-id: cyyber-build"),
        ),
    ]);
    if with_plugins {
        files.insert("plugins.pkr.hcl".to_owned(), template(PLUGINS));
    }
    files
}

fn in_guest(name: &str) -> String {
    format!("{GUEST}/{name}")
}

fn bytes(content: &[u8]) -> Content {
    Content::Bytes(content.to_vec())
}

fn line(text: &str) -> Content {
    Content::Bytes(format!("{text}\n").into_bytes())
}

/// The hostname of a lab's instances.
pub fn hostname(lab: &Lab) -> String {
    format!("cyyber-lab-{}", lab.lab_id)
}

/// The MOTD with the instructions below it, ending with a newline.
pub fn motd(lab: &Lab) -> String {
    let mut text = lab.motd.to_string();
    if !lab.instructions.as_str().is_empty() {
        text.push_str("\n\n");
        text.push_str(lab.instructions.as_str());
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn packages(lab: &Lab) -> String {
    let lines = lab.packages.iter().map(|name| format!("{name}\n"));
    lines.collect()
}

/// JSON is valid YAML, so nothing needs to be quoted by hand.
fn seed_meta_data(lab: &Lab) -> String {
    let name = hostname(lab);
    json!({"instance-id": name, "local-hostname": name}).to_string()
}

/// The variables of the Packer template: the image at `url`, whose hash must be `checksum` if
/// known, becomes an image with a disk of `disk_size`, built on `machine`.
pub fn variables(
    step: Step,
    url: &str,
    checksum: Option<&str>,
    disk_size: ByteSize,
    machine: Machine,
) -> Vec<u8> {
    let variables = json!({
        "step": match step {
            Step::Stage => "stage",
            Step::Lab => "install",
        },
        // A stage is read a few times and then removed.
        "skip_compaction": step == Step::Stage,
        "image_url": url,
        "image_checksum": checksum.map_or_else(|| "none".to_owned(), |sum| format!("sha256:{sum}")),
        "disk_size": disk_size.to_string(),
        "memory_mb": machine.memory_mb,
        "cpus": machine.cpus,
        "accelerator": machine.accelerator.qemu_name(),
        "cpu": match machine.accelerator {
            Accelerator::Kvm => "host",
            Accelerator::Tcg => "max",
        },
        "run_as": machine.run_as.as_slice(),
    });
    format!("{variables:#}\n").into_bytes()
}

/// cloud-init's instructions for the build: permit our key for root, and nobody else.
pub fn build_user_data(public_key: &str) -> Vec<u8> {
    let config = json!({
        "disable_root": false,
        "ssh_pwauth": false,
        // The other key types take long to generate, and are removed anyway.
        "ssh_genkeytypes": ["ed25519"],
        "users": [{"name": "root", "ssh_authorized_keys": [public_key.trim()]}],
        // Nobody uses the desktop of a stage while a lab is built from it.
        "bootcmd": ["systemctl --no-block stop display-manager.service 2>/dev/null || true"],
    });
    format!("#cloud-config\n{config:#}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lab(extra: serde_json::Value) -> Lab {
        let mut lab = json!({"lab_id": "lab01", "lab_name": "Lab", "packages": ["nmap", "net-tools"], "motd": "Hello"});
        lab.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        serde_json::from_value(lab).unwrap()
    }

    fn files_of(lab: &Lab, with_plugins: bool) -> Files {
        let templates = Templates::load(None).unwrap();
        lab_files(lab, &templates, &Provisioned::default(), with_plugins)
    }

    fn said(files: &Files, name: &str) -> String {
        match &files[name] {
            Content::Bytes(bytes) => String::from_utf8(bytes.clone()).unwrap(),
            Content::Copy(path) => panic!("{name} is a copy of {}", path.display()),
        }
    }

    #[test]
    fn the_guest_gets_one_thing_a_file() {
        let files = files_of(&lab(json!({"instructions": "Scan the router."})), false);
        assert_eq!(said(&files, "cyyber/packages"), "nmap\nnet-tools\n");
        assert_eq!(said(&files, "cyyber/motd"), "Hello\n\nScan the router.\n");
        assert_eq!(said(&files, "cyyber/hostname"), "cyyber-lab-lab01\n");
        assert!(!files.contains_key("plugins.pkr.hcl"));
        assert!(files_of(&lab(json!({})), true).contains_key("plugins.pkr.hcl"));
    }

    #[test]
    fn a_stage_and_a_lab_get_their_own_halves() {
        let templates = Templates::load(None).unwrap();
        let assets = Assets::from([("logo.png".to_owned(), b"PNG".to_vec())]);
        let stage = stage_files(&templates, &assets, Desktop::Xfce, false);
        assert_eq!(said(&stage, "cyyber/desktop"), "xfce\n");
        assert_eq!(said(&stage, "cyyber/branding/logo.png"), "PNG");
        let lab = files_of(&lab(json!({})), false);
        for (file, in_stage, in_lab) in [
            ("cyyber/common.sh", true, true),
            ("cyyber/finish.sh", true, true),
            ("cyyber/stage.sh", true, false),
            ("cyyber/install.sh", false, true),
            ("cyyber/branding/logo.png", true, false),
            ("cyyber/motd", false, true),
        ] {
            let there = (stage.contains_key(file), lab.contains_key(file));
            assert_eq!(there, (in_stage, in_lab), "{file}");
        }
    }

    proptest! {
        /// Whatever a MOTD says, it is one file's content and appears nowhere else.
        #[test]
        fn a_motd_is_only_ever_content(motd in "[^\\p{Cc}]{0,200}") {
            let evil = lab(json!({"motd": motd}));
            let (files, plain) = (files_of(&evil, true), files_of(&lab(json!({})), true));
            prop_assert_eq!(said(&files, "cyyber/motd"), format!("{motd}\n"));
            for (path, content) in &files {
                prop_assert!(path == "cyyber/motd" || content == &plain[path], "{path}");
            }
        }
    }
}
