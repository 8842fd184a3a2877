//! What only shows after many times: workers that are killed, restarts, and readers that come, stall and go. `make soak`; minutes.
//!
//! LIUTA_SOAK_ROUNDS sets how often each is repeated (20).

mod common;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::camera::{Camera, Mount, Options};
use common::{Daemon, decoded_pictures, rendered, until};
use jiff::Timestamp;
use rand::RngExt;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MINUTE: Duration = Duration::from_secs(60);

/// Resident memory by which the daemon may grow under readers that come, stall and go: what readers cost is bounded
/// by the shared rings and a few kilobytes each; the allocator keeps some of what was used at the height.
const GROWTH: u64 = 48 << 20;

fn rounds() -> u32 {
    std::env::var("LIUTA_SOAK_ROUNDS").map_or(20, |text| text.parse().expect("LIUTA_SOAK_ROUNDS: a number"))
}

fn random(seconds: std::ops::Range<f64>) -> Duration {
    Duration::from_secs_f64(rand::rng().random_range(seconds))
}

fn kill(process: i32) {
    let process = rustix::process::Pid::from_raw(process).expect("a process id");
    rustix::process::kill_process(process, rustix::process::Signal::KILL).expect("the process lives");
}

/// Moving bars with a key picture every second, so that two seconds are a meaningful bound.
fn clip(folder: &std::path::Path) -> PathBuf {
    let encoder = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-pix_fmt", "yuv420p"];
    common::test_clip(folder, "bars.mp4", &[&["testsrc2=s=320x240:r=25:d=20"], &encoder[..]].concat())
}

fn sections(camera: &Camera, ids: &[&str], mount: &str) -> String {
    let camera = |id: &&str| format!("[cameras.{id}]\nurl = \"{}\"\n", camera.url(mount));
    ids.iter().map(camera).collect()
}

fn label(camera: &str) -> String {
    format!("camera=\"{camera}\"")
}

/// Waits for `more` further recorded pictures of a camera.
async fn records(daemon: &mut Daemon, camera: &str, more: f64) {
    let (name, label) = ("liuta_recorded_access_units_total", label(camera));
    let before = daemon.metric(name, &[&label]).await;
    daemon.until_metric(MINUTE, name, &[&label], before + more).await;
}

