//! Playing what is recorded, from the real binary: HLS of any range, the picture at any instant, one mp4, the time bar.
//! ffmpeg, ffprobe and GStreamer judge.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use common::camera::{Camera, Mount};
use common::past::{self, Run};
use common::{Daemon, config_head, free_address, run, strict, test_clip, until};
use jiff::{SignedDuration, Timestamp};
use liuta::media::{VIDEO_CLOCK, time};
use liuta::simulate::clip::Clip;
use liuta::store::Store;
use reqwest::{StatusCode, header};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);

/// Clips of ten seconds, 25 pictures a second, a key picture each second. Picture n of a clip is grey: its number modulo
/// 16 tells its level.
struct Clips {
    _folder: tempfile::TempDir,
    /// H.264 with reordered pictures, and a tone.
    h264: Clip,
    /// The same in another size, without sound.
    large: Clip,
    /// H.265 with open GOPs: pictures behind a key picture are shown before it.
    h265: Clip,
}

static CLIPS: LazyLock<Clips> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let grey = |size: &str| {
        format!("nullsrc=size={size}:rate=25:duration=10,geq=lum='32+12*mod(N,16)':cb=128:cr=128")
    };
    let x264 = [
        "-c:v",
        "libx264",
        "-g",
        "25",
        "-bf",
        "2",
        "-sc_threshold",
        "0",
        "-crf",
        "10",
        "-pix_fmt",
        "yuv420p",
    ];
    let clip = |name: &str, size: &str, more: &[&str]| {
        let source = grey(size);
        let mut arguments = vec![source.as_str()];
        arguments.extend(more);
        Clip::open(&test_clip(folder.path(), name, &arguments)).unwrap()
    };
    let tone = ["-f", "lavfi", "-i", "sine=frequency=440:duration=10", "-c:a", "aac", "-shortest"];
    let h264 = clip("h264.mp4", "320x240", &[&tone[..], &x264[..]].concat());
    let large = clip("large.mp4", "640x360", &x264);
    let x265 = "open-gop=1:keyint=25:min-keyint=25:scenecut=0:b-adapt=0:bframes=3:log-level=error";
    let x265 =
        ["-c:v", "libx265", "-crf", "10", "-pix_fmt", "yuv420p", "-tag:v", "hvc1", "-x265-params", x265];
    let h265 = clip("h265.mp4", "320x240", &x265);
    Clips { _folder: folder, h264, large, h265 }
});

fn later(at: Timestamp, seconds: f64) -> Timestamp {
    time::from_90k(time::to_90k(at) + (seconds * VIDEO_CLOCK as f64) as i64)
}

/// The start of the clock's minute that began so many minutes ago.
fn minutes_ago(minutes: i64) -> Timestamp {
    Timestamp::from_second((Timestamp::now().as_second() / 60 - minutes) * 60).unwrap()
}

/// A daemon that opens a past.
async fn daemon(sections: &str, past: impl FnOnce(&Path)) -> Daemon {
    let folder = Arc::new(tempfile::Builder::new().prefix("liuta-test-").tempdir().unwrap());
    let (http, rtsp) = (free_address(), free_address());
    std::fs::write(folder.path().join("liuta.toml"), config_head(folder.path(), http, rtsp) + sections)
        .unwrap();
    past(&folder.path().join("data"));
    Daemon::start_in(folder, http, rtsp, &[]).await
}

const DEAD: &str = "[vision]\nenabled = false\n[cameras.gate]\nurl = \"rtsp://127.0.0.1:1/a\"\n";

/// An address that asks the daemon with a token: players that can send none still play.
async fn door(daemon: &Daemon) -> String {
    let (base, token) = (daemon.url(""), daemon.token_of("operator", &[]));
    let client = reqwest::Client::new();
    let pass = move |request: Request| async move {
        let path = request.uri().path_and_query().unwrap().to_string();
        let mut asked = client.request(request.method().clone(), format!("{base}{path}")).bearer_auth(token);
        if let Some(range) = request.headers().get(header::RANGE) {
            asked = asked.header(header::RANGE, range);
        }
        let answer = asked.send().await.unwrap();
        let mut response = Response::builder().status(answer.status());
        for name in
            [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::CONTENT_RANGE, header::ACCEPT_RANGES]
        {
            if let Some(value) = answer.headers().get(&name) {
                response = response.header(name, value);
            }
        }
        response.body(Body::from(answer.bytes().await.unwrap())).unwrap().into_response()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(pass)).await });
    format!("http://{address}")
}

