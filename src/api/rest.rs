//! `/api/v1`, `/healthz`, `/metrics`: what the box knows, as JSON.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::Json;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use jiff::Timestamp;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;
use utoipa::ToSchema;

use super::door::{Answer, Asked, tagged};
use super::media::typed;
use super::problem::{Body, Problem};
use crate::access::Action;
use crate::alert::Alert;
use crate::config::{Camera, Config, Id};
use crate::dispatch::Document;
use crate::events::CameraHealth;
use crate::health::{CameraLabel, Severity, State};
use crate::media::VideoCodec;
use crate::store::{Filter, Page, StoredDetection};

/// Items of a page where the request does not say.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

/// The box's state, and of each part where the client may know it.
#[derive(Serialize, ToSchema)]
pub struct BoxHealth {
    status: Severity,
    /// By subject, `camera/gate-1` say.
    #[serde(skip_serializing_if = "Option::is_none")]
    states: Option<BTreeMap<String, State>>,
}

/// A camera as clients may know it.
#[derive(Serialize, ToSchema)]
#[schema(as = Camera)]
pub struct CameraView {
    #[schema(value_type = String)]
    id: Id,
    name: String,
    /// What it watches for; null where it is not watched.
    scene: Option<String>,
    grid: Option<String>,
    /// WGS-84 longitude, latitude.
    position: Option<[f64; 2]>,
    online: bool,
    codec: Option<VideoCodec>,
    /// RFC 6381.
    codecs: Option<String>,
    width: Option<u32>,
    height: Option<u32>,
    health: CameraHealth,
    /// Seconds that its clock is ahead of the box's, which alone counts; null where it does not say.
    clock_error: Option<f64>,
    /// How much of the last 24 hours is recorded of what should be, 0 to 1; for who may see recordings.
    completeness: Option<f64>,
    addresses: Addresses,
    /// For who may configure the camera; never with credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub_url: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct Addresses {
    rtsp: String,
    /// Null where RTSPS is not served.
    rtsps: Option<String>,
    hls: String,
    frame: String,
}

/// 503 where the box itself has failed ([`crate::health::Health::overall`]), else 200. Public, but what is wrong is told
/// only to who may know.
#[utoipa::path(
    get, path = "/healthz", tag = "health",
    responses(
        (status = 200, description = "The box does its job, perhaps less than was promised", body = BoxHealth),
        (status = 503, description = "The box itself has failed", content(
            (BoxHealth = "application/json"), (Body = "application/problem+json"),
        )),
    )
)]
pub async fn healthz(asked: Asked) -> Answer {
    let health = &asked.state.health;
    let overall = health.overall();
    let status = if overall == Severity::Failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let states = asked.may(Action::Metrics, None).then(|| health.snapshot());
    Ok((status, Json(BoxHealth { status: overall, states })).into_response())
}

#[utoipa::path(
    get, path = "/metrics", tag = "health",
    responses((
        status = 200, description = "OpenMetrics for Prometheus", body = String,
        content_type = "application/openmetrics-text",
    ))
)]
pub async fn metrics(asked: Asked) -> Answer {
    let metrics = &asked.state.health.metrics;
    asked.state.viewers.count(metrics);
    let text = metrics.encode();
    Ok(typed("application/openmetrics-text; version=1.0.0; charset=utf-8", text))
}

