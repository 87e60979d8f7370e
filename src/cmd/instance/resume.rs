//! `cyyber instance resume`

use anyhow::Result;

use super::view::Single;
use super::wake::settled;
use super::{memory, start};
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::hypervisor::Power;
use crate::instance::InstanceName;

pub fn run(context: &Context, name: &InstanceName) -> Result<Single> {
    let _lock = super::lock(context, name)?;
    let domain = super::existing(context, name)?;
    let before = settled(&domain, name)?;
    let start = format!(
        "power it on: cyyber instance start {} {}",
        name.lab, name.user
    );
    if matches!(before.power, Power::Off | Power::Crashed) && !before.saved {
        let message = format!("{name} is not paused: nothing to resume");
        return Err(Fault::new(Kind::Conflict, message).hint(start).into());
    }
    if before.saved
        && let Some(why) = memory::unusable(context, name, &domain)?
    {
        let message = format!("the saved memory of {name} cannot be restored: {why}");
        return Err(Fault::new(Kind::Conflict, message)
            .hint(format!("{start}; the memory is put aside then"))
            .into());
    }
    start::power_on(context, name, &domain, false)
}
