//! What RTSP clients write into headers and addresses.
//!
//! Input: text, read as each of them. What is understood is inside of what it may be, and can be told and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use liuta::relay::rtsp::range::{Asked, scale, told};
use liuta::relay::rtsp::request::Target;
use liuta::relay::rtsp::transport::{Wish, wishes};

/// A day from 2026 on, in 90 kHz ticks.
const START: i64 = 1_767_225_600 * 90_000;
const DAY: i64 = 86_400 * 90_000;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for wish in wishes(text, [192, 0, 2, 7].into()).flatten() {
        match wish {
            Wish::Interleaved(channels) => assert!(channels.is_none_or(|(rtp, rtcp)| rtp != rtcp)),
            Wish::Udp { rtp, rtcp } => assert!(rtp != rtcp && rtp.min(rtcp) >= 1_024),
        }
    }
    let whole = START..START + DAY;
    if let Ok(asked) = Asked::parse(text)
        && let Ok(range) = asked.of(&whole, START + DAY / 2)
    {
        assert!(whole.start <= range.start && range.start < range.end && range.end <= whole.end);
        let _ = Asked::parse(&told(asked.unit, &whole, &range)).expect("what is told can be read");
    }
    if let Some(scale) = scale(text) {
        assert!([1, 2, 4, 8, 16].contains(&scale));
    }
    let target = Target::of(text);
    let _ = (target.parameter("start"), target.parameter("end"));
    // Control addresses are made of the base, and lead to the same.
    let track = Target::of(&format!("{}trackID=1", target.base));
    if !text.contains("trackID=") && !text.contains(['#', '&']) {
        assert_eq!((track.track, &track.path), (Some(1), &target.path));
    }
});
