//! Telling the world: the outbox's deliveries, one task a destination, one file a kind of destination.
//!
//! The outbox itself is durable and lies in [`crate::store`]; this module empties it. A failed delivery waits with
//! jittered, growing pauses and is tried until it is acknowledged or expires, visibly. Whoever receives may see an
//! event twice, never an alert's revisions out of order; the event's id tells the repetition. [`transitions`] is the other
//! direction: what dispatch did with an alert.

mod lane;
mod memory;
mod pace;
pub mod transitions;
pub mod webhook;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::access::Links;
use crate::alert::Alert;
use crate::config::{Destination, Site};
use crate::health::Health;
use crate::store::Store;
use lane::{Lane, Shared};

/// How long links in alerts open what they point at: as long as evidence is kept by default.
const LINKS_LAST: Duration = Duration::from_secs(30 * 86_400);

/// The deliveries. Cheap to share.
pub struct Dispatch {
    site: ArcSwap<Site>,
    links: Links,
    shared: Shared,
    lanes: Mutex<BTreeMap<String, Lane>>,
}

/// An alert as the rest of the world sees it: `data` of its event, and what the API answers.
#[derive(Serialize, ToSchema)]
#[schema(as = Alert)]
pub struct Document<'a> {
    #[serde(flatten)]
    alert: &'a Alert,
    /// Null while there is no picture.
    snapshot: Option<Snapshot<'a>>,
    clip: Clip,
}

/// The picture with the boxes drawn.
#[derive(Serialize, ToSchema)]
struct Snapshot<'a> {
    url: String,
    /// In events alone: whoever follows the link can tell that it is the picture that was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<&'a str>,
}

/// The recording kept as evidence.
#[derive(Serialize, ToSchema)]
struct Clip {
    url: String,
    #[schema(value_type = String, format = DateTime)]
    start: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    end: Timestamp,
}

impl<'a> Document<'a> {
    /// The alert with addresses that need the same sign-in as the API.
    pub fn of(alert: &'a Alert) -> Document<'a> {
        let url = |file: &str| format!("/api/v1/alerts/{}/{file}", alert.id);
        Document::linked(alert, Some(Snapshot { url: url("snapshot.jpg"), sha256: None }), url("clip.mp4"))
    }

    fn linked(alert: &'a Alert, snapshot: Option<Snapshot<'a>>, clip: String) -> Document<'a> {
        let clip = Clip { url: clip, start: alert.evidence_start, end: alert.evidence_end };
        Document { alert, snapshot, clip }
    }
}

/// Of a snapshot, as events tell it.
pub fn sha256(jpeg: &[u8]) -> String {
    Sha256::digest(jpeg).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// CloudEvents 1.0, JSON format, structured mode.
#[derive(Serialize)]
struct Event<'a> {
    specversion: &'static str,
    id: String,
    source: String,
    r#type: &'static str,
    subject: &'a str,
    time: Timestamp,
    datacontenttype: &'static str,
    data: Document<'a>,
}

impl Dispatch {
    /// Starts a task for each destination; call it within a tokio runtime.
    pub fn start(
        destinations: &BTreeMap<String, Arc<Destination>>,
        site: Site,
        store: Arc<Store>,
        links: Links,
        health: Health,
    ) -> Arc<Dispatch> {
        let shared = Shared { store, health };
        let dispatch = Arc::new(Dispatch {
            site: ArcSwap::from_pointee(site.clone()),
            links,
            shared,
            lanes: Mutex::default(),
        });
        dispatch.reconfigure(destinations, site);
        dispatch
    }

    /// The outbox entries of an alert's revision: (destination, event as sent), for [`Store::put_alert`].
    /// `snapshot_sha256` is of the picture as served.
    pub fn events(&self, alert: &Alert, snapshot_sha256: Option<&str>) -> Vec<(String, Bytes)> {
        let event = Event {
            specversion: "1.0",
            id: format!("{}.{}", alert.id, alert.revision),
            source: format!("liuta://{}", self.site.load().id),
            r#type: "liuta.alert.v1",
            subject: &alert.camera,
            time: Timestamp::now(),
            datacontenttype: "application/json",
            data: self.document(alert, snapshot_sha256),
        };
        let body = match serde_json::to_vec(&event) {
            Ok(body) => Bytes::from(body),
            // Only numbers that JSON lacks could do this, and serde_json writes those as null.
            Err(error) => {
                tracing::error!(alert = alert.id, "the event cannot be written: {error}");
                return Vec::new();
            }
        };
        self.lanes().keys().map(|name| (name.clone(), body.clone())).collect()
    }

    /// The alert with signed links to its picture and clip.
    pub fn document<'a>(&self, alert: &'a Alert, snapshot_sha256: Option<&'a str>) -> Document<'a> {
        let site = self.site.load();
        let base = site.public_url.as_str().trim_end_matches('/');
        let expires = Timestamp::now().saturating_add(LINKS_LAST).unwrap_or(Timestamp::MAX);
        let link = |file: &str| {
            format!("{base}{}", self.links.sign(&format!("/api/v1/alerts/{}/{file}", alert.id), expires))
        };
        let snapshot = |sha256| Snapshot { url: link("snapshot.jpg"), sha256: Some(sha256) };
        Document::linked(alert, snapshot_sha256.map(snapshot), link("clip.mp4"))
    }

    /// Something new is in the outbox.
    pub fn wake(&self) {
        self.lanes().values().for_each(Lane::wake);
    }

    /// Sends an alert's events although the store could not take them. They stay in memory until they are
    /// acknowledged or the store has them; keep trying [`Store::put_alert`] with the same alert and the same entries:
    /// what was acknowledged meanwhile is not sent again.
    ///
    /// Of each destination at most [`memory::MOST`] events wait like that; later ones go once the store takes them.
    pub fn send_unstored(&self, alert: &Alert, entries: &[(String, Bytes)]) {
        let lanes = self.lanes();
        for (destination, body) in entries {
            if let Some(lane) = lanes.get(destination) {
                lane.send_unstored(alert, body.clone());
            }
        }
    }

    /// A reload's destinations. One that has not changed is left alone; what waits for one that is gone stays in the
    /// outbox, should it come back.
    pub fn reconfigure(&self, destinations: &BTreeMap<String, Arc<Destination>>, site: Site) {
        self.site.store(Arc::new(site));
        let mut lanes = self.lanes();
        lanes.retain(|name, lane| {
            let stays = destinations.contains_key(name);
            if !stays {
                lane.remove(&self.shared.health);
            }
            stays
        });
        for (name, destination) in destinations {
            match lanes.remove(name) {
                Some(lane) if lane.serves(destination) => lanes.insert(name.clone(), lane),
                before => {
                    lanes.insert(name.clone(), Lane::start(destination.clone(), self.shared.clone(), before))
                }
            };
        }
    }

    /// Ends the deliveries; what is not acknowledged stays in the outbox.
    pub async fn stop(&self) {
        let lanes = std::mem::take(&mut *self.lanes());
        lanes.values().for_each(Lane::cancel);
        for lane in lanes.into_values() {
            lane.ended().await;
        }
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Lane>> {
        self.lanes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
