//! Overlays: an instance's own disk, which holds what differs from its base.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::base::Base;
use super::{full_disk, rename_new, require_room};
use crate::files;
use crate::instance::InstanceName;
use crate::paths::Paths;
use crate::process::Program;
use crate::units::MIB;

/// An overlay starts small and grows as its guest writes. With less room than this there is no
/// point in making one.
const ROOM_FOR_OVERLAY: u64 = 512 * MIB;

/// Makes the overlay of an instance. The caller holds the instance's lock.
///
/// An overlay that exists is an error here: it may hold somebody's work, and `qemu-img create`
/// would empty it without a word.
pub fn create(paths: &Paths, name: &InstanceName, base: &Base) -> Result<PathBuf> {
    let overlay = paths.overlay(name);
    let directory = paths.user_instances();
    files::make_directory(&directory, files::PASSABLE_DIRECTORY)?;
    require_room(
        &directory,
        ROOM_FOR_OVERLAY,
        &format!("an instance of {}", name.lab),
    )?;

    let new = paths.new_overlay(name);
    // Left by a command that was killed here; whoever holds the lock may clear it.
    let _ = std::fs::remove_file(&new);
    let made = Program::find("qemu-img", "qemu-utils")?
        .run([
            "create".as_ref(),
            "-q".as_ref(),
            "-f".as_ref(),
            "qcow2".as_ref(),
            "-F".as_ref(),
            "qcow2".as_ref(),
            "-b".as_ref(),
            base.path.as_os_str(),
            new.as_os_str(),
        ])
        .map_err(|error| full_disk(error, &directory))
        .and_then(|_| {
            std::fs::set_permissions(&new, Permissions::from_mode(0o660))?;
            fs_err::File::open(&new)?.sync_all()?;
            rename_new(&new, &overlay)
        });
    if made.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    made.with_context(|| format!("failed to make the disk of {name}"))?;
    Ok(overlay)
}

/// Removes an overlay that was just made and never used.
pub fn discard_new(overlay: &Path) {
    let _ = std::fs::remove_file(overlay);
}
