//! Copies files from this host into guests.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{channel, printed, program, turn};
use crate::context::Context;
use crate::files::archive::{self, Amount, FromStart};
use crate::instance::exec::{patience, running};
use crate::names::{GuestOwner, GuestPath, InstanceName};
use crate::units::{ByteSize, Duration};

/// Script that moves files to their final place in the guest.
const PLACE: &str = concat!(include_str!("port.sh"), include_str!("place.sh"));

/// Files that are ready to be pushed.
#[derive(Debug)]
pub struct Push {
    archive: File,
    names: Vec<String>,
    amount: Amount,
    target: GuestPath,
    /// Their owner in the guest; by default the owner of the target directory.
    pub owner: Option<GuestOwner>,
    /// Whether they replace existing files.
    pub replace: bool,
    timeout: Duration,
}

/// What was pushed.
#[derive(Debug, Serialize)]
pub struct Pushed {
    pub instance: String,
    pub target: GuestPath,
    #[serde(flatten)]
    pub amount: Amount,
}

impl Push {
    /// Reads `sources`, once for all guests.
    pub fn of(
        context: &Context,
        sources: &[PathBuf],
        target: GuestPath,
        most: ByteSize,
        timeout: Duration,
    ) -> Result<Push> {
        let state = context.paths.state();
        let archive = tempfile::tempfile_in(state)
            .with_context(|| format!("failed to make a file in {}", state.display()))?;
        let (names, amount) = archive::pack(sources, &archive, most)?;
        Ok(Push {
            archive,
            names,
            amount,
            target,
            owner: None,
            replace: false,
            timeout,
        })
    }

    /// Copies them into the guest of `name`.
    pub fn to(&self, context: &Context, name: &InstanceName) -> Result<Pushed> {
        running(context, name)?;
        let patience = patience(context, self.timeout.std())?;
        let size = self.archive.metadata()?.len().to_string();
        let owner = self.owner.as_ref().map_or("", GuestOwner::as_str);
        let replace = if self.replace { "yes" } else { "no" };
        let mut arguments = vec![&*size, self.target.as_str(), owner, replace];
        arguments.extend(self.names.iter().map(String::as_str));
        let content = FromStart::of(self.archive.try_clone()?);
        let pushed = turn(context, name).and_then(|turn| {
            let channel = channel(context, name, &turn)?;
            let port = channel.name().to_owned();
            let place = program(PLACE, &port, &arguments);
            printed(channel.send(&place, content, patience)?)
        });
        pushed.with_context(|| format!("failed to push to {name}"))?;
        Ok(Pushed {
            instance: name.to_string(),
            target: self.target.clone(),
            amount: self.amount,
        })
    }
}
