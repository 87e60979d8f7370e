//! The gateway, on a host that has one.

use super::finding::{Check, Finding};
use crate::context::Context;
use crate::gateway::tally::{self, Status};

/// The status of the gateway; no finding if none was started or the last one was stopped.
pub fn check(context: &Context) -> Option<Finding> {
    const CHECK: Check = Check("gateway");
    let remedy = "start it: systemctl start cyyber-gateway; or, if you do not need it, start it \
                  and stop it again";
    match Status::read(&context.paths) {
        Ok(None) => None,
        Ok(Some(status)) if tally::runs(&context.paths) => {
            let sessions = status.controlling.saturating_add(status.viewing);
            let s = if sessions == 1 { "" } else { "s" };
            let tls = if status.tls { " with TLS" } else { "" };
            Some(CHECK.ok(format!("on {}{tls}, {sessions} session{s}", status.listen)))
        }
        Ok(Some(Status { listen, .. })) => {
            let message = format!(
                "it listened on {listen} and has died: browsers cannot reach \
                                   consoles"
            );
            Some(CHECK.failed(message, remedy))
        }
        Err(error) => Some(CHECK.failed(format!("its status cannot be read: {error}"), remedy)),
    }
}
