//! Whose instances a command can reach: everybody's, or with `--as-user` those of one user alone.
//! Pure.
//!
//! What is out of reach does not exist for the command. That holds at the few places by which
//! anything comes in: names from the command line ([`crate::context::Context::instance`]), domains
//! ([`crate::hypervisor::Hypervisor`]), files that are looked for
//! ([`crate::instance`]'s remains), and the lock that everything takes which changes an
//! instance. A verb has no way to an instance past them.

use crate::error::{Fault, Kind};
use crate::names::{InstanceName, UserId};

/// Whose instances a command can reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's.
    Everyone,
    /// Those of this user: nothing of anyone else exists.
    Only(UserId),
}

impl Scope {
    /// Whether the instance `name` is within reach.
    pub fn covers(&self, name: &InstanceName) -> bool {
        self.covers_user(&name.user)
    }

    /// Whether the instances of `user` are within reach.
    pub fn covers_user(&self, user: &UserId) -> bool {
        match self {
            Scope::Everyone => true,
            Scope::Only(only) => only == user,
        }
    }

    /// Fails for an instance that is out of reach, as for one that is missing.
    pub fn check(&self, name: &InstanceName) -> Result<(), Fault> {
        if self.covers(name) {
            Ok(())
        } else {
            Err(missing(name))
        }
    }

    /// The one user whose instances these are, if it is one.
    pub fn only(&self) -> Option<&UserId> {
        match self {
            Scope::Everyone => None,
            Scope::Only(user) => Some(user),
        }
    }
}

/// There is no instance called `name`, as far as the command can tell.
pub fn missing(name: &InstanceName) -> Fault {
    let hint = format!("create it: cyyber instance create {}", name.arguments());
    Fault::new(Kind::NotFound, format!("no instance {name}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_reaches_nobody_else() {
        let user = |id: &str| id.parse::<UserId>().unwrap();
        let name = |name: &str| name.parse::<InstanceName>().unwrap();
        let only = Scope::Only(user("7"));
        assert!(only.covers(&name("lab01_user_7")));
        for other in ["lab01_user_77", "lab01_user_8", "lab7_user_a"] {
            assert!(!only.covers(&name(other)), "{other}");
            assert!(only.check(&name(other)).is_err());
            assert!(Scope::Everyone.covers(&name(other)));
        }
        // Ids are told apart by case, as the names of domains and files are.
        assert!(!Scope::Only(user("anna")).covers(&name("lab01_user_Anna")));
    }
}
