//! libguestfs: reads the disks of VMs that are not running. Its appliance, a small VM, mounts their
//! file systems, because this host's kernel must never mount a student's file system.
//!
//! Its output depends on these disks, and is trusted no more than a guest's.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::accelerator::Accelerator;
use crate::error::{Fault, Kind};
use crate::process::Program;

/// The maximum number of disks of one appliance.
pub const MOST_DISKS: usize = 16;

/// How long it may take to boot, including software emulation on a busy host.
const BOOTING: Duration = Duration::from_secs(10 * 60);

/// The maximum size of its answer to a command, in bytes.
const LARGEST: usize = 256 << 10;

/// How often to check for an interrupt.
const INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// How long it may take to end by itself.
const ENDING: Duration = Duration::from_secs(10);

/// A running appliance with some disks, which it opens read-only.
#[derive(Debug)]
pub struct Appliance<'a> {
    child: Child,
    input: Option<ChildStdin>,
    output: File,
    /// It prints this after each command: no disk can know it.
    mark: String,
    /// The pipe for data.
    pipe: PathBuf,
    file_systems: Vec<(String, String)>,
    stop: &'a AtomicBool,
}

/// The type and size of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its type and permissions, as in stat(2).
    pub mode: u32,
    /// Its size in bytes.
    pub size: u64,
}

/// The target of data, and its maximum size.
struct Sink<'a> {
    file: &'a mut File,
    most: u64,
}

impl<'a> Appliance<'a> {
    /// The program, or an error with a hint if it is missing.
    pub fn program() -> Result<Program> {
        Program::find("guestfish", "guestfish")
    }

