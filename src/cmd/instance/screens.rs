//! `cyyber instance screens`: a page with the screens of all running instances.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use minijinja::{AutoEscape, Environment, UndefinedBehavior, context as values};
use serde::Serialize;

use super::many::{FailedInstance, fail_if_any, side_by_side};
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

/// Writes the page and its pictures into `directory`, once, or repeatedly until interrupted.
pub fn run(
    context: &Context,
    lab: Option<&LabId>,
    directory: &Path,
    watch: Option<Interval>,
    viewer: Option<&str>,
) -> Result<()> {
    if let Some(lab) = lab {
        context.config.lab(lab)?;
    }
    let stop = context.interrupted()?;
    let directory = std::path::absolute(directory)?;
    // Resolve an administrator's link once.
    let directory = directory.canonicalize().unwrap_or(directory);
    files::make_directory(&directory, PRIVATE_DIRECTORY)?;
    let every = watch.map(Interval::std);
    let Some(every) = every else {
        let wall = Wall::of(context, lab, &directory, LOOKS, viewer)?;
        context.output.answer(&wall)?;
        return fail_if_any(context, &wall.failed, wall.screens.len());
    };
    let mut live = context.output.live();
    loop {
        let began = Instant::now();
        // Like a new command: libvirtd may have been restarted in the meantime.
        let wall = Wall::of(
            &context.for_worker(),
            lab,
            &directory,
            every.as_secs(),
            viewer,
        )?;
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
    screens: Vec<Screen>,
    failed: Vec<FailedInstance>,
}

#[derive(Serialize)]
struct Screen {
    instance: String,
    lab_id: LabId,
    user_id: UserId,
    state: State,
    idle_seconds: Option<i64>,
    /// The file name in the directory of the page.
    picture: Option<String>,
    error: Option<String>,
    /// As text.
    #[serde(skip)]
    unused: Option<String>,
    /// The URL where it can be watched.
    #[serde(skip)]
    link: Option<Secret>,
}

impl Wall {
    fn of(
        context: &Context,
        lab: Option<&LabId>,
        directory: &Path,
        every: u64,
        viewer: Option<&str>,
    ) -> Result<Wall> {
        let mut all = context.hypervisor()?.survey(Detail::Power)?;
        all.retain(|(name, _)| lab.is_none_or(|lab| *lab == name.lab));
        let count = all.len();
        all.retain(|(_, facts)| facts.power == Power::On);
        let statuses = statuses(context, &all, false, |_| {})?;
        let take = |context: &Context, (name, _): &(InstanceName, Facts)| {
            let picture = existing(context, name)?.screenshot()?;
            let path = directory.join(picture_of(name));
            Ok(files::replace_soon(&path, &picture, PRIVATE)?)
        };
        let taken = side_by_side(context, &all, AT_ONCE, take)?;
        let (mut screens, mut failed) = (Vec::new(), Vec::new());
        for (((name, _), status), taken) in all.iter().zip(statuses).zip(taken) {
            if let Err(error) = &taken {
                failed.push(FailedInstance::new(name, error));
            }
            screens.push(Screen::new(context, name, status, taken, viewer));
        }
        let page = directory.join("index.html");
        let wall = Wall {
            page,
            screens,
            failed,
        };
        let text = wall.html(context, lab, every, count)?;
        files::replace_soon(&wall.page, text.as_bytes(), PRIVATE)?;
        wall.remove_others(directory)?;
        Ok(wall)
    }

    fn html(
        &self,
        context: &Context,
        lab: Option<&LabId>,
        every: u64,
        count: usize,
    ) -> Result<String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        let now = context.time();
        let screens: Vec<_> = self
            .screens
            .iter()
            .map(|screen| {
                values! {
                    instance => screen.instance.clone(),
                    state => screen.state.as_str(),
                    picture => screen.picture.clone(),
                    error => screen.error.clone(),
                    unused => screen.unused.clone(),
                    link => screen.link.as_ref().map(Secret::reveal),
                }
            })
            .collect();
        let values = values! {
            lab => lab.map(LabId::as_str),
            every,
            off => count.saturating_sub(self.screens.len()),
            time => now.strftime("%F %H:%M:%S UTC").to_string(),
            // A browser must not show its cached picture.
            stamp => now.as_second(),
            screens,
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
            if file.to_str().and_then(ours).is_some() && !self.screens.iter().any(is_shown) {
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
            picture: taken.is_ok().then(|| picture_of(name)),
            error: taken.err().map(|error| format!("{error:#}")),
            unused: unused.map(age),
            link: viewer.and_then(|viewer| link(context, name, viewer)),
        }
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

fn picture_of(name: &InstanceName) -> String {
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
        Table::of(&self.screens)
            .column("INSTANCE", |it| it.instance.as_str())
            .column("STATE", |it| it.state)
            .column(Column::number(0, "UNUSED"), |it| it.unused.as_deref())
            .column(Column::cut(0, "PICTURE"), picture)
            .if_any()
    }
}
