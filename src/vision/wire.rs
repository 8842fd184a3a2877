//! What the main process and the worker say to each other, over a Unix stream socket that is the worker's stdin.
//!
//! A message is a header and blobs: `u32` length of the header, the header as JSON ([`Job`] or [`Report`]), then the
//! blobs whose lengths the header names, in order. All integers big-endian. Either side that reads nonsense closes.
//!
//! The main process trusts the worker no further than a camera: lengths are bounded, everything is checked.

use std::time::Duration;

use jiff::Timestamp;

use crate::alert::Detection;
use crate::media::VideoCodec;

/// Longest header and longest blob that a reader accepts.
pub const MAX_HEADER: usize = 1 << 20;
pub const MAX_BLOB: usize = 32 << 20;

/// Main process → worker.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "job")]
pub enum Job {
    /// First message: what to load. The worker answers [`Report::Ready`] or [`Report::Unfit`].
    Start {
        /// Resolved hardware profiles in order of preference (see `hw`), as JSON.
        profiles: Vec<serde_json::Value>,
        onnxruntime: Option<std::path::PathBuf>,
        /// Manifest files of the models to load.
        models: Vec<std::path::PathBuf>,
    },
    /// Look at the last picture of these access units. One blob: the access units as one Annex B byte stream per
    /// picture; `units` holds their lengths in order, the first is a random access point with its parameter sets.
    Look {
        /// Answered with the same number.
        id: u64,
        /// Decoder sessions are kept per stream name, `forest-1/sub`.
        stream: String,
        codec: VideoCodec,
        width: u32,
        height: u32,
        units: Vec<Unit>,
        /// Model name; `None`: no inference, only the picture.
        model: Option<String>,
        /// Lowest score that is reported.
        min_score: f32,
        /// When to send the JPEG.
        picture: PictureWanted,
    },
    /// The camera is gone: its decoder is not needed.
    Forget { stream: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Unit {
    pub bytes: u32,
    pub pts_90k: i64,
    pub is_rap: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PictureWanted {
    Never,
    /// Where something was detected.
    Candidate,
    /// Always, at most so many pixels wide.
    Always {
        max_width: Option<u32>,
    },
}

/// Worker → main process.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "report")]
pub enum Report {
    Ready {
        /// `name@version` of what was loaded.
        models: Vec<String>,
    },
    /// Cannot work at all, and why: shown to people.
    Unfit { why: String },
    /// What a look found. One blob, the JPEG, of `jpeg` bytes (0: none).
    Looked {
        id: u64,
        detections: Vec<Detection>,
        jpeg: u32,
        /// What decoded it: GStreamer element and profile.
        decoder: String,
        profile: String,
        /// `name@version`, empty where no model ran.
        model: String,
        decode_us: u64,
        infer_us: u64,
    },
    /// The look failed; the worker goes on.
    Failed { id: u64, why: String },
}

/// A job without an answer for so long means a worker that hangs.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Capture time of a unit.
pub fn capture(unit: &Unit) -> Timestamp {
    crate::media::time::from_90k(unit.pts_90k)
}
