//! The command line of a command for one instance, as it runs on the instance's host. Pure.

use crate::cli::{Class, Cleanup, Instance as Command, Target, Wait};
use crate::names::{InstanceName, LabId, UserId};
use crate::units::{Duration, Until};

/// What a command needs from the host that it runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// The memory of the instance, which it creates if it is missing.
    Memory,
    /// The same, but only if its memory is saved: it is resumed first.
    MemoryIfSaved,
    /// Nothing; a missing instance is created.
    AnyHost,
    /// Nothing beyond what the instance already uses on its host.
    ItsHost,
}

/// A command on one instance.
#[derive(Debug, PartialEq, Eq)]
pub struct Errand {
    pub arguments: Vec<String>,
    pub needs: Needs,
    /// If it succeeds, the instance uses no memory afterwards.
    pub frees_memory: bool,
    /// Its answer is an instance object.
    pub is_about_instance: bool,
}

/// The lab and the user of a command; no user if it is about many. `None` for a command that is not
/// about instances of one lab.
pub fn target(command: &Command) -> Option<(&LabId, Option<&UserId>)> {
    Some(match command {
        Command::Create { class, .. }
        | Command::Start { class, .. }
        | Command::Pause { class, .. }
        | Command::Resume { class, .. }
        | Command::Stop { class, .. }
        | Command::Exec { class, .. } => (&class.lab, class.user.as_ref()),
        Command::Console { target, .. }
        | Command::Touch(target)
        | Command::Keep { target, .. }
        | Command::Reset { target, .. } => (&target.lab, Some(&target.user)),
        Command::Stats { lab, user, .. } | Command::Cleanup(Cleanup { lab, user, .. }) => {
            (lab.as_ref()?, Some(user.as_ref()?))
        }
        Command::List { .. }
        | Command::Push { .. }
        | Command::Collect { .. }
        | Command::Screens { .. } => return None,
    })
}

/// The users of a command on many instances, and how many of them run in parallel.
pub fn class(command: &Command) -> Option<&Class> {
    match command {
        Command::Create { class, .. }
        | Command::Start { class, .. }
        | Command::Pause { class, .. }
        | Command::Resume { class, .. }
        | Command::Stop { class, .. }
        | Command::Exec { class, .. } => Some(class),
        _ => None,
    }
}

/// The command to run for `name`. If it asks for confirmation, that has been given.
pub fn errand(command: &Command, name: &InstanceName) -> Option<Errand> {
    let on = |verb: &str| words([verb, name.lab.as_str(), name.user.as_str()]);
    let (mut arguments, needs, frees_memory) = match command {
        Command::Create { start, .. } => {
            let needs = if *start {
                Needs::Memory
            } else {
                Needs::AnyHost
            };
            (flag(on("create"), *start, "--start"), needs, false)
        }
        Command::Start { wait, .. } => (waiting(on("start"), wait), Needs::Memory, false),
        Command::Resume { wait, .. } => (waiting(on("resume"), wait), Needs::MemoryIfSaved, false),
        Command::Pause { keep_memory, .. } => {
            let arguments = flag(on("pause"), *keep_memory, "--keep-memory");
            (arguments, Needs::ItsHost, !keep_memory)
        }
        Command::Stop { timeout, force, .. } => {
            let mut arguments = on("stop");
            arguments.extend(words(["--timeout", &seconds(*timeout)]));
            let needs = if *force {
                Needs::ItsHost
            } else {
                Needs::MemoryIfSaved
            };
            (flag(arguments, *force, "--force"), needs, true)
        }
        Command::Reset { .. } => (flag(on("reset"), true, "--yes"), Needs::ItsHost, true),
        Command::Cleanup(options) => cleanup(on("cleanup"), options),
        Command::Console {
            path_only, view, ..
        } => {
            let arguments = flag(on("console"), *path_only, "--path-only");
            (flag(arguments, *view, "--view"), Needs::ItsHost, false)
        }
        Command::Touch(Target { .. }) => (on("touch"), Needs::ItsHost, false),
        Command::Keep { until, .. } => {
            let mut arguments = on("keep");
            arguments.extend(words(["--until", &end(until)]));
            (arguments, Needs::ItsHost, false)
        }
        Command::Exec {
            wake,
            timeout,
            command,
            ..
        } => {
            let mut arguments = on("exec");
            arguments.extend(words(["--timeout", &seconds(*timeout)]));
            let mut arguments = flag(arguments, *wake, "--wake");
            arguments.push("--".to_owned());
            arguments.extend(command.iter().cloned());
            let needs = if *wake { Needs::Memory } else { Needs::ItsHost };
            (arguments, needs, false)
        }
        Command::Stats { .. } => (on("stats"), Needs::ItsHost, false),
        Command::List { .. }
        | Command::Push { .. }
        | Command::Collect { .. }
        | Command::Screens { .. } => return None,
    };
    arguments.insert(0, "instance".to_owned());
    let other = ["cleanup", "exec", "stats"];
    Some(Errand {
        is_about_instance: !other.contains(&arguments[1].as_str()),
        arguments,
        needs,
        frees_memory,
    })
}

