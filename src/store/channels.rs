//! What is on air, by channel.

use rusqlite::Row;

use super::audit::append;
use super::{AuditEntry, ChannelRow, Store, StoreError, nanos, timestamp};

impl Store {
    /// Every channel that was ever on air, by name.
    pub fn channels(&self) -> Result<Vec<ChannelRow>, StoreError> {
        self.read(|db| {
            db.prepare_cached(
                "SELECT name, camera, configured, revision, since, who FROM channels ORDER BY name",
            )?
            .query_map([], channel)?
            .collect()
        })
    }

    /// Puts a camera on air, and writes down who did it, where somebody has.
    pub fn put_channel(&self, row: &ChannelRow, entry: Option<&AuditEntry>) -> Result<(), StoreError> {
        self.write(|db| {
            db.prepare_cached(
                "INSERT OR REPLACE INTO channels (name, camera, configured, revision, since, who)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute((
                &row.name,
                &row.camera,
                &row.configured,
                row.revision as i64,
                nanos(row.since),
                &row.who,
            ))?;
            entry.map_or(Ok(()), |entry| append(db, entry))
        })
    }
}

fn channel(row: &Row<'_>) -> rusqlite::Result<ChannelRow> {
    Ok(ChannelRow {
        name: row.get(0)?,
        camera: row.get(1)?,
        configured: row.get(2)?,
        revision: row.get::<_, i64>(3)?.unsigned_abs(),
        since: timestamp(row.get(4)?),
        who: row.get(5)?,
    })
}
