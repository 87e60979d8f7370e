//! What the host's kernel tells of its memory.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// A figure in MiB from a file of the kernel's, which has it in KiB.
pub fn field(file: impl AsRef<Path>, name: &str) -> u64 {
    let all = fs::read_to_string(file).unwrap();
    let line = all.lines().find(|line| line.starts_with(name)).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

/// Memory that the processes of this world have for themselves or share, in MiB: what a QEMU gives
/// back. Of the host as a whole other worlds take and give back meanwhile.
pub fn held_by_processes() -> u64 {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let held = |status: String| {
        let kib = |name: &str| -> Option<u64> {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        kib("RssAnon:").unwrap_or(0) + kib("RssShmem:").unwrap_or(0)
    };
    let statuses = processes.filter_map(|it| fs::read_to_string(it.path().join("status")).ok());
    statuses.map(held).sum::<u64>() / 1024
}

/// How long the host's processors have had nothing to do, added up.
pub fn idle_time() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let ticks: u64 = stat.split_whitespace().nth(4).unwrap().parse().unwrap();
    Duration::from_millis(10 * ticks)
}
