//! A page with the screens of all hosts.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::all::{Whom, ask_each};
use super::arguments::Words;
use super::head::Head;
use super::transfer::on_their_way;
use crate::cli::Screens;
use crate::cmd::instance::many::FailedInstance;
use crate::cmd::instance::screens::{self, Screen, Taken, picture_of};
use crate::config::HostName;
use crate::files::{self, PRIVATE};

/// The time limit for the pictures of a host.
const PICTURES: Duration = Duration::from_secs(30);

/// The maximum size of a picture, in bytes.
const LARGEST: u64 = 32 << 20;

/// `cyyber instance screens`
pub fn run(head: &Head, options: &Screens) -> Result<()> {
    screens::show(head.context, options, |_, directory| {
        taken(&head.for_worker(), options, directory)
    })
}

/// The screens of all hosts, with their pictures in `directory`.
fn taken(head: &Head, options: &Screens, directory: &Path) -> Result<Taken> {
    let there = on_their_way(head)?;
    let of_host = |host: &HostName| there.path().join(host.as_str());
    let answers = ask_each(head, Whom::WithInstances, PICTURES, |host| {
        let words = Words::of(["instance", "screens"]);
        let words = words.option("--html", Some(of_host(host).display()));
        let mut words = words.option("--viewer", options.viewer.as_ref());
        words.0.extend(options.lab.iter().map(ToString::to_string));
        words
    })?;
    answers.any()?;
    let mut all = Taken::default();
    for (host, document) in answers.documents {
        let of_one = Taken::deserialize(document);
        let of_one = of_one.with_context(|| format!("{host} did not report its screens"))?;
        all.off += of_one.off;
        all.failed.extend(of_one.failed);
        for mut screen in of_one.screens {
            if screen.picture.is_some()
                && let Err(error) = bring(&screen, &of_host(&host), directory)
            {
                all.failed.push(FailedInstance::new(&screen.name(), &error));
                screen.picture = None;
                screen.error = Some(format!("{error:#}"));
            }
            screen.host = Some(host.clone());
            all.screens.push(screen);
        }
    }
    all.screens.sort_by_key(Screen::name);
    all.unreachable = Some(answers.unreachable);
    Ok(all)
}

/// Copies a picture.
fn bring(screen: &Screen, from: &Path, to: &Path) -> Result<()> {
    let file = picture_of(&screen.name());
    ensure!(
        screen.picture.as_ref() == Some(&file),
        "its picture has another name"
    );
    let picture = files::read_up_to(&from.join(&file), LARGEST);
    let copied = picture.and_then(|it| files::replace_soon(&to.join(&file), &it, PRIVATE));
    copied.context("failed to copy its picture from the shared directory")
}
