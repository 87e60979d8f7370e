//! One browser at one console.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
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
use super::engine::Console;
use super::input::Input;
use super::vnc;
use crate::reaper::viewers::WATCHER;
use crate::state::activity;
use crate::state::token::{Access, CONSOLE, Token};

/// How long a browser may take to ask for a console.
pub const ASKING: Duration = Duration::from_secs(10);

/// How long each part of the beginning of VNC may take.
const GREETING: Duration = Duration::from_secs(20);

/// How often a browser is asked whether it is there.
const PING: Duration = Duration::from_secs(30);

/// How long a browser may be silent, and how long it or QEMU may take nothing of what is sent to it.
const SILENCE: Duration = Duration::from_secs(90);

/// How often input is noted as use.
const NOTED: Duration = Duration::from_secs(15);

/// Who was away for longer may have been throttled meanwhile.
const AWAY: Duration = Duration::from_secs(60);

/// How often a console is tried. Its password is a new one each time, and somebody else may have asked
/// for one in the same moment.
const ATTEMPTS: usize = 3;

/// How much of a picture is sent at once, in bytes.
const PIECE: usize = 64 << 10;

/// The largest message from a browser, in bytes: a clipboard.
const MESSAGE: usize = 288 << 10;

/// Serves one connection to its end. Its place among those that are about to ask is `asking`.
pub async fn serve<S>(gateway: Arc<Gateway>, stream: S, asking: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let Ok(Some((mut browser, path))) = timeout(ASKING, accept(stream)).await else {
        return;
    };
    drop(asking);
    let now = Timestamp::now();
    let entered = gateway.key.check(&path, now).map_err(|_| Closing::TOKEN);
    let entered = entered.and_then(|token| {
        let (place, ends) = gateway.sessions.enter(&token, now)?;
        Ok((token, place, ends))
    });
    // Its place is taken until the last word is said.
    let mut taken = None;
    let closing = match entered {
        Err(closing) => closing,
        Ok((token, place, ends)) => {
            taken = Some(place);
            let closing = tokio::select! {
                Err(closing) = converse(&gateway, &token, &mut browser) => closing,
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
        // What it has sent meanwhile would otherwise have the kernel throw away our last words.
        while let Some(Ok(_)) = browser.next().await {}
    };
    let _ = timeout(Duration::from_secs(5), farewell).await;
    drop(taken);
}

/// Takes a WebSocket; with it the path that was asked for.
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
    let config = WebSocketConfig::default()
        .read_buffer_size(4 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * PIECE)
        .max_message_size(Some(MESSAGE))
        .max_frame_size(Some(MESSAGE));
    let browser = accept_hdr_async_with_config(stream, answer, Some(config)).await;
    Some((browser.ok()?, path))
}

/// What a session is, once a browser was let in.
async fn converse<S>(
    gateway: &Arc<Gateway>,
    token: &Token,
    browser: &mut WebSocketStream<S>,
) -> Result<Infallible, Closing>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // It is greeted while its instance wakes: QEMU draws for a client that has just come, and less and less
    // often for one that waits.
    let greeting = async {
        let greeted = timeout(GREETING, greet(browser)).await;
        greeted.unwrap_or(Err(Closing::SILENT))
    };
    let (server, rest) = tokio::try_join!(connect(gateway, token), greeting)?;
    gateway.tally.opened(token.access);
    gateway
        .output
        .detail(&format!("{}: {:?} session", token.name, token.access));
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

/// Opens the console, which wakes its instance if the token may do that, and gets in.
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
        let failed = format!("{}: its console was not entered: {error}", token.name);
        gateway.output.warn(&failed);
        if !refused {
            break;
        }
    }
    Err(Closing::UNREACHABLE)
}

/// Has the engine open the console, when it is its turn. That goes on if the browser leaves.
async fn open(gateway: &Arc<Gateway>, token: &Token) -> Result<Console, Closing> {
    let turn = Arc::clone(&gateway.turns).acquire_owned().await;
    let turn = turn.map_err(|_| Closing::RESTART)?;
    let (gateway, token) = (Arc::clone(gateway), token.clone());
    let opened = spawn_blocking(move || {
        let _turn = turn;
        gateway.engine.open(&token)
    });
    opened
        .await
        .unwrap_or(Err(Closing::of(crate::error::Kind::Failed)))
}

/// Connects to a console. Who only watches comes from an address by which the reaper knows that.
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

/// Greets a browser, which is let in without a password: its token did that. Returns what it has sent
/// since.
async fn greet<S>(browser: &mut WebSocketStream<S>) -> Result<Vec<u8>, Closing>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut said = Vec::new();
    for (ours, expected) in [
        (&vnc::VERSION[..], Some(&vnc::VERSION[..])),
        (&[1, vnc::NONE], Some(&[vnc::NONE][..])),
        // Let in. Whether it wants to be alone is not asked: QEMU would send others away.
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

/// The VNC in a message.
fn heard(message: Result<Message, Error>) -> Result<Bytes, Closing> {
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
    /// When input was last noted, and the work of that.
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

    /// Notes that somebody uses the instance, unless that was noted a moment ago.
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
                gateway
                    .output
                    .warn(&format!("failed to note that {name} is in use: {error:#}"));
            }
        });
        self.noted = Some((now, work));
    }
}

/// From QEMU to a browser. A browser that takes nothing has QEMU wait as well, which then skips what
/// would be drawn over.
async fn down<S>(
    gateway: &Gateway,
    server: OwnedReadHalf,
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
                // Not kept while nothing comes: most screens stand still most of the time.
                let mut piece = Vec::with_capacity(PIECE);
                match server.try_read_buf(&mut piece) {
                    Ok(0) => return Err(Closing::OVER),
                    Ok(length) => {
                        let sent = &gateway.tally.sent;
                        sent.fetch_add(length as u64, Ordering::Relaxed);
                        if length < PIECE / 4 {
                            piece.shrink_to_fit();
                        }
                        Message::Binary(piece.into())
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(_) => return Err(Closing::OVER),
                }
            }
        };
        let sent = timeout(SILENCE, browser.send(message)).await;
        sent.map_err(|_| Closing::SILENT)?
            .map_err(|_| Closing::LEFT)?;
    }
}
