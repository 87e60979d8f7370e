//! The cloud image that a lab is built from.

use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use anyhow::Result;

use super::render::SOURCE_LINK;
use crate::config::{ImageUrl, Lab, Sha256};
use crate::error::{Fault, Kind};
use crate::images::{self, cloud};

/// The assumed size of a cloud image that is not downloaded yet, in bytes.
const DOWNLOAD: u64 = 1 << 30;

/// The cloud image of a lab.
#[derive(Debug)]
pub struct Source {
    /// Its path, if it is a file on this machine.
    pub file: Option<PathBuf>,
    /// Its identity.
    pub identity: String,
    /// Its size in bytes, or an assumed one.
    pub size: u64,
}

impl Source {
    /// Checks the cloud image of `lab`.
    pub fn of(lab: &Lab) -> Result<Source> {
        let checksum = lab.image.checksum.as_ref();
        let checksum = checksum.map(|sum| sum.as_str().to_owned());
        let ImageUrl::Path(path) = &lab.image.url else {
            if let ImageUrl::Https(url) = &lab.image.url
                && let Some(what) = cloud::packed_by_name(url.as_str())
            {
                let message = format!("the cloud image of lab '{}' is {what}: {url}", lab.lab_id);
                return Err(Fault::new(Kind::Config, message)
                    .hint("download and unpack it yourself, and give its path as image.url")
                    .into());
            }
            return Ok(Source {
                file: None,
                identity: checksum.unwrap_or_default(),
                size: DOWNLOAD,
            });
        };
        let file = std::path::absolute(path)?;
        let metadata = std::fs::metadata(&file).and_then(|metadata| {
            let no_file = std::io::Error::other("it is not a file");
            metadata.is_file().then_some(metadata).ok_or(no_file)
        });
        let metadata = metadata.map_err(|error| {
            let (lab, file) = (&lab.lab_id, file.display());
            let message = format!("the cloud image of lab '{lab}' cannot be read: {file}: {error}");
            let hint = "correct image.url in the configuration; `make image` makes the one that \
                        labs/demo.json uses";
            Fault::new(Kind::Config, message).hint(hint)
        })?;
        // Hashing it each time would take longer than the rest of the check for changes.
        let stamp = metadata.modified()?.duration_since(UNIX_EPOCH);
        let stamp = stamp.unwrap_or_default();
        let unhashed = format!("{} {} {}", file.display(), metadata.len(), stamp.as_nanos());
        Ok(Source {
            identity: checksum.unwrap_or(unhashed),
            size: metadata.len(),
            file: Some(file),
        })
    }

    /// SHA-256 of the image, in hexadecimal: computed for a file, expected for a download, which
    /// Packer checks. A file that does not match the configuration is an error.
    pub fn sha256(&self, lab: &Lab) -> Result<Option<String>> {
        let wanted = lab.image.checksum.as_ref().map(Sha256::digits);
        let Some(file) = &self.file else {
            return Ok(wanted.map(str::to_owned));
        };
        cloud::check(file).map_err(|error| {
            let hint = "unpack or download it again, and correct image.url in the configuration";
            let message = format!("the cloud image {} cannot be used", file.display());
            error.context(Fault::new(Kind::Config, message).hint(hint))
        })?;
        let found = images::sha256(file)?;
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            let message = format!(
                "the cloud image {} has the wrong checksum: it is sha256:{found}, but the \
                 configuration has sha256:{wanted}",
                file.display()
            );
            let hint = "download the image again from a trusted source, or correct image.checksum";
            return Err(Fault::new(Kind::Failed, message).hint(hint).into());
        }
        Ok(Some(found))
    }

    /// Its URL for Packer.
    pub fn url<'a>(&self, lab: &'a Lab) -> &'a str {
        match &lab.image.url {
            ImageUrl::Https(url) => url.as_str(),
            ImageUrl::Path(_) => SOURCE_LINK,
        }
    }
}
