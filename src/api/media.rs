//! Moving pictures over HTTP: HLS, single pictures, recordings, the clips of alerts.

use std::ops::Range;
use std::task::Poll;
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use super::door::{Answer, Asked};
use super::problem::Problem;
use crate::access::{Action, Denied, Standing};
use crate::media::cmaf::read::Head;
use crate::record::{Export, GapCause, MAX_EXPORT, Stretch};
use crate::relay::hls;
use crate::vision::{Picture, PictureError};

/// How far back `/list` reaches where the request says nothing: more than any ring holds.
const LIST_BACK: SignedDuration = SignedDuration::from_hours(24 * 400);
/// An export that has not given its first bytes by then will give none.
const EXPORT_PATIENCE: Duration = Duration::from_secs(20);
const PICTURE_PATIENCE: Duration = Duration::from_secs(15);

/// Single pictures in the making at once: they share the worker with the looks, and whoever may watch may ask.
static PICTURES: Semaphore = Semaphore::const_new(4);

#[utoipa::path(
    get, path = "/{camera}/{file}", tag = "live",
    params(("camera" = String, Path), ("file" = String, Path)),
    responses(
        (status = 200, description = "The playlist, an init segment or a segment", content(
            (String = "application/vnd.apple.mpegurl"), (String = "video/mp4"),
        )),
        (status = 404, description = "Problem not-found: no such stream or file, or no longer"),
    )
)]
pub async fn hls(asked: Asked) -> Answer {
    play(&asked, asked.path("camera")).await
}

#[utoipa::path(
    get, path = "/{camera}/sub/{file}", tag = "live",
    params(("camera" = String, Path), ("file" = String, Path)),
    responses(
        (status = 200, description = "The playlist, an init segment or a segment", content(
            (String = "application/vnd.apple.mpegurl"), (String = "video/mp4"),
        )),
        (status = 404, description = "Problem not-found: no such stream or file, or no longer"),
    )
)]
pub async fn hls_sub(asked: Asked) -> Answer {
    play(&asked, &format!("{}/sub", asked.path("camera"))).await
}

#[utoipa::path(
    get, path = "/channels/{channel}/{file}", tag = "live",
    params(("channel" = String, Path), ("file" = String, Path)),
    responses(
        (status = 200, description = "The playlist, an init segment or a segment", content(
            (String = "application/vnd.apple.mpegurl"), (String = "video/mp4"),
        )),
        (status = 404, description = "Problem not-found: no such stream or file, or no longer"),
    )
)]
pub async fn hls_channel(asked: Asked) -> Answer {
    play(&asked, &format!("channels/{}", asked.path("channel"))).await
}

async fn play(asked: &Asked, path: &str) -> Answer {
    let (stream, numbering) = asked.state.streams.numbered(path).ok_or_else(|| no_stream(path))?;
    let file = asked.path("file");
    // A channel may have gone to another camera since the door asked.
    if !asked.may(Action::Live, Some(&stream.camera)) {
        return Err(Denied::Forbidden.into());
    }
    asked.note_watching(&stream.camera, "HLS");
    asked.state.viewers.seen(path, asked.by());
    Ok(match hls::answer(&stream, numbering, file).await {
        hls::Answer::Playlist(text) => typed("application/vnd.apple.mpegurl", text),
        hls::Answer::Init(bytes) => typed("video/mp4", bytes),
        hls::Answer::Segment(slices) => {
            let length: usize = slices.iter().map(Bytes::len).sum();
            let slices = futures::stream::iter(slices.into_iter().map(Ok::<_, std::io::Error>));
            let mut response = typed("video/mp4", Body::from_stream(slices));
            response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
            response
        }
        hls::Answer::Gone => {
            return Err(Problem::not_found(format!("{path} has no {file}, or no longer")));
        }
        hls::Answer::NotYet(seconds) => {
            return Err(Problem::unavailable("the camera has sent nothing playable yet", seconds));
        }
    })
}

