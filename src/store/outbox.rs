//! What is on its way to a destination, and what never arrived.

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};

use super::{DeadLetter, OutboxEntry, Store, StoreError, nanos, timestamp};
use crate::alert::Alert;

/// What [`entry`] reads.
const COLUMNS: &str = "row, destination, event, body, created, attempts, due";

/// Within the transaction that stores the alert's revision.
pub(super) fn enqueue(db: &Connection, alert: &Alert, entries: &[(String, Bytes)]) -> rusqlite::Result<()> {
    let now = nanos(Timestamp::now());
    let event = format!("{}.{}", alert.id, alert.revision);
    let mut insert = db.prepare_cached(
        "INSERT INTO outbox (destination, alert, event, body, created, due) VALUES (?1, ?2, ?3, ?4, ?5, ?5)
         ON CONFLICT DO NOTHING",
    )?;
    for (destination, body) in entries {
        insert.execute((destination, &alert.id, &event, body.as_ref(), now))?;
    }
    Ok(())
}

impl Store {
    /// Entries of a destination that are due, oldest first. Of one alert only the earliest waiting revision is ever
    /// among them, so that revisions arrive in order.
    pub fn due(
        &self,
        destination: &str,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<OutboxEntry>, StoreError> {
        self.read(|db| {
            db.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM outbox AS entry WHERE destination = ?1 AND due <= ?2 AND NOT EXISTS
                     (SELECT 1 FROM outbox AS earlier WHERE earlier.destination = ?1
                          AND earlier.alert = entry.alert AND earlier.row < entry.row)
                 ORDER BY row LIMIT ?3"
            ))?
            .query_map((destination, nanos(now), limit as i64), entry)?
            .collect()
        })
    }

    /// When the next entry of a destination is due, and how many wait.
    pub fn outbox_state(&self, destination: &str) -> Result<(Option<Timestamp>, u64), StoreError> {
        self.read(|db| {
            db.prepare_cached(
                "SELECT (SELECT min(due) FROM outbox AS entry WHERE destination = ?1 AND NOT EXISTS
                     (SELECT 1 FROM outbox AS earlier WHERE earlier.destination = ?1
                          AND earlier.alert = entry.alert AND earlier.row < entry.row)),
                     (SELECT count(*) FROM outbox WHERE destination = ?1)",
            )?
            .query_row([destination], |row| {
                Ok((row.get::<_, Option<i64>>(0)?.map(timestamp), row.get::<_, i64>(1)?.unsigned_abs()))
            })
        })
    }

    /// Entries of a destination made before `before`, oldest first, due or not.
    pub fn expired(
        &self,
        destination: &str,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<OutboxEntry>, StoreError> {
        self.read(|db| {
            db.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM outbox WHERE destination = ?1 AND created < ?2 ORDER BY row LIMIT ?3"
            ))?
            .query_map((destination, nanos(before), limit as i64), entry)?
            .collect()
        })
    }

    /// The destination has acknowledged the entry.
    pub fn acknowledged(&self, row: i64) -> Result<(), StoreError> {
        self.write(|db| db.prepare_cached("DELETE FROM outbox WHERE row = ?1")?.execute([row]).map(drop))
    }

    /// The attempt failed; the next is due then.
    pub fn failed(&self, row: i64, error: &str, due: Timestamp) -> Result<(), StoreError> {
        self.write(|db| {
            db.prepare_cached(
                "UPDATE outbox SET attempts = attempts + 1, error = ?2, due = ?3 WHERE row = ?1",
            )?
            .execute((row, error, nanos(due)))
            .map(drop)
        })
    }

    /// The destination is back: everything that waits for another attempt is due now.
    pub fn hasten(&self, destination: &str, now: Timestamp) -> Result<(), StoreError> {
        self.write(|db| {
            db.prepare_cached("UPDATE outbox SET due = ?2 WHERE destination = ?1 AND due > ?2")?
                .execute((destination, nanos(now)))
                .map(drop)
        })
    }

    /// Given up: kept as a dead letter with the reason and the last attempt's error.
    pub fn give_up(&self, row: i64, reason: &str) -> Result<(), StoreError> {
        self.write(|db| {
            db.prepare_cached(
                "INSERT INTO dead_letters (destination, event, body, created, attempts, given_up, reason)
                 SELECT destination, event, body, created, attempts, ?2, ?3 || coalesce('; last error: ' || error, '')
                 FROM outbox WHERE row = ?1",
            )?
            .execute((row, nanos(Timestamp::now()), reason))?;
            db.prepare_cached("DELETE FROM outbox WHERE row = ?1")?.execute([row]).map(drop)
        })
    }

    /// How many events for a destination were given up since, and the latest of them.
    pub fn dead_letters(
        &self,
        destination: &str,
        since: Timestamp,
    ) -> Result<(u64, Option<DeadLetter>), StoreError> {
        self.read(|db| {
            let count: i64 = db
                .prepare_cached(
                    "SELECT count(*) FROM dead_letters WHERE destination = ?1 AND given_up >= ?2",
                )?
                .query_row((destination, nanos(since)), |row| row.get(0))?;
            let latest = db
                .prepare_cached(
                    "SELECT destination, event, created, given_up, attempts, reason FROM dead_letters
                     WHERE destination = ?1 AND given_up >= ?2 ORDER BY given_up DESC, row DESC LIMIT 1",
                )?
                .query_row((destination, nanos(since)), |row| {
                    Ok(DeadLetter {
                        destination: row.get(0)?,
                        event: row.get(1)?,
                        created: timestamp(row.get(2)?),
                        given_up: timestamp(row.get(3)?),
                        attempts: row.get(4)?,
                        reason: row.get(5)?,
                    })
                })
                .optional()?;
            Ok((count.unsigned_abs(), latest))
        })
    }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<OutboxEntry> {
    Ok(OutboxEntry {
        row: row.get(0)?,
        destination: row.get(1)?,
        event: row.get(2)?,
        body: Bytes::from(row.get::<_, Vec<u8>>(3)?),
        created: timestamp(row.get(4)?),
        attempts: row.get(5)?,
        due: timestamp(row.get(6)?),
    })
}
