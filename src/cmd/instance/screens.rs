//! `cyyber instance screens`: a page with the screens of all running instances.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use jiff::SignedDuration;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, context as values};
use serde::{Deserialize, Serialize};

use super::many::{FailedInstance, fail_if_any, side_by_side};
use crate::cli::Screens;
use crate::cluster::hosts::Unreachable;
use crate::config::HostName;
use crate::context::Context;
use crate::files::{self, PRIVATE, PRIVATE_DIRECTORY};
use crate::hypervisor::{Detail, Facts, Power};
use crate::instance::existing;
use crate::instance::status::{InstanceStatus, statuses};
use crate::instance::watch_path;
use crate::names::{InstanceName, LabId, State, UserId};
use crate::output::{Column, Report, Table};
use crate::secret::Secret;
use crate::units::{Interval, age};

const PAGE: &str = include_str!("../../../templates/screens.html");

/// How many pictures are taken in parallel.
const AT_ONCE: usize = 4;

/// How often a browser reloads a page that is written once, in seconds.
const LOOKS: u64 = 10;

/// Writes the page and its pictures, once, or repeatedly until interrupted.
pub fn run(context: &Context, options: &Screens) -> Result<()> {
    show(context, options, |context, directory| {
        Taken::of(context, options, directory)
    })
}

/// Writes the page with the pictures that `take` puts into a directory.
pub fn show(
    context: &Context,
    options: &Screens,
    take: impl Fn(&Context, &Path) -> Result<Taken>,
) -> Result<()> {
    let lab = options.lab.as_ref();
    if let Some(lab) = lab {
        context.config.lab(lab)?;
    }
    let stop = context.interrupted()?;
    let directory = std::path::absolute(&options.html)?;
    // Resolve an administrator's link once.
    let directory = directory.canonicalize().unwrap_or(directory);
    files::make_directory(&directory, PRIVATE_DIRECTORY)?;
    let wall = |context: &Context, every: u64| {
        let wall = Wall {
            page: directory.join("index.html"),
            taken: take(context, &directory)?,
        };
        let text = wall.html(context, lab, every)?;
        files::replace_soon(&wall.page, text.as_bytes(), PRIVATE)?;
        wall.remove_others(&directory)?;
        anyhow::Ok(wall)
    };
    let Some(every) = options.watch.map(Interval::std) else {
        let wall = wall(context, LOOKS)?;
        context.output.answer(&wall)?;
        let taken = &wall.taken;
        for it in taken.unreachable.iter().flatten() {
            context.output.warn(&it.to_string());
        }
        return fail_if_any(context, &taken.failed, taken.screens.len());
    };
    let mut live = context.output.live();
    loop {
        let began = Instant::now();
        // Like a new command: libvirtd may have been restarted in the meantime.
        let wall = wall(&context.for_worker(), every.as_secs())?;
        let has_reader = live.show(&wall, |_| None)?;
        if !has_reader || !live.wait_until(began + every, stop) {
            return Ok(());
        }
    }
}

/// All screens, just taken.
#[derive(Serialize)]
struct Wall {
    page: PathBuf,
    #[serde(flatten)]
    taken: Taken,
}

/// What is known of all screens.
#[derive(Default, Serialize, Deserialize)]
pub struct Taken {
    pub screens: Vec<Screen>,
    pub failed: Vec<FailedInstance>,
    /// How many instances are not running.
    pub off: usize,
    /// On the head: the hosts whose screens are missing.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<Vec<Unreachable>>,
}

/// The screen of an instance.
#[derive(Serialize, Deserialize)]
pub struct Screen {
    instance: String,
    lab_id: LabId,
    user_id: UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    state: State,
    idle_seconds: Option<i64>,
    /// The file name in the directory of the page.
    pub picture: Option<String>,
    pub error: Option<String>,
    /// The URL where it can be watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<Secret>,
}

impl Taken {
    fn of(context: &Context, options: &Screens, directory: &Path) -> Result<Taken> {
        let mut all = context.hypervisor()?.survey(Detail::Power)?;
        let is_of_lab = |it: &InstanceName| options.lab.as_ref().is_none_or(|lab| *lab == it.lab);
        all.retain(|(name, _)| is_of_lab(name));
        let count = all.len();
        all.retain(|(_, facts)| facts.power == Power::On);
        let statuses = statuses(context, &all, false, |_| {})?;
        let take = |context: &Context, (name, _): &(InstanceName, Facts)| {
            let picture = existing(context, name)?.screenshot()?;
            let path = directory.join(picture_of(name));
            Ok(files::replace_soon(&path, &picture, PRIVATE)?)
        };
        let results = side_by_side(context, &all, AT_ONCE, take)?;
        let mut taken = Taken {
            off: count.saturating_sub(all.len()),
            ..Taken::default()
        };
        for (((name, _), status), result) in all.into_iter().zip(statuses).zip(results) {
            if let Err(error) = &result {
                taken.failed.push(FailedInstance::new(&name, error));
            }
            let screen = Screen::new(context, &name, status, result, options.viewer.as_deref());
            taken.screens.push(screen);
        }
        Ok(taken)
    }
}

