//! Who may do what, with the real binary and real clients: every route and role, sign-in, rotation, revocation, and
//! that no secret shows anywhere.

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::camera::{Camera, Mount, Options};
use common::people::{
    DEAD_CAMERAS, MINUTE, PASSWORD, client, closed, get_with, liuta, liuta_raw, person, sign_in,
};
use common::{Daemon, rendered, until};
use jiff::{SignedDuration, Timestamp};
use liuta::api;
use liuta::store::Store;
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

/// What a revocation may take: 30 s between two looks, and the tick that acts on it.
const REVOKED_WITHIN: Duration = Duration::from_secs(33);

fn put_alert(daemon: &Daemon, id: &str, camera: &str) {
    let at = Timestamp::now() - SignedDuration::from_secs(60);
    let alert = common::alert::alert(id, camera, at);
    // As the daemon itself does it, from another process.
    let store = Store::open(&daemon.data()).unwrap();
    store.put_alert(&alert, Some(&Bytes::from_static(b"jpeg")), &[]).unwrap();
}

/// Who gets in. By token: `v`iewer, `o`perator, `d`ispatch, `a`dmin, `k`: an operator for `gate-1` only, `l`: one for
/// `road-1` only; where the route is about a camera, or about something of one, it is `gate-1`. By session: `s`, a
/// person who is an administrator. `-`: nobody; `m`: the anonymous viewer where that is allowed.
/// The last column: who is let in and finds nothing there, since what there is belongs to another camera.
const ALLOWED: &[(&str, &str, &str)] = &[
    ("GET /", "-mvodakls", ""),
    ("GET /console", "-mvodakls", ""),
    ("GET /assets/{file}", "-mvodakls", ""),
    ("GET /api/openapi.json", "-mvodakls", ""),
    ("GET /healthz", "-mvodakls", ""),
    ("GET /metrics", "oas", ""),
    ("GET /api/v1/session", "-mvodakls", ""),
    ("POST /api/v1/session", "-mvodakls", ""),
    ("DELETE /api/v1/session", "-mvodakls", ""),
    ("POST /api/v1/session/password", "s", ""),
    ("POST /api/v1/session/key", "s", ""),
    ("POST /api/v1/setup", "-mvodakls", ""),
    ("GET /api/v1/users", "as", ""),
    ("POST /api/v1/users", "as", ""),
    ("GET /api/v1/users/{name}", "as", ""),
    ("PATCH /api/v1/users/{name}", "as", ""),
    ("DELETE /api/v1/users/{name}", "as", ""),
    ("POST /api/v1/users/{name}/key", "as", ""),
    ("GET /api/v1/tokens", "as", ""),
    ("POST /api/v1/tokens", "as", ""),
    ("DELETE /api/v1/tokens/{id}", "as", ""),
    ("GET /api/v1/audit", "as", ""),
    ("GET /api/v1/audit/state", "as", ""),
    ("GET /api/v1/config", "as", ""),
    ("GET /api/v1/cameras", "mvoakls", ""),
    ("POST /api/v1/cameras", "as", ""),
    ("POST /api/v1/cameras/try", "as", ""),
    ("GET /api/v1/cameras/{camera}", "mvoaks", ""),
    ("PATCH /api/v1/cameras/{camera}", "as", ""),
    ("DELETE /api/v1/cameras/{camera}", "as", ""),
    ("GET /api/v1/cameras/{camera}/zones", "as", ""),
    ("POST /api/v1/cameras/{camera}/zones", "as", ""),
    ("GET /api/v1/cameras/{camera}/zones/{zone}", "as", ""),
    ("PATCH /api/v1/cameras/{camera}/zones/{zone}", "as", ""),
    ("DELETE /api/v1/cameras/{camera}/zones/{zone}", "as", ""),
    ("GET /api/v1/channels", "mvoakls", ""),
    // On air is road-1.
    ("GET /api/v1/channels/{channel}", "mvoals", ""),
    ("PUT /api/v1/channels/{channel}", "oals", ""),
    ("POST /api/v1/channels", "as", ""),
    ("DELETE /api/v1/channels/{channel}", "as", ""),
    ("GET /api/v1/destinations", "as", ""),
    ("POST /api/v1/destinations", "as", ""),
    ("GET /api/v1/destinations/{name}", "as", ""),
    ("PATCH /api/v1/destinations/{name}", "as", ""),
    ("DELETE /api/v1/destinations/{name}", "as", ""),
    ("GET /api/v1/events", "mvodakls", ""),
    ("GET /api/v1/alerts", "odakls", ""),
    ("GET /api/v1/alerts/{id}", "odakls", "l"),
    ("GET /api/v1/alerts/{id}/transitions", "odakls", "l"),
    ("POST /api/v1/alerts/{id}/transitions", "das", ""),
    ("GET /api/v1/alerts/{id}/snapshot.jpg", "odakls", "l"),
    ("GET /api/v1/alerts/{id}/clip.mp4", "odakls", "l"),
    ("GET /api/v1/detections", "odakls", ""),
    ("GET /api/v1/timeline", "oaks", ""),
    ("GET /playback/{camera}/index.m3u8", "oaks", ""),
    ("GET /playback/{camera}/frame.jpeg", "oaks", ""),
    ("GET /playback/{camera}/{file}", "oaks", ""),
    ("GET /api/v1/signing-key", "mvoakls", ""),
    ("GET /api/v1/completeness", "oakls", ""),
    ("GET /list", "oaks", ""),
    ("GET /get", "oaks", ""),
    ("GET /{camera}/frame.jpeg", "mvoaks", ""),
    ("GET /{camera}/{file}", "mvoaks", ""),
    ("GET /{camera}/sub/{file}", "mvoaks", ""),
    // On air is road-1.
    ("GET /channels/{channel}/{file}", "mvoals", ""),
    ("GET /api/v1/nothing", "", ""),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_open_to_exactly_those_who_may() {
    let closed = closed(DEAD_CAMERAS, &[]).await;
    let open = Daemon::start(DEAD_CAMERAS).await;
    for daemon in [&closed, &open] {
        put_alert(daemon, "01A", "gate-1");
    }
    person(&closed, "chief", "admin", &[]);
    let cookie = sign_in(&closed, json!({ "name": "chief", "password": PASSWORD })).await.unwrap();
    let bearer = |role: &str, cameras: &[&str]| format!("Bearer {}", closed.token_of(role, cameras));
    let signed_in = [
        ('v', header::AUTHORIZATION, bearer("viewer", &[])),
        ('o', header::AUTHORIZATION, bearer("operator", &[])),
        ('d', header::AUTHORIZATION, bearer("dispatch", &[])),
        ('a', header::AUTHORIZATION, bearer("admin", &[])),
        ('k', header::AUTHORIZATION, bearer("operator", &["gate-1"])),
        ('l', header::AUTHORIZATION, bearer("operator", &["road-1"])),
        ('s', header::COOKIE, cookie),
    ];
    let client = client();
    let mut met = 0;
    for (method, pattern, _) in api::routes().list() {
        let route = format!("{method} {pattern}");
        let (_, allowed, finds_nothing) = ALLOWED
            .iter()
            .find(|(known, ..)| *known == route)
            .unwrap_or_else(|| panic!("{route} is new: say here who may reach it"));
        met += 1;
        let mut path = pattern
            .replace("{camera}", "gate-1")
            .replace("{channel}", "wall-1")
            .replace("{id}", "01A")
            .replace("{name}", "nobody")
            .replace("/assets/{file}", "/assets/console.css")
            .replace("{file}", "nothing.m4s");
        if matches!(*pattern, "/list" | "/get") {
            path += "?path=gate-1&start=2026-05-01T08:00:00Z&duration=10";
        }
        if *pattern == "/api/v1/timeline" {
            path += "?camera=gate-1";
        }
        let ask = |daemon: &Daemon| client.request(method.clone(), daemon.url(&path));
        let barred = |status: StatusCode| matches!(status.as_u16(), 401 | 403);
        for (role, name, value) in &signed_in {
            // Signing this one out would change what follows.
            if *role == 's' && route == "DELETE /api/v1/session" {
                continue;
            }
            let status = ask(&closed).header(name, value).send().await.unwrap().status();
            if !allowed.contains(*role) {
                assert_eq!(status, StatusCode::FORBIDDEN, "{route} as {role}");
            } else if finds_nothing.contains(*role) {
                assert_eq!(status, StatusCode::NOT_FOUND, "{route} as {role}");
            } else {
                assert!(!barred(status), "{route} as {role}: {status}");
                let is_object = !finds_nothing.is_empty() && !pattern.ends_with("clip.mp4");
                assert!(!is_object || status == StatusCode::OK, "{route} as {role}: {status}");
            }
        }
        for (role, daemon) in [('-', &closed), ('m', &open)] {
            let status = ask(daemon).send().await.unwrap().status();
            if !allowed.contains(role) {
                assert_eq!(status, StatusCode::UNAUTHORIZED, "{route} as {role}");
            } else {
                assert!(!barred(status), "{route} as {role}: {status}");
            }
        }
        for unknown in ["lt_unknown", ""] {
            let status = ask(&closed).bearer_auth(unknown).send().await.unwrap().status();
            let refused = status == StatusCode::UNAUTHORIZED;
            assert_eq!(refused, !allowed.contains('-'), "{route} with the token {unknown:?}");
        }
        // A page of another origin writes nothing, and reads no live events.
        let reads = method.is_safe();
        for (name, value) in [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")] {
            let mut request = ask(&closed).header(name, value).header(&signed_in[6].1, &signed_in[6].2);
            // Of live events whatever it accepts.
            if reads && *pattern != "/api/v1/events" {
                request = request.header(header::ACCEPT, "text/event-stream");
            }
            let answer: Value = request.send().await.unwrap().json().await.unwrap();
            assert_eq!(answer["type"], "urn:liuta:problem:foreign-origin", "{route} from {name}: {value}");
        }
    }
    assert_eq!(met, ALLOWED.len() - 1, "the table names a route that is gone");
    let nowhere = client.get(closed.url("/api/v1/nothing")).send().await.unwrap().status();
    assert_eq!(nowhere, StatusCode::NOT_FOUND);
}

/// The first administrator is made with what the log says, once.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_prints_a_token_that_makes_the_administrator() {
    let mut daemon = closed(DEAD_CAMERAS, &[]).await;
    let session: Value =
        client().get(daemon.url("/api/v1/session")).send().await.unwrap().json().await.unwrap();
    assert_eq!((&session["setup"], &session["name"]), (&json!(true), &Value::Null));
    let log = daemon.log();
    let token = log.split("set-up token: ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    let set_up = |token: &str, name: &str, password: &str| {
        let body = json!({ "token": token, "name": name, "password": password });
        client().post(daemon.url("/api/v1/setup")).json(&body).send()
    };
    assert_eq!(set_up("ls_wrong", "chief", PASSWORD).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(set_up(token, "chief", "short").await.unwrap().status(), StatusCode::BAD_REQUEST);
    let made = set_up(token, "chief", PASSWORD).await.unwrap();
    assert_eq!(made.status(), StatusCode::CREATED);
    let cookie = made.headers()[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
    let made: Value = made.json().await.unwrap();
    assert!(made["stream_key"].as_str().unwrap().starts_with("lk_"), "shown once: {made}");
    let late = set_up(token, "other", PASSWORD).await.unwrap();
    assert_eq!(late.status(), StatusCode::CONFLICT);
    assert_eq!(late.json::<Value>().await.unwrap()["type"], "urn:liuta:problem:set-up-done");
    assert_eq!(get_with(&daemon, "/api/v1/users", header::COOKIE, &cookie).await, StatusCode::OK);

    // A session outlives the daemon; a new start prints nothing more.
    daemon.terminate().await;
    let printed = daemon.log().matches("set-up token: ").count();
    let daemon = daemon.restart().await;
    assert_eq!(daemon.log().matches("set-up token: ").count(), printed);
    assert_eq!(get_with(&daemon, "/api/v1/users", header::COOKIE, &cookie).await, StatusCode::OK);
    let session: Value =
        client().get(daemon.url("/api/v1/session")).send().await.unwrap().json().await.unwrap();
    assert_eq!(session["setup"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_kept_by_administrators_and_two_do_not_overwrite_each_other() {
    let daemon = closed(DEAD_CAMERAS, &[]).await;
    person(&daemon, "chief", "admin", &[]);
    let cookie = sign_in(&daemon, json!({ "name": "chief", "password": PASSWORD })).await.unwrap();
    let client = client();
    let ask = |method: Method, path: &str, body: Option<Value>| {
        let mut request = client.request(method, daemon.url(path)).header(header::COOKIE, &cookie);
        if let Some(body) = body {
            request = request.json(&body);
        }
        request
    };
    let li = json!({ "name": "li", "role": "operator", "cameras": ["group:school"], "password": "battery staple" });
    let added = ask(Method::POST, "/api/v1/users", Some(li.clone())).send().await.unwrap();
    assert_eq!(added.status(), StatusCode::CREATED);
    let tag = added.headers()[header::ETAG].to_str().unwrap().to_owned();
    let added: Value = added.json().await.unwrap();
    assert!(added["stream_key"].as_str().unwrap().starts_with("lk_"), "{added}");
    for (body, status) in [
        (li, 409),
        (json!({ "name": "wang", "role": "operator", "password": "short" }), 400),
        (json!({ "name": "wang", "role": "king", "password": PASSWORD }), 400),
        (json!({ "name": "wang", "role": "viewer", "password": PASSWORD, "cameras": ["gate-9"] }), 400),
        (json!({ "name": "wang", "role": "viewer", "password": PASSWORD, "more": 1 }), 400),
        (json!({ "name": "token", "role": "viewer", "password": PASSWORD }), 400),
    ] {
        let answer = ask(Method::POST, "/api/v1/users", Some(body.clone())).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{body}");
        assert!(!answer.text().await.unwrap().contains(PASSWORD));
    }
    // Two administrators change the same person: the second is told.
    let change =
        |body: Value| ask(Method::PATCH, "/api/v1/users/li", Some(body)).header(header::IF_MATCH, &tag);
    let first = change(json!({ "role": "viewer" })).send().await.unwrap();
    assert_eq!(first.status(), StatusCode::OK);
    let second = change(json!({ "disabled": true })).send().await.unwrap();
    assert_eq!(second.status(), StatusCode::PRECONDITION_FAILED);
    let now: Value = ask(Method::GET, "/api/v1/users/li", None).send().await.unwrap().json().await.unwrap();
    assert_eq!(
        (&now["role"], &now["disabled"], &now["revision"]),
        (&json!("viewer"), &json!(false), &json!(2))
    );
    // Cameras are left alone where they are not given, and null is every camera.
    assert_eq!(now["cameras"], json!(["group:school"]));
    let all = ask(Method::PATCH, "/api/v1/users/li", Some(json!({ "cameras": null }))).send().await.unwrap();
    assert_eq!(all.json::<Value>().await.unwrap()["cameras"], Value::Null);
    let last = ask(Method::DELETE, "/api/v1/users/chief", None).send().await.unwrap();
    assert_eq!(last.status(), StatusCode::CONFLICT);
    assert_eq!(
        ask(Method::DELETE, "/api/v1/users/li", None).send().await.unwrap().status(),
        StatusCode::NO_CONTENT
    );

    // Tokens: narrower than their role, listed without their text, revoked at once.
    let body = json!({ "name": "wall", "role": "operator", "scopes": ["live"], "cameras": ["gate-1"] });
    let made = ask(Method::POST, "/api/v1/tokens", Some(body)).send().await.unwrap();
    assert_eq!(made.status(), StatusCode::CREATED);
    let made: Value = made.json().await.unwrap();
    let (id, token) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    let bearer = format!("Bearer {token}");
    assert_eq!(get_with(&daemon, "/api/v1/cameras", header::AUTHORIZATION, &bearer).await, StatusCode::OK);
    assert_eq!(
        get_with(&daemon, "/api/v1/alerts", header::AUTHORIZATION, &bearer).await,
        StatusCode::FORBIDDEN
    );
    let listed = ask(Method::GET, "/api/v1/tokens", None).send().await.unwrap().text().await.unwrap();
    assert!(listed.contains(id) && !listed.contains(token));
    let path = format!("/api/v1/tokens/{id}");
    assert_eq!(ask(Method::DELETE, &path, None).send().await.unwrap().status(), StatusCode::NO_CONTENT);
    assert_eq!(ask(Method::DELETE, &path, None).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    assert_eq!(
        get_with(&daemon, "/api/v1/cameras", header::AUTHORIZATION, &bearer).await,
        StatusCode::UNAUTHORIZED
    );

    // All of it is written down, by whom and from where, and the chain is whole.
    let audit: Value =
        ask(Method::GET, "/api/v1/audit?who=chief", None).send().await.unwrap().json().await.unwrap();
    let rows: Vec<_> = audit["items"].as_array().unwrap().iter().collect();
    let told = |action: &str, object: &str, detail: &str| {
        rows.iter().any(|row| {
            row["action"] == action
                && row["object"] == object
                && row["detail"].as_str().unwrap().contains(detail)
                && row["address"] == "127.0.0.1"
        })
    };
    assert!(told("sign-in", "session", "password"), "{audit}");
    assert!(told("change", "user/li", "added, role operator, cameras group:school"), "{audit}");
    assert!(told("change", "user/li", "role viewer"), "{audit}");
    assert!(told("change", "user/li", "removed"), "{audit}");
    assert!(told("change", &format!("token/{id}"), "revoked"), "{audit}");
    let state = liuta(&daemon, &["audit", "verify"], "");
    assert_eq!(state["broken"], Value::Null);

    // Somebody with the disk in hand rewrites history.
    let db = rusqlite::Connection::open(daemon.data().join("state.db")).unwrap();
    db.execute_batch("DROP TRIGGER audit_is_never_rewritten; UPDATE audit SET who = 'nobody' WHERE seq = 2")
        .unwrap();
    let broken = liuta_raw(&daemon, &["audit", "verify"], "");
    assert_eq!(broken.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&broken.stderr).contains("broken at row 2"), "{broken:?}");
    assert_eq!(serde_json::from_slice::<Value>(&broken.stdout).unwrap()["broken"]["seq"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_are_answered_429_and_a_right_password_later_opens() {
    let daemon = closed(DEAD_CAMERAS, &[]).await;
    person(&daemon, "li", "viewer", &[]);
    let guess = |name: &'static str, password: &'static str| {
        sign_in(&daemon, json!({ "name": name, "password": password }))
    };
    let mut retry_after = None;
    for _ in 0..8 {
        let refused = guess("li", "wrong password").await.unwrap_err();
        if refused.status() == StatusCode::TOO_MANY_REQUESTS {
            retry_after =
                Some(refused.headers()[header::RETRY_AFTER].to_str().unwrap().parse::<u64>().unwrap());
            break;
        }
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    }
    let retry_after = retry_after.expect("guessing is slowed down");
    // Who exists does not show: an account that does not exist is slowed down alike.
    for _ in 0..4 {
        let _ = guess("nobody", "wrong password").await;
    }
    assert_eq!(guess("nobody", "x").await.unwrap_err().status(), StatusCode::TOO_MANY_REQUESTS);
    tokio::time::sleep(Duration::from_secs(retry_after + 1)).await;
    assert!(guess("li", PASSWORD).await.is_ok());
}

/// A player that runs until it is ended from the other side.
struct Player {
    name: &'static str,
    child: Child,
    said: std::path::PathBuf,
}

impl Player {
    fn start(name: &'static str, folder: &Path, command: &mut Command) -> Player {
        let said = folder.join(format!("{name}.log"));
        let log = std::fs::File::create(&said).unwrap();
        let child =
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().expect(name);
        Player { name, child, said }
    }

    fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap_or_default()
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// ffmpeg that reads to its end, or `seconds` of it.
fn ffmpeg(url: &str, seconds: Option<&str>) -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "info", "-rtsp_transport", "tcp"]);
    if let Some(seconds) = seconds {
        command.args(["-t", seconds]);
    }
    command.args(["-i", url, "-an", "-c", "copy", "-f", "null", "-"]).stdin(Stdio::null());
    command
}

fn rtspsrc(url: &str, user: &str, key: &str) -> Command {
    let mut command = Command::new("gst-launch-1.0");
    let source = ["-q", "rtspsrc", "protocols=tcp", &format!("location={url}")].map(str::to_owned);
    command.args(source).arg(format!("user-id={user}")).arg(format!("user-pw={key}"));
    command.args(["!", "fakesink", "sync=false"]);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn players_sign_in_by_digest_and_end_when_what_let_them_in_does() {
    let camera = Camera::start(&[Mount::clip("road", &rendered("road-1.mp4"))]);
    let sections = format!("[vision]\nenabled = false\n[cameras.road-1]\nurl = {:?}\n", camera.url("road"));
    let mut daemon = closed(&sections, &[]).await;
    daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &["camera=\"road-1\""], 30.0).await;
    let folder = tempfile::tempdir().unwrap();
    let key = person(&daemon, "li", "viewer", &[]);
    let wang = person(&daemon, "wang", "viewer", &[]);
    let token = liuta(&daemon, &["token", "create", "--role", "viewer", "--expires", "1h"], "");
    let (id, token) = (token["id"].as_str().unwrap(), token["token"].as_str().unwrap());
    let url = |user: &str, key: &str| format!("rtsp://{user}:{key}@{}/road-1", daemon.rtsp);
    let plain = format!("rtsp://{}/road-1", daemon.rtsp);

    // What must not open: no sign-in, a wrong key, and the person's own password.
    for wrong in
        [plain.clone(), url("li", "lk_wrong"), url("li", &PASSWORD.replace(' ', "%20")), url("li", &wang)]
    {
        let output = ffmpeg(&wrong, Some("1")).output().unwrap();
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("401"), "{wrong}: {said}");
    }

    let key_of_li = url("li", &key);
    let mut players = [
        Player::start("ffmpeg-digest", folder.path(), &mut ffmpeg(&key_of_li, None)),
        Player::start("rtspsrc-digest", folder.path(), &mut rtspsrc(&plain, "li", &key)),
        Player::start("rtspsrc-token", folder.path(), &mut rtspsrc(&plain, "token", token)),
        Player::start("ffmpeg-token", folder.path(), &mut ffmpeg(&url("token", token), None)),
        Player::start("ffmpeg-wang", folder.path(), &mut ffmpeg(&url("wang", &wang), None)),
    ];
    until(MINUTE, "five readers", async || {
        let label = ["path=\"road-1\"", "protocol=\"rtsp\""];
        (daemon.metric("liuta_relay_readers", &label).await >= 5.0).then_some(())
    })
    .await;
    let cookie = sign_in(&daemon, json!({ "name": "wang", "password": PASSWORD })).await.unwrap();
    let bearer = format!("Bearer {token}");
    let playlist = "/road-1/index.m3u8";
    assert_eq!(get_with(&daemon, playlist, header::COOKIE, &cookie).await, StatusCode::OK);
    assert_eq!(get_with(&daemon, playlist, header::AUTHORIZATION, &bearer).await, StatusCode::OK);

    // Each by its own way, all from another process: a new key, a revoked token, a person disabled by removal.
    let revoked = Instant::now();
    liuta(&daemon, &["user", "key", "li"], "");
    liuta(&daemon, &["token", "revoke", id], "");
    liuta(&daemon, &["user", "remove", "wang"], "");
    until(Duration::from_secs(5), "HLS and the session end", async || {
        let ended = get_with(&daemon, playlist, header::COOKIE, &cookie).await == StatusCode::UNAUTHORIZED
            && get_with(&daemon, playlist, header::AUTHORIZATION, &bearer).await == StatusCode::UNAUTHORIZED;
        ended.then_some(())
    })
    .await;
    for player in &mut players {
        while player.runs() {
            let waited = revoked.elapsed();
            assert!(waited < REVOKED_WITHIN, "{} plays on after {waited:?}: {}", player.name, player.said());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let output = ffmpeg(&key_of_li, Some("1")).output().unwrap();
    assert!(!output.status.success(), "the old key opens nothing");
    // The trail tells who watched, and that somebody tried.
    let audit = daemon.json("/api/v1/audit?action=watch&object=camera/road-1").await;
    for who in ["li", "wang", &format!("token {id}")] {
        assert!(audit["items"].as_array().unwrap().iter().any(|row| row["who"] == who), "{who}: {audit}");
    }
    let failed = daemon.json("/api/v1/audit?action=sign-in-failed").await;
    assert!(!failed["items"].as_array().unwrap().is_empty());
}

/// Secrets that are given to the box and must never leave it.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_shows_in_logs_answers_metrics_or_errors() {
    const CAMERA: &str = "canary-camera-pw-1";
    const IN_URL: &str = "canary-url-pw-2";
    const WEBHOOK: &str = "whsec_Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5";
    const PERSONS: &str = "canary-person-pw-3";
    let options = Options { credentials: Some(("admin", CAMERA)), ..Options::default() };
    let camera = Camera::start_with(options, &[Mount::clip("road", &rendered("road-1.mp4"))]);
    let sections = format!(
        "[vision]\nenabled = false\n[dispatch.desk]\ntype = \"webhook\"\nurl = \"http://127.0.0.1:9/alerts\"\n\
         secret = \"{WEBHOOK}\"\n\
         [cameras.road-1]\nurl = {:?}\nusername = \"admin\"\npassword = \"{CAMERA}\"\n\
         [cameras.gate-1]\nurl = \"rtsp://admin:{IN_URL}@127.0.0.1:1/x\"\n",
        camera.url("road")
    );
    let mut daemon = closed(&sections, &[("LIUTA_LOG", "trace")]).await;
    daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &["camera=\"road-1\""], 30.0).await;
    let added = liuta_raw(&daemon, &["user", "add", "li", "--role", "admin", "--password-stdin"], PERSONS);
    let added: Value = serde_json::from_slice(&added.stdout).unwrap();
    let key = added["stream_key"].as_str().unwrap().to_owned();
    let token = daemon.token_of("operator", &[]);
    let cookie = sign_in(&daemon, json!({ "name": "li", "password": PERSONS })).await.unwrap();
    let session = cookie.split_once('=').unwrap().1.to_owned();
    let secrets = [CAMERA, IN_URL, WEBHOOK, &WEBHOOK[6..], PERSONS, &key, &token, &session];

    let mut said = Vec::new();
    // The secrets in use: every way of signing in, right and wrong.
    let with_key = format!("rtsp://li:{key}@{}/road-1", daemon.rtsp);
    let with_token = format!("rtsp://token:{token}@{}/road-1", daemon.rtsp);
    for url in [with_key, with_token, format!("rtsp://li:{PERSONS}@{}/road-1", daemon.rtsp)] {
        let _ = ffmpeg(&url, Some("1")).output().unwrap();
    }
    let client = client();
    for body in [
        json!({ "name": "li", "password": PERSONS, "more": PERSONS }),
        json!({ "name": "li", "password": [PERSONS] }),
        json!({ "token": [token] }),
        json!({ "name": PERSONS, "token": token }),
        json!({ "name": PERSONS, "password": PERSONS }),
    ] {
        let answer = client.post(daemon.url("/api/v1/session")).json(&body).send().await.unwrap();
        said.push((
            "a refused sign-in".to_owned(),
            format!("{:?}\n{}", answer.headers().clone(), answer.text().await.unwrap()),
        ));
    }
    put_alert(&daemon, "01A", "road-1");
    let begin = Timestamp::now() - SignedDuration::from_secs(5);
    for (method, pattern, _) in api::routes().list() {
        if *method != Method::GET {
            continue;
        }
        let path =
            pattern.replace("{camera}", "road-1").replace("{channel}", "wall-1").replace("{id}", "01A");
        let path = path
            .replace("{name}", "li")
            .replace("/assets/{file}", "/assets/console.js")
            .replace("{file}", "index.m3u8");
        let path = format!("{path}?path=road-1&start={begin}&duration=1");
        for (name, value) in
            [(header::COOKIE, cookie.clone()), (header::AUTHORIZATION, format!("Bearer {token}"))]
        {
            let mut answer = client.get(daemon.url(&path)).header(name, value).send().await.unwrap();
            let headers = format!("{:?}", answer.headers());
            let body = match *pattern {
                // It never ends; the camera that fails all the time is told of within seconds.
                "/api/v1/events" => {
                    let mut told = Vec::new();
                    let reading = async {
                        while let Some(chunk) = answer.chunk().await.unwrap() {
                            told.extend(chunk);
                        }
                    };
                    let _ = tokio::time::timeout(Duration::from_secs(5), reading).await;
                    told.into()
                }
                _ => answer.bytes().await.unwrap_or_default(),
            };
            said.push((format!("GET {pattern}"), format!("{headers}\n{}", String::from_utf8_lossy(&body))));
        }
    }
    let check =
        Command::new(env!("CARGO_BIN_EXE_liuta")).arg("check").arg(daemon.config_file()).output().unwrap();
    said.push(("liuta check".to_owned(), format!("{check:?}")));
    let broken = daemon.folder.path().join("broken.toml");
    std::fs::write(
        &broken,
        format!("{sections}\nurll = 1\n").replace("type = \"webhook\"", "type = \"fax\""),
    )
    .unwrap();
    let check = Command::new(env!("CARGO_BIN_EXE_liuta")).arg("check").arg(&broken).output().unwrap();
    assert_eq!(check.status.code(), Some(2));
    said.push(("liuta check of a broken file".to_owned(), format!("{check:?}")));
    for what in [&["user", "list"][..], &["token", "list"], &["audit", "verify"]] {
        said.push((what.join(" "), liuta(&daemon, what, "").to_string()));
    }
    daemon.terminate().await;
    let log = daemon.log();
    assert!(log.contains("TRACE") && log.lines().count() > 100, "the log is a full one");
    said.push(("the log".to_owned(), log));
    for (place, text) in &said {
        for secret in secrets {
            if let Some(at) = text.find(secret) {
                let around =
                    &text[text.floor_char_boundary(at.saturating_sub(200))..text.ceil_char_boundary(at + 60)];
                panic!("{place} shows {secret}: …{around}…");
            }
        }
    }
    // Nor does the disk, but for the configuration that people wrote.
    for entry in std::fs::read_dir(daemon.data()).unwrap().flatten() {
        let Ok(bytes) = std::fs::read(entry.path()) else { continue };
        for secret in &secrets[4..] {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{} holds {secret}", entry.path().display());
        }
    }
}
