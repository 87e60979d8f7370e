//! Texts of the configuration, each with what it may contain.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest text that a lab may show its students, in bytes.
const LONGEST_TEXT: usize = 64 << 10;

/// One line of text for people: no control characters, at most 200 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("minLength" = 1, "maxLength" = 200, "pattern" = r"^[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*$"))]
pub struct Line(String);

/// Text for the student's terminal: any Unicode, with newlines, tabs and colour escapes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("maxLength" = 65536))]
pub struct Text(String);

/// The name of a Debian package: `[a-z0-9][a-z0-9+.-]+` (Debian Policy 5.6.1), so that it can be
/// neither an option nor special to a shell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("minLength" = 2, "maxLength" = 128, "pattern" = r"^[a-z0-9][a-z0-9+.-]*[a-z0-9+.]$"))]
pub struct PackageName(String);

/// A checksum, `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = r"^sha256:[0-9a-fA-F]{64}$"))]
pub struct Sha256(String);

/// Control characters, and what Unicode promises never to be a character, which XML refuses.
fn unprintable(c: char) -> bool {
    c.is_control() || u32::from(c) & 0xfffe == 0xfffe
}

impl TryFrom<String> for Line {
    type Error = String;

    fn try_from(s: String) -> Result<Self, String> {
        if s.trim().is_empty() || s.len() > 200 || s.chars().any(unprintable) {
            return Err(
                "expected one line of text: not empty, at most 200 bytes, no control characters"
                    .into(),
            );
        }
        Ok(Line(s))
    }
}

impl TryFrom<String> for Text {
    type Error = String;

    fn try_from(s: String) -> Result<Self, String> {
        if s.len() > LONGEST_TEXT {
            return Err(format!(
                "text of {} bytes: at most {LONGEST_TEXT} are allowed",
                s.len()
            ));
        }
        let strange = |c: &char| c.is_control() && !matches!(c, '\n' | '\t' | '\x1b');
        match s.chars().find(strange) {
            Some(c) => Err(format!(
                "control character {:?} in text: newline, tab and escape are allowed",
                c
            )),
            None => Ok(Text(s)),
        }
    }
}

impl TryFrom<String> for PackageName {
    type Error = String;

    fn try_from(s: String) -> Result<Self, String> {
        let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        match s.as_bytes() {
            [first, rest @ ..]
                if alnum(*first)
                    && !rest.is_empty()
                    && rest.len() < 128
                    // apt-get would read `name-` as an order to remove it.
                    && !s.ends_with('-')
                    && rest.iter().all(|b| alnum(*b) || b"+.-".contains(b)) =>
            {
                Ok(PackageName(s))
            }
            _ => {
                let name = s.escape_debug();
                // What apt-get would take, and why it is not had here.
                let why = match s.find([':', '=', '/']).and_then(|at| s.get(at..=at)) {
                    Some(":") => {
                        "packages are always of the image's architecture; use a provision script for others"
                    }
                    Some(_) => {
                        "packages are always of the archive's version; use a provision script for others"
                    }
                    None => "allowed is [a-z0-9][a-z0-9+.-]+, not ending with -",
                };
                Err(format!("bad package name '{name}': {why}"))
            }
        }
    }
}

impl Sha256 {
    /// The hexadecimal digits, small ones.
    pub fn digits(&self) -> &str {
        self.0.trim_start_matches("sha256:")
    }
}

impl TryFrom<String> for Sha256 {
    type Error = String;

    fn try_from(s: String) -> Result<Self, String> {
        let digits = s.strip_prefix("sha256:").unwrap_or_default();
        if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            Ok(Sha256(s.to_ascii_lowercase()))
        } else {
            Err(format!(
                "bad checksum '{}': allowed is sha256: and 64 hexadecimal digits",
                s.escape_debug()
            ))
        }
    }
}

macro_rules! string_like {
    ($($text:ty),*) => {$(
        impl $text {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<$text> for String {
            fn from(text: $text) -> String {
                text.0
            }
        }

        impl fmt::Display for $text {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

string_like!(Line, Text, PackageName, Sha256);
