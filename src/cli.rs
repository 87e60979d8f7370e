//! The command line: clap types and their help texts, nothing else.

use std::path::PathBuf;

use clap::builder::{TypedValueParser, ValueParser};
use clap::{Args, Parser, Subcommand};

use crate::config::ConnectUri;
use crate::names::{LabId, State, UserId};
use crate::output::Format;
use crate::units::{Duration, Interval, Until};

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
    arg_required_else_help = true,
    after_help = "Examples:
  cyyber build lab01                   make the lab's image
  cyyber instance start lab01 7        give user 7 a running VM of it
  cyyber instance list                 who has a VM, and in which state
  cyyber -o json instance list         the same for a program
  cyyber instance stop lab01 7         shut that VM down; its disk stays

`man cyyber` has states, JSON, exit codes, environment and files, `man labs-config.json` every key
of the configuration."
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
    /// The file that describes the labs [default: ./labs-config.json, then
    /// /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]
    #[arg(long, global = true, value_name = "PATH")]
    pub config: Option<PathBuf>,

    /// The libvirt connection [default: host.connect of the configuration, which is qemu:///system
    /// unless set] [env: CYYBER_CONNECT]
    #[arg(long, short = 'c', global = true, value_name = "URI", value_parser = parsed::<ConnectUri>())]
    pub connect: Option<ConnectUri>,

    /// What standard output carries [default: table] [env: CYYBER_OUTPUT]
    #[arg(long, short, global = true, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,

    /// Act for this user alone: nothing of anyone else exists [env: CYYBER_AS_USER]
    #[arg(long, global = true, value_name = "USER", value_parser = parsed::<UserId>())]
    pub as_user: Option<UserId>,

    /// Errors only on standard error: no progress, notes or warnings
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// More detail on standard error
    #[arg(long, short, global = true)]
    pub verbose: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build the base images of labs
    ///
    /// For each lab a Packer template is rendered into the output directory and run. The result is a
    /// disk image, a libvirt domain definition and a metadata file there, and a new build of the lab's
    /// base image in the storage directory. Instances made before keep the build they were made from.
    ///
    /// A lab is built when something that goes into its image changed. What labs have in common is
    /// built once and shared. When one of several fails, the others are built all the same.
    Build(Build),
    /// Give students their VMs, and look after them
    ///
    /// An instance is one user's VM of one lab. Its name, in lists and in libvirt, is
    /// LAB_user_USER, as in lab01_user_7. Asking for what is already so succeeds and says so.
    #[command(
        subcommand,
        after_help = "Examples:
  cyyber instance start lab01 7    make it where there is none, power it on
  cyyber instance stats            what every instance uses
  cyyber instance stop lab01 7     shut it down; its disk stays"
    )]
    Instance(Instance),
    /// Walk instances that nobody uses down the idle ladder, once
    ///
    /// For cron, each minute. An instance that was not used for a while is held to half of its CPU
    /// time; later its memory is saved to disk, then it is shut down, and at last destroyed, as the
    /// policy of its lab says. It goes down by one rung in a pass at most. An idle one that is used
    /// again gets its CPU time back.
    ///
    /// In doubt an instance is in use: where its last activity cannot be told, nothing is done. A pass
    /// that comes after an outage only looks, and nothing is destroyed that passes have not seen
    /// stopped for an hour.
    ///
    /// Says nothing when all went well. A pass that finds another one at work leaves it to that.
    Reap(Reap),
    /// Print what there is and what it uses, for Prometheus
    Metrics(Metrics),
    /// Tell whether this host is ready, and what to do where it is not
    Doctor(Doctor),
    /// Print the completion script for a shell
    ///
    /// The script goes where the shell looks for completions; a new shell then knows it, as it does
    /// where `make install` or the Debian package put it there. On Tab it offers commands, options,
    /// and where they are wanted the ids of labs and the users of existing instances.
    #[command(after_help = "Examples:
  cyyber completions bash > /etc/bash_completion.d/cyyber
  cyyber completions zsh > /usr/local/share/zsh/site-functions/_cyyber
  cyyber completions fish > /etc/fish/completions/cyyber.fish")]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Options of `cyyber build`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cyyber build                      every lab that changed
  cyyber build lab01 lab02 --force  these two, changed or not
  cyyber build --dry-run            what would be built, and why
  cyyber build --jobs 3             side by side, as far as memory allows")]
