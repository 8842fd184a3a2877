//! What one client plays: its tracks, how their packets reach it, and where they come from.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;

use super::connection::Closed;
use super::limits::Seat;
use super::output::Output;
use super::playback::{self, Player};
use super::rtcp::{self, Sent};
use super::sdp;
use super::udp::{self, Destination};
use crate::access::Standing;
use crate::health::{Health, PathProtocol};
use crate::live::{Cursor, LiveStream, Next, StreamParams};
use crate::media::rtp::{AUDIO_CHANNEL, Packets, VIDEO_CHANNEL};
use crate::media::{Sample, time};

/// Between sender reports. The first goes out before the first packet, so that players line up picture and sound at
/// once.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// From SETUP to TEARDOWN.
pub struct Session {
    pub id: String,
    pub path: String,
    pub base: String,
    pub source: Source,
    /// As described: nothing else may be sent.
    pub params: StreamParams,
    /// By their numbers in control URLs.
    pub tracks: [Option<Track>; 2],
    playing: Option<Playing>,
    udp: udp::Sender,
    _seat: Seat,
}

/// Where samples come from.
pub enum Source {
    /// The cursor is there while the client plays.
    Live {
        stream: Arc<LiveStream>,
        cursor: Option<Cursor>,
    },
    Recorded(Box<Player>),
}

struct Playing {
    /// That whoever sent PLAY may watch.
    standing: Standing,
    _reader: Reader,
}

/// How a track's packets reach the client.
pub enum Route {
    /// Over the RTSP connection, on these channels.
    Interleaved {
        rtp: u8,
        rtcp: u8,
    },
    Udp(Arc<Destination>),
}

pub struct Track {
    pub route: Route,
    sent: Sent,
    ssrc: u32,
    reported: Option<Instant>,
}

/// What a playing client is owed.
pub enum Event {
    Sample(Sample, Arc<Packets>),
    /// So many pictures were skipped because it is slow.
    Skipped(u64),
    /// Nothing more of what it asked for; it may ask for more.
    End(String),
    /// Nothing more ever.
    Gone,
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

impl Source {
    /// SSRCs of the tracks.
    pub fn ssrcs(&self) -> [u32; 2] {
        match self {
            Source::Live { stream, .. } => stream.ssrcs(),
            Source::Recorded(player) => player.ssrcs(),
        }
    }
}

impl Track {
    pub fn new(route: Route) -> Track {
        Track { route, sent: Sent::default(), ssrc: 0, reported: None }
    }

    /// Its `Transport`, as an answer tells it (RFC 2326 section 12.39).
    pub fn transport(&self, ssrc: u32) -> String {
        match &self.route {
            Route::Interleaved { rtp, rtcp } => {
                format!("RTP/AVP/TCP;unicast;interleaved={rtp}-{rtcp};ssrc={ssrc:08X}")
            }
            Route::Udp(to) => {
                let ((client_rtp, client_rtcp), (rtp, rtcp)) = (to.client_ports(), to.server_ports());
                format!(
                    "RTP/AVP;unicast;client_port={client_rtp}-{client_rtcp};server_port={rtp}-{rtcp};ssrc={ssrc:08X}"
                )
            }
        }
    }

    fn report(&self, output: &mut Output, packet: impl FnOnce(u8) -> bytes::Bytes) {
        match &self.route {
            Route::Interleaved { rtcp, .. } => output.message(packet(*rtcp)),
            Route::Udp(to) => to.report(rtcp::unframed(&packet(0))),
        }
    }
}

impl Session {
    pub fn new(path: String, base: String, source: Source, params: StreamParams, seat: Seat) -> Session {
        Session {
            id: format!("{:016x}", rand::random::<u64>()),
            path,
            base,
            source,
            params,
            tracks: [None, None],
            playing: None,
            udp: udp::Sender::default(),
            _seat: seat,
        }
    }

    pub fn is_playing(&self) -> bool {
        self.playing.is_some()
    }

    pub fn start(&mut self, standing: Standing, health: &Health) {
        let reader = Reader::new(health, &self.path);
        self.playing = Some(Playing { standing, _reader: reader });
    }

    /// A live stream goes on without its reader, a recording waits.
    pub fn pause(&mut self) {
        self.playing = None;
        self.udp.clear();
        if let Source::Live { cursor, .. } = &mut self.source {
            *cursor = None;
        }
    }

    /// That whoever plays still may.
    pub fn standing(&mut self) -> Option<&mut Standing> {
        self.playing.as_mut().map(|playing| &mut playing.standing)
    }

    /// How long nothing was heard from a client that shows its life by RTCP; none where it does by taking what it is sent.
    pub fn silence(&self) -> Option<Duration> {
        let by_udp = self.tracks.iter().flatten().filter_map(|track| match &track.route {
            Route::Udp(to) => Some(to.silence()),
            Route::Interleaved { .. } => None,
        });
        by_udp.min()
    }

