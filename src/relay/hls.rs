//! HLS at `/<camera>/index.m3u8` (RFC 8216), from the live ring's parts.
//!
//! A segment is the parts from an independent one up to the next. Nothing is kept here: the ring numbers segments and
//! discontinuities, so that playlists agree with each other as parts come and go, and the directory numbers on where a
//! path gets another stream, so that no name means two things while the process lives.
//!
//! What does not belong here: packaging (`media::cmaf`), HTTP and permission (`api`).

use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::live::{LiveStream, Numbering, Placed};
use crate::media::cmaf::Init;
use crate::media::{VIDEO_CLOCK, time};

/// How long the first request waits for a camera that has just started: two of its usual GOPs and a margin.
const WAIT: Duration = Duration::from_secs(8);

/// What a client waits when that was not enough.
const RETRY_SECONDS: u32 = 2;

/// Playlists show about so much. The ring holds more, so that a late player still gets what its playlist named.
const WINDOW_90K: i64 = 20 * VIDEO_CLOCK;

/// Fewer segments than this make players stop and wait (RFC 8216 section 6.2.2). The ring keeps so many whole ones
/// however long they are.
const MIN_SEGMENTS: usize = 3;

/// What a request below `/<path>/` is answered with.
#[derive(Debug)]
pub enum Answer {
    Playlist(String),
    /// An init segment (`video/mp4`).
    Init(Bytes),
    /// A segment: the parts' headers and payloads in order.
    Segment(Vec<Bytes>),
    /// No such file, or no longer.
    Gone,
    /// The camera has sent nothing playable yet: come again in so many seconds.
    NotYet(u32),
}

/// Answers `file` (`index.m3u8`, `init-…mp4`, `seg-…m4s`) of a stream at a path that numbers it like that; waits a
/// little for a camera that has just started.
pub async fn answer(stream: &Arc<LiveStream>, numbering: Numbering, file: &str) -> Answer {
    if file == "index.m3u8" {
        let playlist = timeout(WAIT, first_playlist(stream, numbering)).await;
        return playlist.ok().flatten().map_or(Answer::NotYet(RETRY_SECONDS), Answer::Playlist);
    }
    let (parts, _) = stream.placed_parts();
    let number = file.strip_prefix("seg-").and_then(|rest| rest.strip_suffix(".m4s"));
    if let Some(Ok(number)) = number.map(str::parse::<u64>) {
        let segment = segments(&parts).into_iter().find(|segment| segment.number(numbering) == number);
        return segment.map_or(Answer::Gone, |segment| Answer::Segment(segment.bytes()));
    }
    let init = parts.iter().map(|placed| &placed.part.init).find(|init| init_name(init) == file);
    init.map_or(Answer::Gone, |init| Answer::Init(init.bytes.clone()))
}

/// The playlist, once there is a segment to show; `None` where the stream is closed.
async fn first_playlist(stream: &Arc<LiveStream>, numbering: Numbering) -> Option<String> {
    let mut pushes = stream.subscribe();
    while !stream.is_closed() {
        pushes.borrow_and_update();
        let (parts, longest_90k) = stream.placed_parts();
        let segments = segments(&parts);
        if !segments.is_empty() {
            return Some(playlist(&segments, longest_90k, numbering));
        }
        pushes.changed().await.ok()?;
    }
    None
}

/// The parts of one segment; never empty.
struct Segment<'a>(&'a [Placed]);

/// The segments that are whole: nothing of their beginning was dropped, and nothing more will come.
fn segments(parts: &[Placed]) -> Vec<Segment<'_>> {
    let mut segments: Vec<_> = parts.chunk_by(|a, b| a.segment == b.segment).map(Segment).collect();
    segments.pop();
    segments.retain(|segment| segment.first().part.independent);
    segments
}

impl Segment<'_> {
    fn first(&self) -> &Placed {
        &self.0[0]
    }

    fn number(&self, numbering: Numbering) -> u64 {
        numbering.segment(self.first().segment)
    }

    fn duration_90k(&self) -> i64 {
        self.0.iter().map(|placed| placed.part.duration_90k).sum()
    }

    fn bytes(&self) -> Vec<Bytes> {
        let parts = self.0.iter().map(|placed| &placed.part);
        parts.flat_map(|part| std::iter::once(&part.header).chain(&part.payload)).cloned().collect()
    }
}

/// By content: parts of equal parameters have one init segment, over runs and restarts of players.
fn init_name(init: &Init) -> String {
    let mut hasher = DefaultHasher::new();
    init.bytes.hash(&mut hasher);
    format!("init-{:016x}.mp4", hasher.finish())
}

