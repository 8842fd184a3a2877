//! A camera that is tried before it is configured: what its streams are, or why they do not come.
//!
//! What does not belong here: the session itself ([`super::source`]), and who may ask.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::source::{Session, SessionError, Target};
use crate::config;
use crate::media::{AccessUnit, AudioCodec, Sample, VIDEO_CLOCK, VideoCodec};

/// Pictures are looked at so long, or until [`GROUPS`] groups of pictures were whole. Most cameras send a key picture
/// every one to four seconds, and a sender report every five.
const WATCHED: Duration = Duration::from_secs(6);
const GROUPS: usize = 2;

/// What came of a try.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub struct Trial {
    pub main: Outcome,
    /// Null where there is no sub stream to try, or where another wrong password might lock the box out.
    pub sub: Option<Outcome>,
}

/// Of one stream.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Outcome {
    /// It plays.
    Works(Found),
    /// It does not play.
    Fails { why: String },
}

#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub struct Found {
    codec: VideoCodec,
    /// RFC 6381.
    codecs: String,
    width: u32,
    height: u32,
    /// Pictures a second; null where fewer than two came.
    fps: Option<f64>,
    /// From one key picture to the next, the longest that was seen; null where no second one came within 6 s.
    gop_pictures: Option<u64>,
    gop_seconds: Option<f64>,
    /// Of the pictures, in bits a second.
    bit_rate: Option<u64>,
    /// Seconds that the camera's clock is ahead of the box's; null where the camera did not say what its clock shows.
    clock_error_seconds: Option<f64>,
    /// `aac`, `pcma` or `pcmu`; null where there is none that can be recorded.
    audio: Option<&'static str>,
}

/// Tries both streams. No other camera notices.
pub async fn run(camera: &config::Camera) -> Trial {
    let main = Session::open(&Target::of(camera, &camera.url), 0, 0).await;
    let sub = camera.sub_url.as_ref().filter(|_| !main.as_ref().is_err_and(SessionError::is_password));
    let sub = async {
        let session = Session::open(&Target::of(camera, sub?), 0, 0).await;
        Some(outcome(session).await)
    };
    let (main, sub) = tokio::join!(outcome(main), sub);
    Trial { main, sub }
}

async fn outcome(session: Result<Session, SessionError>) -> Outcome {
    let looked = match session {
        Ok(session) => look(session).await,
        Err(error) => Err(error),
    };
    match looked {
        Ok(found) => Outcome::Works(found),
        Err(error) => Outcome::Fails { why: error.to_string() },
    }
}

/// Watches a session for a while.
async fn look(mut session: Session) -> Result<Found, SessionError> {
    let mut seen = Seen::default();
    let mut until = Instant::now() + WATCHED;
    loop {
        match timeout(until.saturating_duration_since(Instant::now()), session.next()).await {
            Ok(Ok(Sample::Video(unit))) => {
                if seen.first.is_none() {
                    // Before it, the camera may have sent what no decoder could begin with.
                    until = Instant::now() + WATCHED;
                }
                seen.picture(&unit);
            }
            Ok(Ok(Sample::Audio(_))) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => break,
        }
        if seen.groups > GROUPS && session.clock_error().is_some() {
            break;
        }
    }
    let audio = session.audio().map(|audio| match audio.codec {
        AudioCodec::Aac { .. } => "aac",
        AudioCodec::Pcma => "pcma",
        AudioCodec::Pcmu => "pcmu",
    });
    seen.found(session.clock_error(), audio).ok_or_else(|| session.without_key_picture(WATCHED))
}

#[derive(Default)]
struct Seen {
    first: Option<AccessUnit>,
    last_dts_90k: i64,
    pictures: u64,
    bytes: u64,
    /// Key pictures.
    groups: usize,
    /// Where the newest group began: its picture's number and time.
    group: (u64, i64),
    longest_group: Option<(u64, i64)>,
}

impl Seen {
    fn picture(&mut self, unit: &AccessUnit) {
        if unit.is_rap {
            let (pictures, since) = (self.pictures - self.group.0, unit.pts_90k - self.group.1);
            if self.groups > 0 {
                self.longest_group = self.longest_group.max(Some((pictures, since)));
            }
            self.group = (self.pictures, unit.pts_90k);
            self.groups += 1;
        }
        self.first.get_or_insert_with(|| unit.clone());
        self.last_dts_90k = unit.dts_90k;
        self.pictures += 1;
        self.bytes += unit.data.len() as u64;
    }

    fn found(self, clock_error_seconds: Option<f64>, audio: Option<&'static str>) -> Option<Found> {
        let first = self.first?;
        let seconds = |ticks: i64| ticks as f64 / VIDEO_CLOCK as f64;
        // Of `n` pictures, the spans between them are `n - 1`.
        let spans = (self.pictures - 1) as f64;
        let watched = Some(seconds(self.last_dts_90k - first.dts_90k)).filter(|watched| *watched > 0.0);
        let whole = self.bytes as f64 * spans / self.pictures as f64;
        let params = &first.params;
        Some(Found {
            codec: params.codec,
            codecs: params.rfc6381.clone(),
            width: params.width,
            height: params.height,
            fps: watched.map(|watched| (spans / watched * 100.0).round() / 100.0),
            gop_pictures: self.longest_group.map(|(pictures, _)| pictures),
            gop_seconds: self.longest_group.map(|(_, ticks)| (seconds(ticks) * 1000.0).round() / 1000.0),
            bit_rate: watched.map(|watched| (whole * 8.0 / watched) as u64),
            clock_error_seconds: clock_error_seconds.map(|error| (error * 1000.0).round() / 1000.0),
            audio,
        })
    }
}
