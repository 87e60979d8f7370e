//! A head and hosts in this world (`tests/cluster/`), with a real Slurm, libvirt and QEMU on each.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Run, run, tool};

/// The hosts of most tests.
pub const HOSTS: [&str; 4] = ["h1", "h2", "h3", "h4"];

/// A head with some hosts. It ends with the world of its test.
#[derive(Debug)]
pub struct Cluster {
    root: PathBuf,
}

impl Cluster {
    /// One that is running, with `extra` keys laid over its only lab, `lab01`, that has an empty base.
    /// `None` where Slurm is not installed.
    pub fn up(hosts: &[&str], extra: &Value) -> Option<Cluster> {
        let [Ok(_), Ok(_)] = ["slurmctld", "munged"].map(|name| {
            which::which(name).or_else(|_| which::which_in(name, Some("/usr/sbin"), "/"))
        }) else {
            eprintln!("skipped: Slurm is not installed");
            return None;
        };
        let world = std::env::var_os("CYYBER_WORLD").expect("own_world! comes first");
        let root = Path::new(&world).join("cluster");
        let cluster = Cluster { root };
        cluster.configure(hosts, extra);
        cluster.put_program_in_place();
        run(tool(&script()).arg("up").args(hosts));
        cluster.base();
        Some(cluster)
    }

    /// Writes the configuration that all of them share.
    pub fn configure(&self, hosts: &[&str], extra: &Value) {
        let hosts: BTreeMap<_, _> = hosts.iter().map(|host| (host, json!({}))).collect();
        let mut lab = super::lab("lab01", extra);
        lab["instant"] = false.into();
        let config = json!({
            "cluster": {"engine": "slurm", "shared_dir": self.shared(""), "hosts": hosts},
            "host": {"accelerator": "tcg"},
            "labs": [lab],
        });
        fs::create_dir_all(self.shared("")).unwrap();
        fs::write(self.shared("labs-config.json"), config.to_string()).unwrap();
    }

    fn put_program_in_place(&self) {
        let directory = self.root.join("bin");
        fs::create_dir_all(&directory).unwrap();
        let program = env!("CARGO_BIN_EXE_cyyber");
        std::os::unix::fs::symlink(program, directory.join("cyyber")).unwrap();
    }

    fn base(&self) {
        run(tool("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(self.shared("base-images/lab01-base.qcow2"))
            .arg("1G"));
    }

    /// A path in the directory that all share.
    pub fn shared(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root.join("shared").join(below)
    }

    /// What one of them keeps for itself.
    pub fn directory(&self, host: &str) -> PathBuf {
        self.root.join(host)
    }

    /// A command on one of them.
    pub fn on<A: AsRef<OsStr>>(
        &self,
        host: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut command = tool(&script());
        command
            .args(["in", host])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the program there to its end.
    pub fn cyyber_on(&self, host: &str, arguments: &[&str]) -> Run {
        Run::of(&mut self.on(host, [&["cyyber"], arguments].concat()))
    }

    /// Runs the program on the head to its end.
    pub fn cyyber(&self, arguments: &[&str]) -> Run {
        self.cyyber_on("head", arguments)
    }

    /// Cuts the power of one of them.
    pub fn kill(&self, host: &str) {
        run(tool(&script()).args(["kill", host]));
    }

    /// Starts one again, or a further one.
    pub fn boot(&self, host: &str) {
        run(tool(&script()).args(["boot", host]));
    }

    /// Pulls the network cable of one.
    pub fn cut(&self, host: &str) {
        run(tool(&script()).args(["cut", host]));
    }

    /// Plugs it in again.
    pub fn mend(&self, host: &str) {
        run(tool(&script()).args(["mend", host]));
    }

    /// What setup.sh with `arguments` says on one of them.
    pub fn setup(&self, host: &str, arguments: &[&str]) -> Run {
        let setup = concat!(env!("CARGO_MANIFEST_DIR"), "/templates/host/setup.sh");
        Run::of(&mut self.on(host, [&[setup, "--no-packages"], arguments].concat()))
    }

    /// Where the overlay of a student is, and whose it is. It must be one's.
    #[track_caller]
    pub fn owner(&self, student: &str) -> (String, PathBuf) {
        let mut found = Vec::new();
        for host in fs::read_dir(self.shared("hosts")).unwrap().flatten() {
            let overlay = host
                .path()
                .join(format!("user-instances/lab01_user_{student}.qcow2"));
            if overlay.exists() {
                found.push((host.file_name().into_string().unwrap(), overlay));
            }
        }
        assert_eq!(found.len(), 1, "owners of {student}'s disk: {found:?}");
        found.remove(0)
    }

    /// The overlays that more than one process has open for writing, on whatever hosts.
    pub fn disks_with_two_writers(&self) -> Vec<PathBuf> {
        let mut writers: BTreeMap<(u64, u64), (PathBuf, Vec<u32>)> = BTreeMap::new();
        for host in fs::read_dir(self.shared("hosts")).unwrap().flatten() {
            let disks = fs::read_dir(host.path().join("user-instances"));
            for disk in disks.into_iter().flatten().flatten() {
                if let Ok(there) = disk.metadata() {
                    writers.insert((there.dev(), there.ino()), (disk.path(), Vec::new()));
                }
            }
        }
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = process
                .file_name()
                .to_str()
                .and_then(|it| it.parse::<u32>().ok())
            else {
                continue;
            };
            // libvirt opens a disk as well, to look at its header.
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            if !name.starts_with("qemu-system") {
                continue;
            }
            for file in fs::read_dir(process.path().join("fd"))
                .into_iter()
                .flatten()
                .flatten()
            {
                let Ok(there) = fs::metadata(file.path()) else {
                    continue;
                };
                let Some((_, pids)) = writers.get_mut(&(there.dev(), there.ino())) else {
                    continue;
                };
                let info = process.path().join("fdinfo").join(file.file_name());
                let info = fs::read_to_string(info).unwrap_or_default();
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
                let flags = flags.and_then(|it| u32::from_str_radix(it.trim(), 8).ok());
                let writes = flags.is_some_and(|flags| flags & 0o3 != 0);
                if writes && !pids.contains(&pid) {
                    pids.push(pid);
                }
            }
        }
        let two = writers.into_values().filter(|(_, pids)| pids.len() > 1);
        two.map(|(disk, _)| disk).collect()
    }
}

fn script() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/cluster.sh").to_owned()
}
