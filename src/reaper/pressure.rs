//! If memory is short, pauses unused instances for others: selects them, which is pure, and pauses
//! them.
#![deny(clippy::arithmetic_side_effects)]

use std::cmp::Reverse;
use std::collections::HashMap;

use anyhow::Result;
use jiff::SignedDuration;

use super::lessons::Lessons;
use super::observer::{Observation, Observer};
use super::passes::{Circumstances, Passes, Seen};
use super::report::Action;
use super::step::{self, Planned, StepOutcome};
use crate::context::Context;
use crate::hypervisor::{Detail, RunningGuest};
use crate::instance::admission::memory::{self, Shortage};
use crate::instance::outcome::Outcome;
use crate::names::InstanceName;
use crate::parallel::{contained, side_by_side};
use crate::state::lock::{self, Lock};
use crate::units::Duration;

/// How many are paused in parallel.
const AT_ONCE: usize = 4;

/// How often to make room for one instance: others may take the freed memory.
const MOST_ROUNDS: usize = 4;

/// An instance that may be paused for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// How much pausing it would free, in bytes.
    pub frees: u64,
    /// How long it has been unused, in seconds.
    pub unused: u64,
}

/// The indexes of the `candidates` to pause to free `missing` bytes: as few as possible, preferring
/// those that have been unused for longest and are largest. `None` if all together are not enough.
pub fn choose(missing: u64, candidates: &[Candidate]) -> Option<Vec<usize>> {
    let mut by_size: Vec<_> = (0..candidates.len()).collect();
    by_size.sort_by_key(|place| Reverse(candidates[*place].frees));
    let total = |places: &[usize], most: usize| {
        let frees = places.iter().take(most).map(|it| candidates[*it].frees);
        frees.fold(0, u64::saturating_add)
    };
    let fewest = (0..=by_size.len()).find(|most| total(&by_size, *most) >= missing)?;
    let mut by_worth = by_size.clone();
    by_worth.sort_by_key(|place| {
        let it = candidates[*place];
        Reverse(u128::from(it.unused).saturating_mul(it.frees.into()))
    });
    let mut chosen = Vec::new();
    for place in by_worth {
        if chosen.len() == fewest {
            break;
        }
        // Together with the largest others it must still be enough.
        by_size.retain(|other| *other != place);
        let left = fewest.saturating_sub(chosen.len()).saturating_sub(1);
        let others: Vec<_> = by_size
            .iter()
            .copied()
            .filter(|it| !chosen.contains(it))
            .collect();
        let with_it = total(&chosen, chosen.len())
            .saturating_add(candidates[place].frees)
            .saturating_add(total(&others, left));
        if with_it >= missing {
            chosen.push(place);
        }
    }
    Some(chosen)
}

/// How much memory is missing, and for what.
#[derive(Debug)]
pub struct Need<'a> {
    /// In bytes.
    pub missing: u64,
    /// The part of it that pausing a guest frees.
    pub frees: fn(&RunningGuest) -> u64,
    /// The instance that it is for.
    pub whom: Option<&'a InstanceName>,
    /// The reason, as text after "paused".
    pub why: String,
}

/// Pauses as many unused instances as needed, of any user; returns what was done. Pauses none if
/// that would not be enough for the instance, or if no pass ran recently.
pub fn relieve(context: &Context, need: &Need) -> Result<Vec<Action>> {
    let context = context.for_everyone();
    let mut passes = Passes::read(&context.paths.passes());
    if passes.begin(&context.moment()) != Circumstances::Usual {
        return Ok(Vec::new());
    }
    let hypervisor = context.hypervisor()?;
    let lessons = Lessons::read(&context, &passes);
    let observer = Observer::new(&context, passes.trusted_from, false);
    let observer = observer.measuring(&lessons);
    let mut all: Vec<(Observation, Seen)> = hypervisor
        .survey(Detail::Work)?
        .into_iter()
        .filter(|(name, facts)| facts.id.is_some() && Some(name) != need.whom)
        .map(|(name, facts)| {
            let mut seen = passes.seen(&facts.name, facts.uuid);
            (observer.observe(name, facts, &mut seen), seen)
        })
        .collect();
    observer.look_closer(&mut all, Observation::is_unsure);
    let memory: HashMap<String, u64> = hypervisor
        .memory_of_running()?
        .into_iter()
        .map(|guest| (guest.name.clone(), (need.frees)(&guest)))
        .collect();
    let mut unused = Vec::new();
    let mut candidates = Vec::new();
    for (one, seen) in &all {
        let length = one.unused_beyond(&context.policy(&one.name.lab), seen);
        if let (Some(length), Some(frees)) = (length, memory.get(&one.facts.name)) {
            candidates.push(Candidate {
                frees: *frees,
                unused: u64::try_from(length.as_secs()).unwrap_or(0),
            });
            unused.push((one, seen));
        }
    }
    let all_of_it = candidates
        .iter()
        .fold(0_u64, |sum, it| sum.saturating_add(it.frees));
    // A guest either fits or not; for a host, every bit of freed memory helps.
    let missing = match need.whom {
        Some(_) => need.missing,
        None => need.missing.min(all_of_it),
    };
    let Some(chosen) = choose(missing, &candidates) else {
        return Ok(Vec::new());
    };
    let chosen: Vec<_> = chosen
        .into_iter()
        .filter_map(|place| {
            let (one, seen) = unused.get(place)?;
            Some((Planned::for_others(one, &need.why)?, *seen))
        })
        .collect();
    let outcomes = side_by_side(&chosen, AT_ONCE, |(planned, seen)| {
        let seen = (*seen).clone();
        let no_time = Duration(SignedDuration::ZERO);
        contained(|| step::take(&context, &observer, planned, seen, no_time))
            .unwrap_or_else(StepOutcome::Failed)
    });
    let actions = chosen.iter().zip(outcomes);
    Ok(actions
        .filter_map(|((planned, _), outcome)| match outcome {
            StepOutcome::Done(reason) => Some(planned.action(&reason, Ok(()))),
            StepOutcome::Failed(error) => Some(planned.action(&planned.reason, Err(&error))),
            StepOutcome::Left(_) => None,
        })
        .collect())
}

