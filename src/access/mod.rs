//! Who may do what: tokens, roles, console sessions, and the one question every door asks.
//!
//! Denied by default. Where somebody connects from counts for nothing: loopback needs a token like everybody else.
//! What does not belong here: sockets and how a refusal is worded on the wire. [`links`] opens single objects to who
//! holds a signed address.

mod links;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::store::{Store, StoreError, TokenRow};
pub use links::Links;
use sessions::Sessions;

/// How long a token's row is believed without asking the store: what a revocation by another process may take.
const BELIEVED: Duration = Duration::from_secs(3);

/// Tokens remembered at once; only ones that exist are.
const REMEMBERED: usize = 1024;

/// Longer texts are no tokens, and are not worth hashing.
const LONGEST_TOKEN: usize = 256;

/// What a token may do. Later roles include nothing of the earlier ones by themselves: see [`Role::allows`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Live pictures only.
    Viewer,
    /// Live, recordings, alerts, channels, and the box's metrics.
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
#[derive(Clone, Debug, PartialEq)]
pub struct Person {
    pub name: String,
    pub role: Role,
    /// `None`: every camera.
    pub cameras: Option<Vec<String>>,
}

/// The door-keeper. Cheap to share.
#[derive(Clone)]
pub struct Access {
    inner: Arc<Inner>,
}

struct Inner {
    keeper: Keeper,
    anonymous: AtomicBool,
    known: Mutex<HashMap<Hash, Known>>,
    sessions: Mutex<Sessions>,
}

enum Keeper {
    Tokens(Arc<Store>),
    /// A simulated camera. `Some`: the hash of `user:password` that opens it.
    Simulated(Option<Hash>),
}

type Hash = [u8; 32];

#[derive(Clone)]
struct Known {
    person: Person,
    expires: Option<Timestamp>,
    since: Instant,
}

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
        use Action::*;
        match self {
            Role::Viewer => matches!(action, Live),
            Role::Operator => matches!(action, Live | Recordings | Alerts | Channels | Metrics),
            Role::Dispatch => matches!(action, Alerts | Transition),
            Role::Admin => true,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Dispatch => "dispatch",
            Role::Admin => "admin",
        }
    }

    fn named(name: &str) -> Option<Role> {
        [Role::Viewer, Role::Operator, Role::Dispatch, Role::Admin]
            .into_iter()
            .find(|role| role.name() == name)
    }
}

impl Person {
    fn anonymous() -> Person {
        Person { name: "anonymous".to_owned(), role: Role::Viewer, cameras: None }
    }

    /// May this person do `action`, with this camera where one is meant?
    ///
    /// Without a camera, somebody who is limited to some may open collections (the caller shows only theirs), but
    /// nothing that concerns the whole box.
    pub fn may(&self, action: Action, camera: Option<&str>) -> bool {
        let reaches = match (&self.cameras, camera) {
            (None, _) => true,
            (Some(cameras), Some(camera)) => cameras.iter().any(|allowed| allowed == camera),
            (Some(_), None) => !matches!(action, Action::Metrics | Action::Configure),
        };
        reaches && self.role.allows(action)
    }
}

impl Access {
    pub fn new(store: Arc<Store>, anonymous_viewer: bool) -> Access {
        Access::kept_by(Keeper::Tokens(store), anonymous_viewer)
    }

    /// Lets anyone watch, or only who has this user name and password (by Basic): for simulated cameras.
    pub fn simulated(credentials: Option<(String, String)>) -> Access {
        let anyone = credentials.is_none();
        let hash = credentials.map(|(user, password)| hash(&format!("{user}:{password}")));
        Access::kept_by(Keeper::Simulated(hash), anyone)
    }

    fn kept_by(keeper: Keeper, anonymous: bool) -> Access {
        let inner = Inner {
            keeper,
            anonymous: AtomicBool::new(anonymous),
            known: Mutex::default(),
            sessions: Mutex::default(),
        };
        Access { inner: Arc::new(inner) }
    }

    /// A reload's setting.
    pub fn set_anonymous(&self, anonymous_viewer: bool) {
        self.inner.anonymous.store(anonymous_viewer, Ordering::Relaxed);
    }

    /// Whoever holds this token. May read the database, for microseconds.
    pub fn token(&self, token: &str) -> Result<Person, Denied> {
        if token.len() > LONGEST_TOKEN {
            return Err(Denied::Unknown);
        }
        self.holder(&hash(token))
    }

    /// Whoever sent this `Authorization` header (`Bearer TOKEN`, or `Basic` with user `token` and the token as the
    /// password); the anonymous viewer where there is none and that is allowed.
    pub fn authorization(&self, header: Option<&str>) -> Result<Person, Denied> {
        let anonymous = self.inner.anonymous.load(Ordering::Relaxed);
        let header = match header {
            None if anonymous => return Ok(Person::anonymous()),
            None => return Err(Denied::SignIn),
            Some(header) => header.trim(),
        };
        // A player that sends some user name to an open simulated camera gets in as well.
        if let Keeper::Simulated(None) = self.inner.keeper {
            return Ok(Person::anonymous());
        }
        let (scheme, rest) = header.split_once(' ').ok_or(Denied::Unknown)?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("Bearer") {
            return self.token(rest);
        }
        if !scheme.eq_ignore_ascii_case("Basic") || rest.len() > 2 * LONGEST_TOKEN {
            return Err(Denied::Unknown);
        }
        let decoded = STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let decoded = decoded.ok_or(Denied::Unknown)?;
        match (&self.inner.keeper, decoded.split_once(':')) {
            (Keeper::Simulated(Some(expected)), _) if bool::from(hash(&decoded).ct_eq(expected)) => {
                Ok(Person { name: "simulated".to_owned(), ..Person::anonymous() })
            }
            (Keeper::Tokens(_), Some(("token", token))) => self.token(token),
            _ => Err(Denied::Unknown),
        }
    }

