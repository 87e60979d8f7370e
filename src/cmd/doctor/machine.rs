//! The machine: its CPU, the programs on it, memory and disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::finding::Finding;
use crate::accelerator::{self, Host};
use crate::config::Lab;
use crate::context::Context;
use crate::host;
use crate::instance::admission::memory;
use crate::packer::{self, Packer};
use crate::process::Program;
use crate::units::MIB;

const KVM: &str = "/dev/kvm";

/// With less than this, in bytes, a file system of ours is full soon.
const LITTLE: u64 = 5 << 30;

/// With less than this, in bytes, no guest can write.
const NOTHING: u64 = 512 << 20;

/// Whether guests run on the CPU itself.
pub fn virtualisation(context: &Context) -> Vec<Finding> {
    let remedy = "enable VT-x or AMD-V in the firmware, and load kvm_intel or kvm_amd; in a VM, \
                  nested virtualisation";
    match accelerator::choose(context.accelerator_choice(), Host::probe()) {
        Err(fault) => vec![Finding::error("kvm", &fault.into(), remedy)],
        Ok((_, Some(warning))) => vec![Finding::warning("kvm", warning, remedy)],
        Ok((accelerator::Accelerator::Tcg, None)) => vec![Finding::warning(
            "kvm",
            "software emulation, as configured: many times slower than KVM",
            "set the accelerator to auto",
        )],
        Ok((accelerator::Accelerator::Kvm, None)) => {
            let open = std::fs::File::options().read(true).write(true).open(KVM);
            vec![match open {
                Ok(_) => Finding::ok("kvm", "the CPU has it and /dev/kvm can be opened"),
                // libvirt's QEMU has rights of its own; a build runs QEMU as the caller.
                Err(error) => Finding::warning(
                    "kvm",
                    format!("you cannot open {KVM}: {error}; builds need it"),
                    "add yourself to the group kvm, and log in again: usermod -aG kvm NAME",
                ),
            }]
        }
    }
}

/// The programs that are run.
pub fn programs() -> Vec<Finding> {
    let packer = match Packer::find() {
        Ok(packer) => Finding::ok("packer", format!("Packer {}", packer.version)),
        Err(error) => Finding::error("packer", &error, "install Packer"),
    };
    let qemu = match packer::qemu_version() {
        Ok(version) => Finding::ok("qemu", format!("QEMU {version} for builds")),
        Err(error) => Finding::error(
            "qemu",
            &error,
            "install it: apt-get install qemu-system-x86",
        ),
    };
    let mut findings = vec![packer, qemu];
    for (name, package, what) in [
        ("qemu-img", "qemu-utils", "creates disks"),
        ("ss", "iproute2", "detects console clients"),
        ("setpriv", "util-linux", "ends Packer if cyyber is killed"),
        ("ssh-keygen", "openssh-client", "creates a build's SSH key"),
    ] {
        findings.push(match Program::find(name, package) {
            Ok(program) => Finding::ok("programs", format!("{}: {what}", program.path().display())),
            Err(error) => Finding::error("programs", &error.context(what), ""),
        });
    }
    findings
}

/// What is left of memory and disk.
pub fn room(context: &Context) -> Vec<Finding> {
    let mut findings = vec![match memory(context) {
        Ok(finding) => finding,
        Err(error) => Finding::error("memory", &error, "check /proc/meminfo"),
    }];
    findings.extend(disks(context));
    findings
}

/// Whether one more guest of the largest lab could be started now.
fn memory(context: &Context) -> Result<Finding> {
    let memory = host::memory()?;
    let figures = format!(
        "{} of {} MiB are available",
        memory.available / MIB,
        memory.total / MIB
    );
    let by_memory = |lab: &&Lab| lab.memory_mb;
    let Some(largest) = context.config.labs.iter().max_by_key(by_memory) else {
        return Ok(Finding::ok("memory", figures));
    };
    // Where libvirt does not answer, that has a finding of its own.
    let running = context
        .hypervisor()
        .and_then(|hypervisor| hypervisor.memory_of_running())
        .unwrap_or_default();
    let claims = running.iter();
    let claimed = claims
        .map(|guest| memory::claim(guest.memory, guest.resident))
        .sum();
    let need = memory::need(u64::from(largest.memory_mb) * MIB);
    let lab = &largest.lab_id;
    Ok(match memory::admit(need, memory, claimed) {
        Ok(()) => Finding::ok(
            "memory",
            format!("{figures}: one more instance of {lab} fits"),
        ),
        Err(shortage) if running.is_empty() => Finding::failed(
            "memory",
            format!("not one instance of {lab} fits: {shortage}"),
            "stop other programs on this host, or lower memory_mb of the lab",
        ),
        Err(shortage) => Finding::warning(
            "memory",
            format!("no further instance of {lab} fits: {shortage}"),
            "pause or stop instances: `cyyber instance stats` shows what they use",
        ),
    })
}

/// The space on each file system that is written to.
fn disks(context: &Context) -> Vec<Finding> {
    let paths = &context.paths;
    let mut file_systems: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    for place in [
        paths.user_instances(),
        paths.base_images(),
        paths.activities(),
    ] {
        let place = existing(&place);
        let device = rustix::fs::stat(&*place).map_or(0, |there| there.st_dev);
        file_systems.entry(device).or_default().push(place);
    }
    let each = file_systems.into_values().filter_map(|mut places| {
        places.sort();
        places.into_iter().next()
    });
    each.map(|place| disk(&place)).collect()
}

fn disk(place: &Path) -> Finding {
    let remedy =
        "free disk space: `cyyber instance cleanup --inactive-for 30d` destroys unused instances";
    let stat = match rustix::fs::statvfs(place) {
        Ok(stat) => stat,
        Err(error) => {
            let message = format!(
                "cannot determine the free space of {}: {error}",
                place.display()
            );
            return Finding::failed("disk", message, "check that file system");
        }
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let figures = format!("{} MiB are free in {}", free / MIB, place.display());
    match (free, stat.f_favail) {
        (NOTHING.., 64..) if free >= LITTLE => Finding::ok("disk", figures),
        (NOTHING.., 64..) => Finding::warning("disk", figures, remedy),
        (_, 64..) => Finding::failed("disk", figures, remedy),
        // A file system without a number of inodes of its own says 0 of 0.
        _ if stat.f_files == 0 => Finding::ok("disk", figures),
        _ => Finding::failed("disk", format!("{figures}, and no inodes"), remedy),
    }
}

/// The nearest directory above `place` that is there.
fn existing(place: &Path) -> PathBuf {
    let there = place.ancestors().find(|place| place.is_dir());
    there.unwrap_or(Path::new("/")).to_owned()
}
