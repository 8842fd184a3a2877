//! HTTP: REST, HLS, recordings, the console's page, metrics, health.
//!
//! Every route stands in [`routes`] with what it needs ([`door`]); [`connection`] bounds what a client may cost. What
//! does not belong here: what anything means; handlers ask the module that knows and put its answer into words.

mod channels;
mod completeness;
mod connection;
pub mod door;
mod events;
mod evidence;
mod media;
mod openapi;
mod page;
mod people;
mod playback;
pub mod problem;
mod rest;
mod session;
mod settings;
mod timeline;
mod transitions;

use std::sync::Arc;

use axum::Router;
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{Method, Response};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::access::{Access, Action, Links};
use crate::dispatch::Dispatch;
use crate::events::Events;
use crate::health::Health;
use crate::live::Directory;
use crate::net::listener::Listener;
use crate::record::Ring;
use crate::relay::channels::Channels;
use crate::relay::viewers::Viewers;
use crate::settings::Settings;
use crate::store::Store;
use crate::vision::Vision;
pub use connection::USE_HTTPS;
use door::{Need, Routes, camera_asked_for, camera_in_path, camera_of_channel};
use problem::Problem;

/// The longest body of a request.
const MAX_BODY: usize = 64 << 10;

/// What handlers reach.
#[derive(Clone)]
pub struct Shared {
    pub settings: Settings,
    pub dispatch: Arc<Dispatch>,
    pub streams: Arc<Directory>,
    pub channels: Arc<Channels>,
    pub viewers: Arc<Viewers>,
    pub events: Arc<Events>,
    pub access: Access,
    pub links: Links,
    pub store: Arc<Store>,
    pub ring: Arc<Ring>,
    pub vision: Arc<Vision>,
    pub health: Health,
    /// Cameras that are tried at once: each is a whole session.
    pub trials: Arc<Semaphore>,
}

/// For [`Shared::trials`].
pub const TRIALS: usize = 2;

/// Serves until `stop`, then lets requests in flight end.
pub async fn serve(listener: Listener, state: Shared, stop: CancellationToken) -> std::io::Result<()> {
    connection::serve(listener, router(state), stop).await
}

