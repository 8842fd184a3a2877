//! `state.db`: alerts with their snapshots, the outbox, detections, tokens. SQLite, WAL, `synchronous = FULL`; one
//! writer connection, readers beside it. Every call blocks: asynchronous callers go through `spawn_blocking`.
//!
//! What does not belong here: segments (`record` has its own index) and what any of it means.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use crate::alert::{Alert, Detection};

pub struct Store {}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("state.db: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    /// A database that a later liuta has written is never touched.
    #[error(
        "{path} has schema {found}, newer than this liuta's {known}; run the newer liuta or restore a backup"
    )]
    Newer { path: String, found: u32, known: u32 },
    #[error("state.db: {0}")]
    Corrupt(String),
}

/// One page of a collection, newest first; `next` continues it.
#[derive(Debug, serde::Serialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<String>,
}

/// Which items of a collection.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// `None`: every camera. `Some([])`: none.
    pub cameras: Option<Vec<String>>,
    pub range: Option<Range<Timestamp>>,
    /// From an earlier page's `next`; one that is not is an empty page.
    pub cursor: Option<String>,
    /// At most so many items, 1..=1000.
    pub limit: usize,
}

/// A detection as it is remembered.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct StoredDetection {
    pub camera: String,
    /// Capture time of the picture.
    pub at: Timestamp,
    pub model: String,
    #[serde(flatten)]
    pub detection: Detection,
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

/// A token as it is kept: only its SHA-256.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRow {
    pub id: String,
    pub sha256: [u8; 32],
    pub role: String,
    /// `None`: every camera.
    pub cameras: Option<Vec<String>>,
    pub created: Timestamp,
    pub expires: Option<Timestamp>,
}

impl Store {
    /// Opens, creates or migrates `<data>/state.db`.
    pub fn open(data: &Path) -> Result<Arc<Store>, StoreError> {
        let _ = data;
        todo!()
    }

    /// Stores an alert's revision and its outbox entries (destination, body) in one transaction. `snapshot` replaces
    /// an earlier one.
    pub fn put_alert(
        &self,
        alert: &Alert,
        snapshot: Option<&Bytes>,
        outbox: &[(String, Bytes)],
    ) -> Result<(), StoreError> {
        let _ = (alert, snapshot, outbox);
        todo!()
    }

    pub fn alerts(&self, filter: &Filter) -> Result<Page<Alert>, StoreError> {
        let _ = filter;
        todo!()
    }

    pub fn alert(&self, id: &str) -> Result<Option<Alert>, StoreError> {
        let _ = id;
        todo!()
    }

    /// Alerts that were pending or active when the daemon stopped.
    pub fn open_alerts(&self) -> Result<Vec<Alert>, StoreError> {
        todo!()
    }

    /// The JPEG with the boxes drawn.
    pub fn snapshot(&self, alert: &str) -> Result<Option<Bytes>, StoreError> {
        let _ = alert;
        todo!()
    }

    pub fn put_detections(
        &self,
        camera: &str,
        at: Timestamp,
        model: &str,
        detections: &[Detection],
    ) -> Result<(), StoreError> {
        let _ = (camera, at, model, detections);
        todo!()
    }

    pub fn detections(&self, filter: &Filter) -> Result<Page<StoredDetection>, StoreError> {
        let _ = filter;
        todo!()
    }

    /// Entries of a destination that are due, oldest first.
    pub fn due(
        &self,
        destination: &str,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<OutboxEntry>, StoreError> {
        let _ = (destination, now, limit);
        todo!()
    }

    /// When the next entry of a destination is due, and how many wait.
    pub fn outbox_state(&self, destination: &str) -> Result<(Option<Timestamp>, u64), StoreError> {
        let _ = destination;
        todo!()
    }

    /// The destination has acknowledged the entry.
    pub fn acknowledged(&self, row: i64) -> Result<(), StoreError> {
        let _ = row;
        todo!()
    }

    /// The attempt failed; the next is due then.
    pub fn failed(&self, row: i64, error: &str, due: Timestamp) -> Result<(), StoreError> {
        let _ = (row, error, due);
        todo!()
    }

    /// Given up: kept as a dead letter with the reason.
    pub fn give_up(&self, row: i64, reason: &str) -> Result<(), StoreError> {
        let _ = (row, reason);
        todo!()
    }

    pub fn put_token(&self, token: &TokenRow) -> Result<(), StoreError> {
        let _ = token;
        todo!()
    }

    pub fn token(&self, sha256: &[u8; 32]) -> Result<Option<TokenRow>, StoreError> {
        let _ = sha256;
        todo!()
    }

    /// A random secret of the box, made at first use and kept: what links are signed with.
    pub fn secret(&self, name: &str) -> Result<[u8; 32], StoreError> {
        let _ = name;
        todo!()
    }

    /// Forgets detections older than `detections` and ended alerts (with snapshots) older than `alerts`.
    pub fn forget(&self, detections: Duration, alerts: Duration) -> Result<(), StoreError> {
        let _ = (detections, alerts);
        todo!()
    }
}
