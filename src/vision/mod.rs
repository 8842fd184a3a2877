//! Having cameras looked at: the schedule of looks, and the supervisor of the worker process that does them.
//!
//! A look is decoding AND inference over every zone by the scene's model. The schedule lives here, in the main
//! process, which owns the live rings; the worker (`liuta-vision`) gets compressed access units over a Unix socket and
//! is killed and restarted when it crashes, hangs or eats memory.

pub mod looks;
pub mod model;
pub mod wire;

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use crate::alert::Detection;
use crate::config::{self, Id};
use crate::health::Health;
use crate::live::LiveStream;

/// What one look found.
#[derive(Clone, Debug)]
pub struct Looked {
    pub camera: Id,
    /// Of the picture that was looked at.
    pub capture: Timestamp,
    /// Every detection at or above the lowest `min_score` of the scene's rules, whatever the zone.
    pub detections: Vec<Detection>,
    /// The clean JPEG of that picture, where there was a candidate detection.
    pub jpeg: Option<Bytes>,
    /// `name@version` of the model.
    pub model: Arc<str>,
}

/// Handle to the supervisor and the schedule.
pub struct Vision {}

impl Vision {
    /// Starts the worker (or says in `health` why it cannot) and the schedule. What looks find goes to `found`, which
    /// is waited for when it is full.
    pub fn start(
        settings: config::Vision,
        health: Health,
        found: tokio::sync::mpsc::Sender<Looked>,
    ) -> Arc<Vision> {
        let _ = (settings, health, found);
        todo!()
    }

    /// Looks at a camera from now on, by its scene; replaces an earlier call for the same camera.
    pub fn watch(&self, camera: Arc<config::Camera>, main: Arc<LiveStream>, sub: Option<Arc<LiveStream>>) {
        let _ = (camera, main, sub);
        todo!()
    }

    pub fn unwatch(&self, camera: &str) {
        let _ = camera;
        todo!()
    }

    /// The newest key picture of a stream as a JPEG, decoded by the worker; at most `max_width` pixels wide.
    pub async fn picture(
        &self,
        stream: &Arc<LiveStream>,
        max_width: Option<u32>,
    ) -> Result<Picture, PictureError> {
        let _ = (stream, max_width);
        todo!()
    }

    /// Ends the worker.
    pub async fn stop(&self) {
        todo!()
    }
}

/// A decoded picture.
#[derive(Clone, Debug)]
pub struct Picture {
    pub jpeg: Bytes,
    pub capture: Timestamp,
}

#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    #[error("vision is off: set [vision] enabled = true")]
    Off,
    #[error("the camera has sent no picture yet")]
    NoPicture,
    #[error("the vision worker is not running: {0}")]
    Worker(String),
    #[error("the picture could not be decoded: {0}")]
    Decode(String),
}
