//! What people do with alerts.

use axum::Json;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::ToSchema;

use super::door::{Answer, Asked, tagged};
use super::problem::Problem;
use super::rest::{filter, the_alert};
use crate::access::Action;
use crate::alert::disposition::{Disposition, Reason};
use crate::dispatch::Document;
use crate::dispatch::transitions::{TransitionError, Wanted};
use crate::store::{Page, TransitionRow};

/// The longest note, in characters.
const LONGEST_NOTE: usize = 2000;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewTransition)]
pub struct Transition {
    to: Disposition,
    /// With `rejected`, and only then.
    reason: Option<Reason>,
    /// At most 2000 characters.
    #[serde(default)]
    note: String,
}

#[utoipa::path(
    get, path = "/api/v1/alerts/{id}/transitions", tag = "alerts",
    params(
        ("id" = String, Path),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next` of an earlier page"),
    ),
    responses(
        (status = 200, description = "What people did with the alert, oldest first", body = Page<TransitionRow>),
        (status = 404, description = "Problem not-found"),
    )
)]
pub async fn transitions(asked: Asked) -> Answer {
    let alert = the_alert(&asked, Action::Alerts).await?;
    let done = asked.ask(move |state| state.store.transitions(&alert.id)).await?;
    let done = done.into_iter().map(|row| (format!("{:010}", row.revision), row));
    Ok(Json(Page::by_id(done, &filter(&asked)?)?).into_response())
}

#[utoipa::path(
    post, path = "/api/v1/alerts/{id}/transitions", tag = "alerts", request_body = Transition,
    params(
        ("id" = String, Path),
        ("If-Match" = Option<String>, Header, description = "The revision that was looked at, where nothing may have changed since"),
    ),
    responses(
        (status = 201, description = "Done, and told to every destination; the alert", body = Document<'static>),
        (status = 404, description = "Problem not-found"),
        (status = 409, description = "Problem not-now: it cannot follow what was done before; detail names what can"),
        (status = 412, description = "Problem stale"),
    )
)]
pub async fn transition(asked: Asked) -> Answer {
    let Transition { to, reason, note } = asked.json()?;
    if note.chars().count() > LONGEST_NOTE || note.chars().any(|c| c.is_control() && c != '\n') {
        let detail = format!("note: at most {LONGEST_NOTE} characters, without control characters");
        return Err(Problem::bad_request(detail));
    }
    let alert = the_alert(&asked, Action::Transition).await?;
    let (wanted, expected, by) = (Wanted { to, reason, note }, asked.if_match()?, asked.by());
    let done = asked.ask(move |state| state.dispatch.transition(&alert.id, &wanted, expected, &by)).await?;
    Ok(tagged(done.revision, (StatusCode::CREATED, Json(Document::of(&done)))))
}

impl From<TransitionError> for Problem {
    fn from(error: TransitionError) -> Problem {
        let detail = error.to_string();
        match error {
            TransitionError::Missing => Problem::not_found(detail),
            TransitionError::Illegal { .. } => {
                Problem::conflict("not-now", "It cannot follow what was done", detail)
            }
            TransitionError::Reason => Problem::bad_request(detail),
            TransitionError::Stale => Problem::stale(),
            TransitionError::Store(error) => error.into(),
        }
    }
}
