//! Whether a file can be trusted: only root or the caller may be able to write to it. A
//! configuration is executed with the caller's rights, so one that somebody else can write is
//! refused, wherever it is.
//!
//! This works as in git for repositories and in ssh for keys: by owner and mode of the file and of
//! each directory and link on its path.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::process::Program;

/// The group whose members are equivalent to root, by what libvirt permits them.
const MANAGERS: &str = "libvirt";

/// The maximum number of links in a path, and the maximum depth of a tree.
const MOST_LINKS: usize = 40;

/// Why a file is not used.
#[derive(Debug)]
pub enum Refusal {
    /// It cannot be opened.
    Io(io::Error),
    /// Somebody else may have written it.
    Untrusted(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::Io(error)
    }
}

/// The trusted users.
#[derive(Debug, Clone, Copy)]
pub struct Trust {
    /// The user who runs the program.
    user: u32,
    /// The user who ran it with `sudo`.
    behind_sudo: Option<u32>,
}

impl Trust {
    /// Root and the user who runs the program. `sudo_user` is the user behind `sudo`, according to
    /// the environment; it is only believed if root runs the program.
    pub fn new(sudo_user: Option<u32>) -> Trust {
        let user = rustix::process::geteuid().as_raw();
        Trust {
            user,
            behind_sudo: sudo_user.filter(|_| user == 0),
        }
    }

    /// Opens the file at `path` if it can be trusted. Does not wait at a pipe.
    pub fn open(&self, path: &Path) -> Result<File, Refusal> {
        let (real, crowded) = self.resolve(path)?;
        let kernels = real.starts_with("/proc");
        let mut flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // The caller has opened the target of the kernel's own links.
        flags.set(OFlags::NOFOLLOW, !kernels);
        let opened = rustix::fs::open(&real, flags, Mode::empty());
        let file: File = opened.map_err(io::Error::from)?.into();
        let there = file.metadata()?;
        self.check(&real, &there)?;
        if crowded && there.is_file() && there.nlink() > 1 {
            let why = "has another hard link, and others can write to its directory";
            return Err(untrusted(&real, why));
        }
        rustix::fs::fcntl_setfl(&file, OFlags::empty()).map_err(io::Error::from)?;
        Ok(file)
    }

    /// Fails unless everything in and below the directory at `path` can be trusted. Hidden files
    /// are ignored.
    pub fn ensure_tree(&self, path: &Path) -> Result<(), Refusal> {
        self.ensure_below(path, 0)
    }

    fn ensure_below(&self, path: &Path, depth: usize) -> Result<(), Refusal> {
        if depth > MOST_LINKS {
            return Err(io::Error::from(rustix::io::Errno::LOOP).into());
        }
        let (real, _) = self.resolve(path)?;
        let there = real.symlink_metadata()?;
        self.check(&real, &there)?;
        if !there.is_dir() {
            return Ok(());
        }
        for entry in std::fs::read_dir(&real)? {
            let entry = entry?;
            if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                self.ensure_below(&entry.path(), depth + 1)?;
            }
        }
        Ok(())
    }

    /// The target of `path`, if nobody else can redirect it; and whether others can create files
    /// beside it.
    fn resolve(&self, path: &Path) -> Result<(PathBuf, bool), Refusal> {
        let mut left = parts(&std::path::absolute(path)?);
        let mut at = PathBuf::from("/");
        let mut crowded = self.check(&at, &at.symlink_metadata()?).map(|()| false)?;
        let mut links = 0;
        while let Some(part) = left.pop() {
            if part == ".." {
                at.pop();
                continue;
            }
            let place = at.join(&part);
            let there = place.symlink_metadata()?;
            if there.is_symlink() {
                links += 1;
                if links > MOST_LINKS {
                    return Err(io::Error::from(rustix::io::Errno::LOOP).into());
                }
                if place.starts_with("/proc") {
                    let rest = left.into_iter().rev();
                    return Ok((rest.fold(place, |place, part| place.join(part)), false));
                }
                self.check_owner(&place, &there)?;
                let target = std::fs::read_link(&place)?;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                left.extend(parts(&target));
                continue;
            }
            if there.is_dir() {
                self.check(&place, &there)?;
                crowded = there.mode() & 0o022 != 0;
            }
            at = place;
        }
        Ok((at, crowded))
    }

    /// Whether only trusted users can write to `place`.
    fn check(&self, place: &Path, there: &Metadata) -> Result<(), Refusal> {
        self.check_owner(place, there)?;
        let (mode, kind) = (there.mode(), there.file_type());
        // In a directory such as /tmp, users cannot remove each other's files. Pipes and devices
        // have no content of their own.
        if kind.is_dir() && mode & 0o1000 != 0 || kind.is_fifo() || kind.is_char_device() {
            return Ok(());
        }
        if mode & 0o002 != 0 {
            let mode = mode & 0o7777;
            let why = format!("can be written by anybody: its mode is {mode:o}");
            return Err(untrusted(place, &why));
        }
        if mode & 0o020 != 0 {
            let group = there.gid();
            if has_access_list(place) {
                let why = "has an access control list that lets others write to it";
                return Err(untrusted(place, why));
            }
            if group != 0 && !is_trusted_group(group, there.uid()) {
                let why = format!("can be written by the members of group {group}");
                return Err(untrusted(place, &why));
            }
        }
        Ok(())
    }

    fn check_owner(&self, place: &Path, there: &Metadata) -> Result<(), Refusal> {
        let owner = there.uid();
        if owner == 0 || owner == self.user || self.behind_sudo == Some(owner) {
            return Ok(());
        }
        let why = format!("belongs to user {owner}, not to root or to you");
        Err(untrusted(place, &why))
    }
}

