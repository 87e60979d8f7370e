//! Every path of the product, in one place. Nothing here touches a file.

use std::path::{Path, PathBuf};

use crate::config::HostName;
use crate::names::{InstanceName, LabId};

/// Directories whose content is in memory on nearly every host; the first is root's alone.
pub const VOLATILE: [&str; 2] = ["/run", "/dev/shm"];

/// The three directories that everything lives in. All are absolute: libvirt and QEMU run
/// elsewhere, and `qemu-img` reads a relative name such as `nbd:x` as a protocol.
#[derive(Debug, Clone)]
pub struct Paths {
    storage: PathBuf,
    state: PathBuf,
    output: PathBuf,
    /// What hosts that carry instances together have in common; of one alone the state.
    common: PathBuf,
}

/// Paths in the directory that a head and several hosts share.
#[derive(Debug, Clone)]
pub struct SharedPaths(PathBuf);

impl SharedPaths {
    /// Those in `directory`.
    pub fn new(directory: &Path) -> SharedPaths {
        SharedPaths(directory.to_owned())
    }

    /// What the host `host` keeps, as seen from any other: overlays and state.
    pub fn of(&self, host: &HostName) -> Paths {
        let own = self.host(host);
        Paths {
            state: own.join("state"),
            output: own.join("output"),
            storage: own,
            common: self.0.clone(),
        }
    }

    fn host(&self, host: &HostName) -> PathBuf {
        self.0.join(format!("hosts/{host}"))
    }

    /// The saved memory of an instance of the host `host`.
    pub fn saved_memory(&self, host: &HostName, name: &InstanceName) -> PathBuf {
        self.host(host).join(format!("save/{name}.save"))
    }

    /// The mark of a host that was said to be off.
    pub fn fenced(&self, host: &HostName) -> PathBuf {
        self.host(host).join("fenced")
    }

    /// Where the marks are of instances of a host that are to run again when they have left it.
    pub fn draining(&self, host: &HostName) -> PathBuf {
        self.host(host).join("draining")
    }

    /// The lock under which an instance is placed on a host.
    pub fn placing(&self, name: &InstanceName) -> PathBuf {
        self.0.join(format!("locks/{name}.lock"))
    }
}

impl Paths {
    /// Paths below the given directories, taken relative to the working directory.
    pub fn new(storage: &Path, state: &Path, output: &Path) -> std::io::Result<Self> {
        Ok(Paths {
            storage: std::path::absolute(storage)?,
            state: std::path::absolute(state)?,
            output: std::path::absolute(output)?,
            common: std::path::absolute(state)?,
        })
    }

    /// The same on a host of several that share a directory: which addresses are taken is known to all of
    /// them, so that an instance keeps its own when it moves, and so are the locks on shared images.
    #[must_use]
    pub fn beside_others(mut self, shared: &SharedPaths) -> Paths {
        self.common.clone_from(&shared.0);
        self
    }

    /// Where all disk images are.
    pub fn storage(&self) -> &Path {
        &self.storage
    }

    /// Where the program's own state is.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Where builds leave their results.
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// The name of an instance's record in its directory.
    pub fn record_name(name: &InstanceName) -> String {
        format!("{name}.json")
    }

    /// The instance whose overlay, new overlay, forked memory, record or mark has the name `file`.
    pub fn instance_of(file: &str) -> Option<InstanceName> {
        let new = || {
            let hidden = file.strip_prefix('.')?;
            let new = hidden.strip_suffix(".qcow2.new");
            new.or_else(|| hidden.strip_suffix(".memory"))
        };
        let name = file.strip_suffix(".qcow2").or_else(new);
        name.or_else(|| file.strip_suffix(".json"))
            .unwrap_or(file)
            .parse()
            .ok()
    }
}

