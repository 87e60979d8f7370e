//! `cyyber instance list`

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use super::view::{View, views};
use crate::context::Context;
use crate::hypervisor::{Detail, Facts};
use crate::instance::{InstanceName, LabId, State, UserId};
use crate::output::{Report, table};
use crate::units::age;

pub fn run(
    context: &Context,
    lab: Option<&LabId>,
    user: Option<&UserId>,
    state: Option<State>,
) -> Result<()> {
    let mut asked_for = survey(context, Detail::Power)?;
    asked_for.retain(|(name, _)| {
        lab.is_none_or(|lab| *lab == name.lab) && user.is_none_or(|user| *user == name.user)
    });
    let mut instances = views(context, &asked_for)?;
    instances.retain(|view| state.is_none_or(|state| state == view.state));
    if let (Some(lab), true) = (lab, instances.is_empty()) {
        context.config.lab(lab)?;
    }
    context.output.answer(&List {
        instances,
        now: context.time(),
    })
}

/// All instances within reach with their facts, by name.
pub fn survey(context: &Context, detail: Detail) -> Result<Vec<(InstanceName, Facts)>> {
    context.hypervisor()?.survey(detail)
}

#[derive(Serialize)]
struct List {
    instances: Vec<View>,
    #[serde(skip)]
    now: Timestamp,
}

impl Report for List {
    fn text(&self) -> String {
        if self.instances.is_empty() {
            return "no instances".to_owned();
        }
        let rows = self.instances.iter().map(|view| {
            let dash = || "-".to_owned();
            vec![
                view.instance.clone(),
                view.lab_id.to_string(),
                view.user_id.to_string(),
                view.state.to_string(),
                view.vnc_port.map_or_else(dash, |port| port.to_string()),
                view.novnc_port.map_or_else(dash, |port| port.to_string()),
                match view.base_is_current {
                    Some(true) => "current".to_owned(),
                    Some(false) => "old".to_owned(),
                    None => dash(),
                },
                view.last_activity
                    .map_or_else(dash, |at| age(self.now.duration_since(at))),
                view.reason.clone(),
            ]
        });
        table(
            &[
                "INSTANCE", "LAB", "USER", "STATE", "VNC", "NOVNC", "BASE", "ACTIVE", "REASON",
            ],
            rows,
        )
    }
}
