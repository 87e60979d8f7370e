//! `cyyber instance console`

use anyhow::{Context as _, Result};

use super::access;
use super::single::{self, Single};
use super::wake::settled;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::hypervisor::Power;
use crate::instance::InstanceName;
use crate::state::activity;

pub fn run(context: &Context, name: &InstanceName) -> Result<Single> {
    let _lock = super::lock(context, name)?;
    let domain = super::existing(context, name)?;
    if settled(&domain, name)?.power != Power::On {
        let message = format!("{name} is not running and has no console");
        let hint = format!("start it: cyyber instance start {} {}", name.lab, name.user);
        return Err(Fault::new(Kind::Conflict, message).hint(hint).into());
    }
    // Whoever asks is about to look.
    activity::touch(&context.paths.activity(name))
        .with_context(|| format!("failed to note the activity of {name}"))?;
    let console = access::locate(context, name, &domain.xml()?)?;
    let access = access::grant(context, &domain, &console)?;
    single::answer(context, name, true, None, Some(access))
}
