//! The command line: clap types and their help texts, nothing else.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{ConnectUri, HostName};
use crate::names::{GuestOwner, GuestPath, LabId, State, UserId};
use crate::output::Format;
use crate::units::{ByteSize, Duration, Interval, Until};

/// Branded lab VMs for cyber-security teaching.
///
/// An instructor describes labs in labs-config.json. `cyyber build` builds a VM image for each lab;
/// `cyyber instance` creates and controls the students' VMs. Each VM has a copy-on-write disk on
/// the lab's read-only base image.
#[derive(Debug, Parser)]
#[command(
    name = "cyyber",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:
  cyyber build lab01                   build the lab's image
  cyyber instance start lab01 7        create and start user 7's VM of it
  cyyber instance list                 all VMs and their states
  cyyber -o json instance list         the same as JSON
  cyyber instance stop lab01 7         shut the VM down; its disk is kept

See `man cyyber` for states, JSON, exit codes, environment and files, and `man labs-config.json` for
the configuration."
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
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The configuration file [default: ./labs-config.json, then
    /// /etc/cyyber/labs-config.json] [env: CYYBER_CONFIG]
    #[arg(long, global = true, value_name = "PATH")]
    pub config: Option<PathBuf>,

    /// The libvirt connection URI [default: host.connect of the configuration, or qemu:///system]
    /// [env: CYYBER_CONNECT]
    #[arg(long, short = 'c', global = true, value_name = "URI")]
    pub connect: Option<ConnectUri>,

    /// The output format [default: table] [env: CYYBER_OUTPUT]
    #[arg(long, short, global = true, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,

    /// Act only on USER's instances; all others are reported as not found [env: CYYBER_AS_USER]
    #[arg(long, global = true, value_name = "USER")]
    pub as_user: Option<UserId>,

    /// Print only errors: no progress, notes or warnings
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Print more detail on standard error
    #[arg(long, short, global = true)]
    pub verbose: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build the base images of labs
    ///
    /// For each lab a Packer template is rendered into the output directory and run. The result is
    /// a disk image, a libvirt domain definition and a metadata file in that directory, and a new
    /// build of the lab's base image in the storage directory. Existing instances keep the build
    /// that they were created from.
    ///
    /// A lab is built if any input of its image changed. The stage image, which has everything that
    /// labs share, is built once. If one lab fails, the others are still built.
    Build(Build),
    /// Create, start, stop and manage students' VMs
    ///
    /// An instance is one user's VM of one lab. Its name, in lists and in libvirt, is
    /// LAB_user_USER, for example lab01_user_7. Commands are idempotent: if there is nothing to
    /// change, they succeed and say so.
    #[command(
        subcommand,
        after_help = "Examples:
  cyyber instance start lab01 7    create it if needed, and power it on
  cyyber instance stats            resource use of all instances
  cyyber instance stop lab01 7     shut it down; its disk is kept"
    )]
    Instance(Instance),
    /// Run one idle-policy pass: throttle, pause, stop, then destroy unused instances
    ///
    /// Run it every minute, from cron or a systemd timer. An unused instance is first limited to
    /// half of its CPU time (idle), later its memory is saved to disk (paused), then it is shut
    /// down (stopped), and finally it is destroyed. The policy of its lab sets the times. One pass
    /// takes at most one step per instance. An idle instance that is used again gets its full CPU
    /// time back.
    ///
    /// When in doubt, an instance counts as active: if its last use cannot be determined, nothing
    /// is done to it. The first pass after an outage only observes. An instance is destroyed only
    /// after passes have seen it stopped for an hour.
    ///
    /// Prints nothing if all went well. If another pass is running, this one ends at once.
    Reap(Reap),
    /// Show what the labs used and what the idle policy saved
    ///
    /// Summarises the journal and its rotated files: memory used and freed, the steps of the idle
    /// policy, how long starts, resumes and builds took, which starts failed, how many instances
    /// were woken within 5 minutes after the policy paused or stopped them, and the hours of use by
    /// lab, weekday and hour.
    ///
    /// With --html the report is written as one page with plots, which loads nothing from the
    /// network. The file is replaced atomically.
    Report(Report),
    /// Show the coming lessons and the memory they need
    ///
    /// Lists the lessons of the timetable in labs-config.json, with the number of users and the
    /// memory of their instances, and compares the highest total at any time with the memory of the
    /// host. Reports rosters and calendars that cannot be read. Changes nothing.
    Timetable(Timetable),
    /// Serve all consoles to browsers on one port
    ///
    /// A browser opens a WebSocket with the console_path that `start`, `resume` and `console`
    /// return. A paused or stopped instance is started while the browser waits. The gateway
    /// authenticates to QEMU itself: no VNC password reaches the browser. Keyboard and pointer
    /// input counts as use of the instance.
    ///
    /// Runs until SIGTERM or SIGINT, which ends all sessions and makes all paths invalid; instances
    /// are not affected. The gateway is optional: without it, browsers connect to the port of each
    /// instance.
    Gateway(Gateway),
    /// Show and manage hosts, if there are several
    ///
    /// With `cluster` in labs-config.json, Slurm places instances on several hosts, and every
    /// command works on the head as on a single host. These commands manage the hosts themselves.
    #[command(
        subcommand,
        after_help = "Examples:
  cyyber host list         resources and instances of each host
  cyyber host drain h3     move everything off h3
  cyyber host fence h3     declare h3 off: its instances may start elsewhere"
    )]
    Host(Host),
    /// Print metrics of the host and its instances, for Prometheus
    ///
    /// Prints in Prometheus' text format: the host's memory, CPU and disk, the number of instances
    /// by state, the CPU, memory, disk and network use of each, what pausing and shared base images
    /// save, the last reaper pass, and the figures of `cyyber report` as counters and histograms.
    /// Guests are not queried; values that are not recorded yet are left out.
    ///
    /// With --textfile the metrics are written to a file for the textfile collector of the node
    /// exporter, which reads files with names in .prom. The file is replaced atomically, and left
    /// unchanged if the command fails.
    Metrics(Metrics),
    /// Check whether this host is ready, and how to fix what is not
    ///
    /// Checks hardware virtualisation, libvirt and the user that QEMU runs as, the lab networks and
    /// their firewall, required programs, directories and their permissions, memory and disk, the
    /// configuration, the base images, whether `cyyber reap` runs regularly, and the gateway if
    /// there is one. Changes nothing.
    ///
    /// A warning means that something works, but not as well or as safely as it could. Failures,
    /// not warnings, make the command fail, with exit status 1.
    Doctor(Doctor),
    /// Print a shell completion script
    ///
    /// Save the script where your shell looks for completions, then start a new shell. `make
    /// install` and the Debian package install it for you. Tab completes commands, options, lab ids
    /// and the users of existing instances.
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
  cyyber build                      all labs that changed
  cyyber build lab01 lab02 --force  these two, changed or not
  cyyber build --dry-run            show what would be built, and why
  cyyber build --jobs 3             three at a time, as memory allows")]
