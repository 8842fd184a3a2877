//! One RTSP session (retina): from a URL to samples on the box's timeline, with every await under a timeout.
//!
//! What does not belong here: what happens to samples, and what happens after a session ([`super`]); how much a
//! hostile camera may send ([`super::guard`]).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use retina::client::{
    Demuxed, InitialTimestampPolicy, PlayOptions, Session as Rtsp, SessionOptions, SetupOptions,
    TcpTransportOptions, TeardownPolicy, UdpTransportOptions,
};
use retina::codec::{CodecItem, FrameFormat, ParametersRef, VideoParametersCodec};
use tokio::time::Instant;
use url::Url;

use super::guard::{Breach, Guard};
use crate::config::reach::{Barred, Reach};
use crate::config::{self, Credentials, Transport};
use crate::media::time::{Arrival, Clock, ClockAnchor, ClockError, DecodeTimes, RunIn, SystemClock};
use crate::media::{
    AccessUnit, AudioCodec, AudioFrame, AudioParams, Sample, VIDEO_CLOCK, VideoCodec, VideoParams, h265,
};
use crate::net::outbound::{self, ResolveError};

/// Where cameras listen if nobody says otherwise.
const RTSP_PORT: u16 = 554;

/// How long a camera may take for one answer, or send no picture, before its session is over.
pub const MEDIA_DEADLINE: Duration = Duration::from_secs(5);

/// How long pictures may come without one where decoding can start. Cameras that save bits send a key picture every
/// ten seconds or so.
const KEY_DEADLINE: Duration = Duration::from_secs(60);

/// What a run-in keeps at most: items, and bytes of pictures. Senders that keep pictures keep a GOP.
const MOST_HELD: usize = 2000;
const MOST_HELD_BYTES: usize = 8 << 20;

/// Where and how a stream is fetched.
#[derive(Clone, Debug)]
pub struct Target {
    /// Without credentials.
    pub url: Url,
    pub credentials: Option<Credentials>,
    pub transport: Transport,
    /// Where its name may lead.
    pub reach: Reach,
}

impl Target {
    /// One of a camera's addresses.
    pub fn of(camera: &config::Camera, url: &Url) -> Target {
        Target {
            url: url.clone(),
            credentials: camera.credentials.clone(),
            transport: camera.transport,
            reach: camera.reach.clone(),
        }
    }
}

