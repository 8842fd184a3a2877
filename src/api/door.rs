//! The door: who is asking, and whether the address they ask for is open to them.
//!
//! A handler cannot be reached but through [`Routes`], and [`Routes`] takes none without its [`Need`]. Who is not signed
//! in learns nothing of what exists: permission is asked before anything is looked up.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use jiff::Timestamp;

use super::Shared;
use super::problem::Problem;
use crate::access::audit::Event;
use crate::access::{Access, Action, By, Denied, Person, Standing};
use crate::config::reach;
use crate::net::Peer;
use crate::net::connections::Place;

/// The console's cookie: names a session, and is no password or token.
pub const COOKIE: &str = "liuta_session";

/// The same where the connection is encrypted: browsers take a cookie of this name from nobody but this very host.
pub const SECURE_COOKIE: &str = "__Host-liuta";

/// A body takes no longer to send.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// What an address needs.
#[derive(Clone, Copy)]
pub enum Need {
    /// Open to everyone.
    Nothing,
    /// The action, whatever the camera: the handler shows only what the person may see.
    Action(Action),
    /// The action on the camera that the request is about; an empty id where it names none that exists.
    Camera(Action, fn(&Asked) -> String),
    /// The action as in `Action`, or a link that was signed for just this address.
    Linked(Action),
    /// Live events: for who may watch or see alerts, and for no page of another origin.
    Events,
}

/// One request, let in.
pub struct Asked {
    pub state: Shared,
    /// `None` only behind [`Need::Nothing`], for who has not signed in.
    pub person: Option<Person>,
    pub headers: HeaderMap,
    pub peer: Peer,
    method: Method,
    /// Read for methods that write, up to [`super::MAX_BODY`].
    pub body: Bytes,
    path: Vec<(String, String)>,
    query: Vec<(String, String)>,
}

pub type Answer = Result<Response, Problem>;

