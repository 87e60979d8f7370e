//! The user and the group of an instance's QEMU, derived from the host part of its address: like
//! the address, they belong to the instance while it exists and are released with it.
//!
//! By default, libvirt runs all QEMUs as one user. An attacker who breaks out of one could then
//! read and write the disks and the memory of all others, and owns libvirt's directory of saved
//! memory.

use std::fmt;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Once;

use anyhow::Result;

use crate::accelerator::Accelerator;
use crate::context::Context;
use crate::hypervisor::xml::domain::with_owner;
use crate::network::{HostPart, Mac};

/// The number that is added to a host part. The range lies between the users that systemd gives to
/// containers, which end at 1879048191, and its "foreign" ones from 2147352576 on
/// (systemd.io/UIDS-GIDS), above the users that SSSD creates for a directory service (up to
/// 2000200000), and below 2^31.
const BASE: u32 = 2_100_000_000;

/// The user of one instance's QEMU. Its group has the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QemuUser(u32);

impl QemuUser {
    /// The range of all such ids.
    pub const NUMBERS: RangeInclusive<u32> =
        BASE + *HostPart::OF_INSTANCES.start() as u32..=BASE + *HostPart::OF_INSTANCES.end() as u32;

    /// The user of the instance whose address has this host part.
    pub fn with_host_part(part: HostPart) -> QemuUser {
        QemuUser(BASE + u32::from(part.number()))
    }

    /// Whether a libvirt label contains one of these ids.
    pub fn is_label(label: &str) -> bool {
        let user = label.strip_prefix('+').and_then(|it| it.split_once(":+"));
        user.is_some_and(|(user, group)| {
            user == group && user.parse().is_ok_and(|it| QemuUser::NUMBERS.contains(&it))
        })
    }
}

/// As in libvirt's labels.
impl fmt::Display for QemuUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{0}:+{0}", self.0)
    }
}

/// The first of `numbers` that occurs in a list of users, groups or id ranges. Fields are separated
/// by colons; the id is in the field `number`, and the size of a range in the field `count`, if
/// there is one.
pub fn taken(
    list: &str,
    number: usize,
    count: Option<usize>,
    numbers: &RangeInclusive<u32>,
) -> Option<u32> {
    list.lines().find_map(|line| {
        let field = |at: usize| line.split(':').nth(at)?.trim().parse::<u32>().ok();
        let first = field(number)?;
        let last = first.saturating_add(count.map_or(Some(1), field)?.saturating_sub(1));
        let overlap = first.max(*numbers.start())..=last.min(*numbers.end());
        (!overlap.is_empty()).then_some(*overlap.start())
    })
}

/// What QEMU opens by path besides its disks: the directory in which libvirt creates one for each
/// domain, which needs search permission, and KVM. QEMU has no other group, so "others" need
/// access. The packages of Debian and Ubuntu give others no access to either.
const DIRECTORY: &str = "/var/lib/libvirt/qemu";
const KVM: &str = "/dev/kvm";

/// The user for the instance with this network interface; `None` if all instances share libvirt's
/// user, which is reported once.
fn own_user(context: &Context, mac: Mac) -> Option<QemuUser> {
    static SAID: Once = Once::new();
    if !context.hypervisor().ok()?.is_system() {
        return None;
    }
    if let Some(why) = obstacle(context) {
        SAID.call_once(|| {
            context.output.warn(&format!(
                "all instances run as one user, and are not protected from each other if one \
                 breaks out of QEMU: {why}; `make setup` fixes this"
            ));
        });
        return None;
    }
    mac.of_instance().map(QemuUser::with_host_part)
}

/// The definition `xml` with the instance's own user, if it has one.
pub(super) fn put_into(context: &Context, mac: Mac, xml: String) -> Result<String> {
    match own_user(context, mac) {
        Some(user) => with_owner(&xml, &user.to_string()),
        None => Ok(xml),
    }
}

/// Why the QEMU of an instance cannot run as a separate user on this host; `None` if it can.
pub fn obstacle(context: &Context) -> Option<String> {
    let kvm = matches!(context.accelerator(), Ok(Accelerator::Kvm));
    let needed = [Some((DIRECTORY, 0o001)), kvm.then_some((KVM, 0o006))];
    needed.into_iter().flatten().find_map(|(place, right)| {
        let mode = match Path::new(place).metadata() {
            Ok(there) => there.mode() & 0o7777,
            Err(error) => return Some(format!("cannot inspect {place}: {error}")),
        };
        let closed = format!("users of instances have no access to {place}: mode {mode:o}");
        (mode & right != right).then_some(closed)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: u16) -> QemuUser {
        QemuUser::with_host_part(HostPart::of_instance(number).unwrap())
    }

    #[test]
    fn a_definition_names_its_own_user_and_nobody_else() {
        let label = "<seclabel type=\"static\" model=\"dac\" relabel=\"yes\"><label>+2100000016:+2100000016</label></seclabel></domain>";
        let disk = "<devices><disk><source><seclabel model='dac' relabel='no'/></source>&lt;</disk></devices>";
        let plain = format!("<domain type='kvm'>{disk}\n</domain>");
        let own = with_owner(&plain, &user(16).to_string()).unwrap();
        assert!(own.ends_with(label) && own.contains(disk), "{own}");
        // Replace what was there before, except labels of another security model.
        for other in [
            "<seclabel type='none' model='dac'/>",
            "<seclabel type='static' model='dac'><label>+0:+0</label></seclabel>",
            "<seclabel type='dynamic' model='apparmor' relabel='yes'/><seclabel model=\"dac\"><label>root:root</label></seclabel>",
        ] {
            let xml = plain.replace("</domain>", &format!("{other}</domain>"));
            let own = with_owner(&xml, &user(16).to_string()).unwrap();
            assert!(own.ends_with(label), "{own}");
            assert!(!own.contains("+0") && !own.contains("root"), "{own}");
            assert_eq!(
                own.contains("apparmor"),
                other.contains("apparmor"),
                "{own}"
            );
            assert_eq!(own.matches("dac").count(), 2, "{own}");
            assert_eq!(
                with_owner(&own, &user(16).to_string())
                    .unwrap()
                    .matches("dac")
                    .count(),
                2
            );
        }
        assert_ne!(user(16).to_string(), user(17).to_string());
        assert!(QemuUser::is_label(&user(2015).to_string()));
        assert!(!QemuUser::is_label("+64055:+64055") && !QemuUser::is_label("+2100000016:+0"));
        assert!(with_owner("<domain", &user(16).to_string()).is_err());
    }

    #[test]
    fn a_number_that_somebody_has_is_found() {
        let numbers = QemuUser::NUMBERS;
        assert_eq!(numbers, 2_100_000_016..=2_100_002_015);
        let users =
            "root:x:0:0::/root:/bin/sh\n\nbroken\nx:y:z\nanna:x:2100000500:100::/:/bin/sh\n";
        assert_eq!(taken(users, 2, None, &numbers), Some(2_100_000_500));
        let ranges = |line: &str| taken(line, 1, Some(2), &numbers);
        assert_eq!(ranges("anna:100000:65536\nroot:1000000:1000000000"), None);
        assert_eq!(ranges("anna:2099999000:65536"), Some(2_100_000_016));
        assert_eq!(ranges("anna:4294967290:65536"), None);
        assert_eq!(ranges("anna:2100002015:1"), Some(2_100_002_015));
        assert_eq!(ranges("anna:2100002016:1"), None);
    }
}
