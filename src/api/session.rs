//! Signing in and out, a person's own password and stream key, and the first administrator.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa::ToSchema;

use super::door::{Answer, Asked};
use super::problem::Problem;
use crate::access::people::NewPerson;
use crate::access::{Action, Denied, Opened, Role};
use crate::config::Secret;

/// Name and password, or a token.
#[derive(serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    #[schema(value_type = Option<String>)]
    name: Option<String>,
    #[schema(value_type = Option<String>, format = Password)]
    password: Option<Secret>,
    #[schema(value_type = Option<String>, format = Password)]
    token: Option<Secret>,
}

#[derive(serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetUp {
    /// From the log of the box's start.
    #[schema(value_type = String, format = Password)]
    token: Secret,
    name: String,
    /// At least ten characters, five different ones, not the name, and nothing that guessers try first.
    #[schema(value_type = String, format = Password)]
    password: Secret,
}

#[derive(serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    #[schema(value_type = String, format = Password)]
    old: Secret,
    #[schema(value_type = String, format = Password)]
    new: Secret,
}

/// A new stream key is given to who knows the password; a session alone does not do.
#[derive(serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnKey {
    #[schema(value_type = String, format = Password)]
    password: Secret,
}

/// Who was let in.
#[derive(serde::Serialize, ToSchema)]
pub struct SignedIn {
    name: String,
    role: Role,
    /// False where the session lies in memory alone, since the box's disk is full: it ends after 2 h, or with the daemon.
    kept: bool,
}

/// The first administrator, let in.
#[derive(serde::Serialize, ToSchema)]
pub struct FirstSignedIn {
    #[serde(flatten)]
    signed_in: SignedIn,
    #[serde(flatten)]
    key: StreamKey,
}

/// Who the box takes the client for, and what they may do.
#[derive(serde::Serialize, ToSchema)]
pub struct Session {
    /// The box's id.
    r#box: String,
    /// Null for who has not signed in.
    name: Option<String>,
    role: Option<Role>,
    may: May,
    /// Whether the box waits for its first administrator.
    setup: bool,
}

#[derive(serde::Serialize, ToSchema)]
pub struct May {
    live: bool,
    recordings: bool,
    alerts: bool,
    transitions: bool,
    channels: bool,
    metrics: bool,
    configure: bool,
}

/// A stream key, shown once.
#[derive(serde::Serialize, ToSchema)]
pub struct StreamKey {
    /// RTSP: the password of the person's name, by Digest or Basic.
    pub stream_key: String,
}

#[utoipa::path(
    post, path = "/api/v1/session", tag = "session", request_body = SignIn,
    responses(
        (status = 200, description = "Signed in; the answer sets the session's cookie", body = SignedIn),
        (status = 400, description = "Not understood: problem bad-request"),
        (status = 401, description = "Problem wrong-password or unknown-token"),
        (status = 403, description = "Problem foreign-origin"),
        (status = 429, description = "Problem too-many-failures; Retry-After says when to try again"),
        (status = 503, description = "Problem unavailable; Retry-After says when to try again"),
    )
)]
pub async fn sign_in(asked: Asked) -> Answer {
    let access = &asked.state.access;
    let opened = match asked.json()? {
        SignIn { name: Some(name), password: Some(password), token: None } => {
            access.sign_in(&name, password, asked.peer.address.ip()).await?
        }
        SignIn { name: None, password: None, token: Some(token) } => {
            access.sign_in_by_token(token.expose(), asked.peer.address.ip()).await?
        }
        _ => return Err(Problem::bad_request("name and password, or token, were expected")),
    };
    signed_in(&asked, opened)
}

#[utoipa::path(
    delete, path = "/api/v1/session", tag = "session",
    params(("everywhere" = Option<bool>, Query, description = "Ends every session of this person or token as well")),
    responses(
        (status = 204, description = "Signed out, or not signed in before"),
        (status = 400, description = "Problem bad-request"),
        (status = 403, description = "Problem foreign-origin"),
    )
)]
pub async fn sign_out(asked: Asked) -> Answer {
    let everywhere = match asked.query("everywhere") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Problem::bad_request("everywhere: true or false was expected")),
    };
    let access = &asked.state.access;
    match asked.cookie() {
        Some(value) if everywhere => access.sign_out_everywhere(value, asked.by()).await?,
        Some(value) => access.sign_out(value, asked.by()).await?,
        None => {}
    }
    with_cookie(&asked, None, StatusCode::NO_CONTENT.into_response())
}