pub struct Build {
    /// Ids of the labs to build [default: all]
    #[arg(value_name = "LAB")]
    pub labs: Vec<LabId>,

    /// Render the templates into the output directory and print what would be built and why, but
    /// build nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Rebuild even if nothing changed, including the shared stage, to pick up package upgrades
    #[arg(long)]
    pub force: bool,

    /// How many labs to build in parallel, at most
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    pub jobs: u8,
}

/// Commands on instances.
#[derive(Debug, Subcommand)]
pub enum Instance {
    /// Create a user's instance of a lab
    ///
    /// Creates a copy-on-write disk on the lab's current base image and defines the VM. An existing
    /// instance is left unchanged. If there is a disk without its VM, the disk is kept and gets a
    /// new VM.
    #[command(after_help = "Examples:
  cyyber instance create lab01 7          create it, powered off
  cyyber instance create lab01 7 --start  create it and power it on
  cyyber instance create lab01 --users-from class.txt")]
    Create {
        /// Whose instance of which lab
        #[command(flatten)]
        class: Class,
        /// Also power it on
        #[arg(long)]
        start: bool,
    },
    /// Power on an instance, and create it first if needed
    ///
    /// A paused instance is resumed as it was. The answer has the console's ports and a new
    /// password, valid for 60 seconds; a session opened in that time stays open. To get a new
    /// password for a running instance, start it again.
    #[command(after_help = "Examples:
  cyyber instance start lab01 7          state, ports and password as text
  cyyber instance start lab01 7 --wait   the same, once its guest is ready
  cyyber -o json instance start lab01 7  the same as JSON, for a web backend
  cyyber instance start lab01 --users-from class.txt")]
    Start {
        /// Whose instance of which lab
        #[command(flatten)]
        class: Class,
        /// Whether to wait
        #[command(flatten)]
        wait: Wait,
    },
    /// Pause an instance and free its memory on the host
    ///
    /// Saves the guest's memory to disk and frees its RAM. `resume` and `start` bring the instance
    /// back as it was, running. If the memory cannot be saved, for example because the disk is
    /// full, or on Ctrl-C, the instance keeps running.
    #[command(after_help = "Examples:
  cyyber instance pause lab01 7                save its memory to disk, free its RAM
  cyyber instance pause lab01 7 --keep-memory  freeze it in RAM, for a quick resume
  cyyber instance pause lab01 --users-from class.txt")]
    Pause {
        /// Whose instance of which lab
        #[command(flatten)]
        class: Class,
        /// Freeze it in RAM instead of saving its memory to disk
        #[arg(long)]
        keep_memory: bool,
    },
    /// Resume a paused instance
    ///
    /// It continues where it was paused, at full speed. Its clock is set if it has a guest agent.
    /// As with `start`, the answer has the console's ports and a new password. A stopped instance
    /// cannot be resumed; use `start`.
    #[command(after_help = "Examples:
  cyyber instance resume lab01 7          state, ports and password as text
  cyyber instance resume lab01 7 --wait   the same, once its guest answers
  cyyber -o json instance resume lab01 7  the same as JSON, for a web backend
  cyyber instance resume lab01 --users-from class.txt")]
    Resume {
        /// Whose instance of which lab
        #[command(flatten)]
        class: Class,
        /// Whether to wait
        #[command(flatten)]
        wait: Wait,
    },
    /// Shut down an instance
    ///
    /// Asks the guest to shut down, through its agent and the ACPI power button, and powers it off
    /// if it still runs after the timeout. A paused instance is resumed first, so that it can shut
    /// down cleanly. The disk is kept.
    #[command(after_help = "Examples:
  cyyber instance stop lab01 7               shut down, or power off after 30 seconds
  cyyber instance stop lab01 7 --timeout 2m  for a slow guest
  cyyber instance stop lab01 7 --force       power off at once, for a guest that hangs
  cyyber instance stop lab01 --users-from class.txt")]
    Stop {
        /// Whose instance of which lab
        #[command(flatten)]
        class: Class,
        /// How long the guest may take, for example 90s or 2m
        #[arg(long, value_name = "DURATION", default_value = "30s")]
        timeout: Duration,
        /// Power off at once; unsaved data in the guest and in saved memory is lost
        #[arg(long)]
        force: bool,
    },
    /// Replace an instance's disk with a clean one on the lab's current base image
    ///
    /// For a broken VM, or one that uses an old build. Everything in the instance is lost,
    /// including saved memory; afterwards it is stopped. Asks for confirmation at a terminal;
    /// elsewhere --yes is required.
    #[command(after_help = "Examples:
  cyyber instance reset lab01 7        asks first
  cyyber instance reset lab01 7 --yes  for a script")]
    Reset {
        /// Whose instance of which lab
        #[command(flatten)]
        target: Target,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
    /// Destroy instances and their disks
    ///
    /// Destroys the VM, saved memory, disk and activity file of each selected instance; without
    /// options, of all instances. A base image that an instance uses is never removed, nor is a VM
    /// that cyyber did not create.
    ///
    /// Also removes what interrupted commands left behind (a disk or saved memory without its VM, a
    /// VM without its disk) and old builds of base images that no instance uses any more.
    ///
    /// Asks for confirmation at a terminal; elsewhere --yes is required.
    Cleanup(Cleanup),
    /// Get the console's ports and a new password
    ///
    /// The instance must be running. The password is valid for 60 seconds and replaces the previous
    /// one. Sessions that are open stay open.
    ///
    /// If `cyyber gateway` runs, the answer also has a path for a browser, valid for 60 seconds and
    /// for one connection. Connecting with it starts or resumes the instance.
    #[command(after_help = "Examples:
  cyyber instance console lab01 7          ports and password as text
  cyyber -o json instance console lab01 7  the same as JSON, for a web backend
  cyyber instance console lab01 7 --view   a path to watch, without keyboard and pointer")]
    Console {
        /// Whose instance of which lab
        #[command(flatten)]
        target: Target,
        /// Return only the path through the gateway; the instance may also be paused or stopped,
        /// and is started when the browser connects
        #[arg(long)]
        path_only: bool,
        /// Return only a path to watch: its session sends no input, does not count as use, and does
        /// not start the instance
        #[arg(long)]
        view: bool,
    },
    /// Mark an instance as in use now
    ///
    /// Restarts its idle time, and gives an idle instance its full CPU time back. A program can
    /// instead set the modification time of the file state_dir/activity/INSTANCE.
    #[command(after_help = "Examples:
  cyyber instance touch lab01 7  user 7 is active")]
    Touch(Target),
    /// Exempt an instance from the idle policy
    ///
    /// Until the given time `cyyber reap` does not throttle, pause, stop or destroy it; an idle
    /// instance gets its full CPU time back at once. `--until off` ends the exemption. Commands
    /// that you run yourself work as usual.
    #[command(after_help = "Examples:
  cyyber instance keep lab01 7 --until 3d                for three days from now
  cyyber instance keep lab01 7 --until 2027-01-31        until the end of that day
  cyyber instance keep lab01 7 --until 2027-01-31T18:00  in this host's time zone
  cyyber instance keep lab01 7 --until off               end the exemption")]
    Keep {
        /// Whose instance of which lab
        #[command(flatten)]
        target: Target,
        /// A duration from now (90s, 10m, 24h, 7d), a date, a time, or off
        #[arg(long, value_name = "TIME|DURATION|off")]
        until: Until,
    },
    /// Run a command in the guest
    ///
    /// Runs the command through the guest agent as root, without a shell and with empty standard
    /// input, and returns its output and exit status. This does not count as use. With --users-from
    /// each line of output begins with the user's id. An instance that is not running is reported,
    /// unless --wake starts it.
    #[command(after_help = "Examples:
  cyyber instance exec lab01 7 -- systemctl is-active ssh
  cyyber instance exec lab01 7 --wake -- sh -c 'df -h / | tail -1'
  cyyber instance exec lab01 --users-from class.txt -- test -e /home/student/report.txt
  cyyber -o json instance exec lab01 7 -- hostname  for a program")]
    Exec {
        /// Whose instance of which lab
        #[command(flatten)]
        class: Class,
        /// Start instances that do not run, and wait for their guest agents
        #[arg(long)]
        wake: bool,
        /// Kill the command after this long, for example 90s or 10m
        #[arg(long, value_name = "DURATION", default_value = "60s")]
        timeout: Duration,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Copy files into the guest
    ///
    /// Copies files and directories of this host into the guest, each completely or not at all.
    /// They get the owner of their target directory. Existing files are not replaced
    /// without --replace. The instance must be running.
    Push(Push),
    /// Copy files out of the guest
    ///
    /// Copies a file or a directory of the guest into DIR/USER, completely or not at all. Only you
    /// can read the copies, which keep their modification times. Links that lead out of the
    /// collected directory, devices, and names that are not plain text are left out and reported.
    /// Existing files are not replaced.
    #[command(after_help = "Examples:
  cyyber instance collect lab01 7 --from /home/student/report.txt --to handed-in
  cyyber instance collect lab01 --users-from class.txt --from /home/student/work --to handed-in")]
    Collect {
        /// Whose instance of which lab
        #[command(flatten)]
        class: Class,
        /// The file or directory in the guest
        #[arg(long, value_name = "PATH")]
        from: GuestPath,
        /// The directory on this host in which each user gets a subdirectory; created if it is
        /// missing
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// How much, and for how long
        #[command(flatten)]
        bounds: Bounds,
    },
    /// Show the resource use of instances
    ///
    /// CPU is measured over a quarter of a second, or between two refreshes with --watch. 100 % is
    /// one CPU of the host, fully used, so an instance with two CPUs can reach 200 %. USED is the
    /// host's memory that it uses now, GUEST the memory in use that its guest reports, DISK the
    /// size of its own disk without the shared base image.
    #[command(after_help = "Examples:
  cyyber instance stats                    all instances
  cyyber -o json instance stats lab01 7    one, for a program
  cyyber instance stats --watch            all instances, until Ctrl-C
  cyyber instance stats lab01 7 --watch 5  one, every 5 seconds")]
    Stats {
        /// The lab's id [default: all instances]
        #[arg(requires = "user")]
        lab: Option<LabId>,
        /// The user's id
        user: Option<UserId>,
        /// Repeat every SECONDS, from 1 to 3600, until Ctrl-C; put LAB USER before this option
        /// [default: 2]
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
        watch: Option<Interval>,
    },
    /// Write a page with the screens of all running instances
    ///
    /// Takes a screenshot of each instance and writes DIR/index.html, which browsers refresh by
    /// themselves. This does not count as use. Only you can read the files: to show the page to
    /// others, open it in your own browser.
    #[command(after_help = "Examples:
  cyyber instance screens --html wall               once, of all labs
  cyyber instance screens lab01 --html wall --watch  every 10 seconds, until Ctrl-C")]
    Screens(Screens),
    /// List instances and their states
    ///
    /// VNC and NOVNC are the ports of the console; NOVNC is for noVNC in a browser. ADDRESS is the
    /// guest's address in the lab network, while it runs. BASE is old if the lab was rebuilt after
    /// the instance was created. ACTIVE is the time since the last activity. On a narrow terminal
    /// some columns are left out.
    #[command(after_help = "Examples:
  cyyber instance list --lab lab01              the whole class
  cyyber instance list --user 7                 all VMs of one student
  cyyber -o json instance list --state running  for a program")]
    List {
        /// Only instances of this lab
        #[arg(long)]
        lab: Option<LabId>,
        /// Only instances of this user
        #[arg(long)]
        user: Option<UserId>,
        /// Only instances in this state
        #[arg(long, value_enum)]
        state: Option<State>,
    },
}

/// `cyyber instance screens`
#[derive(Debug, Args)]
pub struct Screens {
    /// The lab's id [default: all labs]
    pub lab: Option<LabId>,
    /// The directory for the page and its pictures; created if it is missing
    #[arg(long, value_name = "DIR", required = true)]
    pub html: PathBuf,
    /// Repeat every SECONDS, from 1 to 3600, until Ctrl-C; put LAB before this option
    /// [default: 10]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "10")]
    pub watch: Option<Interval>,
    /// The address of noVNC's page, for example https://labs.example.org/novnc/vnc.html: each
    /// picture links to it, to watch that screen through the gateway
    #[arg(long, value_name = "URL")]
    pub viewer: Option<String>,
}

/// Commands on hosts.
#[derive(Debug, Subcommand)]
pub enum Host {
    /// List the hosts, with their state, memory, CPUs and instances
    ///
    /// MEMORY and CPUS are what Slurm may allocate to instances, FREE is what is not allocated.
    /// INSTANCES counts the instances whose disks are on the host, RUNNING those that use memory.
    #[command(after_help = "Examples:
  cyyber host list           as a table
  cyyber -o json host list   for a program")]
    List,
    /// Move all instances off a host, so that it can be maintained
    ///
    /// Slurm places no more instances on the host. Its instances move to other hosts: running ones
    /// are paused, moved and resumed, the others are moved as they are. If no other host has room
    /// for an instance, it stays where it is, and this is reported. You can interrupt the command
    /// and run it again.
    #[command(after_help = "Examples:
  cyyber host drain h3   before you switch it off
  cyyber host resume h3  when it is back")]
    Drain {
        /// The host's name, as in `cluster.hosts`
        host: HostName,
    },
    /// Return a drained, fenced or failed host to service
    #[command(after_help = "Examples:
  cyyber host resume h3")]
    Resume {
        /// The host's name, as in `cluster.hosts`
        host: HostName,
    },
    /// Declare that a host is off, so that its instances can start elsewhere
    ///
    /// First make sure that it is off: pull its plug. If it still runs, two VMs will write to one
    /// disk. Nothing restarts by itself: each instance starts on another host when it is next
    /// started; memory that was not saved is lost.
    ///
    /// Asks for confirmation at a terminal; elsewhere --yes is required. Fails if the host still
    /// answers.
    #[command(after_help = "Examples:
  cyyber host fence h3        asks first
  cyyber host fence h3 --yes  for a script that has switched it off")]
    Fence {
        /// The host's name, as in `cluster.hosts`
        host: HostName,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
    /// Used by the head: prepare an instance to leave this host
    #[command(hide = true)]
    Release {
        /// Whose instance of which lab
        #[command(flatten)]
        target: Target,
        /// The host that it moves to
        #[arg(long)]
        to: HostName,
    },
    /// Used by the head: bring an instance to this host
    #[command(hide = true)]
    Adopt {
        /// Whose instance of which lab
        #[command(flatten)]
        target: Target,
        /// The host that it comes from
        #[arg(long)]
        from: HostName,
    },
    /// Used by the head: forget instances that have left this host
    #[command(hide = true)]
    Forget {
        /// The lab's id [default: all instances]
        #[arg(requires = "user")]
        lab: Option<LabId>,
        /// The user's id
        user: Option<UserId>,
    },
}

/// Options of `cyyber instance push`.
#[derive(Debug, Args)]
#[command(
    override_usage = "cyyber instance push [OPTIONS] LAB USER SOURCE... TARGET\n       \
                      cyyber instance push [OPTIONS] LAB --users-from FILE SOURCE... TARGET",
    after_help = "Examples:
  cyyber instance push lab01 7 task.pdf /home/student/
  cyyber instance push lab01 --users-from class.txt task/ data.csv /home/student/
  cyyber instance push lab01 7 sshd.conf /etc/ssh/sshd_config.d/class.conf --replace"
)]
pub struct Push {
    /// The lab's id, as in labs-config.json
    pub lab: LabId,
    /// The user's id, unless --users-from is given; files and directories of this host; and the
    /// target in the guest: a directory, or for a single source also a new name
    #[arg(required = true, num_args = 2.., value_name = "USER SOURCE... TARGET")]
    pub paths: Vec<String>,
    /// Act on every user in this file, one id per line; - is standard input
    #[arg(long, value_name = "FILE")]
    pub users_from: Option<PathBuf>,
    /// How many users to work on in parallel
    #[arg(long, value_name = "N", default_value_t = 4, requires = "users_from", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub jobs: u8,
    /// The owner of the copied files, as named in the guest [default: the owner of the target
    /// directory]
    #[arg(long, value_name = "USER[:GROUP]")]
    pub owner: Option<GuestOwner>,
    /// Replace existing files and directories of the same name
    #[arg(long)]
    pub replace: bool,
    /// How much, and for how long
    #[command(flatten)]
    pub bounds: Bounds,
}

/// Options of `cyyber instance cleanup`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cyyber instance cleanup --lab lab01 --dry-run       show what would be destroyed
  cyyber instance cleanup --inactive-for 7d           unused for a week; asks first
  cyyber instance cleanup --state stopped --yes       for a script
  cyyber -o json instance cleanup lab01 7 --yes       one instance, for a web backend")]
pub struct Cleanup {
    /// The lab's id, for a single instance
    #[arg(requires = "user", conflicts_with_all = ["of_lab", "of_user"])]
    pub lab: Option<LabId>,
    /// The user's id, for a single instance
    pub user: Option<UserId>,
    /// Only instances of this lab
    #[arg(long = "lab", value_name = "LAB")]
    pub of_lab: Option<LabId>,
    /// Only instances of this user
    #[arg(long = "user", value_name = "USER")]
    pub of_user: Option<UserId>,
    /// Only instances in this state
    #[arg(long, value_enum)]
    pub state: Option<State>,
    /// Only instances not used for this long, for example 24h or 7d, by the reaper's signs of use;
    /// instances that are kept, or whose last use is unknown, are left out
    #[arg(long, value_name = "DURATION")]
    pub inactive_for: Option<Duration>,
    /// Print what would be destroyed, but destroy nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    pub yes: bool,
}

/// Options of `cyyber reap`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cyyber reap --dry-run            every instance: its signs of use, the next step, and when
  cyyber reap -v                   each step and its reason
  cyyber -o json reap              for a program")]
pub struct Reap {
    /// Print what would be done with each instance and why, but do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How many instances to act on in parallel
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub jobs: u8,
    /// How long a guest may take to shut down, for example 90s or 2m
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub timeout: Duration,
}

/// Options of `cyyber report`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cyyber report                           the last 7 days
  cyyber report --since 30d --lab lab01   one lab, the last 30 days
  cyyber report --html report.html        a page with plots, to view or print
  cyyber -o json report                   for a program")]
pub struct Report {
    /// How far to look back, for example 24h or 30d
    #[arg(long, value_name = "DURATION", default_value = "7d")]
    pub since: Duration,
    /// Only this lab
    #[arg(long)]
    pub lab: Option<LabId>,
    /// Write a page with plots to this file instead of printing tables
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Options of `cyyber timetable`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cyyber timetable                 the next 7 days
  cyyber timetable --ahead 30d     the next 30 days
  cyyber -o json timetable         for a program")]
pub struct Timetable {
    /// How far to look ahead, for example 24h or 30d
    #[arg(long, value_name = "DURATION", default_value = "7d")]
    pub ahead: Duration,
}

/// Options of `cyyber gateway`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cyyber gateway                   on 127.0.0.1:5690, behind a web server
  cyyber gateway --listen 0.0.0.0:443 --certificate cert.pem --key key.pem")]
pub struct Gateway {
    /// The address and port to listen on; any but a loopback address needs a certificate, except on
    /// one of several hosts
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:5690")]
    pub listen: SocketAddr,
    /// A PEM file with the TLS certificate and its chain; read again when it changes, and on SIGHUP
    #[arg(long, value_name = "FILE", requires = "key")]
    pub certificate: Option<PathBuf>,
    /// A PEM file with the private key of the certificate
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
    /// The maximum number of sessions
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub sessions: u16,
}

/// Options of `cyyber metrics`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cyyber metrics                   on standard output
  cyyber metrics --textfile /var/lib/prometheus/node-exporter/cyyber.prom
  cyyber -o json metrics           for another program")]
pub struct Metrics {
    /// Write the metrics to this file instead of printing them
    #[arg(long, value_name = "PATH")]
    pub textfile: Option<PathBuf>,
}

/// Options of `cyyber doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cyyber doctor                    all findings and how to fix them
  cyyber doctor --verify           also verify the content of base images
  cyyber -o json doctor            for a program")]
pub struct Doctor {
    /// Compare the content of each base image with the checksum recorded at its build; reads them
    /// all
    #[arg(long)]
    pub verify: bool,
}

/// Limits on size and time of a copy.
#[derive(Debug, Args)]
pub struct Bounds {
    /// The maximum to copy for each user, for example 500M or 4G
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    pub max_size: ByteSize,
    /// The time limit for each user, for example 90s or 10m
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    pub timeout: Duration,
}

/// One instance, by lab and user.
#[derive(Debug, Args)]
pub struct Target {
    /// The lab's id, as in labs-config.json
    pub lab: LabId,
    /// The user's id: at most 64 letters, digits, '.' and '-'
    pub user: UserId,
}

/// Whether to wait for a guest.
#[derive(Debug, Args)]
pub struct Wait {
    /// Wait until the guest is ready: for 5 minutes at most, or for DURATION, for example --wait=90s
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "5m")]
    pub wait: Option<Duration>,
}

/// One instance, or those of many users, of one lab.
#[derive(Debug, Args)]
pub struct Class {
    /// The lab's id, as in labs-config.json
    pub lab: LabId,
    /// The user's id: at most 64 letters, digits, '.' and '-'
    #[arg(required_unless_present = "users_from")]
    pub user: Option<UserId>,
    /// Act on every user in this file, one id per line; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    pub users_from: Option<PathBuf>,
    /// How many users to work on in parallel
    #[arg(long, value_name = "N", default_value_t = 4, conflicts_with = "user", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub jobs: u8,
}
