//! Runs Packer: reports its progress, keeps its complete log, and ends it when we end.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::machine::{self, Said};
use super::{PLACE_PLUGIN, Packer, render};
use crate::error::{Fault, Kind};
use crate::files;
use crate::images;
use crate::process::{self, Program};
use crate::units::MIB;

/// How many of Packer's last messages are shown on failure.
const REASONS: usize = 6;

/// How long Packer may take to clean up after it was told to stop.
const CLEANING: Duration = Duration::from_secs(60);

/// How often to check for an interrupt.
const INTERVAL: Duration = Duration::from_millis(100);

/// How often to check the resources of the host.
const LOOK: Duration = Duration::from_secs(1);

/// With less free space than this, in bytes, a build is stopped. Otherwise QEMU would freeze its
/// guest when it cannot write, and Packer would wait for the guest for ever.
const LEAST_ROOM: u64 = 128 * MIB;

/// An event during a build.
#[derive(Debug)]
pub enum Event<'a> {
    /// A phase begins.
    Phase(&'a str),
    /// The memory that its processes use now, in bytes.
    Resident(u64),
}

/// A directory with a rendered build, and the path of its log.
#[derive(Debug)]
pub struct Build<'a> {
    /// The rendered build; Packer's working directory.
    pub directory: &'a Path,
    /// Packer's full log.
    pub log: &'a Path,
    /// Packer's download cache.
    pub cache: &'a Path,
}

impl Build<'_> {
    /// Runs the build. `tell` receives events; when `stop` becomes true, the build is stopped and
    /// cleaned up.
    pub fn run(
        &self,
        packer: &Packer,
        stop: &AtomicBool,
        mut tell: impl FnMut(Event),
    ) -> Result<()> {
        let mut log = files::create_anew(self.log, 0o644)?;
        if packer.wants_plugins() {
            tell(Event::Phase("Fetching Packer's plugins"));
            let mut last = String::new();
            let status = self.step(packer, &["init", "."], &mut log, stop, |news| {
                if let News::Line(line) = news
                    && !line.trim().is_empty()
                {
                    last = line.trim().to_owned();
                }
            })?;
            if !status.success() && !stop.load(Ordering::Relaxed) {
                let log = self.log.display();
                let message = format!("failed to fetch Packer's plugins: {last}; the log is {log}");
                return Err(Fault::new(Kind::Failed, message).hint(PLACE_PLUGIN).into());
            }
            self.check(status, &[], stop)?;
        }
        let mut said = Vec::new();
        let mut last = String::new();
        let args = ["build", "-machine-readable", "-color=false", "."];
        let status = self.step(packer, &args, &mut log, stop, |news| {
            let line = match news {
                News::Line(line) => line,
                News::Resident(bytes) => return tell(Event::Resident(bytes)),
            };
            if let Some(words) = machine::parse(line) {
                if let Some(name) = words.phase().filter(|name| *name != last) {
                    tell(Event::Phase(&name));
                    last = name;
                }
                said.push(words);
            }
        })?;
        self.check(status, &said, stop)
    }

    fn check(&self, status: ExitStatus, said: &[Said], stop: &AtomicBool) -> Result<()> {
        if stop.load(Ordering::Relaxed) {
            bail!("interrupted; the log is {}", self.log.display());
        }
        if status.success() {
            return Ok(());
        }
        let mut reasons = machine::reasons(said, REASONS);
        let remedy = machine::remedy(&reasons);
        let console = self.directory.join(render::CONSOLE);
        if console.exists() {
            reasons.push(format!("the VM's console is {}", console.display()));
        }
        reasons.push(format!("the log is {}", self.log.display()));
        let message = format!("packer failed ({status}): {}", reasons.join("; "));
        match remedy {
            Some((kind, hint)) => Err(Fault::new(kind, message).hint(hint).into()),
            None => bail!(message),
        }
    }

    /// Runs one Packer command, and passes every line of its output to `tell`.
    ///
    /// It writes to the log, from which we read. A pipe would break if we were killed, and Packer
    /// would die before it has cleaned up.
    fn step(
        &self,
        packer: &Packer,
        args: &[&str],
        log: &mut File,
        stop: &AtomicBool,
        mut tell: impl FnMut(News),
    ) -> Result<ExitStatus> {
        let mut command = tied_to_us(packer, args)?;
        writeln!(log, "$ {}", process::line(&command))?;
        let mut said = Lines::after_what_is_in(self.log)?;
        command
            .current_dir(self.directory)
            .env("PACKER_CACHE_DIR", self.cache)
            .env("CHECKPOINT_DISABLE", "1")
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?);
        let child = command
            .spawn()
            .with_context(|| format!("failed to run {}", process::line(&command)))?;
        let mut child = Group(child);
        let mut ending: Option<Instant> = None;
        let mut trouble = None;
        let mut looked = Instant::now();
        loop {
            let ended = child.0.try_wait()?;
            said.each_new(|line| tell(News::Line(line)))?;
            if let Some(status) = ended {
                return trouble.map_or(Ok(status), Err);
            }
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                tell(News::Resident(process::resident_of_group(child.0.id())));
                trouble = trouble.or_else(|| self.require_room().err());
            }
            match ending {
                None if stop.load(Ordering::Relaxed) || trouble.is_some() => {
                    child.ask_to_end();
                    ending = Some(Instant::now());
                }
                Some(since) if since.elapsed() > CLEANING => child.kill(),
                _ => {}
            }
            sleep(INTERVAL);
        }
    }

    fn require_room(&self) -> Result<()> {
        for place in [self.directory, self.cache] {
            images::require_room(place, LEAST_ROOM, "the build to continue")?;
        }
        Ok(())
    }
}

