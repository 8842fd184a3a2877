//! What each request does (RFC 2326 section 10).

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::timeout;

use super::connection::{Connection, SESSION_TIMEOUT};
use super::limits::Full;
use super::playback::{Player, Refused};
use super::range::{self, Asked, Bad, Unit};
use super::request::{Request, Response, TRACK, Target};
use super::sdp;
use super::session::{Event, Route, Session, Source, Track};
use super::transport::{self, Unfit, Wish};
use crate::access::{Action, By, Denied, Person};
use crate::live::LiveStream;
use crate::media::{Sample, time};
use crate::record::RecordError;

/// How long DESCRIBE waits for a camera that has just started.
const PARAMS_TIMEOUT: Duration = Duration::from_secs(5);

/// Where recordings are: the camera's id follows.
const PLAYBACK: &str = "playback/";

impl Connection {
    /// Whoever sent the request. Who has not signed in learns nothing about which paths exist.
    async fn person(&mut self, request: &Request, path: &str) -> Result<Person, Response> {
        let shown = request.header("Authorization");
        let meant = |uri: &str| Target::of(uri).path == path;
        let access = self.shared.access.clone();
        let client = self.peer.client;
        let person = access.player(&mut self.challenge, shown, client, &request.method, meant).await;
        person.map_err(|denied| self.deny(denied))
    }

    /// The live stream at the path, if that person may watch it. Who may not cannot tell it from one that is not there.
    fn live(&mut self, person: &Person, path: &str) -> Result<Arc<LiveStream>, Response> {
        let stream = self.shared.streams.get(path);
        let stream =
            stream.filter(|stream| person.may(Action::Live, Some(&stream.camera)) && !stream.is_closed());
        let stream =
            stream.ok_or_else(|| Response::new(404).saying("no such stream, or you may not watch it"))?;
        self.allow(person);
        Ok(stream)
    }

    /// Whether that person may play a camera's recordings.
    fn may_play(&mut self, person: &Person, camera: &str) -> Result<(), Response> {
        if person.may(Action::Recordings, Some(camera)) {
            self.allow(person);
            return Ok(());
        }
        // Players show what they can sign in with when they are asked to, and not before.
        Err(match person.is_anonymous() {
            true => self.deny(Denied::SignIn),
            false => Response::new(404).saying("no such recordings, or you may not watch them"),
        })
    }

    fn allow(&mut self, person: &Person) {
        self.allowed = true;
        if !person.is_anonymous() {
            self.socket.place().is_known();
        }
    }

    fn deny(&mut self, denied: Denied) -> Response {
        match denied {
            Denied::Forbidden => Response::new(403).saying(&denied.to_string()),
            Denied::TooMany => {
                self.denials += 1;
                Response::new(429).with("Retry-After", "1").saying(&denied.to_string())
            }
            Denied::CannotTell => Response::new(503).with("Retry-After", "5").saying(&denied.to_string()),
            Denied::SignIn | Denied::Unknown | Denied::Stale => {
                if denied == Denied::Unknown {
                    self.denials += 1;
                }
                let response = Response::new(401).saying("sign-in is needed: a stream key or a token");
                let challenges = self.challenge.headers().into_iter();
                challenges.fold(response, |response, challenge| response.with("WWW-Authenticate", challenge))
            }
        }
    }

    /// The recording that the request's address names.
    async fn recording(&self, target: &Target, camera: &str) -> Result<Player, Response> {
        let Some(archive) = self.shared.archive.clone() else {
            return Err(Response::new(404).saying("nothing is recorded here"));
        };
        let whole = described(target)?;
        Player::open(archive, camera.to_owned(), whole).await.map_err(refused)
    }

