//! cyyber: branded lab VMs for cyber-security teaching.
//!
//! A map of the code. Arrows point one way: `main` → [`cmd`] → [`reaper`] → [`instance`] → the rooms for
//! outside things → the pure modules.
//!
//! | where | what |
//! |---|---|
//! | [`cli`] | the command line, clap types only |
//! | [`cmd`] | the verbs: each calls the engine and hands the answer to `output`; what Tab offers is in `cmd/complete.rs` |
//! | [`gateway`] | the one door to all consoles: a room beside `cmd`, which like it uses the engine |
//! | [`reaper`] | the idle policy: what is known of the use of instances, the step that is due, and a pass over all |
//! | [`instance`] | the engine: the states of an instance, and what is done to one |
//! | [`context`] | what every verb stands on: configuration, paths, hypervisor, time |
//! | [`hypervisor`] | libvirt, and its XML both ways; the only room that names the `virt` crate |
//! | [`images`] | stages, base builds, warm images and overlays |
//! | [`packer`] | building a lab's image |
//! | [`cluster`] | several hosts: where we are, what they share, and what Slurm is asked |
//! | [`journal`] | one line for every change of state, every build and every failure |
//! | [`ledger`] | what the journal adds up to: memory freed, wakes, failures, builds, hours of use |
//! | [`state`] | activity, exemptions, locks and tokens in the state directory |
//! | [`files`] | files written as a whole and read with care |
//! | [`process`] | starting outside programs |
//! | [`appliance`] | libguestfs: what is on disks of VMs that do not run |
//! | [`parallel`] | several things at once, but not too many |
//! | [`host`] | what memory the host has left, and how busy it is |
//! | [`sharing`] | equal pages of guests' memory, which the kernel can merge |
//! | [`firewall`] | whether the firewall of the lab networks stands as it was loaded |
//! | [`interrupt`] | signals that ask us to end |
//! | [`output`] | what reaches the terminal |
//! | [`env`](mod@env) | what is read from the environment |
//! | [`config`] | `labs-config.json` |
//! | [`paths`] | every path |
//! | [`accelerator`] | hardware virtualisation or software emulation |
//! | [`network`] | the cards of the lab networks, with their addresses and ports; pure |
//! | [`inputs`] | what an image is made from, and what of it changed; pure |
//! | [`prometheus`] | the text format of metrics; pure |
//! | [`scope`] | whose instances a command can reach; pure |
//! | [`roster`] | lists of users from a file; pure |
//! | [`timetable`] | when there are lessons, and what that makes of an instance; pure |
//! | [`text`] | text of files, in whatever encoding, and bytes as digits; pure |
//! | [`nearest`] | what was meant by a name that is not there; pure |
//! | [`checked`] | strings that are checked when they are read, each with its pattern; pure |
//! | [`secret`] | what is not to be seen by accident; pure |
//! | [`names`], [`units`], [`error`] | pure: names and states, sizes and durations, failures |

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
