//! `index.db` of a volume: which segments there are, what is missing, what is pinned, and how complete each hour is.
//! Rebuilt from the files when it is lost; gaps and completeness before that cannot be, and pins are in the alerts.
//!
//! Sums that retention asks for every few seconds are kept beside the database, under the same lock.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, ffi, params};

use super::{GapCause, RecordError};
use crate::media::VIDEO_CLOCK;
use crate::store::{MigrationError, is_full, migrate};

/// SQL that leads from schema n to n + 1; entries that a release has shipped never change.
const MIGRATIONS: [&str; 2] = [include_str!("schema-1.sql"), include_str!("schema-2.sql")];

/// What an hour's row calls the time that was recorded; beside it stand the causes of gaps.
const RECORDED: &str = "recorded";

const HOUR_90K: i64 = 3600 * VIDEO_CLOCK;

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
    /// Its end on the ring's own clock (`super::clock`), which retention goes by.
    pub ring_90k: i64,
    /// Of its tracks' sample entries: where it is equal, one head serves. 0 where it is not known.
    pub entries: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Gap {
    pub start_90k: i64,
    pub end_90k: i64,
    pub cause: GapCause,
}

/// How much of an hour of a camera's main feed is recorded, or missing for one cause.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Hour {
    /// Hours since the Unix epoch.
    pub hour: i64,
    /// `None`: recorded.
    pub cause: Option<GapCause>,
    pub ticks: i64,
}

pub(super) struct Index {
    inner: Mutex<Inner>,
    path: PathBuf,
    /// Of the file when it was opened.
    inode: u64,
    /// How many of its changes are safe.
    synced: AtomicU64,
}

struct Inner {
    db: Connection,
    /// Bytes of sealed and unsealed rows.
    cameras: BTreeMap<String, u64>,
    pinned: u64,
}

type Result<T> = std::result::Result<T, rusqlite::Error>;

impl Index {
    /// Opens or creates the database. One that a newer liuta wrote is not touched; an older one is brought up, after a
    /// copy; a damaged one is moved aside and begun anew, for the recovery to fill: then the second value says where the
    /// old one lies.
    pub(super) fn open(path: &Path) -> std::result::Result<(Index, Option<PathBuf>), RecordError> {
        match Index::connect(path) {
            Err(RecordError::Index(error)) if is_damage(&error) => {
                // A disk that fails to read looks like damage. Only one that can be written gets a new index, so that the
                // old one is not given up for nothing.
                let trial = path.with_extension("db.new");
                drop(Index::connect(&trial)?);
                for made in [&trial].into_iter().chain(&side_files(&trial)) {
                    let _ = std::fs::remove_file(made);
                }
                let aside = Index::set_aside(path, "damaged")?;
                Ok((Index::connect(path)?, Some(aside)))
            }
            Err(RecordError::Index(error)) if is_full(&error) => {
                Err(RecordError::Other(format!("{}: the disk is full; make room on it", path.display())))
            }
            opened => Ok((opened?, None)),
        }
    }

