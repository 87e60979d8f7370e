//! The open sessions, with limits, and the tokens that were used.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::closing::Closing;
use crate::names::UserId;
use crate::state::token::{Access, Token};

/// How many sessions of each kind one user's instances may have.
const OF_ONE_USER: usize = 8;

/// All sessions of a gateway.
#[derive(Debug)]
pub struct Sessions {
    most: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// Oldest first.
    open: BTreeMap<u64, Open>,
    /// The tokens that were used and have not expired.
    used: HashMap<u128, Timestamp>,
    /// No more sessions are admitted, for this reason.
    ended: Option<Closing>,
}

#[derive(Debug)]
struct Open {
    user: UserId,
    access: Access,
    end: oneshot::Sender<Closing>,
}

/// A session, which ends when this is dropped.
#[derive(Debug)]
pub struct Place {
    sessions: Arc<Sessions>,
    number: u64,
}

impl Sessions {
    /// At most `limit` sessions at once.
    pub fn new(most: usize) -> Arc<Sessions> {
        Arc::new(Sessions {
            most,
            inner: Mutex::default(),
        })
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits the bearer of `token` and marks the token as used. The returned receiver says when
    /// the session must end.
    pub fn enter(
        self: &Arc<Self>,
        token: &Token,
        now: Timestamp,
    ) -> Result<(Place, oneshot::Receiver<Closing>), Closing> {
        let mut inner = self.inner();
        if let Some(closing) = inner.ended {
            return Err(closing);
        }
        inner.used.retain(|_, expires| *expires > now);
        if inner.used.insert(token.serial, token.expires).is_some() {
            return Err(Closing::TOKEN);
        }
        let (user, access) = (token.name.user.clone(), token.access);
        let own = inner
            .open
            .iter()
            .filter(|(_, open)| open.user == user && open.access == access);
        let own: Vec<u64> = own.map(|(number, _)| *number).collect();
        if let Some(oldest) = own.first().filter(|_| own.len() >= OF_ONE_USER)
            && let Some(oldest) = inner.open.remove(oldest)
        {
            let _ = oldest.end.send(Closing::DISPLACED);
        }
        if inner.open.len() >= self.most {
            return Err(Closing::CROWDED);
        }
        let number = inner.next;
        inner.next += 1;
        let (end, ends) = oneshot::channel();
        inner.open.insert(number, Open { user, access, end });
        let sessions = Arc::clone(self);
        Ok((Place { sessions, number }, ends))
    }

    /// Ends all sessions and admits no more.
    pub fn end_all(&self, closing: Closing) {
        let mut inner = self.inner();
        inner.ended = Some(closing);
        for (_, open) in std::mem::take(&mut inner.open) {
            let _ = open.end.send(closing);
        }
    }

    /// The number of sessions with this access.
    pub fn count(&self, access: Access) -> usize {
        let inner = self.inner();
        let open = inner.open.values();
        open.filter(|open| open.access == access).count()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sessions.inner().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(user: &str, access: Access) -> Token {
        let name = format!("lab01_user_{user}").parse().unwrap();
        Token::new(&name, access, Timestamp::UNIX_EPOCH)
    }

    fn enter(
        sessions: &Arc<Sessions>,
        token: &Token,
    ) -> Result<(Place, oneshot::Receiver<Closing>), Closing> {
        sessions.enter(token, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_token_is_for_one_session() {
        let sessions = Sessions::new(10);
        let token = token("anna", Access::Control);
        let place = enter(&sessions, &token).unwrap();
        assert_eq!(enter(&sessions, &token).unwrap_err(), Closing::TOKEN);
        drop(place);
        assert_eq!(enter(&sessions, &token).unwrap_err(), Closing::TOKEN);
        assert_eq!(sessions.inner().used.len(), 1);
        // Expired tokens need not be remembered.
        let later = Timestamp::from_second(61).unwrap();
        drop(sessions.enter(&self::token("ben", Access::View), later));
        assert_eq!(sessions.inner().used.len(), 1);
    }

    #[test]
    fn a_users_oldest_session_makes_room_and_nobody_elses() {
        let sessions = Sessions::new(100);
        let mut others = enter(&sessions, &token("ben", Access::Control)).unwrap();
        let mut viewer = enter(&sessions, &token("anna", Access::View)).unwrap();
        let mut own: Vec<_> = (0..=OF_ONE_USER)
            .map(|_| enter(&sessions, &token("anna", Access::Control)).unwrap())
            .collect();
        assert_eq!(own[0].1.try_recv(), Ok(Closing::DISPLACED));
        assert!(own[1].1.try_recv().is_err() && others.1.try_recv().is_err());
        assert!(viewer.1.try_recv().is_err());
        assert_eq!(sessions.count(Access::Control), OF_ONE_USER + 1);
        drop(own);
        assert_eq!(sessions.count(Access::Control), 1);
        sessions.end_all(Closing::RESTART);
        assert_eq!(others.1.try_recv(), Ok(Closing::RESTART));
        assert_eq!(viewer.1.try_recv(), Ok(Closing::RESTART));
        let late = enter(&sessions, &token("carl", Access::View));
        assert_eq!(late.unwrap_err(), Closing::RESTART);
    }

    #[test]
    fn there_are_no_more_than_allowed() {
        let sessions = Sessions::new(2);
        let first = enter(&sessions, &token("a", Access::View)).unwrap();
        let _second = enter(&sessions, &token("b", Access::Control)).unwrap();
        let third = || enter(&sessions, &token("c", Access::View));
        assert_eq!(third().unwrap_err(), Closing::CROWDED);
        drop(first);
        assert!(third().is_ok());
    }
}
