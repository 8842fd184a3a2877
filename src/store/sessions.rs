//! Sessions of the console: known by the hash of the cookie's value.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row};

use super::audit::append;
use super::{AuditEntry, SessionRow, Store, StoreError, nanos, timestamp};

/// Sessions of one person or token; past it the one that was seen least lately ends.
const MOST: i64 = 64;

impl Store {
    pub fn open_session(&self, session: &SessionRow, entry: &AuditEntry) -> Result<(), StoreError> {
        self.write(|db| {
            db.prepare_cached("DELETE FROM sessions WHERE expires <= ?1")?.execute([nanos(Timestamp::now())])?;
            db.prepare_cached(
                "DELETE FROM sessions WHERE sha256 IN
                     (SELECT sha256 FROM sessions WHERE person IS ?1 AND token IS ?2
                          ORDER BY seen DESC LIMIT -1 OFFSET ?3)",
            )?
            .execute((&session.person, &session.token, MOST - 1))?;
            db.prepare_cached(
                "INSERT INTO sessions (sha256, person, token, opened, seen, expires) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute((
                session.sha256,
                &session.person,
                &session.token,
                nanos(session.opened),
                nanos(session.seen),
                nanos(session.expires),
            ))?;
            append(db, entry)
        })
    }

    pub fn session(&self, sha256: &[u8; 32]) -> Result<Option<SessionRow>, StoreError> {
        self.read(|db| {
            db.prepare_cached(
                "SELECT sha256, person, token, opened, seen, expires FROM sessions WHERE sha256 = ?1",
            )?
            .query_row([sha256], session)
            .optional()
        })
    }

    /// Notes that the session is in use; a power cut may forget it.
    pub fn touch_session(&self, sha256: &[u8; 32], now: Timestamp) -> Result<(), StoreError> {
        self.log(|db| {
            db.prepare_cached("UPDATE sessions SET seen = ?2 WHERE sha256 = ?1")?
                .execute((sha256, nanos(now)))
                .map(drop)
        })
    }

    pub fn close_session(&self, sha256: &[u8; 32], entry: &AuditEntry) -> Result<(), StoreError> {
        self.write(|db| {
            if db.prepare_cached("DELETE FROM sessions WHERE sha256 = ?1")?.execute([sha256])? > 0 {
                append(db, entry)?;
            }
            Ok(())
        })
    }

    /// Ends every session of a person, or of a token.
    pub fn close_sessions_of(
        &self,
        person: Option<&str>,
        token: Option<&str>,
        entry: &AuditEntry,
    ) -> Result<(), StoreError> {
        self.write(|db| {
            let closed = db
                .prepare_cached("DELETE FROM sessions WHERE person IS ?1 AND token IS ?2")?
                .execute((person, token))?;
            if closed > 0 {
                append(db, entry)?;
            }
            Ok(())
        })
    }
}

fn session(row: &Row<'_>) -> rusqlite::Result<SessionRow> {
    Ok(SessionRow {
        sha256: row.get(0)?,
        person: row.get(1)?,
        token: row.get(2)?,
        opened: timestamp(row.get(3)?),
        seen: timestamp(row.get(4)?),
        expires: timestamp(row.get(5)?),
    })
}
