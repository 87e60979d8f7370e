//! `labs-config.json`: found, read, checked, and turned into [`Lab`]s with every default applied.
//!
//! All errors in the file are reported here, before anything else happens: with the file, the place
//! in it, and what is allowed there.

mod cluster;
pub mod connect;
mod custom;
mod json;
mod lab;
mod schema;
mod text;
mod timetable;

use std::collections::HashSet;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use cluster::{Cluster, ClusterHost, Engine, HostName};
pub use connect::ConnectUri;
pub use custom::{Branding, FileMode, Owner, Provision, ProvisionFile, SourcePath, Target};
pub use lab::{Desktop, Https, Image, ImageUrl, Lab, Limits, NetworkMode, Policy};
pub use schema::schema;
pub use text::{Line, PackageName, Sha256, Text};
pub use timetable::{Course, Day, Days, IsoDate, TimeOfDay, Zone};

use json::{Object, Unambiguous};

use crate::error::{Fault, Kind, hint_of};
use crate::files::trust::{Refusal, Trust};
use crate::names::LabId;
use crate::nearest::nearest;
use crate::units::ByteSize;

/// The paths where the file is searched if neither option nor environment names one.
pub const SEARCHED: [&str; 2] = ["labs-config.json", "/etc/cyyber/labs-config.json"];

/// Keys that must be set in each lab, not in the defaults.
const OWN_KEYS: [&str; 4] = ["lab_id", "lab_name", "packages", "motd"];

/// The maximum size of the file, so that a device or a log that is named by mistake is not read to
/// its end.
const LARGEST_FILE: u64 = 16 << 20;

/// How many labs a hint lists.
const MOST_NAMED: usize = 12;

/// The complete, checked configuration. The default one is that of a host without a file.
#[derive(Debug, Default)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// The labs, in the file's order; ids are unique.
    pub labs: Vec<Lab>,
    /// This machine's settings.
    pub host: Host,
    /// Which class has which lab at what time.
    pub timetable: Vec<Course>,
    /// The hosts that run the instances, if there are several.
    pub cluster: Option<Cluster>,
}

/// The configuration file; `defaults` apply to each lab.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Outline {
    /// The schema of this file, for editors; ignored.
    #[serde(rename = "$schema")]
    _schema: Option<String>,
    #[schemars(schema_with = "schema::labs")]
    labs: Vec<Map<String, Value>>,
    #[serde(default)]
    #[schemars(schema_with = "schema::defaults")]
    defaults: Map<String, Value>,
    /// Settings of this host.
    #[serde(default, deserialize_with = "json::object")]
    host: Host,
    /// Which class has which lab at what time: its instances are ready before a lesson, and paused
    /// after it.
    #[serde(default, deserialize_with = "json::objects")]
    timetable: Vec<Course>,
    /// Several hosts, on which Slurm places the instances.
    cluster: Option<Object<Cluster>>,
}

/// Settings of this machine rather than of a lab.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Host {
    /// The libvirt connection URI.
    pub connect: ConnectUri,
    /// Base images and overlays.
    pub storage_dir: PathBuf,
    /// Activity, records and locks.
    pub state_dir: PathBuf,
    /// Directory for the results of builds; relative to the working directory.
    pub output_dir: PathBuf,
    /// Templates that replace the built-in ones; relative to the configuration's directory.
    pub templates_dir: Option<PathBuf>,
    /// Hardware virtualisation or software emulation.
    pub accelerator: AcceleratorChoice,
    /// The address on which consoles listen.
    pub vnc_listen: IpAddr,
    /// Whether consoles may listen on an address that other hosts can reach.
    pub vnc_exposed: bool,
    /// Whether the kernel merges equal pages of instances' memory; see the manual for the risk.
    pub share_memory: bool,
    /// Whether unused instances are paused if memory is short.
    pub displace: bool,
    /// Passes pause unused instances while the host has less memory available than this.
    pub min_available_memory: Option<ByteSize>,
    /// All instances together use no more memory than this, even if the host has more.
    pub max_memory: Option<ByteSize>,
    /// A program that is run for each announcement of a pass; relative to the configuration's
    /// directory.
    pub notify: Option<PathBuf>,
}

impl Default for Host {
    fn default() -> Self {
        Host {
            connect: ConnectUri::default(),
            storage_dir: "/var/lib/libvirt/images/cyyber-labs".into(),
            state_dir: "/var/lib/cyyber".into(),
            output_dir: "cyyber-labs-output".into(),
            templates_dir: None,
            accelerator: AcceleratorChoice::Auto,
            vnc_listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            vnc_exposed: false,
            share_memory: false,
            displace: true,
            min_available_memory: None,
            max_memory: None,
            notify: None,
        }
    }
}

