//! The audit trail: rows that each seal the one before, so that a change of any of them shows.
//!
//! What is worth a row is decided by `access::audit`. Rows are written in the transaction of the change that they tell
//! of, where that change is one of this database.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use sha2::{Digest, Sha256};

use super::page::Window;
use super::{Filter, Page, Store, StoreError, nanos, timestamp};

type Hash = [u8; 32];

/// Rows that one transaction prunes.
const PRUNED_AT_ONCE: u32 = 5_000;

/// The action of the row that pruning leaves: whoever cuts rows off by hand leaves none, or one that tells when.
const PRUNE: &str = "prune";

/// Before the time in that row.
const LAST_WRITTEN: &str = "the last was written at ";

/// A deed, to be written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    pub who: String,
    /// Where from; empty where there is no such place.
    pub address: String,
    pub action: &'static str,
    pub object: String,
    pub detail: String,
}

/// A row of the trail.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct AuditRow {
    pub seq: i64,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// A person's name, `token ID`, `anonymous`, `link`, `system`, or `command line, uid N`.
    pub who: String,
    pub address: String,
    pub action: String,
    /// `camera/gate-1`, `user/li`, `token/01J…`, …
    pub object: String,
    pub detail: String,
}

/// Which rows.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    pub who: Option<String>,
    pub action: Option<String>,
    pub object: Option<String>,
    /// Range, cursor and limit; cameras count for nothing here.
    pub page: Filter,
}

/// What a walk along the chain has found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct AuditState {
    pub rows: u64,
    /// The newest row's number and hash in hex. Kept elsewhere, they prove later that nothing was cut off.
    pub newest: i64,
    pub hash: String,
    /// The oldest row that is left.
    pub oldest: Option<Oldest>,
    /// What retention has taken.
    pub pruned: Option<Pruned>,
    pub broken: Option<Broken>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[schema(as = OldestAuditRow)]
pub struct Oldest {
    pub seq: i64,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

/// The last row that retention has taken, as the trail tells it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[schema(as = PrunedAuditRows)]
pub struct Pruned {
    pub seq: i64,
    /// When it was written.
    #[schema(value_type = String, format = DateTime)]
    pub written: Timestamp,
    /// When it was taken.
    #[schema(value_type = String, format = DateTime)]
    pub taken: Timestamp,
}

/// The first row that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[schema(as = BrokenAuditRow)]
pub struct Broken {
    pub seq: i64,
    pub why: &'static str,
}

impl Store {
    /// Writes rows that tell of nothing else in this database.
    pub fn append_audit(&self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        self.write(|db| entries.iter().try_for_each(|entry| append(db, entry)))
    }

    /// Newest first.
    pub fn audit(&self, filter: &AuditFilter) -> Result<Page<AuditRow>, StoreError> {
        let window = Window::<i64>::of(&filter.page)?;
        let rows: Vec<AuditRow> = self.read(|db| {
            db.prepare_cached(
                "SELECT seq, at, who, address, action, object, detail, hash FROM audit
                 WHERE seq < ?1 AND at >= ?2 AND at < ?3 AND (?4 IS NULL OR who = ?4)
                     AND (?5 IS NULL OR action = ?5) AND (?6 IS NULL OR object = ?6)
                 ORDER BY seq DESC LIMIT ?7",
            )?
            .query_map(
                (
                    window.after.unwrap_or(i64::MAX),
                    window.from,
                    window.until,
                    &filter.who,
                    &filter.action,
                    &filter.object,
                    window.limit as i64 + 1,
                ),
                |row| Ok(read(row)?.0),
            )?
            .collect()
        })?;
        Ok(Page::of(rows.into_iter().map(|row| (row.seq, row)).collect(), window.limit))
    }

