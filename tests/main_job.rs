//! The main job, whole: real RTSP cameras in, the daemon's binary, and what comes out on disk, by RTSP, HLS and webhook.

mod common;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use common::camera::{Camera, Mount, Options};
use common::desk::{Desk, Received};
use common::{Daemon, footage, rendered, strict, until};
use jiff::Timestamp;

const MINUTE: Duration = Duration::from_secs(60);

/// A camera's section, watched by `scene` where one is named.
fn section(id: &str, url: &str, scene: &str) -> String {
    let scene = if scene.is_empty() { String::new() } else { format!("scene = \"{scene}\"\n") };
    format!("[cameras.{id}]\nurl = \"{url}\"\n{scene}")
}

/// A real clip, or one of the project's own where the footage is not at hand.
fn clip(name: &str, instead: &str) -> PathBuf {
    footage(name).unwrap_or_else(|| rendered(instead))
}

fn fire_alerts(received: &[Received]) -> Vec<&Received> {
    let burning = |one: &&Received| ["fire", "smoke"].contains(&one.alert()["kind"].as_str().unwrap_or(""));
    received.iter().filter(burning).collect()
}

/// `x0 y0 x1 y1` of the alert's best box of a class.
fn best_box(alert: &serde_json::Value, class: &str) -> [f64; 4] {
    let boxes = alert["boxes"].as_array().unwrap();
    let best = boxes
        .iter()
        .filter(|one| one["class"] == class)
        .max_by(|a, b| a["score"].as_f64().unwrap().total_cmp(&b["score"].as_f64().unwrap()));
    let corners = best.unwrap_or_else(|| panic!("no box of {class} in {alert}"))["box"].clone();
    serde_json::from_value(corners).unwrap()
}

