//! Recordings over RTSP, from the real binary: pace, positions, pauses, speeds, gaps and ends. Our own client looks at
//! every packet; ffmpeg, GStreamer and retina play.

mod common;
#[path = "common/rtsp.rs"]
mod rtsp;

use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::past::{self, Run};
use common::{Daemon, config_head, free_address, run, strict, test_clip};
use futures::StreamExt;
use jiff::Timestamp;
use liuta::media::{VIDEO_CLOCK, time};
use liuta::simulate::clip::Clip;
use rtsp::Client;

const X264: &str = "-c:v libx264 -g 25 -bf 2 -sc_threshold 0 -pix_fmt yuv420p";

/// Clips of ten seconds, 25 pictures a second, a key picture each second.
struct Clips {
    _folder: tempfile::TempDir,
    /// H.264 with reordered pictures, and a tone.
    sound: Clip,
    /// H.264 in another size, with the same tone.
    large: Clip,
    h265: Clip,
}

static CLIPS: LazyLock<Clips> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let clip = |name: &str, size: &str, more: &str| {
        let source = format!("testsrc2=size={size}:rate=25:duration=10");
        let arguments: Vec<&str> = std::iter::once(source.as_str()).chain(more.split(' ')).collect();
        Clip::open(&test_clip(folder.path(), name, &arguments)).unwrap()
    };
    let tone = "-f lavfi -i sine=frequency=440:duration=10 -c:a aac -shortest";
    let sound = clip("sound.mp4", "320x240", &format!("{tone} {X264}"));
    let large = clip("large.mp4", "640x360", &format!("{tone} {X264}"));
    let h265 = "-c:v libx265 -pix_fmt yuv420p -tag:v hvc1 -x265-params keyint=25:scenecut=0:log-level=error";
    let h265 = clip("h265.mp4", "320x240", h265);
    Clips { _folder: folder, sound, large, h265 }
});

/// A daemon with a past: 30 s with sound; after a gap 20 s in another size; after another one 10 s of H.265.
struct Past {
    daemon: Daemon,
    start: Timestamp,
    token: String,
}

const SECOND_RUN: i64 = 90;
const THIRD_RUN: i64 = 150;

impl Past {
    async fn open(rtsp_keys: &str) -> Past {
        let folder = Arc::new(tempfile::Builder::new().prefix("liuta-test-").tempdir().unwrap());
        let (http, rtsp) = (free_address(), free_address());
        let head = config_head(folder.path(), http, rtsp);
        let head = head.replace("[auth]", &format!("{rtsp_keys}\n[auth]"));
        let rest = "[vision]\nenabled = false\n[cameras.gate]\nurl = \"rtsp://127.0.0.1:1/a\"\n";
        std::fs::write(folder.path().join("liuta.toml"), head + rest).unwrap();
        let start = Timestamp::from_second((Timestamp::now().as_second() / 60 - 30) * 60).unwrap();
        let at = |seconds| start + jiff::SignedDuration::from_secs(seconds);
        let runs = [
            Run { clip: &CLIPS.sound, start, rounds: 3 },
            Run { clip: &CLIPS.large, start: at(SECOND_RUN), rounds: 2 },
            Run { clip: &CLIPS.h265, start: at(THIRD_RUN), rounds: 1 },
        ];
        past::record(&folder.path().join("data"), "gate", &runs);
        let daemon = Daemon::start_in(folder, http, rtsp, &[]).await;
        let token = daemon.token_of("operator", &["gate"]);
        Past { daemon, start, token }
    }

    fn at(&self, seconds: f64) -> Timestamp {
        time::from_90k(time::to_90k(self.start) + (seconds * VIDEO_CLOCK as f64) as i64)
    }

    fn path(&self, from: f64, to: f64) -> String {
        format!("playback/gate?start={}&end={}", self.at(from), self.at(to))
    }

    fn url(&self, from: f64, to: f64) -> String {
        format!("rtsp://{}/{}", self.daemon.rtsp, self.path(from, to))
    }

    /// As players get it.
    fn signed_in(&self, from: f64, to: f64) -> String {
        format!("rtsp://token:{}@{}/{}", self.token, self.daemon.rtsp, self.path(from, to))
    }

    fn clock(&self, seconds: f64) -> String {
        self.at(seconds).strftime("%Y%m%dT%H%M%S.%3fZ").to_string()
    }

