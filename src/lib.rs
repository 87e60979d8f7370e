//! cyyber: branded lab VMs for cyber-security teaching.
//!
//! A map of the code. Arrows point one way: `main` → [`cmd`] → the rooms for outside things → the
//! pure modules.
//!
//! | where | what |
//! |---|---|
//! | [`cli`] | the command line, clap types only |
//! | [`cmd`] | one file a verb: what happens on `cyyber instance start` is in `cmd/instance/start.rs`; what Tab offers in `cmd/complete.rs` |
//! | [`context`] | what every verb stands on: configuration, paths, hypervisor, time |
//! | [`hypervisor`] | libvirt; the only room that names the `virt` crate |
//! | [`images`] | stages, base builds and overlays |
//! | [`packer`] | building a lab's image |
//! | [`state`] | activity, records and locks in the state directory |
//! | [`files`] | files written as a whole and read with care |
//! | [`process`] | starting outside programs |
//! | [`host`] | what memory the host has left, and how busy it is |
//! | [`firewall`] | whether the firewall of the lab networks stands as it was loaded |
//! | [`interrupt`] | signals that ask us to end |
//! | [`output`] | what reaches the terminal |
//! | [`env`](mod@env) | what is read from the environment |
//! | [`config`] | `labs-config.json` |
//! | [`paths`] | every path |
//! | [`accelerator`] | hardware virtualisation or software emulation |
//! | [`network`] | the cards of the lab networks, with their addresses and ports; pure |
//! | [`capacity`] | whether there is memory for one more guest; pure |
//! | [`inputs`] | what an image is made from, and what of it changed; pure |
//! | [`policy`] | the idle ladder: which step is due; pure |
//! | [`prometheus`] | the text format of metrics; pure |
//! | [`reach`] | whose instances a command can reach; pure |
//! | [`roster`] | lists of users from a file; pure |
//! | [`text`] | text of files, in whatever encoding; pure |
//! | [`nearest`] | what was meant by a name that is not there; pure |
//! | [`domain`], [`observe`] | domain XML both ways, and the state an instance is in; no I/O |
//! | [`qemu_user`] | the user that an instance's QEMU has for itself; pure |
//! | [`cards`] | network cards and their ports in definitions; pure |
//! | [`secret`] | what is not to be seen by accident; pure |
//! | [`instance`], [`units`], [`error`] | pure: names and states, sizes and durations, failures |

pub mod accelerator;
pub mod capacity;
pub mod cards;
pub mod cli;
pub mod clock;
pub mod cmd;
pub mod config;
pub mod context;
pub mod domain;
pub mod env;
pub mod error;
pub mod files;
pub mod firewall;
pub mod host;
pub mod hypervisor;
pub mod images;
pub mod inputs;
pub mod instance;
pub mod interrupt;
pub mod nearest;
pub mod network;
pub mod observe;
pub mod output;
pub mod packer;
pub mod paths;
pub mod policy;
pub mod process;
pub mod prometheus;
pub mod qemu_user;
pub mod reach;
pub mod roster;
pub mod secret;
pub mod state;
pub mod text;
pub mod units;
pub mod viewers;
