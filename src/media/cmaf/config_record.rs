//! `avcC` and `hvcC`, the decoder configuration records (ISO/IEC 14496-15, 5.3.3 and 8.3.3).
//!
//! Parameter sets are a camera's, hence hostile: what cannot be read is written as 4:2:0 of 8 bits.

use bytes::Bytes;

use super::boxes::Boxes;
use crate::media::params::{VideoCodec, VideoParams};

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
    if matches!(byte(1), 100 | 110 | 122 | 144) {
        let format = avc_format(&sps).unwrap_or_default();
        b.u8(0xfc | format.chroma).u8(0xf8 | format.luma_bits).u8(0xf8 | format.chroma_bits).u8(0);
    }
}

fn hevc(b: &mut Boxes, sets: &[Bytes]) {
    let of_type =
        |kind: u8| sets.iter().filter(move |set| set.first().is_some_and(|byte| (byte >> 1) & 0x3f == kind));
    let sps = of_type(33).next().map(|set| unescape(set)).unwrap_or_default();
    let format = hevc_format(&sps).unwrap_or_default();
    let nesting = sps.get(2).copied().unwrap_or(1);
    // general_profile_space … general_level_idc follow the NAL header and one byte of ids.
    let mut profile = [0; 12];
    if let Some(bytes) = sps.get(3..15) {
        profile.copy_from_slice(bytes);
    }
    b.u8(1).bytes(&profile).u16(0xf000).u8(0xfc);
    b.u8(0xfc | format.chroma).u8(0xf8 | format.luma_bits).u8(0xf8 | format.chroma_bits).u16(0);
    let layers = ((nesting >> 1) & 7) + 1;
    b.u8(layers.min(7) << 3 | (nesting & 1) << 2 | 3);
    b.u8(3);
    for kind in [32, 33, 34] {
        let count = of_type(kind).take(255).count() as u16;
        b.u8(0x80 | kind).u16(count);
        of_type(kind).take(255).for_each(|set| nal(b, set));
    }
}

fn nal(b: &mut Boxes, set: &Bytes) {
    let length = set.len().min(usize::from(u16::MAX));
    b.u16(length as u16).bytes(&set[..length]);
}

/// chroma_format_idc, and bit depths minus 8.
struct Format {
    chroma: u8,
    luma_bits: u8,
    chroma_bits: u8,
}

impl Default for Format {
    fn default() -> Format {
        Format { chroma: 1, luma_bits: 0, chroma_bits: 0 }
    }
}

impl Format {
    fn read(chroma: u32, bits: &mut Bits<'_>) -> Option<Format> {
        let luma_bits = bits.golomb()?.min(7) as u8;
        let chroma_bits = bits.golomb()?.min(7) as u8;
        Some(Format { chroma: chroma.min(3) as u8, luma_bits, chroma_bits })
    }
}

/// Of a sequence parameter set of the high profiles (ITU-T H.264, 7.3.2.1.1).
fn avc_format(sps: &[u8]) -> Option<Format> {
    let sps = unescape(sps);
    let mut bits = Bits { bytes: &sps, at: 32 };
    bits.golomb()?;
    let chroma = bits.golomb()?;
    if chroma == 3 {
        bits.skip(1);
    }
    Format::read(chroma, &mut bits)
}

/// ITU-T H.265, 7.3.2.2.1.
fn hevc_format(sps: &[u8]) -> Option<Format> {
    let sub_layers = u32::from(sps.get(2)? >> 1 & 7);
    let mut bits = Bits { bytes: sps, at: 15 * 8 };
    if sub_layers > 0 {
        let mut present = [(false, false); 8];
        for layer in present.iter_mut().take(sub_layers as usize) {
            *layer = (bits.bit()?, bits.bit()?);
        }
        bits.skip(2 * (8 - sub_layers as usize));
        for (profile, level) in present {
            bits.skip(if profile { 88 } else { 0 } + if level { 8 } else { 0 });
        }
    }
    bits.golomb()?;
    let chroma = bits.golomb()?;
    if chroma == 3 {
        bits.skip(1);
    }
    bits.golomb()?;
    bits.golomb()?;
    if bits.bit()? {
        for _ in 0..4 {
            bits.golomb()?;
        }
    }
    Format::read(chroma, &mut bits)
}

/// The payload without emulation prevention bytes; parameter sets are short, more than 4 KiB is not looked at.
fn unescape(nal: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(nal.len().min(4096));
    let mut zeros = 0;
    for &byte in nal.iter().take(4096) {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn bit(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    fn skip(&mut self, bits: usize) {
        self.at += bits;
    }

    /// ue(v), up to 31 bits.
    fn golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.bit()? {
            zeros += 1;
            if zeros > 30 {
                return None;
            }
        }
        let mut value = 1u32;
        for _ in 0..zeros {
            value = value << 1 | u32::from(self.bit()?);
        }
        Some(value - 1)
    }
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