#[utoipa::path(
    get, path = "/api/v1/cameras", tag = "cameras",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next` of an earlier page"),
    ),
    responses((status = 200, description = "The cameras that one may watch, by id", body = Page<CameraView>))
)]
pub async fn cameras(asked: Asked) -> Answer {
    let config = asked.state.settings.config();
    let states = asked.state.health.snapshot();
    let seen = config.cameras.values().filter(|camera| asked.may(Action::Live, Some(&camera.id)));
    let items = seen.map(|camera| {
        let state = states.get(&format!("camera/{}", camera.id));
        (camera.id.to_string(), describe(&asked, &config, camera, state))
    });
    Ok(Json(Page::by_id(items, &filter(&asked)?)?).into_response())
}

/// A camera's address by RTSP or RTSPS as clients reach it: the public name, the port that is listened on.
pub(super) fn rtsp_address(config: &Config, scheme: &str, listen: SocketAddr, id: &str) -> String {
    let host = config.site.public_url.host_str().unwrap_or("127.0.0.1");
    format!("{scheme}://{host}:{}/{id}", listen.port())
}

pub(super) fn describe(asked: &Asked, config: &Config, camera: &Camera, state: Option<&State>) -> CameraView {
    let id = &camera.id;
    let stream = asked.state.streams.get(id);
    let video = stream.as_ref().and_then(|stream| stream.params()).map(|params| params.video);
    let knows_causes = asked.may(Action::Recordings, Some(id));
    let configures = asked.may(Action::Configure, Some(id));
    let metrics = &asked.state.health.metrics;
    let label = CameraLabel::new(&**id);
    let gauge =
        |family: &Family<CameraLabel, Gauge<f64, AtomicU64>>| family.get(&label).map(|gauge| gauge.get());
    CameraView {
        id: id.clone(),
        name: camera.name.clone(),
        scene: camera.scene.as_ref().map(|scene| scene.name.clone()),
        grid: camera.grid.clone(),
        position: camera.position,
        online: stream.is_some_and(|stream| stream.is_online()),
        codec: video.as_ref().map(|video| video.codec),
        codecs: video.as_ref().map(|video| video.rfc6381.clone()),
        width: video.as_ref().map(|video| video.width),
        height: video.as_ref().map(|video| video.height),
        health: CameraHealth {
            severity: state.map_or(Severity::Ok, |state| state.severity),
            message: knows_causes.then(|| state.map_or(String::new(), |state| state.message.clone())),
        },
        clock_error: gauge(&metrics.camera_clock_error_seconds),
        completeness: gauge(&metrics.record_completeness).filter(|_| knows_causes),
        addresses: Addresses {
            rtsp: rtsp_address(config, "rtsp", config.rtsp.listen, id),
            rtsps: config.rtsp.rtsps_listen.map(|at| rtsp_address(config, "rtsps", at, id)),
            hls: format!("/{id}/index.m3u8"),
            frame: format!("/{id}/frame.jpeg"),
        },
        url: configures.then(|| camera.url.to_string()),
        sub_url: camera.sub_url.as_ref().filter(|_| configures).map(|url| url.to_string()),
    }
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

#[utoipa::path(
    get, path = "/api/v1/alerts", tag = "alerts",
    params(
        ("camera" = Option<String>, Query),
        ("start" = Option<String>, Query, description = "RFC 3339, inclusive"),
        ("end" = Option<String>, Query, description = "RFC 3339, exclusive"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next` of an earlier page"),
    ),
    responses((status = 200, description = "Newest first", body = Page<Document<'static>>))
)]
pub async fn alerts(asked: Asked) -> Answer {
    let filter = filter(&asked)?;
    let page = asked.ask(move |state| state.store.alerts(&filter)).await?;
    let items = page.items.iter().map(Document::of).collect();
    Ok(Json(Page { items, next: page.next }).into_response())
}

#[utoipa::path(
    get, path = "/api/v1/alerts/{id}", tag = "alerts", params(("id" = String, Path)),
    responses(
        (status = 200, description = "As destinations get it, with addresses below this box", body = Document<'static>),
        (status = 404, description = "Problem not-found"),
    )
)]
pub async fn alert(asked: Asked) -> Answer {
    let alert = the_alert(&asked, Action::Alerts).await?;
    Ok(tagged(alert.revision, Json(Document::of(&alert))))
}

#[utoipa::path(
    get, path = "/api/v1/alerts/{id}/snapshot.jpg", tag = "alerts", params(("id" = String, Path)),
    responses(
        (status = 200, description = "The picture with boxes", body = String, content_type = "image/jpeg"),
        (status = 404, description = "Problem not-found"),
    )
)]
pub async fn snapshot(asked: Asked) -> Answer {
    let alert = the_alert(&asked, Action::Alerts).await?;
    asked.note_watching(&alert.camera, &format!("the picture of alert {}", alert.id));
    match asked.ask(move |state| state.store.snapshot(&alert.id)).await? {
        Some(jpeg) => Ok(typed("image/jpeg", jpeg)),
        None => Err(Problem::not_found("this alert has no picture")),
    }
}

/// The alert that the path names; one of a camera that the person may not see does not exist for them.
pub(super) async fn the_alert(asked: &Asked, action: Action) -> Result<Alert, Problem> {
    let id = Arc::<str>::from(asked.path("id"));
    let found = asked.ask(move |state| state.store.alert(&id)).await?;
    found
        .filter(|alert| asked.may(action, Some(&alert.camera)))
        .ok_or_else(|| Problem::not_found("there is no such alert"))
}

#[utoipa::path(
    get, path = "/api/v1/detections", tag = "alerts",
    params(
        ("camera" = Option<String>, Query),
        ("start" = Option<String>, Query, description = "RFC 3339, inclusive"),
        ("end" = Option<String>, Query, description = "RFC 3339, exclusive"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next` of an earlier page"),
    ),
    responses((status = 200, description = "What was seen, newest first", body = Page<StoredDetection>))
)]
pub async fn detections(asked: Asked) -> Answer {
    let filter = filter(&asked)?;
    let page = asked.ask(move |state| state.store.detections(&filter)).await?;
    Ok(Json(page).into_response())
}
