//! How a session ends: the code and reason of the WebSocket's close event, which the page may show.
//! Pure.
//!
//! Codes are 4000 plus the HTTP status that man/backend.md has for the same failure. Details go to
//! the log only: they contain paths of the server.

use clap::ValueEnum;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::error::Kind;

/// Why a session ends. The reason must fit into a close frame: 123 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    /// The code of the close event.
    pub code: u16,
    /// Its reason, for the person at the page.
    pub reason: &'static str,
}

const fn closing(code: u16, reason: &'static str) -> Closing {
    Closing { code, reason }
}

impl Closing {
    /// The client has left.
    pub const LEFT: Closing = closing(1000, "bye");
    /// The gateway is shutting down.
    pub const RESTART: Closing = closing(1001, "the server's gateway is restarting: connect again");
    /// The client does not speak VNC.
    pub const PROTOCOL: Closing = closing(1002, "the browser sent a malformed message");
    /// The token is invalid.
    pub const TOKEN: Closing = closing(
        4401,
        "this link is not valid, has expired or was used before: connect again",
    );
    /// The client has not sent or read anything for too long.
    pub const SILENT: Closing = closing(4408, "the connection was too slow or did not answer");
    /// A token for watching, but the instance does not run.
    pub const ASLEEP: Closing = closing(4409, "the VM is not running");
    /// QEMU has closed the console.
    pub const OVER: Closing = closing(4410, "the VM was paused, stopped or restarted");
    /// The user has opened more sessions than allowed: the oldest ends.
    pub const DISPLACED: Closing =
        closing(4412, "too many windows: a newer one has replaced this one");
    /// The maximum number of sessions is reached.
    pub const CROWDED: Closing = closing(
        4429,
        "too many screens are open on this server: try again later",
    );
    /// The console does not answer.
    pub const UNREACHABLE: Closing = closing(4503, "the VM's screen cannot be reached: try again");

    /// Those that are no failures of the engine.
    const OWN: [Closing; 10] = [
        Closing::LEFT,
        Closing::RESTART,
        Closing::PROTOCOL,
        Closing::TOKEN,
        Closing::SILENT,
        Closing::ASLEEP,
        Closing::OVER,
        Closing::DISPLACED,
        Closing::CROWDED,
        Closing::UNREACHABLE,
    ];

    fn all() -> impl Iterator<Item = Closing> {
        let kinds = Kind::value_variants().iter().copied();
        kinds.map(Closing::of).chain(Closing::OWN)
    }

    /// The closing of the session at another gateway that ended with `frame`.
    pub fn of_frame(frame: Option<&CloseFrame>) -> Closing {
        let said = |it: &Closing| {
            frame.is_some_and(|frame| u16::from(frame.code) == it.code && frame.reason == it.reason)
        };
        Closing::all().find(said).unwrap_or(Closing::OVER)
    }

    /// The closing of a session whose VM could not be opened.
    pub const fn of(kind: Kind) -> Closing {
        match kind {
            Kind::NotFound => closing(4404, "this VM no longer exists"),
            Kind::Conflict => closing(4409, "the VM's state does not allow this"),
            Kind::Busy => closing(4423, "another command is working on the VM: try again"),
            Kind::Capacity => closing(4507, "the server is full: try again later"),
            Kind::Unavailable => closing(4503, "the server cannot start VMs now: try again later"),
            Kind::Failed | Kind::Usage | Kind::Config => closing(
                4500,
                "the VM could not be started: the server's log has the reason",
            ),
        }
    }

    /// The close frame.
    pub fn frame(self) -> CloseFrame {
        CloseFrame {
            code: CloseCode::from(self.code),
            reason: self.reason.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_fits_into_a_frame_and_is_known_by_it() {
        for closing in Closing::all() {
            assert!(closing.reason.len() <= 123, "{closing:?}");
            let frame = closing.frame();
            assert_eq!(u16::from(frame.code), closing.code);
            assert!(frame.code.is_allowed(), "{closing:?}");
            assert_eq!(Closing::of_frame(Some(&frame)), closing);
        }
        assert_eq!(Closing::of_frame(None), Closing::OVER);
    }
}
