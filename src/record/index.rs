//! `index.db`: which segments there are, what is missing, and what evidence is pinned. Rebuilt from the files when it
//! is lost; only pins cannot be.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::{GapCause, RecordError};
use crate::store::is_full;

const SCHEMA: u32 = 1;

const TABLES: &str = "
    CREATE TABLE segments (
        path TEXT PRIMARY KEY, camera TEXT NOT NULL, stream TEXT NOT NULL,
        start_90k INTEGER NOT NULL, end_90k INTEGER NOT NULL, bytes INTEGER NOT NULL, sealed INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX segments_by_time ON segments (camera, stream, start_90k);
    CREATE INDEX segments_by_age ON segments (end_90k);
    CREATE TABLE gaps (
        camera TEXT NOT NULL, stream TEXT NOT NULL, start_90k INTEGER NOT NULL, end_90k INTEGER NOT NULL,
        cause TEXT NOT NULL, PRIMARY KEY (camera, stream, start_90k)
    ) WITHOUT ROWID;
    CREATE TABLE pins (
        alert TEXT NOT NULL, camera TEXT NOT NULL, start_90k INTEGER NOT NULL, end_90k INTEGER NOT NULL,
        PRIMARY KEY (camera, alert)
    ) WITHOUT ROWID;";

const UNPINNED: &str = "NOT EXISTS (SELECT 1 FROM pins
    WHERE pins.camera = segments.camera AND pins.start_90k < segments.end_90k AND pins.end_90k > segments.start_90k)";

/// A segment as the index knows it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// Below `recordings/`.
    pub path: String,
    pub camera: String,
    pub stream: String,
    pub start_90k: i64,
    pub end_90k: i64,
    pub bytes: u64,
    /// Whole and synced; never written again.
    pub sealed: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Gap {
    pub start_90k: i64,
    pub end_90k: i64,
    pub cause: GapCause,
}

pub(super) struct Index(Mutex<Connection>);

type Result<T> = std::result::Result<T, rusqlite::Error>;

impl Index {
    /// Opens or creates the database. One that a newer liuta wrote is not touched; a damaged one is moved aside and
    /// begun anew, for the recovery to fill: then the second value says where the old one lies.
    pub(super) fn open(path: &Path) -> std::result::Result<(Index, Option<String>), RecordError> {
        match connect(path) {
            Ok(connection) => Ok((Index(Mutex::new(connection)), None)),
            Err(RecordError::Index(error)) if is_damage(&error) => {
                let aside = path.with_extension(format!("damaged-{}", jiff::Timestamp::now().as_second()));
                std::fs::rename(path, &aside).map_err(RecordError::io(path))?;
                for side in ["db-wal", "db-shm"] {
                    let _ = std::fs::remove_file(path.with_extension(side));
                }
                Ok((Index(Mutex::new(connect(path)?)), Some(aside.display().to_string())))
            }
            Err(RecordError::Index(error)) if is_full(&error) => {
                Err(RecordError::Other(format!("{}: the disk is full; make room on it", path.display())))
            }
            Err(error) => Err(error),
        }
    }

