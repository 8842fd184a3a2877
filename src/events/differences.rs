//! The box's states as they are now, and what two such looks differ in.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::{About, Draft, Subject, Watched};
use crate::config::{Config, Id};
use crate::health::{Severity, State};
use crate::relay::channels::OnAir;

/// `event: camera`: a camera's state, in the fields of the camera.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = CameraEvent)]
pub struct CameraState {
    #[schema(value_type = String)]
    pub id: Id,
    pub online: bool,
    pub health: CameraHealth,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct CameraHealth {
    pub severity: Severity,
    /// Causes name addresses of the inner network: for who may see recordings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// `event: channel`: what is on air now.
#[derive(Serialize, ToSchema)]
#[schema(as = ChannelEvent)]
pub struct OnAirNow<'a> {
    name: &'a str,
    /// Null for who may watch the camera that was on air, and not the one that is.
    camera: Option<&'a str>,
    revision: u64,
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
}

/// `event: health`: the state of anything but a camera.
#[derive(Serialize, ToSchema)]
#[schema(as = HealthEvent)]
pub struct SubjectState<'a> {
    subject: &'a str,
    /// Null where there is nothing any more to say of it.
    state: Option<&'a State>,
}

/// The states at one moment.
pub(super) struct Seen {
    config: Arc<Config>,
    cameras: BTreeMap<Id, CameraState>,
    channels: BTreeMap<Id, OnAir>,
    states: BTreeMap<String, State>,
}

impl Seen {
    pub fn look(watched: &Watched) -> Seen {
        let config = watched.settings.config();
        let mut states = watched.health.snapshot();
        let camera = |id: &Id| {
            let state = states.remove(&format!("camera/{id}"));
            let health = CameraHealth {
                severity: state.as_ref().map_or(Severity::Ok, |state| state.severity),
                message: Some(state.map_or(String::new(), |state| state.message)),
            };
            let online = watched.streams.get(id).is_some_and(|stream| stream.is_online());
            (id.clone(), CameraState { id: id.clone(), online, health })
        };
        let cameras = config.cameras.keys().map(camera).collect();
        Seen { cameras, channels: watched.channels.all(), states, config }
    }

    /// What has changed until `now`.
    pub fn differences(&self, now: &Seen) -> Vec<Draft> {
        let mut told = Vec::new();
        if !Arc::ptr_eq(&self.config, &now.config) {
            // Which cameras and channels there are, and what they are called.
            told.push(Draft::reset(vec![Subject::Cameras, Subject::Channels]));
        }
        for (id, camera) in &now.cameras {
            if self.cameras.get(id).is_some_and(|before| before != camera) {
                let health = CameraHealth { message: None, ..camera.health.clone() };
                let brief = CameraState { health, ..camera.clone() };
                told.push(Draft::new(About::Camera(id.clone()), "camera", camera).with_brief(&brief));
            }
        }
        for (name, on_air) in &now.channels {
            let before = self.channels.get(name);
            if before != Some(on_air) {
                let OnAir { camera, revision, since, .. } = on_air;
                let (from, to) = (before.map(|before| before.camera.clone()), camera.clone());
                let whole = OnAirNow { name, camera: Some(camera), revision: *revision, since: *since };
                let brief = OnAirNow { camera: None, ..whole };
                let draft = Draft::new(About::Channel { from, to }, "channel", &whole);
                told.push(draft.with_brief(&brief));
            }
        }
        let subjects: std::collections::BTreeSet<_> = self.states.keys().chain(now.states.keys()).collect();
        for subject in subjects {
            let state = now.states.get(subject);
            if self.states.get(subject) != state {
                told.push(Draft::new(About::Box, "health", &SubjectState { subject, state }));
            }
        }
        told
    }
}
