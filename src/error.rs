//! Errors, in the eight kinds that a caller can distinguish.
//!
//! Errors are passed as [`anyhow::Error`]. If the kind matters, a [`Fault`] is the error or is
//! attached as context; the outermost one decides exit code, JSON code and hint. Everything without
//! a fault is [`Kind::Failed`].

use std::{fmt, io};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The kinds of failure by exit code. The exit codes are part of the interface for scripts, and so
/// are the names, which are `error.code` in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Kind {
    /// Anything not below; for many targets: some failed.
    Failed = 1,
    /// Bad arguments or a bad id.
    Usage = 2,
    /// The configuration file is missing, unreadable, invalid or not to be trusted.
    Config = 3,
    /// No such lab, base image or instance.
    NotFound = 4,
    /// The current state does not allow it.
    Conflict = 5,
    /// Another command holds the instance and did not finish in time.
    Busy = 6,
    /// Not enough memory or disk on the host.
    Capacity = 7,
    /// libvirt, QEMU, Packer or another needed program is missing or unreachable.
    Unavailable = 8,
}

impl Kind {
    /// The kind of failure of a process of this program that ended with `code`.
    pub fn of_exit_code(code: u8) -> Kind {
        let mut all = Kind::value_variants().iter().copied();
        let of = all.find(|kind| kind.exit_code() == code);
        of.unwrap_or(Kind::Failed)
    }

    /// The process exit code.
    pub const fn exit_code(self) -> u8 {
        self as u8
    }

    /// A description for the manual.
    pub const fn meaning(self) -> &'static str {
        match self {
            Kind::Failed => "Any other failure; with several targets, some of them failed.",
            Kind::Usage => "Bad arguments or a bad id.",
            Kind::Config => "The configuration is missing, unreadable, invalid or not trusted.",
            Kind::NotFound => "No such lab, base image or instance.",
            Kind::Conflict => "The current state does not allow it.",
            Kind::Busy => "Another command holds the instance and did not finish in time.",
            Kind::Capacity => "Not enough memory or disk on the host.",
            Kind::Unavailable => {
                "libvirt, QEMU, Packer or another needed program is missing or unreachable."
            }
        }
    }
}

/// A failure of a known kind, with a hint if there is one.
///
/// The message is a lowercase fragment that reads well after `error: `.
#[derive(Debug, Clone)]
pub struct Fault {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

impl Fault {
    /// A fault of `kind` with `message`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Fault {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    /// A copy of `error`'s kind, message and hint, to report it several times.
    pub fn of(error: &anyhow::Error) -> Self {
        Fault {
            kind: kind_of(error),
            message: format!("{error:#}"),
            hint: hint_of(error).map(str::to_owned),
        }
    }

    /// The same fault with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Not a failure of ours, and nothing to print: the program ends with the exit status of a command
/// that it ran in a guest.
#[derive(Debug, Clone, Copy)]
pub struct Passed(pub u8);

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the command ended with exit status {}", self.0)
    }
}

impl std::error::Error for Passed {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

/// The kind of `error`: that of its outermost fault. Without one, a full disk is always of the kind
/// capacity.
pub fn kind_of(error: &anyhow::Error) -> Kind {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    let is_full = |cause: &(dyn std::error::Error + 'static)| {
        let kind = cause.downcast_ref().map(io::Error::kind);
        kind.is_some_and(|kind| full.contains(&kind))
    };
    match error.downcast_ref::<Fault>() {
        Some(fault) => fault.kind,
        None if error.chain().any(is_full) => Kind::Capacity,
        None => Kind::Failed,
    }
}

/// The hint of `error`: that of its outermost fault, or else one for its cause.
pub fn hint_of(error: &anyhow::Error) -> Option<&str> {
    let fault = error.downcast_ref::<Fault>();
    fault
        .and_then(|fault| fault.hint.as_deref())
        .or_else(|| error.chain().find_map(hint_of_cause))
}

/// The hint for an error of the operating system.
fn hint_of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let kind = cause.downcast_ref::<io::Error>()?.kind();
    match kind {
        io::ErrorKind::PermissionDenied => Some(
            "run it as root or as a member of the group libvirt: `make setup` adds you, then log \
             in again",
        ),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("free disk space there, then try again")
        }
        io::ErrorKind::Unsupported => {
            Some("put that directory on another file system, such as ext4, XFS or NFS")
        }
        io::ErrorKind::ReadOnlyFilesystem => Some("put that directory on a writable file system"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_outermost_fault_decides() {
        let inner: anyhow::Result<()> = Err(Fault::new(Kind::Failed, "inner").hint("no").into());
        let error = inner
            .context("in between")
            .context(Fault::new(Kind::Capacity, "outer").hint("free some disk"))
            .context("outside")
            .unwrap_err();
        assert_eq!(kind_of(&error), Kind::Capacity);
        assert_eq!(hint_of(&error), Some("free some disk"));
        assert_eq!(format!("{error:#}"), "outside: outer: in between: inner");
    }

    #[test]
    fn a_full_disk_is_a_matter_of_capacity() {
        let full = || anyhow::Error::new(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(kind_of(&full().context("failed to write")), Kind::Capacity);
        let fault = Fault::new(Kind::Failed, "the save failed");
        assert_eq!(kind_of(&full().context(fault)), Kind::Failed);
        let other = anyhow::Error::new(io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(kind_of(&other), Kind::Failed);
    }

    #[test]
    fn what_the_system_refuses_has_advice_of_its_own() {
        let refused = || anyhow::Error::from(io::Error::from(io::ErrorKind::PermissionDenied));
        let error = refused().context("failed to write a note");
        assert!(hint_of(&error).is_some_and(|hint| hint.contains("libvirt")));
        let error = refused().context(Fault::new(Kind::Config, "failed to read").hint("better"));
        assert_eq!(hint_of(&error), Some("better"));
        let gone = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(hint_of(&gone.into()), None);
    }

    #[test]
    fn an_error_without_a_fault_is_a_plain_failure() {
        let error = anyhow::anyhow!("disk on fire");
        assert_eq!(kind_of(&error).exit_code(), 1);
        assert_eq!(hint_of(&error), None);
    }
}
