//! What an image is made from, part by part, so that it can be told whether anything changed since,
//! and what. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::text::hex;

/// The part that tells of programs.
const TOOLS: &str = "tools";

/// The parts by their names for people, each as a short text or a hash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Inputs(BTreeMap<String, String>);

impl Inputs {
    /// The same with a part that is known by a short text.
    #[must_use]
    pub fn with(mut self, part: &str, value: impl Into<String>) -> Inputs {
        self.0.insert(part.to_owned(), value.into());
        self
    }

    /// The same with a part that is known by the hash of its pieces.
    #[must_use]
    pub fn with_hash<P: AsRef<[u8]>>(
        self,
        part: &str,
        pieces: impl IntoIterator<Item = P>,
    ) -> Inputs {
        self.with(part, hash(pieces))
    }

    /// The same with the tools' versions. Without them, as in a dry run where there are none,
    /// nothing is said about those.
    #[must_use]
    pub fn with_tools(self, versions: Option<&str>) -> Inputs {
        match versions {
            Some(versions) => self.with(TOOLS, versions),
            None => self,
        }
    }

    /// All of it as one hash.
    pub fn fingerprint(&self) -> String {
        hash(self.0.iter().flat_map(|(part, value)| [part, value]))
    }

    /// The parts that are not as they were, by name.
    pub fn changes_since<'a>(&'a self, before: &Inputs) -> Vec<&'a str> {
        let parts = self.0.iter();
        let changed = parts.filter(|(part, value)| before.0.get(*part) != Some(value));
        changed.map(|(part, _)| part.as_str()).collect()
    }
}

/// One hash of pieces, which cannot be moved from one to the next.
fn hash<P: AsRef<[u8]>>(pieces: impl IntoIterator<Item = P>) -> String {
    let mut hasher = Sha256::new();
    for piece in pieces {
        let piece = piece.as_ref();
        hasher.update((piece.len() as u64).to_le_bytes());
        hasher.update(piece);
    }
    hex(&hasher.finalize())
}

/// Why a lab is built, or is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// There is no base of it.
    First,
    /// It was asked for.
    Forced,
    /// These parts are not what the current base was made from.
    Changed(Vec<String>),
    /// Nobody noted what the current base was made from.
    Unknown,
    /// Something that the last build left is not there any more.
    Incomplete,
    /// Nothing changed.
    Unchanged,
}

impl Why {
    /// What there is to do about a lab of `inputs`, whose base was made from `before`.
    pub fn of(inputs: &Inputs, before: Option<&Inputs>) -> Why {
        match before.map(|before| inputs.changes_since(before)) {
            None => Why::Unknown,
            Some(changes) if changes.is_empty() => Why::Unchanged,
            Some(changes) => Why::Changed(changes.into_iter().map(str::to_owned).collect()),
        }
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Why::First => f.write_str("first build"),
            Why::Forced => f.write_str("forced"),
            Why::Changed(parts) => write!(f, "changed: {}", parts.join(", ")),
            Why::Unknown => f.write_str("unknown origin of its base"),
            Why::Incomplete => f.write_str("results of the last build are missing"),
            Why::Unchanged => f.write_str("unchanged"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_named() {
        let before = Inputs::default()
            .with("desktop", "none")
            .with_hash("packages", ["nmap", "gdb"])
            .with_tools(Some("packer 1"));
        assert_eq!(Why::of(&before, Some(&before)), Why::Unchanged);
        let after = Inputs::default()
            .with("desktop", "xfce")
            .with_hash("packages", ["nmapg", "db"]);
        let why = Why::of(&after, Some(&before));
        assert_eq!(why.to_string(), "changed: desktop, packages");
        assert_eq!(Why::of(&after, None), Why::Unknown);
        assert_ne!(before.fingerprint(), after.fingerprint());
    }

    #[test]
    fn tools_that_are_not_known_are_not_told_about() {
        let before = Inputs::default().with_tools(Some("packer 1"));
        let known = Inputs::default().with_tools(Some("packer 2"));
        assert_eq!(known.changes_since(&before), ["tools"]);
        let unknown = Inputs::default().with_tools(None);
        assert_eq!(Why::of(&unknown, Some(&before)), Why::Unchanged);
    }
}
