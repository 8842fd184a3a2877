//! H.264 (ITU-T H.264, RFC 6184): NAL unit types and the sequence parameter set.
//!
//! What does not belong here: slices, and anything that decodes.

use super::bits::{Bits, Read, cropped};
use super::params::MAX_SIDE;

// NAL unit types, H.264 table 7-1.
pub const IDR: u8 = 5;
pub const SEI: u8 = 6;
pub const SPS: u8 = 7;
pub const PPS: u8 = 8;
pub const AUD: u8 = 9;

/// `nal_unit_type`; 0 (unspecified) for an empty NAL unit.
pub fn nal_type(nal: &[u8]) -> u8 {
    nal.first().map_or(0, |header| header & 0x1f)
}

/// A slice of an IDR picture: decoding may start here.
pub fn is_idr(nal_type: u8) -> bool {
    nal_type == IDR
}

/// A slice or slice data partition of a coded picture.
pub fn is_vcl(nal_type: u8) -> bool {
    (1..=5).contains(&nal_type)
}

pub fn is_parameter_set(nal_type: u8) -> bool {
    nal_type == SPS || nal_type == PPS
}

/// What the sequence parameter set says (H.264 7.3.2.1.1), as far as avcC, players and timing need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sps {
    pub id: u8,
    pub profile_idc: u8,
    /// `constraint_set0_flag` in the most significant bit, as avcC's `profile_compatibility`.
    pub constraints: u8,
    pub level_idc: u8,
    /// 0 monochrome, 1 4:2:0, 2 4:2:2, 3 4:4:4.
    pub chroma_format_idc: u8,
    /// Bits a sample, 8 to 14.
    pub bit_depth_luma: u8,
    pub bit_depth_chroma: u8,
    /// Pixels after cropping.
    pub width: u32,
    pub height: u32,
    /// How many pictures may precede another in decode order and follow it in output order: `max_num_reorder_frames`
    /// where it is told, else what the standard infers (E.2.1).
    pub reorder: u8,
}

/// Profiles whose parameter set tells chroma format, bit depths and scaling (7.3.2.1.1); avcC then has them too.
pub fn has_chroma_info(profile_idc: u8) -> bool {
    matches!(profile_idc, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135)
}

impl Sps {
    /// Parses a whole NAL unit, header included. The input is hostile: what no camera sends is refused.
    pub fn parse(nal: &[u8]) -> Result<Sps, String> {
        if nal_type(nal) != SPS {
            return Err("not a sequence parameter set".into());
        }
        let mut b = Bits::new(nal.get(1..).unwrap_or_default())?;
        let profile_idc = b.byte("profile_idc")?;
        let constraints = b.byte("constraint flags")?;
        let level_idc = b.byte("level_idc")?;
        let id = b.ue(31, "seq_parameter_set_id")? as u8;
        let (mut chroma_format_idc, mut bit_depth_luma, mut bit_depth_chroma) = (1, 8, 8);
        let mut separate_planes = false;
        if has_chroma_info(profile_idc) {
            chroma_format_idc = b.ue(3, "chroma_format_idc")? as u8;
            separate_planes = chroma_format_idc == 3 && b.flag("separate_colour_plane_flag")?;
            bit_depth_luma = 8 + b.ue(6, "bit_depth_luma_minus8")? as u8;
            bit_depth_chroma = 8 + b.ue(6, "bit_depth_chroma_minus8")? as u8;
            b.skip(1, "qpprime_y_zero_transform_bypass_flag")?;
            if b.flag("seq_scaling_matrix_present_flag")? {
                skip_scaling_matrix(&mut b, if chroma_format_idc == 3 { 12 } else { 8 })?;
            }
        }
        b.ue(12, "log2_max_frame_num_minus4")?;
        let poc_type = b.ue(2, "pic_order_cnt_type")?;
        match poc_type {
            0 => {
                b.ue(12, "log2_max_pic_order_cnt_lsb_minus4")?;
            }
            1 => {
                b.skip(1, "delta_pic_order_always_zero_flag")?;
                b.se("offset_for_non_ref_pic")?;
                b.se("offset_for_top_to_bottom_field")?;
                for _ in 0..b.ue(255, "num_ref_frames_in_pic_order_cnt_cycle")? {
                    b.se("offset_for_ref_frame")?;
                }
            }
            _ => {}
        }
        b.ue(16, "max_num_ref_frames")?;
        b.skip(1, "gaps_in_frame_num_value_allowed_flag")?;
        // Bounded so that twice sixteen times as much cannot overflow; the real bound is on the result.
        let width_mbs = u64::from(b.ue(u32::MAX - 1, "pic_width_in_mbs_minus1")?) + 1;
        let map_units = u64::from(b.ue(u32::MAX - 1, "pic_height_in_map_units_minus1")?) + 1;
        let frames_only = b.flag("frame_mbs_only_flag")?;
        let height_mbs = map_units * if frames_only { 1 } else { 2 };
        if !frames_only {
            b.skip(1, "mb_adaptive_frame_field_flag")?;
        }
        b.skip(1, "direct_8x8_inference_flag")?;
        let mut crop = [0; 4];
        if b.flag("frame_cropping_flag")? {
            for side in &mut crop {
                *side = u64::from(b.ue(u32::MAX, "frame_crop_offset")?);
            }
        }
        let [left, right, top, bottom] = crop;
        // 7.4.2.1.1, CropUnitX and CropUnitY.
        let chroma = if separate_planes { 0 } else { chroma_format_idc };
        let unit_x = if matches!(chroma, 1 | 2) { 2 } else { 1 };
        let unit_y = if chroma == 1 { 2 } else { 1 } * if frames_only { 1 } else { 2 };
        let width = cropped(width_mbs * 16, left + right, unit_x, MAX_SIDE, "width")?;
        let height = cropped(height_mbs * 16, top + bottom, unit_y, MAX_SIDE, "height")?;
        // Cameras are known to write wrong VUI; everything that matters more is read by now.
        let told = b
            .flag("vui_parameters_present_flag")
            .and_then(|vui| if vui { reorder_of_vui(&mut b) } else { Ok(None) });
        let never_reorders = poc_type == 2
            // Baseline has no B slices.
            || profile_idc == 66
            // The intra profiles (E.2.1, max_num_reorder_frames).
            || (matches!(profile_idc, 44 | 86 | 100 | 110 | 122 | 244) && constraints & 0x10 != 0);
        let reorder = match told.ok().flatten() {
            Some(reorder) => reorder,
            None if never_reorders => 0,
            None => max_dpb_frames(level_idc, constraints, width_mbs * height_mbs),
        };
        Ok(Sps {
            id,
            profile_idc,
            constraints,
            level_idc,
            chroma_format_idc,
            bit_depth_luma,
            bit_depth_chroma,
            width,
            height,
            reorder,
        })
    }