    /// Makes the file again that somebody has removed, with all that was in it.
    pub(super) fn put_back(&self) -> std::result::Result<(), RecordError> {
        let inner = self.lock();
        let draft = self.path.with_extension("db.new");
        let _ = std::fs::remove_file(&draft);
        inner.db.execute("VACUUM INTO ?", [draft.to_string_lossy()])?;
        crate::owner::hand_over(&draft);
        // A log that is left would be taken for the new file's.
        side_files(&self.path).iter().for_each(|side| drop(std::fs::remove_file(side)));
        File::open(&draft)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(&draft, &self.path))
            .map_err(RecordError::io(&self.path))
    }

    /// Moves the database away, for a new one to be filled from the files.
    pub(super) fn set_aside(path: &Path, why: &str) -> std::result::Result<PathBuf, RecordError> {
        let aside = path.with_extension(format!("{why}-{}", jiff::Timestamp::now().as_second()));
        std::fs::rename(path, &aside).map_err(RecordError::io(path))?;
        for (from, to) in side_files(path).into_iter().zip(side_files(&aside)) {
            let _ = std::fs::rename(from, to);
        }
        Ok(aside)
    }

    fn connect(path: &Path) -> std::result::Result<Index, RecordError> {
        // SQLite gives its side files the mode of the database.
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path);
        let inode = file.and_then(|file| file.metadata()).map_err(RecordError::io(path))?.ino();
        crate::owner::hand_over(path);
        let mut db = Connection::open(path)?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        migrate(&mut db, path, &MIGRATIONS).map_err(|error| match error {
            MigrationError::Newer { found, known } => {
                RecordError::Newer { path: path.display().to_string(), found, known }
            }
            MigrationError::Sqlite(error) => RecordError::Index(error),
            MigrationError::Copy(error) => RecordError::Other(error.to_string()),
        })?;
        // The keeper syncs the log. What power loss takes from its end, the recovery finds in the files again.
        db.pragma_update(None, "synchronous", "NORMAL")?;
        let sound: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if sound != "ok" {
            let code = ffi::Error::new(ffi::SQLITE_CORRUPT);
            return Err(RecordError::Index(rusqlite::Error::SqliteFailure(code, Some(sound))));
        }
        Index::with(db, path, inode)
    }

    /// The database of a daemon that may be running, to be read.
    pub(super) fn read(path: &Path) -> std::result::Result<Index, RecordError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let inode = std::fs::metadata(path).map_err(RecordError::io(path))?.ino();
        let db = Connection::open_with_flags(path, flags)?;
        let (found, known) =
            (db.query_row("PRAGMA user_version", [], |row| row.get(0))?, MIGRATIONS.len() as u32);
        match u32::cmp(&found, &known) {
            std::cmp::Ordering::Greater => {
                return Err(RecordError::Newer { path: path.display().to_string(), found, known });
            }
            std::cmp::Ordering::Less => {
                let path = path.display();
                return Err(RecordError::Other(format!(
                    "{path} is of an older liuta: the daemon brings it up when it starts"
                )));
            }
            std::cmp::Ordering::Equal => {}
        }
        db.pragma_update(None, "query_only", true)?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        Index::with(db, path, inode)
    }

    fn with(db: Connection, path: &Path, inode: u64) -> std::result::Result<Index, RecordError> {
        let mut cameras = BTreeMap::new();
        {
            let mut sums = db.prepare("SELECT camera, SUM(bytes) FROM segments GROUP BY camera")?;
            let mut rows = sums.query([])?;
            while let Some(row) = rows.next()? {
                cameras.insert(row.get(0)?, row.get::<_, i64>(1)?.max(0) as u64);
            }
        }
        let inner = Inner { pinned: pinned(&db)?, db, cameras };
        Ok(Index { inner: Mutex::new(inner), path: path.to_owned(), inode, synced: AtomicU64::new(0) })
    }

    /// Whether the file is still the one that was opened.
    pub(super) fn is_there(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|file| file.ino() == self.inode)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Makes safe what has been committed by now. Apart from the commits, which then wait for no disk; the log alone
    /// holds what SQLite has not synced itself.
    pub(super) fn sync(&self) -> io::Result<()> {
        let changes = self.lock().db.total_changes();
        if self.synced.load(Ordering::Acquire) != changes {
            let [log, _] = side_files(&self.path);
            rustix::fs::fdatasync(File::open(log)?)?;
            self.synced.store(changes, Ordering::Release);
        }
        Ok(())
    }

    pub(super) fn put(&self, row: &Row) -> Result<()> {
        self.put_all(std::slice::from_ref(row))
    }

    /// Many in one transaction: the recovery of a lost index puts a day at once.
    pub(super) fn put_all(&self, rows: &[Row]) -> Result<()> {
        let mut inner = self.lock();
        let transaction = inner.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut changes = Vec::new();
        let mut is_pinned = false;
        for row in rows {
            let (before, pinned) = put(&transaction, row)?;
            is_pinned |= pinned;
            changes.push((row.camera.clone(), before, row.bytes));
        }
        transaction.commit()?;
        for (camera, before, bytes) in changes {
            let sum = inner.cameras.entry(camera).or_default();
            *sum = sum.saturating_sub(before) + bytes;
        }
        if is_pinned {
            inner.pinned = pinned(&inner.db)?;
        }
        Ok(())
    }

    /// Every segment, in no order.
    pub(super) fn all(&self) -> Result<Vec<Row>> {
        self.rows("", [])
    }

    pub(super) fn row(&self, path: &str) -> Result<Option<Row>> {
        Ok(self.rows("WHERE path = ?", [path])?.pop())
    }

    /// Segments that overlap the range, in no order; those still being written end at their start here.
    pub(super) fn segments(&self, camera: &str, stream: &str, from: i64, to: i64) -> Result<Vec<Row>> {
        // Each of the three is a short walk along an index, however long the ring.
        self.rows(
            "WHERE path IN (
                SELECT path FROM segments WHERE camera = ?1 AND stream = ?2 AND start_90k >= ?3 - 324000000
                    AND start_90k < ?4 AND end_90k > ?3
                UNION SELECT path FROM segments WHERE camera = ?1 AND stream = ?2 AND end_90k > ?3
                    AND end_90k - start_90k > 324000000 AND start_90k < ?4
                UNION SELECT path FROM segments WHERE camera = ?1 AND stream = ?2 AND NOT sealed AND start_90k < ?4)",
            params![camera, stream, from, to],
        )
    }

    /// Starts and ends of those that overlap the range, in no order, from an index alone. Those still being written have
    /// no length here.
    pub(super) fn spans(
        &self,
        camera: &str,
        stream: &str,
        from: i64,
        to: i64,
        mut each: impl FnMut(i64, i64),
    ) -> Result<()> {
        let inner = self.lock();
        let mut statement = inner.db.prepare_cached(
            "SELECT start_90k, end_90k FROM segments WHERE camera = ?1 AND stream = ?2
                AND start_90k >= ?3 - 324000000 AND start_90k < ?4 AND end_90k > ?3
            UNION ALL SELECT start_90k, end_90k FROM segments WHERE camera = ?1 AND stream = ?2 AND end_90k > ?3
                AND end_90k - start_90k > 324000000 AND start_90k < ?3 - 324000000",
        )?;
        let mut rows = statement.query(params![camera, stream, from, to])?;
        while let Some(row) = rows.next()? {
            each(row.get(0)?, row.get(1)?);
        }
        Ok(())
    }

    /// Where the newest segment ends that begins no later than an instant, and where the next one begins.
    pub(super) fn neighbours(
        &self,
        camera: &str,
        stream: &str,
        at: i64,
    ) -> Result<(Option<i64>, Option<i64>)> {
        let inner = self.lock();
        let find = |sql| {
            inner.db.prepare_cached(sql)?.query_row(params![camera, stream, at], |row| row.get(0)).optional()
        };
        let before = find(
            "SELECT end_90k FROM segments WHERE camera = ?1 AND stream = ?2 AND start_90k <= ?3
             ORDER BY start_90k DESC LIMIT 1",
        )?;
        let after = find(
            "SELECT start_90k FROM segments WHERE camera = ?1 AND stream = ?2 AND start_90k > ?3
             ORDER BY start_90k LIMIT 1",
        )?;
        Ok((before, after))
    }

    pub(super) fn oldest_unpinned(&self, limit: u32) -> Result<Vec<Row>> {
        self.rows("WHERE pinned = 0 AND sealed ORDER BY ring_90k LIMIT ?", [limit])
    }

    pub(super) fn oldest_unpinned_of(&self, camera: &str, limit: u32) -> Result<Vec<Row>> {
        let of = "WHERE camera = ? AND sealed AND NOT pinned ORDER BY ring_90k LIMIT ?";
        self.rows(of, params![camera, limit])
    }

    /// The next folder in the order of names, behind `after`, that a sealed segment should lie in, and all that should.
    pub(super) fn next_folder(&self, after: &str) -> Result<Option<(String, Vec<Row>)>> {
        let next = self.rows("WHERE path > ? AND sealed ORDER BY path LIMIT 1", [after])?.pop();
        let Some(folder) = next.as_ref().and_then(|row| row.path.rsplit_once('/')).map(|(folder, _)| folder)
        else {
            return Ok(None);
        };
        // `0` follows `/`.
        let rows = self.rows("WHERE path > ?1 || '/' AND path < ?1 || '0' AND sealed", [folder])?;
        Ok(Some((folder.to_owned(), rows)))
    }

    fn rows(&self, which: &str, args: impl rusqlite::Params) -> Result<Vec<Row>> {
        let inner = self.lock();
        let sql = format!(
            "SELECT path, camera, stream, start_90k, end_90k, bytes, sealed, ring_90k, entries FROM segments {which}"
        );
        let mut statement = inner.db.prepare_cached(&sql)?;
        let rows = statement.query_map(args, |row| {
            Ok(Row {
                path: row.get(0)?,
                camera: row.get(1)?,
                stream: row.get(2)?,
                start_90k: row.get(3)?,
                end_90k: row.get(4)?,
                bytes: row.get::<_, i64>(5)?.max(0) as u64,
                sealed: row.get(6)?,
                ring_90k: row.get(7)?,
                entries: row.get(8)?,
            })
        })?;
        rows.collect()
    }

    pub(super) fn remove<'a>(&self, paths: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let mut inner = self.lock();
        let transaction = inner.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (mut gone, mut was_pinned) = (Vec::new(), false);
        for path in paths {
            let mut remove = transaction
                .prepare_cached("DELETE FROM segments WHERE path = ? RETURNING camera, bytes, pinned")?;
            let removed: Option<(String, i64, bool)> =
                remove.query_row([path], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
            if let Some((camera, bytes, pinned)) = removed {
                was_pinned |= pinned;
                gone.push((camera, bytes.max(0) as u64));
            }
        }
        transaction.commit()?;
        for (camera, bytes) in gone {
            let sum = inner.cameras.entry(camera).or_default();
            *sum = sum.saturating_sub(bytes);
        }
        if was_pinned {
            inner.pinned = pinned(&inner.db)?;
        }
        Ok(())
    }

    /// Files that somebody else has removed: what they held is missing now.
    pub(super) fn lose(&self, rows: &[Row]) -> Result<()> {
        for row in rows.iter().filter(|row| row.sealed) {
            let gap = Gap { start_90k: row.start_90k, end_90k: row.end_90k, cause: GapCause::Disk };
            self.put_gap(&row.camera, &row.stream, &gap)?;
            let inner = self.lock();
            account(&inner.db, &row.camera, &row.stream, RECORDED, row.start_90k..row.end_90k, -1)?;
        }
        self.remove(rows.iter().map(|row| &*row.path))
    }

    pub(super) fn total_bytes(&self) -> u64 {
        self.lock().cameras.values().sum()
    }

    /// Of segments that evidence needs.
    pub(super) fn pinned_bytes(&self) -> u64 {
        self.lock().pinned
    }

    pub(super) fn bytes_of(&self, camera: &str) -> u64 {
        self.lock().cameras.get(camera).copied().unwrap_or(0)
    }

    /// Whoever has footage here, configured or not.
    pub(super) fn cameras(&self) -> Vec<String> {
        let inner = self.lock();
        inner.cameras.iter().filter(|(_, bytes)| **bytes > 0).map(|(camera, _)| camera.clone()).collect()
    }

    /// The ring's clock at the end of the oldest footage that is no evidence.
    pub(super) fn oldest(&self) -> Result<Option<i64>> {
        let sql = "SELECT ring_90k FROM segments WHERE pinned = 0 ORDER BY ring_90k LIMIT 1";
        self.lock().db.query_row(sql, [], |row| row.get(0)).optional()
    }

    /// Where a stream's recording or its last known gap ends, and the cause where it was a gap.
    pub(super) fn last_end(&self, camera: &str, stream: &str) -> Result<Option<(i64, Option<GapCause>)>> {
        let inner = self.lock();
        let recorded: Option<i64> = inner
            .db
            .prepare_cached(
                "SELECT end_90k FROM segments WHERE camera = ? AND stream = ? ORDER BY start_90k DESC LIMIT 1",
            )?
            .query_row([camera, stream], |row| row.get(0))
            .optional()?;
        let missing: Option<(i64, String)> = inner
            .db
            .prepare_cached(
                "SELECT end_90k, cause FROM gaps WHERE camera = ? AND stream = ? ORDER BY start_90k DESC LIMIT 1",
            )?
            .query_row([camera, stream], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        Ok(match (recorded, missing) {
            (recorded, Some((end, cause))) if recorded.is_none_or(|recorded| recorded <= end) => {
                Some((end, Some(GapCause::from_str(&cause))))
            }
            (recorded, _) => recorded.map(|end| (end, None)),
        })
    }

    /// Where what is known of a stream before then ends: recorded or missing.
    pub(super) fn last_end_before(&self, camera: &str, stream: &str, start_90k: i64) -> Result<Option<i64>> {
        let newest = |table| {
            format!(
                "SELECT MAX(end_90k) AS end FROM (SELECT end_90k FROM {table}
                WHERE camera = ?1 AND stream = ?2 AND start_90k < ?3 ORDER BY start_90k DESC LIMIT 2)"
            )
        };
        let sql = format!("SELECT MAX(end) FROM ({} UNION ALL {})", newest("segments"), newest("gaps"));
        let inner = self.lock();
        let mut statement = inner.db.prepare_cached(&sql)?;
        statement.query_row(params![camera, stream, start_90k], |row| row.get(0))
    }

    /// The gap that begins there, now known to last until its end.
    pub(super) fn put_gap(&self, camera: &str, stream: &str, gap: &Gap) -> Result<()> {
        let mut inner = self.lock();
        let db = inner.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let old: Option<(i64, String)> = db
            .prepare_cached(
                "SELECT end_90k, cause FROM gaps WHERE camera = ? AND stream = ? AND start_90k = ?",
            )?
            .query_row(params![camera, stream, gap.start_90k], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let cause = gap.cause.as_str();
        if let Some((end, cause)) = old {
            account(&db, camera, stream, &cause, gap.start_90k..end, -1)?;
        }
        // Of time that has not been nothing is missing.
        if gap.cause != GapCause::Clock {
            account(&db, camera, stream, cause, gap.start_90k..gap.end_90k, 1)?;
        }
        db.prepare_cached("INSERT OR REPLACE INTO gaps VALUES (?, ?, ?, ?, ?)")?.execute(params![
            camera,
            stream,
            gap.start_90k,
            gap.end_90k,
            cause
        ])?;
        db.commit()
    }

    pub(super) fn gaps(&self, camera: &str, stream: &str, from: i64, to: i64) -> Result<Vec<Gap>> {
        let inner = self.lock();
        let mut statement = inner.db.prepare_cached(
            "SELECT start_90k, end_90k, cause FROM gaps
            WHERE camera = ?1 AND stream = ?2 AND end_90k > ?3 AND start_90k < ?4 ORDER BY start_90k",
        )?;
        let gaps = statement.query_map(params![camera, stream, from, to], |row| {
            let cause: String = row.get(2)?;
            Ok(Gap { start_90k: row.get(0)?, end_90k: row.get(1)?, cause: GapCause::from_str(&cause) })
        })?;
        gaps.collect()
    }

    /// What is known of the hours of a camera's stream, oldest first.
    pub(super) fn hours(&self, camera: &str, stream: &str, hours: &Range<i64>) -> Result<Vec<Hour>> {
        let inner = self.lock();
        let mut statement = inner.db.prepare_cached(
            "SELECT hour, cause, ticks FROM hours
            WHERE camera = ? AND stream = ? AND hour >= ? AND hour < ? ORDER BY hour",
        )?;
        let hours = statement.query_map(params![camera, stream, hours.start, hours.end], |row| {
            let cause: String = row.get(1)?;
            let cause = (cause != RECORDED).then(|| GapCause::from_str(&cause));
            Ok(Hour { hour: row.get(0)?, cause, ticks: row.get(2)? })
        })?;
        hours.collect()
    }

    /// Widens the pin of the alert, or makes it. `ring_90k`: its end, on the ring's clock.
    pub(super) fn pin(&self, alert: &str, camera: &str, start: i64, end: i64, ring_90k: i64) -> Result<()> {
        let mut inner = self.lock();
        let db = inner.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        db.execute(
            "INSERT INTO pins (alert, camera, start_90k, end_90k, ring_90k) VALUES (?, ?, ?, ?, ?)
            ON CONFLICT DO UPDATE SET start_90k = MIN(start_90k, excluded.start_90k),
                end_90k = MAX(end_90k, excluded.end_90k), ring_90k = MAX(ring_90k, excluded.ring_90k)",
            params![alert, camera, start, end, ring_90k],
        )?;
        let pinned_now = db.execute(
            "UPDATE segments SET pinned = 1 WHERE NOT pinned AND camera = ?1 AND start_90k < ?3 AND end_90k > ?2",
            params![camera, start, end],
        )?;
        db.commit()?;
        if pinned_now > 0 {
            inner.pinned = pinned(&inner.db)?;
        }
        Ok(())
    }

    pub(super) fn has_pins(&self) -> Result<bool> {
        self.lock().db.query_row("SELECT EXISTS (SELECT 1 FROM pins)", [], |row| row.get(0))
    }

    /// Takes over what an index at `old` knows and the files do not: gaps, pins, hours, and when footage was recorded by
    /// the ring's clock. What of it cannot be read is said.
    pub(super) fn carry(&self, old: &Path) -> Result<()> {
        const STEPS: [(&str, &str); 5] = [
            (
                "the age of footage",
                "UPDATE segments SET ring_90k = was.ring_90k FROM old.segments AS was WHERE was.path = segments.path",
            ),
            ("gaps", "INSERT OR REPLACE INTO gaps SELECT * FROM old.gaps"),
            ("pins", "INSERT OR REPLACE INTO pins SELECT * FROM old.pins"),
            (
                "hours",
                "INSERT INTO hours SELECT * FROM old.hours WHERE TRUE
                    ON CONFLICT DO UPDATE SET ticks = MAX(ticks, excluded.ticks)",
            ),
            ("the clock", "INSERT INTO clock SELECT * FROM old.clock WHERE NOT EXISTS (SELECT 1 FROM clock)"),
        ];
        let mut inner = self.lock();
        inner.db.execute("ATTACH ? AS old", [old.to_string_lossy()])?;
        for (what, sql) in STEPS {
            if let Err(error) = inner.db.execute(sql, []) {
                tracing::error!("{}: {what} cannot be read and is lost: {error}", old.display());
            }
        }
        let marked = inner.db.execute(
            "UPDATE segments SET pinned = 1 WHERE EXISTS (SELECT 1 FROM pins WHERE pins.camera = segments.camera
                AND pins.start_90k < segments.end_90k AND pins.end_90k > segments.start_90k)",
            [],
        );
        inner.db.execute_batch("DETACH old")?;
        inner.pinned = pinned(&inner.db)?;
        marked.map(drop)
    }

    /// Lets the oldest pin go; false where there is none.
    pub(super) fn unpin_oldest(&self) -> Result<bool> {
        self.unpin("(camera, alert) IN (SELECT camera, alert FROM pins ORDER BY ring_90k LIMIT 1)", [])
    }

    /// Forgets pins that ended before `pins` on the ring's clock, and gaps that ended before `gaps` on the
    /// box's. What is told of hours lasts longer than both.
    pub(super) fn forget(&self, pins: i64, gaps: i64, hours: i64) -> Result<()> {
        self.unpin("ring_90k < ?", [pins])?;
        let inner = self.lock();
        inner.db.prepare_cached("DELETE FROM gaps WHERE end_90k < ?")?.execute([gaps])?;
        inner.db.prepare_cached("DELETE FROM hours WHERE hour < ?")?.execute([hours])?;
        Ok(())
    }

    fn unpin(&self, which: &str, args: impl rusqlite::Params) -> Result<bool> {
        let mut inner = self.lock();
        let db = inner.db.transaction_with_behavior(TransactionBehavior::Deferred)?;
        let gone = db.execute(&format!("DELETE FROM pins WHERE {which}"), args)?;
        if gone > 0 {
            db.execute(
                "UPDATE segments SET pinned = 0 WHERE pinned = 1 AND NOT EXISTS (SELECT 1 FROM pins
                    WHERE pins.camera = segments.camera AND pins.start_90k < segments.end_90k
                    AND pins.end_90k > segments.start_90k)",
                [],
            )?;
        }
        db.commit()?;
        if gone > 0 {
            inner.pinned = pinned(&inner.db)?;
        }
        Ok(gone > 0)
    }

    /// The ring's clock and the box's, when they were last noted.
    pub(super) fn clock(&self) -> Result<Option<(i64, i64)>> {
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        self.lock().db.query_row("SELECT ring_90k, wall_90k FROM clock", [], read).optional()
    }

    pub(super) fn put_clock(&self, ring_90k: i64, wall_90k: i64) -> Result<()> {
        let inner = self.lock();
        inner.db.execute_batch(&format!(
            "BEGIN; DELETE FROM clock; INSERT INTO clock VALUES ({ring_90k}, {wall_90k}); COMMIT"
        ))
    }
}

