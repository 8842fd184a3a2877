//! What a decoder or a player must know of a stream before its first picture.

use bytes::Bytes;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VideoCodec {
    H264,
    H265,
}

/// Parameter sets of one video stream and what they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoParams {
    pub codec: VideoCodec,
    /// VPS (H.265 only), SPS and PPS NAL units in that order, without start codes or lengths.
    pub parameter_sets: Vec<Bytes>,
    /// Picture size in pixels after cropping.
    pub width: u32,
    pub height: u32,
    /// How many pictures may precede another in decode order and follow it in output order.
    pub reorder: u8,
    /// `avc1.640028` or `hvc1.1.6.L120.B0`, RFC 6381.
    pub rfc6381: String,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{set}: {what}")]
pub struct ParamsError {
    /// Which parameter set: "SPS", "PPS" or "VPS".
    pub set: &'static str,
    pub what: String,
}

impl VideoParams {
    /// Parses parameter set NAL units (any order, other NAL units ignored). The input is a camera's, hence hostile.
    pub fn parse(codec: VideoCodec, nal_units: &[Bytes]) -> Result<VideoParams, ParamsError> {
        let _ = (codec, nal_units);
        todo!()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AudioCodec {
    /// With its AudioSpecificConfig (ISO/IEC 14496-3).
    Aac {
        config: Bytes,
    },
    Pcma,
    Pcmu,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioParams {
    pub codec: AudioCodec,
    /// Samples a second, also the timescale of [`super::AudioFrame::pts`].
    pub clock_rate: u32,
    pub channels: u16,
}
