//! The instance object of the JSON output, assembled from libvirt's facts and the record.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::Instance;
use super::console_of;
use super::disk::is_same;
use super::record::{self, Boot, ReadyBy, Record, StartedBy};
use crate::context::Context;
use crate::files::Directory;
use crate::hypervisor::xml::domain::{self, Origin};
use crate::hypervisor::{Facts, Power};
use crate::images::{base, overlay};
use crate::instance::state::observe;
use crate::names::{InstanceName, LabId, Rung, State, UserId};
use crate::parallel::side_by_side;
use crate::paths::Paths;
use crate::state::activity;
use crate::state::keep::{self, Keep};

/// After how many guests without an answer a listing stops asking: a hundred silent guests must not
/// delay it.
const MOST_MUTE: u8 = 2;

/// How long a starting guest may take to answer; asked once per listing.
const PING: Duration = Duration::from_secs(1);

/// The instance object of the JSON output, without secrets.
#[derive(Debug, Serialize)]
pub struct InstanceStatus {
    pub instance: String,
    pub lab_id: LabId,
    pub user_id: UserId,
    pub state: State,
    /// Known only while it runs.
    pub started_by: Option<StartedBy>,
    pub changed: bool,
    pub vnc_host: Option<String>,
    pub vnc_port: Option<u16>,
    pub novnc_port: Option<u16>,
    pub ip: Option<String>,
    pub base_image: Option<PathBuf>,
    pub base_is_current: Option<bool>,
    pub disk_path: PathBuf,
    pub created: Option<Timestamp>,
    pub last_activity: Option<Timestamp>,
    pub kept_until: Option<Timestamp>,
    /// The next step of the idle policy if nobody uses it. Filled in by the reaper.
    pub next_step: Option<Rung>,
    pub next_step_at: Option<Timestamp>,
    pub reason: String,
    #[serde(skip)]
    pub basis: Basis,
}

/// What its next step depends on, besides the shown fields.
#[derive(Debug)]
pub struct Basis {
    pub uuid: Uuid,
    pub id: Option<u32>,
    pub power: Power,
    pub keep: Keep,
}

/// Assembles statuses; facts that instances of a lab share are looked up once.
pub struct StatusReader<'a> {
    context: &'a Context,
    /// `None` if nothing was ever written there.
    records: Option<Directory>,
    activities: Option<Directory>,
    keeps: Option<Directory>,
    /// Guests that are starting are asked whether they are ready.
    asks: bool,
    mute: u8,
    current_builds: HashMap<LabId, Option<String>>,
}

impl<'a> StatusReader<'a> {
    pub fn new(context: &'a Context) -> Self {
        StatusReader {
            context,
            records: Directory::open(&context.paths.records()).ok(),
            activities: Directory::open(&context.paths.activities()).ok(),
            keeps: Directory::open(&context.paths.keeps()).ok(),
            asks: true,
            mute: 0,
            current_builds: HashMap::new(),
        }
    }

