//! The configuration: what it says and where from, and cameras, zones, channels and destinations added, changed,
//! removed and tried.
//!
//! Bodies are JSON objects in the words of `liuta.toml`, judged by its reader ([`crate::settings`]); the structs here
//! describe them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::Map;
use utoipa::ToSchema;

use super::channels::{self, ChannelView};
use super::door::{Answer, Asked, tagged};
use super::problem::Problem;
use super::rest::{CameraView, describe, filter};
use crate::access::Action;
use crate::access::audit::Event;
use crate::camera::trial::{self, Trial};
use crate::config::loaded::Loaded;
use crate::config::reader::{Setting, as_text};
use crate::config::{Camera, Destination, DestinationKind, Id, Kind, Transport, Zone, file};
use crate::settings::{Change, Expected, Object};
use crate::store::Page;

/// What may be said of a camera; in a change, null removes.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "describes bodies, which the reader of the configuration judges")]
pub struct CameraFields {
    name: Option<String>,
    /// `rtsp://…`. A user name and password in it are kept apart, as `username` and `password`.
    url: Option<String>,
    sub_url: Option<String>,
    username: Option<String>,
    /// Never shown again. Where an address leads to another host or port it is to be said anew.
    #[schema(format = Password)]
    password: Option<String>,
    #[schema(inline)]
    transport: Option<Transport>,
    record: Option<bool>,
    /// Most that its recordings take, as in `50GB`.
    max_size: Option<String>,
    groups: Option<Vec<String>>,
    scene: Option<String>,
    grid: Option<String>,
    /// WGS-84 longitude, latitude.
    position: Option<[f64; 2]>,
    /// By name; null removes one.
    zones: Option<BTreeMap<String, ZoneFields>>,
}

#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "describes bodies")]
pub struct NewCamera {
    #[schema(pattern = "^[a-z0-9][a-z0-9-]{0,62}$")]
    id: String,
    #[serde(flatten)]
    fields: CameraFields,
}

/// A camera to try: as it would be configured, or what differs from one that is.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "describes bodies")]
pub struct CameraToTry {
    /// The id of the camera that the rest is laid over.
    camera: Option<String>,
    #[serde(flatten)]
    fields: CameraFields,
}

#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "describes bodies")]
pub struct ZoneFields {
    /// The corners in their order, each [x, y], 0 to 1 of the picture from its top left corner.
    points: Option<Vec<[f32; 2]>>,
    /// Null or nothing: every kind of the camera's scene.
    kinds: Option<Vec<Kind>>,
}

#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "describes bodies")]
pub struct NewZone {
    name: String,
    #[serde(flatten)]
    fields: ZoneFields,
}

#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "describes bodies")]
pub struct DestinationFields {
    /// `webhook`
    r#type: Option<String>,
    url: Option<String>,
    /// `whsec_…` (Standard Webhooks). Never shown again.
    #[schema(format = Password)]
    secret: Option<String>,
    /// After so long an undelivered alert is given up: `7d`.
    expire: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "describes bodies")]