    /// Whoever sent a request: by its `Authorization` header, else by its console session, else the anonymous viewer;
    /// and whether any credentials counted. For where nothing may block: tokens lie in the store, whose every call does.
    pub async fn who(
        &self,
        authorization: Option<String>,
        session: Option<String>,
    ) -> (Result<Person, Denied>, bool) {
        let access = self.clone();
        let asking = tokio::task::spawn_blocking(move || {
            if authorization.is_some() {
                return (access.authorization(authorization.as_deref()), true);
            }
            // A session that has ended is none: the page that still sends it falls back to what anyone may.
            match session.map(|session| access.session(&session)) {
                Some(Ok(person)) => (Ok(person), true),
                _ => (access.authorization(None), false),
            }
        });
        asking.await.unwrap_or((Err(Denied::Unknown), true))
    }

    /// Makes a token and gives back its text, which is shown once and never kept.
    pub fn create_token(
        &self,
        role: Role,
        cameras: Option<Vec<String>>,
        expires: Option<Timestamp>,
    ) -> Result<String, StoreError> {
        let Keeper::Tokens(store) = &self.inner.keeper else {
            let source = std::io::Error::other("a simulated camera keeps no tokens");
            return Err(StoreError::Io { path: "simulate".to_owned(), source });
        };
        let text = format!("lt_{}", random_text());
        store.put_token(&TokenRow {
            id: ulid::Ulid::generate().to_string(),
            sha256: hash(&text),
            role: role.name().to_owned(),
            cameras,
            created: Timestamp::now(),
            expires,
        })?;
        Ok(text)
    }

    /// Takes a token back, at once; false where there is none of that id.
    pub fn revoke_token(&self, id: &str) -> Result<bool, StoreError> {
        let Keeper::Tokens(store) = &self.inner.keeper else { return Ok(false) };
        let revoked = store.revoke_token(id)?;
        self.known().clear();
        Ok(revoked)
    }

    /// Opens a console session for the holder of a token: the value of its cookie. It ends after
    /// [`sessions::LIFE`], or with the token.
    pub fn sign_in(&self, token: &str) -> Result<String, Denied> {
        self.token(token)?;
        let value = random_text();
        self.sessions().open(hash(&value), hash(token), Instant::now());
        Ok(value)
    }

    /// Whoever holds this session cookie.
    pub fn session(&self, value: &str) -> Result<Person, Denied> {
        if value.len() > LONGEST_TOKEN {
            return Err(Denied::Unknown);
        }
        let token = self.sessions().token(&hash(value), Instant::now()).ok_or(Denied::Unknown)?;
        self.holder(&token)
    }

    pub fn sign_out(&self, value: &str) {
        self.sessions().close(&hash(value));
    }

    fn holder(&self, token: &Hash) -> Result<Person, Denied> {
        let Keeper::Tokens(store) = &self.inner.keeper else { return Err(Denied::Unknown) };
        let remembered = self.known().get(token).filter(|known| known.since.elapsed() < BELIEVED).cloned();
        let known = match remembered {
            Some(known) => known,
            None => self.look_up(store, token)?,
        };
        match known.expires {
            Some(expires) if expires <= Timestamp::now() => Err(Denied::Unknown),
            _ => Ok(known.person),
        }
    }

    fn look_up(&self, store: &Store, token: &Hash) -> Result<Known, Denied> {
        // Taken before the row is read: a revocation in between is noticed in time.
        let since = Instant::now();
        let row = store.token(token).unwrap_or_else(|error| {
            tracing::error!("a token cannot be looked up: {error}");
            None
        });
        let row = row.filter(|row| bool::from(row.sha256.ct_eq(token)));
        let person = row.and_then(|row| {
            let role = Role::named(&row.role)?;
            Some((Person { name: format!("token {}", row.id), role, cameras: row.cameras }, row.expires))
        });
        let mut remembered = self.known();
        let Some((person, expires)) = person else {
            remembered.remove(token);
            return Err(Denied::Unknown);
        };
        if remembered.len() >= REMEMBERED {
            remembered.retain(|_, known| known.since.elapsed() < BELIEVED);
        }
        let known = Known { person, expires, since };
        if remembered.len() < REMEMBERED {
            remembered.insert(*token, known.clone());
        }
        Ok(known)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Hash, Known>> {
        self.inner.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.inner.sessions.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Tokens and session values have 256 random bits, so a plain hash cannot be guessed back, and looking one up by its
/// hash tells nothing by the time it takes.
fn hash(text: &str) -> Hash {
    Sha256::digest(text.as_bytes()).into()
}

fn random_text() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}
