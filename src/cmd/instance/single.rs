//! Prints the outcome of an operation on one instance.

use crate::instance::outcome::Outcome;
use crate::output::{Column, Report, Table};
use crate::units::endpoint;

/// A table of many.
pub fn table(all: &[Outcome]) -> Option<Table> {
    let port = |port: Option<u16>| port.map(|port| port.to_string());
    Table::of(all.iter().map(|one| &one.status))
        .column("INSTANCE", |it| it.instance.as_str())
        .column("STATE", |it| it.state)
        .column(Column::spare(1, "CHANGED"), |it| it.changed)
        .column(Column::spare(3, "VNC"), |it| port(it.vnc_port))
        .column(Column::spare(3, "NOVNC"), |it| port(it.novnc_port))
        .column(Column::cut(2, "REASON"), |it| it.reason.as_str())
        .if_any()
}

impl Report for Outcome {
    fn text(&self) -> String {
        let status = &self.status;
        let already = if status.changed { "" } else { "already " };
        let (instance, state, reason) = (&status.instance, status.state, &status.reason);
        let mut text = format!("{instance} is {already}{state}: {reason}");
        let mut line = |label, value: String| text.push_str(&format!("\n  {label:<10}{value}"));
        if let (Some(host), Some(port)) = (&status.vnc_host, status.vnc_port) {
            line("VNC", endpoint(host, port));
            if let Some(port) = status.novnc_port {
                line("WebSocket", endpoint(host, port));
            }
        }
        if let (Some(password), Some(expires)) = (&self.vnc_password, &self.vnc_password_expires) {
            let until = expires.strftime("(new sessions until %H:%M:%S UTC)");
            line("password", format!("{} {until}", password.reveal()));
        }
        if let (Some(path), Some(expires)) = (&self.console_path, &self.console_expires) {
            let until = expires.strftime("%H:%M:%S UTC");
            line("path", format!("{} (once, until {until})", path.reveal()));
        }
        if let Some(ip) = &status.ip {
            line("address", ip.clone());
        }
        if !self.displaced.is_empty() {
            line(
                "paused",
                format!("for its memory: {}", self.displaced.join(", ")),
            );
        }
        if let Some((step, at)) = status.next_step.zip(status.next_step_at) {
            let at = at.strftime("%F %H:%M:%S UTC");
            line("next", format!("{} from {at} if not used", step.as_str()));
        }
        if let Some(until) = &status.kept_until {
            line("kept", until.strftime("until %F %H:%M:%S UTC").to_string());
        }
        text
    }
}
