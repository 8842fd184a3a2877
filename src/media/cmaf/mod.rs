//! CMAF packaging: samples in, fragmented MP4 parts out, made once per stream and shared by recorder and HLS.
//!
//! ISO/IEC 14496-12 and 23000-19, but with audio beside video in one file. A [`Part`] is a small header and slices of
//! the samples' own bytes. `tfdt` counts from [`Init::origin_90k`] in HLS. A file counts from its own first picture
//! ([`Part::rebased`] copies the header, never the payload), with an edit list for the few ticks by which reordering
//! delays it: a large edit over large decode times would spare that copy, but GStreamer 1.22 shows nothing then.
//! [`read`] reads what is written here back.
//!
//! What does not belong here: files (`record`) and playlists (`relay::hls`).

mod boxes;
mod config_record;
mod init;
pub mod read;
pub mod tail;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use self::boxes::Boxes;
use self::init::{AUDIO_TRACK, VIDEO_TRACK};
use super::{AccessUnit, AudioFrame, AudioParams, Sample, VIDEO_CLOCK, VideoParams};

/// `ftyp` + `moov` of one run of constant parameters.
#[derive(Debug)]
pub struct Init {
    pub video: Arc<VideoParams>,
    pub audio: Option<Arc<AudioParams>>,
    /// What `tfdt` counts from, 90 kHz ticks since the Unix epoch.
    pub origin_90k: i64,
    /// The init segment without an edit list, as HLS wants it.
    pub bytes: Bytes,
}

/// What a recorded file says of itself, as JSON in a `uuid` box behind its `moov`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct About {
    /// The version that wrote it.
    pub liuta: String,
    pub camera: String,
    /// `main` or `sub`.
    pub stream: String,
    /// Capture time of the first picture: the instant of the file's zero.
    pub start: Timestamp,
    /// The same in 90 kHz ticks since the Unix epoch.
    pub start_90k: i64,
    /// The instant of `tfdt` zero: decode time of the first picture.
    pub origin_90k: i64,
    /// RFC 6381.
    pub codec: String,
    /// The camera's clock minus the box's, as it was known then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub camera_clock_error_seconds: Option<f64>,
}

/// One `moof` + `mdat`, as a header and slices of the samples' own bytes.
#[derive(Clone, Debug)]
pub struct Part {
    pub run: u64,
    /// Rises by one with every part of the stream's life in this process.
    pub seq: u64,
    pub init: Arc<Init>,
    /// `moof` and the header of `mdat`.
    pub header: Bytes,
    /// The samples' payloads, in file order after `header`.
    pub payload: Vec<Bytes>,
    /// Presentation time of the first picture, and length to the first picture of the next part. Within a GOP with
    /// reordered pictures the decode time stands in, shifted by what the GOP's first picture was: parts never overlap.
    pub start_90k: i64,
    pub duration_90k: i64,
    /// Starts with a random access point.
    pub independent: bool,
    pub pictures: u32,
}

impl Part {
    /// Bytes of header and payload together.
    pub fn len(&self) -> usize {
        self.header.len() + self.payload.iter().map(Bytes::len).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.pictures == 0
    }

    /// Decode time of the first picture, 90 kHz ticks since the Unix epoch.
    pub fn decode_90k(&self) -> Option<i64> {
        Some(self.init.origin_90k + read::Fragment::parse(&self.header)?.video.decode_time)
    }

    /// The header with decode times that count from `origin_90k`, which must not be above the part's own.
    pub fn rebased(&self, origin_90k: i64) -> Option<Bytes> {
        let mut fragment = read::Fragment::parse(&self.header)?;
        let rate = self.init.audio.as_ref().map_or(VIDEO_CLOCK, |audio| audio.clock_rate.into());
        let by =
            |rate| rescale(self.init.origin_90k, VIDEO_CLOCK, rate) - rescale(origin_90k, VIDEO_CLOCK, rate);
        fragment.shift(by(VIDEO_CLOCK), by(rate));
        Some(fragment.header.into())
    }
}