fn cleanup(mut arguments: Vec<String>, options: &Cleanup) -> (Vec<String>, Needs, bool) {
    if let Some(state) = options.state {
        arguments.extend(words(["--state", state.as_str()]));
    }
    if let Some(inactive) = options.inactive_for {
        arguments.extend(words(["--inactive-for", &seconds(inactive)]));
    }
    let rest = if options.dry_run {
        "--dry-run"
    } else {
        "--yes"
    };
    // With a condition, the instance may not have been destroyed.
    let all = options.state.is_none() && options.inactive_for.is_none();
    (
        flag(arguments, true, rest),
        Needs::ItsHost,
        all && !options.dry_run,
    )
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

fn flag(mut arguments: Vec<String>, is_set: bool, flag: &str) -> Vec<String> {
    if is_set {
        arguments.push(flag.to_owned());
    }
    arguments
}

fn waiting(mut arguments: Vec<String>, wait: &Wait) -> Vec<String> {
    if let Some(limit) = wait.wait {
        arguments.push(format!("--wait={}", seconds(limit)));
    }
    arguments
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.0.as_secs())
}

fn end(until: &Until) -> String {
    match until {
        Until::Off => "off".to_owned(),
        Until::For(length) => seconds(*length),
        Until::At(at) => at.to_string(),
        Until::Local(local) => local.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command as Any};
    use clap::Parser;

    fn read(words: &[&str]) -> Command {
        let line = ["cyyber", "instance"].iter().chain(words);
        match Cli::try_parse_from(line).unwrap().command {
            Any::Instance(command) => command,
            _ => unreachable!(),
        }
    }

    #[test]
    fn a_verb_reads_back_as_itself() {
        let name: InstanceName = "lab01_user_7".parse().unwrap();
        for line in [
            "create lab01 7",
            "create lab01 7 --start",
            "start lab01 7 --wait=90s",
            "pause lab01 7 --keep-memory",
            "resume lab01 7",
            "stop lab01 7 --timeout 90s --force",
            "reset lab01 7 --yes",
            "cleanup lab01 7 --state paused --inactive-for 3d --dry-run",
            "cleanup lab01 7 --yes",
            "console lab01 7 --view",
            "touch lab01 7",
            "keep lab01 7 --until 3d",
            "keep lab01 7 --until 2031-01-31T18:00",
            "keep lab01 7 --until off",
            "exec lab01 7 --wake --timeout 5s -- sh -c ls --yes",
            "stats lab01 7",
        ] {
            let words: Vec<_> = line.split(' ').collect();
            let command = read(&words);
            assert_eq!(
                target(&command),
                Some((&name.lab, Some(&name.user))),
                "{line}"
            );
            let errand = errand(&command, &name).unwrap();
            let again: Vec<_> = errand.arguments[1..].iter().map(String::as_str).collect();
            assert_eq!(
                format!("{:?}", read(&again)),
                format!("{command:?}"),
                "{line}"
            );
        }
    }

    #[test]
    fn one_of_a_class_is_named() {
        let name: InstanceName = "lab01_user_7".parse().unwrap();
        let command = read(&["stop", "lab01", "--users-from", "class.txt"]);
        assert_eq!(target(&command), Some((&name.lab, None)));
        let errand = errand(&command, &name).unwrap();
        let wanted = ["instance", "stop", "lab01", "7", "--timeout", "30s"];
        assert_eq!(errand.arguments, wanted);
        assert!(errand.frees_memory && errand.needs == Needs::MemoryIfSaved);
    }
}
