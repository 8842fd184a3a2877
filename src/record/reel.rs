//! What is recorded, sample by sample: for whoever sends pictures and not files, at a pace of their own (RTSP).
//!
//! A reel holds one part's samples at a time and asks the archive for ten minutes of segments at most, so that it costs
//! the same however long the range is. Gaps are jumped over; a new run begins behind each, and where parameters change.
//!
//! What does not belong here: pace, and how samples travel.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use super::RecordError;
use super::archive::{Archive, Found, JOIN_90K, random_access_points};
use super::recovery::{Parts, head};
use crate::media::cmaf::read::{Fragment, Head};
use crate::media::cmaf::rescale;
use crate::media::cmaf::tail::Point;
use crate::media::{AccessUnit, AudioFrame, AudioParams, Sample, VIDEO_CLOCK, VideoParams};

/// How much of the index is asked for at once.
const AHEAD_90K: i64 = 600 * VIDEO_CLOCK;

/// Reads a range of a camera's recordings, from the random access point at or before its start. Blocks.
pub struct Reel {
    archive: Archive,
    camera: String,
    /// Where the range ends.
    end_90k: i64,
    /// Key pictures alone.
    keys_only: bool,
    /// The next segments, oldest first, and up to where they were asked for.
    ahead: VecDeque<Found>,
    asked_90k: i64,
    open: Option<Open>,
    seq: u64,
    run: u64,
    /// Where what was read last ends.
    end_of_last_90k: Option<i64>,
    /// There is a gap before the segment that is read, and nothing of it was read yet.
    behind_gap: bool,
}

/// The segment that is read.
struct Open {
    found: Found,
    file: File,
    head: Head,
    video: Arc<VideoParams>,
    audio: Option<Arc<AudioParams>>,
    /// Where the next part begins.
    at: u64,
    /// What is left of its random access points, where only these are read.
    points: VecDeque<Point>,
}

impl Archive {
    /// What is recorded of a camera's main feed in a range of 90 kHz ticks; an error where that is nothing.
    pub fn reel(&self, camera: &str, range: Range<i64>, keys_only: bool) -> Result<Reel, RecordError> {
        let mut reel = Reel {
            archive: self.clone(),
            camera: camera.to_owned(),
            end_90k: range.end,
            keys_only,
            ahead: VecDeque::new(),
            asked_90k: range.start,
            open: None,
            seq: 0,
            run: 0,
            end_of_last_90k: None,
            behind_gap: true,
        };
        if !reel.open_next(Some(range.start))? {
            return Err(RecordError::Nothing { camera: camera.to_owned() });
        }
        Ok(reel)
    }
}

impl Reel {
    /// What a decoder must know of what comes next; nothing at the end.
    pub fn params(&self) -> Option<(Arc<VideoParams>, Option<Arc<AudioParams>>)> {
        self.open.as_ref().map(|open| (open.video.clone(), open.audio.clone()))
    }

    /// The next samples in the order of their decode times, at most a part's; none at the end.
    pub fn read(&mut self) -> Result<Option<Vec<Sample>>, RecordError> {
        loop {
            let Some(open) = &mut self.open else { return Ok(None) };
            let read = if self.keys_only { open.next_key() } else { open.next_part() };
            match read.map_err(RecordError::io(&open.found.file))? {
                Some((fragment, payload)) => {
                    let samples = self.samples(&fragment, &payload);
                    if samples.is_empty() {
                        self.open = None;
                    } else {
                        return Ok(Some(samples));
                    }
                }
                None => {
                    self.open_next(None)?;
                }
            }
        }
    }

    /// Opens the next segment that can be read; false where the range ends before one. The first one is entered at the
    /// random access point at or before `start`.
    fn open_next(&mut self, start: Option<i64>) -> Result<bool, RecordError> {
        let before = self.open.take().map(|open| open.found.row.end_90k);
        let mut start = start;
        while let Some(found) = self.next_segment(start.is_some())? {
            let opened = Open::new(found.clone(), start, self.keys_only);
            if let Some(open) = opened.map_err(RecordError::io(&found.file))? {
                let hole = before.map(|end| open.found.row.start_90k - end);
                self.behind_gap = hole.is_none_or(|hole| hole.abs() >= JOIN_90K);
                self.open = Some(open);
                return Ok(true);
            }
            start = start.filter(|&start| start >= found.row.end_90k);
        }
        Ok(false)
    }

    fn next_segment(&mut self, first: bool) -> Result<Option<Found>, RecordError> {
        while self.ahead.is_empty() && self.asked_90k < self.end_90k {
            let until = self.asked_90k.saturating_add(AHEAD_90K).min(self.end_90k);
            let mut found = self.archive.segments(&self.camera, &(self.asked_90k..until))?;
            // What reaches into a later stretch is known from the one before.
            found.retain(|found| first || found.row.start_90k >= self.asked_90k);
            self.ahead = found.into();
            self.asked_90k = match self.ahead.is_empty() {
                false => until,
                // One tick earlier: a segment that begins right there is the next one.
                true => match self.archive.neighbours(&self.camera, until - 1)? {
                    (_, Some(after)) => after,
                    (_, None) => self.end_90k,
                },
            };
        }
        Ok(self.ahead.pop_front())
    }