/// Cuts a stream into parts: at every random access point, and where a part has lasted [`Packager::PART_90K`].
pub struct Packager {
    run: u64,
    next_part: u64,
    /// Decode time of the run's first picture.
    origin_90k: i64,
    init: Option<Arc<Init>>,
    /// The newest picture, whose duration the next one tells.
    held: Option<Arc<AccessUnit>>,
    last_duration: u32,
    pictures: Vec<Picture>,
    bytes: usize,
    /// Presentation minus decode time of the GOP's first picture.
    shift_90k: i64,
    audio: AudioState,
}

struct Picture {
    unit: Arc<AccessUnit>,
    duration: u32,
}

struct AudioState {
    params: Option<Arc<AudioParams>>,
    /// Presentation time on the 90 kHz timeline of the newest frame; until one came, of the run's first picture.
    heard_90k: Option<i64>,
    /// In its own clock: frames that do not rise are dropped.
    last_pts: Option<i64>,
    waiting: VecDeque<Arc<AudioFrame>>,
}

impl Packager {
    /// The target length of a part, half a second. Parts are shorter, but for cameras that send fewer pictures.
    pub const PART_90K: i64 = 45_000;

    /// Bytes and pictures that end a part early, so that no camera makes one that strains its readers.
    const PART_BYTES: usize = 16 << 20;
    const PART_PICTURES: usize = 512;

    /// Audio that has been away for so long loses its track at the next random access point: players that were
    /// promised a track wait for it.
    const AUDIO_PATIENCE_90K: i64 = 5 * VIDEO_CLOCK;

    /// Frames that may wait for their pictures: 20 s of AAC.
    const WAITING_FRAMES: usize = 1024;

    /// `expect_audio`: parameters of the audio that the camera announced, so that the init segment has its track.
    pub fn new(run: u64, first_part: u64, expect_audio: Option<Arc<AudioParams>>) -> Packager {
        let params = expect_audio.filter(|params| params.clock_rate > 0);
        Packager {
            run,
            next_part: first_part,
            origin_90k: 0,
            init: None,
            held: None,
            last_duration: 3600,
            pictures: Vec::new(),
            bytes: 0,
            shift_90k: 0,
            audio: AudioState { params, heard_90k: None, last_pts: None, waiting: VecDeque::new() },
        }
    }

    /// Takes the next sample; gives back the part that it completed. Samples before the first random access point are
    /// dropped; changed parameters end the part and begin a new [`Init`]. They take effect at a random access point:
    /// nobody could start anywhere else.
    pub fn push(&mut self, sample: &Sample) -> Option<Part> {
        match sample {
            Sample::Video(unit) => self.push_video(unit),
            Sample::Audio(frame) => {
                self.push_audio(frame);
                None
            }
        }
    }

    /// The unfinished rest, at the end of a run.
    pub fn finish(&mut self) -> Option<Part> {
        let held = self.held.take()?;
        let end_dts = held.dts_90k + i64::from(self.last_duration);
        self.add(held, self.last_duration);
        self.cut(end_dts + self.shift_90k)
    }

    fn push_video(&mut self, unit: &Arc<AccessUnit>) -> Option<Part> {
        let Some(held) = self.held.take() else {
            if unit.is_rap {
                self.origin_90k = unit.dts_90k;
                self.audio.heard_90k = self.audio.params.is_some().then_some(unit.pts_90k);
                self.begin_gop(unit);
                self.held = Some(unit.clone());
            }
            return None;
        };
        self.last_duration = (unit.dts_90k - held.dts_90k).clamp(1, u32::MAX.into()) as u32;
        self.add(held, self.last_duration);
        let first = self.pictures.first().map_or(unit.dts_90k, |picture| picture.unit.dts_90k);
        let full = unit.dts_90k - first + i64::from(self.last_duration) > Self::PART_90K
            || self.bytes >= Self::PART_BYTES
            || self.pictures.len() >= Self::PART_PICTURES;
        let part = if unit.is_rap {
            let part = self.cut(unit.pts_90k);
            self.begin_gop(unit);
            part
        } else if full {
            self.cut(unit.dts_90k + self.shift_90k)
        } else {
            None
        };
        self.held = Some(unit.clone());
        part
    }

