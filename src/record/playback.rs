//! What is recorded, as players ask for it: film in pieces for HLS, ranges of one segment's bytes, and the access units
//! of the picture at any instant.
//!
//! A player gets the recorded files themselves, byte for byte as long as they are on the disk, so that a range means the
//! same whatever is recorded or removed meanwhile. Only decode times and edits are changed on the way: a file counts
//! from its own first picture, a player needs all files on one timeline.
//!
//! What does not belong here: playlists (`relay::vod`), HTTP (`api`), and one mp4 of a range (`export`).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use super::archive::{Archive, Found, JOIN_90K, random_access_points};
use super::recovery::{Parts, head};
use super::{MAX_EXPORT, RecordError, ticks};
use crate::media::cmaf::read::{Fragment, Head};
use crate::media::cmaf::rescale;
use crate::media::cmaf::tail::Point;
use crate::media::{AccessUnit, VIDEO_CLOCK, VideoParams, time};

/// A piece lasts at least so long, and ends with a GOP: players fetch a whole one before they show anything of it. A little
/// below four seconds, since GOPs of one or two are now and then a few ticks short.
const PIECE_90K: i64 = 4 * VIDEO_CLOCK - VIDEO_CLOCK / 4;

/// What is read at once.
const CHUNK: usize = 256 << 10;

/// How far behind a picture in output order one may be that is decoded before it.
const REORDERED_90K: i64 = VIDEO_CLOCK;

/// What a player fetches at once: some GOPs of one segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The segment's first picture; names it among the camera's.
    pub segment_90k: i64,
    /// The instant that shall be the timeline's zero in this segment.
    pub zero_90k: i64,
    /// Where in the segment it lies.
    pub bytes: Range<u64>,
    pub start_90k: i64,
    pub duration_90k: i64,
    /// Bytes of the segment's head, where a player needs it: at the beginning, and where parameters change.
    pub head: Option<u64>,
    /// There is a gap before it, or other parameters begin.
    pub discontinuity: bool,
}

impl Archive {
    /// The film of a range in pieces, oldest first: from the random access point at or before its start, to the one at
    /// or after its end. It includes the segment that is being written, as far as it is.
    pub fn film(&self, camera: &str, range: Range<Timestamp>) -> Result<Vec<Piece>, RecordError> {
        let range = ticks(&range)?;
        if (range.end - range.start) as u64 > MAX_EXPORT.as_secs() * VIDEO_CLOCK as u64 {
            return Err(RecordError::TooLong);
        }
        let mut film = Film { range: range.clone(), pieces: Vec::new(), before: None };
        for found in self.segments(camera, &range)? {
            film.add(&found).map_err(RecordError::io(&found.file))?;
        }
        if film.pieces.is_empty() {
            return Err(RecordError::Nothing { camera: camera.to_owned() });
        }
        Ok(film.pieces)
    }

    /// The segment that begins there, to be read by a player whose timeline's zero is that instant.
    pub fn segment(&self, camera: &str, start_90k: i64, zero_90k: i64) -> Result<SegmentReader, RecordError> {
        let nothing = || RecordError::Nothing { camera: camera.to_owned() };
        let end = start_90k.checked_add(1).ok_or_else(nothing)?;
        let found = self.segments(camera, &(start_90k..end))?;
        let found = found.into_iter().find(|found| found.row.start_90k == start_90k).ok_or_else(nothing)?;
        let reader = SegmentReader::open(&found, zero_90k).map_err(RecordError::io(&found.file))?;
        reader.ok_or_else(nothing)
    }