#[utoipa::path(
    get, path = "/api/v1/session", tag = "session",
    responses((status = 200, description = "Who the box takes the client for", body = Session))
)]
pub async fn session(asked: Asked) -> Answer {
    let may = |action| asked.may(action, None);
    let setup = asked.ask(|state| state.access.awaits_setup()).await?;
    let told = Session {
        r#box: asked.state.settings.config().site.id.clone(),
        name: asked.person.as_ref().map(|person| person.name.clone()),
        role: asked.person.as_ref().map(|person| person.role),
        may: May {
            live: may(Action::Live),
            recordings: may(Action::Recordings),
            alerts: may(Action::Alerts),
            transitions: may(Action::Transition),
            channels: may(Action::Channels),
            metrics: may(Action::Metrics),
            configure: may(Action::Configure),
        },
        setup,
    };
    Ok(Json(told).into_response())
}

#[utoipa::path(
    post, path = "/api/v1/session/password", tag = "session", request_body = NewPassword,
    responses(
        (status = 200, description = "Changed; every other session has ended", body = SignedIn),
        (status = 400, description = "Problem bad-request; the rules for passwords stand in detail"),
        (status = 401, description = "Problem sign-in or wrong-password"),
        (status = 403, description = "Problem foreign-origin, or forbidden: tokens have no password"),
        (status = 429, description = "Problem too-many-failures"),
        (status = 503, description = "Problem unavailable"),
    )
)]
pub async fn change_password(asked: Asked) -> Answer {
    let name = own_name(&asked)?;
    let NewPassword { old, new } = asked.json()?;
    let opened = asked.state.access.change_password(&name, old, new, asked.peer.address.ip()).await?;
    signed_in(&asked, opened)
}

#[utoipa::path(
    post, path = "/api/v1/session/key", tag = "session", request_body = OwnKey,
    responses(
        (status = 200, description = "The new stream key; the old one opens nothing any more", body = StreamKey),
        (status = 400, description = "Problem bad-request"),
        (status = 401, description = "Problem sign-in or wrong-password"),
        (status = 403, description = "Problem foreign-origin, or forbidden: tokens have no stream key"),
        (status = 429, description = "Problem too-many-failures"),
        (status = 503, description = "Problem unavailable"),
    )
)]
pub async fn new_stream_key(asked: Asked) -> Answer {
    let name = own_name(&asked)?;
    let OwnKey { password } = asked.json()?;
    let stream_key = asked.state.access.change_stream_key(&name, password, asked.peer.address.ip()).await?;
    Ok(Json(StreamKey { stream_key }).into_response())
}

#[utoipa::path(
    post, path = "/api/v1/setup", tag = "session", request_body = SetUp,
    responses(
        (status = 201, description = "The first administrator is made and signed in; the stream key is shown this once", body = FirstSignedIn),
        (status = 400, description = "Problem bad-request; the rules for names and passwords stand in detail"),
        (status = 401, description = "Problem unknown-token"),
        (status = 403, description = "Problem foreign-origin"),
        (status = 409, description = "Problem set-up-done or taken"),
        (status = 503, description = "Problem unavailable"),
    )
)]
pub async fn set_up(asked: Asked) -> Answer {
    let SetUp { token, name, password } = asked.json()?;
    let new = NewPerson { name, role: Role::Admin, cameras: None, password };
    let (opened, stream_key) =
        asked.state.access.set_up(token.expose(), new, asked.peer.address.ip()).await?;
    let signed_in = SignedIn { name: opened.person.name, role: opened.person.role, kept: opened.kept };
    let told = FirstSignedIn { signed_in, key: StreamKey { stream_key } };
    with_cookie(&asked, Some(&opened.value), (StatusCode::CREATED, Json(told)).into_response())
}

/// The name of whoever is signed in as a person: tokens and the anonymous viewer have nothing of their own.
fn own_name(asked: &Asked) -> Result<String, Problem> {
    let Some(person) = asked.person.as_ref().filter(|person| !person.is_anonymous()) else {
        return Err(Denied::SignIn.into());
    };
    person.own_name().map(str::to_owned).ok_or_else(|| Denied::Forbidden.into())
}

fn signed_in(asked: &Asked, opened: Opened) -> Answer {
    let told = SignedIn { name: opened.person.name, role: opened.person.role, kept: opened.kept };
    with_cookie(asked, Some(&opened.value), Json(told).into_response())
}

fn with_cookie(asked: &Asked, session: Option<&str>, mut response: Response) -> Answer {
    let value =
        HeaderValue::from_str(&asked.set_cookie(session)).map_err(|_| Problem::from(Denied::Unknown))?;
    response.headers_mut().insert(header::SET_COOKIE, value);
    Ok(response)
}