/// The report of a step.
enum News<'a> {
    Line(&'a str),
    Resident(u64),
}

/// Packer in its own process group, so that only we receive a Ctrl-C, and we tell Packer once to
/// stop. If we are killed, the kernel sends it a signal: otherwise Packer and its QEMU would keep
/// running.
fn tied_to_us(packer: &Packer, args: &[&str]) -> Result<Command> {
    let mut command = Program::find("setpriv", "util-linux")?.command();
    command
        .args(["--pdeathsig", "TERM", "--"])
        .arg(packer.program.path())
        .args(args)
        .process_group(0);
    Ok(command)
}

/// The lines that are appended to a file.
struct Lines {
    file: BufReader<File>,
    /// The beginning of an incomplete line.
    begun: Vec<u8>,
}

impl Lines {
    fn after_what_is_in(path: &Path) -> Result<Lines> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Lines {
            file: BufReader::new(file),
            begun: Vec::new(),
        })
    }

    fn each_new(&mut self, mut line: impl FnMut(&str)) -> Result<()> {
        while self.file.read_until(b'\n', &mut self.begun)? > 0 && self.begun.ends_with(b"\n") {
            line(String::from_utf8_lossy(&self.begun).trim_end());
            self.begun.clear();
        }
        Ok(())
    }
}

/// A child that leads a process group, which is killed with it: a killed Packer leaves its QEMU and
/// plugins behind.
struct Group(Child);

impl Group {
    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.0.id()).ok()?)
    }

    fn ask_to_end(&self) {
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    fn kill(&self) {
        if let Some(pid) = self.pid() {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_once_and_whole() {
        let mut log = tempfile::NamedTempFile::new().unwrap();
        writeln!(log, "before").unwrap();
        let mut lines = Lines::after_what_is_in(log.path()).unwrap();
        let mut said = Vec::new();
        for written in ["one\ntw", "o", "\nthree\n", ""] {
            log.write_all(written.as_bytes()).unwrap();
            lines.each_new(|line| said.push(line.to_owned())).unwrap();
        }
        assert_eq!(said, ["one", "two", "three"]);
    }
}
