//! The firewall of the lab networks: an nftables table that setup.sh writes and libvirt's hook
//! loads (`templates/host/network.nft`). This module checks whether it is unchanged since it was
//! loaded.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;

use crate::error::{Fault, Kind};
use crate::network::Mac;
use crate::process::{self, Program};
use crate::state::lock::Lock;

/// The file with the table.
const TABLE: &str = "/etc/cyyber/network.nft";

/// The program that loads it: libvirt's network hook, with the arguments of libvirt's call.
const LOADER: &str = "/etc/libvirt/hooks/network.d/cyyber";
const LOADING: [&str; 4] = ["cyyber-nat", "start", "begin", "-"];

/// The kernel's listing right after it was loaded, since boot.
const LOADED: &str = "/run/cyyber/network.loaded";

/// Held while it is loaded.
const LOCK: &str = "/run/cyyber/network.lock";

/// How long loading may take.
const LOADING_TIME: Duration = Duration::from_secs(10);

/// The families for which it has a table.
const FAMILIES: [&str; 3] = ["bridge", "arp", "inet"];

/// Whether setup.sh has written it on this host.
pub fn is_set_up() -> bool {
    Path::new(LOADER).exists()
}

/// Fails if it was not loaded since boot: guests would not be isolated.
pub fn ensure_loaded() -> Result<()> {
    if Path::new(LOADED).exists() {
        return Ok(());
    }
    Err(not_loaded())
}

fn not_loaded() -> anyhow::Error {
    let message = "the firewall of the lab networks is not loaded";
    let hint = "`make setup` makes and loads it";
    Fault::new(Kind::Unavailable, message).hint(hint).into()
}

/// Whether the kernel's table is unchanged since it was loaded: no chain, rule or element was
/// removed, changed or added. Fails if that cannot be checked, for example because the user is not
/// root.
///
/// Every table, set and rule has a handle that is never reused. The elements of the sets of
/// interfaces need not be compared: the kernel does not permit changing them while a rule refers to
/// them.
pub fn in_force() -> Result<bool> {
    let nft = Program::find("nft", "nftables")?;
    // Family by family, which does not read the rules of iptables. Listing tables by name takes ten
    // times as long.
    let all = FAMILIES.map(|family| format!("list ruleset {family}"));
    let now = nft.run(["-a", "-t", "-s", &all.join("; ")])?;
    let loaded = match fs_err::read_to_string(LOADED) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        loaded => loaded?,
    };
    let (now, loaded) = (ours(&now), ours(&loaded));
    Ok(!loaded.is_empty() && now == loaded)
}

/// Restores it if it is not in force; returns whether that was necessary.
pub fn restore() -> Result<bool> {
    if in_force()? || looked_at_again()? {
        return Ok(false);
    }
    if !is_set_up() {
        return Err(not_loaded());
    }
    process::run(Command::new(LOADER).args(LOADING).stdin(Stdio::null()))?;
    Ok(true)
}

/// Check again under the lock: another process may have loaded it.
fn looked_at_again() -> Result<bool> {
    let lock = Path::new(LOCK);
    let take = || Lock::take(lock, "the firewall of the lab networks", LOADING_TIME);
    let _lock = lock.exists().then(take).transpose()?;
    in_force()
}

/// Our tables in a listing.
fn ours(listing: &str) -> Vec<&str> {
    let begins = |line: &str| {
        let mut begins = FAMILIES.iter().map(|it| format!("table {it} cyyber {{"));
        begins.any(|begin| line.starts_with(&begin))
    };
    let mut inside = false;
    let lines = listing.lines().filter(|line| {
        let ours = inside || begins(line);
        inside = ours && *line != "}";
        ours
    });
    lines.collect()
}

/// Whether it accepts the interface with this MAC address at the port `device`, which is not its
/// own port: the guest was started before interfaces had their own ports.
pub fn admits(device: &str, mac: Mac) -> bool {
    let table = fs_err::read_to_string(TABLE).unwrap_or_default();
    table.contains(&format!("\"{device}\" . {mac},"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_tables_are_told_from_others() {
        let listing = "table bridge other { # handle 1\n\tchain a { # handle 1\n\t}\n}\n\
                       table bridge cyyber { # handle 2\n\tset cards { # handle 3\n\t}\n}\n\
                       table inet cyyber-not { # handle 4\n}\n\
                       table inet cyyber { # handle 5\n\tdrop # handle 6\n}\n";
        assert_eq!(
            ours(listing),
            [
                "table bridge cyyber { # handle 2",
                "\tset cards { # handle 3",
                "\t}",
                "}",
                "table inet cyyber { # handle 5",
                "\tdrop # handle 6",
                "}"
            ]
        );
        assert!(ours("").is_empty());
    }
}
