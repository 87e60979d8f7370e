//! What the command tests stand on: a [`Sandbox`] with directories of its own, in which the built
//! program is run as a script would run it.
//!
//! Every sandbox has its own prefix for lab ids, so that tests run side by side on one libvirt, and
//! takes away what it made when it is dropped, also after a failed assertion.

pub mod builder;
pub mod cluster;
pub mod guest;
pub mod host;
pub mod shape;
pub mod terminal;
pub mod vnc;
pub mod world;

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{LazyLock, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cyyber::cli::Global;
use cyyber::context::Context;
use cyyber::instance::Instance;
use cyyber::output::Format;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use world::Guests;

/// The libvirt that runs real guests.
pub const QEMU: &str = "qemu:///system";

/// A libvirt inside the process that connects to it: no daemon, no guests, gone with the process.
pub const TEST_DRIVER: &str = "test:///default";

/// Nobody listens there, and it is asked without a daemon being started.
pub const UNREACHABLE: &str = "qemu+unix:///system?socket=/nonexistent/libvirt-sock";

/// The `code` of each exit code, as the contract has them.
pub const CODES: [&str; 9] = [
    "",
    "failed",
    "usage",
    "config",
    "not_found",
    "conflict",
    "busy",
    "capacity",
    "unavailable",
];

/// Whether this is `make test-all`, which has time for more rounds.
pub fn is_thorough() -> bool {
    std::env::var_os("CYYBER_TEST_THOROUGH").is_some()
}

/// How often something is done again: as often as `variable` in the environment says, or else `usually`,
/// or `thoroughly` in `make test-all`.
pub fn rounds(variable: &str, usually: usize, thoroughly: usize) -> usize {
    let asked = std::env::var(variable).map(|number| number.parse().unwrap());
    asked.unwrap_or(if is_thorough() { thoroughly } else { usually })
}

/// Long enough for anything that is going to happen on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Nothing that ends takes longer, not even the build of a lab beside other tests: what does is killed,
/// so that the test fails and the others go on.
const LONGEST: Duration = Duration::from_secs(40 * 60);

/// Directories, a configuration and a libvirt for one test.
#[derive(Debug)]
pub struct Sandbox {
    root: PathBuf,
    uri: String,
    /// The lab that the configuration has unless a test writes another.
    pub lab: String,
    mounted: Option<PathBuf>,
    guests: Mutex<Option<Guests>>,
}

impl Sandbox {
    /// A sandbox without guests, on libvirt's test driver.
    pub fn new() -> Sandbox {
        Sandbox::on(TEST_DRIVER, None)
    }

    /// A sandbox whose test runs at most `count` guests at once on the real hypervisor, which stay in
    /// their firmware. Waits until other tests leave room for them.
    pub fn with_guests(count: usize) -> Sandbox {
        Sandbox::on(QEMU, Some(Guests::firmware(count)))
    }

    /// The same for guests that boot a real system; see [`Sandbox::all_have_booted`].
    pub fn with_booting_guests(count: usize) -> Sandbox {
        Sandbox::on(QEMU, Some(Guests::booted(count)))
    }

    /// Lets guests of other tests boot: a guest that has booted takes little of the processor.
    pub fn all_have_booted(&self) {
        *self.guests.lock().unwrap() = None;
    }

    fn on(uri: &str, guests: Option<Guests>) -> Sandbox {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Not the number of the process: worlds have the same ones.
        static RUN: LazyLock<u32> = LazyLock::new(rand::random);
        let name = format!("t{:x}n{number}", *RUN);
        let sandbox = Sandbox {
            root: std::env::temp_dir().join(format!("cyyber-{name}")),
            uri: uri.to_owned(),
            lab: format!("{name}-lab"),
            mounted: None,
            guests: Mutex::new(guests),
        };
        // QEMU runs as a user of its own and must pass through to the images.
        for directory in [
            "",
            "storage",
            "storage/base-images",
            "storage/user-instances",
            "state",
        ] {
            let directory = sandbox.root.join(directory);
            fs::create_dir(&directory).unwrap();
            fs::set_permissions(&directory, Permissions::from_mode(0o711)).unwrap();
        }
        sandbox.configure(&json!({}));
        sandbox
    }

    /// A path below the sandbox's own directory.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root.join(below)
    }

    /// Another lab id of this sandbox; not in the configuration by itself.
    pub fn other_lab(&self) -> String {
        self.lab.replace("-lab", "-other")
    }

    /// The name of a user's instance of the sandbox's lab.
    pub fn instance_name(&self, user: &str) -> String {
        format!("{}_user_{user}", self.lab)
    }

    /// Where the overlay of a user's instance is.
    pub fn overlay(&self, user: &str) -> PathBuf {
        let file = format!("{}.qcow2", self.instance_name(user));
        self.path("storage/user-instances").join(file)
    }

    /// Writes a configuration with one small lab, on which `extra` keys are laid.
    pub fn configure(&self, extra: &Value) {
        self.configure_labs(&[lab(&self.lab, extra)]);
    }

    /// Writes a configuration with these labs.
    pub fn configure_labs(&self, labs: &[Value]) {
        let config = json!({
            // As in the environment of `command`, for tests that call into the program.
            "host": {
                "storage_dir": self.path("storage"),
                "state_dir": self.path("state"),
                "output_dir": self.path("output"),
                "accelerator": "tcg",
            },
            "labs": labs,
        });
        self.write_config(&config.to_string());
    }

    /// Writes the configuration as it is given.
    pub fn write_config(&self, text: &str) {
        fs::write(self.path("labs-config.json"), text).unwrap();
    }

    /// Puts an empty disk in the place of a lab's base image, as an instructor would by hand.
    pub fn base(&self, lab: &str) -> PathBuf {
        let link = self
            .path("storage/base-images")
            .join(format!("{lab}-base.qcow2"));
        run(tool("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(&link)
            .arg("1G"));
        link
    }

    /// Puts a small file system under the storage directory; goes with the sandbox.
    pub fn small_storage(&mut self, size: &str) {
        let storage = self.path("storage");
        let options = format!("size={size},mode=711");
        run(tool("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&storage));
        self.mounted = Some(storage);
        for directory in ["storage/base-images", "storage/user-instances"] {
            fs::create_dir(self.path(directory)).unwrap();
            fs::set_permissions(self.path(directory), Permissions::from_mode(0o711)).unwrap();
        }
    }

    /// Gives the directories to `group`, with the modes that the setup of a host gives them.
    pub fn as_set_up(&self, group: u32) {
        fs::create_dir_all(self.path("state/activity")).unwrap();
        for (directory, mode) in [
            ("storage", 0o2771),
            ("storage/base-images", 0o2771),
            ("storage/user-instances", 0o2771),
            ("state", 0o2770),
            ("state/activity", 0o2770),
        ] {
            let directory = self.path(directory);
            chown(&directory, Some(0), Some(group)).unwrap();
            fs::set_permissions(&directory, Permissions::from_mode(mode)).unwrap();
        }
    }

    /// Puts a program of our own making first in the `PATH` of [`Sandbox::command`].
    pub fn fake(&self, name: &str, script: &str) {
        let directory = self.path("bin");
        fs::create_dir_all(&directory).unwrap();
        let program = directory.join(name);
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    }

    /// The program with `arguments`, with nothing on standard input and nothing in its environment
    /// but what points at this sandbox.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cyyber"));
        command.args(arguments);
        self.confine(&mut command);
        command
    }

    /// Gives `command` an environment that points at this sandbox and holds nothing else, and
    /// nothing on standard input.
    pub fn confine(&self, command: &mut Command) {
        let mut path = self.path("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", &self.root)
            .env("CYYBER_CONFIG", self.path("labs-config.json"))
            .env("CYYBER_CONNECT", &self.uri)
            .env("CYYBER_STORAGE_DIR", self.path("storage"))
            .env("CYYBER_STATE_DIR", self.path("state"))
            .env("CYYBER_OUTPUT_DIR", self.path("output"))
            .env("CYYBER_ACCELERATOR", "tcg")
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    }

    /// Runs the program with `arguments` to its end.
    pub fn cyyber<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Run {
        Run::of(&mut self.command(arguments))
    }

    /// Runs `cyyber -o json instance VERB LAB USER OPTIONS…` on the sandbox's lab.
    pub fn instance(&self, verb: &str, user: &str, options: &[&str]) -> Run {
        Run::of(&mut self.instance_command(verb, user, options))
    }

    /// The command that [`Sandbox::instance`] runs.
    pub fn instance_command(&self, verb: &str, user: &str, options: &[&str]) -> Command {
        let mut command = self.command(["-o", "json", "instance", verb, &self.lab, user]);
        command.args(options);
        command
    }

    /// The state of a user's instance, as `list` has it.
    #[track_caller]
    pub fn state(&self, user: &str) -> String {
        text(&self.listed(user)["state"])
    }

    /// A user's instance as `list` has it; null where it is not listed.
    #[track_caller]
    pub fn listed(&self, user: &str) -> Value {
        let all = self
            .cyyber(["-o", "json", "instance", "list", "--lab", &self.lab])
            .json();
        let of_user = |instance: &&Value| instance["user_id"] == user;
        let instances = all["instances"].as_array().unwrap();
        instances
            .iter()
            .find(of_user)
            .cloned()
            .unwrap_or(Value::Null)
    }

    /// The process id of a running instance's QEMU, made sure to be that of this instance.
    pub fn qemu_pid(&self, user: &str) -> Pid {
        let name = self.instance_name(user);
        let pid = fs::read_to_string(format!("/run/libvirt/qemu/{name}.pid")).unwrap();
        let command_line = fs::read_to_string(format!("/proc/{}/cmdline", pid.trim())).unwrap();
        assert!(
            command_line.contains(&format!("guest={name},")),
            "{command_line}"
        );
        Pid::from_raw(pid.trim().parse().unwrap()).unwrap()
    }

    /// Makes the running instance of a user idle, which no command does by itself.
    pub fn make_idle(&self, user: &str) {
        let name = self.instance_name(user).parse().unwrap();
        let context = self.context(&self.uri);
        Instance::lock(&context, &name).unwrap().throttle().unwrap();
    }

    /// What a command on this sandbox, by way of the libvirt `uri`, would stand on.
    pub fn context(&self, uri: &str) -> Context {
        let global = Global {
            config: Some(self.path("labs-config.json")),
            connect: Some(uri.parse().unwrap()),
            output: None,
            as_user: None,
            quiet: true,
            verbose: false,
        };
        let quiet = cyyber::output::Output::new(Format::Json, true, false);
        Context::new(&global, quiet, cyyber::clock::Moment::now()).unwrap()
    }

    fn remove_domains(&self) {
        let Some(prefix) = self.lab.strip_suffix("lab") else {
            return;
        };
        let all = virsh(["list", "--all", "--name"]);
        for name in all.lines().filter(|name| name.starts_with(prefix)) {
            let uuid = virsh(["domuuid", "--", name]);
            for step in [
                &["destroy"][..],
                &["managedsave-remove"],
                &["undefine", "--snapshots-metadata"],
            ] {
                // What does not apply is refused.
                virsh(step.iter().copied().chain(["--", uuid.trim()]));
            }
        }
        let logs = fs::read_dir("/var/log/libvirt/qemu").into_iter().flatten();
        for log in logs.flatten() {
            if log.file_name().to_string_lossy().starts_with(prefix) {
                let _ = fs::remove_file(log.path());
            }
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if self.uri == QEMU {
            self.remove_domains();
        }
        if let Some(mounted) = &self.mounted {
            let _ = tool("umount").arg(mounted).status();
        }
        // Base images are immutable where the file system can hold that.
        let _ = tool("chattr")
            .args(["-R", "-f", "-i"])
            .arg(&self.root)
            .output();
        if let Err(error) = fs::remove_dir_all(&self.root) {
            eprintln!("failed to remove {}: {error}", self.root.display());
        }
    }
}

/// A small file system of its own in a file, mounted on a directory; gone with this.
#[derive(Debug)]
pub struct SmallDisk {
    target: PathBuf,
    _image: tempfile::NamedTempFile,
}

impl SmallDisk {
    /// Mounts one of `megabytes` and 16 inodes, of which its root and journal take most, on
    /// `target`.
    pub fn on(target: &Path, megabytes: u64) -> SmallDisk {
        SmallDisk::with_inodes(target, megabytes, 16)
    }

    /// The same with room for more files.
    pub fn with_inodes(target: &Path, megabytes: u64, inodes: u32) -> SmallDisk {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(megabytes << 20).unwrap();
        run(tool("mkfs.ext4")
            .args(["-q", "-F", "-m", "0", "-N", &inodes.to_string()])
            .arg(image.path()));
        let mode = fs::metadata(target).unwrap().permissions();
        run(tool("mount")
            .args(["-o", "loop"])
            .args([image.path(), target]));
        fs::set_permissions(target, mode).unwrap();
        SmallDisk {
            target: target.to_owned(),
            _image: image,
        }
    }

    /// Makes files until no more can be made, although there is room in bytes; they are returned.
    pub fn exhaust(&self) -> Vec<PathBuf> {
        (0..)
            .map(|i| self.target.join(format!("ballast-{i}")))
            .take_while(|path| fs::File::create_new(path).is_ok())
            .collect()
    }

    /// Fills all but `megabytes` with one file, which is returned; others may write meanwhile.
    pub fn leave(&self, megabytes: u64) -> PathBuf {
        let ballast = self.target.join("ballast");
        let file = fs::File::create(&ballast).unwrap();
        let (mut filled, mut step) = (0, 64 << 20);
        while step >= 4096 {
            let stat = rustix::fs::statvfs(&self.target).unwrap();
            let free = stat.f_bavail * stat.f_frsize;
            let none = rustix::fs::FallocateFlags::empty();
            if free < step + (megabytes << 20)
                || rustix::fs::fallocate(&file, none, filled, step).is_err()
            {
                step /= 2;
            } else {
                filled += step;
            }
        }
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: something may still be looking at it.
        let _ = tool("umount").arg("-l").arg(&self.target).status();
    }
}

/// A small lab called `id`, with the keys of `extra` laid over it.
pub fn lab(id: &str, extra: &Value) -> Value {
    let lab = json!({
        "lab_id": id, "lab_name": "Test lab", "packages": ["nmap"], "motd": "Hello",
        "memory_mb": 128, "vcpus": 1, "disk_size": "1G",
    });
    with(lab, extra)
}

/// An object with `extra` keys.
pub fn with(mut object: Value, extra: &Value) -> Value {
    let keys = object.as_object_mut().unwrap();
    keys.extend(extra.as_object().unwrap().clone());
    object
}

/// A program that has ended.
#[derive(Debug)]
pub struct Run {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it answered.
    pub stdout: String,
    /// What it said besides.
    pub stderr: String,
    #[expect(dead_code, reason = "told by `Debug`")]
    line: String,
}

impl Run {
    /// Runs `command` to its end.
    #[track_caller]
    pub fn of(command: &mut Command) -> Run {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Run::within(LONGEST, command)
    }

    /// Runs `command`, and kills it when it takes longer than `limit`.
    #[track_caller]
    pub fn within(limit: Duration, command: &mut Command) -> Run {
        let child = command.spawn().unwrap();
        let pid = Pid::from_child(&child);
        let (ended, end) = channel::<()>();
        std::thread::spawn(move || {
            if end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        let output = child.wait_with_output().unwrap();
        drop(ended);
        Run::from_output(output, format!("{command:?}"))
    }

    /// The end of a program that was started before.
    #[track_caller]
    pub fn end_of(child: Child) -> Run {
        let line = format!("process {}", child.id());
        Run::from_output(child.wait_with_output().unwrap(), line)
    }

    fn from_output(output: Output, line: String) -> Run {
        Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            line,
        }
    }

    /// Asserts that it succeeded.
    #[track_caller]
    pub fn ok(self) -> Run {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Asserts that it failed with `code` and answered nothing.
    #[track_caller]
    pub fn fails(self, code: usize) -> Run {
        assert_eq!(self.code, i32::try_from(code).ok(), "{self:#?}");
        assert_eq!(self.stdout, "", "{self:#?}");
        self
    }

    /// The one JSON document that it answered with.
    #[track_caller]
    pub fn json(self) -> Value {
        let run = self.ok();
        serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:#?}"))
    }

    /// The error object on its standard error, whose `code` fits the exit code `code`.
    #[track_caller]
    pub fn error_json(self, code: usize) -> Value {
        let run = self.fails(code);
        let document: Value =
            serde_json::from_str(&run.stderr).unwrap_or_else(|error| panic!("{error}: {run:#?}"));
        let error = &document["error"];
        assert_eq!(error["code"], CODES[code], "{run:#?}");
        assert!(error["message"].is_string(), "{run:#?}");
        assert!(
            error["hint"].is_string()
                || error["hint"] == Value::Null && error.get("hint").is_some(),
            "{run:#?}"
        );
        error.clone()
    }

    /// Asserts that it told people of its failure with `code`: an error line first, with `wanted` in
    /// what was said.
    #[track_caller]
    pub fn says(self, code: usize, wanted: &str) -> Run {
        let run = self.fails(code);
        assert!(run.stderr.starts_with("error: "), "{run:#?}");
        assert!(run.stderr.contains(wanted), "wanted: {wanted}\n{run:#?}");
        run
    }
}

/// Asks libvirt by its own client, as an administrator would. Empty where it refuses, or gives no
/// answer: by itself the client would wait for ever for an agent that went away in mid-answer.
pub fn virsh<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> String {
    let output = tool("timeout")
        .args(["120", "virsh", "-q", "-c", QEMU])
        .args(arguments)
        .output()
        .unwrap();
    match output.status.success() {
        true => String::from_utf8(output.stdout).unwrap(),
        false => {
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
            String::new()
        }
    }
}

/// A program of this machine, with nothing on its standard input.
pub fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    command.stdin(Stdio::null());
    command
}

/// Runs a program that must succeed and returns its standard output.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    Run::of(command).ok().stdout
}

/// Looks again and again until `done` holds.
#[track_caller]
pub fn wait_until(what: &str, done: impl FnMut() -> bool) {
    assert!(waits(done), "waited in vain until {what}");
}

/// The same for a caller who knows more to say: whether `done` holds in the end.
pub fn waits(mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > deadline {
            return false;
        }
        sleep(Duration::from_millis(20));
    }
    true
}

/// How long `job` takes at best: other tests keep the machine busy.
#[track_caller]
pub fn quickest(mut job: impl FnMut()) -> Duration {
    let times = (0..5).map(|_| {
        let began = Instant::now();
        job();
        began.elapsed()
    });
    times.min().unwrap_or_default()
}

/// The same command, with a variable whatever is said of that later.
pub fn with_environment(command: &Command, name: &str, value: &str) -> Command {
    let mut env = tool("env");
    env.arg(format!("{name}={value}"))
        .arg(command.get_program())
        .args(command.get_args())
        .stderr(Stdio::piped());
    for (name, value) in command.get_envs() {
        env.env(name, value.unwrap());
    }
    env
}

/// A JSON string's text.
#[track_caller]
pub fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not a string: {value}"))
        .to_owned()
}

/// Every regular file below `directory`, by its path in it, with its content.
pub fn files_below(directory: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut files = std::collections::BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_file() {
                let content = fs::read(&path).unwrap();
                files.insert(path.strip_prefix(directory).unwrap().to_owned(), content);
            }
        }
    }
    files
}
