//! Clips of `liuta simulate`: what is accepted can be played in a loop.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use liuta::simulate::clip::Clip;

fuzz_target!(|file: &[u8]| {
    let Ok(clip) = Clip::parse(Bytes::copy_from_slice(file)) else { return };
    let first = clip.pictures.first().expect("a picture");
    assert!(first.is_rap && first.dts_90k == 0);
    assert!(clip.pictures.windows(2).all(|pair| pair[0].dts_90k <= pair[1].dts_90k));
    assert!(clip.pictures.iter().all(|picture| picture.dts_90k <= picture.pts_90k));
    assert!(clip.pictures.iter().all(|picture| picture.dts_90k < clip.duration_90k));
    if let Some(sound) = clip.audio {
        assert!(sound.params.clock_rate > 0);
        assert!(sound.frames.iter().all(|frame| frame.pts >= 0 && !frame.data.is_empty()));
    }
});
