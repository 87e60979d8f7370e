//! What the gateway has the engine do. Each is a command of its own: it reads the configuration anew,
//! has a connection of its own to libvirt, and takes the same locks as what is typed at a terminal.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::{Context as _, Result};

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

/// What commands are given.
#[derive(Debug, Clone)]
pub struct Engine {
    pub global: Global,
    pub output: Output,
}

/// Where a console is, and what opens it.
#[derive(Debug)]
pub struct Console {
    pub address: SocketAddr,
    pub password: Secret,
}

impl Engine {
    fn context(&self) -> Result<Context> {
        let context = Context::new(&self.global, self.output.clone(), Moment::now())?;
        Ok(context.acting_as("gateway"))
    }

    /// Opens the console of a token. Who may control the instance wakes it; who may view it does not,
    /// and is no sign of use.
    pub fn open(&self, token: &Token) -> Result<Console, Closing> {
        let began = Instant::now();
        let opened = self.context().and_then(|context| {
            let open = || -> Result<Outcome> {
                let vm = Instance::lock(&context, &token.name)?;
                // It may have been destroyed since, and is not made again.
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
        opened.map_err(|error| {
            self.output.warn(&format!(
                "{} was not opened after {:.1}s: {error:#}",
                token.name,
                began.elapsed().as_secs_f32()
            ));
            match (token.access, Closing::of(kind_of(&error))) {
                (Access::View, Closing { code: 4409, .. }) => Closing::ASLEEP,
                (_, closing) => closing,
            }
        })
    }

    /// Notes that an instance is in use. One that is throttled gets all of its CPU time again.
    pub fn touch(&self, name: &InstanceName) -> Result<()> {
        let context = self.context()?;
        noted(&context, "touch", name, || touch(&context, name)).map(drop)
    }
}

/// Where the console is that `outcome` gives access to. One that listens on all addresses is on ours.
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
