//! Byte streams of H.264 and H.265 (Annex B of either standard), which decoders take. Pure.

use std::ops::Range;

use liuta::media::VideoCodec;

const START_CODE: [u8; 4] = [0, 0, 0, 1];

/// Turns NAL units behind 4-byte lengths into a byte stream, in place: a length gives way to a start code.
pub fn from_lengths(unit: &mut [u8]) -> Result<(), String> {
    let mut rest = unit;
    while !rest.is_empty() {
        let (length, after) =
            rest.split_first_chunk_mut::<4>().ok_or("an access unit ends within a NAL unit's length")?;
        let bytes = u32::from_be_bytes(*length) as usize;
        if bytes == 0 || bytes > after.len() {
            let left = after.len();
            return Err(format!("a NAL unit of {bytes} bytes where {left} are left of the access unit"));
        }
        *length = START_CODE;
        rest = &mut after[bytes..];
    }
    Ok(())
}

/// The access units of a byte stream in which each begins with an access unit delimiter (H.264 7.3.2.4, H.265
/// 7.3.2.5), as the clips that the program brings do.
pub fn access_units(stream: &[u8], codec: VideoCodec) -> Vec<Range<usize>> {
    let mut starts = Vec::new();
    let mut at = 0;
    while let Some(found) = stream[at..].windows(3).position(|bytes| bytes == [0, 0, 1]) {
        let nal = at + found + 3;
        let delimiter = stream.get(nal).is_some_and(|&header| match codec {
            VideoCodec::H264 => header & 0x1f == 9,
            VideoCodec::H265 => (header >> 1) & 0x3f == 35,
        });
        if delimiter {
            // The start code of a delimiter has four bytes.
            starts.push((nal - 3).saturating_sub(1));
        }
        at = nal;
    }
    starts.push(stream.len());
    starts.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_give_way_to_start_codes() {
        let mut unit = *b"\0\0\0\x02ab\0\0\0\x01c";
        from_lengths(&mut unit).unwrap();
        assert_eq!(&unit, b"\0\0\0\x01ab\0\0\0\x01c");
    }

    #[test]
    fn an_access_unit_that_is_cut_is_told() {
        for unit in [&b"\0\0\0\x03ab"[..], b"\0\0", b"\0\0\0\0", b"\xff\xff\xff\xffa"] {
            assert!(from_lengths(&mut unit.to_vec()).is_err(), "{unit:?}");
        }
    }

    #[test]
    fn a_stream_is_cut_at_its_delimiters() {
        let stream = b"\0\0\0\x01\x09\x10\0\0\x01\x65k\0\0\0\x01\x09\x30\0\0\x01\x41p";
        assert_eq!(access_units(stream, VideoCodec::H264), [0..11, 11..22]);
        assert!(access_units(b"", VideoCodec::H264).is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_a_panic(bytes in prop::collection::vec(0u8..4, 0..64)) {
            let _ = from_lengths(&mut bytes.clone());
            let _ = access_units(&bytes, VideoCodec::H265);
        }
    }
}
