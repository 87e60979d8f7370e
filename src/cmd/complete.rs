//! Answers the completion scripts on each Tab: `CYYBER_COMPLETE=SHELL cyyber -- WORD…`.
//!
//! Always quick and silent: the shell waits, and would show messages in the middle of the command
//! line. So libvirt is not asked; instances are found by the names of their disks.

use std::collections::BTreeSet;
use std::env::ArgsOs;
use std::ffi::{OsStr, OsString};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::builder::StyledStr;
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};

use crate::cli::{Cli, Global};
use crate::clock::Moment;
use crate::context::Context;
use crate::env;
use crate::names::{InstanceName, LabId};
use crate::output::{Format, Output};
use crate::paths::Paths;

/// Set by the scripts to the shell's name.
const VARIABLE: &str = "CYYBER_COMPLETE";

/// How long searching names may take, for example on a file system that hangs.
const DEADLINE: Duration = Duration::from_millis(800);

/// Answers a completion script, if one is asking. Returns whether it was.
pub fn answer(words: ArgsOs) -> bool {
    let words: Vec<_> = words.collect();
    let directory = std::env::current_dir().ok();
    let asked = CompleteEnv::with_factory(|| command(&words))
        .var(VARIABLE)
        .try_complete(words.clone(), directory.as_deref());
    // If nothing is known, print nothing.
    asked.unwrap_or(true)
}

/// The script with which `shell` asks.
pub fn script(shell: &str) -> Result<Vec<u8>> {
    let shells = Shells::builtins();
    let writer = shells.completer(shell);
    let writer = writer.with_context(|| format!("there are no completions for {shell}"))?;
    let mut script = Vec::new();
    writer.write_registration(VARIABLE, "cyyber", "cyyber", "cyyber", &mut script)?;
    let script = String::from_utf8(script)?;
    let script = script.trim_matches('\n');
    Ok(match shell {
        // zsh runs a file on its path as the completion function when it is first needed.
        "zsh" => format!(
            "{}\nif [[ $funcstack[1] = _cyyber ]]; then\n    {ZSH_FUNCTION} \"$@\"\nelse\n    \
             {ZSH_COMPDEF}\nfi\n",
            script.trim_end_matches(ZSH_COMPDEF).trim_end()
        ),
        _ => format!("{script}\n"),
    }
    .into_bytes())
}

const ZSH_FUNCTION: &str = "_clap_dynamic_completer_cyyber";
const ZSH_COMPDEF: &str = "compdef _clap_dynamic_completer_cyyber cyyber";

/// The command line with completers for its values.
fn command(words: &[OsString]) -> Command {
    // Offer options only if one was begun, or if there is nothing else.
    let wants_option =
        current_word(words).is_some_and(|word| word.as_encoded_bytes().starts_with(b"-"));
    equip(Cli::command(), !wants_option)
}

/// The word at the cursor. The scripts of bash and zsh say which one it is; in others it is the last.
fn current_word(words: &[OsString]) -> Option<&OsString> {
    let words = line(words);
    match env::completed_word() {
        Some(index) => words.get(index),
        None => words.last(),
    }
}

/// The command line that is being written.
fn line(words: &[OsString]) -> &[OsString] {
    let begin = words.iter().position(|word| word == "--");
    begin.map_or(&[], |begin| &words[begin + 1..])
}

fn equip(command: Command, hide_options: bool) -> Command {
    command
        .disable_help_flag(hide_options)
        .disable_version_flag(hide_options)
        .mut_args(|arg| {
            let is_option = !arg.is_positional();
            equipped(arg).hide(is_option && hide_options)
        })
        .mut_subcommands(|command| equip(command, hide_options))
}

fn equipped(arg: Arg) -> Arg {
    let values = match arg.get_id().as_str() {
        "lab" | "labs" | "of_lab" => labs,
        "user" | "of_user" | "as_user" => users,
        _ => return arg,
    };
    arg.add(ArgValueCompleter::new(move |begun: &OsStr| {
        let begun = begun.to_string_lossy().into_owned();
        let mut found = within_deadline(move || Asked::new().map(|asked| values(&asked)));
        found.retain(|candidate| candidate.get_value().to_string_lossy().starts_with(&begun));
        found
    }))
}

/// The result of `find`, if it returns in time.
fn within_deadline(
    find: impl FnOnce() -> Result<Vec<CompletionCandidate>> + Send + 'static,
) -> Vec<CompletionCandidate> {
    let (sender, found) = channel();
    std::thread::spawn(move || sender.send(find().unwrap_or_default()));
    found.recv_timeout(DEADLINE).unwrap_or_default()
}

/// An incomplete command line and its target.
struct Asked {
    context: Context,
    /// The verb.
    verb: String,
    /// The lab, if it is given already.
    lab: Option<LabId>,
}

impl Asked {
    fn new() -> Result<Asked> {
        let words: Vec<_> = std::env::args_os().collect();
        let matches = Cli::command()
            .ignore_errors(true)
            .try_get_matches_from(line(&words))?;
        let global = Global::from_arg_matches(&matches)?;
        let silent = Output::new(Format::Json, true, false);
        let (verb, innermost) = innermost("", &matches);
        let lab = |id: &str| innermost.try_get_one::<LabId>(id).ok()?.cloned();
        Ok(Asked {
            context: Context::new(&global, silent, Moment::now())?,
            verb: verb.to_owned(),
            lab: lab("lab").or_else(|| lab("of_lab")),
        })
    }

    /// The instances in scope that have a disk.
    fn instances(&self) -> impl Iterator<Item = InstanceName> {
        let entries = std::fs::read_dir(self.context.paths.user_instances());
        let names = entries.into_iter().flatten();
        let names = names.filter_map(|it| Paths::instance_of(it.ok()?.file_name().to_str()?));
        names.filter(|name| self.context.scope().covers(name))
    }
}

fn innermost<'a>(name: &'a str, matches: &'a ArgMatches) -> (&'a str, &'a ArgMatches) {
    match matches.subcommand() {
        Some((name, matches)) => innermost(name, matches),
        None => (name, matches),
    }
}

/// The configured labs, and those that still have instances.
fn labs(asked: &Asked) -> Vec<CompletionCandidate> {
    let configured = &asked.context.config.labs;
    let known = configured.iter().map(|lab| {
        let title = StyledStr::from(lab.lab_name.to_string());
        CompletionCandidate::new(lab.lab_id.as_str()).help(Some(title))
    });
    let mut left: BTreeSet<LabId> = asked.instances().map(|name| name.lab).collect();
    left.retain(|lab| asked.verb != "build" && configured.iter().all(|known| known.lab_id != *lab));
    let left = left
        .iter()
        .map(|lab| CompletionCandidate::new(lab.as_str()));
    known.chain(left).collect()
}

/// The users who have an instance of the lab; of any lab if none is given, or if the command can
/// create instances.
fn users(asked: &Asked) -> Vec<CompletionCandidate> {
    let makes = matches!(asked.verb.as_str(), "create" | "start");
    let lab = asked.lab.as_ref().filter(|_| !makes);
    let names = asked.instances();
    let names = names.filter(|name| lab.is_none_or(|lab| *lab == name.lab));
    let users: BTreeSet<_> = names.map(|name| name.user).collect();
    let users = users.iter();
    users
        .map(|user| CompletionCandidate::new(user.as_str()))
        .collect()
}