pub struct NewDestination {
    name: String,
    #[serde(flatten)]
    fields: DestinationFields,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes bodies")]
pub struct NewChannel {
    #[schema(pattern = "^[a-z0-9][a-z0-9-]{0,62}$")]
    name: String,
    /// The id of the camera that is on air at first.
    camera: String,
}

/// One camera.
#[derive(Serialize, ToSchema)]
pub struct OneCamera {
    #[serde(flatten)]
    view: CameraView,
    /// For who may configure the camera; what the ETag stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<CameraSettings>,
}

/// A camera's configuration as it counts.
#[derive(Serialize, ToSchema)]
pub struct CameraSettings {
    name: String,
    url: String,
    sub_url: Option<String>,
    username: Option<String>,
    /// Whether there is a password; it is never shown.
    has_password: bool,
    #[schema(inline)]
    transport: Transport,
    record: bool,
    /// Bytes.
    max_size: Option<u64>,
    groups: Vec<String>,
    scene: Option<String>,
    grid: Option<String>,
    position: Option<[f64; 2]>,
    zones: BTreeMap<String, ZoneSettings>,
}

impl CameraSettings {
    fn of(camera: &Camera) -> CameraSettings {
        let credentials = camera.credentials.as_ref();
        CameraSettings {
            name: camera.name.clone(),
            url: camera.url.to_string(),
            sub_url: camera.sub_url.as_ref().map(ToString::to_string),
            username: credentials.map(|credentials| credentials.username.clone()),
            has_password: credentials.is_some_and(|credentials| !credentials.password.expose().is_empty()),
            transport: camera.transport,
            record: camera.record,
            max_size: camera.max_size,
            groups: camera.groups.clone(),
            scene: camera.scene.as_ref().map(|scene| scene.name.clone()),
            grid: camera.grid.clone(),
            position: camera.position,
            zones: camera.zones.iter().map(|zone| (zone.name.clone(), ZoneSettings::of(zone))).collect(),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub struct ZoneSettings {
    points: Vec<[f32; 2]>,
    /// Empty: every kind of the camera's scene.
    kinds: Vec<Kind>,
}

impl ZoneSettings {
    fn of(zone: &Zone) -> ZoneSettings {
        ZoneSettings { points: zone.points.clone(), kinds: zone.kinds.clone() }
    }
}

#[derive(Serialize, ToSchema)]
pub struct OneZone {
    name: String,
    #[serde(flatten)]
    settings: ZoneSettings,
}

#[derive(Serialize, ToSchema)]
pub struct DestinationSettings {
    name: String,
    r#type: &'static str,
    /// Without what may let somebody in: `…` stands for a path and query.
    url: String,
    /// Whether there is a signing secret; it is never shown.
    has_secret: bool,
    expire: String,
}

impl DestinationSettings {
    fn of(destination: &Destination) -> DestinationSettings {
        let DestinationKind::Webhook { url, secret } = &destination.kind;
        DestinationSettings {
            name: destination.name.clone(),
            r#type: "webhook",
            url: file::shown_webhook(url),
            has_secret: secret.is_some(),
            expire: as_text(destination.expire),
        }
    }
}

/// Every value of the configuration that counts.
#[derive(Serialize, ToSchema)]
pub struct Configuration {
    /// Another one for whatever was changed, passwords included.
    revision: String,
    settings: Vec<Setting>,
}

#[utoipa::path(
    get, path = "/api/v1/config", tag = "settings",
    responses((status = 200, description = "With where each came from; no secrets", body = Configuration))
)]
pub async fn config(asked: Asked) -> Answer {
    let loaded = asked.state.settings.loaded();
    let revision = asked.state.settings.revision(&loaded);
    let settings = loaded.settings.clone();
    Ok(tagged(revision.clone(), Json(Configuration { revision, settings })))
}

#[utoipa::path(
    get, path = "/api/v1/cameras/{camera}", tag = "cameras", params(("camera" = String, Path)),
    responses(
        (status = 200, description = "Where one may configure it, the ETag is for If-Match", body = OneCamera),
        (status = 404, description = "Problem not-found"),
    )
)]
pub async fn camera(asked: Asked) -> Answer {
    show_camera(&asked, &asked.state.settings.loaded(), asked.path("camera"), StatusCode::OK)
}

fn show_camera(asked: &Asked, loaded: &Loaded, id: &str, status: StatusCode) -> Answer {
    let camera =
        loaded.config.cameras.get(id).ok_or_else(|| Problem::not_found("there is no such camera"))?;
    let health = asked.state.health.snapshot();
    let view = describe(asked, &loaded.config, camera, health.get(&format!("camera/{id}")));
    let configures = asked.may(Action::Configure, Some(id));
    let settings = configures.then(|| CameraSettings::of(camera));
    let body = (status, Json(OneCamera { view, settings }));
    match asked.state.settings.tag(loaded, &Object::Camera(id.to_owned())).filter(|_| configures) {
        Some(tag) => Ok(tagged(tag, body)),
        None => Ok(body.into_response()),
    }
}

