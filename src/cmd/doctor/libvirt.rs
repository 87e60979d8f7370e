//! libvirt: whether it answers, which user runs QEMU, and whether the lab networks and their
//! firewall are in force.

use anyhow::Result;

use super::finding::{Check, Finding};
use crate::config::NetworkMode;
use crate::context::Context;
use crate::error::{Kind, kind_of};
use crate::firewall;
use crate::host::libvirt_unit;
use crate::hypervisor::xml::interface::interfaces;
use crate::hypervisor::{Account, Detail, Hypervisor, Version, Versions};
use crate::names::InstanceName;

/// The first version with all features that we need: port isolation came with 6.1, the balloon's
/// page reporting with 6.9.
const OLDEST: Version = Version(6, 9, 0);

const SETUP: &str = "run `make setup`";

/// The findings, and the user that QEMU runs as.
pub fn check(context: &Context) -> (Vec<Finding>, Option<Account>) {
    let hypervisor = match context.hypervisor() {
        Ok(hypervisor) => hypervisor,
        Err(error) => {
            let remedy = format!("systemctl start {}", libvirt_unit());
            return (vec![Check("libvirt").error(&error, remedy)], None);
        }
    };
    let (finding, account) = account(hypervisor);
    let mut findings = vec![version(hypervisor), finding];
    findings.extend(expected(context).map(|name| network(hypervisor, name)));
    if hypervisor.is_local() {
        findings.push(guard());
        findings.extend(isolation(context, hypervisor));
    }
    (findings, account)
}

fn version(hypervisor: &Hypervisor) -> Finding {
    let found = hypervisor.versions().map(
        |Versions {
             libvirt,
             hypervisor,
         }| {
            if libvirt < OLDEST {
                let message = format!("libvirt {libvirt} is older than {OLDEST}");
                return Check("libvirt")
                    .failed(message, "upgrade this host to Debian 12 or Ubuntu 24.04");
            }
            Check("libvirt").ok(format!("libvirt {libvirt} answers, with QEMU {hypervisor}"))
        },
    );
    Check("libvirt").or_error(found, format!("systemctl restart {}", libvirt_unit()))
}

fn account(hypervisor: &Hypervisor) -> (Finding, Option<Account>) {
    let check = Check("qemu-user");
    let remedy = "set user and group in /etc/libvirt/qemu.conf to libvirt-qemu, and restart";
    let remedy = format!("{remedy} {}", libvirt_unit());
    let account = hypervisor.qemu_account();
    let finding = match &account {
        Ok(Some(account)) if account.uid == 0 || account.gid == 0 => check.failed(
            "QEMU runs as root, or in root's group: an attacker who breaks out of a VM controls \
             this host",
            remedy,
        ),
        Ok(Some(Account { uid, gid })) => check.ok(format!("QEMU runs as user {uid}, group {gid}")),
        Ok(None) => check.warning("libvirt does not report the user of QEMU", remedy),
        Err(error) => check.error(error, remedy),
    };
    (finding, account.ok().flatten())
}

/// The networks that instances of the labs are in.
fn expected(context: &Context) -> impl Iterator<Item = &'static str> {
    let labs = &context.config.labs;
    let modes = NetworkMode::ALL.into_iter();
    let used = modes.filter(|mode| labs.iter().any(|lab| lab.network == *mode));
    used.map(NetworkMode::network)
}

fn network(hypervisor: &Hypervisor, name: &str) -> Finding {
    let check = Check("networks");
    let facts = match hypervisor.network_facts(name) {
        Ok(Some(facts)) => facts,
        Ok(None) => return check.failed(format!("there is no network {name}"), SETUP),
        Err(error) => return check.error(&error, SETUP),
    };
    if !facts.active {
        let message = format!("the network {name} is down: no instance in it can start");
        return check.failed(message, format!("virsh net-start {name}"));
    }
    if !facts.autostart {
        let message = format!("the network {name} does not start at boot");
        return check.failed(message, format!("virsh net-autostart {name}"));
    }
    if !facts.cards {
        return check.failed(
            format!("the network {name} gives instances no addresses"),
            SETUP,
        );
    }
    check.ok(format!("{name} is up and starts at boot"))
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

/// The running instances with their definitions, without those that end in the meantime.
pub fn running(hypervisor: &Hypervisor) -> Result<Vec<(InstanceName, String)>> {
    let mut running = Vec::new();
    for (name, facts) in hypervisor.survey(Detail::Power)? {
        if let (Some(_), Some(domain)) = (facts.id, hypervisor.find(&name)?) {
            running.extend(domain.xml().ok().map(|xml| (name, xml)));
        }
    }
    Ok(running)
}

/// Whether the running instances are at their own ports, isolated from each other.
fn isolation(context: &Context, hypervisor: &Hypervisor) -> Option<Finding> {
    let look = || -> Result<(usize, Vec<String>)> {
        let mut wrong = Vec::new();
        let mut count = 0;
        for (name, xml) in running(hypervisor)? {
            for card in interfaces(&xml).unwrap_or_default() {
                let Some(device) = &card.device else { continue };
                count += 1;
                if !is_isolated(device) {
                    wrong.push(format!("{name} sees the frames of other instances"));
                }
                if !card.is_at_its_port() && !firewall::admits(device, card.mac) {
                    let what = format!("connected to {device} instead of its own port");
                    wrong.push(format!("{name} has no network: its interface is {what}"));
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
        Ok((_, wrong)) => {
            let remedy = "stop and start these instances, or pause and resume them";
            Check("isolation").failed(wrong.join("; "), remedy)
        }
        Err(error) => {
            let remedy = "check the running instances: cyyber instance list; libvirt at";
            Check("isolation").error(&error, format!("{remedy} {}", context.uri()))
        }
    })
}

/// Whether the bridge blocks frames from this port to other isolated ports.
fn is_isolated(device: &str) -> bool {
    let mut characters = device.chars();
    let plain = characters.all(|c| c.is_ascii_alphanumeric() || c == '-');
    let flag = format!("/sys/class/net/{device}/brport/isolated");
    plain && std::fs::read_to_string(flag).is_ok_and(|flag| flag.trim() == "1")
}
