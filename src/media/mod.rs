//! What a camera sends, before decoding: access units, audio frames, parameter sets, and their packaging.
//!
//! Pure: no sockets, files, clocks, tokio, GStreamer or SQLite. A payload's bytes are stored once, in
//! [`AccessUnit::data`]; CMAF parts ([`cmaf`]) and RTP packets ([`rtp`]) are small headers plus slices of it.
//!
//! What does not belong here: how bytes arrive (`camera::source`), where they wait (`live`), and decoding
//! (the worker).

mod bits;
pub mod cmaf;
pub mod h264;
pub mod h265;
pub mod params;
pub mod rtp;
pub mod time;

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

pub use params::{AudioCodec, AudioParams, VideoCodec, VideoParams};

/// Ticks a second of every video timeline in this crate (`_90k`).
pub const VIDEO_CLOCK: i64 = 90_000;

/// Which of a camera's two feeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Feed {
    Main,
    Sub,
}

impl Feed {
    pub fn as_str(self) -> &'static str {
        match self {
            Feed::Main => "main",
            Feed::Sub => "sub",
        }
    }
}

/// All NAL units of one picture, as they travel before decoding.
#[derive(Clone)]
pub struct AccessUnit {
    /// Rises by one with every access unit of the stream's life in this process, over sessions.
    pub seq: u64,
    /// Counts the sessions of the stream: a new value means a timeline or parameter discontinuity.
    pub run: u64,
    /// Presentation time, 90 kHz ticks since the Unix epoch on the box's clock (see [`time::ClockAnchor`]).
    pub pts_90k: i64,
    /// Decode time on the same timeline; never above `pts_90k`, strictly rising within a run.
    pub dts_90k: i64,
    /// Decoding may start here: an IDR, or an H.265 CRA or BLA.
    pub is_rap: bool,
    /// The parameter sets in force for this picture.
    pub params: Arc<VideoParams>,
    /// NAL units, each behind a 4-byte big-endian length (avcC/hvcC order, ISO/IEC 14496-15).
    pub data: Bytes,
}

impl AccessUnit {
    /// Capture time on the box's clock.
    pub fn capture(&self) -> Timestamp {
        time::from_90k(self.pts_90k)
    }

    /// The NAL units of the picture, without their length prefixes, as slices of the one payload.
    pub fn nal_units(&self) -> impl Iterator<Item = Bytes> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let length = self.data.get(at..at + 4)?;
            let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
            let end = (at + 4).checked_add(length).filter(|&end| end <= self.data.len())?;
            let nal = self.data.slice(at + 4..end);
            at = end;
            Some(nal)
        })
    }
}

/// Payloads are cut short: a picture has no place in a log line.
impl std::fmt::Debug for AccessUnit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessUnit")
            .field("seq", &self.seq)
            .field("run", &self.run)
            .field("capture", &self.capture())
            .field("is_rap", &self.is_rap)
            .field("bytes", &self.data.len())
            .finish()
    }
}

/// One encoded audio frame (AAC) or one packet of G.711 samples.
#[derive(Clone)]
pub struct AudioFrame {
    pub run: u64,
    /// Presentation time in ticks of `params.clock_rate` since the Unix epoch, on the video's timeline.
    pub pts: i64,
    /// In ticks of `params.clock_rate`.
    pub duration: u32,
    pub params: Arc<AudioParams>,
    pub data: Bytes,
}

impl AudioFrame {
    /// Presentation time on the 90 kHz timeline that the pictures use.
    pub fn pts_90k(&self) -> i64 {
        (i128::from(self.pts) * i128::from(VIDEO_CLOCK) / i128::from(self.params.clock_rate)) as i64
    }
}

impl std::fmt::Debug for AudioFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AudioFrame")
            .field("run", &self.run)
            .field("pts", &self.pts)
            .field("bytes", &self.data.len())
            .finish()
    }
}

/// What a stream is made of, in the order of arrival.
#[derive(Clone, Debug)]
pub enum Sample {
    Video(Arc<AccessUnit>),
    Audio(Arc<AudioFrame>),
}