    pub(super) async fn describe(&mut self, request: &Request) -> Result<Response, Response> {
        let target = Target::of(&request.uri);
        let person = self.person(request, &target.path).await?;
        let session = rand::random::<u32>().into();
        let sdp = if let Some(camera) = target.path.strip_prefix(PLAYBACK) {
            self.may_play(&person, camera)?;
            let player = self.recording(&target, camera).await?;
            // GStreamer reads the first alone, and takes a clock's time of day for seconds.
            let ranges = [Unit::Npt, Unit::Clock].map(|unit| player.whole(unit));
            sdp::describe(&target.path, session, player.params(), &ranges)
        } else {
            let stream = self.live(&person, &target.path)?;
            let Ok(params) = timeout(PARAMS_TIMEOUT, stream.wait_params()).await else {
                let why = "the camera has sent no picture yet: see its state in /healthz, and try again";
                return Err(Response::new(503).with("Retry-After", "5").saying(why));
            };
            sdp::describe(&target.path, session, &params, &[])
        };
        Ok(Response::new(200).with("Content-Base", target.base).body("application/sdp", sdp))
    }

    pub(super) async fn set_up(&mut self, request: &Request) -> Result<Response, Response> {
        let target = Target::of(&request.uri);
        let person = self.person(request, &target.path).await?;
        let camera = target.path.strip_prefix(PLAYBACK);
        let stream = match camera {
            Some(camera) => {
                self.may_play(&person, camera)?;
                None
            }
            None => Some(self.live(&person, &target.path)?),
        };
        if let Some(session) = &self.session {
            if request.header("Session").is_some_and(|id| session_id(id) != session.id) {
                return Err(Response::new(454));
            }
            if session.path != target.path {
                return Err(Response::new(459));
            }
            if session.is_playing() {
                return Err(Response::new(455));
            }
        } else {
            // Before the disk is asked for anything.
            let playback = camera.map(|_| &*person.name);
            let seat = self.shared.limits.take(&target.path, self.peer.client, playback).map_err(full)?;
            let source = match (camera, stream) {
                (Some(camera), _) => Source::Recorded(Box::new(self.recording(&target, camera).await?)),
                (None, Some(stream)) => Source::Live { stream, cursor: None },
                (None, None) => return Err(Response::new(404)),
            };
            let params = match &source {
                Source::Live { stream, .. } => stream.params(),
                Source::Recorded(player) => Some(player.params().clone()),
            };
            let Some(params) = params else { return Err(Response::new(503).with("Retry-After", "5")) };
            self.session = Some(Session::new(target.path, target.base, source, params, seat));
        }
        let track = self.set_up_track(request, target.track.unwrap_or(sdp::VIDEO));
        // A session without a track plays nothing.
        self.session = self.session.take().filter(|session| session.tracks.iter().any(Option::is_some));
        Ok(self.in_session(Response::new(200).with("Transport", track?)))
    }

    /// The `Transport` that the track gets.
    fn set_up_track(&mut self, request: &Request, index: usize) -> Result<String, Response> {
        let Some(session) = &mut self.session else { return Err(Response::new(454)) };
        if index > sdp::AUDIO || (index == sdp::AUDIO && session.params.audio.is_none()) {
            return Err(Response::new(404).saying("no such track"));
        }
        session.release(index);
        let mut why = Unfit::Unknown.to_string();
        let header = request.header("Transport").unwrap_or_default();
        let route = transport::wishes(header, self.peer.client).find_map(|wish| {
            let served = match wish {
                Ok(Wish::Interleaved(channels)) => Ok(session.channels(index, channels)),
                Ok(Wish::Udp { rtp, rtcp }) => match &self.shared.udp {
                    _ if self.peer.is_encrypted => Err(ENCRYPTED.to_owned()),
                    None => Err(NO_UDP.to_owned()),
                    Some(pair) => pair
                        .destination(self.peer.client, self.peer.local, (rtp, rtcp))
                        .map(Route::Udp)
                        .map_err(|unreachable| unreachable.to_string()),
                },
                Err(unfit) => Err(unfit.to_string()),
            };
            served.map_err(|said| why = said).ok()
        });
        let track = Track::new(route.ok_or_else(|| Response::new(461).saying(&why))?);
        let transport = track.transport(session.source.ssrcs()[index]);
        session.tracks[index] = Some(track);
        Ok(transport)
    }

