//! Every path of the program, in one place. Nothing here accesses a file.

use std::path::{Path, PathBuf};

use crate::config::HostName;
use crate::names::{InstanceName, LabId};

/// Directories in memory on nearly every host; only root can write to the first.
pub const VOLATILE: [&str; 2] = ["/run", "/dev/shm"];

/// The three directories that contain everything. All are absolute: libvirt and QEMU run elsewhere,
/// and `qemu-img` takes a relative name such as `nbd:x` for a protocol.
#[derive(Debug, Clone)]
pub struct Paths {
    storage: PathBuf,
    state: PathBuf,
    output: PathBuf,
    /// The directory that several hosts share; on a single host, the state directory.
    common: PathBuf,
}

/// Paths in the directory that a head and several hosts share.
#[derive(Debug, Clone)]
pub struct SharedPaths(PathBuf);

impl SharedPaths {
    /// The paths in `directory`.
    pub fn new(directory: &Path) -> SharedPaths {
        SharedPaths(directory.to_owned())
    }

    /// The paths of the host `host`, as seen from any other: overlays and state.
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

    /// The mark of a fenced host.
    pub fn fenced(&self, host: &HostName) -> PathBuf {
        self.host(host).join("fenced")
    }

    /// The directory for files that are on their way between the head and a host.
    pub fn transfers(&self) -> PathBuf {
        self.0.join("transfers")
    }

    /// The directory with marks of instances of a host that must be resumed after their move.
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

    /// The same on one of several hosts with a shared directory: the reserved addresses are shared,
    /// so that an instance keeps its address when it moves, and so are the locks on shared images.
    #[must_use]
    pub fn beside_others(mut self, shared: &SharedPaths) -> Paths {
        self.common.clone_from(&shared.0);
        self
    }

    /// The directory of all disk images.
    pub fn storage(&self) -> &Path {
        &self.storage
    }

    /// The directory of the program's own state.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The directory for the results of builds.
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

/// Each line defines a method that returns a path: its name, its arguments, and the path.
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
    /// Golden images, one or more builds per lab.
    base_images() = storage / "base-images";

    /// The link to a lab's current build.
    base_link(lab: &LabId) = storage / "base-images/{lab}-base.qcow2";

    /// One build of a lab's base. Ids contain no `.`, so a build's lab can be derived from its
    /// name.
    base_build(lab: &LabId, build: &str) = storage / "base-images/{lab}-base.{build}.qcow2";

    /// The record of a build's current warm image.
    warm_note(lab: &LabId, build: &str) = storage / "base-images/{lab}-base.{build}.warm.json";

    /// The disk of one warm image of a build.
    warm_layer(lab: &LabId, build: &str, serial: &str) = storage / "base-images/{lab}-warm.{build}.{serial}.qcow2";

    /// A base that is being installed.
    new_base(lab: &LabId) = storage / "base-images/.{lab}-base.new";

    /// Stages: images that labs are built from.
    stages() = storage / "stages";

    /// The image of the stage `key`.
    stage(key: &str) = storage / "stages/{key}.qcow2";

    /// A stage that is being installed.
    new_stage(key: &str) = storage / "stages/.{key}.new";

    /// Overlays, one per instance.
    user_instances() = storage / "user-instances";

    /// The overlay of an instance.
    overlay(name: &InstanceName) = storage / "user-instances/{name}.qcow2";

    /// An overlay that is being created.
    new_overlay(name: &InstanceName) = storage / "user-instances/.{name}.qcow2.new";

    /// The copy of memory that an instance is being forked from.
    forked_memory(name: &InstanceName) = storage / "user-instances/.{name}.memory";

    /// The file whose modification time is the instance's last activity.
    activity(name: &InstanceName) = state / "activity/{name}";

    /// The directory of activity files, each named after its instance.
    activities() = state / "activity";

    /// The record of an instance.
    record(name: &InstanceName) = state / "instances/{name}.json";

    /// The directory of records.
    records() = state / "instances";

    /// The lock of an instance.
    instance_lock(name: &InstanceName) = state / "locks/{name}.lock";

