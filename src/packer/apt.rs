//! The proxies of this host's apt: a build's VM uses them too, an instance does not. If this host
//! can only reach the archives through a proxy, its VMs cannot reach them without it either.

use anyhow::Result;

use crate::process::Program;

/// The address of this host's loopback interface in a VM with QEMU's user network.
const THIS_HOST: &str = "10.0.2.2";

/// This host's proxies as an apt configuration file for the VM; empty if there are none, or no apt.
pub fn proxies_of_host() -> Result<String> {
    match Program::find("apt-config", "apt") {
        Ok(program) => Ok(proxies(&program.run(["dump"])?)),
        Err(_) => Ok(String::new()),
    }
}

/// The proxies in the output of `apt-config dump`.
fn proxies(dump: &str) -> String {
    let lines = dump.lines().filter_map(|line| {
        let (name, value) = line.strip_suffix("\";")?.split_once(" \"")?;
        let kinds = ["Acquire::http::Proxy", "Acquire::https::Proxy"];
        // For all archives, or for those on one host.
        let is_one = kinds.iter().any(|kind| {
            let rest = name.strip_prefix(kind);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        });
        let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_graphic() && c != '"');
        let usable = is_one && !value.is_empty() && is_plain(name) && is_plain(value);
        usable.then(|| format!("{name} \"{}\";\n", from_within(value)))
    });
    lines.collect()
}

/// The URL of a proxy as seen from the VM, where this host's loopback has another address.
fn from_within(proxy: &str) -> String {
    let Some((scheme, rest)) = proxy.split_once("://") else {
        return proxy.to_owned();
    };
    let (place, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (person, host) = place.split_at(place.rfind('@').map_or(0, |at| at + 1));
    let own = ["localhost", "127.0.0.1", "[::1]"].into_iter().find(|own| {
        let port = host.strip_prefix(own);
        port.is_some_and(|port| port.is_empty() || port.starts_with(':'))
    });
    match own {
        Some(own) => {
            let port = &host[own.len()..];
            format!("{scheme}://{person}{THIS_HOST}{port}{path}")
        }
        None => proxy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_taken_over_and_nothing_else() {
        let dump = "Acquire \"\";\nAcquire::http \"\";\n\
            Acquire::http::Proxy \"http://proxy.school:3128\";\n\
            Acquire::http::Proxy::mirror.school \"DIRECT\";\n\
            Acquire::https::Proxy \"\";\n\
            Acquire::http::Proxy-Auto-Detect \"/usr/bin/find-proxy\";\n\
            Acquire::http::Timeout \"30\";\n\
            Acquire::https::Proxy::a \"x\"; DPkg::Post-Invoke \"id\";\n\
            APT::Proxy \"http://other\";\n";
        assert_eq!(
            proxies(dump),
            "Acquire::http::Proxy \"http://proxy.school:3128\";\n\
             Acquire::http::Proxy::mirror.school \"DIRECT\";\n"
        );
    }

    #[test]
    fn a_proxy_on_this_host_is_reached_from_within() {
        for (here, there) in [
            ("http://127.0.0.1:3142", "http://10.0.2.2:3142"),
            ("http://localhost:3142/", "http://10.0.2.2:3142/"),
            ("http://[::1]", "http://10.0.2.2"),
            ("http://a:b@localhost:1", "http://a:b@10.0.2.2:1"),
            ("http://localhost.school:1", "http://localhost.school:1"),
            ("http://127.0.0.11:1", "http://127.0.0.11:1"),
            ("DIRECT", "DIRECT"),
        ] {
            assert_eq!(from_within(here), there);
        }
    }
}
