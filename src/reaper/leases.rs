//! Compares Slurm's allocations on this host with its running guests at the end of a pass. A
//! running guest without a lease gets one, or causes a warning. A lease without a guest is released:
//! at once if this pass has taken the guest down, otherwise once two passes have seen it, because a
//! start may be in progress. A guest that a pass starts gets its lease before.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use jiff::{SignedDuration, Timestamp};

use super::report::Action;
use crate::cluster::Place;
use crate::cluster::slurm::{Lease, Placed, Request, Slurm};
use crate::cluster::storage::Shared;
use crate::config::HostName;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::files;
use crate::hypervisor::Detail;
use crate::instance::{Instance, admission, arrival};
use crate::names::{InstanceName, Rung};
use crate::state::lock::Lock;

/// How long a lease may be without its guest.
const GRACE: SignedDuration = SignedDuration::from_secs(50);

/// What to do.
#[derive(Debug, Default, PartialEq, Eq)]
struct Due {
    /// Running guests without a lease.
    without_lease: Vec<InstanceName>,
    /// Leases without a guest for too long.
    without_guest: Vec<Lease>,
    /// Job number of each lease without a guest, and since when.
    since: BTreeMap<u64, Timestamp>,
}

/// Compares running guests with allocations. `since` is the record of the last pass; this one has
/// paused or powered off the guests in `down`.
fn compare(
    running: &BTreeSet<InstanceName>,
    leases: &[Lease],
    since: &BTreeMap<u64, Timestamp>,
    down: &BTreeSet<InstanceName>,
    now: Timestamp,
) -> Due {
    let mut due = Due::default();
    let mut leased = BTreeSet::new();
    for lease in leases {
        // Leases with other names are not ours.
        let Ok(name) = lease.name.parse::<InstanceName>() else {
            continue;
        };
        if running.contains(&name) {
            leased.insert(name);
            continue;
        }
        let first = since.get(&lease.job).copied().unwrap_or(now);
        due.since.insert(lease.job, first);
        if down.contains(&name) || now.duration_since(first) >= GRACE {
            due.without_guest.push(lease.clone());
        }
    }
    due.without_lease = running.difference(&leased).cloned().collect();
    due
}

/// Undefines instances that are on other hosts by now, so that no pass acts on them.
pub(super) fn forget_those_that_left(context: &Context) {
    if let Some(Place::Host(..)) = context.place()
        && let Err(error) = arrival::forget_all(context)
    {
        let text = format!(
            "warning: failed to remove the instances that have left this host: \
                            {error:#}"
        );
        context.output.detail(&text);
    }
}

/// Does this after the steps in `actions`, if this is one of several hosts. Failures are reported,
/// but do not fail the pass: the next one tries again.
pub(super) fn settle(context: &Context, actions: &[Action]) {
    if let Some(Place::Host(cluster, here)) = context.place() {
        let down = actions.iter().filter(|it| it.ok && it.to > Rung::Idle);
        let down = down.filter_map(|it| it.instance.parse().ok()).collect();
        let (slurm, shared) = (Slurm::new(cluster), Shared::new(cluster));
        let settled = settled(context, &slurm, &shared, here, &down);
        if let Err(error) = settled {
            let text = format!("warning: failed to compare Slurm's allocations: {error:#}");
            context.output.detail(&text);
        }
    }
}

fn settled(
    context: &Context,
    slurm: &Slurm,
    shared: &Shared,
    here: &HostName,
    down: &BTreeSet<InstanceName>,
) -> Result<()> {
    if shared.is_fenced(here) {
        context.output.warn(&format!(
            "{here} is fenced; when it is in order: cyyber host resume {here}"
        ));
        return Ok(());
    }
    let file = context.paths.leases();
    let since = files::read(&file).ok();
    let since = since.and_then(|text| serde_json::from_slice(&text).ok());
    let since: BTreeMap<u64, Timestamp> = since.unwrap_or_default();
    // In this order: a guest that starts in between already has its lease.
    let leases = slurm.leases_on(here)?;
    let all = context.hypervisor()?.survey(Detail::Power)?;
    let running = all.into_iter().filter(|(_, facts)| facts.id.is_some());
    let running = running.map(|(name, _)| name).collect();
    let due = compare(&running, &leases, &since, down, context.time());
    for name in &due.without_lease {
        let why = match lease(context, slurm, here, name) {
            Ok(Placed::On(_)) => continue,
            Ok(Placed::Full(why) | Placed::Limited(why)) => why,
            Err(error) => format!("{error:#}"),
        };
        let text = format!("{name} runs without a Slurm allocation: {why}");
        context.output.warn(&text);
    }
    for lease in &due.without_guest {
        let name: InstanceName = lease.name.parse()?;
        // Not while a command holds it, here or on the head.
        if let Some(_alone) = Instance::try_lock(context, &name)
            && let Some(_placing) = shared.try_lock(&name)
            && slurm.steps(lease)? == 0
        {
            slurm.release(lease)?;
            let text = format!("{name}: released its allocation {}", lease.job);
            context.output.detail(&text);
        }
    }
    files::replace_soon(&file, &serde_json::to_vec(&due.since)?, files::SHARED)?;
    Ok(())
}

