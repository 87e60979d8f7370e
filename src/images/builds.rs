//! Finds the builds of a lab that are no longer current, and removes those that nothing uses.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::Result;

use super::base::{Base, build_of, note_path};
use super::layer::Layer;
use super::set_immutable;
use super::warm;
use crate::files;
use crate::names::LabId;
use crate::paths::Paths;
use crate::state::lock::{self, Lock};

/// A shared lock on the builds of `lab`: while it is held, none is removed. Take it before the
/// current build is looked up, and hold it until something on disk refers to the build.
pub fn hold(paths: &Paths, lab: &LabId) -> Result<Lock> {
    let what = format!("the base images of {lab}");
    Lock::share(&paths.bases_lock(lab), &what, lock::PATIENCE)
}

/// Every existing build.
pub fn all(paths: &Paths) -> Result<Vec<(LabId, Base)>> {
    let directory = paths.base_images();
    let names = files::names_in(&directory)?.into_iter();
    let mut all: Vec<_> = names
        .filter_map(|name| named(&directory.join(name)))
        .collect();
    all.sort_by(|(_, one), (_, other)| one.path.cmp(&other.path));
    Ok(all)
}

/// Every build that is not the current one of its lab, and every disk of a warm image that is not
/// the current one of its build. Builds of a lab without a current one are left out: something is
/// wrong there, and removing them could make it worse.
pub fn superseded(paths: &Paths) -> Result<Vec<(LabId, Base)>> {
    let mut builds = all(paths)?;
    builds.retain(|(lab, base)| {
        let target = std::fs::read_link(paths.base_link(lab)).unwrap_or_default();
        let current = build_of(lab, &target);
        let there = current.is_some_and(|build| paths.base_build(lab, build).is_file());
        there && current != Some(&base.build)
    });
    builds.extend(warm::superseded(paths)?);
    Ok(builds)
}

/// The build to which the file `path` belongs, by its name.
fn named(path: &Path) -> Option<(LabId, Base)> {
    let file = Path::new(path.file_name()?);
    let (lab, _) = file.to_str()?.split_once("-base.")?;
    let lab = lab.parse().ok()?;
    let base = Base {
        build: build_of(&lab, file)?.to_owned(),
        path: path.to_owned(),
    };
    Some((lab, base))
}

/// Removes a build that nothing refers to. The caller has checked that, and holds the lab's lock
/// and the exclusive lock on its builds.
pub fn remove(paths: &Paths, lab: &LabId, base: &Base) -> Result<()> {
    let file = base.path.file_name().and_then(OsStr::to_str);
    if file.and_then(Layer::named).is_some() {
        return warm::remove_layer(&base.path);
    }
    warm::remove_of(paths, lab, &base.build)?;
    set_immutable(&base.path, false);
    fs_err::remove_file(&base.path)?;
    files::remove(&note_path(&base.path))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_known_by_its_file() {
        let lab: LabId = "lab01".parse().unwrap();
        let (of, base) = named(Path::new("/b/lab01-base.1-0f.qcow2")).unwrap();
        assert_eq!((of, base.build.as_str()), (lab, "1-0f"));
        assert_eq!(named(Path::new("/b/lab01-base.1-0f.json")), None);
    }
}
