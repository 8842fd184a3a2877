//! The console's files, built into the binary.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::door::{Answer, Asked};
use super::media::typed;
use super::problem::Problem;

const INDEX: &str = include_str!("../../web/index.html");

/// Name, type, content.
const ASSETS: [(&str, &str, &str); 5] = [
    ("console.css", "text/css; charset=utf-8", include_str!("../../web/console.css")),
    ("console.js", "text/javascript; charset=utf-8", include_str!("../../web/console.js")),
    ("player.js", "text/javascript; charset=utf-8", include_str!("../../web/player.js")),
    ("words.js", "text/javascript; charset=utf-8", include_str!("../../web/words.js")),
    ("icon.svg", "image/svg+xml", include_str!("../../web/icon.svg")),
];

/// `/`
pub async fn index(_: Asked) -> Answer {
    Ok(file("text/html; charset=utf-8", INDEX))
}

/// `/console`
pub async fn console(_: Asked) -> Answer {
    Ok((StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, "/")]).into_response())
}

/// `/assets/{file}`
pub async fn asset(asked: Asked) -> Answer {
    let found = ASSETS.iter().find(|(name, ..)| *name == asked.path("file"));
    let (_, content_type, content) = found.ok_or_else(|| Problem::not_found("there is no such file"))?;
    Ok(file(content_type, content))
}

/// Asked for anew each time: a page of one version never runs with a script of another.
fn file(content_type: &'static str, content: &'static str) -> Response {
    let mut response = typed(content_type, content);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
