//! One client: its requests, its session, and the stream that it reads.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::FutureExt;
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::exchange::{Moved, exchange};
use super::output::Output;
use super::request::{self, Incoming, MAX_BODY, MAX_HEAD, Refused, Request, Response, TRACK, Target};
use super::rtcp::{self, Sent};
use super::{Shared, sdp};
use crate::access::{Action, By, Challenge, Denied, Person, Standing};
use crate::health::{Health, PathProtocol};
use crate::live::{Cursor, LiveStream, Next, StreamParams};
use crate::media::rtp::{AUDIO_CHANNEL, Packets, VIDEO_CHANNEL};
use crate::media::{Sample, time};
use crate::net::listener::Socket;

const METHODS: &str = "OPTIONS, DESCRIBE, SETUP, PLAY, PAUSE, GET_PARAMETER, SET_PARAMETER, TEARDOWN";

/// A client that neither plays nor asks for so long is gone; `Session` headers tell it (RFC 2326 section 12.37). One
/// that plays shows its life by taking what it is sent.
const SESSION_TIMEOUT: Duration = Duration::from_secs(60);

/// From connecting to the first request that was allowed.
const SIGN_IN_TIMEOUT: Duration = Duration::from_secs(20);

/// From the first byte of a request to its last.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A client that takes not one byte for so long is closed.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long DESCRIBE waits for a camera that has just started.
const PARAMS_TIMEOUT: Duration = Duration::from_secs(5);

/// Between sender reports. The first goes out before the first packet, so that players line up picture and sound at
/// once.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Wrong tokens and stream keys on one connection before it is closed.
const MAX_DENIALS: u32 = 10;

/// Bytes of input held: a request, or the longest interleaved frame.
const MAX_INPUT: usize = MAX_HEAD + MAX_BODY + 4;

/// Why a connection was ended from our side.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it took no byte for {} s", STALL_TIMEOUT.as_secs())]
    Stalled,
    #[error("no complete request within {} s", REQUEST_TIMEOUT.as_secs())]
    Slow,
    #[error("it did not sign in or ask for a stream within {} s", SIGN_IN_TIMEOUT.as_secs())]
    NoSignIn,
    #[error("no request for {} s", SESSION_TIMEOUT.as_secs())]
    Idle,
    #[error("a request that cannot be understood (answered {0})")]
    Refused(u16),
    #[error("too many wrong sign-ins")]
    Denied,
    #[error("the stream changed its codec: the client must ask for a new description")]
    OtherCodec,
    #[error("the stream was removed")]
    Removed,
    #[error("its path leads to another stream now")]
    Moved,
    #[error("it may no longer watch the stream")]
    Revoked,
}

impl Closed {
    /// No sign-in is needed for this end.
    pub fn is_strangers(&self) -> bool {
        use Closed::*;
        matches!(self, Io(_) | Slow | NoSignIn | Idle | Refused(_) | Denied)
    }
}

pub struct Connection {
    socket: Socket,
    peer: IpAddr,
    shared: Arc<Shared>,
    input: BytesMut,
    output: Output,
    session: Option<Session>,
    /// What PLAY's cursor has met already: it follows the answer.
    first: Option<Next>,
    connected: Instant,
    /// When the last request or frame was complete.
    heard: Instant,
    challenge: Challenge,
    /// A request was allowed.
    allowed: bool,
    denials: u32,
    /// Once everything is written the connection ends, for this reason.
    closing: Option<Closed>,
}

/// From SETUP to TEARDOWN.
struct Session {
    id: String,
    path: String,
    base: String,
    stream: Arc<LiveStream>,
    /// As described: nothing else may be sent.
    params: StreamParams,
    /// By their numbers in control URLs.
    tracks: [Option<Track>; 2],
    playing: Option<Playing>,
}

struct Track {
    rtp: u8,
    rtcp: u8,
    sent: Sent,
    ssrc: u32,
    reported: Option<Instant>,
}

struct Playing {
    cursor: Cursor,
    /// That whoever sent PLAY may watch.
    standing: Standing,
    _reader: Reader,
}

/// Counts a reader as long as it plays.
struct Reader {
    health: Health,
    label: PathProtocol,
}

