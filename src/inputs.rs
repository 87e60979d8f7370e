//! The inputs of an image, part by part, to detect whether and what changed since its build. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::text::hex;

/// The part with versions of programs.
const TOOLS: &str = "tools";

/// The parts by name, each as a short text or a hash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Inputs(BTreeMap<String, String>);

impl Inputs {
    /// Adds a part that is identified by a short text.
    #[must_use]
    pub fn with(mut self, part: &str, value: impl Into<String>) -> Inputs {
        self.0.insert(part.to_owned(), value.into());
        self
    }

    /// Adds a part that is identified by the hash of its pieces.
    #[must_use]
    pub fn with_hash<P: AsRef<[u8]>>(
        self,
        part: &str,
        pieces: impl IntoIterator<Item = P>,
    ) -> Inputs {
        self.with(part, hash(pieces))
    }

    /// Adds the tools' versions. If they are unknown, as in a dry run without the tools, they are
    /// not compared.
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

    /// The names of the changed parts.
    pub fn changes_since<'a>(&'a self, before: &Inputs) -> Vec<&'a str> {
        let parts = self.0.iter();
        let changed = parts.filter(|(part, value)| before.0.get(*part) != Some(value));
        changed.map(|(part, _)| part.as_str()).collect()
    }
}

/// One hash of all pieces, including their lengths.
fn hash<P: AsRef<[u8]>>(pieces: impl IntoIterator<Item = P>) -> String {
    let mut hasher = Sha256::new();
    for piece in pieces {
        let piece = piece.as_ref();
        hasher.update((piece.len() as u64).to_le_bytes());
        hasher.update(piece);
    }
    hex(&hasher.finalize())
}

/// Why a lab is built, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It has no base image.
    First,
    /// With `--force`.
    Forced,
    /// These parts changed since the current base was built.
    Changed(Vec<String>),
    /// The inputs of the current base are not recorded.
    Unknown,
    /// A result of the last build is missing.
    Incomplete,
    /// Nothing changed.
    Unchanged,
}

impl Why {
    /// The decision for a lab with these `inputs`, whose base was built from `before`.
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
