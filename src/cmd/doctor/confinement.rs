//! Whether QEMU processes are isolated from each other: by a user for each, and by sVirt, libvirt's
//! use of AppArmor or SELinux.

use std::io;

use anyhow::Result;

use super::finding::{Check, Finding};
use crate::context::Context;
use crate::host::libvirt_unit;
use crate::hypervisor::xml::domain::{SecurityLabel, security_labels};
use crate::hypervisor::{Account, Detail, Hypervisor};
use crate::instance::qemu_user;
use crate::instance::qemu_user::{QemuUser, taken};
use crate::names::InstanceName;

/// Lists of users, groups and ranges of them, and the fields with the number and the count.
const LISTS: [(&str, usize, Option<usize>); 4] = [
    ("/etc/passwd", 2, None),
    ("/etc/group", 2, None),
    ("/etc/subuid", 1, Some(2)),
    ("/etc/subgid", 1, Some(2)),
];

/// Whether the kernel has AppArmor: `Y` or `N`; no such file where it was built without.
const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";

const USERS: Check = Check("instance-users");
const SVIRT: Check = Check("svirt");

pub fn check(context: &Context, hypervisor: &Hypervisor) -> Vec<Finding> {
    if !hypervisor.is_system() {
        return Vec::new();
    }
    match running(hypervisor) {
        Ok(running) => vec![users(context, &running), svirt(hypervisor, &running)],
        Err(error) => {
            vec![USERS.error(&error, "check the running instances: cyyber instance list")]
        }
    }
}

/// Whom the QEMU of an instance runs as: somebody without a right of `shared`, or else that.
pub fn account(context: &Context, shared: Account) -> Account {
    let system = context.hypervisor().is_ok_and(Hypervisor::is_system);
    if system && qemu_user::obstacle(context).is_none() {
        let number = *QemuUser::NUMBERS.start();
        return Account {
            uid: number,
            gid: number,
        };
    }
    shared
}

type Running = Vec<(InstanceName, Vec<SecurityLabel>)>;

fn running(hypervisor: &Hypervisor) -> Result<Running> {
    let mut running = Vec::new();
    for (name, facts) in hypervisor.survey(Detail::Power)? {
        if let (Some(_), Some(domain)) = (facts.id, hypervisor.find(&name)?)
            // One that ends while it is looked at has none.
            && let Ok(xml) = domain.xml()
        {
            running.push((name, security_labels(&xml)?));
        }
    }
    Ok(running)
}

/// Those that have no label of this kind.
fn without(running: &Running, has: impl Fn(&SecurityLabel) -> bool) -> Vec<String> {
    let without = |(_, labels): &&(_, Vec<_>)| !labels.iter().any(&has);
    let names = running.iter().filter(without);
    names.map(|(name, _)| name.to_string()).collect()
}

fn users(context: &Context, running: &Running) -> Finding {
    let numbers = QemuUser::NUMBERS;
    if let Some(why) = qemu_user::obstacle(context) {
        let message =
            format!("all instances run as one user, so a QEMU can reach other instances: {why}");
        return USERS.failed(message, "run `make setup`");
    }
    for (file, number, count) in LISTS {
        match std::fs::read_to_string(file) {
            Ok(list) => {
                if let Some(taken) = taken(&list, number, count, &numbers) {
                    let message = format!(
                        "{taken} in {file} has a number that is reserved for \
                                           instances"
                    );
                    let remedy = format!(
                        "keep {} to {} for instances: give that account another number",
                        numbers.start(),
                        numbers.end()
                    );
                    return USERS.failed(message, remedy);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let message = format!(
                    "cannot check whether the numbers of instances are free: {file}: {error}"
                );
                return USERS.failed(message, "make that file readable");
            }
        }
    }
    let shared = without(running, |label| {
        label.model.as_deref() == Some("dac")
            && label.label.as_deref().is_some_and(QemuUser::is_label)
    });
    if shared.is_empty() {
        return USERS.ok(format!(
            "each instance's QEMU runs as a user of its own: {} to {}",
            numbers.start(),
            numbers.end()
        ));
    }
    USERS.warning(
        format!(
            "these run as one shared user until they are powered off: {}",
            shared.join(", ")
        ),
        "pause and resume them, or stop and start them",
    )
}

fn svirt(hypervisor: &Hypervisor, running: &Running) -> Finding {
    let models = match hypervisor.security_models() {
        Ok(models) => models,
        Err(error) => {
            return SVIRT.error(&error, format!("systemctl restart {}", libvirt_unit()));
        }
    };
    let mut known = ["apparmor", "selinux"].into_iter();
    let in_force = known.find(|model| models.iter().any(|it| it == model));
    let Some(model) = in_force else {
        return match std::fs::read_to_string(APPARMOR) {
            Ok(enabled) if enabled.trim() == "Y" => SVIRT.failed(
                "the kernel has AppArmor, but libvirt does not confine QEMU with it",
                format!(
                    "apt-get install apparmor; remove security_driver from /etc/libvirt/qemu.conf; \
                     systemctl restart apparmor {}; stop and start the instances",
                    libvirt_unit()
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