#[utoipa::path(
    post, path = "/api/v1/cameras", tag = "cameras", request_body = NewCamera,
    responses(
        (status = 201, description = "Added; it is connected to at once", body = OneCamera),
        (status = 409, description = "Problem taken or conflict"),
        (status = 422, description = "Problem invalid: errors tells each flaw"),
    )
)]
pub async fn add_camera(asked: Asked) -> Answer {
    let (id, said) = named(&asked, "id")?;
    let loaded = change(&asked, Object::Camera(id.clone()), Change::Add(said)).await?;
    at(&format!("/api/v1/cameras/{id}"), show_camera(&asked, &loaded, &id, StatusCode::CREATED)?)
}

#[utoipa::path(
    patch, path = "/api/v1/cameras/{camera}", tag = "cameras", request_body = CameraFields,
    params(("camera" = String, Path), ("If-Match" = String, Header, description = "The ETag that was read, or *")),
    responses(
        (status = 200, description = "Changed; where its streams stay the same it goes on recording", body = OneCamera),
        (status = 404, description = "Problem not-found"),
        (status = 409, description = "Problem conflict"),
        (status = 412, description = "Problem stale: somebody else was faster"),
        (status = 422, description = "Problem invalid: errors tells each flaw"),
        (status = 428, description = "Problem precondition-required: say If-Match"),
    )
)]
pub async fn change_camera(asked: Asked) -> Answer {
    let id = asked.path("camera").to_owned();
    let wish = merge(&asked)?;
    // Whoever is limited to some cameras could else have theirs show another, or let others see it.
    if let (Change::Merge(_, said), false) = (&wish, asked.may(Action::Configure, None))
        && let Some(key) = ["url", "sub_url", "groups"].into_iter().find(|key| said.contains_key(*key))
    {
        let detail =
            format!("{key}: only who may configure every camera changes where one is and who may see it");
        return Err(Problem::forbidden(detail));
    }
    let loaded = change(&asked, Object::Camera(id.clone()), wish).await?;
    show_camera(&asked, &loaded, &id, StatusCode::OK)
}

#[utoipa::path(
    delete, path = "/api/v1/cameras/{camera}", tag = "cameras",
    params(("camera" = String, Path), ("If-Match" = String, Header, description = "The ETag that was read, or *")),
    responses(
        (status = 204, description = "Removed; what is recorded stays until its retention ends"),
        (status = 404, description = "Problem not-found"),
        (status = 409, description = "Problem conflict: a channel shows it"),
        (status = 412, description = "Problem stale"),
        (status = 428, description = "Problem precondition-required"),
    )
)]
pub async fn remove_camera(asked: Asked) -> Answer {
    remove(&asked, Object::Camera(asked.path("camera").to_owned())).await
}

#[utoipa::path(
    post, path = "/api/v1/cameras/try", tag = "cameras", request_body = CameraToTry,
    responses(
        (status = 200, description = "What its streams are, or why they do not come; takes up to half a minute", body = Trial),
        (status = 404, description = "Problem not-found"),
        (status = 422, description = "Problem invalid"),
        (status = 503, description = "Problem unavailable: two are being tried already"),
    )
)]
pub async fn try_camera(asked: Asked) -> Answer {
    let mut said = body(&asked)?;
    let base = match said.remove("camera") {
        None | Some(serde_json::Value::Null) => None,
        Some(serde_json::Value::String(id)) => Some(id),
        Some(_) => return Err(Problem::bad_request("camera: the id of a camera was expected")),
    };
    let place = asked.state.trials.clone().try_acquire_owned();
    let _place = place.map_err(|_| Problem::unavailable("two cameras are being tried already", 10))?;
    let camera = asked.ask(move |state| state.settings.camera_to_try(base.as_deref(), said)).await?;
    let host = camera.url.host_str().unwrap_or_default();
    asked.note(Event::Watch, "camera/try", host).await?;
    Ok(Json(trial::run(&camera).await).into_response())
}

