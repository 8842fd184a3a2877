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
pub struct Access {}

/// Why a door stays shut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("sign-in is needed: send Authorization: Bearer TOKEN")]
    SignIn,
    #[error("the token is unknown, expired or revoked")]
    Unknown,
    #[error("not allowed for this role or camera")]
    Forbidden,
}

impl Role {
    /// What the role may do, denied by default.
    pub fn allows(self, action: Action) -> bool {
        let _ = action;
        todo!()
    }
}

impl Person {
    /// May this person do `action`, with this camera where one is meant?
    pub fn may(&self, action: Action, camera: Option<&str>) -> bool {
        let _ = (action, camera);
        todo!()
    }
}

impl Access {
    pub fn new(store: Arc<Store>, anonymous_viewer: bool) -> Access {
        let _ = (store, anonymous_viewer);
        todo!()
    }

    /// Lets anyone watch, or only who has this user name and password: for simulated cameras.
    pub fn simulated(credentials: Option<(String, String)>) -> Access {
        let _ = credentials;
        todo!()
    }

    /// A reload's setting.
    pub fn set_anonymous(&self, anonymous_viewer: bool) {
        let _ = anonymous_viewer;
        todo!()
    }

    /// Whoever holds this token.
    pub fn token(&self, token: &str) -> Result<Person, Denied> {
        let _ = token;
        todo!()
    }

    /// Whoever sent this `Authorization` header (`Bearer TOKEN`, or `Basic` with user `token` and the token as the
    /// password); the anonymous viewer where there is none and that is allowed.
    pub fn authorization(&self, header: Option<&str>) -> Result<Person, Denied> {
        let _ = header;
        todo!()
    }

    /// Makes a token and gives back its text, which is shown once and never kept.
    pub fn create_token(
        &self,
        role: Role,
        cameras: Option<Vec<String>>,
        expires: Option<jiff::Timestamp>,
    ) -> Result<String, crate::store::StoreError> {
        let _ = (role, cameras, expires);
        todo!()
    }
}

/// Expiring HMAC links, each for one object: what alerts carry instead of a token.
#[derive(Clone)]
pub struct Links {}

impl Links {
    pub fn new(key: [u8; 32]) -> Links {
        let _ = key;
        todo!()
    }

    /// `path` (begins with `/`, no query) with `?expires=…&signature=…`.
    pub fn sign(&self, path: &str, expires: jiff::Timestamp) -> String {
        let _ = (path, expires);
        todo!()
    }

    /// Whether the query of a request for `path` opens it now.
    pub fn opens(&self, path: &str, expires: &str, signature: &str, now: jiff::Timestamp) -> bool {
        let _ = (path, expires, signature, now);
        todo!()
    }
}
