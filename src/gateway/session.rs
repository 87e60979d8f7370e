//! One browser connected to one console.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use super::Gateway;
use super::closing::Closing;
use super::engine::{Console, Engine};
use super::hosts;
use super::input::Input;
use super::vnc;
use crate::reaper::viewers::WATCHER;
use crate::state::activity;
use crate::state::token::{Access, CONSOLE, Token};

/// How long a browser may take to request a console.
pub const ASKING: Duration = Duration::from_secs(10);

/// The time limit for each step of the VNC handshake.
pub const GREETING: Duration = Duration::from_secs(20);

/// How often a browser is pinged.
const PING: Duration = Duration::from_secs(30);

/// How long a browser may be silent, and how long it or QEMU may not read what is sent to it.
pub const SILENCE: Duration = Duration::from_secs(90);

/// How often input is recorded as use.
const NOTED: Duration = Duration::from_secs(15);

/// After a longer pause, the instance may have been throttled.
const AWAY: Duration = Duration::from_secs(60);

/// How often connecting to a console is tried. Each try gets a new password, which another command
/// may replace at the same moment.
const ATTEMPTS: usize = 3;

/// The size of the chunks in which a picture is sent, in bytes.
const PIECE: usize = 64 << 10;

/// The largest message from a browser, in bytes: a clipboard.
const MESSAGE: usize = 288 << 10;

/// Serves one connection until it ends. `asking` is its place among the connections without a
/// session.
pub async fn serve<S>(gateway: Arc<Gateway>, stream: S, asking: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let Ok(Some((mut browser, path))) = timeout(ASKING, accept(stream)).await else {
        return;
    };
    drop(asking);
    let now = Timestamp::now();
    let entered = match &gateway.key {
        Some(key) => match key.check(&path, now) {
            Ok(token) => Ok((token, None)),
            Err(_) => Err(Closing::TOKEN),
        },
        None => hosts::issuer(&gateway, &path, now).await,
    };
    let entered = entered.and_then(|(token, issuer)| {
        let (place, ends) = gateway.sessions.enter(&token, now)?;
        Ok((token, issuer, place, ends))
    });
    // It keeps its place until the close frame is sent.
    let mut taken = None;
    let closing = match entered {
        Err(closing) => closing,
        Ok((token, issuer, place, ends)) => {
            taken = Some(place);
            let session = async {
                match issuer {
                    None => converse(&gateway, &token, &mut browser).await,
                    Some(host) => hosts::pass_on(&gateway, &token, host, path, &mut browser).await,
                }
            };
            let closing = tokio::select! {
                Err(closing) = session => closing,
                Ok(closing) = ends => closing,
            };
            let Closing { code, reason } = closing;
            let ended = format!("{}: session ended: {code}, {reason}", token.name);
            gateway.output.detail(&ended);
            closing
        }
    };
    gateway.tally.closed(closing);
    let farewell = async {
        let _ = browser.close(Some(closing.frame())).await;
        // Read what it has sent in the meantime; otherwise the kernel would discard the close
        // frame.
        while let Some(Ok(_)) = browser.next().await {}
    };
    let _ = timeout(Duration::from_secs(5), farewell).await;
    drop(taken);
}

/// Accepts a WebSocket; returns it with the requested path.
async fn accept<S>(stream: S) -> Option<(WebSocketStream<S>, String)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut path = String::new();
    #[expect(clippy::result_large_err, reason = "it is the crate's type")]
    let answer = |request: &Request, mut response: Response| {
        request.uri().path().clone_into(&mut path);
        if !path.starts_with(CONSOLE) {
            let mut missing = ErrorResponse::new(None);
            *missing.status_mut() = StatusCode::NOT_FOUND;
            return Err(missing);
        }
        const PROTOCOL: &str = "sec-websocket-protocol";
        let offered = request
            .headers()
            .get(PROTOCOL)
            .and_then(|it| it.to_str().ok());
        if offered.is_some_and(|offered| offered.split(',').any(|it| it.trim() == "binary")) {
            let headers = response.headers_mut();
            headers.insert(PROTOCOL, HeaderValue::from_static("binary"));
        }
        Ok(response)
    };
    let browser = accept_hdr_async_with_config(stream, answer, Some(limits())).await;
    Some((browser.ok()?, path))
}

