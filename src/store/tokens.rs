//! Tokens and the box's own secrets.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row};

use super::audit::append;
use super::{AuditEntry, Ha1, Store, StoreError, TokenRow, nanos, timestamp, unreadable};

const COLUMNS: &str =
    "id, sha256, role, cameras, created, expires, name, actions, created_by, revoked, ha1_md5, ha1_sha256";

impl Store {
    pub fn put_token(&self, token: &TokenRow, entry: &AuditEntry) -> Result<(), StoreError> {
        self.write(|db| {
            db.prepare_cached(
                "INSERT INTO tokens (id, sha256, role, cameras, created, expires, name, actions, created_by, revoked,
                     ha1_md5, ha1_sha256)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute((
                &token.id,
                token.sha256,
                &token.role,
                token.cameras.as_ref().map(text_of),
                nanos(token.created),
                token.expires.map(nanos),
                &token.name,
                token.actions.as_ref().map(text_of),
                &token.created_by,
                token.revoked.map(nanos),
                token.ha1.map(|ha1| ha1.md5),
                token.ha1.map(|ha1| ha1.sha256),
            ))?;
            append(db, entry)
        })
    }

    pub fn token(&self, sha256: &[u8; 32]) -> Result<Option<TokenRow>, StoreError> {
        self.read(|db| {
            db.prepare_cached(&format!("SELECT {COLUMNS} FROM tokens WHERE sha256 = ?1"))?
                .query_row([sha256], token)
                .optional()
        })
    }

    pub fn token_by_id(&self, id: &str) -> Result<Option<TokenRow>, StoreError> {
        self.read(|db| {
            db.prepare_cached(&format!("SELECT {COLUMNS} FROM tokens WHERE id = ?1"))?
                .query_row([id], token)
                .optional()
        })
    }

    /// Every token, oldest first.
    pub fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        self.read(|db| {
            db.prepare_cached(&format!("SELECT {COLUMNS} FROM tokens ORDER BY created, id"))?
                .query_map([], token)?
                .collect()
        })
    }

    /// Takes a token back, and ends the sessions that it has opened. False where there is none, or no longer.
    pub fn revoke_token(&self, id: &str, entry: &AuditEntry) -> Result<bool, StoreError> {
        self.write(|db| {
            let revoked = db
                .prepare_cached("UPDATE tokens SET revoked = ?2 WHERE id = ?1 AND revoked IS NULL")?
                .execute((id, nanos(Timestamp::now())))?;
            if revoked == 0 {
                return Ok(false);
            }
            db.prepare_cached("DELETE FROM sessions WHERE token = ?1")?.execute([id])?;
            append(db, entry)?;
            Ok(true)
        })
    }

    /// A random secret of the box, made at first use and kept: what links are signed with.
    pub fn secret(&self, name: &str) -> Result<[u8; 32], StoreError> {
        self.write(|db| {
            db.prepare_cached("INSERT INTO secrets (name, value) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
                .execute((name, rand::random::<[u8; 32]>()))?;
            db.prepare_cached("SELECT value FROM secrets WHERE name = ?1")?
                .query_row([name], |row| row.get(0))
        })
    }
}

/// A list as it is stored: JSON.
pub fn text_of(list: &Vec<String>) -> String {
    serde_json::json!(list).to_string()
}

/// A column that holds such a list, or NULL.
pub fn list(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Vec<String>>> {
    match row.get_ref(column)?.as_str_or_null()? {
        None => Ok(None),
        Some(text) => serde_json::from_str(text).map(Some).map_err(|error| unreadable(column, error)),
    }
}

/// The two columns of a stream key or token from `column` on.
pub fn ha1(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Ha1>> {
    let md5: Option<[u8; 16]> = row.get(column)?;
    let sha256: Option<[u8; 32]> = row.get(column + 1)?;
    Ok(md5.zip(sha256).map(|(md5, sha256)| Ha1 { md5, sha256 }))
}

fn token(row: &Row<'_>) -> rusqlite::Result<TokenRow> {
    Ok(TokenRow {
        id: row.get(0)?,
        sha256: row.get(1)?,
        role: row.get(2)?,
        cameras: list(row, 3)?,
        created: timestamp(row.get(4)?),
        expires: row.get::<_, Option<i64>>(5)?.map(timestamp),
        name: row.get(6)?,
        actions: list(row, 7)?,
        created_by: row.get(8)?,
        revoked: row.get::<_, Option<i64>>(9)?.map(timestamp),
        ha1: ha1(row, 10)?,
    })
}
