use bytes::Bytes;

use super::*;
use crate::media::cmaf::Init;
use crate::media::{AudioCodec, AudioFrame, VideoCodec};

fn video_params() -> Arc<VideoParams> {
    Arc::new(VideoParams {
        codec: VideoCodec::H264,
        parameter_sets: Vec::new(),
        width: 640,
        height: 360,
        reorder: 0,
        rfc6381: "avc1.640028".into(),
    })
}

fn unit(seq: u64, run: u64, is_rap: bool, bytes: usize) -> Sample {
    let at = seq as i64 * 3600;
    Sample::Video(Arc::new(AccessUnit {
        seq,
        run,
        pts_90k: at,
        dts_90k: at,
        is_rap,
        params: video_params(),
        data: Bytes::from(vec![0; bytes]),
    }))
}

fn stream(cap: usize) -> Arc<LiveStream> {
    LiveStream::new("cam".into(), Feed::Main, cap)
}

async fn sequences(cursor: &mut Cursor, count: usize) -> Vec<String> {
    let mut met = Vec::new();
    for _ in 0..count {
        met.push(match cursor.next().await {
            Next::Sample(Sample::Video(unit), _) => unit.seq.to_string(),
            Next::Sample(Sample::Audio(_), _) => "audio".into(),
            Next::Skipped(count) => format!("skipped {count}"),
            Next::Closed => "closed".into(),
        });
    }
    met
}

fn parts(stream: &LiveStream) -> Vec<Arc<Part>> {
    stream.lock().parts.iter().map(|placed| placed.part.clone()).collect()
}

fn holds(stream: &LiveStream) -> Vec<u64> {
    stream.lock().units().map(|unit| unit.seq).collect()
}

#[test]
fn a_budget_knows_whether_somebody_reads() {
    let budget = Budget::new(usize::MAX);
    let streams = ["a", "b"].map(|id| LiveStream::within(&budget, id.into(), Feed::Main, 1 << 20));
    assert!(!budget.has_readers());
    let cursors = streams.each_ref().map(LiveStream::cursor);
    assert!(budget.has_readers());
    let [first, second] = cursors;
    drop(first);
    assert!(budget.has_readers());
    drop(second);
    assert!(!budget.has_readers());
}

#[test]
fn the_cap_drops_what_lies_before_the_newest_rap_and_nothing_after() {
    let stream = stream(2_500);
    for seq in 0..10 {
        stream.push(unit(seq, 1, seq % 5 == 0, 1_000));
    }
    assert_eq!(holds(&stream), [5, 6, 7, 8, 9]);
    assert_eq!(stream.newest_rap().unwrap().seq, 5);
    assert_eq!(stream.since(6).unwrap().len(), 3);
    assert_eq!(stream.since(9).unwrap().len(), 0);
    assert!(stream.since(3).is_none());
}

#[test]
fn a_gop_beyond_the_hard_cap_is_dropped_and_the_next_rap_is_kept() {
    let stream = stream(1_000);
    for seq in 0..10 {
        stream.push(unit(seq, 1, seq == 0, HARD_CAP / 8));
    }
    assert!(holds(&stream).is_empty());
    assert!(stream.newest_rap().is_none());
    assert!(stream.since(4).is_none());
    stream.push(unit(10, 1, true, 100));
    assert_eq!(holds(&stream), [10]);
}

#[test]
fn streams_under_a_common_budget_give_up_what_they_do_not_need() {
    let budget = Budget::new(5_000);
    let a = LiveStream::within(&budget, "a".into(), Feed::Main, 1_000_000);
    let b = LiveStream::within(&budget, "b".into(), Feed::Main, 1_000_000);
    for seq in 0..8 {
        a.push(unit(seq, 1, seq % 2 == 0, 1_000));
        b.push(unit(seq, 1, seq % 2 == 0, 1_000));
    }
    assert!(holds(&a).len() <= 4 && holds(&a).ends_with(&[6, 7]), "{:?}", holds(&a));
    drop((a, b));
    assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    assert_eq!(budget.streams.load(Ordering::Relaxed), 0);
}

/// More cameras than the budget has room for, for long.
#[tokio::test]
async fn under_pressure_every_stream_keeps_its_share_for_readers_and_playlists() {
    const STREAMS: usize = 8;
    let budget = Budget::new(STREAMS * 13_000);
    let streams: Vec<_> =
        (0..STREAMS).map(|_| LiveStream::within(&budget, "a".into(), Feed::Main, 1_000_000)).collect();
    let mut cursors = Vec::new();
    for seq in 0..200 {
        for stream in &streams {
            stream.push(unit(seq, 1, seq % 4 == 0, 1_000));
            stream.push_part(part(seq, seq % 4 == 0));
        }
        if seq == 0 {
            cursors = streams.iter().map(|stream| stream.cursor()).collect();
            continue;
        }
        // Each reader is always one picture behind.
        for cursor in &mut cursors {
            assert_eq!(sequences(cursor, 1).await, [(seq - 1).to_string()]);
        }
    }
    for stream in &streams {
        assert!(holds(stream).len() >= 10, "{:?}", holds(stream));
        let whole = parts(stream).iter().filter(|part| part.independent).count();
        assert!(whole >= 2, "no whole segment");
    }
    assert!(budget.used.load(Ordering::Relaxed) <= budget.total + STREAMS * 2_000);
}

