//! `state.db`: alerts with their snapshots, the outbox, detections, what is on air, people, tokens, sessions, the audit
//! trail. SQLite, WAL, `synchronous = FULL`; one writer, readers beside it. Every call blocks: asynchronous callers go through `spawn_blocking`.
//!
//! What does not belong here: segments (`record` has its own index) and what any of it means.
//!
//! **Durability.** A call that returns `Ok` has been synced, except detections: they are a log, and syncing each look
//! would make alerts queue behind it. After a power cut the newest of them may be missing; after a crash of the process
//! none is. While the disk refuses, calls return errors and nothing is half written; [`Store::put_alert`] may be
//! repeated with the same revision as often as needed.
//!
//! **Other processes.** `liuta token create` opens the same file beside a running daemon; WAL and a busy timeout order
//! the two.

mod alerts;
mod audit;
mod channels;
mod detections;
mod outbox;
mod page;
mod people;
mod schema;
mod sessions;
#[cfg(test)]
mod tests;
mod tokens;

use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, ffi};
use tokio::sync::Notify;

use crate::alert::disposition::{Disposition, Reason};
use crate::alert::{Detection, Phase};
use crate::config::Kind;
pub use alerts::ALERTS_LOGGED;
pub use audit::{AuditEntry, AuditFilter, AuditRow, AuditState, Broken, Pruned};
pub use people::PeopleError;
pub use schema::{MigrationError, migrate};

/// Below the data folder.
const FILE: &str = "state.db";

/// Beside it; an empty file that says that the box has had an administrator.
const SET_UP: &str = "set-up-done";

/// Connections that read at the same time; more callers wait for one of them.
const READERS: usize = 4;

/// How long a call waits for another process that is writing.
const BUSY: Duration = Duration::from_secs(5);

pub struct Store {
    path: PathBuf,
    writer: Mutex<Writer>,
    readers: Vec<Mutex<Connection>>,
    turn: AtomicUsize,
    alert_logged: Notify,
}

/// Behind one lock, so that the two never wait for each other inside SQLite.
struct Writer {
    /// `synchronous = FULL`.
    durable: Connection,
    /// `synchronous = NORMAL`, for detections.
    log: Connection,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("state.db: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("{path}: {error}")]
    Io { path: String, error: std::io::Error },
    /// Only looked for, not made.
    #[error("there is no {0}: is `data` the right folder, and has the box been started?")]
    Missing(String),
    /// What was written before is safe, and can be read.
    #[error("{0}: the disk is full; make room on it")]
    Full(String),
    /// A database that a later liuta has written is never touched.
    #[error(
        "{path} has schema {found}, newer than this liuta's {known}; run the newer liuta or restore a backup"
    )]
    Newer { path: String, found: u32, known: u32 },
    /// Names the file and says what to do.
    #[error("{0}")]
    Corrupt(String),
    /// Somebody else has changed the alert meanwhile: read it again and repeat the change.
    #[error("alert {alert}: revision {revision} is taken, the newest is {newest}")]
    Stale { alert: String, revision: u32, newest: u32 },
    #[error("cursor: what an earlier page's next said was expected")]
    Cursor,
}

impl StoreError {
    fn io(path: &Path) -> impl Fn(std::io::Error) -> StoreError + '_ {
        move |error| {
            let error = crate::owner::explain(path, error);
            StoreError::Io { path: path.display().to_string(), error }
        }
    }
}

/// One page of a collection.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// `?cursor=` of the next page; null on the last one.
    pub next: Option<String>,
}

/// Which items of a collection.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// `None`: every camera. `Some([])`: none.
    pub cameras: Option<Vec<String>>,
    /// Of an alert's start, or a detection's capture time.
    pub range: Option<Range<Timestamp>>,
    /// From an earlier page's `next`.
    pub cursor: Option<String>,
    /// At most so many items, 1..=1000.
    pub limit: usize,
}

/// A detection as it is remembered.
#[derive(Clone, Debug, PartialEq, serde::Serialize, utoipa::ToSchema)]
pub struct StoredDetection {
    pub camera: String,
    /// Capture time of the picture.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    pub model: String,
    #[serde(flatten)]
    pub detection: Detection,
}

