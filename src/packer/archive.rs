//! What this host knows of a distribution's archive, as a first look at a lab's packages: the image's
//! own archive has the last word.

use std::collections::HashSet;
use std::path::Path;

use crate::config::{Lab, PackageName};
use crate::process::Program;

const OS_RELEASE: &str = "/etc/os-release";

/// Fewer names than this are not a whole archive.
const WHOLE: usize = 10_000;

/// The packages of `lab` that this host's package lists do not have. None where its cloud image is
/// not known to be of this host's release, or where there are no such lists.
pub fn unknown(lab: &Lab) -> Vec<&str> {
    let release = fs_err::read_to_string(OS_RELEASE).unwrap_or_default();
    if !is_of_release(&lab.image.url.to_string(), &release) {
        return Vec::new();
    }
    let names = Program::find("apt-cache", "apt").and_then(|apt| apt.run(["pkgnames"]));
    let names = names.unwrap_or_default();
    let known: HashSet<&str> = names.lines().collect();
    if known.len() < WHOLE {
        return Vec::new();
    }
    let wanted = lab.packages.iter().map(PackageName::as_str);
    wanted.filter(|name| !known.contains(name)).collect()
}

/// Whether the name of an image, as in `debian-12-cloud-amd64.qcow2` or
/// `ubuntu-24.04-server-cloudimg-amd64.img`, has the distribution and version of an `os-release`.
fn is_of_release(image: &str, os_release: &str) -> bool {
    let value = |key: &str| {
        let mut lines = os_release.lines();
        let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(value.trim_matches('"'))
    };
    let file = Path::new(image).file_name().unwrap_or_default();
    match (value("ID"), value("VERSION_ID")) {
        (Some(id), Some(version)) if !version.is_empty() => file
            .to_string_lossy()
            .starts_with(&format!("{id}-{version}-")),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_its_name() {
        let debian = "PRETTY_NAME=\"Debian\"\nID=debian\nVERSION_ID=\"12\"\n";
        assert!(is_of_release("/x/debian-12-cloud-amd64.qcow2", debian));
        let ubuntu = "ID=ubuntu\nVERSION_ID=\"24.04\"\n";
        let image = "https://example.org/noble/ubuntu-24.04-server-cloudimg-amd64.img";
        assert!(is_of_release(image, ubuntu));
        for (image, release) in [
            (image, debian),
            ("/x/debian-123-cloud.qcow2", debian),
            ("/debian-12-images/other.qcow2", debian),
            ("/x/debian--x", "ID=debian\nVERSION_ID=\n"),
            ("/x/debian-12-x", ""),
        ] {
            assert!(!is_of_release(image, release), "{image}");
        }
    }
}