pub struct Build {
    /// The ids of the labs to build [default: all]
    #[arg(value_name = "LAB", value_parser = parsed::<LabId>())]
    pub labs: Vec<LabId>,

    /// Render everything into the output directory, tell what would be built and why, and run
    /// nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Build even where nothing changed, with what the labs share, and so with newer upgrades
    #[arg(long)]
    pub force: bool,

    /// How many labs to build at once, at most
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    pub jobs: u8,
}

/// Commands on instances.
#[derive(Debug, Subcommand)]
pub enum Instance {
    /// Make a user's instance of a lab
    ///
    /// Makes a copy-on-write disk on the lab's current base image and defines the VM. An instance
    /// that exists is left as it is. A disk that is found without its VM is kept, and gets a VM
    /// again.
    #[command(after_help = "Examples:
  cyyber instance create lab01 7          ready to be powered on
  cyyber instance create lab01 7 --start  powered on as well
  cyyber instance create lab01 --users-from class.txt")]
    Create {
        /// Whose instance of which lab
        #[command(flatten)]
        class: Class,
        /// Power it on as well
        #[arg(long)]
        start: bool,
    },
    /// Power an instance on, making it first where it is missing
    ///
    /// A paused instance comes back as it was. The answer has the console's ports and a fresh
    /// password, which is good for 60 seconds; a session that was opened in time stays open. Start
    /// an instance that runs already to get a new password.
    #[command(after_help = "Examples:
  cyyber instance start lab01 7          state, ports and password as text
  cyyber -o json instance start lab01 7  the same for a web backend
  cyyber instance start lab01 --users-from class.txt")]
    Start {
        /// Whose instance of which lab
        #[command(flatten)]
        class: Class,
    },
    /// Pause an instance and give its memory back to the host
    ///
    /// The guest's memory is saved to disk, and its RAM is free again. `resume` and `start` bring
    /// the instance back as it was, running. When the memory cannot be saved, as on a full disk, or
    /// on Ctrl-C, the instance goes on running.
    #[command(after_help = "Examples:
  cyyber instance pause lab01 7                memory to disk, RAM free
  cyyber instance pause lab01 7 --keep-memory  held still in RAM, back at once
  cyyber instance pause lab01 --users-from class.txt")]
    Pause {
        /// Whose instance of which lab
        #[command(flatten)]
        class: Class,
        /// Hold it still with its memory in RAM, instead of saving it to disk
        #[arg(long)]
        keep_memory: bool,
    },
    /// Bring a paused instance back
    ///
    /// It goes on where it was, at full speed and with the right time where its guest agent can set
    /// the clock. As with `start`, the answer has the console's ports and a fresh password. A
    /// stopped instance cannot be resumed.
    #[command(after_help = "Examples:
  cyyber instance resume lab01 7          state, ports and password as text
  cyyber -o json instance resume lab01 7  the same for a web backend
  cyyber instance resume lab01 --users-from class.txt")]
    Resume {
        /// Whose instance of which lab
        #[command(flatten)]
        class: Class,
    },
    /// Shut an instance down
    ///
    /// Asks the guest, by its agent and by the ACPI power button, and powers it off when it has not
    /// shut down by the timeout. A paused instance is brought back first, so that it can shut down
    /// cleanly. The disk stays.
    #[command(after_help = "Examples:
  cyyber instance stop lab01 7               powered off after 30 seconds at the latest
  cyyber instance stop lab01 7 --timeout 2m  for a guest that takes long
  cyyber instance stop lab01 7 --force       at once, for a guest that hangs
  cyyber instance stop lab01 --users-from class.txt")]
    Stop {
        /// Whose instance of which lab
        #[command(flatten)]
        class: Class,
        /// How long the guest may take, as in 90s or 2m
        #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parsed::<Duration>())]
        timeout: Duration,
        /// Power it off at once: what the guest has not written to its disk, or has in saved
        /// memory, is lost
        #[arg(long)]
        force: bool,
    },
    /// Give an instance a clean disk on the lab's current base image
    ///
    /// For a student who broke the VM, or whose instance stands on an old build. Everything in the
    /// instance is lost, also memory that is saved; it is stopped afterwards. Asks first at a
    /// terminal, and needs --yes elsewhere.
    #[command(after_help = "Examples:
  cyyber instance reset lab01 7        asks first
  cyyber instance reset lab01 7 --yes  for a program")]
    Reset {
        /// Whose instance of which lab
        #[command(flatten)]
        target: Target,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Destroy instances with their disks
    ///
    /// Destroys the VM, saved memory, disk and activity file of every instance that was asked for: of
    /// all when nothing limits that. A base image that an instance stands on is never touched, nor is a
    /// VM that cyyber did not make.
    ///
    /// What interrupted commands left is found as well: a disk or saved memory without its VM, a VM
    /// without its disk. So are old builds of base images that no instance stands on any more.
    ///
    /// Asks first at a terminal, and needs --yes elsewhere.
    Cleanup(Cleanup),
    /// Get access to the console of a running instance
    ///
    /// The answer has both ports of the console and a fresh password, which is good for 60 seconds.
    /// The password before it opens no more sessions; one that is open stays open.
    #[command(after_help = "Examples:
  cyyber instance console lab01 7          ports and password as text
  cyyber -o json instance console lab01 7  the same for a web backend")]
    Console {
        /// Whose instance of which lab
        #[command(flatten)]
        target: Target,
    },
    /// Record that an instance is in use now
    ///
    /// What keeps an instance from being taken for idle, and gives an idle one its CPU time back.
    /// A program may as well set the modification time of the file state_dir/activity/INSTANCE.
    #[command(after_help = "Examples:
  cyyber instance touch lab01 7  its user is there")]
    Touch {
        /// Whose instance of which lab
        #[command(flatten)]
        target: Target,
    },
    /// Exempt an instance from the idle policy
    ///
    /// Until the given time `cyyber reap` neither holds it back nor pauses, stops or destroys it; an
    /// idle one gets its CPU time back at once. `--until off` ends that. Commands that are given by
    /// hand do what they always do.
    #[command(after_help = "Examples:
  cyyber instance keep lab01 7 --until 3d                for three days from now
  cyyber instance keep lab01 7 --until 2027-01-31        to the end of that day
  cyyber instance keep lab01 7 --until 2027-01-31T18:00  by this host's clock
  cyyber instance keep lab01 7 --until off               as others again")]
    Keep {
        /// Whose instance of which lab
        #[command(flatten)]
        target: Target,
        /// A length of time from now on (90s, 10m, 24h, 7d), a day, a time, or off
        #[arg(long, value_name = "TIME|DURATION|off", value_parser = parsed::<Until>())]
        until: Until,
    },
    /// Show what instances use
    ///
    /// CPU is measured for a quarter of a second, and from one refresh to the next with --watch;
    /// 100 % is one CPU of the host, fully used, so that an instance with two CPUs can reach 200 %.
    /// USED is the host's memory that it takes at present, GUEST what the system in it uses by its
    /// own account, DISK what its own disk takes, without the shared base image.
    #[command(after_help = "Examples:
  cyyber instance stats                    all instances
  cyyber -o json instance stats lab01 7    one, for a program
  cyyber instance stats --watch            all instances, until Ctrl-C
  cyyber instance stats lab01 7 --watch 5  one, every 5 seconds")]
    Stats {
        /// The lab's id [default: all instances]
        #[arg(value_parser = parsed::<LabId>(), requires = "user")]
        lab: Option<LabId>,
        /// The user's id
        #[arg(value_parser = parsed::<UserId>())]
        user: Option<UserId>,
        /// Repeat it every so many seconds, from 1 to 3600, until Ctrl-C; LAB USER go before this
        /// [default: 2]
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = parsed::<Interval>())]
        watch: Option<Interval>,
    },
    /// List instances and their states
    ///
    /// VNC and NOVNC are the ports of the console, the second one for noVNC in a browser. BASE is
    /// old where the lab was built anew since the instance was made. ACTIVE is the time since the
    /// last activity.
    #[command(after_help = "Examples:
  cyyber instance list --lab lab01              the whole class
  cyyber instance list --user 7                 all VMs of one student
  cyyber -o json instance list --state running  for a program")]
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