/// The limits of a connection.
pub fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * PIECE)
        .max_message_size(Some(MESSAGE))
        .max_frame_size(Some(MESSAGE))
}

/// The session of an admitted browser.
async fn converse<S>(
    gateway: &Arc<Gateway>,
    token: &Token,
    browser: &mut WebSocketStream<S>,
) -> Result<Infallible, Closing>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Do the handshake while the instance starts: QEMU draws for a client that has just connected,
    // but less and less often for one that waits.
    let greeting = async {
        let greeted = timeout(GREETING, greet(browser)).await;
        greeted.unwrap_or(Err(Closing::SILENT))
    };
    let (server, rest) = tokio::try_join!(connect(gateway, token), greeting)?;
    gateway.opened(token);
    let (from, to) = server.into_split();
    let (sink, stream) = browser.split();
    let mut up = Up {
        gateway,
        token,
        input: Input::new(token.access),
        server: to,
        noted: None,
    };
    tokio::select! {
        ended = up.run(&rest, stream) => ended,
        ended = down(gateway, from, sink) => ended,
    }
}

/// Opens the console, which starts the instance if the token permits it, and logs in.
async fn connect(gateway: &Arc<Gateway>, token: &Token) -> Result<TcpStream, Closing> {
    for _ in 0..ATTEMPTS {
        let console = open(gateway, token).await?;
        let attempt = async {
            let mut server = dial(console.address, token.access).await?;
            server.set_nodelay(true)?;
            vnc::enter(&mut server, console.password.reveal()).await?;
            Ok::<_, io::Error>(server)
        };
        let error = match timeout(GREETING, attempt).await {
            Ok(Ok(server)) => return Ok(server),
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        let refused = error.kind() == io::ErrorKind::PermissionDenied;
        let failed = format!("{}: failed to log in to its console: {error}", token.name);
        gateway.output.warn(&failed);
        if !refused {
            break;
        }
    }
    Err(Closing::UNREACHABLE)
}

/// Opens the console through the engine. This continues if the browser leaves.
async fn open(gateway: &Arc<Gateway>, token: &Token) -> Result<Console, Closing> {
    let token = token.clone();
    engine(gateway, move |engine| engine.open(&token)).await
}

/// The result of a call to the engine, when there is a free place.
pub async fn engine<R: Send + 'static>(
    gateway: &Arc<Gateway>,
    call: impl FnOnce(&Engine) -> Result<R, Closing> + Send + 'static,
) -> Result<R, Closing> {
    let turn = Arc::clone(&gateway.turns).acquire_owned().await;
    let turn = turn.map_err(|_| Closing::RESTART)?;
    let gateway = Arc::clone(gateway);
    let called = spawn_blocking(move || {
        let _turn = turn;
        call(&gateway.engine)
    });
    called
        .await
        .unwrap_or(Err(Closing::of(crate::error::Kind::Failed)))
}

/// Connects to a console. Watchers connect from a source address that the reaper recognises.
async fn dial(address: SocketAddr, access: Access) -> io::Result<TcpStream> {
    let socket = match address.ip() {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if access == Access::View && address.is_ipv4() {
        socket.bind((WATCHER, 0).into())?;
    }
    socket.connect(address).await
}

/// The VNC handshake with a browser, which needs no password: its token was checked. Returns what
/// it has sent after that.
async fn greet<S>(browser: &mut WebSocketStream<S>) -> Result<Vec<u8>, Closing>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut said = Vec::new();
    for (ours, expected) in [
        (&vnc::VERSION[..], Some(&vnc::VERSION[..])),
        (&[1, vnc::NONE], Some(&[vnc::NONE][..])),
        // Admitted. The request for exclusive access is ignored: QEMU would disconnect others.
        (&[0; 4], None),
    ] {
        let sent = browser
            .send(Message::Binary(Bytes::copy_from_slice(ours)))
            .await;
        sent.map_err(|_| Closing::LEFT)?;
        let length = expected.map_or(1, <[u8]>::len);
        while said.len() < length {
            let message = browser.next().await.ok_or(Closing::LEFT)?;
            said.extend_from_slice(&heard(message)?);
        }
        let rest = said.split_off(length);
        if expected.is_some_and(|expected| expected != said) {
            return Err(Closing::PROTOCOL);
        }
        said = rest;
    }
    Ok(said)
}

