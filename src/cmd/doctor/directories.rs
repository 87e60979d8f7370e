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

/// How many unexpected entries are listed.
const NAMED: usize = 3;

const CHECK: Check = Check("directories");

pub fn check(context: &Context, qemu: Option<Account>) -> Vec<Finding> {
    let paths = &context.paths;
    let mut findings = vec![
        directory(paths.storage(), true, PASSABLE_DIRECTORY),
        directory(&paths.base_images(), false, PASSABLE_DIRECTORY),
        directory(&paths.user_instances(), false, PASSABLE_DIRECTORY),
        directory(paths.state(), true, SHARED_DIRECTORY),
        directory(&paths.activities(), false, SHARED_DIRECTORY),
    ];
    findings.extend(below(paths.state()));
    findings.extend(strangers(&paths.user_instances(), is_no_file));
    findings.extend(strangers(&paths.base_images(), |path| {
        is_no_file(path) && !is_link_within(path)
    }));
    findings.extend(qemu.and_then(|qemu| passable(&paths.base_images(), qemu)));
    findings
}

/// A directory that must exist, be writable, and belong to root or the caller and to the group. The
/// directories that the configuration names may be links, because its author is trusted; links
/// below them are not followed, because a whole group can write there.
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
    let (group, remedy) = (group(GROUP), format!("chmod {mode:o} {place}"));
    let remedy = match group {
        Some(_) => format!("chown root:{GROUP} {place} && {remedy}"),
        None => remedy,
    };
    // Others may only have search permission, and only where QEMU needs it.
    if is & 0o007 & !(mode & 0o007) != 0 {
        let message = format!("{place} is open to everyone: mode {is:o} instead of {mode:o}");
        return CHECK.failed(message, remedy);
    }
    if there.uid() != 0 && there.uid() != rustix::process::geteuid().as_raw() {
        return CHECK.failed(format!("{place} belongs to user {}", there.uid()), remedy);
    }
    if is != mode || group.is_some_and(|group| group != there.gid()) {
        let has = format!("{place} has mode {is:o} and group {}", there.gid());
        let message = format!("{has}: members of {GROUP} cannot use it as they should");
        return CHECK.warning(message, remedy);
    }
    let probed = path.canonicalize().and_then(|real| files::probe(&real));
    let probed = probed.map(|()| format!("{place} has mode {mode:o}"));
    let probed = probed.with_context(|| format!("cannot create files in {place}"));
    CHECK.of(probed, "check its file system")
}

/// Whatever was created in the state directory.
fn below(state: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in entries(state).iter().filter(|path| is_directory(path)) {
        if path.metadata().is_ok_and(|there| there.mode() & 0o002 != 0) {
            let place = path.display();
            let remedy = format!("chmod {SHARED_DIRECTORY:o} {place}");
            findings.push(CHECK.failed(format!("{place} is writable by everyone"), remedy));
        }
        // Packer's cache may contain anything.
        if !path.ends_with("downloads") {
            findings.extend(strangers(path, is_no_file));
        }
    }
    findings.extend(strangers(state, |path| {
        is_no_file(path) && !is_directory(path)
    }));
    findings
}

/// All entries of `directory`, sorted by name.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let mut paths: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.sort();
    paths
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|there| there.is_dir())
}

/// The entries of `directory` that do not belong there.
fn strangers(directory: &Path, is_strange: impl Fn(&Path) -> bool) -> Option<Finding> {
    let mut strange = entries(directory);
    strange.retain(|path| is_strange(path));
    let names = strange.iter().filter_map(|path| path.file_name());
    let names = names.map(|name| name.to_string_lossy().escape_debug().to_string());
    let named = names.take(NAMED).collect::<Vec<_>>().join(", ");
    let more = match strange.len() {
        0 => return None,
        1..=NAMED => String::new(),
        all => format!(" and {} more", all - NAMED),
    };
    let what = format!(
        "unexpected links, pipes or devices in {}",
        directory.display()
    );
    let message = format!("{what}: {named}{more}; they are not followed");
    Some(CHECK.failed(message, "find out who created them, and remove them"))
}

fn is_no_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|there| !there.is_file())
}

/// Whether it is a link to a file in the same directory, such as the one to a lab's current build.
fn is_link_within(path: &Path) -> bool {
    std::fs::read_link(path).is_ok_and(|target| {
        let there = path.with_file_name(&target).symlink_metadata();
        let plain = target.file_name().is_some_and(|name| name == target);
        plain && there.is_ok_and(|there| there.is_file())
    })
}

/// Whether QEMU can reach the images, through all directories above them.
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
    let (uid, closed) = (qemu.uid, closed.display());
    let message = format!("QEMU, which runs as user {uid}, has no search permission on {closed}");
    Some(CHECK.failed(message, format!("chmod o+x {closed}")))
}

/// The id of the group called `name`, according to the host's own list.
fn group(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let (group, rest) = line.split_once(':')?;
        let number = rest.split(':').nth(1).filter(|_| group == name)?;
        number.parse().ok()
    })
}