    /// The channels that the client wishes, or others where those are taken.
    pub fn channels(&self, index: usize, wish: Option<(u8, u8)>) -> Route {
        let taken = |channel: u8| {
            let others = self.tracks.iter().enumerate().filter(|(other, _)| *other != index);
            let routes = others.filter_map(|(_, track)| track.as_ref()).map(|track| &track.route);
            let mut channels = routes.flat_map(|route| match route {
                Route::Interleaved { rtp, rtcp } => [Some(*rtp), Some(*rtcp)],
                Route::Udp(_) => [None, None],
            });
            channels.any(|other| other == Some(channel))
        };
        let usual = if index == sdp::VIDEO { VIDEO_CHANNEL } else { AUDIO_CHANNEL };
        let pairs =
            wish.into_iter().chain([(usual, usual + 1), (VIDEO_CHANNEL, 1), (AUDIO_CHANNEL, 3), (4, 5)]);
        // Of three disjoint pairs the one other track takes at most two.
        let free = pairs.into_iter().find(|(rtp, rtcp)| !taken(*rtp) && !taken(*rtcp));
        let (rtp, rtcp) = free.unwrap_or((6, 7));
        Route::Interleaved { rtp, rtcp }
    }

    /// The next thing that the client is owed, once what it was owed by UDP before is sent; never, where none plays.
    /// Cancel safe.
    pub async fn next(&mut self) -> Event {
        if self.playing.is_none() {
            return std::future::pending().await;
        }
        if !self.udp.is_empty() {
            self.udp.drain().await;
        }
        match &mut self.source {
            Source::Live { cursor: Some(cursor), .. } => Event::of(cursor.next().await),
            Source::Live { cursor: None, .. } => std::future::pending().await,
            Source::Recorded(player) => match player.next().await {
                playback::Event::Sample(sample, packets) => Event::Sample(sample, packets),
                playback::Event::End(why) => Event::End(why),
            },
        }
    }

    /// What the client is owed already, without waiting.
    pub fn first(&mut self) -> Option<Event> {
        match &mut self.source {
            Source::Live { cursor: Some(cursor), .. } => cursor.next().now_or_never().map(Event::of),
            _ => None,
        }
    }

    /// Hands a sample's packets to its track, if the client has set it up.
    pub fn send(
        &mut self,
        output: &mut Output,
        sample: &Sample,
        packets: Arc<Packets>,
    ) -> Result<(), Closed> {
        let index = match sample {
            Sample::Video(unit) if unit.params.codec != self.params.video.codec => {
                return Err(Closed::OtherCodec);
            }
            Sample::Video(_) => sdp::VIDEO,
            Sample::Audio(frame) if self.params.audio.as_ref() != Some(&frame.params) => return Ok(()),
            Sample::Audio(_) => sdp::AUDIO,
        };
        let Some(track) = self.tracks[index].as_mut().filter(|_| !packets.packets.is_empty()) else {
            return Ok(());
        };
        let now = Instant::now();
        if track.reported.is_none_or(|at| now.duration_since(at) >= REPORT_INTERVAL) {
            track.reported = Some(now);
            track.ssrc = packets.ssrc;
            let capture = time::from_90k(match sample {
                Sample::Video(unit) => unit.pts_90k,
                Sample::Audio(frame) => frame.pts_90k(),
            });
            let (ssrc, rtp_time, sent) = (packets.ssrc, packets.rtp_time, track.sent);
            track.report(output, |channel| rtcp::report(channel, ssrc, rtp_time, capture, sent, &self.path));
        }
        track.sent.packets = track.sent.packets.wrapping_add(packets.packets.len() as u32);
        track.sent.octets = track.sent.octets.wrapping_add(packets.octets);
        match &track.route {
            Route::Interleaved { rtp, .. } => {
                let usual = if index == sdp::VIDEO { VIDEO_CHANNEL } else { AUDIO_CHANNEL };
                output.media(packets, *rtp, usual);
            }
            Route::Udp(to) => self.udp.send(to, packets),
        }
        Ok(())
    }

    /// Says good-bye on every track that was sent.
    pub fn say_bye(&mut self, output: &mut Output, reason: &str) {
        self.udp.clear();
        for track in self.tracks.iter_mut().flatten().filter(|track| track.reported.is_some()) {
            track.report(output, |channel| rtcp::bye(channel, track.ssrc, reason));
            track.reported = None;
        }
    }

    /// Gives up how the track was sent, so that its address is free for another SETUP.
    pub fn release(&mut self, index: usize) {
        self.tracks[index] = None;
    }
}

impl Event {
    fn of(next: Next) -> Event {
        match next {
            Next::Sample(sample, packets) => Event::Sample(sample, packets),
            Next::Skipped(count) => Event::Skipped(count),
            Next::Closed => Event::Gone,
        }
    }
}