/// An alert as a time bar shows it.
#[derive(Clone, Debug, PartialEq, serde::Serialize, utoipa::ToSchema)]
pub struct AlertMark {
    pub id: String,
    pub kind: Kind,
    /// 1 (most severe) to 4.
    pub level: u8,
    pub phase: Phase,
    pub disposition: Disposition,
    #[schema(value_type = String, format = DateTime)]
    pub start: Timestamp,
    /// Null while it goes on.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub end: Option<Timestamp>,
}

/// Detections of one class within a step of time.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectionCount {
    /// Of the step.
    pub start: Timestamp,
    pub class: String,
    pub count: u64,
}

/// A revision of an alert on its way to one destination.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboxEntry {
    pub row: i64,
    pub destination: String,
    /// `<alert id>.<revision>`.
    pub event: String,
    /// The event as it is sent.
    pub body: Bytes,
    pub created: Timestamp,
    pub attempts: u32,
    pub due: Timestamp,
}

/// What somebody did with an alert.
#[derive(Clone, Debug, PartialEq, serde::Serialize, utoipa::ToSchema)]
#[schema(as = Transition)]
pub struct TransitionRow {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    pub who: String,
    pub to: Disposition,
    /// Of a rejection.
    pub reason: Option<Reason>,
    pub note: String,
    /// The alert's, that this made.
    pub revision: u32,
}

/// An event that never arrived.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct DeadLetter {
    pub destination: String,
    /// `<alert id>.<revision>`.
    pub event: String,
    pub created: Timestamp,
    pub given_up: Timestamp,
    pub attempts: u32,
    pub reason: String,
}

/// What is on air on a channel.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelRow {
    pub name: String,
    pub camera: String,
    /// The camera of the configuration when this one was put on air.
    pub configured: String,
    /// Counts changes, from 1.
    pub revision: u64,
    pub since: Timestamp,
    /// `None`: the configuration.
    pub who: Option<String>,
}

/// A token as it is kept: only its SHA-256.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRow {
    pub id: String,
    pub sha256: [u8; 32],
    pub role: String,
    /// Camera ids and `group:NAME`. `None`: every camera.
    pub cameras: Option<Vec<String>>,
    pub created: Timestamp,
    pub expires: Option<Timestamp>,
    /// What it is for.
    pub name: String,
    /// What of the role's actions it may do. `None`: all of them.
    pub actions: Option<Vec<String>>,
    pub created_by: String,
    pub revoked: Option<Timestamp>,
    /// For players that answer by Digest.
    pub ha1: Option<Ha1>,
}

/// A person as they are kept.
#[derive(Clone, PartialEq)]
pub struct PersonRow {
    pub name: String,
    pub role: String,
    /// Camera ids and `group:NAME`. `None`: every camera.
    pub cameras: Option<Vec<String>>,
    /// Argon2id, as a PHC string.
    pub password: String,
    pub stream_key: Option<Ha1>,
    pub disabled: bool,
    pub created: Timestamp,
    /// Counts changes, from 1.
    pub revision: u64,
}

/// A stream key or token as Digest needs it: `H(name:realm:key)`. Whoever has it can sign in, so `Debug` hides it.
#[derive(Clone, Copy, PartialEq)]
pub struct Ha1 {
    pub md5: [u8; 16],
    pub sha256: [u8; 32],
}

impl std::fmt::Debug for Ha1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("‹secret›")
    }
}

/// A console session, of a person or of a token's holder.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRow {
    pub sha256: [u8; 32],
    pub person: Option<String>,
    pub token: Option<String>,
    pub opened: Timestamp,
    pub seen: Timestamp,
    pub expires: Timestamp,
}

/// Detections that are remembered: about 500 MB.
pub const MAX_DETECTIONS: i64 = 5_000_000;

