//! The 24-hour ring: segments on disk, their index, retention, recovery and export.
//!
//! # On disk
//! `<data>/recordings/<camera>/YYYY-MM-DD/HH-MM-SS.mp4` (UTC): segments of about a minute, cut at independent parts
//! where the clock's minute changes. Each is a fragmented mp4 that plays by itself and says in a `uuid` box what it is.
//! `<data>/index.db` knows the segments, the gaps and the pins. `<data>/lock` is held while a ring is open.
//!
//! # Order of writes, and what holds at every instant
//! 1. A file is created with its head and its first part; then its row is put, *unsealed*.
//! 2. Parts are appended, one write each. The keeper syncs every open file (and once its folder) per `record.sync`.
//! 3. A finished file is synced; then its row is *sealed* with its end.
//! 4. What goes, goes row first, file second.
//!
//! So a sealed row's file is whole; an unsealed row's file, and a file without a row, is whole up to its last whole
//! part, which the next start finds (`recovery`); and no row outlives its file but by somebody else's hand. What a
//! crash of the daemon takes is what the packager holds, under a second; what power loss takes is `record.sync` more.
//!
//! # Nothing is lost silently
//! [`Recorder::push`] takes parts into a byte budget. Past it, and where the disk refuses, the segment ends, a gap row
//! says why, `record/ring` raises an alarm, and recording goes on by itself at an independent part. A file whose sync
//! failed is never synced again: the kernel may have dropped what it could not write and call the next one a success.
//!
//! What does not belong here: packaging (`media::cmaf`) and alerts (`store`).

mod alarms;
mod export;
mod index;
mod keeper;
mod recovery;
mod segment;
mod writer;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use jiff::Timestamp;

use self::alarms::Alarms;
use self::index::{Gap, Index, Row};
pub use self::keeper::{ASSUMED_BITRATE, Estimate, estimate};
use self::segment::Segment;
use self::writer::{Key, Message, Queue};
use crate::config::{self, Id};
use crate::health::{CameraCause, Health};
use crate::media::cmaf::Part;
use crate::media::{Feed, VIDEO_CLOCK, time};
use crate::owner;

/// The longest range that one export gives.
pub const MAX_EXPORT: Duration = Duration::from_secs(3 * 86_400);

/// Exports at once; each holds a thread and about 2 MB.
pub const MAX_EXPORTS: usize = 32;

/// Stretches with less than this between them are told as one: also over a restart of the daemon that took no longer,
/// which leaves no gap.
const JOIN_90K: i64 = VIDEO_CLOCK / 2;

/// A writer that is so long at one write hangs; slow disks take seconds.
const HUNG: Duration = Duration::from_secs(60);

/// A keeper that is so long at one sync hangs; a disk at its limit takes many seconds for one.
const KEEPER_HUNG: Duration = Duration::from_secs(120);

/// The ring of one volume: a writer thread, the index, and readers.
pub struct Ring {
    shared: Arc<Shared>,
}

/// One feed's way into the ring. Dropping it finishes its segment.
pub struct Recorder {
    key: Key,
    shared: Arc<Shared>,
    /// The budget was full: parts are refused up to an independent one.
    refusing: AtomicBool,
}

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

impl GapCause {
    const ALL: [GapCause; 5] =
        [GapCause::Camera, GapCause::Overflow, GapCause::Disk, GapCause::Daemon, GapCause::Off];

    pub fn as_str(self) -> &'static str {
        match self {
            GapCause::Camera => "camera",
            GapCause::Overflow => "overflow",
            GapCause::Disk => "disk",
            GapCause::Daemon => "daemon",
            GapCause::Off => "off",
        }
    }

    /// As the index has it; what is no cause of ours is told as the daemon's.
    fn from_str(text: &str) -> GapCause {
        GapCause::ALL.into_iter().find(|cause| cause.as_str() == text).unwrap_or(GapCause::Daemon)
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
        "{path} has schema {found}, newer than this liuta's {known}; run the newer liuta, or move the index away: it is \
         rebuilt from the recordings, without the pins of evidence"
    )]
    Newer { path: String, found: u32, known: u32 },
    #[error("{path}: {error}")]
    Io { path: String, error: std::io::Error },
    #[error("index: {0}")]
    Index(#[from] rusqlite::Error),
    #[error("{0}")]
    Other(String),
}

