//! The disk of a warm image, identified by its file name.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::header::Header;
use crate::names::LabId;
use crate::paths::Paths;

/// The disk of a warm image, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The lab.
    pub lab: LabId,
    /// Its base build.
    pub build: String,
    /// Its serial number among the warm images of that build.
    pub serial: String,
}

impl Layer {
    /// The disk of a build of `lab` with this serial number; `None` if a name is not valid.
    pub fn new(lab: &LabId, build: &str, serial: &str) -> Option<Layer> {
        let plain = |text: &str| {
            let mut bytes = text.bytes();
            !text.is_empty() && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        (plain(build) && plain(serial)).then(|| Layer {
            lab: lab.clone(),
            build: build.to_owned(),
            serial: serial.to_owned(),
        })
    }

    /// The disk with the file name `file`.
    pub fn named(file: &str) -> Option<Layer> {
        let (lab, rest) = file.strip_suffix(".qcow2")?.split_once('.')?;
        let (build, serial) = rest.split_once('.')?;
        let lab = lab.strip_suffix("-warm")?.parse().ok()?;
        Layer::new(&lab, build, serial)
    }

    /// The disk that is the backing file of `overlay`.
    pub fn below(overlay: &Path) -> Result<Option<Layer>> {
        let below = Header::of(overlay)?.backing_file;
        let file = below.as_deref().and_then(Path::file_name);
        Ok(file.and_then(|file| Layer::named(file.to_str()?)))
    }

    /// The file name of its base build.
    pub fn base_name(&self) -> String {
        format!("{}-base.{}.qcow2", self.lab, self.build)
    }

    /// Its path.
    pub fn path(&self, paths: &Paths) -> PathBuf {
        paths.warm_layer(&self.lab, &self.build, &self.serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_known_by_its_name() {
        let lab: LabId = "lab-warm".parse().unwrap();
        let paths = Paths::new("/s".as_ref(), "/t".as_ref(), "/o".as_ref()).unwrap();
        let path = paths.warm_layer(&lab, "20261123T100000Z-00ff", "20261124T100000Z");
        let layer = Layer::named(path.file_name().unwrap().to_str().unwrap()).unwrap();
        assert_eq!(layer.path(&paths), path);
        assert_eq!((&layer.lab, &*layer.build), (&lab, "20261123T100000Z-00ff"));
        for other in [
            "lab01-base.1.qcow2",
            "lab01-warm.1.qcow2",
            "lab01-warm..1.qcow2",
            "lab01-warm.1.2.memory",
            "lab01-warm.1.2.3.qcow2",
            "-warm.1.2.qcow2",
        ] {
            assert_eq!(Layer::named(other), None, "{other}");
        }
    }
}
