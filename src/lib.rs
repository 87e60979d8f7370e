//! cyyber: branded lab VMs for cyber-security teaching.
//!
//! A map of the code. Dependencies point one way: `main` → [`cmd`] → [`reaper`] → [`instance`] →
//! modules for outside things → pure modules.
//!
//! | where | what |
//! |---|---|
//! | [`cli`] | the command line, clap types only |
//! | [`cmd`] | the commands: each calls the engine and passes the answer to `output`; shell completion is in `cmd/complete.rs` |
//! | [`gateway`] | the service in front of all consoles; like `cmd`, it uses the engine |
//! | [`reaper`] | the idle policy: signs of use, the step that is due, and a pass over all instances |
//! | [`instance`] | the engine: the states of an instance and all operations on it |
//! | [`context`] | what every command needs: configuration, paths, hypervisor, time |
//! | [`hypervisor`] | libvirt and its XML; the only module that uses the `virt` crate |
//! | [`images`] | stages, base builds, warm images and overlays |
//! | [`packer`] | building a lab's image |
//! | [`cluster`] | several hosts: the role of this machine, the shared directory, and all calls to Slurm |
//! | [`journal`] | one line for every state change, build and failure |
//! | [`ledger`] | figures computed from the journal: memory freed, wakes, failures, builds, hours of use |
//! | [`state`] | activity, exemptions, locks and tokens in the state directory |
//! | [`files`] | atomic writes and careful reads of files |
//! | [`process`] | starting outside programs |
//! | [`appliance`] | libguestfs: reads the disks of VMs that do not run |
//! | [`parallel`] | bounded parallel work |
//! | [`host`] | the host's available memory and load |
//! | [`sharing`] | merging equal pages of guests' memory by the kernel (KSM) |
//! | [`firewall`] | checks whether the firewall of the lab networks is unchanged |
//! | [`interrupt`] | SIGINT and SIGTERM |
//! | [`output`] | everything printed to the terminal |
//! | [`env`](mod@env) | environment variables |
//! | [`config`] | `labs-config.json` |
//! | [`paths`] | every path |
//! | [`accelerator`] | hardware virtualisation or software emulation |
//! | [`network`] | MAC addresses, IP addresses and ports of the lab networks; pure |
//! | [`inputs`] | the inputs of an image, and which of them changed; pure |
//! | [`prometheus`] | the text format of metrics; pure |
//! | [`scope`] | the user whose instances a command may act on; pure |
//! | [`roster`] | lists of users from a file; pure |
//! | [`timetable`] | lessons, and what they mean for an instance; pure |
//! | [`text`] | decoding text files, and bytes as digits; pure |
//! | [`nearest`] | suggestions for misspelt names; pure |
//! | [`checked`] | strings that are checked against a pattern when they are read; pure |
//! | [`secret`] | values that must not be printed by accident; pure |
//! | [`names`], [`units`], [`error`] | names and states, sizes and durations, failures; pure |
//! | [`clock`] | the current time and the time since boot |

pub mod accelerator;
pub mod appliance;
pub mod checked;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod cmd;
pub mod config;
pub mod context;
pub mod env;
pub mod error;
pub mod files;
pub mod firewall;
pub mod gateway;
pub mod host;
pub mod hypervisor;
pub mod images;
pub mod inputs;
pub mod instance;
pub mod interrupt;
pub mod journal;
pub mod ledger;
pub mod names;
pub mod nearest;
pub mod network;
pub mod output;
pub mod packer;
pub mod parallel;
pub mod paths;
pub mod process;
pub mod prometheus;
pub mod reaper;
pub mod roster;
pub mod scope;
pub mod secret;
pub mod sharing;
pub mod state;
pub mod text;
pub mod timetable;
pub mod units;
