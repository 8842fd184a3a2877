//! One camera's whole way: connect, receive, and hand each picture to the live ring, the recorder and the looks.

pub mod guard;
pub mod source;

use std::sync::Arc;
use std::time::Duration;

use crate::config;
use crate::health::Health;
use crate::live::{Budget, LiveStream};
use crate::record::Ring;

/// A running camera: its supervisor's tasks, and the live streams that outlive sessions.
pub struct Camera {
    pub config: Arc<config::Camera>,
    pub main: Arc<LiveStream>,
    pub sub: Option<Arc<LiveStream>>,
}

impl Camera {
    /// Starts the supervisors of the main and the sub stream.
    pub fn start(
        config: Arc<config::Camera>,
        ring: Arc<Ring>,
        budget: &Arc<Budget>,
        health: Health,
    ) -> Camera {
        let _ = (config, ring, budget, health);
        todo!()
    }

    /// TEARDOWN, the last part to the recorder, the streams closed; false when it took longer than `deadline`.
    pub async fn stop(self, deadline: Duration) -> bool {
        let _ = deadline;
        todo!()
    }
}
