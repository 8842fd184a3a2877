//! Errors as clients see them: RFC 9457 problem details with stable types.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;

use crate::access::{Denied, Refused};
use crate::config::overlay::WriteError;
use crate::record::{GapCause, RecordError};
use crate::settings::{Flaw, Refused as NotChanged};
use crate::store::{PeopleError, StoreError};
use crate::vision::PictureError;

/// What went wrong with a request. `kind` never changes once released: programs branch on it.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    /// Becomes `urn:liuta:problem:KIND`.
    pub kind: &'static str,
    pub title: &'static str,
    /// For people: this occurrence's cause and what to do.
    pub detail: String,
    /// Seconds after which it may work.
    pub retry_after: Option<u32>,
    /// What is wrong with the body, each at its place.
    pub errors: Vec<Flaw>,
    /// Of an instant at which nothing is recorded.
    pub nearest: Option<Box<Nearest>>,
}

/// Why nothing is recorded at an instant, and where it is.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub struct Nearest {
    #[schema(value_type = Option<String>)]
    cause: Option<GapCause>,
    /// Where recording ends before it.
    #[schema(value_type = Option<String>, format = DateTime)]
    before: Option<Timestamp>,
    /// Where recording goes on.
    #[schema(value_type = Option<String>, format = DateTime)]
    after: Option<Timestamp>,
}

impl Problem {
    fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Problem {
        let detail = detail.into();
        Problem { status, kind, title, detail, retry_after: None, errors: Vec::new(), nearest: None }
    }

    pub fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "bad-request", "The request cannot be understood", detail)
    }

    pub fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    pub fn method_not_allowed() -> Problem {
        let detail = "this address does not take this method";
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail)
    }

    pub fn too_large(most: usize) -> Problem {
        let detail = format!("the body is longer than {most} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too large", detail)
    }

    /// Of a file that has no such bytes.
    pub fn range(length: u64) -> Problem {
        let detail = format!("Range: one range of the file's {length} bytes was expected, like bytes=0-99");
        Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "range", "There are no such bytes", detail)
    }

    pub fn forbidden(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, "forbidden", "Not allowed", detail)
    }

    pub fn foreign_origin() -> Problem {
        let detail = "the request was made by a page of another origin";
        Problem::new(StatusCode::FORBIDDEN, "foreign-origin", "Foreign origin", detail)
    }

    pub fn too_many_streams() -> Problem {
        let detail = "you follow live events too often already: end one, or come again later";
        Problem {
            retry_after: Some(10),
            ..Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-streams", "Too many streams", detail)
        }
    }

    pub fn unavailable(detail: impl Into<String>, retry_after: u32) -> Problem {
        Problem {
            retry_after: Some(retry_after),
            ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available now", detail)
        }
    }

    /// The change is based on what is no longer so.
    pub fn stale() -> Problem {
        let detail = "it was changed meanwhile: read it again and repeat the change";
        Problem::new(StatusCode::PRECONDITION_FAILED, "stale", "Changed meanwhile", detail)
    }

    /// Two who change the same thing must not undo each other's change.
    pub fn precondition_required() -> Problem {
        let detail =
            "say which state the change is based on: If-Match with the ETag that was read, or * for any";
        Problem::new(StatusCode::PRECONDITION_REQUIRED, "precondition-required", "If-Match is needed", detail)
    }

    /// The request names a camera that is not configured.
    pub fn unknown_camera(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown-camera", "Unknown camera", detail)
    }

    /// It cannot be done as things stand.
    pub fn conflict(kind: &'static str, title: &'static str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::CONFLICT, kind, title, detail)
    }

    pub fn internal(detail: impl Into<String>) -> Problem {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something went wrong inside liuta",
            detail,
        )
    }
}

