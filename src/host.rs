//! What the host has left.

use anyhow::{Context, Result};

const MEMINFO: &str = "/proc/meminfo";

/// The host's memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All that the kernel can use.
    pub total: u64,
    /// What new programs can have without swapping, as the kernel estimates it.
    pub available: u64,
}

/// The host's memory at this moment.
pub fn memory() -> Result<Memory> {
    let text = fs_err::read_to_string(MEMINFO)?;
    parse(&text).with_context(|| format!("{MEMINFO} does not tell of the host's memory"))
}

fn parse(meminfo: &str) -> Option<Memory> {
    let bytes = |field: &str| {
        let value = meminfo
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        let kib: u64 = value.strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    Some(Memory {
        total: bytes("MemTotal")?,
        available: bytes("MemAvailable")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal:       24684120 kB\nMemFree:        23000000 kB\n\
                    MemAvailable:   23717000 kB\nHugePages_Total:       0\n";
        let memory = Memory {
            total: 24_684_120 << 10,
            available: 23_717_000 << 10,
        };
        assert_eq!(parse(text), Some(memory));
        for bad in ["", "MemTotal: 1 kB\n", "MemTotal: 1\nMemAvailable: x kB\n"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn this_host_has_some() {
        let memory = memory().unwrap();
        assert!(0 < memory.available && memory.available <= memory.total);
    }
}
