//! Channels and live events, with the real binary, real cameras and real clients.

mod common;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::camera::{Camera, Mount};
use common::{Daemon, run, test_clip, until};
use reqwest::{StatusCode, header};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

/// Two cameras that can be told apart by their size.
struct Cameras {
    camera: Camera,
    _folder: tempfile::TempDir,
}

impl Cameras {
    fn start() -> Cameras {
        let folder = tempfile::tempdir().unwrap();
        let clip = |name: &str, size: &str| -> PathBuf {
            let source = format!("testsrc2=s={size}:r=25:d=4");
            test_clip(
                folder.path(),
                name,
                &[&source, "-c:v", "libx264", "-bf", "0", "-g", "25", "-pix_fmt", "yuv420p"],
            )
        };
        let mounts = [
            Mount::clip("gate", &clip("gate.mp4", "320x240")),
            Mount::clip("road", &clip("road.mp4", "640x352")),
        ];
        Cameras { camera: Camera::start(&mounts), _folder: folder }
    }

    fn sections(&self) -> String {
        format!(
            "[vision]\nenabled = false\n[channels.wall-1]\ncamera = \"gate-1\"\n\
             [cameras.gate-1]\nurl = {:?}\n[cameras.road-1]\nurl = {:?}\n",
            self.camera.url("gate"),
            self.camera.url("road")
        )
    }
}

const GATE: &str = "320x240";
const ROAD: &str = "640x352";

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(MINUTE).build().unwrap()
}

async fn both_play(daemon: &mut Daemon) {
    for camera in ["camera=\"gate-1\"", "camera=\"road-1\""] {
        daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &[camera], 60.0).await;
    }
}

async fn put_on_air(daemon: &Daemon, token: &str, camera: &str, tag: Option<&str>) -> reqwest::Response {
    let mut request = client().put(daemon.url("/api/v1/channels/wall-1")).bearer_auth(token);
    if let Some(tag) = tag {
        request = request.header(header::IF_MATCH, tag);
    }
    request.json(&json!({ "camera": camera })).send().await.unwrap()
}

/// What ffprobe sees there.
fn size_at(url: &str) -> String {
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args(["-v", "error"]);
    if url.starts_with("rtsp") {
        ffprobe.args(["-rtsp_transport", "tcp"]);
    }
    ffprobe.args(["-show_entries", "stream=width,height", "-of", "csv=p=0:s=x", url]);
    run(&mut ffprobe).lines().next().unwrap_or_default().trim_end_matches('x').to_owned()
}

/// ffmpeg that decodes until it is ended from the other side.
fn play(url: &str) -> Child {
    Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-rtsp_transport", "tcp", "-i", url, "-an", "-f", "null", "-"])
        .stdin(Stdio::null())
        .spawn()
        .expect("ffmpeg")
}

async fn text(daemon: &Daemon, path: &str) -> (StatusCode, String) {
    let answer = client().get(daemon.url(path)).send().await.unwrap();
    (answer.status(), answer.text().await.unwrap())
}

