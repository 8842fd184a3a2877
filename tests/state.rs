//! What the box knows stays: a full disk, a lost file, backups, the audit trail and what could hide in it; with the real
//! binary.

mod common;

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use common::camera::{Camera, Mount};
use common::disk::SmallDisk;
use common::{Daemon, config_head, free_address, rendered, until};
use jiff::{SignedDuration, Timestamp};
use liuta::access::Links;
use liuta::store::Store;
use reqwest::{StatusCode, header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

const MINUTE: Duration = Duration::from_secs(60);
const PASSWORD: &str = "correct horse";
const NO_VISION: &str = "[vision]\nenabled = false\n";

/// A daemon where nobody is let in unasked, with this data folder.
async fn closed(data: &Path, sections: &str) -> Daemon {
    let folder = Arc::new(tempfile::Builder::new().prefix("liuta-test-").tempdir().unwrap());
    let (http, rtsp) = (free_address(), free_address());
    let head = config_head(folder.path(), http, rtsp)
        .replace("\"viewer\"", "\"none\"")
        .replace(&format!("{:?}", folder.path().join("data")), &format!("{data:?}"));
    std::fs::write(folder.path().join("liuta.toml"), head + sections).unwrap();
    Daemon::start_in(folder, http, rtsp, &[]).await
}

/// `liuta WHAT… --config FILE`, with the password on its standard input.
fn liuta(daemon: &Daemon, what: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_liuta"))
        .args(what)
        .arg("--config")
        .arg(daemon.config_file())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads nothing may have gone already.
    let _ = writeln!(child.stdin.take().unwrap(), "{PASSWORD}");
    child.wait_with_output().unwrap()
}

fn done(daemon: &Daemon, what: &[&str]) -> String {
    let output = liuta(daemon, what);
    assert!(output.status.success(), "{what:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn person(daemon: &Daemon, name: &str, role: &str) {
    done(daemon, &["user", "add", name, "--role", role, "--password-stdin"]);
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().timeout(MINUTE).build().unwrap()
}

/// Status, body, and the session's cookie.
async fn sign_in(daemon: &Daemon, name: &str, password: &str) -> (StatusCode, Value, String) {
    let body = json!({ "name": name, "password": password });
    let answer = client().post(daemon.url("/api/v1/session")).json(&body).send().await.unwrap();
    let cookie = answer.headers().get(header::SET_COOKIE).map(|value| value.to_str().unwrap().to_owned());
    let cookie = cookie.unwrap_or_default().split(';').next().unwrap().to_owned();
    (answer.status(), answer.json().await.unwrap(), cookie)
}

async fn get(daemon: &Daemon, path: &str, cookie: &str) -> reqwest::Response {
    client().get(daemon.url(path)).header(header::COOKIE, cookie).send().await.unwrap()
}

/// Of a session: the rows of an action, newest first.
async fn rows(daemon: &Daemon, action: &str, cookie: &str) -> Vec<Value> {
    let path = format!("/api/v1/audit?limit=1000&action={action}");
    let page: Value = get(daemon, &path, cookie).await.json().await.unwrap();
    page["items"].as_array().unwrap_or_else(|| panic!("{page}")).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_gets_in_while_the_disk_is_full() {
    let Some(disk) = SmallDisk::mount(40) else { return };
    let mut daemon = closed(disk.path(), NO_VISION).await;
    person(&daemon, "boss", "admin");
    person(&daemon, "olga", "operator");
    let hog = disk.fill();

    // What the database's own files still have room for is used first.
    let cookie = until(MINUTE, "a session in memory", async || {
        let (status, told, cookie) = sign_in(&daemon, "boss", PASSWORD).await;
        assert_eq!(status, StatusCode::OK, "{told}");
        (told["kept"] == false).then_some(cookie)
    })
    .await;
    until(MINUTE, "others are told why", async || {
        let (status, told, _) = sign_in(&daemon, "olga", PASSWORD).await;
        if status == StatusCode::OK {
            return None;
        }
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{told}");
        assert_eq!(told["type"], "urn:liuta:problem:unavailable");
        assert!(told["detail"].as_str().unwrap().contains("disk is full"), "{told}");
        Some(())
    })
    .await;
    assert_eq!(sign_in(&daemon, "boss", "wrong horse").await.0, StatusCode::UNAUTHORIZED);
    let health: Value = get(&daemon, "/healthz", &cookie).await.json().await.unwrap();
    let trail = health["states"]["store/audit"]["message"].as_str().unwrap();
    assert!(trail.contains("disk is full"), "{health}");

    std::fs::remove_file(hog).unwrap();
    let (status, told, kept) = sign_in(&daemon, "boss", PASSWORD).await;
    assert_eq!((status, &told["kept"]), (StatusCode::OK, &json!(true)));
    until(MINUTE, "the row of the audit trail", async || {
        let rows = rows(&daemon, "sign-in", &cookie).await;
        rows.iter().any(|row| row["detail"].as_str().unwrap().contains("in memory only")).then_some(())
    })
    .await;
    // It ends like any other, though the database knows nothing of it.
    done(&daemon, &["user", "change", "boss", "--password-stdin"]);
    for ended in [&kept, &cookie] {
        until(Duration::from_secs(10), "the session's end", async || {
            let status = get(&daemon, "/api/v1/users", ended).await.status();
            (status == StatusCode::UNAUTHORIZED).then_some(())
        })
        .await;
    }
    done(&daemon, &["audit", "verify"]);

    // One that is started on a full disk says so and ends; the service manager tries again.
    daemon.terminate().await;
    let _hog = disk.fill();
    let output = liuta(&daemon, &["run"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("the disk is full; make room on it"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_has_lost_its_people_is_no_new_box_and_a_backup_brings_them_back() {
    let data = tempfile::tempdir().unwrap();
    let mut daemon = closed(data.path(), NO_VISION).await;
    assert!(daemon.log().contains("set-up token"), "a new box");
    person(&daemon, "boss", "admin");
    let copy = data.path().join("copy.db");
    done(&daemon, &["backup", copy.to_str().unwrap()]);
    assert!(!liuta(&daemon, &["backup", copy.to_str().unwrap()]).status.success(), "it overwrites nothing");
    // From the next look on the box knows that there was somebody.
    daemon.terminate().await;
    let mut daemon = daemon.restart().await;
    daemon.kill();
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(data.path().join(file));
    }
    std::fs::write(daemon.folder.path().join("log"), "").unwrap();
    let mut daemon = daemon.restart().await;
    let health = daemon.health().await;
    assert_eq!(health["states"]["store"]["severity"], "degraded", "{health}");
    assert!(!daemon.log().contains("set-up token:"), "{}", daemon.log());
    assert!(daemon.log().contains("put a backup in its place"), "{}", daemon.log());

    daemon.terminate().await;
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(data.path().join(file));
    }
    std::fs::rename(&copy, data.path().join("state.db")).unwrap();
    let mut daemon = daemon.restart().await;
    assert_eq!(sign_in(&daemon, "boss", PASSWORD).await.0, StatusCode::OK);
    assert_eq!(daemon.health().await["states"]["store"]["severity"], "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_now_is_in_the_file_itself_within_a_minute() {
    let data = tempfile::tempdir().unwrap();
    let daemon = closed(data.path(), NO_VISION).await;
    person(&daemon, "boss", "admin");
    until(2 * MINUTE, "a copy of the file alone that knows the person", async || {
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::copy(data.path().join("state.db"), elsewhere.path().join("state.db")).unwrap();
        let copy = Store::open(elsewhere.path()).ok()?;
        copy.person("boss").ok()?
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verifying_tells_where_the_trail_begins_and_makes_nothing() {
    let data = tempfile::tempdir().unwrap();
    let mut daemon = closed(data.path(), NO_VISION).await;
    person(&daemon, "boss", "admin");
    let told: Value = serde_json::from_str(&done(&daemon, &["audit", "verify", "--json"])).unwrap();
    assert_eq!(
        (&told["oldest"]["seq"], &told["pruned"], &told["broken"]),
        (&json!(1), &Value::Null, &Value::Null)
    );
    let (_, _, cookie) = sign_in(&daemon, "boss", PASSWORD).await;
    let state: Value = get(&daemon, "/api/v1/audit/state", &cookie).await.json().await.unwrap();
    assert_eq!((&state["oldest"]["seq"], &state["newest"]), (&json!(1), &json!(2)), "{state}");
    let store = Store::open(data.path()).unwrap();
    store.prune_audit(Timestamp::now()).unwrap();
    drop(store);
    let early = liuta(&daemon, &["audit", "verify"]);
    let said = String::from_utf8_lossy(&early.stderr).into_owned();
    assert!(early.status.success() && said.contains("[audit] retention is 200.0 days"), "{said}");

    daemon.terminate().await;
    let missing = data.path().join("elsewhere");
    let text = std::fs::read_to_string(daemon.config_file()).unwrap();
    let text = text.replace(&format!("{:?}", data.path()), &format!("{missing:?}"));
    std::fs::write(daemon.config_file(), text).unwrap();
    let output = liuta(&daemon, &["audit", "verify"]);
    assert!(!output.status.success() && !missing.exists());
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no "), "{output:?}");
}

/// An RTSP request from this address of loopback, with user and key by Basic.
async fn describe(from: [u8; 4], to: SocketAddr, user: &str, key: &str) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    let mut connection = socket.connect(to).await.unwrap();
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{key}"));
    let request =
        format!("DESCRIBE rtsp://{to}/x RTSP/1.0\r\nCSeq: 1\r\nAuthorization: Basic {basic}\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 256];
    let length = connection.read(&mut answer).await.unwrap_or(0);
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_at_one_account_are_not_hidden_behind_others() {
    let data = tempfile::tempdir().unwrap();
    let daemon = closed(data.path(), NO_VISION).await;
    person(&daemon, "boss", "admin");
    person(&daemon, "olga", "operator");
    let (_, _, cookie) = sign_in(&daemon, "boss", PASSWORD).await;
    // Each from somewhere else, so that no address is refused for its many guesses.
    let mut said = vec![describe([127, 0, 1, 90], daemon.rtsp, "olga", "lk_wrong").await];
    for n in 1..=80 {
        said.push(describe([127, 0, 1, n], daemon.rtsp, &format!("no\x07body-{n}"), "lk_wrong").await);
    }
    assert!(said.iter().all(|said| said.starts_with("RTSP/1.0 401")), "{said:?}");
    assert_eq!(sign_in(&daemon, "boss", "wrong horse").await.0, StatusCode::UNAUTHORIZED);
    let failed = until(Duration::from_secs(90), "the count of what was left out", async || {
        let rows = rows(&daemon, "sign-in-failed", &cookie).await;
        let count = |row: &Value| row["detail"].as_str().unwrap().ends_with(" more within a minute");
        rows.iter().any(count).then_some(rows)
    })
    .await;
    let of = |who: &str, detail: &str| {
        failed.iter().filter(|row| row["who"] == who && row["detail"].as_str().unwrap() == detail).count()
    };
    assert_eq!(of("boss", "wrong password"), 1, "{failed:?}");
    assert_eq!(of("olga", "RTSP"), 1, "{failed:?}");
    assert_eq!(of("unknown", "RTSP"), 20, "{failed:?}");
    assert_eq!(of("unknown", "RTSP, 60 more within a minute"), 1, "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_and_pictures_are_written_down_once_and_belong_to_the_folders_owner() {
    let data = tempfile::tempdir().unwrap();
    let root = rustix::process::geteuid().is_root();
    if root {
        std::os::unix::fs::chown(data.path(), Some(4711), Some(4711)).unwrap();
    }
    let camera = Camera::start(&[Mount::clip("road", &rendered("road-1.mp4"))]);
    let sections = format!("{NO_VISION}[cameras.road-1]\nurl = {:?}\n", camera.url("road"));
    let mut daemon = closed(data.path(), &sections).await;
    person(&daemon, "boss", "admin");
    daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &["camera=\"road-1\""], 200.0).await;
    let (_, _, cookie) = sign_in(&daemon, "boss", PASSWORD).await;

    let start = Timestamp::now() - SignedDuration::from_secs(5);
    let path = |duration: u32| format!("/get?path=road-1&start={start}&duration={duration}");
    for _ in 0..20 {
        let head = client().head(daemon.url(&path(1))).header(header::COOKIE, &cookie).send().await.unwrap();
        assert_eq!(head.status(), StatusCode::OK);
        assert_eq!(head.headers()[header::CONTENT_TYPE], "video/mp4");
    }
    assert_eq!(rows(&daemon, "export", &cookie).await.len(), 0, "nothing was taken");
    for _ in 0..20 {
        assert!(get(&daemon, &path(2), &cookie).await.bytes().await.unwrap().len() > 10_000);
    }
    get(&daemon, &path(3), &cookie).await.bytes().await.unwrap();
    assert_eq!(rows(&daemon, "export", &cookie).await.len(), 2, "one for each range");

    // By the links of an alert, as dispatch has them.
    let alert = common::alert::alert("01A", "road-1", start);
    let store = Store::open(data.path()).unwrap();
    store.put_alert(&alert, Some(&Bytes::from_static(b"jpeg")), &[]).unwrap();
    let links = Links::new(store.secret("links").unwrap());
    for file in ["clip.mp4", "snapshot.jpg"] {
        let expires = Timestamp::now() + SignedDuration::from_secs(600);
        let link = links.sign(&format!("/api/v1/alerts/01A/{file}"), expires);
        for _ in 0..5 {
            let answer = client().get(daemon.url(&link)).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "{file}");
            answer.bytes().await.unwrap();
        }
    }
    let exports = rows(&daemon, "export", &cookie).await;
    let by_link: Vec<_> = exports.iter().filter(|row| row["who"] == "link").collect();
    assert_eq!(by_link.len(), 1, "{exports:?}");
    assert!(by_link[0]["detail"].as_str().unwrap().ends_with(", of alert 01A"), "{exports:?}");
    until(MINUTE, "the row of the picture", async || {
        let rows = rows(&daemon, "watch", &cookie).await;
        let pictures: Vec<_> =
            rows.iter().filter(|row| row["detail"] == "the picture of alert 01A").collect();
        assert!(pictures.len() <= 1, "{rows:?}");
        (pictures.len() == 1 && pictures[0]["object"] == "camera/road-1").then_some(())
    })
    .await;

    if root {
        let mut folders = vec![data.path().to_owned()];
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                let found = entry.metadata().unwrap();
                assert_eq!((found.uid(), found.gid()), (4711, 4711), "{}", entry.path().display());
                seen += 1;
                folders.extend(found.is_dir().then(|| entry.path()));
            }
        }
        assert!(seen > 5, "a recording in its folders, and the databases");
    }
}

#[test]
fn a_folder_of_somebody_else_is_told_as_such() {
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    const NOBODY: u32 = 65_534;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    chown(&data, Some(4711), Some(4711)).unwrap();
    std::fs::set_permissions(&data, PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let file = folder.path().join("liuta.toml");
    std::fs::write(&file, config_head(folder.path(), free_address(), free_address())).unwrap();
    for what in [&["run"][..], &["user", "list"], &["audit", "verify"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_liuta"))
            .args(what)
            .arg("--config")
            .arg(&file)
            .uid(NOBODY)
            .gid(NOBODY)
            .output();
        let Ok(output) = output else {
            eprintln!("skipped: others may not start what was built here");
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(said.contains(&format!("{} belongs to uid 4711", data.display())), "{what:?}: {said}");
    }
}
