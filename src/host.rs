//! The host's available memory and CPU load.

use std::path::Path;

use anyhow::{Context, Result};

use crate::inputs::Inputs;

const CPUINFO: &str = "/proc/cpuinfo";
const MEMINFO: &str = "/proc/meminfo";
const STAT: &str = "/proc/stat";

/// The directories of systemd units, those of the administrator and those of packages.
const UNITS: [&str; 3] = [
    "/etc/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// The host's memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// The total memory of the kernel.
    pub total: u64,
    /// Memory available to new programs without swapping, as the kernel estimates it.
    pub available: u64,
}

/// The CPU time of the host since boot, in kernel ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    /// The number of CPUs.
    pub count: usize,
    busy: u64,
    all: u64,
}

/// The unit of libvirt's daemon for QEMU: either one daemon for everything, or modular daemons.
pub fn libvirt_unit() -> &'static str {
    libvirt_unit_in(&UNITS, "virtqemud")
}

/// The unit of libvirt's daemon for networks.
pub fn libvirt_network_unit() -> &'static str {
    libvirt_unit_in(&UNITS, "virtnetworkd")
}

fn libvirt_unit_in<P: AsRef<Path>>(directories: &[P], own: &'static str) -> &'static str {
    let is_there = |unit: &str| {
        let unit = format!("{unit}.service");
        let mut directories = directories.iter();
        directories.any(|it| it.as_ref().join(&unit).exists())
    };
    if is_there(own) && !is_there("libvirtd") {
        own
    } else {
        "libvirtd"
    }
}

/// A hash of the host's CPU model and all features that programs can see.
pub fn processor() -> Result<String> {
    let text = fs_err::read_to_string(CPUINFO)?;
    let first = text.split("\n\n").next().unwrap_or_default();
    let told = [
        "vendor_id",
        "cpu family",
        "model",
        "stepping",
        "microcode",
        "flags",
    ];
    let lines = first.lines().filter(|line| {
        let name = line.split(':').next().unwrap_or_default().trim();
        told.contains(&name)
    });
    Ok(Inputs::default()
        .with_hash("processor", lines)
        .fingerprint())
}

/// The CPU time until now.
pub fn cpu() -> Result<Cpu> {
    let text = fs_err::read_to_string(STAT)?;
    parse_cpu(&text).with_context(|| format!("{STAT} does not list the host's CPUs"))
}

impl Cpu {
    /// The busy time of all CPUs since boot, in seconds.
    pub fn busy_seconds(&self) -> f64 {
        self.busy as f64 / rustix::param::clock_ticks_per_second() as f64
    }

    /// The CPU use since `before`; 100 is one fully used CPU. Unknown if no time has passed.
    pub fn percent_since(&self, before: &Cpu) -> Option<f64> {
        let (busy, all) = (
            self.busy.saturating_sub(before.busy),
            self.all.checked_sub(before.all).filter(|all| *all > 0)?,
        );
        Some((100 * self.count) as f64 * busy as f64 / all as f64)
    }
}

fn parse_cpu(stat: &str) -> Option<Cpu> {
    let ticks: Vec<u64> = stat
        .lines()
        .find_map(|line| line.strip_prefix("cpu "))?
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        // The next fields, the time of guests, are included in the first two.
        .take(8)
        .collect();
    let [_, _, _, idle, waiting, ..] = ticks[..] else {
        return None;
    };
    let all = ticks.iter().sum();
    let is_one = |line: &&str| {
        let number = line.strip_prefix("cpu").unwrap_or_default();
        number.starts_with(|c: char| c.is_ascii_digit())
    };
    Some(Cpu {
        count: stat.lines().filter(is_one).count().max(1),
        busy: all - idle - waiting,
        all,
    })
}

/// The host's present memory.
pub fn memory() -> Result<Memory> {
    let text = fs_err::read_to_string(MEMINFO)?;
    parse(&text).with_context(|| format!("{MEMINFO} does not list the host's memory"))
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
    fn the_unit_of_libvirt_is_the_one_that_is_there() {
        let units = tempfile::tempdir().unwrap();
        let unit = || libvirt_unit_in(&["/nonexistent".as_ref(), units.path()], "virtqemud");
        assert_eq!(unit(), "libvirtd");
        std::fs::write(units.path().join("virtqemud.service"), "").unwrap();
        assert_eq!(unit(), "virtqemud");
        std::fs::write(units.path().join("libvirtd.service"), "").unwrap();
        assert_eq!(unit(), "libvirtd");
    }

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
    fn what_cpus_did_is_read() {
        let stat = |busy: u64, idle: u64| {
            let text = format!(
                "cpu  {busy} 0 10 {idle} 5 0 0 0 7 0\ncpu0 1 0 0 0\ncpu1 1 0 0 0\nintr 9\n"
            );
            parse_cpu(&text).unwrap()
        };
        let (before, after) = (stat(100, 200), stat(150, 350));
        assert_eq!((before.count, before.busy, before.all), (2, 110, 315));
        assert_eq!(after.percent_since(&before), Some(50.0));
        assert_eq!(after.percent_since(&after), None);
        for bad in ["", "cpu  1 2 3\n", "cpu0 1 2 3 4 5 6 7 8\n"] {
            assert_eq!(parse_cpu(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn this_host_has_cpus() {
        assert!(cpu().unwrap().busy > 0);
    }

    #[test]
    fn this_host_has_some() {
        let memory = memory().unwrap();
        assert!(0 < memory.available && memory.available <= memory.total);
    }
}
