//! `avcC` and `hvcC`, the decoder configuration records (ISO/IEC 14496-15, 5.3.3 and 8.3.3).
//!
//! Parameter sets are a camera's, hence hostile: what cannot be read is written as 4:2:0 of 8 bits.

use bytes::Bytes;

use super::boxes::Boxes;
use crate::media::params::{VideoCodec, VideoParams};
use crate::media::{h264, h265};

pub(super) fn write(b: &mut Boxes, video: &VideoParams) {
    match video.codec {
        VideoCodec::H264 => avc(b, &video.parameter_sets),
        VideoCodec::H265 => hevc(b, &video.parameter_sets),
    }
}

fn avc(b: &mut Boxes, sets: &[Bytes]) {
    let of_type =
        |kind: u8| sets.iter().filter(move |set| set.first().is_some_and(|byte| byte & 0x1f == kind));
    let sps = of_type(7).next().cloned().unwrap_or_default();
    let byte = |at: usize| sps.get(at).copied().unwrap_or(0);
    b.u8(1).u8(byte(1)).u8(byte(2)).u8(byte(3)).u8(0xff);
    let count = of_type(7).take(31).count() as u8;
    b.u8(0xe0 | count);
    of_type(7).take(31).for_each(|set| nal(b, set));
    let count = of_type(8).take(255).count() as u8;
    b.u8(count);
    of_type(8).take(255).for_each(|set| nal(b, set));
    if h264::has_chroma_info(byte(1)) {
        let sps = h264::Sps::parse(&sps).ok();
        format(b, sps.map(|sps| (sps.chroma_format_idc, sps.bit_depth_luma, sps.bit_depth_chroma)));
        b.u8(0);
    }
}

fn hevc(b: &mut Boxes, sets: &[Bytes]) {
    let of_type =
        |kind: u8| sets.iter().filter(move |set| set.first().is_some_and(|byte| (byte >> 1) & 0x3f == kind));
    let sps = of_type(33).next().and_then(|set| h265::Sps::parse(set).ok());
    b.u8(1);
    match &sps {
        Some(sps) => {
            let tier = u8::from(sps.general_tier_flag);
            b.u8(sps.general_profile_space << 6 | tier << 5 | sps.general_profile_idc)
                .u32(sps.general_profile_compatibility_flags)
                .bytes(&sps.general_constraint_indicator_flags)
                .u8(sps.general_level_idc);
        }
        None => {
            b.bytes(&[0; 12]);
        }
    }
    b.u16(0xf000).u8(0xfc);
    format(b, sps.as_ref().map(|sps| (sps.chroma_format_idc, sps.bit_depth_luma, sps.bit_depth_chroma)));
    b.u16(0);
    let (layers, nested) = sps.map_or((1, true), |sps| (sps.temporal_layers, sps.temporal_id_nested));
    b.u8(layers.min(7) << 3 | u8::from(nested) << 2 | 3);
    b.u8(3);
    for kind in [32, 33, 34] {
        let count = of_type(kind).take(255).count() as u16;
        b.u8(0x80 | kind).u16(count);
        of_type(kind).take(255).for_each(|set| nal(b, set));
    }
}

/// `chroma_format_idc` and the two bit depths, in 2 and 3 bits.
fn format(b: &mut Boxes, told: Option<(u8, u8, u8)>) {
    let (chroma, luma_bits, chroma_bits) = told.unwrap_or((1, 8, 8));
    b.u8(0xfc | chroma.min(3));
    for bits in [luma_bits, chroma_bits] {
        b.u8(0xf8 | bits.saturating_sub(8).min(7));
    }
}

fn nal(b: &mut Boxes, set: &Bytes) {
    let length = set.len().min(usize::from(u16::MAX));
    b.u16(length as u16).bytes(&set[..length]);
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn hostile_parameter_sets_make_a_record(sets: Vec<Vec<u8>>, h265: bool) {
            let codec = if h265 { VideoCodec::H265 } else { VideoCodec::H264 };
            let parameter_sets = sets.into_iter().map(Bytes::from).collect();
            let video = VideoParams { codec, parameter_sets, width: 1, height: 1, reorder: 0, rfc6381: String::new() };
            let mut b = Boxes::with_capacity(64);
            write(&mut b, &video);
            proptest::prop_assert!(b.0.len() >= 7);
        }
    }
}
