//! Every path of the product, in one place. Nothing here touches a file.

use std::path::{Path, PathBuf};

use crate::names::{InstanceName, LabId};

/// The three directories that everything lives in. All are absolute: libvirt and QEMU run
/// elsewhere, and `qemu-img` reads a relative name such as `nbd:x` as a protocol.
#[derive(Debug, Clone)]
pub struct Paths {
    storage: PathBuf,
    state: PathBuf,
    output: PathBuf,
}

impl Paths {
    /// Paths below the given directories, taken relative to the working directory.
    pub fn new(storage: &Path, state: &Path, output: &Path) -> std::io::Result<Self> {
        Ok(Paths {
            storage: std::path::absolute(storage)?,
            state: std::path::absolute(state)?,
            output: std::path::absolute(output)?,
        })
    }

    /// Where all disk images are.
    pub fn storage(&self) -> &Path {
        &self.storage
    }

    /// Where the program's own state is.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Golden images, one or more builds a lab.
    pub fn base_images(&self) -> PathBuf {
        self.storage.join("base-images")
    }

    /// The link to a lab's current build.
    pub fn base_link(&self, lab: &LabId) -> PathBuf {
        self.base_images().join(format!("{lab}-base.qcow2"))
    }

    /// One build of a lab's base. Ids hold no `.`, so a build's lab can be told from its name.
    pub fn base_build(&self, lab: &LabId, build: &str) -> PathBuf {
        self.base_images().join(format!("{lab}-base.{build}.qcow2"))
    }

    /// A base that is being put in place.
    pub fn new_base(&self, lab: &LabId) -> PathBuf {
        self.base_images().join(format!(".{lab}-base.new"))
    }

    /// Stages: images that labs are made from.
    pub fn stages(&self) -> PathBuf {
        self.storage.join("stages")
    }

    /// The image of the stage `key`.
    pub fn stage(&self, key: &str) -> PathBuf {
        self.stages().join(format!("{key}.qcow2"))
    }

    /// A stage that is being put in place.
    pub fn new_stage(&self, key: &str) -> PathBuf {
        self.stages().join(format!(".{key}.new"))
    }

    /// Overlays, one an instance.
    pub fn user_instances(&self) -> PathBuf {
        self.storage.join("user-instances")
    }

    /// The overlay of an instance.
    pub fn overlay(&self, name: &InstanceName) -> PathBuf {
        self.user_instances().join(format!("{name}.qcow2"))
    }

    /// An overlay that is being made.
    pub fn new_overlay(&self, name: &InstanceName) -> PathBuf {
        self.user_instances().join(format!(".{name}.qcow2.new"))
    }

    /// The instance whose overlay, new overlay, record or mark has the name `file`.
    pub fn instance_of(file: &str) -> Option<InstanceName> {
        let new = || file.strip_prefix('.')?.strip_suffix(".qcow2.new");
        let name = file.strip_suffix(".qcow2").or_else(new);
        name.or_else(|| file.strip_suffix(".json"))
            .unwrap_or(file)
            .parse()
            .ok()
    }

    /// The file whose modification time is the instance's last activity.
    pub fn activity(&self, name: &InstanceName) -> PathBuf {
        self.activities().join(name.to_string())
    }

    /// Where the activity files are, each called as its instance.
    pub fn activities(&self) -> PathBuf {
        self.state.join("activity")
    }

    /// What the program noted about an instance.
    pub fn record(&self, name: &InstanceName) -> PathBuf {
        self.records().join(Paths::record_name(name))
    }

    /// The name of that file.
    pub fn record_name(name: &InstanceName) -> String {
        format!("{name}.json")
    }

    /// Where the records are.
    pub fn records(&self) -> PathBuf {
        self.state.join("instances")
    }

    /// The lock of an instance.
    pub fn instance_lock(&self, name: &InstanceName) -> PathBuf {
        self.state.join("locks").join(format!("{name}.lock"))
    }

    /// The lock of a lab: held while it is built or its current base is changed. No instance's
    /// lock can have this name, since an id does not begin with `_`.
    pub fn lab_lock(&self, lab: &LabId) -> PathBuf {
        self.state.join("locks").join(format!("_lab_{lab}.lock"))
    }

    /// The lock of a stage: held alone while it is built or removed, shared while labs are made from
    /// it.
    pub fn stage_lock(&self, key: &str) -> PathBuf {
        self.state.join("locks").join(format!("_stage_{key}.lock"))
    }

