//! Whether the QEMU of an instance can have a user for itself on this host, and which.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Once;

use anyhow::Result;

use crate::accelerator::Accelerator;
use crate::context::Context;
use crate::network::Mac;
use crate::qemu_user::QemuUser;

/// What QEMU opens by name besides its disks: the directory where libvirt makes one for each domain,
/// to be passed through, and KVM. QEMU has no group but its own, so that others must have the right.
/// As packages of Debian and Ubuntu make them, neither may be used by others.
const DIRECTORY: &str = "/var/lib/libvirt/qemu";
const KVM: &str = "/dev/kvm";

/// The user for the instance with this network card; `None` where it shares libvirt's with all
/// others, which is said once.
fn of(context: &Context, mac: Mac) -> Option<QemuUser> {
    static SAID: Once = Once::new();
    if !context.hypervisor().ok()?.is_system() {
        return None;
    }
    if let Some(why) = obstacle(context) {
        SAID.call_once(|| {
            context.output.warn(&format!(
                "instances share one user, and are not safe from each other should one break out of \
                 QEMU: {why}; `make setup` opens it"
            ));
        });
        return None;
    }
    mac.of_instance().map(QemuUser::of)
}

/// The definition `xml` with the user for the instance with this network card, where it has one.
pub(super) fn put_into(context: &Context, mac: Mac, xml: String) -> Result<String> {
    match of(context, mac) {
        Some(user) => user.put_into(&xml),
        None => Ok(xml),
    }
}

/// Why the QEMU of an instance cannot have a user for itself on this host; `None` where it can.
pub fn obstacle(context: &Context) -> Option<String> {
    let kvm = matches!(context.accelerator(), Ok(Accelerator::Kvm));
    let needed = [(DIRECTORY, 0o001)]
        .into_iter()
        .chain(kvm.then_some((KVM, 0o006)));
    needed.into_iter().find_map(|(place, right)| {
        let mode = Path::new(place).metadata().map(|there| there.mode());
        match mode {
            Ok(mode) if mode & right == right => None,
            Ok(mode) => Some(format!("{place} is closed to it: mode {:o}", mode & 0o7777)),
            Err(error) => Some(format!("cannot look at {place}: {error}")),
        }
    })
}
