//! Whether this host supports the limits that the configuration sets.

use std::fs::File;
use std::io::{Seek, Write};

use anyhow::{Context as _, Result};
use rustix::fs::{MemfdFlags, memfd_create};

use super::finding::{Check, Finding};
use crate::config::Lab;
use crate::context::Context;
use crate::files;
use crate::process::{self, Program};
use crate::units::ByteSize;

/// The tc commands that libvirt runs for a limited interface, by the kernel features that they
/// need.
const NEEDED: [(&str, &str); 4] = [
    (
        "htb",
        "qdisc add dev lo root handle 1: htb default 1\n\
         class add dev lo parent 1: classid 1:1 htb rate 100kbps quantum 8\n",
    ),
    ("sfq", "qdisc add dev lo root handle 2: sfq perturb 10\n"),
    (
        "fw",
        "qdisc add dev lo root handle 1: htb default 1\n\
         filter add dev lo parent 1:0 protocol all prio 1 handle 1 fw flowid 1\n",
    ),
    (
        "ingress, u32 or police",
        "qdisc add dev lo ingress\n\
         filter add dev lo parent ffff: protocol all u32 match u32 0 0 \
         police rate 100kbps burst 100kb mtu 64kb drop flowid :1\n",
    ),
];

const CHECK: Check = Check("limits");

pub fn check(context: &Context) -> Vec<Finding> {
    let overlay = largest(context, |lab| lab.limits.overlay_size);
    let network = largest(context, |lab| lab.limits.network_bytes_per_second);
    let overlay = overlay.map(|(lab, size)| length(context, lab, size));
    let network = network.map(|(lab, _)| bandwidth(lab));
    overlay.into_iter().chain(network).collect()
}

/// The lab with the highest value of a limit.
fn largest(
    context: &Context,
    limit: impl Fn(&Lab) -> Option<ByteSize>,
) -> Option<(&Lab, ByteSize)> {
    let labs = context.config.labs.iter();
    labs.filter_map(|lab| Some((lab, limit(lab)?)))
        .max_by_key(|(_, size)| *size)
}

/// The file of an overlay has the length of its limit from the beginning.
fn length(context: &Context, lab: &Lab, size: ByteSize) -> Finding {
    let directory = context.paths.user_instances();
    let (lab, place) = (&lab.lab_id, directory.display());
    let real = directory.canonicalize();
    match real.and_then(|real| files::probe_length(&real, size.0)) {
        Ok(()) => CHECK.ok(format!("{place} supports files of {size}")),
        Err(error) => {
            let what = format!("limits.overlay_size of {lab}: {place}");
            let message = format!("{what} does not support files of {size}: {error}");
            CHECK.failed(message, "lower it, or use another file system")
        }
    }
}

/// A limited interface needs features that not every kernel has. This is tested in a separate
/// network namespace.
fn bandwidth(lab: &Lab) -> Finding {
    let lab = &lab.lab_id;
    let key = "limits.network_bytes_per_second";
    let missing = match missing() {
        Ok(missing) => missing.join("; "),
        Err(error) => {
            let what = format!("whether the kernel supports {key} of {lab}");
            return CHECK.warning(
                format!("cannot check {what}: {error:#}"),
                "run doctor as root",
            );
        }
    };
    if missing.is_empty() {
        return CHECK.ok("the kernel can limit network interfaces");
    }
    let message = format!("{key}: instances of {lab} cannot start: the kernel has no {missing}");
    let remedy = "boot a kernel with sch_htb, sch_sfq, sch_ingress, cls_fw, cls_u32 and act_police \
                  (Ubuntu: linux-modules-extra), or remove the limit";
    CHECK.failed(message, remedy)
}

/// The features of [`NEEDED`] that the kernel does not have.
fn missing() -> Result<Vec<String>> {
    let unshare = Program::find("unshare", "util-linux")?;
    unshare.run(["--net", "true"])?;
    let tc = Program::find("tc", "iproute2")?;
    let refused = |(name, batch)| {
        let tried = batched(batch).and_then(|batch| {
            let mut command = unshare.command();
            command.stdin(batch).arg("--net").arg(tc.path());
            process::run(command.args(["-batch", "-"]))
        });
        Some(format!("{name} ({:#})", tried.err()?))
    };
    Ok(NEEDED.into_iter().filter_map(refused).collect())
}

/// An unnamed file with the content `text`.
fn batched(text: &str) -> Result<File> {
    let mut file = File::from(memfd_create("tc", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind().context("failed to write to tc")?;
    Ok(file)
}
