//! Errors and suggestions for an instance that does not exist.

use crate::context::Context;
use crate::error::Fault;
use crate::hypervisor::Detail;
use crate::names::InstanceName;
use crate::nearest::nearest;
use crate::scope::missing;

/// Why there is no instance `name`. Instances of a lab that is no longer configured may exist; if
/// none does, the lab's name is probably mistyped.
pub fn absent(context: &Context, name: &InstanceName) -> anyhow::Error {
    match context.config.lab(&name.lab) {
        Ok(_) => unknown(context, name).into(),
        Err(error) => error,
    }
}

/// The error that there is no instance `name`, with the one that was probably meant. Only instances
/// that a listing shows are suggested.
pub fn unknown(context: &Context, name: &InstanceName) -> Fault {
    let fault = missing(name);
    // If the listing fails, the error is still true.
    let all = context
        .hypervisor()
        .and_then(|hypervisor| hypervisor.survey(Detail::Power))
        .unwrap_or_default();
    let names: Vec<_> = all.into_iter().map(|(name, _)| name).collect();
    match meant(name, &names) {
        Some((lab, user)) => {
            let create = format!("cyyber instance create {}", name.arguments());
            fault.hint(format!(
                "did you mean {lab} {user}? if not, create it: {create}"
            ))
        }
        None => fault,
    }
}

/// A typo in the user's id is more likely than one in the lab's.
fn meant<'a>(name: &'a InstanceName, there: &'a [InstanceName]) -> Option<(&'a str, &'a str)> {
    let (lab, user) = (name.lab.as_str(), name.user.as_str());
    let users = there.iter().filter(|other| other.lab == name.lab);
    let labs = there.iter().filter(|other| other.user == name.user);
    nearest(user, users.map(|other| other.user.as_str()))
        .map(|user| (lab, user))
        .or_else(|| nearest(lab, labs.map(|other| other.lab.as_str())).map(|lab| (lab, user)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_in_one_of_both_ids() {
        let name = |name: &str| name.parse::<InstanceName>().unwrap();
        let there = ["lab01_user_anna", "lab01_user_7", "lab02_user_bob"].map(name);
        for (given, wanted) in [
            ("lab01_user_ana", Some(("lab01", "anna"))),
            ("lab02_user_anna", Some(("lab01", "anna"))),
            ("lab01_user_bob", Some(("lab02", "bob"))),
            ("lab02_user_ana", None),
            ("lab01_user_8", None),
        ] {
            assert_eq!(meant(&name(given), &there), wanted, "{given}");
        }
    }
}
