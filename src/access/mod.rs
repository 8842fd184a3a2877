//! Who may do what: tokens, roles, and the one question every door asks.

use std::sync::Arc;

use crate::store::Store;

/// What a token may do. Later roles include nothing of the earlier ones by themselves: see [`Role::allows`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Live pictures only.
    Viewer,
    /// Live, recordings, alerts, channels.
    Operator,
    /// Alerts and their transitions.
    Dispatch,
    Admin,
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Live,
    Recordings,
    Alerts,
    Transition,
    Channels,
    Metrics,
    Configure,
}

/// Somebody who has proved who they are, or `anonymous`.
#[derive(Clone, Debug)]
pub struct Person {
    pub name: String,
    pub role: Role,
    /// `None`: every camera.
    pub cameras: Option<Vec<String>>,
}

/// The door-keeper.
#[derive(Clone)]
pub struct Access {
    pub store: Arc<Store>,
}
