//! RTP packets of access units and audio frames (RFC 3550, 6184, 7798, 3640, 3551), as headers plus payload slices.
//!
//! Made once per stream: every reader of a stream sends the same packets, with the same sequence numbers and SSRC.

use bytes::Bytes;

use super::Sample;

/// One RTP packet: header (with a payload header such as an FU header, where there is one) and a slice of the sample.
#[derive(Clone, Debug)]
pub struct Packet {
    pub header: Bytes,
    pub payload: Bytes,
}

/// The packets of one sample.
#[derive(Clone, Debug, Default)]
pub struct Packets {
    pub packets: Vec<Packet>,
    /// RTP time of the sample in its own clock.
    pub rtp_time: u32,
}

/// Packetises a stream's samples, one instance per stream (video and audio each have their own sequence and SSRC).
pub struct Packetiser {}

impl Packetiser {
    /// SSRCs and first sequence numbers are drawn from `seed`.
    pub fn new(seed: u64) -> Packetiser {
        let _ = seed;
        todo!()
    }

    pub fn packetise(&mut self, sample: &Sample) -> Packets {
        let _ = sample;
        todo!()
    }
}
