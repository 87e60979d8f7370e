//! An open directory, and operations on its files by name: nobody can replace the directory with a
//! link in the meantime and redirect them.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use jiff::Timestamp;
use rustix::fs::{AtFlags, Dir, DirEntry, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use rustix::path::Arg;

/// The maximum size of a lock, a record or a note.
const LARGEST: u64 = 1 << 20;

/// Never follow a link, never wait at a pipe, never inherit to a child.
const CAREFULLY: OFlags = OFlags::NOFOLLOW
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// The message for a link in place of a directory.
pub const A_LINK: &str = "a symbolic link, which is not followed: use a directory instead; to use \
                          another disk, mount it there";

/// Renames within `directory`, never over an existing file. Not every file system, for example NFS,
/// can do that in one step: there the file has both names for a moment.
pub fn rename_new(
    directory: impl AsFd + Copy,
    from: impl Arg + Copy,
    to: impl Arg + Copy,
) -> io::Result<()> {
    let flags = RenameFlags::NOREPLACE;
    match rustix::fs::renameat_with(directory, from, directory, to, flags) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => link_new(directory, from, to),
        renamed => Ok(renamed?),
    }
}

fn link_new(
    directory: impl AsFd + Copy,
    from: impl Arg + Copy,
    to: impl Arg + Copy,
) -> io::Result<()> {
    match rustix::fs::linkat(directory, from, directory, to, AtFlags::empty()) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
            let why = "its file system cannot rename without overwriting";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        linked => linked?,
    }
    Ok(rustix::fs::unlinkat(directory, from, AtFlags::empty())?)
}

/// A directory of ours.
#[derive(Debug)]
pub struct Directory(OwnedFd);

