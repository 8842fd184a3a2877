//! The reading side of the ring: beside the daemon's writers, or alone in a command of another process.
//!
//! A [`Shelf`] is what one volume holds; an [`Archive`] answers from all of them as if they were one. What does not
//! belong here: how an export is made (`export`), and anything that writes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;

use super::index::{Gap, Hour, Index, Row};
use super::recovery::{self, Whole};
use super::segment::Segment;
use super::writer::Key;
use super::{
    GapCause, MAX_EXPORT, MAX_EXPORTS, RecordError, Stretch, export, stream, thread, ticks, volumes,
};
use crate::config::Config;
use crate::media::cmaf::tail::Point;
use crate::media::{Feed, VIDEO_CLOCK, time};

/// Stretches with less than this between them are told as one: also over a restart of the daemon that took no longer,
/// which leaves no gap.
pub(super) const JOIN_90K: i64 = VIDEO_CLOCK / 2;

const HOUR_90K: i64 = 3600 * VIDEO_CLOCK;

/// What one volume holds.
pub(super) struct Shelf {
    pub recordings: PathBuf,
    pub index: Index,
    /// Segments that are being written or not sealed yet, by path; none where this process only reads.
    open: Mutex<BTreeMap<String, Arc<Segment>>>,
    /// Gaps that are still running.
    gaps: Mutex<BTreeMap<Key, Gap>>,
}

impl Shelf {
    pub(super) fn new(recordings: PathBuf, index: Index) -> Shelf {
        Shelf { recordings, index, open: Mutex::default(), gaps: Mutex::default() }
    }

