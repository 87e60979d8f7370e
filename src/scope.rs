//! The scope of a command: the instances of all users, or with `--as-user` those of one user only.
//! Pure.
//!
//! Instances out of scope do not exist for the command. This is enforced where instances enter:
//! names from the command line ([`crate::context::Context::instance`]), domains
//! ([`crate::hypervisor::Hypervisor`]), searched files ([`crate::instance`]'s remains), and the
//! lock that everything takes which changes an instance. A command cannot get at an instance
//! without passing one of these.

use crate::error::{Fault, Kind};
use crate::names::{InstanceName, UserId};

/// The users whose instances are in scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All users.
    Everyone,
    /// Only this user.
    Only(UserId),
}

impl Scope {
    /// Whether the instance `name` is in scope.
    pub fn covers(&self, name: &InstanceName) -> bool {
        self.covers_user(&name.user)
    }

    /// Whether the instances of `user` are in scope.
    pub fn covers_user(&self, user: &UserId) -> bool {
        match self {
            Scope::Everyone => true,
            Scope::Only(only) => only == user,
        }
    }

    /// Fails for an instance that is out of scope, with the same error as for a missing one.
    pub fn check(&self, name: &InstanceName) -> Result<(), Fault> {
        if self.covers(name) {
            Ok(())
        } else {
            Err(missing(name))
        }
    }

    /// The user, if the scope is one user.
    pub fn only(&self) -> Option<&UserId> {
        match self {
            Scope::Everyone => None,
            Scope::Only(user) => Some(user),
        }
    }
}

/// The error that there is no instance called `name` in scope.
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
        // Ids are case-sensitive, like the names of domains and files.
        assert!(!Scope::Only(user("anna")).covers(&name("lab01_user_Anna")));
    }
}
