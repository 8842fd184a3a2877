//! H.265 (ITU-T H.265, RFC 7798): NAL unit types and the sequence parameter set.
//!
//! What does not belong here: slices, and anything that decodes.

use super::bits::{Bits, cropped};
use super::params::MAX_SIDE;

// NAL unit types, H.265 table 7-1.
pub const RASL_N: u8 = 8;
pub const RASL_R: u8 = 9;
pub const BLA_W_LP: u8 = 16;
pub const CRA: u8 = 21;
pub const VPS: u8 = 32;
pub const SPS: u8 = 33;
pub const PPS: u8 = 34;
pub const AUD: u8 = 35;
pub const PREFIX_SEI: u8 = 39;
pub const SUFFIX_SEI: u8 = 40;

/// `nal_unit_type`; 63 (unspecified) for an empty NAL unit.
pub fn nal_type(nal: &[u8]) -> u8 {
    nal.first().map_or(63, |header| header >> 1 & 0x3f)
}

/// A slice of an intra random access point picture (BLA, IDR, CRA). Types 22 and 23 are reserved: no decoder may be
/// sent there.
pub fn is_irap(nal_type: u8) -> bool {
    (BLA_W_LP..=CRA).contains(&nal_type)
}

/// A random access skipped leading picture: not decodable when decoding starts at the CRA or BLA before it.
pub fn is_rasl(nal_type: u8) -> bool {
    nal_type == RASL_N || nal_type == RASL_R
}

/// A slice of a coded picture.
pub fn is_vcl(nal_type: u8) -> bool {
    nal_type < 32
}

pub fn is_parameter_set(nal_type: u8) -> bool {
    (VPS..=PPS).contains(&nal_type)
}

/// What the sequence parameter set says (H.265 7.3.2.2), as far as hvcC, players and timing need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sps {
    pub id: u8,
    pub vps_id: u8,
    pub general_profile_space: u8,
    /// High tier.
    pub general_tier_flag: bool,
    pub general_profile_idc: u8,
    /// `general_profile_compatibility_flag[0]` in the most significant bit.
    pub general_profile_compatibility_flags: u32,
    /// The six bytes that follow the compatibility flags: progressive, interlaced, non-packed, frame-only, 44 bits.
    pub general_constraint_indicator_flags: [u8; 6],
    pub general_level_idc: u8,
    pub temporal_layers: u8,
    pub temporal_id_nested: bool,
    /// 0 monochrome, 1 4:2:0, 2 4:2:2, 3 4:4:4.
    pub chroma_format_idc: u8,
    /// Bits a sample, 8 to 16.
    pub bit_depth_luma: u8,
    pub bit_depth_chroma: u8,
    /// Pixels after the conformance window is applied.
    pub width: u32,
    pub height: u32,
    /// `sps_max_num_reorder_pics` of the highest temporal layer.
    pub reorder: u8,
}

