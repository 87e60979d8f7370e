//! What a pass answers.

use jiff::Timestamp;
use serde::Serialize;

use crate::cmd::look::{Sight, Standing};
use crate::error::{Kind, kind_of};
use crate::instance::State;
use crate::output::{self, Cell, Column, Table};
use crate::policy::{Connection, Facts, Rung, Sign, Source};
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
    instance: String,
    state: State,
    signs: Option<Signs>,
    source: Option<Source>,
    idle_seconds: Option<i64>,
    step: Option<Rung>,
    next: Option<Rung>,
    next_at: Option<Timestamp>,
    reason: String,
    #[serde(skip)]
    next_in: String,
}

#[derive(Debug, Serialize)]
struct Signs {
    touched: Shown,
    console: Shown,
    guest: Shown,
}

/// One sign: how old it is, or why that is not known.
#[derive(Debug, Serialize)]
struct Shown {
    age_seconds: Option<i64>,
    note: Option<String>,
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

    fn cells(&self) -> Vec<Cell> {
        let sign = |shown: fn(&Signs) -> &Shown| {
            let shown = self.signs.as_ref().map(shown);
            Cell::from(shown.map(Shown::text))
        };
        vec![
            self.instance.as_str().into(),
            self.state.into(),
            sign(|signs| &signs.touched),
            sign(|signs| &signs.console),
            sign(|signs| &signs.guest),
            self.step.map(Rung::as_str).into(),
            self.next_in.as_str().into(),
            self.reason.as_str().into(),
        ]
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

    fn text(&self) -> String {
        match (self.age_seconds, &self.note) {
            (Some(seconds), _) => age(jiff::SignedDuration::from_secs(seconds)),
            (None, Some(note)) => note.clone(),
            (None, None) => "-".to_owned(),
        }
    }
}

const COLUMNS: [Column; 8] = [
    Column::new("INSTANCE"),
    Column::new("STATE"),
    Column::new("TOUCHED").spare(5),
    Column::new("CONSOLE").spare(5),
    Column::new("GUEST").cut().spare(5),
    Column::new("STEP").spare(2),
    Column::new("NEXT").spare(1),
    Column::new("REASON").cut().spare(3),
];

impl output::Report for Report {
    /// Nothing of a pass: cron would mail it.
    fn text(&self) -> String {
        match &self.instances {
            None => String::new(),
            Some(_) => "no instances".to_owned(),
        }
    }

    fn table(&self) -> Option<Table> {
        let instances = self.instances.as_ref()?;
        let rows = instances.iter().map(Row::cells);
        (!instances.is_empty()).then(|| Table::new(&COLUMNS, rows))
    }
}