/// The recorded stretches of a camera, start and end, oldest first.
fn recorded(list: &Value) -> Vec<(Timestamp, Timestamp)> {
    let stretches = list.as_array().expect("a list").iter().filter(|one| one.get("gap").is_none());
    let ends = |one: &Value| {
        let start: Timestamp = one["start"].as_str().expect("a start").parse().expect("an instant");
        let length = Duration::from_secs_f64(one["duration"].as_f64().expect("a duration"));
        (start, start + jiff::SignedDuration::try_from(length).expect("a short time"))
    };
    stretches.map(ends).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make soak"]
async fn a_worker_killed_again_and_again_costs_no_picture() {
    let camera = Camera::start(&[Mount::clip("forest", &rendered("road-1.mp4"))]);
    let config = format!("{}scene = \"forest-fire\"\n", sections(&camera, &["forest"], "forest"));
    let mut daemon = Daemon::start(&config).await;
    let label = label("forest");
    daemon.until_metric(MINUTE, "liuta_looks_total", &[&label], 1.0).await;
    let sessions = daemon.metric("liuta_camera_sessions_total", &[&label]).await;
    for round in 1..=rounds() {
        tokio::time::sleep(random(0.0..3.0)).await;
        let worker = until(MINUTE, "a worker", async || daemon.worker()).await;
        let looks = daemon.metric("liuta_looks_total", &[&label]).await;
        kill(worker);
        let killed = Instant::now();
        // A worker that dies again and again is started less and less often.
        daemon.until_metric(2 * MINUTE, "liuta_looks_total", &[&label], looks + 2.0).await;
        eprintln!("round {round}: looks again after {:.1} s", killed.elapsed().as_secs_f64());
        assert_ne!(daemon.worker(), Some(worker));
    }
    assert!(daemon.metric("liuta_vision_restarts_total", &[]).await >= f64::from(rounds()));
    assert_eq!(daemon.metric("liuta_camera_sessions_total", &[&label]).await, sessions);
    assert_eq!(daemon.metric("liuta_gap_seconds_total", &[&label]).await, 0.0);
    let list = daemon.json("/list?path=forest").await;
    assert_eq!(list.as_array().map(Vec::len), Some(1), "one stretch without a gap: {list}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make soak"]
async fn a_camera_that_goes_again_and_again_is_recorded_whenever_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let clip = clip(folder.path());
    let mut camera = Camera::start(&[Mount::clip("bars", &clip)]);
    let port = camera.port();
    let config = format!("[vision]\nenabled = false\n{}", sections(&camera, &["gate"], "bars"));
    let mut daemon = Daemon::start(&config).await;
    records(&mut daemon, "gate", 25.0).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..rounds() {
        tokio::time::sleep(random(0.0..4.0)).await;
        drop(camera);
        tokio::time::sleep(random(0.0..6.0)).await;
        camera = Camera::start_with(Options { port, ..Options::default() }, &[Mount::clip("bars", &clip)]);
        let returned = Instant::now();
        records(&mut daemon, "gate", 50.0).await;
        slowest = slowest.max(returned.elapsed());
    }
    let list = daemon.json("/list?path=gate").await;
    assert!(
        list.as_array().unwrap().iter().all(|one| one["gap"].is_null() || one["gap"] == "camera"),
        "{list}"
    );
    let start = recorded(&list).first().expect("a recording").0;
    let file = daemon.save(&format!("/get?path=gate&start={start}&duration=7200"), "whole.mp4").await;
    assert!(decoded_pictures(&file) > u64::from(rounds()) * 50);
    eprintln!("{} restarts: 50 pictures at most {:.1} s after", rounds(), slowest.as_secs_f64());
}

/// An RTSP reader at PLAY that has read nothing of the stream yet.
async fn reader(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("the relay listens");
    let url = format!("rtsp://{address}/{path}");
    let mut session = String::new();
    let transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n";
    let requests = [("DESCRIBE", "", ""), ("SETUP", "/trackID=0", transport), ("PLAY", "", "")];
    for (cseq, (method, suffix, headers)) in requests.into_iter().enumerate() {
        let request = format!("{method} {url}{suffix} RTSP/1.0\r\nCSeq: {cseq}\r\n{headers}{session}\r\n");
        stream.write_all(request.as_bytes()).await.expect("a request is taken");
        let answer = answer(&mut stream).await;
        assert!(answer.starts_with("RTSP/1.0 200"), "{method}: {answer}");
        if let Some(given) = answer.lines().find_map(|line| line.strip_prefix("Session: ")) {
            session = format!("Session: {}\r\n", given.split(';').next().unwrap_or_default());
        }
    }
    stream
}

/// A response's head; its body is read over.
async fn answer(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = tokio::time::timeout(MINUTE, stream.read_u8()).await.expect("an answer in time");
        head.push(byte.expect("an answer"));
    }
    let head = String::from_utf8(head).expect("text");
    let length =
        head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok()).unwrap_or(0);
    stream.read_exact(&mut vec![0; length]).await.expect("a body");
    head
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make soak"]
async fn readers_that_come_stall_and_go_leave_no_memory_behind() {
    let camera = Camera::start(&[Mount::clip("road", &rendered("road-1.mp4"))]);
    let config = format!("[vision]\nenabled = false\n{}", sections(&camera, &["road"], "road"));
    let mut daemon = Daemon::start(&config).await;
    // The live ring is full and every kind of reader has been there once.
    records(&mut daemon, "road", 500.0).await;
    let address = daemon.rtsp;
    for _ in 0..20 {
        reader(address, "road").await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = daemon.memory();
    let gaps = daemon.metric("liuta_gap_seconds_total", &[&label("road")]).await;
    let stalled: Vec<TcpStream> = futures::future::join_all((0..100).map(|_| reader(address, "road"))).await;
    let ends = Instant::now() + Duration::from_secs(6) * rounds();
    let (mut highest, mut visits) = (before, 0u32);
    while Instant::now() < ends {
        let playing = async || {
            let mut stream = reader(address, "road").await;
            let until = Instant::now() + random(0.0..2.0);
            let mut buffer = vec![0; 64 << 10];
            while Instant::now() < until {
                stream.read_exact(&mut buffer).await.expect("the stream");
            }
        };
        futures::future::join_all((0..20).map(|_| playing())).await;
        daemon.get("/road/index.m3u8").await;
        visits += 20;
        highest = highest.max(daemon.memory());
    }
    drop(stalled);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = daemon.memory();
    let grown = |at: u64| (at.saturating_sub(before)) >> 20;
    eprintln!(
        "{visits} readers beside 100 that stall: {} MiB, +{} at the height, +{} after",
        before >> 20,
        grown(highest),
        grown(after)
    );
    assert!(highest < before + GROWTH, "{highest} from {before} bytes");
    // It recorded all the while.
    assert_eq!(daemon.metric("liuta_gap_seconds_total", &[&label("road")]).await, gaps);
    records(&mut daemon, "road", 25.0).await;
}
