//! Errors as clients see them: RFC 9457 problem details with stable types.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::access::Denied;
use crate::record::RecordError;
use crate::store::StoreError;
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
}

impl Problem {
    fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Problem {
        Problem { status, kind, title, detail: detail.into(), retry_after: None }
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

    pub fn foreign_origin() -> Problem {
        let detail = "the request was made by a page of another origin";
        Problem::new(StatusCode::FORBIDDEN, "foreign-origin", "Foreign origin", detail)
    }

    pub fn unavailable(detail: impl Into<String>, retry_after: u32) -> Problem {
        Problem {
            retry_after: Some(retry_after),
            ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available now", detail)
        }
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

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({
            "type": format!("urn:liuta:problem:{}", self.kind),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"liuta\""));
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
            Denied::Unknown => (StatusCode::UNAUTHORIZED, "unknown-token", "Unknown token"),
            Denied::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "Not allowed"),
        };
        Problem::new(status, kind, title, denied.to_string())
    }
}

/// What exactly failed inside is for the log, not for the client.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        tracing::error!("api: {error}");
        Problem::internal("the box's database does not answer; its log says why")
    }
}

impl From<RecordError> for Problem {
    fn from(error: RecordError) -> Problem {
        match error {
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
            PictureError::NoPicture => Problem::unavailable(error.to_string(), 2),
            PictureError::Worker(_) => {
                Problem::unavailable("the vision worker is not running; /healthz says why to who may know", 5)
            }
        }
    }
}
