//! Whether QEMU processes are isolated from each other: by a user for each, and by sVirt, libvirt's
//! use of AppArmor or SELinux.

use std::io;

use anyhow::Result;

use super::finding::{Check, Finding};
use super::libvirt;
use crate::context::Context;
use crate::host::libvirt_unit;
use crate::hypervisor::xml::domain::{SecurityLabel, security_labels};
use crate::hypervisor::{Account, Hypervisor};
use crate::instance::qemu_user;
use crate::instance::qemu_user::{QemuUser, taken};
use crate::names::InstanceName;

/// Lists of users, groups and id ranges, and their fields with the id and the count.
const LISTS: [(&str, usize, Option<usize>); 4] = [
    ("/etc/passwd", 2, None),
    ("/etc/group", 2, None),
    ("/etc/subuid", 1, Some(2)),
    ("/etc/subgid", 1, Some(2)),
];

/// Whether the kernel has AppArmor: `Y` or `N`; the file is missing if it was built without.
const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";

const LOOK: &str = "check the running instances: cyyber instance list";
const USERS: Check = Check("instance-users");
const SVIRT: Check = Check("svirt");

pub fn check(context: &Context, hypervisor: &Hypervisor) -> Vec<Finding> {
    if !hypervisor.is_system() {
        return Vec::new();
    }
    match running(hypervisor) {
        Ok(running) => vec![users(context, &running), svirt(hypervisor, &running)],
        Err(error) => vec![USERS.error(&error, LOOK)],
    }
}

/// The user of an instance's QEMU: a separate one, or the `shared` one.
pub fn account(context: &Context, shared: Account) -> Account {
    let system = context.hypervisor().is_ok_and(Hypervisor::is_system);
    if system && qemu_user::obstacle(context).is_none() {
        let uid = *QemuUser::NUMBERS.start();
        return Account { uid, gid: uid };
    }
    shared
}

type Running = Vec<(InstanceName, Vec<SecurityLabel>)>;

fn running(hypervisor: &Hypervisor) -> Result<Running> {
    let running = libvirt::running(hypervisor)?.into_iter();
    running
        .map(|(name, xml)| Ok((name, security_labels(&xml)?)))
        .collect()
}

/// Those without a label of this model.
fn without(running: &Running, has: impl Fn(&SecurityLabel) -> bool) -> Vec<String> {
    let without = |(_, labels): &&(_, Vec<_>)| !labels.iter().any(&has);
    let names = running.iter().filter(without);
    names.map(|(name, _)| name.to_string()).collect()
}

fn users(context: &Context, running: &Running) -> Finding {
    if let Some(why) = qemu_user::obstacle(context) {
        let message =
            format!("all instances run as one user, so a QEMU can reach other instances: {why}");
        return USERS.failed(message, "run `make setup`");
    }
    let (first, last) = (QemuUser::NUMBERS.start(), QemuUser::NUMBERS.end());
    for (file, number, count) in LISTS {
        let list = match std::fs::read_to_string(file) {
            Ok(list) => list,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                let what = "cannot check whether the ids of instances are free";
                let message = format!("{what}: {file}: {error}");
                return USERS.failed(message, "make that file readable");
            }
        };
        if let Some(taken) = taken(&list, number, count, &QemuUser::NUMBERS) {
            let message = format!("{taken} in {file} has an id that is reserved for instances");
            let remedy = format!("keep {first} to {last} for instances");
            return USERS.failed(message, remedy + ": give that account another id");
        }
    }
    let shared = without(running, |label| {
        label.model.as_deref() == Some("dac")
            && label.label.as_deref().is_some_and(QemuUser::is_label)
    });
    if shared.is_empty() {
        let message = "each instance's QEMU runs as a user of its own";
        return USERS.ok(format!("{message}: {first} to {last}"));
    }
    let message = "these run as one shared user until they are powered off";
    let remedy = "pause and resume them, or stop and start them";
    USERS.warning(format!("{message}: {}", shared.join(", ")), remedy)
}

fn svirt(hypervisor: &Hypervisor, running: &Running) -> Finding {
    let unit = libvirt_unit();
    let models = match hypervisor.security_models() {
        Ok(models) => models,
        Err(error) => return SVIRT.error(&error, format!("systemctl restart {unit}")),
    };
    let mut known = ["apparmor", "selinux"].into_iter();
    let in_force = known.find(|model| models.iter().any(|it| it == model));
    let Some(model) = in_force else {
        return match std::fs::read_to_string(APPARMOR) {
            Ok(enabled) if enabled.trim() == "Y" => SVIRT.failed(
                "the kernel has AppArmor, but libvirt does not confine QEMU with it",
                format!(
                    "apt-get install apparmor; remove security_driver from /etc/libvirt/qemu.conf; \
                     systemctl restart apparmor {unit}; stop and start the instances"
                ),
            ),
            Err(error) if error.kind() != io::ErrorKind::NotFound => SVIRT.failed(
                format!("cannot check whether the kernel has AppArmor: {APPARMOR}: {error}"),
                "run `cyyber doctor` as root",
            ),
            _ => SVIRT.warning(
                "no sVirt: this kernel has no AppArmor, or it is off; QEMU processes are isolated \
                 from each other by their users alone",
                "boot a kernel with AppArmor, as Debian's and Ubuntu's are",
            ),
        };
    };
    let unconfined = without(running, |label| {
        label.model.as_deref() == Some(model) && label.label.is_some()
    });
    if unconfined.is_empty() {
        return SVIRT.ok(format!("QEMU is confined by {model}"));
    }
    let message = format!("{model} does not confine {}", unconfined.join(", "));
    SVIRT.failed(message, "stop and start them")
}
