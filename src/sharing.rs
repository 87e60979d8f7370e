//! Merging equal pages of guests' memory by the kernel (KSM): its settings, and the memory saved.
//!
//! The settings apply to the whole host. A pass of the reaper sets them according to the
//! configuration, so that they are also set after a boot, and records the previous values, to undo
//! it.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::files;

const KSM: &str = "/sys/kernel/mm/ksm";

/// The settings in the order in which they are made: the kernel scans this many pages of 4 KiB,
/// then sleeps. That uses some hundredths of one CPU.
const GENTLE: [(&str, u64); 3] = [("sleep_millisecs", 50), ("pages_to_scan", 500), ("run", 1)];

/// Separates all merged pages.
const SEPARATE: u64 = 2;

/// The status of the kernel's merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharing {
    /// It scans for equal pages.
    pub runs: bool,
    /// Memory that it saves, on the whole host, in bytes.
    pub saved: u64,
}

/// The present status of the kernel's merging; an error if the kernel does not support it.
pub fn look() -> Result<Sharing> {
    look_at(Path::new(KSM))
}

fn look_at(ksm: &Path) -> Result<Sharing> {
    let page = rustix::param::page_size() as u64;
    Ok(Sharing {
        runs: get(ksm, "run")? == 1,
        saved: get(ksm, "pages_sharing")?.saturating_mul(page),
    })
}

/// Memory that merging saves, in bytes, which guests need again when they write to it; 0 without
/// merging.
pub fn saved() -> u64 {
    look().map_or(0, |sharing| sharing.saved)
}

/// The settings before merging was switched on, and the configuration that switched it on.
#[derive(Debug, Serialize, Deserialize)]
struct Before {
    config: PathBuf,
    /// In the order of [`GENTLE`].
    settings: [u64; 3],
}

/// Switches the kernel's merging on or off, as `wanted` by the configuration at `config`, with its
/// record at `memo`. Settings that something else made are not changed. `available` is the host's
/// memory, in bytes, for separating merged pages. Returns what was done, as text.
pub fn settle(
    wanted: bool,
    config: &Path,
    memo: &Path,
    available: u64,
) -> Result<Option<&'static str>> {
    settle_at(Path::new(KSM), wanted, config, memo, available)
}

fn settle_at(
    ksm: &Path,
    wanted: bool,
    config: &Path,
    memo: &Path,
    available: u64,
) -> Result<Option<&'static str>> {
    let before = files::read_if_there(memo)?;
    let before: Option<Before> = before.and_then(|text| serde_json::from_slice(&text).ok());
    match (wanted, before) {
        (true, None) if look_at(ksm)?.runs => Ok(None),
        (true, before) => {
            if before.is_none() {
                let [rests, pages, run] = GENTLE.map(|(name, _)| get(ksm, name));
                let text = serde_json::to_vec(&Before {
                    config: config.to_owned(),
                    settings: [rests?, pages?, run?],
                })?;
                files::replace(memo, &text, files::SHARED)?;
            }
            let mut changed = false;
            for (name, value) in GENTLE {
                changed |= put(ksm, name, value)?;
            }
            Ok(changed.then_some("switched on merging of equal pages of guests' memory"))
        }
        (false, Some(before)) if before.config == config => {
            let saved = look_at(ksm)?.saved;
            if saved > available / 2 {
                // Stop merging only: separating all pages at once would use up the host's memory.
                let stopped = put(ksm, "run", 0)?;
                return Ok(stopped.then_some(
                    "stopped merging pages of guests' memory; merged pages stay merged until \
                     there is memory to separate them",
                ));
            }
            put(ksm, "run", SEPARATE)?;
            for ((name, _), value) in GENTLE.into_iter().zip(before.settings) {
                put(ksm, name, value)?;
            }
            files::remove(memo)?;
            Ok(Some(
                "switched off merging of guests' memory and separated the merged pages",
            ))
        }
        (false, _) => Ok(None),
    }
}

