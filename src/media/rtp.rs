//! RTP packets of access units and audio frames (RFC 3550, 6184, 7798, 3640, 3551), as headers plus payload slices.
//!
//! Made once per stream: every reader of a stream sends the same packets, with the same sequence numbers and SSRC. The
//! payload is never copied; the headers of one sample share one allocation, and each already begins with the framing
//! of RTSP over TCP, so that a reader writes a whole picture with one vectored write.
//!
//! What does not belong here: RTCP and SDP, which differ by session (`relay::rtsp`).

use bytes::{BufMut, Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{AccessUnit, AudioCodec, AudioFrame, AudioParams, Sample, VIDEO_CLOCK, VideoCodec, h264, h265};

/// Most bytes of RTP payload, payload headers included: fits Ethernet with the headers of any transport.
pub const MAX_PAYLOAD: usize = 1_400;

/// Payload type of video, of the dynamic range (RFC 3551 section 3).
pub const VIDEO_TYPE: u8 = 96;

/// Payload type of audio that has no static one.
const DYNAMIC_AUDIO_TYPE: u8 = 97;

/// `$`, channel, length (RFC 2326 section 10.12).
pub const FRAMING: usize = 4;

/// The channels that nearly every RTSP client asks for. RTCP is on the next one.
pub const VIDEO_CHANNEL: u8 = 0;
pub const AUDIO_CHANNEL: u8 = 2;

/// The fixed RTP header (RFC 3550 section 5.1).
const RTP_HEADER: usize = 12;

/// Largest AAC frame that the 13 bits of an AU header can tell (RFC 3640 section 3.3.6).
const MAX_AAC_FRAME: usize = (1 << 13) - 1;

/// How far the timeline goes on where a new run would fall behind the run before it.
const STEP_90K: i64 = VIDEO_CLOCK / 25;

/// One RTP packet: headers (with a payload header such as an FU header, where there is one) and a slice of the sample.
#[derive(Clone, Debug)]
pub struct Packet {
    header: Bytes,
    pub payload: Bytes,
}

impl Packet {
    /// The framing of RTSP over TCP on the usual channel, then the RTP header.
    pub fn framed(&self) -> &[u8] {
        &self.header
    }

    /// The RTP header alone.
    pub fn header(&self) -> &[u8] {
        self.header.get(FRAMING..).unwrap_or_default()
    }

    pub fn sequence(&self) -> u16 {
        self.header().get(2..4).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Bytes of header and payload without the framing.
    pub fn len(&self) -> usize {
        self.header().len() + self.payload.len()
    }

    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }
}

/// The packets of one sample.
#[derive(Clone, Debug, Default)]
pub struct Packets {
    pub packets: Vec<Packet>,
    /// RTP time of the sample in its own clock.
    pub rtp_time: u32,
    pub ssrc: u32,
    /// Bytes of all payloads, as sender reports count them (RFC 3550 section 6.4.1).
    pub octets: u32,
}

/// Packetises a stream's samples, one instance per stream (video and audio each have their own sequence and SSRC).
pub struct Packetiser {
    video: Track,
    audio: Track,
    run: Option<u64>,
    /// Added to every time since a run began behind the one before it.
    shift_90k: i64,
    newest_90k: i64,
}

/// What RFC 3550 wants random and what goes on over runs.
struct Track {
    ssrc: u32,
    sequence: u16,
    offset: u32,
}

impl Track {
    fn draw(random: &mut StdRng) -> Track {
        Track { ssrc: random.next_u32(), sequence: random.next_u32() as u16, offset: random.next_u32() }
    }
}

/// Payload type of this audio (RFC 3551 table 4).
pub fn audio_type(params: &AudioParams) -> u8 {
    match (&params.codec, params.clock_rate, params.channels) {
        (AudioCodec::Pcmu, 8_000, 1) => 0,
        (AudioCodec::Pcma, 8_000, 1) => 8,
        _ => DYNAMIC_AUDIO_TYPE,
    }
}

impl Packetiser {
    /// SSRCs and first sequence numbers are drawn from `seed`.
    pub fn new(seed: u64) -> Packetiser {
        let mut random = StdRng::seed_from_u64(seed);
        Packetiser {
            video: Track::draw(&mut random),
            audio: Track::draw(&mut random),
            run: None,
            shift_90k: 0,
            newest_90k: i64::MIN,
        }
    }

    /// SSRCs of the pictures and of the sound.
    pub fn ssrcs(&self) -> [u32; 2] {
        [self.video.ssrc, self.audio.ssrc]
    }

    /// Sequence numbers of the next packets of both.
    pub fn sequences(&self) -> [u16; 2] {
        [self.video.sequence, self.audio.sequence]
    }

    /// RTP time of a moment on the pictures' timeline.
    pub fn video_time(&self, at_90k: i64) -> u32 {
        (at_90k.saturating_add(self.shift_90k) as u32).wrapping_add(self.video.offset)
    }

    pub fn packetise(&mut self, sample: &Sample) -> Packets {
        match sample {
            Sample::Video(unit) => self.video(unit),
            Sample::Audio(frame) => self.audio(frame),
        }
    }

    fn video(&mut self, unit: &AccessUnit) -> Packets {
        if self.run.is_some_and(|run| run != unit.run) {
            // Readers outlive runs. Where the clock was set back in between, their timeline must rise nevertheless.
            let behind = self.newest_90k.saturating_sub(unit.dts_90k.saturating_add(self.shift_90k));
            if behind >= 0 {
                self.shift_90k = self.shift_90k.saturating_add(behind).saturating_add(STEP_90K);
            }
        }
        self.run = Some(unit.run);
        let time = unit.pts_90k.saturating_add(self.shift_90k);
        self.newest_90k = self.newest_90k.max(time);

        let nals = nals_to_send(unit);
        let last = nals.len().saturating_sub(1);
        let rtp_time = self.video_time(unit.pts_90k);
        let mut out = Builder::new(&mut self.video, VIDEO_CHANNEL, VIDEO_TYPE, rtp_time, unit.data.len());
        for (at, nal) in nals.into_iter().enumerate() {
            match unit.params.codec {
                VideoCodec::H264 => out.h264(nal, at == last),
                VideoCodec::H265 => out.h265(nal, at == last),
            }
        }
        out.finish()
    }

    /// RTP time, in the audio's clock, of a moment on the pictures' timeline.
    pub fn audio_time(&self, at_90k: i64, params: &AudioParams) -> u32 {
        self.audio_ticks(params, in_clock(at_90k, params))
    }

    fn audio_ticks(&self, params: &AudioParams, ticks: i64) -> u32 {
        let shift = in_clock(self.shift_90k, params);
        (ticks.wrapping_add(shift) as u32).wrapping_add(self.audio.offset)
    }

    fn audio(&mut self, frame: &AudioFrame) -> Packets {
        let rtp_time = self.audio_ticks(&frame.params, frame.pts);
        let kind = audio_type(&frame.params);
        let mut out = Builder::new(&mut self.audio, AUDIO_CHANNEL, kind, rtp_time, frame.data.len());
        match frame.params.codec {
            AudioCodec::Aac { .. } => out.aac(&frame.data),
            AudioCodec::Pcma | AudioCodec::Pcmu => out.g711(&frame.data, frame.params.channels),
        }
        out.finish()
    }
}

/// 90 kHz ticks in an audio's own clock.
pub fn in_clock(ticks_90k: i64, params: &AudioParams) -> i64 {
    (i128::from(ticks_90k) * i128::from(params.clock_rate) / i128::from(VIDEO_CLOCK)) as i64
}

/// The NAL units of a picture as readers get them: parameter sets first where decoding may start, no delimiters, and
/// none whose type would be read as one of the payload formats' own.
fn nals_to_send(unit: &AccessUnit) -> Vec<Bytes> {
    let codec = unit.params.codec;
    let sets = if unit.is_rap { unit.params.parameter_sets.as_slice() } else { &[] };
    let meant = |nal: &Bytes| match codec {
        VideoCodec::H264 => nal.len() > 1 && (1..24).contains(&h264::nal_type(nal)),
        VideoCodec::H265 => nal.len() > 2 && h265::nal_type(nal) < 48,
    };
    let own = unit.nal_units().filter(|nal| {
        meant(nal) && !codec.is_delimiter(nal) && !(unit.is_rap && codec.is_parameter_set(nal))
    });
    sets.iter().filter(|nal| meant(nal)).cloned().chain(own).collect()
}

/// Writes the headers of one sample's packets into one buffer.
struct Builder<'a> {
    track: &'a mut Track,
    channel: u8,
    kind: u8,
    rtp_time: u32,
    headers: BytesMut,
    /// Where each packet's headers end, and its payload.
    packets: Vec<(usize, Bytes)>,
}

