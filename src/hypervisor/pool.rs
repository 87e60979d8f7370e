//! Calls that may hang, each on a separate connection.
//!
//! libvirt waits for a QEMU that does not answer, with some calls for ever, and later calls on the
//! same connection wait too. Such a call is abandoned together with its connection, and ends with
//! this process.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use virt::connect::Connect;
use virt::error::Error;

use super::is_lost;

/// How long a call takes at most to reach libvirt.
const REACHING_LIBVIRT: Duration = Duration::from_millis(50);

/// A pool of connections for such calls.
#[derive(Debug)]
pub(super) struct Pool {
    uri: String,
    /// Connections whose calls have returned.
    spare: Mutex<Vec<Connect>>,
}

impl Pool {
    pub(super) fn new(uri: &str) -> Pool {
        Pool {
            uri: uri.to_owned(),
            spare: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    /// The result of `call`, if it returns within `deadline`.
    pub(super) fn within<T: Send + 'static>(
        self: &Arc<Self>,
        deadline: Duration,
        call: impl FnOnce(&Connect) -> Result<T, Error> + Send + 'static,
    ) -> Option<Result<T, Error>> {
        self.begin(call).answer(deadline)
    }

    /// Starts `call`.
    pub(super) fn begin<T: Send + 'static>(
        self: &Arc<Self>,
        call: impl FnOnce(&Connect) -> Result<T, Error> + Send + 'static,
    ) -> PendingCall<T> {
        let pool = Arc::clone(self);
        let (sender, answer) = channel();
        std::thread::spawn(move || {
            let answer = pool.connection().and_then(|conn| {
                let answer = call(&conn);
                if !answer.as_ref().is_err_and(is_lost) {
                    pool.keep(conn);
                }
                answer
            });
            sender.send(answer)
        });
        PendingCall {
            began: Instant::now(),
            answer,
        }
    }

    fn connection(&self) -> Result<Connect, Error> {
        let spare = self.spare().pop();
        spare.map_or_else(|| Connect::open(Some(&self.uri)), Ok)
    }

    fn keep(&self, conn: Connect) {
        self.spare().push(conn);
    }

    fn spare(&self) -> std::sync::MutexGuard<'_, Vec<Connect>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call in progress.
#[derive(Debug)]
pub struct PendingCall<T = ()> {
    began: Instant,
    answer: Receiver<Result<T, Error>>,
}

impl<T> PendingCall<T> {
    /// Its result, if it returns within `deadline` of its start.
    pub(super) fn answer(&self, deadline: Duration) -> Option<Result<T, Error>> {
        let left = deadline.saturating_sub(self.began.elapsed());
        self.answer.recv_timeout(left).ok()
    }
}

impl PendingCall {
    /// Waits until the call has certainly reached libvirt, which continues it even if this process
    /// ends.
    pub fn leave_to_libvirt(self) -> Result<()> {
        match self.answer(REACHING_LIBVIRT) {
            Some(Err(e)) => Err(anyhow::anyhow!(e.message().to_owned())),
            _ => Ok(()),
        }
    }
}