impl RecordError {
    fn io(path: &Path) -> impl Fn(std::io::Error) -> RecordError + '_ {
        move |error| {
            let error = owner::explain(path, error);
            RecordError::Io { path: path.display().to_string(), error }
        }
    }
}

/// What the threads and the readers share.
struct Shared {
    recordings: PathBuf,
    index: Index,
    queue: Queue,
    settings: ArcSwap<config::Record>,
    health: Health,
    alarms: Alarms,
    /// Segments that are being written or not sealed yet, by path.
    open: Mutex<BTreeMap<String, Arc<Segment>>>,
    /// Finished ones for the keeper to seal; they stay in `open` until then.
    sealing: Mutex<Vec<Arc<Segment>>>,
    /// Gaps that are still running.
    gaps: Mutex<BTreeMap<Key, Gap>>,
    /// Bytes since the start.
    written: AtomicU64,
    /// The volume is full: room is needed now.
    pressed: AtomicBool,
    exports: AtomicUsize,
    /// When the keeper last got something done.
    kept: Mutex<Instant>,
    writer_ended: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
    lock: File,
}

#[derive(PartialEq)]
enum State {
    Running,
    Closing,
    Closed,
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Segment>>> {
        self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn sealing(&self) -> MutexGuard<'_, Vec<Arc<Segment>>> {
        self.sealing.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn gaps(&self) -> MutexGuard<'_, BTreeMap<Key, Gap>> {
        self.gaps.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn settings(&self) -> Arc<config::Record> {
        self.settings.load_full()
    }

    fn kept(&self) -> MutexGuard<'_, Instant> {
        self.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn set_state(&self, state: State) {
        *self.state() = state;
        self.changed.notify_all();
    }

    /// The keeper's rest, cut short when the ring is closing.
    fn wait(&self, rest: Duration) {
        let state = self.state();
        // While the writer drains its queue there is something to sync all the time.
        let rest = if *state == State::Running { rest } else { Duration::from_millis(10) };
        drop(self.changed.wait_timeout(state, rest));
    }
}

fn stream(feed: Feed) -> &'static str {
    match feed {
        Feed::Main => "main",
        Feed::Sub => "sub",
    }
}

impl Ring {
    /// Opens (and recovers) `<data>/recordings` and `<data>/index.db`, and starts the writer thread.
    pub fn open(data: &Path, settings: config::Record, health: Health) -> Result<Arc<Ring>, RecordError> {
        let recordings = data.join("recordings");
        owner::make_folders(&recordings, 0o750).map_err(RecordError::io(&recordings))?;
        let lock = lock(data)?;
        let (index, damaged) = Index::open(&data.join("index.db"))?;
        if let Some(aside) = damaged {
            tracing::error!(
                "the index was damaged: it is rebuilt from the recordings, without the pins; see {aside}"
            );
        }
        recovery::recover(&recordings, &index)?;
        let shared = Arc::new(Shared {
            recordings,
            index,
            queue: Queue::default(),
            settings: ArcSwap::from_pointee(settings),
            alarms: Alarms::new(health.clone()),
            health,
            open: Mutex::default(),
            sealing: Mutex::default(),
            gaps: Mutex::default(),
            written: AtomicU64::new(0),
            pressed: AtomicBool::new(false),
            exports: AtomicUsize::new(0),
            kept: Mutex::new(Instant::now()),
            writer_ended: AtomicBool::new(false),
            state: Mutex::new(State::Running),
            changed: Condvar::new(),
            lock,
        });
        thread("liuta-writer", shared.clone(), |shared| {
            writer::run(shared);
            shared.writer_ended.store(true, Ordering::Release);
            shared.changed.notify_all();
        })?;
        thread("liuta-keeper", shared.clone(), |shared| {
            keeper::run(shared);
            // Not left to the last reader that lets go: whoever saw the ring closed may open it anew.
            let _ = rustix::fs::flock(&shared.lock, rustix::fs::FlockOperation::Unlock);
            shared.set_state(State::Closed);
        })?;
        Ok(Arc::new(Ring { shared }))
    }