/// Why a session is over, in words for people. None bears credentials.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("cannot resolve {host}: {why}; is the camera's url right, and the name server reachable?")]
    Resolve { host: String, why: String },
    #[error("{host} is not connected to: {barred}")]
    Barred { host: String, barred: Barred },
    #[error("cannot connect to {peer}: {why}; is the camera on, and its url right?")]
    Connect { peer: String, why: String },
    #[error("{peer} asks for a password: set username and password")]
    PasswordMissing { peer: String },
    #[error("{peer} refuses the password: check username and password")]
    PasswordRefused { peer: String },
    #[error("{peer} has no stream at {path} (RTSP status {status}): check the path of the url")]
    NoStream { peer: String, path: String, status: u16 },
    #[error(
        "{peer} sends elsewhere (RTSP status {status}), which is not followed: write the address that it names"
    )]
    Redirect { peer: String, status: u16 },
    #[error("{peer} does not send by {transport}: set transport = \"{other}\"")]
    OtherTransport { peer: String, transport: &'static str, other: &'static str },
    #[error("{peer} does not speak RTSP: check the port of the url")]
    NoRtsp { peer: String },
    #[error("{peer} offers no H.264 or H.265 video at this url, but {offered}")]
    NoVideo { peer: String, offered: String },
    #[error("{peer}: {during}: {breach}")]
    Breach { peer: String, during: &'static str, breach: Breach },
    #[error("{peer}: {during}: {what}")]
    Protocol { peer: String, during: &'static str, what: String },
    #[error("{peer} closed the connection")]
    Closed { peer: String },
    #[error("{peer} sends no key picture for {} s: shorten its key picture interval", waited.as_secs())]
    NoKeyPicture { peer: String, waited: Duration },
    #[error("{peer}: {clock}")]
    Clock { peer: String, clock: ClockError },
}

impl SessionError {
    /// The camera wants other credentials.
    pub fn is_password(&self) -> bool {
        matches!(self, SessionError::PasswordMissing { .. } | SessionError::PasswordRefused { .. })
    }
}

/// A playing session. Samples begin with a random access point.
pub struct Session {
    peer: String,
    stream: Demuxed,
    guard: Guard,
    codec: VideoCodec,
    video: usize,
    audio: Option<Audio>,
    run: u64,
    next_seq: u64,
    params: Option<Arc<VideoParams>>,
    /// None until the run-in is over.
    anchor: Option<ClockAnchor>,
    run_in: Option<RunIn>,
    /// What came during the run-in, and how many bytes of pictures.
    held: VecDeque<(CodecItem, Arrival)>,
    held_bytes: usize,
    /// How long before its arrival the first picture was taken.
    ahead: Duration,
    /// The session has, and what came before is still to be given.
    ended: Option<SessionError>,
    decode_times: DecodeTimes,
    last_picture: Instant,
    last_rap: Instant,
    /// The first random access point was a CRA or BLA, and its skipped leading pictures may still come.
    skip_leading: bool,
    playing: bool,
    clock_error: Option<f64>,
}

struct Audio {
    stream: usize,
    params: Arc<AudioParams>,
    anchor: Option<ClockAnchor>,
}

impl Session {
    /// Connects and plays: the video stream, and audio where there is a kind that can be recorded.
    ///
    /// Access units are numbered from `next_seq` on, and all bear `run`.
    pub async fn open(target: &Target, run: u64, next_seq: u64) -> Result<Session, SessionError> {
        let address = resolve(&target.url, &target.reach).await?;
        // As people wrote it, for messages.
        let peer = match target.url.port() {
            Some(port) => format!("{}:{port}", target.url.host_str().unwrap_or_default()),
            None => target.url.host_str().unwrap_or_default().to_owned(),
        };
        let at = At { peer: &peer, target };
        let mut url = target.url.clone();
        // To the address that was judged, and to no other: the library follows no redirect, and a control URL of another
        // host goes out on this very connection. Cameras are no virtual hosts.
        let _ = url.set_ip_host(address.ip());
        let mut guard = Guard::default();
        let credentials = target.credentials.as_ref().map(|credentials| retina::client::Credentials {
            username: credentials.username.clone(),
            password: credentials.password.expose().to_owned(),
        });
        // Closing the connection ends a session; a library that goes on asking a hostile camera for TEARDOWN in the
        // background would do so unguarded.
        let options = SessionOptions::default()
            .creds(credentials)
            .user_agent(format!("liuta/{}", env!("CARGO_PKG_VERSION")))
            .teardown(TeardownPolicy::Never);
        let describe = guard.watch(Instant::now(), MEDIA_DEADLINE, Rtsp::describe(url, options)).await;
        let mut rtsp = at.answered("DESCRIBE", describe)?;

        let streams = rtsp.streams();
        let video = streams.iter().position(|stream| stream.media() == "video" && codec_of(stream).is_some());
        let Some((video, codec)) = video.and_then(|at| Some((at, codec_of(streams.get(at)?)?))) else {
            let offered: Vec<_> = streams
                .iter()
                .take(8)
                .map(|stream| printable(&format!("{}/{}", stream.media(), stream.encoding_name())))
                .collect();
            let offered = if offered.is_empty() { "nothing".into() } else { offered.join(", ") };
            return Err(SessionError::NoVideo { peer, offered });
        };
        let mut audio = streams.iter().enumerate().find_map(|(at, stream)| {
            Some(Audio { stream: at, params: Arc::new(audio_params(stream)?), anchor: None })
        });
        let setup = || {
            SetupOptions::default().frame_format(FrameFormat::MP4).transport(match target.transport {
                Transport::Tcp => retina::client::Transport::Tcp(TcpTransportOptions::default()),
                Transport::Udp => retina::client::Transport::Udp(UdpTransportOptions::default()),
            })
        };
        let set_up = guard.watch(Instant::now(), MEDIA_DEADLINE, rtsp.setup(video, setup())).await;
        at.answered("SETUP", set_up)?;
        if let Some(track) = &audio {
            match guard.watch(Instant::now(), MEDIA_DEADLINE, rtsp.setup(track.stream, setup())).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::info!("{peer}: goes on without audio: {}", brief(&error));
                    audio = None;
                }
                Err(breach) => return Err(at.breach("SETUP", breach)),
            }
        }
        guard.expect_pictures();
        // Times are laid on the box's clock; what a camera says of its own zero is not needed, and often missing.
        let play = PlayOptions::default().initial_timestamp(InitialTimestampPolicy::Ignore);
        let play = guard.watch(Instant::now(), MEDIA_DEADLINE, rtsp.play(play)).await;
        let stream = at.answered("PLAY", play)?.demuxed().map_err(|error| at.refused("PLAY", &error))?;
        let now = Instant::now();
        Ok(Session {
            params: video_params(&stream, video, codec).ok().map(Arc::new),
            peer,
            stream,
            guard,
            codec,
            video,
            audio,
            run,
            next_seq,
            anchor: None,
            run_in: None,
            held: VecDeque::new(),
            held_bytes: 0,
            ahead: Duration::ZERO,
            ended: None,
            decode_times: DecodeTimes::new(0),
            last_picture: now,
            last_rap: now,
            skip_leading: false,
            playing: false,
            clock_error: None,
        })
    }

    /// The audio that was set up.
    pub fn audio(&self) -> Option<Arc<AudioParams>> {
        self.audio.as_ref().map(|audio| audio.params.clone())
    }

    /// What the next access unit's sequence number will be.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Seconds that the camera's clock is ahead of the box's, by its newest sender report.
    pub fn clock_error(&self) -> Option<f64> {
        self.clock_error
    }

    /// The next sample. Every error ends the session.
    pub async fn next(&mut self) -> Result<Sample, SessionError> {
        loop {
            if self.anchor.is_none() {
                self.run_in().await;
            }
            let (item, arrival) = match (self.held.pop_front(), self.ended.take()) {
                (Some(held), ended) => {
                    self.ended = ended;
                    held
                }
                (None, Some(ended)) => return Err(ended),
                (None, None) => self.receive().await?,
            };
            let sample = match item {
                CodecItem::VideoFrame(frame) if frame.stream_id() == self.video => {
                    self.picture(frame, arrival)?
                }
                CodecItem::AudioFrame(frame) => self.sound(&frame, arrival),
                CodecItem::Rtcp(report) => {
                    self.measure(&report);
                    None
                }
                _ => None,
            };
            if let Some(sample) = sample {
                return Ok(sample);
            }
        }
    }

    /// Keeps what comes until it is known when the first picture was taken.
    async fn run_in(&mut self) {
        let mut over = false;
        while !over {
            let (item, arrival) = match self.receive().await {
                Ok(received) => received,
                Err(error) => {
                    self.ended = Some(error);
                    break;
                }
            };
            if let CodecItem::VideoFrame(frame) = &item
                && frame.stream_id() == self.video
            {
                self.last_picture = Instant::now();
                self.held_bytes += frame.data().len();
                let rtp = frame.timestamp().timestamp();
                over = match &mut self.run_in {
                    Some(run_in) => run_in.look(rtp, arrival),
                    None => {
                        self.run_in = Some(RunIn::new(rtp, arrival));
                        false
                    }
                };
            }
            self.held.push_back((item, arrival));
            over |= self.held.len() >= MOST_HELD || self.held_bytes >= MOST_HELD_BYTES;
        }
        if let Some(run_in) = self.run_in.take() {
            let (anchor, ahead) = run_in.anchor();
            (self.anchor, self.ahead) = (Some(anchor), ahead);
        }
    }

    async fn receive(&mut self) -> Result<(CodecItem, Arrival), SessionError> {
        let item = match self.guard.watch(self.last_picture, MEDIA_DEADLINE, self.stream.next()).await {
            Ok(Some(Ok(item))) => item,
            Ok(Some(Err(error))) => return Err(self.protocol(brief(&error))),
            Ok(None) => return Err(SessionError::Closed { peer: self.peer.clone() }),
            Err(breach) => {
                return Err(SessionError::Breach { peer: self.peer.clone(), during: "playing", breach });
            }
        };
        if let CodecItem::VideoFrame(frame) = &item {
            self.guard.picture(frame.data().len());
        }
        Ok((item, arrival()))
    }

    pub(super) fn without_key_picture(&self, waited: Duration) -> SessionError {
        SessionError::NoKeyPicture { peer: self.peer.clone(), waited }
    }

    fn protocol(&self, what: String) -> SessionError {
        SessionError::Protocol { peer: self.peer.clone(), during: "playing", what }
    }

    fn clock(&self, clock: ClockError) -> SessionError {
        SessionError::Clock { peer: self.peer.clone(), clock }
    }

    /// `None`: no picture, or one that cannot be decoded, since the session began after what it refers to.
    fn picture(
        &mut self,
        frame: retina::codec::VideoFrame,
        arrival: Arrival,
    ) -> Result<Option<Sample>, SessionError> {
        if frame.has_new_parameters() || self.params.is_none() {
            let params =
                video_params(&self.stream, self.video, self.codec).map_err(|what| self.protocol(what))?;
            if self.params.as_deref() != Some(&params) {
                self.decode_times = DecodeTimes::new(params.reorder);
                self.params = Some(Arc::new(params));
            }
        }
        let Some(params) = self.params.clone() else { return Ok(None) };
        let rtp = frame.timestamp().timestamp();
        let data = without_trailing_zeros(without_delimiter(self.codec, frame.into_data().into()));
        // A camera whose encoder hangs may go on with SEI: what holds no slice shows no life.
        let Some(slice) = first_slice(self.codec, &data) else { return Ok(None) };
        self.last_picture = Instant::now();
        let is_rap = self.codec.is_rap(slice);
        if is_rap {
            self.last_rap = self.last_picture;
            self.skip_leading = !self.playing;
        } else if self.last_rap.elapsed() > KEY_DEADLINE {
            return Err(self.without_key_picture(KEY_DEADLINE));
        }
        let leading = self.codec == VideoCodec::H265 && h265::is_rasl(h265::nal_type(slice));
        if !(self.playing || is_rap) || (self.skip_leading && leading) {
            return Ok(None);
        }
        if !self.playing {
            self.playing = true;
            self.decode_times = DecodeTimes::new(params.reorder);
        }
        let anchor = self.anchor.get_or_insert_with(|| ClockAnchor::new(VIDEO_CLOCK as u32, rtp, arrival));
        let placed = anchor.place(rtp, arrival).and_then(|pts| anchor.check_step(arrival).map(|()| pts));
        let pts = placed.map_err(|error| self.clock(error))?;
        let (pts_90k, dts_90k) = self.decode_times.next(pts);
        let seq = self.next_seq;
        self.next_seq += 1;
        let unit = AccessUnit { seq, run: self.run, pts_90k, dts_90k, is_rap, params, data };
        Ok(Some(Sample::Video(Arc::new(unit))))
    }

    fn sound(&mut self, frame: &retina::codec::AudioFrame, arrival: Arrival) -> Option<Sample> {
        let audio = self.audio.as_mut().filter(|audio| self.playing && audio.stream == frame.stream_id())?;
        let rate = audio.params.clock_rate;
        let rtp = frame.timestamp().timestamp();
        let earlier = arrival.earlier(self.ahead);
        let anchor = audio.anchor.get_or_insert_with(|| ClockAnchor::new(rate, rtp, earlier));
        // Sound that runs away from its pictures is worth less than the pictures.
        let pts_90k = anchor.place(rtp, arrival).ok()?;
        let scaled = i128::from(pts_90k) * i128::from(rate) + i128::from(VIDEO_CLOCK / 2);
        let frame = AudioFrame {
            run: self.run,
            pts: scaled.div_euclid(i128::from(VIDEO_CLOCK)) as i64,
            duration: frame.frame_length().get(),
            params: audio.params.clone(),
            data: Bytes::copy_from_slice(frame.data()),
        };
        Some(Sample::Audio(Arc::new(frame)))
    }

    fn measure(&mut self, report: &retina::rtcp::ReceivedCompoundPacket) {
        if report.stream_id() == self.video
            && let (Some(anchor), Some(rtp)) = (&self.anchor, report.rtp_timestamp())
            && let Some(Ok(Some(sender))) = report.pkts().next().map(|packet| packet.as_sender_report())
        {
            self.clock_error = Some(anchor.clock_error(sender.ntp_timestamp().0, rtp.timestamp()));
        }
    }
}

