//! Playing what is recorded: HLS of any range, and the picture at any instant.

use std::ops::Range;

use axum::BoxError;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;

use super::door::{Answer, Asked};
use super::media::{camera_id, is_known, lasting, make_picture, picture_width, typed};
use super::problem::Problem;
use crate::access::{Action, Denied};
use crate::record::{MAX_EXPORT, SegmentReader};
use crate::relay::vod;
use crate::vision::wire::MAX_BLOB;

#[utoipa::path(
    get, path = "/playback/{camera}/index.m3u8", tag = "recordings", operation_id = "playback",
    params(
        ("camera" = String, Path),
        ("start" = String, Query, description = "RFC 3339"),
        ("end" = Option<String>, Query, description = "RFC 3339, at most three days after start; now"),
    ),
    responses(
        (
            status = 200, description = "HLS of what is recorded, up to now",
            body = String, content_type = "application/vnd.apple.mpegurl",
        ),
        (status = 404, description = "Problem not-found: nothing is recorded in that range"),
    )
)]
pub async fn playlist(asked: Asked) -> Answer {
    let camera = camera_id(asked.path("camera"))?.to_owned();
    let start = asked.time("start")?.ok_or_else(|| Problem::bad_request("start: is missing"))?;
    let end = match asked.time("end")? {
        Some(end) if end <= start => return Err(Problem::bad_request("end: not after start")),
        Some(end) => end,
        None => {
            let now = Timestamp::now();
            let end = start.checked_add(MAX_EXPORT).map_or(now, |end| end.min(now));
            if end <= start {
                return Err(Problem::not_found(format!("nothing is recorded of {camera} yet at {start}")));
            }
            end
        }
    };
    is_known(&asked, &camera).await?;
    asked.note_watching(&camera, &format!("recordings from {start:.0} to {end:.0}"));
    let text = asked
        .ask(move |state| {
            let pieces = state.ring.archive().film(&camera, start..end)?;
            Ok::<_, crate::record::RecordError>(vod::playlist(&pieces, start))
        })
        .await?;
    Ok(typed("application/vnd.apple.mpegurl", text))
}

#[utoipa::path(
    get, path = "/playback/{camera}/{file}", tag = "recordings", operation_id = "recorded_file",
    params(
        ("camera" = String, Path),
        ("file" = String, Path, description = "As a playlist names it"),
        ("zero" = i64, Query, description = "As a playlist says it"),
    ),
    responses(
        (status = 200, description = "A recorded file", body = String, content_type = "video/mp4"),
        (status = 206, description = "The range of it that `Range` asks for", body = String, content_type = "video/mp4"),
        (status = 404, description = "Problem not-found: there is none, or no longer"),
        (status = 416, description = "Problem range: the file has no such bytes; `Content-Range` says how many it has"),
    )
)]
pub async fn file(asked: Asked) -> Answer {
    let camera = camera_id(asked.path("camera"))?.to_owned();
    let name = asked.path("file");
    let nothing = || Problem::not_found(format!("{camera} has no recorded file {name:?}"));
    let start_90k: i64 = name.strip_suffix(".mp4").and_then(|name| name.parse().ok()).ok_or_else(nothing)?;
    let zero = || Problem::bad_request("zero: what a playlist says was expected");
    let zero_90k: i64 = asked.query("zero").and_then(|zero| zero.parse().ok()).ok_or_else(zero)?;
    let standing = asked.standing(Action::Recordings, Some(&camera)).ok_or(Denied::SignIn)?;
    asked.note_watching(&camera, "recordings by HLS");
    let mut reader =
        asked.ask(move |state| state.ring.archive().segment(&camera, start_90k, zero_90k)).await?;
    let length = reader.length();
    let asked_for =
        asked.headers.get(header::RANGE).filter(|_| !asked.headers.contains_key(header::IF_RANGE));
    let (status, range) = match asked_for.map(|range| wanted(range, length)) {
        None | Some(Wanted::Everything) => (StatusCode::OK, 0..length),
        Some(Wanted::Range(range)) => (StatusCode::PARTIAL_CONTENT, range),
        Some(Wanted::Nothing) => {
            let mut response = Problem::range(length).into_response();
            response.headers_mut().insert(header::CONTENT_RANGE, text(format!("bytes */{length}"))?);
            return Ok(response);
        }
    };
    reader.seek(range.clone());
    let body = if asked.is_for_headers() { Body::empty() } else { lasting(standing, chunks(reader)) };
    let mut response = typed("video/mp4", body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, (range.end - range.start).into());
    if status == StatusCode::PARTIAL_CONTENT {
        let last = range.end.saturating_sub(1);
        headers.insert(header::CONTENT_RANGE, text(format!("bytes {}-{last}/{length}", range.start))?);
    }
    Ok(response)
}

