//! Tokens and the box's own secrets.

use rusqlite::{OptionalExtension, Row};

use super::{Store, StoreError, TokenRow, nanos, timestamp, unreadable};

const COLUMNS: &str = "id, sha256, role, cameras, created, expires";

impl Store {
    pub fn put_token(&self, token: &TokenRow) -> Result<(), StoreError> {
        let cameras = token.cameras.as_ref().map(|cameras| serde_json::json!(cameras).to_string());
        self.write(|db| {
            db.prepare_cached(
                "INSERT INTO tokens (id, sha256, role, cameras, created, expires) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute((
                &token.id,
                token.sha256,
                &token.role,
                cameras,
                nanos(token.created),
                token.expires.map(nanos),
            ))
            .map(drop)
        })
    }

    pub fn token(&self, sha256: &[u8; 32]) -> Result<Option<TokenRow>, StoreError> {
        self.read(|db| {
            db.prepare_cached(&format!("SELECT {COLUMNS} FROM tokens WHERE sha256 = ?1"))?
                .query_row([sha256], token)
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

    /// False where there is no such token.
    pub fn revoke_token(&self, id: &str) -> Result<bool, StoreError> {
        self.write(|db| db.prepare_cached("DELETE FROM tokens WHERE id = ?1")?.execute([id]))
            .map(|rows| rows > 0)
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

fn token(row: &Row<'_>) -> rusqlite::Result<TokenRow> {
    let cameras = match row.get_ref(3)?.as_str_or_null()? {
        None => None,
        Some(list) => Some(serde_json::from_str(list).map_err(|error| unreadable(3, error))?),
    };
    Ok(TokenRow {
        id: row.get(0)?,
        sha256: row.get(1)?,
        role: row.get(2)?,
        cameras,
        created: timestamp(row.get(4)?),
        expires: row.get::<_, Option<i64>>(5)?.map(timestamp),
    })
}
