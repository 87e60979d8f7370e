//! SSH host keys for a fork, generated on this host while the memory of its guest is restored. That
//! takes a moment here, but half a minute in a guest under software emulation.
//!
//! They are never on a disk of this host. A killed command may leave one where only root can read
//! it, until the next boot; no guest uses it.

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::paths::VOLATILE;
use crate::process::Program;
use crate::secret::Secret;

/// The key types that OpenSSH generates by default.
const KINDS: [&str; 3] = ["ed25519", "ecdsa", "rsa"];

/// The type of a file system in memory in `statfs` (`linux/magic.h`).
const TMPFS: u64 = 0x0102_1994;

/// A file with a host key, or with the public part of one.
#[derive(Debug)]
pub(super) struct HostKey {
    /// Its name in `/etc/ssh`.
    pub file: String,
    /// Its content.
    pub content: Secret,
}

/// Generates the keys of a guest with the hostname `host`.
pub(super) fn make(host: &str) -> Result<Vec<HostKey>> {
    let program = Program::find("ssh-keygen", "openssh-client")?;
    let place = VOLATILE.into_iter().find(|place| is_in_memory(place));
    let place =
        place.with_context(|| format!("none of {VOLATILE:?} is a file system in memory"))?;
    // Nobody else may enter it.
    let directory = TempDir::with_prefix_in(".cyyber-keys-", place)?;
    let mut made = Vec::new();
    for kind in KINDS {
        let file = format!("ssh_host_{kind}_key");
        let path = directory.path().join(&file);
        let mut keygen = program.command();
        keygen.args([
            "-q",
            "-t",
            kind,
            "-N",
            "",
            "-C",
            &format!("root@{host}"),
            "-f",
        ]);
        crate::process::run(keygen.arg(&path))?;
        for file in [format!("{file}.pub"), file] {
            let content = fs_err::read_to_string(directory.path().join(&file))?;
            made.push(HostKey {
                file,
                content: Secret::new(content),
            });
        }
    }
    directory.close()?;
    Ok(made)
}

fn is_in_memory(place: &str) -> bool {
    rustix::fs::statfs(place).is_ok_and(|found| u64::try_from(found.f_type) == Ok(TMPFS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_in_memory_and_nothing_is_left_of_them() {
        let left = || {
            let entries = VOLATILE.map(|place| std::fs::read_dir(place).unwrap());
            let names = entries.into_iter().flatten();
            let names = names.map(|entry| entry.unwrap().file_name());
            names
                .filter(|name| name.to_string_lossy().contains("cyyber-keys"))
                .count()
        };
        let (one, other) = (make("lab").unwrap(), make("lab").unwrap());
        assert_eq!((one.len(), left()), (6, 0));
        for (one, other) in one.iter().zip(&other) {
            assert_ne!(one.content.reveal(), other.content.reveal());
            let text = one.content.reveal();
            match one.file.ends_with(".pub") {
                true => assert!(text.ends_with(" root@lab\n"), "{text}"),
                false => assert!(text.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n")),
            }
        }
    }
}
