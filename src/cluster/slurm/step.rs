//! A program that runs on a host in a lease.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{parse, unavailable};
use crate::cluster::slurm::Lease;
use crate::config::HostName;
use crate::parallel::both;
use crate::process;

/// The PATH on every host.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A step that has not started yet.
#[derive(Debug)]
pub struct Step {
    srun: Command,
    host: HostName,
}

/// How a step ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code.
    pub code: u8,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error, without Slurm's own messages.
    pub stderr: String,
}

impl Step {
    pub(super) fn new(mut srun: Command, lease: &Lease) -> Step {
        srun.args(["--quiet", "--overlap", "--nodes=1", "--ntasks=1"]);
        // One interrupt is enough, and the step must not read our standard input.
        srun.args(["--input=none", "--quit-on-interrupt", "--mpi=none"]);
        // Our environment describes this machine, not the host.
        srun.arg(format!("--export=PATH={PATH},LANG=C.UTF-8"));
        srun.arg(format!("--jobid={}", lease.job));
        srun.stdin(Stdio::null());
        Step {
            srun,
            host: lease.host.clone(),
        }
    }

    /// Sets the program and its arguments.
    #[must_use]
    pub fn running<S: AsRef<OsStr>>(
        self,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = S>,
    ) -> Step {
        self.running_in(Path::new("/"), program, arguments)
    }

    /// The same, in a working directory that the host must have.
    #[must_use]
    pub fn running_in<S: AsRef<OsStr>>(
        mut self,
        directory: &Path,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = S>,
    ) -> Step {
        self.srun.arg("--chdir").arg(directory);
        self.srun.arg("--").arg(program).args(arguments);
        self
    }

    /// Runs it, for at most `limit`.
    pub fn captured(mut self, limit: Duration) -> Result<Ended> {
        let output = process::within(&mut self.srun, limit)?.ok_or_else(|| {
            let (host, limit) = (&self.host, limit.as_secs());
            unavailable(format!("{host} did not answer within {limit}s"))
        })?;
        let said = Said::of(output.stderr.lines().map_while(Result::ok));
        self.ended(output.status.code(), output.stdout, said)
    }

    /// Runs it without a time limit. An interrupt that reaches us reaches it too.
    pub fn whole(self) -> Result<Ended> {
        self.told(|_| {})
    }

    /// The same, with each line of its standard error passed to `tell` at once.
    pub fn told(mut self, mut tell: impl FnMut(&str)) -> Result<Ended> {
        self.srun.stdout(Stdio::piped()).stderr(Stdio::piped());
        let line = process::line(&self.srun);
        let failed = || format!("failed to run {line}");
        let mut child = self.srun.spawn().with_context(failed)?;
        let stderr = child.stderr.take();
        let (said, output) = both(
            || {
                // All of it is read, whatever it is: the program would wait otherwise.
                let lines = stderr.map(|it| BufReader::new(it).split(b'\n'));
                let lines = lines.into_iter().flatten().map_while(Result::ok);
                let lines = lines.map(|line| String::from_utf8_lossy(&line).into_owned());
                Said::of(lines.inspect(|line| {
                    if !is_of_slurm(line) {
                        tell(line);
                    }
                }))
            },
            || child.wait_with_output(),
        );
        let output = output.with_context(failed)?;
        self.ended(output.status.code(), output.stdout, said)
    }

    fn ended(self, code: Option<i32>, stdout: Vec<u8>, said: Said) -> Result<Ended> {
        let code = code.and_then(|code| u8::try_from(code).ok());
        match code {
            // Slurm reports the failure of a program and its own failures in different words.
            Some(code) if code == 0 || said.exited => Ok(Ended {
                code,
                stdout,
                stderr: said.program.join("\n"),
            }),
            _ => {
                let words = parse::words(&said.slurm.join("\n"));
                let host = &self.host;
                Err(unavailable(format!(
                    "failed to run a command on {host}: {words}"
                )))
            }
        }
    }
}

fn is_of_slurm(line: &str) -> bool {
    line.starts_with("srun: ") || line.starts_with("slurmstepd: ")
}

/// The standard error of a step, separated from Slurm's messages.
#[derive(Debug, Default)]
struct Said {
    program: Vec<String>,
    slurm: Vec<String>,
    /// The program itself ended with an exit code.
    exited: bool,
}

impl Said {
    fn of(lines: impl Iterator<Item = String>) -> Said {
        let mut said = Said::default();
        for line in lines {
            if !is_of_slurm(&line) {
                said.program.push(line);
                continue;
            }
            said.exited |= line.contains("Exited with exit code");
            said.slurm.push(line);
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slurms_words_are_told_from_the_programs() {
        let lines = [
            "error: no lab",
            "srun: error: h1: task 0: Exited with exit code 4",
        ];
        let said = Said::of(lines.map(str::to_owned).into_iter());
        assert_eq!(said.program, ["error: no lab"]);
        assert!(said.exited);
        let lines = ["srun: error: Unable to create step for job 7: Invalid job id specified"];
        let said = Said::of(lines.map(str::to_owned).into_iter());
        assert!(said.program.is_empty() && !said.exited);
    }
}
