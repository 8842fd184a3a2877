//! The tables of `state.db`, and how older databases, this one and the rings' indexes, become newer ones.
//!
//! A change of the schema is one more entry of [`MIGRATIONS`]; entries that a release has shipped never change.

use std::fs::OpenOptions;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::{StoreError, explain};
use crate::owner;

/// SQL that leads from schema n to n + 1; `user_version` counts those applied.
pub const MIGRATIONS: [&str; 5] = [
    include_str!("schema-1.sql"),
    include_str!("schema-2.sql"),
    include_str!("schema-3.sql"),
    include_str!("schema-4.sql"),
    include_str!("schema-5.sql"),
];

/// Creates the folder and the empty file, readable by the daemon's user alone: SQLite gives its side files the mode
/// of the database.
pub fn create_file(data: &Path, path: &Path) -> Result<(), StoreError> {
    let io = StoreError::io(path);
    owner::make_folders(data, 0o700).map_err(&io)?;
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(&io)?;
    // SQLite itself gives its side files the owner of the database.
    owner::hand_over(path);
    let mut permissions = file.metadata().map_err(&io)?.permissions();
    if permissions.mode() & 0o077 != 0 {
        permissions.set_mode(0o600);
        file.set_permissions(permissions).map_err(io)?;
    }
    Ok(())
}

/// Why a database was not brought to the newest schema; it is as it was.
#[derive(Debug)]
pub enum MigrationError {
    /// A later liuta has written it.
    Newer {
        found: u32,
        known: u32,
    },
    Sqlite(rusqlite::Error),
    /// Without a copy of it nothing is changed.
    Copy(StoreError),
}

impl From<rusqlite::Error> for MigrationError {
    fn from(error: rusqlite::Error) -> MigrationError {
        MigrationError::Sqlite(error)
    }
}

/// Brings the database to the newest schema, after a copy of it (`NAME.vN`) where it holds anything.
pub fn migrate(db: &mut Connection, path: &Path, migrations: &[&str]) -> Result<(), MigrationError> {
    let known = migrations.len() as u32;
    let found = version(db)?;
    if found > known {
        return Err(MigrationError::Newer { found, known });
    }
    // Before the first write, which it concerns, and outside a transaction, where alone it may be set.
    db.pragma_update(None, "journal_mode", "WAL")?;
    if found == known {
        return Ok(());
    }
    if found > 0 {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".v{found}"));
        copy(db, &path.with_file_name(name)).map_err(MigrationError::Copy)?;
    }
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    let found = version(&transaction)?;
    for (step, sql) in migrations.iter().enumerate().skip(found as usize) {
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "user_version", step as u32 + 1)?;
    }
    Ok(transaction.commit()?)
}

fn version(db: &Connection) -> rusqlite::Result<u32> {
    db.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Writes the whole database, as it is at one instant, into a file of its own; one that lies there is replaced.
pub fn copy(db: &Connection, to: &Path) -> Result<(), StoreError> {
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    let io = StoreError::io(to);
    // Left by an earlier attempt, if at all.
    match std::fs::remove_file(partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    // VACUUM INTO writes into an existing empty file, which has the right mode.
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(partial).map_err(&io)?;
    owner::hand_over(partial);
    let written = db
        .execute("VACUUM INTO ?1", [partial.to_string_lossy()])
        .map_err(|error| explain(to, error))
        .and_then(|_| file.sync_all().map_err(&io))
        .and_then(|()| std::fs::rename(partial, to).map_err(&io));
    if written.is_err() {
        let _ = std::fs::remove_file(partial);
    }
    written
}