impl<'a> Builder<'a> {
    fn new(track: &'a mut Track, channel: u8, kind: u8, rtp_time: u32, bytes: usize) -> Builder<'a> {
        let count = bytes / MAX_PAYLOAD + 6;
        let headers = BytesMut::with_capacity(count * (FRAMING + RTP_HEADER + 4));
        Builder { track, channel, kind, rtp_time, headers, packets: Vec::with_capacity(count) }
    }

    fn packet(&mut self, marker: bool, rtp_time: u32, payload_header: &[u8], payload: Bytes) {
        let length = RTP_HEADER + payload_header.len() + payload.len();
        self.headers.put_u8(b'$');
        self.headers.put_u8(self.channel);
        // At most MAX_PAYLOAD and a header.
        self.headers.put_u16(length as u16);
        self.headers.put_u8(2 << 6);
        self.headers.put_u8(u8::from(marker) << 7 | self.kind);
        self.headers.put_u16(self.track.sequence);
        self.headers.put_u32(rtp_time);
        self.headers.put_u32(self.track.ssrc);
        self.headers.put_slice(payload_header);
        self.track.sequence = self.track.sequence.wrapping_add(1);
        self.packets.push((self.headers.len(), payload));
    }

    /// RFC 6184: a single NAL unit packet, or FU-A fragments (section 5.8).
    fn h264(&mut self, nal: Bytes, ends_unit: bool) {
        if nal.len() <= MAX_PAYLOAD {
            return self.packet(ends_unit, self.rtp_time, &[], nal);
        }
        let indicator = nal[0] & 0xe0 | 28;
        let kind = nal[0] & 0x1f;
        self.fragments(nal.slice(1..), ends_unit, |flags| ([indicator, flags | kind, 0], 2));
    }

    /// RFC 7798: a single NAL unit packet, or fragmentation units (section 4.4.3).
    fn h265(&mut self, nal: Bytes, ends_unit: bool) {
        if nal.len() <= MAX_PAYLOAD {
            return self.packet(ends_unit, self.rtp_time, &[], nal);
        }
        let header = [nal[0] & 0x81 | 49 << 1, nal[1]];
        let kind = nal[0] >> 1 & 0x3f;
        self.fragments(nal.slice(2..), ends_unit, |flags| ([header[0], header[1], flags | kind], 3));
    }

    /// `header` makes the payload header and its length of the start and end flags.
    fn fragments(&mut self, mut rest: Bytes, ends_unit: bool, header: impl Fn(u8) -> ([u8; 3], usize)) {
        let mut start = 0x80;
        while !rest.is_empty() {
            let room = MAX_PAYLOAD - header(0).1;
            let piece = rest.split_to(rest.len().min(room));
            let end = if rest.is_empty() { 0x40 } else { 0 };
            let (bytes, length) = header(start | end);
            self.packet(ends_unit && end != 0, self.rtp_time, &bytes[..length], piece);
            start = 0;
        }
    }

    /// RFC 3640 section 3.3.6 (AAC-hbr): one frame a packet, or fragments of one that all tell its whole size.
    fn aac(&mut self, frame: &Bytes) {
        if frame.len() > MAX_AAC_FRAME {
            return;
        }
        let size = (frame.len() as u16) << 3;
        let header = [0, 16, (size >> 8) as u8, size as u8];
        let mut rest = frame.clone();
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(MAX_PAYLOAD - header.len()));
            self.packet(rest.is_empty(), self.rtp_time, &header, piece);
        }
    }

    /// RFC 3551 section 4.5.14: one octet a sample and channel.
    fn g711(&mut self, samples: &Bytes, channels: u16) {
        let channels = usize::from(channels.max(1));
        let room = (MAX_PAYLOAD / channels * channels).max(1);
        let mut rest = samples.clone();
        let mut rtp_time = self.rtp_time;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(room));
            let ticks = (piece.len() / channels) as u32;
            self.packet(false, rtp_time, &[], piece);
            rtp_time = rtp_time.wrapping_add(ticks);
        }
    }

    fn finish(self) -> Packets {
        let headers = self.headers.freeze();
        let mut from = 0;
        let packets = self.packets.into_iter().map(|(to, payload)| {
            let header = headers.slice(from..to);
            from = to;
            Packet { header, payload }
        });
        let packets: Vec<Packet> = packets.collect();
        let bytes: usize = packets.iter().map(Packet::len).sum();
        let octets = (bytes - packets.len() * RTP_HEADER) as u32;
        Packets { packets, rtp_time: self.rtp_time, ssrc: self.track.ssrc, octets }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::media::VideoParams;

    fn params(codec: VideoCodec) -> Arc<VideoParams> {
        let sets: &[&'static [u8]] = match codec {
            VideoCodec::H264 => &[&[0x67, 1, 2], &[0x68, 3]],
            VideoCodec::H265 => &[&[0x40, 1, 1], &[0x42, 1, 2], &[0x44, 1, 3]],
        };
        Arc::new(VideoParams {
            codec,
            parameter_sets: sets.iter().map(|set| Bytes::from_static(set)).collect(),
            width: 64,
            height: 64,
            reorder: 0,
            rfc6381: String::new(),
        })
    }

    fn unit(codec: VideoCodec, run: u64, pts_90k: i64, is_rap: bool, nals: &[Vec<u8>]) -> AccessUnit {
        let mut data = BytesMut::new();
        for nal in nals {
            data.put_u32(nal.len() as u32);
            data.put_slice(nal);
        }
        let data = data.freeze();
        AccessUnit { seq: 0, run, pts_90k, dts_90k: pts_90k, is_rap, params: params(codec), data }
    }

    fn video(packetiser: &mut Packetiser, unit: &AccessUnit) -> Packets {
        packetiser.packetise(&Sample::Video(Arc::new(unit.clone())))
    }

    fn payload(packet: &Packet) -> Vec<u8> {
        [&packet.header()[RTP_HEADER..], &packet.payload].concat()
    }

    fn marker(packet: &Packet) -> bool {
        packet.header()[1] & 0x80 != 0
    }

    fn time(packet: &Packet) -> u32 {
        u32::from_be_bytes(packet.header()[4..8].try_into().unwrap())
    }

    /// The receiving side, by the letter of the RFCs.
    fn nals_of(codec: VideoCodec, packets: &Packets) -> Vec<Vec<u8>> {
        let mut nals = Vec::new();
        let mut open: Option<Vec<u8>> = None;
        for packet in &packets.packets {
            let bytes = payload(packet);
            let (header, flags, rest) = match codec {
                VideoCodec::H264 if bytes[0] & 0x1f == 28 => {
                    (vec![bytes[0] & 0xe0 | bytes[1] & 0x1f], bytes[1], &bytes[2..])
                }
                VideoCodec::H265 if bytes[0] >> 1 & 0x3f == 49 => {
                    (vec![bytes[0] & 0x81 | (bytes[2] & 0x3f) << 1, bytes[1]], bytes[2], &bytes[3..])
                }
                _ => {
                    assert!(open.is_none());
                    nals.push(bytes);
                    continue;
                }
            };
            assert_eq!(flags & 0x80 != 0, open.is_none());
            open.get_or_insert(header).extend_from_slice(rest);
            if flags & 0x40 != 0 {
                nals.extend(open.take());
            }
        }
        assert!(open.is_none());
        nals
    }

    fn nal(codec: VideoCodec, kind: u8, length: usize) -> Vec<u8> {
        let mut nal: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
        match codec {
            VideoCodec::H264 => nal[0] = 0x60 | kind,
            VideoCodec::H265 => (nal[0], nal[1]) = (kind << 1, 1),
        }
        nal
    }

    proptest! {
        #[test]
        fn nal_units_of_any_size_survive_and_only_the_last_packet_is_marked(
            h265: bool,
            lengths in proptest::collection::vec(prop_oneof![3usize..20, 1395usize..1405, 2790usize..2810, 3usize..50_000], 1..6),
        ) {
            let codec = if h265 { VideoCodec::H265 } else { VideoCodec::H264 };
            let nals: Vec<_> = lengths.iter().map(|&length| nal(codec, 1, length)).collect();
            let mut packetiser = Packetiser::new(7);
            let packets = video(&mut packetiser, &unit(codec, 1, 90, false, &nals));
            prop_assert_eq!(nals_of(codec, &packets), nals);
            for (at, packet) in packets.packets.iter().enumerate() {
                prop_assert!(payload(packet).len() <= MAX_PAYLOAD);
                prop_assert_eq!(marker(packet), at + 1 == packets.packets.len());
                prop_assert_eq!(packet.sequence(), packets.packets[0].sequence().wrapping_add(at as u16));
                prop_assert_eq!(time(packet), packets.rtp_time);
                let framed = packet.framed();
                prop_assert_eq!(framed[..2].to_vec(), vec![b'$', VIDEO_CHANNEL]);
                prop_assert_eq!(u16::from_be_bytes([framed[2], framed[3]]) as usize, packet.len());
            }
        }

        #[test]
        fn hostile_payloads_never_panic(data in proptest::collection::vec(any::<u8>(), 0..5000), h265: bool, is_rap: bool) {
            let codec = if h265 { VideoCodec::H265 } else { VideoCodec::H264 };
            let mut hostile = unit(codec, 1, i64::MAX, is_rap, &[]);
            hostile.data = data.into();
            let mut packetiser = Packetiser::new(7);
            video(&mut packetiser, &hostile);
            hostile.run = 2;
            hostile.dts_90k = i64::MIN;
            video(&mut packetiser, &hostile);
        }

        #[test]
        fn audio_of_any_size_survives(length in 1usize..9000, channels in 1u16..3) {
            let data: Bytes = (0..length).map(|at| at as u8).collect();
            let frame = |codec| AudioFrame {
                run: 1, pts: 1_000, duration: 1024, data: data.clone(),
                params: Arc::new(AudioParams { codec, clock_rate: 8_000, channels }),
            };
            let mut packetiser = Packetiser::new(7);
            let aac = packetiser.packetise(&Sample::Audio(Arc::new(frame(AudioCodec::Aac { config: Bytes::new() }))));
            prop_assert_eq!(aac.packets.is_empty(), length > MAX_AAC_FRAME);
            let mut whole = Vec::new();
            for packet in &aac.packets {
                let bytes = payload(packet);
                prop_assert_eq!(bytes[..2].to_vec(), vec![0, 16]);
                prop_assert_eq!((u16::from_be_bytes([bytes[2], bytes[3]]) >> 3) as usize, length);
                whole.extend_from_slice(&bytes[4..]);
                prop_assert_eq!(marker(packet), whole.len() == length);
            }
            prop_assert!(aac.packets.is_empty() || whole == data);
            let alaw = packetiser.packetise(&Sample::Audio(Arc::new(frame(AudioCodec::Pcma))));
            let mut octets = 0;
            for packet in &alaw.packets {
                let ticks = time(packet).wrapping_sub(alaw.rtp_time);
                prop_assert_eq!(ticks as usize, octets / channels as usize);
                octets += packet.payload.len();
            }
            prop_assert_eq!(octets, length);
        }
    }

    #[test]
    fn parameter_sets_lead_a_random_access_point_once_and_delimiters_go() {
        for (codec, delimiter, set, rap) in [(VideoCodec::H264, 9, 7, 5), (VideoCodec::H265, 35, 33, 19)] {
            let nals = [nal(codec, delimiter, 3), nal(codec, set, 9), nal(codec, rap, 5_000)];
            let mut packetiser = Packetiser::new(7);
            let sent = nals_of(codec, &video(&mut packetiser, &unit(codec, 1, 90, true, &nals)));
            let sets = params(codec).parameter_sets.clone();
            let expected: Vec<Vec<u8>> =
                sets.iter().map(|set| set.to_vec()).chain([nals[2].clone()]).collect();
            assert_eq!(sent, expected);
        }
    }

    #[test]
    fn payloads_are_slices_of_the_one_payload() {
        let picture = unit(VideoCodec::H264, 1, 90, false, &[nal(VideoCodec::H264, 1, 100_000)]);
        let held = picture.data.as_ptr_range();
        for packet in &video(&mut Packetiser::new(7), &picture).packets {
            assert!(held.contains(&packet.payload.as_ptr()));
        }
    }

    #[test]
    fn time_rises_over_runs_even_where_the_clock_was_set_back() {
        let nals = [nal(VideoCodec::H264, 5, 50)];
        let mut packetiser = Packetiser::new(7);
        let mut send = |run, pts| video(&mut packetiser, &unit(VideoCodec::H264, run, pts, true, &nals));
        let first = send(1, 900_000);
        let later = send(2, 990_000);
        assert_eq!(later.rtp_time.wrapping_sub(first.rtp_time), 90_000, "an absence takes its real time");
        let back = send(3, 500_000);
        assert_eq!(back.rtp_time.wrapping_sub(later.rtp_time), STEP_90K as u32);
        assert_eq!(send(3, 503_600).rtp_time.wrapping_sub(back.rtp_time), 3_600);
        assert_eq!(back.ssrc, first.ssrc);
        assert_eq!(back.packets[0].sequence(), later.packets.last().unwrap().sequence().wrapping_add(1));
    }
}