impl Wall {
    fn html(&self, context: &Context, lab: Option<&LabId>, every: u64) -> Result<String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        let now = context.time();
        let Taken {
            screens,
            off,
            unreachable,
            ..
        } = &self.taken;
        let screen = |screen: &Screen| {
            values! {
                instance => screen.instance.clone(),
                host => screen.host.as_ref().map(HostName::as_str),
                state => screen.state.as_str(),
                picture => screen.picture.clone(),
                error => screen.error.clone(),
                unused => screen.unused(),
                link => screen.link.as_ref().map(Secret::reveal),
            }
        };
        let missing = unreachable.iter().flatten().map(Unreachable::to_string);
        let values = values! {
            lab => lab.map(LabId::as_str),
            every,
            off,
            missing => missing.collect::<Vec<_>>(),
            time => now.strftime("%F %H:%M:%S UTC").to_string(),
            // A browser must not show its cached picture.
            stamp => now.as_second(),
            screens => screens.iter().map(screen).collect::<Vec<_>>(),
        };
        environment
            .render_str(PAGE, values)
            .context("failed to render the page of screens")
    }

    /// Pictures of instances that no longer run.
    fn remove_others(&self, directory: &Path) -> Result<()> {
        let ours = |file: &str| file.strip_suffix(".png")?.parse::<InstanceName>().ok();
        let directory = files::Directory::open(directory)?;
        for file in directory.names()? {
            let is_shown = |screen: &Screen| screen.picture.as_deref().is_some_and(|it| file == it);
            if file.to_str().and_then(ours).is_some() && !self.taken.screens.iter().any(is_shown) {
                directory.remove(&*file)?;
            }
        }
        Ok(())
    }
}

impl Screen {
    fn new(
        context: &Context,
        name: &InstanceName,
        status: InstanceStatus,
        taken: Result<()>,
        viewer: Option<&str>,
    ) -> Screen {
        let unused = status
            .last_activity
            .map(|at| context.time().duration_since(at));
        Screen {
            instance: status.instance,
            lab_id: status.lab_id,
            user_id: status.user_id,
            state: status.state,
            idle_seconds: unused.map(|unused| unused.as_secs().max(0)),
            host: None,
            picture: taken.is_ok().then(|| picture_of(name)),
            error: taken.err().map(|error| format!("{error:#}")),
            link: viewer.and_then(|viewer| link(context, name, viewer)),
        }
    }

    /// The instance.
    pub fn name(&self) -> InstanceName {
        InstanceName {
            lab: self.lab_id.clone(),
            user: self.user_id.clone(),
        }
    }

    fn unused(&self) -> Option<String> {
        self.idle_seconds.map(SignedDuration::from_secs).map(age)
    }
}

/// The URL of noVNC's page at `viewer` for watching the console of `name` through the gateway. The
/// part after # does not appear in a web server's log.
fn link(context: &Context, name: &InstanceName, viewer: &str) -> Option<Secret> {
    let path = watch_path(context, name)?;
    let path = path.reveal().trim_start_matches('/');
    Some(Secret::new(format!(
        "{viewer}#autoconnect=true&reconnect=false&view_only=true&path={path}"
    )))
}

/// The file name of its picture.
pub fn picture_of(name: &InstanceName) -> String {
    format!("{name}.png")
}

impl Report for Wall {
    fn text(&self) -> String {
        format!("no instance is running; {}", self.page.display())
    }

    fn table(&self) -> Option<Table> {
        let directory = self.page.parent().unwrap_or(Path::new("/"));
        let picture = |it: &Screen| {
            let picture = it.picture.as_ref();
            picture.map(|picture| directory.join(picture).display().to_string())
        };
        Table::of(&self.taken.screens)
            .column("INSTANCE", |it| it.instance.as_str())
            .column(Column::spare(1, "HOST"), |it| {
                it.host.as_ref().map(HostName::as_str)
            })
            .column("STATE", |it| it.state)
            .column(Column::number(0, "UNUSED"), Screen::unused)
            .column(Column::cut(0, "PICTURE"), picture)
            .if_any()
    }
}
