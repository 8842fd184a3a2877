//! Who may do what: people, tokens, sessions, roles, and the one question every door asks.
//!
//! Denied by default. Where somebody connects from counts for nothing: loopback needs a sign-in like everybody else.
//! [`people`] and [`tokens`] keep who there is, [`sign_in`] opens sessions, [`players`] prove a stream key or a
//! token, [`standing`] asks again for what lasts, [`stopgap`] lets an administrator in while the disk is full, [`audit`]
//! and [`failed`] write down, [`links`] opens single objects to who holds a
//! signed address. What does not belong here: sockets, and how a refusal is worded on the wire.

pub mod audit;
mod digest;
mod failed;
mod limits;
mod links;
mod passwords;
pub mod people;
mod players;
mod roles;
mod sign_in;
mod standing;
mod stopgap;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use crate::config::Config;
use crate::health::Health;
use crate::store::{Ha1, PersonRow, Store, StoreError, TokenRow};
use audit::Audit;
pub use digest::Challenge;
use limits::Limits;
pub use links::{Links, keyed};
use passwords::Passwords;
pub use roles::{Action, Role};
pub use sign_in::{IDLE, LIFE, Opened, Refused};
pub use standing::Standing;
pub use tokens::{NewToken, Token};

/// How long a row is believed without asking the store: what a revocation by another process may take.
const BELIEVED: Duration = Duration::from_secs(3);

/// People, tokens and sessions remembered at once; only ones that exist are.
const REMEMBERED: usize = 1024;

/// Longer texts are no tokens, and are not worth hashing.
const LONGEST_TOKEN: usize = 256;

/// How exactly the last use of a session is known.
const SEEN_EVERY: Duration = Duration::from_secs(60);

/// Somebody who has proved who they are, or `anonymous`.
#[derive(Clone, Debug, PartialEq)]
pub struct Person {
    /// As the audit trail names them: a person's own name, `token ID`, `anonymous` or `link`.
    pub name: String,
    pub role: Role,
    /// Ids; groups are resolved. `None`: every camera.
    pub cameras: Option<Vec<String>>,
    /// What of the role's actions a token may do. `None`: all of them.
    pub actions: Option<Vec<Action>>,
    proof: Proof,
}

/// What somebody has shown; it is asked about again for as long as they stay.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Proof {
    Anonymous,
    Link,
    Token(Hash),
    Session(Hash),
    /// With the hash of the key's HA1, so that a new key ends what the old one has opened.
    StreamKey(String, Hash),
}

impl Proof {
    /// Tells a player's key from others without being one.
    fn mark(&self) -> Option<Hash> {
        match self {
            Proof::Token(mark) | Proof::StreamKey(_, mark) => Some(*mark),
            Proof::Anonymous | Proof::Link | Proof::Session(_) => None,
        }
    }
}

/// The door-keeper. Cheap to share.
#[derive(Clone)]
pub struct Access {
    inner: Arc<Inner>,
}

struct Inner {
    keeper: Keeper,
    settings: ArcSwap<Settings>,
    known: Mutex<HashMap<Proof, Known>>,
    limits: Mutex<Limits>,
    lines: Mutex<failed::Lines>,
    passwords: Passwords,
    setup: Mutex<Option<people::Setup>>,
    stopgaps: Mutex<HashMap<Hash, stopgap::Stopgap>>,
}

enum Keeper {
    Box {
        store: Arc<Store>,
        audit: Audit,
    },
    /// A simulated camera, open to anyone or to who has this user name and password.
    Simulated(Option<(String, Ha1)>),
}

/// What of the configuration decides who may do what.
#[derive(Default)]
struct Settings {
    anonymous: bool,
    cameras: BTreeSet<String>,
    /// The cameras of each group.
    groups: BTreeMap<String, Vec<String>>,
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
    #[error("the token, session or stream key is unknown, expired or revoked")]
    Unknown,
    /// Right, but for a challenge that is over: the player answers the new one by itself.
    #[error("the challenge is over: answer the new one")]
    Stale,
    #[error("not allowed for this role or camera")]
    Forbidden,
    /// Right or wrong, it is not told.
    #[error("too many wrong sign-ins from this address: try again")]
    TooMany,
    /// Neither allowed nor denied.
    #[error("the box's database does not answer: try again")]
    CannotTell,
}

/// Who changes something, for the audit trail.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct By {
    pub name: String,
    pub address: Option<IpAddr>,
}

