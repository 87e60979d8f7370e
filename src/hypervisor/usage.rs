//! The usage of all domains, even if the QEMU of one does not answer, or blocks libvirt while it
//! starts: each is then queried separately.

use std::collections::HashMap;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use virt::connect::Connect;
use virt::error::Error;

use super::pool::Pool;
use super::{Detail, Facts, failed, stats};
use crate::error::{Fault, Kind};

/// The time limit of the bulk call for displays. A thousand domains need a fraction of it.
const TOGETHER: Duration = Duration::from_secs(1);

/// The same if a start or a pass depends on it.
const TOGETHER_FOR_A_START: Duration = Duration::from_secs(3);

/// The time limit of separate queries if a pass depends on them, which has others to look after.
const FOR_A_PASS: Duration = Duration::from_secs(5);

/// The time limit of separate queries for displays.
pub(super) const SHOWN: Duration = Duration::from_millis(900);

/// The same if a start depends on it: many starts at the same time delay each other.
const FOR_A_START: Duration = Duration::from_secs(20);

/// How many are queried in parallel, each on a separate connection.
const AT_ONCE: usize = 8;

/// All domains with their usage, in one call; `None` if one of them blocks it.
pub(super) fn of_all(pool: &Arc<Pool>) -> Option<Result<Vec<Facts>, Error>> {
    pool.within(TOGETHER, |conn| stats::of_all(conn, Detail::Usage))
}

/// All running domains with their CPU time, in one call; `None` if one of them blocks it.
pub(super) fn work_of_all(pool: &Arc<Pool>) -> Option<Vec<Facts>> {
    pool.within(TOGETHER_FOR_A_START, |conn| {
        stats::of_all(conn, Detail::Work)
    })?
    .ok()
}

/// Adds the CPU time of the running domains in `all`, from the result of the bulk call, `told`. If
/// that was blocked, each is queried separately; those that do not answer have no usage.
pub(super) fn add_work(pool: &Arc<Pool>, all: &mut [Facts], told: Option<Vec<Facts>>) {
    let told = told.unwrap_or_else(|| {
        let mut running: Vec<_> = all.iter().filter(|it| it.id.is_some()).cloned().collect();
        add(pool, &mut running, FOR_A_PASS);
        running.retain(|facts| facts.usage.is_some());
        running
    });
    let mut told: HashMap<_, _> = told.into_iter().map(|it| ((it.uuid, it.id), it)).collect();
    for facts in all.iter_mut().filter(|facts| facts.id.is_some()) {
        let found = told.remove(&(facts.uuid, facts.id));
        // A hypervisor that does not report it has answered all the same.
        facts.usage = found.map(|found| found.usage.unwrap_or_default());
    }
}

/// All running domains with their memory.
pub(super) fn memory_of_all(pool: &Arc<Pool>, conn: &Connect) -> Result<Vec<Facts>> {
    let refused = |e| failed("read the memory of all domains", e);
    let together = |conn: &Connect| stats::of_all(conn, Detail::Memory);
    if let Some(all) = pool.within(TOGETHER_FOR_A_START, together) {
        return all.map_err(refused);
    }
    let mut all = stats::of_all(conn, Detail::Power).map_err(refused)?;
    all.retain(|facts| facts.id.is_some());
    add(pool, &mut all, FOR_A_START);
    all.retain(|facts| facts.id.is_some());
    match all.iter().find(|facts| facts.usage.is_none()) {
        None => Ok(all),
        Some(silent) => {
            let message = format!("libvirt does not report the memory of {}", silent.name);
            let hint = "check for a QEMU process that hangs: cyyber instance stats";
            Err(Fault::new(Kind::Unavailable, message).hint(hint).into())
        }
    }
}

/// Adds the usage of each, queried separately, the running ones first. Those that do not answer
/// within `deadline` have none.
pub(super) fn add(pool: &Arc<Pool>, all: &mut [Facts], deadline: Duration) {
    let began = Instant::now();
    let (running, off): (Vec<_>, Vec<_>) = all.iter().partition(|facts| facts.id.is_some());
    // They are popped from the end.
    let left: Vec<_> = off.iter().chain(&running).map(|it| it.uuid).collect();
    let workers = AT_ONCE.min(left.len());
    let left = Arc::new(Mutex::new(left));
    let (sender, answers) = channel();
    for _ in 0..workers {
        let (left, sender) = (Arc::clone(&left), sender.clone());
        pool.begin(move |conn| {
            let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop();
            while let Some(uuid) = next() {
                let domain = conn.lookup_domain_by_uuid(uuid);
                let now = domain.and_then(|it| stats::of_one(&it, Detail::Usage));
                // Nobody waits for a late answer.
                let _ = sender.send((uuid, now.ok().flatten()));
            }
            Ok(())
        });
    }
    drop(sender);
    while let Ok((uuid, now)) = answers.recv_timeout(deadline.saturating_sub(began.elapsed())) {
        if let Some(facts) = all.iter_mut().find(|facts| facts.uuid == uuid) {
            // It may have ended in the meantime.
            facts.id = now.as_ref().and_then(|now| now.id);
            facts.usage = now.and_then(|now| now.usage);
        }
    }
}