fn named<'p>(playlist: &'p str, what: &str) -> Vec<&'p str> {
    playlist.lines().filter(|line| line.starts_with(what)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_changes_its_camera_for_every_player_and_remembers_it() {
    let cameras = Cameras::start();
    let mut daemon = Daemon::start(&cameras.sections()).await;
    both_play(&mut daemon).await;
    let operator = daemon.token_of("operator", &[]);
    let rtsp = format!("rtsp://{}/channels/wall-1", daemon.rtsp);
    let hls = "/channels/wall-1/index.m3u8";
    assert_eq!((size_at(&rtsp), size_at(&daemon.url(hls))), (GATE.to_owned(), GATE.to_owned()));
    let mut player = play(&rtsp);
    let label = ["path=\"channels/wall-1\"", "protocol=\"rtsp\""];
    daemon.until_metric(MINUTE, "liuta_relay_readers", &label, 1.0).await;
    let (_, before) = text(&daemon, hls).await;

    let switched = put_on_air(&daemon, &operator, "road-1", Some("\"1\"")).await;
    assert_eq!(switched.status(), StatusCode::OK);
    assert_eq!(switched.headers()[header::ETAG], "\"2\"");
    let told: Value = switched.json().await.unwrap();
    assert_eq!((&told["camera"], &told["revision"]), (&json!("road-1"), &json!(2)));
    assert!(told["by"].as_str().unwrap().starts_with("token "), "{told}");

    // By RTSP the player ends by itself, and comes back to the other camera.
    let cut = Instant::now();
    let status = until(Duration::from_secs(10), "the reader ends", async || player.try_wait().unwrap()).await;
    assert!(status.success() && cut.elapsed() < Duration::from_secs(5), "{status} {:?}", cut.elapsed());
    assert_eq!(size_at(&rtsp), ROAD);
    // By HLS nothing has the name of what was there, and what was there is gone.
    let (_, after) = text(&daemon, hls).await;
    for what in ["seg-", "#EXT-X-MAP"] {
        for name in named(&after, what) {
            assert!(!named(&before, what).contains(&name), "{name} in both\n{before}\n{after}");
        }
    }
    let number = |playlist: &str, tag: &str| {
        named(playlist, tag)[0].rsplit(':').next().unwrap().parse::<u64>().unwrap()
    };
    let shown = named(&before, "seg-").len() as u64;
    assert!(number(&after, "#EXT-X-MEDIA-SEQUENCE:") >= number(&before, "#EXT-X-MEDIA-SEQUENCE:") + shown);
    assert!(number(&after, "#EXT-X-DISCONTINUITY-SEQ") > number(&before, "#EXT-X-DISCONTINUITY-SEQ"));
    for old in named(&before, "seg-") {
        let (status, _) = text(&daemon, &format!("/channels/wall-1/{old}")).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{old}");
    }
    assert_eq!(size_at(&daemon.url(hls)), ROAD);

    // Who comes too late, and who may not.
    let late = put_on_air(&daemon, &operator, "gate-1", Some("\"1\"")).await;
    assert_eq!(late.status(), StatusCode::PRECONDITION_FAILED);
    let unknown = put_on_air(&daemon, &operator, "gate-9", None).await;
    assert_eq!(unknown.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let unknown: Value = unknown.json().await.unwrap();
    assert_eq!(unknown["type"], "urn:liuta:problem:unknown-camera");
    for (role, its, wanted) in [
        ("viewer", &[][..], "gate-1"),
        ("dispatch", &[], "gate-1"),
        // On air is road-1: neither taking it off, nor putting another camera on.
        ("operator", &["gate-1"], "gate-1"),
        ("operator", &["road-1"], "gate-1"),
    ] {
        let token = daemon.token_of(role, its);
        let refused = put_on_air(&daemon, &token, wanted, None).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{role} {its:?}");
    }
    let listed = async |token: &str| -> Value {
        let answer = client().get(daemon.url("/api/v1/channels")).bearer_auth(token).send().await.unwrap();
        answer.json().await.unwrap()
    };
    assert_eq!(listed(&daemon.token_of("viewer", &["gate-1"])).await["items"], json!([]));
    let seen = listed(&daemon.token_of("viewer", &["road-1"])).await;
    assert_eq!((&seen["items"][0]["camera"], &seen["items"][0]["by"]), (&json!("road-1"), &Value::Null));
    let audit = daemon.json("/api/v1/audit?object=channel/wall-1").await;
    assert_eq!(
        (&audit["items"][0]["detail"], &audit["next"]),
        (&json!("camera gate-1 to road-1"), &Value::Null)
    );

    // It outlives a reload and a restart, but not another word of the configuration.
    daemon.signal(rustix::process::Signal::HUP);
    let reloaded = async || daemon.log().contains("configuration reloaded").then_some(());
    until(MINUTE, "the reload", reloaded).await;
    assert_eq!(size_at(&rtsp), ROAD);
    daemon.terminate().await;
    let mut daemon = daemon.restart().await;
    both_play(&mut daemon).await;
    assert_eq!(size_at(&rtsp), ROAD);
    let file = daemon.config_file();
    let changed =
        std::fs::read_to_string(&file).unwrap().replace("camera = \"gate-1\"", "camera = \"road-1\"");
    std::fs::write(&file, &changed).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    let revision = async || {
        let channel = daemon.json("/api/v1/channels/wall-1").await;
        (channel["revision"] == 3).then_some(channel)
    };
    let told = until(MINUTE, "the configuration's camera", revision).await;
    assert_eq!((&told["camera"], &told["by"]), (&json!("road-1"), &Value::Null));
}

/// Players by HLS hold no connection; the metric counts them all the same, and forgets them.
#[tokio::test(flavor = "multi_thread")]
async fn viewers_by_hls_are_counted_while_they_ask() {
    let cameras = Cameras::start();
    let mut daemon = Daemon::start(&cameras.sections()).await;
    both_play(&mut daemon).await;
    let viewer = daemon.token_of("viewer", &[]);
    for _ in 0..3 {
        text(&daemon, "/gate-1/index.m3u8").await;
        client().get(daemon.url("/gate-1/index.m3u8")).bearer_auth(&viewer).send().await.unwrap();
        text(&daemon, "/channels/wall-1/index.m3u8").await;
    }
    let asked = Instant::now();
    let label = |path: &str| [format!("path=\"{path}\""), "protocol=\"hls\"".to_owned()];
    for (path, viewers) in [("gate-1", 2.0), ("channels/wall-1", 1.0)] {
        let label = label(path);
        let label = label.each_ref().map(String::as_str);
        assert_eq!(daemon.metric("liuta_relay_readers", &label).await, viewers, "{path}");
    }
    let gone = async || {
        let label = label("gate-1");
        let label = label.each_ref().map(String::as_str);
        (daemon.metric("liuta_relay_readers", &label).await == 0.0).then_some(())
    };
    until(MINUTE, "nobody watches by HLS", gone).await;
    assert!((14..25).contains(&asked.elapsed().as_secs()), "{:?}", asked.elapsed());
}