impl By {
    /// Whoever sits at the box itself.
    pub fn command_line() -> By {
        By { name: format!("command line, uid {}", rustix::process::getuid().as_raw()), address: None }
    }
}

impl Person {
    fn anonymous() -> Person {
        Person {
            name: "anonymous".to_owned(),
            role: Role::Viewer,
            cameras: None,
            actions: None,
            proof: Proof::Anonymous,
        }
    }

    /// Whoever follows a link that [`Links`] has signed: for the one object that it names.
    pub fn by_link() -> Person {
        Person { name: "link".to_owned(), role: Role::Dispatch, proof: Proof::Link, ..Person::anonymous() }
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
        let chosen = self.actions.as_ref().is_none_or(|chosen| chosen.contains(&action));
        reaches && chosen && self.role.allows(action)
    }

    /// May this person give somebody this role, or these of its actions (`None`: all)? Nobody gives more than they have.
    pub fn may_grant(&self, role: Role, actions: Option<&[Action]>) -> bool {
        let mut given = actions.unwrap_or(&Action::ALL).iter().filter(|action| role.allows(**action));
        self.actions.as_ref().is_none_or(|own| given.all(|action| own.contains(action)))
    }

    /// Whether nothing was shown at all.
    pub fn is_anonymous(&self) -> bool {
        self.proof == Proof::Anonymous
    }

    /// The name of a person who has signed in themselves, and not by a token or a link.
    pub fn own_name(&self) -> Option<&str> {
        let program = self.is_anonymous() || self.proof == Proof::Link || self.name.starts_with("token ");
        (!program).then_some(&self.name)
    }
}

impl Access {
    pub fn new(store: Arc<Store>, config: &Config, health: Health) -> Access {
        let audit = Audit::new(store.clone(), health);
        let access = Access::kept_by(Keeper::Box { store, audit });
        access.reconfigure(config);
        access
    }

    /// Lets anyone watch, or only who has this user name and password: for simulated cameras.
    pub fn simulated(credentials: Option<(String, String)>) -> Access {
        let anonymous = credentials.is_none();
        let known = credentials.map(|(user, password)| {
            let ha1 = digest::ha1(&user, &password);
            (user, ha1)
        });
        let access = Access::kept_by(Keeper::Simulated(known));
        access.inner.settings.store(Arc::new(Settings { anonymous, ..Settings::default() }));
        access
    }

    fn kept_by(keeper: Keeper) -> Access {
        let inner = Inner {
            keeper,
            settings: ArcSwap::default(),
            known: Mutex::default(),
            limits: Mutex::default(),
            lines: Mutex::default(),
            passwords: Passwords::default(),
            setup: Mutex::default(),
            stopgaps: Mutex::default(),
        };
        Access { inner: Arc::new(inner) }
    }

    /// A reload's settings: whether anonymous may watch, and which cameras are in which group.
    pub fn reconfigure(&self, config: &Config) {
        let mut groups = BTreeMap::<String, Vec<String>>::new();
        for camera in config.cameras.values() {
            for group in &camera.groups {
                groups.entry(group.clone()).or_default().push(camera.id.to_string());
            }
        }
        let cameras = config.cameras.keys().map(ToString::to_string).collect();
        let settings = Settings { anonymous: config.anonymous_viewer, cameras, groups };
        self.inner.settings.store(Arc::new(settings));
        self.known().clear();
    }

    /// Whoever holds this token. May read the database, for microseconds.
    pub fn token(&self, token: &str) -> Result<Person, Denied> {
        self.ask(&Proof::Token(presented(token)?))
    }

    /// Whoever holds this session cookie.
    pub fn session(&self, value: &str) -> Result<Person, Denied> {
        self.ask(&Proof::Session(presented(value)?))
    }

