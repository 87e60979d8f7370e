//! The gateway of a head passes each browser on to the gateway of the host that has the instance. That one
//! does all the rest: it opens the console, drops what a path to view does not permit, and notes use.

use std::convert::Infallible;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::Gateway;
use super::closing::Closing;
use super::engine::Engine;
use super::session::{GREETING, SILENCE, engine, heard, limits};
use super::tally::Status;
use crate::cluster::Place;
use crate::cluster::hosts::Hosts;
use crate::cluster::storage::Shared;
use crate::config::{Cluster, HostName};
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::secret::Secret;
use crate::state::token::{Access, Key, Token};

/// The token in `path`, and the host whose gateway has signed it.
pub async fn issuer(
    gateway: &Arc<Gateway>,
    path: &str,
    now: Timestamp,
) -> Result<(Token, Option<HostName>), Closing> {
    let path = path.to_owned();
    let (token, host) = engine(gateway, move |engine| engine.issuer(&path, now)).await?;
    Ok((token, Some(host)))
}

/// The session of a browser whose `token`, in `path`, was issued by the gateway of `host`.
pub async fn pass_on<S>(
    gateway: &Arc<Gateway>,
    token: &Token,
    host: HostName,
    path: String,
    browser: &mut WebSocketStream<S>,
) -> Result<Infallible, Closing>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let asked = token.clone();
    let door = engine(gateway, move |engine| engine.door(&asked, host, path)).await?;
    let connect = async {
        let stream = TcpStream::connect(door.address).await?;
        stream.set_nodelay(true)?;
        let url = format!("ws://{}{}", door.address, door.path.reveal());
        let connected = client_async_with_config(url, stream, Some(limits())).await;
        Ok::<_, anyhow::Error>(connected?.0)
    };
    let connected = timeout(GREETING, connect).await;
    let server = match connected.map_err(anyhow::Error::from).flatten() {
        Ok(server) => server,
        Err(error) => {
            let (name, address) = (&token.name, door.address);
            let failed = format!("{name}: failed to reach the gateway at {address}: {error:#}");
            gateway.output.warn(&failed);
            return Err(Closing::UNREACHABLE);
        }
    };
    gateway.opened(token);
    let (mut to_server, mut from_server) = server.split();
    let (mut to_browser, mut from_browser) = browser.split();
    let up = async {
        loop {
            let message = timeout(SILENCE, from_browser.next()).await;
            let message = message.map_err(|_| Closing::SILENT)?;
            let bytes = heard(message.ok_or(Closing::LEFT)?)?;
            let received = &gateway.tally.received;
            received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            if !bytes.is_empty() {
                let sent = timeout(SILENCE, to_server.send(Message::Binary(bytes))).await;
                sent.map_err(|_| Closing::UNREACHABLE)?
                    .map_err(|_| Closing::OVER)?;
            }
        }
    };
    let down = async {
        loop {
            // It pings, and so must the browser be.
            let message = timeout(SILENCE, from_server.next()).await;
            let message = match message.map_err(|_| Closing::UNREACHABLE)? {
                Some(Ok(message @ (Message::Binary(_) | Message::Ping(_)))) => message,
                Some(Ok(Message::Close(frame))) => return Err(Closing::of_frame(frame.as_ref())),
                Some(Ok(_)) => continue,
                None | Some(Err(_)) => return Err(Closing::OVER),
            };
            let sent = &gateway.tally.sent;
            sent.fetch_add(message.len() as u64, Ordering::Relaxed);
            let sent = timeout(SILENCE, to_browser.send(message)).await;
            sent.map_err(|_| Closing::SILENT)?
                .map_err(|_| Closing::LEFT)?;
        }
    };
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
    }
}

/// Where a session continues: the gateway of a host, and the path there.
#[derive(Debug)]
struct Door {
    address: SocketAddr,
    path: Secret,
}

/// What is needed of the answer of `cyyber instance start` on a head.
#[derive(Debug, Deserialize)]
struct Started {
    host: HostName,
    console_path: Option<Secret>,
}

