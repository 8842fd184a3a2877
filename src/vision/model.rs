//! Model manifests (`models/*.toml`): what a model takes and gives, its licence, hash and origin; list, verify, pull.
//!
//! Pure but for reading files. Running a model is the worker's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A manifest, see `models/yolox-nano.toml`.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub name: String,
    pub version: String,
    /// Beside the manifest.
    pub file: PathBuf,
    pub sha256: String,
    pub licence: String,
    pub origin: String,
    pub family: Family,
    pub input: Input,
    pub output: Output,
    /// Recommended least score by class.
    #[serde(default)]
    pub thresholds: BTreeMap<String, f32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Raw grid output `[1, cells, 5 + classes]`, strides 8, 16, 32: YOLOX and the project's own.
    Yolox,
}

#[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Width, height in pixels.
    pub size: [u32; 2],
    pub layout: Layout,
    pub channels: Channels,
    /// tensor = (pixel - mean) * scale, per channel in the order of `channels`.
    pub mean: [f32; 3],
    pub scale: [f32; 3],
    pub fit: Fit,
    pub pad: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    Nchw,
    Nhwc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    Rgb,
    Bgr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// Scaled to fit, at the top left, the rest padded.
    LetterboxTopLeft,
    /// The same, in the middle.
    LetterboxCentre,
    /// Stretched.
    Stretch,
}

#[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Class names in the order of the output's columns.
    pub labels: Vec<String>,
    /// Which labels become which class; empty: each label is a class of its own name.
    #[serde(default)]
    pub map: BTreeMap<String, String>,
}

/// Reads and validates one manifest.
pub fn read(path: &Path) -> Result<Manifest, crate::config::reader::Problems> {
    let _ = path;
    todo!()
}

/// Finds a model by name in the folders, first hit wins: its manifest and the manifest's path.
pub fn find(name: &str, folders: &[PathBuf]) -> Option<(Manifest, PathBuf)> {
    let _ = (name, folders);
    todo!()
}
