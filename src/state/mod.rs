//! The program's own files: activity, records and locks.
//!
//! The state directory is writable for a whole group, so nothing in it is trusted: links are not
//! followed, and what is not a regular file is not read.

pub mod activity;
pub mod lock;
pub mod record;

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// Group-writable, with the group inherited, and nothing for the world.
const DIRECTORY_MODE: u32 = 0o2770;
/// As the directories.
const FILE_MODE: u32 = 0o660;

/// A lock or a record is never this large.
const LARGEST_FILE: u64 = 1 << 20;

/// Makes `directory` and what is missing above it.
pub fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(directory)
        .map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("failed to make {}: {error}", directory.display()),
            )
        })
}

/// Opens a regular file, never one behind a link, and never waits for the other end of a pipe.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options
        .custom_flags(flags.bits().cast_signed())
        .mode(FILE_MODE)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other(format!(
            "{} is not a regular file",
            path.display()
        ))),
    }
}

/// Opens a file for writing and makes it first where it is missing, with its directory.
fn open_or_make(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    match open(path, &mut options) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_directory(path.parent().unwrap_or(Path::new("/")))?;
            open(path, &mut options)
        }
        opened => opened,
    }
    .map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("failed to open {}: {error}", path.display()),
        )
    })
}

/// The whole of a small file.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open(path, OpenOptions::new().read(true))?
        .take(LARGEST_FILE)
        .read_to_end(&mut content)?;
    Ok(content)
}

/// Replaces a file as a whole: a reader sees the old content or the new one, also after a power
/// cut.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    make_directory(directory)?;
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(Permissions::from_mode(FILE_MODE))
        .tempfile_in(directory)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_pipes_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, link, pipe) = (
            dir.path().join("secret"),
            dir.path().join("link"),
            dir.path().join("pipe"),
        );
        std::fs::write(&secret, "x").unwrap();
        std::os::unix::fs::symlink(&secret, &link).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        assert_eq!(read(&secret).unwrap(), b"x");
        assert!(read(&link).is_err());
        assert!(open_or_make(&link).is_err());
        assert!(
            read(&pipe).is_err(),
            "must fail at once instead of waiting for a writer"
        );
    }
}
