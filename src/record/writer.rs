//! The writer thread: parts become segments, and what is missing becomes gaps.
//!
//! It never waits for a sync, which is the keeper's (`super::keeper`), and what the disk refuses it drops: memory is
//! bounded by the queue, whatever the disk does.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::archive::Archive;
use super::index::Gap;
use super::segment::Segment;
use super::volume::Volume;
use super::{GapCause, stream};
use crate::config::Id;
use crate::health::{CameraCause, CameraLabel};
use crate::media::cmaf::{Init, Part};
use crate::media::time::{ClockAnchor, ticks_90k};
use crate::media::{Feed, VIDEO_CLOCK};

/// Bytes that may wait for the disk: tens of seconds of a few cameras, 8 s of 64 at 4 Mbit/s.
const BUDGET: usize = 256 << 20;

/// What a message costs beside its payload.
const MESSAGE_COST: usize = 512;

/// Shorter holes are no gaps: jitter of the camera's clock.
const TOLERANCE_90K: i64 = VIDEO_CLOCK / 2;

/// After the disk refused a stream it is left alone for so long.
const RETRY: Duration = Duration::from_secs(5);

/// A recorder that is made so soon after the last one ended is a reload's restart of the camera.
const RESTART_90K: i64 = 30 * VIDEO_CLOCK;

/// Gaps that are remembered for an index that refuses them.
const MAX_OWED: usize = 10_000;

/// How often a running gap's row is lengthened.
const GAP_ROWS: Duration = Duration::from_secs(10);

pub(super) type Key = (Id, Feed);

pub(super) enum Message {
    /// A recorder was made; the archive knows what came before.
    Opened(Archive),
    /// A recorder comes from another volume, or from none: then this is missing.
    Arrived(Option<Gap>),
    /// It goes on elsewhere.
    Left,
    Part(Arc<Part>),
    /// At that time.
    End(GapCause, i64),
    Overflow,
    Closed,
}

/// What became of a part.
#[derive(Debug, PartialEq)]
pub(super) enum Taken {
    In,
    /// It does not fit; `first` where that begins.
    Refused {
        first: bool,
    },
    /// The volume is closing.
    Closed,
}

/// What waits for the writer.
#[derive(Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    filled: Condvar,
}

#[derive(Default)]
struct Inner {
    messages: VecDeque<(Key, Message)>,
    bytes: usize,
    closing: bool,
    /// When the writer last asked for a message.
    turned: Option<Instant>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn send(&self, key: &Key, message: Message) {
        let mut inner = self.lock();
        if !inner.closing {
            inner.messages.push_back((key.clone(), message));
            self.filled.notify_one();
        }
    }

    /// Takes a part within the budget; past it every part up to the next independent one that fits is refused.
    pub(super) fn part(&self, key: &Key, part: Arc<Part>, refusing: &AtomicBool) -> Taken {
        let mut inner = self.lock();
        let cost = part.len() + MESSAGE_COST;
        let was_refusing = refusing.load(Ordering::Relaxed);
        if inner.closing {
            return Taken::Closed;
        }
        if was_refusing && !part.independent {
            return Taken::Refused { first: false };
        }
        let refused = inner.bytes + cost > BUDGET;
        refusing.store(refused, Ordering::Relaxed);
        if !refused {
            inner.bytes += cost;
            inner.messages.push_back((key.clone(), Message::Part(part)));
        } else if !was_refusing {
            inner.messages.push_back((key.clone(), Message::Overflow));
        }
        self.filled.notify_one();
        if refused { Taken::Refused { first: !was_refusing } } else { Taken::In }
    }

    /// How long the writer has been at its latest message.
    pub(super) fn busy_for(&self) -> Duration {
        self.lock().turned.map_or(Duration::ZERO, |turned| turned.elapsed())
    }