impl Host {
    /// Checks that involve several keys. An error is the key's place in the file, and the problem.
    fn check(&self) -> Result<(), String> {
        if self.vnc_listen.is_loopback() || self.vnc_exposed {
            return Ok(());
        }
        let (key, address) = ("host.vnc_listen", self.vnc_listen);
        let allowed = "allowed is 127.0.0.1, or any address with \"vnc_exposed\": true";
        let why = "is reached from other hosts, and VNC is not encrypted";
        Err(format!("{key}: {address} {why}: {allowed}"))
    }
}

/// The accelerator to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum AcceleratorChoice {
    /// KVM if it works, else software emulation with a warning.
    Auto,
    /// KVM, or fail.
    Kvm,
    /// Software emulation.
    Tcg,
}

impl Config {
    /// Reads and checks the configuration at `given`, or at the first of [`SEARCHED`] that exists.
    pub fn load(given: Option<&Path>) -> Result<Config> {
        Config::load_trusted(given, Trust::new(None))
    }

    /// Like [`Config::load`], with files of the users that `trust` accepts.
    pub fn load_trusted(given: Option<&Path>, trust: Trust) -> Result<Config> {
        let here = || {
            SEARCHED
                .map(PathBuf::from)
                .into_iter()
                .find(|it| it.exists())
        };
        let path = given.map(Path::to_owned).or_else(here).ok_or_else(|| {
            let places = SEARCHED.join(" and ");
            let message = format!("no configuration file: looked for {places}");
            Fault::new(Kind::Config, message)
                .hint("write a labs-config.json, or name one with --config or CYYBER_CONFIG")
        })?;
        let text = read(&path, trust).map_err(|error| {
            let message = format!("failed to read the configuration {}", path.display());
            let other = "name the configuration with --config or CYYBER_CONFIG";
            let hint = hint_of(&error).unwrap_or(other).to_owned();
            error.context(Fault::new(Kind::Config, message).hint(hint))
        })?;
        parse(&text, &path).with_context(|| {
            let message = format!("invalid configuration {}", path.display());
            Fault::new(Kind::Config, message)
                .hint("`man labs-config.json` has every key and what is allowed for it")
        })
    }

    /// The lab called `id`.
    pub fn lab(&self, id: &LabId) -> Result<&Lab> {
        let mut labs = self.labs.iter();
        labs.find(|lab| lab.lab_id == *id).ok_or_else(|| {
            let message = format!("no lab '{id}' in {}", self.path.display());
            let fault = Fault::new(Kind::NotFound, message);
            fault.hint(self.known_labs(id)).into()
        })
    }

    /// The hint for an unknown lab.
    fn known_labs(&self, id: &LabId) -> String {
        let known: Vec<_> = self.labs.iter().map(|lab| lab.lab_id.as_str()).collect();
        let (shown, more) = known.split_at(known.len().min(MOST_NAMED));
        let mut hint = format!("known labs: {}", shown.join(", "));
        if let Some(meant) = nearest(id.as_str(), known.iter().copied()) {
            hint = format!("did you mean {meant}? {hint}");
        }
        if !more.is_empty() {
            hint.push_str(&format!(" and {} more", more.len()));
        }
        hint
    }
}

fn read(path: &Path, trust: Trust) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = trust
        .open(path)
        .map_err(|refusal| untrusted(refusal, path))?;
    let read = file.take(LARGEST_FILE + 1).read_to_end(&mut text)?;
    let most = LARGEST_FILE >> 20;
    anyhow::ensure!(read as u64 <= LARGEST_FILE, "it is larger than {most} MiB");
    Ok(text)
}

/// The error for a configuration, or a file that it names, that another user may have written.
pub fn untrusted(refusal: Refusal, path: &Path) -> anyhow::Error {
    let why = match refusal {
        Refusal::Io(error) => return error.into(),
        Refusal::Untrusted(why) => why,
    };
    let hint =
        "it and its directories must belong to root or to you, and be writable by nobody else";
    let message = format!("{} cannot be trusted: {why}", path.display());
    Fault::new(Kind::Config, message).hint(hint).into()
}