    pub(super) async fn play(&mut self, request: &Request) -> Result<Response, Response> {
        // Whoever may no longer watch must not begin to.
        let session = self.own_session(request)?;
        let path = session.path.clone();
        let recorded = match &session.source {
            Source::Recorded(player) => Some(player.camera().to_owned()),
            Source::Live { .. } => None,
        };
        let person = self.person(request, &path).await?;
        let (response, action, camera) = match recorded {
            Some(camera) => {
                self.may_play(&person, &camera)?;
                (self.play_recording(request).await?, Action::Recordings, camera)
            }
            None => {
                let stream = self.live(&person, &path)?;
                (self.play_live(request, &stream)?, Action::Live, stream.camera.to_string())
            }
        };
        // A player keeps its place, signed in or not: how many play is limited by itself.
        self.socket.place().is_known();
        let (health, access) = (self.shared.health.clone(), self.shared.access.clone());
        if let Some(session) = self.session.as_mut().filter(|session| !session.is_playing()) {
            if let Some(audit) = access.audit() {
                let by = By { name: person.name.clone(), address: Some(self.peer.client) };
                let what = if action == Action::Live { "RTSP" } else { "recordings by RTSP" };
                audit.watch(&by, &format!("camera/{camera}"), what);
            }
            session.start(access.standing(person, action, Some(&camera)), &health);
        }
        Ok(self.in_session(response))
    }

    fn play_live(&mut self, request: &Request, stream: &Arc<LiveStream>) -> Result<Response, Response> {
        let mut response = Response::new(200);
        if request.header("Scale").is_some() {
            response = response.with("Scale", "1");
        }
        let Some(session) = &mut self.session else { return Err(Response::new(454)) };
        let Source::Live { stream: described, cursor } = &mut session.source else {
            return Err(Response::new(454));
        };
        if !Arc::ptr_eq(described, stream) {
            // The path leads elsewhere by now: what was described is not there.
            self.session = None;
            return Err(Response::new(454));
        }
        if cursor.is_some() {
            return Ok(response);
        }
        *cursor = Some(stream.cursor());
        // What the ring holds is there at once, and tells the player where sequence and time begin.
        let first = session.first();
        if let Some(Event::Sample(Sample::Video(unit), packets)) = &first
            && let Some(packet) = packets.packets.first()
        {
            let audio = session.params.audio.as_ref();
            let sound = audio.map(|audio| (None, stream.audio_rtp_time(unit.pts_90k, audio)));
            let picture = Some((Some(packet.sequence()), packets.rtp_time));
            response = response.with("RTP-Info", info(session, [picture, sound]));
        }
        self.first = first;
        Ok(response)
    }

    async fn play_recording(&mut self, request: &Request) -> Result<Response, Response> {
        let asked =
            request.header("Range").map(Asked::parse).transpose().map_err(|bad| refused(bad.into()))?;
        let scale = match request.header("Scale") {
            Some(header) => range::scale(header).ok_or_else(|| {
                Response::new(456).saying("Scale: recordings are played forwards, at 1, 2, 4, 8 or 16")
            })?,
            None => 1,
        };
        let Some(session) = &mut self.session else { return Err(Response::new(454)) };
        let Source::Recorded(player) = &mut session.source else { return Err(Response::new(454)) };
        let begun = player.play(asked, scale).await.map_err(|why| match why {
            Refused::Record(RecordError::Nothing { .. }) => {
                Response::new(457).saying("nothing is recorded there")
            }
            why => refused(why),
        })?;
        let unit = asked.map_or(Unit::default(), |asked| asked.unit);
        let mut response = Response::new(200).with("Range", player.range(unit, &begun));
        if request.header("Scale").is_some() {
            response = response.with("Scale", scale.to_string());
        }
        let has_sound = scale == 1;
        let [picture, sound] =
            std::array::from_fn(|index| Some((Some(begun.sequences[index]), begun.rtp_times[index])));
        let info = info(session, [picture, sound.filter(|_| has_sound)]);
        Ok(response.with("RTP-Info", info))
    }