    /// RFC 6381 3.3 and ISO/IEC 14496-15: `avc1.PPCCLL`.
    pub fn rfc6381(&self) -> String {
        format!("avc1.{:02x}{:02x}{:02x}", self.profile_idc, self.constraints, self.level_idc)
    }
}

fn skip_scaling_matrix(b: &mut Bits, lists: usize) -> Read<()> {
    for list in 0..lists {
        if !b.flag("seq_scaling_list_present_flag")? {
            continue;
        }
        let (mut last, mut next) = (8, 8);
        for _ in 0..if list < 6 { 16 } else { 64 } {
            if next != 0 {
                next = (last + b.se("delta_scale")?).rem_euclid(256);
            }
            if next != 0 {
                last = next;
            }
        }
    }
    Ok(())
}

/// `max_num_reorder_frames` of the VUI (E.1.1), where there is a bitstream restriction.
fn reorder_of_vui(b: &mut Bits) -> Read<Option<u8>> {
    const EXTENDED_SAR: u8 = 255;
    if b.flag("aspect_ratio_info_present_flag")? && b.byte("aspect_ratio_idc")? == EXTENDED_SAR {
        b.skip(32, "sar_width and sar_height")?;
    }
    if b.flag("overscan_info_present_flag")? {
        b.skip(1, "overscan_appropriate_flag")?;
    }
    if b.flag("video_signal_type_present_flag")? {
        b.skip(4, "video_format")?;
        if b.flag("colour_description_present_flag")? {
            b.skip(24, "colour description")?;
        }
    }
    if b.flag("chroma_loc_info_present_flag")? {
        b.ue(5, "chroma_sample_loc_type_top_field")?;
        b.ue(5, "chroma_sample_loc_type_bottom_field")?;
    }
    if b.flag("timing_info_present_flag")? {
        b.skip(65, "timing info")?;
    }
    let nal_hrd = b.flag("nal_hrd_parameters_present_flag")?;
    if nal_hrd {
        skip_hrd(b)?;
    }
    let vcl_hrd = b.flag("vcl_hrd_parameters_present_flag")?;
    if vcl_hrd {
        skip_hrd(b)?;
    }
    if nal_hrd || vcl_hrd {
        b.skip(1, "low_delay_hrd_flag")?;
    }
    b.skip(1, "pic_struct_present_flag")?;
    if !b.flag("bitstream_restriction_flag")? {
        return Ok(None);
    }
    b.skip(1, "motion_vectors_over_pic_boundaries_flag")?;
    b.ue(16, "max_bytes_per_pic_denom")?;
    b.ue(16, "max_bits_per_mb_denom")?;
    b.ue(16, "log2_max_mv_length_horizontal")?;
    b.ue(16, "log2_max_mv_length_vertical")?;
    Ok(Some(b.ue(16, "max_num_reorder_frames")? as u8))
}

/// E.1.2.
fn skip_hrd(b: &mut Bits) -> Read<()> {
    let count = b.ue(31, "cpb_cnt_minus1")? + 1;
    b.skip(8, "bit_rate_scale and cpb_size_scale")?;
    for _ in 0..count {
        b.ue(u32::MAX, "bit_rate_value_minus1")?;
        b.ue(u32::MAX, "cpb_size_value_minus1")?;
        b.skip(1, "cbr_flag")?;
    }
    b.skip(20, "HRD lengths")
}

/// MaxDpbFrames (A.3.1 h, table A-1): what a decoder must assume where the stream does not tell.
fn max_dpb_frames(level_idc: u8, constraints: u8, frame_mbs: u64) -> u8 {
    let level_1b = level_idc == 11 && constraints & 0x10 != 0;
    let max_dpb_mbs = match level_idc {
        _ if level_1b => 396,
        0..=10 => 396,
        11 => 900,
        12 | 13 | 20 => 2376,
        21 => 4752,
        22 | 30 => 8100,
        31 => 18_000,
        32 => 20_480,
        40 | 41 => 32_768,
        42 => 34_816,
        50 => 110_400,
        51 | 52 => 184_320,
        _ => 696_320,
    };
    (max_dpb_mbs / frame_mbs.max(1)).min(16) as u8
}