/// Runs an operation on `name`; if memory is short, runs it again after pausing unused instances,
/// which is noted in its outcome.
pub fn with_room(
    context: &Context,
    name: &InstanceName,
    verb: impl Fn() -> Result<Outcome>,
) -> Result<Outcome> {
    let mut done = verb();
    let mut displaced = Vec::new();
    // Other commands wait until the freed memory is reserved.
    let mut alone = None;
    for _ in 0..MOST_ROUNDS {
        let short = |error: &anyhow::Error| error.downcast_ref().map(Shortage::missing);
        let Some(missing) = done.as_ref().err().and_then(short) else {
            break;
        };
        if !context.config.host.displace {
            break;
        }
        if alone.is_none() {
            let path = context.paths.pressure_lock();
            alone = Some(Lock::take(&path, "the host's memory", lock::PATIENCE)?);
            done = verb();
            continue;
        }
        let need = Need {
            missing,
            frees: |guest| memory::need(guest.memory).max(guest.resident.unwrap_or(0)),
            whom: Some(name),
            why: format!("paused to make room for {name}"),
        };
        let paused = relieve(context, &need)?;
        if paused.iter().all(|action| !action.ok) {
            break;
        }
        let paused = paused.into_iter().filter(|action| action.ok);
        displaced.extend(paused.map(|action| action.instance));
        done = verb();
    }
    let within_reach = |name: &String| {
        let name = name.parse();
        name.is_ok_and(|name| context.scope().covers(&name))
    };
    displaced.retain(within_reach);
    done.map(|outcome| Outcome {
        displaced,
        ..outcome
    })
}

#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    reason = "what breaks off fails the test"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(figures: &[(u64, u64)]) -> Vec<Candidate> {
        let candidate = |(frees, unused): &(u64, u64)| Candidate {
            frees: *frees,
            unused: *unused,
        };
        figures.iter().map(candidate).collect()
    }

    #[test]
    fn the_longest_unused_and_largest_goes_first_and_no_more_than_needed() {
        let four = of(&[(2, 60), (2, 90), (4, 40), (1, 1000)]);
        assert_eq!(choose(0, &four), Some(vec![]));
        assert_eq!(choose(1, &four), Some(vec![3]));
        assert_eq!(choose(2, &four), Some(vec![1]), "one that is enough");
        assert_eq!(choose(5, &four), Some(vec![3, 2]));
        assert_eq!(choose(9, &four), Some(vec![3, 1, 2, 0]));
        assert_eq!(choose(10, &four), None, "nobody is paused in vain");
        assert_eq!(choose(1, &[]), None);
    }

    proptest! {
        #[test]
        fn as_few_as_it_takes_and_always_the_same(
            figures in prop::collection::vec((0..50_u64, 0..100_u64), 0..9),
            missing in 0..200_u64,
        ) {
            let candidates = of(&figures);
            let sum = |places: &[usize]| places.iter().map(|it| figures[*it].0).sum::<u64>();
            let sets: Vec<Vec<usize>> = (0..1_usize << figures.len())
                .map(|set| (0..figures.len()).filter(|it| set >> it & 1 == 1).collect())
                .collect();
            let enough = sets.iter().filter(|set| sum(set) >= missing);
            let fewest = enough.map(Vec::len).min();
            let chosen = choose(missing, &candidates);
            prop_assert_eq!(chosen.as_ref().map(Vec::len), fewest);
            if let Some(chosen) = &chosen {
                prop_assert!(sum(chosen) >= missing);
                let mut once = chosen.clone();
                once.sort_unstable();
                once.dedup();
                prop_assert_eq!(once.len(), chosen.len());
            }
            prop_assert_eq!(choose(missing, &candidates), chosen);
        }
    }
}
