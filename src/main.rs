//! Parses the command line, runs the command, and turns its outcome into words and an exit code.

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use cyyber::cli::Cli;
use cyyber::error::{Fault, Kind, kind_of};
use cyyber::output::{Format, Output};

fn main() -> ExitCode {
    // What we make is for the owner and the group, never for the world; modes that matter are set
    // where the files are made.
    rustix::process::umask(rustix::fs::Mode::RWXO);
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let output = Output::new(cli.global.output, cli.global.quiet, cli.global.verbose);
    match cyyber::cmd::run(&cli, &output, jiff::Timestamp::now()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            kind_of(&error).exit_code().into()
        }
    }
}

/// Help and version go to standard output; a wrong command line is an error like any other.
fn usage(error: &clap::Error) -> ExitCode {
    let is_error =
        error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if !(is_error && wants_json()) {
        // Nobody is left to tell when the terminal itself is gone.
        let _ = error.print();
        return u8::try_from(error.exit_code())
            .unwrap_or(Kind::Usage.exit_code())
            .into();
    }
    let text = error.render().to_string();
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let message = lines.join(" ");
    let fault =
        Fault::new(Kind::Usage, message.trim_start_matches("error: ")).hint("see cyyber --help");
    Output::new(Format::Json, false, false).error(&fault.into());
    Kind::Usage.exit_code().into()
}

/// Whether JSON was asked for on a command line that could not be read as a whole.
fn wants_json() -> bool {
    let args: Vec<_> = std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let pair = |pair: &[String]| matches!(pair[0].as_str(), "-o" | "--output") && pair[1] == "json";
    args.windows(2).any(pair)
        || args
            .iter()
            .any(|arg| matches!(arg.as_str(), "-ojson" | "-o=json" | "--output=json"))
        || cyyber::env::wants_json()
}
