//! What the main process and the worker say to each other, over a Unix stream socket that is the worker's stdin.
//!
//! A message is a header and blobs: `u32` length of the header, the header as JSON ([`Job`] or [`Report`]), then the
//! blobs whose lengths the header names, in order. All integers big-endian. Either side that reads nonsense closes.
//!
//! The main process trusts the worker no further than a camera: lengths are bounded, everything is checked. The main
//! process has the asynchronous half of the codec ([`write_job`], [`read_report`]), the worker the blocking one
//! ([`read_job`], [`write_report`]).

use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::alert::Detection;
use crate::media::{AccessUnit, VideoCodec};

/// Longest header and longest blob that a reader accepts, in bytes.
pub const MAX_HEADER: usize = 1 << 20;
pub const MAX_BLOB: usize = 32 << 20;

/// Main process → worker.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "job")]
pub enum Job {
    /// First message: what to load. The worker answers [`Report::Ready`] or [`Report::Unfit`].
    Start {
        /// Resolved hardware profiles in order of preference (see `hw`), as JSON.
        profiles: Vec<serde_json::Value>,
        /// The configuration names the first profile. That its decoders do not work is a problem then; it is none of
        /// those that are only tried out.
        named: bool,
        onnxruntime: Option<std::path::PathBuf>,
        /// Manifest files of the models to load.
        models: Vec<std::path::PathBuf>,
    },
    /// Look at the last picture of these access units. One blob: the access units one after the other, as
    /// [`look_units`] lays them out; `units` holds their lengths in order, the first is a random access point behind
    /// its parameter sets.
    Look {
        /// Answered with the same number.
        id: u64,
        /// `forest-1/sub`: which decoder works for it is remembered by this name.
        stream: String,
        codec: VideoCodec,
        width: u32,
        height: u32,
        units: Vec<Unit>,
        /// Model name; `None`: no inference, only the picture.
        model: Option<String>,
        /// The picture is looked at whole, and from 2 on also in so many by so many overlapping tiles: small things are
        /// seen larger, for that many more inferences.
        tiles: u32,
        /// Lowest score that is reported.
        min_score: f32,
        /// When to send the JPEG.
        picture: PictureWanted,
    },
    /// The camera is gone: what is remembered of its stream is not needed.
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

/// What of the worker's sandbox is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sandbox {
    /// ABI version of Landlock; 0: the kernel has none, or has it switched off.
    pub landlock: u32,
    pub seccomp: bool,
}

impl std::fmt::Display for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.landlock {
            0 => f.write_str("no landlock")?,
            abi => write!(f, "landlock {abi}")?,
        }
        f.write_str(if self.seccomp { ", seccomp" } else { ", no seccomp" })
    }
}