/// Without blocking the door.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// Presentation times of the pictures that ffmpeg decodes, without one complaint.
async fn decoded(input: String) -> Vec<f64> {
    aside(move || {
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "warning", "-copyts", "-i", &input, "-map", "0:v", "-fps_mode", "passthrough"]);
        ffmpeg.args(["-enc_time_base", "1:90000", "-f", "framemd5", "-"]);
        let (out, complaints) = strict(&mut ffmpeg);
        assert_eq!(complaints, "", "{input}");
        let pictures = out.lines().filter(|line| !line.starts_with('#'));
        pictures
            .map(|line| line.split(',').nth(2).unwrap().trim().parse::<f64>().unwrap() / 90_000.0)
            .collect()
    })
    .await
}

/// Each picture once, 40 ms apart but for these jumps.
fn assert_steady(times: &[f64], jumps: &[f64]) {
    let found: Vec<f64> =
        times.windows(2).map(|pair| pair[1] - pair[0]).filter(|step| (step - 0.04).abs() > 0.001).collect();
    assert_eq!(found.len(), jumps.len(), "{found:?}");
    for (found, wanted) in found.iter().zip(jumps) {
        assert!((found - wanted).abs() < 0.05, "{found} for {wanted}");
    }
}

/// Lines of a playlist that begin so, without that.
fn values<'a>(playlist: &'a str, tag: &str) -> Vec<&'a str> {
    playlist.lines().filter_map(|line| line.strip_prefix(tag)).collect()
}

