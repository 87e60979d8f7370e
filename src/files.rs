//! Files written as a whole and read with care.
//!
//! Some of our directories are writable for a whole group, so nothing in them is trusted: links are
//! not followed, and what is not a regular file is not read.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use jiff::Timestamp;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::path::Arg;
use serde::{Deserialize, Serialize};

/// For owner and group.
pub const SHARED: u32 = 0o660;

/// For the owner alone.
pub const PRIVATE: u32 = 0o600;

/// A directory for owner and group, whose files belong to the group.
pub const SHARED_DIRECTORY: u32 = 0o2770;

/// As [`SHARED_DIRECTORY`], and the QEMU user may pass through to a file that it knows of.
pub const PASSABLE_DIRECTORY: u32 = 0o2771;

/// A lock, a record or a note is never this large.
const LARGEST: u64 = 1 << 20;

/// Makes `directory` and what is missing above it, all with `mode`, whatever the umask is. A link in
/// its place is refused: it would lead us out of the directory above it.
pub fn make_directory(directory: &Path, mode: u32) -> io::Result<()> {
    match directory.symlink_metadata() {
        Ok(there) if there.is_dir() => return Ok(()),
        Ok(_) => {
            return Err(said(
                &io::Error::other("something else is in its place"),
                "make",
                directory,
            ));
        }
        Err(_) => {}
    }
    if let Some(parent) = directory.parent().filter(|parent| !parent.is_dir()) {
        make_directory(parent, mode)?;
    }
    let made = match std::fs::create_dir(directory) {
        Ok(()) => std::fs::set_permissions(directory, Permissions::from_mode(mode)),
        // Another command was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        failed => failed,
    };
    made.map_err(|error| said(&error, "make", directory))
}

/// Replaces the file at `path` as a whole: a reader sees the old content or the new one, also after
/// a power cut. The directory must be there.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    replaced(path, content, mode, File::sync_all)
}

/// As [`replace`], without waiting for the disk: a power cut may leave the old content, or none.
pub fn replace_soon(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    replaced(path, content, mode, |_| Ok(()))
}

fn replaced(
    path: &Path,
    content: &[u8],
    mode: u32,
    settle: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let write = || {
        let mut file = tempfile::Builder::new()
            .prefix(".new-")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(path.parent().unwrap_or(Path::new("/")))?;
        file.write_all(content)?;
        settle(file.as_file())?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|error: io::Error| said(&error, "write", path))
}

/// Makes a file that was not there, in place of one that was. A link is replaced, not followed.
pub fn create_anew(path: &Path, mode: u32) -> io::Result<File> {
    remove(path)?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(|error| said(&error, "make", path))
}

/// The whole of a small file of ours.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_up_to(path, LARGEST)
}

/// The whole of a file of ours that is not larger than `largest` bytes.
pub fn read_up_to(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let directory = Directory::open(path.parent().unwrap_or(Path::new("/")))?;
    directory.read_up_to(name, largest)
}

/// A directory of ours whose files are read one after the other, with as few calls as can be.
#[derive(Debug)]
pub struct Directory(OwnedFd);

impl Directory {
    /// Opens `path`, unless it is a link.
    pub fn open(path: &Path) -> io::Result<Directory> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Directory(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Opens a regular file in it for reading.
    pub fn open_file(&self, name: impl Arg) -> io::Result<File> {
        Ok(self.open_sized(name, LARGEST)?.0)
    }

    /// The whole of a small file in it.
    pub fn read(&self, name: impl Arg) -> io::Result<Vec<u8>> {
        self.read_up_to(name, LARGEST)
    }

    fn read_up_to(&self, name: impl Arg, largest: u64) -> io::Result<Vec<u8>> {
        let (mut file, size) = self.open_sized(name, largest)?;
        let mut content = vec![0; usize::try_from(size).unwrap_or(0)];
        // Files are replaced and never grow: the size was the whole of it.
        file.read_exact(&mut content)?;
        Ok(content)
    }

    /// When a regular file in it was last written to.
    pub fn modified(&self, name: impl Arg) -> io::Result<Timestamp> {
        let there = rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?;
        regular(&there, LARGEST)?;
        let nanoseconds = i32::try_from(there.st_mtime_nsec).map_err(io::Error::other)?;
        Timestamp::new(there.st_mtime, nanoseconds).map_err(io::Error::other)
    }

    fn open_sized(&self, name: impl Arg, largest: u64) -> io::Result<(File, u64)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, name, flags, Mode::empty())?;
        let size = regular(&rustix::fs::fstat(&file)?, largest)?;
        Ok((file.into(), size))
    }
}