    /// The access units that a decoder needs for the picture that was on screen at an instant: a random access point
    /// first, that picture last. They hold at most `most` bytes.
    pub fn picture(
        &self,
        camera: &str,
        at: Timestamp,
        most: usize,
    ) -> Result<Vec<Arc<AccessUnit>>, RecordError> {
        let at_90k = time::to_90k(at);
        let near = at_90k.saturating_sub(JOIN_90K)..at_90k.saturating_add(REORDERED_90K);
        let found = self.segments(camera, &near)?;
        let holder = found.iter().rposition(|found| found.row.start_90k <= at_90k);
        let Some(holder) = holder else { return Err(self.missing(camera, at)) };
        let mut gop = Gop { at_90k, samples: Vec::new(), files: Vec::new(), wanted: None };
        for found in &found[holder..] {
            if !gop.add(found).map_err(RecordError::io(&found.file))? {
                break;
            }
        }
        match gop.read(most).map_err(RecordError::io(&found[holder].file))? {
            Some(units) if units.is_empty() => Err(self.missing(camera, at)),
            Some(units) => Ok(units),
            None => Err(RecordError::FarKeyPicture),
        }
    }

    fn missing(&self, camera: &str, at: Timestamp) -> RecordError {
        let near = at..at.saturating_add(std::time::Duration::from_millis(1)).unwrap_or(Timestamp::MAX);
        let listed = if near.is_empty() { Ok(Vec::new()) } else { self.list(camera, near) };
        let cause = listed.ok().and_then(|stretches| {
            stretches.into_iter().find_map(|stretch| match stretch {
                super::Stretch::Gap { cause, .. } => Some(cause),
                super::Stretch::Recorded { .. } => None,
            })
        });
        let (before, after) = self.neighbours(camera, time::to_90k(at)).unwrap_or_default();
        let instant = |ticks: Option<i64>| ticks.map(time::from_90k);
        let (before, after) = (instant(before), instant(after));
        RecordError::Missing { camera: camera.to_owned(), at, cause, before, after }
    }
}

/// Pieces in the making.
struct Film {
    range: Range<i64>,
    pieces: Vec<Piece>,
    before: Option<Before>,
}

/// The segment before.
struct Before {
    head: Head,
    end_90k: i64,
    zero_90k: i64,
}

impl Film {
    fn add(&mut self, found: &Found) -> io::Result<()> {
        let (start_90k, end_90k, bytes) = (found.row.start_90k, found.row.end_90k, found.row.bytes);
        let Some(head) = found.open()?.map(|file| head(&file)).transpose()?.flatten() else { return Ok(()) };
        let mut points = random_access_points(found)?;
        // What was written since belongs to the next who asks.
        points.retain(|point| point.offset < bytes);
        let (same, hole, mut zero_90k) = match &self.before {
            Some(before) => (
                before.head.same_video(&head) && before.head.same_audio(&head),
                start_90k - before.end_90k,
                before.zero_90k,
            ),
            None => (false, 0, head.about.origin_90k),
        };
        // A clock that stepped back must not make the timeline fall.
        zero_90k += hole.min(0);
        let discontinuity = self.before.is_some() && (!same || hole.abs() >= JOIN_90K);
        let first = self.pieces.len();
        let begin = points.iter().rposition(|point| point.start_90k <= self.range.start).unwrap_or(0);
        for &Point { offset: at, start_90k: shown_90k } in points.get(begin..).unwrap_or_default() {
            if shown_90k >= self.range.end {
                break;
            }
            let new = match self.pieces[first..].last_mut() {
                Some(piece) if shown_90k - piece.start_90k >= PIECE_90K => {
                    piece.end(at, shown_90k);
                    true
                }
                Some(_) => false,
                None => true,
            };
            if new {
                self.pieces.push(Piece {
                    segment_90k: start_90k,
                    zero_90k,
                    bytes: at..bytes,
                    start_90k: shown_90k,
                    duration_90k: (end_90k - shown_90k).max(1),
                    head: None,
                    discontinuity: false,
                });
            }
        }
        // The last one ends where the first GOP behind the range begins.
        if let Some(piece) = self.pieces[first..].last_mut()
            && let Some(point) = points
                .iter()
                .find(|point| point.offset > piece.bytes.start && point.start_90k >= self.range.end)
        {
            piece.end(point.offset, point.start_90k);
        }
        let Some(piece) = self.pieces.get_mut(first) else { return Ok(()) };
        (piece.discontinuity, piece.head) = (discontinuity, (!same).then_some(head.size() as u64));
        let begins_90k = piece.start_90k;
        if !discontinuity && let Some(before) = first.checked_sub(1).and_then(|at| self.pieces.get_mut(at)) {
            // With the few pictures that may be missing between two runs.
            before.duration_90k = (begins_90k - before.start_90k).max(1);
        }
        self.before = Some(Before { head, end_90k, zero_90k });
        Ok(())
    }
}

