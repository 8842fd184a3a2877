//! An mp4 of any range, made while it is read: parts are copied from the segments, moved onto one timeline.
//!
//! It begins with the random access point at or before the start, hidden by an edit list, and ends with the last picture
//! before the end (and those that are decoded before it). Gaps keep their length: the file's zero plus its time is the clock's time, where the camera's own
//! clock did not step back. Where parameter sets change they stand in band from then on; where the codec changes the
//! clip ends; where the audio's format changes the audio ends.
//!
//! That parameters change is announced in the clip's head (`avc3`, `hev1`). The index knows which files are alike, so that
//! the first byte does not wait for a look at every file of three days.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use tokio::sync::mpsc::Sender;

use super::archive::{Found, random_access_points};
use super::recovery::{Parts, head};
use crate::media::VIDEO_CLOCK;
use crate::media::cmaf::read::{Fragment, Head};
use crate::media::cmaf::rescale;

/// What is sent at once; a few of these are all the memory that an export holds.
const CHUNK: usize = 256 << 10;

/// Whoever asked has gone.
struct Gone;

enum Stop {
    Gone,
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Io(error)
    }
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Stop {
        Stop::Gone
    }
}

/// Sends the range to whoever reads, on a thread of its own. What is `found` overlaps it, oldest first, and has one codec.
pub(super) fn run(found: &[Found], range: Range<i64>, out: &Sender<io::Result<Bytes>>) {
    if let Err(Stop::Io(error)) = export(found, range, out) {
        let _ = out.blocking_send(Err(error));
    }
}

fn export(found: &[Found], range: Range<i64>, out: &Sender<io::Result<Bytes>>) -> Result<(), Stop> {
    let mut changes = false;
    let mut first: Option<(Head, u32)> = None;
    for found in found {
        let entries = found.row.entries;
        if let Some((_, known)) = &first
            && entries != 0
            && entries == *known
        {
            continue;
        }
        if let Some((_, head)) = open(found)? {
            changes |= first.as_ref().is_some_and(|(first, _)| !first.same_video(&head));
            first.get_or_insert((head, entries));
        }
        if changes {
            break;
        }
    }
    let Some((first, _)) = first else { return Ok(()) };
    let mut clip = Clip { first, in_band: changes, range, out, timeline: None };
    for found in found {
        let Some((file, head)) = open(found)? else { continue };
        if !clip.segment(found, &file, &head)? {
            break;
        }
    }
    Ok(())
}

/// `None` where retention was faster.
fn open(found: &Found) -> io::Result<Option<(File, Head)>> {
    let Some(file) = found.open()? else { return Ok(None) };
    Ok(head(&file)?.map(|head| (file, head)))
}

struct Clip<'a> {
    first: Head,
    in_band: bool,
    range: Range<i64>,
    out: &'a Sender<io::Result<Bytes>>,
    timeline: Option<Timeline>,
}

/// Ticks since the Unix epoch.
struct Timeline {
    origin_90k: i64,
    parts: u32,
    /// Decode time up to which there are samples.
    end_90k: i64,
}

