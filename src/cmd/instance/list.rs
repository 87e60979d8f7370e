//! `cyyber instance list`

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use crate::context::Context;
use crate::hypervisor::Detail;
use crate::instance::address::leased;
use crate::instance::status::{InstanceStatus, statuses};
use crate::names::{LabId, State, UserId};
use crate::output::{Column, Report, Table};
use crate::reaper::forecast::Forecast;
use crate::reaper::report::due;
use crate::units::age;

pub fn run(
    context: &Context,
    lab: Option<&LabId>,
    user: Option<&UserId>,
    state: Option<State>,
) -> Result<()> {
    let mut asked_for = context.hypervisor()?.survey(Detail::Power)?;
    asked_for.retain(|(name, _)| {
        lab.is_none_or(|lab| *lab == name.lab) && user.is_none_or(|user| *user == name.user)
    });
    let mut instances = statuses(context, &asked_for, true)?;
    let forecast = Forecast::new(context);
    for status in &mut instances {
        forecast.add(status);
    }
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

const COLUMNS: [Column; 12] = [
    Column::new("INSTANCE"),
    // Its name has both.
    Column::new("LAB").spare(6),
    Column::new("USER").spare(6),
    Column::new("STATE"),
    Column::new("VNC").spare(4),
    Column::new("NOVNC").spare(4),
    Column::new("ADDRESS").spare(5),
    Column::new("BASE").spare(3),
    Column::new("ACTIVE").number().spare(1),
    Column::new("NEXT").spare(5),
    // For how long still.
    Column::new("KEPT").number().spare(7),
    Column::new("REASON").cut().spare(2),
];

impl Report for List {
    fn text(&self) -> String {
        "no instances".to_owned()
    }

    fn table(&self) -> Option<Table> {
        let rows = self.instances.iter().map(|status| {
            let port = |port: Option<u16>| port.map(|port| port.to_string());
            let base = |is_current| if is_current { "current" } else { "old" };
            let active = status
                .last_activity
                .map(|at| age(self.now.duration_since(at)));
            let kept = status
                .kept_until
                .map(|until| age(until.duration_since(self.now)));
            let next = status.next_step.zip(status.next_step_at);
            vec![
                status.instance.as_str().into(),
                status.lab_id.as_str().into(),
                status.user_id.as_str().into(),
                status.state.into(),
                port(status.vnc_port).into(),
                port(status.novnc_port).into(),
                status.ip.as_deref().into(),
                status.base_is_current.map(base).into(),
                active.into(),
                next.map(|(step, at)| due(step, at, self.now)).into(),
                kept.into(),
                status.reason.as_str().into(),
            ]
        });
        (!self.instances.is_empty()).then(|| Table::new(&COLUMNS, rows))
    }
}