impl Store {
    /// Opens, creates or migrates `<data>/state.db`. A migration leaves a copy of the file as it was beside it
    /// (`state.db.v<schema>`).
    ///
    /// # Errors
    /// [`StoreError::Newer`] and [`StoreError::Corrupt`] leave the file as it is.
    pub fn open(data: &Path) -> Result<Arc<Store>, StoreError> {
        let path = data.join(FILE);
        schema::create_file(data, &path)?;
        let explain = |error| explain(&path, error);
        let mut durable = connect(&path).map_err(explain)?;
        schema::migrate(&mut durable, &path, &schema::MIGRATIONS).map_err(|refused| match refused {
            MigrationError::Newer { found, known } => {
                StoreError::Newer { path: path.display().to_string(), found, known }
            }
            MigrationError::Sqlite(error) => explain(error),
            MigrationError::Copy(error) => error,
        })?;
        let open = || -> rusqlite::Result<_> {
            durable.pragma_update(None, "synchronous", "FULL")?;
            let log = connect(&path)?;
            log.pragma_update(None, "synchronous", "NORMAL")?;
            let readers = (0..READERS)
                .map(|_| {
                    let reader = connect(&path)?;
                    reader.pragma_update(None, "query_only", true)?;
                    Ok(Mutex::new(reader))
                })
                .collect::<rusqlite::Result<_>>()?;
            Ok((log, readers))
        };
        let (log, readers) = open().map_err(explain)?;
        let writer = Mutex::new(Writer { durable, log });
        Ok(Arc::new(Store { path, writer, readers, turn: AtomicUsize::new(0), alert_logged: Notify::new() }))
    }

    /// The same where there is one already; makes nothing.
    pub fn open_existing(data: &Path) -> Result<Arc<Store>, StoreError> {
        let path = data.join(FILE);
        // An empty file is what a look with other tools leaves.
        match std::fs::metadata(&path) {
            Ok(found) if found.len() > 0 => Store::open(data),
            Ok(_) => Err(StoreError::Missing(path.display().to_string())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(StoreError::Missing(path.display().to_string()))
            }
            Err(error) => Err(StoreError::io(&path)(error)),
        }
    }