/// The VNC data of a message.
pub fn heard(message: Result<Message, Error>) -> Result<Bytes, Closing> {
    match message {
        Ok(Message::Binary(bytes)) => Ok(bytes),
        Ok(Message::Ping(_) | Message::Pong(_)) => Ok(Bytes::new()),
        Ok(Message::Close(_)) => Err(Closing::LEFT),
        Ok(Message::Text(_) | Message::Frame(_))
        | Err(Error::Capacity(_) | Error::Protocol(_) | Error::Utf8(_)) => Err(Closing::PROTOCOL),
        Err(_) => Err(Closing::LEFT),
    }
}

/// From a browser to QEMU.
struct Up<'a> {
    gateway: &'a Arc<Gateway>,
    token: &'a Token,
    input: Input,
    server: OwnedWriteHalf,
    /// When input was last recorded, and the task that records it.
    noted: Option<(Instant, JoinHandle<()>)>,
}

impl Up<'_> {
    async fn run<S>(
        &mut self,
        rest: &[u8],
        mut browser: SplitStream<&mut WebSocketStream<S>>,
    ) -> Result<Infallible, Closing>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.pass(rest).await?;
        loop {
            let message = timeout(SILENCE, browser.next()).await;
            let message = message.map_err(|_| Closing::SILENT)?;
            let bytes = heard(message.ok_or(Closing::LEFT)?)?;
            self.pass(&bytes).await?;
        }
    }

    async fn pass(&mut self, bytes: &[u8]) -> Result<(), Closing> {
        let mut out = Vec::new();
        let used = self.input.take(bytes, &mut out);
        let received = &self.gateway.tally.received;
        received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let used = used.map_err(|_| Closing::PROTOCOL)?;
        if used && self.token.access == Access::Control {
            self.note_use();
        }
        let sent = timeout(SILENCE, self.server.write_all(&out)).await;
        sent.map_err(|_| Closing::UNREACHABLE)?
            .map_err(|_| Closing::OVER)
    }

    /// Records that the instance is in use, unless that was recorded recently.
    fn note_use(&mut self) {
        let now = Instant::now();
        let noted = self.noted.as_ref();
        let since = noted.map(|(at, _)| now.duration_since(*at));
        let at_work = noted.is_some_and(|(_, work)| !work.is_finished());
        if at_work || since.is_some_and(|since| since < NOTED) {
            return;
        }
        let (gateway, name) = (Arc::clone(self.gateway), self.token.name.clone());
        let work = spawn_blocking(move || {
            let noted = match since {
                Some(since) if since < AWAY => {
                    activity::touch(&gateway.paths.activity(&name)).map_err(Into::into)
                }
                _ => gateway.engine.touch(&name),
            };
            if let Err(error) = noted {
                gateway.output.warn(&format!(
                    "failed to record that {name} is in use: {error:#}"
                ));
            }
        });
        self.noted = Some((now, work));
    }
}

/// From QEMU to a browser. If a browser does not read, QEMU waits as well, and then skips outdated
/// updates.
async fn down<S>(
    gateway: &Gateway,
    mut server: OwnedReadHalf,
    mut browser: SplitSink<&mut WebSocketStream<S>, Message>,
) -> Result<Infallible, Closing>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut ping = Instant::now() + PING;
    loop {
        let message = match timeout_at(ping, server.readable()).await {
            Err(_) => {
                ping = Instant::now() + PING;
                Message::Ping(Bytes::new())
            }
            Ok(Err(_)) => return Err(Closing::OVER),
            Ok(Ok(())) => {
                // Not held while no data arrives: most screens do not change most of the time.
                let mut piece = Vec::with_capacity(PIECE);
                match server.read_buf(&mut piece).await {
                    Ok(0) | Err(_) => return Err(Closing::OVER),
                    Ok(length) => {
                        let sent = &gateway.tally.sent;
                        sent.fetch_add(length as u64, Ordering::Relaxed);
                        if length < PIECE / 4 {
                            piece.shrink_to_fit();
                        }
                        Message::Binary(piece.into())
                    }
                }
            }
        };
        let sent = timeout(SILENCE, browser.send(message)).await;
        sent.map_err(|_| Closing::SILENT)?
            .map_err(|_| Closing::LEFT)?;
    }
}
