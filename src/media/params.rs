//! What a decoder or a player must know of a stream before its first picture.

use bytes::Bytes;

use super::{h264, h265};

/// Pixels a side that are believed of a camera; a decoder asked for more would be the camera's weapon.
pub const MAX_SIDE: u32 = 16_384;

/// Parameter sets of one stream, of all kinds together; real cameras send three, encoders with several PPS a few more.
const MAX_SETS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VideoCodec {
    H264,
    H265,
}

/// Parameter sets of one video stream and what they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoParams {
    pub codec: VideoCodec,
    /// VPS (H.265 only), SPS and PPS NAL units in that order, without start codes or lengths.
    pub parameter_sets: Vec<Bytes>,
    /// Picture size in pixels after cropping.
    pub width: u32,
    pub height: u32,
    /// How many pictures may precede another in decode order and follow it in output order.
    pub reorder: u8,
    /// `avc1.640028` or `hvc1.1.6.L120.B0`, RFC 6381.
    pub rfc6381: String,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{set}: {what}")]
pub struct ParamsError {
    /// Which parameter set: "SPS", "PPS" or "VPS".
    pub set: &'static str,
    pub what: String,
}

impl VideoCodec {
    /// A sequence, picture or video parameter set.
    pub fn is_parameter_set(self, nal: &[u8]) -> bool {
        match self {
            VideoCodec::H264 => h264::is_parameter_set(h264::nal_type(nal)),
            VideoCodec::H265 => h265::is_parameter_set(h265::nal_type(nal)),
        }
    }

    /// A slice of a picture at which decoding may start.
    pub fn is_rap(self, nal: &[u8]) -> bool {
        match self {
            VideoCodec::H264 => h264::is_idr(h264::nal_type(nal)),
            VideoCodec::H265 => h265::is_irap(h265::nal_type(nal)),
        }
    }

    /// A slice of a picture.
    pub fn is_vcl(self, nal: &[u8]) -> bool {
        match self {
            VideoCodec::H264 => h264::is_vcl(h264::nal_type(nal)),
            VideoCodec::H265 => h265::is_vcl(h265::nal_type(nal)),
        }
    }

    /// An access unit delimiter, which only a byte stream needs.
    pub fn is_delimiter(self, nal: &[u8]) -> bool {
        match self {
            VideoCodec::H264 => h264::nal_type(nal) == h264::AUD,
            VideoCodec::H265 => h265::nal_type(nal) == h265::AUD,
        }
    }
}

