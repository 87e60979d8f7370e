//! A channel between this host and a program in a guest: a virtio port that is plugged into the
//! running domain for one transfer. Bytes pass through it as they are; through the guest agent, they
//! would be text, at many times the cost.
//!
//! A student controls the guest: what it sends is limited in size and in time.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use virt::connect::Connect;
use virt::error::Error;
use virt::stream::Stream;

use super::agent::INTERVAL;
use super::command::{LONGEST_PAUSE, Patience, pauses};
use super::domain::QEMU_DEADLINE;
use super::xml::channel::{self, Plugged};
use super::{Domain, Ran, failed};

/// How much is read or written at once, in bytes.
const PIECE: usize = 128 << 10;

/// How long the end of what a program has sent may take to arrive after the program has ended.
const ON_ITS_WAY: Duration = Duration::from_secs(10);

/// How long libvirt may go on with what a killed command asked for.
const SETTLING: Duration = Duration::from_secs(5);

/// An open channel into the guest of a running domain.
#[derive(Debug)]
pub struct Channel {
    plugged: PluggedIn,
    open: Open,
}

/// A device that is unplugged when this is dropped.
#[derive(Debug)]
struct PluggedIn {
    domain: Domain,
    channel: Plugged,
}

/// An open stream, which is closed when this is dropped.
struct Open(Option<Stream>);

impl Domain {
    /// Plugs a channel in and opens it. The caller must hold the lock for it, for as long as the
    /// channel exists: one that is there already is left from a transfer that was killed.
    ///
    /// libvirt would refuse a second stream itself, but sometimes still does so when the command with
    /// the first one was killed.
    pub fn open_channel(self) -> Result<Channel> {
        let began = Instant::now();
        let channel = loop {
            match self.plug_channel() {
                Ok(channel) => break channel,
                Err(error) if began.elapsed() > SETTLING => return Err(error),
                Err(_) => sleep(INTERVAL),
            }
        };
        let plugged = PluggedIn {
            domain: self,
            channel,
        };
        let open = plugged.domain.open(&plugged.channel.name)?;
        Ok(Channel { plugged, open })
    }

    fn plug_channel(&self) -> Result<Plugged> {
        if let Some(left) = channel::plugged(&self.xml()?)? {
            self.unplug(left.device)?;
        }
        self.plug_in(channel::device(&channel::new_name(), None)?)?;
        channel::plugged(&self.xml()?)?.context("libvirt did not plug the channel in")
    }

    /// Opens the channel with this name.
    fn open(&self, name: &str) -> Result<Open> {
        let (name, uuid, uri) = (name.to_owned(), self.uuid()?, self.pool.uri().to_owned());
        let opened = self.pool.within(QEMU_DEADLINE, move |_| {
            // While a stream waits for data, other calls on its connection would wait, too.
            let conn = Connect::open(Some(&uri))?;
            let stream = Stream::new(&conn, 0)?;
            let domain = conn.lookup_domain_by_uuid(uuid)?;
            domain.open_channel(Some(&name), &stream, 0)?;
            Ok(Open(Some(stream)))
        });
        let opened = opened.context("libvirt does not answer")?;
        opened.map_err(|e| failed("open a channel into the guest", e))
    }
}

impl Channel {
    /// The name of its port in the guest.
    pub fn name(&self) -> &str {
        &self.plugged.channel.name
    }

    /// Runs `program` in the guest, and writes what it sends before `end` to `sink`; `None` if that
    /// is more than `most` bytes.
    pub fn receive(
        self,
        program: &[&str],
        end: &str,
        most: u64,
        mut sink: impl Write + Send + 'static,
        patience: Patience,
    ) -> Result<Option<Ran>> {
        let end = end.as_bytes().to_owned();
        let received = move |open: &mut Open| receive(open, &end, most, &mut sink);
        self.accompany(program, patience, Some(ON_ITS_WAY), received)
    }

    /// Runs `program` in the guest, and sends it `content` as soon as it has sent a byte.
    pub fn send(
        self,
        program: &[&str],
        mut content: impl Read + Send + 'static,
        patience: Patience,
    ) -> Result<Ran> {
        let sent = move |open: &mut Open| {
            let mut ready = [0];
            open.read_exact(&mut ready)?;
            io::copy(&mut content, open).map(|_| true)
        };
        let ran = self.accompany(program, patience, None, sent)?;
        ran.context("it was not sent")
    }