/// Every address and what it needs.
pub fn routes() -> Routes {
    use Action::*;
    let live = |camera| Need::Camera(Live, camera);
    let recorded = Need::Camera(Recordings, camera_in_path);
    let configured = Need::Camera(Configure, camera_in_path);
    Routes::default()
        .get("/", Need::Nothing, page::index)
        .get("/console", Need::Nothing, page::console)
        .get("/assets/{file}", Need::Nothing, page::asset)
        .get("/api/openapi.json", Need::Nothing, openapi::document)
        .get("/healthz", Need::Nothing, rest::healthz)
        .get("/metrics", Need::Action(Metrics), rest::metrics)
        .get("/api/v1/session", Need::Nothing, session::session)
        .on(Method::POST, "/api/v1/session", Need::Nothing, session::sign_in)
        .on(Method::DELETE, "/api/v1/session", Need::Nothing, session::sign_out)
        .on(Method::POST, "/api/v1/session/password", Need::Nothing, session::change_password)
        .on(Method::POST, "/api/v1/session/key", Need::Nothing, session::new_stream_key)
        .on(Method::POST, "/api/v1/setup", Need::Nothing, session::set_up)
        .get("/api/v1/users", Need::Action(Configure), people::users)
        .on(Method::POST, "/api/v1/users", Need::Action(Configure), people::add_user)
        .get("/api/v1/users/{name}", Need::Action(Configure), people::user)
        .on(Method::PATCH, "/api/v1/users/{name}", Need::Action(Configure), people::change_user)
        .on(Method::DELETE, "/api/v1/users/{name}", Need::Action(Configure), people::remove_user)
        .on(Method::POST, "/api/v1/users/{name}/key", Need::Action(Configure), people::new_stream_key)
        .get("/api/v1/tokens", Need::Action(Configure), people::tokens)
        .on(Method::POST, "/api/v1/tokens", Need::Action(Configure), people::add_token)
        .on(Method::DELETE, "/api/v1/tokens/{id}", Need::Action(Configure), people::revoke_token)
        .get("/api/v1/audit", Need::Action(Configure), people::audit)
        .get("/api/v1/audit/state", Need::Action(Configure), people::audit_state)
        .get("/api/v1/config", Need::Action(Configure), settings::config)
        .get("/api/v1/cameras", Need::Action(Live), rest::cameras)
        .on(Method::POST, "/api/v1/cameras", Need::Action(Configure), settings::add_camera)
        .on(Method::POST, "/api/v1/cameras/try", Need::Action(Configure), settings::try_camera)
        .get("/api/v1/cameras/{camera}", live(camera_in_path), settings::camera)
        .on(Method::PATCH, "/api/v1/cameras/{camera}", configured, settings::change_camera)
        .on(Method::DELETE, "/api/v1/cameras/{camera}", configured, settings::remove_camera)
        .get("/api/v1/cameras/{camera}/zones", configured, settings::zones)
        .on(Method::POST, "/api/v1/cameras/{camera}/zones", configured, settings::add_zone)
        .get("/api/v1/cameras/{camera}/zones/{zone}", configured, settings::zone)
        .on(Method::PATCH, "/api/v1/cameras/{camera}/zones/{zone}", configured, settings::change_zone)
        .on(Method::DELETE, "/api/v1/cameras/{camera}/zones/{zone}", configured, settings::remove_zone)
        .get("/api/v1/channels", Need::Action(Live), channels::channels)
        .get("/api/v1/channels/{channel}", live(camera_of_channel), channels::channel)
        .on(
            Method::PUT,
            "/api/v1/channels/{channel}",
            Need::Camera(Channels, camera_of_channel),
            channels::switch,
        )
        .on(Method::POST, "/api/v1/channels", Need::Action(Configure), settings::add_channel)
        .on(Method::DELETE, "/api/v1/channels/{channel}", Need::Action(Configure), settings::remove_channel)
        .get("/api/v1/destinations", Need::Action(Configure), settings::destinations)
        .on(Method::POST, "/api/v1/destinations", Need::Action(Configure), settings::add_destination)
        .get("/api/v1/destinations/{name}", Need::Action(Configure), settings::destination)
        .on(
            Method::PATCH,
            "/api/v1/destinations/{name}",
            Need::Action(Configure),
            settings::change_destination,
        )
        .on(
            Method::DELETE,
            "/api/v1/destinations/{name}",
            Need::Action(Configure),
            settings::remove_destination,
        )
        .get("/api/v1/events", Need::Events, events::events)
        .get("/api/v1/alerts", Need::Action(Alerts), rest::alerts)
        .get("/api/v1/alerts/{id}", Need::Action(Alerts), rest::alert)
        .get("/api/v1/alerts/{id}/transitions", Need::Action(Alerts), transitions::transitions)
        .on(
            Method::POST,
            "/api/v1/alerts/{id}/transitions",
            Need::Action(Transition),
            transitions::transition,
        )
        .get("/api/v1/alerts/{id}/snapshot.jpg", Need::Linked(Alerts), rest::snapshot)
        .get("/api/v1/alerts/{id}/clip.mp4", Need::Linked(Alerts), media::clip)
        .get("/api/v1/detections", Need::Action(Alerts), rest::detections)
        .get("/api/v1/timeline", Need::Action(Recordings), timeline::timeline)
        .get("/api/v1/signing-key", Need::Action(Live), evidence::signing_key)
        .get("/api/v1/completeness", Need::Action(Recordings), completeness::completeness)
        .get("/list", Need::Camera(Recordings, camera_asked_for), media::list)
        .get("/get", Need::Camera(Recordings, camera_asked_for), media::get)
        .get("/playback/{camera}/index.m3u8", recorded, playback::playlist)
        .get("/playback/{camera}/frame.jpeg", recorded, playback::frame)
        .get("/playback/{camera}/{file}", recorded, playback::file)
        .get("/{camera}/frame.jpeg", live(camera_in_path), media::frame)
        .get("/{camera}/{file}", live(camera_in_path), media::hls)
        .get("/{camera}/sub/{file}", live(camera_in_path), media::hls_sub)
        .get("/channels/{channel}/{file}", live(camera_of_channel), media::hls_channel)
}

fn router(state: Shared) -> Router {
    routes()
        .into_router()
        .fallback(|| async { Problem::not_found("there is nothing at this address") })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(axum::middleware::map_response(secure))
        .with_state(state)
}

/// What every answer says to browsers: nothing foreign is loaded, nothing is framed, nothing is guessed, nothing is
/// kept that the handler did not allow.
async fn secure<B>(mut response: Response<B>) -> Response<B> {
    const POLICY: &str = "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; object-src 'none'; \
                          base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
    let said: [(HeaderName, &str); 4] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    let headers = response.headers_mut();
    for (name, value) in said {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
