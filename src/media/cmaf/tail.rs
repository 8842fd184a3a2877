//! What stands at the end of a finished file: where it may be entered, when it ends, and what its bytes were.
//!
//! A `uuid` box behind the last part, which players skip. With it a file is indexed by two short reads, and a byte that
//! has changed since is noticed. Its last four bytes are its size, as `mfro` has it (ISO/IEC 14496-12, 8.8.11), so that
//! it is found from the end. A file without one (torn, or of an older version) is read part by part.
//!
//! | bytes | |
//! | --- | --- |
//! | 8 + 16 | box header, our id |
//! | 4 | how many points |
//! | 16 each | offset of the part, presentation time of its first picture (90 kHz since 1970) |
//! | 8 | end (90 kHz since 1970) |
//! | 4 | CRC-32 (IEEE) of every byte of the file before it |
//! | 4 | size of this box |

use super::boxes::Boxes;
use super::read::header;

const TAIL: [u8; 16] = *b"\xa1\x5c\x0e\x7b\x3d\x0f\x4b\x0e\x9a\x3e\x6c\x69\x75\x74\x61\x02";

/// Box header and id.
const BEGIN: usize = 24;
/// What stands behind the points.
const END: usize = 16;
const POINT: usize = 16;

/// A random access point of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Where its part begins.
    pub offset: u64,
    /// Presentation time of its picture, 90 kHz ticks since the Unix epoch.
    pub start_90k: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    pub points: Vec<Point>,
    /// 90 kHz ticks since the Unix epoch.
    pub end_90k: i64,
    /// CRC-32 of every byte of the file before it, the box's own included.
    pub crc: u32,
}

impl Tail {
    /// Points that are kept: more than a file of a minute has, with a key picture in each part.
    pub const MOST_POINTS: usize = 4096;

    /// A size that no box of ours exceeds.
    pub const MOST_BYTES: usize = BEGIN + 4 + POINT * Self::MOST_POINTS + END;

    /// The box for a file whose bytes so far have gone through `crc`.
    pub fn write(points: &[Point], end_90k: i64, mut crc: crc32fast::Hasher) -> Vec<u8> {
        let points = &points[..points.len().min(Self::MOST_POINTS)];
        let mut b = Boxes::with_capacity(BEGIN + 4 + POINT * points.len() + END);
        b.nest(b"uuid", |b| {
            b.bytes(&TAIL).u32(points.len() as u32);
            for point in points {
                b.u64(point.offset).u64(point.start_90k as u64);
            }
            b.u64(end_90k as u64).zeros(8);
        });
        let mut bytes = b.0;
        let (size, place) = (bytes.len(), bytes.len() - 8);
        crc.update(&bytes[..place]);
        bytes[place..place + 4].copy_from_slice(&crc.finalize().to_be_bytes());
        bytes[place + 4..].copy_from_slice(&(size as u32).to_be_bytes());
        bytes
    }

    /// The size of the box that ends with these four bytes; nothing where none of ours does.
    pub fn size(last: [u8; 4]) -> Option<usize> {
        let size = u32::from_be_bytes(last) as usize;
        let points = size.checked_sub(BEGIN + 4 + END)?;
        (size <= Self::MOST_BYTES && points.is_multiple_of(POINT)).then_some(size)
    }

    /// Reads a whole box. Times and places are as the file says; the CRC is not judged here.
    pub fn parse(bytes: &[u8]) -> Option<Tail> {
        let header = header(bytes).filter(|header| &header.kind == b"uuid" && header.size == bytes.len())?;
        let body = bytes.get(8..header.size)?.strip_prefix(&TAIL)?;
        let (count, rest) = body.split_first_chunk::<4>()?;
        let (points, end) = rest.split_at_checked(rest.len().checked_sub(END)?)?;
        (points.len() == (u32::from_be_bytes(*count) as usize).checked_mul(POINT)?).then_some(())?;
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).ok();
        let point = |bytes: &[u8]| {
            Some(Point { offset: number(bytes.get(..8)?)?, start_90k: number(bytes.get(8..)?)? as i64 })
        };
        Some(Tail {
            points: points.chunks_exact(POINT).map(point).collect::<Option<_>>()?,
            end_90k: number(end.get(..8)?)? as i64,
            crc: u32::from_be_bytes(end.get(8..12)?.try_into().ok()?),
        })
    }

    /// Bytes from the end of the file that the CRC does not cover.
    pub const UNCOVERED: u64 = 8;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_from_the_end_and_covers_what_stands_before() {
        let file = b"whatever stands before";
        let mut crc = crc32fast::Hasher::new();
        crc.update(file);
        let points = [Point { offset: 7, start_90k: -5 }, Point { offset: 1 << 40, start_90k: 1 << 50 }];
        let tail = Tail::write(&points, 99, crc);
        let size = Tail::size(tail[tail.len() - 4..].try_into().unwrap()).unwrap();
        assert_eq!(size, tail.len());
        let read = Tail::parse(&tail).unwrap();
        assert_eq!((&read.points[..], read.end_90k), (&points[..], 99));
        let whole = [&file[..], &tail[..tail.len() - Tail::UNCOVERED as usize]].concat();
        assert_eq!(read.crc, crc32fast::hash(&whole));
        for cut in 0..tail.len() {
            assert_eq!(Tail::parse(&tail[..cut]), None);
        }
    }
}
