//! A channel between this host and a program in a guest: a virtio port that is plugged into the
//! running domain for one transfer. Bytes pass through it as they are; through the guest agent, they
//! would be text, at many times the cost.
//!
//! QEMU connects to a socket of this process, and the connection ends with the process: libvirt is not
//! involved in what passes through it. A student controls the guest: what it sends is limited in size
//! and in time.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::command::{LONGEST_PAUSE, Patience, pauses};
use super::xml::channel;
use super::{Domain, Ran};
use crate::files;

/// How much is read or written at once, in bytes.
const PIECE: usize = 128 << 10;

/// How long the end of what a program has sent may take to arrive after the program has ended.
const ON_ITS_WAY: Duration = Duration::from_secs(10);

/// An open channel into the guest of a running domain.
#[derive(Debug)]
pub struct Channel {
    plugged: PluggedIn,
    stream: UnixStream,
}

/// A device that is unplugged when this is dropped.
#[derive(Debug)]
struct PluggedIn {
    domain: Domain,
    name: String,
    device: String,
}

impl Domain {
    /// Plugs a channel in, by a socket in `directory`, which QEMU must be able to reach. The caller must
    /// hold the lock for it, for as long as the channel exists: channels that are there already are left
    /// from transfers that were killed.
    pub fn open_channel(self, directory: &Path) -> Result<Channel> {
        for left in channel::plugged(&self.xml()?)? {
            self.unplug(left)?;
        }
        // The path of a socket must be short. One that is there already is left from a transfer that
        // was killed.
        let (id, _) = self.uuid()?.as_u64_pair();
        let prefix = format!(".{id:016x}.");
        for entry in directory.read_dir()?.flatten() {
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(prefix.as_bytes()) {
                files::remove(&entry.path())?;
            }
        }
        // It is removed when QEMU has connected.
        let socket = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(".socket")
            .make_in(directory, |path| UnixListener::bind(path))
            .with_context(|| format!("failed to make a socket in {}", directory.display()))?;
        let name = channel::new_name();
        let path = socket.path().to_str().context("storage_dir is not UTF-8")?;
        let plugged = PluggedIn {
            device: channel::device(&name, Some(path))?,
            domain: self,
            name,
        };
        plugged.domain.plug_in(plugged.device.clone())?;
        let listener = socket.as_file();
        listener.set_nonblocking(true)?;
        let (stream, _) = listener.accept().context("QEMU has not connected to it")?;
        stream.set_nonblocking(false)?;
        Ok(Channel { plugged, stream })
    }
}

impl Channel {
    /// The name of its port in the guest.
    pub fn name(&self) -> &str {
        &self.plugged.name
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
        let received = move |stream: &mut UnixStream| receive(stream, &end, most, &mut sink);
        self.accompany(program, patience, Some(ON_ITS_WAY), received)
    }

    /// Runs `program` in the guest, and sends it `content` as soon as it has sent a byte.
    pub fn send(
        self,
        program: &[&str],
        mut content: impl Read + Send + 'static,
        patience: Patience,
    ) -> Result<Ran> {
        let sent = move |stream: &mut UnixStream| {
            let mut ready = [0];
            stream.read_exact(&mut ready)?;
            io::copy(&mut content, stream).map(|_| true)
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
        transfer: impl FnOnce(&mut UnixStream) -> io::Result<bool> + Send + 'static,
    ) -> Result<Option<Ran>> {
        let Channel {
            plugged,
            mut stream,
        } = self;
        let (sender, transferred) = mpsc::channel();
        // It ends when the device is unplugged, if not before.
        std::thread::spawn(move || {
            let outcome = transfer(&mut stream);
            // The stream stays open: the guest may not have read everything yet.
            sender.send((stream, outcome))
        });
        let mut done = None;
        let running = plugged.domain.begin_in_guest(program, patience)?;
        let mut pauses = pauses();
        let ran = loop {
            patience.check("the transfer of files")?;
            if done.is_some() {
                sleep(pauses.next().unwrap_or(LONGEST_PAUSE));
            } else {
                match transferred.recv_timeout(LONGEST_PAUSE) {
                    Ok((_, Ok(false))) => return Ok(None),
                    Ok((stream, Ok(true))) => done = Some(stream),
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
        let _ = self.domain.unplug(self.device.clone());
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
