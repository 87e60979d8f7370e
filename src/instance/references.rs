//! Which images are used as backing files, and by which images and domains. Images are identified
//! by file name: if the same directory is reached by two paths, that errs on the safe side.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result};

use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::hypervisor::xml::domain;
use crate::images::header::Header;
use crate::images::layer::Layer;
use crate::names::InstanceName;
use crate::paths::{Paths, SharedPaths};

/// Image files that domains and other images refer to. Computed once, when needed: it reads every
/// domain and every overlay.
pub struct References<'a> {
    context: &'a Context,
    /// File name to domain.
    by_domains: OnceLock<HashMap<OsString, String>>,
}

impl<'a> References<'a> {
    pub fn new(context: &'a Context) -> Self {
        References {
            context,
            by_domains: OnceLock::new(),
        }
    }

    /// Fails if a domain, or an image beside it, is based on the disk `overlay`, whose own domain
    /// is gone.
    pub fn ensure_free(&self, overlay: &Path) -> Result<()> {
        let file = overlay.file_name().unwrap_or_default();
        if let Some(above) = standing_on(overlay)? {
            let (place, own) = (above.display(), overlay.display());
            let message = format!("{place} is based on the disk {own}, like a snapshot");
            let hint =
                format!("merge it into the disk with `qemu-img commit {place}`, then remove it");
            return Err(Fault::new(Kind::Conflict, message).hint(hint).into());
        }
        let Some(domain) = self.by_domains()?.get(file) else {
            return Ok(());
        };
        let holder = match self.context.scope().only() {
            None => format!("the VM {domain}"),
            Some(_) => "another VM".to_owned(),
        };
        let message = format!("the disk {} is in use by {holder}", overlay.display());
        let hint = "it was renamed, or not created by cyyber: rename or remove it with virsh";
        Err(Fault::new(Kind::Conflict, message).hint(hint).into())
    }

    /// The file names of all images that a domain or an overlay refers to, and of the base images
    /// of the warm images among them, without those of the instances that `goes` accepts.
    pub fn used(&self, goes: impl Fn(&InstanceName) -> bool) -> Result<Vec<OsString>> {
        let counts = |name: Option<InstanceName>| !name.is_some_and(|name| goes(&name));
        let domains = self.by_domains()?.iter();
        let mut used: Vec<OsString> = domains
            .filter(|(_, domain)| counts(domain.parse().ok()))
            .map(|(file, _)| file.clone())
            .collect();
        for directory in self.directories() {
            if directory.is_dir() {
                used.extend(used_in(&directory, &counts)?);
            }
        }
        let below = |file: &OsString| Some(Layer::named(file.to_str()?)?.base_name().into());
        let bases: Vec<_> = used.iter().filter_map(below).collect();
        used.extend(bases);
        Ok(used)
    }

    /// The directories with overlays: of all hosts that share the base images.
    fn directories(&self) -> Vec<PathBuf> {
        let cluster = self.context.config.cluster.iter();
        let others = cluster.flat_map(|cluster| {
            let shared = SharedPaths::new(&cluster.shared_dir);
            cluster
                .hosts
                .keys()
                .map(move |host| shared.of(host).user_instances())
        });
        others
            .chain([self.context.paths.user_instances()])
            .collect()
    }

    fn by_domains(&self) -> Result<&HashMap<OsString, String>> {
        if let Some(known) = self.by_domains.get() {
            return Ok(known);
        }
        let mut known = HashMap::new();
        for (domain, xml) in self.context.hypervisor()?.definitions()? {
            let disks = domain::disks(&xml)?.into_iter();
            let files = disks.flat_map(|disk| disk.files);
            for name in files.filter_map(|file| Some(file.file_name()?.to_owned())) {
                known.insert(name, domain.clone());
            }
        }
        Ok(self.by_domains.get_or_init(|| known))
    }
}

/// The file names of the backing files of the images in `directory`, except those of ignored
/// instances.
fn used_in(
    directory: &Path,
    counts: &impl Fn(Option<InstanceName>) -> bool,
) -> Result<Vec<OsString>> {
    let mut used = Vec::new();
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.ends_with(".memory")) {
            continue;
        }
        let instance = name.to_str().and_then(Paths::instance_of);
        if !entry.file_type()?.is_file() || !counts(instance) {
            continue;
        }
        let header =
            Header::of(&entry.path()).context("cannot tell which base images are still in use")?;
        let below = header.backing_file.as_deref();
        used.extend(below.and_then(Path::file_name).map(OsString::from));
    }
    Ok(used)
}

/// An image beside `overlay` that would be corrupted if `overlay` were written to.
fn standing_on(overlay: &Path) -> Result<Option<PathBuf>> {
    let directory = overlay.parent().unwrap_or(Path::new("/"));
    for entry in fs_err::read_dir(directory)? {
        let path = entry?.path();
        // A file that is not an image has no backing file.
        let below = Header::of(&path).ok().and_then(|it| it.backing_file);
        if below.is_some_and(|below| below.file_name() == overlay.file_name()) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
