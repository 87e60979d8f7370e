//! `cyyber gateway`: one port in front of all consoles. Like `cmd`, this module uses the engine.
//!
//! A browser presents a [token](crate::state::token). The [session](session) opens the console
//! through the [engine], which may start the instance, logs in [by VNC](vnc), and forwards data in
//! both directions; from the browser, only [what its token allows](input). How a session ends is a
//! [closing].
//!
//! On the head of several hosts, [it passes browsers on](hosts) to the gateways of the hosts.
//!
//! Everything here runs on tokio; the engine, whose calls block, runs on separate threads.

mod closing;
mod engine;
mod hosts;
mod input;
mod session;
mod sessions;
pub mod tally;
mod tls;
mod vnc;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::cli::{Gateway as Options, Global};
use crate::cluster::Place;
use crate::context::Context;
use crate::error::{Fault, Kind};
use crate::files;
use crate::output::Output;
use crate::paths::Paths;
use crate::state::lock::Lock;
use crate::state::token::{Key, Token};
use closing::Closing;
use engine::Engine;
use sessions::Sessions;
use tally::{Status, Tally};
use tls::Tls;

/// How many consoles the engine opens at once.
const AT_ONCE: usize = 4;

/// How many connections may be open without a session.
const ASKING: usize = 256;

/// How often the status is written and certificates are checked for changes.
const EVERY: Duration = Duration::from_secs(15);

/// Time limits at shutdown for sessions and for the engine.
const SESSIONS_END: Duration = Duration::from_secs(10);
const ENGINE_ENDS: Duration = Duration::from_secs(90);

/// What all sessions share.
#[derive(Debug)]
pub struct Gateway {
    /// `None` on a head: the gateways of the hosts sign.
    key: Option<Key>,
    paths: Paths,
    output: Output,
    engine: Engine,
    sessions: Arc<Sessions>,
    tally: Tally,
    /// Limits the number of calls to the engine.
    turns: Arc<Semaphore>,
}

impl Gateway {
    /// Counts the session of `token`, which has begun.
    fn opened(&self, token: &Token) {
        self.tally.opened(token.access);
        let begun = format!("{}: {:?} session", token.name, token.access);
        self.output.detail(&begun);
    }
}

/// Runs until it is told to stop.
pub fn run(context: &Context, global: &Global, options: &Options) -> Result<()> {
    let tls = options.certificate.as_ref().zip(options.key.as_ref());
    let tls = tls
        .map(|(certificate, key)| Tls::load(certificate, key))
        .transpose()?;
    // The head does not speak TLS to the gateways of the hosts.
    let among_hosts = matches!(context.place(), Some(Place::Host(..)));
    if tls.is_none() && !options.listen.ip().is_loopback() && !among_hosts {
        let listen = options.listen;
        let message = format!("{listen} is reached from other hosts without encryption");
        let hint = "add --certificate and --key, or listen on 127.0.0.1 behind a web server";
        return Err(Fault::new(Kind::Usage, message).hint(hint).into());
    }
    let what = "the gateway of this host";
    let _lock = Lock::take(&context.paths.gateway_lock(), what, Duration::from_secs(2))?;
    // Two threads are enough for a class; more would only use memory.
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.context("failed to start the gateway")?;
    let done = runtime.block_on(serve(context, global, options, tls));
    runtime.shutdown_timeout(Duration::ZERO);
    done
}

async fn serve(
    context: &Context,
    global: &Global,
    options: &Options,
    mut tls: Option<Tls>,
) -> Result<()> {
    let output = &context.output;
    let listener = TcpListener::bind(options.listen).await.with_context(|| {
        let message = format!("failed to listen on {}", options.listen);
        Fault::new(Kind::Failed, message).hint("name another address and port with --listen")
    })?;
    let listen = listener.local_addr()?;
    let paths = &context.paths;
    let mut ends = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let [Ok(terminated), Ok(interrupted)] = &mut ends else {
        anyhow::bail!("failed to handle SIGTERM and SIGINT");
    };
    let mut reload = signal(SignalKind::hangup())?;
    let key = match context.place() {
        Some(Place::Head(_)) => None,
        Some(Place::Host(..)) | None => {
            Some(Key::renew(&paths.gateway_key()).context("failed to create the gateway's key")?)
        }
    };
    let gateway = Arc::new(Gateway {
        key,
        paths: paths.clone(),
        output: output.clone(),
        engine: Engine {
            global: global.clone(),
            output: output.clone(),
        },
        sessions: Sessions::new(options.sessions.into()),
        tally: Tally::default(),
        turns: Arc::new(Semaphore::new(AT_ONCE)),
    });
    let asking = Arc::new(Semaphore::new(ASKING));
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let scheme = if tls.is_some() { "wss" } else { "ws" };
    output.note(&format!("listening on {scheme}://{listen}"));
    loop {
        tokio::select! {
            accepted = listener.accept() => match (accepted, Arc::clone(&asking).try_acquire_owned()) {
                (Ok((stream, _)), Ok(place)) => {
                    let (gateway, acceptor) = (Arc::clone(&gateway), tls.as_ref().map(Tls::acceptor));
                    tokio::spawn(take(gateway, stream, acceptor, place));
                }
                // Slow connections must not delay others.
                (Ok(_), Err(_)) => {}
                (Err(error), _) => {
                    output.warn(&format!("failed to accept a connection: {error}"));
                    sleep(Duration::from_millis(100)).await;
                }
            },
            _ = tick.tick() => {
                note_status(&gateway, listen, tls.is_some());
                if let Some(tls) = &mut tls {
                    tls.reload(false, output);
                }
            }
            _ = reload.recv() => if let Some(tls) = &mut tls {
                tls.reload(true, output);
            },
            _ = terminated.recv() => break,
            _ = interrupted.recv() => break,
        }
    }
    drop(listener);
    // Commands must not return paths of a gateway that has ended.
    let gone = [paths.gateway_key(), paths.gateway_status()].map(|path| files::remove(&path));
    drain(&gateway).await;
    gone.into_iter().collect::<io::Result<()>>()?;
    Ok(())
}

/// Serves a connection, with TLS if there is an acceptor.
async fn take(
    gateway: Arc<Gateway>,
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    asking: OwnedSemaphorePermit,
) {
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = acceptor else {
        return session::serve(gateway, stream, asking).await;
    };
    if let Ok(Ok(stream)) = timeout(session::ASKING, acceptor.accept(stream)).await {
        session::serve(gateway, stream, asking).await;
    }
}

fn note_status(gateway: &Gateway, listen: SocketAddr, tls: bool) {
    let status = Status::new(listen.to_string(), tls, &gateway.tally, &gateway.sessions);
    if let Err(error) = status.write(&gateway.paths) {
        let failed = format!("failed to write the gateway's status: {error}");
        gateway.output.warn(&failed);
    }
}

/// Ends all sessions and waits for calls to the engine: they could be aborted at any moment, but it
/// is better to let them finish.
async fn drain(gateway: &Gateway) {
    gateway.sessions.end_all(Closing::RESTART);
    let sessions = async {
        while Arc::strong_count(&gateway.sessions) > 1 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let _ = timeout(SESSIONS_END, sessions).await;
    let all = u32::try_from(AT_ONCE).unwrap_or(u32::MAX);
    let _ = timeout(ENGINE_ENDS, gateway.turns.acquire_many(all)).await;
}
