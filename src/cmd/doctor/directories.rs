//! Whether our directories exist, have the right owner and mode, and contain no links out of them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::finding::{Check, Finding};
use crate::context::Context;
use crate::files::{self, A_LINK, PASSABLE_DIRECTORY, SHARED_DIRECTORY};
use crate::hypervisor::Account;

/// The group whose members manage instances.
const GROUP: &str = "libvirt";

/// How many strange entries are named.
const NAMED: usize = 3;

const CHECK: Check = Check("directories");

pub fn check(context: &Context, qemu: Option<Account>) -> Vec<Finding> {
    let paths = &context.paths;
    let storage = [
        paths.storage().to_owned(),
        paths.base_images(),
        paths.user_instances(),
    ];
    let state = [paths.state().to_owned(), paths.activities()];
    let mut findings = Vec::new();
    for (directories, mode) in [
        (&storage[..], PASSABLE_DIRECTORY),
        (&state[..], SHARED_DIRECTORY),
    ] {
        let named = [paths.storage(), paths.state()];
        let each = directories.iter();
        findings.extend(each.map(|it| directory(it, named.contains(&it.as_path()), mode)));
    }
    findings.extend(below(paths.state()));
    findings.extend(strangers(&paths.user_instances(), is_no_file));
    findings.extend(strangers(&paths.base_images(), |path| {
        is_no_file(path) && !is_link_within(path)
    }));
    findings.extend(qemu.and_then(|qemu| passable(&paths.base_images(), qemu)));
    findings
}

/// A directory that must be there, take files, and be root's or whoever's this is, and the group's.
/// What the configuration names may be a link, as whoever wrote it wants it; below that, where a
/// whole group may write, no link is followed.
fn directory(path: &Path, named: bool, mode: u32) -> Finding {
    let place = path.display();
    let there = if named {
        path.metadata()
    } else {
        path.symlink_metadata()
    };
    let Ok(there) = there else {
        let message = format!("{place} is missing or not accessible");
        return CHECK.failed(message, "run `make setup`");
    };
    if there.is_symlink() {
        let remedy = "or set storage_dir or state_dir to another directory";
        return CHECK.failed(format!("{place} is {A_LINK}"), remedy);
    }
    if !there.is_dir() {
        let message = format!("{place} is not a directory");
        return CHECK.failed(message, "move it away, and run `make setup`");
    }
    let is = there.mode() & 0o7777;
    let (group, remedy) = match group(GROUP) {
        Some(gid) => (
            there.gid() == gid,
            format!("chown root:{GROUP} {place} && chmod {mode:o} {place}"),
        ),
        None => (true, format!("chmod {mode:o} {place}")),
    };
    // Others may pass where QEMU must, and nothing else.
    if is & 0o007 & !(mode & 0o007) != 0 {
        let message = format!("{place} is open to everyone: mode {is:o} instead of {mode:o}");
        return CHECK.failed(message, remedy);
    }
    if there.uid() != 0 && there.uid() != rustix::process::geteuid().as_raw() {
        return CHECK.failed(format!("{place} belongs to user {}", there.uid()), remedy);
    }
    if is != mode || !group {
        let group = there.gid();
        let message = format!(
            "{place} has mode {is:o} and group {group}: members of {GROUP} cannot use it as they should"
        );
        return CHECK.warning(message, remedy);
    }
    let probed = path.canonicalize().and_then(|real| files::probe(&real));
    let probed = probed.map(|()| format!("{place} has mode {mode:o}"));
    let probed = probed.with_context(|| format!("cannot create files in {place}"));
    CHECK.of(probed, "check its file system")
}

/// Whatever was made in the state directory.
fn below(state: &Path) -> Vec<Finding> {
    let Ok(entries) = std::fs::read_dir(state) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let mut directories: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.symlink_metadata().is_ok_and(|there| there.is_dir()))
        .collect();
    directories.sort();
    for path in &directories {
        let open = path.metadata().is_ok_and(|there| there.mode() & 0o002 != 0);
        if open {
            findings.push(CHECK.failed(
                format!("{} is writable by everyone", path.display()),
                format!("chmod {SHARED_DIRECTORY:o} {}", path.display()),
            ));
        }
        // Packer keeps what it likes in its cache.
        if !path.ends_with("downloads") {
            findings.extend(strangers(path, is_no_file));
        }
    }
    findings.extend(strangers(state, |path| {
        is_no_file(path) && !path.symlink_metadata().is_ok_and(|there| there.is_dir())
    }));
    findings
}

/// What is in `directory` and does not belong there.
fn strangers(directory: &Path, is_strange: impl Fn(&Path) -> bool) -> Option<Finding> {
    let entries = std::fs::read_dir(directory).ok()?;
    let strange = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_strange(path));
    let mut strange: Vec<String> = strange
        .filter_map(|path| {
            Some(
                path.file_name()?
                    .to_string_lossy()
                    .escape_debug()
                    .to_string(),
            )
        })
        .collect();
    strange.sort();
    let more = strange.len().saturating_sub(NAMED);
    strange.truncate(NAMED);
    if strange.is_empty() {
        return None;
    }
    let more = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(CHECK.failed(
        format!(
            "unexpected links, pipes or devices in {}: {}{more}; they are not followed",
            directory.display(),
            strange.join(", ")
        ),
        "find out who did that, and remove them",
    ))
}

fn is_no_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|there| !there.is_file())
}

/// Whether it is a link to a file beside it, as the one to a lab's current build.
fn is_link_within(path: &Path) -> bool {
    std::fs::read_link(path).is_ok_and(|target| {
        let plain = target.file_name().is_some_and(|name| name == target);
        plain
            && path
                .with_file_name(target)
                .symlink_metadata()
                .is_ok_and(|there| there.is_file())
    })
}

/// Whether QEMU may pass to the images, through all directories above them.
fn passable(images: &Path, qemu: Account) -> Option<Finding> {
    let closed = images.ancestors().find(|place| {
        place.metadata().is_ok_and(|there| {
            let may_pass = match (there.uid() == qemu.uid, there.gid() == qemu.gid) {
                (true, _) => 0o100,
                (false, true) => 0o010,
                (false, false) => 0o001,
            };
            there.mode() & may_pass == 0
        })
    })?;
    Some(CHECK.failed(
        format!(
            "QEMU, which runs as user {}, has no search permission on {}",
            qemu.uid,
            closed.display()
        ),
        format!("chmod o+x {}", closed.display()),
    ))
}

/// The number of the group called `name`, by the host's own list.
fn group(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let (group, rest) = line.split_once(':')?;
        let number = rest.split(':').nth(1).filter(|_| group == name)?;
        number.parse().ok()
    })
}
