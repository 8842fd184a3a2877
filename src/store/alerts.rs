//! Alerts and their snapshots.

use std::ops::Range;

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, named_params};

use super::page::Window;
use super::{
    AlertMark, AuditEntry, Filter, Page, Store, StoreError, TransitionRow, audit, nanos, outbox, timestamp,
    unreadable,
};
use crate::alert::{Alert, Phase};

/// Revisions of alerts that are held in the order in which they were stored: some 10 MB, and weeks of most boxes.
pub const ALERTS_LOGGED: u64 = 10_000;

/// Start in nanoseconds, id.
type Key = (i64, String);

/// What came of storing a revision.
enum Put {
    New,
    /// Just this was stored before.
    Again,
    /// The stored revision, which is no older and says something else.
    Stale(u32),
}

fn stale(alert: &Alert, newest: u32) -> StoreError {
    StoreError::Stale { alert: alert.id.clone(), revision: alert.revision, newest }
}

impl Store {
    /// Stores an alert's revision and its outbox entries (destination, body) in one transaction. `snapshot` replaces
    /// an earlier one. The same revision again changes nothing, so a call whose outcome is unknown may be repeated.
    ///
    /// # Errors
    /// [`StoreError::Stale`] where this revision or a later one is stored already and says something else.
    pub fn put_alert(
        &self,
        alert: &Alert,
        snapshot: Option<&Bytes>,
        outbox: &[(String, Bytes)],
    ) -> Result<(), StoreError> {
        match self.put(alert, snapshot, outbox, |_| Ok(()))? {
            Put::New | Put::Again => Ok(()),
            Put::Stale(newest) => Err(stale(alert, newest)),
        }
    }