/// The alert of a fire, once it is at the desk.
async fn fire_at(desk: &Desk, camera: &str, limit: Duration) -> Received {
    until(limit, &format!("a fire alert of {camera}"), async || {
        let all = desk.received();
        all.into_iter().find(|one| one.alert()["camera"] == camera && one.alert()["kind"] == "fire")
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fire_reaches_dispatch_with_picture_and_clip() {
    let real = clip("furg_house6.mp4", "forest-1.mp4");
    let camera =
        Camera::start(&[Mount::clip("house", &real), Mount::clip("forest", &rendered("forest-1.mp4"))]);
    let desk = Desk::start().await;
    let sections = desk.section()
        + &section("house", &camera.url("house"), "forest-fire")
        + &section("forest", &camera.url("forest"), "forest-fire");
    let mut daemon = Daemon::start(&sections).await;

    let house = fire_at(&desk, "house", 2 * MINUTE).await;
    let forest = fire_at(&desk, "forest", 2 * MINUTE).await;
    for one in [&house, &forest] {
        assert_eq!(one.event["type"], "liuta.alert.v1");
        assert_eq!(one.event["specversion"], "1.0");
        assert_eq!(one.event["id"], one.id.as_str());
        let alert = one.alert();
        assert_eq!(one.id, format!("{}.{}", alert["id"].as_str().unwrap(), alert["revision"]));
        assert_eq!((&alert["phase"], &alert["disposition"]), (&"active".into(), &"reported".into()));
        assert_eq!((&alert["scene"], &alert["level"]), (&"forest-fire".into(), &1.into()));
        assert!(alert["confidence"].as_f64().unwrap() >= 0.45, "{alert}");
    }
    if footage("furg_house6.mp4").is_some() {
        // The doll's house stands in the middle of the picture; its flames never leave it.
        let [x0, y0, x1, y1] = best_box(house.alert(), "fire");
        let middle = ((x0 + x1) / 2.0, (y0 + y1) / 2.0);
        assert!((0.25..0.75).contains(&middle.0) && (0.2..0.9).contains(&middle.1), "{middle:?}");
    }

    // The picture that the alert links to opens without a token, is what the hash says, and is a JPEG.
    let url = house.alert()["snapshot"]["url"].as_str().unwrap().to_owned();
    let picture = reqwest::get(&url).await.unwrap();
    assert!(picture.status().is_success(), "{url}: {}", picture.status());
    let picture = picture.bytes().await.unwrap();
    assert!(picture.starts_with(&[0xff, 0xd8]), "not a JPEG");
    let sha256 = common::run(Command::new("sha256sum").arg({
        let file = daemon.folder.path().join("snapshot.jpg");
        std::fs::write(&file, &picture).unwrap();
        file
    }));
    assert_eq!(sha256.split(' ').next(), house.alert()["snapshot"]["sha256"].as_str());
    let other = url.replace(house.alert()["id"].as_str().unwrap(), forest.alert()["id"].as_str().unwrap());
    assert_eq!(reqwest::get(&other).await.unwrap().status(), 401, "a link opens one object only");

    // The clip likewise, and it begins before the alert.
    let clip = house.alert()["clip"].clone();
    let response = reqwest::get(clip["url"].as_str().unwrap()).await.unwrap();
    assert!(response.status().is_success(), "{clip}: {}", response.status());
    let file = daemon.folder.path().join("clip.mp4");
    std::fs::write(&file, response.bytes().await.unwrap()).unwrap();
    assert!(common::decoded_pictures(&file) > 20);
    let at = |value: &serde_json::Value| value.as_str().unwrap().parse::<Timestamp>().unwrap();
    assert!(at(&clip["start"]) < at(&house.alert()["started_at"]));

    // One fire is one alert, however long it burns; detections are kept beside it.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let alerts = daemon.json("/api/v1/alerts").await;
    let fires = alerts["items"].as_array().unwrap().iter();
    let fires = fires.filter(|alert| alert["kind"] == "fire" && alert["camera"] == "house").count();
    assert_eq!(fires, 1, "{alerts}");
    assert!(!daemon.json("/api/v1/detections?camera=house").await["items"].as_array().unwrap().is_empty());
    assert!(daemon.metric("liuta_alerts_total", &["kind=\"fire\"", "camera=\"house\""]).await >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ordinary_places_raise_no_fire_alert() {
    let mut clips: Vec<PathBuf> = [
        "car-detection.mp4",
        "one-by-one-person-detection.mp4",
        "bottle-detection.mp4",
        "classroom-preview.mp4",
        "people-detection-preview.mp4",
        "person-bicycle-car-detection-preview.mp4",
        "store-aisle-detection-preview.mp4",
        "worker-zone-detection-preview.mp4",
    ]
    .iter()
    .filter_map(|name| footage(name))
    .collect();
    clips.extend(["gate-1.mp4", "mine-1.mp4", "road-1.mp4"].map(rendered));
    let names: Vec<String> = (0..clips.len()).map(|number| format!("quiet-{number}")).collect();
    let mounts: Vec<Mount> = names.iter().zip(&clips).map(|(name, file)| Mount::clip(name, file)).collect();
    let camera = Camera::start(&mounts);
    let desk = Desk::start().await;
    let mut sections = desk.section();
    for name in &names {
        sections += &section(name, &camera.url(name), "forest-fire");
    }
    let mut daemon = Daemon::start(&sections).await;
    // Every camera has been looked at for half a minute.
    for name in &names {
        daemon.until_metric(3 * MINUTE, "liuta_looks_total", &[&format!("camera=\"{name}\"")], 15.0).await;
    }
    let received = desk.received();
    let alerts: Vec<_> = fire_alerts(&received)
        .iter()
        .map(|one| {
            let number = names.iter().position(|name| one.alert()["camera"] == name.as_str()).unwrap();
            format!("{} of {:.2} in {:?}", one.alert()["kind"], one.alert()["confidence"], clips[number])
        })
        .collect();
    assert!(alerts.is_empty(), "{alerts:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_picture_that_is_sent_is_recorded_and_decodable() {
    let folder = tempfile::tempdir().unwrap();
    let h264 = common::test_clip(
        folder.path(),
        "h264.mp4",
        &["testsrc2=s=640x360:r=25:d=12", "-c:v", "libx264", "-preset", "veryfast", "-bf", "2", "-g", "25"],
    );
    let h265 = common::test_clip(
        folder.path(),
        "h265.mp4",
        &[
            "testsrc2=s=640x360:r=25:d=12",
            "-c:v",
            "libx265",
            "-preset",
            "ultrafast",
            "-g",
            "25",
            "-tag:v",
            "hvc1",
            "-x265-params",
            "log-level=error",
        ],
    );
    let credentials = Some(("admin", "fire-tower 7"));
    let camera = Camera::start_with(
        Options { pictures: Some(300), credentials, ..Options::default() },
        &[Mount::clip("avc", &h264), Mount::clip("hevc", &h265)],
    );
    let mut sections = String::from("[vision]\nenabled = false\n");
    for name in ["avc", "hevc"] {
        sections += &section(name, &camera.url(name), "");
        sections += "username = \"admin\"\npassword = \"fire-tower 7\"\n";
    }
    let began = Timestamp::now();
    let mut daemon = Daemon::start(&sections).await;
    until(MINUTE, "the last picture", async || {
        (camera.has_sent("avc") && camera.has_sent("hevc")).then_some(())
    })
    .await;
    // Well before the silence counts as a failure and the clip is asked for anew.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (took, status) = daemon.terminate().await;
    assert!(status.success() && took < Duration::from_secs(10), "{status} after {took:?}");
    drop(camera);
    for name in ["avc", "hevc"] {
        let files = segments(&daemon, name);
        let pictures: u64 = files.iter().map(|file| common::decoded_pictures(file)).sum();
        assert_eq!(pictures, 300, "{files:?}");
    }
    let mut daemon = daemon.restart().await;
    for name in ["avc", "hevc"] {
        let path = format!("/get?path={name}&start={began}&duration=120");
        let file = daemon.save(&path, &format!("{name}.mp4")).await;
        assert_eq!(common::decoded_pictures(&file), 300, "{name} by /get");
    }
    assert!(!daemon.log().contains("fire-tower"), "the password stands in the log");
}

/// The segment files of a camera, oldest first.
fn segments(daemon: &Daemon, camera: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for day in std::fs::read_dir(daemon.data().join("recordings").join(camera)).unwrap().flatten() {
        found.extend(std::fs::read_dir(day.path()).unwrap().flatten().map(|entry| entry.path()));
    }
    found.retain(|path| path.extension().is_some_and(|extension| extension == "mp4"));
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_and_hls_play_without_a_warning() {
    let road = clip("car-detection.mp4", "road-1.mp4");
    let camera = Camera::start(&[Mount::clip("road", &road)]);
    let mut daemon = Daemon::start(&format!(
        "[vision]\nenabled = false\n{}[channels.wall-1]\ncamera = \"road\"\n",
        section("road", &camera.url("road"), "")
    ))
    .await;
    daemon.until_metric(MINUTE, "liuta_camera_up", &["camera=\"road\""], 1.0).await;
    // A whole GOP has to be there, and this clip's are long.
    until(MINUTE, "an HLS playlist", async || {
        daemon.get("/road/index.m3u8").await.status().is_success().then_some(())
    })
    .await;
    let rtsp = |path: &str| format!("rtsp://{}/{path}", daemon.rtsp);
    for url in [rtsp("road"), rtsp("channels/wall-1"), daemon.url("/road/index.m3u8")] {
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "warning", "-nostats"]);
        if url.starts_with("rtsp") {
            ffmpeg.args(["-rtsp_transport", "tcp"]);
        }
        ffmpeg.args(["-i", &url, "-t", "4", "-f", "null", "-"]);
        let (_, warnings) = tokio::task::spawn_blocking(move || strict(&mut ffmpeg)).await.unwrap();
        // Of its own reloads of live fMP4 playlists ffmpeg 5.1 complains itself, with its own muxer's output too.
        let own = |line: &&str| {
            line.contains("Found duplicated MOOV Atom") || line.contains("Last message repeated")
        };
        let warnings: Vec<&str> = warnings.lines().filter(|line| !own(line)).collect();
        assert!(warnings.is_empty(), "{url}: {warnings:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_costs_no_picture_and_looks_come_back() {
    let camera = Camera::start(&[Mount::clip("forest", &rendered("forest-1.mp4"))]);
    let mut daemon = Daemon::start(&section("forest", &camera.url("forest"), "forest-fire")).await;
    daemon.until_metric(MINUTE, "liuta_looks_total", &["camera=\"forest\""], 2.0).await;
    let worker = daemon.worker().expect("a worker");
    let looks = daemon.metric("liuta_looks_total", &["camera=\"forest\""]).await;
    let sessions = daemon.metric("liuta_camera_sessions_total", &["camera=\"forest\""]).await;
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(worker).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    // 5 s is the promise; the look that follows may be due 2 s later, and this machine may be busy.
    daemon
        .until_metric(Duration::from_secs(15), "liuta_looks_total", &["camera=\"forest\""], looks + 2.0)
        .await;
    assert_ne!(daemon.worker(), Some(worker));
    assert!(daemon.metric("liuta_vision_restarts_total", &[]).await >= 1.0);
    assert_eq!(daemon.metric("liuta_camera_sessions_total", &["camera=\"forest\""]).await, sessions);
    assert_eq!(daemon.metric("liuta_gap_seconds_total", &["camera=\"forest\""]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_loses_two_seconds_at_most() {
    let road = clip("car-detection.mp4", "road-1.mp4");
    let camera = Camera::start(&[Mount::clip("road", &road)]);
    let began = Timestamp::now();
    let sections = format!("[vision]\nenabled = false\n{}", section("road", &camera.url("road"), ""));
    let mut daemon = Daemon::start(&sections).await;
    daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &["camera=\"road\""], 60.0).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let killed = Timestamp::now();
    daemon.kill();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut daemon = daemon.restart().await;
    daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &["camera=\"road\""], 20.0).await;
    let list = daemon.json("/list?path=road").await;
    let stretches = list.as_array().unwrap();
    let first = stretches.iter().find(|one| one.get("gap").is_none()).unwrap_or_else(|| panic!("{list}"));
    let start: Timestamp = first["start"].as_str().unwrap().parse().unwrap();
    let seconds = first["duration"].as_f64().unwrap();
    let lost = killed.duration_since(start).as_secs_f64() - seconds;
    assert!(lost <= 2.0, "{lost:.2} s before the kill are lost: {list}");
    assert!(stretches.iter().any(|one| one["gap"] == "daemon"), "the outage is a gap: {list}");
    let file = daemon.save(&format!("/get?path=road&start={began}&duration=600"), "whole.mp4").await;
    assert!(common::decoded_pictures(&file) > 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_goes_and_returns() {
    let road = clip("car-detection.mp4", "road-1.mp4");
    let camera = Camera::start(&[Mount::clip("road", &road)]);
    let sections = format!("[vision]\nenabled = false\n{}", section("road", &camera.url("road"), ""));
    let mut daemon = Daemon::start(&sections).await;
    let label = ["camera=\"road\""];
    daemon.until_metric(MINUTE, "liuta_camera_up", &label, 1.0).await;
    let port = camera.port();
    drop(camera);
    until(MINUTE, "the camera is seen to be down", async || {
        (daemon.metric("liuta_camera_up", &label).await == 0.0).then_some(())
    })
    .await;
    let health = daemon.health().await;
    assert!(health.to_string().contains("camera/road"), "{health}");
    tokio::time::sleep(Duration::from_secs(6)).await;
    let before = daemon.metric("liuta_recorded_access_units_total", &label).await;
    let _camera = Camera::start_with(Options { port, ..Options::default() }, &[Mount::clip("road", &road)]);
    let returned = Instant::now();
    daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &label, before + 1.0).await;
    // 5 s is the promise for a machine that is not busy with other tests.
    assert!(returned.elapsed() < Duration::from_secs(10), "{:?}", returned.elapsed());
    daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &label, before + 50.0).await;
    let list = daemon.json("/list?path=road").await;
    assert!(list.as_array().unwrap().iter().any(|one| one["gap"] == "camera"), "{list}");
    assert!(daemon.metric("liuta_gap_seconds_total", &["cause=\"camera\""]).await >= 5.0);
}
