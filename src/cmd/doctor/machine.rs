//! The machine: its CPU, the programs on it, memory and disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::finding::{Check, Finding};
use crate::accelerator::{self, Accelerator, Host};
use crate::appliance::Appliance;
use crate::context::Context;
use crate::host;
use crate::hypervisor::RunningGuest;
use crate::instance::admission::memory;
use crate::packer::{self, Packer};
use crate::process::Program;
use crate::sharing::{self, Sharing};
use crate::units::{MIB, size};

const KVM: &str = "/dev/kvm";
const MEMORY: Check = Check("memory");
const DISK: Check = Check("disk");
const SHARING: Check = Check("sharing");

/// With less free space than this, in bytes, a file system will be full soon.
const LITTLE: u64 = 5 << 30;

/// With less free space than this, in bytes, guests cannot write.
const NOTHING: u64 = 512 << 20;

/// Whether guests run with hardware virtualisation.
pub fn virtualisation(context: &Context) -> Finding {
    let check = Check("kvm");
    let remedy = "enable VT-x or AMD-V in the firmware, and load kvm_intel or kvm_amd; in a VM, \
                  nested virtualisation";
    match accelerator::choose(context.accelerator_choice, Host::probe()) {
        Err(fault) => check.error(&fault.into(), remedy),
        Ok((_, Some(warning))) => check.warning(warning, remedy),
        Ok((Accelerator::Tcg, None)) => check.warning(
            "software emulation, as configured: many times slower than KVM",
            "set the accelerator to auto",
        ),
        // libvirt's QEMU has its own permissions; a build runs QEMU as the caller.
        Ok((Accelerator::Kvm, None)) => match File::options().read(true).write(true).open(KVM) {
            Ok(_) => check.ok("the CPU supports it and /dev/kvm can be opened"),
            Err(error) => check.warning(
                format!("you cannot open {KVM}: {error}; builds need it"),
                "add yourself to the group kvm, and log in again: usermod -aG kvm NAME",
            ),
        },
    }
}

/// The required programs.
pub fn programs() -> Vec<Finding> {
    let packer = Packer::find().map(|packer| format!("Packer {}", packer.version));
    let qemu = packer::qemu_version().map(|version| format!("QEMU {version} for builds"));
    let mut findings = vec![
        Check("packer").of(packer, "install Packer"),
        Check("qemu").of(qemu, "install it: apt-get install qemu-system-x86"),
    ];
    for (name, package, what) in [
        ("qemu-img", "qemu-utils", "creates disks"),
        ("ss", "iproute2", "detects console clients"),
        ("setpriv", "util-linux", "ends Packer if cyyber is killed"),
        (
            "ssh-keygen",
            "openssh-client",
            "creates the SSH key of a build",
        ),
    ] {
        let found = Program::find(name, package)
            .map(|program| format!("{}: {what}", program.path().display()))
            .context(what);
        findings.push(Check("programs").of(found, ""));
    }
    findings.push(match Appliance::program() {
        Ok(program) => Check("programs").ok(format!(
            "{}: reads disks of instances that are not running, for collect",
            program.path().display()
        )),
        // Optional.
        Err(_) => Check("programs").ok(
            "guestfish is not installed: collect can only read running instances (apt-get install \
             guestfish)",
        ),
    });
    findings
}

/// Free memory and disk space.
pub fn room(context: &Context) -> Vec<Finding> {
    let memory = MEMORY.or_error(memory(context), "check /proc/meminfo");
    [memory].into_iter().chain(disks(context)).collect()
}

