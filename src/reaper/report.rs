//! What a pass answers.

use jiff::Timestamp;
use serde::Serialize;

use super::observer::{Sight, Standing};
use super::policy::{Connection, Facts, Rung, Sign, Source};
use crate::error::{Kind, kind_of};
use crate::names::State;
use crate::state::activity::unused_for;
use crate::units::age;

/// The document of the contract.
#[derive(Debug, Serialize)]
pub struct Report {
    pub checked: usize,
    pub actions: Vec<Action>,
    pub failed: usize,
    pub dry_run: bool,
    /// Of a dry run: every instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<Vec<Row>>,
}

/// A step that was taken, or tried.
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
    kind: Option<Kind>,
}

/// An instance, its signs and what follows from them.
#[derive(Debug, Serialize)]
pub struct Row {
    pub instance: String,
    pub state: State,
    pub signs: Option<Signs>,
    pub source: Option<Source>,
    pub idle_seconds: Option<i64>,
    pub step: Option<Rung>,
    pub next: Option<Rung>,
    pub next_at: Option<Timestamp>,
    pub reason: String,
    #[serde(skip)]
    pub next_in: String,
}

#[derive(Debug, Serialize)]
pub struct Signs {
    pub touched: Shown,
    pub console: Shown,
    pub guest: Shown,
}

/// One sign: how old it is, or why that is not known.
#[derive(Debug, Serialize)]
pub struct Shown {
    pub age_seconds: Option<i64>,
    pub note: Option<String>,
}

impl Report {
    pub fn new(dry_run: bool) -> Report {
        Report {
            checked: 0,
            actions: Vec::new(),
            failed: 0,
            dry_run,
            instances: None,
        }
    }

    /// What failed, for people.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.actions.iter().filter_map(|action| {
            let error = action.error.as_ref()?;
            let Action {
                instance, from, to, ..
            } = action;
            let step = format!(
                "{instance} did not go from {} to {}",
                from.as_str(),
                to.as_str()
            );
            Some(format!("{step}: {error}"))
        })
    }

    /// Whether libvirt was out of reach for all that failed.
    pub fn all_unavailable(&self) -> bool {
        let mut kinds = self.actions.iter().filter_map(|action| action.kind);
        kinds.all(|kind| kind == Kind::Unavailable)
    }
}

impl Action {
    /// The step of `sight` to `to`, which came to an end by `result`.
    pub fn new(
        sight: &Sight,
        from: Rung,
        to: Rung,
        idle_seconds: i64,
        reason: String,
        result: Result<(), &anyhow::Error>,
    ) -> Action {
        Action {
            instance: sight.name.to_string(),
            from,
            to,
            idle_seconds,
            ok: result.is_ok(),
            kind: result.err().map(kind_of),
            error: result.err().map(|error| format!("{error:#}")),
            reason,
        }
    }
}

impl Row {
    pub fn new(sight: &Sight, now: Timestamp) -> Row {
        let row = Row {
            instance: sight.name.to_string(),
            state: sight.state,
            signs: None,
            source: None,
            idle_seconds: None,
            step: None,
            next: None,
            next_at: None,
            reason: String::new(),
            next_in: "-".to_owned(),
        };
        match &sight.standing {
            Standing::Left(why) => Row {
                reason: format!("left alone: {why}"),
                ..row
            },
            Standing::On(facts, decision) => Row {
                signs: Some(Signs::of(facts, now)),
                source: Some(decision.source),
                idle_seconds: Some(decision.unused.as_secs()),
                step: decision.step,
                next: decision.next.map(|(rung, _)| rung),
                next_at: decision.next.map(|(_, at)| at),
                next_in: decision.next.map_or_else(
                    || "-".to_owned(),
                    |(rung, at)| match at <= now {
                        true => format!("{} now", rung.as_str()),
                        false => format!("{} in {}", rung.as_str(), age(at.duration_since(now))),
                    },
                ),
                reason: decision.reason.clone(),
                ..row
            },
        }
    }
}

impl Signs {
    fn of(facts: &Facts, now: Timestamp) -> Signs {
        let sign = |sign: &Sign| match sign {
            Sign::At(at) => Shown::at(*at, now),
            Sign::Silent(why) => Shown::note(why),
            Sign::Unreadable(why) => Shown::note(why),
        };
        Signs {
            touched: sign(&facts.touched),
            console: match facts.console {
                Some(Connection { seen, .. }) => Shown::at(seen, now),
                None => Shown::note("none seen"),
            },
            guest: sign(&facts.guest),
        }
    }
}

impl Shown {
    fn at(at: Timestamp, now: Timestamp) -> Shown {
        match unused_for(Some(at), now) {
            Some(unused) => Shown {
                age_seconds: Some(unused.as_secs()),
                note: None,
            },
            None => Shown::note(&format!("absurd: {at:.0}")),
        }
    }

    fn note(note: &str) -> Shown {
        Shown {
            age_seconds: None,
            note: Some(note.to_owned()),
        }
    }
}