    /// The instance `name` with the facts `facts`.
    pub fn status(&mut self, name: &InstanceName, facts: &Facts) -> Result<InstanceStatus> {
        let context = self.context;
        let instance = name.to_string();
        let record = self
            .records
            .as_ref()
            .and_then(|records| record::read_in(records, Paths::record_name(name), facts.uuid))
            .or_else(|| {
                self.known(name, kept_by_libvirt(context, name, facts.uuid))
                    .flatten()
            });
        let mut boot = record.as_ref().and_then(|record| record.boot_of(facts.id));

        let now = context.time();
        let boot_timeout = context.policy(&name.lab).boot_timeout;
        let (mut state, mut reason) = observe(facts, boot.as_ref(), boot_timeout, now);
        if let (State::Starting, Some(boot)) = (state, &mut boot)
            && self.asks
            && self.mute < MOST_MUTE
            && self.agent_answers(name)
        {
            (boot.ready, boot.ready_by) = (Some(now), ReadyBy::Agent);
            (state, reason) = observe(facts, Some(boot), boot_timeout, now);
            self.note(name, boot);
        }

        if let Some(why) = record.as_ref().and_then(|record| unfinished(record, facts)) {
            (state, reason) = (State::Starting, why.to_owned());
        }
        let noted = boot.as_ref().and_then(|boot| boot.console.clone());
        let console = match facts.power {
            Power::Off | Power::Crashed | Power::Frozen | Power::StuckOnDisk => None,
            Power::On | Power::Busy => {
                noted.or_else(|| self.known(name, console_of(context, name)).flatten())
            }
        };
        if let Some(why) = record.as_ref().and_then(|record| record.why.as_ref())
            && why.state == state
        {
            reason = format!("{reason}; {}", why.reason);
        }
        if facts.power == Power::StuckOnDisk
            && let Some(why) = full_disk(context, name)
        {
            reason = why;
        }
        let own_disk = context.paths.overlay(name);
        let disk = record.as_ref().and_then(|record| record.disk.clone());
        let foreign = disk.filter(|disk| !is_same(disk, &own_disk));
        if foreign.is_some() {
            let where_from = "created under a configuration with another storage_dir";
            reason = match (facts.power, &boot) {
                (Power::On, None) => where_from.to_owned(),
                _ => format!("{reason}; {where_from}"),
            };
        }
        // Only base builds of this configuration are known.
        let build = match foreign {
            Some(_) => None,
            None => record.as_ref().map(|record| record.build.clone()),
        };
        let keep = self.keeps.as_ref().map_or(Keep::No, |keeps| {
            keep::read_in(keeps, &*instance, facts.uuid)
        });
        let kept_until = match keep {
            Keep::Until(until) if until > now => Some(until),
            _ => None,
        };
        Ok(InstanceStatus {
            last_activity: self
                .activities
                .as_ref()
                .and_then(|activities| activity::last_in(activities, &*instance)),
            started_by: boot.as_ref().and_then(|boot| boot.started_by),
            instance,
            lab_id: name.lab.clone(),
            user_id: name.user.clone(),
            state,
            changed: false,
            vnc_host: console.as_ref().map(|console| console.host.clone()),
            vnc_port: console.as_ref().map(|console| console.port),
            novnc_port: console.and_then(|console| console.websocket),
            ip: None,
            base_image: build
                .as_ref()
                .map(|build| context.paths.base_build(&name.lab, build)),
            base_is_current: build.and_then(|build| Some(*self.current_build(&name.lab)? == build)),
            disk_path: foreign.unwrap_or(own_disk),
            created: record.map(|record| record.created),
            kept_until,
            next_step: None,
            next_step_at: None,
            reason,
            basis: Basis {
                uuid: facts.uuid,
                id: facts.id,
                power: facts.power,
                keep,
            },
        })
    }

    /// What could be found out about an instance. If one cannot be read, or is gone by now, the
    /// others must still be listed.
    fn known<T>(&self, name: &InstanceName, learned: Result<T>) -> Option<T> {
        let warn = |error: &_| format!("warning: {name}: {error:#}");
        learned
            .inspect_err(|error| self.context.output.detail(&warn(error)))
            .ok()
    }

    fn agent_answers(&mut self, name: &InstanceName) -> bool {
        let hypervisor = self.context.hypervisor();
        let domain = self.known(name, hypervisor.and_then(|it| it.find(name)));
        let began = Instant::now();
        let answers = domain.flatten().is_some_and(|it| it.agent_answers(PING));
        // If there is no agent, libvirt says so at once.
        if !answers && began.elapsed() >= PING / 2 {
            self.mute = self.mute.saturating_add(1);
        }
        answers
    }

    /// Records that the guest is ready, unless a command holds the instance: that command knows
    /// better, and the next listing will find out again.
    fn note(&self, name: &InstanceName, ready: &Boot) {
        let Some(vm) = Instance::try_lock(self.context, name) else {
            return;
        };
        let noted = vm.update(|record| {
            if let Some(boot) = &mut record.boot
                && boot.run == ready.run
            {
                (boot.ready, boot.ready_by) = (ready.ready, ready.ready_by);
            }
        });
        if let Err(error) = noted {
            let failed = format!("warning: failed to record that {name} is ready: {error:#}");
            self.context.output.detail(&failed);
        }
    }

