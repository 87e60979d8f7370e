//! The cloud image that a lab is built from.

use std::path::PathBuf;

use anyhow::Result;

use crate::config::{ImageUrl, Lab};
use crate::error::{Fault, Kind};
use crate::images;

/// What a cloud image that is yet to be downloaded is taken to have, in bytes.
const DOWNLOAD: u64 = 1 << 30;

/// The cloud image of a lab.
#[derive(Debug)]
pub struct Source {
    /// Where it is, if it is a file of this machine.
    pub file: Option<PathBuf>,
    /// What tells it from any other.
    pub identity: String,
    /// Its size in bytes, or what it is taken to be.
    pub size: u64,
}

impl Source {
    /// Looks at the cloud image of `lab`.
    pub fn of(lab: &Lab) -> Result<Source> {
        let checksum = lab
            .image
            .checksum
            .as_ref()
            .map(|sum| sum.as_str().to_owned());
        let ImageUrl::Path(path) = &lab.image.url else {
            return Ok(Source {
                file: None,
                identity: checksum.unwrap_or_default(),
                size: DOWNLOAD,
            });
        };
        let file = std::path::absolute(path)?;
        let metadata = std::fs::metadata(&file).and_then(|metadata| match metadata.is_file() {
            true => Ok(metadata),
            false => Err(std::io::Error::other("it is not a file")),
        });
        let metadata = metadata.map_err(|error| {
            Fault::new(
                Kind::Config,
                format!("the cloud image of lab '{}' cannot be read: {}: {error}", lab.lab_id, file.display()),
            )
            .hint("correct image.url in the configuration; `make image` makes the one that labs/demo.json uses")
        })?;
        // Hashing it each time would take longer than the whole look at whether anything changed.
        let stamp = metadata
            .modified()?
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let unhashed = format!("{} {} {}", file.display(), metadata.len(), stamp.as_nanos());
        Ok(Source {
            identity: checksum.unwrap_or(unhashed),
            size: metadata.len(),
            file: Some(file),
        })
    }

    /// SHA-256 of the image, in hexadecimal, as far as it can be known without a download.
    pub fn sha256(&self, lab: &Lab) -> Result<Option<String>> {
        match (&lab.image.checksum, &self.file) {
            (Some(sum), _) => Ok(Some(sum.as_str().trim_start_matches("sha256:").to_owned())),
            (None, Some(file)) => images::sha256(file).map(Some),
            (None, None) => Ok(None),
        }
    }
}
