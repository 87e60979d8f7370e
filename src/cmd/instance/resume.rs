//! `cyyber instance resume`

use anyhow::Result;

use super::single::Single;
use super::start::{self, Start};
use super::wake::settled;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::hypervisor::Power;
use crate::instance::InstanceName;

pub fn run(context: &Context, name: &InstanceName) -> Result<Single> {
    let _lock = super::lock(context, name)?;
    let domain = super::existing(context, name)?;
    let before = settled(&domain, name)?;
    if matches!(before.power, Power::Off | Power::Crashed) && !before.saved {
        let message = format!("{name} is not paused: nothing to resume");
        let hint = format!(
            "power it on: cyyber instance start {} {}",
            name.lab, name.user
        );
        return Err(Fault::new(Kind::Conflict, message).hint(hint).into());
    }
    let start = Start {
        as_it_was: true,
        ..Start::default()
    };
    start::power_on(context, name, &domain, start)
}