fn parse(text: &[u8], path: &Path) -> Result<Config> {
    // Parse the text twice: first only for syntax errors, which have a line and a column, then for
    // meaning, whose errors have a place such as `labs[0].memory_mb`.
    let text = crate::text::utf8(text.to_vec()).map_err(anyhow::Error::msg)?;
    let Unambiguous(document) = serde_json::from_str(&text)?;
    let outline: Outline = typed(document, str::to_owned)?;
    outline.host.check().map_err(anyhow::Error::msg)?;
    let cluster = outline.cluster.map(|Object(cluster)| cluster);
    let checked = cluster.as_ref().map_or(Ok(()), Cluster::check);
    checked.map_err(anyhow::Error::msg)?;
    anyhow::ensure!(!outline.labs.is_empty(), "labs: at least one lab is needed");
    for key in OWN_KEYS {
        anyhow::ensure!(
            !outline.defaults.contains_key(key),
            "defaults.{key}: belongs to a lab, not to the defaults"
        );
    }

    check_defaults(&outline.defaults)?;

    let directory = path.parent().unwrap_or(Path::new(""));
    let mut labs: Vec<Lab> = Vec::with_capacity(outline.labs.len());
    let mut seen = HashSet::new();
    for (index, own) in outline.labs.iter().enumerate() {
        let mut lab: Lab = typed(lay_over(&outline.defaults, own), |place| {
            blame(place, own, &outline.defaults, index)
        })?;
        lab.check().map_err(|(place, message)| {
            anyhow::anyhow!("{}: {message}", blame(place, own, &outline.defaults, index))
        })?;
        lab.resolve_against(directory);
        let id = &lab.lab_id;
        let new = seen.insert(id.clone());
        anyhow::ensure!(
            new,
            "labs[{index}].lab_id: '{id}' is already the id of another lab"
        );
        labs.push(lab);
    }
    let mut host = outline.host;
    host.templates_dir = host.templates_dir.map(|given| directory.join(given));
    host.notify = host.notify.map(|given| directory.join(given));
    let mut timetable = outline.timetable;
    for (index, course) in timetable.iter_mut().enumerate() {
        let wrong = |place: &str, why: &str| anyhow::anyhow!("timetable[{index}].{place}: {why}");
        course.check().map_err(|(place, why)| wrong(place, &why))?;
        if !seen.contains(&course.lab) {
            return Err(wrong("lab", &format!("no lab '{}' in labs", course.lab)));
        }
        course.resolve_against(directory);
    }
    Ok(Config {
        path: path.to_owned(),
        labs,
        host,
        timetable,
        cluster,
    })
}

/// Errors in the defaults are reported even if every lab overrides them, except for the steps of
/// the policy, since each of them may come from elsewhere.
fn check_defaults(defaults: &Map<String, Value>) -> Result<()> {
    let mut lab = defaults.clone();
    lab.extend(OWN_KEYS.map(|key| (key.to_owned(), Value::from("lab"))));
    lab.insert("packages".to_owned(), Value::Array(Vec::new()));
    let blame = |place: &str| format!("defaults.{place}");
    let lab = Lab {
        policy: Policy::default(),
        ..typed(Value::Object(lab), blame)?
    };
    lab.check()
        .map_err(|(place, message)| anyhow::anyhow!("{}: {message}", blame(place)))
}

/// A lab's own settings override the defaults; `policy` and `limits` are merged key by key. An
/// `image` replaces the default one as a whole, because a checksum belongs to one URL.
fn lay_over(defaults: &Map<String, Value>, own: &Map<String, Value>) -> Value {
    let mut merged = defaults.clone();
    for (key, value) in own {
        match (merged.get_mut(key), value) {
            (Some(Value::Object(under)), Value::Object(over)) if key != "image" => {
                under.extend(over.clone());
            }
            _ => {
                merged.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(merged)
}

/// The place in the file where the setting at `place` of lab number `index` was written.
fn blame(
    place: &str,
    own: &Map<String, Value>,
    defaults: &Map<String, Value>,
    index: usize,
) -> String {
    let pointer = format!("/{}", place.replace(['.', '['], "/").replace(']', ""));
    let has = |map: &Map<String, Value>| {
        let map = Value::Object(map.clone());
        map.pointer(&pointer).is_some_and(|value| !value.is_null())
    };
    if !has(own) && has(defaults) {
        format!("defaults.{place}")
    } else if place.is_empty() || place == "." {
        format!("labs[{index}]")
    } else {
        format!("labs[{index}].{place}")
    }
}

fn typed<T: DeserializeOwned>(value: Value, place: impl Fn(&str) -> String) -> Result<T> {
    let read = serde_path_to_error::deserialize(value).map(|Object(value)| value);
    read.map_err(|error| {
        let at = place(&error.path().to_string());
        anyhow::anyhow!("{at}: {}", error.inner())
    })
}

#[cfg(test)]
mod tests;
