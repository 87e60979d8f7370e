//! Filters what a browser sends to a VNC server: what is passed on, and whether it is a sign of
//! use. Pure.
//!
//! Messages are those of RFC 6143 and of the extensions that QEMU and noVNC share. The first bytes
//! of a message tell its type and length, so no more than these are ever buffered.
#![deny(clippy::arithmetic_side_effects)]

use crate::state::token::Access;

/// The maximum size of the clipboard, in bytes.
const CLIPBOARD: u32 = 256 << 10;

/// The maximum number of encodings that a client may list.
const ENCODINGS: u16 = 256;

/// An extension that makes pointer events longer. It is removed from the client's list, so that it
/// is not used.
const EXTENDED_MOUSE_BUTTONS: i32 = -316;

/// The extended clipboard.
const EXTENDED_CLIPBOARD: i32 = 0xC0A1_E5CE_u32.cast_signed();

/// Enough for the first bytes of every message.
const HEAD: usize = 12;

/// Why a stream is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// No such message.
    Unknown,
    /// A message that is longer than allowed.
    TooLong,
}

/// A kind of message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Settings and requests for the picture.
    Picture,
    /// The encodings that the client supports.
    Encodings,
    /// Keys and pointer.
    Input,
    /// Anything else that has an effect: clipboard, screen size, sound.
    Other,
}

/// A message as told by its first bytes: its kind and its total length.
struct Message {
    kind: Kind,
    length: u32,
}

/// Parses the first bytes of a message; `None` if there are too few.
fn message(head: &[u8]) -> Result<Option<Message>, Malformed> {
    told(head).transpose()
}

fn told(head: &[u8]) -> Option<Result<Message, Malformed>> {
    let of = |kind, length| Ok(Message { kind, length });
    let byte = |at: usize| head.get(at).copied();
    let short = |at: usize| {
        let bytes = head.get(at..)?.first_chunk()?;
        Some(u16::from_be_bytes(*bytes))
    };
    // The length of `count` items of a size after a header.
    let list =
        |count: u32, size: u32, before: u32| count.saturating_mul(size).saturating_add(before);
    Some(match byte(0)? {
        // SetPixelFormat, FramebufferUpdateRequest, EnableContinuousUpdates
        0 => of(Kind::Picture, 20),
        3 | 150 => of(Kind::Picture, 10),
        // SetEncodings
        2 => match short(2)? {
            count if count > ENCODINGS => Err(Malformed::TooLong),
            count => of(Kind::Encodings, list(count.into(), 4, 4)),
        },
        // KeyEvent, PointerEvent
        4 => of(Kind::Input, 8),
        5 => of(Kind::Input, 6),
        // ClientCutText; a negative length is one of the extended clipboard.
        6 => match i32::from_be_bytes(*head.get(4..)?.first_chunk()?).unsigned_abs() {
            length if length > CLIPBOARD => Err(Malformed::TooLong),
            length => of(Kind::Other, list(length, 1, 8)),
        },
        // ClientFence
        248 => match byte(8)? {
            length if length > 64 => Err(Malformed::TooLong),
            length => of(Kind::Picture, list(length.into(), 1, 9)),
        },
        // SetDesktopSize
        251 => of(Kind::Other, list(byte(6)?.into(), 16, 8)),
        // QEMU's own: an extended key event, or sound
        255 => match byte(1)? {
            0 => of(Kind::Input, 12),
            1 => match short(2)? {
                0 | 1 => of(Kind::Other, 4),
                2 => of(Kind::Other, 10),
                _ => Err(Malformed::Unknown),
            },
            _ => Err(Malformed::Unknown),
        },
        _ => Err(Malformed::Unknown),
    })
}

/// The stream of one client.
#[derive(Debug)]
pub struct Input {
    access: Access,
    /// The first bytes of a message while too few have arrived, or a message with encodings.
    head: Vec<u8>,
    /// How many bytes of the current message are still to come, and whether they are passed on.
    rest: u32,
    passes: bool,
}

impl Input {
    /// The stream of a client with this `access`.
    pub fn new(access: Access) -> Input {
        Input {
            access,
            head: Vec::new(),
            rest: 0,
            passes: false,
        }
    }

