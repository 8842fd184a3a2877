//! Cameras of gst-rtsp-server through the library's own sessions and supervisors.

#[allow(dead_code, reason = "each test binary uses a part of the test cameras")]
mod cameras;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cameras::{GstCamera, mount};
use liuta::camera::source::{MEDIA_DEADLINE, Session, SessionError, Target};
use liuta::config::{Credentials, Secret, Transport};
use liuta::media::{AccessUnit, AudioCodec, AudioFrame, Sample, VideoCodec};

/// What a busy machine may add to any time.
const SLACK: Duration = Duration::from_secs(10);

fn target(url: url::Url) -> Target {
    Target { url, credentials: None, transport: Transport::Tcp }
}

fn with_password(url: url::Url, password: &str) -> Target {
    let credentials = Credentials { username: "admin".into(), password: Secret::new(password) };
    Target { credentials: Some(credentials), ..target(url) }
}

async fn refused(target: Target) -> SessionError {
    match Session::open(&target, 1, 0).await {
        Ok(_) => panic!("a session of {target:?}"),
        Err(error) => error,
    }
}

struct Played {
    pictures: Vec<Arc<AccessUnit>>,
    sound: Vec<Arc<AudioFrame>>,
    end: SessionError,
}

/// Everything until the session ends.
async fn play(target: &Target) -> Played {
    let mut session = Session::open(target, 7, 100).await.unwrap();
    let (mut pictures, mut sound) = (Vec::new(), Vec::new());
    loop {
        match session.next().await {
            Ok(Sample::Video(unit)) => pictures.push(unit),
            Ok(Sample::Audio(frame)) => sound.push(frame),
            Err(end) => return Played { pictures, sound, end },
        }
    }
}

/// Every picture that was sent came, in order, numbered, timed, and can be decoded.
fn assert_whole(pictures: &[Arc<AccessUnit>], sent: usize) {
    assert_eq!(pictures.len(), sent);
    assert!(pictures[0].is_rap);
    for (n, unit) in pictures.iter().enumerate() {
        assert_eq!((unit.run, unit.seq), (7, 100 + n as u64));
        assert!(unit.dts_90k <= unit.pts_90k, "{unit:?}");
        assert!(unit.nal_units().all(|nal| !unit.params.codec.is_parameter_set(&nal)), "{unit:?}");
        assert_eq!(unit.nal_units().map(|nal| nal.len() + 4).sum::<usize>(), unit.data.len());
    }
    assert!(pictures.windows(2).all(|pair| pair[0].dts_90k < pair[1].dts_90k));
    assert_eq!(decoded(pictures), sent, "pictures that ffmpeg decodes");
}

/// How many pictures ffmpeg decodes of them, without one complaint.
fn decoded(pictures: &[Arc<AccessUnit>]) -> usize {
    let params = &pictures[0].params;
    let mut stream = Vec::new();
    let nals = params.parameter_sets.iter().cloned().chain(pictures.iter().flat_map(|unit| unit.nal_units()));
    for nal in nals {
        stream.extend([0, 0, 0, 1]);
        stream.extend(nal);
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), stream).unwrap();
    let format = if params.codec == VideoCodec::H264 { "h264" } else { "hevc" };
    let output = std::process::Command::new("ffmpeg")
        .args(["-nostdin", "-v", "warning", "-f", format, "-i"])
        .arg(file.path())
        .args(["-f", "framemd5", "-"])
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    // A bare byte stream has no times; ffmpeg says so with every picture.
    let real: Vec<_> = complaints.lines().filter(|line| !line.contains("imestamps")).collect();
    assert!(real.is_empty(), "{real:?}");
    String::from_utf8_lossy(&output.stdout).lines().filter(|line| !line.starts_with('#')).count()
}

#[tokio::test]
async fn every_picture_of_a_digest_camera_comes() {
    let camera = GstCamera::start(&[
        "--user",
        "admin",
        "--password",
        "geheim",
        "--pictures",
        "120",
        "--then",
        "end",
        &mount("fire", "furg_house6.mp4"),
    ]);
    let before = jiff::Timestamp::now();
    let played = play(&with_password(camera.url("fire"), "geheim")).await;
    assert_whole(&played.pictures, 120);
    let first = played.pictures[0].capture();
    assert!(first >= before && first <= jiff::Timestamp::now(), "{first}");

    let wrong = refused(with_password(camera.url("fire"), "falsch")).await;
    assert!(wrong.is_password(), "{wrong}");
    assert!(!wrong.to_string().contains("falsch"), "{wrong}");
    let none = refused(target(camera.url("fire"))).await;
    assert!(matches!(none, SessionError::PasswordMissing { .. }), "{none}");
}