impl VideoParams {
    /// Parses parameter set NAL units (any order, other NAL units ignored). The input is a camera's, hence hostile.
    ///
    /// Where there are several SPS, the first one is taken for the size.
    pub fn parse(codec: VideoCodec, nal_units: &[Bytes]) -> Result<VideoParams, ParamsError> {
        let of_type = |wanted: u8| {
            let mut sets: Vec<Bytes> = Vec::new();
            for nal in nal_units {
                let nal_type = match codec {
                    VideoCodec::H264 => h264::nal_type(nal),
                    VideoCodec::H265 => h265::nal_type(nal),
                };
                if nal_type == wanted && !sets.contains(nal) && sets.len() < MAX_SETS {
                    sets.push(nal.clone());
                }
            }
            sets
        };
        let error = |set, what: &str| ParamsError { set, what: what.into() };
        let (vps, sps, pps) = match codec {
            VideoCodec::H264 => (Vec::new(), of_type(h264::SPS), of_type(h264::PPS)),
            VideoCodec::H265 => (of_type(h265::VPS), of_type(h265::SPS), of_type(h265::PPS)),
        };
        let Some(first) = sps.first() else { return Err(error("SPS", "missing")) };
        if codec == VideoCodec::H265 && vps.is_empty() {
            return Err(error("VPS", "missing"));
        }
        if pps.is_empty() {
            return Err(error("PPS", "missing"));
        }
        // Their lengths are 16 bits wide in avcC, hvcC and aggregation packets.
        for (set, nals) in [("VPS", &vps), ("SPS", &sps), ("PPS", &pps)] {
            if let Some(long) = nals.iter().find(|nal| nal.len() > usize::from(u16::MAX)) {
                return Err(error(set, &format!("{} bytes long", long.len())));
            }
        }
        let (width, height, reorder, rfc6381) = match codec {
            VideoCodec::H264 => {
                let sps = h264::Sps::parse(first).map_err(|what| error("SPS", &what))?;
                (sps.width, sps.height, sps.reorder, sps.rfc6381())
            }
            VideoCodec::H265 => {
                let sps = h265::Sps::parse(first).map_err(|what| error("SPS", &what))?;
                (sps.width, sps.height, sps.reorder, sps.rfc6381())
            }
        };
        let parameter_sets = vps.into_iter().chain(sps).chain(pps).collect();
        Ok(VideoParams { codec, parameter_sets, width, height, reorder, rfc6381 })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AudioCodec {
    /// With its AudioSpecificConfig (ISO/IEC 14496-3).
    Aac {
        config: Bytes,
    },
    Pcma,
    Pcmu,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioParams {
    pub codec: AudioCodec,
    /// Samples a second, also the timescale of [`super::AudioFrame::pts`].
    pub clock_rate: u32,
    pub channels: u16,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Parameter sets that x264 and x265 wrote; what ffprobe 5.1 says of the streams is what the tests expect.
    const HIGH_1080: &[&str] = &["67640028acd940780227e5c044000003000400000300c83c60c658", "68ebe3cb22c0"];
    const BASELINE: &[&str] = &["6742c01ed900a02ff97011000003000100000300320f162e48", "68cb83cb20"];
    const HIGH_422: &[&str] = &["677a001eb6cb201405ff1380880000030008000003019078b17240", "68ebc3cb22c0"];
    const MAIN_1080: &[&str] = &[
        "40010c01ffff016000000300900000030000030078959809",
        "420101016000000300900000030000030078a003c08010e596566924caf0168080000003008000000c84",
        "4401c172b46240",
    ];
    const MAIN_10: &[&str] = &[
        "40010c01ffff02200000030090000003000003003f928090",
        "42010102200000030090000003000003003fa00502016936592a4932bc05a02000000300200000030321",
        "4401c172b46240",
    ];

    fn nals(hex: &[&str]) -> Vec<Bytes> {
        let byte = |nal: &str, at: usize| u8::from_str_radix(&nal[at..at + 2], 16).unwrap();
        hex.iter().map(|nal| (0..nal.len()).step_by(2).map(|at| byte(nal, at)).collect()).collect()
    }

    fn parse(codec: VideoCodec, hex: &[&str]) -> VideoParams {
        VideoParams::parse(codec, &nals(hex)).unwrap()
    }

    #[test]
    fn h264_parameters_of_x264() {
        let high = parse(VideoCodec::H264, HIGH_1080);
        assert_eq!((high.width, high.height, high.reorder), (1920, 1080, 2));
        assert_eq!(high.rfc6381, "avc1.640028");
        assert_eq!(high.parameter_sets, nals(HIGH_1080));
        let baseline = parse(VideoCodec::H264, BASELINE);
        assert_eq!((baseline.width, baseline.height, baseline.reorder), (640, 360, 0));
        assert_eq!(baseline.rfc6381, "avc1.42c01e");
        let sps = h264::Sps::parse(&nals(HIGH_422)[0]).unwrap();
        assert_eq!((sps.chroma_format_idc, sps.bit_depth_luma, sps.bit_depth_chroma), (2, 10, 10));
        assert_eq!((sps.width, sps.height, sps.reorder), (640, 360, 0));
    }

    #[test]
    fn h265_parameters_of_x265() {
        let main = parse(VideoCodec::H265, MAIN_1080);
        assert_eq!((main.width, main.height, main.reorder), (1920, 1080, 2));
        assert_eq!(main.rfc6381, "hvc1.1.6.L120.90");
        let sps = h265::Sps::parse(&nals(MAIN_10)[1]).unwrap();
        assert_eq!((sps.width, sps.height, sps.reorder), (640, 360, 0));
        assert_eq!((sps.chroma_format_idc, sps.bit_depth_luma, sps.bit_depth_chroma), (1, 10, 10));
        assert_eq!((sps.temporal_layers, sps.temporal_id_nested), (1, true));
        assert_eq!(sps.rfc6381(), "hvc1.2.4.L63.90");
    }

    #[test]
    fn without_a_bitstream_restriction_the_level_decides() {
        // Main profile at level 4.0, picture order count type 0, 1920x1088, no VUI: written by hand from 7.3.2.1.1.
        let bits = "01001101 00000000 00101000 1 1 1 1 010 0 0000001111000 0000001000100 1 1 0 0 1";
        let bits: String = bits.chars().filter(|bit| *bit != ' ').collect();
        let sps: Vec<u8> = std::iter::once(0x67)
            .chain(bits.as_bytes().chunks(8).map(|byte| {
                let text = std::str::from_utf8(byte).unwrap();
                u8::from_str_radix(&format!("{text:0<8}"), 2).unwrap()
            }))
            .collect();
        let sps = h264::Sps::parse(&sps).unwrap();
        assert_eq!((sps.width, sps.height), (1920, 1088));
        assert_eq!(sps.reorder, 4, "32768 macroblocks of level 4.0 hold four pictures of 8160");
    }

    #[test]
    fn sets_are_ordered_deduplicated_and_required() {
        let mut given = nals(MAIN_1080);
        given.reverse();
        given.extend(nals(MAIN_1080));
        given.push(Bytes::from_static(&[0x4e, 0x01, 0x05]));
        given.push(Bytes::new());
        let params = VideoParams::parse(VideoCodec::H265, &given).unwrap();
        assert_eq!(params.parameter_sets, nals(MAIN_1080));
        for (missing, set) in [(0, "VPS"), (1, "SPS"), (2, "PPS")] {
            let mut given = nals(MAIN_1080);
            given.remove(missing);
            assert_eq!(VideoParams::parse(VideoCodec::H265, &given).unwrap_err().set, set);
        }
    }

    #[test]
    fn absurd_sizes_are_refused() {
        let mut bits = String::from("010000101100000000011110");
        // id 0, frame num, poc type 2 (011), two reference frames, no gaps; then 65536 macroblocks a side.
        bits += "1 1 011 010 0";
        bits += &format!("{}1{:016b}", "0".repeat(16), 0);
        bits += &format!("{}1{:016b}", "0".repeat(16), 0);
        bits += "1 1 0 0 1";
        let bits: String = bits.chars().filter(|bit| *bit != ' ').collect();
        let mut sps = vec![0x67];
        for byte in bits.as_bytes().chunks(8) {
            sps.push(u8::from_str_radix(&format!("{:0<8}", std::str::from_utf8(byte).unwrap()), 2).unwrap());
            if sps.ends_with(&[0, 0]) {
                sps.push(3);
            }
        }
        let error = h264::Sps::parse(&sps).unwrap_err();
        assert!(error.contains("width of 1048576 pixels"), "{error}");
    }

    fn believable(params: &VideoParams) -> bool {
        (1..=MAX_SIDE).contains(&params.width)
            && (1..=MAX_SIDE).contains(&params.height)
            && params.reorder <= 16
            && params.rfc6381.is_ascii()
            && !params.parameter_sets.is_empty()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn random_parameter_sets_never_panic(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let pps = nals(&["68ebe3cb22c0", "4401c172b46240", "40010c01ffff016000000300900000030000030078959809"]);
            for (codec, header) in [(VideoCodec::H264, &[0x67][..]), (VideoCodec::H265, &[0x42, 0x01])] {
                let mut given = pps.clone();
                given.push([header, &payload].concat().into());
                if let Ok(params) = VideoParams::parse(codec, &given) {
                    prop_assert!(believable(&params));
                }
                let _ = VideoParams::parse(codec, &[Bytes::from(payload.clone())]);
            }
        }

        #[test]
        fn damaged_parameter_sets_never_panic(
            which in 0usize..5,
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let (codec, hex) = [
                (VideoCodec::H264, HIGH_1080),
                (VideoCodec::H264, BASELINE),
                (VideoCodec::H264, HIGH_422),
                (VideoCodec::H265, MAIN_1080),
                (VideoCodec::H265, MAIN_10),
            ][which];
            let mut given = nals(hex);
            let sps = if codec == VideoCodec::H264 { 0 } else { 1 };
            let mut damaged = given[sps].to_vec();
            for (at, value) in flips {
                let at = at.index(damaged.len());
                damaged[at] = value;
            }
            damaged.truncate(cut.index(damaged.len()) + 1);
            given[sps] = damaged.into();
            if let Ok(params) = VideoParams::parse(codec, &given) {
                prop_assert!(believable(&params));
            }
        }
    }
}
