//! `cyyber instance list`

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use crate::context::Context;
use crate::hypervisor::Detail;
use crate::instance::status::{InstanceStatus, statuses};
use crate::names::{LabId, State, UserId};
use crate::output::{Column, Report, Table};
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
    instances.retain(|status| state.is_none_or(|state| state == status.state));
    if let (Some(lab), true) = (lab, instances.is_empty()) {
        context.config.lab(lab)?;
    }
    let now = context.time();
    context.output.answer(&List { instances, now })
}

#[derive(Serialize)]
struct List {
    instances: Vec<InstanceStatus>,
    #[serde(skip)]
    now: Timestamp,
}

const COLUMNS: [Column; 10] = [
    Column::new("INSTANCE"),
    // Its name has both.
    Column::new("LAB").spare(6),
    Column::new("USER").spare(6),
    Column::new("STATE"),
    Column::new("VNC").spare(4),
    Column::new("NOVNC").spare(4),
    Column::new("BASE").spare(3),
    Column::new("ACTIVE").number().spare(1),
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
            vec![
                status.instance.as_str().into(),
                status.lab_id.as_str().into(),
                status.user_id.as_str().into(),
                status.state.into(),
                port(status.vnc_port).into(),
                port(status.novnc_port).into(),
                status.base_is_current.map(base).into(),
                active.into(),
                kept.into(),
                status.reason.as_str().into(),
            ]
        });
        (!self.instances.is_empty()).then(|| Table::new(&COLUMNS, rows))
    }
}
