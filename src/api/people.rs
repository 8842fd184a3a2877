//! People, tokens and the audit trail: for administrators.

use axum::Json;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::door::{Answer, Asked, tagged};
use super::problem::Problem;
use super::rest::filter;
use super::session::StreamKey;
use crate::access::people::{Account, Change, NewPerson};
use crate::access::{Action, Denied, NewToken, Role, Token};
use crate::config::Secret;
use crate::store::{AuditFilter, AuditRow, AuditState, Page};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    name: String,
    role: Role,
    /// Camera ids and `group:NAME`; null or nothing: every camera.
    cameras: Option<Vec<String>>,
    /// At least ten characters, five different ones, not the name, and nothing that guessers try first.
    #[schema(value_type = String, format = Password)]
    password: Secret,
}

/// What is given is changed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserChange {
    role: Option<Role>,
    /// Camera ids and `group:NAME`; null: every camera.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>)]
    cameras: Option<Option<Vec<String>>>,
    disabled: Option<bool>,
    #[schema(value_type = Option<String>, format = Password)]
    password: Option<Secret>,
}

#[derive(Serialize, ToSchema)]
pub struct NewAccount {
    #[serde(flatten)]
    account: Account,
    /// Shown once.
    stream_key: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// What it is for.
    #[serde(default)]
    name: String,
    role: Role,
    /// Camera ids and `group:NAME`; null or nothing: every camera.
    cameras: Option<Vec<String>>,
    /// What of the role's actions it may do; null or nothing: all of them.
    scopes: Option<Vec<Action>>,
    /// Null or nothing: never.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires: Option<Timestamp>,
}

#[derive(Serialize, ToSchema)]
pub struct CreatedToken {
    #[serde(flatten)]
    about: Token,
    /// `Authorization: Bearer TOKEN`. Shown once.
    token: String,
}

/// That whoever asks, with a token that may do less than its role, does not make somebody who may do more.
fn grants(asked: &Asked, role: Role, actions: Option<&[Action]>) -> Result<(), Problem> {
    let Some(person) = asked.person.as_ref().filter(|person| !person.may_grant(role, actions)) else {
        return Ok(());
    };
    let own = person.actions.iter().flatten().map(|action| action.name()).collect::<Vec<_>>().join(" ");
    let detail =
        format!("this token's scopes are {own}: it can give no others, and change nobody who has others");
    Err(Problem { detail, ..Denied::Forbidden.into() })
}

/// The same for changing somebody who exists. The revision that was judged is the one to change.
async fn grants_of(asked: &Asked, expected: Option<u64>) -> Result<Option<u64>, Problem> {
    if asked.person.as_ref().is_none_or(|person| person.actions.is_none()) {
        return Ok(expected);
    }
    let name = asked.path("name").to_owned();
    let Some(account) = asked.ask(move |state| state.access.account(&name)).await? else {
        return Ok(expected);
    };
    grants(asked, account.role, None)?;
    Ok(expected.or(Some(account.revision)))
}

/// A field that is there, even as null.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