#[utoipa::path(
    get, path = "/api/v1/cameras/{camera}/zones", tag = "cameras",
    params(
        ("camera" = String, Path),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next` of an earlier page"),
    ),
    responses(
        (status = 200, description = "By name", body = Page<OneZone>),
        (status = 404, description = "Problem not-found"),
    )
)]
pub async fn zones(asked: Asked) -> Answer {
    let config = asked.state.settings.config();
    let camera = known_camera(&config.cameras, &asked)?;
    let zones = camera.zones.iter().map(|zone| (zone.name.clone(), one_zone(zone)));
    Ok(Json(Page::by_id(zones, &filter(&asked)?)?).into_response())
}

fn known_camera<'c>(cameras: &'c BTreeMap<Id, Arc<Camera>>, asked: &Asked) -> Result<&'c Camera, Problem> {
    let camera = cameras.get(asked.path("camera"));
    camera.map(|camera| &**camera).ok_or_else(|| Problem::not_found("there is no such camera"))
}

fn one_zone(zone: &Zone) -> OneZone {
    OneZone { name: zone.name.clone(), settings: ZoneSettings::of(zone) }
}

#[utoipa::path(
    get, path = "/api/v1/cameras/{camera}/zones/{zone}", tag = "cameras",
    params(("camera" = String, Path), ("zone" = String, Path)),
    responses(
        (status = 200, description = "The ETag is for If-Match", body = OneZone),
        (status = 404, description = "Problem not-found"),
    )
)]
pub async fn zone(asked: Asked) -> Answer {
    show_zone(&asked, &asked.state.settings.loaded(), asked.path("zone"), StatusCode::OK)
}

fn show_zone(asked: &Asked, loaded: &Loaded, name: &str, status: StatusCode) -> Answer {
    let camera = known_camera(&loaded.config.cameras, asked)?;
    let zone = camera.zones.iter().find(|zone| zone.name == name);
    let zone = zone.ok_or_else(|| Problem::not_found("there is no such zone"))?;
    let object = Object::Zone { camera: camera.id.to_string(), zone: name.to_owned() };
    let tag = asked.state.settings.tag(loaded, &object).unwrap_or_default();
    Ok(tagged(tag, (status, Json(one_zone(zone)))))
}

#[utoipa::path(
    post, path = "/api/v1/cameras/{camera}/zones", tag = "cameras", request_body = NewZone,
    params(("camera" = String, Path)),
    responses(
        (status = 201, description = "Added", body = OneZone),
        (status = 404, description = "Problem not-found"),
        (status = 409, description = "Problem taken or conflict"),
        (status = 422, description = "Problem invalid"),
    )
)]
pub async fn add_zone(asked: Asked) -> Answer {
    let (zone, said) = named(&asked, "name")?;
    let object = Object::Zone { camera: asked.path("camera").to_owned(), zone: zone.clone() };
    let loaded = change(&asked, object, Change::Add(said)).await?;
    let encoded = percent_encoding::utf8_percent_encode(&zone, percent_encoding::NON_ALPHANUMERIC);
    let location = format!("/api/v1/cameras/{}/zones/{encoded}", asked.path("camera"));
    at(&location, show_zone(&asked, &loaded, &zone, StatusCode::CREATED)?)
}

#[utoipa::path(
    patch, path = "/api/v1/cameras/{camera}/zones/{zone}", tag = "cameras", request_body = ZoneFields,
    params(
        ("camera" = String, Path), ("zone" = String, Path),
        ("If-Match" = String, Header, description = "The ETag that was read, or *"),
    ),
    responses(
        (status = 200, description = "Changed", body = OneZone),
        (status = 404, description = "Problem not-found"),
        (status = 409, description = "Problem conflict"),
        (status = 412, description = "Problem stale"),
        (status = 422, description = "Problem invalid"),
        (status = 428, description = "Problem precondition-required"),
    )
)]
pub async fn change_zone(asked: Asked) -> Answer {
    let loaded = change(&asked, zone_in_path(&asked), merge(&asked)?).await?;
    show_zone(&asked, &loaded, asked.path("zone"), StatusCode::OK)
}

#[utoipa::path(
    delete, path = "/api/v1/cameras/{camera}/zones/{zone}", tag = "cameras",
    params(
        ("camera" = String, Path), ("zone" = String, Path),
        ("If-Match" = String, Header, description = "The ETag that was read, or *"),
    ),
    responses(
        (status = 204, description = "Removed"),
        (status = 404, description = "Problem not-found"),
        (status = 409, description = "Problem conflict"),
        (status = 412, description = "Problem stale"),
        (status = 428, description = "Problem precondition-required"),
    )
)]
pub async fn remove_zone(asked: Asked) -> Answer {
    remove(&asked, zone_in_path(&asked)).await
}

fn zone_in_path(asked: &Asked) -> Object {
    Object::Zone { camera: asked.path("camera").to_owned(), zone: asked.path("zone").to_owned() }
}

#[utoipa::path(
    get, path = "/api/v1/destinations", tag = "settings",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next` of an earlier page"),
    ),
    responses((status = 200, description = "Where alerts go, by name", body = Page<DestinationSettings>))
)]
pub async fn destinations(asked: Asked) -> Answer {
    let config = asked.state.settings.config();
    let told = config.dispatch.iter().map(|(name, there)| (name.clone(), DestinationSettings::of(there)));
    Ok(Json(Page::by_id(told, &filter(&asked)?)?).into_response())
}