    /// Walks the whole chain.
    pub fn verify_audit(&self) -> Result<AuditState, StoreError> {
        // One transaction sees one state, whatever is written meanwhile.
        self.read(|db| {
            let view = db.unchecked_transaction()?;
            let (first, mut hash) = end(&view, "pruned")?;
            let (newest, newest_hash) = end(&view, "newest")?;
            let (mut seq, mut rows) = (first, 0);
            let (mut oldest, mut pruned, mut broken) = (None, None, None);
            let mut statement = view.prepare_cached(
                "SELECT seq, at, who, address, action, object, detail, hash FROM audit ORDER BY seq",
            )?;
            let mut found = statement.query([])?;
            while let Some(row) = found.next()? {
                if row.get::<_, i64>(0)? != seq + 1 {
                    broken = Some(Broken { seq: seq + 1, why: "it is missing" });
                    break;
                }
                seq += 1;
                // What cannot even be read was not written here.
                let sealed = read(row).ok().filter(|(row, written)| *written == seal_of(&hash, row));
                let Some((row, written)) = sealed else {
                    broken = Some(Broken { seq, why: "it or its hash was changed" });
                    break;
                };
                hash = written;
                oldest = oldest.or(Some(Oldest { seq: row.seq, at: row.at }));
                pruned = Pruned::told_by(&row).or(pruned);
                rows += 1;
            }
            if broken.is_none() && seq != newest {
                broken = Some(Broken { seq: seq.min(newest) + 1, why: "rows at the end are missing" });
            } else if broken.is_none() && hash != newest_hash {
                broken = Some(Broken { seq, why: "it is not the row that was written last" });
            } else if broken.is_none() && pruned.as_ref().map_or(0, |pruned| pruned.seq) != first {
                let why = "it and all before it are gone, and no row tells that their time was over";
                broken = Some(Broken { seq: first, why });
            }
            let hash = newest_hash.iter().map(|byte| format!("{byte:02x}")).collect();
            Ok(AuditState { rows, newest, hash, oldest, pruned, broken })
        })
    }

    /// Forgets rows from before `until`; what is left still proves itself, and tells how far that went.
    pub fn prune_audit(&self, until: Timestamp) -> Result<(), StoreError> {
        // What this writes itself stays.
        let (newest, _) = self.read(|db| end(db, "newest"))?;
        loop {
            let pruned = self.write(|db| {
                let (first, _) = end(db, "pruned")?;
                // A clock that was wrong for a while must not make a hole: what goes is the oldest stretch.
                let young: Option<i64> = db
                    .prepare_cached("SELECT min(seq) FROM audit WHERE at >= ?1")?
                    .query_row([nanos(until)], |row| row.get(0))?;
                let last = young.map_or(newest, |young| young - 1).min(newest);
                let last = last.min(first.saturating_add(PRUNED_AT_ONCE.into()));
                let found: Option<(i64, Vec<u8>)> = db
                    .prepare_cached("SELECT at, hash FROM audit WHERE seq = ?1")?
                    .query_row([last], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()?;
                let Some((at, hash)) = found.filter(|_| last > first) else { return Ok(0) };
                set_end(db, "pruned", last, &hash)?;
                let gone = db.prepare_cached("DELETE FROM audit WHERE seq <= ?1")?.execute([last])?;
                append(db, &pruning(last, timestamp(at)))?;
                Ok(gone)
            })?;
            if pruned == 0 {
                return Ok(());
            }
        }
    }
}

fn pruning(last: i64, written: Timestamp) -> AuditEntry {
    AuditEntry {
        who: "system".to_owned(),
        address: String::new(),
        action: PRUNE,
        object: format!("audit/{last}"),
        detail: format!("{LAST_WRITTEN}{written}"),
    }
}

impl Pruned {
    fn told_by(row: &AuditRow) -> Option<Pruned> {
        let of = row.object.strip_prefix("audit/").filter(|_| row.action == PRUNE)?;
        let written = row.detail.strip_prefix(LAST_WRITTEN)?;
        Some(Pruned { seq: of.parse().ok()?, written: written.parse().ok()?, taken: row.at })
    }
}

/// Writes a row behind the newest.
pub fn append(db: &Transaction<'_>, entry: &AuditEntry) -> rusqlite::Result<()> {
    let (newest, before) = end(db, "newest")?;
    let row = AuditRow {
        seq: newest + 1,
        at: timestamp(nanos(Timestamp::now())),
        who: entry.who.clone(),
        address: entry.address.clone(),
        action: entry.action.to_owned(),
        object: entry.object.clone(),
        detail: entry.detail.clone(),
    };
    let hash = seal_of(&before, &row);
    db.prepare_cached(
        "INSERT INTO audit (seq, at, who, address, action, object, detail, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute((
        row.seq,
        nanos(row.at),
        &row.who,
        &row.address,
        &row.action,
        &row.object,
        &row.detail,
        hash,
    ))?;
    set_end(db, "newest", row.seq, &hash)
}

/// JSON keeps the fields apart: no two rows have the same text.
fn seal_of(before: &[u8], row: &AuditRow) -> Hash {
    let fields =
        serde_json::json!([row.seq, nanos(row.at), row.who, row.address, row.action, row.object, row.detail]);
    Sha256::new().chain_update(before).chain_update(fields.to_string()).finalize().into()
}

fn end(db: &Connection, which: &str) -> rusqlite::Result<(i64, Vec<u8>)> {
    db.prepare_cached("SELECT seq, hash FROM audit_ends WHERE which = ?1")?
        .query_row([which], |row| Ok((row.get(0)?, row.get(1)?)))
}

fn set_end(db: &Connection, which: &str, seq: i64, hash: &[u8]) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE audit_ends SET seq = ?2, hash = ?3 WHERE which = ?1")?
        .execute((which, seq, hash))
        .map(drop)
}