fn get(ksm: &Path, name: &str) -> Result<u64> {
    let file = ksm.join(name);
    match fs_err::read_to_string(&file) {
        Ok(text) => Ok(text.trim().parse().context(file.display().to_string())?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("this kernel cannot merge pages (no {})", ksm.display())
        }
        Err(error) => Err(error.into()),
    }
}

/// Sets it if it differs; returns whether it was changed.
fn put(ksm: &Path, name: &str, value: u64) -> Result<bool> {
    if get(ksm, name)? == value {
        return Ok(false);
    }
    fs_err::write(ksm.join(name), value.to_string())?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MUCH: u64 = 1 << 40;

    struct Host {
        directory: tempfile::TempDir,
    }

    impl Host {
        /// The kernel's default after a boot.
        fn new() -> Host {
            let host = Host {
                directory: tempfile::tempdir().unwrap(),
            };
            host.boot();
            host
        }

        fn boot(&self) {
            for (name, value) in [
                ("run", "0"),
                ("pages_to_scan", "100"),
                ("sleep_millisecs", "20"),
                ("pages_sharing", "0"),
            ] {
                self.set(name, value);
            }
        }

        fn set(&self, name: &str, value: &str) {
            std::fs::write(self.directory.path().join(name), format!("{value}\n")).unwrap();
        }

        fn get(&self, name: &str) -> u64 {
            get(self.directory.path(), name).unwrap()
        }

        fn memo(&self) -> PathBuf {
            self.directory.path().join("memo")
        }

        fn settle(&self, wanted: bool, config: &str, available: u64) -> Option<&'static str> {
            let ksm = self.directory.path();
            settle_at(ksm, wanted, config.as_ref(), &self.memo(), available).unwrap()
        }
    }

    #[test]
    fn it_is_switched_on_again_after_a_boot_and_undone() {
        let host = Host::new();
        assert_eq!(host.settle(false, "a", MUCH), None);
        assert!(host.settle(true, "a", MUCH).is_some());
        assert_eq!((host.get("run"), host.get("pages_to_scan")), (1, 500));
        assert_eq!(host.settle(true, "a", MUCH), None);
        host.boot();
        assert!(host.settle(true, "a", MUCH).is_some());
        // Another configuration of this host does not want it, but did not switch it on.
        assert_eq!(host.settle(false, "b", MUCH), None);
        assert!(host.settle(false, "a", MUCH).is_some());
        let settings = ["run", "pages_to_scan", "sleep_millisecs"].map(|name| host.get(name));
        assert_eq!(settings, [0, 100, 20]);
        assert!(!host.memo().exists());
    }

    #[test]
    fn merged_pages_are_copied_only_where_there_is_memory_for_them() {
        let host = Host::new();
        host.settle(true, "a", MUCH);
        host.set("pages_sharing", "1000");
        let look = look_at(host.directory.path()).unwrap();
        let page = rustix::param::page_size() as u64;
        assert!(look.runs && look.saved == 1000 * page);
        assert!(host.settle(false, "a", 1500 * page).is_some());
        assert_eq!((host.get("run"), host.memo().exists()), (0, true));
        assert_eq!(host.settle(false, "a", 1500 * page), None);
        assert!(host.settle(false, "a", 2000 * page).is_some());
        assert!(!host.memo().exists());
    }

    #[test]
    fn what_somebody_else_switched_on_is_left_alone() {
        let host = Host::new();
        host.set("run", "1");
        assert_eq!(host.settle(true, "a", MUCH), None);
        assert_eq!(host.settle(false, "a", MUCH), None);
        assert_eq!((host.get("run"), host.get("pages_to_scan")), (1, 100));
    }

    #[test]
    fn a_kernel_that_cannot_is_told_so() {
        let host = Host::new();
        std::fs::remove_file(host.directory.path().join("run")).unwrap();
        let settled = settle_at(
            host.directory.path(),
            true,
            "a".as_ref(),
            &host.memo(),
            MUCH,
        );
        let error = settled.unwrap_err().to_string();
        assert!(
            error.starts_with("this kernel cannot merge pages"),
            "{error}"
        );
        assert!(!host.memo().exists());
    }
}