    /// Processes data from the client, and appends to `out` what the server gets of it. Returns
    /// whether keyboard or pointer were used.
    pub fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<bool, Malformed> {
        let mut used = false;
        while let Some((first, after)) = bytes.split_first() {
            if self.rest > 0 {
                let rest = usize::try_from(self.rest).unwrap_or(usize::MAX);
                let (part, after) = bytes.split_at(rest.min(bytes.len()));
                if self.passes {
                    out.extend_from_slice(part);
                }
                let passed = u32::try_from(part.len()).unwrap_or(u32::MAX);
                self.rest = self.rest.saturating_sub(passed);
                bytes = after;
                continue;
            }
            self.head.push(*first);
            bytes = after;
            let Some(Message { kind, length }) = message(&self.head)? else {
                debug_assert!(self.head.len() < HEAD, "no message needs more to be known");
                continue;
            };
            let missing = length.saturating_sub(u32::try_from(self.head.len()).unwrap_or(u32::MAX));
            self.passes = match kind {
                Kind::Encodings if missing > 0 => continue,
                Kind::Encodings => {
                    out.extend(self.encodings());
                    self.head.clear();
                    continue;
                }
                Kind::Picture => true,
                Kind::Input | Kind::Other => self.access == Access::Control,
            };
            used |= kind == Kind::Input;
            if self.passes {
                out.extend_from_slice(&self.head);
            }
            self.head.clear();
            self.rest = missing;
        }
        Ok(used)
    }

