//! `cyyber instance list`

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use crate::context::Context;
use crate::instance::address::leased;
use crate::instance::status::InstanceStatus;
use crate::names::{LabId, State, UserId};
use crate::output::{Column, Report, Table};
use crate::reaper::forecast::survey;
use crate::reaper::report::due;
use crate::units::age;

pub fn run(
    context: &Context,
    lab: Option<&LabId>,
    user: Option<&UserId>,
    state: Option<State>,
) -> Result<()> {
    let (mut asked_for, forecast) = survey(context)?;
    asked_for.retain(|(name, _)| {
        lab.is_none_or(|lab| *lab == name.lab) && user.is_none_or(|user| *user == name.user)
    });
    let mut instances = forecast.statuses(&asked_for)?;
    instances.retain(|status| state.is_none_or(|state| state == status.state));
    if let (Some(lab), true) = (lab, instances.is_empty()) {
        context.config.lab(lab)?;
    }
    add_addresses(context, &mut instances);
    let now = context.time();
    context.output.answer(&List { instances, now })
}

/// Adds the addresses of those that run, as far as they are known.
fn add_addresses(context: &Context, instances: &mut [InstanceStatus]) {
    let runs = |it: &&mut InstanceStatus| {
        matches!(it.state, State::Starting | State::Running | State::Idle)
    };
    let mut running = instances.iter_mut().filter(runs).peekable();
    if running.peek().is_none() {
        return;
    }
    match leased(context) {
        Ok(mut leased) => running.for_each(|status| {
            let ip = leased.remove(&status.instance);
            status.ip = ip.map(|ip| ip.to_string());
        }),
        Err(error) => context
            .output
            .detail(&format!("warning: addresses are unknown: {error:#}")),
    }
}

#[derive(Serialize)]
struct List {
    instances: Vec<InstanceStatus>,
    #[serde(skip)]
    now: Timestamp,
}

impl Report for List {
    fn text(&self) -> String {
        "no instances".to_owned()
    }

    fn table(&self) -> Option<Table> {
        let now = self.now;
        let port = |port: Option<u16>| port.map(|port| port.to_string());
        let base = |is_current| if is_current { "current" } else { "old" };
        let active = |it: &InstanceStatus| it.last_activity.map(|at| age(now.duration_since(at)));
        let kept = |it: &InstanceStatus| it.kept_until.map(|at| age(at.duration_since(now)));
        let next = |it: &InstanceStatus| {
            let next = it.next_step.zip(it.next_step_at);
            next.map(|(step, at)| due(step, at, now))
        };
        Table::of(&self.instances)
            .column("INSTANCE", |it| it.instance.as_str())
            // Its name has both.
            .column(Column::spare(6, "LAB"), |it| it.lab_id.as_str())
            .column(Column::spare(6, "USER"), |it| it.user_id.as_str())
            .column("STATE", |it| it.state)
            .column(Column::spare(4, "VNC"), |it| port(it.vnc_port))
            .column(Column::spare(4, "NOVNC"), |it| port(it.novnc_port))
            .column(Column::spare(5, "ADDRESS"), |it| it.ip.as_deref())
            .column(Column::spare(3, "BASE"), |it| it.base_is_current.map(base))
            .column(Column::number(1, "ACTIVE"), active)
            .column(Column::spare(5, "NEXT"), next)
            // For how long still.
            .column(Column::number(7, "KEPT"), kept)
            .column(Column::cut(2, "REASON"), |it| it.reason.as_str())
            .if_any()
    }
}
