//! HLS of what is recorded (RFC 8216): a playlist of byte ranges of the recorded files, nothing of which is copied or
//! made anew.
//!
//! A segment is a piece of film from one random access point up to another. Every file lies on the first one's timeline
//! (its address names the zero), so that players which follow no discontinuity play on all the same. A gap is a
//! discontinuity whose length the dates on both sides tell: not an `EXT-X-GAP`, whose address ffmpeg fetches.
//!
//! What does not belong here: what is recorded (`record`), the live playlist (`hls`), HTTP and permission (`api`).

use std::fmt::Write;

use jiff::Timestamp;

use crate::media::{VIDEO_CLOCK, time};
use crate::record::Piece;

/// The playlist of these pieces, for a player that wants to begin at `start`. Addresses stand beside the playlist's own.
pub fn playlist(pieces: &[Piece], start: Timestamp) -> String {
    let longest_90k = pieces.iter().map(|piece| piece.duration_90k).max().unwrap_or(0);
    // Durations are compared rounded to whole seconds (4.3.3.1).
    let target = ((longest_90k + VIDEO_CLOCK / 2) / VIDEO_CLOCK).max(1);
    let mut text = format!(
        "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-PLAYLIST-TYPE:VOD\n#EXT-X-INDEPENDENT-SEGMENTS\n\
         #EXT-X-TARGETDURATION:{target}\n#EXT-X-MEDIA-SEQUENCE:0\n"
    );
    let begins_90k = pieces.first().map_or(0, |piece| piece.start_90k);
    let offset = seconds((time::to_90k(start) - begins_90k).max(0));
    let _ = writeln!(text, "#EXT-X-START:TIME-OFFSET={offset:.5},PRECISE=YES");
    let mut file = None;
    for piece in pieces {
        let address = address(piece);
        if piece.discontinuity {
            text += "#EXT-X-DISCONTINUITY\n";
        }
        if let Some(head) = piece.head {
            let _ = writeln!(text, "#EXT-X-MAP:URI=\"{address}\",BYTERANGE=\"{head}@0\"");
        }
        // Once a file is enough: within one there is no gap.
        if file.replace(piece.segment_90k) != Some(piece.segment_90k) {
            let _ = writeln!(text, "#EXT-X-PROGRAM-DATE-TIME:{:.3}", time::from_90k(piece.start_90k));
        }
        let (length, offset) = (piece.bytes.end - piece.bytes.start, piece.bytes.start);
        let duration = seconds(piece.duration_90k);
        let _ = writeln!(text, "#EXTINF:{duration:.5},\n#EXT-X-BYTERANGE:{length}@{offset}\n{address}");
    }
    text + "#EXT-X-ENDLIST\n"
}

fn address(piece: &Piece) -> String {
    format!("{}.mp4?zero={}", piece.segment_90k, piece.zero_90k)
}

fn seconds(ticks: i64) -> f64 {
    ticks as f64 / VIDEO_CLOCK as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_790_000_000 * VIDEO_CLOCK;

    fn piece(segment: i64, bytes: std::ops::Range<u64>, start: i64, duration: i64) -> Piece {
        Piece {
            segment_90k: START + segment * VIDEO_CLOCK,
            zero_90k: START,
            bytes,
            start_90k: START + start * VIDEO_CLOCK,
            duration_90k: duration,
            head: None,
            discontinuity: false,
        }
    }

    #[test]
    fn a_playlist_names_ranges_of_files_and_where_to_begin() {
        let pieces = [
            Piece { head: Some(900), ..piece(0, 5_000..9_000, 4, 4 * VIDEO_CLOCK) },
            piece(0, 9_000..12_500, 8, 4 * VIDEO_CLOCK + VIDEO_CLOCK / 2),
            piece(60, 900..4_000, 60, 4 * VIDEO_CLOCK),
            Piece { head: Some(950), discontinuity: true, ..piece(300, 950..2_000, 300, VIDEO_CLOCK) },
        ];
        let text = playlist(&pieces, time::from_90k(START + 6 * VIDEO_CLOCK));
        let (file, second, third) = (START, START + 60 * VIDEO_CLOCK, START + 300 * VIDEO_CLOCK);
        let date = |seconds| format!("{:.3}", time::from_90k(START + seconds * VIDEO_CLOCK));
        let expected = format!(
            "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-PLAYLIST-TYPE:VOD\n#EXT-X-INDEPENDENT-SEGMENTS\n\
             #EXT-X-TARGETDURATION:5\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-START:TIME-OFFSET=2.00000,PRECISE=YES\n\
             #EXT-X-MAP:URI=\"{file}.mp4?zero={START}\",BYTERANGE=\"900@0\"\n#EXT-X-PROGRAM-DATE-TIME:{}\n\
             #EXTINF:4.00000,\n#EXT-X-BYTERANGE:4000@5000\n{file}.mp4?zero={START}\n\
             #EXTINF:4.50000,\n#EXT-X-BYTERANGE:3500@9000\n{file}.mp4?zero={START}\n\
             #EXT-X-PROGRAM-DATE-TIME:{}\n#EXTINF:4.00000,\n#EXT-X-BYTERANGE:3100@900\n{second}.mp4?zero={START}\n\
             #EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"{third}.mp4?zero={START}\",BYTERANGE=\"950@0\"\n\
             #EXT-X-PROGRAM-DATE-TIME:{}\n#EXTINF:1.00000,\n#EXT-X-BYTERANGE:1050@950\n{third}.mp4?zero={START}\n\
             #EXT-X-ENDLIST\n",
            date(4),
            date(60),
            date(300),
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_range_that_begins_in_a_gap_begins_at_its_first_picture() {
        let text = playlist(&[piece(0, 0..1, 10, 1)], time::from_90k(START));
        assert!(
            text.contains("TIME-OFFSET=0.00000,") && text.contains("#EXT-X-TARGETDURATION:1\n"),
            "{text}"
        );
    }
}