    fn header(&self) -> String {
        format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("token:{}", self.token)))
    }

    /// A client that has set up both tracks.
    async fn set_up(&self, url: &str) -> Client {
        let mut client = Client::connect(self.daemon.rtsp).await;
        let sign = self.header();
        let description = client.ask(&format!("DESCRIBE {url}"), &sign).await;
        assert!(description.starts_with("RTSP/1.0 200"), "{description}");
        for (track, channels) in [(0, "0-1"), (1, "2-3")] {
            let transport = format!("{sign}Transport: RTP/AVP/TCP;unicast;interleaved={channels}\r\n");
            let answer = client.ask(&format!("SETUP {url}/trackID={track}"), &transport).await;
            let there = track == 0 || description.contains("m=audio");
            assert_eq!(answer.starts_with("RTSP/1.0 200"), there, "{answer}");
        }
        client
    }

    async fn play(&self, client: &mut Client, url: &str, headers: &str) -> String {
        client.ask(&format!("PLAY {url}"), &format!("{}{headers}", self.header())).await
    }
}

/// What came on one track.
#[derive(Default)]
struct Seen {
    /// RTP time of each picture or frame, and when it was whole.
    times: Vec<(u32, Instant)>,
    sequence: Option<u16>,
}

impl Seen {
    fn note(&mut self, packet: &[u8]) {
        let sequence = u16::from_be_bytes([packet[2], packet[3]]);
        assert_eq!(sequence, self.sequence.map_or(sequence, |before| before.wrapping_add(1)), "lost");
        self.sequence = Some(sequence);
        let time = u32::from_be_bytes(packet[4..8].try_into().unwrap());
        if packet[1] & 0x80 != 0 {
            self.times.push((time, Instant::now()));
        }
    }

    /// RTP time from the first to the last, in seconds, and time that it took.
    fn span(&self) -> (f64, f64) {
        let ((first, began), (last, ended)) = (self.times[0], self.times[self.times.len() - 1]);
        (f64::from(last.wrapping_sub(first)) / VIDEO_CLOCK as f64, (ended - began).as_secs_f64())
    }

    /// Decode order is not output order: the largest step between neighbours in output order, in ticks.
    fn longest_step(&self) -> u32 {
        let first = self.times[0].0;
        let mut times: Vec<i32> =
            self.times.iter().map(|(time, _)| time.wrapping_sub(first) as i32).collect();
        times.sort_unstable();
        times.windows(2).map(|pair| (pair[1] - pair[0]) as u32).max().unwrap_or(0)
    }
}

/// Until so many pictures have come, or the BYE; then its reason.
async fn watch(client: &mut Client, pictures: usize) -> (Seen, Seen, Option<String>) {
    let (mut video, mut audio) = (Seen::default(), Seen::default());
    while video.times.len() < pictures {
        match client.frame().await {
            (0, packet) => video.note(&packet),
            (2, packet) => audio.note(&packet),
            (1, packet) if packet[9] == 203 => {
                let reason = packet.get(16).map_or(String::new(), |&length| {
                    String::from_utf8_lossy(&packet[17..17 + usize::from(length)]).into_owned()
                });
                return (video, audio, Some(reason));
            }
            _ => {}
        }
    }
    (video, audio, None)
}

fn answered<'a>(answer: &'a str, name: &str) -> &'a str {
    assert!(answer.starts_with("RTSP/1.0 200"), "{answer}");
    let line = answer.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {answer}")).trim()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_comes_at_its_own_pace_and_over_a_gap_without_a_hole() {
    let past = Past::open("").await;
    // Five seconds before the gap, and five after it, in another size.
    let url = past.url(25.0, 95.0);
    let mut client = Client::connect(past.daemon.rtsp).await;
    let description = client.ask(&format!("DESCRIBE {url}"), &past.header()).await;
    let range = format!("a=range:clock={}-{}\r\n", past.clock(25.0), past.clock(95.0));
    assert!(
        description.contains(&range) && description.contains("a=range:npt=0.000-70.000"),
        "{description}"
    );
    let mut client = past.set_up(&url).await;
    let answer = past.play(&mut client, &url, "").await;
    assert_eq!(answered(&answer, "Range:"), "npt=0.000-70.000");
    let (video, audio, bye) = watch(&mut client, usize::MAX).await;
    assert_eq!(bye.as_deref(), Some(""));
    assert_eq!(video.times.len(), 250);
    assert_eq!(video.longest_step(), 3_600, "a gap in RTP time, or a picture twice");
    let (rtp, took) = video.span();
    assert!((9.8..10.2).contains(&rtp) && took > 9.5, "{rtp} s of RTP time in {took} s");
    let frames = audio.times.len() as f64;
    let clock = f64::from(past_clock_rate());
    assert!((frames * 1_024.0 / clock - 10.0).abs() < 0.3, "{frames} frames of sound");
    // It stays open: the same again, from another place.
    let answer = past.play(&mut client, &url, "Range: npt=68-69\r\n").await;
    assert_eq!(answered(&answer, "Range:"), "npt=68.000-69.000");
    let (again, _, bye) = watch(&mut client, usize::MAX).await;
    assert_eq!((again.times.len(), bye.as_deref()), (25, Some("")));
    let answer = client.ask(&format!("TEARDOWN {url}"), &past.header()).await;
    assert!(answer.starts_with("RTSP/1.0 200"), "{answer}");
}