impl Piece {
    fn end(&mut self, at: u64, shown_90k: i64) {
        self.bytes.end = at;
        self.duration_90k = (shown_90k - self.start_90k).max(1);
    }
}

/// Reads ranges of one segment's bytes, moved onto a player's timeline.
pub struct SegmentReader {
    file: File,
    /// Whole parts end there.
    length: u64,
    /// What is added to decode times, in ticks of 90 kHz and of the audio's clock.
    shift: (i64, i64),
    points: Vec<Point>,
    head: Bytes,
    at: u64,
    end: u64,
    /// Bytes that are changed, and where they stand: the head's, or those of the part's header that is read.
    changed: Bytes,
    changed_at: u64,
    /// Where the part that is read ends.
    part_end: u64,
}

impl SegmentReader {
    fn open(found: &Found, zero_90k: i64) -> io::Result<Option<SegmentReader>> {
        let Some(file) = found.open()? else { return Ok(None) };
        let Some(head) = head(&file)? else { return Ok(None) };
        let length = found.written();
        let by = |rate| {
            rescale(head.about.origin_90k, VIDEO_CLOCK, rate).saturating_sub(rescale(
                zero_90k,
                VIDEO_CLOCK,
                rate,
            ))
        };
        let shift = (by(VIDEO_CLOCK), by(head.audio_timescale().unwrap_or(VIDEO_CLOCK as u32).into()));
        let points = random_access_points(found)?;
        let head = Bytes::from(head.unedited());
        let (changed, part_end) = (head.clone(), head.len() as u64);
        let end = length;
        Ok(Some(SegmentReader {
            file,
            length,
            shift,
            points,
            head,
            at: 0,
            end,
            changed,
            changed_at: 0,
            part_end,
        }))
    }

    /// Bytes that there are.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// What is read from now on.
    pub fn seek(&mut self, range: Range<u64>) {
        (self.at, self.end) = (range.start, range.end.min(self.length));
        (self.changed, self.changed_at) = (self.head.clone(), 0);
        let nearest = self.points.iter().map(|point| point.offset).rfind(|&at| at <= self.at);
        self.part_end = match nearest {
            Some(at) => at,
            None => self.head.len() as u64,
        };
    }

    /// The next bytes; none at the end.
    pub fn read(&mut self) -> io::Result<Option<Bytes>> {
        let mut chunk = Vec::with_capacity(self.end.saturating_sub(self.at).min(CHUNK as u64) as usize);
        while chunk.len() < CHUNK && self.at < self.end {
            self.fill(&mut chunk)?;
        }
        Ok((!chunk.is_empty()).then(|| chunk.into()))
    }

    fn fill(&mut self, chunk: &mut Vec<u8>) -> io::Result<()> {
        let in_head = self.at < self.head.len() as u64;
        while !in_head && self.at >= self.part_end {
            match Parts::new(&self.file, self.part_end, self.length).next()? {
                Some((at, mut fragment)) => {
                    fragment.shift(self.shift.0, self.shift.1);
                    (self.changed_at, self.part_end) = (at, at + fragment.size as u64);
                    self.changed = fragment.header.into();
                }
                // What is no part of ours is left as it is.
                None => (self.changed_at, self.part_end) = (self.length, self.length),
            }
        }
        let room = (self.end - self.at).min((CHUNK - chunk.len()) as u64) as usize;
        let changed = self.at.checked_sub(self.changed_at).and_then(|from| self.changed.get(from as usize..));
        match changed.filter(|changed| !changed.is_empty()) {
            Some(changed) => {
                let taken = changed.len().min(room);
                chunk.extend_from_slice(&changed[..taken]);
                self.at += taken as u64;
            }
            None => {
                let taken = room.min(self.part_end.saturating_sub(self.at) as usize);
                let from = chunk.len();
                chunk.resize(from + taken, 0);
                self.file.read_exact_at(&mut chunk[from..], self.at)?;
                self.at += taken as u64;
            }
        }
        Ok(())
    }
}

