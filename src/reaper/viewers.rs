//! Who watches a console: the clients of its ports that have completed the VNC handshake, according
//! to the kernel's counters.
//!
//! QEMU itself knows who has authenticated, but asking it marks the domain as tainted, and libvirt
//! has no call for it. The number of bytes sent tells as well: a client that does not know the
//! password receives at most 59 bytes (RFC 6143, section 7.1: version 12, types of security 2,
//! challenge 16, result 4, reason 4 and its 21 letters), and one that does receives the server's
//! greeting with the domain's name after the first 34.
#![deny(clippy::arithmetic_side_effects)]

use std::collections::HashSet;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use crate::hypervisor::xml::domain::Console;
use crate::process::Program;

/// A client of the VNC port that has completed the handshake has received more than this.
const VNC: u64 = 64;

/// The same over WebSocket, with some 230 bytes of HTTP and frames. An authenticated client
/// receives a picture, which is larger than this.
const WEBSOCKET: u64 = 512;

/// The source address of the gateway's connections for watchers, which do not count as use.
pub const WATCHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The ports of `consoles` that have such a client. One call for all of them.
pub fn viewed_ports<'a>(consoles: impl IntoIterator<Item = &'a Console>) -> Result<HashSet<u16>> {
    let (mut vnc, mut websocket) = (HashSet::new(), HashSet::new());
    for console in consoles {
        vnc.insert(console.port);
        websocket.extend(console.websocket);
    }
    if vnc.is_empty() {
        return Ok(vnc);
    }
    let sockets = Program::find("ss", "iproute2")?
        .run(["-H", "-O", "-t", "-n", "-i", "state", "established"])
        .context("cannot detect console clients")?;
    let enough = |port: &u16| {
        let of_vnc = vnc.contains(port).then_some(VNC);
        of_vnc.or_else(|| websocket.contains(port).then_some(WEBSOCKET))
    };
    Ok(sockets
        .lines()
        .filter_map(sent)
        .filter(|(port, sent)| enough(port).is_some_and(|enough| *sent > enough))
        .map(|(port, _)| port)
        .collect())
}

/// The local port and the bytes sent, from one line of `ss`, unless they were sent to a watcher.
fn sent(line: &str) -> Option<(u16, u64)> {
    let mut words = line.split_whitespace();
    let port = words.nth(2)?.rsplit(':').next()?.parse().ok()?;
    let (client, _) = words.next()?.rsplit_once(':')?;
    let client = client
        .trim_matches(['[', ']'])
        .trim_start_matches("::ffff:");
    if client.parse() == Ok(WATCHER) {
        return None;
    }
    let sent = words.find_map(|word| word.strip_prefix("bytes_sent:"))?;
    Some((port, sent.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ss_are_read() {
        let line = "0 0 127.0.0.1:5901 127.0.0.1:44798 cubic wscale:10,10 rto:204 \
                    bytes_sent:2000 bytes_acked:2000 bytes_received:30 segs_out:2";
        assert_eq!(sent(line), Some((5901, 2000)));
        let six = "0 0 [::ffff:10.0.0.1]:5700 [::ffff:10.0.0.2]:1 bbr bytes_sent:12";
        assert_eq!(sent(six), Some((5700, 12)));
        for watcher in ["127.0.0.2:1", "[::ffff:127.0.0.2]:1"] {
            let line = format!("0 0 127.0.0.1:5901 {watcher} bbr bytes_sent:2000");
            assert_eq!(sent(&line), None, "{line}");
        }
        for none in ["", "0 0 127.0.0.1:5901 127.0.0.1:2 bbr bytes_received:12"] {
            assert_eq!(sent(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_connection_that_was_sent_a_picture_has_a_viewer() {
        use std::io::Write;
        use std::net::{TcpListener, TcpStream};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = || {
            let console = Console {
                host: "127.0.0.1".to_owned(),
                port,
                websocket: None,
            };
            viewed_ports([&console]).unwrap().contains(&port)
        };
        assert!(!seen());
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"RFB 003.008\n").unwrap();
        assert!(!seen(), "it has not said a word");
        server.write_all(&[0; 100]).unwrap();
        assert!(seen());
        drop((client, server));
        assert!(!seen());
    }
}