    /// The lock of transfers of files with an instance.
    transfer_lock(name: &InstanceName) = state / "locks/{name}.transfer";

    /// The lock of a lab: held while it is built or its current base is changed. It cannot collide
    /// with an instance's lock, since an id does not begin with `_`.
    lab_lock(lab: &LabId) = common / "locks/_lab_{lab}.lock";

    /// The lock of a stage: exclusive while it is built or removed, shared while labs are built
    /// from it.
    stage_lock(key: &str) = common / "locks/_stage_{key}.lock";

    /// The record of the reaper's passes.
    passes() = state / "reaper.json";

    /// The labs that the reaper's passes cover.
    coverage() = state / "reaper-labs.json";

    /// The kernel's settings for merging pages before the reaper changed them.
    sharing() = state / "sharing.json";

    /// The lock of a pass of the reaper.
    reaper_lock() = state / "locks/_reaper.lock";

    /// The key that signs tokens for the gateway.
    gateway_key() = state / "gateway.key";

    /// The status of the gateway.
    gateway_status() = state / "gateway.json";

    /// The lock that a running gateway holds.
    gateway_lock() = state / "locks/_gateway.lock";

    /// The journal.
    journal() = state / "events.jsonl";

    /// The figures from the journal when it was last counted for metrics.
    ledger() = state / "ledger.json";

    /// The lock for counting it.
    ledger_lock() = state / "locks/_ledger.lock";

    /// The directory of exemptions from the idle policy.
    keeps() = state / "kept";

    /// The exemption of an instance.
    keep(name: &InstanceName) = state / "kept/{name}";

    /// The lock for checking whether there is memory for one more guest.
    admission_lock() = state / "locks/_admission.lock";

    /// The lock for pausing unused instances for others.
    pressure_lock() = state / "locks/_pressure.lock";

    /// The directory of memory reservations for guests that are being started.
    reservations() = state / "reservations";

    /// The memory reservation of an instance that is being started.
    reservation(name: &InstanceName) = state / "reservations/{name}";

    /// The memory reservation of a build of a lab or stage called `what`. No instance has such a
    /// name.
    build_reservation(what: &str) = state / "reservations/_build_{what}";

    /// The memory reservation of the guest that is booted for a lab's warm image; named after its
    /// domain.
    warm_reservation(lab: &LabId) = state / "reservations/cyyber-warm_{lab}";

    /// The lock on the set of a lab's builds: shared by commands that are about to use one,
    /// exclusive for removing unused ones.
    bases_lock(lab: &LabId) = common / "locks/_bases_{lab}.lock";

    /// The mark of an instance that is about to move to another host.
    leaving(name: &InstanceName) = state / "leaving/{name}";

    /// The note about an instance that arrives from another host.
    arriving(name: &InstanceName) = state / "arriving/{name}.json";

    /// The directory of these notes.
    arrivals() = state / "arriving";

    /// The reaper's record of Slurm's allocations.
    leases() = state / "leases.json";

    /// The directory of reserved addresses in the lab networks: a file for each host part.
    addresses() = common / "addresses";

    /// The directory with marks of instances that are being destroyed.
    marks() = state / "destroying";

    /// The mark of an instance that is being destroyed.
    destroying(name: &InstanceName) = state / "destroying/{name}";

    /// Cloud images that Packer downloaded for the user with the id `uid`: it creates directories
    /// there to which nobody else may write.
    download_cache(uid: u32) = state / "downloads/{uid}";

    /// A lab's rendered Packer template with all its files.
    build_dir(lab: &LabId) = output / "{lab}.packer";

    /// Packer's log of a lab's build.
    build_log(lab: &LabId) = output / "{lab}.log";

    /// Like [`Paths::build_dir`], for a stage. No lab has such an id.
    stage_dir(key: &str) = output / "_stage-{key}.packer";

    /// Packer's log of a stage's build.
    stage_log(key: &str) = output / "_stage-{key}.log";

    /// The disk image of a build.
    built_image(lab: &LabId) = output / "{lab}.qcow2";

    /// The domain definition of a build.
    built_domain(lab: &LabId) = output / "{lab}.xml";

    /// The metadata of a build.
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
