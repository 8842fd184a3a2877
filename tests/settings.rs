//! Settings that are changed through the API, with the real binary and real cameras: what is added is recorded, what is
//! not meant goes on, what is written survives, and no password comes back.

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::camera::{Camera, Mount, Options};
use common::client::{CANARY as PASSWORD, Client};
use common::{Daemon, config_head, free_address, rendered, run, test_clip, until};
use reqwest::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

/// Cameras that answer nothing: for what needs no picture.
const DEAD_CAMERAS: &str = "[vision]\nenabled = false\n\
    [cameras.gate-1]\nurl = \"rtsp://127.0.0.1:1/a\"\nusername = \"admin\"\npassword = \"canary-camera-password\"\n\
    [cameras.road-1]\nurl = \"rtsp://127.0.0.1:1/b\"\n";

async fn sessions(daemon: &mut Daemon, camera: &str) -> f64 {
    daemon.metric("liuta_camera_sessions_total", &[&format!("camera=\"{camera}\"")]).await
}

async fn records(daemon: &mut Daemon, camera: &str) {
    let label = format!("camera=\"{camera}\"");
    let so_far = daemon.metric("liuta_recorded_access_units_total", &[&label]).await;
    daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &[&label], so_far + 30.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_is_added_changed_and_removed_while_another_records() {
    let open = Camera::start(&[Mount::clip("road", &rendered("road-1.mp4"))]);
    let options = Options { credentials: Some(("admin", PASSWORD)), ..Options::default() };
    let mounts =
        [Mount::clip("gate", &rendered("gate-1.mp4")), Mount::clip("other", &rendered("forest-1.mp4"))];
    let locked = Camera::start_with(options, &mounts);
    let sections = format!("[vision]\nenabled = false\n[cameras.road-1]\nurl = {:?}\n", open.url("road"));
    let mut daemon = Daemon::start(&sections).await;
    records(&mut daemon, "road-1").await;
    let admin = Client::of(&daemon, "admin", &[]);

    // Everything that is wrong at once, each at its place.
    let wrong = json!({ "id": "gate-1", "url": "http://x", "scene": "forest-fier", "urll": 1,
        "zones": { "a/b": { "points": [[0, 0], [2, 1]] } } });
    let refused = admin.post("/api/v1/cameras", wrong).await.is(StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.body["type"], "urn:liuta:problem:invalid");
    let mut pointers = refused.pointers();
    pointers.sort();
    assert_eq!(pointers, ["/scene", "/url", "/urll", "/zones/a~1b/points"], "{}", refused.body);
    assert!(refused.body["detail"].as_str().unwrap().contains("did you mean \"url\"?"), "{}", refused.body);

    let gate = json!({ "id": "gate-1", "name": "School gate", "url": locked.url("gate"),
        "username": "admin", "password": PASSWORD });
    let added = admin.post("/api/v1/cameras", gate.clone()).await.is(StatusCode::CREATED);
    assert_eq!(added.location.as_deref(), Some("/api/v1/cameras/gate-1"));
    assert_eq!(added.body["settings"]["has_password"], true);
    records(&mut daemon, "gate-1").await;
    admin.post("/api/v1/cameras", gate).await.is(StatusCode::CONFLICT);

    // How it is shown changes nothing of its streams.
    let path = "/api/v1/cameras/gate-1";
    let before = added.tag.unwrap();
    let renamed = json!({ "name": "North gate", "groups": ["school"] });
    admin.ask(Method::PATCH, path, None, Some(renamed.clone())).await.is(StatusCode::PRECONDITION_REQUIRED);
    let named = admin.ask(Method::PATCH, path, Some(&before), Some(renamed.clone())).await.is(StatusCode::OK);
    assert_eq!(named.body["name"], "North gate");
    admin.ask(Method::PATCH, path, Some(&before), Some(renamed)).await.is(StatusCode::PRECONDITION_FAILED);
    records(&mut daemon, "gate-1").await;
    assert_eq!(sessions(&mut daemon, "gate-1").await, 1.0);

    // Another address restarts this camera, with the password that it has, and no other.
    let moved = admin.patch(path, json!({ "url": locked.url("other") })).await.is(StatusCode::OK);
    assert_eq!(moved.body["url"], locked.url("other"));
    until(MINUTE, "a second session", async || (sessions(&mut daemon, "gate-1").await >= 2.0).then_some(()))
        .await;
    records(&mut daemon, "gate-1").await;

    // It survives, and the command line reads the same.
    daemon.terminate().await;
    assert_eq!(daemon.log().matches("panicked").count(), 0);
    let mut daemon = daemon.restart().await;
    records(&mut daemon, "gate-1").await;
    records(&mut daemon, "road-1").await;
    let shown =
        run(Command::new(env!("CARGO_BIN_EXE_liuta")).args(["check", "--show"]).arg(daemon.config_file()));
    assert!(shown.contains("2 cameras, nothing wrong"), "{shown}");
    let line =
        |key: &str| shown.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key}"));
    assert!(line("cameras.gate-1.name = \"North gate\"").contains("# conf.d/90-api.toml:"), "{shown}");
    assert!(line("cameras.gate-1.password = \"‹secret›\"").contains("# conf.d/90-api.toml:"), "{shown}");
    assert!(line("cameras.road-1.url = ").contains("# liuta.toml:"), "{shown}");
    assert!(line("record.retention = \"24h\"").ends_with("# default"), "{shown}");
    assert!(!shown.contains(PASSWORD), "{shown}");

    // What shows it keeps it; then it goes, and what it recorded stays.
    let channel = json!({ "name": "wall-1", "camera": "gate-1" });
    admin.post("/api/v1/channels", channel).await.is(StatusCode::CREATED);
    let used = admin.delete(path).await.is(StatusCode::CONFLICT);
    assert!(used.body["detail"].as_str().unwrap().starts_with("channels.wall-1.camera: "), "{}", used.body);
    admin.delete("/api/v1/channels/wall-1").await.is(StatusCode::NO_CONTENT);
    admin.delete(path).await.is(StatusCode::NO_CONTENT);
    admin.get(path).await.is(StatusCode::NOT_FOUND);
    assert!(daemon.json("/list?path=gate-1").await.as_array().unwrap().iter().any(|s| s["duration"] != 0.0));
    // The other camera lost nothing by any of this: since the restart, one recording without a gap.
    records(&mut daemon, "road-1").await;
    assert_eq!(sessions(&mut daemon, "road-1").await, 1.0);
    let listed = daemon.json("/list?path=road-1").await;
    let gaps = listed.as_array().unwrap().iter().filter(|stretch| stretch["gap"].is_string());
    assert!(gaps.clone().all(|gap| gap["gap"] == "daemon") && gaps.count() <= 1, "{listed}");
    // Who did it is known, and no value is.
    let audit = daemon.json("/api/v1/audit?action=change&object=camera/gate-1").await;
    let details: Vec<_> =
        audit["items"].as_array().unwrap().iter().map(|row| row["detail"].clone()).collect();
    assert_eq!(details, ["removed", "changed: url", "changed: groups, name", "added"], "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_writers_who_read_the_same_one_wins_and_the_others_are_told() {
    let daemon = Daemon::start(DEAD_CAMERAS).await;
    let admin = Client::of(&daemon, "admin", &[]);
    for path in ["/api/v1/cameras/gate-1", "/api/v1/destinations/desk"] {
        if path.ends_with("desk") {
            let desk = json!({ "name": "desk", "type": "webhook", "url": "http://127.0.0.1:9/alerts" });
            admin.post("/api/v1/destinations", desk).await.is(StatusCode::CREATED);
        }
        let tag = admin.get(path).await.tag.unwrap();
        let writers = (0..8).map(|n| {
            let body = match path.ends_with("desk") {
                true => json!({ "expire": format!("{}d", n + 1) }),
                false => json!({ "name": format!("writer {n}") }),
            };
            admin.ask(Method::PATCH, path, Some(&tag), Some(body))
        });
        let answers = futures::future::join_all(writers).await;
        let won = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
        let told = answers.iter().filter(|answer| answer.status == StatusCode::PRECONDITION_FAILED).count();
        assert_eq!((won, told), (1, 7), "{path}");
    }
    // A password alone makes another state: who did not see it change is told.
    let path = "/api/v1/cameras/gate-1";
    let tag = admin.get(path).await.tag.unwrap();
    admin.patch(path, json!({ "password": "another" })).await.is(StatusCode::OK);
    admin
        .ask(Method::PATCH, path, Some(&tag), Some(json!({ "password": "third" })))
        .await
        .is(StatusCode::PRECONDITION_FAILED);
    // A writer and a reload do not tear each other.
    for n in 0..5 {
        daemon.signal(Signal::HUP);
        admin.patch(path, json!({ "name": format!("with reload {n}") })).await.is(StatusCode::OK);
    }
    assert_eq!(admin.get(path).await.body["name"], "with reload 4");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_far_away_people_say_reaches_no_file_and_moves_no_password() {
    let daemon = Daemon::start(DEAD_CAMERAS).await;
    let admin = Client::of(&daemon, "admin", &[]);
    let gate = "/api/v1/cameras/gate-1";
    let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
    for (body, pointer) in [
        (json!({ "password": { "file": "/etc/shadow" } }), "/password"),
        (json!({ "password": { "env": "PATH" } }), "/password"),
        (json!({ "password": {}, "name": "x" }), "/password"),
        (json!({ "removed": true }), "/removed"),
        (json!({ "groups": ["a", null] }), "/groups"),
        (json!({ "zones": { "z": 5 } }), "/zones/z"),
        (json!({ "url": null }), ""),
        // Elsewhere, with the password that is stored: it would be sent there.
        (json!({ "url": "rtsp://127.0.0.2:1/a" }), "/url"),
        (json!({ "url": "rtsp://127.0.0.1:2/a" }), "/url"),
        (json!({ "sub_url": "rtsp://127.0.0.2:1/a" }), "/sub_url"),
    ] {
        let refused = admin.patch(gate, body.clone()).await.is(unprocessable);
        assert_eq!(refused.pointers(), [pointer], "{body}: {}", refused.body);
    }
    for body in [
        json!({ "camera": "gate-1", "url": "rtsp://127.0.0.2:1/a" }),
        json!({ "url": "rtsp://169.254.169.254/latest" }),
    ] {
        let refused = admin.post("/api/v1/cameras/try", body).await.is(unprocessable);
        assert_eq!(refused.pointers(), ["/url"], "{}", refused.body);
    }
    let many: serde_json::Map<_, _> =
        (0..65).map(|n| (format!("z{n}"), json!({ "points": [[0, 0], [1, 0], [1, 1]] }))).collect();
    assert_eq!(admin.patch(gate, json!({ "zones": many })).await.is(unprocessable).pointers(), ["/zones"]);
    let nothing = admin.post("/api/v1/cameras", json!({ "id": "new-1" })).await.is(unprocessable);
    assert!(nothing.body["detail"].as_str().unwrap().starts_with("url: "), "{}", nothing.body);
    // All at once, also where the password would have to move.
    let all = json!({ "url": "rtsp://127.0.0.2:1/a", "scene": "none", "x": 1 });
    let mut pointers = admin.patch(gate, all).await.is(unprocessable).body["errors"].to_string();
    for pointer in ["/url", "/scene", "/x"] {
        pointers = pointers.replacen(&format!("{pointer:?}"), "", 1);
    }
    assert!(!pointers.contains("\"/"), "{pointers}");

    // With a password of its own, or none, it may go elsewhere; in the address it is kept apart.
    admin
        .patch(gate, json!({ "url": "rtsp://127.0.0.2:1/a", "password": PASSWORD }))
        .await
        .is(StatusCode::OK);
    let apart = json!({ "url": format!("rtsp://new:{PASSWORD}2@127.0.0.3:1/a") });
    let shown = admin.patch(gate, apart).await.is(StatusCode::OK).body["settings"].clone();
    assert_eq!((&shown["url"], &shown["username"]), (&json!("rtsp://127.0.0.3:1/a"), &json!("new")));
    let none = admin.patch(gate, json!({ "username": null, "password": null })).await.is(StatusCode::OK);
    assert_eq!(none.body["settings"]["has_password"], false);
    admin.patch(gate, json!({ "url": "rtsp://127.0.0.4:1/a" })).await.is(StatusCode::OK);

    // Tokens of chat services stand in the query.
    let desk = json!({ "name": "desk", "type": "webhook",
        "url": format!("https://user:{PASSWORD}@desk.example/send?access_token={PASSWORD}"),
        "secret": common::SECRET });
    let desk = admin.post("/api/v1/destinations", desk).await.is(StatusCode::CREATED);
    assert_eq!(desk.body["url"], "https://desk.example/…");
    let all = admin.get("/api/v1/config").await.is(StatusCode::OK);
    let told = all.body.to_string();
    assert!(told.contains("https://desk.example/…") && !told.contains(&common::SECRET[6..]), "{told}");
    let (settings, revision) = (all.body["settings"].as_array().unwrap(), &all.body["revision"]);
    let from = |key: &str| settings.iter().find(|setting| setting["key"] == key).unwrap()["from"].clone();
    assert!(from("cameras.gate-1.url").as_str().unwrap().starts_with("conf.d/90-api.toml:"));
    assert!(from("cameras.road-1.url").as_str().unwrap().starts_with("liuta.toml:"));
    assert_eq!(from("cameras.road-1.transport"), "default");
    let destination = "/api/v1/destinations/desk";
    admin.patch(destination, json!({ "expire": "2d" })).await.is(StatusCode::OK);
    assert_ne!(admin.get("/api/v1/config").await.body["revision"], *revision);
    admin.delete(destination).await.is(StatusCode::NO_CONTENT);
    admin.get(destination).await.is(StatusCode::NOT_FOUND);

    // Zones by their own addresses.
    let zones = "/api/v1/cameras/road-1/zones";
    let slope = json!({ "name": "东坡", "points": [[0, 0.4], [1, 0.4], [1, 1]] });
    let added = admin.post(zones, slope).await.is(StatusCode::CREATED);
    let zone = added.location.unwrap();
    assert_eq!(admin.get(zones).await.body["items"][0]["name"], "东坡");
    let flat = json!({ "points": [[0, 0], [0.5, 0.5], [1, 1]] });
    assert_eq!(admin.patch(&zone, flat).await.is(unprocessable).pointers(), ["/points"]);
    admin.patch(&zone, json!({ "points": [[0, 0], [1, 0], [1, 1], [0, 1]] })).await.is(StatusCode::OK);
    admin.delete(&zone).await.is(StatusCode::NO_CONTENT);
    assert_eq!(admin.get(zones).await.body["items"], json!([]));
    admin.post("/api/v1/cameras/none/zones", json!({ "name": "z" })).await.is(StatusCode::NOT_FOUND);

    // Whoever is limited to one camera configures that one.
    let limited = Client::of(&daemon, "admin", &["road-1"]);
    limited.patch("/api/v1/cameras/road-1", json!({ "name": "Road" })).await.is(StatusCode::OK);
    for body in
        [json!({ "url": "rtsp://127.0.0.1:1/a" }), json!({ "sub_url": null }), json!({ "groups": [] })]
    {
        limited.patch("/api/v1/cameras/road-1", body).await.is(StatusCode::FORBIDDEN);
    }
    for (method, path) in [
        (Method::PATCH, gate),
        (Method::DELETE, gate),
        (Method::GET, gate),
        (Method::POST, "/api/v1/cameras"),
        (Method::POST, "/api/v1/cameras/try"),
        (Method::GET, "/api/v1/destinations"),
        (Method::GET, "/api/v1/config"),
    ] {
        limited.ask(method, path, Some("*"), Some(json!({}))).await.is(StatusCode::FORBIDDEN);
    }
    assert!(!daemon.log().contains(PASSWORD));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_is_tried_without_being_configured() {
    let folder = tempfile::tempdir().unwrap();
    let bars = |name: &str, codec: &str, size: &str, fps: &str, gop: &str| {
        let source = format!("testsrc2=size={size}:rate={fps}:duration=8");
        let arguments = [&*source, "-c:v", codec, "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", gop];
        test_clip(folder.path(), name, &[&arguments[..], &["-bf", "0", "-b:v", "400k"]].concat())
    };
    let main = bars("main.mp4", "libx265", "1280x720", "25", "50");
    let sub = bars("sub.mp4", "libx264", "320x180", "10", "10");
    let options = Options { credentials: Some(("admin", PASSWORD)), ..Options::default() };
    let camera = Camera::start_with(options, &[Mount::clip("main", &main), Mount::clip("sub", &sub)]);
    let sections = format!(
        "[vision]\nenabled = false\n[cameras.gate-1]\nurl = {:?}\nusername = \"admin\"\npassword = {PASSWORD:?}\n",
        camera.url("main")
    );
    let mut daemon = Daemon::start(&sections).await;
    records(&mut daemon, "gate-1").await;
    let admin = Client::of(&daemon, "admin", &[]);
    let try_it = async |body: Value| admin.post("/api/v1/cameras/try", body).await.is(StatusCode::OK).body;

    let body = json!({ "url": camera.url("main"), "sub_url": camera.url("sub"), "username": "admin",
        "password": PASSWORD });
    let found = try_it(body).await;
    let (main, sub) = (&found["main"], &found["sub"]);
    assert_eq!(
        (&main["outcome"], &main["codec"], &main["width"]),
        (&json!("works"), &json!("h265"), &json!(1280))
    );
    assert_eq!((&main["gop_pictures"], &main["gop_seconds"]), (&json!(50), &json!(2.0)), "{main}");
    assert!((main["fps"].as_f64().unwrap() - 25.0).abs() < 2.0, "{main}");
    assert!((50_000..4_000_000).contains(&main["bit_rate"].as_u64().unwrap()), "{main}");
    assert!(main["clock_error_seconds"].as_f64().unwrap().abs() < 2.0, "{main}");
    assert_eq!(
        (&sub["codec"], &sub["height"], &sub["gop_pictures"]),
        (&json!("h264"), &json!(180), &json!(10))
    );

    // With the stored password, at the same camera.
    let other = try_it(json!({ "camera": "gate-1", "url": camera.url("sub") })).await;
    assert_eq!(other["main"]["width"], 320, "{other}");
    let why = |found: &Value| found["main"]["why"].as_str().unwrap_or_else(|| panic!("{found}")).to_owned();
    let wrong = json!({ "url": camera.url("main"), "sub_url": camera.url("sub"), "username": "admin", "password": "x" });
    let refused = try_it(wrong).await;
    assert!(why(&refused).ends_with("refuses the password: check username and password"), "{refused}");
    assert_eq!(refused["sub"], Value::Null, "a second wrong password could lock the box out");
    let missing = try_it(json!({ "camera": "gate-1", "url": camera.url("nothing") })).await;
    assert!(why(&missing).contains("has no stream at /nothing"), "{missing}");
    let nobody = try_it(json!({ "url": format!("rtsp://{}/x", free_address()) })).await;
    assert!(why(&nobody).contains("is the camera on"), "{nobody}");

    // Nobody noticed.
    assert_eq!(admin.get("/api/v1/cameras").await.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(sessions(&mut daemon, "gate-1").await, 1.0);
    assert!(!daemon.log().contains(PASSWORD));
}

#[test]
fn passwords_that_everybody_can_read_are_told() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("liuta.toml");
    std::fs::write(&file, format!("data = {:?}\n{DEAD_CAMERAS}", folder.path().join("data"))).unwrap();
    for (mode, told) in [(0o644, true), (0o640, false)] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let (code, said) = check(&file);
        assert_eq!((code, said.contains("everybody on this box can read it")), (Some(0), told), "{said}");
        assert!(!said.contains(PASSWORD), "{said}");
    }
}

fn check(file: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_liuta")).arg("check").arg(file).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_in_conf_d_are_laid_over_the_main_one_and_named_when_they_are_wrong() {
    let mut daemon = Daemon::start(DEAD_CAMERAS).await;
    let admin = Client::of(&daemon, "admin", &[]);
    let folder = daemon.data().join("conf.d");
    let file = |name: &str| folder.join(name);
    let own = file("50-own.toml");
    admin.patch("/api/v1/cameras/gate-1", json!({ "name": "By API" })).await.is(StatusCode::OK);
    let name = async || admin.get("/api/v1/cameras/gate-1").await.body["name"].clone();

    // People's own files: what the API said stands over it, what a later file says over both.
    std::fs::write(&own, "[cameras.gate-1]\nname = \"By hand\"\n[cameras.road-1]\nremoved = true\n").unwrap();
    daemon.signal(Signal::HUP);
    until(MINUTE, "the camera is removed", async || {
        (admin.get("/api/v1/cameras/road-1").await.status == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
    assert_eq!(name().await, "By API");
    std::fs::write(file("99-last.toml"), "[cameras.gate-1]\nname = \"Last word\"\n").unwrap();
    daemon.signal(Signal::HUP);
    until(MINUTE, "the last file", async || (name().await == "Last word").then_some(())).await;
    let overruled = admin.patch("/api/v1/cameras/gate-1", json!({ "name": "Mine" })).await;
    assert!(overruled.is(StatusCode::CONFLICT).body["detail"].as_str().unwrap().contains("conf.d"));
    // What a later file says is not taken over by a change of something else.
    admin.patch("/api/v1/cameras/gate-1", json!({ "groups": ["school"] })).await.is(StatusCode::OK);
    assert!(!std::fs::read_to_string(file("90-api.toml")).unwrap().contains("Last word"));
    std::fs::remove_file(file("99-last.toml")).unwrap();
    daemon.signal(Signal::HUP);
    until(MINUTE, "the API's name again", async || (name().await == "By API").then_some(())).await;

    daemon.health().await;
    // A broken file is named with its line; what runs stays, and no new start happens.
    std::fs::write(&own, "data = \"/tmp/x\"\n[cameras.gate-1]\nnam = \"x\"\n").unwrap();
    let (code, told) = check(&daemon.config_file());
    assert_eq!(code, Some(2));
    assert!(told.contains("conf.d/50-own.toml:1:1: data: only the main file"), "{told}");
    assert!(told.contains("conf.d/50-own.toml:3:1: unknown key \"nam\"; did you mean \"name\"?"), "{told}");
    assert_eq!(told.lines().count(), 2, "{told}");
    daemon.signal(Signal::HUP);
    until(MINUTE, "a refused reload", async || {
        let state = &daemon.health().await["states"]["config"];
        state["message"].as_str().is_some_and(|message| message.contains("50-own.toml:3:1")).then_some(())
    })
    .await;
    assert_eq!(name().await, "By API");
    // A pipe keeps nobody waiting, and each refusal is told.
    std::fs::remove_file(&own).unwrap();
    run(Command::new("mkfifo").arg(file("60-pipe.toml")));
    daemon.signal(Signal::HUP);
    until(MINUTE, "the second refusal", async || {
        daemon.log().contains("60-pipe.toml: is no file").then_some(())
    })
    .await;
    std::fs::remove_file(file("60-pipe.toml")).unwrap();

    // What people changed in the API's own file is not written over.
    let api = file("90-api.toml");
    let text = std::fs::read_to_string(&api).unwrap();
    std::fs::write(&api, text.replace("By API", "By hand")).unwrap();
    let refused = admin.patch("/api/v1/cameras/gate-1", json!({ "grid": "610881103001002" })).await;
    assert!(refused.is(StatusCode::CONFLICT).body["detail"].as_str().unwrap().contains("by hand"));
    assert!(std::fs::read_to_string(&api).unwrap().contains("By hand"));
    daemon.signal(Signal::HUP);
    until(MINUTE, "what was changed by hand", async || (name().await == "By hand").then_some(())).await;
    admin.patch("/api/v1/cameras/gate-1", json!({ "grid": "610881103001002" })).await.is(StatusCode::OK);
    assert_eq!(name().await, "By hand");

    // What is left of a camera that the main file no longer names keeps nobody from starting.
    daemon.terminate().await;
    let main = std::fs::read_to_string(daemon.config_file()).unwrap();
    let (before, after) = main.split_once("[cameras.gate-1]").unwrap();
    let (_, after) = after.split_once("[cameras.road-1]").unwrap();
    std::fs::write(daemon.config_file(), format!("{before}[cameras.road-1]{after}")).unwrap();
    let (code, told) = check(&daemon.config_file());
    assert!(code == Some(2) && told.contains("conf.d/90-api.toml:") && told.contains("is left of"), "{told}");
    let mut daemon = daemon.restart().await;
    assert_eq!(admin.get("/api/v1/cameras").await.body["items"].as_array().unwrap().len(), 1);
    daemon.terminate().await;

    // A start with a broken file says so.
    std::fs::write(&own, "[cameras.gate-1\n").unwrap();
    let started = Command::new(env!("CARGO_BIN_EXE_liuta"))
        .args(["run", "--config"])
        .arg(daemon.config_file())
        .output()
        .unwrap();
    assert_eq!(started.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&started.stderr).contains("conf.d/50-own.toml:1:"), "{started:?}");
}

#[test]
fn what_cannot_be_written_is_not_applied() {
    // Not as root, whom no mode keeps out: a folder in the file's place.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
        let (http, rtsp) = (free_address(), free_address());
        std::fs::create_dir_all(folder.path().join("data/conf.d/.90-api.toml.new/full")).unwrap();
        let text = config_head(folder.path(), http, rtsp) + DEAD_CAMERAS;
        std::fs::write(folder.path().join("liuta.toml"), text).unwrap();
        let daemon = Daemon::start_in(folder, http, rtsp, &[]).await;
        let admin = Client::of(&daemon, "admin", &[]);
        let refused = admin.patch("/api/v1/cameras/gate-1", json!({ "name": "New" })).await;
        let refused = refused.is(StatusCode::INTERNAL_SERVER_ERROR);
        assert!(refused.body["detail"].as_str().unwrap().contains("nothing was changed"), "{}", refused.body);
        assert_eq!(admin.get("/api/v1/cameras/gate-1").await.body["name"], "gate-1");
        assert!(daemon.log().contains("settings are not written"));
    });
}
