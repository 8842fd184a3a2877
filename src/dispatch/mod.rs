//! Telling the world: the outbox's deliveries, one task a destination, one file a kind of destination.
//!
//! The outbox itself is durable and lies in [`crate::store`]; this module empties it. A failed delivery waits with
//! jittered, growing pauses and is tried until it is acknowledged or expires, visibly.

pub mod webhook;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::access::Links;
use crate::alert::Alert;
use crate::config::{Destination, Site};
use crate::health::Health;
use crate::store::Store;

/// The deliveries. Cheap to share.
pub struct Dispatch {}

impl Dispatch {
    pub fn start(
        destinations: &BTreeMap<String, Arc<Destination>>,
        site: Site,
        store: Arc<Store>,
        links: Links,
        health: Health,
    ) -> Arc<Dispatch> {
        let _ = (destinations, site, store, links, health);
        todo!()
    }

    /// The outbox entries of an alert's revision: (destination, event as sent), for [`Store::put_alert`].
    /// `snapshot_sha256` is of the picture as served.
    pub fn events(&self, alert: &Alert, snapshot_sha256: Option<&str>) -> Vec<(String, Bytes)> {
        let _ = (alert, snapshot_sha256);
        todo!()
    }

    /// Something new is in the outbox.
    pub fn wake(&self) {
        todo!()
    }

    /// A reload's destinations.
    pub fn reconfigure(&self, destinations: &BTreeMap<String, Arc<Destination>>, site: Site) {
        let _ = (destinations, site);
        todo!()
    }

    /// Ends the deliveries; what is not acknowledged stays in the outbox.
    pub async fn stop(&self) {
        todo!()
    }
}