    /// A live stream goes on without its reader, and the next PLAY begins at what is newest then; a recording waits.
    pub(super) fn pause(&mut self, request: &Request) -> Result<Response, Response> {
        self.own_session(request)?.pause();
        Ok(self.in_session(Response::new(200)))
    }

    pub(super) fn tear_down(&mut self, request: &Request) -> Result<Response, Response> {
        self.own_session(request)?;
        self.session = None;
        Ok(Response::new(200))
    }

    /// The session, if the request names it (or, as some clients do, none).
    fn own_session(&mut self, request: &Request) -> Result<&mut Session, Response> {
        let named = request.header("Session").map(session_id);
        let session = self.session.as_mut().filter(|session| named.is_none_or(|id| id == session.id));
        session.ok_or_else(|| Response::new(454))
    }

    pub(super) fn in_session(&self, response: Response) -> Response {
        match &self.session {
            Some(session) => {
                response.with("Session", format!("{};timeout={}", session.id, SESSION_TIMEOUT.as_secs()))
            }
            None => response,
        }
    }
}

const NO_UDP: &str =
    "RTP by UDP is not served here ([rtsp] udp): ask for RTP/AVP/TCP (ffplay -rtsp_transport tcp)";
const ENCRYPTED: &str = "RTP by UDP is not encrypted, and is not served over RTSPS: ask for RTP/AVP/TCP";

/// `RTP-Info` (RFC 2326 section 12.33): of each track that is set up its next sequence number and the RTP time of where
/// playing begins, as far as they are known.
fn info(session: &Session, tracks: [Option<(Option<u16>, u32)>; 2]) -> String {
    let told = tracks.into_iter().enumerate().filter(|(index, _)| session.tracks[*index].is_some());
    let told = told.filter_map(|(index, known)| {
        let (sequence, time) = known?;
        let sequence = sequence.map(|sequence| format!("seq={sequence};")).unwrap_or_default();
        Some(format!("url={}{TRACK}{index};{sequence}rtptime={time}", session.base))
    });
    told.collect::<Vec<_>>().join(",")
}

/// The range that `start` and `end` of an address name, in 90 kHz ticks; up to now where there is no `end`.
fn described(target: &Target) -> Result<Range<i64>, Response> {
    let wrong = |what: String| Response::new(400).saying(&what);
    let instant = |name: &str| {
        let Some(text) = target.parameter(name) else { return Ok(None) };
        let at: Result<Timestamp, _> = text.parse();
        at.map(Some)
            .map_err(|_| wrong(format!("{name}= is no time; like {name}=2026-01-01T08:00:00Z (RFC 3339)")))
    };
    let start = instant("start")?
        .ok_or_else(|| wrong("start= is missing: a time like 2026-01-01T08:00:00Z".into()))?;
    let now = Timestamp::now();
    let end = instant("end")?.map_or(now, |end| end.min(now));
    if start >= now {
        return Err(Response::new(404).saying("nothing is recorded yet of that range"));
    }
    if start >= end {
        return Err(wrong("end= is not after start=".to_owned()));
    }
    Ok(time::to_90k(start)..time::to_90k(end))
}

fn refused(why: Refused) -> Response {
    let status = match &why {
        Refused::Range(Bad::Unit) => 501,
        Refused::Range(Bad::Syntax) => 400,
        Refused::Range(Bad::Outside) => 457,
        Refused::Record(RecordError::Nothing { .. }) => 404,
        Refused::Record(_) => {
            tracing::error!("a recording cannot be played: {why}");
            return Response::new(500).saying("the recording cannot be read; the log says why");
        }
        Refused::Slow => 503,
    };
    Response::new(status).saying(&why.to_string())
}

fn full(why: Full) -> Response {
    match why.passes() {
        true => Response::new(503).with("Retry-After", "10").saying(&why.to_string()),
        false => Response::new(453).saying(&why.to_string()),
    }
}

/// A Session header without its parameters.
fn session_id(header: &str) -> &str {
    header.split(';').next().unwrap_or_default().trim()
}
