//! Pictures and sound in any order of times and sizes, as a camera's session hands them on: the CMAF packager and the
//! RTP packetiser lose nothing, and their sizes and times add up.
#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use liuta::media::cmaf::read::Fragment;
use liuta::media::cmaf::{Packager, Part};
use liuta::media::rtp::{FRAMING, MAX_PAYLOAD, Packetiser};
use liuta::media::time::DecodeTimes;
use liuta::media::{AccessUnit, AudioCodec, AudioFrame, AudioParams, Sample, VideoCodec, VideoParams};

/// A time of day that keeps every time positive, in ticks of 90 kHz.
const START_90K: i64 = 1_790_000_000 * 90_000;

#[derive(Arbitrary, Debug)]
struct Session {
    h265: bool,
    reorder: u8,
    announced: bool,
    events: Vec<Event>,
}

#[derive(Arbitrary, Debug)]
enum Event {
    Picture { step: i32, rap: bool, nals: Vec<(u8, u16)> },
    Parameters { width: u16 },
    Sound { aac: bool, step: i16, bytes: u16, duration: u16 },
}

fn video(h265: bool, width: u16) -> Arc<VideoParams> {
    let codec = if h265 { VideoCodec::H265 } else { VideoCodec::H264 };
    let sets: &[&'static [u8]] = match codec {
        VideoCodec::H264 => &[&[0x67, 0x42, 0xc0, 0x1e], &[0x68, 0xcb]],
        VideoCodec::H265 => &[&[0x40, 1, 12], &[0x42, 1, 1], &[0x44, 1, 0xc1]],
    };
    Arc::new(VideoParams {
        codec,
        parameter_sets: sets.iter().map(|set| Bytes::from_static(set)).collect(),
        width: u32::from(width.max(1)),
        height: 16,
        reorder: 0,
        rfc6381: String::new(),
    })
}

fn audio(aac: bool) -> Arc<AudioParams> {
    Arc::new(match aac {
        true => AudioParams {
            codec: AudioCodec::Aac { config: Bytes::from_static(&[0x12, 0x10]) },
            clock_rate: 44_100,
            channels: 2,
        },
        false => AudioParams { codec: AudioCodec::Pcma, clock_rate: 8_000, channels: 1 },
    })
}

/// NAL units behind their lengths, each of a header and zeros.
fn payload(h265: bool, rap: bool, nals: &[(u8, u16)]) -> Bytes {
    let mut data = Vec::new();
    for &(kind, bytes) in nals.iter().take(8) {
        let length = usize::from(bytes).max(3);
        let kind = if rap { if h265 { 19 << 1 } else { 0x65 } } else { kind };
        data.extend_from_slice(&(length as u32).to_be_bytes());
        data.extend_from_slice(&[kind & 0x7f, 1]);
        data.resize(data.len() + length - 2, 0);
    }
    data.into()
}

fn check_part(part: &Part, before: Option<&Part>) {
    let fragment = Fragment::parse(&part.header).expect("a part can be read back");
    assert_eq!(fragment.size, part.len());
    assert_eq!(fragment.video.samples.len(), part.pictures as usize);
    assert_eq!(fragment.video.independent, part.independent);
    let sounds = fragment.audio.as_ref().map_or(0, |audio| audio.samples.len());
    assert_eq!(part.payload.len(), fragment.video.samples.len() + sounds);
    let sizes = fragment.video.samples.iter().chain(fragment.audio.iter().flat_map(|audio| &audio.samples));
    for (sample, payload) in sizes.zip(&part.payload) {
        assert_eq!(sample.size as usize, payload.len());
        assert!(sample.duration > 0);
    }
    assert!(part.duration_90k > 0);
    let Some(before) = before else { return };
    assert_eq!(part.seq, before.seq + 1);
    let earlier = Fragment::parse(&before.header).expect("a part can be read back");
    let end = earlier.video.decode_time + earlier.video.duration();
    assert_eq!(fragment.video.decode_time, end, "decode times go on where they ended");
    let rebased = part.rebased(part.decode_90k().expect("a decode time")).expect("a part can be moved");
    assert_eq!(Fragment::parse(&rebased).expect("a moved part").video.decode_time, 0);
}

fuzz_target!(|session: Session| {
    let mut params = video(session.h265, 640);
    let mut times = DecodeTimes::new(session.reorder % 17);
    let mut packager = Packager::new(1, 0, session.announced.then(|| audio(true)));
    let mut packetiser = Packetiser::new(7);
    let (mut now_90k, mut heard, mut seq) = (START_90K, 0i64, 0);
    let (mut last_dts, mut sequence) = (i64::MIN, [None::<u16>; 2]);
    let (mut pictures, mut started) = (0u32, false);
    let mut parts: Vec<Part> = Vec::new();
    for event in session.events.iter().take(2000) {
        let sample = match event {
            Event::Parameters { width } => {
                params = video(session.h265, *width);
                continue;
            }
            Event::Picture { step, rap, nals } => {
                // A camera's session ends where its clock runs away.
                now_90k += i64::from(*step) % 900_000;
                let (pts_90k, dts_90k) = times.next(now_90k);
                assert!(dts_90k <= pts_90k && dts_90k > last_dts);
                last_dts = dts_90k;
                started |= *rap;
                pictures += u32::from(started);
                seq += 1;
                let (params, data) = (params.clone(), payload(session.h265, *rap, nals));
                Sample::Video(Arc::new(AccessUnit {
                    seq,
                    run: 1,
                    pts_90k,
                    dts_90k,
                    is_rap: *rap,
                    params,
                    data,
                }))
            }
            Event::Sound { aac, step, bytes, duration } => {
                let params = audio(*aac);
                heard += i64::from(*step);
                let pts = START_90K / 90_000 * i64::from(params.clock_rate) + heard;
                let data = vec![0; usize::from(*bytes)].into();
                Sample::Audio(Arc::new(AudioFrame {
                    run: 1,
                    pts,
                    duration: (*duration).into(),
                    params,
                    data,
                }))
            }
        };
        if let Some(part) = packager.push(&sample) {
            check_part(&part, parts.last());
            parts.push(part);
        }
        let track = usize::from(matches!(sample, Sample::Audio(_)));
        let packets = packetiser.packetise(&sample).packets;
        for (at, packet) in packets.iter().enumerate() {
            let framed = packet.framed();
            assert_eq!(usize::from(u16::from_be_bytes([framed[2], framed[3]])), packet.len());
            assert!(packet.len() <= MAX_PAYLOAD + 12 && framed.len() >= FRAMING + 12 && !packet.is_empty());
            assert!(sequence[track].is_none_or(|last| packet.sequence() == last.wrapping_add(1)));
            sequence[track] = Some(packet.sequence());
            let marker = packet.header()[1] & 0x80 != 0;
            assert!(track == 1 || marker == (at + 1 == packets.len()), "the last packet of a picture tells");
        }
    }
    if let Some(part) = packager.finish() {
        check_part(&part, parts.last());
        parts.push(part);
    }
    assert_eq!(parts.iter().map(|part| part.pictures).sum::<u32>(), pictures, "no picture is lost");
});