#[utoipa::path(
    get, path = "/{camera}/frame.jpeg", tag = "live",
    params(("camera" = String, Path), ("width" = Option<u32>, Query, minimum = 16, maximum = 8192)),
    responses(
        (status = 200, description = "The newest key picture", body = String, content_type = "image/jpeg"),
        (status = 404, description = "Problem not-found"),
        (status = 501, description = "Problem vision-off"),
    )
)]
pub async fn frame(asked: Asked) -> Answer {
    let path = asked.path("camera");
    let stream = asked.state.streams.get(path).ok_or_else(|| no_stream(path))?;
    let width = picture_width(&asked)?;
    asked.note_watching(&stream.camera, "single pictures");
    make_picture(asked.state.vision.picture(&stream, width)).await
}

pub(super) fn picture_width(asked: &Asked) -> Result<Option<u32>, Problem> {
    match asked.query("width").map(str::parse) {
        None => Ok(None),
        Some(Ok(width @ 16..=8192)) => Ok(Some(width)),
        Some(_) => Err(Problem::bad_request("width: 16 to 8192 pixels")),
    }
}

/// A picture that the worker makes, when it is its turn.
pub(super) async fn make_picture(picture: impl Future<Output = Result<Picture, PictureError>>) -> Answer {
    let making = async {
        let _place = PICTURES.acquire().await;
        picture.await
    };
    let picture = tokio::time::timeout(PICTURE_PATIENCE, making).await;
    let picture = picture.map_err(|_| Problem::unavailable("the picture was not made in time", 5))??;
    let mut response = typed("image/jpeg", picture.jpeg);
    if let Ok(capture) = HeaderValue::from_str(&picture.capture.to_string()) {
        response.headers_mut().insert("x-capture-time", capture);
    }
    Ok(response)
}

/// What `/list` answers with.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum Listed {
    Recorded {
        #[schema(value_type = String, format = DateTime)]
        start: Timestamp,
        /// Seconds.
        duration: f64,
        /// Gives just this.
        url: String,
    },
    Gap {
        #[schema(value_type = String, format = DateTime)]
        start: Timestamp,
        /// Seconds.
        duration: f64,
        /// Its cause.
        #[schema(value_type = String)]
        gap: GapCause,
    },
}

#[utoipa::path(
    get, path = "/list", tag = "recordings",
    params(
        ("path" = String, Query, description = "The camera's id"),
        ("start" = Option<String>, Query, description = "RFC 3339"),
        ("end" = Option<String>, Query, description = "RFC 3339"),
    ),
    responses((status = 200, description = "Recordings and gaps, oldest first", body = Vec<Listed>))
)]
pub async fn list(asked: Asked) -> Answer {
    let camera = asked_camera(&asked)?;
    let now = Timestamp::now();
    let start = asked.time("start")?.unwrap_or(now - LIST_BACK);
    let end = asked.time("end")?.unwrap_or(now + SignedDuration::from_secs(60));
    if end <= start {
        return Err(Problem::bad_request("end: not after start"));
    }
    let asked_for = camera.clone();
    let stretches = asked.ask(move |state| state.ring.archive().list(&asked_for, start..end)).await?;
    if stretches.is_empty() {
        is_known(&asked, &camera).await?;
    }
    let public = asked.state.settings.config().site.public_url.clone();
    let seconds = |start: Timestamp, end: Timestamp| end.duration_since(start).as_secs_f64();
    let told = stretches.into_iter().flat_map(pieces).map(|stretch| match stretch {
        Stretch::Recorded { start, end } => {
            let duration = seconds(start, end);
            let mut url = public.clone();
            url.set_path(&format!("{}/get", url.path().trim_end_matches('/')));
            url.query_pairs_mut()
                .append_pair("path", &camera)
                .append_pair("start", &start.to_string())
                .append_pair("duration", &duration.to_string());
            Listed::Recorded { start, duration, url: url.into() }
        }
        Stretch::Gap { start, end, cause } => {
            Listed::Gap { start, duration: seconds(start, end), gap: cause }
        }
    });
    Ok(axum::Json(told.collect::<Vec<_>>()).into_response())
}

