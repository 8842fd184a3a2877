//! Datagrams at the port where RTCP is heard: what passes for RTCP is whole packets, one behind the other.
#![no_main]

use libfuzzer_sys::fuzz_target;
use liuta::relay::rtsp::rtcp::is_alive;

fuzz_target!(|datagram: &[u8]| {
    if is_alive(datagram) {
        assert!(datagram.len() >= 4 && datagram.len().is_multiple_of(4));
        assert!(is_alive(&[datagram, datagram].concat()), "two of them are a compound packet");
        assert!(!is_alive(&datagram[..datagram.len() - 1]), "cut");
    }
});