/// Whom an answer came from, for messages.
struct At<'a> {
    peer: &'a str,
    target: &'a Target,
}

impl At<'_> {
    fn answered<T>(
        &self,
        during: &'static str,
        answer: Result<Result<T, retina::Error>, Breach>,
    ) -> Result<T, SessionError> {
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.refused(during, &error)),
            Err(breach) => Err(self.breach(during, breach)),
        }
    }

    fn breach(&self, during: &'static str, breach: Breach) -> SessionError {
        SessionError::Breach { peer: self.peer.to_owned(), during, breach }
    }

    fn refused(&self, during: &'static str, error: &retina::Error) -> SessionError {
        // How our RTSP library begins what it tells.
        const CONNECT: &str = "Unable to connect to RTSP server: ";
        const FRAMING: &str = "RTSP framing error";
        let peer = self.peer.to_owned();
        let what = brief(error);
        match error.status_code() {
            Some(401) if self.target.credentials.is_none() => SessionError::PasswordMissing { peer },
            Some(401 | 403) => SessionError::PasswordRefused { peer },
            Some(status @ (404 | 454)) => {
                SessionError::NoStream { peer, path: self.target.url.path().to_owned(), status }
            }
            Some(status @ 300..=399) => SessionError::Redirect { peer, status },
            // Unsupported Transport (RFC 2326, section 11.3.14).
            Some(461) => {
                let (transport, other) = match self.target.transport {
                    Transport::Tcp => ("TCP", "udp"),
                    Transport::Udp => ("UDP", "tcp"),
                };
                SessionError::OtherTransport { peer, transport, other }
            }
            None if during == "DESCRIBE" && what.contains(FRAMING) => SessionError::NoRtsp { peer },
            _ => match what.strip_prefix(CONNECT) {
                Some(why) => SessionError::Connect { peer, why: why.to_owned() },
                None => SessionError::Protocol { peer, during, what },
            },
        }
    }
}