/// Worker → main process.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "report")]
pub enum Report {
    Ready {
        /// `name@version` of what was loaded.
        models: Vec<String>,
        /// What was asked for and does not work, and why: shown to people. Looks that need it fail.
        problems: Vec<String>,
        /// What keeps the worker from doing harm on this kernel.
        sandbox: Sandbox,
    },
    /// Cannot work at all, and why: shown to people.
    Unfit { why: String },
    /// What a look found. One blob, the JPEG, of `jpeg` bytes (0: none).
    Looked {
        id: u64,
        detections: Vec<Detection>,
        /// Boxes of the model's output that were no numbers or far outside the picture, and therefore left out.
        rejected: u32,
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

/// The units and the blob's slices of a look at the last of these access units, of which the first is a random access
/// point. Nothing is copied: a unit is its payload (NAL units behind 4-byte lengths), the first one and each whose
/// parameter sets changed behind those, laid out alike. The worker turns lengths into start codes in place.
pub fn look_units(access_units: &[Arc<AccessUnit>]) -> (Vec<Unit>, Vec<Bytes>) {
    let mut units = Vec::with_capacity(access_units.len());
    let mut blobs = Vec::with_capacity(access_units.len() + 6);
    let mut announced = None;
    for unit in access_units {
        let mut bytes = unit.data.len();
        if announced != Some(&unit.params) {
            announced = Some(&unit.params);
            for set in &unit.params.parameter_sets {
                bytes += 4 + set.len();
                blobs.push(Bytes::copy_from_slice(&(set.len() as u32).to_be_bytes()));
                blobs.push(set.clone());
            }
        }
        blobs.push(unit.data.clone());
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        units.push(Unit { bytes, pts_90k: unit.pts_90k, is_rap: unit.is_rap });
    }
    (units, blobs)
}

#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What was read or was to be written breaks the rules above: close.
    #[error("{0}")]
    Nonsense(String),
}

impl Job {
    fn blob_len(&self) -> Result<usize, WireError> {
        match self {
            Job::Look { units, .. } => bounded(units.iter().map(|unit| u64::from(unit.bytes)).sum()),
            Job::Start { .. } | Job::Forget { .. } => Ok(0),
        }
    }
}

impl Report {
    fn blob_len(&self) -> Result<usize, WireError> {
        match self {
            Report::Looked { jpeg, .. } => bounded(u64::from(*jpeg)),
            Report::Ready { .. } | Report::Unfit { .. } | Report::Failed { .. } => Ok(0),
        }
    }
}

fn bounded(blob: u64) -> Result<usize, WireError> {
    match usize::try_from(blob) {
        Ok(length) if length <= MAX_BLOB => Ok(length),
        _ => Err(WireError::Nonsense(format!("a blob of {blob} bytes, at most {MAX_BLOB} are allowed"))),
    }
}

/// Length and header.
fn encode(message: &impl serde::Serialize) -> Result<Vec<u8>, WireError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message).map_err(|error| WireError::Nonsense(error.to_string()))?;
    let length = header_len((bytes.len() - 4) as u32)? as u32;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    Ok(bytes)
}

fn header_len(length: u32) -> Result<usize, WireError> {
    match length as usize {
        length if length <= MAX_HEADER => Ok(length),
        length => {
            Err(WireError::Nonsense(format!("a header of {length} bytes, at most {MAX_HEADER} are allowed")))
        }
    }
}

fn decode<M: DeserializeOwned>(header: &[u8]) -> Result<M, WireError> {
    serde_json::from_slice(header)
        .map_err(|error| WireError::Nonsense(format!("a header that is no message: {error}")))
}

/// Sends a job and its blob, given as slices, without joining them. Not cancel safe.
pub async fn write_job(
    to: &mut (impl AsyncWrite + Unpin),
    job: &Job,
    blobs: &[Bytes],
) -> Result<(), WireError> {
    let (named, given) = (job.blob_len()?, blobs.iter().map(Bytes::len).sum::<usize>());
    if named != given {
        return Err(WireError::Nonsense(format!("a job that names {named} bytes with a blob of {given}")));
    }
    let header = encode(job)?;
    let mut slices: Vec<IoSlice> = Vec::with_capacity(blobs.len() + 1);
    slices.push(IoSlice::new(&header));
    slices.extend(blobs.iter().filter(|blob| !blob.is_empty()).map(|blob| IoSlice::new(blob)));
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        let written = to.write_vectored(rest).await?;
        if written == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        IoSlice::advance_slices(&mut rest, written);
    }
    Ok(to.flush().await?)
}

