//! The libvirt connection URI; only known kinds are allowed.
//!
//! libvirt's URIs can name programs that libvirt runs as the caller: with the transport `ext`, or
//! with the parameters `command`, `netcat` and `proxy` of others. These are always refused,
//! wherever the URI comes from.

use crate::checked::checked;

/// A user, or a host and its port. It must not begin with `-`, so that it is never taken for an
/// option.
macro_rules! word {
    () => {
        r"([A-Za-z0-9._:\[\]][A-Za-z0-9._:\[\]-]*)?"
    };
}

/// Parameters of the connection. None of them runs a program.
macro_rules! parameter {
    () => {
        "(keyfile|known_hosts|known_hosts_verify|mode|no_sanity|no_tty|no_verify|pkipath|socket|\
         sshauth|tls_priority)"
    };
}

checked! {
    /// A libvirt connection URI, such as `qemu:///system`.
    struct ConnectUri, "libvirt connection",
    concat!(
        r"(test:///[^?#\s]+",
        r"|qemu(\+(unix|tls|tcp|ssh|libssh|libssh2))?://",
        "(", word!(), "@)?", word!(), "/(system|session)",
        r"(\?[&;]*(", parameter!(), r"(=[^&;#\s]*)?([&;]+|$))*)?)"
    ),
    "allowed are qemu:///system, qemu:///session, qemu+TRANSPORT://HOST/system and test:///default; \
     transports are unix, tls, tcp, ssh, libssh, libssh2; parameters are keyfile, known_hosts, \
     known_hosts_verify, mode, no_sanity, no_tty, no_verify, pkipath, socket, sshauth, tls_priority",
    |uri| (!uri.contains(char::is_whitespace)).then(|| uri.to_owned())
}

impl Default for ConnectUri {
    fn default() -> Self {
        ConnectUri("qemu:///system".to_owned())
    }
}

/// The part of this host's own libvirt that `uri` refers to, `system` or `session`, however it is
/// written; `None` for another host's, and for the test driver.
///
/// The address decides, not the host name that the connection reports: that name may be a full one
/// or come from DNS, cloned hosts share theirs, and a container has another one with the same
/// socket. A wrong answer would leave instances unprotected without a message. A socket of this
/// host that is forwarded to another host is not recognised.
pub fn local(uri: &str) -> Option<&str> {
    let (scheme, rest) = uri.split_once("://")?;
    let place = rest.split_once('?').map_or(rest, |(place, _)| place);
    matches!(scheme, "qemu" | "qemu+unix")
        .then(|| place.strip_prefix('/'))
        .flatten()
}

/// Whether `uri` is this host's system libvirt.
pub fn is_system(uri: &str) -> bool {
    local(uri) == Some("system")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_hosts_own_libvirt_is_known_however_it_is_written() {
        for (uri, part) in [
            ("qemu:///system", Some("system")),
            ("qemu+unix:///system", Some("system")),
            (
                "qemu:///system?socket=/run/libvirt/libvirt-sock",
                Some("system"),
            ),
            ("qemu+unix:///session?mode=legacy", Some("session")),
            ("qemu+ssh://host/system", None),
            ("qemu+tcp:///system", None),
            ("qemu://host/system", None),
            ("test:///default", None),
        ] {
            assert_eq!(local(uri), part, "{uri}");
        }
    }

    #[test]
    fn connections_that_name_a_program_are_none() {
        for good in [
            "qemu:///system",
            "qemu:///session",
            "qemu+unix:///system?socket=/run/libvirt/libvirt-sock",
            "qemu+ssh://root@host-1.example.org:22/system?keyfile=/root/.ssh/id&no_tty=1",
            "qemu+tls://[2001:db8::1]/system",
            "qemu://host/system",
            "test:///default",
            "test:///tmp/a b.xml".replace(' ', "-").as_str(),
        ] {
            assert_eq!(good.parse::<ConnectUri>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "qemu",
            "qemu:///",
            "qemu:/system",
            "qemu:///system/",
            "qemu:///embed?root=/tmp",
            "qemu+:///system",
            "qemu+ext:///system?command=/tmp/evil",
            "QEMU+EXT:///system?command=/tmp/evil",
            "qemu+ssh+ext:///system",
            "qemu+ssh://host/system?command=/tmp/evil",
            "qemu+ssh://host/system?netcat=/tmp/evil",
            "qemu+ssh://host/system?no_tty=1&command=/tmp/evil",
            "qemu+ssh://host/system?no_tty=1;command=/tmp/evil",
            "qemu+ssh://host/system?%63ommand=/tmp/evil",
            "qemu+ssh://host/system?COMMAND=/tmp/evil",
            "qemu+libssh2://host/system?proxy=evil",
            "qemu+unix:///system?name=qemu%2bext:///",
            "qemu+ssh://-oProxyCommand=evil/system",
            "qemu+ssh://x@-oProxyCommand=evil/system",
            "qemu+ssh://a@b@c/system",
            "qemu+ssh://host$(evil)/system",
            "qemu:///system#x",
            "qemu:///system\n",
            "test:///",
            "test+ssh://host/default",
            "test+ext:///default?command=/tmp/evil",
            "lxc:///system",
            "xen:///system",
            "myalias",
        ] {
            assert!(bad.parse::<ConnectUri>().is_err(), "{bad:?}");
        }
    }
}