/// The size of what is a regular file, and not larger than `largest`.
fn regular(there: &Stat, largest: u64) -> io::Result<u64> {
    if !FileType::from_raw_mode(there.st_mode).is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    match u64::try_from(there.st_size) {
        Ok(size) if size <= largest => Ok(size),
        _ => Err(io::Error::other("it is too large")),
    }
}

/// Opens a file for writing and makes it where it is missing, with its directory.
pub fn open_or_make(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(SHARED);
    match open(path, &mut options) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_directory(path.parent().unwrap_or(Path::new("/")), SHARED_DIRECTORY)?;
            open(path, &mut options)
        }
        opened => opened,
    }
    .map_err(|error| said(&error, "open", path))
}

/// Removes a file or a whole directory, if it is there.
pub fn remove(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(_) => Ok(()),
    };
    removed.map_err(|error| said(&error, "remove", path))
}

/// Tells one state of a file's content from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// In bytes.
    pub size: u64,
    /// When it was last written to.
    pub modified: Timestamp,
}

impl Identity {
    /// The present one of the file at `path`; a link is not followed.
    pub fn of(path: &Path) -> io::Result<Identity> {
        let there = path.symlink_metadata()?;
        Ok(Identity {
            size: there.len(),
            modified: Timestamp::try_from(there.modified()?).map_err(io::Error::other)?,
        })
    }
}

/// Makes what was done in the directory of `path` last through a power cut.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// Opens a regular file, never one behind a link, and never waits for the other end of a pipe.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    if !directory.symlink_metadata()?.is_dir() {
        return Err(io::Error::other("its directory is a link or a file"));
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

fn said(error: &io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("failed to {what} {}: {error}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_pipes_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        std::fs::write(path("secret"), "x").unwrap();
        std::os::unix::fs::symlink(path("secret"), path("link")).unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), fifo, PRIVATE.into(), 0).unwrap();
        assert_eq!(read(&path("secret")).unwrap(), b"x");
        assert!(read(&path("link")).is_err());
        assert!(open_or_make(&path("link")).is_err());
        std::os::unix::fs::symlink(dir.path(), path("elsewhere")).unwrap();
        assert!(open_or_make(&path("elsewhere/file")).is_err());
        assert!(make_directory(&path("elsewhere"), SHARED_DIRECTORY).is_err());
        create_anew(&path("link"), SHARED).unwrap();
        assert_eq!(
            read(&path("secret")).unwrap(),
            b"x",
            "the link was followed"
        );
        assert!(read(&path("pipe")).is_err(), "must not wait for a writer");
    }

    #[test]
    fn directories_get_their_mode_whatever_the_umask_is() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        make_directory(&inner, PASSABLE_DIRECTORY).unwrap();
        for path in [&inner, &dir.path().join("a")] {
            assert_eq!(
                path.metadata().unwrap().permissions().mode() & 0o7777,
                PASSABLE_DIRECTORY
            );
        }
    }

    #[test]
    fn a_replaced_file_is_the_new_one_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        replace(&path, b"old", SHARED).unwrap();
        replace(&path, b"new", PRIVATE).unwrap();
        assert_eq!(read(&path).unwrap(), b"new");
        assert_eq!(
            path.metadata().unwrap().permissions().mode() & 0o777,
            PRIVATE
        );
        assert_eq!(
            dir.path().read_dir().unwrap().count(),
            1,
            "no temporary file is left"
        );
    }
}
