//! Running Packer: with its progress told, its whole log kept, and an end that it shares with us.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::Packer;
use super::machine::{self, Said};
use crate::process::{self, Program};

/// How many of Packer's last words a failure shows.
const REASONS: usize = 6;

/// How long Packer may take to clean up after it was told to end.
const CLEANING: Duration = Duration::from_secs(60);

/// How often the wish to end is looked for.
const INTERVAL: Duration = Duration::from_millis(100);

/// A directory with a rendered build, and where its story goes.
#[derive(Debug)]
pub struct Build<'a> {
    /// The rendered build; Packer's working directory.
    pub directory: &'a Path,
    /// Packer's full log.
    pub log: &'a Path,
    /// Where Packer keeps what it downloads.
    pub cache: &'a Path,
}

impl Build<'_> {
    /// Runs the build to its end. `stage` is told of each stage as it begins; when `stop` becomes
    /// true the build is ended and cleaned up after.
    pub fn run(
        &self,
        packer: &Packer,
        stop: &AtomicBool,
        mut stage: impl FnMut(&str),
    ) -> Result<()> {
        let mut log = File::create(self.log)
            .with_context(|| format!("failed to make the log {}", self.log.display()))?;
        if packer.wants_plugins() {
            stage("Fetching Packer's plugins");
            let status = self.step(packer, &["init", "."], &mut log, stop, |_| {})?;
            self.check(status, &[], stop)?;
        }
        let mut said = Vec::new();
        let mut last = String::new();
        let args = ["build", "-machine-readable", "-color=false", "."];
        let status = self.step(packer, &args, &mut log, stop, |line| {
            if let Some(words) = machine::parse(line) {
                if let Some(name) = words.stage().filter(|name| *name != last) {
                    stage(&name);
                    last = name;
                }
                said.push(words);
            }
        })?;
        self.check(status, &said, stop)
    }

    fn check(&self, status: ExitStatus, said: &[Said], stop: &AtomicBool) -> Result<()> {
        if stop.load(Ordering::Relaxed) {
            bail!(
                "interrupted; nothing of it is left but the log {}",
                self.log.display()
            );
        }
        if status.success() {
            return Ok(());
        }
        let mut message = format!(
            "packer failed ({status}); its log is {}",
            self.log.display()
        );
        for reason in machine::reasons(said, REASONS) {
            message.push_str("\n  ");
            message.push_str(&reason);
        }
        bail!(message)
    }

    /// Runs one Packer command, handing every line it prints to the log and to `line`.
    fn step(
        &self,
        packer: &Packer,
        args: &[&str],
        log: &mut File,
        stop: &AtomicBool,
        mut line: impl FnMut(&str),
    ) -> Result<ExitStatus> {
        let mut command = tied_to_us(packer, args)?;
        command
            .current_dir(self.directory)
            .env("PACKER_CACHE_DIR", self.cache)
            .env("CHECKPOINT_DISABLE", "1")
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?);
        writeln!(log, "$ {}", process::line(&command))?;
        let child = command
            .spawn()
            .with_context(|| format!("failed to run {}", process::line(&command)))?;
        let mut child = Group(child);
        let lines = lines_of(&mut child.0);
        let mut ending: Option<Instant> = None;
        loop {
            match lines.recv_timeout(INTERVAL) {
                Ok(text) => {
                    writeln!(log, "{text}")?;
                    line(&text);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            match ending {
                None if stop.load(Ordering::Relaxed) => {
                    child.ask_to_end();
                    ending = Some(Instant::now());
                }
                Some(since) if since.elapsed() > CLEANING => break,
                _ => {}
            }
        }
        child.end()
    }
}

/// Packer in a process group of its own, so that a Ctrl-C reaches us alone and Packer is told to
/// end once, by us. Should we be killed, the kernel tells it: left alone, Packer and its QEMU would
/// run on.
fn tied_to_us(packer: &Packer, args: &[&str]) -> Result<Command> {
    let mut command = Program::find("setpriv", "util-linux")?.command();
    command
        .args(["--pdeathsig", "TERM", "--"])
        .arg(packer.program.path())
        .args(args)
        .process_group(0);
    Ok(command)
}

fn lines_of(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut line = Vec::new();
            while reader
                .read_until(b'\n', &mut line)
                .is_ok_and(|read| read > 0)
            {
                let text = String::from_utf8_lossy(&line);
                if sender.send(text.trim_end().to_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
    }
    receiver
}

/// A child that leads a process group, which ends with it.
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

    /// Waits for the child and ends what is left of its group: a Packer that was killed leaves its
    /// QEMU and plugins behind.
    fn end(mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.kill();
                return Ok(self.0.wait()?);
            }
            std::thread::sleep(INTERVAL);
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
