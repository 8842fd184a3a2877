//! Cameras of gst-rtsp-server through the library's own sessions and supervisors.

#[allow(dead_code, reason = "each test binary uses a part of the test cameras")]
mod cameras;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cameras::{GstCamera, mount};
use liuta::camera::source::{MEDIA_DEADLINE, Session, SessionError, Target};
use liuta::camera::{Camera, Ingest};
use liuta::config::reach::Reach;
use liuta::config::{Credentials, Secret, Transport};
use liuta::health::Health;
use liuta::live::Budget;
use liuta::media::{AccessUnit, AudioCodec, AudioFrame, Sample, VideoCodec};
use liuta::record::{Ring, Stretch};

/// What a busy machine may add to any time.
const SLACK: Duration = Duration::from_secs(10);

fn target(url: url::Url) -> Target {
    Target { url, credentials: None, transport: Transport::Tcp, reach: Reach::default() }
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

/// The guard against hostile cameras lets the largest real pictures pass.
#[tokio::test]
async fn key_pictures_of_three_megabytes_come() {
    let clip = tempfile::Builder::new().suffix(".mp4").tempfile().unwrap();
    let encoded = std::process::Command::new("ffmpeg")
        .args([
            "-nostdin",
            "-v",
            "error",
            "-y",
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=2560x1440:rate=2:duration=3",
        ])
        .args([
            "-vf",
            "noise=alls=20:allf=t",
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-qp",
            "18",
            "-g",
            "1",
        ])
        .args(["-pix_fmt", "yuv420p"])
        .arg(clip.path())
        .status();
    assert!(encoded.unwrap().success());
    let mount = format!("a={}", clip.path().display());
    let camera = GstCamera::start(&["--pictures", "6", "--then", "end", &mount]);
    let played = play(&target(camera.url("a"))).await;
    let sizes: Vec<_> = played.pictures.iter().map(|unit| unit.data.len()).collect();
    assert_eq!(sizes.len(), 6, "{sizes:?}, then: {}", played.end);
    assert!(sizes.iter().all(|&size| size > 2_500_000), "{sizes:?}");
}

#[tokio::test]
async fn a_refused_password_is_tried_twice_over_both_streams() {
    let tries = Arc::new(AtomicUsize::new(0));
    let address = cameras::hostile::serve_refusing(tries.clone()).await;
    let mut config = configured(format!("rtsp://{address}/main").parse().unwrap());
    config.sub_url = Some(format!("rtsp://{address}/sub").parse().unwrap());
    config.credentials = with_password(config.url.clone(), "falsch").credentials;
    let recorded = record(config);
    until("tried twice", SLACK, || tries.load(Ordering::Relaxed) == 2).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(tries.load(Ordering::Relaxed), 2);
    let state = recorded.health.snapshot().get("camera/gate").cloned().unwrap();
    assert!(state.message.contains("refuses the password"), "{state:?}");
    assert!(recorded.camera.stop(SLACK).await, "it does not wait for the next try");
    let left = recorded.health.snapshot();
    assert!(left.keys().all(|subject| !subject.starts_with("camera/")), "{left:?}");
}

/// What people get wrong most is told in their words.
#[tokio::test]
async fn what_answers_is_told_when_it_is_no_camera() {
    for (answer, told) in [
        ("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "does not speak RTSP: check the port"),
        (
            "RTSP/1.0 302 Found\r\nCSeq: 1\r\nLocation: rtsp://192.0.2.1/\r\n\r\n",
            "sends elsewhere (RTSP status 302)",
        ),
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let _ = socket.read(&mut [0; 4096]).await;
                let _ = socket.write_all(answer.as_bytes()).await;
                let _ = socket.read(&mut [0; 4096]).await;
            }
        });
        let target = target(format!("rtsp://{address}/x").parse().unwrap());
        let error = Session::open(&target, 0, 0).await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

/// A camera of the configuration, as small as can be.
fn configured(url: url::Url) -> liuta::config::Camera {
    liuta::config::Camera {
        id: "gate".into(),
        name: "gate".into(),
        url,
        sub_url: None,
        credentials: None,
        transport: Transport::Tcp,
        reach: Reach::default(),
        record: true,
        max_size: None,
        groups: Vec::new(),
        scene: None,
        grid: None,
        position: None,
        zones: Vec::new(),
    }
}

struct Recorded {
    ring: Arc<Ring>,
    health: Health,
    camera: Camera,
    /// Its thread ends with it.
    _ingest: Ingest,
    _data: tempfile::TempDir,
}

fn record(camera: liuta::config::Camera) -> Recorded {
    let data = tempfile::tempdir().unwrap();
    let settings = liuta::config::Record {
        retention: Duration::from_secs(86_400),
        min_free: 0,
        sync: Some(Duration::from_secs(1)),
        evidence_retention: Duration::from_secs(86_400),
        ..liuta::config::Record::default()
    };
    let health = Health::default();
    let ring = Ring::open(data.path(), settings, health.clone()).unwrap();
    let budget = Budget::new(256 << 20);
    let ingest = Ingest::start(budget.clone()).unwrap();
    let camera = Camera::start(Arc::new(camera), &ingest, &ring, &budget, health.clone());
    Recorded { ring, health, camera, _ingest: ingest, _data: data }
}

/// Waits until it is so; how long that took.
async fn until(what: &str, within: Duration, mut so: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < within, "{what}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_pictures_are_recorded_as_were_sent() {
    const SENT: u64 = 150;
    let camera = GstCamera::start(&["--pictures", &SENT.to_string(), "--then", "hold", "a=testsrc2"]);
    let start = jiff::Timestamp::now();
    let recorded = record(configured(camera.url("a")));
    camera.wait("sent a ");
    // Stopped before the silence brings a second session.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(recorded.camera.stop(SLACK).await);
    assert!(recorded.ring.close(SLACK));
    let label = liuta::health::CameraLabel::new("gate");
    assert_eq!(recorded.health.metrics.recorded_access_units.get_or_create(&label).get(), SENT);
    assert_eq!(recorded.health.metrics.camera_sessions.get_or_create(&label).get(), 1);

    let range = start..jiff::Timestamp::now();
    let mut export = recorded.ring.archive().export("gate", range).unwrap().chunks;
    let file = tempfile::NamedTempFile::new().unwrap();
    while let Some(bytes) = export.recv().await {
        std::io::Write::write_all(&mut file.as_file(), &bytes.unwrap()).unwrap();
    }
    let probe = std::process::Command::new("ffprobe")
        .args(["-v", "warning", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"])
        .arg(file.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&probe.stdout).trim(), SENT.to_string());
    assert_eq!(String::from_utf8_lossy(&probe.stderr), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_camera_that_returns_is_recorded_again_within_five_seconds() {
    let camera = GstCamera::start(&["a=testsrc2"]);
    let port = camera.port.to_string();
    let mut config = configured(camera.url("a"));
    config.sub_url = Some(camera.url("a"));
    let recorded = record(config);
    let live = recorded.camera.main.clone();
    let sub = recorded.camera.sub.clone().unwrap();
    until("online", SLACK, || live.is_online() && sub.is_online()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let first = live.newest_rap().unwrap();

    drop(camera);
    until("offline", SLACK, || !live.is_online()).await;
    let state = || recorded.health.snapshot().get("camera/gate").cloned().unwrap();
    until("said", SLACK, || state().message.contains("cannot connect to 127.0.0.1:")).await;
    tokio::time::sleep(Duration::from_secs(8)).await;

    let _camera = GstCamera::start(&["--port", &port, "a=testsrc2"]);
    let took = until("online again", Duration::from_secs(5) + SLACK, || live.is_online()).await;
    println!("recording again after {took:?}");
    assert!(took < Duration::from_secs(5) + SLACK / 2);
    assert_eq!(state().message, "");
    let again = live.newest_rap().unwrap();
    assert!(again.run > first.run && again.seq > first.seq && again.pts_90k > first.pts_90k);
    tokio::time::sleep(Duration::from_secs(3)).await;

    assert!(recorded.camera.stop(SLACK).await);
    assert!(recorded.ring.close(SLACK));
    assert!(live.is_closed() && sub.is_closed());
    let now = jiff::Timestamp::now();
    let list = recorded.ring.archive().list("gate", now - Duration::from_secs(3600)..now).unwrap();
    let kinds: Vec<_> = list
        .iter()
        .map(|stretch| match stretch {
            Stretch::Recorded { .. } => "recorded",
            Stretch::Gap { cause, .. } => cause.as_str(),
        })
        .collect();
    let from = kinds.iter().position(|kind| *kind == "recorded").unwrap();
    assert_eq!(&kinds[from..from + 3], ["recorded", "camera", "recorded"], "{list:?}");
}
