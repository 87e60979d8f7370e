//! The answer of a pass.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::observer::{Assessment, Observation};
use super::policy::{Evidence, Rung, unused_for};
use super::signals::{Sign, SignalSource};
use crate::error::Kind;
use crate::names::State;
use crate::units::age;

/// The JSON document.
#[derive(Debug, Default, Serialize)]
pub struct PassReport {
    pub checked: usize,
    pub actions: Vec<Action>,
    pub failed: usize,
    pub dry_run: bool,
    /// All instances, in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<Vec<InstanceRow>>,
}

/// A step that was taken or attempted.
#[derive(Debug, Serialize)]
pub struct Action {
    pub instance: String,
    pub from: Rung,
    pub to: Rung,
    pub idle_seconds: i64,
    pub ok: bool,
    pub error: Option<String>,
    pub reason: String,
    #[serde(skip)]
    pub kind: Option<Kind>,
}

/// An instance, its signs and the decision.
#[derive(Debug, Default, Serialize)]
pub struct InstanceRow {
    pub instance: String,
    /// `None` if it is missing.
    pub state: Option<State>,
    #[serde(serialize_with = "by_name")]
    pub signs: Option<Vec<(SignalSource, Shown)>>,
    pub source: Option<SignalSource>,
    pub idle_seconds: Option<i64>,
    pub step: Option<Rung>,
    pub next: Option<Rung>,
    pub next_at: Option<Timestamp>,
    pub reason: String,
    #[serde(skip)]
    pub next_in: String,
}

/// One sign: its age, or why that is unknown.
#[derive(Debug, Serialize)]
pub struct Shown {
    pub age_seconds: Option<i64>,
    pub note: Option<String>,
}

impl PassReport {
    pub fn new(dry_run: bool) -> PassReport {
        PassReport {
            dry_run,
            ..PassReport::default()
        }
    }

    /// Adds the starts for lessons that a dry run would make.
    pub fn plan(&mut self, starts: Vec<Action>) {
        let rows = self.instances.get_or_insert_default();
        for start in &starts {
            let step = Some(start.to);
            match rows.iter_mut().find(|row| row.instance == start.instance) {
                Some(row) => {
                    row.step = step;
                    row.reason = format!("{}; {}", start.reason, row.reason);
                }
                None => rows.push(InstanceRow {
                    instance: start.instance.clone(),
                    step,
                    next: step,
                    reason: start.reason.clone(),
                    next_in: "running now".to_owned(),
                    ..InstanceRow::default()
                }),
            }
        }
        self.actions.extend(starts);
    }

    /// The failures, as text.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.actions.iter().filter_map(|action| {
            let (instance, error) = (&action.instance, action.error.as_ref()?);
            let (from, to) = (action.from.as_str(), action.to.as_str());
            Some(format!(
                "{instance} did not go from {from} to {to}: {error}"
            ))
        })
    }

    /// Whether all failures are due to libvirt being unreachable.
    pub fn all_unavailable(&self) -> bool {
        let mut kinds = self.actions.iter().filter_map(|action| action.kind);
        kinds.all(|kind| kind == Kind::Unavailable)
    }
}

/// A step and the time until it is due.
pub fn due(step: Rung, at: Timestamp, now: Timestamp) -> String {
    if at <= now {
        format!("{} now", step.as_str())
    } else {
        format!("{} in {}", step.as_str(), age(at.duration_since(now)))
    }
}

impl InstanceRow {
    pub fn new(one: &Observation, now: Timestamp) -> InstanceRow {
        let (judged, reason) = match &one.assessment {
            Assessment::Skipped(why) => (None, format!("left alone: {why}")),
            Assessment::Judged(evidence, decision) => {
                (Some((evidence, decision)), decision.reason.clone())
            }
        };
        let decision = judged.map(|(_, decision)| decision);
        let next = decision.and_then(|decision| decision.next);
        InstanceRow {
            instance: one.name.to_string(),
            state: Some(one.state),
            signs: judged.map(|(evidence, _)| shown(evidence, now)),
            source: decision.map(|decision| decision.source),
            idle_seconds: decision.map(|decision| decision.unused.as_secs()),
            step: decision.and_then(|decision| decision.step),
            next: next.map(|(rung, _)| rung),
            next_at: next.map(|(_, at)| at),
            reason,
            next_in: next.map_or_else(|| "-".to_owned(), |(rung, at)| due(rung, at, now)),
        }
    }
}

/// The signals that reports show.
fn shown(evidence: &Evidence, now: Timestamp) -> Vec<(SignalSource, Shown)> {
    let signals = evidence.signals.iter();
    let signals = signals.filter(|signal| signal.source.title.is_some());
    let shown = signals.map(|signal| {
        let shown = match &signal.sign {
            Sign::At(at) | Sign::Seen(at) => Shown::at(*at, now),
            Sign::Silent(why) => Shown::note(why),
            Sign::Unreadable(why) => Shown::note(why),
        };
        (signal.source, shown)
    });
    shown.collect()
}

fn by_name<S: Serializer>(
    signs: &Option<Vec<(SignalSource, Shown)>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match signs {
        Some(signs) => serializer.collect_map(signs.iter().map(|(source, it)| (source.name, it))),
        None => serializer.serialize_none(),
    }
}

impl Shown {
    fn at(at: Timestamp, now: Timestamp) -> Shown {
        match unused_for(at, now) {
            Some(unused) => Shown {
                age_seconds: Some(unused.as_secs()),
                note: None,
            },
            None => Shown::note(&format!("implausible: {at:.0}")),
        }
    }

    fn note(note: &str) -> Shown {
        Shown {
            age_seconds: None,
            note: Some(note.to_owned()),
        }
    }
}
