//! From detections to alerts: zone, confirmation, cool-down, and the states of an alert. Pure: no tokio, no SQLite.
//!
//! [`zone`] says where a detection counts, [`watch`] when detections become an alert and when it is over, [`picture`]
//! draws what was seen, [`disposition`] is what people may do with an alert. What does not belong here: storing, pinning,
//! sending ([`crate::analysis`], [`crate::dispatch`]).

pub mod disposition;
pub mod picture;
pub mod watch;
pub mod zone;

use jiff::Timestamp;

use crate::config::{Id, Kind};
pub use disposition::Disposition;

/// A class, a score and a place on one picture.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Detection {
    pub class: String,
    pub score: f32,
    /// x0 y0 x1 y1, each 0..1 of the picture.
    #[serde(rename = "box")]
    pub bbox: [f32; 4],
}

/// What vision sees of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Hits gather, not enough of them yet. Never stored or sent: see [`watch`].
    Pending,
    Active,
    Ended,
}

/// A confirmed event that dispatch must know.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = AlertState)]
pub struct Alert {
    /// A ULID, kept for the alert's life.
    pub id: String,
    /// Rises by one with every change; with the id it is the idempotency key.
    pub revision: u32,
    pub phase: Phase,
    pub disposition: Disposition,
    pub kind: Kind,
    pub level: u8,
    #[schema(value_type = String)]
    pub camera: Id,
    pub scene: String,
    /// The zone that it was seen in.
    pub zone: Option<String>,
    pub grid: Option<String>,
    pub position: Option<[f64; 2]>,
    /// The best score so far.
    pub confidence: f32,
    pub model: String,
    /// Capture time of the first hit.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// Capture time of the last hit, once ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// Looks with a hit so far.
    pub count: u32,
    /// Of the picture that the snapshot shows.
    pub boxes: Vec<Detection>,
    /// Capture time of the snapshot's picture.
    #[schema(value_type = String, format = DateTime)]
    pub snapshot_at: Timestamp,
    /// Range of recording kept as evidence.
    #[schema(value_type = String, format = DateTime)]
    pub evidence_start: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub evidence_end: Timestamp,
    pub drill: bool,
}
