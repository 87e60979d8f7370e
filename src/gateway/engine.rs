//! The gateway's calls to the engine. Each is like a command: it reads the configuration again, has
//! its own connection to libvirt, and takes the same locks as a command at a terminal.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::{Context as _, Error, Result};

use crate::cli::Global;
use crate::clock::Moment;
use crate::context::Context;
use crate::error::kind_of;
use crate::instance::outcome::{Outcome, noted};
use crate::instance::{Instance, touch};
use crate::names::InstanceName;
use crate::output::Output;
use crate::reaper::pressure;
use crate::scope::missing;
use crate::secret::Secret;
use crate::state::token::{Access, Token};

use super::closing::Closing;

/// The global options for these calls.
#[derive(Debug, Clone)]
pub struct Engine {
    pub global: Global,
    pub output: Output,
}

/// The address and the password of a console.
#[derive(Debug)]
pub struct Console {
    pub address: SocketAddr,
    pub password: Secret,
}

impl Engine {
    pub(super) fn context(&self) -> Result<Context> {
        let context = Context::new(&self.global, self.output.clone(), Moment::now())?;
        Ok(context.acting_as("gateway"))
    }

    /// Opens the console for a token. A token to control starts or resumes the instance; one to
    /// view does not, and does not count as use.
    pub fn open(&self, token: &Token) -> Result<Console, Closing> {
        let began = Instant::now();
        let opened = self.context().and_then(|context| {
            let open = || -> Result<Outcome> {
                let vm = Instance::lock(&context, &token.name)?;
                // It may have been destroyed since then, and is not created again.
                if vm.find()?.is_none() {
                    return Err(missing(&token.name).into());
                }
                match token.access {
                    Access::Control => vm.start(),
                    Access::View => vm.watch_console(),
                }
            };
            let action = match token.access {
                Access::Control => "start",
                Access::View => "console",
            };
            let with_room = || pressure::with_room(&context, &token.name, open);
            let opened = noted(&context, action, &token.name, with_room);
            console(opened?)
        });
        opened.map_err(|error| self.refused(token, began, &error))
    }

    /// Why the console of `token`, asked for at the time `began`, was not opened.
    pub(super) fn refused(&self, token: &Token, began: Instant, error: &Error) -> Closing {
        self.output.warn(&format!(
            "{} was not opened after {:.1}s: {error:#}",
            token.name,
            began.elapsed().as_secs_f32()
        ));
        match (token.access, Closing::of(kind_of(error))) {
            (Access::View, Closing { code: 4409, .. }) => Closing::ASLEEP,
            (_, closing) => closing,
        }
    }

    /// Records that an instance is in use. A throttled instance gets its full CPU time back.
    pub fn touch(&self, name: &InstanceName) -> Result<()> {
        let context = self.context()?;
        noted(&context, "touch", name, || touch(&context, name)).map(drop)
    }
}

/// The console in `outcome`. A console that listens on all addresses is reached on loopback.
fn console(outcome: Outcome) -> Result<Console> {
    let status = outcome.status;
    let place = status
        .vnc_host
        .zip(status.vnc_port)
        .zip(outcome.vnc_password);
    let ((host, port), password) = place.context("it has no console")?;
    let address: IpAddr = host.parse().context("its console is not on this host")?;
    let address = match address {
        IpAddr::V4(any) if any.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(any) if any.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        address => address,
    };
    Ok(Console {
        address: SocketAddr::new(address, port),
        password,
    })
}
