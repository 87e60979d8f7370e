//! Checks by its first bytes whether a file can be a cloud image: otherwise a VM would hang without
//! a system, and the build would wait for it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

/// The first bytes of disk images that `qemu-img` can convert.
const IMAGES: [&[u8]; 8] = [
    b"QFI\xfb",
    b"QED\0",
    b"KDMV",
    b"COWD",
    b"# Disk DescriptorFile",
    b"<<< ",
    b"conectix",
    b"vhdxfile",
];

/// Files that must be unpacked first: their first bytes, their file name suffixes, and their
/// format.
const PACKED: [(&[u8], &[&str], &str); 8] = [
    (b"\x1f\x8b", &[".gz", ".tgz"], "compressed with gzip"),
    (b"\xfd7zXZ\0", &[".xz", ".txz"], "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", &[".zst"], "compressed with zstd"),
    (b"BZh", &[".bz2"], "compressed with bzip2"),
    (b"\x04\x22\x4d\x18", &[".lz4"], "compressed with lz4"),
    (b"PK\x03\x04", &[".zip"], "a zip archive"),
    (b"7z\xbc\xaf\x27\x1c", &[".7z"], "a 7z archive"),
    (b"Rar!", &[".rar", ".tar", ".ova"], "an archive"),
];

/// The size of a disk's first sector, and its last bytes if a machine can boot from it.
const SECTOR: usize = 512;
const BOOTABLE: &[u8] = &[0x55, 0xaa];

/// The format that a file called `name`, or with this address, must be unpacked from.
pub fn packed_by_name(name: &str) -> Option<&'static str> {
    let name = name.split(['?', '#']).next()?.to_ascii_lowercase();
    let mut packed = PACKED.iter();
    let (_, _, what) = packed.find(|(_, ends, _)| ends.iter().any(|end| name.ends_with(end)))?;
    Some(what)
}

/// Fails if the plain file `image` is not a disk image that a machine could boot from.
pub fn check(image: &Path) -> Result<()> {
    let mut head = Vec::new();
    let file = File::open(image).with_context(|| format!("failed to open {}", image.display()))?;
    file.take(SECTOR as u64).read_to_end(&mut head)?;
    recognise(&head)?;
    // A foreign image must not make us read any other file of this host.
    if head.starts_with(b"QFI") {
        super::info(image)?.ensure_whole()?;
    }
    Ok(())
}

fn recognise(head: &[u8]) -> Result<()> {
    ensure!(!head.is_empty(), "it is empty");
    if let Some((_, _, what)) = PACKED.iter().find(|(begin, _, _)| head.starts_with(begin)) {
        bail!("it is {what}");
    }
    let known = IMAGES.iter().any(|begin| head.starts_with(begin));
    if known || head.get(SECTOR - 2..) == Some(BOOTABLE) {
        return Ok(());
    }
    let text = head.trim_ascii_start();
    let is_of_text = |byte: &u8| !byte.is_ascii_control() || byte.is_ascii_whitespace();
    match text.first() {
        Some(b'<') => bail!("it is a web page"),
        Some(_) if text.iter().all(is_of_text) => bail!("it is text"),
        _ => bail!("it is not a bootable disk image"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_boot_is_told_by_how_it_begins() {
        let said = |head: &[u8]| recognise(head).err().map(|error| error.to_string());
        let mut disk = vec![0; SECTOR];
        assert!(said(&disk).unwrap().contains("not a bootable disk image"));
        disk[SECTOR - 2..].copy_from_slice(BOOTABLE);
        for good in [
            &disk[..],
            b"QFI\xfb\0\0\0\x03",
            b"KDMV\x01",
            b"<<< Oracle VM",
        ] {
            assert_eq!(said(good), None);
        }
        for (bad, why) in [
            (&b""[..], "empty"),
            (b"\n<!DOCTYPE html><html>", "web page"),
            (b"404: not found\n", "text"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"\xfd7zXZ\0\0", "xz"),
            (b"PK\x03\x04", "zip"),
            (b"\x01\x02", "not a bootable disk image"),
        ] {
            let said = said(bad).unwrap();
            assert!(said.contains(why), "{why}: {said}");
        }
    }

    #[test]
    fn a_download_is_known_to_be_packed_by_its_name() {
        let packed = |url| packed_by_name(url).is_some();
        assert!(packed("https://example.org/a.qcow2.XZ") && packed("https://example.org/a.gz?x=1"));
        assert!(!packed("https://example.org/a.qcow2") && !packed("https://example.org/gz"));
    }
}
