//! The 24-hour ring: segments on disk, their index, retention, recovery and export.
//!
//! # On disk
//! Below the data folder, or below each of `record.volumes`:
//! `recordings/<camera>/YYYY-MM-DD/HH-MM-SS.mp4` (UTC): segments of about a minute, cut at independent parts where the
//! clock's minute changes. Each is a fragmented mp4 that plays by itself, says in a `uuid` box what it is, and, once it is
//! finished, in another at its end where it may be entered and what its bytes were (`media::cmaf::tail`).
//! `index.db` knows the segments, the gaps, the pins and how complete each hour is. `liuta-volume` says which disk it is;
//! `<data>/volumes.json` remembers that. `<data>/lock` is held while a ring is open.
//!
//! # Order of writes, and what holds at every instant
//! 1. A file is created with its head and its first part; then its row is put, *unsealed*.
//! 2. Parts are appended, one write each. Per `record.sync` the keeper syncs the index's log, then the volume as a whole, or
//!    where that fails every file by itself: of footage that is safe it is known what was missing before.
//! 3. A finished file gets its tail and is synced by itself, with its folder; then its row is *sealed* with its end.
//! 4. What goes, goes row first, safely, and file second.
//!
//! So a sealed row's file is whole; an unsealed row's file, and a file without a row, is whole up to its last whole
//! part, which the next start finds (`recovery`); and no row outlives its file but by somebody else's hand. What a
//! crash of the daemon takes is what the packager holds, under a second; what power loss takes is `record.sync` more.
//! Behind its last sync a file may then lack any of its blocks: it is cut at the first that is missing.
//! `tests/power.rs` holds this against a model of what disks do.
//!
//! # Nothing is lost silently
//! [`Recorder::push`] takes parts into a byte budget. Past it, and where the disk refuses, the segment ends, a gap row
//! says why, `record/ring` raises an alarm, and recording goes on by itself at an independent part: on another volume
//! where there is one. A file whose sync failed is never synced again: the kernel may have dropped what it could not
//! write and call the next one a success. A volume whose disk or index is not what was opened is closed and opened anew.
//!
//! Footage ages by the ring's own clock (`clock`), which no step of the box's clock moves. Evidence is pinned; it has an
//! age and a quota of its own, and is never removed to make room for footage.
//!
//! What does not belong here: packaging (`media::cmaf`) and alerts (`store`).

mod alarms;
mod archive;
mod check;
mod clip;
mod clock;
mod export;
mod index;
mod keeper;
mod marker;
mod playback;
mod rebuild;
mod recovery;
mod reel;
mod ring;
mod segment;
mod timeline;
mod volume;
mod writer;

use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

pub use self::archive::{Archive, Completeness, Export, sum};
pub use self::check::{Checked, Condition, FlawKind, Recording, Scope};
pub use self::clip::Clip;
pub use self::keeper::{ASSUMED_BITRATE, Estimate, estimate};
pub use self::marker::forget;
pub use self::playback::{Piece, SegmentReader};
pub use self::rebuild::{Pin, Rebuilt, rebuild};
pub use self::reel::Reel;
pub use self::ring::{Recorder, Ring};
pub use self::timeline::{GapSpan, RecordedSpan};
use crate::config;
use crate::media::{Feed, time};
use crate::owner;

/// The longest range that one export gives.
pub const MAX_EXPORT: Duration = Duration::from_secs(3 * 86_400);

/// Exports at once; each holds a thread and about 2 MB.
pub const MAX_EXPORTS: usize = 32;

/// Why there is no video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
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
    /// The box's clock was set ahead: this time has not been, and nothing of it is missing.
    Clock,
    /// The index was lost, and with it the reason.
    Unknown,
}

impl GapCause {
    const ALL: [GapCause; 7] = [
        GapCause::Camera,
        GapCause::Overflow,
        GapCause::Disk,
        GapCause::Daemon,
        GapCause::Off,
        GapCause::Clock,
        GapCause::Unknown,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            GapCause::Camera => "camera",
            GapCause::Overflow => "overflow",
            GapCause::Disk => "disk",
            GapCause::Daemon => "daemon",
            GapCause::Off => "off",
            GapCause::Clock => "clock",
            GapCause::Unknown => "unknown",
        }
    }

    /// As the index has it.
    fn from_str(text: &str) -> GapCause {
        GapCause::ALL.into_iter().find(|cause| cause.as_str() == text).unwrap_or(GapCause::Unknown)
    }
}