/// RFC 9457 problem details.
#[derive(serde::Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub struct Body {
    /// `urn:liuta:problem:KIND`: programs branch on it.
    r#type: String,
    title: &'static str,
    status: u16,
    /// For people: this occurrence's cause and what to do.
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<Flaw>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest: Option<Box<Nearest>>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            r#type: format!("urn:liuta:problem:{}", self.kind),
            title: self.title,
            status: self.status.as_u16(),
            detail: self.detail,
            errors: self.errors,
            nearest: self.nearest,
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"liuta\""));
        }
        if self.status == StatusCode::PAYLOAD_TOO_LARGE {
            // The rest of the body is not read: nothing can follow on this connection.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Problem {
        let (status, kind, title) = match denied {
            Denied::SignIn => (StatusCode::UNAUTHORIZED, "sign-in", "Sign-in is needed"),
            Denied::Unknown | Denied::Stale => (StatusCode::UNAUTHORIZED, "unknown-token", "Unknown token"),
            Denied::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "Not allowed"),
            Denied::TooMany => return Refused::Wait(Duration::from_secs(1)).into(),
            Denied::CannotTell => return Problem::unavailable(denied.to_string(), 5),
        };
        Problem::new(status, kind, title, denied.to_string())
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Problem {
        let detail = refused.to_string();
        match refused {
            Refused::Wrong => {
                Problem::new(StatusCode::UNAUTHORIZED, "wrong-password", "Wrong name or password", detail)
            }
            Refused::Wait(wait) => Problem {
                retry_after: Some(wait.as_secs().max(1) as u32 + 1),
                ..Problem::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "too-many-failures",
                    "Too many failures",
                    detail,
                )
            },
            Refused::Busy => Problem::unavailable(detail, 2),
            Refused::Invalid(_) => Problem::bad_request(detail),
            Refused::Denied(denied) => denied.into(),
            Refused::People(PeopleError::Store(error)) => error.into(),
            Refused::People(PeopleError::Missing) => Problem::not_found(detail),
            Refused::People(PeopleError::Stale) => Problem::stale(),
            Refused::People(PeopleError::Taken) => Problem::conflict("taken", "The name is taken", detail),
            Refused::People(PeopleError::LastAdministrator) => {
                Problem::conflict("last-administrator", "The last administrator stays", detail)
            }
            Refused::People(PeopleError::NotFirst) => {
                Problem::conflict("set-up-done", "The box is set up already", detail)
            }
        }
    }
}

impl From<NotChanged> for Problem {
    fn from(refused: NotChanged) -> Problem {
        let detail = refused.to_string();
        match refused {
            NotChanged::Missing => Problem::not_found(detail),
            NotChanged::Exists => Problem::conflict("taken", "The name is taken", detail),
            NotChanged::Stale => Problem::stale(),
            NotChanged::Flawed(errors) => Problem {
                errors,
                ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "Invalid settings", detail)
            },
            NotChanged::Conflict(_) | NotChanged::Write(WriteError::ByHand) => {
                Problem::conflict("conflict", "It cannot be changed so", detail)
            }
            NotChanged::Write(error) => {
                tracing::error!("settings are not written: {error}");
                Problem::internal(
                    "the settings cannot be written, and nothing was changed; the box's log says why",
                )
            }
            NotChanged::Audit(error) => error.into(),
            NotChanged::Busy => Problem::unavailable(detail, 5),
        }
    }
}

/// What exactly failed inside is for the log, not for the client.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        if let StoreError::Cursor = error {
            return Problem::bad_request(error.to_string());
        }
        tracing::error!("api: {error}");
        if let StoreError::Full(_) = error {
            return Problem::unavailable(
                "the box's disk is full, and nothing can be written down: make room on it",
                30,
            );
        }
        Problem::internal("the box's database does not answer; its log says why")
    }
}

impl From<RecordError> for Problem {
    fn from(error: RecordError) -> Problem {
        match error {
            RecordError::Missing { cause, before, after, .. } => Problem {
                nearest: Some(Box::new(Nearest { cause, before, after })),
                ..Problem::not_found(error.to_string())
            },
            RecordError::FarKeyPicture => far_key_picture(error.to_string()),
            RecordError::Nothing { .. } => Problem::not_found(error.to_string()),
            RecordError::Reversed { .. } | RecordError::TooLong => Problem::bad_request(error.to_string()),
            RecordError::Busy => Problem::unavailable(error.to_string(), 10),
            _ => {
                tracing::error!("api: {error}");
                Problem::internal("the recording cannot be read; the box's log says why")
            }
        }
    }
}

/// Of a recorded picture.
fn far_key_picture(detail: String) -> Problem {
    Problem::conflict("far-key-picture", "Key pictures are too far apart", detail)
}

impl From<PictureError> for Problem {
    fn from(error: PictureError) -> Problem {
        match error {
            PictureError::Decode(_) => {
                tracing::warn!("api: {error}");
                Problem::internal("the camera's picture could not be decoded; the box's log says why")
            }
            PictureError::Off => Problem::new(
                StatusCode::NOT_IMPLEMENTED,
                "vision-off",
                "Pictures need the vision worker",
                error.to_string(),
            ),
            PictureError::TooMuch { .. } => far_key_picture(error.to_string()),
            PictureError::NoPicture => Problem::unavailable(error.to_string(), 2),
            PictureError::Worker(_) => {
                Problem::unavailable("the vision worker is not running; /healthz says why to who may know", 5)
            }
        }
    }
}
