//! Screenshots of guests.

use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use virt::connect::Connect;
use virt::error::Error;
use virt::stream::Stream;

use super::{Domain, failed};

/// How long a QEMU may take to draw its screen, on a busy host.
const DRAWING: Duration = Duration::from_secs(20);

/// The maximum size of a picture, in bytes.
const LARGEST: usize = 32 << 20;

/// The first bytes of a PNG picture.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

impl Domain {
    /// A picture of its first screen, in PNG.
    pub fn screenshot(&self) -> Result<Vec<u8>> {
        let uuid = self.uuid()?;
        let taken = self.pool.within(DRAWING, move |conn| taken(conn, uuid));
        let picture = taken
            .ok_or_else(|| anyhow!("its QEMU does not answer"))?
            .map_err(|e| failed("take a picture of its screen", e))?;
        ensure!(
            picture.len() <= LARGEST,
            "the picture of its screen is too large"
        );
        ensure!(
            picture.starts_with(PNG),
            "this libvirt or QEMU cannot make PNG pictures: libvirt 8.9 and QEMU 7.1 are needed"
        );
        Ok(picture)
    }
}

fn taken(conn: &Connect, uuid: uuid::Uuid) -> Result<Vec<u8>, Error> {
    let stream = Stream::new(conn, 0)?;
    conn.lookup_domain_by_uuid(uuid)?
        .screenshot(&stream, 0, 0)?;
    let (mut picture, mut piece) = (Vec::new(), vec![0; 256 << 10]);
    loop {
        let read = usize::try_from(stream.recv(&mut piece)?).unwrap_or(0);
        picture.extend_from_slice(piece.get(..read).unwrap_or_default());
        if read == 0 {
            stream.finish()?;
            return Ok(picture);
        }
        if picture.len() > LARGEST {
            stream.abort()?;
            return Ok(picture);
        }
    }
}