fn lease(context: &Context, slurm: &Slurm, here: &HostName, name: &InstanceName) -> Result<Placed> {
    let size = admission::size(&context.config, name)?;
    slurm.place(&Request {
        name: &name.to_string(),
        memory_mb: size.memory_mb,
        cpus: size.cpus,
        on: Some(here),
        ..Request::default()
    })
}

/// The place of an instance that is about to start here; no other command places it meanwhile.
pub(super) struct Reserved<'a> {
    /// `None` if this is the only host.
    _placing: Option<Lock>,
    /// The lease that was made for it.
    made: Option<(Slurm<'a>, Lease)>,
}

impl Reserved<'_> {
    /// Releases it after a failure.
    pub(super) fn release(self) {
        // If that fails, a later pass does it.
        let _ = self.made.map(|(slurm, lease)| slurm.release(&lease));
    }
}

/// Reserves a place for `name`, which is about to start here: of several hosts, one with a lease. Only an
/// error of the kind `Capacity` says that this host has no room for others either.
pub(super) fn reserve<'a>(context: &'a Context, name: &InstanceName) -> Result<Reserved<'a>> {
    let Some(Place::Host(cluster, here)) = context.place() else {
        return Ok(Reserved {
            _placing: None,
            made: None,
        });
    };
    let (slurm, shared) = (Slurm::new(cluster), Shared::new(cluster));
    // The head may be about to start it on another host.
    let placing = shared.try_lock(name);
    let placing = placing.context("another command is placing it on a host")?;
    let has_lease = !slurm.leases(Some(&name.to_string()))?.is_empty();
    let made = if has_lease {
        None
    } else {
        match lease(context, &slurm, here, name)? {
            Placed::On(lease) => Some((slurm, lease)),
            Placed::Full(why) => return Err(Fault::new(Kind::Capacity, why).into()),
            Placed::Limited(why) => bail!(why),
        }
    };
    Ok(Reserved {
        _placing: Some(placing),
        made,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_and_what_is_allocated_become_the_same() {
        let name = |name: &str| name.parse::<InstanceName>().unwrap();
        let lease = |job, name: &str| Lease {
            job,
            name: name.to_owned(),
            host: "h1".parse().unwrap(),
            age: 500,
        };
        let running = BTreeSet::from([name("lab01_user_1"), name("lab01_user_2")]);
        let leases = [
            lease(1, "lab01_user_1"),
            lease(3, "lab01_user_3"),
            lease(4, "lab01_user_4"),
            lease(5, "cyyber_at_h1"),
            lease(6, "somebody's"),
        ];
        let at = |second| Timestamp::from_second(second).unwrap();
        let since = BTreeMap::from([(3, at(40)), (9, at(0))]);
        let due = compare(&running, &leases, &since, &BTreeSet::new(), at(100));
        assert_eq!(due.without_lease, [name("lab01_user_2")]);
        assert_eq!(due.without_guest, [lease(3, "lab01_user_3")]);
        // A new one is only recorded, and one that is gone is removed.
        assert_eq!(due.since, BTreeMap::from([(3, at(40)), (4, at(100))]));
        // What this pass paused gives its lease back at once.
        let down = BTreeSet::from([name("lab01_user_4")]);
        let due = compare(&running, &leases, &since, &down, at(50));
        assert_eq!(due.without_guest, [lease(4, "lab01_user_4")]);
    }
}