#[utoipa::path(
    get, path = "/api/v1/destinations/{name}", tag = "settings", params(("name" = String, Path)),
    responses(
        (status = 200, description = "The ETag is for If-Match", body = DestinationSettings),
        (status = 404, description = "Problem not-found"),
    )
)]
pub async fn destination(asked: Asked) -> Answer {
    show_destination(&asked, &asked.state.settings.loaded(), asked.path("name"), StatusCode::OK)
}

fn show_destination(asked: &Asked, loaded: &Loaded, name: &str, status: StatusCode) -> Answer {
    let found = loaded.config.dispatch.get(name);
    let found = found.ok_or_else(|| Problem::not_found("there is no such destination"))?;
    let tag = asked.state.settings.tag(loaded, &Object::Destination(name.to_owned())).unwrap_or_default();
    Ok(tagged(tag, (status, Json(DestinationSettings::of(found)))))
}

#[utoipa::path(
    post, path = "/api/v1/destinations", tag = "settings", request_body = NewDestination,
    responses(
        (status = 201, description = "Added", body = DestinationSettings),
        (status = 409, description = "Problem taken or conflict"),
        (status = 422, description = "Problem invalid"),
    )
)]
pub async fn add_destination(asked: Asked) -> Answer {
    let (name, said) = named(&asked, "name")?;
    let loaded = change(&asked, Object::Destination(name.clone()), Change::Add(said)).await?;
    let encoded = percent_encoding::utf8_percent_encode(&name, percent_encoding::NON_ALPHANUMERIC);
    let location = format!("/api/v1/destinations/{encoded}");
    at(&location, show_destination(&asked, &loaded, &name, StatusCode::CREATED)?)
}

#[utoipa::path(
    patch, path = "/api/v1/destinations/{name}", tag = "settings", request_body = DestinationFields,
    params(("name" = String, Path), ("If-Match" = String, Header, description = "The ETag that was read, or *")),
    responses(
        (status = 200, description = "Changed", body = DestinationSettings),
        (status = 404, description = "Problem not-found"),
        (status = 409, description = "Problem conflict"),
        (status = 412, description = "Problem stale"),
        (status = 422, description = "Problem invalid"),
        (status = 428, description = "Problem precondition-required"),
    )
)]
pub async fn change_destination(asked: Asked) -> Answer {
    let name = asked.path("name").to_owned();
    let loaded = change(&asked, Object::Destination(name.clone()), merge(&asked)?).await?;
    show_destination(&asked, &loaded, &name, StatusCode::OK)
}

#[utoipa::path(
    delete, path = "/api/v1/destinations/{name}", tag = "settings",
    params(("name" = String, Path), ("If-Match" = String, Header, description = "The ETag that was read, or *")),
    responses(
        (status = 204, description = "Removed; what waited for it is given up"),
        (status = 404, description = "Problem not-found"),
        (status = 409, description = "Problem conflict"),
        (status = 412, description = "Problem stale"),
        (status = 428, description = "Problem precondition-required"),
    )
)]
pub async fn remove_destination(asked: Asked) -> Answer {
    remove(&asked, Object::Destination(asked.path("name").to_owned())).await
}