/// Gives back the bytes that were known before, and whether it is evidence.
fn put(db: &Transaction<'_>, row: &Row) -> Result<(u64, bool)> {
    let old: Option<(i64, bool)> = db
        .prepare_cached("SELECT bytes, sealed FROM segments WHERE path = ?")?
        .query_row([&row.path], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (before, was_sealed) = old.unwrap_or((0, false));
    if row.sealed && !was_sealed {
        account(db, &row.camera, &row.stream, RECORDED, row.start_90k..row.end_90k, 1)?;
    }
    let mut put = db.prepare_cached(
        "INSERT OR REPLACE INTO segments
            (path, camera, stream, start_90k, end_90k, bytes, sealed, ring_90k, entries, pinned)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, EXISTS (SELECT 1 FROM pins
            WHERE camera = ?2 AND start_90k < ?5 AND end_90k > ?4))
        RETURNING pinned",
    )?;
    let Row { path, camera, stream, start_90k, end_90k, bytes, sealed, ring_90k, entries } = row;
    let bytes = *bytes as i64;
    let row = params![path, camera, stream, start_90k, end_90k, bytes, sealed, ring_90k, entries];
    Ok((before.max(0) as u64, put.query_row(row, |row| row.get(0))?))
}

fn pinned(db: &Connection) -> Result<u64> {
    let sum = "SELECT COALESCE(SUM(bytes), 0) FROM segments WHERE pinned = 1";
    Ok(db.prepare_cached(sum)?.query_row([], |row| row.get::<_, i64>(0))?.max(0) as u64)
}

