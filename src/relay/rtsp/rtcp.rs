//! RTCP (RFC 3550 section 6). Sent: where RTP time stands on the box's clock, and the end. Of what clients send it only
//! counts that they do: whoever can forge a report could forge what it says as well.
//!
//! Packets are made as they go over the RTSP connection, framed (RFC 2326 section 10.12); by UDP [`unframed`] goes.

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const DESCRIPTION: u8 = 202;
const BYE: u8 = 203;
/// Kept apart from RTP's payload types (RFC 5761 section 4).
const TYPES: std::ops::RangeInclusive<u8> = 192..=223;
/// Seconds from 1900, NTP's epoch, to 1970.
const NTP_EPOCH: i64 = 2_208_988_800;

/// What one track of one session has sent so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    pub packets: u32,
    pub octets: u32,
}

/// A framed sender report with the CNAME that ties a stream's tracks together. `rtp_time` is that of the sample
/// captured at `capture`.
pub fn report(channel: u8, ssrc: u32, rtp_time: u32, capture: Timestamp, sent: Sent, cname: &str) -> Bytes {
    let mut out = framing(channel);
    header(&mut out, 0, SENDER_REPORT, 6);
    out.put_u32(ssrc);
    out.put_u64(ntp(capture));
    out.put_u32(rtp_time);
    out.put_u32(sent.packets);
    out.put_u32(sent.octets);
    // One chunk: SSRC, the item, and one to four zeros up to the next word.
    let name = &cname.as_bytes()[..cname.len().min(255)];
    let words = (2 + name.len()) / 4 + 1;
    header(&mut out, 1, DESCRIPTION, 1 + words as u16);
    out.put_u32(ssrc);
    out.put_u8(1);
    out.put_u8(name.len() as u8);
    out.put_slice(name);
    out.put_bytes(0, words * 4 - 2 - name.len());
    framed(out)
}

/// A framed BYE: nothing more comes, for this reason where there is one (6.6).
pub fn bye(channel: u8, ssrc: u32, reason: &str) -> Bytes {
    let mut out = framing(channel);
    // A compound packet begins with a report (6.1), here an empty one.
    header(&mut out, 0, RECEIVER_REPORT, 1);
    out.put_u32(ssrc);
    let reason = &reason.as_bytes()[..reason.len().min(255)];
    let words = if reason.is_empty() { 0 } else { (1 + reason.len()).div_ceil(4) };
    header(&mut out, 1, BYE, 1 + words as u16);
    out.put_u32(ssrc);
    if words > 0 {
        out.put_u8(reason.len() as u8);
        out.put_slice(reason);
        out.put_bytes(0, words * 4 - 1 - reason.len());
    }
    framed(out)
}

/// The packet alone, for a datagram.
pub fn unframed(packet: &[u8]) -> &[u8] {
    packet.get(4..).unwrap_or_default()
}

/// Whether a datagram is RTCP (appendix A.2): packets of version 2 that fill it, of types that RTCP has. One that says
/// good-bye tells of no life.
pub fn is_alive(datagram: &[u8]) -> bool {
    let mut rest = datagram;
    let mut says_bye = false;
    while let [first, kind, high, low, ..] = *rest {
        let bytes = 4 * (1 + usize::from(u16::from_be_bytes([high, low])));
        let Some(behind) = rest.get(bytes..).filter(|_| first >> 6 == 2 && TYPES.contains(&kind)) else {
            return false;
        };
        says_bye |= kind == BYE;
        rest = behind;
    }
    !datagram.is_empty() && rest.is_empty() && !says_bye
}

fn framing(channel: u8) -> BytesMut {
    let mut out = BytesMut::with_capacity(128);
    out.put_slice(&[b'$', channel, 0, 0]);
    out
}

fn framed(mut out: BytesMut) -> Bytes {
    let length = (out.len() - 4) as u16;
    out[2..4].copy_from_slice(&length.to_be_bytes());
    out.freeze()
}

/// `words` after the first.
fn header(out: &mut BytesMut, count: u8, kind: u8, words: u16) {
    out.put_u8(2 << 6 | count);
    out.put_u8(kind);
    out.put_u16(words);
}

/// Seconds since 1900 and their binary fraction.
fn ntp(at: Timestamp) -> u64 {
    let nanoseconds = at.as_nanosecond();
    let seconds = nanoseconds.div_euclid(1_000_000_000) as i64 + NTP_EPOCH;
    let fraction = (nanoseconds.rem_euclid(1_000_000_000) << 32) / 1_000_000_000;
    (seconds as u64) << 32 | fraction as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_whole_words_whatever_the_name() {
        for length in 0..20 {
            let at: Timestamp = "2026-01-01T00:00:00.5Z".parse().unwrap();
            let sent = Sent { packets: 3, octets: 4 };
            let report = report(1, 7, 9, at, sent, &"x".repeat(length));
            assert_eq!(usize::from(u16::from_be_bytes([report[2], report[3]])), report.len() - 4);
            let mut rest = &report[4..];
            let mut kinds = Vec::new();
            while !rest.is_empty() {
                kinds.push(rest[1]);
                let words = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
                rest = &rest[4 * (words + 1)..];
            }
            assert_eq!(kinds, [SENDER_REPORT, DESCRIPTION]);
            assert_eq!(report[12..16], 3_976_214_400u32.to_be_bytes(), "2026 in seconds since 1900");
            assert_eq!(report[16..20], [0x80, 0, 0, 0]);
            assert!(is_alive(unframed(&report)));
        }
    }

    #[test]
    fn a_bye_says_why_and_shows_no_life() {
        for reason in ["", "a", "abc", "abcd", &"x".repeat(300)] {
            let bye = bye(3, 7, reason);
            let packet = unframed(&bye);
            assert_eq!(usize::from(u16::from_be_bytes([bye[2], bye[3]])), packet.len());
            assert!(packet.len().is_multiple_of(4) && !is_alive(packet), "{reason}");
            let said = packet.get(16).map_or(&[][..], |&length| &packet[17..17 + usize::from(length)]);
            assert_eq!(said, &reason.as_bytes()[..reason.len().min(255)]);
        }
    }

    #[test]
    fn only_rtcp_shows_life() {
        let report = [0x81, 201, 0, 1, 0, 0, 0, 7];
        assert!(is_alive(&report) && is_alive(&[report, report].concat()));
        for other in [
            &[][..],
            &[0x80],
            &report[..7],
            &[0x81, 201, 0, 2, 0, 0, 0, 7],
            &[0x41, 201, 0, 1, 0, 0, 0, 7],
            &[0x80, 96, 0, 1, 0, 0, 0, 7],
            &[0x80, 201, 0xff, 0xff],
            &[report, [0; 8]].concat(),
        ] {
            assert!(!is_alive(other), "{other:?}");
        }
    }
}