    fn push_audio(&mut self, frame: &Arc<AudioFrame>) {
        let state = &mut self.audio;
        if self.held.is_none() || frame.params.clock_rate == 0 || frame.pts_90k() < self.origin_90k {
            return;
        }
        if state.params.as_ref() != Some(&frame.params) {
            (state.params, state.last_pts) = (Some(frame.params.clone()), None);
        }
        if state.last_pts.is_some_and(|last| frame.pts <= last) {
            return;
        }
        state.last_pts = Some(frame.pts);
        state.heard_90k = Some(frame.pts_90k());
        if state.waiting.len() == Self::WAITING_FRAMES {
            state.waiting.pop_front();
        }
        state.waiting.push_back(frame.clone());
    }

    /// A new GOP may change the parameters, and the audio track may come or go.
    fn begin_gop(&mut self, rap: &AccessUnit) {
        self.shift_90k = rap.pts_90k - rap.dts_90k;
        let heard = |at: &i64| rap.pts_90k - at < Self::AUDIO_PATIENCE_90K;
        let audio = self.audio.params.clone().filter(|_| self.audio.heard_90k.as_ref().is_some_and(heard));
        let same = |init: &Arc<Init>| *init.video == *rap.params && init.audio == audio;
        if self.init.as_ref().is_some_and(same) {
            return;
        }
        self.init = Some(Arc::new(Init {
            bytes: init::write(&rap.params, audio.as_deref(), None).0.into(),
            video: rap.params.clone(),
            audio,
            origin_90k: self.origin_90k,
        }));
    }

    fn add(&mut self, unit: Arc<AccessUnit>, duration: u32) {
        self.bytes += unit.data.len();
        self.pictures.push(Picture { unit, duration });
    }

    /// Makes a part of the collected pictures and of the audio before `end_90k`.
    fn cut(&mut self, end_90k: i64) -> Option<Part> {
        let init = self.init.clone()?;
        let pictures = std::mem::take(&mut self.pictures);
        let first = pictures.first()?;
        let start_90k = first.unit.dts_90k + self.shift_90k;
        let mut frames = Vec::new();
        while let Some(frame) = self.audio.waiting.pop_front_if(|frame| frame.pts_90k() < end_90k) {
            // Frames of a track that this run's init segment does not have.
            if init.audio.as_ref() == Some(&frame.params) {
                frames.push(frame);
            }
        }
        let seq = self.next_part;
        self.next_part += 1;
        self.bytes = 0;
        let header = fragment(seq, &init, &pictures, &frames);
        Some(Part {
            run: self.run,
            seq,
            header,
            payload: (pictures.iter().map(|picture| picture.unit.data.clone()))
                .chain(frames.iter().map(|frame| frame.data.clone()))
                .collect(),
            start_90k,
            duration_90k: (end_90k - start_90k).max(1),
            independent: first.unit.is_rap,
            pictures: pictures.len() as u32,
            init,
        })
    }
}

/// Ticks of one clock in another, rounded down.
pub(crate) fn rescale(ticks: i64, from: i64, to: i64) -> i64 {
    (i128::from(ticks) * i128::from(to)).div_euclid(i128::from(from)) as i64
}

const DEFAULT_BASE_IS_MOOF: u32 = 0x02_0000;
const DEFAULT_FLAGS: u32 = 0x20;
const DATA_OFFSET: u32 = 0x1;
const FIRST_FLAGS: u32 = 0x4;
const DURATIONS: u32 = 0x100;
const SIZES: u32 = 0x200;
const OFFSETS: u32 = 0x800;

/// Sample flags (ISO/IEC 14496-12, 8.8.3.1): depends on no other; depends on others and is no sync sample.
const SYNC: u32 = 0x0200_0000;
const NON_SYNC: u32 = 0x0101_0000;

