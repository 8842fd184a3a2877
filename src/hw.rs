//! Hardware profiles (`hw-profiles/*.toml`): which decoder, scaler and execution provider, in order of preference.
//!
//! A profile is data; trying it out happens in the worker. What does not belong here: GStreamer.

use std::path::Path;

use crate::media::VideoCodec;

/// One hardware profile as its file says.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub name: String,
    /// For people: which boxes it is for.
    pub about: String,
    /// Decoder element chains by codec, in order of preference.
    pub decoders: Vec<Decoder>,
    /// Execution providers of ONNX Runtime, in order of preference; `cpu` always works.
    pub providers: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decoder {
    pub codec: VideoCodec,
    /// GStreamer element factory and its properties, `avdec_h264 max-threads=1`.
    pub element: String,
    /// Elements that bring the picture into system memory (and scale it on the device where they can).
    #[serde(default)]
    pub download: String,
}

/// The profiles built in and in `folder` (which override by name), in order of preference. `name`: "auto" or one.
pub fn profiles(name: &str, folder: Option<&Path>) -> Result<Vec<Profile>, crate::config::reader::Problems> {
    let _ = (name, folder);
    todo!()
}
