//! `/api/v1`, `/healthz`, `/metrics`: what the box knows, as JSON.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::door::{Answer, Asked};
use super::media::typed;
use super::problem::Problem;
use crate::access::Action;
use crate::alert::Alert;
use crate::config::{Camera, Config};
use crate::health::{Severity, State};
use crate::store::Filter;

/// Items of a page where the request does not say.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

/// `GET /healthz`: 503 where the box itself has failed ([`crate::health::Health::overall`]), else 200. Public, but what is wrong is
/// told only to who may know.
pub async fn healthz(asked: Asked) -> Answer {
    let health = &asked.state.health;
    let overall = health.overall();
    let status = if overall == Severity::Failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let mut body = json!({ "status": overall });
    if asked.may(Action::Metrics, None) {
        body["states"] = json!(health.snapshot());
    }
    Ok((status, Json(body)).into_response())
}

/// `GET /metrics`
pub async fn metrics(asked: Asked) -> Answer {
    let text = asked.state.health.metrics.encode();
    Ok(typed("application/openmetrics-text; version=1.0.0; charset=utf-8", text))
}

/// `GET /api/v1/cameras`
pub async fn cameras(asked: Asked) -> Answer {
    let config = asked.state.config.load_full();
    let states = asked.state.health.snapshot();
    let seen = config.cameras.values().filter(|camera| asked.may(Action::Live, Some(&camera.id)));
    let items: Vec<_> = seen
        .map(|camera| describe(&asked, &config, camera, states.get(&format!("camera/{}", camera.id))))
        .collect();
    Ok(Json(json!({ "items": items, "next": null })).into_response())
}

/// A camera's address by RTSP or RTSPS as clients reach it: the public name, the port that is listened on.
fn rtsp_address(config: &Config, scheme: &str, listen: SocketAddr, id: &str) -> String {
    let host = config.site.public_url.host_str().unwrap_or("127.0.0.1");
    format!("{scheme}://{host}:{}/{id}", listen.port())
}

fn describe(asked: &Asked, config: &Config, camera: &Camera, state: Option<&State>) -> Value {
    let id = &camera.id;
    let stream = asked.state.streams.get(id);
    let video = stream.as_ref().and_then(|stream| stream.params()).map(|params| params.video);
    let mut told = json!({
        "id": id,
        "name": camera.name,
        "scene": camera.scene.as_ref().map(|scene| &scene.name),
        "grid": camera.grid,
        "position": camera.position,
        "online": stream.is_some_and(|stream| stream.is_online()),
        "codec": video.as_ref().map(|video| video.codec),
        "codecs": video.as_ref().map(|video| &video.rfc6381),
        "width": video.as_ref().map(|video| video.width),
        "height": video.as_ref().map(|video| video.height),
        "health": { "severity": state.map_or(Severity::Ok, |state| state.severity) },
        "addresses": {
            "rtsp": rtsp_address(config, "rtsp", config.rtsp.listen, id),
            "rtsps": config.rtsp.rtsps_listen.map(|at| rtsp_address(config, "rtsps", at, id)),
            "hls": format!("/{id}/index.m3u8"),
            "frame": format!("/{id}/frame.jpeg"),
        },
    });
    // Causes name addresses of the inner network.
    if asked.may(Action::Recordings, Some(id)) {
        told["health"]["message"] = json!(state.map_or("", |state| &state.message));
    }
    if asked.may(Action::Configure, Some(id)) {
        told["url"] = json!(camera.url.as_str());
        told["sub_url"] = json!(camera.sub_url.as_ref().map(|url| url.as_str()));
    }
    told
}

/// What a collection's query asks for, narrowed to the person's cameras.
pub(super) fn filter(asked: &Asked) -> Result<Filter, Problem> {
    let limit = match asked.query("limit").map(str::parse) {
        None => PAGE,
        Some(Ok(limit @ 1..=MAX_PAGE)) => limit,
        Some(_) => return Err(Problem::bad_request(format!("limit: 1 to {MAX_PAGE}"))),
    };
    let allowed = asked.person.as_ref().and_then(|person| person.cameras.clone());
    let cameras = match (asked.query("camera"), allowed) {
        (None, allowed) => allowed,
        (Some(camera), Some(allowed)) if !allowed.iter().any(|known| known == camera) => Some(Vec::new()),
        (Some(camera), _) => Some(vec![camera.to_owned()]),
    };
    let range = match (asked.time("start")?, asked.time("end")?) {
        (None, None) => None,
        (start, end) => {
            let range = start.unwrap_or(Timestamp::UNIX_EPOCH)..end.unwrap_or(Timestamp::MAX);
            if range.is_empty() {
                return Err(Problem::bad_request("end: not after start"));
            }
            Some(range)
        }
    };
    Ok(Filter { cameras, range, cursor: asked.query("cursor").map(str::to_owned), limit })
}

/// `GET /api/v1/alerts[?camera=&start=&end=&limit=&cursor=]`, newest first.
pub async fn alerts(asked: Asked) -> Answer {
    let filter = filter(&asked)?;
    let page = asked.ask(move |state| state.store.alerts(&filter)).await?;
    let items: Vec<_> = page.items.iter().map(tell).collect();
    Ok(Json(json!({ "items": items, "next": page.next })).into_response())
}

/// `GET /api/v1/alerts/{id}`
pub async fn alert(asked: Asked) -> Answer {
    Ok(Json(tell(&the_alert(&asked).await?)).into_response())
}

/// `GET /api/v1/alerts/{id}/snapshot.jpg`
pub async fn snapshot(asked: Asked) -> Answer {
    let alert = the_alert(&asked).await?;
    match asked.ask(move |state| state.store.snapshot(&alert.id)).await? {
        Some(jpeg) => Ok(typed("image/jpeg", jpeg)),
        None => Err(Problem::not_found("this alert has no picture")),
    }
}

/// The alert that the path names; one of a camera that the person may not see does not exist for them.
pub(super) async fn the_alert(asked: &Asked) -> Result<Alert, Problem> {
    let id = Arc::<str>::from(asked.path("id"));
    let found = asked.ask(move |state| state.store.alert(&id)).await?;
    found
        .filter(|alert| asked.may(Action::Alerts, Some(&alert.camera)))
        .ok_or_else(|| Problem::not_found("there is no such alert"))
}

/// An alert as destinations get it, with addresses that need the same sign-in as this one.
fn tell(alert: &Alert) -> Value {
    let mut told = json!(alert);
    if let Value::Object(fields) = &mut told {
        for internal in ["snapshot_at", "evidence_start", "evidence_end"] {
            fields.remove(internal);
        }
        let base = format!("/api/v1/alerts/{}", alert.id);
        fields.insert(
            "snapshot".into(),
            json!({ "url": format!("{base}/snapshot.jpg"), "at": alert.snapshot_at }),
        );
        let clip = json!({
            "url": format!("{base}/clip.mp4"), "start": alert.evidence_start, "end": alert.evidence_end,
        });
        fields.insert("clip".into(), clip);
    }
    told
}

/// `GET /api/v1/detections[?camera=&start=&end=&limit=&cursor=]`, newest first.
pub async fn detections(asked: Asked) -> Answer {
    let filter = filter(&asked)?;
    let page = asked.ask(move |state| state.store.detections(&filter)).await?;
    Ok(Json(page).into_response())
}