    /// Whoever sent this `Authorization` header (`Bearer TOKEN`, or `Basic` with user `token` and the token as the
    /// password); the anonymous viewer where there is none and that is allowed.
    pub fn authorization(&self, header: Option<&str>) -> Result<Person, Denied> {
        match header {
            None => self.ask(&Proof::Anonymous),
            Some(header) => match self.shown(header)? {
                Authorization::Token(token) => self.token(&token),
                Authorization::Basic(..) | Authorization::Digest(_) => Err(Denied::Unknown),
            },
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
            match session.map(|session| access.session(&session)) {
                Some(Ok(person)) => (Ok(person), true),
                Some(Err(Denied::CannotTell)) => (Err(Denied::CannotTell), true),
                // A session that has ended is none: the page that still sends it falls back to what anyone may.
                _ => (access.authorization(None), false),
            }
        });
        asking.await.unwrap_or((Err(Denied::CannotTell), true))
    }

    /// What a header shows. By Basic, the user `token` of a box is no person.
    fn shown(&self, header: &str) -> Result<Authorization, Denied> {
        Ok(match (Authorization::of(header)?, &self.inner.keeper) {
            (Authorization::Basic(user, token), Keeper::Box { .. }) if user == tokens::USER => {
                Authorization::Token(token)
            }
            (shown, _) => shown,
        })
    }

    /// Whoever has shown this, as things stand now.
    fn ask(&self, proof: &Proof) -> Result<Person, Denied> {
        match proof {
            Proof::Anonymous if self.inner.settings.load().anonymous => return Ok(Person::anonymous()),
            Proof::Anonymous => return Err(Denied::SignIn),
            // It expires by itself, and is asked for at every request.
            Proof::Link => return Ok(Person::by_link()),
            _ => {}
        }
        let remembered = self.known().get(proof).filter(|known| known.since.elapsed() < BELIEVED).cloned();
        let known = match remembered {
            Some(known) => known,
            None => self.look_up(proof)?,
        };
        match known.expires {
            Some(expires) if expires <= Timestamp::now() => Err(Denied::Unknown),
            _ => Ok(known.person),
        }
    }

    fn look_up(&self, proof: &Proof) -> Result<Known, Denied> {
        // Taken before the row is read: a revocation in between is noticed in time.
        let since = Instant::now();
        let found = self.read(proof).map_err(|error| {
            tracing::error!("who somebody is cannot be looked up: {error}");
            Denied::CannotTell
        })?;
        let mut remembered = self.known();
        let Some((person, expires)) = found else {
            remembered.remove(proof);
            return Err(Denied::Unknown);
        };
        if remembered.len() >= REMEMBERED {
            remembered.retain(|_, known| known.since.elapsed() < BELIEVED);
        }
        let known = Known { person, expires, since };
        if remembered.len() < REMEMBERED {
            remembered.insert(proof.clone(), known.clone());
        }
        Ok(known)
    }

    fn read(&self, proof: &Proof) -> Result<Option<(Person, Option<Timestamp>)>, StoreError> {
        let store = match &self.inner.keeper {
            Keeper::Box { store, .. } => store,
            Keeper::Simulated(Some((user, ha1))) => {
                let right = *proof == Proof::StreamKey(user.clone(), key_mark(ha1));
                let person = Person { name: user.clone(), proof: proof.clone(), ..Person::anonymous() };
                return Ok(right.then_some((person, None)));
            }
            Keeper::Simulated(None) => return Ok(Some((Person::anonymous(), None))),
        };
        Ok(match proof {
            Proof::Anonymous | Proof::Link => None,
            Proof::Token(hash) => {
                let row = store.token(hash)?.filter(|row| bool::from(row.sha256.ct_eq(hash)));
                row.and_then(|row| self.holder(row, proof))
            }
            Proof::StreamKey(name, mark) => {
                let row = store.person(name)?;
                let row = row.filter(|row| row.stream_key.is_some_and(|ha1| key_mark(&ha1) == *mark));
                row.and_then(|row| self.person(row, proof)).map(|person| (person, None))
            }
            Proof::Session(hash) => {
                let now = Timestamp::now();
                let kept =
                    store.session(hash)?.map_or_else(|| self.session_in_memory(hash), |row| Ok(Some(row)))?;
                let Some(session) = kept else { return Ok(None) };
                let idle = now.duration_since(session.seen).unsigned_abs();
                if session.expires <= now || idle >= IDLE {
                    return Ok(None);
                }
                if idle >= SEEN_EVERY
                    && let Err(error) = store.touch_session(hash, now)
                {
                    tracing::warn!("a session's use cannot be noted: {error}");
                }
                let found = match (&session.person, &session.token) {
                    (Some(name), _) => {
                        let row = store.person(name)?;
                        row.and_then(|row| self.person(row, proof)).map(|person| (person, None))
                    }
                    (None, Some(id)) => store.token_by_id(id)?.and_then(|row| self.holder(row, proof)),
                    (None, None) => None,
                };
                let ends =
                    |until: Option<Timestamp>| until.map_or(session.expires, |at| at.min(session.expires));
                found.map(|(person, until)| (person, Some(ends(until))))
            }
        })
    }

    fn holder(&self, row: TokenRow, proof: &Proof) -> Option<(Person, Option<Timestamp>)> {
        let person = Person {
            name: format!("token {}", row.id),
            role: Role::named(&row.role)?,
            cameras: row.cameras.map(|named| self.resolve(named)),
            // What a later liuta knows and this one does not is not allowed.
            actions: row.actions.map(|names| names.iter().filter_map(|name| Action::named(name)).collect()),
            proof: proof.clone(),
        };
        row.revoked.is_none().then_some((person, row.expires))
    }

    fn person(&self, row: PersonRow, proof: &Proof) -> Option<Person> {
        let person = Person {
            role: Role::named(&row.role)?,
            cameras: row.cameras.map(|named| self.resolve(named)),
            name: row.name,
            actions: None,
            proof: proof.clone(),
        };
        (!row.disabled).then_some(person)
    }

    /// Cameras and `group:NAME` as cameras alone.
    fn resolve(&self, named: Vec<String>) -> Vec<String> {
        let settings = self.inner.settings.load();
        let mut cameras = Vec::new();
        for name in named {
            match name.strip_prefix(people::GROUP) {
                Some(group) => cameras.extend(settings.groups.get(group).into_iter().flatten().cloned()),
                None => cameras.push(name),
            }
        }
        cameras.sort_unstable();
        cameras.dedup();
        cameras
    }

    /// The box's own store and audit trail; a simulated camera has neither.
    fn kept(&self) -> Result<(&Arc<Store>, &Audit), StoreError> {
        match &self.inner.keeper {
            Keeper::Box { store, audit } => Ok((store, audit)),
            Keeper::Simulated(_) => {
                let error = std::io::Error::other("a simulated camera keeps nothing");
                Err(StoreError::Io { path: "simulate".to_owned(), error })
            }
        }
    }

    /// The audit trail; a simulated camera has none.
    pub fn audit(&self) -> Option<&Audit> {
        self.kept().ok().map(|(_, audit)| audit)
    }

    /// Forgets what was believed, so that a change made here is at once true here.
    fn forget(&self) {
        self.known().clear();
    }

    async fn off_thread<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Access) -> Result<T, Denied> + Send + 'static,
    ) -> Result<T, Denied> {
        let access = self.clone();
        tokio::task::spawn_blocking(move || ask(&access)).await.unwrap_or(Err(Denied::CannotTell))
    }

    fn limits(&self) -> MutexGuard<'_, Limits> {
        self.inner.limits.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Proof, Known>> {
        self.inner.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// An `Authorization` header.
enum Authorization {
    Token(String),
    /// User and stream key.
    Basic(String, String),
    Digest(digest::Response),
}

impl Authorization {
    fn user(&self) -> &str {
        match self {
            Authorization::Token(_) => tokens::USER,
            Authorization::Basic(user, _) => user,
            Authorization::Digest(answer) => &answer.user,
        }
    }

    fn of(header: &str) -> Result<Authorization, Denied> {
        let (scheme, rest) = header.trim().split_once(' ').ok_or(Denied::Unknown)?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("Bearer") {
            return Ok(Authorization::Token(rest.to_owned()));
        }
        if scheme.eq_ignore_ascii_case("Digest") {
            return digest::Response::parse(rest).map(Authorization::Digest).ok_or(Denied::Unknown);
        }
        if !scheme.eq_ignore_ascii_case("Basic") || rest.len() > 2 * LONGEST_TOKEN {
            return Err(Denied::Unknown);
        }
        let decoded = STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        match decoded.as_deref().and_then(|text| text.split_once(':')) {
            Some((user, key)) => Ok(Authorization::Basic(user.to_owned(), key.to_owned())),
            None => Err(Denied::Unknown),
        }
    }
}

/// The hash of a token or session value as it was shown.
fn presented(text: &str) -> Result<Hash, Denied> {
    if text.len() > LONGEST_TOKEN { Err(Denied::Unknown) } else { Ok(hash(text)) }
}

/// Tokens and session values have 256 random bits, so a plain hash cannot be guessed back, and looking one up by its
/// hash tells nothing by the time it takes.
fn hash(text: &str) -> Hash {
    Sha256::digest(text.as_bytes()).into()
}

/// Tells one stream key from another without being one.
fn key_mark(ha1: &Ha1) -> Hash {
    Sha256::digest(ha1.sha256).into()
}

fn random_text() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}
