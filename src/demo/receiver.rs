//! A dispatch centre in one page: receives alerts as any webhook's receiver should, and prints them. Keeps nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use jiff::Timestamp;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;

use crate::config::{Secret, file::webhook_key};
use crate::dispatch::webhook::signature;

/// Older and newer signatures are refused: somebody may have kept them.
const FRESH: Duration = Duration::from_secs(5 * 60);

/// Ids remembered to tell a repetition.
const REMEMBERED: usize = 4096;

type Out = Box<dyn FnMut(&str) + Send>;

struct Receiver {
    key: Option<Vec<u8>>,
    seen: Mutex<VecDeque<String>>,
    out: Mutex<Out>,
}

/// Receives alerts at `POST /alerts` until it is dropped, and hands `out` one line for each. With a secret, unsigned
/// ones are refused.
pub async fn receive(
    listener: TcpListener,
    secret: Option<Secret>,
    out: impl FnMut(&str) + Send + 'static,
) -> std::io::Result<()> {
    let key = match &secret {
        None => None,
        Some(secret) => Some(webhook_key(secret.expose()).ok_or_else(|| {
            std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                "the secret is no whsec_… of Standard Webhooks",
            )
        })?),
    };
    let receiver = Arc::new(Receiver { key, seen: Mutex::default(), out: Mutex::new(Box::new(out)) });
    let router = Router::new()
        .route("/alerts", post(alert))
        .layer(DefaultBodyLimit::max(1 << 20))
        .with_state(receiver);
    axum::serve(listener, router).await
}

async fn alert(State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let id = header("webhook-id");
    if let Some(key) = &receiver.key
        && !genuine(key, id, header("webhook-timestamp"), header("webhook-signature"), &body)
    {
        return StatusCode::UNAUTHORIZED;
    }
    let Ok(event) = serde_json::from_slice::<serde_json::Value>(&body) else {
        return StatusCode::BAD_REQUEST;
    };
    {
        let mut seen = receiver.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if seen.iter().any(|earlier| earlier == id) {
            return StatusCode::NO_CONTENT;
        }
        if seen.len() == REMEMBERED {
            seen.pop_front();
        }
        seen.push_back(id.to_owned());
    }
    let mut out = receiver.out.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    out(&line(&event["data"]));
    StatusCode::NO_CONTENT
}

/// Standard Webhooks: fresh, and one of the signatures (there are several while a key is replaced) is right.
fn genuine(key: &[u8], id: &str, timestamp: &str, signatures: &str, body: &[u8]) -> bool {
    let Ok(at) = timestamp.parse::<i64>() else { return false };
    let expected = signature(key, id, at, body);
    Timestamp::now().as_second().abs_diff(at) <= FRESH.as_secs()
        && signatures.split(' ').any(|given| bool::from(given.as_bytes().ct_eq(expected.as_bytes())))
}

/// `12:00:03Z  level 1  fire  active  forest-1  87 %  http://…`. What a sender leaves out shows as –.
fn line(data: &serde_json::Value) -> String {
    // Text from outside goes to a terminal: no control characters.
    let text = |value: &serde_json::Value| match value.as_str() {
        Some(text) => text.chars().filter(|letter| !letter.is_control()).take(300).collect(),
        None => "–".to_owned(),
    };
    let at = data["started_at"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
    let at = at.map_or("–".to_owned(), |at| at.strftime("%H:%M:%SZ").to_string());
    let confidence =
        data["confidence"].as_f64().map_or("–".to_owned(), |share| format!("{:.0} %", share * 100.0));
    let level = data["level"].as_u64().map_or("–".to_owned(), |level| level.to_string());
    let drill = if data["drill"] == true { "  drill" } else { "" };
    format!(
        "{at}  level {level}  {}  {}  {}  {confidence}{drill}  {}",
        text(&data["kind"]),
        text(&data["phase"]),
        text(&data["camera"]),
        text(&data["snapshot"]["url"]),
    )
}