impl Sps {
    /// Parses a whole NAL unit, header included. The input is hostile: what no camera sends is refused.
    pub fn parse(nal: &[u8]) -> Result<Sps, String> {
        if nal_type(nal) != SPS {
            return Err("not a sequence parameter set".into());
        }
        let mut b = Bits::new(nal.get(2..).unwrap_or_default())?;
        let vps_id = b.bits(4, "sps_video_parameter_set_id")? as u8;
        let sub_layers = b.bits(3, "sps_max_sub_layers_minus1")? as usize;
        if sub_layers > 6 {
            return Err("sps_max_sub_layers_minus1 is 7, above 6".into());
        }
        let temporal_id_nested = b.flag("sps_temporal_id_nesting_flag")?;
        let general_profile_space = b.bits(2, "general_profile_space")? as u8;
        let general_tier_flag = b.flag("general_tier_flag")?;
        let general_profile_idc = b.bits(5, "general_profile_idc")? as u8;
        let general_profile_compatibility_flags = b.bits(32, "general_profile_compatibility_flag")? as u32;
        let constraints = b.bits(48, "general constraint flags")?.to_be_bytes();
        let [_, _, general_constraint_indicator_flags @ ..] = constraints;
        let general_level_idc = b.byte("general_level_idc")?;
        skip_sub_layer_levels(&mut b, sub_layers)?;
        let id = b.ue(15, "sps_seq_parameter_set_id")? as u8;
        let chroma_format_idc = b.ue(3, "chroma_format_idc")? as u8;
        let separate_planes = chroma_format_idc == 3 && b.flag("separate_colour_plane_flag")?;
        let coded_width = u64::from(b.ue(u32::MAX, "pic_width_in_luma_samples")?);
        let coded_height = u64::from(b.ue(u32::MAX, "pic_height_in_luma_samples")?);
        let mut window = [0; 4];
        if b.flag("conformance_window_flag")? {
            for side in &mut window {
                *side = u64::from(b.ue(u32::MAX, "conf_win_offset")?);
            }
        }
        let [left, right, top, bottom] = window;
        // Table 6-1, SubWidthC and SubHeightC.
        let chroma = if separate_planes { 0 } else { chroma_format_idc };
        let width = cropped(
            coded_width,
            left + right,
            if matches!(chroma, 1 | 2) { 2 } else { 1 },
            MAX_SIDE,
            "width",
        )?;
        let height =
            cropped(coded_height, top + bottom, if chroma == 1 { 2 } else { 1 }, MAX_SIDE, "height")?;
        let bit_depth_luma = 8 + b.ue(8, "bit_depth_luma_minus8")? as u8;
        let bit_depth_chroma = 8 + b.ue(8, "bit_depth_chroma_minus8")? as u8;
        b.ue(12, "log2_max_pic_order_cnt_lsb_minus4")?;
        let every_layer = b.flag("sps_sub_layer_ordering_info_present_flag")?;
        let mut reorder = 0;
        for _ in if every_layer { 0 } else { sub_layers }..=sub_layers {
            b.ue(15, "sps_max_dec_pic_buffering_minus1")?;
            reorder = b.ue(15, "sps_max_num_reorder_pics")? as u8;
            b.ue(u32::MAX, "sps_max_latency_increase_plus1")?;
        }
        Ok(Sps {
            id,
            vps_id,
            general_profile_space,
            general_tier_flag,
            general_profile_idc,
            general_profile_compatibility_flags,
            general_constraint_indicator_flags,
            general_level_idc,
            temporal_layers: sub_layers as u8 + 1,
            temporal_id_nested,
            chroma_format_idc,
            bit_depth_luma,
            bit_depth_chroma,
            width,
            height,
            reorder,
        })
    }

    /// ISO/IEC 14496-15 E.3: `hvc1.1.6.L120.B0`.
    pub fn rfc6381(&self) -> String {
        let space = ["", "A", "B", "C"][usize::from(self.general_profile_space & 3)];
        let tier = if self.general_tier_flag { 'H' } else { 'L' };
        let mut codec = format!(
            "hvc1.{space}{}.{:X}.{tier}{}",
            self.general_profile_idc,
            self.general_profile_compatibility_flags.reverse_bits(),
            self.general_level_idc
        );
        let constraints = &self.general_constraint_indicator_flags;
        let told = constraints.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        for byte in &constraints[..told] {
            codec += &format!(".{byte:X}");
        }
        codec
    }
}

/// The rest of `profile_tier_level` (7.3.3): what the lower temporal layers claim.
fn skip_sub_layer_levels(b: &mut Bits, sub_layers: usize) -> Result<(), String> {
    if sub_layers == 0 {
        return Ok(());
    }
    let mut bits = 0;
    for _ in 0..sub_layers {
        bits += if b.flag("sub_layer_profile_present_flag")? { 88 } else { 0 };
        bits += if b.flag("sub_layer_level_present_flag")? { 8 } else { 0 };
    }
    b.skip(2 * (8 - sub_layers) + bits, "sub-layer profiles and levels")
}
