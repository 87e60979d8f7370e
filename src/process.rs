//! Runs external programs. No shell is ever involved, and a failure shows the complete command line
//! and the program's message.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::error::{Fault, Kind};

/// The path with which a program reopens its standard input.
pub const STDIN: &str = "/proc/self/fd/0";

/// The directories of Debian's programs for administrators.
const SBIN: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// A program that was found on this machine.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
}

impl Program {
    /// Finds `name` in `PATH`, or in Debian's directories for administrators, which are not in the
    /// `PATH` of cron. `package` is the Debian package to suggest if it is missing.
    pub fn find(name: &str, package: &str) -> Result<Program> {
        Program::find_or(name, &format!("install it: apt-get install {package}"))
    }

    /// Like [`Program::find`], for a program that not every release packages; `hint` says where to
    /// get it.
    pub fn find_or(name: &str, hint: &str) -> Result<Program> {
        let path = which::which(name)
            .or_else(|_| which::which_in(name, Some(SBIN), "/"))
            .map_err(|_| {
                Fault::new(Kind::Unavailable, format!("{name} is not installed")).hint(hint)
            })?;
        Ok(Program { path })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command of it with no input and captured output, for callers that need more than
    /// [`Program::run`].
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.stdin(Stdio::null());
        command
    }

    /// Runs it and returns its standard output.
    pub fn run<I, S>(&self, args: I) -> Result<String>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        run(self.command().args(args))
    }
}

/// Runs a command and returns its standard output.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("failed to run {}", line(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim();
        anyhow::bail!(
            "`{}` failed ({}){}{said}",
            line(command),
            output.status,
            if said.is_empty() { "" } else { ": " }
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command in its own process group for at most `limit`; then it is killed, and the result
/// is `None`.
pub fn within(command: &mut Command, limit: Duration) -> Result<Option<Output>> {
    let started = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let child = started.with_context(|| format!("failed to run {}", line(command)))?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let (sender, ended) = channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    match ended.recv_timeout(limit) {
        Ok(output) => {
            let output = output.with_context(|| format!("failed to run {}", line(command)))?;
            Ok(Some(output))
        }
        Err(_) => {
            if let Some(group) = group {
                let _ = kill_process_group(group, Signal::KILL);
            }
            Ok(None)
        }
    }
}

/// Runs a command in its own process group with `input`, which must fit into a pipe, as standard
/// input. It is killed after `limit`.
pub fn feed(command: &mut Command, input: &[u8], limit: Duration) -> Result<()> {
    let began = Instant::now();
    let started = command.stdin(Stdio::piped()).process_group(0).spawn();
    let mut child = started.with_context(|| format!("failed to run {}", line(command)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // The program need not read it.
        let _ = stdin.write_all(input);
    }
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if began.elapsed() > limit {
            break None;
        }
        sleep(FEEDING);
    };
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => anyhow::bail!("`{}` failed ({status})", line(command)),
        None => {
            child.wait()?;
            anyhow::bail!("`{}` did not end within {limit:?}", line(command))
        }
    }
}

/// How often to check whether it has ended.
const FEEDING: Duration = Duration::from_millis(10);

/// The memory of the processes of a group, in bytes, as far as it can be read.
pub fn resident_of_group(group: u32) -> u64 {
    let page = rustix::param::page_size() as u64;
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| std::fs::read_to_string(process.path().join("stat")).ok())
        .filter_map(|stat| resident_pages(&stat, group))
        .sum::<u64>()
        * page
}

/// The resident pages in a `stat` of `/proc`, if that process is of the group (proc(5): the fields
/// `pgrp` and `rss`).
fn resident_pages(stat: &str, group: u32) -> Option<u64> {
    // The name before it may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let of: u32 = fields.nth(2)?.parse().ok()?;
    let pages = fields.nth(18)?.parse().ok()?;
    (of == group).then_some(pages)
}

/// The command line as it could be typed.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    shell_words::join(words.map(OsStr::to_string_lossy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{hint_of, kind_of};

    #[test]
    fn a_missing_program_names_its_package() {
        let error = Program::find("no-such-program-here", "some-package").unwrap_err();
        assert_eq!(kind_of(&error), Kind::Unavailable);
        assert_eq!(
            hint_of(&error),
            Some("install it: apt-get install some-package")
        );
    }

    #[test]
    fn a_program_is_fed_and_ends_in_time_with_all_that_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let run = |script: &str, limit| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]).current_dir(&directory);
            feed(&mut command, b"a line\n", limit)
        };
        let long = Duration::from_secs(20);
        run("cat > got", long).unwrap();
        let got = std::fs::read(directory.path().join("got")).unwrap();
        assert_eq!(got, b"a line\n");
        run("exec <&-", long).unwrap();
        let failed = run("exit 3", long).unwrap_err().to_string();
        assert!(failed.contains("exit status: 3"), "{failed}");
        let late = run("sleep 60 & echo $! > pid; wait", Duration::from_millis(300));
        let late = late.unwrap_err().to_string();
        assert!(late.contains("did not end within 300ms"), "{late}");
        let pid = std::fs::read_to_string(directory.path().join("pid")).unwrap();
        let stat = Path::new("/proc").join(pid.trim()).join("stat");
        let began = Instant::now();
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(began.elapsed() < long, "it still runs");
            sleep(FEEDING);
        }
    }

    #[test]
    fn a_program_that_does_not_end_in_time_is_not_waited_for() {
        let run = |script: &str, limit| {
            let mut command = Command::new("/bin/sh");
            within(command.args(["-c", script]), limit).unwrap()
        };
        let ended = run("echo here; exit 3", Duration::from_secs(20)).unwrap();
        assert_eq!(
            (ended.stdout, ended.status.code()),
            (b"here\n".to_vec(), Some(3))
        );
        let began = Instant::now();
        assert!(run("sleep 60 & wait", Duration::from_millis(200)).is_none());
        assert!(began.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn memory_of_a_group_is_found() {
        let stat = "7 (a) b) S 1 42 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 5 9000 321 1 1";
        assert_eq!(resident_pages(stat, 42), Some(321));
        assert_eq!(resident_pages(stat, 7), None);
        let ours = rustix::process::getpgrp().as_raw_nonzero().get();
        assert!(resident_of_group(ours.unsigned_abs()) > 1 << 20);
    }

    #[test]
    fn a_failure_shows_the_command_line_and_what_was_said() {
        let ls = Program::find("ls", "coreutils").unwrap();
        let error = ls.run(["--", "/nonexistent dir"]).unwrap_err().to_string();
        assert!(
            error.contains("ls -- '/nonexistent dir'` failed (exit status: 2): "),
            "{error}"
        );
        assert!(error.contains("No such file"), "{error}");
    }
}
