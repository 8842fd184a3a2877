//! Channels and live events, with the real binary, real cameras and real clients.

mod common;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::camera::{Camera, Mount};
use common::{Daemon, run, test_clip, until};
use jiff::{SignedDuration, Timestamp};
use liuta::alert::{Alert, Phase};
use liuta::store::Store;
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MINUTE: Duration = Duration::from_secs(60);

/// What a revocation may take: 30 s between two looks, and what acts on it.
const REVOKED_WITHIN: Duration = Duration::from_secs(33);

/// Cameras that answer nothing: for what needs no picture.
const DEAD_CAMERAS: &str = "[vision]\nenabled = false\n[channels.wall-1]\ncamera = \"road-1\"\n\
    [cameras.gate-1]\nurl = \"rtsp://127.0.0.1:1/a\"\n[cameras.road-1]\nurl = \"rtsp://127.0.0.1:1/b\"\n";

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

/// What a stream of events said.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    event: String,
    data: Value,
}

/// A client of live events, as browsers have one.
struct Stream {
    answer: reqwest::Response,
    text: String,
    last_id: String,
    comments: usize,
}

impl Stream {
    async fn ask(daemon: &Daemon, token: Option<&str>, after: Option<&str>) -> reqwest::Response {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut request = reqwest::Client::new().get(daemon.url("/api/v1/events"));
        if let Some(token) = token {
            let session = token.starts_with("liuta_session=");
            request =
                if session { request.header(header::COOKIE, token) } else { request.bearer_auth(token) };
        }
        if let Some(after) = after {
            request = request.header("Last-Event-ID", after);
        }
        request.send().await.unwrap()
    }

    async fn open(daemon: &Daemon, token: Option<&str>, after: Option<&str>) -> Stream {
        let answer = Stream::ask(daemon, token, after).await;
        assert_eq!(answer.status(), StatusCode::OK);
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-store"),
            ("x-accel-buffering", "no"),
        ] {
            assert_eq!(answer.headers()[name], value);
        }
        let mut stream = Stream { answer, text: String::new(), last_id: String::new(), comments: 0 };
        // The id that it starts at comes without an event.
        while stream.last_id.is_empty() {
            assert!(stream.block().await.unwrap().is_none());
        }
        stream
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(told) = self.block().await? {
                return Some(told);
            }
        }
    }

    /// The next block of lines, which may be no event.
    async fn block(&mut self) -> Option<Option<Told>> {
        while !self.text.contains("\n\n") {
            // A cut connection is an end as well.
            let chunk = self.answer.chunk().await.ok().flatten()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        let (block, rest) = self.text.split_once("\n\n").unwrap();
        let (mut event, mut data) = (String::new(), None);
        for line in block.lines() {
            match line.split_once(':').unwrap() {
                ("id", id) => self.last_id = id.trim().to_owned(),
                ("event", name) => event = name.trim().to_owned(),
                ("data", json) => data = Some(serde_json::from_str(json.trim()).unwrap()),
                ("", _) => self.comments += 1,
                ("retry", _) => {}
                _ => panic!("{line}"),
            }
        }
        let told = data.map(|data| Told { event, data });
        self.text = rest.to_owned();
        Some(told)
    }

    /// Waits for an event of that name that holds `wanted`.
    async fn until(&mut self, event: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let waiting = async {
            loop {
                let told = self.next().await.expect("the stream goes on");
                if told.event == event && wanted(&told.data) {
                    return told.data;
                }
            }
        };
        tokio::time::timeout(MINUTE, waiting).await.unwrap_or_else(|_| panic!("no such {event}"))
    }

    /// What comes until it is silent for so long.
    async fn rest(&mut self, silence: Duration) -> Vec<Told> {
        let mut rest = Vec::new();
        while let Ok(Some(told)) = tokio::time::timeout(silence, self.next()).await {
            rest.push(told);
        }
        rest
    }
}

fn store(daemon: &Daemon) -> Arc<Store> {
    // As the daemon itself does it, from another process.
    Store::open(&daemon.data()).unwrap()
}

