//! Building a lab's image with Packer.
//!
//! [`templates`], [`branding`], [`provision`] and [`source`] are the inputs of an image;
//! [`archive`] checks the packages in advance, [`apt`] reads this host's proxies, [`render`]
//! creates a build's directory (pure), [`run`] runs Packer, [`machine`] parses its output (pure),
//! and [`result`] describes the result.

pub mod apt;
pub mod archive;
pub mod branding;
pub mod machine;
pub mod provision;
pub mod render;
pub mod result;
pub mod run;
pub mod source;
pub mod templates;

use anyhow::{Context, Result};

use crate::config::{Lab, SourcePath};
use crate::error::{Fault, Kind};
use crate::process::{self, Program};

/// Where to get Packer: Debian 12 has a package of it, later releases do not.
const INSTALL: &str = "install it: `make setup` does so or says how; or see \
                       https://developer.hashicorp.com/packer/install";

/// The hint if the plugin could not be downloaded.
const PLACE_PLUGIN: &str = "can this host reach github.com? if not, download the plugin's file \
                            from https://github.com/hashicorp/packer-plugin-qemu/releases \
                            elsewhere and run: packer plugins install \
    --path FILE github.com/hashicorp/qemu";

/// An installed Packer.
#[derive(Debug, Clone)]
pub struct Packer {
    program: Program,
    /// Its version, without the `v`.
    pub version: String,
}

impl Packer {
    /// Finds Packer.
    pub fn find() -> Result<Packer> {
        let program = Program::find_or("packer", INSTALL)?;
        let mut command = program.command();
        // Otherwise it would check for a newer version online.
        command.arg("version").env("CHECKPOINT_DISABLE", "1");
        let said = process::run(&mut command)?;
        let path = program.path().display();
        let version = version_in(&said)
            .with_context(|| format!("failed to parse the version of {path}"))?
            .to_owned();
        Ok(Packer { program, version })
    }

    /// Whether the QEMU builder is a plugin that `packer init` downloads, as since Packer 1.7
    /// (<https://developer.hashicorp.com/packer/docs/commands/init>), rather than built in.
    pub fn wants_plugins(&self) -> bool {
        wants_plugins(&self.version)
    }
}

/// The version of the QEMU that builds run in.
pub fn qemu_version() -> Result<String> {
    let said = Program::find("qemu-system-x86_64", "qemu-system-x86")?.run(["--version"])?;
    let version = said.split_ascii_whitespace().nth(3);
    let version = version.context("failed to parse QEMU's version")?;
    Ok(version.to_owned())
}

/// The option with which a QEMU of this version switches to the unprivileged user, Debian's
/// `nobody`, once it has opened its files.
pub fn as_nobody(qemu_version: &str) -> [&'static str; 2] {
    // QEMU 10 no longer has the former.
    if numbers(qemu_version) < (9, 1) {
        ["-runas", "65534:65534"]
    } else {
        ["-run-with", "user=65534:65534"]
    }
}

fn wants_plugins(version: &str) -> bool {
    numbers(version) >= (1, 7)
}

/// The first two numbers of a version.
fn numbers(version: &str) -> (u32, u32) {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// `1.6.6` from `Packer v1.6.6`, which may be followed by more lines.
fn version_in(said: &str) -> Option<&str> {
    let version = said.lines().next()?.strip_prefix("Packer v")?.trim();
    let is_number = version.starts_with(|c: char| c.is_ascii_digit());
    is_number.then_some(version)
}

/// The error that the file named by `key` in the configuration of `lab` cannot be used.
fn unusable(lab: &Lab, key: &str, path: &SourcePath) -> Fault {
    let (lab, path) = (&lab.lab_id, path.as_path().display());
    let message = format!("{key} of lab '{lab}' cannot be used: {path}");
    Fault::new(Kind::Config, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_given_up_by_the_option_that_a_qemu_has() {
        for (version, option) in [
            ("7.2.22", "-runas"),
            ("9.0.2", "-runas"),
            ("9.1.0", "-run-with"),
            ("10.0.8", "-run-with"),
        ] {
            assert_eq!(as_nobody(version)[0], option, "{version}");
        }
    }

    #[test]
    fn versions() {
        assert_eq!(
            version_in("Packer v1.6.6\n\nYour version is out of date!\n"),
            Some("1.6.6")
        );
        assert_eq!(version_in("sh: packer: not found"), None);
        assert!(!wants_plugins("1.6.6"));
        assert!(wants_plugins("1.7.0") && wants_plugins("1.11.2") && wants_plugins("2.0.0-dev"));
    }
}
