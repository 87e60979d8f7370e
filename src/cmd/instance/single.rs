//! The answer of a verb on one instance.

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use super::access::Access;
use super::view::{View, Viewer};
use crate::context::Context;
use crate::hypervisor::Power;
use crate::instance::{InstanceName, State};
use crate::output::{Cell, Column, Report};
use crate::secret::Secret;
use crate::units::endpoint;

/// The answer of a verb on one instance.
#[derive(Debug, Serialize)]
pub struct Single {
    #[serde(flatten)]
    view: View,
    vnc_password: Option<Secret>,
    vnc_password_expires: Option<Timestamp>,
    /// What it was before, where this call may have changed that.
    #[serde(skip)]
    was: Option<Was>,
}

/// What an instance was before a verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Was {
    /// Not there.
    Absent,
    /// In this state.
    In(State),
}

/// The answer of a verb on one instance, as it is now.
pub fn answer(
    context: &Context,
    name: &InstanceName,
    changed: bool,
    reason: Option<String>,
    access: Option<Access>,
) -> Result<Single> {
    let domain = super::existing(context, name)?;
    let facts = super::facts(&domain, name)?;
    let mut view = Viewer::new(context).view(name, &facts)?;
    view.changed = changed;
    if let Some(reason) = reason {
        view.reason = reason;
    }
    if facts.power == Power::On {
        view.ip = domain.leased_address().map(|address| address.to_string());
    }
    let (vnc_password, vnc_password_expires) = match access {
        Some(Access { password, expires }) => (Some(password), Some(expires)),
        None => (None, None),
    };
    Ok(Single {
        view,
        vnc_password,
        vnc_password_expires,
        was: None,
    })
}

impl Single {
    /// The same answer of a verb that found the instance as it `was`.
    #[must_use]
    pub fn after(self, was: Was) -> Single {
        Single {
            was: Some(was),
            ..self
        }
    }

    /// What the verb changed, if it did: the states before and after, and the reason.
    pub fn change(&self) -> Option<(Option<State>, State, &str)> {
        let from = match self.was.filter(|_| self.view.changed)? {
            Was::Absent => None,
            Was::In(state) => Some(state),
        };
        Some((from, self.view.state, &self.view.reason))
    }

    /// Of a table of many.
    pub const COLUMNS: [Column; 6] = [
        Column::new("INSTANCE"),
        Column::new("STATE"),
        Column::new("CHANGED").spare(1),
        Column::new("VNC").spare(3),
        Column::new("NOVNC").spare(3),
        Column::new("REASON").cut().spare(2),
    ];

    /// This one's row in it.
    pub fn row(&self) -> Vec<Cell> {
        let view = &self.view;
        let port = |port: Option<u16>| Cell::from(port.map(|port| port.to_string()));
        vec![
            view.instance.as_str().into(),
            view.state.into(),
            if view.changed { "yes" } else { "no" }.into(),
            port(view.vnc_port),
            port(view.novnc_port),
            view.reason.as_str().into(),
        ]
    }
}

impl Report for Single {
    fn text(&self) -> String {
        let View {
            instance,
            state,
            changed,
            reason,
            ..
        } = &self.view;
        let already = if *changed { "" } else { "already " };
        let mut text = format!("{instance} is {already}{state}: {reason}");
        let mut line =
            |label: &str, value: String| text.push_str(&format!("\n  {label:<10}{value}"));
        if let (Some(host), Some(port)) = (&self.view.vnc_host, self.view.vnc_port) {
            line("VNC", endpoint(host, port));
            if let Some(port) = self.view.novnc_port {
                line("WebSocket", endpoint(host, port));
            }
        }
        if let (Some(password), Some(expires)) = (&self.vnc_password, &self.vnc_password_expires) {
            line(
                "password",
                format!(
                    "{} (new sessions until {})",
                    password.reveal(),
                    expires.strftime("%H:%M:%S UTC")
                ),
            );
        }
        if let Some(ip) = &self.view.ip {
            line("address", ip.clone());
        }
        if let Some(until) = &self.view.kept_until {
            line("kept", until.strftime("until %F %H:%M:%S UTC").to_string());
        }
        text
    }
}