fn playlist(segments: &[Segment<'_>], longest_90k: i64, numbering: Numbering) -> String {
    let mut shown_90k = 0;
    let newest = segments.iter().rev().enumerate().take_while(|(at, segment)| {
        let wanted = *at < MIN_SEGMENTS || shown_90k < WINDOW_90K;
        shown_90k += segment.duration_90k();
        wanted
    });
    let shown = &segments[segments.len() - newest.count()..];
    let first = shown[0].first();
    // Rounded to the nearest as 4.3.3.1 compares it, so that a picture more or less in a GOP does not move it.
    let target = ((longest_90k + VIDEO_CLOCK / 2) / VIDEO_CLOCK).max(1);
    let mut text = format!(
        "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-TARGETDURATION:{target}\n\
         #EXT-X-MEDIA-SEQUENCE:{}\n#EXT-X-DISCONTINUITY-SEQUENCE:{}\n",
        numbering.segment(first.segment),
        numbering.discontinuity(first.discontinuity)
    );
    let mut before: Option<&Placed> = None;
    for segment in shown {
        let first = segment.first();
        if before.is_some_and(|before| before.discontinuity != first.discontinuity) {
            text += "#EXT-X-DISCONTINUITY\n";
        }
        if before.is_none_or(|before| before.discontinuity != first.discontinuity) {
            let _ = writeln!(text, "#EXT-X-MAP:URI=\"{}\"", init_name(&first.part.init));
        }
        let start = time::from_90k(first.part.start_90k);
        let _ = writeln!(text, "#EXT-X-PROGRAM-DATE-TIME:{start:.3}");
        let seconds = segment.duration_90k() as f64 / VIDEO_CLOCK as f64;
        let _ = writeln!(text, "#EXTINF:{seconds:.5},\nseg-{}.m4s", segment.number(numbering));
        before = Some(first);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::Directory;
    use crate::media::cmaf::Part;
    use crate::media::{Feed, VideoCodec, VideoParams};

    fn init(bytes: &'static [u8]) -> Arc<Init> {
        let video = VideoParams {
            codec: VideoCodec::H264,
            parameter_sets: Vec::new(),
            width: 64,
            height: 64,
            reorder: 0,
            rfc6381: String::new(),
        };
        Arc::new(Init { video: video.into(), audio: None, origin_90k: 0, bytes: Bytes::from_static(bytes) })
    }

    fn part(seq: u64, run: u64, init: &Arc<Init>, independent: bool) -> Arc<Part> {
        Arc::new(Part {
            run,
            seq,
            init: init.clone(),
            header: Bytes::from(format!("<{seq}>")),
            payload: vec![Bytes::from_static(b"p")],
            start_90k: seq as i64 * 45_000,
            duration_90k: 45_000,
            independent,
            pictures: 12,
        })
    }

    fn stream() -> Arc<LiveStream> {
        LiveStream::new("cam".into(), Feed::Main, 10_000_000)
    }

    async fn at(stream: &Arc<LiveStream>, file: &str) -> Answer {
        answer(stream, Numbering::default(), file).await
    }

    async fn index(stream: &Arc<LiveStream>) -> String {
        match at(stream, "index.m3u8").await {
            Answer::Playlist(text) => text,
            other => panic!("{other:?}"),
        }
    }

    /// Of every line that names something, by tag.
    fn values<'a>(playlist: &'a str, tag: &str) -> Vec<&'a str> {
        playlist.lines().filter_map(|line| line.strip_prefix(tag)).collect()
    }

    #[tokio::test]
    async fn numbers_agree_as_parts_drop_out() {
        let stream = stream();
        let first = init(b"one");
        let mut sequence_of = std::collections::BTreeMap::new();
        for seq in 0..400u64 {
            // GOPs of two seconds; a new run every 60 parts.
            stream.push_part(part(seq, 1 + seq / 60, &first, seq % 4 == 0));
            if seq < 5 {
                continue;
            }
            let text = index(&stream).await;
            let start: u64 = values(&text, "#EXT-X-MEDIA-SEQUENCE:")[0].parse().unwrap();
            let mut discontinuity: u64 = values(&text, "#EXT-X-DISCONTINUITY-SEQUENCE:")[0].parse().unwrap();
            let mut number = start;
            for line in text.lines() {
                discontinuity += u64::from(line == "#EXT-X-DISCONTINUITY");
                if line.starts_with("seg-") {
                    let known = sequence_of.entry(line.to_owned()).or_insert((number, discontinuity));
                    assert_eq!(*known, (number, discontinuity), "{line} in\n{text}");
                    number += 1;
                }
            }
            assert_eq!(values(&text, "#EXT-X-TARGETDURATION:"), ["2"]);
            assert!(number - start <= 11, "{text}");
        }
        assert_eq!(sequence_of.len(), 99);
        assert!(matches!(at(&stream, "seg-0.m4s").await, Answer::Gone));
        assert!(matches!(at(&stream, "seg-99.m4s").await, Answer::Gone), "it is not finished");
        let Answer::Segment(bytes) = at(&stream, "seg-98.m4s").await else { panic!() };
        assert_eq!(bytes.concat(), b"<392>p<393>p<394>p<395>p");
    }

    #[tokio::test]
    async fn a_change_of_parameters_is_a_discontinuity_with_its_own_map() {
        let stream = stream();
        let (one, two) = (init(b"one"), init(b"two"));
        for seq in 0..8 {
            let init = if seq < 4 { &one } else { &two };
            stream.push_part(part(seq, 1, init, seq % 2 == 0));
        }
        let text = index(&stream).await;
        let maps = values(&text, "#EXT-X-MAP:URI=\"");
        assert_eq!(maps.len(), 2);
        assert_eq!(text.lines().filter(|line| *line == "#EXT-X-DISCONTINUITY").count(), 1);
        let Answer::Init(bytes) = at(&stream, maps[1].trim_end_matches('"')).await else { panic!() };
        assert_eq!(bytes, "two");
        assert_eq!(values(&text, "#EXT-X-PROGRAM-DATE-TIME:")[1], "1970-01-01T00:00:01.000Z");
        for file in ["", "seg-.m4s", "seg-99999999999999999999999.m4s", "init-0.mp4", "../index.m3u8"] {
            assert!(matches!(at(&stream, file).await, Answer::Gone), "{file}");
        }
    }

    /// A channel goes from one camera to another and back.
    #[tokio::test]
    async fn a_path_with_another_stream_counts_on_and_reuses_no_name() {
        let (one, two) = (stream(), stream());
        let inits = [init(b"one"), init(b"two")];
        let directory = Directory::default();
        let (mut known, mut counted) = (std::collections::BTreeSet::new(), (0, 0));
        let mut pushed = 0;
        for (take, on_air) in [&one, &two, &one, &two].into_iter().enumerate() {
            if take == 2 {
                directory.remove("channels/wall-1");
            }
            directory.insert("channels/wall-1", on_air.clone());
            directory.insert("channels/wall-1", on_air.clone());
            // Both cameras go on all the time; one of them has key pictures more often.
            for _ in 0..40 {
                one.push_part(part(pushed, 1, &inits[0], pushed.is_multiple_of(2)));
                two.push_part(part(pushed, 1 + pushed / 30, &inits[1], pushed.is_multiple_of(5)));
                pushed += 1;
            }
            let (stream, numbering) = directory.numbered("channels/wall-1").unwrap();
            let Answer::Playlist(text) = answer(&stream, numbering, "index.m3u8").await else { panic!() };
            let number = |tag| values(&text, tag)[0].parse::<u64>().unwrap();
            let begins = (number("#EXT-X-MEDIA-SEQUENCE:"), number("#EXT-X-DISCONTINUITY-SEQUENCE:"));
            assert!(take == 0 || (begins.0 > counted.0 && begins.1 > counted.1), "{begins:?} {counted:?}");
            for name in text.lines().filter(|line| line.starts_with("seg-")) {
                assert!(known.insert(name.to_owned()), "{name} means two things");
                assert!(matches!(answer(&stream, numbering, name).await, Answer::Segment(_)));
            }
            let segments = text.lines().filter(|line| line.starts_with("seg-")).count() as u64;
            let cuts = text.lines().filter(|line| *line == "#EXT-X-DISCONTINUITY").count() as u64;
            counted = (begins.0 + segments - 1, begins.1 + cuts);
        }
    }

    #[tokio::test]
    async fn the_first_request_waits_until_there_is_a_segment_or_no_stream() {
        let stream = stream();
        let feed = stream.clone();
        tokio::spawn(async move {
            let init = init(b"one");
            for seq in 0..3 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                feed.push_part(part(seq, 1, &init, seq % 2 == 0));
            }
        });
        assert!(index(&stream).await.contains("seg-0.m4s"));
        stream.close();
        assert!(matches!(at(&stream, "index.m3u8").await, Answer::NotYet(_)));
    }

    /// Key pictures 12 and 40 s apart.
    #[tokio::test]
    async fn long_segments_leave_no_gap_in_what_playlists_show() {
        for parts_a_segment in [24, 80] {
            let (stream, init) = (stream(), init(b"one"));
            for seq in 0..parts_a_segment * 8 {
                stream.push_part(part(seq, 1, &init, seq % parts_a_segment == 0));
                let whole = (seq / parts_a_segment).min(3) as usize;
                if whole > 0 {
                    assert_eq!(values(&index(&stream).await, "seg-").len(), whole, "{seq}");
                }
            }
        }
    }
}
