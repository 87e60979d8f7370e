//! The command line of a command for one instance, as it runs on the instance's host. Pure.

use crate::cli::{Class, Cleanup, Instance as Command, Wait};
use crate::names::{InstanceName, LabId, UserId};
use crate::units::Until;

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
pub struct HostCommand {
    pub arguments: Vec<String>,
    pub needs: Needs,
    /// If it succeeds, the instance uses no memory afterwards.
    pub frees_memory: bool,
    /// Its answer is an instance object.
    pub is_about_instance: bool,
}

impl HostCommand {
    /// To start `name`.
    pub fn start(name: &InstanceName) -> HostCommand {
        HostCommand {
            arguments: Words::on("start", name).0,
            needs: Needs::Memory,
            frees_memory: false,
            is_about_instance: true,
        }
    }
}

/// The lab and the user of a command; no user if it is about many. `None` for a command that is not
/// about instances of one lab.
pub fn target(command: &Command) -> Option<(&LabId, Option<&UserId>)> {
    if let Some(class) = class(command) {
        return Some((&class.lab, class.user.as_ref()));
    }
    match command {
        Command::Console { target, .. }
        | Command::Touch(target)
        | Command::Keep { target, .. }
        | Command::Reset { target, .. } => Some((&target.lab, Some(&target.user))),
        Command::Stats { lab, user, .. } | Command::Cleanup(Cleanup { lab, user, .. }) => {
            Some((lab.as_ref()?, Some(user.as_ref()?)))
        }
        _ => None,
    }
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
pub fn host_command(command: &Command, name: &InstanceName) -> Option<HostCommand> {
    let on = |verb: &str| Words::on(verb, name);
    let (words, needs, frees_memory) = match command {
        Command::Create { start, .. } => {
            let needs = if *start {
                Needs::Memory
            } else {
                Needs::AnyHost
            };
            (on("create").flag(*start, "--start"), needs, false)
        }
        Command::Start { wait, .. } => (on("start").waiting(wait), Needs::Memory, false),
        Command::Resume { wait, .. } => (on("resume").waiting(wait), Needs::MemoryIfSaved, false),
        Command::Pause { keep_memory, .. } => {
            let words = on("pause").flag(*keep_memory, "--keep-memory");
            (words, Needs::ItsHost, !keep_memory)
        }
        Command::Stop { timeout, force, .. } => {
            let words = on("stop").option("--timeout", Some(timeout));
            let needs = if *force {
                Needs::ItsHost
            } else {
                Needs::MemoryIfSaved
            };
            (words.flag(*force, "--force"), needs, true)
        }
        Command::Reset { .. } => (on("reset").flag(true, "--yes"), Needs::ItsHost, true),
        Command::Cleanup(options) => {
            let words = on("cleanup").filters(options);
            let words = words.flag(!options.dry_run, "--yes");
            // With a condition, the instance may not have been destroyed.
            let all = options.state.is_none() && options.inactive_for.is_none();
            (words, Needs::ItsHost, all && !options.dry_run)
        }
        Command::Console {
            path_only, view, ..
        } => {
            let words = on("console").flag(*path_only, "--path-only");
            (words.flag(*view, "--view"), Needs::ItsHost, false)
        }
        Command::Touch(_) => (on("touch"), Needs::ItsHost, false),
        Command::Keep { until, .. } => {
            let words = on("keep").option("--until", Some(end(until)));
            (words, Needs::ItsHost, false)
        }
        Command::Exec {
            wake,
            timeout,
            command,
            ..
        } => {
            let words = on("exec").option("--timeout", Some(timeout));
            let mut words = words.flag(*wake, "--wake").flag(true, "--");
            words.0.extend(command.iter().cloned());
            let needs = if *wake { Needs::Memory } else { Needs::ItsHost };
            (words, needs, false)
        }
        Command::Stats { .. } => (on("stats"), Needs::ItsHost, false),
        Command::List { .. }
        | Command::Push { .. }
        | Command::Collect { .. }
        | Command::Screens(_) => return None,
    };
    let other = ["cleanup", "exec", "stats"];
    Some(HostCommand {
        is_about_instance: !other.contains(&words.0[1].as_str()),
        arguments: words.0,
        needs,
        frees_memory,
    })
}

/// A command line in the making.
#[derive(Debug, Clone)]
pub struct Words(pub Vec<String>);

impl Words {
    pub fn of<const N: usize>(words: [&str; N]) -> Words {
        Words(words.map(str::to_owned).to_vec())
    }

    /// A verb on one instance.
    pub fn on(verb: &str, name: &InstanceName) -> Words {
        Words::of(["instance", verb, name.lab.as_str(), name.user.as_str()])
    }

    /// With `flag`, if it is set.
    pub fn flag(mut self, is_set: bool, flag: &str) -> Words {
        self.0.extend(is_set.then(|| flag.to_owned()));
        self
    }

    /// With `option`, if it has a value.
    pub fn option(mut self, option: &str, value: Option<impl ToString>) -> Words {
        let value = value.into_iter();
        self.0
            .extend(value.flat_map(|value| [option.to_owned(), value.to_string()]));
        self
    }

    /// With the options of a cleanup that say what goes and whether it does.
    pub fn filters(self, options: &Cleanup) -> Words {
        self.option("--state", options.state)
            .option("--inactive-for", options.inactive_for)
            .flag(options.dry_run, "--dry-run")
    }

    fn waiting(mut self, wait: &Wait) -> Words {
        self.0
            .extend(wait.wait.map(|limit| format!("--wait={limit}")));
        self
    }
}

fn end(until: &Until) -> String {
    match until {
        Until::Off => "off".to_owned(),
        Until::For(length) => length.to_string(),
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
            let host_command = host_command(&command, &name).unwrap();
            let again: Vec<_> = host_command.arguments[1..]
                .iter()
                .map(String::as_str)
                .collect();
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
        let host_command = host_command(&command, &name).unwrap();
        let wanted = ["instance", "stop", "lab01", "7", "--timeout", "30s"];
        assert_eq!(host_command.arguments, wanted);
        assert!(host_command.frees_memory && host_command.needs == Needs::MemoryIfSaved);
    }
}