    /// Runs `program` in the guest and `transfer` on this host until both have ended; `None` if
    /// the transfer was refused. Once the program has succeeded, the transfer has so much `rest` to
    /// end; without it, it does not matter any more.
    fn accompany(
        self,
        program: &[&str],
        patience: Patience,
        rest: Option<Duration>,
        transfer: impl FnOnce(&mut Open) -> io::Result<bool> + Send + 'static,
    ) -> Result<Option<Ran>> {
        // Dropped after the device: once the stream is closed, others may plug in theirs.
        let mut done = None;
        let Channel { plugged, mut open } = self;
        let (sender, transferred) = mpsc::channel();
        std::thread::spawn(move || {
            let outcome = transfer(&mut open);
            // It stays open: the guest may not have read everything yet.
            sender.send((open, outcome))
        });
        let running = plugged.domain.begin_in_guest(program, patience)?;
        let mut pauses = pauses();
        let ran = loop {
            patience.check("the transfer of files")?;
            if done.is_some() {
                sleep(pauses.next().unwrap_or(LONGEST_PAUSE));
            } else {
                match transferred.recv_timeout(LONGEST_PAUSE) {
                    Ok((_, Ok(false))) => return Ok(None),
                    Ok((open, Ok(true))) => done = Some(open),
                    Ok((_, Err(error))) => return Err(error).context("the channel broke"),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => bail!("this is a bug in cyyber"),
                }
            }
            if let Some(ran) = running.look(patience.until)? {
                break ran;
            }
        };
        let Some(rest) = rest.filter(|_| done.is_none() && ran.exit_code == 0) else {
            return Ok(Some(ran));
        };
        let rest = transferred.recv_timeout(rest);
        let (_, accepted) = rest.context("its guest did not send everything")?;
        Ok(accepted?.then_some(ran))
    }
}

impl Drop for PluggedIn {
    fn drop(&mut self) {
        // Otherwise the next transfer does it.
        let _ = self.domain.unplug(self.channel.device.clone());
    }
}

impl Read for Open {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stream = self.0.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        Ok(stream.recv(buffer).map_err(of_stream)?.unsigned_abs())
    }
}

impl Write for Open {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stream = self.0.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        Ok(stream.send(bytes).map_err(of_stream)?.unsigned_abs())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn of_stream(error: Error) -> io::Error {
    io::Error::other(error.message().to_owned())
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(stream) = self.0.take() {
            let _ = stream.abort();
        }
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Open")
    }
}

/// Copies from `source` to `sink` what comes before `end`; `false` if that is more than `most` bytes.
fn receive(
    source: &mut impl Read,
    end: &[u8],
    mut most: u64,
    sink: &mut impl Write,
) -> io::Result<bool> {
    let (mut piece, mut held) = (vec![0; PIECE], Vec::new());
    loop {
        let length = source.read(&mut piece)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        held.extend_from_slice(&piece[..length]);
        let whole = held.strip_suffix(end).map(<[u8]>::len);
        let certain = whole.unwrap_or_else(|| held.len().saturating_sub(end.len()));
        let Some(left) = most.checked_sub(certain as u64) else {
            return Ok(false);
        };
        most = left;
        sink.write_all(&held[..certain])?;
        held.drain(..certain);
        if whole.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives pieces of so many bytes.
    struct InPieces<'a>(&'a [u8], usize);

    impl Read for InPieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(buffer.len());
            (&mut self.0).take(length as u64).read(buffer)
        }
    }

    #[test]
    fn what_comes_before_the_end_is_kept() {
        let kept = |sent: &[u8], piece, most| {
            let mut kept = Vec::new();
            let whole = receive(&mut InPieces(sent, piece), b"END", most, &mut kept);
            whole.map(|whole| whole.then_some(kept))
        };
        for piece in 1..12 {
            assert_eq!(
                kept(b"EN some END", piece, 8).unwrap().unwrap(),
                b"EN some "
            );
            assert_eq!(kept(b"EN some END", piece, 7).unwrap(), None, "too much");
            assert_eq!(kept(b"END", piece, 0).unwrap().unwrap(), b"");
            let ended = kept(b"EN some EN", piece, 100).unwrap_err();
            assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