    fn current_build(&mut self, lab: &LabId) -> Option<&String> {
        let current = || base::current(&self.context.paths, lab).ok();
        let builds = self.current_builds.entry(lab.clone());
        let build = builds.or_insert_with(|| current().map(|base| base.build));
        build.as_ref()
    }
}

/// The reason that an instance has reached its disk limit, if it has: it cannot continue then,
/// however much space the host has.
pub fn full_disk(context: &Context, name: &InstanceName) -> Option<String> {
    let limit = context.config.lab(&name.lab).ok()?.limits.overlay_size?;
    overlay::is_full(&context.paths.overlay(name), limit)
        .then(|| format!("its disk has grown to its limits.overlay_size of {limit}"))
}

/// How many workers assemble the statuses of a listing. They mostly wait for the file system and
/// for starting guests that do not answer.
const WORKERS: usize = 4;

/// The statuses of many instances, in their order, each completed by `complete`. If `asks` is set,
/// starting guests are asked whether they are up; otherwise only known facts are used.
pub fn statuses(
    context: &Context,
    instances: &[(InstanceName, Facts)],
    asks: bool,
    complete: impl Fn(&mut InstanceStatus) + Sync,
) -> Result<Vec<InstanceStatus>> {
    let share = instances.len().div_ceil(WORKERS).max(1);
    let shares: Vec<_> = instances.chunks(share).collect();
    let statuses = side_by_side(&shares, WORKERS, |share| -> Result<Vec<InstanceStatus>> {
        let mut reader = StatusReader {
            asks,
            ..StatusReader::new(context)
        };
        // `collect` of fallible items knows no size, and moves a thousand while it grows.
        let mut statuses = Vec::with_capacity(share.len());
        for (name, facts) in *share {
            let mut status = reader.status(name, facts)?;
            complete(&mut status);
            statuses.push(status);
        }
        Ok(statuses)
    });
    let mut all = Vec::with_capacity(instances.len());
    for share in statuses {
        all.append(&mut share?);
    }
    Ok(all)
}

/// Why the running guest is not the instance yet, if that is so.
fn unfinished(record: &Record, facts: &Facts) -> Option<&'static str> {
    (record.forking && facts.id.is_some()).then_some(
        "it is being forked from its lab's warm image; if no command is doing that, start it again",
    )
}

/// The state of the instance `name` according to `facts` and the record.
pub fn state(context: &Context, name: &InstanceName, facts: &Facts) -> State {
    let record = record::read(&context.paths.record(name), facts.uuid);
    if record
        .as_ref()
        .is_some_and(|it| unfinished(it, facts).is_some())
    {
        return State::Starting;
    }
    let boot = record.and_then(|record| record.boot_of(facts.id));
    let boot_timeout = context.policy(&name.lab).boot_timeout;
    observe(facts, boot.as_ref(), boot_timeout, context.time()).0
}

/// The record of an instance, or else the facts in its domain's metadata.
pub fn noted(context: &Context, name: &InstanceName, uuid: Uuid) -> Result<Option<Record>> {
    match record::read(&context.paths.record(name), uuid) {
        Some(record) => Ok(Some(record)),
        None => kept_by_libvirt(context, name, uuid),
    }
}

/// The facts in the metadata of an instance's domain.
fn kept_by_libvirt(context: &Context, name: &InstanceName, uuid: Uuid) -> Result<Option<Record>> {
    let Some(domain) = context.hypervisor()?.find(name)? else {
        return Ok(None);
    };
    let xml = domain.xml()?;
    let Some(Origin { build, created }) = Origin::from_xml(&xml)? else {
        return Ok(None);
    };
    let disks = domain::disks(&xml)?.into_iter();
    let disk = disks.flat_map(|disk| disk.files).next();
    Ok(Some(Record::new(uuid, build, disk, created)))
}
