//! The HTTP server from outside, over a real listener: who may reach what, links, pages, errors, hostile requests.

mod common;

use std::path::Path;
use std::sync::{Arc, Once};
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use liuta::access::{Access, By, Links, NewToken, Role};
use liuta::alert::Alert;
use liuta::api::{self, Shared};
use liuta::config::file;
use liuta::config::overlay::Layer;
use liuta::dispatch::Dispatch;
use liuta::events::{Events, Watched};
use liuta::health::{Health, Severity};
use liuta::live::{Directory, LiveStream};
use liuta::media::cmaf::Packager;
use liuta::media::{AccessUnit, Feed, Sample, time};
use liuta::net::connections::Connections;
use liuta::net::listener::Listener;
use liuta::record::{GapCause, MAX_EXPORTS, Ring};
use liuta::relay::channels::Channels;
use liuta::settings;
use liuta::simulate::clip::Clip;
use liuta::store::Store;
use liuta::vision::Vision;
use reqwest::{Method, StatusCode, header};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// A server on a port of its own, with the cameras `gate-1` and `road-1`, which have sent nothing yet.
struct Server {
    base: String,
    state: Shared,
    client: reqwest::Client,
    stop: CancellationToken,
    _data: tempfile::TempDir,
}

async fn server(anonymous: &str) -> Server {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| rustls::crypto::ring::default_provider().install_default().unwrap());
    let data = tempfile::tempdir().unwrap();
    let text = format!(
        r#"
        data = {:?}
        [box]
        id = "test"
        [auth]
        anonymous = "{anonymous}"
        [record]
        min_free = "1MB"
        [vision]
        enabled = false
        [channels.wall-1]
        camera = "road-1"
        [cameras.gate-1]
        name = "Gate 1"
        url = "rtsp://admin:topsecret@127.0.0.1:1/gate-1"
        scene = "school-gate"
        [cameras.road-1]
        url = "rtsp://127.0.0.1:1/road-1"
        "#,
        data.path()
    );
    let loaded = file::parse_layers(vec![Layer::new(Path::new("/nowhere/liuta.toml"), text)]).unwrap();
    let config = loaded.config.clone();
    let health = Health::default();
    let store = Store::open(&config.data).unwrap();
    let links = Links::new([7; 32]);
    let streams = Arc::new(Directory::default());
    for id in config.cameras.keys() {
        streams.insert(&**id, LiveStream::new(id.clone(), Feed::Main, 1 << 20));
    }
    let channels = Channels::new(store.clone(), streams.clone());
    channels.configure(&config.channels);
    let (found, _) = tokio::sync::mpsc::channel(1);
    let access = Access::new(store.clone(), &config, health.clone());
    let ring = Ring::open(&config.data, config.record.clone(), health.clone()).unwrap();
    let vision = Vision::start(config.vision.clone(), health.clone(), found);
    let settings = settings::requests(loaded, [7; 32]).0;
    let stop = CancellationToken::new();
    let watched = Watched {
        settings: settings.clone(),
        streams: streams.clone(),
        channels: channels.clone(),
        health: health.clone(),
    };
    let events = Events::start(store.clone(), watched, stop.clone()).unwrap();
    let state = Shared {
        events,
        access,
        ring,
        vision,
        dispatch: Dispatch::start(
            &config.dispatch,
            config.site.clone(),
            store.clone(),
            links.clone(),
            health.clone(),
        ),
        settings,
        streams,
        channels,
        viewers: Arc::default(),
        links,
        store,
        health,
        trials: Arc::new(Semaphore::new(api::TRIALS)),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(api::serve(
        Listener::new(listener, Connections::new("http", state.health.clone())),
        state.clone(),
        stop.clone(),
    ));
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    Server { base, state, client, stop, _data: data }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Server {
    fn token(&self, role: Role, cameras: Option<&[&str]>) -> String {
        let cameras = cameras.map(|ids| ids.iter().map(|id| (*id).to_owned()).collect());
        let new = NewToken { cameras, ..NewToken::of(role) };
        self.state.access.create_token(new, &By::command_line()).unwrap().1
    }

    async fn ask(&self, method: Method, path: &str, token: Option<&str>) -> reqwest::Response {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.timeout(Duration::from_secs(60)).send().await.unwrap()
    }

    async fn get(&self, path: &str, token: Option<&str>) -> reqwest::Response {
        self.ask(Method::GET, path, token).await
    }

    async fn json(&self, path: &str, token: Option<&str>) -> Value {
        let response = self.get(path, token).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }

    fn put_alert(&self, id: &str, camera: &str, minute: i64) -> Alert {
        let at = Timestamp::from_second(1_780_000_000 + minute * 60).unwrap();
        let alert = common::alert::alert(id, camera, at);
        let jpeg = Bytes::from(format!("picture of {id}"));
        self.state.store.put_alert(&alert, Some(&jpeg), &[]).unwrap();
        alert
    }
}

async fn problem(response: reqwest::Response) -> (StatusCode, String) {
    let status = response.status();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["status"], status.as_u16());
    assert!(!body["title"].as_str().unwrap().is_empty() && !body["detail"].as_str().unwrap().is_empty());
    (status, body["type"].as_str().unwrap().trim_start_matches("urn:liuta:problem:").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_signed_in_learns_nothing_of_what_exists() {
    let server = server("none").await;
    server.put_alert("01A", "gate-1", 0);
    for (there, missing) in [
        ("/gate-1/index.m3u8", "/gate-9/index.m3u8"),
        ("/gate-1/frame.jpeg", "/gate-9/frame.jpeg"),
        ("/channels/wall-1/index.m3u8", "/channels/wall-9/index.m3u8"),
        ("/list?path=gate-1", "/list?path=gate-9"),
        ("/api/v1/alerts/01A", "/api/v1/alerts/01B"),
        ("/api/v1/alerts/01A/snapshot.jpg", "/api/v1/alerts/01B/snapshot.jpg"),
    ] {
        let (there, missing) = (server.get(there, None).await, server.get(missing, None).await);
        assert_eq!(there.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(there.headers()[header::WWW_AUTHENTICATE], "Bearer realm=\"liuta\"");
        assert_eq!(there.status(), missing.status());
        assert_eq!(there.text().await.unwrap(), missing.text().await.unwrap());
    }
    // Nor does an operator of another camera.
    let elsewhere = server.token(Role::Operator, Some(&["road-1"]));
    let there = server.get("/api/v1/alerts/01A", Some(&elsewhere)).await;
    let missing = server.get("/api/v1/alerts/01B", Some(&elsewhere)).await;
    assert_eq!(there.status(), StatusCode::NOT_FOUND);
    assert_eq!(there.text().await.unwrap(), missing.text().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_name_that_leads_here_shows_nothing_to_who_has_not_signed_in() {
    let server = server("viewer").await;
    let ask = async |host: &str, token: Option<&str>| {
        let request = server.client.get(format!("{}/api/v1/cameras", server.base)).header(header::HOST, host);
        let request = token.iter().fold(request, |request, token| request.bearer_auth(token));
        request.send().await.unwrap().status()
    };
    for own in ["127.0.0.1:8080", "[::1]:8080", "localhost", "edge-1", "edge-1.lan:8080", "BOX.local"] {
        assert_eq!(ask(own, None).await, StatusCode::OK, "{own}");
    }
    let token = server.token(Role::Viewer, None);
    for foreign in ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "a.b.", "1.2.3"] {
        assert_eq!(ask(foreign, None).await, StatusCode::UNAUTHORIZED, "{foreign}");
        assert_eq!(ask(foreign, Some(&token)).await, StatusCode::OK, "{foreign}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_opens_its_object_until_it_expires() {
    let server = server("none").await;
    for id in ["01A", "01B"] {
        server.put_alert(id, "gate-1", 0);
    }
    let now = Timestamp::now();
    let path = "/api/v1/alerts/01A/snapshot.jpg";
    let link = server.state.links.sign(path, now + SignedDuration::from_hours(1));
    let opened = server.get(&link, None).await;
    assert_eq!(
        (opened.status(), &opened.headers()[header::CONTENT_TYPE]),
        (StatusCode::OK, &"image/jpeg".parse().unwrap())
    );
    assert_eq!(opened.text().await.unwrap(), "picture of 01A");

    let (_, query) = link.split_once('?').unwrap();
    for other in [
        "/api/v1/alerts/01B/snapshot.jpg",
        "/api/v1/alerts/01A/clip.mp4",
        "/api/v1/alerts/01A",
        "/api/v1/alerts",
        "/get",
        "/gate-1/index.m3u8",
        "/metrics",
    ] {
        let status = server.get(&format!("{other}?{query}"), None).await.status();
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{other}");
    }
    let expired = server.state.links.sign(path, now - SignedDuration::from_secs(1));
    assert_eq!(server.get(&expired, None).await.status(), StatusCode::UNAUTHORIZED);
    let later = link.replace("expires=", "expires=9");
    assert_eq!(server.get(&later, None).await.status(), StatusCode::UNAUTHORIZED);
    // An expired link does not stand in the way of who is signed in.
    let operator = server.token(Role::Operator, None);
    assert_eq!(server.get(&expired, Some(&operator)).await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_come_in_pages_and_show_only_the_persons_cameras() {
    let server = server("none").await;
    for n in 0..7 {
        server.put_alert(&format!("01A{n}"), if n % 2 == 0 { "gate-1" } else { "road-1" }, n);
    }
    let operator = server.token(Role::Operator, None);
    let (mut ids, mut path) = (Vec::new(), "/api/v1/alerts?limit=3".to_owned());
    for _ in 0..5 {
        let page = server.json(&path, Some(&operator)).await;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 3);
        ids.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/alerts?limit=3&cursor={next}");
    }
    assert_eq!(ids, ["01A6", "01A5", "01A4", "01A3", "01A2", "01A1", "01A0"]);

    let one = server.json("/api/v1/alerts/01A0", Some(&operator)).await;
    assert_eq!((&one["kind"], &one["phase"], &one["level"]), (&"fire".into(), &"active".into(), &1.into()));
    assert_eq!(one["clip"]["url"], "/api/v1/alerts/01A0/clip.mp4");
    assert_eq!(one["boxes"][0]["class"], "fire");
    assert!(one["snapshot"]["url"].is_string() && one["ended_at"].is_null());

    let count = |page: Value| page["items"].as_array().unwrap().len();
    let limited = server.token(Role::Dispatch, Some(&["road-1"]));
    assert_eq!(count(server.json("/api/v1/alerts", Some(&limited)).await), 3);
    assert_eq!(count(server.json("/api/v1/alerts?camera=gate-1", Some(&limited)).await), 0);
    assert_eq!(count(server.json("/api/v1/alerts?camera=gate-1", Some(&operator)).await), 4);
    assert_eq!(count(server.json("/api/v1/detections", Some(&operator)).await), 0);
    let cameras = server.json("/api/v1/cameras?limit=1", Some(&operator)).await;
    assert_eq!(cameras["items"][0]["id"], "gate-1");
    let next = cameras["next"].as_str().unwrap();
    let cameras = server.json(&format!("/api/v1/cameras?limit=1&cursor={next}"), Some(&operator)).await;
    assert_eq!((&cameras["items"][0]["id"], &cameras["next"]), (&"road-1".into(), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn cameras_are_told_without_secrets() {
    let server = server("viewer").await;
    server.state.health.set("camera/gate-1", Severity::Failed, "10.1.2.3 refuses the connection");
    let all = server.json("/api/v1/cameras", None).await;
    let gate = &all["items"][0];
    assert_eq!(
        (&gate["id"], &gate["name"], &gate["scene"]),
        (&"gate-1".into(), &"Gate 1".into(), &"school-gate".into())
    );
    assert_eq!((&gate["online"], &gate["health"]["severity"]), (&false.into(), &"failed".into()));
    assert_eq!(gate["addresses"]["rtsp"], "rtsp://127.0.0.1:8554/gate-1");
    assert!(gate["health"]["message"].is_null() && gate["url"].is_null(), "viewers see no inner addresses");
    let admin = server.token(Role::Admin, None);
    let all = server.json("/api/v1/cameras", Some(&admin)).await;
    assert_eq!(all["items"][0]["url"], "rtsp://127.0.0.1:1/gate-1");
    assert!(!all.to_string().contains("topsecret"));
    let limited = server.token(Role::Viewer, Some(&["road-1"]));
    assert_eq!(server.json("/api/v1/cameras", Some(&limited)).await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_tell_each_what_they_may_know() {
    let server = server("none").await;
    let operator = server.token(Role::Operator, None);
    assert_eq!(server.json("/healthz", None).await, serde_json::json!({ "status": "ok" }));
    server.state.health.set("record/ring", Severity::Degraded, "holds 3 hours");
    assert_eq!(server.json("/healthz", None).await["status"], "degraded");
    let detail = server.json("/healthz", Some(&operator)).await;
    assert_eq!(detail["states"]["record/ring"]["message"], "holds 3 hours");
    // A camera that is down is no reason to restart the box.
    server.state.health.set("camera/gate-1", Severity::Failed, "refuses the connection");
    assert_eq!(server.json("/healthz", None).await["status"], "degraded");
    server.state.health.set("record/ring", Severity::Failed, "the disk is gone");
    let failed = server.get("/healthz", None).await;
    assert_eq!(failed.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(!failed.text().await.unwrap().contains("disk"));
    let metrics = server.get("/metrics", Some(&operator)).await;
    assert!(
        metrics.headers()[header::CONTENT_TYPE].to_str().unwrap().starts_with("application/openmetrics-text")
    );
    assert!(metrics.text().await.unwrap().ends_with("# EOF\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_told_what_is_wrong() {
    let server = server("none").await;
    let admin = server.token(Role::Admin, None);
    let get = "/get?path=gate-1&start=2026-05-01T08:00:00Z";
    for (path, status, kind) in [
        ("/get?path=gate-1&duration=10", 400, "bad-request"),
        ("/get?path=gate-1&start=yesterday&duration=10", 400, "bad-request"),
        (get, 400, "bad-request"),
        (&format!("{get}&duration=-1"), 400, "bad-request"),
        (&format!("{get}&duration=NaN"), 400, "bad-request"),
        (&format!("{get}&duration=1e99"), 400, "bad-request"),
        (&format!("{get}&duration=10"), 404, "not-found"),
        ("/get?path=gate-1&start=9999-12-30T22:00:00Z&duration=86400", 400, "bad-request"),
        ("/list", 400, "bad-request"),
        ("/list?path=../../etc", 400, "bad-request"),
        ("/list?path=gate-1&start=2026-05-02T00:00:00Z&end=2026-05-01T00:00:00Z", 400, "bad-request"),
        ("/api/v1/alerts?limit=0", 400, "bad-request"),
        ("/api/v1/alerts?limit=100000", 400, "bad-request"),
        ("/api/v1/alerts?start=soon", 400, "bad-request"),
        ("/api/v1/alerts?cursor=nonsense", 400, "bad-request"),
        ("/api/v1/cameras?cursor=nonsense", 400, "bad-request"),
        ("/api/v1/alerts/01ZZZ", 404, "not-found"),
        ("/gate-9/index.m3u8", 404, "not-found"),
        ("/gate-1/frame.jpeg?width=1", 400, "bad-request"),
        ("/gate-1/frame.jpeg", 501, "vision-off"),
        ("/nowhere", 404, "not-found"),
        ("/assets/nothing.js", 404, "not-found"),
    ] {
        let (got, found) = problem(server.get(path, Some(&admin)).await).await;
        assert_eq!((got.as_u16(), found.as_str()), (status, kind), "{path}");
    }
    let wrong = server.ask(Method::PUT, "/api/v1/alerts", Some(&admin)).await;
    assert_eq!(problem(wrong).await.0, StatusCode::METHOD_NOT_ALLOWED);
    // A time zone whose + was not escaped is understood.
    let zoned = server.get("/list?path=gate-1&start=2026-05-01T08:00:00+08:00", Some(&admin)).await;
    assert_eq!(zoned.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_its_headers_and_head() {
    let server = server("none").await;
    let page = server.get("/", None).await;
    let headers = page.headers().clone();
    assert!(headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("default-src 'self'"));
    assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(headers[header::REFERRER_POLICY], "no-referrer");
    assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    let html = page.text().await.unwrap();
    assert!(!html.contains("style=") && !html.contains("<script>"), "the policy forbids what is inline");
    for asset in html.split("/assets/").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert_eq!(server.get(&format!("/assets/{asset}"), None).await.status(), StatusCode::OK, "{asset}");
    }
    let console = server.get("/console", None).await;
    assert_eq!(
        (console.status(), &console.headers()[header::LOCATION]),
        (StatusCode::PERMANENT_REDIRECT, &"/".parse().unwrap())
    );
    let head = server.ask(Method::HEAD, "/", None).await;
    assert_eq!(head.headers()[header::CONTENT_LENGTH], html.len().to_string().as_str());
    assert!(head.text().await.unwrap().is_empty());
    let refused = server.get("/api/v1/alerts", None).await;
    assert_eq!(refused.headers()[header::CACHE_CONTROL], "no-store");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_signs_in_and_out_from_its_own_page_alone() {
    let server = server("none").await;
    let token = server.token(Role::Operator, None);
    let url = format!("{}/api/v1/session", server.base);
    let sign_in = |origin: &str, body: String| {
        let request = server.client.post(&url).header(header::ORIGIN, origin);
        request.header(header::CONTENT_TYPE, "application/json").body(body).send()
    };
    let body = serde_json::json!({ "token": token }).to_string();
    let foreign = sign_in("https://evil.example", body.clone()).await.unwrap();
    assert_eq!(problem(foreign).await, (StatusCode::FORBIDDEN, "foreign-origin".to_owned()));
    let unknown = sign_in(&server.base, r#"{"token":"lt_guess"}"#.to_owned()).await.unwrap();
    assert_eq!(problem(unknown).await, (StatusCode::UNAUTHORIZED, "unknown-token".to_owned()));
    for nonsense in ["", "{}", "[1]", r#"{"token":"x","more":1}"#, "{\"token\":\"a\\nb\"}"] {
        let status = sign_in(&server.base, nonsense.to_owned()).await.unwrap().status();
        assert!(status.is_client_error(), "{nonsense}");
    }
    // The server may hang up before a body that it will not read has been sent.
    if let Ok(long) = sign_in(&server.base, "x".repeat(70_000)).await {
        assert_eq!(problem(long).await, (StatusCode::PAYLOAD_TOO_LARGE, "too-large".to_owned()));
    }
    let form = server.client.post(&url).body(body.clone()).send().await.unwrap();
    assert_eq!(problem(form).await.0, StatusCode::BAD_REQUEST);

    let signed_in = sign_in(&server.base, body).await.unwrap();
    assert_eq!(signed_in.status(), StatusCode::OK);
    let set = signed_in.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict") && !set.contains(&token));
    let cookie = set.split(';').next().unwrap().to_owned();
    let with_cookie = |method: Method, path: &str| {
        server.client.request(method, format!("{}{path}", server.base)).header(header::COOKIE, &cookie).send()
    };
    assert_eq!(with_cookie(Method::GET, "/api/v1/alerts").await.unwrap().status(), StatusCode::OK);
    assert_eq!(
        with_cookie(Method::DELETE, "/api/v1/session").await.unwrap().status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(with_cookie(Method::GET, "/api/v1/alerts").await.unwrap().status(), StatusCode::UNAUTHORIZED);
}

/// Sends bytes as they are; the answer's first line, empty where the server hung up.
async fn raw(server: &Server, request: &[u8]) -> String {
    let address = server.base.trim_start_matches("http://");
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    // The server may hang up in the middle of what is too long.
    let _ = socket.write_all(request).await;
    let mut answer = Vec::new();
    let reading = socket.read_to_end(&mut answer);
    let _ =
        tokio::time::timeout(Duration::from_secs(20), reading).await.expect("the server answers or hangs up");
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_requests_get_nothing_and_leave_the_server_alive() {
    let server = server("none").await;
    let admin = server.token(Role::Admin, None);
    for path in [
        "/../../etc/passwd",
        "/assets/../../../etc/passwd",
        "/assets/..%2f..%2f..%2fetc%2fpasswd",
        "/gate-1/..%2f..%2fstate.db",
        "/gate-1/sub/%2e%2e%2f%2e%2e",
        "/..%2fgate-1/index.m3u8",
        "/api/v1/alerts/..%2f..%2fstate.db/snapshot.jpg",
        "/gate-1/%00",
        "/%ff/index.m3u8",
        "//gate-1//index.m3u8",
        "/get?path=..%2f..%2fstate.db&start=2026-05-01T08:00:00Z&duration=10",
    ] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {admin}\r\n\r\n"
        );
        let line = raw(&server, request.as_bytes()).await;
        let status: u16 = line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(400);
        assert!((400..500).contains(&status), "{path}: {line}");
    }
    let endless = [b"GET / HTTP/1.1\r\nHost: x\r\nX: ".to_vec(), vec![b'a'; 200_000]].concat();
    assert!(!raw(&server, &endless).await.contains(" 200 "));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(5000));
    assert!(!raw(&server, many.as_bytes()).await.contains(" 200 "));
    assert!(!raw(&server, &[0xff; 1000]).await.contains(" 200 "));
    assert_eq!(server.get("/healthz", None).await.status(), StatusCode::OK);
}

/// What ffmpeg makes of these pictures, a key picture every second, is recorded `times` over as `gate-1`'s. Where it
/// begins.
async fn record(server: &Server, source: &str, quality: &str, times: i64) -> Timestamp {
    let path = server.state.settings.config().data.join("clip.mp4");
    let arguments = ["-v", "error", "-f", "lavfi", "-i", source, "-c:v", "libx264", "-preset", "ultrafast"];
    let encoded = std::process::Command::new("ffmpeg")
        .args(arguments)
        .args(["-crf", quality, "-g", "25", "-pix_fmt", "yuv420p"])
        .arg(&path)
        .status();
    assert!(encoded.unwrap().success());
    let clip = Clip::open(&path).unwrap();
    let start = Timestamp::from_second(Timestamp::now().as_second() - 600).unwrap();
    let recorder = server.state.ring.recorder(&"gate-1".into(), Feed::Main);
    let mut packager = Packager::new(1, 0, None);
    for round in 0..times {
        let offset = time::to_90k(start) + round * clip.duration_90k;
        for picture in &clip.pictures {
            let unit = AccessUnit {
                seq: 0,
                run: 1,
                pts_90k: picture.pts_90k + offset,
                dts_90k: picture.dts_90k + offset,
                is_rap: picture.is_rap,
                params: clip.video.clone(),
                data: picture.data.clone(),
            };
            if let Some(part) = packager.push(&Sample::Video(Arc::new(unit))) {
                recorder.push(Arc::new(part));
            }
        }
    }
    if let Some(part) = packager.finish() {
        recorder.push(Arc::new(part));
    }
    recorder.end(GapCause::Camera);
    let end = time::from_90k(time::to_90k(start) + times * clip.duration_90k);
    let whole = |stretch: &liuta::record::Stretch| matches!(stretch, liuta::record::Stretch::Recorded { end: until, .. } if *until >= end);
    for _ in 0..1200 {
        let told = server.state.ring.archive().list("gate-1", start..Timestamp::now()).unwrap();
        if told.iter().any(whole) {
            return start;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it is not recorded: {:?}", server.state.ring.archive().list("gate-1", start..Timestamp::now()));
}

/// Decodes the answer's film without a warning and counts its pictures.
async fn pictures(server: &Server, response: reqwest::Response) -> usize {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "video/mp4");
    let named = response.headers()[header::CONTENT_DISPOSITION].to_str().unwrap();
    assert!(named.starts_with("attachment; filename=\"gate-1_2") && named.ends_with("Z.mp4\""), "{named}");
    let path = server.state.settings.config().data.join("answer.mp4");
    std::fs::write(&path, response.bytes().await.unwrap()).unwrap();
    let decoded = std::process::Command::new("ffmpeg")
        .args(["-v", "warning", "-i"])
        .arg(&path)
        .args(["-fps_mode", "passthrough", "-f", "framemd5", "-"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&decoded.stderr), "");
    String::from_utf8_lossy(&decoded.stdout).lines().filter(|line| !line.starts_with('#')).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn recordings_and_clips_are_films_that_others_play() {
    let server = server("none").await;
    let start = record(&server, "testsrc2=size=320x240:rate=25:duration=10", "23", 2).await;
    let operator = server.token(Role::Operator, None);

    let list = server.json("/list?path=gate-1", Some(&operator)).await;
    assert_eq!(list[0]["duration"], 20.0);
    let url = list[0]["url"].as_str().unwrap();
    let path = &url[url.find("/get?").unwrap()..];
    assert_eq!(pictures(&server, server.get(path, Some(&operator)).await).await, 500);
    // What is cut begins with a key picture.
    let from = start + SignedDuration::from_secs(4);
    let cut = format!("/get?path=gate-1&start={from}&duration=5");
    let cut = pictures(&server, server.get(&cut, Some(&operator)).await).await;
    assert!((125..=150).contains(&cut), "{cut}");

    let mut alert = server.put_alert("01A", "gate-1", 0);
    (alert.evidence_start, alert.evidence_end) = (from, from + SignedDuration::from_secs(10));
    alert.revision = 2;
    server.state.store.put_alert(&alert, None, &[]).unwrap();
    let path = "/api/v1/alerts/01A/clip.mp4";
    let clip = pictures(&server, server.get(path, Some(&operator)).await).await;
    assert!((250..=275).contains(&clip), "{clip}");
    let link = server.state.links.sign(path, Timestamp::now() + SignedDuration::from_hours(1));
    assert_eq!(pictures(&server, server.get(&link, None).await).await, clip);

    // A film needs no worker, a picture does.
    let picture = problem(server.get("/gate-1/frame.jpeg", Some(&operator)).await).await;
    assert_eq!(picture, (StatusCode::NOT_IMPLEMENTED, "vision-off".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_that_nobody_reads_make_room() {
    let server = server("none").await;
    // More than fits between the disk and a client that reads nothing.
    let noise = "testsrc2=size=640x360:rate=25:duration=2,noise=alls=80:allf=t";
    let start = record(&server, noise, "4", 5).await;
    let operator = server.token(Role::Operator, None);
    let path = format!("/get?path=gate-1&start={start}&duration=10");
    let whole = server.get(&path, Some(&operator)).await.bytes().await.unwrap().len();
    assert!(whole > 16 << 20, "{whole}");

    let address = server.base.trim_start_matches("http://").parse().unwrap();
    let mut idle = Vec::new();
    for _ in 0..MAX_EXPORTS {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        let mut socket = socket.connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {operator}\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        socket.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        idle.push(socket);
    }
    let refused = server.get(&path, Some(&operator)).await;
    assert!(refused.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(problem(refused).await.0, StatusCode::SERVICE_UNAVAILABLE);

    // The stalled ones are ended although their clients hold on.
    for second in 0.. {
        assert!(second < 150, "no place came free");
        tokio::time::sleep(Duration::from_secs(1)).await;
        if server.get(&path, Some(&operator)).await.status() == StatusCode::OK {
            break;
        }
    }
    let mut rest = Vec::new();
    let socket = idle.first_mut().unwrap();
    // A reset is as good an end.
    let _ = tokio::time::timeout(Duration::from_secs(60), socket.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.len() < whole, "{} of {whole}", rest.len());
}

/// A download that is under way ends with the permission, and does not look whole.
#[tokio::test(flavor = "multi_thread")]
async fn downloads_end_with_their_permission() {
    let server = server("none").await;
    let noise = "testsrc2=size=640x360:rate=25:duration=2,noise=alls=80:allf=t";
    let start = record(&server, noise, "4", 5).await;
    let (about, token) =
        server.state.access.create_token(NewToken::of(Role::Operator), &By::command_line()).unwrap();
    let path = format!("/get?path=gate-1&start={start}&duration=10");
    let whole = server.get(&path, Some(&token)).await.bytes().await.unwrap().len();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let mut socket =
        socket.connect(server.base.trim_start_matches("http://").parse().unwrap()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut piece = vec![0; 64 << 10];
    socket.read_exact(&mut piece[..12]).await.unwrap();
    assert_eq!(&piece[..12], b"HTTP/1.1 200");
    assert!(server.state.access.revoke_token(&about.id, &By::command_line()).unwrap());
    // Slowly at first, so that it is under way when the box looks again; then what is left.
    let (began, mut taken) = (std::time::Instant::now(), Vec::new());
    loop {
        if began.elapsed() < Duration::from_secs(15) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        match tokio::time::timeout(Duration::from_secs(20), socket.read(&mut piece)).await.unwrap() {
            Ok(0) | Err(_) => break,
            Ok(read) => taken.extend_from_slice(&piece[..read]),
        }
    }
    assert!(taken.len() < whole && !taken.ends_with(b"0\r\n\r\n"), "{} of {whole}", taken.len());
}