/// The first line of a library's message, without control characters and of bounded length: a camera wrote parts of
/// it.
fn brief(error: &retina::Error) -> String {
    printable(error.to_string().lines().next().unwrap_or_default())
}

fn printable(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

async fn resolve(url: &Url, reach: &Reach) -> Result<SocketAddr, SessionError> {
    let host = url.host_str().unwrap_or_default();
    let found = outbound::resolve(host, url.port().unwrap_or(RTSP_PORT), reach).await;
    found.map_err(|error| match error {
        ResolveError::Barred(barred) => SessionError::Barred { host: host.to_owned(), barred },
        other => SessionError::Resolve { host: host.to_owned(), why: other.to_string() },
    })
}

fn arrival() -> Arrival {
    // From some time before the process began: what has just begun may have been taken earlier.
    let monotonic = Duration::from_secs(3600) + SystemClock.steady();
    Arrival { monotonic, wall: SystemClock.wall() }
}

fn codec_of(stream: &retina::client::Stream) -> Option<VideoCodec> {
    match stream.encoding_name() {
        "h264" => Some(VideoCodec::H264),
        "h265" => Some(VideoCodec::H265),
        _ => None,
    }
}

fn video_params(stream: &Demuxed, video: usize, codec: VideoCodec) -> Result<VideoParams, String> {
    let parameters = stream.streams().get(video).and_then(|stream| stream.parameters());
    let Some(ParametersRef::Video(parameters)) = parameters else {
        return Err("pictures without parameter sets".into());
    };
    let sets = match parameters.codec_params() {
        VideoParametersCodec::H264 { sps, pps } => vec![sps.clone(), pps.clone()],
        VideoParametersCodec::H265 { vps, sps, pps } => vec![vps.clone(), sps.clone(), pps.clone()],
        _ => Vec::new(),
    };
    VideoParams::parse(codec, &sets).map_err(|error| error.to_string())
}

/// Audio that can be recorded, as the SDP tells it.
fn audio_params(stream: &retina::client::Stream) -> Option<AudioParams> {
    if stream.media() != "audio" {
        return None;
    }
    let clock_rate = stream.clock_rate_hz();
    if !(8_000..=192_000).contains(&clock_rate) {
        return None;
    }
    let channels = stream.channels().map_or(1, |channels| channels.get());
    let (codec, channels) = match stream.encoding_name() {
        "pcma" => (AudioCodec::Pcma, channels),
        "pcmu" => (AudioCodec::Pcmu, channels),
        "mpeg4-generic" => {
            let Some(ParametersRef::Audio(parameters)) = stream.parameters() else { return None };
            let config = Bytes::copy_from_slice(parameters.extra_data());
            (AudioCodec::Aac { config }, parameters.channels().get())
        }
        _ => return None,
    };
    Some(AudioParams { codec, clock_rate, channels })
}

fn first_slice(codec: VideoCodec, data: &[u8]) -> Option<&[u8]> {
    nal_units(data).find(|nal| codec.is_vcl(nal))
}

/// As [`AccessUnit::nal_units`], before there is one.
fn nal_units(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk::<4>()?;
        let (nal, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        data = rest;
        Some(nal)
    })
}