/// Pictures from a random access point up to the one of an instant, in decode order.
struct Gop {
    at_90k: i64,
    files: Vec<(File, Arc<VideoParams>, Head)>,
    samples: Vec<Placed>,
    /// The one on screen at the instant.
    wanted: Option<usize>,
}

/// Where a picture lies.
struct Placed {
    file: usize,
    at: u64,
    size: u32,
    pts_90k: i64,
    dts_90k: i64,
    is_rap: bool,
}

impl Gop {
    /// Takes the pictures of a segment; false where no later one can be the wanted picture.
    fn add(&mut self, found: &Found) -> io::Result<bool> {
        let Some(file) = found.open()? else { return Ok(false) };
        let Some(head) = head(&file)? else { return Ok(false) };
        // Reordered pictures of the end of a run may stand behind the next random access point, not behind another run's.
        let goes_on = self.files.first().is_none_or(|(.., first)| first.same_video(&head));
        let Some(params) = head.video_params().filter(|_| goes_on) else { return Ok(false) };
        let begin = if self.files.is_empty() {
            let points = random_access_points(found)?;
            let point = points.iter().rfind(|point| point.start_90k <= self.at_90k).or(points.first());
            point.map(|point| point.offset)
        } else {
            Some(head.size() as u64)
        };
        let Some(begin) = begin else { return Ok(false) };
        let number = self.files.len();
        let mut parts = Parts::new(&file, begin, found.row.bytes);
        while let Some((at, fragment)) = parts.next()? {
            if !self.take(number, at, &fragment, head.about.origin_90k) {
                return Ok(self.keep(file, params, head, false));
            }
        }
        Ok(self.keep(file, params, head, true))
    }

    fn keep(&mut self, file: File, params: VideoParams, head: Head, more: bool) -> bool {
        self.files.push((file, params.into(), head));
        more
    }

    /// False where the part's pictures, and so all behind them, come after the instant.
    fn take(&mut self, file: usize, at: u64, fragment: &Fragment, origin_90k: i64) -> bool {
        let mut dts_90k = origin_90k.saturating_add(fragment.video.decode_time);
        let mut place = at + fragment.header.len() as u64;
        for (n, sample) in fragment.video.samples.iter().enumerate() {
            if dts_90k > self.at_90k {
                return false;
            }
            let pts_90k = dts_90k + i64::from(sample.offset);
            let newest = self.wanted.and_then(|wanted| self.samples.get(wanted));
            if pts_90k <= self.at_90k && newest.is_none_or(|newest| newest.pts_90k < pts_90k) {
                self.wanted = Some(self.samples.len());
            }
            let is_rap = n == 0 && fragment.video.independent;
            self.samples.push(Placed { file, at: place, size: sample.size, pts_90k, dts_90k, is_rap });
            place += u64::from(sample.size);
            dts_90k += i64::from(sample.duration);
        }
        true
    }

    /// Up to the wanted picture; none where that is more than `most` bytes.
    fn read(mut self, most: usize) -> io::Result<Option<Vec<Arc<AccessUnit>>>> {
        let Some(wanted) = self.wanted else { return Ok(Some(Vec::new())) };
        self.samples.truncate(wanted + 1);
        let bytes: u64 = self.samples.iter().map(|sample| u64::from(sample.size)).sum();
        if bytes > most as u64 {
            return Ok(None);
        }
        let mut units = Vec::with_capacity(self.samples.len());
        for (seq, sample) in self.samples.iter().enumerate() {
            let Some((file, params, _)) = self.files.get(sample.file) else { break };
            let mut data = vec![0; sample.size as usize];
            file.read_exact_at(&mut data, sample.at)?;
            units.push(Arc::new(AccessUnit {
                seq: seq as u64,
                run: 0,
                pts_90k: sample.pts_90k,
                dts_90k: sample.dts_90k,
                is_rap: sample.is_rap,
                params: params.clone(),
                data: data.into(),
            }));
        }
        Ok(Some(units))
    }
}