impl Directory {
    /// Opens `path`, unless it is a link.
    pub fn open(path: &Path) -> io::Result<Directory> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::NOTDIR) if path.is_symlink() => {
                Err(io::Error::other(format!("its directory is {A_LINK}")))
            }
            opened => Ok(Directory(opened?)),
        }
    }

    /// Opens the directory of `path`; also returns the name of `path` in it.
    pub fn of(path: &Path) -> io::Result<(Directory, &OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Ok((Directory::open(parent)?, name))
    }

    /// Opens a regular file in it for reading.
    pub fn open_file(&self, name: impl Arg) -> io::Result<File> {
        Ok(self.open_sized(name, LARGEST)?.0)
    }

    /// The same for a file of any size, for a reader that does not load it completely.
    pub fn open_large(&self, name: impl Arg) -> io::Result<File> {
        Ok(self.open_sized(name, u64::MAX)?.0)
    }

    /// The content of a small file in it.
    pub fn read(&self, name: impl Arg) -> io::Result<Vec<u8>> {
        self.read_up_to(name, LARGEST)
    }

    /// The content of a file in it that is not larger than `largest` bytes.
    pub fn read_up_to(&self, name: impl Arg, largest: u64) -> io::Result<Vec<u8>> {
        let (mut file, size) = self.open_sized(name, largest)?;
        let mut content = vec![0; usize::try_from(size).unwrap_or(0)];
        // Our files are replaced and never grow, so this was the complete size.
        file.read_exact(&mut content)?;
        Ok(content)
    }

    /// The modification time of a regular file in it.
    pub fn modified(&self, name: impl Arg) -> io::Result<Timestamp> {
        let there = rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?;
        sized(&there, LARGEST)?;
        let nanoseconds = i32::try_from(there.st_mtime_nsec).map_err(io::Error::other)?;
        Timestamp::new(there.st_mtime, nanoseconds).map_err(io::Error::other)
    }

    /// Opens a regular file in it for writing; creates it with `mode` if it is missing.
    pub fn open_or_make(&self, name: impl Arg, mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | CAREFULLY;
        let file = rustix::fs::openat(&self.0, name, flags, mode.into())?;
        regular(&rustix::fs::fstat(&file)?)?;
        Ok(file.into())
    }

    /// Creates a file in it that must not exist, with exactly this `mode`.
    pub fn make(&self, name: impl Arg, mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | CAREFULLY;
        let file = File::from(rustix::fs::openat(&self.0, name, flags, mode.into())?);
        file.set_permissions(Permissions::from_mode(mode))?;
        Ok(file)
    }

    /// Creates a directory in it with exactly this `mode`; an existing one is not changed.
    pub fn make_directory(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        match rustix::fs::mkdirat(&self.0, name, Mode::RWXU) {
            // Another command was faster.
            Err(Errno::EXIST) => return Ok(()),
            made => made?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | CAREFULLY;
        let made: File = rustix::fs::openat(&self.0, name, flags, Mode::empty())?.into();
        made.set_permissions(Permissions::from_mode(mode))
    }

    /// Replaces the file called `name` atomically with this `content`. `settle` is called with the
    /// new file before.
    pub fn replace(
        &self,
        name: &OsStr,
        content: &[u8],
        mode: u32,
        settle: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        self.make_aside(content, mode, settle, |new| {
            Ok(rustix::fs::renameat(&self.0, new, &self.0, name)?)
        })
    }

    /// Creates a file with this `content` in it, atomically and durably, unless something called
    /// `name` exists; returns whether it did.
    pub fn put_new(&self, name: &OsStr, content: &[u8], mode: u32) -> io::Result<bool> {
        let put = |new: &str| match rename_new(&self.0, new, name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.remove(new).map(|_| false)
            }
            renamed => renamed.map(|()| true),
        };
        self.make_aside(content, mode, File::sync_all, put)
    }

    /// Creates a file with this `content` under a temporary name, and lets `put` rename it.
    fn make_aside<T>(
        &self,
        content: &[u8],
        mode: u32,
        settle: impl FnOnce(&File) -> io::Result<()>,
        put: impl FnOnce(&str) -> io::Result<T>,
    ) -> io::Result<T> {
        let new = format!(".new-{:016x}", rand::random::<u64>());
        let mut file = self.make(&*new, mode)?;
        let written = file.write_all(content).and_then(|()| settle(&file));
        let done = written.and_then(|()| put(&new));
        done.inspect_err(|_| drop(self.remove(&*new)))
    }

    /// The names of everything in it.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let entries = Dir::new(rustix::fs::openat(&self.0, c".", flags, Mode::empty())?)?;
        let name = |entry: DirEntry| OsString::from_vec(entry.file_name().to_bytes().to_vec());
        entries.map(|entry| Ok(name(entry?))).collect()
    }

    /// Removes a file or a link in it, if it exists. Returns whether it was anything but a
    /// directory, which is not removed.
    pub fn remove(&self, name: impl Arg) -> io::Result<bool> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(true),
            Err(Errno::ISDIR) => Ok(false),
            removed => removed.map(|()| true).map_err(Into::into),
        }
    }

    pub(super) fn open_sized(&self, name: impl Arg, largest: u64) -> io::Result<(File, u64)> {
        let file = rustix::fs::openat(&self.0, name, OFlags::RDONLY | CAREFULLY, Mode::empty())?;
        let size = sized(&rustix::fs::fstat(&file)?, largest)?;
        Ok((file.into(), size))
    }
}

fn regular(there: &Stat) -> io::Result<()> {
    if !FileType::from_raw_mode(there.st_mode).is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(())
}

/// The size of a file, which must be a regular one and not larger than `largest`.
fn sized(there: &Stat, largest: u64) -> io::Result<u64> {
    regular(there)?;
    match u64::try_from(there.st_size) {
        Ok(size) if size <= largest => Ok(size),
        _ => Err(io::Error::other("it is too large")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gets_its_name_in_both_ways_and_never_over_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        let open = File::open(dir.path()).unwrap();
        for by_link in [false, true] {
            let put = |from: &str, to: &str| match by_link {
                true => link_new(&open, from, to),
                false => rename_new(&open, from, to),
            };
            for name in ["one", "other"] {
                std::fs::write(path(name), name).unwrap();
            }
            put("one", "place").unwrap();
            assert!(!path("one").exists());
            let error = put("other", "place").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read(path("place")).unwrap(), b"one");
            assert!(path("other").exists());
            std::fs::remove_file(path("place")).unwrap();
        }
    }
}
