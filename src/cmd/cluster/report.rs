//! The report about all hosts.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde::Deserialize;
use serde_json::Value;

use super::all::instances;
use super::head::Head;
use crate::cli::Report as Options;
use crate::cmd::report;
use crate::config::HostName;
use crate::ledger::Live;
use crate::names::State;

/// `cyyber report` of all hosts, from their journals in the shared directory.
pub fn run(head: &Head, options: &Options) -> Result<()> {
    let context = head.context;
    let mut ledger = report::ledger(context, options);
    let journal = |host: &HostName| (host.to_string(), head.hosts.shared.of(host).journal());
    let journals: Vec<_> = head.hosts.cluster.hosts.keys().map(journal).collect();
    report::read_all(context, &mut ledger, &journals)?;
    report::tell(context, options, ledger, live(head))
}

/// The facts about all instances. None if a host does not answer, whose instances still exist.
fn live(head: &Head) -> Result<BTreeMap<String, Live>> {
    let (answers, rows) = instances(head, None, None, None)?;
    if let Some(unreachable) = answers.unreachable.first() {
        bail!("{unreachable}");
    }
    let mut all = BTreeMap::new();
    for row in rows {
        let text = |key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default();
        let lab = text("lab_id").to_owned();
        let live = Live {
            memory_mb: report::memory(head.context, &lab).unwrap_or(0),
            state: State::deserialize(&row["state"])?,
            created: text("created").parse().ok(),
            lab,
        };
        all.insert(text("instance").to_owned(), live);
    }
    Ok(all)
}
