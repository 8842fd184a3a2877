//! Live events over HTTP, in the event stream format (Server-Sent Events).

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue};
use tokio::time::Instant;

use super::door::{Answer, Asked};
use super::media::typed;
use super::problem::Problem;
use crate::access::{Action, Denied, Standing};
use crate::events::{Follower, TooMany};
use crate::net::connections::place_of;

/// A connection that says nothing for longer is taken for dead by much that lies between.
const ALIVE_EVERY: Duration = Duration::from_secs(15);

/// Permission is asked about, and life shown, so often at most.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What a browser waits before it comes back.
const RETRY: &str = "retry: 2000\n";

const LAST_EVENT_ID: &str = "last-event-id";

#[utoipa::path(
    get, path = "/api/v1/events", tag = "events",
    params(
        ("Last-Event-ID" = Option<String>, Header, description = "Goes on after this event"),
        ("last_event_id" = Option<String>, Query, description = "The same, for who cannot send the header"),
    ),
    responses(
        (
            status = 200, body = String, content_type = "text/event-stream",
            description = "Server-Sent Events, of what one may know. `alert`: Alert, each revision. `camera`: \
                           CameraEvent. `channel`: ChannelEvent. `health`: HealthEvent. `reset`: ResetEvent, what \
                           must be fetched again since it is not known what was missed",
        ),
        (status = 429, description = "Problem too-many-streams or too-many-connections"),
    )
)]
pub async fn events(asked: Asked) -> Answer {
    let action = if asked.may(Action::Live, None) { Action::Live } else { Action::Alerts };
    let standing = asked.standing(action, None).ok_or(Denied::SignIn)?;
    let header = asked.headers.get(LAST_EVENT_ID).map(|id| id.to_str().unwrap_or("no text"));
    let after = header.or(asked.query("last_event_id")).filter(|id| !id.is_empty());
    let known = asked.person.as_ref().filter(|person| !person.is_anonymous());
    let who = match known {
        Some(person) => person.name.clone(),
        None => place_of(asked.peer.address.ip()).to_string(),
    };
    let follower = asked.state.events.follow(&who, after)?;
    let now = Instant::now();
    let stream = EventStream { follower, standing, greeted: false, look_at: now + LOOK_EVERY, said_at: now };
    let frames = futures::stream::unfold(stream, |mut stream| async move {
        stream.next().await.map(|frame| (Ok::<_, Infallible>(frame), stream))
    });
    let mut response = typed("text/event-stream", Body::from_stream(frames));
    // A proxy that gathers before it passes on would make events late.
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response.headers_mut().extend([unbuffered]);
    Ok(response)
}

/// One client's answer, for as long as it lasts.
struct EventStream {
    follower: Follower,
    standing: Standing,
    greeted: bool,
    look_at: Instant,
    said_at: Instant,
}

impl EventStream {
    /// What is sent next; `None` at the end: the box stops, or the permission has ended.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.greeted {
            self.greeted = true;
            return Some([RETRY.as_bytes(), &self.follower.heartbeat()].concat().into());
        }
        loop {
            let event = tokio::select! {
                event = self.follower.next() => Some(event?),
                () = tokio::time::sleep_until(self.look_at) => None,
            };
            if !self.standing.holds().await {
                return None;
            }
            let now = Instant::now();
            let frame = match event {
                Some(event) => event.told_to(self.standing.person()),
                None => {
                    self.look_at = now + LOOK_EVERY;
                    (now - self.said_at >= ALIVE_EVERY).then(|| self.follower.heartbeat())
                }
            };
            if frame.is_some() {
                self.said_at = now;
                return frame;
            }
        }
    }
}

impl From<TooMany> for Problem {
    fn from(too_many: TooMany) -> Problem {
        match too_many {
            TooMany::OfOne => Problem::too_many_streams(),
            TooMany::InAll => Problem::unavailable("too many clients follow live events", 10),
        }
    }
}
