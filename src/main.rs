//! Parses the command line, runs the command, and turns its result into messages and an exit code.

use std::io::Write;

use clap::Parser;
use clap::error::ErrorKind;
use cyyber::cli::Cli;
use cyyber::error::{Fault, Kind, Passed, kind_of};
use cyyber::output::{Format, Output};

fn main() {
    let code = run();
    let _ = std::io::stdout().flush();
    // Exit without destructors of libraries: OpenSSL, which libvirt loads, would free data that is
    // still used by a thread that is ending or in a hanging call.
    signal_hook::low_level::exit(code.into())
}

/// Runs the command line; returns the exit code.
fn run() -> u8 {
    // New files are for the owner and the group only; where modes matter, they are set explicitly.
    rustix::process::umask(rustix::fs::Mode::RWXO);
    if cyyber::cmd::complete::answer(std::env::args_os()) {
        return 0;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let format = match cli.global.output {
        Some(format) => Ok(Some(format)),
        None => cyyber::env::output(),
    };
    let chosen = *format.as_ref().unwrap_or(&None);
    let chosen = chosen.unwrap_or_default();
    let output = Output::new(chosen, cli.global.quiet, cli.global.verbose);
    match format.and_then(|_| cyyber::cmd::run(&cli, &output, cyyber::clock::Moment::now())) {
        Ok(()) => 0,
        Err(error) => {
            if let Some(Passed(status)) = error.downcast_ref() {
                return *status;
            }
            output.error(&error);
            kind_of(&error).exit_code()
        }
    }
}

/// Help and version go to standard output; a wrong command line is an error like any other.
fn usage(error: &clap::Error) -> u8 {
    if !(error.use_stderr() && wants_json()) {
        if let Err(failed) = cyyber::output::of_parser(error) {
            Output::new(Format::Table, false, false).error(&failed);
            return Kind::Failed.exit_code();
        }
        return u8::try_from(error.exit_code()).unwrap_or(Kind::Usage.exit_code());
    }
    let text = error.render().to_string();
    let message = match error.kind() {
        // People get the complete help instead.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a command is missing",
        _ => text.split("\n\n").next().unwrap_or_default(),
    };
    let message = message.trim_start_matches("error: ");
    let fault = Fault::new(Kind::Usage, message).hint("see cyyber --help");
    Output::new(Format::Json, false, false).error(&fault.into());
    Kind::Usage.exit_code()
}

/// Whether an invalid command line requests JSON.
fn wants_json() -> bool {
    let args: Vec<_> = std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let pair = |pair: &[String]| matches!(&*pair[0], "-o" | "--output") && pair[1] == "json";
    let word = |arg: &String| matches!(&**arg, "-ojson" | "-o=json" | "--output=json");
    args.windows(2).any(pair)
        || args.iter().any(word)
        || matches!(cyyber::env::output(), Ok(Some(Format::Json)))
}