fn playback(camera: &str, start: Timestamp, end: Timestamp) -> String {
    format!("/playback/{camera}/index.m3u8?start={start}&end={end}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_over_files_and_a_gap_plays_as_hls() {
    let start = minutes_ago(8);
    let again = later(start, 175.0);
    let mut daemon = daemon(DEAD, |data| {
        let run = |start, rounds| Run { clip: &CLIPS.h264, start, rounds };
        past::record(data, "gate", &[run(later(start, 5.0), 15), run(again, 6)]);
    })
    .await;
    let door = door(&daemon).await;
    // From between two key pictures of the first file over three more and the gap, to the middle of a GOP.
    let (from, to) = (later(start, 10.5), later(again, 30.5));
    let path = playback("gate", from, to);
    let playlist = daemon.get(&path).await.text().await.unwrap();
    assert_eq!(values(&playlist, "#EXT-X-START:"), ["TIME-OFFSET=0.50000,PRECISE=YES"], "{playlist}");
    assert_eq!(values(&playlist, "#EXT-X-DISCONTINUITY").len(), 1, "{playlist}");
    assert_eq!(values(&playlist, "#EXT-X-MAP").len(), 1, "the same parameters all along: {playlist}");
    assert!(playlist.ends_with("#EXT-X-ENDLIST\n"));
    let lengths: Vec<f64> =
        values(&playlist, "#EXTINF:").iter().map(|l| l.trim_end_matches(',').parse().unwrap()).collect();
    let target: f64 = values(&playlist, "#EXT-X-TARGETDURATION:")[0].parse().unwrap();
    assert!(lengths.iter().all(|length| length.round() <= target && *length <= 5.01), "{lengths:?}");
    // Recorded from 5 s to 155 s; from the GOP that holds 10.5 s.
    assert!((lengths.iter().sum::<f64>() - 145.0 - 31.0).abs() < 0.2, "{lengths:?}");
    let dates = values(&playlist, "#EXT-X-PROGRAM-DATE-TIME:");
    assert!(dates.contains(&&*format!("{again:.3}")), "{dates:?} {again}");

    let times = decoded(format!("{door}{path}")).await;
    assert_eq!(times.len(), 145 * 25 + 31 * 25);
    assert_steady(&times, &[20.04]);

    // The sound is there, all of it.
    let url = format!("{door}{path}");
    let sound = aside(move || {
        let show = ["-select_streams", "a:0", "-count_packets", "-show_entries", "stream=nb_read_packets"];
        let (out, complaints) = strict(
            Command::new("ffprobe").args(["-v", "warning"]).args(show).args(["-of", "csv=p=0"]).arg(url),
        );
        assert_eq!(complaints, "");
        out.lines().next().unwrap().trim_end_matches(',').parse::<f64>().unwrap()
    })
    .await;
    let frames = 176.0 * 44_100.0 / 1024.0;
    assert!((sound - frames).abs() / frames < 0.02, "{sound} for {frames}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gstreamer_plays_the_same() {
    let start = minutes_ago(5);
    let mut daemon = daemon(DEAD, |data| {
        past::record(data, "gate", &[Run { clip: &CLIPS.h264, start, rounds: 13 }]);
    })
    .await;
    let door = door(&daemon).await;
    let url = format!("{door}{}", playback("gate", start, later(start, 130.0)));
    assert_eq!(daemon.get(&playback("gate", start, later(start, 130.0))).await.status(), StatusCode::OK);
    let played = aside(move || {
        let location = format!("location={url}");
        let mut gst = Command::new("gst-launch-1.0");
        gst.args(["-v", "souphttpsrc", &location, "!", "hlsdemux", "!", "qtdemux", "!", "h264parse", "!"]);
        gst.args(["avdec_h264", "!", "fakesink", "silent=false", "sync=false"]);
        let out = run(&mut gst);
        out.lines().filter(|line| line.contains("last-message = chain")).count()
    })
    .await;
    assert_eq!(played, 3250);
}

/// What a player that follows discontinuities makes of a playlist: an mp4 for each stretch without one.
async fn stretches(daemon: &mut Daemon, playlist: &str, name: &str) -> Vec<PathBuf> {
    let mut films: Vec<Vec<u8>> = Vec::new();
    let client = reqwest::Client::new();
    let token = daemon.token_of("operator", &[]);
    let (mut length, mut at) = (0u64, 0u64);
    let fetch = async |uri: &str, at: u64, length: u64| {
        let url = daemon.url(&format!("/playback/gate/{uri}"));
        let range = format!("bytes={at}-{}", at + length - 1);
        let answer = client.get(url).bearer_auth(&token).header(header::RANGE, range).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
        let bytes = answer.bytes().await.unwrap();
        assert_eq!(bytes.len() as u64, length);
        bytes
    };
    for line in playlist.lines() {
        if let Some(map) = line.strip_prefix("#EXT-X-MAP:URI=\"") {
            let (uri, rest) = map.split_once("\",BYTERANGE=\"").unwrap();
            let head = rest.trim_end_matches("@0\"").parse().unwrap();
            films.push(fetch(uri, 0, head).await.to_vec());
        } else if let Some(range) = line.strip_prefix("#EXT-X-BYTERANGE:") {
            let (bytes, offset) = range.split_once('@').unwrap();
            (length, at) = (bytes.parse().unwrap(), offset.parse().unwrap());
        } else if !line.starts_with('#') {
            films.last_mut().unwrap().extend(fetch(line, at, length).await);
        }
    }
    let folder = daemon.folder.path().to_owned();
    let save = |(number, film)| {
        let file = folder.join(format!("{name}-{number}.mp4"));
        std::fs::write(&file, film).unwrap();
        file
    };
    films.into_iter().enumerate().map(save).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn other_parameters_and_codecs_begin_anew_and_a_clock_that_stepped_back_stops_nobody() {
    let start = minutes_ago(9);
    let mut daemon = daemon(DEAD, |data| {
        let runs = [
            Run { clip: &CLIPS.h264, start, rounds: 1 },
            Run { clip: &CLIPS.large, start: later(start, 10.2), rounds: 1 },
            Run { clip: &CLIPS.h265, start: later(start, 20.4), rounds: 7 },
            // The same again, from two seconds before its end on: the clock was put back.
            Run { clip: &CLIPS.h265, start: later(start, 88.4), rounds: 1 },
        ];
        past::record(data, "gate", &runs);
    })
    .await;
    let playlist = daemon.get(&playback("gate", start, later(start, 120.0))).await.text().await.unwrap();
    assert_eq!(values(&playlist, "#EXT-X-MAP").len(), 3, "{playlist}");
    assert_eq!(values(&playlist, "#EXT-X-DISCONTINUITY").len(), 3, "{playlist}");
    let mut pictures = Vec::new();
    for file in stretches(&mut daemon, &playlist, "stretch").await {
        let times = decoded(file.to_str().unwrap().to_owned()).await;
        assert_steady(&times, &[]);
        pictures.push(times.len());
    }
    assert_eq!(pictures, [250, 250, 8 * 250]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_file_is_answered_by_ranges_as_http_means_them() {
    let start = minutes_ago(3);
    let mut daemon = daemon(DEAD, |data| {
        past::record(data, "gate", &[Run { clip: &CLIPS.h264, start, rounds: 1 }]);
    })
    .await;
    let playlist = daemon.get(&playback("gate", start, later(start, 10.0))).await.text().await.unwrap();
    let uri = playlist.lines().find(|line| !line.starts_with('#')).unwrap().to_owned();
    let (client, token) = (reqwest::Client::new(), daemon.token_of("operator", &[]));
    // Another timeline: an hour later than the file's own.
    let (name, zero) = uri.split_once("?zero=").unwrap();
    let zero: i64 = zero.parse::<i64>().unwrap() - 3600 * VIDEO_CLOCK;
    let url = daemon.url(&format!("/playback/gate/{name}?zero={zero}"));
    let ask = |range: &str| {
        let asked = client.get(&url).bearer_auth(&token);
        if range.is_empty() { asked } else { asked.header(header::RANGE, range) }
    };
    let whole = ask("").send().await.unwrap();
    assert_eq!(
        (whole.status(), &whole.headers()[header::ACCEPT_RANGES]),
        (StatusCode::OK, &"bytes".parse().unwrap())
    );
    let whole = whole.bytes().await.unwrap();
    let file = daemon.folder.path().join("whole.mp4");
    std::fs::write(&file, &whole).unwrap();
    let times = decoded(file.to_str().unwrap().to_owned()).await;
    assert_eq!(times.len(), 250);
    assert!((times[0] - 3600.0).abs() < 0.2, "{}", times[0]);

    // Whatever range is asked for, the bytes are the same ones.
    let mut random = 4_711_u64;
    for _ in 0..60 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let first = (random >> 20) as usize % whole.len();
        let last = (first + (random >> 7) as usize % 70_000).min(whole.len() - 1);
        let answer = ask(&format!("bytes={first}-{last}")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
        let told = format!("bytes {first}-{last}/{}", whole.len());
        assert_eq!(answer.headers()[header::CONTENT_RANGE], told.as_str());
        assert!(answer.bytes().await.unwrap() == whole[first..=last], "{first}-{last}");
    }
    let tail = ask("bytes=-100").send().await.unwrap().bytes().await.unwrap();
    assert_eq!(tail, whole[whole.len() - 100..]);
    for range in [format!("bytes={}-", whole.len()), "bytes=9-3".to_owned(), "bytes=x".to_owned()] {
        let answer = ask(&range).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::RANGE_NOT_SATISFIABLE, "{range}");
        assert_eq!(answer.headers()[header::CONTENT_RANGE], format!("bytes */{}", whole.len()).as_str());
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["type"], "urn:liuta:problem:range");
    }
    let several = ask("bytes=0-1,5-6").send().await.unwrap();
    assert_eq!(several.status(), StatusCode::OK);
    let head = client.head(&url).bearer_auth(&token).send().await.unwrap();
    assert_eq!(head.headers()[header::CONTENT_LENGTH], whole.len().to_string().as_str());
    assert_eq!(head.bytes().await.unwrap().len(), 0);
}

/// The level of grey in the middle of a picture, as its number modulo 16.
fn number(jpeg: &[u8]) -> i64 {
    let picture = image::load_from_memory(jpeg).unwrap().to_luma8();
    let level = picture.get_pixel(picture.width() / 2, picture.height() / 2).0[0];
    ((f64::from(level) * 219.0 / 255.0 - 16.0) / 12.0).round() as i64
}

#[tokio::test(flavor = "multi_thread")]
async fn the_picture_at_any_instant_is_the_one_that_was_on_screen() {
    let start = minutes_ago(9);
    let watching =
        "[cameras.gate]\nurl = \"rtsp://127.0.0.1:1/a\"\n[cameras.yard]\nurl = \"rtsp://127.0.0.1:1/b\"\n";
    let mut daemon = daemon(watching, |data| {
        past::record(
            data,
            "gate",
            &[
                Run { clip: &CLIPS.h264, start, rounds: 7 },
                Run { clip: &CLIPS.h264, start: later(start, 100.0), rounds: 1 },
            ],
        );
        past::record(data, "yard", &[Run { clip: &CLIPS.h265, start, rounds: 7 }]);
    })
    .await;
    for camera in ["gate", "yard"] {
        // Key pictures, those before and behind them, the ends of files, and between two pictures.
        for picture in [0, 1, 2, 3, 24, 25, 26, 27, 113, 249, 250, 1498, 1499, 1500, 1501, 1733] {
            let capture = later(start, f64::from(picture) / 25.0);
            for (behind, width) in [(0.0, None), (0.0399, Some(64))] {
                let at = later(capture, behind + 0.00005);
                let width = width.map_or(String::new(), |width: u32| format!("&width={width}"));
                let answer = daemon.get(&format!("/playback/{camera}/frame.jpeg?at={at}{width}")).await;
                let status = answer.status();
                let told =
                    answer.headers().get("x-capture-time").map(|time| time.to_str().unwrap().to_owned());
                let jpeg = answer.bytes().await.unwrap();
                assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&jpeg));
                let told: Timestamp = told.unwrap().parse().unwrap();
                assert!(
                    told.duration_since(capture).abs() < SignedDuration::from_millis(1),
                    "{told} for {capture}"
                );
                let wanted = i64::from(picture % 250 % 16);
                assert_eq!(number(&jpeg), wanted, "{camera}, picture {picture}, {behind} s later");
                assert!(width.is_empty() || image::load_from_memory(&jpeg).unwrap().width() == 64);
            }
        }
    }
    // In the gap, before all and behind all.
    let ask = async |daemon: &mut Daemon, at: Timestamp| {
        let answer = daemon.get(&format!("/playback/gate/frame.jpeg?at={at}")).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        answer.json::<Value>().await.unwrap()
    };
    let near = |told: &Value, at: Timestamp| {
        let told: Timestamp = told.as_str().unwrap().parse().unwrap();
        told.duration_since(at).abs() < SignedDuration::from_millis(200)
    };
    let gap = ask(&mut daemon, later(start, 85.0)).await;
    assert_eq!(gap["nearest"]["cause"], "camera", "{gap}");
    assert!(near(&gap["nearest"]["before"], later(start, 70.0)), "{gap}");
    assert!(near(&gap["nearest"]["after"], later(start, 100.0)), "{gap}");
    assert!(gap["detail"].as_str().unwrap().contains("the camera was unreachable or silent"), "{gap}");
    let before = ask(&mut daemon, later(start, -500.0)).await;
    assert!(before["nearest"]["before"].is_null() && near(&before["nearest"]["after"], start), "{before}");
    let behind = ask(&mut daemon, later(start, 5000.0)).await;
    assert!(near(&behind["nearest"]["before"], later(start, 110.0)), "{behind}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_segment_that_is_being_written_is_played() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["testsrc2=size=320x240:rate=25:duration=4", "-c:v", "libx264", "-g", "25", "-bf", "0"];
    let clip = test_clip(folder.path(), "live.mp4", &[&arguments[..], &["-pix_fmt", "yuv420p"]].concat());
    let camera = Camera::start(&[Mount::clip("a", &clip)]);
    let begin = Timestamp::now();
    let mut daemon = Daemon::start(&format!("[cameras.gate]\nurl = \"{}\"\n", camera.url("a"))).await;
    daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &["gate"], 150.0).await;
    let door = door(&daemon).await;
    let path = format!("/playback/gate/index.m3u8?start={begin}");
    let playlist = daemon.get(&path).await.text().await.unwrap();
    let seconds: f64 =
        values(&playlist, "#EXTINF:").iter().map(|l| l.trim_end_matches(',').parse::<f64>().unwrap()).sum();
    assert!(seconds > 5.0, "{playlist}");
    let times = decoded(format!("{door}{path}")).await;
    assert!(times.len() >= 150, "{}", times.len());
    // A picture of a second ago.
    let at = Timestamp::now() - SignedDuration::from_millis(1500);
    let told = until(MINUTE, "a picture", async || {
        let answer = daemon.get(&format!("/playback/gate/frame.jpeg?at={at}")).await;
        let told = answer.headers().get("x-capture-time")?.to_str().unwrap().parse::<Timestamp>().unwrap();
        Some(told)
    })
    .await;
    let behind = at.duration_since(told).as_secs_f64();
    assert!((0.0..0.2).contains(&behind), "{behind}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mp4_of_a_range_is_exact_to_the_picture() {
    let start = minutes_ago(5);
    let mut daemon = daemon(DEAD, |data| {
        past::record(data, "gate", &[Run { clip: &CLIPS.h264, start, rounds: 13 }]);
    })
    .await;
    // From picture 137 on, over the ends of two files.
    let from = later(start, 137.0 / 25.0);
    let file = daemon.save(&format!("/get?path=gate&start={from}&duration=120"), "clip.mp4").await;
    let path = file.to_str().unwrap().to_owned();
    let levels = aside(move || {
        let mut ffmpeg = Command::new("ffmpeg");
        // By itself ffmpeg shows what lies before the edit at negative times.
        ffmpeg.args([
            "-v",
            "warning",
            "-copyts",
            "-i",
            &path,
            "-map",
            "0:v",
            "-fps_mode",
            "passthrough",
            "-vf",
            r"select=gte(t\,0),crop=2:2",
        ]);
        let out = ffmpeg.args(["-f", "rawvideo", "-"]).stdin(Stdio::null()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stderr), "");
        out.stdout
            .chunks(6)
            .map(|picture| ((i64::from(picture[0]) - 32) as f64 / 12.0).round() as i64)
            .collect::<Vec<_>>()
    })
    .await;
    let wanted: Vec<i64> = (137..).map(|picture| picture % 250 % 16).take(levels.len()).collect();
    let first_wrong = levels.iter().zip(&wanted).position(|(found, wanted)| found != wanted);
    assert_eq!(first_wrong, None, "{:?}", &levels[..20]);
    assert!((3000..=3002).contains(&levels.len()), "{}", levels.len());
}

/// As `/get` says of an answer, in seconds after `since`.
fn captured(answer: &reqwest::Response, name: &str, since: Timestamp) -> f64 {
    let at: Timestamp = answer.headers()[name].to_str().unwrap().parse().unwrap();
    at.duration_since(since).as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mp4_says_when_it_begins_and_ends_and_an_export_has_one_of_each_codec() {
    let start = minutes_ago(5);
    let mut daemon = daemon(DEAD, |data| {
        let runs = [
            Run { clip: &CLIPS.h264, start, rounds: 2 },
            Run { clip: &CLIPS.h265, start: later(start, 20.4), rounds: 2 },
            Run { clip: &CLIPS.h264, start: later(start, 70.0), rounds: 1 },
        ];
        past::record(data, "gate", &runs);
    })
    .await;
    let get = |from: f64, seconds: f64| {
        let from = later(start, from);
        format!("/get?path=gate&start={from}&duration={seconds}")
    };
    // From where, how long; and what is given: within a picture's time.
    for (from, seconds, begins, ends) in [
        (5.0, 5.0, 5.0, 10.0),
        (5.0, 60.0, 5.0, 20.0),
        (-10.0, 15.0, 0.0, 5.0),
        (45.0, 27.0, 70.0, 72.0),
        (45.0, 90.0, 70.0, 80.0),
        (25.0, 55.0, 25.0, 40.4),
    ] {
        let answer = daemon.get(&get(from, seconds)).await;
        let told = ["x-capture-time", "x-capture-end"].map(|name| captured(&answer, name, start));
        let near = |told: f64, wanted: f64| (told - wanted).abs() < 0.05;
        assert!(near(told[0], begins) && near(told[1], ends), "{seconds} s from {from} on: {told:?}");
        assert_eq!(answer.headers()[header::ACCEPT_RANGES], "none");
    }
    let (client, token) = (reqwest::Client::new(), daemon.token_of("operator", &[]));
    let head = client.head(daemon.url(&get(5.0, 60.0))).bearer_auth(token).send().await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers().get(header::CONTENT_LENGTH), None, "{:?}", head.headers());
    assert!((captured(&head, "x-capture-end", start) - 20.0).abs() < 0.05);

    let clip = daemon.folder.path().join("case.mp4");
    let mut liuta = Command::new(env!("CARGO_BIN_EXE_liuta"));
    liuta
        .args(["export", "--json", "--camera", "gate", "--config"])
        .arg(daemon.config_file())
        .arg("-o")
        .arg(&clip);
    liuta.args(["--from", &start.to_string(), "--to", &later(start, 80.0).to_string()]);
    let done: Value = serde_json::from_str(&run(&mut liuta)).unwrap();
    let files = done["files"].as_array().unwrap();
    let names: Vec<_> = files.iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["case.mp4", "case-2.mp4", "case-3.mp4"]);
    for (file, (kind, pictures, gaps)) in
        files.iter().zip([("avc1", 500, 0), ("hvc1", 500, 1), ("avc1", 250, 0)])
    {
        assert!(file["codec"].as_str().unwrap().starts_with(kind), "{file}");
        assert_eq!(file["pictures"], pictures, "{file}");
        assert_eq!(file["gaps"].as_array().unwrap().len(), gaps, "{file}");
        let path = clip.with_file_name(file["name"].as_str().unwrap());
        assert_eq!(common::decoded_pictures(&path), pictures);
    }
    assert_eq!(files[1]["gaps"][0]["cause"], "camera");
    let mut verify = Command::new(env!("CARGO_BIN_EXE_liuta"));
    run(verify.arg("verify").arg(&clip));
    std::fs::write(clip.with_file_name("case-2.mp4"), "another").unwrap();
    let mut verify = Command::new(env!("CARGO_BIN_EXE_liuta"));
    assert!(!verify.arg("verify").arg(&clip).output().unwrap().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_somebody_removes_is_a_gap_at_once() {
    let start = minutes_ago(6);
    let mut daemon = daemon(DEAD, |data| {
        past::record(data, "gate", &[Run { clip: &CLIPS.h264, start, rounds: 18 }]);
    })
    .await;
    let minute = later(start, 60.0);
    let folder = daemon.data().join(format!("recordings/gate/{}", minute.strftime("%Y-%m-%d")));
    std::fs::remove_file(folder.join(format!("{}.mp4", minute.strftime("%H-%M-%S")))).unwrap();
    let label = ["camera=\"gate\"", "cause=\"disk\""];
    let seconds = daemon.until_metric(MINUTE, "liuta_gap_seconds_total", &label, 50.0).await;
    assert!((59.0..=61.0).contains(&seconds), "{seconds}");
    let listed = daemon.json(&format!("/list?path=gate&start={start}&end={}", later(start, 180.0))).await;
    let gaps: Vec<_> = listed.as_array().unwrap().iter().map(|item| item["gap"].as_str()).collect();
    assert_eq!(gaps, [None, Some("disk"), None], "{listed}");
    let health = daemon.health().await;
    assert!(health.to_string().contains("liuta has not removed them"), "{health}");
}

/// The first byte does not wait for a look at every file, so a change that comes with the minute itself is not expected.
#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_change_with_the_minute_are_followed_in_one_mp4() {
    let minute = minutes_ago(4);
    let start = later(minute, -10.0);
    let mut daemon = daemon(DEAD, |data| {
        past::record(
            data,
            "gate",
            &[
                Run { clip: &CLIPS.h264, start, rounds: 1 },
                Run { clip: &CLIPS.large, start: minute, rounds: 1 },
                Run { clip: &CLIPS.h264, start: later(minute, 15.0), rounds: 1 },
            ],
        );
    })
    .await;
    for (seconds, widths) in
        [(20.0, &[(320, 250), (640, 250)][..]), (35.0, &[(320, 250), (640, 250), (320, 250)])]
    {
        let file = daemon.save(&format!("/get?path=gate&start={start}&duration={seconds}"), "clip.mp4").await;
        let (out, complaints) = strict(
            Command::new("ffprobe")
                .args([
                    "-v",
                    "warning",
                    "-select_streams",
                    "v",
                    "-show_entries",
                    "frame=width",
                    "-of",
                    "csv=p=0",
                ])
                .arg(&file),
        );
        assert_eq!(complaints, "");
        let found: Vec<u32> = out.lines().filter_map(|line| line.split(',').next()?.parse().ok()).collect();
        let found: Vec<(u32, usize)> = found.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect();
        assert_eq!(found, widths);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_told_apart() {
    let start = minutes_ago(3);
    let mut daemon = daemon(DEAD, |data| {
        past::record(data, "gate", &[Run { clip: &CLIPS.h264, start, rounds: 1 }]);
    })
    .await;
    let (end, long_ago) = (later(start, 10.0), "2016-05-01T08:00:00Z");
    let now = Timestamp::now();
    let asked = [
        (format!("/playback/gate/index.m3u8?start={end}&end={start}"), 400),
        (format!("/playback/gate/index.m3u8?start={start}&end={start}"), 400),
        (format!("/playback/gate/index.m3u8?start={long_ago}&end={now}"), 400),
        (format!("/playback/gate/index.m3u8?start={long_ago}"), 404),
        ("/playback/gate/index.m3u8?start=2126-05-01T08:00:00Z".to_owned(), 404),
        ("/playback/gate/index.m3u8".to_owned(), 400),
        ("/playback/gate/index.m3u8?start=yesterday".to_owned(), 400),
        ("/playback/gate/index.m3u8?start=99999999999999999999".to_owned(), 400),
        (format!("/playback/nobody/index.m3u8?start={start}&end={end}"), 404),
        (format!("/playback/..%2Fgate/index.m3u8?start={start}&end={end}"), 400),
        ("/playback/gate/..%2F..%2Fstate.db?zero=0".to_owned(), 404),
        ("/playback/gate/1.mp4?zero=0".to_owned(), 404),
        (format!("/playback/gate/{}.mp4?zero=0", i64::MAX), 404),
        (format!("/playback/gate/{}.mp4?zero={}", time::to_90k(start), u64::MAX), 400),
        (format!("/playback/gate/{}.mp4", time::to_90k(start)), 400),
        ("/playback/gate/frame.jpeg".to_owned(), 400),
        ("/playback/gate/frame.jpeg?at=now".to_owned(), 400),
        (format!("/playback/gate/frame.jpeg?at={start}&width=1"), 400),
        ("/playback/gate/frame.jpeg?at=-009998-01-01T00:00:00Z".to_owned(), 404),
        ("/playback/gate/frame.jpeg?at=9999-12-30T00:00:00Z".to_owned(), 404),
        (format!("/playback/nobody/frame.jpeg?at={start}"), 404),
        // Vision is off.
        (format!("/playback/gate/frame.jpeg?at={}", later(start, 5.0)), 501),
        (format!("/get?path=gate&start={start}&duration=-5"), 400),
        (format!("/get?path=gate&start={start}&duration=NaN"), 400),
        (format!("/get?path=gate&start={start}&duration=inf"), 400),
        (format!("/get?path=gate&start={start}&duration=315360000"), 400),
        ("/get?path=gate&start=noon&duration=5".to_owned(), 400),
        (format!("/get?path=../gate&start={start}&duration=5"), 400),
        (format!("/get?path=nobody&start={start}&duration=5"), 404),
        (format!("/list?path=gate&start={end}&end={start}"), 400),
        ("/list?path=nobody".to_owned(), 404),
        ("/api/v1/timeline".to_owned(), 400),
        (format!("/api/v1/timeline?camera=gate&start={end}&end={start}"), 400),
        (format!("/api/v1/timeline?camera=gate&start={long_ago}&end={now}"), 400),
        ("/api/v1/timeline?camera=gate&start=once".to_owned(), 400),
        ("/api/v1/timeline?camera=gate&width=0".to_owned(), 400),
        ("/api/v1/timeline?camera=gate&width=5001".to_owned(), 400),
        ("/api/v1/timeline?camera=..".to_owned(), 400),
        ("/api/v1/timeline?camera=nobody".to_owned(), 404),
    ];
    for (path, status) in asked {
        let answer = daemon.get(&path).await;
        assert_eq!(answer.status().as_u16(), status, "{path}");
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/problem+json", "{path}");
        let problem: Value = answer.json().await.unwrap();
        let detail = problem["detail"].as_str().unwrap();
        assert!(!detail.is_empty(), "{path}: {problem}");
        assert_eq!(detail.contains("no camera \"nobody\""), path.contains("nobody"), "{path}: {problem}");
    }
    // A camera that is not configured and has a past is played.
    let listed = daemon.get(&playback("gate", start, end)).await;
    assert_eq!(listed.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_bar_shows_everything_in_one_query_at_any_zoom() {
    let start = minutes_ago(30);
    let yard = format!("{DEAD}[cameras.yard]\nurl = \"rtsp://127.0.0.1:1/b\"\n");
    let mut daemon = daemon(&yard, |data| {
        let run = |at, rounds| Run { clip: &CLIPS.h264, start: later(start, at), rounds };
        past::record(data, "gate", &[run(0.0, 12), run(121.0, 6), run(600.0, 6)]);
        let store = Store::open(data).unwrap();
        for (number, at) in [10.0, 30.0, 650.0].into_iter().enumerate() {
            let alert = common::alert::alert(&format!("01A{number}"), "gate", later(start, at));
            store.put_alert(&alert, None, &[]).unwrap();
        }
        let seen = |class: &str| liuta::alert::Detection {
            class: class.into(),
            score: 0.9,
            bbox: [0.1, 0.2, 0.3, 0.4],
        };
        for second in 0..600 {
            let found = [seen("person"), seen("person"), seen("car")];
            store
                .put_detections(
                    "gate",
                    later(start, f64::from(second)),
                    "m@1",
                    &found[..2 + second as usize % 2],
                )
                .unwrap();
        }
    })
    .await;
    let mut bar = async |seconds: f64, width: u32, camera: &str| {
        let end = later(start, seconds);
        daemon.json(&format!("/api/v1/timeline?{camera}&start={start}&end={end}&width={width}")).await
    };
    let told = bar(1200.0, 5000, "camera=gate&camera=yard").await;
    assert_eq!(told["step"], 0.24);
    let (gate, yard) = (&told["cameras"][0], &told["cameras"][1]);
    assert_eq!((&gate["camera"], &yard["camera"]), (&"gate".into(), &"yard".into()));
    assert_eq!(yard["recorded"].as_array().unwrap().len(), 0);
    assert_eq!(gate["recorded"].as_array().unwrap().len(), 3, "{}", gate["recorded"]);
    assert_eq!(gate["gaps"][0]["cause"], "camera");
    assert_eq!(gate["alerts"].as_array().unwrap().len(), 3);
    let alert = &gate["alerts"][0];
    assert_eq!((&alert["id"], &alert["kind"], &alert["level"]), (&"01A0".into(), &"fire".into(), &1.into()));
    assert_eq!((&alert["disposition"], &alert["phase"]), (&"reported".into(), &"ended".into()));
    let sum = |bar: &Value, class: &str| -> u64 {
        let steps = bar["cameras"][0]["detections"].as_array().unwrap();
        steps.iter().filter_map(|step| step["counts"][class].as_u64()).sum()
    };
    assert_eq!((sum(&told, "person"), sum(&told, "car")), (1200, 300));

    // From farther away: by the minute, by the quarter of an hour, all in one.
    for (seconds, width, steps) in [(600.0, 10, 10), (600.0, 5, 5), (1200.0, 1, 1)] {
        let told = bar(seconds, width, "camera=gate").await;
        let detections = told["cameras"][0]["detections"].as_array().unwrap().len();
        assert!((steps..=steps + 1).contains(&detections), "{width}: {detections}");
        assert_eq!((sum(&told, "person"), sum(&told, "car")), (1200, 300), "{width}");
    }
    let far = bar(1200.0, 1, "camera=gate").await;
    let gate = &far["cameras"][0];
    assert_eq!((&gate["recorded"][0]["merged"], gate["recorded"].as_array().unwrap().len()), (&3.into(), 1));
    assert_eq!((&gate["alerts"][0]["merged"], gate["alerts"].as_array().unwrap().len()), (&3.into(), 1));
    // A second's hole is not seen at ten seconds a step, the long gap is.
    let told = bar(1200.0, 120, "camera=gate").await;
    assert_eq!(
        told["cameras"][0]["recorded"].as_array().unwrap().len(),
        2,
        "{}",
        told["cameras"][0]["recorded"]
    );
}
