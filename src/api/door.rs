//! The door: who is asking, and whether the address they ask for is open to them.
//!
//! A handler cannot be reached but through [`Routes`], and [`Routes`] takes none without its [`Need`]. Who is not signed
//! in learns nothing of what exists: permission is asked before anything is looked up.

use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use jiff::Timestamp;

use super::Shared;
use super::problem::Problem;
use crate::access::{Access, Action, Denied, Person, Role};

/// The console's cookie: names a session, never holds the token.
pub const COOKIE: &str = "liuta_session";

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
}

/// One request, let in.
pub struct Asked {
    pub state: Shared,
    /// `None` only behind [`Need::Nothing`], for who has not signed in.
    pub person: Option<Person>,
    pub headers: HeaderMap,
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
    if !parts.method.is_safe() && !same_origin(&parts.headers) {
        return Err(Problem::foreign_origin());
    }
    let params = RawPathParams::from_request_parts(&mut parts, &state).await;
    let params = params.map_err(|_| Problem::bad_request("the address is not UTF-8"))?;
    let path = params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let query = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let query = query.map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    let (person, signed_in) = who(&state.access, &parts).await;
    let mut asked = Asked { state, person: None, headers: parts.headers, body: Bytes::new(), path, query };
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
                asked.person = Some(Person { name: "link".to_owned(), role: Role::Dispatch, cameras: None });
                return Ok(asked);
            }
            (action, None)
        }
        Need::Action(action) => (action, None),
        Need::Camera(action, camera) => (action, Some(camera(&asked))),
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
    let reading = axum::body::to_bytes(body, super::MAX_BODY);
    match tokio::time::timeout(BODY_PATIENCE, reading).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => {
            let detail = format!("the body is cut off or longer than {} bytes", super::MAX_BODY);
            Err(Problem::bad_request(detail))
        }
        Err(_) => Err(Problem::bad_request("the body did not come in time")),
    }
}

async fn who(access: &Access, parts: &Parts) -> (Result<Person, Denied>, bool) {
    let authorization = parts.headers.get(header::AUTHORIZATION);
    // What is no text is no token either.
    let authorization = authorization.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    access.who(authorization, cookie(&parts.headers).map(str::to_owned)).await
}

/// The session that the console's cookie names.
pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, value)| *name == COOKIE && !value.is_empty()).map(|(_, value)| value)
}

/// A browser says which page makes a write; a program says nothing.
fn same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    matches!((origin, host), (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host))
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

impl Asked {
    /// A parameter of the route's path; empty where the route has none of that name.
    pub fn path(&self, name: &str) -> &str {
        self.path.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A query parameter that is a time.
    pub fn time(&self, name: &str) -> Result<Option<Timestamp>, Problem> {
        let Some(text) = self.query(name) else { return Ok(None) };
        // A + of a UTC offset that was not escaped has become a space.
        text.replace(' ', "+").parse().map(Some).map_err(|_| {
            Problem::bad_request(format!("{name}: an RFC 3339 time was expected, like 2026-05-01T08:00:00Z"))
        })
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
