//! Files replaced atomically and read with care.
//!
//! Some of our directories are writable for a whole group, so nothing in them is trusted: links are
//! not followed, and only regular files are read.

pub mod archive;
mod directory;
pub mod trust;

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use directory::{A_LINK, Directory, rename_new};

/// For owner and group.
pub const SHARED: u32 = 0o660;

/// For the owner alone.
pub const PRIVATE: u32 = 0o600;

/// A directory for owner and group, whose files belong to the group.
pub const SHARED_DIRECTORY: u32 = 0o2770;

/// A directory for the owner alone.
pub const PRIVATE_DIRECTORY: u32 = 0o700;

/// Like [`SHARED_DIRECTORY`], but the QEMU user may also open a file in it whose name it knows.
pub const PASSABLE_DIRECTORY: u32 = 0o2771;

/// Creates `directory` and its missing parents, all with `mode`, independent of the umask. A link
/// in its place is refused, because it would lead out of the parent directory.
pub fn make_directory(directory: &Path, mode: u32) -> io::Result<()> {
    let there = directory.symlink_metadata();
    if there.as_ref().is_ok_and(Metadata::is_dir) {
        return Ok(());
    }
    let parent = directory.parent().unwrap_or(Path::new("/"));
    if there.is_err() && !parent.is_dir() {
        make_directory(parent, mode)?;
    }
    let make = || {
        if let Ok(there) = there {
            let link = there.is_symlink().then(|| format!("it is {A_LINK}"));
            let why = link.unwrap_or_else(|| {
                "something that is not a directory has its \
                                              name"
                    .to_owned()
            });
            return Err(io::Error::other(why));
        }
        // Its parent directory may be an administrator's link.
        let parent = Directory::open(&std::fs::canonicalize(parent)?)?;
        let name = directory.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        parent.make_directory(name, mode)
    };
    make().map_err(|error| said(&error, "make", directory))
}

/// Creates the directory of `path`, for files of ours.
pub fn make_directory_of(path: &Path) -> io::Result<()> {
    make_directory(path.parent().unwrap_or(Path::new("/")), SHARED_DIRECTORY)
}

/// Replaces the file at `path` atomically: a reader sees either the old or the new content, even
/// after a power cut. The directory must exist.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    replaced(path, content, mode, File::sync_all)
}

/// Like [`replace`], without waiting for the disk: after a power cut, the file may have the old
/// content, or none.
pub fn replace_soon(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    replaced(path, content, mode, |_| Ok(()))
}

fn replaced(
    path: &Path,
    content: &[u8],
    mode: u32,
    settle: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    Directory::of(path)
        .and_then(|(directory, name)| directory.replace(name, content, mode, settle))
        .map_err(|error| said(&error, "write", path))
}

/// Like [`replace_soon`], for a file that a user wants for others to read: a directory on its path
/// may be an administrator's link, and anything but a file is not replaced.
pub fn publish(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().ok_or(io::Error::other("it has no name"))?;
    if path.symlink_metadata().is_ok_and(|there| !there.is_file()) {
        return Err(io::Error::other(
            "something that is not a file has its name",
        ));
    }
    let directory = std::path::absolute(path)?;
    let directory = directory.parent().unwrap_or(Path::new("/"));
    replace_soon(&std::fs::canonicalize(directory)?.join(name), content, mode)
}

/// Creates a new file, replacing an existing one. A link is replaced, not followed.
pub fn create_anew(path: &Path, mode: u32) -> io::Result<File> {
    remove(path)?;
    Directory::of(path)
        .and_then(|(directory, name)| directory.make(name, mode))
        .map_err(|error| said(&error, "make", path))
}

/// Whether files can be created in `directory`, in the same way as all our files.
pub fn probe(directory: &Path) -> io::Result<()> {
    let name = format!(".probe-{:016x}", rand::random::<u64>());
    let directory = Directory::open(directory)?;
    directory.put_new(OsStr::new(&name), &[], PRIVATE)?;
    directory.remove(&*name).map(drop)
}

