//! From looks to alerts that are stored, pinned and sent: the one place where vision, the alert logic, the ring, the
//! store and the outbox meet.
//!
//! The logic itself is pure and lives in [`crate::alert`]. Alerts are never dropped: a full store is waited for, and
//! while it refuses, alerts wait in memory and are sent from there.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config;
use crate::dispatch::Dispatch;
use crate::health::Health;
use crate::record::Ring;
use crate::store::Store;
use crate::vision::Looked;

pub struct Analysis {}

impl Analysis {
    /// Takes up the alerts that were open at the last stop, and what comes out of `found` from now on.
    pub fn start(
        store: Arc<Store>,
        ring: Arc<Ring>,
        dispatch: Arc<Dispatch>,
        health: Health,
        found: mpsc::Receiver<Looked>,
    ) -> Arc<Analysis> {
        let _ = (store, ring, dispatch, health, found);
        todo!()
    }

    /// The camera's scene and zones from now on.
    pub fn watch(&self, camera: Arc<config::Camera>) {
        let _ = camera;
        todo!()
    }

    /// The camera is no longer configured: its open alerts end.
    pub fn unwatch(&self, camera: &str) {
        let _ = camera;
        todo!()
    }

    /// Finishes what has been found, within the deadline; false when something had to be left.
    pub async fn stop(&self, deadline: Duration) -> bool {
        let _ = deadline;
        todo!()
    }
}