/// One that is over: the daemon itself ends the open ones of cameras that nobody watches.
fn alert(id: &str, camera: &str, revision: u32) -> Alert {
    let at = Timestamp::now() - SignedDuration::from_secs(60);
    let (phase, ended_at) = (Phase::Ended, Some(at));
    Alert { revision, phase, ended_at, ..common::alert::alert(id, camera, at) }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_told_live_what_they_may_know() {
    let cameras = Cameras::start();
    let mut daemon = Daemon::start(&cameras.sections()).await;
    both_play(&mut daemon).await;
    let operator = daemon.token_of("operator", &[]);
    let (dispatch, of_gate) = (daemon.token_of("dispatch", &[]), daemon.token_of("operator", &["gate-1"]));
    let mut admin = Stream::open(&daemon, Some(&operator), None).await;
    let mut viewer = Stream::open(&daemon, None, None).await;
    let mut desk = Stream::open(&daemon, Some(&dispatch), None).await;
    let mut gate = Stream::open(&daemon, Some(&of_gate), None).await;

    // An alert, as the API tells it.
    let store = store(&daemon);
    store.put_alert(&alert("01A", "road-1", 1), None, &[]).unwrap();
    let told = admin.until("alert", |alert| alert["id"] == "01A").await;
    assert_eq!(told, daemon.json("/api/v1/alerts/01A").await);
    assert_eq!(desk.until("alert", |alert| alert["id"] == "01A").await, told);

    // What somebody does with it is its next revision.
    let accepted = client().post(daemon.url("/api/v1/alerts/01A/transitions")).bearer_auth(&dispatch);
    let accepted = accepted.json(&json!({ "to": "accepted", "note": "on our way" })).send().await.unwrap();
    assert!(accepted.status().is_success(), "{}", accepted.status());
    let told = admin.until("alert", |alert| alert["revision"] == 2).await;
    assert_eq!((&told["id"], &told["disposition"]), (&json!("01A"), &json!("accepted")));

    // A channel.
    assert_eq!(put_on_air(&daemon, &operator, "road-1", None).await.status(), StatusCode::OK);
    let on_air = admin.until("channel", |channel| channel["name"] == "wall-1").await;
    assert_eq!((&on_air["camera"], &on_air["revision"]), (&json!("road-1"), &json!(2)));
    assert_eq!(viewer.until("channel", |_| true).await, on_air);
    assert_eq!(gate.until("channel", |_| true).await["camera"], Value::Null, "it sees its camera go");

    // A broken file is a state of the box; a good one another set of cameras.
    let file = daemon.config_file();
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{good}\nurll = 1\n")).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    let refused = admin.until("health", |health| health["subject"] == "config").await;
    assert_eq!(refused["state"]["severity"], "degraded");
    std::fs::write(&file, &good).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    for stream in [&mut admin, &mut viewer] {
        let reset = stream.until("reset", |_| true).await;
        assert_eq!(reset["refetch"], json!(["cameras", "channels"]));
    }

    // Cameras that go.
    drop(cameras);
    for camera in ["gate-1", "road-1"] {
        let gone = |told: &Value| {
            told["id"] == camera && told["online"] == false && told["health"]["severity"] == "failed"
        };
        let known = admin.until("camera", gone).await;
        assert!(!known["health"]["message"].as_str().unwrap().is_empty(), "{known}");
    }
    let seen = viewer.rest(Duration::from_secs(3)).await;
    let cameras: Vec<_> = seen.iter().filter(|told| told.event == "camera").collect();
    assert!(cameras.iter().any(|told| told.data["id"] == "road-1") && cameras.len() >= 2, "{seen:?}");
    assert!(cameras.iter().all(|told| told.data["health"]["message"].is_null()), "{cameras:?}");
    assert!(seen.iter().all(|told| told.event == "camera"), "{seen:?}");
    let seen = gate.rest(Duration::from_secs(1)).await;
    let its = |told: &Told| told.event == "reset" || (told.event == "camera" && told.data["id"] == "gate-1");
    assert!(seen.iter().all(its) && seen.iter().any(|told| told.event == "camera"), "{seen:?}");
    let seen = desk.rest(Duration::from_secs(1)).await;
    let its = |told: &Told| told.event == "reset" || told.event == "alert";
    assert!(seen.iter().all(its), "{seen:?}");
}

/// Connections break, the box restarts, and all the while alerts go on.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_misses_and_repeats_no_revision() {
    const REVISIONS: u32 = 400;
    let mut daemon = Daemon::start(DEAD_CAMERAS).await;
    let token = daemon.token_of("operator", &["gate-1"]);
    let store = store(&daemon);
    let first = Stream::open(&daemon, Some(&token), None).await;
    let mut last_id = first.last_id.clone();
    drop(first);
    let writing = std::thread::spawn(move || {
        for n in 0..REVISIONS {
            let (id, revision) = (n % 7, n / 7 + 1);
            store.put_alert(&alert(&format!("01G{id}"), "gate-1", revision), None, &[]).unwrap();
            store.put_alert(&alert(&format!("01R{id}"), "road-1", revision), None, &[]).unwrap();
            std::thread::sleep(Duration::from_millis(15));
        }
    });
    let (mut seen, mut resets) = (Vec::new(), Vec::new());
    let mut take = |told: Told| match &*told.event {
        "alert" => {
            seen.push((told.data["id"].as_str().unwrap().to_owned(), told.data["revision"].as_u64().unwrap()))
        }
        "reset" => resets.push(told.data["refetch"].clone()),
        _ => {}
    };
    for round in 0..12 {
        let mut stream = Stream::open(&daemon, Some(&token), Some(&last_id)).await;
        for _ in 0..(round * 5) % 17 {
            match tokio::time::timeout(Duration::from_secs(3), stream.next()).await {
                Ok(Some(told)) => take(told),
                _ => break,
            }
        }
        last_id = stream.last_id.clone();
        if round == 5 {
            let (took, _) = daemon.terminate().await;
            assert!(took < Duration::from_secs(9), "{took:?}");
            let ended = tokio::time::timeout(Duration::from_secs(1), stream.rest(MINUTE)).await;
            for told in ended.expect("the stream ends with the box") {
                take(told);
            }
            last_id = stream.last_id.clone();
            daemon = daemon.restart().await;
        }
    }
    writing.join().unwrap();
    let mut stream = Stream::open(&daemon, Some(&token), Some(&last_id)).await;
    stream.rest(Duration::from_secs(4)).await.into_iter().for_each(&mut take);
    let wanted: Vec<_> = (0..REVISIONS).map(|n| (format!("01G{}", n % 7), u64::from(n / 7 + 1))).collect();
    assert_eq!(seen.len(), wanted.len());
    assert_eq!(seen, wanted);
    // Of states nothing was known after the restart, and only then.
    assert_eq!(resets, [json!(["cameras", "channels", "health"])]);

    for unknown in ["nonsense", "1-2-3-4", "99999999999999999999-x-1", "18446744073709551615-0-0", "-", "1-"]
    {
        let mut stream = Stream::open(&daemon, Some(&token), Some(unknown)).await;
        let told = stream.next().await.unwrap();
        let all = json!(["cameras", "channels", "health", "alerts"]);
        assert_eq!((&*told.event, &told.data["refetch"]), ("reset", &all), "{unknown}");
    }
    // A tool's way, and one whose past is too long ago to be told.
    let later = daemon.url(&format!("/api/v1/events?last_event_id={}", stream.last_id));
    let mut later = reqwest::Client::new().get(later).bearer_auth(&token).send().await.unwrap();
    let greeting = later.chunk().await.unwrap().unwrap();
    assert!(std::str::from_utf8(&greeting).unwrap().contains(&format!("id: {}\n", stream.last_id)));
}

