//! Sessions that a full disk had no room for: an administrator's, so that whoever can mend it gets in.
//!
//! They lie in memory alone and end with the daemon, after [`super::IDLE`], and with any change of their person. Their
//! row of the audit trail waits for the disk.

use std::collections::HashMap;

use super::audit::Event;
use super::{Access, By, Hash, Role};
use crate::store::{SessionRow, StoreError};

/// Of all administrators together; the oldest make room.
const MOST: usize = 16;

pub struct Stopgap {
    pub session: SessionRow,
    /// The person's at sign-in; every change of theirs counts it up.
    revision: Option<u64>,
}

impl Access {
    /// Opens the session in memory; gives the error back where it is no administrator's.
    pub(super) fn open_in_memory(
        &self,
        session: SessionRow,
        by: &By,
        detail: &str,
        full: StoreError,
    ) -> Result<(), StoreError> {
        let (store, audit) = self.kept()?;
        let person = session.person.as_deref().map(|name| store.person(name)).transpose()?.flatten();
        let token = session.token.as_deref().map(|id| store.token_by_id(id)).transpose()?.flatten();
        let role = person.as_ref().map(|row| &row.role).or(token.as_ref().map(|row| &row.role));
        if role.and_then(|role| Role::named(role)) != Some(Role::Admin) {
            return Err(full);
        }
        tracing::warn!("{} is signed in, but in memory only: {full}", by.name);
        audit.later(by, Event::SignIn, "session", &format!("{detail}, in memory only: the disk was full"));
        let mut stopgaps = self.stopgaps();
        if stopgaps.len() >= MOST
            && let Some(oldest) =
                stopgaps.iter().min_by_key(|(_, held)| held.session.opened).map(|(hash, _)| *hash)
        {
            stopgaps.remove(&oldest);
        }
        let revision = person.map(|row| row.revision);
        stopgaps.insert(session.sha256, Stopgap { session, revision });
        Ok(())
    }

    /// The session in memory with this hash, unless its person was changed.
    pub(super) fn session_in_memory(&self, hash: &Hash) -> Result<Option<SessionRow>, StoreError> {
        let held = self.stopgaps().get(hash).map(|held| (held.session.clone(), held.revision));
        let Some((session, revision)) = held else { return Ok(None) };
        let person = session.person.as_deref().map(|name| self.kept()?.0.person(name)).transpose()?.flatten();
        let same = person.map(|row| row.revision) == revision;
        if !same {
            self.stopgaps().remove(hash);
        }
        Ok(same.then_some(session))
    }

    pub(super) fn stopgaps(&self) -> std::sync::MutexGuard<'_, HashMap<Hash, Stopgap>> {
        self.inner.stopgaps.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