fn past_clock_rate() -> u32 {
    CLIPS.sound.audio.as_ref().unwrap().params.clock_rate
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_goes_wherever_it_wants_pauses_and_plays_fast() {
    let past = Past::open("").await;
    let url = past.url(0.0, 110.0);
    let mut client = past.set_up(&url).await;
    // By the clock, and at the key picture before what was asked for.
    let asked = format!("Range: clock={}-\r\n", past.clock(12.5));
    let answer = past.play(&mut client, &url, &asked).await;
    let range = answered(&answer, "Range:").to_owned();
    assert_eq!(range, format!("clock={}-{}", past.clock(12.0), past.clock(110.0)));
    let (first, _, _) = watch(&mut client, 30).await;
    let told: u32 =
        answer.split("rtptime=").nth(1).unwrap().split([',', '\r']).next().unwrap().parse().unwrap();
    assert_eq!(first.times[0].0, told, "RTP-Info");

    let answer = client.ask(&format!("PAUSE {url}"), &past.header()).await;
    assert!(answer.starts_with("RTSP/1.0 200"), "{answer}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let answer = past.play(&mut client, &url, "").await;
    let position: f64 = answered(&answer, "Range:")[4..].split('-').next().unwrap().parse().unwrap();
    assert!((13.0..14.5).contains(&position), "{position}");
    let (second, _, _) = watch(&mut client, 20).await;
    let sequence: u16 = answer.split("seq=").nth(1).unwrap().split(';').next().unwrap().parse().unwrap();
    let stepped = second.times[0].0.wrapping_sub(first.times[29].0) as i32;
    assert!(stepped.abs() < VIDEO_CLOCK as i32, "RTP time stepped by {stepped} over a pause");
    assert!(sequence.wrapping_sub(first.sequence.unwrap()) < 200, "the pause lost packets");

    // Twice as fast: every picture, no sound, in half the time.
    let answer = past.play(&mut client, &url, "Range: npt=2-\r\nScale: 2.0\r\n").await;
    assert_eq!(answered(&answer, "Scale:"), "2");
    let (fast, _, _) = watch(&mut client, 100).await;
    let (rtp, took) = fast.span();
    assert!((1.9..2.1).contains(&rtp) && (1.8..4.0).contains(&took), "{rtp} s of RTP time in {took} s");
    assert_eq!(fast.longest_step(), 1_800);

    // Sixteen times as fast: a key picture for each second, also over the gap, which takes no time.
    let answer = past.play(&mut client, &url, "Range: npt=0-\r\nScale: 20\r\n").await;
    assert_eq!(answered(&answer, "Scale:"), "16");
    let (keys, audio, bye) = watch(&mut client, usize::MAX).await;
    assert_eq!((keys.times.len(), bye.as_deref(), audio.times.len()), (50, Some(""), 0));
    assert!(keys.longest_step() <= 5_700, "{}", keys.longest_step());
    let (rtp, took) = keys.span();
    assert!((2.8..3.3).contains(&rtp) && took < 8.0, "{rtp} s of RTP time in {took} s");

    for (headers, status) in [
        ("Range: smpte=0:10:00-\r\n", 501),
        ("Range: npt=x-\r\n", 400),
        ("Range: npt=110-\r\n", 457),
        // In the gap up to its end there is nothing.
        ("Range: npt=31-89\r\n", 457),
        ("Scale: -1\r\n", 456),
        ("Scale: 0\r\n", 456),
    ] {
        let answer = past.play(&mut client, &url, headers).await;
        assert!(answer.starts_with(&format!("RTSP/1.0 {status}")), "{headers}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_codec_ends_it_saying_so_and_what_is_wrong_is_said() {
    let past = Past::open("max_playbacks = 2\nmax_playbacks_per_person = 1").await;
    let url = past.url(108.0, 155.0);
    let mut client = past.set_up(&url).await;
    answered(&past.play(&mut client, &url, "").await, "Range:");
    let (video, _, bye) = watch(&mut client, usize::MAX).await;
    assert_eq!(video.times.len(), 50);
    assert!(bye.as_deref().is_some_and(|why| why.starts_with("another codec from ")), "{bye:?}");
    // One person's only one; another's second.
    let mut second = Client::connect(past.daemon.rtsp).await;
    let transport = format!("{}Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n", past.header());
    let refused = second.ask(&format!("SETUP {url}/trackID=0"), &transport).await;
    assert!(refused.starts_with("RTSP/1.0 453") && refused.contains("close one"), "{refused}");
    drop(client);

    let sign = past.header();
    let base = format!("rtsp://{}/playback", past.daemon.rtsp);
    let (start, end) = (past.at(0.0), past.at(10.0));
    let later = Timestamp::now() + jiff::SignedDuration::from_hours(1);
    for (path, status) in [
        (format!("gate?start={start}&end={end}"), 200),
        (format!("gate?start={start}"), 200),
        ("gate".to_owned(), 400),
        ("gate?start=yesterday".to_owned(), 400),
        (format!("gate?start={end}&end={start}"), 400),
        (format!("gate?start={later}"), 404),
        (format!("gate?start={}&end={}", past.at(40.0), past.at(80.0)), 404),
        (format!("road?start={start}&end={end}"), 404),
    ] {
        let answer = second.ask(&format!("DESCRIBE {base}/{path}"), &sign).await;
        assert!(answer.starts_with(&format!("RTSP/1.0 {status}")), "{path}: {answer}");
    }
    // Whoever may watch live may not watch this, and is asked who they are first.
    let unsigned = second.ask(&format!("DESCRIBE {base}/gate?start={start}"), "").await;
    assert!(unsigned.starts_with("RTSP/1.0 401") && unsigned.contains("WWW-Authenticate"), "{unsigned}");
    let viewer = STANDARD.encode(format!("token:{}", past.daemon.token_of("viewer", &[])));
    let viewer = format!("Authorization: Basic {viewer}\r\n");
    let refused = second.ask(&format!("DESCRIBE {base}/gate?start={start}"), &viewer).await;
    assert!(refused.starts_with("RTSP/1.0 404"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn real_players_play_recordings_to_their_end() {
    let past = Past::open("udp = \"127.0.0.1:0\"").await;
    let sound = past.signed_in(20.0, 28.0);
    let h265 = past.signed_in(THIRD_RUN as f64, THIRD_RUN as f64 + 8.0);
    let plays = [(&sound, "tcp"), (&sound, "udp"), (&h265, "tcp"), (&h265, "udp")].map(|(url, transport)| {
        let url = url.clone();
        tokio::task::spawn_blocking(move || {
            let mut ffprobe = Command::new("ffprobe");
            ffprobe.args(["-v", "warning", "-rtsp_transport", transport, "-select_streams", "v"]);
            ffprobe.args(["-show_entries", "packet=dts", "-of", "csv=p=0", &url]);
            let (out, complaints) = strict(&mut ffprobe);
            assert_eq!(complaints, "", "{transport}");
            let times: Vec<i64> =
                out.lines().filter_map(|line| line.trim_end_matches(',').parse().ok()).collect();
            assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{transport}: {times:?}");
            assert!((195..=200).contains(&times.len()), "{transport}: {} pictures in 8 s", times.len());
        })
    });
    for play in plays {
        play.await.unwrap();
    }
    for (url, protocol, chain) in [
        (&sound, "tcp", "rtph264depay ! h264parse ! avdec_h264"),
        (&sound, "udp", "rtpmp4gdepay ! aacparse ! avdec_aac"),
        (&h265, "tcp", "rtph265depay ! h265parse ! avdec_h265"),
    ] {
        let line = format!("-q rtspsrc location={url} protocols={protocol} ! {chain} ! fakesink");
        tokio::task::spawn_blocking(move || {
            let mut gst = Command::new("gst-launch-1.0");
            run(gst.args(line.split(' ')).stdout(Stdio::null()));
        })
        .await
        .unwrap();
    }
    let options = retina::client::SessionOptions::default()
        .creds(Some(retina::client::Credentials { username: "token".into(), password: past.token.clone() }));
    let url = past.url(20.0, 22.0).parse().unwrap();
    let mut session = retina::client::Session::describe(url, options).await.unwrap();
    session.setup(0, retina::client::SetupOptions::default()).await.unwrap();
    let played = session.play(retina::client::PlayOptions::default()).await.unwrap();
    let mut demuxed = played.demuxed().unwrap();
    for picture in 0..50 {
        let item = tokio::time::timeout(Duration::from_secs(30), demuxed.next()).await.unwrap();
        let Some(Ok(retina::codec::CodecItem::VideoFrame(frame))) = item else {
            // Sender reports come in between.
            continue;
        };
        assert_eq!(frame.loss(), 0, "picture {picture}");
    }
}