impl Reader {
    fn new(health: &Health, path: &str) -> Reader {
        let reader = Reader { health: health.clone(), label: PathProtocol::new(path, "rtsp") };
        reader.health.metrics.relay_readers.get_or_create(&reader.label).inc();
        drop(reader.health.metrics.relay_skips.get_or_create(&reader.label));
        reader
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.health.metrics.relay_readers.get_or_create(&self.label).dec();
    }
}

impl Connection {
    pub fn new(socket: Socket, peer: IpAddr, shared: Arc<Shared>) -> Connection {
        let now = Instant::now();
        Connection {
            socket,
            peer,
            shared,
            input: BytesMut::new(),
            output: Output::new(),
            session: None,
            first: None,
            connected: now,
            heard: now,
            challenge: Challenge::default(),
            allowed: false,
            denials: 0,
            closing: None,
        }
    }

    /// Serves the client until it leaves or is closed.
    pub async fn run(mut self) -> Result<(), Closed> {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.take_requests().await;
            if self.output.is_empty()
                && let Some(why) = self.closing.take()
            {
                self.say_goodbye().await;
                return Err(why);
            }
            let readable = self.closing.is_none() && self.output.takes_messages();
            tokio::select! {
                moved = exchange(&mut self.socket, &mut self.output, &mut self.input, readable) => match moved? {
                    Moved::Out => {}
                    Moved::In { bytes: 0 } => return Ok(()),
                    // A request is late from its own first byte on, not from the end of the one before.
                    Moved::In { bytes } if self.input.len() == bytes => self.heard = Instant::now(),
                    Moved::In { .. } => {}
                },
                next = next(&mut self.session), if self.output.is_empty() && self.closing.is_none() => {
                    self.send(next);
                }
                _ = tick.tick() => {
                    self.check_deadlines()?;
                    self.check_permission().await;
                }
            }
        }
    }

    async fn take_requests(&mut self) {
        while self.closing.is_none() && self.output.takes_messages() {
            match request::take(&mut self.input) {
                Ok(None) if self.input.len() <= MAX_INPUT => break,
                Ok(None) => self.refuse(413),
                Ok(Some(incoming)) => {
                    self.heard = Instant::now();
                    if let Incoming::Request(request) = incoming {
                        self.answer(&request).await;
                    }
                }
                Err(Refused(status)) => self.refuse(status),
            }
        }
        if self.input.is_empty() {
            // An idle reader holds no buffer.
            self.input = BytesMut::new();
        }
    }

    fn refuse(&mut self, status: u16) {
        self.output.message(Response::new(status).encode(None));
        self.closing = Some(Closed::Refused(status));
    }

    fn check_deadlines(&mut self) -> Result<(), Closed> {
        if !self.output.is_empty() && self.output.progress.elapsed() > STALL_TIMEOUT {
            return Err(Closed::Stalled);
        }
        let playing = self.session.as_ref().is_some_and(|session| session.playing.is_some());
        if self.closing.is_some() {
            return Ok(());
        }
        let silence = self.heard.elapsed();
        let late = if !self.input.is_empty() && self.output.takes_messages() && silence > REQUEST_TIMEOUT {
            Closed::Slow
        } else if !self.allowed && self.connected.elapsed() > SIGN_IN_TIMEOUT {
            Closed::NoSignIn
        } else if !playing && silence > SESSION_TIMEOUT {
            Closed::Idle
        } else {
            return Ok(());
        };
        self.output.message(Response::new(408).encode(None));
        self.closing = Some(late);
        Ok(())
    }

    /// A token or stream key is revoked or ends, `anonymous` is switched off, and a reload lays a channel on another camera: who
    /// plays on must not outlive that.
    async fn check_permission(&mut self) {
        let Some(session) = self.session.as_mut().filter(|_| self.closing.is_none()) else { return };
        let Some(playing) = &mut session.playing else { return };
        let allowed = playing.standing.holds().await;
        let stream = self.shared.streams.get(&session.path);
        if !allowed {
            self.end(Closed::Revoked);
        } else if !stream.is_some_and(|stream| Arc::ptr_eq(&stream, &session.stream)) {
            self.end(Closed::Moved);
        }
    }

    /// Says good-bye on every track that was sent, and sends no more.
    fn end(&mut self, why: Closed) {
        let tracks = self.session.iter().flat_map(|session| session.tracks.iter().flatten());
        for track in tracks.filter(|track| track.reported.is_some()) {
            self.output.message(rtcp::bye(track.rtcp, track.ssrc));
        }
        self.closing = Some(why);
    }

    /// Reads on for a moment: closing a socket with unread input would take the last answer back.
    async fn say_goodbye(&mut self) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let drain = async {
            self.socket.shutdown().await?;
            let mut junk = [0; 4_096];
            while self.socket.read(&mut junk).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = timeout(Duration::from_secs(1), drain).await;
    }

    // Requests

    async fn answer(&mut self, request: &Request) {
        let cseq = request.header("CSeq").filter(|text| text.len() <= 20);
        let unknown_option = request.header("Require").filter(|_| request.method != "OPTIONS");
        let response = if let Some(option) = unknown_option {
            // What is sent back is no other header.
            let option: String = option.chars().filter(|c| !c.is_control()).take(100).collect();
            Ok(Response::new(551).with("Unsupported", &option))
        } else {
            match request.method.as_str() {
                "OPTIONS" => Ok(Response::new(200).with("Public", METHODS)),
                "DESCRIBE" => self.describe(request).await,
                "SETUP" => self.set_up(request).await,
                "PLAY" => self.play(request).await,
                "PAUSE" => self.pause(request),
                "GET_PARAMETER" | "SET_PARAMETER" => Ok(self.in_session(Response::new(200))),
                "TEARDOWN" => self.tear_down(request),
                _ => Ok(Response::new(501).with("Public", METHODS)),
            }
        };
        let response = response.unwrap_or_else(|denied| denied);
        if self.denials >= MAX_DENIALS {
            self.closing = Some(Closed::Denied);
        }
        self.output.message(response.encode(cseq));
        if let Some(first) = self.first.take() {
            self.send(first);
        }
    }

    /// The stream that the request is for, if its sender may watch it. Who has not signed in learns nothing about
    /// which paths exist, and who may not watch a camera cannot tell it from one that is not there.
    async fn stream(&mut self, request: &Request, path: &str) -> Result<(Arc<LiveStream>, Person), Response> {
        let shown = request.header("Authorization");
        let meant = |uri: &str| Target::of(uri).path == path;
        let access = self.shared.access.clone();
        let person = access.player(&mut self.challenge, shown, self.peer, &request.method, meant).await;
        let person = person.map_err(|denied| self.deny(denied))?;
        let stream = self.shared.streams.get(path);
        let stream =
            stream.filter(|stream| person.may(Action::Live, Some(&stream.camera)) && !stream.is_closed());
        let stream =
            stream.ok_or_else(|| Response::new(404).saying("no such stream, or you may not watch it"))?;
        self.allowed = true;
        if !person.is_anonymous() {
            self.socket.place().is_known();
        }
        Ok((stream, person))
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

    fn by(&self, name: &str) -> By {
        By { name: name.to_owned(), address: Some(self.peer) }
    }

    async fn describe(&mut self, request: &Request) -> Result<Response, Response> {
        let target = Target::of(&request.uri);
        let (stream, _) = self.stream(request, &target.path).await?;
        let Ok(params) = timeout(PARAMS_TIMEOUT, stream.wait_params()).await else {
            let why = "the camera has sent no picture yet: see its state in /healthz, and try again";
            return Err(Response::new(503).with("Retry-After", "5").saying(why));
        };
        let sdp = sdp::describe(&target.path, rand::random::<u32>().into(), &params);
        Ok(Response::new(200).with("Content-Base", target.base).body("application/sdp", sdp))
    }

    async fn set_up(&mut self, request: &Request) -> Result<Response, Response> {
        let target = Target::of(&request.uri);
        let (stream, _) = self.stream(request, &target.path).await?;
        let Some(params) = stream.params() else { return Err(Response::new(503).with("Retry-After", "5")) };
        let index = target.track.unwrap_or(sdp::VIDEO);
        if index > sdp::AUDIO || (index == sdp::AUDIO && params.audio.is_none()) {
            return Err(Response::new(404).saying("no such track"));
        }
        let wish = request.header("Transport").and_then(transport);
        let Some(wish) = wish else {
            let why =
                "only RTP over this connection is served: ask for RTP/AVP/TCP (ffplay -rtsp_transport tcp)";
            return Err(Response::new(461).saying(why));
        };
        if let Some(session) = &self.session {
            if request.header("Session").is_some_and(|id| session_id(id) != session.id) {
                return Err(Response::new(454));
            }
            if session.path != target.path {
                return Err(Response::new(459));
            }
            if session.playing.is_some() {
                return Err(Response::new(455));
            }
        }
        let session = self.session.get_or_insert_with(|| Session {
            id: format!("{:016x}", rand::random::<u64>()),
            path: target.path,
            base: target.base,
            stream,
            params,
            tracks: [None, None],
            playing: None,
        });
        let (rtp, rtcp) = session.channels(index, wish);
        session.tracks[index] = Some(Track { rtp, rtcp, sent: Sent::default(), ssrc: 0, reported: None });
        let transport = format!("RTP/AVP/TCP;unicast;interleaved={rtp}-{rtcp}");
        Ok(self.in_session(Response::new(200).with("Transport", transport)))
    }

    async fn play(&mut self, request: &Request) -> Result<Response, Response> {
        // Whoever may no longer watch must not begin to.
        let path = self.own_session(request)?.path.clone();
        let (stream, person) = self.stream(request, &path).await?;
        let by = self.by(&person.name);
        let (health, access) = (&self.shared.health, &self.shared.access);
        let Some(session) = self.session.as_mut().filter(|session| Arc::ptr_eq(&session.stream, &stream))
        else {
            // The path leads elsewhere by now: what was described is not there.
            self.session = None;
            return Err(Response::new(454));
        };
        if session.playing.is_some() {
            return Ok(self.in_session(Response::new(200)));
        }
        let mut cursor = session.stream.cursor();
        // What the ring holds is there at once, and tells the player where sequence and time begin.
        let first = cursor.next().now_or_never();
        let mut response = Response::new(200);
        if let Some(Next::Sample(Sample::Video(unit), packets)) = &first
            && let Some(packet) = packets.packets.first()
        {
            let url = |track: usize| format!("url={}{TRACK}{track}", session.base);
            let mut info = Vec::new();
            if session.tracks[sdp::VIDEO].is_some() {
                let (sequence, time) = (packet.sequence(), packets.rtp_time);
                info.push(format!("{};seq={sequence};rtptime={time}", url(sdp::VIDEO)));
            }
            if let Some(audio) = &session.params.audio
                && session.tracks[sdp::AUDIO].is_some()
            {
                let time = session.stream.audio_rtp_time(unit.pts_90k, audio);
                info.push(format!("{};rtptime={time}", url(sdp::AUDIO)));
            }
            response = response.with("RTP-Info", info.join(","));
        }
        let reader = Reader::new(health, &session.path);
        if let Some(audit) = access.audit() {
            audit.watch(&by, &format!("camera/{}", stream.camera), "RTSP");
        }
        let standing = access.standing(person, Action::Live, Some(&stream.camera));
        session.playing = Some(Playing { cursor, standing, _reader: reader });
        self.first = first;
        Ok(self.in_session(response))
    }

    /// A live stream goes on without its reader; the next PLAY begins at what is newest then.
    fn pause(&mut self, request: &Request) -> Result<Response, Response> {
        self.own_session(request)?.playing = None;
        Ok(self.in_session(Response::new(200)))
    }

    fn tear_down(&mut self, request: &Request) -> Result<Response, Response> {
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

    fn in_session(&self, response: Response) -> Response {
        match &self.session {
            Some(session) => {
                response.with("Session", format!("{};timeout={}", session.id, SESSION_TIMEOUT.as_secs()))
            }
            None => response,
        }
    }

    // Media

    fn send(&mut self, next: Next) {
        let Some(session) = &mut self.session else { return };
        match next {
            Next::Sample(sample, packets) => {
                let index = match &sample {
                    Sample::Video(unit) if unit.params.codec != session.params.video.codec => {
                        self.closing = Some(Closed::OtherCodec);
                        return;
                    }
                    Sample::Video(_) => sdp::VIDEO,
                    Sample::Audio(frame) if session.params.audio.as_ref() != Some(&frame.params) => return,
                    Sample::Audio(_) => sdp::AUDIO,
                };
                if let Some(track) = &mut session.tracks[index] {
                    track.send(&mut self.output, index, &session.path, &sample, packets);
                }
            }
            Next::Skipped(count) => {
                let label = PathProtocol::new(session.path.as_str(), "rtsp");
                self.shared.health.metrics.relay_skips.get_or_create(&label).inc();
                tracing::debug!(path = session.path, "a slow RTSP reader skipped {count} pictures");
            }
            Next::Closed => self.end(Closed::Removed),
        }
    }
}

impl Track {
    fn send(
        &mut self,
        output: &mut Output,
        index: usize,
        cname: &str,
        sample: &Sample,
        packets: Arc<Packets>,
    ) {
        if packets.packets.is_empty() {
            return;
        }
        let now = Instant::now();
        if self.reported.is_none_or(|at| now.duration_since(at) >= REPORT_INTERVAL) {
            self.reported = Some(now);
            self.ssrc = packets.ssrc;
            let capture = time::from_90k(match sample {
                Sample::Video(unit) => unit.pts_90k,
                Sample::Audio(frame) => frame.pts_90k(),
            });
            let report = rtcp::report(self.rtcp, packets.ssrc, packets.rtp_time, capture, self.sent, cname);
            output.message(report);
        }
        let octets: usize = packets.packets.iter().map(|packet| packet.payload.len()).sum();
        self.sent.packets = self.sent.packets.wrapping_add(packets.packets.len() as u32);
        self.sent.octets = self.sent.octets.wrapping_add(octets as u32);
        let usual = if index == sdp::VIDEO { VIDEO_CHANNEL } else { AUDIO_CHANNEL };
        output.media(packets, self.rtp, usual);
    }
}

impl Session {
    /// The channels that the client wishes, or others where those are taken.
    fn channels(&self, index: usize, wish: Option<(u8, u8)>) -> (u8, u8) {
        let taken = |channel: u8| {
            let others = self.tracks.iter().enumerate().filter(|(other, _)| *other != index);
            others
                .filter_map(|(_, track)| track.as_ref())
                .any(|track| [track.rtp, track.rtcp].contains(&channel))
        };
        let usual = if index == sdp::VIDEO { VIDEO_CHANNEL } else { AUDIO_CHANNEL };
        let pairs =
            wish.into_iter().chain([(usual, usual + 1), (VIDEO_CHANNEL, 1), (AUDIO_CHANNEL, 3), (4, 5)]);
        // Of three disjoint pairs the one other track takes at most two.
        pairs.into_iter().find(|(rtp, rtcp)| !taken(*rtp) && !taken(*rtcp)).unwrap_or((6, 7))
    }
}

/// The next thing that a playing client is owed; never, where none plays.
async fn next(session: &mut Option<Session>) -> Next {
    match session.as_mut().and_then(|session| session.playing.as_mut()) {
        Some(playing) => playing.cursor.next().await,
        None => std::future::pending().await,
    }
}

/// A Session header without its parameters.
fn session_id(header: &str) -> &str {
    header.split(';').next().unwrap_or_default().trim()
}

/// The channels of the first transport in the header that can be served; `Some(None)` where it leaves them to us.
fn transport(header: &str) -> Option<Option<(u8, u8)>> {
    header.split(',').find_map(|transport| {
        let mut parts = transport.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case("RTP/AVP/TCP") {
            return None;
        }
        let channels = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.eq_ignore_ascii_case("interleaved").then_some(value)
        });
        Some(channels.and_then(|channels| {
            let (rtp, rtcp) = channels.split_once('-').unwrap_or((channels, ""));
            let rtp: u8 = rtp.trim().parse().ok()?;
            let rtcp = if rtcp.is_empty() { rtp.checked_add(1)? } else { rtcp.trim().parse().ok()? };
            (rtp != rtcp).then_some((rtp, rtcp))
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports() {
        assert_eq!(transport("RTP/AVP/TCP;unicast;interleaved=0-1"), Some(Some((0, 1))));
        assert_eq!(
            transport("RTP/AVP/UDP;unicast;client_port=5-6,rtp/avp/tcp;interleaved=8"),
            Some(Some((8, 9)))
        );
        assert_eq!(transport("RTP/AVP/TCP;unicast"), Some(None));
        assert_eq!(transport("RTP/AVP/TCP;interleaved=255"), Some(None));
        assert_eq!(transport("RTP/AVP;unicast;client_port=5000-5001"), None);
        assert_eq!(transport(""), None);
    }
}