/// A recording longer than one export gives is told in pieces, so that every item's address answers.
fn pieces(stretch: Stretch) -> Vec<Stretch> {
    let Stretch::Recorded { mut start, end } = stretch else { return vec![stretch] };
    let mut told = Vec::new();
    while start < end {
        let until = start.checked_add(MAX_EXPORT).map_or(end, |until| until.min(end));
        told.push(Stretch::Recorded { start, end: until });
        start = until;
    }
    told
}

#[utoipa::path(
    get, path = "/get", tag = "recordings",
    params(
        ("path" = String, Query, description = "The camera's id"),
        ("start" = String, Query, description = "RFC 3339"),
        ("duration" = f64, Query, description = "Seconds, at most three days"),
    ),
    responses(
        (
            status = 200, description = "One mp4. `x-capture-time` tells when its first picture was taken, `x-capture-end` \
                where it ends: before a change of codec, where recording ends, or as asked for",
            body = String, content_type = "video/mp4",
        ),
        (status = 404, description = "Problem not-found"),
    )
)]
pub async fn get(asked: Asked) -> Answer {
    let camera = asked_camera(&asked)?;
    let start = asked.time("start")?.ok_or_else(|| Problem::bad_request("start: is missing"))?;
    let duration = asked.query("duration").ok_or_else(|| Problem::bad_request("duration: is missing"))?;
    let seconds = duration.strip_suffix('s').unwrap_or(duration).parse::<f64>().ok();
    let Some(seconds) = seconds.filter(|seconds| *seconds > 0.0 && *seconds <= MAX_EXPORT.as_secs_f64())
    else {
        let most = MAX_EXPORT.as_secs();
        let detail = format!("duration: seconds were expected, more than 0 and at most {most}");
        return Err(Problem::bad_request(detail));
    };
    let end = start.checked_add(SignedDuration::from_secs_f64(seconds));
    let end = end.map_err(|_| Problem::bad_request("start: too far in the future"))?;
    is_known(&asked, &camera).await?;
    export(&asked, Action::Recordings, camera, start..end, None).await
}

#[utoipa::path(
    get, path = "/api/v1/alerts/{id}/clip.mp4", tag = "alerts", params(("id" = String, Path)),
    responses(
        (status = 200, description = "One mp4", body = String, content_type = "video/mp4"),
        (status = 404, description = "Problem not-found"),
    )
)]
pub async fn clip(asked: Asked) -> Answer {
    let alert = super::rest::the_alert(&asked, Action::Alerts).await?;
    let range = alert.evidence_start..alert.evidence_end;
    export(&asked, Action::Alerts, alert.camera.to_string(), range, Some(&alert.id)).await
}

/// A recording as a download, for as long as whoever asks may `action`; of an alert, where it is its evidence.
async fn export(
    asked: &Asked,
    action: Action,
    camera: String,
    range: Range<Timestamp>,
    alert: Option<&str>,
) -> Answer {
    let standing = asked.standing(action, Some(&camera)).ok_or(Denied::SignIn)?;
    let name = format!("{camera}_{}.mp4", range.start.strftime("%Y%m%dT%H%M%SZ"));
    let for_headers = asked.is_for_headers();
    if !for_headers {
        let of_alert = alert.map_or(String::new(), |alert| format!(", of alert {alert}"));
        asked.note_export(&camera, format!("{} to {}{of_alert}", range.start, range.end)).await?;
    }
    let Export { mut chunks, end } =
        asked.ask(move |state| state.ring.archive().export(&camera, range)).await?;
    // What fails at once is still an answer; later it can only be a cut.
    let first = match tokio::time::timeout(EXPORT_PATIENCE, chunks.recv()).await {
        Ok(Some(Ok(first))) => first,
        Ok(Some(Err(error))) => {
            tracing::error!("api: export: {error}");
            return Err(Problem::internal("the recording cannot be read; the box's log says why"));
        }
        Ok(None) => return Err(Problem::not_found("nothing is recorded in that range")),
        Err(_) => return Err(Problem::unavailable("the recording could not be read in time", 10)),
    };
    let begins = capture_time(&first);
    let rest = futures::stream::poll_fn(move |cx| chunks.poll_recv(cx).map_err(BoxError::from));
    let whole = futures::stream::iter([Ok(first)]).chain(rest);
    let mut response = download(&name, lasting(standing, whole));
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("none"));
    for (name, at) in [("x-capture-time", begins), ("x-capture-end", Some(end))] {
        if let Some(Ok(at)) = at.map(|at| HeaderValue::try_from(format!("{at:.3}"))) {
            headers.insert(name, at);
        }
    }
    Ok(response)
}