#[utoipa::path(
    post, path = "/api/v1/channels", tag = "channels", request_body = NewChannel,
    responses(
        (status = 201, description = "Added", body = ChannelView),
        (status = 409, description = "Problem taken or conflict"),
        (status = 422, description = "Problem invalid"),
    )
)]
pub async fn add_channel(asked: Asked) -> Answer {
    let (name, said) = named(&asked, "name")?;
    change(&asked, Object::Channel(name.clone()), Change::Add(said)).await?;
    at(&format!("/api/v1/channels/{name}"), channels::show(&asked, &name, StatusCode::CREATED)?)
}

#[utoipa::path(
    delete, path = "/api/v1/channels/{channel}", tag = "channels",
    params(("channel" = String, Path), ("If-Match" = String, Header, description = "The ETag that was read, or *")),
    responses(
        (status = 204, description = "Removed; who watches it is cut off"),
        (status = 404, description = "Problem not-found"),
        (status = 409, description = "Problem conflict"),
        (status = 412, description = "Problem stale"),
        (status = 428, description = "Problem precondition-required"),
    )
)]
pub async fn remove_channel(asked: Asked) -> Answer {
    let name = asked.path("channel").to_owned();
    if asked.tag_to_match().is_none() {
        return Err(Problem::precondition_required());
    }
    // A channel's tag counts what was on air, which every other change of it changes as well.
    let stale = |expected| asked.state.channels.get(&name).is_some_and(|on_air| on_air.revision != expected);
    if asked.if_match()?.is_some_and(stale) {
        return Err(Problem::stale());
    }
    change(&asked, Object::Channel(name), Change::Remove(Expected::Any)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn change(asked: &Asked, object: Object, change: Change) -> Result<Arc<Loaded>, Problem> {
    Ok(asked.state.settings.change(object, change, asked.by()).await?)
}

async fn remove(asked: &Asked, object: Object) -> Answer {
    change(asked, object, Change::Remove(expected(asked)?)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn merge(asked: &Asked) -> Result<Change, Problem> {
    Ok(Change::Merge(expected(asked)?, body(asked)?))
}

/// A change that is based on nothing would undo somebody else's.
fn expected(asked: &Asked) -> Result<Expected, Problem> {
    match asked.tag_to_match() {
        None => Err(Problem::precondition_required()),
        Some("*") => Ok(Expected::Any),
        Some(tags) => {
            Ok(Expected::Tags(tags.split(',').map(|tag| tag.trim().trim_matches('"').to_owned()).collect()))
        }
    }
}

fn body(asked: &Asked) -> Result<Map<String, serde_json::Value>, Problem> {
    asked.json()
}

/// A body that names what it adds.
fn named(asked: &Asked, key: &'static str) -> Result<(String, Map<String, serde_json::Value>), Problem> {
    let mut said = body(asked)?;
    match said.remove(key) {
        Some(serde_json::Value::String(name)) => Ok((name, said)),
        _ => Err(Problem::bad_request(format!("{key}: text was expected"))),
    }
}

fn at(location: &str, mut response: axum::response::Response) -> Answer {
    if let Ok(location) = location.parse() {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use utoipa::PartialSchema;
    use utoipa::openapi::{RefOr, Schema};

    use super::*;

    fn properties<S: PartialSchema>() -> Vec<String> {
        match S::schema() {
            RefOr::T(Schema::Object(object)) => object.properties.keys().cloned().collect(),
            _ => panic!("no object"),
        }
    }

    #[test]
    fn bodies_are_described_with_the_keys_of_the_configuration() {
        let sorted = |keys: &[&str]| {
            let mut keys: Vec<_> = keys.iter().map(|key| (*key).to_owned()).collect();
            keys.sort();
            keys
        };
        let described = |mut keys: Vec<String>| {
            keys.sort();
            keys
        };
        assert_eq!(described(properties::<CameraFields>()), sorted(&file::CAMERA));
        assert_eq!(described(properties::<DestinationFields>()), sorted(&file::DESTINATION));
        assert_eq!(described(properties::<ZoneFields>()), sorted(&crate::config::zone::ZONE));
    }
}
