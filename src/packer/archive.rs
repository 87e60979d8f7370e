//! Finds packages of a lab that the distribution's archive does not have: from the report of a
//! stage, or in advance from this host's own package lists.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::path::Path;

use anyhow::Result;

use crate::config::{Lab, PackageName};
use crate::process::Program;

const OS_RELEASE: &str = "/etc/os-release";

/// A complete archive has at least this many names.
const WHOLE: usize = 10_000;

/// The content of an archive.
#[derive(Debug, Default)]
pub struct Archive<'a> {
    packages: HashSet<&'a str>,
    /// The providers of a virtual name.
    providers: HashMap<&'a str, BTreeSet<&'a str>>,
}

/// A name that cannot be installed.
#[derive(Debug, PartialEq, Eq)]
pub enum Unknown {
    /// Nothing has that name.
    Missing(String),
    /// Several packages provide it.
    Ambiguous(String, Vec<String>),
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unknown::Missing(name) => write!(f, "there is no package '{name}'"),
            Unknown::Ambiguous(name, providers) => write!(
                f,
                "'{name}' is provided by several packages, name one of them: {}",
                providers.join(", ")
            ),
        }
    }
}

impl<'a> Archive<'a> {
    /// Parses a report: one package name per line; with a second name after a tab, a name and a
    /// package that provides it.
    pub fn of(report: &'a str) -> Archive<'a> {
        let mut archive = Archive::default();
        for line in report.lines() {
            match line.split_once('\t') {
                Some((name, provider)) => {
                    archive.providers.entry(name).or_default().insert(provider);
                }
                None => drop(archive.packages.insert(line)),
            }
        }
        archive
    }

    /// Adds providers from the output of `apt-cache showpkg`.
    fn add_providers(&mut self, told: &'a str) {
        let (mut name, mut in_providers) = ("", false);
        for line in told.lines() {
            if let Some(next) = line.strip_prefix("Package: ") {
                (name, in_providers) = (next, false);
            } else if line.starts_with("Reverse Provides:") {
                in_providers = true;
            } else if in_providers && let Some(provider) = line.split_whitespace().next() {
                self.providers.entry(name).or_default().insert(provider);
            }
        }
    }

    /// The names in `wanted` that cannot be installed. A name that exactly one package provides can
    /// be. Empty if the content of the archive is unknown.
    pub fn unknown<'b>(&self, wanted: impl Iterator<Item = &'b str>) -> Vec<Unknown> {
        if self.packages.is_empty() {
            return Vec::new();
        }
        let unknown = wanted.filter(|name| !self.packages.contains(name));
        unknown
            .filter_map(|name| match self.providers.get(name) {
                None => Some(Unknown::Missing(name.to_owned())),
                Some(providers) if providers.len() == 1 => None,
                Some(providers) => {
                    let providers = providers.iter().map(|it| (*it).to_owned()).collect();
                    Some(Unknown::Ambiguous(name.to_owned(), providers))
                }
            })
            .collect()
    }
}

/// The packages of `lab` that are missing in this host's package lists. None if the release of its
/// cloud image may differ from this host's, or if there are no such lists.
pub fn unknown_here(lab: &Lab) -> Result<Vec<Unknown>> {
    let release = fs_err::read_to_string(OS_RELEASE).unwrap_or_default();
    if !is_of_release(&lab.image.url.to_string(), &release) {
        return Ok(Vec::new());
    }
    let apt = Program::find("apt-cache", "apt")?;
    let names = apt.run(["pkgnames"])?;
    let mut archive = Archive::of(&names);
    if archive.packages.len() < WHOLE {
        return Ok(Vec::new());
    }
    let wanted = || lab.packages.iter().map(PackageName::as_str);
    let is_strange = |name: &&str| !archive.packages.contains(name);
    let strange: Vec<_> = wanted().filter(is_strange).collect();
    if strange.is_empty() {
        return Ok(Vec::new());
    }
    let told = apt.run(["showpkg", "--"].iter().chain(&strange))?;
    archive.add_providers(&told);
    Ok(archive.unknown(wanted()))
}

/// Whether the name of an image, such as `debian-12-cloud-amd64.qcow2` or
/// `ubuntu-24.04-server-cloudimg-amd64.img`, matches the distribution and version of an
/// `os-release`.
fn is_of_release(image: &str, os_release: &str) -> bool {
    let value = |key: &str| {
        let mut lines = os_release.lines();
        let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(value.trim_matches('"'))
    };
    let file = Path::new(image).file_name().unwrap_or_default();
    match (value("ID"), value("VERSION_ID")) {
        (Some(id), Some(version)) if !version.is_empty() => {
            let file = file.to_string_lossy();
            file.starts_with(&format!("{id}-{version}-"))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_one_package_provides_is_as_good_as_its_own() {
        let report = "nmap\nperl\nexiftool\tlibimage-exiftool-perl\nmta\tpostfix\nmta\texim\nmta\texim\n\
                      nmap\tother\nperl\tother\n";
        let wanted = ["nmap", "exiftool", "mta", "nmapp", "perl"];
        let missing = Unknown::Missing("nmapp".to_owned());
        let providers = vec!["exim".to_owned(), "postfix".to_owned()];
        let ambiguous = Unknown::Ambiguous("mta".to_owned(), providers);
        let unknown = Archive::of(report).unknown(wanted.into_iter());
        assert_eq!(unknown, [ambiguous, missing]);
        assert!(unknown[0].to_string().ends_with("exim, postfix"));
        assert_eq!(Archive::of("").unknown(wanted.into_iter()), []);
    }

    #[test]
    fn what_apt_says_of_providers_is_read() {
        let told = "Package: exiftool\nVersions: \n\nReverse Depends: \n  daps,exiftool\nProvides: \n\
                    Reverse Provides: \nlibimage-exiftool-perl 12.57+dfsg-1 (= )\n\
                    Package: mta\nReverse Provides: \nexim 1 (= )\npostfix 2 (= )\n\
                    Package: gone\nReverse Provides: \n";
        let mut archive = Archive::of("nmap\n");
        archive.add_providers(told);
        let unknown = archive.unknown(["exiftool", "mta", "gone"].into_iter());
        assert!(
            matches!(&unknown[..], [Unknown::Ambiguous(..), Unknown::Missing(_)]),
            "{unknown:?}"
        );
    }

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