/// The worker's next report with its JPEG; `None`: it closed. Not cancel safe: give it a task of its own.
pub async fn read_report(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<(Report, Bytes)>, WireError> {
    let length = match from.read_u32().await {
        Ok(length) => header_len(length)?,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut header = vec![0; length];
    from.read_exact(&mut header).await?;
    let report: Report = decode(&header)?;
    let mut blob = BytesMut::zeroed(report.blob_len()?);
    from.read_exact(&mut blob).await?;
    Ok(Some((report, blob.freeze())))
}

/// The next job with its blob; `None`: the main process closed.
pub fn read_job(from: &mut impl Read) -> Result<Option<(Job, Vec<u8>)>, WireError> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let mut header = vec![0; header_len(u32::from_be_bytes(length))?];
    from.read_exact(&mut header)?;
    let job: Job = decode(&header)?;
    let mut blob = vec![0; job.blob_len()?];
    from.read_exact(&mut blob)?;
    Ok(Some((job, blob)))
}

/// Sends a report; `jpeg` is as long as [`Report::Looked`] says, else empty.
pub fn write_report(to: &mut impl Write, report: &Report, jpeg: &[u8]) -> Result<(), WireError> {
    let named = report.blob_len()?;
    if named != jpeg.len() {
        let given = jpeg.len();
        return Err(WireError::Nonsense(format!("a report that names {named} bytes with a blob of {given}")));
    }
    to.write_all(&encode(report)?)?;
    to.write_all(jpeg)?;
    Ok(to.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::VideoParams;

    fn access_unit(seq: u64, params: &Arc<VideoParams>, data: &'static [u8]) -> Arc<AccessUnit> {
        let (pts_90k, is_rap) = (seq as i64 * 3600, seq == 0);
        let (params, data) = (params.clone(), Bytes::from_static(data));
        Arc::new(AccessUnit { seq, run: 0, pts_90k, dts_90k: pts_90k, is_rap, params, data })
    }

    fn look(units: Vec<Unit>) -> Job {
        Job::Look {
            id: 7,
            stream: "forest-1/sub".into(),
            codec: VideoCodec::H264,
            width: 640,
            height: 360,
            units,
            model: Some("yolox-nano".into()),
            tiles: 2,
            min_score: 0.3,
            picture: PictureWanted::Always { max_width: Some(320) },
        }
    }

    #[tokio::test]
    async fn a_look_and_its_answer_cross_unchanged() {
        let params = Arc::new(VideoParams {
            codec: VideoCodec::H264,
            parameter_sets: vec![Bytes::from_static(b"sps"), Bytes::from_static(b"pp")],
            width: 640,
            height: 360,
            reorder: 0,
            rfc6381: "avc1.42c01e".into(),
        });
        let (units, blobs) =
            look_units(&[access_unit(0, &params, b"\0\0\0\x01K"), access_unit(1, &params, b"\0\0\0\x01P")]);
        assert_eq!(units[0], Unit { bytes: 18, pts_90k: 0, is_rap: true });
        assert_eq!(units[1], Unit { bytes: 5, pts_90k: 3600, is_rap: false });
        let job = look(units);
        let mut wire = Vec::new();
        write_job(&mut wire, &job, &blobs).await.unwrap();
        let mut reader = wire.as_slice();
        let (read, blob) = read_job(&mut reader).unwrap().unwrap();
        assert_eq!(read, job);
        assert_eq!(blob, b"\0\0\0\x03sps\0\0\0\x02pp\0\0\0\x01K\0\0\0\x01P");
        assert!(read_job(&mut reader).unwrap().is_none());

        let report = Report::Looked {
            id: 7,
            detections: vec![Detection { class: "fire".into(), score: 0.5, bbox: [0.0, 0.25, 0.5, 1.0] }],
            rejected: 1,
            jpeg: 4,
            decoder: "avdec_h264".into(),
            profile: "software".into(),
            model: "yolox-nano@1.0.0".into(),
            decode_us: 1,
            infer_us: 2,
        };
        let mut wire = Vec::new();
        write_report(&mut wire, &report, b"jpeg").unwrap();
        let mut reader = wire.as_slice();
        let read = read_report(&mut reader).await.unwrap().unwrap();
        assert_eq!(read, (report, Bytes::from_static(b"jpeg")));
        assert!(read_report(&mut reader).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn nonsense_is_refused_before_memory_is_taken() {
        let endless = [0xff; 64];
        assert!(matches!(read_report(&mut endless.as_slice()).await, Err(WireError::Nonsense(_))));
        assert!(matches!(read_job(&mut endless.as_slice()), Err(WireError::Nonsense(_))));
        let unit = Unit { bytes: u32::MAX, pts_90k: 0, is_rap: true };
        let wire = encode(&look(vec![unit; 3])).unwrap();
        assert!(matches!(read_job(&mut wire.as_slice()), Err(WireError::Nonsense(_))));
        let cut = &wire[..wire.len() - 1];
        assert!(matches!(read_job(&mut &cut[..]), Err(WireError::Io(_))));
        let mut wire = Vec::new();
        assert!(write_job(&mut wire, &look(vec![]), &[Bytes::from_static(b"x")]).await.is_err());
    }
}