fn untrusted(place: &Path, why: &str) -> Refusal {
    Refusal::Untrusted(format!("{} {why}", place.display()))
}

/// The parts of `path`, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(part) => Some(part.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut parts: Vec<_> = parts.collect();
    parts.reverse();
    parts
}

/// Whether anybody but owner and group may be able to write, as far as that can be seen.
fn has_access_list(place: &Path) -> bool {
    let none = [rustix::io::Errno::NODATA, rustix::io::Errno::NOTSUP];
    let mut list = [0_u8; 0];
    match rustix::fs::lgetxattr(place, "system.posix_acl_access", &mut list) {
        Ok(size) => size > 0,
        Err(error) => !none.contains(&error),
    }
}

/// Whether only root, users equivalent to it, and the user `owner` are in the group. When in doubt,
/// others are.
fn is_trusted_group(group: u32, owner: u32) -> bool {
    let ask = |database: &str, id: u32| {
        let getent = Program::find("getent", "libc-bin");
        let entry = getent.and_then(|getent| getent.run([database, &id.to_string()]));
        entry.unwrap_or_default()
    };
    let entry = ask("group", group);
    let entry: Vec<&str> = entry.trim_end().split(':').collect();
    let [name, _, _, members] = *entry.as_slice() else {
        return false;
    };
    if name == MANAGERS {
        return true;
    }
    // Debian gives each user a group of the same name.
    let user = ask("passwd", owner);
    let user: Vec<&str> = user.trim_end().split(':').collect();
    let own = user[0] == name && user.get(3).is_some_and(|own| *own == group.to_string());
    let mut members = members.split(',');
    own && members.all(|member| member.is_empty() || member == name)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn as_root() -> Trust {
        Trust {
            user: rustix::process::geteuid().as_raw(),
            behind_sudo: None,
        }
    }

    fn why(trust: Trust, path: &Path) -> String {
        match trust.open(path) {
            Err(Refusal::Untrusted(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    fn with_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_others_can_write_is_not_trusted() {
        let directory = tempfile::tempdir().unwrap();
        let (inner, file) = (
            directory.path().join("in"),
            directory.path().join("in/file"),
        );
        fs::create_dir(&inner).unwrap();
        fs::write(&file, "mine").unwrap();
        with_mode(&file, 0o600);
        let mut text = String::new();
        as_root()
            .open(&file)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "mine");
        as_root().ensure_tree(&inner).unwrap();

        with_mode(&file, 0o602);
        assert!(why(as_root(), &file).contains("file can be written by anybody: its mode is 602"));
        assert!(as_root().ensure_tree(directory.path()).is_err());
        with_mode(&file, 0o644);
        with_mode(&inner, 0o777);
        assert!(why(as_root(), &file).contains("in can be written by anybody"));
        assert!(as_root().ensure_tree(directory.path()).is_err());
        // As /tmp is, in which others can make files, but not in the place of ours.
        with_mode(&inner, 0o1777);
        as_root().open(&file).unwrap();
        fs::hard_link(&file, inner.join("also")).unwrap();
        assert!(why(as_root(), &file).contains("another hard link"));
        fs::remove_file(inner.join("also")).unwrap();
        with_mode(&inner, 0o700);
        with_mode(&file, 0o664);
        // No such group is known.
        if chown(&file, None, Some(4_000_000_001)).is_ok() {
            assert!(why(as_root(), &file).contains("group 4000000001"));
            with_mode(&file, 0o644);
            as_root().open(&file).unwrap();
        }
    }

    #[test]
    fn links_are_followed_where_nobody_else_made_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("a")).unwrap();
        fs::write(path("file"), "x").unwrap();
        symlink("../file", path("a/link")).unwrap();
        symlink(path("a"), path("b")).unwrap();
        as_root().open(&path("b/link")).unwrap();
        as_root().open(&path("b/../b/../file")).unwrap();
        symlink("round", path("round")).unwrap();
        assert!(matches!(
            as_root().open(&path("round")),
            Err(Refusal::Io(_))
        ));
        with_mode(&path("a"), 0o733);
        assert!(why(as_root(), &path("b/link")).contains("a can be written"));
    }

    #[test]
    fn only_root_believes_in_whoever_is_behind_sudo() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "x").unwrap();
        let other = 4_000_000_001;
        if chown(&file, Some(other), None).is_err() {
            // Not root: nothing can be given away.
            return;
        }
        assert!(why(as_root(), &file).contains("belongs to user 4000000001"));
        let behind = Trust {
            behind_sudo: Some(other),
            ..as_root()
        };
        behind.open(&file).unwrap();
        assert!(why(Trust::new(Some(5)), &file).contains("belongs to"));
        std::os::unix::fs::lchown(&file, Some(0), None).unwrap();
        symlink(&file, directory.path().join("link")).unwrap();
        std::os::unix::fs::lchown(directory.path().join("link"), Some(other), None).unwrap();
        assert!(why(as_root(), &directory.path().join("link")).contains("link belongs to"));
    }

    #[test]
    fn what_the_caller_has_open_is_read_and_a_pipe_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, 0o600.into(), 0).unwrap();
        let mut text = String::new();
        as_root()
            .open(&pipe)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        as_root().open(Path::new("/dev/null")).unwrap();
        let open = File::open("/dev/null").unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&open);
        as_root()
            .open(Path::new(&format!("/dev/fd/{number}")))
            .unwrap();
    }
}
