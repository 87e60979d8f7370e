//! What the host's kernel tells of its memory.

use std::fs;
use std::path::Path;

/// A figure in MiB from a file of the kernel's, which has it in KiB.
pub fn field(file: impl AsRef<Path>, name: &str) -> u64 {
    let all = fs::read_to_string(file).unwrap();
    let line = all.lines().find(|line| line.starts_with(name)).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

/// Memory of the host that processes have for themselves or share, in MiB: what a QEMU gives back.
///
/// Not `MemAvailable`: a host that is itself a virtual machine may get the pages of a process that
/// has ended back from its own host no faster than 8 MiB in a second, whatever the process was.
pub fn held_by_processes() -> u64 {
    field("/proc/meminfo", "AnonPages:") + field("/proc/meminfo", "Shmem:")
}
