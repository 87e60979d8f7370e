//! One lab: the content of its image and the resources of its instances.

use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::custom::{Branding, Provision};
use super::json::object;
use super::text::{Line, PackageName, Sha256, Text};
use crate::checked::{BadText, checked};
use crate::names::LabId;
use crate::units::{ByteSize, Duration, Patience, age};
use jiff::SignedDuration;

/// The cloud image that labs are built from if the configuration names none.
const DEFAULT_IMAGE_URL: &str = "https://cloud-images.ubuntu.com/releases/noble/release-20260814/ubuntu-24.04-server-cloudimg-amd64.img";
/// As published in that release's `SHA256SUMS`.
const DEFAULT_IMAGE_SHA256: &str =
    "sha256:6e40c07ae715f744f84af0bec76415cc1987dd115b4b8de437818561f01a3733";

/// One entry of `labs`, with the defaults applied.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lab {
    /// The lab's id, which is part of all names derived from it.
    pub lab_id: LabId,
    /// The lab's title for people.
    pub lab_name: Line,
    /// Debian packages that the image contains.
    pub packages: Vec<PackageName>,
    /// The message of the day, The message of the day, `/etc/motd`.
    pub motd: Text,
    /// The cloud image it is built from.
    #[serde(default, deserialize_with = "object")]
    pub image: Image,
    /// Size of the virtual disk.
    #[serde(default = "default_disk_size")]
    pub disk_size: ByteSize,
    /// Memory of an instance in MiB.
    #[serde(default = "default_memory_mb")]
    #[schemars(range(min = 128, max = 1048576))]
    pub memory_mb: u32,
    /// Virtual CPUs of an instance.
    #[serde(default = "default_vcpus")]
    #[schemars(range(min = 1, max = 64))]
    pub vcpus: u32,
    /// Whether an instance can run virtual machines of its own on the processor.
    #[serde(default)]
    pub nested_virtualization: bool,
    /// Whether its instances start from the saved memory of a booted guest instead of booting.
    #[serde(default = "default_instant")]
    pub instant: bool,
    /// The graphical desktop.
    #[serde(default)]
    pub desktop: Desktop,
    /// Pictures that replace the built-in ones.
    #[serde(default, deserialize_with = "object")]
    pub branding: Branding,
    /// Files and scripts of the instructor.
    #[serde(default, deserialize_with = "object")]
    pub provision: Provision,
    /// Text shown after the MOTD.
    #[serde(default)]
    pub instructions: Text,
    /// What an instance can reach.
    #[serde(default)]
    pub network: NetworkMode,
    /// When an unused instance is throttled, paused, stopped and destroyed.
    #[serde(default, deserialize_with = "object")]
    pub policy: Policy,
    /// Limits on CPU, disk and network.
    #[serde(default, deserialize_with = "object")]
    pub limits: Limits,
}

fn default_disk_size() -> ByteSize {
    ByteSize(20 << 30)
}

fn default_memory_mb() -> u32 {
    2048
}

fn default_vcpus() -> u32 {
    2
}

fn default_instant() -> bool {
    true
}

impl Lab {
    /// Resolves relative paths against the configuration's `directory`.
    pub(super) fn resolve_against(&mut self, directory: &Path) {
        if let ImageUrl::Path(path) = &mut self.image.url {
            *path = directory.join(&*path);
        }
        let sources = self.branding.sources().chain(self.provision.sources());
        sources.for_each(|path| path.resolve_against(directory));
    }

    /// Checks that involve several keys. An error is the key's place in the lab, and the problem.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let limits = &self.limits;
        within("memory_mb", self.memory_mb, 128..=1 << 20)?;
        within("vcpus", self.vcpus, 1..=64)?;
        let disk = ByteSize(1 << 30)..=ByteSize(16 << 40);
        within("disk_size", self.disk_size, disk)?;
        // QEMU accepts a little less than 1000 times as much.
        let (key, most) = ("limits.disk_bytes_per_second", ByteSize(1 << 40));
        limit(key, limits.disk_bytes_per_second, ByteSize(1 << 10)..=most)?;
        limit("limits.disk_iops", limits.disk_iops, 1..=u32::MAX)?;
        // tc stores the burst of one second in 32 bits.
        let (key, most) = ("limits.network_bytes_per_second", ByteSize(4095 << 20));
        limit(
            key,
            limits.network_bytes_per_second,
            ByteSize(1 << 10)..=most,
        )?;
        within("limits.cpu_percent", limits.cpu_percent, 1..=100)?;
        let overlay = ByteSize(64 << 20)..=ByteSize(16 << 40);
        within("limits.overlay_size", limits.overlay_size, overlay)?;
        self.policy.check()?;
        self.provision.check()?;
        if matches!(self.image.url, ImageUrl::Https(_)) && self.image.checksum.is_none() {
            let message = "a download needs its \"checksum\", as in \"sha256:…\"";
            return Err(("image", message.to_owned()));
        }
        Ok(())
    }
}