/// Adds a range, or with -1 takes it, to the hours that it touches.
fn account(
    db: &Connection,
    camera: &str,
    stream: &str,
    cause: &str,
    range: Range<i64>,
    sign: i64,
) -> Result<()> {
    /// A range that no clock has made costs no more rows than this: about a year.
    const MOST_HOURS: i64 = 10_000;
    let mut add = db.prepare_cached(
        "INSERT INTO hours VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET ticks = ticks + excluded.ticks",
    )?;
    let mut at = range.start.max(range.end.saturating_sub(MOST_HOURS * HOUR_90K));
    while at < range.end {
        let hour = at.div_euclid(HOUR_90K);
        let until = range.end.min((hour + 1) * HOUR_90K);
        add.execute(params![camera, stream, hour, cause, sign * (until - at)])?;
        at = until;
    }
    Ok(())
}

/// The write-ahead log of a database, and the log's index.
fn side_files(path: &Path) -> [PathBuf; 2] {
    ["-wal", "-shm"].map(|side| {
        let mut name = path.as_os_str().to_owned();
        name.push(side);
        name.into()
    })
}

/// Whether the database itself is broken: then it is rebuilt from the files.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_index_is_brought_up_after_a_copy_and_keeps_its_pins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(MIGRATIONS[0]).unwrap();
        db.execute_batch(
            "PRAGMA user_version = 1;
            INSERT INTO segments VALUES ('a', 'gate', 'main', 100, 200, 5, 1), ('b', 'gate', 'main', 200, 300, 7, 1);
            INSERT INTO pins VALUES ('01A', 'gate', 250, 260);",
        )
        .unwrap();
        drop(db);
        let (index, damaged) = Index::open(&path).unwrap();
        assert_eq!(damaged, None);
        assert_eq!((index.total_bytes(), index.pinned_bytes()), (12, 7));
        let oldest = index.oldest_unpinned(9).unwrap();
        assert_eq!(oldest.iter().map(|row| (&*row.path, row.ring_90k)).collect::<Vec<_>>(), [("a", 200)]);
        let copy = Connection::open(folder.path().join("index.db.v1")).unwrap();
        assert_eq!(
            copy.query_row("SELECT COUNT(*) FROM segments", [], |row| row.get::<_, i64>(0)).unwrap(),
            2
        );
    }

    #[test]
    fn hours_tell_what_is_recorded_and_missing_however_often_it_is_put() {
        let folder = tempfile::tempdir().unwrap();
        let (index, _) = Index::open(&folder.path().join("index.db")).unwrap();
        let row = |end_90k, sealed| Row {
            path: "a".into(),
            camera: "gate".into(),
            stream: "main".into(),
            start_90k: HOUR_90K - 50,
            end_90k,
            bytes: 1,
            sealed,
            ring_90k: end_90k,
            entries: 0,
        };
        for (end, sealed) in [(HOUR_90K, false), (HOUR_90K + 70, true), (HOUR_90K + 70, true)] {
            index.put(&row(end, sealed)).unwrap();
        }
        // A running gap is lengthened, and ends earlier than was thought.
        for end in [HOUR_90K + 100, HOUR_90K + 300, HOUR_90K + 200] {
            let gap = Gap { start_90k: HOUR_90K + 70, end_90k: end, cause: GapCause::Camera };
            index.put_gap("gate", "main", &gap).unwrap();
        }
        let told = || index.hours("gate", "main", &(0..9)).unwrap();
        let hour = |hour, cause, ticks| Hour { hour, cause, ticks };
        let camera = hour(1, Some(GapCause::Camera), 130);
        assert_eq!(told(), [hour(0, None, 50), camera.clone(), hour(1, None, 70)]);
        // A file that somebody removed is missing after all.
        index.lose(&[row(HOUR_90K + 70, true)]).unwrap();
        let lost = hour(0, Some(GapCause::Disk), 50);
        let still = told().into_iter().filter(|hour| hour.ticks > 0).collect::<Vec<_>>();
        assert_eq!(still, [lost, camera, hour(1, Some(GapCause::Disk), 70)]);
    }
}