impl Engine {
    fn issuer(&self, path: &str, now: Timestamp) -> Result<(Token, HostName), Closing> {
        let unreachable = |error: anyhow::Error| {
            self.output
                .warn(&format!("failed to check a path: {error:#}"));
            Closing::UNREACHABLE
        };
        let context = self.context().map_err(unreachable)?;
        let cluster = cluster(&context).map_err(unreachable)?;
        let shared = Shared::new(cluster);
        for host in cluster.hosts.keys() {
            let token = match Key::read(&shared.of(host).gateway_key()) {
                Ok(key) => key.and_then(|key| key.check(path, now).ok()),
                Err(error) => {
                    let failed =
                        format!("failed to read the key of the gateway of {host}: {error}");
                    self.output.warn(&failed);
                    None
                }
            };
            if let Some(token) = token {
                return Ok((token, host.clone()));
            }
        }
        Err(Closing::TOKEN)
    }

    /// Where the session of `token` continues, which the gateway of `host` issued as `path`. A token to
    /// control starts the instance as a command would: on a host with room for it.
    fn door(&self, token: &Token, host: HostName, path: String) -> Result<Door, Closing> {
        let began = Instant::now();
        let found = self.context().and_then(|context| {
            let hosts = Hosts::new(cluster(&context)?);
            let runs_there = || -> Result<bool> {
                let leases = hosts.slurm.leases(Some(&token.name.to_string()))?;
                Ok(leases.iter().any(|lease| lease.host == host))
            };
            let (host, path) = if token.access == Access::View || runs_there()? {
                (host, Secret::new(path))
            } else {
                let Started { host, console_path } = start(&context, token)?;
                let path = console_path.with_context(|| {
                    let message = format!("no gateway runs on {host}");
                    let hint = "start one there: systemctl start cyyber-gateway";
                    Fault::new(Kind::Unavailable, message).hint(hint)
                })?;
                (host, path)
            };
            let address = address(&hosts, &host)?;
            Ok(Door { address, path })
        });
        found.map_err(|error| self.refused(token, began, &error))
    }
}

fn cluster(context: &Context) -> Result<&Cluster> {
    match context.place() {
        Some(Place::Head(cluster)) => Ok(cluster),
        Some(Place::Host(..)) | None => {
            bail!("this machine is no longer a head: restart the gateway")
        }
    }
}

/// Starts the instance of `token` by the same program.
fn start(context: &Context, token: &Token) -> Result<Started> {
    let program = std::env::current_exe().context("failed to find the path of this program")?;
    let (lab, user) = (token.name.lab.as_str(), token.name.user.as_str());
    let ended = Command::new(program)
        .arg("--config")
        .arg(&context.config.path)
        .args(["--output", "json", "instance", "start", "--", lab, user])
        .stdin(Stdio::null())
        .output()
        .context("failed to start the instance")?;
    if ended.status.success() {
        return serde_json::from_slice(&ended.stdout).context("failed to read its answer");
    }
    let code = ended.status.code().and_then(|code| u8::try_from(code).ok());
    let said = String::from_utf8_lossy(&ended.stderr);
    let kind = code.map_or(Kind::Failed, Kind::of_exit_code);
    Err(Fault::new(kind, said.trim().to_owned()).into())
}

/// The address of the gateway of `host`.
fn address(hosts: &Hosts, host: &HostName) -> Result<SocketAddr> {
    let unavailable =
        |message: String, hint: &'static str| Fault::new(Kind::Unavailable, message).hint(hint);
    let status = Status::read(&hosts.shared.of(host))?;
    let status = status.with_context(|| {
        let hint = "start it there: systemctl start cyyber-gateway";
        unavailable(format!("the gateway of {host} does not run"), hint)
    })?;
    let hint = "start it without --certificate, and with --listen and its address among the hosts";
    ensure!(
        !status.tls,
        unavailable(
            format!("the gateway of {host} does TLS, which is for browsers"),
            hint
        )
    );
    let listens: SocketAddr = status.listen.parse().context("its status is damaged")?;
    ensure!(
        !listens.ip().is_loopback(),
        unavailable(
            format!("the gateway of {host} listens on {listens} alone"),
            hint
        )
    );
    if !listens.ip().is_unspecified() {
        return Ok(listens);
    }
    let mut all = (host.as_str(), listens.port())
        .to_socket_addrs()
        .with_context(|| format!("failed to look up {host}"))?;
    all.next().with_context(|| format!("{host} has no address"))
}
