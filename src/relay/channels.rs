//! Channels: outputs with a stable address, and the camera that is on air on each.
//!
//! The configuration names the channels and what is on air at first; people put other cameras on air, which is stored
//! and outlives restarts and reloads. The configuration has its way again where it is the one that changed last: with
//! another `camera` than it had when somebody chose, where the chosen camera is gone, and where the channel was gone.
//!
//! A switch lets the directory's path lead to another stream; readers notice that by themselves. What does not belong
//! here: HTTP, and who may switch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use tokio::sync::Notify;

use crate::access::By;
use crate::access::audit::{self, Event};
use crate::config::{Channel, Id};
use crate::live::Directory;
use crate::store::{ChannelRow, Store, StoreError};

/// What is on air, on every channel.
pub struct Channels {
    store: Arc<Store>,
    streams: Arc<Directory>,
    /// Held over a whole change, which waits for the disk.
    changing: Mutex<()>,
    on_air: Mutex<BTreeMap<Id, OnAir>>,
    changed: Notify,
}

/// What is on air on one channel.
#[derive(Clone, Debug, PartialEq)]
pub struct OnAir {
    pub camera: Id,
    /// Counts changes, from 1.
    pub revision: u64,
    pub since: Timestamp,
    /// Who has put it on air; `None`: the configuration.
    pub who: Option<String>,
    /// What the configuration names.
    configured: Id,
}

/// Why a channel is not switched.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("there is no such channel")]
    Missing,
    #[error("there is no camera {0:?}")]
    UnknownCamera(String),
    /// Somebody else was faster.
    #[error("changed meanwhile: read it again and repeat the change")]
    Stale,
    /// What is on air by now is not for this person to change.
    #[error("not allowed for the camera on air")]
    Forbidden,
}