/// Whether a file in `directory` can be `length` bytes long. Uses no space.
pub fn probe_length(directory: &Path, length: u64) -> io::Result<()> {
    let name = format!(".probe-{:016x}", rand::random::<u64>());
    let directory = Directory::open(directory)?;
    let made = directory.make(&*name, PRIVATE);
    let grown = made.and_then(|file| file.set_len(length));
    directory.remove(&*name)?;
    grown
}

/// The content of one of our small files.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let (directory, name) = Directory::of(path)?;
    directory.read(name)
}

/// The same; `None` where there is no such file.
pub fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        content => content.map(Some),
    }
}

/// The content of one of our files that is not larger than `largest` bytes.
pub fn read_up_to(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    let (directory, name) = Directory::of(path)?;
    directory.read_up_to(name, largest)
}

/// The names in a directory, which may be missing. Our names are always Unicode.
pub fn names_in(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs_err::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok());
    }
    Ok(names)
}

/// Opens a file for writing; creates it and its directory if they are missing.
pub fn open_or_make(path: &Path) -> io::Result<File> {
    let open = || {
        let (directory, name) = Directory::of(path)?;
        directory.open_or_make(name, SHARED)
    };
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_directory_of(path)?;
            open()
        }
        opened => opened,
    }
    .map_err(|error| said(&error, "open", path))
}

/// Removes a file or a directory with its content, if it exists.
pub fn remove(path: &Path) -> io::Result<()> {
    let removed = match Directory::of(path) {
        Ok((directory, name)) => match directory.remove(name) {
            Ok(false) => std::fs::remove_dir_all(path),
            done => done.map(drop),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(|error| said(&error, "remove", path))
}

/// Identifies a state of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// In bytes.
    pub size: u64,
    /// Its modification time.
    pub modified: Timestamp,
}

impl Identity {
    /// The present one of the file at `path`; a link is not followed.
    pub fn of(path: &Path) -> io::Result<Identity> {
        Identity::try_from(&path.symlink_metadata()?)
    }
}

impl TryFrom<&Metadata> for Identity {
    type Error = io::Error;

    fn try_from(there: &Metadata) -> io::Result<Identity> {
        let modified = Timestamp::try_from(there.modified()?).map_err(io::Error::other)?;
        let size = there.len();
        Ok(Identity { size, modified })
    }
}

/// Identifies a file, even among files with the same name, size and times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exact {
    /// Its inode number. The number of its file system is not used, because it changes at each
    /// boot.
    pub inode: u64,
    /// When its content or its metadata last changed. Nobody can set that.
    pub changed: Timestamp,
    /// Its owner.
    pub owner: u32,
}

impl TryFrom<&Metadata> for Exact {
    type Error = io::Error;

    fn try_from(there: &Metadata) -> io::Result<Exact> {
        let nanoseconds = i32::try_from(there.ctime_nsec()).map_err(io::Error::other)?;
        Ok(Exact {
            inode: there.ino(),
            changed: Timestamp::new(there.ctime(), nanoseconds).map_err(io::Error::other)?,
            owner: there.uid(),
        })
    }
}

/// Syncs the directory of `path`, so that changes in it survive a power cut.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}
fn said(error: &io::Error, what: &str, path: &Path) -> io::Error {
    let message = format!("failed to {what} {}: {error}", path.display());
    io::Error::new(error.kind(), message)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

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
        assert!(replace(&path("elsewhere/secret"), b"y", SHARED).is_err());
        assert!(create_anew(&path("elsewhere/secret"), SHARED).is_err());
        assert!(remove(&path("elsewhere/secret")).is_err());
        assert!(read(&path("elsewhere/secret")).is_err());
        create_anew(&path("link"), SHARED).unwrap();
        assert_eq!(
            read(&path("secret")).unwrap(),
            b"x",
            "the link was followed"
        );
        assert!(read(&path("pipe")).is_err(), "must not wait for a writer");
    }

    #[test]
    fn a_directory_that_takes_no_files_is_found() {
        let dir = tempfile::tempdir().unwrap();
        probe(dir.path()).unwrap();
        assert_eq!(
            dir.path().read_dir().unwrap().count(),
            0,
            "it left something"
        );
        assert!(probe(Path::new("/proc")).is_err());
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
