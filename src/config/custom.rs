//! An instructor's additions to an image: pictures that replace the built-in ones, files and
//! scripts.
//!
//! Only a build checks whether the named files exist: no other command needs them.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::checked::checked;

/// Longest path in the guest and longest name of an owner, in bytes.
const LONGEST_TARGET: usize = 1024;

/// Pictures that replace the built-in ones.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Branding {
    /// The logo, a PNG.
    pub logo: Option<SourcePath>,
    /// The desktop's background, a JPEG.
    pub wallpaper: Option<SourcePath>,
    /// The picture behind the boot menu, a PNG.
    pub grub_background: Option<SourcePath>,
    /// The picture behind the login, a PNG or a JPEG.
    pub login_background: Option<SourcePath>,
}

/// What is added to the image after the packages.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Provision {
    /// Files, copied before any script runs.
    pub files: Vec<ProvisionFile>,
    /// Scripts, run as root in this order.
    pub scripts: Vec<SourcePath>,
}

/// A file for the image.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProvisionFile {
    /// Its path on this machine.
    pub source: SourcePath,
    /// Its path in the guest.
    pub target: Target,
    /// Its permissions there.
    #[serde(default)]
    pub mode: FileMode,
    /// Its owner there.
    #[serde(default)]
    pub owner: Owner,
}

impl Branding {
    pub(super) fn sources(&mut self) -> impl Iterator<Item = &mut SourcePath> {
        let pictures = [&mut self.logo, &mut self.wallpaper];
        let backgrounds = [&mut self.grub_background, &mut self.login_background];
        pictures.into_iter().chain(backgrounds).flatten()
    }
}

impl Provision {
    pub(super) fn sources(&mut self) -> impl Iterator<Item = &mut SourcePath> {
        let files = self.files.iter_mut().map(|file| &mut file.source);
        files.chain(&mut self.scripts)
    }

    /// Every script needs a unique name to be identified by, and every file a unique target.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let mut seen = HashSet::new();
        if let Some(file) = self.files.iter().find(|file| !seen.insert(&file.target)) {
            let message = format!("two files have the target {}", file.target);
            return Err(("provision.files", message));
        }
        Ok(())
    }
}

/// A file of this machine, relative to the configuration's directory until it is resolved.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = Self::PATTERN))]
pub struct SourcePath(PathBuf);

checked!(
    impl SourcePath,
    "path",
    // The name is shown while a build runs.
    r"[^\x00-\x1f\x7f]+",
    "allowed is the path of a file, without control characters",
    |text| Path::new(text).file_name().map(|_| SourcePath(text.into()))
);

impl SourcePath {
    pub(super) fn resolve_against(&mut self, directory: &Path) {
        self.0 = directory.join(&self.0);
    }

    /// The path itself.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

/// A character of a file name: no slash, no control character, and none of those given.
macro_rules! plain {
    ($but:literal) => {
        concat!("[^/", $but, r"\x00-\x1f\x7f]")
    };
}

checked! {
    /// An absolute path in the guest that names a file: no `..`, no control characters.
    #[derive(Hash)]
    #[schemars(extend("maxLength" = LONGEST_TARGET))]
    struct Target, "target",
    concat!(
        // Slashes, and a lone `.` between two of them.
        r"(/+(\./+)*",
        // The beginning of a name that is neither `.` nor `..`.
        "(", plain!("."), r"|\.", plain!("."), r"|\.\.", plain!(""), ")",
        plain!(""), "*)+"
    ),
    "allowed is the absolute path of a file in the guest, without '..' and control characters",
    |text| (text.len() <= LONGEST_TARGET).then(|| text.to_owned())
}

/// Permissions as `chmod` takes them in digits: `0644`, `755`, `4755`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = Self::PATTERN))]
pub struct FileMode(#[schemars(with = "String")] u32);

checked!(
    impl FileMode,
    "mode",
    "[0-7]{3,4}",
    "allowed are three or four octal digits, as in \"0644\"",
    |text| u32::from_str_radix(text, 8).ok().map(FileMode)
);

impl Default for FileMode {
    fn default() -> Self {
        FileMode(0o644)
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

checked! {
    /// A user of the guest, or `user:group`. Without a group it is the user's own.
    struct Owner, "owner", "[a-z_][a-z0-9_-]{0,31}(:[a-z_][a-z0-9_-]{0,31})?",
    "allowed is a user or user:group of the guest, each [a-z_][a-z0-9_-]{0,31}"
}

impl Default for Owner {
    fn default() -> Self {
        Owner("root".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checked::BadText;
    use std::str::FromStr;

    fn all<T: FromStr<Err = BadText>>(texts: &[&str]) -> Vec<Result<T, BadText>> {
        texts.iter().map(|text| text.parse()).collect()
    }

    #[test]
    fn targets_stay_where_they_say() {
        for good in all::<Target>(&[
            "/flag",
            "/srv/ünï code/$(id).txt",
            "/a/...b",
            "/-x",
            "//a/./b/.c/d",
        ]) {
            good.unwrap();
        }
        for bad in all::<Target>(&[
            "",
            "/",
            "flag",
            "./flag",
            "/srv/../etc/shadow",
            "/./../x",
            "/..",
            "/srv/",
            "/srv/.",
            "/a\nb",
        ]) {
            bad.unwrap_err();
        }
    }

    #[test]
    fn modes_are_octal() {
        let shown = |text: &str| text.parse::<FileMode>().ok().map(|mode| mode.to_string());
        assert_eq!(shown("755").as_deref(), Some("0755"));
        assert_eq!(shown("4755").as_deref(), Some("4755"));
        for bad in all::<FileMode>(&["", "u+x", "0o644", "+644", "888", "64", "100644"]) {
            bad.unwrap_err();
        }
    }

    #[test]
    fn owners_are_names() {
        for good in all::<Owner>(&["root", "student", "www-data:adm", "_apt"]) {
            good.unwrap();
        }
        for bad in all::<Owner>(&["", "-r", "root:", ":adm", "a:b:c", "$(id)", "0", "root;id"]) {
            bad.unwrap_err();
        }
    }
}
