//! Tokens with which a browser can connect through the gateway to one console, once.
//!
//! The gateway creates a new key each time it starts, and every command that grants access to a
//! console signs with it. So tokens from before a restart are void, and used ones need not be
//! remembered across restarts; an existing key means that there is a gateway.

use std::fmt;
use std::io;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::{SignedDuration, Timestamp};
use sha2::Sha256;

use crate::files;
use crate::names::InstanceName;

/// How long a token is valid.
const VALID_FOR: SignedDuration = SignedDuration::from_secs(60);

/// The path of a console, without the token.
pub const CONSOLE: &str = "/console/";

/// The maximum length of a token, in characters.
const LONGEST: usize = 512;

/// Bytes of a signature.
const SIGNATURE: usize = 32;

/// The access that a token grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To view and to control the console.
    Control,
    /// To view the console.
    View,
}

impl Access {
    const fn byte(self) -> u8 {
        match self {
            Access::Control => b'c',
            Access::View => b'v',
        }
    }
}

/// The content of a token. An instance's name includes its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The instance.
    pub name: InstanceName,
    /// The granted access.
    pub access: Access,
    /// When it expires.
    pub expires: Timestamp,
    /// A unique number.
    pub serial: u128,
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is not signed with this key, or not a token.
    Forged,
    /// It has expired.
    Expired,
}

impl Token {
    /// A new token, valid from `now`.
    pub fn new(name: &InstanceName, access: Access, now: Timestamp) -> Token {
        Token {
            name: name.clone(),
            access,
            expires: now + VALID_FOR,
            serial: rand::random(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.access.byte()];
        bytes.extend(self.expires.as_millisecond().to_be_bytes());
        bytes.extend(self.serial.to_be_bytes());
        bytes.extend(self.name.to_string().bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Token> {
        let (access, rest) = bytes.split_first()?;
        let (expires, rest) = rest.split_first_chunk()?;
        let (serial, name) = rest.split_first_chunk()?;
        let expires = Timestamp::from_millisecond(i64::from_be_bytes(*expires)).ok()?;
        Some(Token {
            name: std::str::from_utf8(name).ok()?.parse().ok()?,
            access: match access {
                b'c' => Access::Control,
                b'v' => Access::View,
                _ => return None,
            },
            expires,
            serial: u128::from_be_bytes(*serial),
        })
    }
}

/// The key that signs tokens.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// Replaces the key at `path` with a new one that only its owner can read.
    pub fn renew(path: &Path) -> io::Result<Key> {
        let key = Key(rand::random());
        files::make_directory_of(path)?;
        files::replace(path, &key.0, files::PRIVATE)?;
        Ok(key)
    }

    /// The present key; `None` if there is no gateway.
    pub fn read(path: &Path) -> io::Result<Option<Key>> {
        let key = files::read_if_there(path)?.map(<[u8; 32]>::try_from);
        let key = key.transpose();
        let key = key.map_err(|_| io::Error::other(format!("{} is damaged", path.display())))?;
        Ok(key.map(Key))
    }

    fn mac(&self, bytes: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(bytes);
        Some(mac)
    }

    /// The path with which a browser connects to the console.
    pub fn path(&self, token: &Token) -> String {
        let mut bytes = token.bytes();
        if let Some(mac) = self.mac(&bytes) {
            bytes.extend(mac.finalize().into_bytes());
        }
        format!("{CONSOLE}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The token in `path`, if it is signed with this key and valid.
    pub fn check(&self, path: &str, now: Timestamp) -> Result<Token, Refusal> {
        let token = self.signed(path).ok_or(Refusal::Forged)?;
        // One that is valid for longer was created before the clock was set.
        let left = token.expires.duration_since(now);
        if left.is_positive() && left <= VALID_FOR + VALID_FOR {
            Ok(token)
        } else {
            Err(Refusal::Expired)
        }
    }

    fn signed(&self, path: &str) -> Option<Token> {
        let text = path.strip_prefix(CONSOLE)?;
        if text.len() > LONGEST {
            return None;
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let (said, signature) = bytes.split_at_checked(bytes.len().checked_sub(SIGNATURE)?)?;
        // In constant time.
        self.mac(said)?.verify_slice(signature).ok()?;
        Token::from_bytes(said)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[key]")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn token(access: Access) -> Token {
        Token::new(
            &"lab01_user_anna.7".parse().unwrap(),
            access,
            Timestamp::UNIX_EPOCH,
        )
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn a_token_says_what_was_signed_until_it_expires() {
        let key = Key([7; 32]);
        for access in [Access::Control, Access::View] {
            let token = token(access);
            let path = key.path(&token);
            assert!(path.len() < LONGEST, "{path}");
            assert_eq!(key.check(&path, at(59)), Ok(token));
            assert_eq!(key.check(&path, at(60)), Err(Refusal::Expired));
            assert_eq!(key.check(&path, at(-61)), Err(Refusal::Expired));
        }
        assert_ne!(
            token(Access::View).serial,
            token(Access::View).serial,
            "each is another one"
        );
    }

    #[test]
    fn nothing_else_is_a_token() {
        let key = Key([7; 32]);
        let path = key.path(&token(Access::View));
        let forged =
            |path: &str| assert_eq!(key.check(path, at(1)), Err(Refusal::Forged), "{path}");
        forged(&Key([8; 32]).path(&token(Access::View)));
        let encoded = path.strip_prefix(CONSOLE).unwrap();
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(encoded).unwrap();
        // Another mode, another time, another instance, another signature: each bit counts.
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            forged(&format!(
                "{CONSOLE}{}",
                BASE64_URL_SAFE_NO_PAD.encode(changed)
            ));
        }
        for length in 0..bytes.len() {
            forged(&format!(
                "{CONSOLE}{}",
                BASE64_URL_SAFE_NO_PAD.encode(&bytes[..length])
            ));
        }
        for other in [
            "",
            "/",
            CONSOLE,
            encoded,
            &format!("/x{path}"),
            &format!("{path}="),
        ] {
            forged(other);
        }
        forged(&format!("{CONSOLE}{}", "A".repeat(100_000)));
    }

    #[test]
    fn a_key_is_for_its_owner_alone_and_new_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.key");
        assert!(Key::read(&path).unwrap().is_none());
        let first = Key::renew(&path).unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, files::PRIVATE);
        let token = token(Access::Control);
        let signed = Key::read(&path).unwrap().unwrap().path(&token);
        assert_eq!(first.check(&signed, at(1)), Ok(token));
        let second = Key::renew(&path).unwrap();
        assert_eq!(second.check(&signed, at(1)), Err(Refusal::Forged));
        std::fs::write(&path, "short").unwrap();
        assert!(Key::read(&path).is_err());
    }
}