    /// Boots an appliance with these `disks`, which are qcow2 images and at most [`MOST_DISKS`].
    /// Until it ends, it has files in `directory`.
    pub fn boot(
        disks: &[&Path],
        directory: &Path,
        accelerator: Accelerator,
        stop: &'a AtomicBool,
    ) -> Result<Appliance<'a>> {
        let program = Appliance::program()?;
        let pipe = directory.join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .with_context(|| format!("failed to create {}", pipe.display()))?;
        let (output, theirs) = std::io::pipe()?;
        let mut command = program.command();
        command.args(["--ro", "--format=qcow2"]);
        for disk in disks {
            command.arg("-a").arg(disk);
        }
        for variable in ["LIBGUESTFS_DEBUG", "LIBGUESTFS_TRACE", "LIBGUESTFS_APPEND"] {
            command.env_remove(variable);
        }
        if accelerator == Accelerator::Tcg {
            command.env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg");
        }
        let child = command
            .env("LIBGUESTFS_BACKEND", "direct")
            .env("LIBGUESTFS_TMPDIR", directory)
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(theirs.try_clone()?)
            .stderr(theirs)
            .process_group(0)
            .spawn();
        // The command has its ends of the pipes.
        drop(command);
        let mut child = child.context("failed to run guestfish")?;
        let mut appliance = Appliance {
            input: child.stdin.take(),
            child,
            output: File::from(OwnedFd::from(output)),
            mark: format!("cyyber-{:016x}", rand::random::<u64>()),
            pipe,
            file_systems: Vec::new(),
            stop,
        };
        let until = Instant::now() + BOOTING;
        appliance
            .ask("run", until)
            .context("libguestfs could not start its appliance")
            .map_err(|error| {
                let hint = "it needs a kernel in /boot that we can read, such as \
                            linux-image-amd64's; \
                            libguestfs-test-tool shows more";
                error.context(Fault::new(Kind::Failed, "disks cannot be read").hint(hint))
            })?;
        let listed = appliance.ask("list-filesystems", until)?;
        let pairs = listed.iter().filter_map(|line| line.split_once(": "));
        appliance.file_systems = pairs
            .map(|(device, kind)| (device.to_owned(), kind.to_owned()))
            .collect();
        Ok(appliance)
    }

    /// Whether it has ended, or must end: it must not be used any more.
    pub fn has_ended(&self) -> bool {
        self.input.is_none()
    }

    /// The devices and types of the file systems on partitions of the disk with this number; without one,
    /// those of a volume manager, which may be on several disks.
    pub fn file_systems(&self, disk: Option<usize>) -> Vec<(String, String)> {
        let all = self.file_systems.iter();
        let of = all.filter(|(device, _)| disk_of(device) == disk);
        of.cloned().collect()
    }

    /// Mounts the file system of `device` in place of the previous one.
    pub fn mount(&mut self, device: &str, until: Instant) -> Result<()> {
        self.ask("umount-all", until)?;
        let device = quoted(device);
        self.ask(&format!("mount-ro {device} /"), until).map(drop)
    }

    /// The real path of `path`, without links; `None` if it does not exist.
    pub fn real_path(&mut self, path: &str, until: Instant) -> Result<Option<String>> {
        let asked = self.ask(&format!("realpath {}", quoted(path)), until);
        match asked {
            Ok(lines) => match <[String; 1]>::try_from(lines) {
                Ok([line]) if line.starts_with('/') => Ok(Some(line)),
                _ => Ok(None),
            },
            Err(error) if self.has_ended() => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// The type and size of `path` itself.
    pub fn entry(&mut self, path: &str, until: Instant) -> Result<Entry> {
        let lines = self.ask(&format!("lstatns {}", quoted(path)), until)?;
        let number = |of: &str| {
            let mut values = lines.iter().filter_map(|line| line.strip_prefix(of));
            values.next().and_then(|value| value.parse::<u64>().ok())
        };
        let entry = || {
            Some(Entry {
                mode: u32::try_from(number("st_mode: ")?).ok()?,
                size: number("st_size: ")?,
            })
        };
        entry().context("the appliance does not report the file's type")
    }

    /// Writes the content of the directory at `path`, which contains no link, to `file` as an
    /// archive, if that is smaller than `most` bytes.
    pub fn archive(
        &mut self,
        path: &str,
        file: &mut File,
        most: u64,
        until: Instant,
    ) -> Result<()> {
        self.copy("tar-out", path, Sink { file, most }, until)
    }

    /// Writes the file at `path` to `file`.
    pub fn content(
        &mut self,
        path: &str,
        file: &mut File,
        most: u64,
        until: Instant,
    ) -> Result<()> {
        self.copy("download", path, Sink { file, most }, until)
    }

    /// Runs a command that writes the content of `path` to the pipe.
    fn copy(&mut self, command: &str, path: &str, sink: Sink, until: Instant) -> Result<()> {
        let pipe = quoted(&self.pipe.to_string_lossy());
        let command = format!("{command} {} {pipe}", quoted(path));
        self.exchange(&command, Some(sink), until).map(drop)
    }

    /// The lines that it prints for `command`; on failure, the last ones are the error.
    fn ask(&mut self, command: &str, until: Instant) -> Result<Vec<String>> {
        self.exchange(command, None, until)
    }

    fn exchange(
        &mut self,
        command: &str,
        sink: Option<Sink>,
        until: Instant,
    ) -> Result<Vec<String>> {
        let answered = self.try_exchange(command, sink, until);
        let (said, went_on) = match answered {
            Ok(answered) => answered,
            Err(error) => {
                // Later output would be taken for the answer to another command.
                self.input = None;
                return Err(error);
            }
        };
        let (errors, lines): (Vec<_>, Vec<_>) = said
            .lines()
            .filter(|line| !line.is_empty())
            .partition(|line| line.contains("libguestfs: error: "));
        if !went_on {
            return Err(too_much());
        }
        if let Some(error) = errors.first() {
            let (_, why) = error.split_once("error: ").unwrap_or_default();
            bail!("{}", crate::hypervisor::words(why));
        }
        Ok(lines.into_iter().map(str::to_owned).collect())
    }

    /// Its output until `command` is done, and whether the sink's limit was kept.
    fn try_exchange(
        &mut self,
        command: &str,
        mut sink: Option<Sink>,
        until: Instant,
    ) -> Result<(String, bool)> {
        let input = self.input.as_mut().context("it has ended")?;
        let gone = "the appliance has ended: a file system may be damaged";
        // With this prefix it continues after a failure.
        writeln!(input, "-{command}\necho {}", self.mark).context(gone)?;
        let mut pipe = match sink {
            Some(_) => Some(open(&self.pipe)?),
            None => None,
        };
        let mark = format!("{}\n", self.mark);
        let (mut said, mut went_on) = (Vec::new(), true);
        let mut buffer = vec![0; 64 << 10];
        loop {
            ensure!(!self.stop.load(Ordering::Relaxed), "interrupted");
            ensure!(Instant::now() < until, "the appliance took too long");
            let [speaks, sends] = wait_for(self.output.as_fd(), pipe.as_ref().map(AsFd::as_fd))?;
            if let (true, Some(file), Some(sink)) = (sends, &mut pipe, &mut sink) {
                match file.read(&mut buffer) {
                    Ok(0) => pipe = None,
                    Ok(read) => {
                        went_on = sink.take(&buffer[..read])?;
                        if !went_on {
                            // It notices that nobody reads, and continues with the next command.
                            pipe = None;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
                continue;
            }
            if speaks {
                let read = self.output.read(&mut buffer)?;
                ensure!(read > 0, gone);
                said.extend_from_slice(&buffer[..read]);
                ensure!(said.len() <= LARGEST, "the appliance prints too much");
                if said.ends_with(mark.as_bytes()) {
                    said.truncate(said.len() - mark.len());
                    return Ok((String::from_utf8_lossy(&said).into_owned(), went_on));
                }
            }
        }
    }
}

impl Sink<'_> {
    /// Writes `piece`, unless the limit is exceeded.
    fn take(&mut self, piece: &[u8]) -> Result<bool> {
        let left = self.most.checked_sub(piece.len() as u64);
        self.most = left.unwrap_or(0);
        if left.is_some() {
            self.file.write_all(piece)?;
        }
        Ok(left.is_some())
    }
}

impl Drop for Appliance<'_> {
    fn drop(&mut self) {
        // It ends at the end of its input.
        let orderly = self.input.take().is_some();
        let began = Instant::now();
        while orderly && began.elapsed() < ENDING && matches!(self.child.try_wait(), Ok(None)) {
            sleep(Duration::from_millis(20));
        }
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.pipe);
    }
}

/// The error if there is more than --max-size allows.
pub fn too_much() -> anyhow::Error {
    Fault::new(Kind::Failed, "it contains more than allowed")
        .hint("raise the limit with --max-size, or name fewer files")
        .into()
}

/// Opens a pipe for reading, before anybody writes to it.
fn open(pipe: &Path) -> Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let opened = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(pipe);
    opened.map_err(|error| anyhow!("failed to open {}: {error}", pipe.display()))
}