    /// A reload's new limits.
    pub fn reconfigure(&self, settings: config::Record) {
        self.shared.settings.store(Arc::new(settings));
    }

    pub fn recorder(self: &Arc<Self>, camera: &Id, feed: Feed) -> Recorder {
        let key = (camera.clone(), feed);
        self.shared.queue.send(&key, Message::Opened);
        // From zero on, so that the first gap is an increase.
        let metrics = &self.shared.health.metrics;
        for cause in GapCause::ALL {
            drop(metrics.gap_seconds.get_or_create(&CameraCause::new(&**camera, cause.as_str())));
        }
        Recorder { key, shared: self.shared.clone(), refusing: AtomicBool::new(false) }
    }

    /// What is recorded and what is missing of a camera's main feed, oldest first, within `range`.
    pub fn list(&self, camera: &str, range: Range<Timestamp>) -> Result<Vec<Stretch>, RecordError> {
        let range = ticks(&range)?;
        let mut recorded: Vec<Range<i64>> = Vec::new();
        for row in self.rows(camera, &range)? {
            match recorded.last_mut().filter(|last| row.start_90k - last.end < JOIN_90K) {
                Some(last) => last.end = last.end.max(row.end_90k),
                None => recorded.push(row.start_90k..row.end_90k),
            }
        }
        let mut gaps = self.shared.index.gaps(camera, stream(Feed::Main), range.start, range.end)?;
        let running = self.shared.gaps().get(&(camera.into(), Feed::Main)).cloned();
        if let Some(running) = running {
            gaps.retain(|gap| gap.start_90k != running.start_90k);
            gaps.push(Gap { end_90k: time::to_90k(Timestamp::now()), ..running });
        }
        let clip = |start: i64, end: i64| (start.max(range.start), end.min(range.end));
        let mut told = Vec::new();
        for (cause, (start, end)) in (recorded.iter().map(|at| (None, clip(at.start, at.end))))
            .chain(gaps.iter().map(|gap| (Some(gap.cause), clip(gap.start_90k, gap.end_90k))))
        {
            if start < end {
                told.push((start, end, cause));
            }
        }
        told.sort_by_key(|&(start, ..)| start);
        let stretch = |(start, end, cause)| {
            let (start, end) = (time::from_90k(start), time::from_90k(end));
            match cause {
                Some(cause) => Stretch::Gap { start, end, cause },
                None => Stretch::Recorded { start, end },
            }
        };
        Ok(told.into_iter().map(stretch).collect())
    }

    /// Segments in the range, oldest first, those being written with the ends that they have now.
    fn rows(&self, camera: &str, range: &Range<i64>) -> Result<Vec<Row>, RecordError> {
        let stream = stream(Feed::Main);
        // Before the index is asked: what is sealed in between is then in both, not in neither.
        let open: BTreeMap<String, Row> =
            self.shared.open().iter().map(|(path, segment)| (path.clone(), segment.row())).collect();
        let mut rows = self.shared.index.segments(camera, stream, range.start, range.end)?;
        rows.retain(|row| !open.contains_key(&row.path));
        rows.extend(open.into_values().filter(|row| row.camera == camera && row.stream == stream));
        rows.retain(|row| row.end_90k > range.start && row.start_90k < range.end);
        rows.sort_by_key(|row| row.start_90k);
        Ok(rows)
    }