/// One who reads late gets all of it, one who never reads is cut, and neither makes the box remember more.
#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_cost_the_box_no_memory() {
    const REVISIONS: u32 = 2_000;
    let daemon = Daemon::start(DEAD_CAMERAS).await;
    let token = daemon.token_of("operator", &[]);
    let mut late = Stream::open(&daemon, Some(&token), None).await;
    let mut dead = Vec::new();
    for _ in 0..10 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let mut socket = socket.connect(daemon.http).await.unwrap();
        let ask = format!("GET /api/v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
        socket.write_all(ask.as_bytes()).await.unwrap();
        dead.push(socket);
    }
    let before = daemon.memory();
    let store = store(&daemon);
    tokio::task::spawn_blocking(move || {
        for revision in 1..=REVISIONS {
            let mut alert = alert("01A", "gate-1", revision);
            alert.boxes = alert.boxes.iter().cycle().take(64).cloned().collect();
            store.put_alert(&alert, None, &[]).unwrap();
        }
    })
    .await
    .unwrap();
    let mut revisions = Vec::new();
    while revisions.len() < REVISIONS as usize {
        let told = late.until("alert", |_| true).await;
        revisions.push(told["revision"].as_u64().unwrap() as u32);
    }
    assert!(revisions.iter().copied().eq(1..=REVISIONS));
    let more = daemon.memory().saturating_sub(before) >> 20;
    assert!(more < 64, "{more} MB more");
    tokio::time::sleep(Duration::from_secs(35)).await;
    for mut socket in dead {
        // What the kernel holds already may still be read.
        let end = async { while matches!(socket.read(&mut [0; 65_536]).await, Ok(1..)) {} };
        tokio::time::timeout(Duration::from_secs(5), end).await.expect("a client that takes nothing is cut");
    }

    // Nor may one person take all places.
    let mut streams = vec![late];
    while streams.len() < 16 {
        streams.push(Stream::open(&daemon, Some(&token), None).await);
    }
    let refused = Stream::ask(&daemon, Some(&token), None).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(refused.json::<Value>().await.unwrap()["type"], "urn:liuta:problem:too-many-streams");
    streams.pop();
    let free = async || {
        let answer = Stream::ask(&daemon, Some(&token), None).await;
        (answer.status() == StatusCode::OK).then_some(())
    };
    until(MINUTE, "a place is free again", free).await;
    Stream::open(&daemon, None, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_what_let_it_in() {
    let daemon = Daemon::start(DEAD_CAMERAS).await;
    let admin = daemon.token_of("admin", &[]);
    let client = client();
    let send = async |method: Method, path: &str, body: Value| {
        let request = client.request(method, daemon.url(path)).bearer_auth(&admin).json(&body);
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer
    };
    let created = send(Method::POST, "/api/v1/tokens", json!({ "role": "operator" })).await;
    let created: Value = created.json().await.unwrap();
    let (id, token) = (created["id"].as_str().unwrap(), created["token"].as_str().unwrap());
    let mut cookies = Vec::new();
    for name in ["li", "wang", "zhao"] {
        let password = "correct horse";
        let body = json!({ "name": name, "role": "operator", "password": password });
        send(Method::POST, "/api/v1/users", body).await;
        let signed_in =
            client.post(daemon.url("/api/v1/session")).json(&json!({ "name": name, "password": password }));
        let answer = signed_in.send().await.unwrap();
        cookies.push(
            answer.headers()[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned(),
        );
    }
    let mut streams = Vec::new();
    for shown in [Some(token), Some(&cookies[0]), Some(&cookies[1]), Some(&cookies[2]), None] {
        streams.push(Stream::open(&daemon, shown, None).await);
    }
    // Through a quiet time they show that they live.
    let stay = &mut streams[4];
    let alive = async {
        while stay.comments < 2 {
            stay.block().await.expect("the stream goes on");
        }
    };
    tokio::time::timeout(Duration::from_secs(25), alive).await.expect("a comment within 15 s");

    // A token revoked by another process, a person with another role, one who signs out, one with another password.
    let revoked = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_liuta"));
    run(command.args(["token", "revoke", id, "--config"]).arg(daemon.config_file()));
    send(Method::PATCH, "/api/v1/users/li", json!({ "role": "viewer" })).await;
    send(Method::PATCH, "/api/v1/users/zhao", json!({ "password": "battery staple" })).await;
    let out = client
        .delete(daemon.url("/api/v1/session"))
        .header(header::COOKIE, &cookies[1])
        .send()
        .await
        .unwrap();
    assert!(out.status().is_success());
    for stream in &mut streams[..4] {
        let ended =
            tokio::time::timeout(REVOKED_WITHIN.saturating_sub(revoked.elapsed()), stream.rest(MINUTE));
        ended.await.expect("the stream ends with the permission");
        // Not for having been silent for a minute.
        assert!(revoked.elapsed() < REVOKED_WITHIN);
    }
    let alive = tokio::time::timeout(Duration::from_secs(20), streams[4].block()).await;
    assert!(alive.unwrap().is_some(), "the others stay");
    for shown in [token, &cookies[0], &cookies[1], &cookies[2]] {
        let status = Stream::ask(&daemon, Some(shown), None).await.status();
        // A session that has ended is none, and anyone may watch live here.
        let refused = if shown == token { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
        assert_eq!(status, refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_comes_back_is_as_configured_and_no_old_tag_fits() {
    let mut daemon = Daemon::start(DEAD_CAMERAS).await;
    let admin = daemon.token_of("admin", &[]);
    assert_eq!(put_on_air(&daemon, &admin, "gate-1", None).await.status(), StatusCode::OK);
    let remove = |tag: Option<&str>| {
        let mut request = client().delete(daemon.url("/api/v1/channels/wall-1")).bearer_auth(&admin);
        if let Some(tag) = tag {
            request = request.header(header::IF_MATCH, tag);
        }
        async move { request.send().await.unwrap().status() }
    };
    assert_eq!(remove(None).await, StatusCode::PRECONDITION_REQUIRED);
    assert_eq!(remove(Some("\"1\"")).await, StatusCode::PRECONDITION_FAILED);
    assert_eq!(remove(Some("\"2\"")).await, StatusCode::NO_CONTENT);
    assert_eq!(put_on_air(&daemon, &admin, "gate-1", None).await.status(), StatusCode::NOT_FOUND);
    let body = json!({ "name": "wall-1", "camera": "road-1" });
    let again = client().post(daemon.url("/api/v1/channels")).bearer_auth(&admin).json(&body);
    let again = again.send().await.unwrap();
    assert_eq!(again.status(), StatusCode::CREATED);
    let tag = again.headers()[header::ETAG].to_str().unwrap().to_owned();
    let channel = daemon.json("/api/v1/channels/wall-1").await;
    assert_eq!(again.json::<Value>().await.unwrap(), channel);
    assert_eq!((&channel["camera"], &channel["by"]), (&json!("road-1"), &Value::Null));
    let stale = put_on_air(&daemon, &admin, "gate-1", Some("\"2\"")).await;
    assert_eq!(stale.status(), StatusCode::PRECONDITION_FAILED);
    assert_eq!(put_on_air(&daemon, &admin, "gate-1", Some(&tag)).await.status(), StatusCode::OK);
}
