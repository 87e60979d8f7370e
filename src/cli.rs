//! The command line: clap types and their help texts, nothing else.

use std::path::PathBuf;

use clap::builder::{TypedValueParser, ValueParser};
use clap::{Args, Parser, Subcommand};

use crate::instance::{LabId, State, UserId};
use crate::output::Format;
use crate::units::Duration;

/// Branded lab VMs for cyber-security teaching.
///
/// An instructor describes labs in labs-config.json. `cyyber build` makes a VM image of each;
/// `cyyber instance` gives every student a VM of a lab, as a copy-on-write disk on the lab's
/// read-only base image.
#[derive(Debug, Parser)]
#[command(
    name = "cyyber",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The configuration [default: ./labs-config.json, then /etc/cyyber/labs-config.json]
    #[arg(
        long,
        global = true,
        env = "CYYBER_CONFIG",
        value_name = "PATH",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,

    /// The libvirt connection [default: from the configuration, then qemu:///system]
    #[arg(
        long,
        short = 'c',
        global = true,
        env = "CYYBER_CONNECT",
        value_name = "URI",
        hide_env_values = true
    )]
    pub connect: Option<String>,

    /// What standard output carries
    #[arg(
        long,
        short,
        global = true,
        env = "CYYBER_OUTPUT",
        value_enum,
        default_value_t,
        hide_env_values = true
    )]
    pub output: Format,

    /// Say less on standard error: errors only
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say more on standard error
    #[arg(long, short, global = true)]
    pub verbose: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build the base images of labs
    Build(Build),
    /// Give students their VMs, and look after them
    #[command(subcommand)]
    Instance(Instance),
    /// Print the completion script for a shell
    #[command(after_help = "Examples:\n  cyyber completions bash > /etc/bash_completion.d/cyyber")]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Build the base images of labs
///
/// For each lab a Packer template is rendered into the output directory and run. The result is a
/// disk image, a libvirt domain definition and a metadata file there, and a new build of the lab's
/// base image in the storage directory. Instances made before keep the build they were made from.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cyyber build                      every lab that changed
  cyyber build lab01 lab02 --force  these two, changed or not
  cyyber build --dry-run            render everything, run nothing")]
pub struct Build {
    /// The labs to build [default: all]
    #[arg(value_name = "LAB", value_parser = parsed::<LabId>())]
    pub labs: Vec<LabId>,

    /// Render everything into the output directory and run nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Build also what did not change
    #[arg(long)]
    pub force: bool,

    /// How many labs to build at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    pub jobs: u8,
}

/// Commands on instances.
#[derive(Debug, Subcommand)]
pub enum Instance {
    /// Make a user's instance of a lab
    ///
    /// Makes a copy-on-write disk on the lab's current base image and defines the VM. An instance
    /// that exists is left as it is.
    #[command(
        after_help = "Examples:\n  cyyber instance create lab01 7\n  cyyber instance create lab01 7 --start"
    )]
    Create {
        /// Whose instance of which lab
        #[command(flatten)]
        target: Target,
        /// Power it on as well
        #[arg(long)]
        start: bool,
    },
    /// Power an instance on, making it first where it is missing
    ///
    /// A paused instance comes back as it was. The answer has the console's ports and a fresh
    /// password, which is good for 60 seconds; a session that was opened in time stays open.
    #[command(
        after_help = "Examples:\n  cyyber instance start lab01 7\n  cyyber -o json instance start lab01 7"
    )]
    Start {
        /// Whose instance of which lab
        #[command(flatten)]
        target: Target,
    },
    /// Shut an instance down
    ///
    /// Asks the guest, by its agent and by the ACPI power button, and powers it off when it has not
    /// shut down by the timeout.
    #[command(
        after_help = "Examples:\n  cyyber instance stop lab01 7\n  cyyber instance stop lab01 7 --timeout 2m\n  cyyber instance stop lab01 7 --force"
    )]
    Stop {
        /// Whose instance of which lab
        #[command(flatten)]
        target: Target,
        /// How long the guest may take
        #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parsed::<Duration>())]
        timeout: Duration,
        /// Power it off at once; what the guest has not written to its disk is lost
        #[arg(long)]
        force: bool,
    },
    /// Show what instances use
    #[command(
        after_help = "Examples:\n  cyyber instance stats\n  cyyber -o json instance stats lab01 7"
    )]
    Stats {
        /// The lab [default: all instances]
        #[arg(value_parser = parsed::<LabId>(), requires = "user")]
        lab: Option<LabId>,
        /// The user
        #[arg(value_parser = parsed::<UserId>())]
        user: Option<UserId>,
    },
    /// List instances and their states
    #[command(
        after_help = "Examples:\n  cyyber instance list --lab lab01\n  cyyber -o json instance list --state running"
    )]
    List {
        /// Only instances of this lab
        #[arg(long, value_parser = parsed::<LabId>())]
        lab: Option<LabId>,
        /// Only instances of this user
        #[arg(long, value_parser = parsed::<UserId>())]
        user: Option<UserId>,
        /// Only instances in this state
        #[arg(long, value_enum)]
        state: Option<State>,
    },
}

/// One instance, by lab and user.
#[derive(Debug, Args)]
pub struct Target {
    /// The lab
    #[arg(value_parser = parsed::<LabId>())]
    pub lab: LabId,
    /// The user
    #[arg(value_parser = parsed::<UserId>())]
    pub user: UserId,
}

fn parsed<T>() -> ValueParser
where
    T: std::str::FromStr + Clone + Send + Sync + 'static,
    T::Err: std::fmt::Display,
{
    ValueParser::new(
        clap::builder::NonEmptyStringValueParser::new()
            .try_map(|s| s.parse::<T>().map_err(|error| error.to_string())),
    )
}