/// The routes and their needs.
#[derive(Default)]
pub struct Routes {
    router: Router<Shared>,
    listed: Vec<(Method, &'static str, Need)>,
}

impl Routes {
    pub fn get<F, A>(self, path: &'static str, need: Need, handler: F) -> Routes
    where
        F: Fn(Asked) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Answer> + Send,
    {
        self.on(Method::GET, path, need, handler)
    }

    /// `GET` answers `HEAD` as well.
    pub fn on<F, A>(mut self, method: Method, path: &'static str, need: Need, handler: F) -> Routes
    where
        F: Fn(Asked) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Answer> + Send,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("a standard method");
        let enter = move |State(state): State<Shared>, request: Request| async move {
            match enter(state, request, need).await {
                Ok(asked) => handler(asked).await.unwrap_or_else(Problem::into_response),
                Err(problem) => problem.into_response(),
            }
        };
        self.router = self.router.route(path, on(filter, enter));
        self.listed.push((method, path, need));
        self
    }

    /// Every route: method, path pattern, need.
    pub fn list(&self) -> &[(Method, &'static str, Need)] {
        &self.listed
    }

    pub(super) fn into_router(self) -> Router<Shared> {
        self.router
    }
}

async fn enter(state: Shared, request: Request, need: Need) -> Result<Asked, Problem> {
    let (mut parts, body) = request.into_parts();
    let peer = parts.extensions.get::<Peer>().copied();
    let peer = peer.ok_or_else(|| Problem::internal("the connection is of unknown origin"))?;
    let guarded = !parts.method.is_safe() || matches!(need, Need::Events) || is_event_stream(&parts.headers);
    if guarded && !same_origin(&parts.headers) {
        return Err(Problem::foreign_origin());
    }
    let params = RawPathParams::from_request_parts(&mut parts, &state).await;
    let params = params.map_err(|_| Problem::bad_request("the address is not UTF-8"))?;
    let path = params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let query = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let query = query.map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    let (person, signed_in) = who(&state.access, &parts, peer).await;
    let misled = person.as_ref().is_ok_and(Person::is_anonymous)
        && !is_ours(&parts.headers, state.settings.config().site.public_url.host_str());
    let person = if misled { Err(Denied::SignIn) } else { person };
    if let (Some(place), Ok(_), true) = (parts.extensions.get::<Place>(), &person, signed_in) {
        place.is_known();
    }
    let mut asked = Asked {
        state,
        person: None,
        headers: parts.headers,
        peer,
        method: parts.method.clone(),
        body: Bytes::new(),
        path,
        query,
    };
    let (action, camera) = match need {
        Need::Nothing => {
            asked.person = person.ok();
            if !parts.method.is_safe() {
                asked.body = read(body).await?;
            }
            return Ok(asked);
        }
        Need::Linked(action) => {
            if asked.opens_by_link(parts.uri.path()) {
                // The link opens this one address; its handler shows nothing but the object that the address names.
                asked.person = Some(Person::by_link());
                return Ok(asked);
            }
            (action, None)
        }
        Need::Action(action) => (action, None),
        Need::Camera(action, camera) => (action, Some(camera(&asked))),
        Need::Events => {
            let sees_alerts = person.as_ref().is_ok_and(|person| person.may(Action::Alerts, None));
            (if sees_alerts { Action::Alerts } else { Action::Live }, None)
        }
    };
    let person = person?;
    if !person.may(action, camera.as_deref()) {
        // Who has shown nothing may still sign in.
        return Err(if signed_in { Denied::Forbidden } else { Denied::SignIn }.into());
    }
    asked.person = Some(person);
    if !parts.method.is_safe() {
        asked.body = read(body).await?;
    }
    Ok(asked)
}

async fn read(body: Body) -> Result<Bytes, Problem> {
    // Who says so beforehand need not send it.
    if body.size_hint().lower() > super::MAX_BODY as u64 {
        return Err(Problem::too_large(super::MAX_BODY));
    }
    let reading = axum::body::to_bytes(body, super::MAX_BODY);
    match tokio::time::timeout(BODY_PATIENCE, reading).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_too_long(&error) => Err(Problem::too_large(super::MAX_BODY)),
        Ok(Err(_)) => Err(Problem::bad_request("the body is cut off")),
        Err(_) => Err(Problem::bad_request("the body did not come in time")),
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.any(|cause| cause.is::<http_body_util::LengthLimitError>())
}

async fn who(access: &Access, parts: &Parts, peer: Peer) -> (Result<Person, Denied>, bool) {
    let authorization = parts.headers.get(header::AUTHORIZATION);
    // What is no text is no token either.
    let authorization = authorization.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    access.who(authorization, cookie(&parts.headers, peer).map(str::to_owned)).await
}

/// The session that the console's cookie names.
fn cookie(headers: &HeaderMap, peer: Peer) -> Option<&str> {
    let named = |wanted: &str| {
        let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
        let mut pairs =
            cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(name, value)| *name == wanted && !value.is_empty()).map(|(_, value)| value)
    };
    // Without encryption the other name may still come, through a proxy that encrypts.
    named(SECURE_COOKIE).or_else(|| named(COOKIE).filter(|_| !peer.tls))
}

/// Live events are read by pages as well, and need the same care as writes.
fn is_event_stream(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/event-stream"))
}

/// A browser says which page makes a request; a program says nothing.
fn same_origin(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    let Some(origin) = headers.get(header::ORIGIN) else {
        return site.is_none_or(|site| matches!(site, b"same-origin" | b"none"));
    };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    matches!((origin, host), (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host))
}

/// Whether the host that a request names can be this box. A name of the internet that is not the box's own may be made to
/// lead here (DNS rebinding), and a page under that name would then see what anyone may see.
fn is_ours(headers: &HeaderMap, public: Option<&str>) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return true };
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name).trim_end_matches('.').to_ascii_lowercase();
    // Nobody can register these.
    let private = [".local", ".lan", ".internal", ".home.arpa", ".localhost"];
    reach::literal(&name).is_some()
        || !name.contains('.')
        || private.iter().any(|suffix| name.ends_with(suffix))
        || public.is_some_and(|public| public.eq_ignore_ascii_case(&name))
}

/// The camera of `/{camera}/…`.
pub fn camera_in_path(asked: &Asked) -> String {
    asked.path("camera").to_owned()
}

/// The camera of `?path=…`.
pub fn camera_asked_for(asked: &Asked) -> String {
    asked.query("path").unwrap_or_default().to_owned()
}

/// The camera on air of `/channels/{channel}/…`.
pub fn camera_of_channel(asked: &Asked) -> String {
    let stream = asked.state.streams.get(&format!("channels/{}", asked.path("channel")));
    stream.map(|stream| stream.camera.to_string()).unwrap_or_default()
}

