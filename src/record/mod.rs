//! The 24-hour ring: segments on disk, their index, retention, recovery and export.
//!
//! Recording never goes through a lossy queue: [`Recorder::push`] takes parts into a byte budget, and past it the
//! recorder closes the segment, writes a gap row and says so, never a silent hole. `index.db` can be rebuilt from the
//! files. What does not belong here: packaging (`media::cmaf`) and alerts (`store`).

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use crate::config::{self, Id};
use crate::health::Health;
use crate::media::Feed;
use crate::media::cmaf::Part;

/// The ring of one volume: a writer thread, the index, and readers.
pub struct Ring {}

/// One feed's way into the ring.
pub struct Recorder {}

/// Why there is no video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapCause {
    /// The camera was unreachable or silent.
    Camera,
    /// The writer could not keep up.
    Overflow,
    /// The disk refused.
    Disk,
    /// The daemon was not running.
    Daemon,
    /// Recording was switched off for the camera.
    Off,
}

/// A stretch of a camera's past, as `/list` tells it.
#[derive(Clone, Debug)]
pub enum Stretch {
    Recorded { start: Timestamp, end: Timestamp },
    Gap { start: Timestamp, end: Timestamp, cause: GapCause },
}

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("nothing is recorded of {camera} in that range")]
    Nothing { camera: String },
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("index: {0}")]
    Index(#[from] rusqlite::Error),
    #[error("{0}")]
    Other(String),
}

impl Ring {
    /// Opens (and recovers) `<data>/recordings` and `<data>/index.db`, and starts the writer thread.
    pub fn open(data: &Path, settings: config::Record, health: Health) -> Result<Arc<Ring>, RecordError> {
        let _ = (data, settings, health);
        todo!()
    }

    /// A reload's new limits.
    pub fn reconfigure(&self, settings: config::Record) {
        let _ = settings;
        todo!()
    }

    pub fn recorder(self: &Arc<Self>, camera: &Id, feed: Feed) -> Recorder {
        let _ = (camera, feed);
        todo!()
    }

    /// What is recorded and what is missing of a camera's main feed, oldest first, within `range`.
    pub fn list(&self, camera: &str, range: Range<Timestamp>) -> Result<Vec<Stretch>, RecordError> {
        let _ = (camera, range);
        todo!()
    }

    /// An mp4 of a range: a stream of its bytes, made while it is read, without transcoding.
    pub fn export(
        self: &Arc<Self>,
        camera: &str,
        range: Range<Timestamp>,
    ) -> Result<tokio::sync::mpsc::Receiver<std::io::Result<bytes::Bytes>>, RecordError> {
        let _ = (camera, range);
        todo!()
    }

    /// Keeps a camera's range beyond the ring's age, as evidence of `alert`; called again it widens the range.
    pub fn pin(&self, alert: &str, camera: &str, range: Range<Timestamp>) -> Result<(), RecordError> {
        let _ = (alert, camera, range);
        todo!()
    }

    /// Finishes and syncs every segment, and ends the writer thread.
    pub fn close(&self, deadline: std::time::Duration) -> bool {
        let _ = deadline;
        todo!()
    }
}

impl Recorder {
    /// Takes a part for the disk. Never blocks and never loses silently: past the byte budget the part is refused, a
    /// gap row is written, and recording goes on at the next independent part.
    pub fn push(&self, part: Arc<Part>) {
        let _ = part;
        todo!()
    }

    /// The run ended: the segment is finished, and a gap with this cause begins.
    pub fn end(&self, cause: GapCause) {
        let _ = cause;
        todo!()
    }
}
