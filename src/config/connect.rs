//! The libvirt connection URI: only kinds that we know.
//!
//! libvirt's own addresses can name programs that it runs in the caller's name: the transport
//! `ext`, or the parameters `command`, `netcat` and `proxy` of others. These are always refused,
//! whether from a configuration or from elsewhere.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A libvirt connection URI, such as `qemu:///system`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = r"^(test:///[^?#\s]+|qemu(\+(unix|tls|tcp|ssh|libssh|libssh2))?://[^?#\s]*/(system|session)(\?[^#\s]*)?)$"))]
pub struct ConnectUri(String);

/// How a libvirt may be reached, none for this host's own socket or TLS.
const TRANSPORTS: [&str; 7] = ["", "unix", "tls", "tcp", "ssh", "libssh", "libssh2"];

/// What may be said about that. None of it is run.
const PARAMETERS: [&str; 11] = [
    "keyfile",
    "known_hosts",
    "known_hosts_verify",
    "mode",
    "no_sanity",
    "no_tty",
    "no_verify",
    "pkipath",
    "socket",
    "sshauth",
    "tls_priority",
];

impl ConnectUri {
    /// The address itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<ConnectUri> for String {
    fn from(uri: ConnectUri) -> String {
        uri.0
    }
}

impl Default for ConnectUri {
    fn default() -> Self {
        ConnectUri("qemu:///system".to_owned())
    }
}

impl fmt::Display for ConnectUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ConnectUri {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match refused(s) {
            None => Ok(ConnectUri(s.to_owned())),
            Some(why) => Err(format!(
                "bad libvirt connection '{}': {why}",
                s.escape_debug()
            )),
        }
    }
}

impl TryFrom<String> for ConnectUri {
    type Error = String;

    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

/// The part of this host's own libvirt that `uri` is, `system` or `session`, in whichever way that is
/// written; `None` for another host's, and for the test driver.
///
/// The address decides and not what the connection says of itself: libvirt's name for its host may be
/// the full one or come from DNS, hosts that were cloned share theirs, and what runs in a container has
/// another one beside the same socket. To be wrong there would leave instances unguarded without a
/// word. A socket of this host that is passed on to another host is not told apart.
pub fn local(uri: &str) -> Option<&str> {
    let (scheme, rest) = uri.split_once("://")?;
    let place = rest.split_once('?').map_or(rest, |(place, _)| place);
    matches!(scheme, "qemu" | "qemu+unix")
        .then(|| place.strip_prefix('/'))
        .flatten()
}

/// Whether `uri` is the libvirt of this host's system.
pub fn is_system(uri: &str) -> bool {
    local(uri) == Some("system")
}

/// Why `uri` is none that we know.
fn refused(uri: &str) -> Option<String> {
    let known = || {
        Some(
            "allowed are qemu:///system, qemu:///session, qemu+TRANSPORT://HOST/system and \
             test:///default"
                .to_owned(),
        )
    };
    if uri.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#') {
        return known();
    }
    if let Some(place) = uri.strip_prefix("test:///") {
        return match place.is_empty() || place.contains('?') {
            true => known(),
            false => None,
        };
    }
    let Some((scheme, rest)) = uri.split_once("://") else {
        return known();
    };
    let (driver, transport) = scheme.split_once('+').unwrap_or((scheme, ""));
    if driver != "qemu" {
        return known();
    }
    if !TRANSPORTS.contains(&transport) || scheme.ends_with('+') {
        let transports = TRANSPORTS[1..].join(", ");
        return Some(format!("allowed transports are {transports}"));
    }
    let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let Some((host, "system" | "session")) = place.rsplit_once('/') else {
        return known();
    };
    // A user, a name and a port, of which none can be taken for an option.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let mut parts = host.split('@');
    if !parts.all(|part| part.chars().all(plain) && !part.starts_with('-'))
        || host.matches('@').count() > 1
    {
        return known();
    }
    let mut keys = parameters.split(['&', ';']).filter(|one| !one.is_empty());
    let unknown = keys.find(|one| {
        let key = one.split('=').next().unwrap_or_default();
        !PARAMETERS.contains(&key)
    });
    unknown.map(|_| format!("allowed parameters are {}", PARAMETERS.join(", ")))
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
