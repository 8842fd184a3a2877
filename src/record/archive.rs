//! The reading side of the ring: beside the daemon's writers, or alone in a command of another process.
//!
//! A [`Shelf`] is what one volume holds; an [`Archive`] answers from all of them as if they were one. What does not
//! belong here: how an export is made (`export`), and anything that writes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;

use super::index::{Gap, Index, Row};
use super::segment::Segment;
use super::writer::Key;
use super::{MAX_EXPORT, MAX_EXPORTS, RecordError, Stretch, export, recovery, stream, thread, ticks};
use crate::config::Config;
use crate::media::{Feed, VIDEO_CLOCK, time};

/// Stretches with less than this between them are told as one: also over a restart of the daemon that took no longer,
/// which leaves no gap.
const JOIN_90K: i64 = VIDEO_CLOCK / 2;

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
        for mut row in self.index.segments(camera, stream, range.start, range.end)? {
            if found.iter().any(|found| found.row.path == row.path) {
                continue;
            }
            let file = self.recordings.join(&row.path);
            if !row.sealed {
                // Another process writes it, or a disk refused: its whole parts count.
                match File::open(&file).and_then(|file| recovery::read(&file, &row.path)) {
                    Ok(Some(whole)) => (row.end_90k, row.bytes) = (whole.end_90k, whole.bytes),
                    _ => continue,
                }
            }
            found.push(Found { row, file, segment: None });
        }
        found.retain(|found| found.row.end_90k > range.start && found.row.start_90k < range.end);
        Ok(found)
    }

    fn find_gaps(&self, camera: &str, range: &Range<i64>) -> Result<Vec<Gap>, RecordError> {
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

/// What is recorded, on all volumes.
#[derive(Clone)]
pub struct Archive {
    /// Empty where a volume is away.
    shelves: Arc<[ArcSwapOption<Shelf>]>,
    exports: Arc<AtomicUsize>,
}

impl Archive {
    pub(super) fn new(volumes: usize) -> Archive {
        Archive { shelves: (0..volumes).map(|_| ArcSwapOption::empty()).collect(), exports: Arc::default() }
    }

    /// Opens what is recorded for a process that only reads; the daemon may run meanwhile.
    pub fn read(config: &Config) -> Result<Archive, RecordError> {
        let archive = Archive::new(1);
        let index = Index::read(&config.data.join("index.db"))?;
        archive.put(0, Some(Arc::new(Shelf::new(config.data.join("recordings"), index))));
        Ok(archive)
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
        for Found { row, .. } in self.segments(camera, &range)? {
            match recorded.last_mut().filter(|last| row.start_90k - last.end < JOIN_90K) {
                Some(last) => last.end = last.end.max(row.end_90k),
                None => recorded.push(row.start_90k..row.end_90k),
            }
        }
        let mut gaps = Vec::new();
        for shelf in self.shelves() {
            gaps.append(&mut shelf.find_gaps(camera, &range)?);
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

    /// An mp4 of a range: a stream of its bytes, made while it is read, without transcoding. It includes the segment
    /// that is being written. Reading slowly holds it up, dropping the receiver ends it.
    pub fn export(
        &self,
        camera: &str,
        range: Range<Timestamp>,
    ) -> Result<tokio::sync::mpsc::Receiver<io::Result<bytes::Bytes>>, RecordError> {
        let range = ticks(&range)?;
        if (range.end - range.start) as u64 > MAX_EXPORT.as_secs() * VIDEO_CLOCK as u64 {
            return Err(RecordError::TooLong);
        }
        let found = self.segments(camera, &range)?;
        if found.is_empty() {
            return Err(RecordError::Nothing { camera: camera.to_owned() });
        }
        let place = Place::take(&self.exports)?;
        let (out, receiver) = tokio::sync::mpsc::channel(4);
        thread("liuta-export", move || {
            export::run(&found, range, &out);
            drop(place);
        })?;
        Ok(receiver)
    }
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

/// Random access points of a recorded file: where the part begins, and its first picture's presentation time.
pub(super) fn random_access_points(found: &Found) -> io::Result<Vec<(u64, i64)>> {
    let Some(file) = found.open()? else { return Ok(Vec::new()) };
    let Some(head) = recovery::head(&file)? else { return Ok(Vec::new()) };
    let mut parts = recovery::Parts::new(&file, head.size() as u64, found.written());
    let mut points = Vec::new();
    while let Some((at, fragment)) = parts.next()? {
        if fragment.video.independent {
            let first = fragment.video.presentation().next().unwrap_or(fragment.video.decode_time);
            points.push((at, head.about.origin_90k + first));
        }
    }
    Ok(points)
}

/// Where a volume at this path keeps its files and its index.
pub(super) fn places(root: &Path) -> (PathBuf, PathBuf) {
    (root.join("recordings"), root.join("index.db"))
}