    /// What is sent from now on is ignored.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.filled.notify_one();
    }

    /// The next message, or `None` after `wait`; `Err` when closed and empty.
    fn next(&self, wait: Duration) -> Result<Option<(Key, Message)>, ()> {
        let mut inner = self.lock();
        inner.turned = Some(Instant::now());
        if inner.messages.is_empty() && !inner.closing {
            let waited = self.filled.wait_timeout(inner, wait);
            inner = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        let Some((key, message)) = inner.messages.pop_front() else {
            return if inner.closing { Err(()) } else { Ok(None) };
        };
        if let Message::Part(part) = &message {
            inner.bytes -= part.len() + MESSAGE_COST;
        }
        Ok(Some((key, message)))
    }
}

/// Runs until the queue is closed and empty, and hands every segment to the keeper.
pub(super) fn run(volume: &Volume) {
    let mut writer = Writer {
        volume,
        feeds: BTreeMap::new(),
        owed: BTreeMap::new(),
        ticked: Instant::now(),
        rows: Instant::now(),
    };
    while let Ok(message) = volume.queue.next(Duration::from_secs(1)) {
        if let Some((key, message)) = message {
            writer.take(key, message);
        }
        if writer.ticked.elapsed() >= Duration::from_secs(1) {
            writer.tick();
        }
    }
    let keys: Vec<Key> = writer.feeds.keys().cloned().collect();
    for key in keys {
        writer.take(key, Message::Closed);
    }
    writer.tick();
}

struct Writer<'a> {
    volume: &'a Volume,
    feeds: BTreeMap<Key, State>,
    /// Gaps that the index has refused, by where they begin.
    owed: BTreeMap<(Key, i64), Gap>,
    ticked: Instant,
    rows: Instant,
}

struct State {
    /// From the box's clock to the ring's, when it was last told what was recorded or missing.
    offset_90k: i64,
    current: Option<Current>,
    /// Running since its start; its end is what metrics have counted.
    gap: Option<Gap>,
    retry: Option<Instant>,
    /// Up to where it is told, since the recorder was dropped.
    closed_90k: Option<i64>,
}

impl State {
    fn new(offset_90k: i64) -> State {
        State { offset_90k, current: None, gap: None, retry: None, closed_90k: None }
    }
}

struct Current {
    segment: Arc<Segment>,
    init: Arc<Init>,
    run: u64,
    next_seq: u64,
    start_90k: i64,
    end_90k: i64,
}

impl Current {
    /// Whether the part stands in a new segment: other parameters, another minute of the clock, or a hole.
    fn ends_before(&self, part: &Part) -> bool {
        let minute = |at: i64| at.div_euclid(60 * VIDEO_CLOCK);
        !Arc::ptr_eq(&self.init, &part.init)
            || self.run != part.run
            || self.next_seq != part.seq
            || part.independent
                && (minute(self.start_90k) != minute(part.start_90k)
                    || (part.start_90k - self.end_90k).abs() > TOLERANCE_90K)
    }
}

