//! The templates of a build: the built-in ones, or an instructor's that replace them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use include_dir::{Dir, include_dir};

use crate::config::Desktop;
use crate::error::{Fault, Kind};

static PACKER: Dir = include_dir!("$CARGO_MANIFEST_DIR/templates/packer");
static GUEST: Dir = include_dir!("$CARGO_MANIFEST_DIR/templates/guest");

/// Templates that are only needed in the guest for a lab, and are therefore no input of a stage.
const OF_LABS: [&str; 2] = ["guest/install.sh", "guest/seed-user-data"];

/// Packer's plugin configuration, if it needs one.
pub const PLUGINS: &str = "packer/plugins.pkr.hcl";

/// The maximum size of an instructor's template or additional file.
const LARGEST: u64 = 64 << 20;

/// Templates by their names below `templates/`, for example `guest/install.sh`.
#[derive(Debug)]
pub struct Templates {
    files: BTreeMap<String, Vec<u8>>,
    /// Those that do not replace a built-in one.
    added: BTreeSet<String>,
}

impl Templates {
    /// The built-in templates, with the files below `own` replacing those of the same name.
    pub fn load(own: Option<&Path>) -> Result<Templates> {
        let mut files = BTreeMap::new();
        for (place, directory) in [("packer", &PACKER), ("guest", &GUEST)] {
            for (name, content) in contents(directory) {
                files.insert(format!("{place}/{name}"), content.to_vec());
            }
        }
        let mut templates = Templates {
            files,
            added: BTreeSet::new(),
        };
        if let Some(own) = own {
            templates.overlay(own, own).with_context(|| {
                let message = format!("the templates in {} cannot be used", own.display());
                let hint = "correct host.templates_dir in the configuration, or its files";
                Fault::new(Kind::Config, message).hint(hint)
            })?;
        }
        Ok(templates)
    }

    /// Adds the files below `directory`, replacing built-in ones. A file that is neither a built-in
    /// name nor for the guest is an error: nothing would read it, so its name is probably wrong.
    fn overlay(&mut self, root: &Path, directory: &Path) -> Result<()> {
        for entry in fs_err::read_dir(directory)? {
            let path = entry?.path();
            let metadata = fs_err::metadata(&path)?;
            let name = crate::text::path(path.strip_prefix(root)?)?;
            if name.split('/').any(|part| part.starts_with('.')) {
                continue;
            }
            if metadata.is_dir() {
                self.overlay(root, &path)?;
                continue;
            }
            ensure!(metadata.is_file(), "{name} is not a regular file");
            let largest = LARGEST >> 20;
            ensure!(
                metadata.len() <= LARGEST,
                "{name} is larger than {largest} MiB"
            );
            if !self.files.contains_key(name) {
                ensure!(
                    name.starts_with("guest/"),
                    "{name} does not replace a template: the names are {}",
                    self.files.keys().cloned().collect::<Vec<_>>().join(", ")
                );
                self.added.insert(name.to_owned());
            }
            self.files.insert(name.to_owned(), fs_err::read(&path)?);
        }
        Ok(())
    }

    /// The template called `name`; empty if there is none, which cannot happen for built-in names.
    pub fn get(&self, name: &str) -> &[u8] {
        self.files.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether the instructor added it, rather than replaced a built-in one.
    pub fn is_added(&self, name: &str) -> bool {
        self.added.contains(name)
    }

    /// All templates that are inputs of a stage with `desktop`, by name.
    pub fn of_stages(&self, desktop: Desktop) -> impl Iterator<Item = (&str, &[u8])> {
        let of_labs = self.of_labs(desktop);
        of_labs.filter(|(name, _)| !OF_LABS.contains(name))
    }

    /// All templates that are inputs of a lab with `desktop`, by name.
    pub fn of_labs(&self, desktop: Desktop) -> impl Iterator<Item = (&str, &[u8])> {
        let all = self.all();
        all.filter(move |(name, _)| !is_for_other(name, desktop))
    }

    /// All of them, by name.
    pub fn all(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let files = self.files.iter();
        files.map(|(name, content)| (name.as_str(), content.as_slice()))
    }
}

/// Whether it is only for other desktops.
fn is_for_other(name: &str, desktop: Desktop) -> bool {
    let of_desktop = |other: Desktop| name.starts_with(&format!("guest/files/{}/", other.name()));
    let of_any = name.starts_with("guest/files/desktop/");
    let mut others = [Desktop::Xfce, Desktop::Gnome].into_iter();
    let of_other = others.any(|other| other != desktop && of_desktop(other));
    of_other || of_any && desktop == Desktop::None
}

/// Every file below `directory` by its path in it, without hidden ones.
pub fn contents(directory: &'static Dir) -> Vec<(&'static str, &'static [u8])> {
    let mut found = Vec::new();
    let mut directories = vec![directory];
    while let Some(next) = directories.pop() {
        directories.extend(next.dirs());
        for file in next.files() {
            if let Some(name) = file.path().to_str()
                && !name.split('/').any(|part| part.starts_with('.'))
            {
                found.push((name, file.contents()));
            }
        }
    }
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(files: &[(&str, &str)]) -> Result<Templates> {
        let own = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = own.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, content).unwrap();
        }
        Templates::load(Some(own.path()))
    }

    #[test]
    fn an_own_template_takes_the_place_of_the_one_of_its_name_alone() {
        let ours = Templates::load(None).unwrap();
        let own = with(&[("guest/install.sh", "mine"), ("guest/extra/data", "more")]).unwrap();
        assert_eq!(own.get("guest/install.sh"), b"mine");
        assert_eq!(own.get("guest/extra/data"), b"more");
        assert_eq!(own.get("guest/stage.sh"), ours.get("guest/stage.sh"));
        assert!(!ours.get("packer/lab.pkr.hcl").is_empty());
        assert_eq!(own.all().count(), ours.all().count() + 1);
        assert!(own.is_added("guest/extra/data") && !own.is_added("guest/install.sh"));
    }

    #[test]
    fn a_name_that_means_nothing_is_an_error() {
        for name in ["packer/lab.hcl", "install.sh", "domain.xml"] {
            let error = with(&[(name, "x")]).unwrap_err();
            let said = format!("{error:#}");
            assert_eq!(crate::error::kind_of(&error), Kind::Config);
            assert!(
                said.contains(name) && said.contains("guest/install.sh"),
                "{said}"
            );
        }
        assert!(with(&[(".git/config", "x"), ("guest/.swp", "x")]).is_ok());
    }

    #[test]
    fn a_stage_is_not_made_anew_for_what_it_does_not_get() {
        let templates = with(&[("guest/files/xfce/x", "x"), ("guest/files/every/y", "y")]).unwrap();
        let of_stages =
            |desktop| -> Vec<&str> { templates.of_stages(desktop).map(|(name, _)| name).collect() };
        let (none, xfce) = (of_stages(Desktop::None), of_stages(Desktop::Xfce));
        for name in [
            "guest/stage.sh",
            "packer/lab.pkr.hcl",
            "guest/files/every/y",
        ] {
            assert!(none.contains(&name) && xfce.contains(&name), "{name}");
        }
        assert!(!none.contains(&"guest/install.sh") && !xfce.contains(&"guest/install.sh"));
        let name = "guest/files/xfce/x";
        assert!(!none.contains(&name) && xfce.contains(&name));
        assert!(!of_stages(Desktop::Gnome).contains(&name));
    }
}