impl Clip<'_> {
    /// Sends what of a segment lies in the range; false when the range has ended.
    fn segment(&mut self, found: &Found, file: &File, head: &Head) -> Result<bool, Stop> {
        // The writer may be at it: what it has written so far are whole parts.
        let mut parts = Parts::new(file, head.size() as u64, found.written());
        if self.timeline.is_none() && !self.begin(found, &mut parts, head)? {
            return Ok(true);
        }
        let Some(timeline) = &mut self.timeline else { return Ok(true) };
        let sets = if self.in_band { head.parameter_sets() } else { None };
        let audio = head.same_audio(&self.first);
        let mut slip = None;
        while let Some((at, mut fragment)) = parts.next()? {
            let decode_90k = head.about.origin_90k + fragment.video.decode_time;
            let shown = fragment.video.presentation().min().unwrap_or(0) + head.about.origin_90k;
            if shown >= self.range.end {
                return Ok(false);
            }
            // A clock that stepped back must not make decode times fall.
            let slip = *slip.get_or_insert((timeline.end_90k - decode_90k).max(0));
            timeline.end_90k = decode_90k + slip + fragment.video.duration();
            timeline.parts += 1;
            fragment.set_sequence(timeline.parts);
            let begin = at + fragment.header.len() as u64;
            // Pictures, then sound.
            let pictures = fragment.video.bytes();
            let mut payload = [0..pictures, pictures..(fragment.size - fragment.header.len()) as u64];
            let by = |rate: i64| {
                rescale(head.about.origin_90k + slip, VIDEO_CLOCK, rate)
                    - rescale(timeline.origin_90k, VIDEO_CLOCK, rate)
            };
            let rate = head.audio_timescale().unwrap_or(VIDEO_CLOCK as u32).into();
            fragment.shift(by(VIDEO_CLOCK), by(rate));
            if !audio {
                fragment.drop_audio();
                payload[1] = 0..0;
            }
            let last = decode_90k + fragment.video.duration() >= self.range.end;
            if last {
                // Nothing behind it is shown before the end, so that what is decoded behind the last picture can go.
                let until = self.range.end + slip - timeline.origin_90k;
                let shown: Vec<i64> = fragment.video.presentation().collect();
                let pictures = shown.iter().rposition(|&at| at < until).map_or(0, |last| last + 1);
                payload = fragment.truncate(pictures, rescale(until, VIDEO_CLOCK, rate));
            }
            let sets = sets.as_ref().filter(|_| fragment.video.independent);
            let payload = payload.map(|kept| begin + kept.start..begin + kept.end);
            send_part(self.out, file, fragment, sets, payload)?;
            if last {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Finds the random access point that the clip begins with, sends the clip's head, and leaves `parts` there.
    fn begin(&mut self, found: &Found, parts: &mut Parts<'_>, head: &Head) -> Result<bool, Stop> {
        let points = random_access_points(found)?;
        if let Some(point) = points.iter().rfind(|point| point.start_90k <= self.range.start) {
            parts.at = point.offset;
        }
        let origin = head.about.origin_90k;
        let (mut found, mut shown): (Option<(u64, i64, i64)>, Option<i64>) = (None, None);
        while let Some((at, fragment)) = parts.next()? {
            let mut times = fragment.video.presentation().map(|at| at + origin);
            let first = times.next().unwrap_or(origin);
            if fragment.video.independent && (found.is_none() || first <= self.range.start) {
                found = Some((at, origin + fragment.video.decode_time, first));
                shown = None;
            }
            let from = times.chain([first]).filter(|&at| at >= self.range.start).min();
            shown = [shown, from].into_iter().flatten().min();
            // One more part: reordered pictures of this time may be in it.
            if first > self.range.start + VIDEO_CLOCK {
                break;
            }
        }
        let Some((at, origin_90k, first)) = found else { return Ok(false) };
        parts.at = at;
        let shown = shown.unwrap_or(self.range.start).max(first);
        self.timeline = Some(Timeline { origin_90k, parts: 0, end_90k: origin_90k });
        self.first = head.clone();
        send(self.out, head.excerpt(origin_90k, shown, self.in_band).into())?;
        Ok(true)
    }
}

fn send_part(
    out: &Sender<io::Result<Bytes>>,
    file: &File,
    mut fragment: Fragment,
    sets: Option<&Vec<u8>>,
    payload: [Range<u64>; 2],
) -> Result<(), Stop> {
    if let Some(sets) = sets {
        fragment.grow_first(sets.len() as u32);
        fragment.header.extend_from_slice(sets);
    }
    send(out, fragment.header.into())?;
    for payload in payload {
        let mut at = payload.start;
        while at < payload.end {
            let mut chunk = vec![0; (payload.end - at).min(CHUNK as u64) as usize];
            file.read_exact_at(&mut chunk, at)?;
            at += chunk.len() as u64;
            send(out, chunk.into())?;
        }
    }
    Ok(())
}

fn send(out: &Sender<io::Result<Bytes>>, bytes: Bytes) -> Result<(), Gone> {
    out.blocking_send(Ok(bytes)).map_err(|_| Gone)
}