    /// Stores what somebody did with an alert, as its next revision, with its outbox entries and its row of the audit
    /// trail.
    ///
    /// # Errors
    /// [`StoreError::Stale`] where this revision or a later one is stored already, even by somebody who has done the same.
    pub fn put_transition(
        &self,
        alert: &Alert,
        transition: &TransitionRow,
        outbox: &[(String, Bytes)],
        entry: &AuditEntry,
    ) -> Result<(), StoreError> {
        let put = self.put(alert, None, outbox, |db| {
            db.prepare_cached(
                "INSERT INTO transitions (alert, revision, at, who, disposition, reason, note)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute((
                &alert.id,
                alert.revision,
                nanos(transition.at),
                &transition.who,
                word(&transition.to)?,
                transition.reason.map(|reason| word(&reason)).transpose()?,
                &transition.note,
            ))?;
            audit::append(db, entry)
        })?;
        match put {
            Put::New => Ok(()),
            Put::Again => Err(stale(alert, alert.revision)),
            Put::Stale(newest) => Err(stale(alert, newest)),
        }
    }

    /// What people did with an alert, oldest first.
    pub fn transitions(&self, alert: &str) -> Result<Vec<TransitionRow>, StoreError> {
        self.read(|db| {
            db.prepare_cached(
                "SELECT at, who, disposition, reason, note, revision FROM transitions WHERE alert = ?1
                 ORDER BY revision",
            )?
            .query_map([alert], |row| {
                let reason: Option<String> = row.get(3)?;
                Ok(TransitionRow {
                    at: timestamp(row.get(0)?),
                    who: row.get(1)?,
                    to: meaning(2, row.get(2)?)?,
                    reason: reason.map(|reason| meaning(3, reason)).transpose()?,
                    note: row.get(4)?,
                    revision: row.get(5)?,
                })
            })?
            .collect()
        })
    }

    /// `also` belongs to the revision: it is done in the same transaction.
    fn put(
        &self,
        alert: &Alert,
        snapshot: Option<&Bytes>,
        outbox: &[(String, Bytes)],
        also: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<Put, StoreError> {
        let body = serde_json::to_string(alert).map_err(|error| StoreError::Sqlite(unreadable(0, error)))?;
        let put = self.write(|db| {
            let stored: Option<(u32, String)> = db
                .prepare_cached("SELECT revision, body FROM alerts WHERE id = ?1")?
                .query_row([&alert.id], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            if let Some((newest, stored)) = stored
                && newest >= alert.revision
            {
                let same = newest == alert.revision && stored == body;
                return Ok(if same { Put::Again } else { Put::Stale(newest) });
            }
            db.prepare_cached(
                "INSERT INTO alerts (id, revision, phase, camera, started_at, ended_at, body)
                 VALUES (:id, :revision, :phase, :camera, :started_at, :ended_at, :body)
                 ON CONFLICT (id) DO UPDATE SET revision = :revision, phase = :phase, camera = :camera,
                     started_at = :started_at, ended_at = :ended_at, body = :body",
            )?
            .execute(named_params! {
                ":id": alert.id,
                ":revision": alert.revision,
                ":phase": phase(alert.phase),
                ":camera": alert.camera.as_ref(),
                ":started_at": nanos(alert.started_at),
                ":ended_at": alert.ended_at.map(nanos),
                ":body": body,
            })?;
            if let Some(jpeg) = snapshot {
                db.prepare_cached("INSERT OR REPLACE INTO snapshots (alert, jpeg) VALUES (?1, ?2)")?
                    .execute((&alert.id, jpeg.as_ref()))?;
            }
            outbox::enqueue(db, alert, outbox)?;
            log(db, &alert.id, &body)?;
            also(db)?;
            Ok(Put::New)
        })?;
        if matches!(put, Put::New) {
            self.alert_logged.notify_one();
        }
        Ok(put)
    }

    pub fn alerts(&self, filter: &Filter) -> Result<Page<Alert>, StoreError> {
        let window = Window::<Key>::of(filter)?;
        let cameras = filter.cameras.as_ref().map(|cameras| serde_json::json!(cameras).to_string());
        let (after, after_id) = window.after.clone().unwrap_or((i64::MAX, "\u{10FFFF}".to_owned()));
        let keyed = self.read(|db| {
            db.prepare_cached(
                "SELECT body, started_at, id FROM alerts
                 WHERE started_at >= :from AND started_at < :until AND (started_at, id) < (:after, :after_id)
                     AND (:cameras IS NULL OR camera IN (SELECT value FROM json_each(:cameras)))
                 ORDER BY started_at DESC, id DESC LIMIT :limit",
            )?
            .query_map(
                named_params! {
                    ":from": window.from,
                    ":until": window.until,
                    ":after": after,
                    ":after_id": after_id,
                    ":cameras": cameras,
                    ":limit": window.limit as i64 + 1,
                },
                |row| Ok(((row.get(1)?, row.get(2)?), alert(row)?)),
            )?
            .collect::<rusqlite::Result<Vec<(Key, Alert)>>>()
        })?;
        Ok(Page::of(keyed, window.limit))
    }

    /// A camera's alerts that overlap the range, in short, in the order of their starts. Answered from an index alone.
    pub fn alert_marks(&self, camera: &str, range: &Range<Timestamp>) -> Result<Vec<AlertMark>, StoreError> {
        self.read(|db| {
            db.prepare_cached(
                "SELECT id, kind, level, phase, disposition, started_at, ended_at FROM alerts
                 WHERE camera = ?1 AND started_at < ?3 AND (ended_at IS NULL OR ended_at > ?2) AND kind IS NOT NULL
                 ORDER BY started_at",
            )?
            .query_map((camera, nanos(range.start), nanos(range.end)), |row| {
                Ok(AlertMark {
                    id: row.get(0)?,
                    kind: meaning(1, row.get(1)?)?,
                    level: row.get(2)?,
                    phase: meaning(3, row.get(3)?)?,
                    disposition: meaning(4, row.get(4)?)?,
                    start: timestamp(row.get(5)?),
                    end: row.get::<_, Option<i64>>(6)?.map(timestamp),
                })
            })?
            .collect()
        })
    }

    pub fn alert(&self, id: &str) -> Result<Option<Alert>, StoreError> {
        self.read(|db| {
            db.prepare_cached("SELECT body FROM alerts WHERE id = ?1")?.query_row([id], alert).optional()
        })
    }

    /// Alerts that were pending or active when the daemon stopped.
    pub fn open_alerts(&self) -> Result<Vec<Alert>, StoreError> {
        self.read(|db: &Connection| {
            db.prepare_cached("SELECT body FROM alerts WHERE phase <> 'ended' ORDER BY id")?
                .query_map([], alert)?
                .collect()
        })
    }

    /// The revisions stored after number `after` and up to `until`, oldest first, each with its number. `None` for one
    /// that cannot be read.
    pub fn alert_log(
        &self,
        after: u64,
        until: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Option<Alert>)>, StoreError> {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.read(|db| {
            db.prepare_cached(
                "SELECT body, seq FROM alert_log WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3",
            )?
            .query_map((number(after), number(until), limit as i64), |row| {
                let read = alert(row).inspect_err(|error| tracing::error!("a revision of an alert: {error}"));
                Ok((row.get::<_, i64>(1)?.unsigned_abs(), read.ok()))
            })?
            .collect()
        })
    }

    /// The number of the newest revision; it is kept when the revision is forgotten.
    pub fn alert_log_end(&self) -> Result<u64, StoreError> {
        self.read(|db| {
            let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'alert_log'";
            let end: Option<i64> = db.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?;
            Ok(end.unwrap_or(0).unsigned_abs())
        })
    }

    /// Waits until this process has stored a revision since the last call. For one waiter.
    pub async fn alert_logged(&self) {
        self.alert_logged.notified().await;
    }

    /// The JPEG with the boxes drawn.
    pub fn snapshot(&self, alert: &str) -> Result<Option<Bytes>, StoreError> {
        self.read(|db| {
            db.prepare_cached("SELECT jpeg FROM snapshots WHERE alert = ?1")?
                .query_row([alert], |row| Ok(Bytes::from(row.get::<_, Vec<u8>>(0)?)))
                .optional()
        })
    }
}

/// Appends a revision to the log, and drops the oldest.
fn log(db: &Connection, alert: &str, body: &str) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO alert_log (alert, body) VALUES (?1, ?2)")?.execute((alert, body))?;
    let oldest = db.last_insert_rowid() - ALERTS_LOGGED as i64;
    db.prepare_cached("DELETE FROM alert_log WHERE seq <= ?1")?.execute([oldest]).map(drop)
}

fn alert(row: &Row<'_>) -> rusqlite::Result<Alert> {
    serde_json::from_str(row.get_ref(0)?.as_str()?).map_err(|error| unreadable(0, error))
}

/// A word of an enumeration, as JSON has it, without its quotes.
fn word(of: &impl serde::Serialize) -> rusqlite::Result<String> {
    let json = serde_json::to_string(of).map_err(|error| unreadable(0, error))?;
    Ok(json.trim_matches('"').to_owned())
}

fn meaning<T: serde::de::DeserializeOwned>(column: usize, word: String) -> rusqlite::Result<T> {
    serde_json::from_value(serde_json::Value::String(word)).map_err(|error| unreadable(column, error))
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "pending",
        Phase::Active => "active",
        Phase::Ended => "ended",
    }
}