/// Waits until one of these is readable; returns which.
fn wait_for(output: BorrowedFd, pipe: Option<BorrowedFd>) -> Result<[bool; 2]> {
    let mut all = vec![PollFd::from_borrowed_fd(output, PollFlags::IN)];
    all.extend(pipe.map(|pipe| PollFd::from_borrowed_fd(pipe, PollFlags::IN)));
    match poll(&mut all, Some(&INTERVAL)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(std::io::Error::from(error).into()),
    }
    let is_ready = |n: usize| all.get(n).is_some_and(|it| !it.revents().is_empty());
    Ok([is_ready(0), is_ready(1)])
}

/// The number of the disk of `device`: for `/dev/sda1` it is the first.
fn disk_of(device: &str) -> Option<usize> {
    let rest = device.strip_prefix("/dev/sd")?;
    let letter = rest.bytes().next().filter(u8::is_ascii_lowercase)?;
    let is_partition = rest.bytes().skip(1).all(|byte| byte.is_ascii_digit());
    is_partition.then(|| usize::from(letter - b'a'))
}

/// `text` quoted as one guestfish argument.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            quoted.push(char::from(byte));
        } else {
            quoted.push_str(&format!("\\x{byte:02x}"));
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_more_than_a_word() {
        assert_eq!(quoted("/home/anna"), "\"/home/anna\"");
        assert_eq!(
            quoted("a b\"\\|!$~\n"),
            r#""a\x20b\x22\x5c\x7c\x21\x24\x7e\x0a""#
        );
    }

    #[test]
    fn a_partition_is_of_one_disk() {
        for (device, wanted) in [
            ("/dev/sda", Some(0)),
            ("/dev/sdb1", Some(1)),
            ("/dev/sdp15", Some(15)),
            ("/dev/sdaa1", None),
            ("/dev/vg/sda1", None),
            ("/dev/md127", None),
            ("btrfsvol:/dev/sda1/home", None),
        ] {
            assert_eq!(disk_of(device), wanted, "{device}");
        }
    }
}