/// Of the first picture that an mp4 shows, as its head tells.
fn capture_time(head: &[u8]) -> Option<Timestamp> {
    Some(Head::parse(head)?.about.start)
}

/// A film that is cut where permission ends: by an error, since one that ends too early must not look whole.
pub(super) fn lasting(
    standing: Standing,
    chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> Body {
    let (mut revoked, mut chunks) = (Box::pin(standing.ended()), Box::pin(chunks));
    Body::from_stream(futures::stream::poll_fn(move |cx| {
        if revoked.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(BoxError::from(Denied::Forbidden))));
        }
        chunks.as_mut().poll_next(cx)
    }))
}

fn download(name: &str, body: Body) -> Response {
    let mut response = typed("video/mp4", body);
    // Ids and times hold nothing that would need escaping.
    if let Ok(disposition) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, disposition);
    }
    response
}

/// The camera of `?path=…`. One that is no longer configured may still have a past, so only the form is judged.
fn asked_camera(asked: &Asked) -> Result<String, Problem> {
    camera_id(asked.query("path").unwrap_or_default()).map(str::to_owned)
}

/// A slip of the pen is told apart from a camera of which nothing is recorded.
pub(super) async fn is_known(asked: &Asked, camera: &str) -> Result<(), Problem> {
    if asked.state.settings.config().cameras.contains_key(camera) {
        return Ok(());
    }
    let recorded = asked.ask(|state| Ok::<_, Problem>(state.ring.archive().cameras())).await?;
    if recorded.contains(camera) {
        return Ok(());
    }
    Err(Problem::not_found(format!("there is no camera {camera:?}, and no recording of one")))
}

/// The same of a camera that is named elsewhere.
pub(super) fn camera_id(camera: &str) -> Result<&str, Problem> {
    let well_formed = (1..=63).contains(&camera.len())
        && camera.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if !well_formed {
        return Err(Problem::bad_request("a camera's id was expected: a to z, 0 to 9 and -"));
    }
    Ok(camera)
}

fn no_stream(path: &str) -> Problem {
    Problem::not_found(format!("there is no camera at {path:?}; /api/v1/cameras lists them"))
}

pub(super) fn typed(content_type: &'static str, body: impl Into<Body>) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, content_type)], body.into()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_recordings_are_told_in_pieces_that_one_export_gives() {
        let start: Timestamp = "2026-05-01T08:00:00.25Z".parse().unwrap();
        let told = |seconds: i64| {
            let end = start + SignedDuration::from_secs(seconds);
            let lengths = pieces(Stretch::Recorded { start, end }).into_iter().map(|piece| match piece {
                Stretch::Recorded { start, end } => end.duration_since(start).as_secs(),
                Stretch::Gap { .. } => panic!("a recording is no gap"),
            });
            lengths.collect::<Vec<_>>()
        };
        let most = MAX_EXPORT.as_secs() as i64;
        assert_eq!(told(86_465), [86_465], "a day and its minute are one export");
        assert_eq!(told(most), [most]);
        assert_eq!(told(2 * most + 7), [most, most, 7]);
    }
}