#[test]
fn samples_go_by_age() {
    let stream = stream(usize::MAX);
    for seq in 0..1_000 {
        stream.push(unit(seq, 1, seq % 25 == 0, 10));
    }
    assert_eq!(holds(&stream), (799..1_000).collect::<Vec<_>>(), "8 s while nobody reads");
    let _reader = stream.cursor();
    for seq in 1_000..2_000 {
        stream.push(unit(seq, 1, seq % 25 == 0, 10));
    }
    assert_eq!(holds(&stream), (1_249..2_000).collect::<Vec<_>>());
    // With key pictures farther apart than that, the newest and what follows.
    for seq in 2_000..4_000 {
        stream.push(unit(seq, 1, seq == 2_000, 10));
    }
    assert_eq!(holds(&stream), (2_000..4_000).collect::<Vec<_>>());
}

/// Key pictures 12 and 40 s apart: three whole segments and the one that grows.
#[test]
fn long_segments_stay_whatever_their_age() {
    for parts_a_segment in [24, 80] {
        let stream = stream(1_000);
        for seq in 0..parts_a_segment * 10 {
            stream.push_part(part(seq, seq % parts_a_segment == 0));
            let held = parts(&stream);
            let began = seq / parts_a_segment + 1;
            let whole = held.iter().filter(|part| part.independent).count() as u64;
            assert_eq!(whole, began.min(KEPT_SEGMENTS as u64), "{seq}");
            assert!(held[0].independent && held.len() as u64 <= KEPT_SEGMENTS as u64 * parts_a_segment);
        }
    }
}

#[test]
fn a_new_run_starts_at_its_first_rap() {
    let stream = stream(1_000_000);
    stream.push(unit(0, 1, false, 10));
    assert!(holds(&stream).is_empty());
    stream.push(unit(1, 1, true, 10));
    stream.push(unit(2, 2, false, 10));
    stream.push(unit(3, 2, true, 10));
    assert_eq!(holds(&stream), [1, 3]);
    assert!(stream.since(1).is_none(), "a picture of the new run is missing");
}

#[tokio::test]
async fn audio_alone_is_not_kept_and_is_announced_before_it_comes() {
    let stream = stream(1_000_000);
    let audio = Arc::new(AudioParams { codec: AudioCodec::Pcma, clock_rate: 8000, channels: 1 });
    stream.announce_audio(Some(audio.clone()));
    let frame = AudioFrame {
        run: 1,
        pts: 0,
        duration: 160,
        params: audio.clone(),
        data: Bytes::from_static(&[0; 160]),
    };
    stream.push(Sample::Audio(Arc::new(frame)));
    assert!(stream.params().is_none() && stream.lock().entries.is_empty());
    stream.push(unit(0, 1, true, 10));
    assert_eq!(stream.wait_params().await.audio, Some(audio));
    stream.set_online(false);
    assert!(stream.params().is_some());
    stream.announce_audio(None);
    assert_eq!(stream.params().unwrap().audio, None);
}

fn part(seq: u64, independent: bool) -> Arc<Part> {
    let init = Init { video: video_params(), audio: None, origin_90k: 0, bytes: Bytes::new() };
    Arc::new(Part {
        run: 1,
        seq,
        init: Arc::new(init),
        header: Bytes::from_static(&[0; 100]),
        payload: vec![Bytes::from_static(&[0; 900])],
        start_90k: seq as i64 * 45_000,
        duration_90k: 45_000,
        independent,
        pictures: 12,
    })
}

#[test]
fn parts_go_by_age_and_bytes_but_never_the_newest_independent_one() {
    let by_age = stream(1_000_000);
    let push = |numbers: std::ops::Range<u64>| {
        numbers.for_each(|seq| by_age.push_part(part(seq, seq % 4 == 0)));
        let held = parts(&by_age);
        (held[0].seq, held.len())
    };
    assert_eq!(push(0..100), (84, 16), "8 s while nobody asks");
    by_age.placed_parts();
    assert_eq!(push(100..200), (140, 60));
    assert_eq!(push(200..321), (305, 16), "a minute later");

    let by_bytes = stream(5_000);
    for seq in 0..20 {
        by_bytes.push_part(part(seq, seq == 10));
    }
    assert_eq!(parts(&by_bytes)[0].seq, 10);
}

#[tokio::test]
async fn a_slow_cursor_is_told_what_it_missed_and_goes_on_at_a_rap() {
    let stream = stream(2_000);
    stream.push(unit(0, 1, true, 1_000));
    stream.push(unit(1, 1, false, 1_000));
    let mut cursor = stream.cursor();
    assert_eq!(sequences(&mut cursor, 2).await, ["0", "1"]);
    for seq in 2..9 {
        stream.push(unit(seq, 1, seq % 4 == 0, 1_000));
    }
    assert_eq!(sequences(&mut cursor, 2).await, ["skipped 6", "8"]);
    stream.close();
    assert_eq!(sequences(&mut cursor, 1).await, ["closed"]);
}

#[tokio::test]
async fn every_reader_gets_the_same_packets() {
    let stream = stream(1_000_000);
    stream.push(unit(0, 1, true, 100));
    stream.push(unit(1, 1, false, 100));
    let mut early = stream.cursor();
    stream.push(unit(2, 1, true, 100));
    let mut late = stream.cursor();
    let Next::Sample(_, of_late) = late.next().await else { panic!("a sample was due") };
    let (mut last, mut count) = (None, 0);
    while count < 3 {
        let Next::Sample(_, packets) = early.next().await else { panic!("a sample was due") };
        (last, count) = (Some(packets), count + 1);
    }
    assert!(Arc::ptr_eq(&last.unwrap(), &of_late));
}

#[tokio::test]
async fn a_waiting_cursor_wakes() {
    let stream = stream(1_000_000);
    let mut cursor = stream.cursor();
    let reader = tokio::spawn(async move { sequences(&mut cursor, 1).await });
    tokio::task::yield_now().await;
    stream.push(unit(7, 1, true, 10));
    assert_eq!(reader.await.unwrap(), ["7"]);
}
