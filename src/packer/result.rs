//! The metadata of a build, for people and programs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Serialize;

use crate::accelerator::Accelerator;
use crate::config::{Lab, PackageName};
use crate::images::{self, ImageInfo, stages};
use crate::inputs::Inputs;
use crate::process::{self, Program};

/// `lab01-metadata.json`.
#[derive(Debug, Serialize)]
pub struct Metadata<'a> {
    lab_id: &'a str,
    lab_name: &'a str,
    hostname: String,
    desktop: &'static str,
    packages: Vec<Installed<'a>>,
    provision: Provisioned,
    source_image: String,
    source_sha256: Option<&'a str>,
    stage: Stage<'a>,
    disk_size_bytes: u64,
    image_size_bytes: u64,
    sha256: &'a str,
    fingerprint: String,
    inputs: &'a Inputs,
    build: &'a str,
    started: Timestamp,
    finished: Timestamp,
    seconds: f64,
    accelerator: &'static str,
    tools: Tools<'a>,
}

/// The instructor's files and scripts in the image.
#[derive(Debug, Serialize)]
struct Provisioned {
    files: Vec<String>,
    scripts: Vec<PathBuf>,
}

/// The source of the lab.
#[derive(Debug, Serialize)]
struct Stage<'a> {
    name: &'a str,
    made: Timestamp,
    sha256: &'a str,
}

/// A package of the lab and the version that the image has.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Installed<'a> {
    name: &'a str,
    version: Option<&'a str>,
    /// The providing package, if it has another name.
    #[serde(skip_serializing_if = "Option::is_none")]
    provided_by: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Tools<'a> {
    cyyber: &'static str,
    packer: &'a str,
    qemu: String,
}

/// The input of the metadata.
#[derive(Debug)]
pub struct Description<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// The image that was built.
    pub image: &'a ImageInfo,
    /// Its hash.
    pub sha256: &'a str,
    /// Its inputs.
    pub inputs: &'a Inputs,
    /// The name of the base build.
    pub build: &'a str,
    /// The stage that it was built from.
    pub stage: &'a stages::Stage,
    /// `dpkg-query`'s list of all packages in the image.
    pub installed: &'a str,
    /// When the build began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// The accelerator of the build's VM.
    pub accelerator: Accelerator,
    /// Packer's version.
    pub packer: &'a str,
}

impl Description<'_> {
    /// The metadata as JSON.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let lab = self.lab;
        let metadata = Metadata {
            lab_id: lab.lab_id.as_str(),
            lab_name: lab.lab_name.as_str(),
            hostname: super::render::hostname(lab),
            desktop: lab.desktop.name(),
            packages: versions(&lab.packages, self.installed),
            provision: provisioned(lab),
            source_image: lab.image.url.to_string(),
            source_sha256: self.stage.note.source_sha256.as_deref(),
            stage: Stage {
                name: &self.stage.key,
                made: self.stage.note.made,
                sha256: &self.stage.note.sha256,
            },
            disk_size_bytes: self.image.virtual_size,
            image_size_bytes: self.image.actual_size,
            sha256: self.sha256,
            fingerprint: self.inputs.fingerprint(),
            inputs: self.inputs,
            build: self.build,
            started: self.started,
            finished: self.finished,
            seconds: self.finished.duration_since(self.started).as_secs_f64(),
            accelerator: self.accelerator.qemu_name(),
            tools: Tools {
                cyyber: env!("CARGO_PKG_VERSION"),
                packer: self.packer,
                qemu: super::qemu_version()?,
            },
        };
        let mut text = serde_json::to_vec_pretty(&metadata)?;
        text.push(b'\n');
        Ok(text)
    }
}

fn provisioned(lab: &Lab) -> Provisioned {
    let (files, scripts) = (lab.provision.files.iter(), lab.provision.scripts.iter());
    Provisioned {
        files: files.map(|file| file.target.to_string()).collect(),
        scripts: scripts.map(|script| script.as_path().to_owned()).collect(),
    }
}

/// The versions of `wanted` in `installed`, whose lines have a package, its version, and what it
/// provides.
fn versions<'a>(wanted: &'a [PackageName], installed: &'a str) -> Vec<Installed<'a>> {
    let all = installed.lines().filter_map(|line| {
        let (package, rest) = line.split_once('\t')?;
        let (version, provides) = rest.split_once('\t').unwrap_or((rest, ""));
        Some((package, version, provides))
    });
    let provides = |list: &str, wanted: &str| {
        let mut names = list.split(',').map(str::trim);
        names.any(|name| name.split([' ', ':']).next() == Some(wanted))
    };
    let find = |name: &str| {
        let own = all.clone().find(|(package, ..)| *package == name);
        own.or_else(|| all.clone().find(|(_, _, list)| provides(list, name)))
    };
    wanted
        .iter()
        .map(|name| {
            let name = name.as_str();
            let found = find(name);
            Installed {
                name,
                version: found.map(|(_, version, _)| version),
                provided_by: found.map(|(package, ..)| package).filter(|it| *it != name),
            }
        })
        .collect()
}

/// Whether `metadata` describes the base build called `build`.
pub fn is_about(metadata: &[u8], build: &str) -> bool {
    serde_json::from_slice::<serde_json::Value>(metadata)
        .is_ok_and(|metadata| metadata["build"] == build)
}

/// Checks that an image is complete and has no backing file.
pub fn check(image: &Path) -> Result<ImageInfo> {
    let info = images::info(image)?;
    info.ensure_whole()
        .with_context(|| format!("the built image {} cannot be used", image.display()))?;
    let mut command = Program::find("qemu-img", "qemu-utils")?.command();
    command.args(["check", "-q", "-f", "qcow2"]).arg(image);
    process::run(&mut command).context("the built image is damaged")?;
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_get_the_version_that_was_installed() {
        let wanted: Vec<PackageName> = ["nmap", "awk", "host", "sl"]
            .map(|name| name.parse().unwrap())
            .into();
        let installed = "mawk\t1.3\tawk\nnmap-common\t1\nnmap\t7.93+dfsg1-1\t\nbind9-host\t9.18\tdig, host (= 9)\n";
        let versions = versions(&wanted, installed);
        let installed = |name, version, provided_by| Installed {
            name,
            version,
            provided_by,
        };
        assert_eq!(
            versions,
            [
                installed("nmap", Some("7.93+dfsg1-1"), None),
                installed("awk", Some("1.3"), Some("mawk")),
                installed("host", Some("9.18"), Some("bind9-host")),
                installed("sl", None, None),
            ]
        );
    }
}