    /// Brings what the write-ahead log holds into the file itself, so that the file alone is worth something: a copy of
    /// it that somebody makes, and what is left where the log is lost. By a reader's connection, beside whoever writes.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        self.read(|db| db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())))
    }

    /// Writes a copy of everything, as it is at one instant, into a new file, while others read and write.
    pub fn back_up(&self, to: &Path) -> Result<(), StoreError> {
        if to.symlink_metadata().is_ok() {
            let error = std::io::ErrorKind::AlreadyExists.into();
            return Err(StoreError::Io { path: to.display().to_string(), error });
        }
        let db = connect(&self.path).map_err(|error| explain(&self.path, error))?;
        schema::copy(&db, to)
    }

    /// Notes beside the database that it has an administrator, where it has one, and tells whether it has lost all it
    /// had: the last one cannot be removed, so that a database without one is not the one that was here before.
    pub fn has_lost_its_people(&self) -> Result<bool, StoreError> {
        let mark = self.path.with_file_name(SET_UP);
        if !self.has_administrator()? {
            return Ok(mark.exists());
        }
        let make = || {
            let file =
                std::fs::File::options().create(true).truncate(false).write(true).mode(0o600).open(&mark)?;
            crate::owner::hand_over(&mark);
            file.sync_all()
        };
        if !mark.exists() {
            make().map_err(StoreError::io(&mark))?;
        }
        Ok(false)
    }

    /// Forgets detections older than `detections`, and ended alerts (with snapshots), dead letters, entries for
    /// destinations that nobody serves any more, and revoked tokens older than `alerts`.
    /// Of detections at most [`MAX_DETECTIONS`] stay.
    ///
    /// Works in small transactions: alerts are written in between.
    pub fn forget(&self, detections: Duration, alerts: Duration) -> Result<(), StoreError> {
        let before = |age: Duration| nanos(Timestamp::now()).saturating_sub(age.as_nanos() as i64);
        for (age, sql) in [
            (
                detections,
                "DELETE FROM detections WHERE (camera, at, n) IN
                     (SELECT camera, at, n FROM detections WHERE at < ?1 ORDER BY at LIMIT 5000)",
            ),
            (
                alerts,
                "DELETE FROM alerts WHERE id IN (SELECT id FROM alerts
                     WHERE started_at < ?1 AND ended_at < ?1 ORDER BY started_at LIMIT 500)",
            ),
            (
                alerts,
                "DELETE FROM dead_letters WHERE row IN
                     (SELECT row FROM dead_letters WHERE given_up < ?1 LIMIT 500)",
            ),
            (
                detections,
                "DELETE FROM detection_counts WHERE (camera, span, at, class) IN
                     (SELECT camera, span, at, class FROM detection_counts
                      WHERE span IN (60000000000, 900000000000) AND at < ?1 LIMIT 5000)",
            ),
            (alerts, "DELETE FROM outbox WHERE row IN (SELECT row FROM outbox WHERE created < ?1 LIMIT 500)"),
            (alerts, "DELETE FROM tokens WHERE revoked < ?1 OR expires < ?1"),
        ] {
            while self.write(|db| db.prepare_cached(sql)?.execute([before(age)]))? > 0 {}
        }
        // Busy roads see millions a day; the newest are kept.
        let oldest = self.read(|db| {
            let sql = "SELECT at FROM detections ORDER BY at DESC LIMIT 1 OFFSET ?1";
            db.prepare_cached(sql)?.query_row([MAX_DETECTIONS], |row| row.get::<_, i64>(0)).optional()
        })?;
        if let Some(oldest) = oldest {
            let sql = "DELETE FROM detections WHERE (camera, at, n) IN
                           (SELECT camera, at, n FROM detections WHERE at <= ?1 ORDER BY at LIMIT 5000)";
            while self.write(|db| db.prepare_cached(sql)?.execute([oldest]))? > 0 {}
            // Counts by the minute are as many rows; those of longer spans are few, and outlive what they count.
            let sql = "DELETE FROM detection_counts WHERE (camera, span, at, class) IN
                           (SELECT camera, span, at, class FROM detection_counts
                            WHERE span = 60000000000 AND at <= ?1 LIMIT 5000)";
            while self.write(|db| db.prepare_cached(sql)?.execute([oldest]))? > 0 {}
        }
        Ok(())
    }

    /// Runs `change` in a transaction that is synced when this returns `Ok`.
    fn write<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        transact(&mut self.writer().durable, change).map_err(|error| explain(&self.path, error))
    }

    /// The same without the sync.
    fn log<T>(&self, change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        transact(&mut self.writer().log, change).map_err(|error| explain(&self.path, error))
    }

    fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        query(&self.reader()).map_err(|error| explain(&self.path, error))
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic inside a transaction has rolled it back: the connection is as good as before.
        self.writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        if let Some(idle) = self.readers.iter().find_map(|reader| reader.try_lock().ok()) {
            return idle;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % READERS;
        self.readers[turn].lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn transact<T>(
    db: &mut Connection,
    change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    // Immediate: a transaction that began as a reader cannot wait for another process's write.
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done = change(&transaction)?;
    transaction.commit()?;
    Ok(done)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(BUSY)?;
    db.pragma_update(None, "foreign_keys", true)?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

/// Says of a broken file which it is and what to do; other errors stay as they are.
fn explain(path: &Path, error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt(format!(
            "{path} is damaged ({error}); nothing was changed. Stop liuta, keep a copy, and restore a backup, or try \
             `sqlite3 {path} .recover`; moved away, a new one is made and recordings stay",
            path = path.display(),
        )),
        _ if is_full(&error) => StoreError::Full(path.display().to_string()),
        _ => StoreError::Sqlite(error),
    }
}

/// Whether it is for want of room; the index of a write-ahead log that cannot grow says so in its own way.
pub fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| {
        error.code == ErrorCode::DiskFull || error.extended_code == ffi::SQLITE_IOERR_SHMSIZE
    })
}

/// As times are stored: nanoseconds since the Unix epoch, which fit until the year 2262.
fn nanos(at: Timestamp) -> i64 {
    at.as_nanosecond().clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

fn timestamp(nanos: i64) -> Timestamp {
    // Every i64 of nanoseconds is within jiff's years.
    Timestamp::from_nanosecond(nanos.into()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A stored text that is not what was written: somebody else's hand.
fn unreadable(column: usize, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
}
