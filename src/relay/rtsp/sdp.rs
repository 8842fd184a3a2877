//! The description of a stream (RFC 4566) that DESCRIBE answers with.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::request::TRACK;
use crate::live::StreamParams;
use crate::media::rtp::{VIDEO_TYPE, audio_type};
use crate::media::{AudioCodec, AudioParams, VIDEO_CLOCK, VideoCodec, VideoParams, h264, h265};

/// Numbers of the tracks in control URLs.
pub const VIDEO: usize = 0;
pub const AUDIO: usize = 1;

/// `session` tells this description from an earlier one of the same path; `ranges` tell how long a recording is, in each
/// unit (RFC 2326 appendix C.1.5).
pub fn describe(path: &str, session: u64, params: &StreamParams, ranges: &[String]) -> String {
    let mut sdp = format!(
        "v=0\r\no=- {session} 1 IN IP4 0.0.0.0\r\ns={path}\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*\r\n"
    );
    for range in ranges {
        let _ = write!(sdp, "a=range:{range}\r\n");
    }
    let name = match params.video.codec {
        VideoCodec::H264 => "H264",
        VideoCodec::H265 => "H265",
    };
    let _ = write!(
        sdp,
        "m=video 0 RTP/AVP {VIDEO_TYPE}\r\na=rtpmap:{VIDEO_TYPE} {name}/{VIDEO_CLOCK}\r\n\
         a=fmtp:{VIDEO_TYPE} {}\r\na=control:{TRACK}{VIDEO}\r\n",
        video_format(&params.video),
    );
    if let Some(audio) = &params.audio {
        let _ = write!(sdp, "{}a=control:{TRACK}{AUDIO}\r\n", audio_media(audio));
    }
    sdp
}

fn video_format(params: &VideoParams) -> String {
    let sets = |wanted: u8| {
        let of_type = params.parameter_sets.iter().filter(|nal| match params.codec {
            VideoCodec::H264 => h264::nal_type(nal) == wanted,
            VideoCodec::H265 => h265::nal_type(nal) == wanted,
        });
        of_type.map(|nal| STANDARD.encode(nal)).collect::<Vec<_>>().join(",")
    };
    match params.codec {
        // RFC 6184 section 8.1.
        VideoCodec::H264 => {
            let profile = params.parameter_sets.first().and_then(|sps| sps.get(1..4)).map(hex);
            let profile = profile.map(|profile| format!("profile-level-id={profile};")).unwrap_or_default();
            let (sps, pps) = (sets(h264::SPS), sets(h264::PPS));
            format!("packetization-mode=1;{profile}sprop-parameter-sets={sps},{pps}")
        }
        // RFC 7798 section 7.1.
        VideoCodec::H265 => {
            let (vps, sps, pps) = (sets(h265::VPS), sets(h265::SPS), sets(h265::PPS));
            format!("sprop-vps={vps};sprop-sps={sps};sprop-pps={pps}")
        }
    }
}

fn audio_media(params: &AudioParams) -> String {
    let kind = audio_type(params);
    let (name, format) = match &params.codec {
        AudioCodec::Aac { config } => ("mpeg4-generic", Some(aac_format(config))),
        AudioCodec::Pcma => ("PCMA", None),
        AudioCodec::Pcmu => ("PCMU", None),
    };
    let mut media = format!(
        "m=audio 0 RTP/AVP {kind}\r\na=rtpmap:{kind} {name}/{}/{}\r\n",
        params.clock_rate, params.channels
    );
    if let Some(format) = format {
        let _ = write!(media, "a=fmtp:{kind} {format}\r\n");
    }
    media
}

/// RFC 3640 section 4.1.
fn aac_format(config: &Bytes) -> String {
    let config = hex(config);
    format!(
        "streamtype=5;profile-level-id=1;mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3;config={config}"
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn another_parser_finds_the_parameter_sets_in_it() {
        let sps = Bytes::from_static(&[0x67, 0x64, 0x00, 0x28, 0xac]);
        let video = VideoParams {
            codec: VideoCodec::H264,
            parameter_sets: vec![sps, Bytes::from_static(&[0x68, 0xeb])],
            width: 1920,
            height: 1080,
            reorder: 0,
            rfc6381: String::new(),
        };
        let aac = AudioCodec::Aac { config: Bytes::from_static(&[0x11, 0x90]) };
        let audio = AudioParams { codec: aac, clock_rate: 48_000, channels: 2 };
        let params = StreamParams { video: Arc::new(video), audio: Some(Arc::new(audio)) };
        let sdp = describe("forest-1", 5, &params, &["npt=0.000-60.000".to_owned()]);
        let parsed = sdp_types::Session::parse(sdp.as_bytes()).unwrap();
        let range = parsed.get_first_attribute_value("range").unwrap();
        assert_eq!(range, Some("npt=0.000-60.000"));
        let attribute = |media: usize, name: &str| {
            parsed.medias[media].get_first_attribute_value(name).unwrap().unwrap().to_owned()
        };
        assert_eq!(attribute(0, "rtpmap"), "96 H264/90000");
        assert_eq!(
            attribute(0, "fmtp"),
            "96 packetization-mode=1;profile-level-id=640028;sprop-parameter-sets=Z2QAKKw=,aOs="
        );
        assert_eq!(attribute(1, "rtpmap"), "97 mpeg4-generic/48000/2");
        assert!(attribute(1, "fmtp").ends_with("config=1190"));
        assert_eq!(attribute(1, "control"), "trackID=1");
    }
}
