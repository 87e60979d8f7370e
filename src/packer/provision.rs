//! An instructor's files and scripts for a lab, prepared to be copied into the guest.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::config::{Lab, SourcePath};
use crate::error::Fault;
use crate::text::{self, hex};

/// Up to this size, a file is identified by its content. Reading a larger one each time would take
/// longer than the rest of the check for changes: it is identified by its path, size and time.
const READ: u64 = 16 << 20;

/// How much of a script is read for its first line.
const LONGEST_LINE: u64 = 64 << 10;

/// The content of a file of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The content of a file on this machine.
    Copy(PathBuf),
}

/// A lab's files and scripts, prepared.
#[derive(Debug, Default)]
pub struct Provisioned {
    /// By their paths below `provision/`, one value per file.
    pub files: Vec<(String, Content)>,
    /// A short description that changes when they do.
    pub identity: Vec<String>,
}

impl Provisioned {
    /// Reads the files and scripts that the configuration of `lab` names.
    pub fn of(lab: &Lab) -> Result<Provisioned> {
        let mut all = Provisioned::default();
        let provision = &lab.provision;
        for (number, file) in provision.files.iter().enumerate() {
            let (target, mode, owner) = (&file.target, &file.mode, &file.owner);
            let identity = identity(&file.source)
                .with_context(|| unusable(lab, &format!("files[{number}].source"), &file.source))?;
            all.identity
                .push(format!("file {target}\n{mode} {owner}\n{identity}"));
            let place = |thing: &str| format!("files/{number:04}/{thing}");
            for (thing, line) in [
                ("target", format!("{target}\n")),
                ("mode", format!("{mode}\n")),
                ("owner", format!("{owner}\n")),
            ] {
                all.files.push((place(thing), Content::Bytes(line.into())));
            }
            let copy = Content::Copy(file.source.as_path().to_owned());
            all.files.push((place("content"), copy));
        }
        for (number, script) in provision.scripts.iter().enumerate() {
            let identity = identity(script)
                .and_then(|identity| ensure_unix(script).map(|()| identity))
                .with_context(|| unusable(lab, &format!("scripts[{number}]"), script))?;
            let name = script.as_path().file_name().unwrap_or_default();
            let name = name.to_string_lossy();
            all.identity.push(format!("script {name}\n{identity}"));
            let place = |thing: &str| format!("scripts/{number:04}/{thing}");
            let line = format!("{name}\n");
            all.files.push((place("name"), Content::Bytes(line.into())));
            let copy = Content::Copy(script.as_path().to_owned());
            all.files.push((place("script"), copy));
        }
        Ok(all)
    }
}

fn unusable(lab: &Lab, key: &str, path: &SourcePath) -> Fault {
    let hint =
        "correct it in the configuration; a path is relative to the configuration's directory";
    super::unusable(lab, &format!("provision.{key}"), path).hint(hint)
}

/// Fails for a script that Linux cannot run: with a byte order mark, in UTF-16, or with a Windows
/// line ending in its first line. Further down, such line endings may be intended, for example in a
/// text that the script writes. `files` are data and copied unchanged.
fn ensure_unix(script: &SourcePath) -> Result<()> {
    let mut begin = Vec::new();
    File::open(script.as_path())?
        .take(LONGEST_LINE)
        .read_to_end(&mut begin)?;
    // A binary program is not text.
    if begin.starts_with(b"\x7fELF") {
        return Ok(());
    }
    ensure!(
        !text::is_utf16(&begin),
        "it is UTF-16 text, which no interpreter reads: save it as UTF-8"
    );
    ensure!(
        !begin.starts_with(text::MARK),
        "it begins with a byte order mark, so Linux does not see its #!: save it as UTF-8 without \
         one"
    );
    let first = begin.split(|byte| *byte == b'\n').next();
    ensure!(
        !first.is_some_and(|line| line.ends_with(b"\r")),
        "it has Windows line endings (CRLF): convert them with dos2unix"
    );
    Ok(())
}

