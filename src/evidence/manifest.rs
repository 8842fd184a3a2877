//! What a manifest says: which clips, from which cameras and recordings, with what missing, and who made them.
//!
//! It is JSON, signed byte for byte as it stands. Fields may be added in a version; who reads one ignores what it does
//! not know. A version that means something else gets another number.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::key::PublicKey;
use crate::record::{Condition, GapCause};

/// The version that is written and read here.
pub const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    /// The box's id.
    #[serde(rename = "box")]
    pub site: String,
    /// The version that wrote it.
    pub liuta: String,
    pub exported_at: Timestamp,
    /// As in the audit trail.
    pub exported_by: String,
    /// Of whoever exported: a case's number, say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    pub public_key: PublicKey,
    /// Of the key, for people: SHA-256 of its DER.
    pub fingerprint: String,
    pub files: Vec<Clip>,
}

/// One mp4.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Clip {
    /// Beside the manifest.
    pub name: String,
    pub bytes: u64,
    pub sha256: String,
    pub camera: String,
    /// As configured at the export; none of a camera that is no longer configured.
    #[serde(flatten)]
    pub place: Place,
    /// RFC 6381.
    pub codec: String,
    /// The range that was asked for; of a camera that changed its codec in it, the part with this one.
    pub asked: Span,
    /// Capture times of the first and the last picture, by the box's clock.
    pub given: Span,
    pub pictures: u64,
    /// What of the range asked for is missing in the clip.
    pub gaps: Vec<Missing>,
    /// Camera's clock minus the box's, as it was first known; none where the camera did not tell its time.
    pub camera_clock_error_seconds: Option<f64>,
    /// The recorded files that the clip was copied from.
    pub segments: Vec<Source>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Place {
    #[serde(rename = "camera_name")]
    pub name: Option<String>,
    pub grid: Option<String>,
    /// WGS-84 longitude, latitude.
    pub position: Option<[f64; 2]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    pub start: Timestamp,
    pub end: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Missing {
    pub start: Timestamp,
    pub end: Timestamp,
    /// None where the index does not know.
    pub cause: Option<GapCause>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Below the folder of recordings.
    pub path: String,
    pub bytes: u64,
    #[serde(flatten)]
    pub condition: Condition,
}
