//! What to say to somebody who names an instance that is not there.

use crate::context::Context;
use crate::error::Fault;
use crate::hypervisor::Detail;
use crate::names::InstanceName;
use crate::nearest::nearest;
use crate::scope::missing;

/// Why there is no instance `name`. Of a lab that is no longer configured there may be instances; of
/// none there is not, and the lab's name is likely mistyped.
pub fn absent(context: &Context, name: &InstanceName) -> anyhow::Error {
    match context.config.lab(&name.lab) {
        Ok(_) => unknown(context, name).into(),
        Err(error) => error,
    }
}

/// That there is no instance `name`, and which one may have been meant. Only what a listing shows
/// is ever named.
pub fn unknown(context: &Context, name: &InstanceName) -> Fault {
    let fault = missing(name);
    // Where no listing can be had, the error is no less true.
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

/// A slip in the user's id comes before one in the lab's.
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