/// Fails if there is a value that is not `allowed`.
fn within<T: PartialOrd + Display>(
    place: &'static str,
    value: impl Into<Option<T>>,
    allowed: RangeInclusive<T>,
) -> Result<(), (&'static str, String)> {
    let Some(value) = value.into().filter(|value| !allowed.contains(value)) else {
        return Ok(());
    };
    let (low, high) = allowed.into_inner();
    Err((
        place,
        format!("{value} is out of range: allowed is {low} to {high}"),
    ))
}

/// The same for a limit, where 0 may be meant as no limit.
fn limit<T: PartialOrd + Display + Default>(
    place: &'static str,
    value: Option<T>,
    allowed: RangeInclusive<T>,
) -> Result<(), (&'static str, String)> {
    if value.as_ref() == Some(&T::default()) {
        let message = "0 is not allowed: leave the key out for no limit";
        return Err((place, message.to_owned()));
    }
    within(place, value, allowed)
}

/// A cloud image: its location and its checksum.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend(
    "if" = {"properties": {"url": {"pattern": "^https://"}}},
    "then" = {"required": ["url", "checksum"]}
))]
pub struct Image {
    /// `https://…`, or a path relative to the configuration's directory.
    pub url: ImageUrl,
    /// Required for a download.
    pub checksum: Option<Sha256>,
}

impl Default for Image {
    fn default() -> Self {
        Image {
            url: ImageUrl::Https(Https(DEFAULT_IMAGE_URL.to_owned())),
            checksum: DEFAULT_IMAGE_SHA256.parse().ok(),
        }
    }
}

/// The location of a cloud image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("minLength" = 1, "anyOf" = [{"pattern": Https::PATTERN}, {"not": {"pattern": "://"}}]))]
pub enum ImageUrl {
    /// Downloaded by Packer, once.
    Https(Https),
    /// A file of this machine.
    Path(PathBuf),
}

checked! {
    /// An address to download from. Packer expands `{{ }}` in it, and it is shown to people.
    struct Https, "image address", r#"https://[^/?#@{}"\\$`<>\s]*([/?#][^{}"\\$`<>\s]*)?"#,
    "allowed is an https:// address or the path of a file",
    |text| (text.is_ascii() && text.len() < 2000).then(|| text.to_owned())
}

impl TryFrom<String> for ImageUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let rest = text.strip_prefix("https://").unwrap_or_default();
        let host = rest.split(['/', '?', '#']).next();
        if host.is_some_and(|host| host.contains('@')) {
            // Do not repeat it in the message.
            let message = "an image address with a user and password, which logs would show: \
                           download the image and give its path";
            return Err(message.to_owned());
        }
        if text.is_empty() || text.contains('\0') || text.contains("://") {
            let https = text.parse().map_err(|error: BadText| error.to_string());
            return https.map(ImageUrl::Https);
        }
        Ok(ImageUrl::Path(text.into()))
    }
}

impl Display for ImageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageUrl::Https(url) => url.fmt(f),
            ImageUrl::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The graphical desktop of a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Desktop {
    /// A text console.
    #[default]
    None,
    /// XFCE.
    Xfce,
    /// GNOME. Not tested.
    Gnome,
}

impl Desktop {
    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Desktop::None => "none",
            Desktop::Xfce => "xfce",
            Desktop::Gnome => "gnome",
        }
    }
}

/// What an instance can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Only DHCP and DNS.
    Isolated,
    /// The internet, but no other instance.
    #[default]
    Nat,
}

impl NetworkMode {
    /// Each of them.
    pub const ALL: [NetworkMode; 2] = [NetworkMode::Isolated, NetworkMode::Nat];

    /// The libvirt network for this mode, created by `make setup`.
    pub const fn network(self) -> &'static str {
        match self {
            NetworkMode::Isolated => "cyyber-isolated",
            NetworkMode::Nat => "cyyber-nat",
        }
    }
}

/// When an unused instance is throttled, paused, stopped and destroyed, and how long a boot may take.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// To `idle`.
    pub idle_after: Patience,
    /// To `paused`.
    pub pause_after: Patience,
    /// To `stopped`.
    pub stop_after: Patience,
    /// Destroyed.
    pub destroy_after: Patience,
    /// Not destroyed before passes of the reaper have seen it stopped for this long.
    pub destroy_grace: Duration,
    /// Not destroyed before this has been announced for this long.
    pub destroy_notice: Duration,
    /// How long an open but inactive console, or a guest agent's answer alone, counts as use.
    pub max_connected: Patience,
    /// A guest that uses at least this much of one CPU of the host between two passes of the
    /// reaper, in percent, is busy, which counts as use.
    #[schemars(range(min = 1, max = 100))]
    pub busy_cpu: u8,
    /// How long a busy guest counts as used after the last other sign of use.
    pub max_busy: Patience,
    /// How long an instance may run without a break, used or not.
    pub max_runtime: Patience,
    /// How long an instance counts as `starting` at most.
    pub boot_timeout: Duration,
    /// Whether people in a guest are warned shortly before it is paused or shut down.
    pub announce: bool,
    /// The earliest time before a lesson of the timetable at which its instances are started. They are
    /// started as late as recent start times allow.
    pub prewarm: Patience,
    /// The policy that replaces the above while an instance is used in a lesson.
    #[serde(deserialize_with = "object")]
    pub in_class: InClass,
}

