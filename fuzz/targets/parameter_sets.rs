//! Parameter sets as a camera may send them: what is believed of them stays within what a decoder may be asked for.
//!
//! Input: the codec, then NAL units, each behind a byte that tells its length.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use liuta::media::params::MAX_SIDE;
use liuta::media::{VideoCodec, VideoParams};

fuzz_target!(|input: &[u8]| {
    let Some((&codec, mut rest)) = input.split_first() else { return };
    let codec = if codec % 2 == 0 { VideoCodec::H264 } else { VideoCodec::H265 };
    let mut nals = Vec::new();
    while let Some((&length, after)) = rest.split_first() {
        let (nal, after) = after.split_at(usize::from(length).min(after.len()));
        nals.push(Bytes::copy_from_slice(nal));
        rest = after;
    }
    let Ok(params) = VideoParams::parse(codec, &nals) else { return };
    assert!((1..=MAX_SIDE).contains(&params.width) && (1..=MAX_SIDE).contains(&params.height));
    assert!(params.reorder <= 16);
    let again = VideoParams::parse(codec, &params.parameter_sets);
    assert_eq!(again.as_ref(), Ok(&params), "what was kept says the same");
});