    fn samples(&mut self, fragment: &Fragment, payload: &Bytes) -> Vec<Sample> {
        let Some(open) = &self.open else { return Vec::new() };
        let origin_90k = open.head.about.origin_90k;
        let begin_90k = origin_90k.saturating_add(fragment.video.decode_time);
        // Between key pictures alone there is always a hole: there the segments tell whether it is a gap.
        let broken = match self.end_of_last_90k.map(|end| begin_90k - end) {
            None => true,
            Some(hole) if self.keys_only => self.behind_gap || hole < 0,
            Some(hole) => hole.abs() >= JOIN_90K,
        };
        self.behind_gap = false;
        self.run += u64::from(broken);
        let (mut at, mut dts_90k) = (0, begin_90k);
        // The last one that is shown before the end, and those that are decoded before it.
        let shown = fragment.video.presentation().map(|shown| origin_90k.saturating_add(shown));
        let kept = shown
            .collect::<Vec<_>>()
            .iter()
            .rposition(|&shown| shown < self.end_90k)
            .map_or(0, |last| last + 1);
        let mut placed: Vec<(i64, Sample)> = Vec::new();
        for (number, sample) in fragment.video.samples.iter().enumerate() {
            let from = at;
            at += sample.size as usize;
            let duration = i64::from(sample.duration);
            if number < kept
                && let Some(data) = payload.get(from..at).map(|data| payload.slice_ref(data))
            {
                let unit = AccessUnit {
                    seq: self.seq,
                    run: self.run,
                    pts_90k: dts_90k.saturating_add(sample.offset.into()),
                    dts_90k,
                    is_rap: number == 0 && fragment.video.independent,
                    params: open.video.clone(),
                    data,
                };
                self.seq += 1;
                placed.push((dts_90k, Sample::Video(Arc::new(unit))));
            }
            dts_90k = dts_90k.saturating_add(duration);
        }
        self.end_of_last_90k = Some(dts_90k);
        if let (Some(params), Some(audio), false) = (&open.audio, &fragment.audio, self.keys_only) {
            let rate = params.clock_rate.into();
            let mut pts = rescale(origin_90k, VIDEO_CLOCK, rate).saturating_add(audio.decode_time);
            for sample in &audio.samples {
                let from = at;
                at += sample.size as usize;
                let Some(data) = payload.get(from..at) else { break };
                let (data, params, duration) = (payload.slice_ref(data), params.clone(), sample.duration);
                let frame = AudioFrame { run: self.run, pts, duration, params, data };
                pts = pts.saturating_add(duration.into());
                if frame.pts_90k() < self.end_90k {
                    placed.push((frame.pts_90k(), Sample::Audio(Arc::new(frame))));
                }
            }
            placed.sort_by_key(|(at_90k, _)| *at_90k);
        }
        placed.into_iter().map(|(_, sample)| sample).collect()
    }
}

impl Open {
    /// `None` where retention was faster, or nothing can be played.
    fn new(found: Found, start: Option<i64>, keys_only: bool) -> io::Result<Option<Open>> {
        let Some(file) = found.open()? else { return Ok(None) };
        let Some(head) = head(&file)? else { return Ok(None) };
        let Some(video) = head.video_params() else { return Ok(None) };
        let audio = head.audio_params().map(Arc::new);
        let mut at = head.size() as u64;
        let mut points = VecDeque::new();
        if keys_only || start.is_some() {
            points = random_access_points(&found)?.into();
            let start = start.unwrap_or(i64::MIN);
            let entry = points.iter().rposition(|point| point.start_90k <= start).unwrap_or(0);
            points.drain(..entry);
            at = points.front().map_or(at, |point| point.offset);
        }
        Ok(Some(Open { found, file, head, video: Arc::new(video), audio, at, points }))
    }

    fn next_part(&mut self) -> io::Result<Option<(Fragment, Bytes)>> {
        let mut parts = Parts::new(&self.file, self.at, self.found.written());
        let Some((at, fragment)) = parts.next()? else { return Ok(None) };
        self.at = parts.at;
        let bytes = fragment.video.bytes() + fragment.audio.as_ref().map_or(0, |audio| audio.bytes());
        self.payload(at, fragment, bytes).map(Some)
    }

    /// The next part that begins with a key picture, and of its payload that picture alone.
    fn next_key(&mut self) -> io::Result<Option<(Fragment, Bytes)>> {
        while let Some(point) = self.points.pop_front() {
            let Some((at, mut fragment)) =
                Parts::new(&self.file, point.offset, self.found.written()).next()?
            else {
                continue;
            };
            fragment.video.samples.truncate(1);
            let bytes = fragment.video.bytes();
            return self.payload(at, fragment, bytes).map(Some);
        }
        Ok(None)
    }

    fn payload(&self, at: u64, fragment: Fragment, bytes: u64) -> io::Result<(Fragment, Bytes)> {
        let mut payload = vec![0; bytes as usize];
        self.file.read_exact_at(&mut payload, at + fragment.header.len() as u64)?;
        Ok((fragment, payload.into()))
    }
}