/// Each line is a method that returns a path: its name and arguments, and where that is.
macro_rules! paths {
    ($($(#[$doc:meta])* $name:ident($($of:ident: $type:ty),*) = $place:ident / $path:literal;)*) => {
        impl Paths {$(
            $(#[$doc])*
            pub fn $name(&self, $($of: $type),*) -> PathBuf {
                self.$place.join(format!($path))
            }
        )*}
    };
}

paths! {
    /// Golden images, one or more builds a lab.
    base_images() = storage / "base-images";

    /// The link to a lab's current build.
    base_link(lab: &LabId) = storage / "base-images/{lab}-base.qcow2";

    /// One build of a lab's base. Ids hold no `.`, so a build's lab can be told from its name.
    base_build(lab: &LabId, build: &str) = storage / "base-images/{lab}-base.{build}.qcow2";

    /// What a build's instances begin with in place of a boot: which of its warm images that is.
    warm_note(lab: &LabId, build: &str) = storage / "base-images/{lab}-base.{build}.warm.json";

    /// The disk of one warm image of a build.
    warm_layer(lab: &LabId, build: &str, serial: &str) = storage / "base-images/{lab}-warm.{build}.{serial}.qcow2";

    /// A base that is being put in place.
    new_base(lab: &LabId) = storage / "base-images/.{lab}-base.new";

    /// Stages: images that labs are made from.
    stages() = storage / "stages";

    /// The image of the stage `key`.
    stage(key: &str) = storage / "stages/{key}.qcow2";

    /// A stage that is being put in place.
    new_stage(key: &str) = storage / "stages/.{key}.new";

    /// Overlays, one an instance.
    user_instances() = storage / "user-instances";

    /// The overlay of an instance.
    overlay(name: &InstanceName) = storage / "user-instances/{name}.qcow2";

    /// An overlay that is being made.
    new_overlay(name: &InstanceName) = storage / "user-instances/.{name}.qcow2.new";

    /// The memory that an instance is being forked with.
    forked_memory(name: &InstanceName) = storage / "user-instances/.{name}.memory";

    /// The file whose modification time is the instance's last activity.
    activity(name: &InstanceName) = state / "activity/{name}";

    /// Where the activity files are, each called as its instance.
    activities() = state / "activity";

    /// What the program noted about an instance.
    record(name: &InstanceName) = state / "instances/{name}.json";

    /// Where the records are.
    records() = state / "instances";

    /// The lock of an instance.
    instance_lock(name: &InstanceName) = state / "locks/{name}.lock";

    /// The lock of a lab: held while it is built or its current base is changed. No instance's
    /// lock can have this name, since an id does not begin with `_`.
    lab_lock(lab: &LabId) = common / "locks/_lab_{lab}.lock";

    /// The lock of a stage: held alone while it is built or removed, shared while labs are made from
    /// it.
    stage_lock(key: &str) = common / "locks/_stage_{key}.lock";

    /// What passes of the reaper remember.
    passes() = state / "reaper.json";

    /// Which labs passes of the reaper know.
    coverage() = state / "reaper-labs.json";

    /// What the kernel's settings for merging pages were before the reaper changed them.
    sharing() = state / "sharing.json";

    /// The lock of a pass of the reaper.
    reaper_lock() = state / "locks/_reaper.lock";

    /// What tokens for the gateway are signed with.
    gateway_key() = state / "gateway.key";

    /// How the gateway stands.
    gateway_status() = state / "gateway.json";

    /// The lock that a running gateway holds.
    gateway_lock() = state / "locks/_gateway.lock";

    /// The journal.
    journal() = state / "events.jsonl";

    /// What the journal added up to when it was last counted for metrics.
    ledger() = state / "ledger.json";

    /// The lock under which it is counted.
    ledger_lock() = state / "locks/_ledger.lock";

    /// Where it is noted which instances are exempt from the idle policy.
    keeps() = state / "kept";

    /// Until when an instance is exempt from it.
    keep(name: &InstanceName) = state / "kept/{name}";

    /// The lock under which it is settled whether there is room for one more guest.
    admission_lock() = state / "locks/_admission.lock";

    /// The lock under which unused instances are paused for others.
    pressure_lock() = state / "locks/_pressure.lock";

    /// Where memory is reserved for guests that are being started.
    reservations() = state / "reservations";

    /// The memory that is reserved for an instance that is being started.
    reservation(name: &InstanceName) = state / "reservations/{name}";

    /// The memory that is reserved for a build, of a lab or a stage called `what`. No instance has
    /// such a name.
    build_reservation(what: &str) = state / "reservations/_build_{what}";

    /// The memory that is reserved for the guest of a lab that is booted to have its memory saved; called
    /// as its domain.
    warm_reservation(lab: &LabId) = state / "reservations/cyyber-warm_{lab}";

    /// The lock on the set of a lab's builds: shared by commands that are about to use one, held
    /// alone by one that removes those that nothing uses.
    bases_lock(lab: &LabId) = common / "locks/_bases_{lab}.lock";

    /// The mark of an instance that is about to move to another host.
    leaving(name: &InstanceName) = state / "leaving/{name}";

    /// What is noted of an instance that comes from another host.
    arriving(name: &InstanceName) = state / "arriving/{name}.json";

    /// Where that is noted.
    arrivals() = state / "arriving";

    /// What a pass of the reaper remembers of what Slurm has allocated.
    leases() = state / "leases.json";

    /// Which instance has which card in the lab networks: a file for each host part.
    addresses() = common / "addresses";

    /// Where the marks of instances are that are being destroyed.
    marks() = state / "destroying";

    /// The mark of an instance that is being destroyed.
    destroying(name: &InstanceName) = state / "destroying/{name}";

    /// Cloud images that Packer downloaded for the user with the number `uid`: it makes directories
    /// in there that nobody else may write.
    download_cache(uid: u32) = state / "downloads/{uid}";

    /// A lab's rendered Packer template, with all it reads.
    build_dir(lab: &LabId) = output / "{lab}.packer";

    /// All that Packer said of a lab's build.
    build_log(lab: &LabId) = output / "{lab}.log";

    /// As [`Paths::build_dir`], of a stage. No lab has such an id.
    stage_dir(key: &str) = output / "_stage-{key}.packer";

    /// All that Packer said of a stage's build.
    stage_log(key: &str) = output / "_stage-{key}.log";

    /// The disk image that a build leaves.
    built_image(lab: &LabId) = output / "{lab}.qcow2";

    /// The domain definition that a build leaves.
    built_domain(lab: &LabId) = output / "{lab}.xml";

    /// The description that a build leaves.
    built_metadata(lab: &LabId) = output / "{lab}-metadata.json";
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
            paths.forked_memory(&name),
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
