//! The difference of two configurations: what a reload starts, stops and leaves alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{Api, Camera, Config, Id};

/// What to do so that `new` runs where `old` ran.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub stop: Vec<Id>,
    pub start: Vec<Arc<Camera>>,
    /// The same streams; only how they are watched or shown has changed.
    pub retune: Vec<Arc<Camera>>,
    /// Sections that take effect only at the next start.
    pub restart_needed: Vec<&'static str>,
}

impl Plan {
    pub fn between(old: &Config, new: &Config) -> Plan {
        let mut plan = Plan::default();
        for (id, camera) in &new.cameras {
            match old.cameras.get(id) {
                None => plan.start.push(camera.clone()),
                Some(before) if before == camera => {}
                Some(before) if same_streams(before, camera) => plan.retune.push(camera.clone()),
                Some(_) => {
                    plan.stop.push(id.clone());
                    plan.start.push(camera.clone());
                }
            }
        }
        plan.stop.extend(removed(&old.cameras, &new.cameras));
        let sections = [
            ("data", old.data != new.data),
            ("api", served(&old.api) != served(&new.api)),
            ("rtsp", old.rtsp != new.rtsp),
            ("record.volumes", old.record.volumes != new.record.volumes),
            // Where models are looked for depends on `data`, of which enough is said then.
            ("vision", old.data == new.data && old.vision != new.vision),
        ];
        plan.restart_needed =
            sections.into_iter().filter_map(|(name, changed)| changed.then_some(name)).collect();
        plan
    }
}

fn removed(old: &BTreeMap<Id, Arc<Camera>>, new: &BTreeMap<Id, Arc<Camera>>) -> Vec<Id> {
    old.keys().filter(|id| !new.contains_key(*id)).cloned().collect()
}

/// What of `[api]` a listener is made of; the certificate is exchanged while it serves.
fn served(api: &Api) -> (SocketAddr, bool) {
    (api.listen, api.is_encrypted())
}

fn same_streams(a: &Camera, b: &Camera) -> bool {
    (&a.url, &a.sub_url, &a.credentials, a.transport, &a.reach, a.record)
        == (&b.url, &b.sub_url, &b.credentials, b.transport, &b.reach, b.record)
}
