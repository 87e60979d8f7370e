//! libvirt: whether it answers, whom it runs QEMU as, and whether the networks of the labs and their
//! firewall are in force.

use std::path::Path;

use anyhow::Result;

use super::finding::{Check, Finding};
use crate::config::NetworkMode;
use crate::context::Context;
use crate::error::{Kind, kind_of};
use crate::firewall;
use crate::host::libvirt_unit;
use crate::hypervisor::xml::interface::interfaces;
use crate::hypervisor::{Account, Detail, Hypervisor, Version};

/// The first version with all that we ask of it: port isolation came with 6.1, the balloon's page
/// reporting with 6.9.
const OLDEST: Version = Version(6, 9, 0);

const SETUP: &str = "run `make setup`";

/// The findings, and whom QEMU runs as.
pub fn check(context: &Context) -> (Vec<Finding>, Option<Account>) {
    let hypervisor = match context.hypervisor() {
        Ok(hypervisor) => hypervisor,
        Err(error) => {
            let finding =
                Check("libvirt").error(&error, format!("systemctl start {}", libvirt_unit()));
            return (vec![finding], None);
        }
    };
    let mut findings = vec![version(hypervisor)];
    let (finding, account) = account(hypervisor);
    findings.push(finding);
    let expected = expected(context);
    findings.extend(networks(hypervisor, &expected));
    if hypervisor.is_local() {
        findings.push(guard());
        findings.extend(apart(context, hypervisor));
    }
    (findings, account)
}

fn version(hypervisor: &Hypervisor) -> Finding {
    match hypervisor.versions() {
        Ok(versions) if versions.libvirt < OLDEST => Check("libvirt").failed(
            format!("libvirt {} is older than {OLDEST}", versions.libvirt),
            "upgrade this host to Debian 12 or Ubuntu 24.04",
        ),
        Ok(versions) => Check("libvirt").ok(format!(
            "libvirt {} answers, with QEMU {}",
            versions.libvirt, versions.hypervisor
        )),
        Err(error) => {
            Check("libvirt").error(&error, format!("systemctl restart {}", libvirt_unit()))
        }
    }
}

fn account(hypervisor: &Hypervisor) -> (Finding, Option<Account>) {
    let remedy = format!(
        "set user and group in /etc/libvirt/qemu.conf to libvirt-qemu, and restart {}",
        libvirt_unit()
    );
    match hypervisor.qemu_account() {
        Ok(Some(account @ Account { uid: 1.., gid: 1.. })) => {
            let message = format!("QEMU runs as user {}, group {}", account.uid, account.gid);
            (Check("qemu-user").ok(message), Some(account))
        }
        Ok(Some(account)) => {
            let message = "QEMU runs as root, or in root's group: whoever breaks out of a VM controls this host";
            (Check("qemu-user").failed(message, &remedy), Some(account))
        }
        Ok(None) => {
            let message = "libvirt does not report the user of QEMU";
            (Check("qemu-user").warning(message, &remedy), None)
        }
        Err(error) => (Check("qemu-user").error(&error, &remedy), None),
    }
}

/// The networks that instances of the labs are in.
fn expected(context: &Context) -> Vec<&'static str> {
    let labs = &context.config.labs;
    let modes = NetworkMode::ALL.into_iter();
    let used = modes.filter(|mode| labs.iter().any(|lab| lab.network == *mode));
    used.map(NetworkMode::network).collect()
}

fn networks(hypervisor: &Hypervisor, expected: &[&str]) -> Vec<Finding> {
    let findings = expected
        .iter()
        .map(|name| match hypervisor.network_facts(name) {
            Err(error) => Check("networks").error(&error, SETUP),
            Ok(None) => Check("networks").failed(format!("there is no network {name}"), SETUP),
            Ok(Some(facts)) if !facts.active => Check("networks").failed(
                format!("the network {name} is down: no instance in it can start"),
                format!("virsh net-start {name}"),
            ),
            Ok(Some(facts)) if !facts.autostart => Check("networks").failed(
                format!("the network {name} does not start at boot"),
                format!("virsh net-autostart {name}"),
            ),
            Ok(Some(facts)) if !facts.cards => Check("networks").failed(
                format!("the network {name} gives instances no addresses"),
                SETUP,
            ),
            Ok(Some(_)) => Check("networks").ok(format!("{name} is up and starts at boot")),
        });
    findings.collect()
}

/// Whether the firewall of the networks is in the kernel.
fn guard() -> Finding {
    match firewall::in_force() {
        Ok(true) => Check("firewall").ok("the firewall of the lab networks is in force"),
        Ok(false) => Check("firewall").failed(
            "the firewall of the lab networks was removed or changed: guests may reach this host",
            "run `cyyber reap` as root to restore it; if it was never loaded, run `make setup`",
        ),
        Err(error) if !rustix::process::geteuid().is_root() && kind_of(&error) == Kind::Failed => {
            Check("firewall").warning(
                format!("cannot check the firewall of the lab networks: {error:#}"),
                "run `cyyber doctor` as root",
            )
        }
        Err(error) => Check("firewall").error(&error, SETUP),
    }
}

/// Whether the running instances are at ports of their own, apart from each other.
fn apart(context: &Context, hypervisor: &Hypervisor) -> Option<Finding> {
    let look = || -> Result<(usize, Vec<String>)> {
        let mut wrong = Vec::new();
        let mut count = 0;
        for (name, facts) in hypervisor.survey(Detail::Power)? {
            let (Some(_), Some(domain)) = (facts.id, hypervisor.find(&name)?) else {
                continue;
            };
            // One that ends while it is looked at has no cards any more.
            for card in domain
                .xml()
                .and_then(|xml| interfaces(&xml))
                .unwrap_or_default()
            {
                let Some(device) = &card.device else { continue };
                count += 1;
                if !is_isolated(device) {
                    wrong.push(format!("{name} sees the frames of other instances"));
                }
                if !card.is_at_its_port() && !firewall::admits(device, card.mac) {
                    wrong.push(format!(
                        "{name} has no network: its interface is connected to {device} instead of \
                         its own port"
                    ));
                }
            }
        }
        Ok((count, wrong))
    };
    Some(match look() {
        Ok((0, _)) => return None,
        Ok((count, wrong)) if wrong.is_empty() => {
            Check("isolation").ok(format!("{count} running instances are isolated"))
        }
        Ok((_, wrong)) => Check("isolation").failed(
            wrong.join("; "),
            "stop and start these instances, or pause and resume them",
        ),
        Err(error) => Check("isolation").error(&error, context_hint(context)),
    })
}

fn context_hint(context: &Context) -> String {
    format!(
        "check the running instances: cyyber instance list; libvirt at {}",
        context.uri()
    )
}

/// Whether the bridge lets no frame pass from this port to another one that is isolated.
fn is_isolated(device: &str) -> bool {
    let plain = device
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let flag = Path::new("/sys/class/net")
        .join(device)
        .join("brport/isolated");
    plain && std::fs::read_to_string(flag).is_ok_and(|flag| flag.trim() == "1")
}
