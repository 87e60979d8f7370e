//! Base builds that no instance uses any more.

use anyhow::{Context as _, Result};

use crate::context::Context;
use crate::images::base::Base;
use crate::images::builds;
use crate::instance::references::References;
use crate::names::{InstanceName, LabId};
use crate::state::lock::Lock;

/// The builds of `lab`, or of all labs, that are not current and that only instances for which
/// `goes` is true refer to.
pub fn unused(
    context: &Context,
    lab: Option<&LabId>,
    goes: impl Fn(&InstanceName) -> bool,
) -> Result<Vec<(LabId, Base)>> {
    let mut unused = builds::superseded(&context.paths)?;
    unused.retain(|(of, _)| lab.is_none_or(|lab| lab == of));
    if unused.is_empty() {
        return Ok(unused);
    }
    let used = References::new(context).used(goes)?;
    unused.retain(|(_, base)| !used.iter().any(|used| base.path.ends_with(used)));
    Ok(unused)
}

/// Removes `build` of `lab` unless it is in use by now; returns whether it did. If the lab is being
/// built, or a command is about to use one of its builds, it is left for the next time.
pub fn collect(context: &Context, lab: &LabId, build: &Base) -> Result<bool> {
    let (Some(_lab), Some(_builds)) = (
        Lock::try_take(&context.paths.lab_lock(lab)),
        Lock::try_take(&context.paths.bases_lock(lab)),
    ) else {
        return Ok(false);
    };
    let still = unused(context, Some(lab), |_| false)?;
    if !still.iter().any(|(_, unused)| unused == build) {
        return Ok(false);
    }
    builds::remove(&context.paths, lab, build)
        .with_context(|| format!("failed to remove the build {}", build.path.display()))?;
    Ok(true)
}