/// The steps of the policy while an instance is used in a lesson; by default it is only throttled.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InClass {
    /// To `idle`; default: the value outside lessons.
    pub idle_after: Option<Patience>,
    /// To `paused`; default: never.
    pub pause_after: Option<Patience>,
    /// To `stopped`; default: never.
    pub stop_after: Option<Patience>,
    /// Destroyed; default: never.
    pub destroy_after: Option<Patience>,
}

impl Default for Policy {
    fn default() -> Self {
        let minutes = |m| Duration(SignedDuration::from_mins(m));
        Policy {
            idle_after: Patience::After(minutes(10)),
            pause_after: Patience::After(minutes(20)),
            stop_after: Patience::After(minutes(30)),
            destroy_after: Patience::After(minutes(24 * 60)),
            destroy_grace: minutes(60),
            destroy_notice: minutes(120),
            max_connected: Patience::After(minutes(4 * 60)),
            busy_cpu: 20,
            max_busy: Patience::After(minutes(4 * 60)),
            max_runtime: Patience::Never,
            boot_timeout: minutes(5),
            announce: true,
            prewarm: Patience::After(minutes(10)),
            in_class: InClass::default(),
        }
    }
}

impl Policy {
    /// Whether any instance is ever taken down.
    pub fn takes_down(&self) -> bool {
        let mut steps = self.ladder().into_iter();
        let is_set = |after: Patience| after != Patience::Never;
        steps.any(|(_, after)| is_set(after)) || is_set(self.max_runtime)
    }

    /// The same for an instance that is used in a lesson.
    #[must_use]
    pub fn in_class(&self) -> Policy {
        let own = &self.in_class;
        let or_never = |patience: Option<Patience>| patience.unwrap_or(Patience::Never);
        Policy {
            idle_after: own.idle_after.unwrap_or(self.idle_after),
            pause_after: or_never(own.pause_after),
            stop_after: or_never(own.stop_after),
            destroy_after: or_never(own.destroy_after),
            ..self.clone()
        }
    }

    /// The times of its rungs, from the top, with their keys' places in the lab.
    const fn ladder(&self) -> [(&'static str, Patience); 4] {
        [
            ("policy.idle_after", self.idle_after),
            ("policy.pause_after", self.pause_after),
            ("policy.stop_after", self.stop_after),
            ("policy.destroy_after", self.destroy_after),
        ]
    }

    /// Each time must be at least the one above it, and a percentage must be valid. An error is the
    /// key's place in the lab, and the problem.
    fn check(&self) -> Result<(), (&'static str, String)> {
        within("policy.busy_cpu", self.busy_cpu, 1..=100)?;
        if let Patience::After(prewarm) = self.prewarm {
            let day = Duration(SignedDuration::from_hours(24));
            if prewarm > day {
                let message = format!("{} is out of range: allowed is up to 24h", age(prewarm.0));
                return Err(("policy.prewarm", message));
            }
        }
        self.check_ladder()
            .and_then(|()| self.in_class().check_ladder().map_err(in_class))
    }

    /// Each time must be at least the one above it.
    fn check_ladder(&self) -> Result<(), (&'static str, String)> {
        let mut above: Option<(&str, Duration)> = None;
        for (name, patience) in self.ladder() {
            let Patience::After(after) = patience else {
                continue;
            };
            if let Some((upper, limit)) = above.filter(|(_, limit)| after < *limit) {
                let (upper, limit) = (upper.trim_start_matches("policy."), age(limit.0));
                let (after, allowed) = (age(after.0), "allowed is that or more, or never");
                let message = format!("{after} is less than {upper}, which is {limit}: {allowed}");
                return Err((name, message));
            }
            above = Some((name, after));
        }
        Ok(())
    }
}

/// The same checks for `in_class`.
fn in_class((key, message): (&'static str, String)) -> (&'static str, String) {
    let key = key.trim_start_matches("policy.");
    ("policy.in_class", format!("{key}: {message}"))
}

/// Limits that libvirt enforces on an instance; no limit if absent.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// CPU time of each virtual CPU, in percent of one CPU of the host.
    #[schemars(range(min = 1, max = 100))]
    pub cpu_percent: Option<u8>,
    /// Disk throughput, read and written together, in bytes per second.
    pub disk_bytes_per_second: Option<ByteSize>,
    /// Disk operations per second.
    #[schemars(range(min = 1))]
    pub disk_iops: Option<u32>,
    /// Network throughput in each direction, in bytes per second.
    pub network_bytes_per_second: Option<ByteSize>,
    /// Maximum size of an instance's own disk file.
    pub overlay_size: Option<ByteSize>,
}