fn read(row: &Row<'_>) -> rusqlite::Result<(AuditRow, Vec<u8>)> {
    let read = AuditRow {
        seq: row.get(0)?,
        at: timestamp(row.get(1)?),
        who: row.get(2)?,
        address: row.get(3)?,
        action: row.get(4)?,
        object: row.get(5)?,
        detail: row.get(6)?,
    };
    Ok((read, row.get(7)?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn entry(n: i64) -> AuditEntry {
        AuditEntry {
            who: format!("li-{n}"),
            address: "192.0.2.7".to_owned(),
            action: "change",
            object: "camera/gate-1".to_owned(),
            detail: format!("\"{n}\", 名"),
        }
    }

    fn written(rows: i64) -> (tempfile::TempDir, Arc<Store>) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let entries: Vec<_> = (1..=rows).map(entry).collect();
        store.append_audit(&entries).unwrap();
        (folder, store)
    }

    fn broken(store: &Store) -> Option<i64> {
        store.verify_audit().unwrap().broken.map(|broken| broken.seq)
    }

    #[test]
    fn a_chain_holds_and_any_change_of_a_row_shows() {
        let (_folder, store) = written(9);
        let state = store.verify_audit().unwrap();
        assert_eq!((state.rows, state.newest, state.broken), (9, 9, None));
        for change in [
            "at = at + 1",
            "who = 'wang'",
            "address = ''",
            "action = 'watch'",
            "object = 'camera/gate-2'",
            "detail = ''",
            "hash = zeroblob(32)",
            "hash = x'00'",
            "detail = CAST(x'FF' AS TEXT)",
        ] {
            let (_folder, store) = written(9);
            let refused =
                store.write(|db| db.execute(&format!("UPDATE audit SET {change} WHERE seq = 4"), []));
            assert!(refused.unwrap_err().to_string().contains("append-only"));
            store
                .write(|db| {
                    db.execute_batch(&format!(
                        "DROP TRIGGER audit_is_never_rewritten; UPDATE audit SET {change} WHERE seq = 4"
                    ))
                })
                .unwrap();
            assert_eq!(broken(&store), Some(4), "{change}");
        }
    }

    #[test]
    fn rows_that_are_missing_show() {
        for (cut, first) in [("seq = 1", 1), ("seq = 5", 5), ("seq = 9", 9), ("seq > 3", 4), ("1", 1)] {
            let (_folder, store) = written(9);
            let sql = format!("DELETE FROM audit WHERE {cut}");
            assert!(store.write(|db| db.execute(&sql, [])).is_err());
            store.write(|db| db.execute_batch(&format!("DROP TRIGGER audit_is_only_pruned; {sql}"))).unwrap();
            assert_eq!(broken(&store), Some(first), "{cut}");
        }
        // A row that was put behind the newest by hand.
        let (_folder, store) = written(3);
        store
            .write(|db| db.execute("INSERT INTO audit VALUES (4, 0, '', '', '', '', '', zeroblob(32))", []))
            .unwrap();
        assert_eq!(broken(&store), Some(4));
    }

    #[test]
    fn a_pruned_chain_still_proves_itself() {
        let (_folder, store) = written(20);
        let until = Timestamp::now() + Duration::from_secs(1);
        std::thread::sleep(Duration::from_millis(1_100));
        store.append_audit(&[entry(21), entry(22)]).unwrap();
        store.prune_audit(until).unwrap();
        let state = store.verify_audit().unwrap();
        assert_eq!((state.rows, state.newest, state.broken), (3, 23, None));
        assert_eq!(state.oldest.map(|oldest| oldest.seq), Some(21));
        let pruned = state.pruned.unwrap();
        assert!(pruned.seq == 20 && pruned.written < until && until < pruned.taken, "{pruned:?}");
        store.prune_audit(Timestamp::now() + Duration::from_secs(1)).unwrap();
        let state = store.verify_audit().unwrap();
        assert_eq!(
            (state.rows, state.newest, state.broken),
            (1, 24, None),
            "all but the row of this pruning"
        );
        assert_eq!(state.pruned.map(|pruned| pruned.seq), Some(23));
        store.prune_audit(until).unwrap();
        store.append_audit(&[entry(25)]).unwrap();
        let state = store.verify_audit().unwrap();
        assert_eq!((state.rows, state.newest, state.broken), (2, 25, None));
    }

    #[test]
    fn a_front_that_was_cut_off_by_hand_shows() {
        let (_folder, store) = written(60);
        let cut = "DROP TRIGGER audit_is_only_pruned; DELETE FROM audit WHERE seq <= 50;
            UPDATE audit_ends SET seq = 50, hash = (SELECT hash FROM kept) WHERE which = 'pruned'";
        store
            .write(|db| {
                db.execute_batch("CREATE TEMP TABLE kept AS SELECT hash FROM audit WHERE seq = 50")?;
                db.execute_batch(cut)
            })
            .unwrap();
        assert_eq!(broken(&store), Some(50));
    }

    #[test]
    fn rows_are_found_by_who_what_and_when() {
        let (_folder, store) = written(12);
        let all = AuditFilter { page: Filter { limit: 5, ..Filter::default() }, ..AuditFilter::default() };
        let first = store.audit(&all).unwrap();
        assert_eq!(first.items.iter().map(|row| row.seq).collect::<Vec<_>>(), [12, 11, 10, 9, 8]);
        let next = Filter { cursor: first.next, limit: 100, ..Filter::default() };
        let rest = store.audit(&AuditFilter { page: next, ..AuditFilter::default() }).unwrap();
        assert_eq!((rest.items.len(), rest.next), (7, None));
        let of = |who: Option<&str>, action: Option<&str>, object: Option<&str>| {
            let filter = AuditFilter {
                who: who.map(str::to_owned),
                action: action.map(str::to_owned),
                object: object.map(str::to_owned),
                page: Filter { limit: 100, ..Filter::default() },
            };
            store.audit(&filter).unwrap().items.len()
        };
        assert_eq!(of(Some("li-3"), None, None), 1);
        assert_eq!(of(None, Some("change"), Some("camera/gate-1")), 12);
        assert_eq!(of(None, Some("watch"), None), 0);
        assert_eq!(of(None, None, Some("camera/gate-2")), 0);
    }
}