    /// The database of a daemon that may be running, to be read.
    pub(super) fn read(path: &Path) -> std::result::Result<Index, RecordError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags)?;
        let found: u32 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if found != SCHEMA {
            return Err(RecordError::Newer { path: path.display().to_string(), found, known: SCHEMA });
        }
        db.pragma_update(None, "query_only", true)?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        Ok(Index(Mutex::new(db)))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn put(&self, row: &Row) -> Result<()> {
        let db = self.lock();
        let mut put = db.prepare_cached("INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?, ?, ?)")?;
        let Row { path, camera, stream, start_90k, end_90k, bytes, sealed } = row;
        put.execute(params![path, camera, stream, start_90k, end_90k, *bytes as i64, sealed])?;
        Ok(())
    }

    /// Every segment, in no order.
    pub(super) fn all(&self) -> Result<Vec<Row>> {
        self.rows("SELECT * FROM segments", [])
    }

    /// Segments that overlap the range, oldest first; those still being written end at their start here.
    pub(super) fn segments(&self, camera: &str, stream: &str, from: i64, to: i64) -> Result<Vec<Row>> {
        let sql = "SELECT * FROM segments WHERE camera = ?1 AND stream = ?2 AND start_90k < ?4
            AND (end_90k > ?3 OR NOT sealed) ORDER BY start_90k";
        self.rows(sql, params![camera, stream, from, to])
    }

    pub(super) fn oldest_unpinned(&self, limit: u32) -> Result<Vec<Row>> {
        let sql = format!("SELECT * FROM segments WHERE sealed AND {UNPINNED} ORDER BY end_90k LIMIT ?");
        self.rows(&sql, [limit])
    }

    /// Pinned or not, that ended before `before`.
    pub(super) fn oldest(&self, before: i64, limit: u32) -> Result<Vec<Row>> {
        self.rows(
            "SELECT * FROM segments WHERE sealed AND end_90k < ? ORDER BY end_90k LIMIT ?",
            params![before, limit],
        )
    }

    fn rows(&self, sql: &str, args: impl rusqlite::Params) -> Result<Vec<Row>> {
        let db = self.lock();
        let mut statement = db.prepare_cached(sql)?;
        let rows = statement.query_map(args, |row| {
            Ok(Row {
                path: row.get(0)?,
                camera: row.get(1)?,
                stream: row.get(2)?,
                start_90k: row.get(3)?,
                end_90k: row.get(4)?,
                bytes: row.get::<_, i64>(5)?.max(0) as u64,
                sealed: row.get(6)?,
            })
        })?;
        rows.collect()
    }

    pub(super) fn remove<'a>(&self, paths: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let mut db = self.lock();
        let transaction = db.transaction()?;
        for path in paths {
            transaction.prepare_cached("DELETE FROM segments WHERE path = ?")?.execute([path])?;
        }
        transaction.commit()
    }

    pub(super) fn total_bytes(&self) -> Result<u64> {
        let total =
            self.lock().query_row("SELECT COALESCE(SUM(bytes), 0) FROM segments", [], |row| row.get(0));
        total.map(|total: i64| total.max(0) as u64)
    }

    pub(super) fn oldest_start(&self) -> Result<Option<i64>> {
        self.lock().query_row("SELECT MIN(start_90k) FROM segments", [], |row| row.get(0))
    }

    /// Where a stream's recording or its last known gap ends.
    pub(super) fn last_end(&self, camera: &str, stream: &str) -> Result<Option<i64>> {
        let sql = "SELECT MAX(end_90k) FROM (SELECT end_90k FROM segments WHERE camera = ?1 AND stream = ?2
            UNION ALL SELECT end_90k FROM gaps WHERE camera = ?1 AND stream = ?2)";
        self.lock().query_row(sql, [camera, stream], |row| row.get(0))
    }

    /// The gap that begins there, now known to last until its end.
    pub(super) fn put_gap(&self, camera: &str, stream: &str, gap: &Gap) -> Result<()> {
        let db = self.lock();
        let mut put = db.prepare_cached("INSERT OR REPLACE INTO gaps VALUES (?, ?, ?, ?, ?)")?;
        put.execute(params![camera, stream, gap.start_90k, gap.end_90k, gap.cause.as_str()])?;
        Ok(())
    }

    pub(super) fn gaps(&self, camera: &str, stream: &str, from: i64, to: i64) -> Result<Vec<Gap>> {
        let db = self.lock();
        let mut statement = db.prepare_cached(
            "SELECT start_90k, end_90k, cause FROM gaps
            WHERE camera = ?1 AND stream = ?2 AND end_90k > ?3 AND start_90k < ?4 ORDER BY start_90k",
        )?;
        let gaps = statement.query_map(params![camera, stream, from, to], |row| {
            let cause: String = row.get(2)?;
            Ok(Gap { start_90k: row.get(0)?, end_90k: row.get(1)?, cause: GapCause::from_str(&cause) })
        })?;
        gaps.collect()
    }

    pub(super) fn last_gap_cause(&self, camera: &str, stream: &str, end: i64) -> Result<Option<GapCause>> {
        let sql = "SELECT cause FROM gaps WHERE camera = ? AND stream = ? AND end_90k = ?";
        let found = self.lock().query_row(sql, params![camera, stream, end], |row| row.get(0)).optional()?;
        Ok(found.map(|cause: String| GapCause::from_str(&cause)))
    }

    /// Widens the pin of the alert, or makes it.
    pub(super) fn pin(&self, alert: &str, camera: &str, start: i64, end: i64) -> Result<()> {
        let sql = "INSERT INTO pins VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET
            start_90k = MIN(start_90k, excluded.start_90k), end_90k = MAX(end_90k, excluded.end_90k)";
        self.lock().execute(sql, params![alert, camera, start, end])?;
        Ok(())
    }

    /// Forgets pins that ended before `pins` and gaps that ended before `gaps`.
    pub(super) fn forget(&self, pins: i64, gaps: i64) -> Result<()> {
        let db = self.lock();
        db.execute("DELETE FROM pins WHERE end_90k < ?", [pins])?;
        db.execute("DELETE FROM gaps WHERE end_90k < ?", [gaps])?;
        Ok(())
    }

    /// Runs `fill` in one transaction: the recovery of a lost index puts many rows.
    pub(super) fn put_all(&self, rows: &[Row]) -> Result<()> {
        self.lock().execute_batch("BEGIN")?;
        let done = rows.iter().try_for_each(|row| self.put(row));
        self.lock().execute_batch(if done.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
        done
    }
}

fn connect(path: &Path) -> std::result::Result<Connection, RecordError> {
    // SQLite gives its side files the mode of the database.
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path);
    file.map_err(RecordError::io(path))?;
    crate::owner::hand_over(path);
    let db = Connection::open(path)?;
    let found: u32 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > SCHEMA {
        return Err(RecordError::Newer { path: path.display().to_string(), found, known: SCHEMA });
    }
    db.pragma_update(None, "journal_mode", "WAL")?;
    // What power loss takes from the end of the log, the recovery finds in the files again.
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.busy_timeout(std::time::Duration::from_secs(5))?;
    if found == 0 {
        db.execute_batch(&format!("BEGIN; {TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;"))?;
    }
    Ok(db)
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}