    pub(super) fn open(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Segment>>> {
        self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn gaps(&self) -> MutexGuard<'_, BTreeMap<Key, Gap>> {
        self.gaps.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn find(&self, camera: &str, range: &Range<i64>) -> Result<Vec<Found>, RecordError> {
        let stream = stream(Feed::Main);
        // Before the index is asked: what is sealed in between is then in both, not in neither.
        let open: Vec<Arc<Segment>> = self.open().values().cloned().collect();
        let mut found = Vec::new();
        for segment in open {
            let row = segment.row();
            if row.camera == camera && row.stream == stream {
                found.push(Found { file: self.recordings.join(&row.path), row, segment: Some(segment) });
            }
        }
        let open = found.len();
        for mut row in self.index.segments(camera, stream, range.start, range.end)? {
            if found[..open].iter().any(|found| found.row.path == row.path) {
                continue;
            }
            let file = self.recordings.join(&row.path);
            if !row.sealed {
                // Another process writes it, or a disk refused: its whole parts count.
                match File::open(&file).and_then(|file| Whole::read(&file)) {
                    Ok(Some(whole)) => (row.end_90k, row.bytes) = (whole.end_90k, whole.bytes),
                    _ => continue,
                }
            }
            found.push(Found { row, file, segment: None });
        }
        found.retain(|found| found.row.end_90k > range.start && found.row.start_90k < range.end);
        Ok(found)
    }

    /// Starts and ends of recorded segments that overlap the range, in no order.
    pub(super) fn spans(
        &self,
        camera: &str,
        range: &Range<i64>,
        mut each: impl FnMut(i64, i64),
    ) -> Result<(), RecordError> {
        let stream = stream(Feed::Main);
        let open: Vec<Row> = self.open().values().map(|segment| segment.row()).collect();
        for row in open.iter().filter(|row| row.camera == camera && row.stream == stream) {
            if row.end_90k > range.start && row.start_90k < range.end {
                each(row.start_90k, row.end_90k);
            }
        }
        // Where this process only reads, those being written end at their start: a time bar can wait for them.
        Ok(self.index.spans(camera, stream, range.start, range.end, each)?)
    }

    fn neighbours(&self, camera: &str, at: i64) -> Result<(Option<i64>, Option<i64>), RecordError> {
        let stream = stream(Feed::Main);
        let (mut before, after) = self.index.neighbours(camera, stream, at)?;
        for segment in self.open().values() {
            let row = segment.row();
            if row.camera == camera && row.stream == stream && row.start_90k <= at {
                before = before.max(Some(row.end_90k));
            }
        }
        Ok((before, after))
    }

    pub(super) fn find_gaps(&self, camera: &str, range: &Range<i64>) -> Result<Vec<Gap>, RecordError> {
        let mut gaps = self.index.gaps(camera, stream(Feed::Main), range.start, range.end)?;
        let running = self.gaps().get(&(camera.into(), Feed::Main)).cloned();
        if let Some(running) = running {
            gaps.retain(|gap| gap.start_90k != running.start_90k);
            gaps.push(Gap { end_90k: time::to_90k(Timestamp::now()), ..running });
        }
        Ok(gaps)
    }
}

/// A recorded file, whole up to where its row says.
#[derive(Clone)]
pub(super) struct Found {
    pub row: Row,
    pub file: PathBuf,
    /// While it is being written.
    segment: Option<Arc<Segment>>,
}

impl Found {
    /// Bytes of whole parts, by now.
    pub(super) fn written(&self) -> u64 {
        self.segment.as_ref().map_or(self.row.bytes, |segment| segment.row().bytes)
    }

    /// The file, or nothing where retention was faster.
    pub(super) fn open(&self) -> io::Result<Option<File>> {
        match File::open(&self.file) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Which codecs files have: those with the same sample entries are looked at once.
#[derive(Default)]
struct Codecs(HashMap<u32, Vec<u8>>);

impl Codecs {
    /// The sample entry's type; none of a file that is gone.
    fn of(&mut self, found: &Found) -> Option<Vec<u8>> {
        let entries = found.row.entries;
        if let Some(known) = self.0.get(&entries) {
            return Some(known.clone());
        }
        let file = found.open().ok()??;
        let codec = recovery::head(&file).ok()??.video_kind().to_vec();
        // Nothing is known of a file that an earlier version has indexed.
        if entries != 0 {
            self.0.insert(entries, codec.clone());
        }
        Some(codec)
    }

    /// Whether the one mp4 that holds a file ends before the next. What is gone ends none.
    fn differ(&mut self, before: &Found, next: &Found) -> bool {
        let (entries, other) = (before.row.entries, next.row.entries);
        if entries == other && entries != 0 {
            return false;
        }
        let codecs = (self.of(before), self.of(next));
        matches!(codecs, (Some(before), Some(next)) if before != next)
    }
}

/// What is recorded, on all volumes.
#[derive(Clone)]
pub struct Archive {
    /// Empty where a volume is away.
    shelves: Arc<[ArcSwapOption<Shelf>]>,
    exports: Arc<AtomicUsize>,
    /// Volumes that could not be read, and why, where this process only reads.
    away: Arc<[(PathBuf, String)]>,
}

impl Archive {
    pub(super) fn new(volumes: usize) -> Archive {
        let shelves = (0..volumes).map(|_| ArcSwapOption::empty()).collect();
        Archive { shelves, exports: Arc::default(), away: Arc::default() }
    }

    /// Opens what is recorded for a process that only reads; the daemon may run meanwhile. A volume that is away is said
    /// to be, and the others are read.
    pub fn read(config: &Config) -> Result<Archive, RecordError> {
        let volumes = volumes(&config.data, &config.record);
        let mut archive = Archive::new(volumes.len());
        let (mut failed, mut away) = (None, Vec::new());
        for (at, (volume, _)) in volumes.iter().enumerate() {
            let (recordings, index) = places(&volume.path);
            match Index::read(&index) {
                Ok(index) => archive.put(at, Some(Arc::new(Shelf::new(recordings, index)))),
                Err(error) => {
                    tracing::warn!("volume {} is away, and what it holds is not told: {error}", volume.name);
                    away.push((volume.path.clone(), error.to_string()));
                    failed.get_or_insert(error);
                }
            }
        }
        archive.away = away.into();
        match failed {
            Some(error) if archive.shelves().next().is_none() => Err(error),
            _ => Ok(archive),
        }
    }

    /// Volumes that could not be read, and why.
    pub(super) fn away(&self) -> &[(PathBuf, String)] {
        &self.away
    }

    /// Whether every volume is there.
    pub(super) fn is_whole(&self) -> bool {
        self.shelves().count() == self.shelves.len()
    }

    /// Whoever has recordings, configured or not.
    pub fn cameras(&self) -> BTreeSet<String> {
        self.shelves().flat_map(|shelf| shelf.index.cameras()).collect()
    }

    pub(super) fn put(&self, volume: usize, shelf: Option<Arc<Shelf>>) {
        if let Some(slot) = self.shelves.get(volume) {
            slot.store(shelf);
        }
    }

    pub(super) fn shelves(&self) -> impl Iterator<Item = Arc<Shelf>> + '_ {
        self.shelves.iter().filter_map(ArcSwapOption::load_full)
    }

    /// Segments that overlap the range, oldest first, those being written with the ends that they have now.
    pub(super) fn segments(&self, camera: &str, range: &Range<i64>) -> Result<Vec<Found>, RecordError> {
        let mut found = Vec::new();
        for shelf in self.shelves() {
            found.append(&mut shelf.find(camera, range)?);
        }
        found.sort_by_key(|found| found.row.start_90k);
        Ok(found)
    }

    /// What is recorded and what is missing of a camera's main feed, oldest first, within `range`.
    pub fn list(&self, camera: &str, range: Range<Timestamp>) -> Result<Vec<Stretch>, RecordError> {
        let range = ticks(&range)?;
        let mut recorded: Vec<Range<i64>> = Vec::new();
        let (mut codecs, mut before) = (Codecs::default(), None::<Found>);
        for found in self.segments(camera, &range)? {
            let row = &found.row;
            // Where another codec begins another item does: one export ends there.
            let joins = before.as_ref().is_none_or(|before| !codecs.differ(before, &found));
            match recorded.last_mut().filter(|last| joins && row.start_90k - last.end < JOIN_90K) {
                Some(last) => last.end = last.end.max(row.end_90k),
                None => recorded.push(row.start_90k..row.end_90k),
            }
            before = Some(found);
        }
        let mut gaps = Vec::new();
        for shelf in self.shelves() {
            gaps.append(&mut shelf.find_gaps(camera, &range)?);
        }
        // Another volume may have what one has missed.
        let gaps = told_once(gaps.into_iter().flat_map(|gap| without(gap, &recorded)).collect());
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

    /// The range cut where the codec changes: one mp4 holds each. At least one.
    pub fn films(&self, camera: &str, range: Range<Timestamp>) -> Result<Vec<Range<Timestamp>>, RecordError> {
        let found = self.segments(camera, &ticks(&range)?)?;
        let (mut films, mut rest, mut codecs) = (Vec::new(), range, Codecs::default());
        for (before, next) in found.iter().zip(found.iter().skip(1)) {
            let at = time::from_90k(next.row.start_90k);
            if at > rest.start && at < rest.end && codecs.differ(before, next) {
                films.push(std::mem::replace(&mut rest.start, at)..at);
            }
        }
        films.push(rest);
        Ok(films)
    }

    /// Where recording ends before an instant at which there is none, and where it goes on.
    pub(super) fn neighbours(
        &self,
        camera: &str,
        at: i64,
    ) -> Result<(Option<i64>, Option<i64>), RecordError> {
        let (mut before, mut after) = (None, None);
        for shelf in self.shelves() {
            let (ends, begins) = shelf.neighbours(camera, at)?;
            before = before.max(ends);
            after = [after, begins].into_iter().flatten().min();
        }
        Ok((before, after))
    }

    /// Where a stream's recording or its last known gap ends, and the cause where it was a gap.
    pub(super) fn last_end(
        &self,
        camera: &str,
        feed: Feed,
    ) -> Result<Option<(i64, Option<GapCause>)>, rusqlite::Error> {
        let mut last = None;
        for shelf in self.shelves() {
            let of_this = shelf.index.last_end(camera, stream(feed))?;
            last = [last, of_this].into_iter().flatten().max_by_key(|(end, _)| *end);
        }
        Ok(last)
    }

    /// How complete a camera's main feed is in each hour of the range that anything is known of, oldest first.
    pub fn completeness(
        &self,
        camera: &str,
        range: Range<Timestamp>,
    ) -> Result<Vec<Completeness>, RecordError> {
        let range = ticks(&range)?;
        let hours = range.start.div_euclid(HOUR_90K)..(range.end - 1).div_euclid(HOUR_90K) + 1;
        let mut told: BTreeMap<i64, Completeness> = BTreeMap::new();
        let of =
            |hour: i64| Completeness { start: time::from_90k(hour * HOUR_90K), ..Completeness::default() };
        for shelf in self.shelves() {
            for Hour { hour, cause, ticks } in shelf.index.hours(camera, stream(Feed::Main), &hours)? {
                let told = told.entry(hour).or_insert_with(|| of(hour));
                match cause {
                    None => told.recorded += ticks as f64 / VIDEO_CLOCK as f64,
                    Some(cause) => {
                        *told.missing.entry(cause).or_default() += ticks as f64 / VIDEO_CLOCK as f64
                    }
                }
            }
            // What is being written comes to the hours when it is sealed.
            let open = shelf.open().values().map(|segment| segment.row()).collect::<Vec<_>>();
            for row in open.iter().filter(|row| row.camera == camera && row.stream == stream(Feed::Main)) {
                for (hour, seconds) in by_hours(row.start_90k..row.end_90k, &hours) {
                    told.entry(hour).or_insert_with(|| of(hour)).recorded += seconds;
                }
            }
        }
        Ok(told.into_values().collect())
    }

    /// An mp4 of a range, made while it is read, without transcoding. It includes the segment that is being written, and
    /// ends where the codec changes.
    pub fn export(&self, camera: &str, range: Range<Timestamp>) -> Result<Export, RecordError> {
        let range = ticks(&range)?;
        if (range.end - range.start) as u64 > MAX_EXPORT.as_secs() * VIDEO_CLOCK as u64 {
            return Err(RecordError::TooLong);
        }
        let mut found = self.segments(camera, &range)?;
        let mut codecs = Codecs::default();
        let mut pairs = found.iter().zip(found.iter().skip(1));
        if let Some(last) = pairs.position(|(before, next)| codecs.differ(before, next)) {
            found.truncate(last + 1);
        }
        let Some(end_90k) = found.iter().map(|found| found.row.end_90k).max() else {
            return Err(RecordError::Nothing { camera: camera.to_owned() });
        };
        let end = time::from_90k(end_90k.min(range.end));
        let place = Place::take(&self.exports)?;
        let (out, chunks) = tokio::sync::mpsc::channel(4);
        thread("liuta-export", move || {
            export::run(&found, range, &out);
            drop(place);
        })?;
        Ok(Export { chunks, end })
    }
}

/// An mp4 that is being made.
#[derive(Debug)]
pub struct Export {
    /// Its bytes, in pieces. Reading slowly holds it up, dropping it ends it.
    pub chunks: tokio::sync::mpsc::Receiver<io::Result<bytes::Bytes>>,
    /// Where what it holds ends.
    pub end: Timestamp,
}

/// An hour of a camera, in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completeness {
    pub start: Timestamp,
    pub recorded: f64,
    pub missing: BTreeMap<GapCause, f64>,
}

impl Completeness {
    /// 录像完整率: what was recorded of what should have been, 0 to 1; nothing where nothing should have been.
    pub fn ratio(&self) -> Option<f64> {
        let missing: f64 = self
            .missing
            .iter()
            .filter(|(cause, _)| **cause != GapCause::Off)
            .map(|(_, seconds)| seconds)
            .sum();
        let wanted = self.recorded + missing;
        (wanted > 0.0).then(|| (self.recorded / wanted).clamp(0.0, 1.0))
    }
}

/// Several hours as one.
pub fn sum(hours: &[Completeness]) -> Completeness {
    let mut all = Completeness {
        start: hours.first().map(|hour| hour.start).unwrap_or_default(),
        ..Default::default()
    };
    for hour in hours {
        all.recorded += hour.recorded;
        for (cause, seconds) in &hour.missing {
            *all.missing.entry(*cause).or_default() += seconds;
        }
    }
    all
}

fn by_hours(range: Range<i64>, within: &Range<i64>) -> Vec<(i64, f64)> {
    let hours = range.start.div_euclid(HOUR_90K).max(within.start)..=range.end.div_euclid(HOUR_90K);
    let part = |hour: i64| {
        let ticks = range.end.min((hour + 1) * HOUR_90K) - range.start.max(hour * HOUR_90K);
        (hour, ticks.max(0) as f64 / VIDEO_CLOCK as f64)
    };
    hours.take_while(|hour| *hour < within.end).map(part).collect()
}

/// Two volumes may tell of one gap: what overlaps is told once, by the one that began first.
pub(super) fn told_once(mut gaps: Vec<Gap>) -> Vec<Gap> {
    gaps.sort_by_key(|gap| (gap.start_90k, std::cmp::Reverse(gap.end_90k)));
    let mut told: Vec<Gap> = Vec::new();
    for mut gap in gaps {
        if let Some(last) = told.last_mut() {
            if gap.cause == last.cause && gap.start_90k <= last.end_90k {
                last.end_90k = last.end_90k.max(gap.end_90k);
                continue;
            }
            gap.start_90k = gap.start_90k.max(last.end_90k);
        }
        if gap.start_90k < gap.end_90k {
            told.push(gap);
        }
    }
    told
}

/// What of a gap is not recorded after all.
pub(super) fn without(gap: Gap, recorded: &[Range<i64>]) -> Vec<Gap> {
    let (mut left, mut at) = (Vec::new(), gap.start_90k);
    for there in recorded.iter().filter(|there| there.end > gap.start_90k && there.start < gap.end_90k) {
        if there.start > at {
            left.push(Gap { start_90k: at, end_90k: there.start, cause: gap.cause });
        }
        at = at.max(there.end);
    }
    if at < gap.end_90k {
        left.push(Gap { start_90k: at, ..gap });
    }
    left
}

/// One of the exports that may run at once.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(exports: &Arc<AtomicUsize>) -> Result<Place, RecordError> {
        // Dropped again, and so counted down, where it was one too many.
        let place = Place(exports.clone());
        if exports.fetch_add(1, Ordering::AcqRel) >= MAX_EXPORTS { Err(RecordError::Busy) } else { Ok(place) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Random access points of a recorded file, in order.
pub(super) fn random_access_points(found: &Found) -> io::Result<Vec<Point>> {
    if let Some(segment) = &found.segment {
        return Ok(segment.points());
    }
    let Some(file) = found.open()? else { return Ok(Vec::new()) };
    if found.row.sealed
        && let Some((tail, _)) = recovery::tail(&file)?
    {
        return Ok(tail.points);
    }
    Ok(Whole::read(&file)?.map(|whole| whole.points).unwrap_or_default())
}

/// Where a volume at this path keeps its files and its index.
pub(super) fn places(root: &Path) -> (PathBuf, PathBuf) {
    (root.join("recordings"), root.join("index.db"))
}
