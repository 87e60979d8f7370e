//! Statistics of the gateway: counted while it runs, written to a file for `cyyber metrics` and
//! `cyyber doctor`.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::closing::Closing;
use super::sessions::Sessions;
use crate::files;
use crate::paths::Paths;
use crate::state::lock::Lock;
use crate::state::token::Access;

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Tally {
    /// Sessions with access to control.
    pub controlled: AtomicU64,
    /// Sessions with access to view.
    pub viewed: AtomicU64,
    /// Bytes to browsers.
    pub sent: AtomicU64,
    /// Bytes from browsers.
    pub received: AtomicU64,
    closed: Mutex<BTreeMap<u16, u64>>,
}

impl Tally {
    /// Counts a session that has begun.
    pub fn opened(&self, access: Access) {
        let of_its_kind = match access {
            Access::Control => &self.controlled,
            Access::View => &self.viewed,
        };
        of_its_kind.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a session that has ended, or that was refused.
    pub fn closed(&self, closing: Closing) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        *closed.entry(closing.code).or_default() += 1;
    }
}

/// The status of a gateway.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    /// The address that it listens on.
    pub listen: String,
    /// Whether it does TLS itself.
    pub tls: bool,
    /// Open sessions that control.
    pub controlling: u64,
    /// Open sessions that view.
    pub viewing: u64,
    /// Total number of sessions that control.
    pub controlled: u64,
    /// Total number of sessions that view.
    pub viewed: u64,
    /// Number of ended or refused sessions by close code.
    pub closed: BTreeMap<u16, u64>,
    /// Bytes to browsers.
    pub sent_bytes: u64,
    /// Bytes from browsers.
    pub received_bytes: u64,
}

impl Status {
    /// The status of the gateway that listens on `listen`.
    pub fn new(listen: String, tls: bool, tally: &Tally, sessions: &Sessions) -> Status {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let closed = tally.closed.lock().unwrap_or_else(PoisonError::into_inner);
        Status {
            listen,
            tls,
            controlling: sessions.count(Access::Control) as u64,
            viewing: sessions.count(Access::View) as u64,
            controlled: of(&tally.controlled),
            viewed: of(&tally.viewed),
            closed: closed.clone(),
            sent_bytes: of(&tally.sent),
            received_bytes: of(&tally.received),
        }
    }

    /// Writes it to its file.
    pub fn write(&self, paths: &Paths) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        files::replace_soon(&paths.gateway_status(), &text, files::SHARED)
    }

    /// The status of this host's gateway some seconds ago; `None` if none was started, or if the
    /// last one shut down cleanly.
    pub fn read(paths: &Paths) -> io::Result<Option<Status>> {
        let text = files::read_if_there(&paths.gateway_status())?;
        Ok(text.map(|text| serde_json::from_slice(&text)).transpose()?)
    }
}

/// Whether a gateway runs now.
pub fn runs(paths: &Paths) -> bool {
    Lock::try_take(&paths.gateway_lock()).is_none()
}