/// Options of `cyyber instance cleanup`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cyyber instance cleanup --lab lab01 --dry-run       what would go
  cyyber instance cleanup --inactive-for 7d           what nobody used for a week, asking first
  cyyber instance cleanup --state stopped --yes       for a script
  cyyber -o json instance cleanup lab01 7 --yes       one, for a web backend")]
pub struct Cleanup {
    /// The lab's id, for a single instance
    #[arg(value_parser = parsed::<LabId>(), requires = "user", conflicts_with_all = ["of_lab", "of_user"])]
    pub lab: Option<LabId>,
    /// The user's id, for a single instance
    #[arg(value_parser = parsed::<UserId>())]
    pub user: Option<UserId>,
    /// Only instances of this lab
    #[arg(long = "lab", value_name = "LAB", value_parser = parsed::<LabId>())]
    pub of_lab: Option<LabId>,
    /// Only instances of this user
    #[arg(long = "user", value_name = "USER", value_parser = parsed::<UserId>())]
    pub of_user: Option<UserId>,
    /// Only instances in this state
    #[arg(long, value_enum)]
    pub state: Option<State>,
    /// Only instances that were not used for this long, as in 24h or 7d, by the signs that the reaper
    /// goes by; one that is kept, or whose last use is not known, stays
    #[arg(long, value_name = "DURATION", value_parser = parsed::<Duration>())]
    pub inactive_for: Option<Duration>,
    /// Say what would be destroyed, and destroy nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// Options of `cyyber reap`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cyyber reap --dry-run            every instance: its signs of use, the next step, and when
  cyyber reap -v                   what is done, and why
  cyyber -o json reap              for a program")]
pub struct Reap {
    /// Tell of every instance what would be done and why, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How many instances to take down at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub jobs: u8,
    /// How long a guest that is stopped may take to shut down, as in 90s or 2m
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parsed::<Duration>())]
    pub timeout: Duration,
}

