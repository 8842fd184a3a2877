//! The reader of recorded files, in memory: what is read can be moved, cut and read again, as an export does.
#![no_main]

use libfuzzer_sys::fuzz_target;
use liuta::media::cmaf::read::{Fragment, Head};

fn check(fragment: &Fragment) {
    let again = Fragment::parse(&fragment.header).expect("what an export writes can be read");
    assert_eq!(again.size, fragment.size);
    assert_eq!(again.video.decode_time, fragment.video.decode_time);
    assert_eq!(again.video.samples.len(), fragment.video.samples.len());
    assert_eq!(again.audio.is_some(), fragment.audio.is_some());
}

fuzz_target!(|file: &[u8]| {
    let Some(head) = Head::parse(file) else { return };
    let about = &head.about;
    let excerpt = Head::parse(&head.excerpt(about.origin_90k, about.start_90k, false)).expect("a head again");
    assert!(excerpt.same_video(&head) && excerpt.same_audio(&head));
    assert!(Head::parse(&head.excerpt(about.origin_90k, about.start_90k, true)).is_some());
    let sets = head.parameter_sets().unwrap_or_default();
    let _ = (head.video_params(), head.audio_params());
    let mut at = head.size();
    while let Some(rest) = file.get(at..)
        && let Some(size) = rest.get(..Fragment::PEEK).and_then(Fragment::header_size)
        && let Some(header) = rest.get(..size)
        && let Some(mut fragment) = Fragment::parse(header)
    {
        at += fragment.size;
        let _ = fragment.video.presentation().min();
        let _ = about.origin_90k + fragment.video.decode_time + fragment.video.duration();
        fragment.shift(about.origin_90k - about.start_90k, i64::from(head.audio_timescale().unwrap_or(1)));
        check(&fragment);
        let mut excerpt = fragment.clone();
        let kept = excerpt.truncate(fragment.video.samples.len() / 2, about.start_90k);
        check(&excerpt);
        let kept: u64 = kept.iter().map(|kept| kept.end - kept.start).sum();
        assert_eq!(kept, (excerpt.size - excerpt.header.len()) as u64);
        // Sizes are 32 bits wide; a part that is as large is longer than any file here.
        if fragment.size < 1 << 31 {
            fragment.grow_first(sets.len() as u32);
            check(&fragment);
        }
        fragment.drop_audio();
        check(&fragment);
        fragment.set_sequence(7);
    }
});
