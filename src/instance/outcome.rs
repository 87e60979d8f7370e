//! What a verb made of an instance.

use jiff::Timestamp;
use serde::Serialize;

use super::console::Access;
use super::status::View;
use crate::names::State;
use crate::secret::Secret;

/// What a verb made of an instance.
#[derive(Debug, Serialize)]
pub struct Outcome {
    #[serde(flatten)]
    pub view: View,
    pub vnc_password: Option<Secret>,
    pub vnc_password_expires: Option<Timestamp>,
    /// What it was before, where the verb may have changed that.
    #[serde(skip)]
    pub was: Option<Was>,
}

/// What an instance was before a verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Was {
    /// Not there.
    Absent,
    /// In this state.
    In(State),
}

impl Outcome {
    /// The same of a verb that found the instance as it `was`.
    #[must_use]
    pub fn after(self, was: Was) -> Outcome {
        Outcome {
            was: Some(was),
            ..self
        }
    }

    /// The same with access to its console.
    #[must_use]
    pub fn with(self, access: Access) -> Outcome {
        Outcome {
            vnc_password: Some(access.password),
            vnc_password_expires: Some(access.expires),
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
}