/// Whether merging equal pages of guests' memory works as configured.
pub fn merging(context: &Context) -> Option<Finding> {
    let ours = context.paths.sharing().exists();
    match (context.config.host.share_memory, sharing::look()) {
        (true, Ok(Sharing { runs: true, saved })) => Some(SHARING.ok(format!(
            "host.share_memory: equal pages save {}",
            size(saved)
        ))),
        (true, Ok(_)) => Some(SHARING.warning(
            "host.share_memory is set, but the kernel does not merge equal pages yet",
            "the next pass of `cyyber reap`, as root, switches that on",
        )),
        (true, Err(error)) => Some(SHARING.error(&error, "set host.share_memory to false")),
        (false, Ok(Sharing { saved, .. })) if ours => Some(SHARING.warning(
            format!(
                "host.share_memory is not set, but equal pages of guests are still merged: {}",
                size(saved)
            ),
            "`cyyber reap`, as root and with the configuration that set it, undoes this once \
             there is memory for it",
        )),
        (false, _) => None,
    }
}

/// Whether one more guest of the largest lab could be started now.
fn memory(context: &Context) -> Result<Finding> {
    let memory = host::memory()?;
    let (available, total) = (memory.available / MIB, memory.total / MIB);
    let figures = format!("{available} of {total} MiB are available");
    let Some(largest) = context.config.labs.iter().max_by_key(|lab| lab.memory_mb) else {
        return Ok(MEMORY.ok(figures));
    };
    // If libvirt does not answer, another finding says so.
    let running = context
        .hypervisor()
        .and_then(|it| it.memory_of_running())
        .unwrap_or_default();
    let claim = |guest: &RunningGuest| memory::claim(guest.memory, guest.resident);
    let claimed = running.iter().map(claim).sum::<u64>() + sharing::saved();
    let need = memory::need(u64::from(largest.memory_mb) * MIB);
    let lab = &largest.lab_id;
    Ok(match memory::admit(need, memory, claimed) {
        Ok(()) => MEMORY.ok(format!("{figures}: one more instance of {lab} fits")),
        Err(shortage) if running.is_empty() => MEMORY.failed(
            format!("not one instance of {lab} fits: {shortage}"),
            "stop other programs on this host, or lower memory_mb of the lab",
        ),
        Err(shortage) => MEMORY.warning(
            format!("no further instance of {lab} fits: {shortage}"),
            "pause or stop instances: `cyyber instance stats` shows what they use",
        ),
    })
}

/// The space on each file system that is written to.
fn disks(context: &Context) -> Vec<Finding> {
    let paths = &context.paths;
    let mut file_systems: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    let places = [
        paths.user_instances(),
        paths.base_images(),
        paths.activities(),
    ];
    for place in places {
        let place = existing(&place);
        let device = rustix::fs::stat(&*place).map_or(0, |there| there.st_dev);
        file_systems.entry(device).or_default().push(place);
    }
    let first = file_systems
        .into_values()
        .filter_map(|places| places.into_iter().min());
    let look = |place: PathBuf| DISK.or_error(disk(&place), "check that file system");
    first.map(look).collect()
}

fn disk(place: &Path) -> Result<Finding> {
    let remedy =
        "free disk space: `cyyber instance cleanup --inactive-for 30d` destroys unused instances";
    let place_shown = place.display();
    let stat = rustix::fs::statvfs(place)
        .with_context(|| format!("cannot determine the free space of {place_shown}"))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let figures = format!("{} MiB are free in {place_shown}", free / MIB);
    Ok(match (free, stat.f_favail) {
        (NOTHING.., 64..) if free >= LITTLE => DISK.ok(figures),
        (NOTHING.., 64..) => DISK.warning(figures, remedy),
        (_, 64..) => DISK.failed(figures, remedy),
        // A file system without a fixed number of inodes reports 0 of 0.
        _ if stat.f_files == 0 => DISK.ok(figures),
        _ => DISK.failed(format!("{figures}, and no inodes"), remedy),
    })
}

/// The nearest existing directory above `place`.
fn existing(place: &Path) -> PathBuf {
    let there = place.ancestors().find(|place| place.is_dir());
    there.unwrap_or(Path::new("/")).to_owned()
}
