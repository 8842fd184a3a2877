//! Channels: what is on air, and putting something else on air.

use axum::Json;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::door::{Answer, Asked, tagged};
use super::problem::Problem;
use super::rest::filter;
use crate::access::{Action, Denied};
use crate::config::Id;
use crate::relay::channels::{OnAir, SwitchError};
use crate::store::Page;

/// A channel and the camera that is on air on it.
#[derive(Serialize, ToSchema)]
#[schema(as = Channel)]
pub struct ChannelView {
    #[schema(value_type = String)]
    name: Id,
    #[schema(value_type = String)]
    camera: Id,
    /// Counts changes; also the ETag.
    revision: u64,
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Who has put it on air; null where that was the configuration. For who may switch channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    by: Option<Option<String>>,
    addresses: ChannelAddresses,
}

#[derive(Serialize, ToSchema)]
pub struct ChannelAddresses {
    rtsp: String,
    /// Null where RTSPS is not served.
    rtsps: Option<String>,
    hls: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChannelSwitch)]
pub struct Switch {
    /// The camera to put on air.
    camera: String,
}

#[utoipa::path(
    get, path = "/api/v1/channels", tag = "channels",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next` of an earlier page"),
    ),
    responses((
        status = 200, description = "The channels whose camera on air one may watch, by name", body = Page<ChannelView>,
    ))
)]
pub async fn channels(asked: Asked) -> Answer {
    let all = asked.state.channels.all();
    let seen = all.into_iter().filter(|(_, on_air)| asked.may(Action::Live, Some(&on_air.camera)));
    let items = seen.map(|(name, on_air)| (name.to_string(), describe(&asked, name, &on_air)));
    Ok(Json(Page::by_id(items, &filter(&asked)?)?).into_response())
}

#[utoipa::path(
    get, path = "/api/v1/channels/{channel}", tag = "channels", params(("channel" = String, Path)),
    responses(
        (status = 200, description = "The channel; the ETag is for If-Match", body = ChannelView),
        (status = 404, description = "Problem not-found"),
    )
)]
pub async fn channel(asked: Asked) -> Answer {
    show(&asked, asked.path("channel"), StatusCode::OK)
}

/// What is on air there now.
pub(super) fn show(asked: &Asked, name: &str, status: StatusCode) -> Answer {
    let on_air = asked.state.channels.get(name).ok_or_else(no_channel)?;
    // It may have been switched since the door asked.
    if !asked.may(Action::Live, Some(&on_air.camera)) {
        return Err(Denied::Forbidden.into());
    }
    Ok(tagged(on_air.revision, (status, Json(describe(asked, name.into(), &on_air)))))
}

#[utoipa::path(
    put, path = "/api/v1/channels/{channel}", tag = "channels", request_body = Switch,
    params(("channel" = String, Path), ("If-Match" = Option<String>, Header, description = "The ETag that was read")),
    responses(
        (status = 200, description = "On air; who plays the channel by RTSP is cut and connects again", body = ChannelView),
        (status = 403, description = "Problem forbidden: both cameras must be yours to put on air and take off"),
        (status = 404, description = "Problem not-found"),
        (status = 412, description = "Problem stale: somebody else was faster"),
        (status = 422, description = "Problem unknown-camera"),
    )
)]
pub async fn switch(asked: Asked) -> Answer {
    let Switch { camera } = asked.json()?;
    let expected = asked.if_match()?;
    if !asked.may(Action::Channels, Some(&camera)) {
        return Err(Denied::Forbidden.into());
    }
    let (name, by, person) = (asked.path("channel").to_owned(), asked.by(), asked.person.clone());
    let on_air = asked
        .ask(move |state| {
            let may = |on_air: &str| person.is_some_and(|person| person.may(Action::Channels, Some(on_air)));
            state.channels.switch(&name, &camera, expected, &by, may)
        })
        .await?;
    Ok(tagged(on_air.revision, Json(describe(&asked, asked.path("channel").into(), &on_air))))
}

fn describe(asked: &Asked, name: Id, on_air: &OnAir) -> ChannelView {
    let config = asked.state.settings.config();
    let path = format!("channels/{name}");
    let address = |scheme, listen| super::rest::rtsp_address(&config, scheme, listen, &path);
    let addresses = ChannelAddresses {
        rtsp: address("rtsp", config.rtsp.listen),
        rtsps: config.rtsp.rtsps_listen.map(|at| address("rtsps", at)),
        hls: format!("/{path}/index.m3u8"),
    };
    let switches = asked.may(Action::Channels, Some(&on_air.camera));
    ChannelView {
        name,
        camera: on_air.camera.clone(),
        revision: on_air.revision,
        since: on_air.since,
        by: switches.then(|| on_air.who.clone()),
        addresses,
    }
}

fn no_channel() -> Problem {
    Problem::not_found("there is no such channel; /api/v1/channels lists them")
}

impl From<SwitchError> for Problem {
    fn from(error: SwitchError) -> Problem {
        match error {
            SwitchError::Store(error) => error.into(),
            SwitchError::Missing => no_channel(),
            SwitchError::UnknownCamera(_) => {
                Problem::unknown_camera(format!("{error}; /api/v1/cameras lists them"))
            }
            SwitchError::Stale => Problem::stale(),
            SwitchError::Forbidden => Denied::Forbidden.into(),
        }
    }
}