/// `moof` and the header of `mdat`.
fn fragment(seq: u64, init: &Init, pictures: &[Picture], frames: &[Arc<AudioFrame>]) -> Bytes {
    let mut b = Boxes::with_capacity(160 + 12 * pictures.len() + 8 * frames.len());
    // Where the runs' data offsets are to be filled in.
    let (mut video_offset, mut audio_offset) = (0, 0);
    b.nest(b"moof", |b| {
        b.full(b"mfhd", 0, 0, |b| {
            // Sequence numbers are 32 bits, and rise from 1.
            b.u32((seq as u32).wrapping_add(1));
        });
        b.nest(b"traf", |b| video_offset = video_run(b, init, pictures));
        if let (Some(first), Some(audio)) = (frames.first(), &init.audio) {
            let origin = rescale(init.origin_90k, VIDEO_CLOCK, audio.clock_rate.into());
            b.nest(b"traf", |b| audio_offset = audio_run(b, first.pts - origin, frames));
        }
    });
    let moof = b.0.len() as u32;
    let video: usize = pictures.iter().map(|picture| picture.unit.data.len()).sum();
    let audio: usize = frames.iter().map(|frame| frame.data.len()).sum();
    b.put_u32(video_offset, moof + 8);
    if audio_offset > 0 {
        b.put_u32(audio_offset, moof + 8 + video as u32);
    }
    b.u32((8 + video + audio) as u32).bytes(b"mdat");
    b.0.into()
}

fn video_run(b: &mut Boxes, init: &Init, pictures: &[Picture]) -> usize {
    let dts = pictures.first().map_or(0, |picture| picture.unit.dts_90k - init.origin_90k);
    track_header(b, VIDEO_TRACK, NON_SYNC, dts);
    let mut flags = DATA_OFFSET | DURATIONS | SIZES;
    let is_rap = pictures.first().is_some_and(|picture| picture.unit.is_rap);
    if is_rap {
        flags |= FIRST_FLAGS;
    }
    let reordered = pictures.iter().any(|Picture { unit, .. }| unit.pts_90k != unit.dts_90k);
    if reordered {
        flags |= OFFSETS;
    }
    let mut offset = 0;
    b.full(b"trun", 1, flags, |b| {
        b.u32(pictures.len() as u32);
        offset = b.0.len();
        b.u32(0);
        if is_rap {
            b.u32(SYNC);
        }
        for Picture { unit, duration } in pictures {
            b.u32(*duration).u32(unit.data.len() as u32);
            if reordered {
                b.u32((unit.pts_90k - unit.dts_90k) as i32 as u32);
            }
        }
    });
    offset
}

fn audio_run(b: &mut Boxes, pts: i64, frames: &[Arc<AudioFrame>]) -> usize {
    track_header(b, AUDIO_TRACK, SYNC, pts);
    let mut offset = 0;
    b.full(b"trun", 1, DATA_OFFSET | DURATIONS | SIZES, |b| {
        b.u32(frames.len() as u32);
        offset = b.0.len();
        b.u32(0);
        for (at, frame) in frames.iter().enumerate() {
            // A lost frame stretches the one before it, so that what follows keeps its place.
            let duration = frames.get(at + 1).map_or(frame.duration.into(), |next| next.pts - frame.pts);
            b.u32(duration.clamp(1, u32::MAX.into()) as u32).u32(frame.data.len() as u32);
        }
    });
    offset
}

fn track_header(b: &mut Boxes, track: u32, flags: u32, decode_time: i64) {
    b.full(b"tfhd", 0, DEFAULT_BASE_IS_MOOF | DEFAULT_FLAGS, |b| {
        b.u32(track).u32(flags);
    });
    b.full(b"tfdt", 1, 0, |b| {
        b.u64(decode_time.max(0) as u64);
    });
}

impl About {
    fn write(&self, b: &mut Boxes) {
        b.nest(b"uuid", |b| {
            b.bytes(&init::ABOUT);
            // Plain strings, integers and a timestamp: there is nothing in it that JSON could refuse.
            b.bytes(&serde_json::to_vec(self).unwrap_or_default());
        });
    }
}