    /// An mp4 of a range: a stream of its bytes, made while it is read, without transcoding. It includes the segment
    /// that is being written. Reading slowly holds it up, dropping the receiver ends it.
    pub fn export(
        self: &Arc<Self>,
        camera: &str,
        range: Range<Timestamp>,
    ) -> Result<tokio::sync::mpsc::Receiver<std::io::Result<bytes::Bytes>>, RecordError> {
        let range = ticks(&range)?;
        if (range.end - range.start) as u64 > MAX_EXPORT.as_secs() * VIDEO_CLOCK as u64 {
            return Err(RecordError::TooLong);
        }
        let rows = self.rows(camera, &range)?;
        if rows.is_empty() {
            return Err(RecordError::Nothing { camera: camera.to_owned() });
        }
        if self.shared.exports.fetch_add(1, Ordering::AcqRel) >= MAX_EXPORTS {
            self.shared.exports.fetch_sub(1, Ordering::AcqRel);
            return Err(RecordError::Busy);
        }
        let (out, receiver) = tokio::sync::mpsc::channel(4);
        let place = export::Place(self.shared.clone());
        thread("liuta-export", self.shared.clone(), move |shared| {
            export::run(shared, &rows, range, &out);
            drop(place);
        })?;
        Ok(receiver)
    }

    /// Keeps a camera's range beyond the ring's age, as evidence of `alert`; called again it widens the range.
    pub fn pin(&self, alert: &str, camera: &str, range: Range<Timestamp>) -> Result<(), RecordError> {
        let range = ticks(&range)?;
        Ok(self.shared.index.pin(alert, camera, range.start, range.end)?)
    }

    /// Whether writer and keeper make progress: a disk that hangs for longer than this is not waited for in silence.
    pub fn is_responsive(&self) -> bool {
        let patience = KEEPER_HUNG + self.shared.settings().sync;
        self.shared.queue.busy_for() < HUNG && self.shared.kept().elapsed() < patience
    }

    /// Finishes and syncs every segment, and ends the writer thread. False when that took longer than `deadline`.
    pub fn close(&self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        {
            let mut state = self.shared.state();
            if *state == State::Running {
                *state = State::Closing;
            }
        }
        self.shared.changed.notify_all();
        self.shared.queue.close();
        let mut state = self.shared.state();
        while *state != State::Closed {
            let Some(rest) = until.checked_duration_since(Instant::now()) else { return false };
            let waited = self.shared.changed.wait_timeout(state, rest);
            state = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        true
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}

impl Recorder {
    /// Takes a part for the disk. Never blocks and never loses silently: past the byte budget the part is refused, a
    /// gap row is written, and recording goes on at the next independent part.
    pub fn push(&self, part: Arc<Part>) {
        // Told here: a writer that hangs in the disk cannot.
        if self.shared.queue.part(&self.key, part, &self.refusing) {
            self.shared.alarms.overflow();
        }
    }

    /// The run ended: the segment is finished, and a gap with this cause begins.
    pub fn end(&self, cause: GapCause) {
        self.shared.queue.send(&self.key, Message::End(cause, time::to_90k(Timestamp::now())));
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.shared.queue.send(&self.key, Message::Closed);
    }
}

fn ticks(range: &Range<Timestamp>) -> Result<Range<i64>, RecordError> {
    if range.start >= range.end {
        return Err(RecordError::Reversed { start: range.start, end: range.end });
    }
    Ok(time::to_90k(range.start)..time::to_90k(range.end))
}

fn thread(
    name: &str,
    shared: Arc<Shared>,
    body: impl FnOnce(&Shared) + Send + 'static,
) -> Result<(), RecordError> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || body(&shared));
    spawned.map(drop).map_err(|error| RecordError::Other(format!("no thread for {name}: {error}")))
}

/// Takes the data folder for this process: two daemons would tear each other's segments. Held as long as the file.
fn lock(data: &Path) -> Result<File, RecordError> {
    let path = data.join("lock");
    let options = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
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
    Ok(file)
}
