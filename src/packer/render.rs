//! What goes into a build's directory. Pure: values in, files out.
//!
//! The Packer template and the scripts are constant. A lab's values reach them as data only: what
//! Packer needs in a variables file, what the guest gets as files that are copied and never run.

use std::collections::BTreeMap;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::accelerator::Accelerator;
use crate::config::{ImageUrl, Lab};
use crate::images::hex;

/// The link in the build's directory to a cloud image that is a file of this machine, so that no
/// path of ours goes through Packer, which expands `{{ }}` in it.
pub const SOURCE_LINK: &str = "source.img";

/// What Packer reads the template's variables from.
pub const VARIABLES: &str = "lab.auto.pkrvars.json";

/// The build's SSH key.
pub const KEY: &str = "id_ed25519";

/// Memory of the build's VM in MiB, at least: package managers want it.
const LEAST_BUILD_MEMORY: u32 = 1024;

/// Files by their path in the build's directory.
pub type Files = BTreeMap<&'static str, Vec<u8>>;

/// All files of a lab's build but those that differ from machine to machine.
pub fn lab_files(lab: &Lab, with_plugins: bool) -> Files {
    let text = |text: &str| text.as_bytes().to_vec();
    let mut files = Files::from([
        (
            "lab.pkr.hcl",
            text(include_str!("../../templates/packer/lab.pkr.hcl")),
        ),
        (
            "cyyber/common.sh",
            text(include_str!("../../templates/guest/common.sh")),
        ),
        (
            "cyyber/stage.sh",
            text(include_str!("../../templates/guest/stage.sh")),
        ),
        (
            "cyyber/install.sh",
            text(include_str!("../../templates/guest/install.sh")),
        ),
        (
            "cyyber/finish.sh",
            text(include_str!("../../templates/guest/finish.sh")),
        ),
        (
            "cyyber/autologin.conf",
            text(include_str!("../../templates/guest/autologin.conf")),
        ),
        (
            "cyyber/seed-user-data",
            text(include_str!("../../templates/guest/seed-user-data")),
        ),
        ("cyyber/seed-meta-data", seed_meta_data(lab)),
        (
            "cyyber/branding/logo.png",
            include_bytes!("../../branding/logo.png").to_vec(),
        ),
        ("cyyber/desktop", text("none\n")),
        ("cyyber/hostname", text(&format!("{}\n", hostname(lab)))),
        ("cyyber/motd", text(&motd(lab))),
        ("cyyber/packages", text(&packages(lab))),
        // cloud-init wants both files of a seed; this one says all there is to say at build time.
        ("http/meta-data", text("instance-id: cyyber-build\n")),
    ]);
    if with_plugins {
        files.insert(
            "plugins.pkr.hcl",
            text(include_str!("../../templates/packer/plugins.pkr.hcl")),
        );
    }
    files
}

/// The hostname of a lab's instances.
pub fn hostname(lab: &Lab) -> String {
    format!("cyyber-lab-{}", lab.lab_id)
}

/// The MOTD with the instructions below it, ending with a newline.
fn motd(lab: &Lab) -> String {
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
    lab.packages
        .iter()
        .map(|name| format!("{name}\n"))
        .collect()
}

/// JSON is YAML, and nothing has to be quoted by hand.
fn seed_meta_data(lab: &Lab) -> Vec<u8> {
    let name = hostname(lab);
    json!({"instance-id": name, "local-hostname": name})
        .to_string()
        .into_bytes()
}

/// The variables of the Packer template.
pub fn variables(lab: &Lab, accelerator: Accelerator, cpus: usize) -> Vec<u8> {
    let variables = json!({
        "image_url": match &lab.image.url {
            ImageUrl::Https(url) => url,
            ImageUrl::Path(_) => SOURCE_LINK,
        },
        "image_checksum": lab.image.checksum.as_ref().map_or("none", |sum| sum.as_str()),
        "disk_size": lab.disk_size.to_string(),
        "memory_mb": lab.memory_mb.max(LEAST_BUILD_MEMORY),
        "cpus": cpus,
        "accelerator": accelerator.qemu_name(),
        "cpu": match accelerator {
            Accelerator::Kvm => "host",
            Accelerator::Tcg => "max",
        },
    });
    format!("{variables:#}\n").into_bytes()
}

/// cloud-init's instructions for the build: let our key in as root, and nobody else.
pub fn build_user_data(public_key: &str) -> Vec<u8> {
    let config = json!({
        "disable_root": false,
        "ssh_pwauth": false,
        "users": [{"name": "root", "ssh_authorized_keys": [public_key.trim()]}],
    });
    format!("#cloud-config\n{config:#}\n").into_bytes()
}

/// One hash over everything that decides what comes out of a build: the files, the disk's size, the
/// cloud image and the tools. The accelerator is not among it, nor is what only instances have.
pub fn fingerprint(lab: &Lab, files: &Files, image_identity: &str, tools: &[String]) -> String {
    let mut hasher = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for (path, content) in files {
        part(path.as_bytes());
        part(content);
    }
    part(lab.disk_size.to_string().as_bytes());
    part(image_identity.as_bytes());
    tools.iter().for_each(|tool| part(tool.as_bytes()));
    hex(&hasher.finalize())
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

    #[test]
    fn the_guest_gets_one_thing_a_file() {
        let files = lab_files(&lab(json!({"instructions": "Scan the router."})), false);
        assert_eq!(files["cyyber/packages"], b"nmap\nnet-tools\n");
        assert_eq!(files["cyyber/motd"], b"Hello\n\nScan the router.\n");
        assert_eq!(files["cyyber/hostname"], b"cyyber-lab-lab01\n");
        assert!(!files.contains_key("plugins.pkr.hcl"));
        assert!(lab_files(&lab(json!({})), true).contains_key("plugins.pkr.hcl"));
    }

    #[test]
    fn a_path_reaches_packer_as_a_link_of_a_fixed_name() {
        let lab = lab(json!({"image": {"url": "/srv/{{ isotime }}/$(id).qcow2"}}));
        let text = String::from_utf8(variables(&lab, Accelerator::Tcg, 2)).unwrap();
        assert!(
            text.contains("\"image_url\": \"source.img\"") && !text.contains("isotime"),
            "{text}"
        );
    }

    #[test]
    fn the_fingerprint_follows_what_the_image_is_made_of() {
        let print = |lab: &Lab, image: &str| {
            fingerprint(lab, &lab_files(lab, false), image, &["packer 1".to_owned()])
        };
        let plain = print(&lab(json!({})), "a");
        assert_eq!(
            plain,
            print(&lab(json!({"memory_mb": 4096})), "a"),
            "memory is not part of the image"
        );
        assert_ne!(plain, print(&lab(json!({"motd": "Other"})), "a"));
        assert_ne!(plain, print(&lab(json!({"disk_size": "30G"})), "a"));
        assert_ne!(plain, print(&lab(json!({})), "b"));
    }

    proptest! {
        /// Whatever a MOTD says, it is one file's content and appears nowhere else.
        #[test]
        fn a_motd_is_only_ever_content(motd in "[^\\p{Cc}]{0,200}") {
            let evil = lab(json!({"motd": motd}));
            let (files, plain) = (lab_files(&evil, true), lab_files(&lab(json!({})), true));
            prop_assert_eq!(&files["cyyber/motd"], &format!("{motd}\n").into_bytes());
            for (path, content) in &files {
                prop_assert!(*path == "cyyber/motd" || content == &plain[path], "{path}");
            }
        }
    }
}
