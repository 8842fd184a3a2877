//! Which camera's pictures bring the worker down.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Id;

/// How long a camera is left out whose pictures have crashed the worker [`CRASHES`] times.
const SUSPENSION: Duration = Duration::from_secs(300);
const CRASHES: u32 = 2;

/// The cameras that the worker ended at.
#[derive(Default)]
pub struct Blame(HashMap<Id, Suspect>);

#[derive(Default)]
struct Suspect {
    crashes: u32,
    until: Option<Instant>,
}

impl Blame {
    /// The worker ended while it was at this camera's picture.
    pub fn crashed(&mut self, camera: &Id) {
        let suspect = self.0.entry(camera.clone()).or_default();
        suspect.crashes += 1;
        if suspect.crashes >= CRASHES {
            // Once more after that suspends again: only a look that succeeds clears the name.
            suspect.until = Some(Instant::now() + SUSPENSION);
            tracing::error!(
                camera = &**camera,
                "its pictures crash the vision worker: left out for 5 minutes"
            );
        }
    }

    /// A look succeeded, or the camera is gone.
    pub fn clear(&mut self, camera: &str) {
        self.0.remove(camera);
    }

    pub fn suspended(&self, camera: &str) -> bool {
        let until = self.0.get(camera).and_then(|suspect| suspect.until);
        until.is_some_and(|until| Instant::now() < until)
    }
}