/// An answer with its `ETag`.
pub fn tagged(tag: impl Display, response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{tag}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

impl Asked {
    /// A parameter of the route's path; empty where the route has none of that name.
    pub fn path(&self, name: &str) -> &str {
        self.path.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All values of a query parameter that may be repeated.
    pub fn queries(&self, name: &str) -> impl Iterator<Item = &str> {
        self.query.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A query parameter that is a time.
    pub fn time(&self, name: &str) -> Result<Option<Timestamp>, Problem> {
        let Some(text) = self.query(name) else { return Ok(None) };
        // A + of a UTC offset that was not escaped has become a space.
        text.replace(' ', "+").parse().map(Some).map_err(|_| {
            Problem::bad_request(format!("{name}: an RFC 3339 time was expected, like 2026-05-01T08:00:00Z"))
        })
    }

    /// A body of JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Problem> {
        let kind = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        // A form of a foreign page cannot send this type without asking first.
        let media_type = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
        let is_json = |kind: &str| {
            ["application/json", "application/merge-patch+json"]
                .iter()
                .any(|json| kind.eq_ignore_ascii_case(json))
        };
        if !media_type.is_some_and(is_json) {
            return Err(Problem::bad_request("Content-Type: application/json was expected"));
        }
        // Where the text is wrong is told, and the text is not repeated: it may hold a secret.
        serde_json::from_slice(&self.body).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            let what = match error.classify() {
                serde_json::error::Category::Data => "a field is missing, unknown, or of another type",
                _ => "it is no JSON",
            };
            Problem::bad_request(format!("the body cannot be read: {what} ({place})"))
        })
    }

    /// `If-Match` as it was sent, with its quotes.
    pub fn tag_to_match(&self) -> Option<&str> {
        Some(self.headers.get(header::IF_MATCH)?.to_str().unwrap_or_default().trim())
    }

    /// The revision that a change is based on: `If-Match: "7"`. None where the client does not say.
    pub fn if_match(&self) -> Result<Option<u64>, Problem> {
        let Some(tag) = self.tag_to_match().filter(|tag| *tag != "*") else { return Ok(None) };
        let number = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).map(str::parse);
        match number {
            Some(Ok(number)) => Ok(Some(number)),
            // What we never gave matches nothing.
            _ => Err(Problem::stale()),
        }
    }

    /// Who asks, for the audit trail.
    pub fn by(&self) -> By {
        let name = self.person.as_ref().map_or("anonymous", |person| &person.name);
        By { name: name.to_owned(), address: Some(self.peer.address.ip()) }
    }

    /// Writes into the audit trail what is about to be done. What cannot be written down must not be done: ask before,
    /// and give the problem back.
    pub async fn note(
        &self,
        event: Event,
        object: impl Into<String>,
        detail: impl Into<String>,
    ) -> Result<(), Problem> {
        let (by, object, detail) = (self.by(), object.into(), detail.into());
        self.ask(move |state| match state.access.audit() {
            Some(audit) => audit.note(&by, event, &object, &detail),
            None => Ok(()),
        })
        .await
    }

    /// Writes down that a recording is about to leave the box, like [`note`](Self::note).
    pub async fn note_export(&self, camera: &str, detail: String) -> Result<(), Problem> {
        let (by, object) = (self.by(), format!("camera/{camera}"));
        self.ask(move |state| match state.access.audit() {
            Some(audit) => audit.export(&by, &object, &detail),
            None => Ok(()),
        })
        .await
    }

    /// Whether only the headers of an answer are asked for: nothing is watched or taken then.
    pub fn is_for_headers(&self) -> bool {
        self.method == Method::HEAD
    }

    /// Writes down that a camera's pictures are watched, piece by piece. Never waits.
    pub fn note_watching(&self, camera: &str, how: &str) {
        if let Some(audit) = self.state.access.audit().filter(|_| !self.is_for_headers()) {
            audit.watch_pieces(&self.by(), &format!("camera/{camera}"), how);
        }
    }

    /// Permission for an answer that lasts: asked again until the answer ends.
    pub fn standing(&self, action: Action, camera: Option<&str>) -> Option<Standing> {
        let person = self.person.clone()?;
        Some(self.state.access.standing(person, action, camera))
    }

    /// The session that the request's cookie names.
    pub fn cookie(&self) -> Option<&str> {
        cookie(&self.headers, self.peer)
    }

    /// `Set-Cookie` for a session of this value, or for none.
    pub fn set_cookie(&self, session: Option<&str>) -> String {
        let origin = self.headers.get(header::ORIGIN).map(|origin| origin.as_bytes());
        let secure = self.peer.tls || origin.is_some_and(|origin| origin.starts_with(b"https:"));
        let (name, secure) = if secure { (SECURE_COOKIE, "; Secure") } else { (COOKIE, "") };
        let (value, end) = session.map_or(("", "; Max-Age=0"), |value| (value, ""));
        format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{end}")
    }

    pub fn may(&self, action: Action, camera: Option<&str>) -> bool {
        self.person.as_ref().is_some_and(|person| person.may(action, camera))
    }

    /// Runs a query, which blocks, where it may.
    pub async fn ask<T, E>(
        &self,
        query: impl FnOnce(&Shared) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Problem>
    where
        T: Send + 'static,
        E: Into<Problem> + Send + 'static,
    {
        let state = self.state.clone();
        match tokio::task::spawn_blocking(move || query(&state)).await {
            Ok(result) => result.map_err(Into::into),
            Err(error) => {
                tracing::error!("api: a query did not end: {error}");
                Err(Problem::internal("the request could not be answered; the box's log says why"))
            }
        }
    }

    fn opens_by_link(&self, path: &str) -> bool {
        match (self.query("expires"), self.query("signature")) {
            (Some(expires), Some(signature)) => {
                self.state.links.opens(path, expires, signature, Timestamp::now())
            }
            _ => false,
        }
    }
}