impl Channels {
    pub fn new(store: Arc<Store>, streams: Arc<Directory>) -> Arc<Channels> {
        Arc::new(Channels {
            store,
            streams,
            changing: Mutex::default(),
            on_air: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// The configuration's channels from now on, once its cameras are in the directory. Blocks.
    pub fn configure(&self, configured: &BTreeMap<Id, Channel>) {
        let _changing = self.change();
        let before = self.all();
        let mut known: BTreeMap<Id, OnAir> = match self.store.channels() {
            Ok(rows) => rows.into_iter().map(OnAir::of).collect(),
            Err(error) => {
                tracing::error!("what people had put on air cannot be read, what runs stays: {error}");
                BTreeMap::new()
            }
        };
        known.extend(before);
        for (name, gone) in known.extract_if(.., |name, _| !configured.contains_key(name)) {
            self.streams.remove(&path(&name));
            // Should it come back, nobody expects what somebody chose once; its numbers rise on.
            if gone.who.is_some() {
                self.keep(&name, &OnAir::configured(gone.configured, gone.revision + 1));
            }
        }
        let mut on_air = BTreeMap::new();
        for (name, channel) in configured {
            let before = known.remove(name);
            let revision = before.as_ref().map_or(1, |before| before.revision + 1);
            let stands = before
                .filter(|now| now.configured == channel.camera && self.streams.get(&now.camera).is_some());
            let now = stands.unwrap_or_else(|| {
                let now = OnAir::configured(channel.camera.clone(), revision);
                self.keep(name, &now);
                now
            });
            if let Some(stream) = self.streams.get(&now.camera) {
                self.streams.insert(path(name), stream);
            }
            on_air.insert(name.clone(), now);
        }
        *self.on_air() = on_air;
        self.changed.notify_one();
    }

    fn keep(&self, name: &str, on_air: &OnAir) {
        if let Err(error) = self.store.put_channel(&on_air.row(name), None) {
            // The next start comes to the same.
            tracing::warn!("what is on air on {name} is not stored: {error}");
        }
    }

    /// Puts `camera` on air; with `expected` only from that revision on, and only where `may` says of the camera on air
    /// that it may be taken off. Blocks.
    pub fn switch(
        &self,
        name: &str,
        camera: &str,
        expected: Option<u64>,
        by: &By,
        may: impl FnOnce(&str) -> bool,
    ) -> Result<OnAir, SwitchError> {
        let _changing = self.change();
        let (name, before) = self
            .on_air()
            .get_key_value(name)
            .map(|(name, on_air)| (name.clone(), on_air.clone()))
            .ok_or(SwitchError::Missing)?;
        if !may(&before.camera) {
            return Err(SwitchError::Forbidden);
        }
        if expected.is_some_and(|expected| expected != before.revision) {
            return Err(SwitchError::Stale);
        }
        // The main stream of a camera is the one at the camera's own path.
        let stream = self.streams.get(camera).filter(|stream| *stream.camera == *camera);
        let stream = stream.ok_or_else(|| SwitchError::UnknownCamera(camera.to_owned()))?;
        let now = OnAir {
            camera: stream.camera.clone(),
            revision: before.revision + 1,
            since: Timestamp::now(),
            who: Some(by.name.clone()),
            configured: before.configured,
        };
        let detail = format!("camera {} to {camera}", before.camera);
        let entry = audit::entry(by, Event::Change, format!("channel/{name}"), detail);
        self.store.put_channel(&now.row(&name), Some(&entry))?;
        self.streams.insert(path(&name), stream);
        self.on_air().insert(name, now.clone());
        self.changed.notify_one();
        Ok(now)
    }

    pub fn all(&self) -> BTreeMap<Id, OnAir> {
        self.on_air().clone()
    }

    pub fn get(&self, name: &str) -> Option<OnAir> {
        self.on_air().get(name).cloned()
    }

    /// Waits until something has changed since the last call. For one waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn on_air(&self) -> MutexGuard<'_, BTreeMap<Id, OnAir>> {
        self.on_air.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl OnAir {
    fn configured(camera: Id, revision: u64) -> OnAir {
        OnAir { camera: camera.clone(), revision, since: Timestamp::now(), who: None, configured: camera }
    }

    fn of(row: ChannelRow) -> (Id, OnAir) {
        let on_air = OnAir {
            camera: row.camera.into(),
            revision: row.revision,
            since: row.since,
            who: row.who,
            configured: row.configured.into(),
        };
        (row.name.into(), on_air)
    }

    fn row(&self, name: &str) -> ChannelRow {
        ChannelRow {
            name: name.to_owned(),
            camera: self.camera.to_string(),
            configured: self.configured.to_string(),
            revision: self.revision,
            since: self.since,
            who: self.who.clone(),
        }
    }
}

fn path(name: &str) -> String {
    format!("channels/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::LiveStream;
    use crate::media::Feed;
    use crate::store::{AuditFilter, Filter};

    const CAMERAS: [&str; 3] = ["forest-1", "gate-1", "road-1"];

    /// What a start with these cameras has.
    fn start(data: &std::path::Path, cameras: &[&str]) -> Arc<Channels> {
        let streams = Arc::new(Directory::default());
        for id in cameras {
            streams.insert(*id, LiveStream::new((*id).into(), Feed::Main, 1 << 20));
            streams.insert(format!("{id}/sub"), LiveStream::new((*id).into(), Feed::Sub, 1 << 20));
        }
        Channels::new(Store::open(data).unwrap(), streams)
    }

    fn configuration(channels: &[(&str, &str)]) -> BTreeMap<Id, Channel> {
        channels.iter().map(|(name, camera)| ((*name).into(), Channel { camera: (*camera).into() })).collect()
    }

    fn on_air(channels: &Channels, name: &str) -> String {
        let stream = channels.streams.get(&path(name)).unwrap();
        assert_eq!(channels.get(name).unwrap().camera, stream.camera);
        stream.camera.to_string()
    }

    fn switch(
        channels: &Channels,
        name: &str,
        camera: &str,
        expected: Option<u64>,
    ) -> Result<OnAir, SwitchError> {
        channels.switch(name, camera, expected, &By { name: "li".to_owned(), address: None }, |_| true)
    }

    #[test]
    fn what_somebody_put_on_air_stays_until_the_configuration_says_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let wall = configuration(&[("wall-1", "forest-1"), ("wall-2", "road-1")]);
        let channels = start(folder.path(), &CAMERAS);
        channels.configure(&wall);
        assert_eq!(
            (on_air(&channels, "wall-1"), on_air(&channels, "wall-2")),
            ("forest-1".into(), "road-1".into())
        );
        assert_eq!(channels.get("wall-1").unwrap().who, None);
        let now = switch(&channels, "wall-1", "gate-1", Some(1)).unwrap();
        assert_eq!((now.revision, now.who.as_deref()), (2, Some("li")));
        // A reload, and a start, that change nothing of it.
        channels.configure(&wall);
        assert_eq!(channels.get("wall-1"), Some(now.clone()));
        let channels = start(folder.path(), &CAMERAS);
        channels.configure(&wall);
        assert_eq!((channels.get("wall-1"), on_air(&channels, "wall-2")), (Some(now), "road-1".into()));
        // The configuration names another one.
        channels.configure(&configuration(&[("wall-1", "road-1")]));
        assert_eq!(
            (on_air(&channels, "wall-1"), channels.get("wall-1").unwrap().revision),
            ("road-1".into(), 3)
        );
        assert!(channels.streams.get("channels/wall-2").is_none() && channels.get("wall-2").is_none());
        // A channel that was taken out and comes back.
        switch(&channels, "wall-1", "gate-1", None).unwrap();
        channels.configure(&configuration(&[]));
        channels.configure(&configuration(&[("wall-1", "road-1")]));
        let back = channels.get("wall-1").unwrap();
        assert_eq!((on_air(&channels, "wall-1"), back.revision, back.who), ("road-1".into(), 5, None));
        // The chosen camera is gone at the next start.
        switch(&channels, "wall-1", "gate-1", None).unwrap();
        let channels = start(folder.path(), &["road-1", "forest-1"]);
        channels.configure(&configuration(&[("wall-1", "road-1")]));
        assert_eq!(
            (on_air(&channels, "wall-1"), channels.get("wall-1").unwrap().revision),
            ("road-1".into(), 7)
        );
    }

    #[test]
    fn a_switch_is_refused_or_is_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let channels = start(folder.path(), &CAMERAS);
        channels.configure(&configuration(&[("wall-1", "forest-1")]));
        switch(&channels, "wall-1", "gate-1", None).unwrap();
        assert!(matches!(switch(&channels, "wall-1", "road-1", Some(1)), Err(SwitchError::Stale)));
        assert!(matches!(switch(&channels, "wall-9", "road-1", None), Err(SwitchError::Missing)));
        for unknown in ["road-9", "road-1/sub", "channels/wall-1", ""] {
            let refused = switch(&channels, "wall-1", unknown, None);
            assert!(matches!(refused, Err(SwitchError::UnknownCamera(_))), "{unknown}");
        }
        let by = By { name: "wang".to_owned(), address: None };
        let refused = channels.switch("wall-1", "road-1", None, &by, |on_air| on_air != "gate-1");
        assert!(matches!(refused, Err(SwitchError::Forbidden)));
        assert_eq!(
            (on_air(&channels, "wall-1"), channels.get("wall-1").unwrap().revision),
            ("gate-1".into(), 2)
        );
        let page = Filter { limit: 10, ..Filter::default() };
        let rows = channels.store.audit(&AuditFilter { page, ..AuditFilter::default() }).unwrap().items;
        let told: Vec<_> = rows.iter().map(|row| (&*row.who, &*row.object, &*row.detail)).collect();
        assert_eq!(told, [("li", "channel/wall-1", "camera forest-1 to gate-1")]);
    }
}
