//! libvirt: whether it answers, whom it runs QEMU as, and whether the networks of the labs and the
//! filters on the cards in them are in force.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;

use super::finding::Finding;
use crate::cards::{cards, filters_below};
use crate::config::NetworkMode;
use crate::context::Context;
use crate::firewall::FrameRules;
use crate::host::libvirt_unit;
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
            let finding = Finding::error(
                "libvirt",
                &error,
                &format!("systemctl start {}", libvirt_unit()),
            );
            return (vec![finding], None);
        }
    };
    let mut findings = vec![version(hypervisor)];
    let (finding, account) = account(hypervisor);
    findings.push(finding);
    let expected = expected(context);
    findings.extend(networks(hypervisor, &expected));
    findings.extend(filters(hypervisor, &expected));
    if hypervisor.is_local() {
        findings.extend(in_force(context, hypervisor));
    }
    (findings, account)
}

fn version(hypervisor: &Hypervisor) -> Finding {
    match hypervisor.versions() {
        Ok(versions) if versions.libvirt < OLDEST => Finding::failed(
            "libvirt",
            format!("libvirt {} is older than {OLDEST}", versions.libvirt),
            "upgrade this host to Debian 12 or Ubuntu 24.04",
        ),
        Ok(versions) => Finding::ok(
            "libvirt",
            format!(
                "libvirt {} answers, with QEMU {}",
                versions.libvirt, versions.hypervisor
            ),
        ),
        Err(error) => Finding::error(
            "libvirt",
            &error,
            &format!("systemctl restart {}", libvirt_unit()),
        ),
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
            (Finding::ok("qemu-user", message), Some(account))
        }
        Ok(Some(account)) => {
            let message =
                "QEMU runs as root, or in root's group: who breaks out of a VM has this host";
            (
                Finding::failed("qemu-user", message, &remedy),
                Some(account),
            )
        }
        Ok(None) => {
            let message = "libvirt does not say whom QEMU runs as";
            (Finding::warning("qemu-user", message, &remedy), None)
        }
        Err(error) => (Finding::error("qemu-user", &error, &remedy), None),
    }
}

/// The networks that instances of the labs are in; the filter on each card has its network's name.
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
            Err(error) => Finding::error("networks", &error, SETUP),
            Ok(None) => Finding::failed("networks", format!("there is no network {name}"), SETUP),
            Ok(Some(facts)) if !facts.active => Finding::failed(
                "networks",
                format!("the network {name} is down: no instance in it can start"),
                format!("virsh net-start {name}"),
            ),
            Ok(Some(facts)) if !facts.autostart => Finding::failed(
                "networks",
                format!("the network {name} will be down after the next boot"),
                format!("virsh net-autostart {name}"),
            ),
            Ok(Some(facts)) if !facts.cards => Finding::failed(
                "networks",
                format!("the network {name} gives instances no addresses"),
                SETUP,
            ),
            Ok(Some(_)) => Finding::ok(
                "networks",
                format!("{name} is up, and will be after a boot"),
            ),
        });
    findings.collect()
}

/// Whether every filter on the cards is there, and every one that these refer to.
fn filters(hypervisor: &Hypervisor, expected: &[&str]) -> Vec<Finding> {
    let mut open: Vec<String> = expected.iter().map(|&name| name.to_owned()).collect();
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    while let Some(name) = open.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let found = hypervisor.filter(&name);
        let below = found.and_then(|xml| xml.map(|xml| filters_below(&xml)).transpose());
        findings.push(match below {
            Err(error) => Finding::error("filters", &error, SETUP),
            Ok(None) => Finding::failed(
                "filters",
                format!("there is no filter {name}: instances that need it do not start"),
                SETUP,
            ),
            Ok(Some(below)) => {
                open.extend(below);
                Finding::ok("filters", format!("{name} is defined"))
            }
        });
    }
    findings
}

/// Whether the running instances are kept apart, as the kernel has it.
fn in_force(context: &Context, hypervisor: &Hypervisor) -> Option<Finding> {
    let look = || -> Result<(usize, Vec<String>, Option<anyhow::Error>)> {
        let mut open = Vec::new();
        let mut count = 0;
        let rules = FrameRules::now();
        for (name, facts) in hypervisor.survey(Detail::Power)? {
            let (Some(_), Some(domain)) = (facts.id, hypervisor.find(&name)?) else {
                continue;
            };
            // One that ends while it is looked at has no cards any more.
            for card in domain.xml().and_then(|xml| cards(&xml)).unwrap_or_default() {
                let Some(device) = &card.device else { continue };
                count += 1;
                if !is_isolated(device) {
                    open.push(format!("{name} sees the frames of others"));
                }
                if card.filter.is_none() || card.filter != card.network {
                    open.push(format!("{name} has no filter on its network card"));
                } else if rules.as_ref().is_ok_and(|rules| !rules.cover(device)) {
                    open.push(format!("the filter of {name} is not in force"));
                }
            }
        }
        Ok((count, open, rules.err()))
    };
    Some(match look() {
        Ok((0, ..)) => return None,
        Ok((count, open, Some(unseen))) if open.is_empty() => Finding::warning(
            "isolation",
            format!(
                "whether the filters of {count} running instances are in force cannot be seen: {unseen:#}"
            ),
            "run `cyyber doctor` as root",
        ),
        Ok((count, open, None)) if open.is_empty() => Finding::ok(
            "isolation",
            format!("{count} running instances are kept apart"),
        ),
        Ok((_, open, _)) => Finding::failed(
            "isolation",
            open.join("; "),
            "systemctl reload libvirtd puts rules in force again; stop and start what remains",
        ),
        Err(error) => Finding::error("isolation", &error, &context_hint(context)),
    })
}

fn context_hint(context: &Context) -> String {
    format!(
        "look at the running instances: cyyber instance list; libvirt at {}",
        context.uri()
    )
}

/// Whether the bridge lets no frame pass from this port to another one that is isolated.
fn is_isolated(device: &str) -> bool {
    let plain = device.bytes().all(|b| b.is_ascii_alphanumeric());
    let flag = Path::new("/sys/class/net")
        .join(device)
        .join("brport/isolated");
    plain && std::fs::read_to_string(flag).is_ok_and(|flag| flag.trim() == "1")
}
