//! People: who they are to the box, and what proves it.
//!
//! A change of somebody ends their sessions in the same transaction, and writes its row of the audit trail.

use rusqlite::{Connection, OptionalExtension, Row, Transaction};

use super::audit::append;
use super::tokens::{ha1, list, text_of};
use super::{AuditEntry, PersonRow, Store, StoreError, nanos, timestamp};

const COLUMNS: &str = "name, role, cameras, password, ha1_md5, ha1_sha256, disabled, created, revision";

/// Whoever may do everything, everywhere. The box always has one, once it has had one.
const ADMINISTRATOR: &str = "role = 'admin' AND cameras IS NULL AND disabled = 0";

/// Why a change of people is not made.
#[derive(Debug, thiserror::Error)]
pub enum PeopleError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("there is nobody of that name")]
    Missing,
    #[error("the name is taken")]
    Taken,
    /// Somebody else was faster.
    #[error("changed meanwhile: read it again and repeat the change")]
    Stale,
    #[error("this is the last administrator: make another one first")]
    LastAdministrator,
    #[error("the box has an administrator already")]
    NotFirst,
}

impl Store {
    /// Everyone, by name.
    pub fn people(&self) -> Result<Vec<PersonRow>, StoreError> {
        self.read(|db| {
            db.prepare_cached(&format!("SELECT {COLUMNS} FROM people ORDER BY name"))?
                .query_map([], person)?
                .collect()
        })
    }

    pub fn person(&self, name: &str) -> Result<Option<PersonRow>, StoreError> {
        self.read(|db| find(db, name))
    }

    /// Whether there is a person who may do everything.
    pub fn has_administrator(&self) -> Result<bool, StoreError> {
        self.read(|db| Ok(administrators_but(db, "")? > 0))
    }

    /// Adds somebody; with `first` only where there is no administrator yet.
    pub fn add_person(&self, new: &PersonRow, first: bool, entry: &AuditEntry) -> Result<(), PeopleError> {
        self.write(|db| {
            if first && administrators_but(db, "")? > 0 {
                return Ok(Err(PeopleError::NotFirst));
            }
            // Two who differ by a capital letter alone would be taken for each other.
            let taken = "SELECT EXISTS (SELECT 1 FROM people WHERE name = ?1 COLLATE NOCASE)";
            if db.prepare_cached(taken)?.query_row([&new.name], |row| row.get(0))? {
                return Ok(Err(PeopleError::Taken));
            }
            put(db, new)?;
            append(db, entry)?;
            Ok(Ok(()))
        })?
    }

    /// Changes somebody, with `expected` only from that revision on, and gives back what they are now.
    pub fn change_person(
        &self,
        name: &str,
        expected: Option<u64>,
        entry: &AuditEntry,
        change: impl FnOnce(&mut PersonRow),
    ) -> Result<PersonRow, PeopleError> {
        self.write(|db| {
            let old = match found(db, name, expected)? {
                Ok(old) => old,
                Err(why) => return Ok(Err(why)),
            };
            let mut new = old.clone();
            change(&mut new);
            new.revision = old.revision + 1;
            if old.is_administrator() && !new.is_administrator() && administrators_but(db, name)? == 0 {
                return Ok(Err(PeopleError::LastAdministrator));
            }
            put(db, &new)?;
            let sign_in =
                |row: &PersonRow| (row.password.clone(), row.role.clone(), row.cameras.clone(), row.disabled);
            if sign_in(&old) != sign_in(&new) {
                db.prepare_cached("DELETE FROM sessions WHERE person = ?1")?.execute([name])?;
            }
            append(db, entry)?;
            Ok(Ok(new))
        })?
    }

    /// Removes somebody, and with them their sessions.
    pub fn remove_person(
        &self,
        name: &str,
        expected: Option<u64>,
        entry: &AuditEntry,
    ) -> Result<(), PeopleError> {
        self.write(|db| {
            let old = match found(db, name, expected)? {
                Ok(old) => old,
                Err(why) => return Ok(Err(why)),
            };
            if old.is_administrator() && administrators_but(db, name)? == 0 {
                return Ok(Err(PeopleError::LastAdministrator));
            }
            db.prepare_cached("DELETE FROM people WHERE name = ?1")?.execute([name])?;
            append(db, entry)?;
            Ok(Ok(()))
        })?
    }
}

impl PersonRow {
    fn is_administrator(&self) -> bool {
        self.role == "admin" && self.cameras.is_none() && !self.disabled
    }
}

fn administrators_but(db: &Connection, name: &str) -> rusqlite::Result<i64> {
    let sql = format!("SELECT count(*) FROM people WHERE {ADMINISTRATOR} AND name <> ?1");
    db.prepare_cached(&sql)?.query_row([name], |row| row.get(0))
}

fn find(db: &Connection, name: &str) -> rusqlite::Result<Option<PersonRow>> {
    db.prepare_cached(&format!("SELECT {COLUMNS} FROM people WHERE name = ?1"))?
        .query_row([name], person)
        .optional()
}

fn found(
    db: &Transaction<'_>,
    name: &str,
    expected: Option<u64>,
) -> rusqlite::Result<Result<PersonRow, PeopleError>> {
    Ok(match find(db, name)? {
        None => Err(PeopleError::Missing),
        Some(row) if expected.is_some_and(|expected| expected != row.revision) => Err(PeopleError::Stale),
        Some(row) => Ok(row),
    })
}

fn put(db: &Transaction<'_>, row: &PersonRow) -> rusqlite::Result<()> {
    // No REPLACE: it would delete the row first, and with it the sessions.
    db.prepare_cached(
        "INSERT INTO people (name, role, cameras, password, ha1_md5, ha1_sha256, disabled, created, revision)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (name) DO UPDATE SET role = ?2, cameras = ?3, password = ?4, ha1_md5 = ?5, ha1_sha256 = ?6,
             disabled = ?7, revision = ?9",
    )?
    .execute((
        &row.name,
        &row.role,
        row.cameras.as_ref().map(text_of),
        &row.password,
        row.stream_key.map(|key| key.md5),
        row.stream_key.map(|key| key.sha256),
        row.disabled,
        nanos(row.created),
        row.revision as i64,
    ))
    .map(drop)
}

fn person(row: &Row<'_>) -> rusqlite::Result<PersonRow> {
    Ok(PersonRow {
        name: row.get(0)?,
        role: row.get(1)?,
        cameras: list(row, 2)?,
        password: row.get(3)?,
        stream_key: ha1(row, 4)?,
        disabled: row.get(6)?,
        created: timestamp(row.get(7)?),
        revision: row.get::<_, i64>(8)?.unsigned_abs(),
    })
}