#[utoipa::path(
    get, path = "/api/v1/users", tag = "people",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next` of an earlier page"),
    ),
    responses(
        (status = 200, description = "Everyone", body = Page<Account>),
    )
)]
pub async fn users(asked: Asked) -> Answer {
    let filter = filter(&asked)?;
    let people = asked.ask(|state| state.access.people()).await?;
    let people = people.into_iter().map(|account| (account.name.clone(), account));
    Ok(Json(Page::by_id(people, &filter)?).into_response())
}

#[utoipa::path(
    post, path = "/api/v1/users", tag = "people", request_body = NewUser,
    responses(
        (status = 201, description = "Added; the stream key is shown this once", body = NewAccount),
        (status = 400, description = "Problem bad-request; the rules for names and passwords stand in detail"),
        (status = 409, description = "Problem taken"),
        (status = 503, description = "Problem unavailable: too many passwords at once"),
    )
)]
pub async fn add_user(asked: Asked) -> Answer {
    let NewUser { name, role, cameras, password } = asked.json()?;
    grants(&asked, role, None)?;
    let new = NewPerson { name, role, cameras, password };
    let (account, stream_key) = asked.state.access.add_person(new, asked.by()).await?;
    let revision = account.revision;
    Ok(tagged(revision, (StatusCode::CREATED, Json(NewAccount { account, stream_key }))))
}

#[utoipa::path(
    get, path = "/api/v1/users/{name}", tag = "people", params(("name" = String, Path)),
    responses(
        (status = 200, description = "The person; the ETag is for If-Match", body = Account),
        (status = 404, description = "Problem not-found"),
    )
)]
pub async fn user(asked: Asked) -> Answer {
    let name = asked.path("name").to_owned();
    let account = asked.ask(move |state| state.access.account(&name)).await?;
    let account = account.ok_or_else(|| Problem::not_found("there is nobody of that name"))?;
    Ok(tagged(account.revision, Json(account)))
}

#[utoipa::path(
    patch, path = "/api/v1/users/{name}", tag = "people", request_body = UserChange,
    params(("name" = String, Path), ("If-Match" = Option<String>, Header, description = "The ETag that was read")),
    responses(
        (status = 200, description = "Changed; their sessions have ended", body = Account),
        (status = 400, description = "Problem bad-request"),
        (status = 404, description = "Problem not-found"),
        (status = 409, description = "Problem last-administrator"),
        (status = 412, description = "Problem stale: somebody else was faster"),
        (status = 503, description = "Problem unavailable: too many passwords at once"),
    )
)]
pub async fn change_user(asked: Asked) -> Answer {
    let UserChange { role, cameras, disabled, password } = asked.json()?;
    let change = Change { role, cameras, disabled, password };
    if let Some(role) = change.role {
        grants(&asked, role, None)?;
    }
    let (expected, by) = (grants_of(&asked, asked.if_match()?).await?, asked.by());
    let account = asked.state.access.change_person(asked.path("name"), change, expected, by).await?;
    Ok(tagged(account.revision, Json(account)))
}

#[utoipa::path(
    delete, path = "/api/v1/users/{name}", tag = "people",
    params(("name" = String, Path), ("If-Match" = Option<String>, Header, description = "The ETag that was read")),
    responses(
        (status = 204, description = "Removed; their sessions and streams end"),
        (status = 404, description = "Problem not-found"),
        (status = 409, description = "Problem last-administrator"),
        (status = 412, description = "Problem stale"),
    )
)]
pub async fn remove_user(asked: Asked) -> Answer {
    let expected = grants_of(&asked, asked.if_match()?).await?;
    asked.state.access.remove_person(asked.path("name"), expected, asked.by()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[utoipa::path(
    post, path = "/api/v1/users/{name}/key", tag = "people", operation_id = "new_stream_key_of", params(("name" = String, Path)),
    responses(
        (status = 200, description = "The new stream key; the old one opens nothing any more", body = StreamKey),
        (status = 404, description = "Problem not-found"),
    )
)]
pub async fn new_stream_key(asked: Asked) -> Answer {
    grants_of(&asked, None).await?;
    let stream_key = asked.state.access.new_stream_key(asked.path("name"), asked.by()).await?;
    Ok(Json(StreamKey { stream_key }).into_response())
}

#[utoipa::path(
    get, path = "/api/v1/tokens", tag = "people",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next` of an earlier page"),
    ),
    responses(
        (status = 200, description = "Every token, without its text", body = Page<Token>),
    )
)]
pub async fn tokens(asked: Asked) -> Answer {
    let filter = filter(&asked)?;
    let tokens = asked.ask(|state| state.access.tokens()).await?;
    let tokens = tokens.into_iter().map(|token| (token.id.clone(), token));
    Ok(Json(Page::by_id(tokens, &filter)?).into_response())
}

#[utoipa::path(
    post, path = "/api/v1/tokens", tag = "people", request_body = TokenRequest,
    responses(
        (status = 201, description = "Made; its text is shown this once", body = CreatedToken),
        (status = 400, description = "Problem bad-request"),
        (status = 403, description = "Problem forbidden: also where a token's scopes would grow"),
    )
)]
pub async fn add_token(asked: Asked) -> Answer {
    let TokenRequest { name, role, cameras, scopes, expires } = asked.json()?;
    grants(&asked, role, scopes.as_deref())?;
    let (new, by) = (NewToken { name, role, cameras, scopes, expires }, asked.by());
    let (about, token) = asked.ask(move |state| state.access.create_token(new, &by)).await?;
    Ok((StatusCode::CREATED, Json(CreatedToken { about, token })).into_response())
}

#[utoipa::path(
    delete, path = "/api/v1/tokens/{id}", tag = "people", params(("id" = String, Path)),
    responses(
        (status = 204, description = "Revoked; its sessions and streams end"),
        (status = 404, description = "Problem not-found: there is none, or it was revoked before"),
    )
)]
pub async fn revoke_token(asked: Asked) -> Answer {
    let (id, by) = (asked.path("id").to_owned(), asked.by());
    if asked.ask(move |state| state.access.revoke_token(&id, &by)).await? {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Err(Problem::not_found("there is no such token, or it was revoked before"))
}

#[utoipa::path(
    get, path = "/api/v1/audit", tag = "audit",
    params(
        ("who" = Option<String>, Query), ("action" = Option<String>, Query), ("object" = Option<String>, Query),
        ("start" = Option<String>, Query), ("end" = Option<String>, Query),
        ("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query),
    ),
    responses(
        (status = 200, description = "Who did what, newest first", body = Page<AuditRow>),
        (status = 400, description = "Problem bad-request"),
    )
)]
pub async fn audit(asked: Asked) -> Answer {
    let given = |name: &str| asked.query(name).map(str::to_owned);
    let page = filter(&asked)?;
    let filter = AuditFilter { who: given("who"), action: given("action"), object: given("object"), page };
    Ok(Json(asked.ask(move |state| state.store.audit(&filter)).await?).into_response())
}

#[utoipa::path(
    get, path = "/api/v1/audit/state", tag = "audit",
    responses((status = 200, description = "The trail's whole chain, walked along now", body = AuditState))
)]
pub async fn audit_state(asked: Asked) -> Answer {
    Ok(Json(asked.ask(|state| state.store.verify_audit()).await?).into_response())
}
