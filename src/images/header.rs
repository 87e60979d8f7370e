//! Parses the header of a qcow2 image. `qemu-img` reports it too, but takes ten times as long, and
//! this runs at each power-on.

use std::ffi::OsString;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::fs::OFlags;

/// The first bytes of a qcow2 image.
const MAGIC: &[u8] = b"QFI\xfb";

/// The incompatible feature bit for an external data file, which came with version 3
/// (<https://www.qemu.org/docs/master/interop/qcow2.html>).
const EXTERNAL_DATA: u64 = 1 << 2;

/// The maximum length of the name of the backing file.
const LONGEST_NAME: u64 = 1023;

/// How many bytes of it are read. An image has at least one cluster.
const HEAD: u64 = 80;

/// The header of a qcow2 image.
#[derive(Debug, PartialEq, Eq)]
pub struct Header {
    /// Its backing file.
    pub backing_file: Option<PathBuf>,
    /// The size of the disk that a guest sees, in bytes.
    pub disk_size: u64,
    /// The content is in an external data file.
    has_external_data: bool,
}

impl Header {
    /// The header of the image at `path`, which must be a plain file.
    pub fn of(path: &Path) -> Result<Header> {
        let read = || {
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let mut file = fs_err::OpenOptions::new()
                .read(true)
                .custom_flags(flags.bits().cast_signed())
                .open(path)?;
            ensure!(file.metadata()?.is_file(), "it is not a file");
            let mut head = Vec::new();
            file.by_ref().take(HEAD).read_to_end(&mut head)?;
            ensure!(
                head.starts_with(MAGIC) && head.len() as u64 == HEAD,
                "it is not a qcow2 image: convert it with qemu-img convert"
            );
            let number = |from: usize, to: usize| {
                let bytes = head.get(from..to).unwrap_or_default();
                let add = |sum, byte: &u8| sum << 8 | u64::from(*byte);
                bytes.iter().fold(0, add)
            };
            let (at, length) = (number(8, 16), number(16, 20));
            ensure!(length <= LONGEST_NAME, "its header is damaged");
            let mut name = vec![0; usize::try_from(length)?];
            if at != 0 {
                file.seek(SeekFrom::Start(at))?;
                file.read_exact(&mut name)?;
            }
            Ok(Header {
                backing_file: (at != 0).then(|| PathBuf::from(OsString::from_vec(name))),
                disk_size: number(24, 32),
                has_external_data: number(4, 8) >= 3 && number(72, 80) & EXTERNAL_DATA != 0,
            })
        };
        read().with_context(|| format!("failed to read the image {}", path.display()))
    }

    /// Fails if its content is in an external data file.
    pub fn ensure_own_data(&self) -> Result<()> {
        ensure!(
            !self.has_external_data,
            "it keeps its content in an external data file: convert it to one file with qemu-img \
             convert"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_and_damage_is_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let header = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).unwrap();
            Header::of(file.path())
        };
        let mut image = [0; 80];
        image[..4].copy_from_slice(MAGIC);
        image[30] = 2;
        let alone = Header {
            backing_file: None,
            disk_size: 512,
            has_external_data: false,
        };
        assert_eq!(header(&image).unwrap(), alone);
        (image[15], image[19]) = (32, 4);
        image[32..36].copy_from_slice(b"base");
        let below = header(&image).unwrap().backing_file;
        assert_eq!(below, Some(PathBuf::from("base")));
        image[79] = 4;
        assert!(header(&image).unwrap().ensure_own_data().is_ok());
        image[7] = 3;
        assert!(header(&image).unwrap().ensure_own_data().is_err());
        image[15] = 79;
        assert!(header(&image).is_err(), "the name ends after the file");
        image[16] = 1;
        assert!(header(&image).is_err(), "the name is too long");
        assert!(header(b"not an image, but long enough for a header").is_err());
        assert!(Header::of(Path::new("/dev/null")).is_err());
    }
}