    /// The complete message with the encodings, without those that this client must not use.
    fn encodings(&self) -> Vec<u8> {
        let (words, _) = self.head.as_chunks::<4>();
        let known = words.iter().skip(1).filter(|word| {
            let encoding = i32::from_be_bytes(**word);
            encoding != EXTENDED_MOUSE_BUTTONS
                && (encoding != EXTENDED_CLIPBOARD || self.access == Access::Control)
        });
        let known: Vec<u8> = known.flatten().copied().collect();
        let count = u16::try_from(known.len() / 4).unwrap_or(ENCODINGS);
        let [high, low] = count.to_be_bytes();
        [vec![2, 0, high, low], known].concat()
    }
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    reason = "what breaks off fails the test"
)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;

    fn key(down: u8) -> Vec<u8> {
        vec![4, down, 0, 0, 0, 0, 0, 0x61]
    }

    fn extended_key() -> Vec<u8> {
        vec![255, 0, 0, 1, 0, 0, 0, 0x61, 0, 0, 0, 30]
    }

    fn pointer() -> Vec<u8> {
        vec![5, 1, 0, 10, 0, 20]
    }

    fn clipboard(length: u16) -> Vec<u8> {
        let mut message = vec![6, 0, 0, 0];
        message.extend(u32::from(length).to_be_bytes());
        message.resize(8 + usize::from(length), b'x');
        message
    }

    fn encodings(known: &[i32]) -> Vec<u8> {
        let mut message = vec![2, 0];
        message.extend(u16::try_from(known.len()).unwrap().to_be_bytes());
        message.extend(known.iter().flat_map(|one| one.to_be_bytes()));
        message
    }

    fn fence(length: u8) -> Vec<u8> {
        let mut message = vec![248, 0, 0, 0, 0, 0, 0, 0, length];
        message.resize(9 + usize::from(length), 1);
        message
    }

    fn desktop(screens: u8) -> Vec<u8> {
        let mut message = vec![251, 0, 4, 0, 3, 0, screens, 0];
        message.resize(8 + 16 * usize::from(screens), 0);
        message
    }

    fn update_request() -> Vec<u8> {
        vec![3, 1, 0, 0, 0, 0, 2, 0xD0, 1, 0x90]
    }

    /// Those that somebody who only watches may send.
    fn harmless() -> Vec<Vec<u8>> {
        let mut pixel_format = vec![0; 20];
        pixel_format[4] = 32;
        let continuous = vec![150, 1, 0, 0, 0, 0, 1, 0, 1, 0];
        vec![
            pixel_format,
            encodings(&[0, 7, -223]),
            update_request(),
            continuous,
            fence(8),
        ]
    }

    fn harmful() -> Vec<Vec<u8>> {
        let extended = [
            vec![6, 0, 0, 0],
            (-4_i32).to_be_bytes().to_vec(),
            vec![1, 0, 0, 1],
        ]
        .concat();
        vec![
            key(1),
            key(0),
            extended_key(),
            pointer(),
            clipboard(0),
            clipboard(3000),
            extended,
            desktop(1),
            vec![255, 1, 0, 0],
            vec![255, 1, 0, 2, 3, 2, 0, 0, 0xBB, 0x80],
        ]
    }

    /// What goes through of `stream` in pieces of `size`, and whether it was a sign of use.
    fn through(access: Access, stream: &[u8], size: usize) -> (Vec<u8>, Result<bool, Malformed>) {
        let (mut input, mut out, mut used) = (Input::new(access), Vec::new(), false);
        for piece in stream.chunks(size) {
            match input.take(piece, &mut out) {
                Ok(now) => used |= now,
                Err(error) => return (out, Err(error)),
            }
            assert!(input.head.len() <= 4 + 4 * usize::from(ENCODINGS));
        }
        (out, Ok(used))
    }

    #[test]
    fn all_goes_through_to_who_may_use_it_and_the_picture_alone_to_who_may_see_it() {
        let (seen, touched) = (harmless().concat(), harmful().concat());
        let all = [&*seen, &touched, &seen].concat();
        for size in [1, 2, 3, 7, 64, 100_000] {
            assert_eq!(
                through(Access::Control, &all, size),
                (all.clone(), Ok(true))
            );
            assert_eq!(
                through(Access::View, &all, size).0,
                [&*seen, &seen].concat()
            );
            assert_eq!(
                through(Access::Control, &seen, size),
                (seen.clone(), Ok(false))
            );
        }
    }

    #[test]
    fn keys_and_pointer_are_use_and_nothing_else_is() {
        for message in [key(1), key(0), extended_key(), pointer()] {
            assert_eq!(
                through(Access::Control, &message, 100).1,
                Ok(true),
                "{message:?}"
            );
        }
        for message in [clipboard(3), desktop(1), fence(0), update_request()] {
            assert_eq!(
                through(Access::Control, &message, 100).1,
                Ok(false),
                "{message:?}"
            );
        }
    }

    #[test]
    fn what_would_change_the_messages_is_not_agreed_on() {
        let wanted = encodings(&[7, EXTENDED_MOUSE_BUTTONS, EXTENDED_CLIPBOARD]);
        let control = through(Access::Control, &wanted, 100).0;
        assert_eq!(control, encodings(&[7, EXTENDED_CLIPBOARD]));
        assert_eq!(through(Access::View, &wanted, 100).0, encodings(&[7]));
    }

    #[test]
    fn what_is_unknown_or_too_long_is_refused() {
        for (message, why) in [
            (vec![1], Malformed::Unknown),
            (vec![7], Malformed::Unknown),
            (vec![250, 0, 1, 2], Malformed::Unknown),
            (vec![255, 2], Malformed::Unknown),
            (vec![255, 1, 0, 3], Malformed::Unknown),
            (vec![2, 0, 1, 1], Malformed::TooLong),
            (vec![6, 0, 0, 0, 0, 4, 0, 1], Malformed::TooLong),
            (vec![6, 0, 0, 0, 0x80, 0, 0, 0], Malformed::TooLong),
            (vec![248, 0, 0, 0, 0, 0, 0, 0, 65], Malformed::TooLong),
        ] {
            for access in [Access::Control, Access::View] {
                let refused = through(access, &message, 1);
                assert_eq!(refused.1, Err(why), "{message:?}");
                assert!(refused.0.is_empty(), "{message:?}");
            }
        }
    }

    /// Whether every message in `stream`, of which the last may be cut off, is harmless. Written anew,
    /// for whoever only watches sends few kinds.
    fn is_harmless(mut stream: &[u8]) -> bool {
        while let Some(first) = stream.first() {
            let length = match first {
                0 => 20,
                3 | 150 => 10,
                2 => match stream {
                    [_, _, high, low, ..] => 4 + 4 * usize::from(u16::from_be_bytes([*high, *low])),
                    _ => return true,
                },
                248 => stream.get(8).map_or(9, |length| 9 + usize::from(*length)),
                _ => return false,
            };
            stream = &stream[length.min(stream.len())..];
        }
        true
    }

    /// Honest messages with some bytes changed, added and taken out, in pieces of any size.
    #[test]
    fn no_stream_breaks_it_or_gets_input_past_a_viewers_token() {
        let messages = [harmless(), harmful()].concat();
        let change = (any::<prop::sample::Index>(), any::<u8>(), 0..3_u8);
        let stream = (
            vec(prop::sample::select(messages), 0..12),
            vec(change, 0..6),
            1..200_usize,
        );
        let config = Config {
            cases: 100_000,
            ..Config::default()
        };
        let checked = TestRunner::new(config).run(&stream, |(messages, changes, size)| {
            let mut stream = messages.concat();
            for (at, byte, how) in changes {
                if stream.is_empty() {
                    break;
                }
                let at = at.index(stream.len());
                match how {
                    0 => stream[at] = byte,
                    1 => stream.insert(at, byte),
                    _ => drop(stream.remove(at)),
                }
            }
            let (viewed, outcome) = through(Access::View, &stream, size);
            prop_assert!(is_harmless(&viewed), "{viewed:?}");
            // Both understand the same.
            let (passed, other) = through(Access::Control, &stream, stream.len().max(1));
            prop_assert_eq!(outcome, other);
            prop_assert!(passed.len() <= stream.len() && viewed.len() <= passed.len());
            Ok(())
        });
        checked.unwrap();
    }
}