    /// What passes of the reaper remember.
    pub fn passes(&self) -> PathBuf {
        self.state.join("reaper.json")
    }

    /// Which labs passes of the reaper know.
    pub fn coverage(&self) -> PathBuf {
        self.state.join("reaper-labs.json")
    }

    /// The lock of a pass of the reaper.
    pub fn reaper_lock(&self) -> PathBuf {
        self.state.join("locks").join("_reaper.lock")
    }

    /// The journal.
    pub fn journal(&self) -> PathBuf {
        self.state.join("events.jsonl")
    }

    /// Where it is noted which instances are exempt from the idle policy.
    pub fn keeps(&self) -> PathBuf {
        self.state.join("kept")
    }

    /// Until when an instance is exempt from it.
    pub fn keep(&self, name: &InstanceName) -> PathBuf {
        self.keeps().join(name.to_string())
    }

    /// The lock under which it is settled whether there is room for one more guest.
    pub fn admission_lock(&self) -> PathBuf {
        self.state.join("locks").join("_admission.lock")
    }

    /// Where memory is reserved for guests that are being started.
    pub fn reservations(&self) -> PathBuf {
        self.state.join("reservations")
    }

    /// The memory that is reserved for an instance that is being started.
    pub fn reservation(&self, name: &InstanceName) -> PathBuf {
        self.reservations().join(name.to_string())
    }

    /// The memory that is reserved for a build, of a lab or a stage called `what`. No instance has
    /// such a name.
    pub fn build_reservation(&self, what: &str) -> PathBuf {
        self.reservations().join(format!("_build_{what}"))
    }

    /// The lock on the set of a lab's builds: shared by commands that are about to use one, held
    /// alone by one that removes those that nothing uses.
    pub fn bases_lock(&self, lab: &LabId) -> PathBuf {
        self.state.join("locks").join(format!("_bases_{lab}.lock"))
    }

    /// Which instance has which card in the lab networks: a file for each host part.
    pub fn addresses(&self) -> PathBuf {
        self.state.join("addresses")
    }

    /// Where the marks of instances are that are being destroyed.
    pub fn marks(&self) -> PathBuf {
        self.state.join("destroying")
    }

    /// The mark of an instance that is being destroyed.
    pub fn destroying(&self, name: &InstanceName) -> PathBuf {
        self.marks().join(name.to_string())
    }

    /// Cloud images that Packer downloaded for the user with the number `uid`: it makes directories
    /// in there that nobody else may write.
    pub fn download_cache(&self, uid: u32) -> PathBuf {
        self.state.join("downloads").join(uid.to_string())
    }

    /// Where builds leave their results.
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// A lab's rendered Packer template, with all it reads.
    pub fn build_dir(&self, lab: &LabId) -> PathBuf {
        self.output.join(format!("{lab}.packer"))
    }

    /// All that Packer said of a lab's build.
    pub fn build_log(&self, lab: &LabId) -> PathBuf {
        self.output.join(format!("{lab}.log"))
    }

    /// As [`Paths::build_dir`], of a stage. No lab has such an id.
    pub fn stage_dir(&self, key: &str) -> PathBuf {
        self.output.join(format!("_stage-{key}.packer"))
    }

    /// All that Packer said of a stage's build.
    pub fn stage_log(&self, key: &str) -> PathBuf {
        self.output.join(format!("_stage-{key}.log"))
    }

    /// The disk image that a build leaves.
    pub fn built_image(&self, lab: &LabId) -> PathBuf {
        self.output.join(format!("{lab}.qcow2"))
    }

    /// The domain definition that a build leaves.
    pub fn built_domain(&self, lab: &LabId) -> PathBuf {
        self.output.join(format!("{lab}.xml"))
    }

    /// The description that a build leaves.
    pub fn built_metadata(&self, lab: &LabId) -> PathBuf {
        self.output.join(format!("{lab}-metadata.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_names() {
        let here = Path::new("/x");
        let paths = Paths::new(here, here, here).unwrap();
        let name: InstanceName = "lab01_user_a.7".parse().unwrap();
        for path in [
            paths.overlay(&name),
            paths.new_overlay(&name),
            paths.record(&name),
            paths.destroying(&name),
        ] {
            let file = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(Paths::instance_of(file), Some(name.clone()), "{file}");
        }
        for other in [
            ".new-abc",
            "lab01-base.qcow2",
            "notes.txt",
            "lab01_user_.qcow2",
        ] {
            assert_eq!(Paths::instance_of(other), None, "{other}");
        }
    }
}