impl Writer<'_> {
    fn now_90k(&self) -> i64 {
        self.volume.clock.wall_90k()
    }

    fn take(&mut self, key: Key, message: Message) {
        let offset = self.volume.clock.offset_90k();
        let mut state = self.feeds.remove(&key).unwrap_or_else(|| State::new(offset));
        match message {
            Message::Opened(archive) => self.open(&key, &mut state, &archive),
            Message::Arrived(gap) => {
                state = State { gap, ..State::new(offset) };
                self.show_gap(&key, &state);
            }
            Message::Left => {
                self.seal(&mut state);
                self.volume.shelf.gaps().remove(&key);
                // The other volume tells it from its beginning on.
                if let Some(gap) = state.gap.take().filter(|gap| gap.end_90k > gap.start_90k) {
                    self.put_gap(&key, &Gap { end_90k: gap.start_90k, ..gap });
                }
                return;
            }
            Message::Part(part) => self.part(&key, &mut state, &part),
            Message::End(cause, at_90k) => {
                let from = self.seal(&mut state).unwrap_or(at_90k);
                self.begin_gap(&key, &mut state, cause, from);
            }
            Message::Overflow => {
                let from = self.seal(&mut state).unwrap_or_else(|| self.now_90k());
                self.begin_gap(&key, &mut state, GapCause::Overflow, from);
            }
            Message::Closed => {
                let sealed = self.seal(&mut state);
                let told = match state.gap.take() {
                    // Which cause it has is known when recording goes on: now or with the next start.
                    Some(gap) if gap.cause == GapCause::Daemon => {
                        self.volume.shelf.gaps().remove(&key);
                        gap.start_90k
                    }
                    Some(gap) => {
                        let now = self.now_90k();
                        self.end_gap(&key, gap, now, self.stepped(&state));
                        now
                    }
                    None => sealed.unwrap_or_else(|| self.now_90k()),
                };
                state.closed_90k = Some(told);
            }
        }
        self.feeds.insert(key, state);
    }

    /// What is missing up to now has a cause of the past; from now on it is the camera that has not come.
    fn open(&mut self, key: &Key, state: &mut State, archive: &Archive) {
        if state.current.is_some() || state.gap.is_some() {
            return;
        }
        let now = self.now_90k();
        let mut from = now;
        if let Some(closed) = state.closed_90k.take() {
            if now - closed < RESTART_90K {
                from = closed;
            } else {
                self.end_gap(key, Gap { start_90k: closed, end_90k: closed, cause: GapCause::Off }, now, 0);
            }
        } else {
            let last = archive.last_end(&key.0, key.1);
            if let Some((last, before)) = self.indexed(last).flatten() {
                let cause = match before {
                    Some(GapCause::Off) => GapCause::Off,
                    // What a volume holds that is away is not missing because nobody recorded.
                    _ if !archive.is_whole() => GapCause::Disk,
                    _ => GapCause::Daemon,
                };
                self.end_gap(key, Gap { start_90k: last, end_90k: last, cause }, now, 0);
            }
        }
        state.gap = Some(Gap { start_90k: from, end_90k: from, cause: GapCause::Camera });
    }

    fn part(&mut self, key: &Key, state: &mut State, part: &Part) {
        if part.is_empty() {
            return;
        }
        let ends = state.current.as_ref().is_some_and(|current| current.ends_before(part));
        if ends && let Some(end) = self.seal(state) {
            let hole = part.start_90k - end > TOLERANCE_90K || !part.independent;
            if hole {
                self.begin_gap(key, state, GapCause::Camera, end);
            }
        }
        let waits = state.retry.is_some_and(|until| Instant::now() < until);
        if state.current.is_none() && (!part.independent || waits) {
            return;
        }
        let written = match &mut state.current {
            Some(current) => current.segment.append(part),
            None => self.create(key, part).map(|segment| self.opened(key, state, segment, part)),
        };
        match written {
            Ok(()) => {
                if let Some(current) = &mut state.current {
                    current.next_seq = part.seq + 1;
                    current.end_90k = part.start_90k + part.duration_90k;
                }
                let label = CameraLabel::new(&*key.0);
                let metrics = &self.volume.health.metrics;
                metrics.recorded_access_units.get_or_create(&label).inc_by(part.pictures.into());
                metrics.recorded_bytes.get_or_create(&label).inc_by(part.len() as u64);
                self.volume.written.fetch_add(part.len() as u64, Ordering::Relaxed);
            }
            Err(error) => self.refused(key, state, part, &error),
        }
    }

    fn create(&self, key: &Key, part: &Part) -> io::Result<Arc<Segment>> {
        self.volume.is_there()?;
        let offset = self.volume.clock.offset_90k();
        let metrics = &self.volume.health.metrics;
        let error = metrics.camera_clock_error_seconds.get(&CameraLabel::new(&*key.0));
        let error = error.map(|gauge| gauge.get());
        Segment::create(&self.volume.shelf.recordings, &key.0, key.1, part, offset, error)
    }

    fn opened(&mut self, key: &Key, state: &mut State, segment: Arc<Segment>, part: &Part) {
        if let Some(gap) = state.gap.take() {
            self.end_gap(key, gap, part.start_90k, self.stepped(state));
        }
        state.offset_90k = self.volume.clock.offset_90k();
        state.retry = None;
        self.volume.accepts();
        let row = segment.row();
        self.volume.shelf.open().insert(row.path.clone(), segment.clone());
        let put = self.volume.shelf.index.put(&row);
        self.indexed(put);
        state.current = Some(Current {
            segment,
            init: part.init.clone(),
            run: part.run,
            next_seq: part.seq + 1,
            start_90k: part.start_90k,
            end_90k: part.start_90k + part.duration_90k,
        });
    }

    /// The disk refused: the segment is left as it is, and the stream comes again after a pause.
    fn refused(&mut self, key: &Key, state: &mut State, part: &Part, error: &io::Error) {
        let full = error.raw_os_error() == Some(rustix::io::Errno::NOSPC.raw_os_error());
        let what = match full {
            true => "the volume is full: free space on it, add a disk, or lower record.max_size",
            false => "check the disk, its cables and whether the volume is mounted read-only",
        };
        let camera = &key.0;
        let folder = self.volume.shelf.recordings.display();
        self.volume.alarms.disk(Some(format!(
            "{camera} is not recorded: {folder}: {error}; {what}; recording is tried again every {} s",
            RETRY.as_secs()
        )));
        let from = self.seal(state).unwrap_or(part.start_90k);
        self.begin_gap(key, state, GapCause::Disk, from);
        // Now the recorder may leave, and takes the gap along.
        self.volume.refuses();
        state.retry = Some(Instant::now() + RETRY);
    }

    /// Hands the segment to the keeper; gives back where it ends.
    fn seal(&mut self, state: &mut State) -> Option<i64> {
        let current = state.current.take()?;
        // Without it the file is as good: the next start reads it part by part.
        if let Err(error) = current.segment.finish() {
            tracing::debug!("{}: no tail: {error}", current.segment.row().path);
        }
        self.volume.sealing().push(current.segment);
        Some(current.end_90k)
    }

    fn begin_gap(&mut self, key: &Key, state: &mut State, cause: GapCause, from_90k: i64) {
        if state.gap.as_ref().is_some_and(|gap| gap.cause == cause) {
            return;
        }
        if let Some(gap) = state.gap.take() {
            self.end_gap(key, gap, from_90k.max(self.now_90k()), self.stepped(state));
            state.offset_90k = self.volume.clock.offset_90k();
        }
        state.gap = Some(Gap { start_90k: from_90k, end_90k: from_90k, cause });
        self.show_gap(key, state);
    }

    /// How far the box's clock was set ahead meanwhile.
    fn stepped(&self, state: &State) -> i64 {
        let by = state.offset_90k - self.volume.clock.offset_90k();
        if by > ticks_90k(ClockAnchor::STEP) { by } else { 0 }
    }

    fn end_gap(&mut self, key: &Key, mut gap: Gap, end_90k: i64, stepped_90k: i64) {
        self.volume.shelf.gaps().remove(key);
        if stepped_90k > 0 {
            let passed = (end_90k - stepped_90k).max(gap.start_90k);
            let skipped = Gap { start_90k: passed, end_90k, cause: GapCause::Clock };
            self.put_gap(key, &skipped);
            return self.end_gap(key, gap, passed, 0);
        }
        // A row that a tick has made is put right, however short.
        if end_90k - gap.start_90k > TOLERANCE_90K || gap.end_90k > gap.start_90k {
            self.lengthen(key, &mut gap, end_90k);
            // Not where a tick thought it would end: recording begins with a picture, its part comes later.
            gap.end_90k = end_90k.max(gap.start_90k);
            self.put_gap(key, &gap);
        }
    }

    /// What the index refuses is put again with each tick.
    fn put_gap(&mut self, key: &Key, gap: &Gap) {
        let put = self.volume.shelf.index.put_gap(&key.0, stream(key.1), gap);
        if self.indexed(put).is_none() && self.owed.len() < MAX_OWED {
            self.owed.insert((key.clone(), gap.start_90k), gap.clone());
        }
    }

    fn lengthen(&self, key: &Key, gap: &mut Gap, end_90k: i64) {
        let label = CameraCause::new(&*key.0, gap.cause.as_str());
        let seconds = (end_90k - gap.end_90k).max(0) as f64 / VIDEO_CLOCK as f64;
        self.volume.health.metrics.gap_seconds.get_or_create(&label).inc_by(seconds);
        gap.end_90k = gap.end_90k.max(end_90k);
    }

    fn show_gap(&self, key: &Key, state: &State) {
        if let Some(gap) = &state.gap {
            self.volume.shelf.gaps().insert(key.clone(), gap.clone());
        }
    }

    fn tick(&mut self) {
        self.ticked = Instant::now();
        let with_rows = self.rows.elapsed() >= GAP_ROWS;
        if with_rows {
            self.rows = Instant::now();
        }
        // The part of pictures that came since may be in the making.
        let now = self.now_90k() - TOLERANCE_90K;
        for ((key, _), gap) in std::mem::take(&mut self.owed) {
            self.put_gap(&key, &gap);
        }
        let mut feeds = std::mem::take(&mut self.feeds);
        for (key, state) in &mut feeds {
            let now = now - self.stepped(state);
            if let Some(gap) = state.gap.as_mut().filter(|gap| now - gap.start_90k > TOLERANCE_90K) {
                self.lengthen(key, gap, now);
                if with_rows {
                    self.put_gap(key, gap);
                }
            }
            self.show_gap(key, state);
        }
        self.feeds = feeds;
    }

    /// An index that refuses costs no video: rows of files come with the seal, or from the files at the next start.
    fn indexed<T>(&self, result: rusqlite::Result<T>) -> Option<T> {
        if let Err(error) = &result {
            self.volume.index_failed(error);
        }
        self.volume.alarms.index(result.as_ref().err());
        result.ok()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::media::cmaf::Packager;
    use crate::media::{AccessUnit, Sample, VideoCodec, VideoParams};

    /// Independent parts of one picture of so many bytes, which share them.
    fn parts(bytes: usize, count: i64, is_rap: bool) -> Vec<Arc<Part>> {
        let params = Arc::new(VideoParams {
            codec: VideoCodec::H264,
            parameter_sets: Vec::new(),
            width: 320,
            height: 240,
            reorder: 0,
            rfc6381: String::new(),
        });
        let data = Bytes::from(vec![1; bytes]);
        let mut packager = Packager::new(1, 0, None);
        let mut parts = Vec::new();
        for at in 0..=count {
            let unit = AccessUnit {
                seq: at as u64,
                run: 1,
                pts_90k: at * VIDEO_CLOCK,
                dts_90k: at * VIDEO_CLOCK,
                is_rap: at == 0 || is_rap,
                params: params.clone(),
                data: data.clone(),
            };
            parts.extend(packager.push(&Sample::Video(Arc::new(unit))).map(Arc::new));
        }
        parts
    }

    #[test]
    fn past_the_budget_parts_are_refused_up_to_an_independent_one_that_fits() {
        let (queue, refusing) = (Queue::default(), AtomicBool::new(false));
        let key = (Id::from("gate"), Feed::Main);
        let large = parts(60 << 20, 5, true);
        let told: Vec<_> = large.iter().map(|part| queue.part(&key, part.clone(), &refusing)).collect();
        let refused = |first| Taken::Refused { first };
        assert_eq!(told, [Taken::In, Taken::In, Taken::In, Taken::In, refused(true)]);
        // It would fit, but cannot be decoded without what was refused.
        let small = parts(100, 3, false).pop().unwrap();
        assert!(!small.independent);
        assert_eq!(queue.part(&key, small, &refusing), refused(false));
        assert_eq!(queue.part(&key, large[4].clone(), &refusing), refused(false), "told once");
        let mut kinds = String::new();
        let mut take = |queue: &Queue| match queue.next(Duration::ZERO).unwrap() {
            Some((_, Message::Part(_))) => kinds.push('p'),
            Some((_, Message::Overflow)) => kinds.push('o'),
            _ => kinds.push('-'),
        };
        take(&queue);
        assert_eq!(queue.part(&key, large[4].clone(), &refusing), Taken::In);
        (0..6).for_each(|_| take(&queue));
        assert_eq!(kinds, "ppppop-");
    }
}