#[tokio::test]
async fn h265_key_pictures_are_found_by_type_and_b_pictures_keep_their_order() {
    // An open GOP: key pictures after the first are CRA, none of them IDR.
    let camera = GstCamera::start(&[
        "--codec",
        "h265",
        "--encoder-options=-g 25 -bf 3 -x265-params open-gop=1:keyint=25:min-keyint=25:scenecut=0:b-adapt=0:bframes=3",
        "--pictures",
        "100",
        "--then",
        "end",
        "a=testsrc2",
    ]);
    let played = play(&target(camera.url("a"))).await;
    assert_whole(&played.pictures, 100);
    assert_eq!(played.pictures[0].params.codec, VideoCodec::H265);
    assert_eq!(played.pictures.iter().filter(|unit| unit.is_rap).count(), 4);
    assert!(
        played.pictures.windows(2).any(|pair| pair[0].pts_90k > pair[1].pts_90k),
        "pictures are reordered"
    );
}

#[tokio::test]
async fn pictures_come_over_udp_and_with_basic() {
    let camera = GstCamera::start(&[
        "--user",
        "admin",
        "--password",
        "x",
        "--auth",
        "basic",
        "--pictures",
        "75",
        "--then",
        "end",
        "a=testsrc2",
    ]);
    let target = Target { transport: Transport::Udp, ..with_password(camera.url("a"), "x") };
    let played = play(&target).await;
    // UDP may lose; on one machine it loses little.
    assert!(played.pictures.len() > 50, "{} pictures, then: {}", played.pictures.len(), played.end);
}

#[tokio::test]
async fn sound_comes_beside_the_pictures() {
    for audio in ["aac", "pcma", "pcmu"] {
        let camera =
            GstCamera::start(&["--audio", audio, "--pictures", "75", "--then", "hold", "a=testsrc2"]);
        let played = play(&target(camera.url("a"))).await;
        assert_whole(&played.pictures, 75);
        let first = played.sound.first().unwrap_or_else(|| panic!("no {audio}"));
        match (audio, &first.params.codec) {
            ("aac", AudioCodec::Aac { config }) => assert!(config.len() >= 2),
            ("pcma", AudioCodec::Pcma) | ("pcmu", AudioCodec::Pcmu) => {
                assert_eq!(first.params.clock_rate, 8000)
            }
            (_, other) => panic!("{other:?} for {audio}"),
        }
        let seconds: f64 =
            played.sound.iter().map(|f| f64::from(f.duration) / f64::from(f.params.clock_rate)).sum();
        assert!(seconds > 2.0, "{seconds} s of {audio}");
        assert!(played.sound.windows(2).all(|pair| pair[0].pts < pair[1].pts));
    }
}

#[tokio::test]
async fn a_silent_camera_is_left_after_the_media_deadline() {
    let camera = GstCamera::start(&["--pictures", "25", "--then", "hold", "a=testsrc2"]);
    let start = Instant::now();
    let played = play(&target(camera.url("a"))).await;
    assert_eq!(played.pictures.len(), 25);
    assert!(played.end.to_string().contains("nothing useful for 5 s"), "{}", played.end);
    assert!(start.elapsed() < MEDIA_DEADLINE + Duration::from_secs(1) + SLACK);
}

#[tokio::test]
async fn what_is_wrong_with_a_url_is_said() {
    let camera = GstCamera::start(&["a=testsrc2"]);
    let error = refused(target(camera.url("other"))).await;
    assert!(matches!(error, SessionError::NoStream { status: 404, .. }), "{error}");
    let port = camera.port;
    drop(camera);
    let error = refused(target(format!("rtsp://127.0.0.1:{port}/a").parse().unwrap())).await;
    assert!(error.to_string().starts_with(&format!("cannot connect to 127.0.0.1:{port}: ")), "{error}");
    let error = refused(target("rtsp://camera.invalid/a".parse().unwrap())).await;
    assert!(error.to_string().starts_with("cannot resolve camera.invalid"), "{error}");
}