fn text(value: String) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(&value).map_err(|_| Problem::internal("a header cannot be written"))
}

/// Read piece by piece as it is sent, so that a slow player holds no thread.
fn chunks(reader: SegmentReader) -> impl futures::Stream<Item = Result<axum::body::Bytes, BoxError>> + Send {
    futures::stream::try_unfold(reader, |mut reader| async move {
        let read = move || reader.read().map(|chunk| chunk.map(|chunk| (chunk, reader)));
        let read = tokio::task::spawn_blocking(read).await.map_err(BoxError::from)?;
        read.inspect_err(|error| tracing::error!("api: a recorded file: {error}")).map_err(BoxError::from)
    })
}

/// What of a file is asked for.
#[derive(Debug, PartialEq)]
enum Wanted {
    Everything,
    Range(Range<u64>),
    /// Bytes that there are not.
    Nothing,
}

/// One range of bytes (RFC 9110, 14.2). Other units do not count, and of several ranges none: the file answers both.
fn wanted(range: &HeaderValue, length: u64) -> Wanted {
    let Some(range) = range.to_str().ok().and_then(|range| range.trim().strip_prefix("bytes=")) else {
        return Wanted::Everything;
    };
    if range.contains(',') {
        return Wanted::Everything;
    }
    let Some((first, last)) = range.trim().split_once('-') else { return Wanted::Nothing };
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(length),
        (Ok(first), Err(_)) if last.is_empty() => first..length,
        (Err(_), Ok(last)) if first.is_empty() => length.saturating_sub(last)..length,
        _ => return Wanted::Nothing,
    };
    if range.is_empty() { Wanted::Nothing } else { Wanted::Range(range) }
}

#[utoipa::path(
    get, path = "/playback/{camera}/frame.jpeg", tag = "recordings", operation_id = "recorded_frame",
    params(
        ("camera" = String, Path),
        ("at" = String, Query, description = "RFC 3339"),
        ("width" = Option<u32>, Query, minimum = 16, maximum = 8192),
    ),
    responses(
        (
            status = 200, description = "The picture that was on screen at that instant; `x-capture-time` tells its own",
            body = String, content_type = "image/jpeg",
        ),
        (status = 404, description = "Problem not-found: nothing is recorded there; `nearest` says why, and where is"),
        (status = 409, description = "Problem far-key-picture: too many pictures would have to be decoded"),
        (status = 501, description = "Problem vision-off"),
    )
)]
pub async fn frame(asked: Asked) -> Answer {
    let camera = camera_id(asked.path("camera"))?.to_owned();
    let at = asked.time("at")?.ok_or_else(|| Problem::bad_request("at: is missing"))?;
    let width = picture_width(&asked)?;
    is_known(&asked, &camera).await?;
    asked.note_watching(&camera, "recorded pictures");
    let found = camera.clone();
    let units = asked.ask(move |state| state.ring.archive().picture(&found, at, MAX_BLOB)).await?;
    let picture: Response = make_picture(asked.state.vision.recorded_picture(&camera, units, width)).await?;
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_means_them() {
        let of = |range| wanted(&HeaderValue::from_static(range), 1000);
        assert_eq!(of("bytes=0-0"), Wanted::Range(0..1));
        assert_eq!(of("bytes=10-19"), Wanted::Range(10..20));
        assert_eq!(of("bytes=990-5000"), Wanted::Range(990..1000));
        assert_eq!(of("bytes=990-"), Wanted::Range(990..1000));
        assert_eq!(of("bytes=-10"), Wanted::Range(990..1000));
        assert_eq!(of("bytes=-5000"), Wanted::Range(0..1000));
        for everything in ["bytes=0-1,5-6", "items=1-2"] {
            assert_eq!(of(everything), Wanted::Everything, "{everything}");
        }
        for nothing in
            ["bytes=1000-", "bytes=20-10", "bytes=-0", "bytes=-", "bytes=a-b", "bytes=7", "bytes=+1-2x"]
        {
            assert_eq!(of(nothing), Wanted::Nothing, "{nothing}");
        }
        let all = "bytes=0-18446744073709551615";
        assert_eq!(wanted(&HeaderValue::from_static(all), u64::MAX), Wanted::Range(0..u64::MAX));
    }
}