/// Print what there is and what it uses, for Prometheus
///
/// The host's memory, instances by their state, what each uses of CPU, memory, disk and network,
/// what pausing and shared base images save, and when the last pass of the reaper was, in
/// Prometheus' text format. Nothing is asked of guests: what was not noted yet is not told.
///
/// With --textfile it goes to a file, for the textfile collector of the node exporter, which reads
/// files whose names end in .prom. A reader of it sees the whole file before or the whole one after.
/// Where it fails, the file stays as it was.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cyyber metrics                   on standard output
  cyyber metrics --textfile /var/lib/prometheus/node-exporter/cyyber.prom
  cyyber -o json metrics           for another program")]
pub struct Metrics {
    /// Write it to this file, and print nothing
    #[arg(long, value_name = "PATH")]
    pub textfile: Option<PathBuf>,
}

/// Tell whether this host is ready, and what to do where it is not
///
/// Looks at hardware virtualisation, libvirt and whom it runs QEMU as, the networks of the labs and
/// their firewall, the programs that are run, directories and who may use them, memory and
/// disk, the configuration, the base images of the labs, and whether `cyyber reap` is called. It
/// changes nothing.
///
/// A warning is something that works, though not as well or as safely as it could. Only a failure
/// makes the command fail, with exit status 1.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cyyber doctor                    every finding, with its remedy
  cyyber doctor --verify           also whether each base image is still what was made
  cyyber -o json doctor            for a program")]
pub struct Doctor {
    /// Compare the content of each base image with what was noted when it was made; reads them all
    #[arg(long)]
    pub verify: bool,
}

/// One instance, by lab and user.
#[derive(Debug, Args)]
pub struct Target {
    /// The lab's id, as in labs-config.json
    #[arg(value_parser = parsed::<LabId>())]
    pub lab: LabId,
    /// The user's id: letters, digits, '.' and '-', at most 64
    #[arg(value_parser = parsed::<UserId>())]
    pub user: UserId,
}

/// One instance, or those of many users, of one lab.
#[derive(Debug, Args)]
pub struct Class {
    /// The lab's id, as in labs-config.json
    #[arg(value_parser = parsed::<LabId>())]
    pub lab: LabId,
    /// The user's id: letters, digits, '.' and '-', at most 64
    #[arg(value_parser = parsed::<UserId>(), required_unless_present = "users_from")]
    pub user: Option<UserId>,
    /// Do it for every user in this file, one id a line; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    pub users_from: Option<PathBuf>,
    /// How many of them at once
    #[arg(long, value_name = "N", default_value_t = 4, conflicts_with = "user", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub jobs: u8,
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
