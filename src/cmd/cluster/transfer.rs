//! Files to and from instances on their hosts. They pass through the shared directory, and each host
//! copies them as it does for itself.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::arguments::{HostCommand, Needs, Words};
use super::head::{Head, answer, with_host};
use super::many::{of_class, report};
use super::merged::{states, text};
use crate::cli::{Class, Push};
use crate::cmd::instance::transfer;
use crate::files::{self, SHARED_DIRECTORY, archive};
use crate::instance::transfer::{Collect, Collected, Unfinished};
use crate::names::InstanceName;
use crate::output::Column;

/// A directory for files on their way, which is removed when this is dropped, or by the next transfer.
pub fn on_their_way(head: &Head) -> Result<Unfinished> {
    let directory = head.hosts.shared.paths.transfers();
    let made = files::make_directory(&directory, SHARED_DIRECTORY).map_err(anyhow::Error::from);
    made.and_then(|()| Unfinished::begin(&directory))
        .with_context(|| format!("failed to make a directory in {}", directory.display()))
}

/// What the host of `name` answers to `words` about it, in the list `key`.
fn on_host(head: &Head, name: &InstanceName, words: Words, key: &str) -> Result<Value> {
    let command = HostCommand {
        arguments: words.0,
        needs: Needs::ItsHost,
        frees_memory: false,
        is_about_instance: false,
    };
    let done = head.run(&command, name, "json")?;
    let mut document = answer(&done.ended, &done.host)?;
    let first = document.get_mut(key).and_then(|list| list.get_mut(0));
    let first = first.with_context(|| format!("{} did not report what it did", done.host))?;
    Ok(with_host(first.take(), &done.host))
}

/// `cyyber instance push`
pub fn push(head: &Head, options: &Push) -> Result<()> {
    let (class, sources, target) = transfer::parts(options)?;
    let bounds = &options.bounds;
    let directory = on_their_way(head)?;
    let names = archive::copy(&sources, directory.path(), bounds.max_size)?;
    let sources = names.iter().map(|name| directory.path().join(name));
    let sources: Vec<_> = sources
        .map(|it| it.to_string_lossy().into_owned())
        .collect();
    let done = of_class(head, &class, |head, name| {
        let mut words = Words::of(["instance", "push"])
            .option("--owner", options.owner.as_ref())
            .flag(options.replace, "--replace")
            .option("--max-size", Some(bounds.max_size))
            .option("--timeout", Some(bounds.timeout))
            .flag(true, "--");
        words
            .0
            .extend([name.lab.to_string(), name.user.to_string()]);
        words.0.extend(sources.iter().cloned());
        words.0.push(target.as_str().to_owned());
        on_host(head, name, words, "pushed")
    })?;
    report(head, "pushed", done, |rows, _| {
        rows.column("INSTANCE", text("instance"))
            .column("HOST", text("host"))
            .column(Column::cut(0, "TARGET"), text("target"))
            .column(Column::spare(1, "FILES"), text("files"))
            .column(Column::spare(1, "BYTES"), text("bytes"))
    })
}

/// `cyyber instance collect`
pub fn collect(head: &Head, class: &Class, collect: &Collect) -> Result<()> {
    let done = of_class(head, class, |head, name| {
        let directory = on_their_way(head)?;
        // Below it: we hold its lock, and the host takes that of its target.
        let to = directory.path().join("collected");
        let words = Words::on("collect", name)
            .option("--from", Some(collect.from.as_str()))
            .option("--to", Some(to.display()))
            .option("--max-size", Some(collect.most))
            .option("--timeout", Some(collect.timeout));
        let mut collected = Value::Null;
        let path = collect.bring(name, || {
            collected = on_host(head, name, words, "collected")?;
            let path = collected["path"].as_str().map(PathBuf::from);
            path.context("its host did not report where it is")
        })?;
        collected["path"] = json!(path);
        transfer::warn(head.context, &Collected::deserialize(&collected)?);
        Ok(collected)
    })?;
    report(head, "collected", done, |rows, _| {
        states(rows)
            .column("PATH", text("path"))
            .column(Column::spare(1, "FILES"), text("files"))
            .column(Column::spare(1, "BYTES"), text("bytes"))
            .column(Column::spare(1, "LEFT OUT"), text("left_out"))
    })
}