fn identity(path: &SourcePath) -> Result<String> {
    // Check this before opening it, which would wait at a pipe.
    let there = std::fs::metadata(path.as_path())?;
    ensure!(there.is_file(), "it is not a regular file");
    if there.len() > READ {
        let (place, size) = (path.as_path().display(), there.len());
        let (second, nanosecond) = (there.mtime(), there.mtime_nsec());
        return Ok(format!("{place} {size} {second}.{nanosecond:09}"));
    }
    Ok(hex(&Sha256::digest(std::fs::read(path.as_path())?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Kind, kind_of};
    use serde_json::json;

    fn lab(provision: serde_json::Value) -> Lab {
        serde_json::from_value(json!({
            "lab_id": "lab01", "lab_name": "Lab", "packages": [], "motd": "", "provision": provision,
        }))
        .unwrap()
    }

    #[test]
    fn what_is_given_is_one_thing_a_file_and_known_by_its_content() {
        let directory = tempfile::tempdir().unwrap();
        let flag = directory.path().join("flag; reboot");
        std::fs::write(&flag, "FLAG{1}").unwrap();
        let lab = lab(json!({
            "files": [{"source": flag, "target": "/srv/a flag", "mode": "600", "owner": "student"}],
            "scripts": [flag],
        }));
        let before = Provisioned::of(&lab).unwrap();
        let text = |name: &str| {
            before
                .files
                .iter()
                .find_map(|(path, content)| match content {
                    Content::Bytes(bytes) if path == name => Some(String::from_utf8_lossy(bytes)),
                    _ => None,
                })
        };
        assert_eq!(text("files/0000/target").as_deref(), Some("/srv/a flag\n"));
        assert_eq!(text("files/0000/mode").as_deref(), Some("0600\n"));
        assert_eq!(text("scripts/0000/name").as_deref(), Some("flag; reboot\n"));

        std::fs::write(&flag, "FLAG{2}").unwrap();
        assert_ne!(Provisioned::of(&lab).unwrap().identity, before.identity);
    }

    #[test]
    fn what_cannot_be_copied_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        for (provision, wanted) in [
            (
                json!({"scripts": [missing]}),
                "provision.scripts[0] of lab 'lab01'",
            ),
            (
                json!({"files": [{"source": directory.path(), "target": "/x"}]}),
                "it is not a regular file",
            ),
        ] {
            let error = Provisioned::of(&lab(provision)).unwrap_err();
            assert_eq!(kind_of(&error), Kind::Config);
            assert!(format!("{error:#}").contains(wanted), "{error:#}");
        }
    }
    #[test]
    fn a_script_that_linux_cannot_run_is_refused_and_data_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("windows.sh");
        let utf16: Vec<u8> = "#!/bin/sh\n".bytes().flat_map(|byte| [byte, 0]).collect();
        for (content, wanted) in [
            (&b"#!/bin/sh\r\nid\r\n"[..], Some("(CRLF)")),
            (b"id\r\ndate\r\n", Some("(CRLF)")),
            (b"\xef\xbb\xbf#!/bin/sh\nid\n", Some("byte order mark")),
            (&[b"\xff\xfe", &utf16[..]].concat(), Some("UTF-16")),
            (&utf16, Some("UTF-16")),
            (b"#!/bin/sh\ncat >/srv/dos.txt <<end\nHello\r\nend\n", None),
            (b"id\n", None),
            (b"", None),
            (b"\x7fELF\x02\r\n\0", None),
        ] {
            std::fs::write(&file, content).unwrap();
            let told = Provisioned::of(&lab(json!({"scripts": [file]})))
                .map(drop)
                .map_err(|error| format!("{error:#}"));
            match (&told, wanted) {
                (Ok(()), None) => {}
                (Err(told), Some(wanted)) if told.contains(wanted) => {}
                _ => panic!("{content:?}: {wanted:?}: {told:?}"),
            }
            let data = json!({"files": [{"source": file, "target": "/x", "mode": "755"}]});
            assert!(Provisioned::of(&lab(data)).is_ok(), "{content:?}");
        }
    }
}