/// A stretch of a camera's past, as `/list` tells it.
#[derive(Clone, Debug, PartialEq)]
pub enum Stretch {
    Recorded { start: Timestamp, end: Timestamp },
    Gap { start: Timestamp, end: Timestamp, cause: GapCause },
}

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("nothing is recorded of {camera} in that range")]
    Nothing { camera: String },
    /// At an instant.
    #[error("nothing is recorded of {camera} at {at}: {}", told(*cause, *before, *after))]
    Missing {
        camera: String,
        at: Timestamp,
        cause: Option<GapCause>,
        /// Where recording ends before it.
        before: Option<Timestamp>,
        /// Where recording goes on.
        after: Option<Timestamp>,
    },
    #[error("the key picture before that instant is too far away; shorten the camera's key frame interval")]
    FarKeyPicture,
    /// The request is wrong, not the ring: HTTP 400.
    #[error("the range ends ({end}) before it starts ({start})")]
    Reversed { start: Timestamp, end: Timestamp },
    /// HTTP 400.
    #[error("the range is longer than {} hours; ask for it in pieces", MAX_EXPORT.as_secs() / 3600)]
    TooLong,
    /// HTTP 503, worth trying again.
    #[error("{MAX_EXPORTS} exports are running; try again when one has ended")]
    Busy,
    /// Another daemon has the data folder.
    #[error(
        "{path} is in use by another liuta (process {process}); stop that one, or give this one its own `data`"
    )]
    Locked { path: String, process: String },
    /// An index that a later liuta has written is never touched.
    #[error(
        "{path} has schema {found}, newer than this liuta's {known}; run the newer liuta, or `liuta ring rebuild`, which \
         makes a new index from the recordings and keeps this one aside"
    )]
    Newer { path: String, found: u32, known: u32 },
    /// Neither touched nor recorded on.
    #[error(
        "volume {volume}: {found} is at {path}, not the disk that was there: mount that one; to record on what \
         is there now, run `liuta ring forget {volume}` and restart"
    )]
    Foreign { volume: String, path: String, found: &'static str },
    #[error("{path}: {error}")]
    Io { path: String, error: std::io::Error },
    #[error("index: {0}")]
    Index(#[from] rusqlite::Error),
    #[error("{0}")]
    Other(String),
}

fn told(cause: Option<GapCause>, before: Option<Timestamp>, after: Option<Timestamp>) -> String {
    let cause = match cause {
        Some(GapCause::Camera) => "the camera was unreachable or silent",
        Some(GapCause::Overflow) => "the disk was too slow",
        Some(GapCause::Disk) => "the disk refused",
        Some(GapCause::Daemon) => "liuta was not running",
        Some(GapCause::Clock) => "the box's clock was set",
        Some(GapCause::Off) => "recording was switched off",
        Some(GapCause::Unknown) => "nobody knows why",
        None => "there is no such recording, or no longer",
    };
    let before = before.map(|at| format!("; the recording before it ends at {at:.3}")).unwrap_or_default();
    let after = after.map(|at| format!("; it goes on at {at:.3}")).unwrap_or_default();
    format!("{cause}{before}{after}")
}

impl RecordError {
    fn io(path: &Path) -> impl Fn(std::io::Error) -> RecordError + '_ {
        move |error| {
            let error = owner::explain(path, error);
            RecordError::Io { path: path.display().to_string(), error }
        }
    }
}

fn stream(feed: Feed) -> &'static str {
    feed.as_str()
}

/// Where to record, and whether new footage goes there. What the data folder held before the volumes were named stays
/// until its age ends.
fn volumes(data: &Path, settings: &config::Record) -> Vec<(config::Volume, bool)> {
    let own = config::Volume {
        name: config::OWN_VOLUME.to_owned(),
        path: data.to_owned(),
        max_size: None,
        min_free: None,
    };
    if settings.volumes.is_empty() {
        return vec![(own, true)];
    }
    let mut volumes: Vec<_> = settings.volumes.iter().map(|volume| (volume.clone(), true)).collect();
    let elsewhere = settings.volumes.iter().all(|volume| volume.path != data);
    if elsewhere && data.join("index.db").exists() {
        volumes.push((own, false));
    }
    volumes
}

fn ticks(range: &Range<Timestamp>) -> Result<Range<i64>, RecordError> {
    if range.start >= range.end {
        return Err(RecordError::Reversed { start: range.start, end: range.end });
    }
    Ok(time::to_90k(range.start)..time::to_90k(range.end))
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), RecordError> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.map(drop).map_err(|error| RecordError::Other(format!("no thread for {name}: {error}")))
}

/// The data folder is this process's: two daemons would tear each other's segments. Held as long as this.
struct Lock(File);

impl Lock {
    fn take(data: &Path) -> Result<Lock, RecordError> {
        let path = data.join("lock");
        let options =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = options.map_err(RecordError::io(&path))?;
        owner::hand_over(&path);
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut process = String::new();
                let _ = file.take(20).read_to_string(&mut process);
                let process = process.trim().to_owned();
                return Err(RecordError::Locked { path: data.display().to_string(), process });
            }
            Err(error) => return Err(RecordError::io(&path)(error.into())),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(RecordError::io(&path))?;
        Ok(Lock(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Not left to a child that holds the descriptor: whoever saw the ring closed may open it anew.
        let _ = rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock);
    }
}