/// Without the access unit delimiter, which stands first where there is one and serves byte streams alone. Parameter
/// sets are gone already: they stand in `params`, and `avc1` and `hvc1` sample entries allow none in samples.
fn without_delimiter(codec: VideoCodec, data: Bytes) -> Bytes {
    let delimiter =
        nal_units(&data).next().filter(|first| codec.is_delimiter(first)).map(|first| 4 + first.len());
    match delimiter {
        Some(length) => data.slice(length..),
        None => data,
    }
}

/// Without the zeros that some cameras leave behind a NAL unit, as in a byte stream. None may end with one (ITU-T H.264
/// and H.265, 7.4.1), and the recovery after a crash relies on that. Our RTSP library strips those of H.264 alone.
fn without_trailing_zeros(data: Bytes) -> Bytes {
    if nal_units(&data).all(|nal| nal.last().is_some_and(|&byte| byte != 0)) {
        return data;
    }
    let mut kept = Vec::with_capacity(data.len());
    for nal in nal_units(&data) {
        // A NAL unit of zeros alone is none.
        if let Some(last) = nal.iter().rposition(|&byte| byte != 0) {
            kept.extend((last as u32 + 1).to_be_bytes());
            kept.extend(&nal[..=last]);
        }
    }
    kept.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::h264;

    #[test]
    fn trailing_zeros_are_cut_off_and_nothing_is_copied_where_there_are_none() {
        let clean = Bytes::from_static(&[0, 0, 0, 3, 0x26, 1, 0x80, 0, 0, 0, 2, 0x50, 1]);
        let kept = without_trailing_zeros(clean.clone());
        assert_eq!((kept.as_ptr(), kept.len()), (clean.as_ptr(), clean.len()));
        let padded = [0, 0, 0, 5, 0x26, 1, 0x80, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 3, 0x50, 1, 0];
        assert_eq!(without_trailing_zeros(Bytes::copy_from_slice(&padded)), clean);
        assert_eq!(without_trailing_zeros(Bytes::from_static(&[0, 0, 0, 1, 0])), Bytes::new());
    }

    #[test]
    fn a_leading_delimiter_is_cut_off_without_a_copy() {
        let data = Bytes::from_static(&[0, 0, 0, 2, h264::AUD, 0xf0, 0, 0, 0, 3, 0x65, 1, 2]);
        let cut = without_delimiter(VideoCodec::H264, data.clone());
        assert_eq!(cut, data.slice(6..));
        assert_eq!(cut.as_ptr(), data[6..].as_ptr());
        assert_eq!(without_delimiter(VideoCodec::H264, cut.clone()), cut);
        assert_eq!(first_slice(VideoCodec::H264, &data), Some(&[0x65, 1, 2][..]));
    }

    #[test]
    fn broken_lengths_end_the_list() {
        for broken in [&[][..], &[0, 0, 0], &[0, 0, 0, 2, 0x65], &[0xff, 0xff, 0xff, 0xff, 0x65]] {
            assert_eq!(first_slice(VideoCodec::H264, broken), None);
            assert_eq!(without_delimiter(VideoCodec::H265, Bytes::copy_from_slice(broken)), broken);
        }
    }

    #[test]
    fn what_a_camera_says_is_printable_and_short() {
        assert_eq!(printable("a\x1b[31m\nb"), "a [31m b");
        assert_eq!(printable(&"x".repeat(5000)).len(), 200);
    }
}
