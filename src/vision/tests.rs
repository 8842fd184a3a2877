//! The supervisor with workers that misbehave: scripts that speak the wire protocol and then do what the test wants.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::config::{Camera, Kind, Rule, Scene, Transport};
use crate::media::{AccessUnit, Sample, VideoCodec, VideoParams};

/// Long enough for a loaded machine; nothing that works takes a tenth of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The worker's side of the wire. `job` is called with each look's header, `n` counts the looks of this process.
const SCRIPT: &str = r##"#!/usr/bin/env python3
import json, os, socket, struct, sys, time
sock = socket.socket(fileno=0)
def read(n):
    data = b""
    while len(data) < n:
        more = sock.recv(n - len(data))
        if not more: sys.exit(0)
        data += more
    return data
def send(report, blob=b""):
    header = json.dumps(report).encode()
    sock.sendall(struct.pack(">I", len(header)) + header + blob)
def looked(job, detections=[], jpeg=b"", **more):
    send(dict(dict(report="looked", id=job["id"], detections=detections, rejected=0, jpeg=len(jpeg), decoder="fake",
        profile="software", model="m@1", decode_us=1, infer_us=1), **more), jpeg)
def picture(job):
    looked(job, jpeg=b"\xff\xd8" + blob)
n = 0
while True:
    job = json.loads(read(struct.unpack(">I", read(4))[0]))
    if job["job"] == "start":
        send(dict(report="ready", models=["yolox-nano@1.0.0"], problems=[], sandbox=dict(landlock=0, seccomp=False)))
    elif job["job"] == "look":
        blob = read(sum(unit["bytes"] for unit in job["units"]))
        n += 1
        BEHAVIOUR
"##;

struct Bench {
    folder: tempfile::TempDir,
    vision: Arc<Vision>,
    health: Health,
    found: mpsc::Receiver<Looked>,
}

impl Bench {
    fn new(behaviour: &str) -> Bench {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("worker");
        let behaviour = behaviour.replace('\n', "\n        ");
        std::fs::write(&program, SCRIPT.replace("BEHAVIOUR", &behaviour)).expect("written");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("executable");
        Bench::with_program(folder, program, true)
    }

    fn with_program(folder: tempfile::TempDir, program: PathBuf, enabled: bool) -> Bench {
        let manifest = include_str!("../../models/yolox-nano.toml");
        std::fs::write(folder.path().join("m.toml"), manifest).expect("written");
        std::fs::write(folder.path().join("yolox_nano_416.onnx"), "").expect("written");
        let settings = config::Vision {
            enabled,
            hw_profile: "auto".to_owned(),
            models: vec![folder.path().to_owned()],
            hw_profiles: None,
            onnxruntime: None,
        };
        let (health, (sender, found)) = (Health::default(), mpsc::channel(8));
        let vision = Vision::start_worker(program, Vec::new(), settings, health.clone(), sender);
        Bench { folder, vision, health, found }
    }

    fn watch(&self, id: &str) -> Arc<LiveStream> {
        self.watch_with(id, "yolox-nano")
    }

    fn watch_with(&self, id: &str, model: &str) -> Arc<LiveStream> {
        let stream = stream(id);
        self.vision.watch(camera(id, model), stream.clone(), None);
        stream
    }

    async fn next(&mut self) -> Looked {
        tokio::time::timeout(PATIENCE, self.found.recv()).await.expect("in time").expect("open")
    }

    fn metrics(&self) -> String {
        self.health.metrics.encode()
    }

    /// Waits until `what` of the health state and the metrics holds.
    async fn until(&self, what: impl Fn(&str, &str) -> bool) {
        let give_up = tokio::time::Instant::now() + PATIENCE;
        loop {
            let (health, metrics) = (format!("{:?}", self.health.snapshot()), self.metrics());
            if what(&health, &metrics) {
                return;
            }
            assert!(tokio::time::Instant::now() < give_up, "{health}\n{metrics}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn camera(id: &str, model: &str) -> Arc<Camera> {
    let rule = Rule {
        kind: Kind::Intrusion,
        class: "person".to_owned(),
        min_score: 0.4,
        threshold: 0.5,
        confirm: [1, 1],
        min_count: 1,
        end_after: Duration::from_secs(1),
        cooldown: Duration::from_secs(1),
        level: 2,
    };
    let scene = Scene {
        name: "test".to_owned(),
        model: model.to_owned(),
        look_every: Duration::from_millis(200),
        tiles: 1,
        pre_capture: Duration::ZERO,
        post_capture: Duration::ZERO,
        rules: vec![rule],
    };
    Arc::new(Camera {
        id: id.into(),
        name: id.to_owned(),
        url: "rtsp://127.0.0.1/".parse().expect("a constant"),
        sub_url: None,
        credentials: None,
        transport: Transport::Tcp,
        reach: Default::default(),
        record: true,
        max_size: None,
        groups: Vec::new(),
        scene: Some(Arc::new(scene)),
        grid: None,
        position: None,
        zones: Vec::new(),
    })
}

fn stream(id: &str) -> Arc<LiveStream> {
    let stream = LiveStream::new(id.into(), Feed::Main, 1 << 20);
    stream.set_online(true);
    stream
}

fn push(stream: &LiveStream, seq: u64, is_rap: bool) {
    let params = VideoParams {
        codec: VideoCodec::H264,
        parameter_sets: vec![Bytes::from_static(b"sps"), Bytes::from_static(b"pps")],
        width: 64,
        height: 48,
        reorder: 0,
        rfc6381: "avc1.42c01e".into(),
    };
    let pts_90k = crate::media::time::to_90k(Timestamp::now());
    let data = Bytes::from_static(b"\0\0\0\x01K");
    let unit = AccessUnit { seq, run: 1, pts_90k, dts_90k: pts_90k, is_rap, params: Arc::new(params), data };
    stream.push(Sample::Video(Arc::new(unit)));
}

/// A key picture ten times a second.
fn film(stream: &Arc<LiveStream>) -> tokio::task::AbortHandle {
    film_from(stream, 0)
}

fn film_from(stream: &Arc<LiveStream>, first: u64) -> tokio::task::AbortHandle {
    let stream = stream.clone();
    let task = async move {
        for seq in first.. {
            push(&stream, seq, true);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::spawn(task).abort_handle()
}

fn worker_pid(program: &Path) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let program = program.to_str()?;
    pids.find(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(program))
    })
}

#[tokio::test]
async fn looks_come_and_come_back_after_a_kill() {
    let mut bench = Bench::new("looked(job, [{'class': 'person', 'score': .9, 'box': [.1,.2,.3,.4]}])");
    film(&bench.watch("a"));
    let looked = bench.next().await;
    assert_eq!((&*looked.camera, &*looked.model, looked.detections.len()), ("a", "yolox-nano@1.0.0", 1));
    bench.next().await;
    let pid = worker_pid(&bench.folder.path().join("worker")).expect("a worker");
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    let killed = tokio::time::Instant::now();
    bench.until(|_, metrics| metrics.contains("liuta_vision_restarts_total{cause=\"crash\"} 1")).await;
    while bench.found.try_recv().is_ok() {}
    bench.next().await;
    assert!(killed.elapsed() < Duration::from_secs(5));
    bench.until(|health, _| health.contains("\"vision\": State { severity: Ok")).await;
    assert!(
        bench.metrics().contains("liuta_decoder_info{camera=\"a\",decoder=\"fake\",profile=\"software\"} 1")
    );
    bench.vision.stop().await;
    assert_eq!(worker_pid(&bench.folder.path().join("worker")), None, "the worker is gone");
}

#[tokio::test]
async fn a_camera_whose_stream_is_replaced_is_looked_at_at_once() {
    let mut bench = Bench::new("looked(job)");
    let filming = film_from(&bench.watch("a"), 1_000_000);
    bench.next().await;
    filming.abort();
    let replaced = Timestamp::now();
    film(&bench.watch("a"));
    while bench.next().await.capture <= replaced {}
    bench.until(|_, metrics| metrics.contains("liuta_decoder_info{camera=\"a\"")).await;
    bench.vision.unwatch("a");
    bench
        .until(|health, metrics| !metrics.contains("camera=\"a\",decoder") && !health.contains("vision/a"))
        .await;
    bench.vision.stop().await;
}

#[tokio::test]
async fn the_worker_inherits_no_secret() {
    for (variable, passes) in [
        ("PATH", true),
        ("GST_DEBUG", true),
        ("LC_ALL", true),
        ("LIUTA_LOG", true),
        ("CAMERA_PASSWORD", false),
        ("CREDENTIALS_DIRECTORY", false),
        ("PATHS", false),
    ] {
        assert_eq!(process::is_passed_on(variable.as_ref()), passes, "{variable}");
    }
    let mut bench = Bench::new("looked(job)");
    film(&bench.watch("a"));
    bench.next().await;
    let pid = worker_pid(&bench.folder.path().join("worker")).expect("a worker");
    let environment = std::fs::read(format!("/proc/{pid}/environ")).expect("readable");
    let environment = String::from_utf8_lossy(&environment);
    // Stands for a secret: cargo gives it to every test.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    assert!(environment.contains("PATH=") && !environment.contains("CARGO_"), "{environment}");
    bench.vision.stop().await;
}

#[tokio::test]
async fn a_camera_that_crashes_the_worker_is_left_out_and_the_others_are_seen() {
    let mut bench = Bench::new("if job['stream'] == 'bad': os.abort()\nlooked(job)");
    film(&bench.watch("bad"));
    film(&bench.watch("good"));
    bench
        .until(|health, _| health.contains("\"vision/bad\"") && health.contains("left out for 5 minutes"))
        .await;
    while bench.found.try_recv().is_ok() {}
    for _ in 0..5 {
        assert_eq!(&*bench.next().await.camera, "good");
    }
    assert!(
        bench.metrics().contains("liuta_vision_restarts_total{cause=\"crash\"} 2"),
        "{}",
        bench.metrics()
    );
    let missed = "liuta_look_contract_missed_total{camera=\"bad\"}";
    bench.until(|_, metrics| metrics.contains(missed)).await;
    bench.vision.stop().await;
}

#[tokio::test]
async fn nonsense_ends_the_worker() {
    for nonsense in [
        "sock.sendall(b'\\xff' * 4096)",
        "looked(job, [{'class': 'person', 'score': 2, 'box': [0,0,1,1]}])",
        "looked(job, [{'class': 'dragon', 'score': .5, 'box': [0,0,1,1]}])",
        "looked(job, [{'class': 'person', 'score': .5, 'box': [0,0,1,1]}] * 2000)",
        "looked(job, jpeg=b'GIF89a')",
        "looked(dict(id=job['id'] + 7))",
        "send(dict(report='ready', models=[], problems=[], sandbox=dict(landlock=0, seccomp=False)))",
    ] {
        let mut bench = Bench::new(&format!("{nonsense}\ntime.sleep(100)"));
        film(&bench.watch("a"));
        bench.until(|_, metrics| metrics.contains("liuta_vision_restarts_total{cause=\"nonsense\"}")).await;
        assert!(bench.found.try_recv().is_err(), "{nonsense} is no look");
        bench.vision.stop().await;
    }
}

#[tokio::test]
async fn a_worker_that_hangs_or_floods_its_log_is_dealt_with() {
    let mut bench =
        Bench::new("sys.stderr.write('x' * 100_000 + '\\n')\nlooked(job)\nif n == 2: time.sleep(1000)");
    film(&bench.watch("a"));
    bench.until(|_, metrics| metrics.contains("liuta_vision_restarts_total{cause=\"hang\"} 1")).await;
    while bench.found.try_recv().is_ok() {}
    bench.next().await;
    bench.vision.stop().await;
}

#[tokio::test]
async fn pictures_are_made_once_for_all_who_ask() {
    let bench = Bench::new("picture(job)");
    let stream = stream("a");
    assert!(matches!(bench.vision.picture(&stream, None).await, Err(PictureError::NoPicture)));
    push(&stream, 1, true);
    let (one, two) = tokio::join!(bench.vision.picture(&stream, None), bench.vision.picture(&stream, None));
    let (one, two) = (one.expect("a picture"), two.expect("a picture"));
    assert_eq!(one.jpeg, &b"\xff\xd8\0\0\0\x03sps\0\0\0\x03pps\0\0\0\x01K"[..]);
    assert_eq!(one.jpeg.as_ptr(), two.jpeg.as_ptr(), "one job");
    push(&stream, 2, true);
    let newer = bench.vision.picture(&stream, None).await.expect("a picture");
    assert!(newer.capture > one.capture);
    let next_stream = self::stream("a");
    push(&next_stream, 0, true);
    let newest = bench.vision.picture(&next_stream, None).await.expect("a picture");
    assert!(newest.capture > newer.capture, "of the stream asked for, whose numbers begin anew");
    assert!(!bench.metrics().contains("liuta_decoder_info{"), "the camera is not watched");
    bench.vision.stop().await;
    assert!(matches!(bench.vision.picture(&stream, None).await, Err(PictureError::Worker(_))));
}

#[tokio::test]
async fn a_recording_that_crashes_the_worker_leaves_the_live_camera_alone() {
    let mut bench = Bench::new("sys.exit(1) if job['stream'] == 'a/recorded' else looked(job)");
    let stream = bench.watch("a");
    film(&stream);
    bench.next().await;
    let unit = stream.newest_rap().expect("it is filmed");
    let too_many = vec![unit.clone(); MAX_PICTURES + 1];
    let refused = bench.vision.recorded_picture("a", too_many, None).await;
    assert!(matches!(refused, Err(PictureError::TooMuch { .. })), "{refused:?}");
    // A restart that has no work for it refuses what comes meanwhile, so more than two may be needed.
    let mut left_out = false;
    for _ in 0..50 {
        let refused = bench.vision.recorded_picture("a", vec![unit.clone()], None).await;
        left_out = matches!(&refused, Err(PictureError::Decode(why)) if why.contains("left out"));
        if left_out {
            break;
        }
        assert!(matches!(refused, Err(PictureError::Worker(_))), "{refused:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(left_out, "the recording is not tried again and again");
    while bench.found.try_recv().is_ok() {}
    bench.next().await;
    bench.vision.stop().await;
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("nowhere");
    let bench = Bench::with_program(folder, program, true);
    let stream = bench.watch("a");
    push(&stream, 1, true);
    bench
        .until(|health, _| {
            health.contains("nowhere cannot be started") && health.contains("recording goes on")
        })
        .await;
    assert!(matches!(bench.vision.picture(&stream, None).await, Err(PictureError::Worker(_))));
    bench.vision.stop().await;

    let bench = Bench::new("sys.stderr.write('no\\n')");
    let libraries = "#!/bin/sh\necho 'w: error while loading shared libraries: libgstapp-1.0.so.0: cannot open' >&2\nexit 127\n";
    std::fs::write(bench.folder.path().join("worker"), libraries).expect("written");
    bench.watch("a");
    bench.until(|health, _| health.contains("GStreamer is missing (libgstapp-1.0.so.0)")).await;
    bench.vision.stop().await;

    let bench = Bench::new("looked(job)");
    std::fs::remove_file(bench.folder.path().join("yolox_nano_416.onnx")).expect("removed");
    film(&bench.watch("a"));
    bench
        .until(|health, _| health.contains("model file missing") && health.contains("`liuta models pull`"))
        .await;
    bench.vision.stop().await;

    let off = Bench::with_program(tempfile::tempdir().expect("a folder"), "nowhere".into(), false);
    let stream = off.watch("a");
    push(&stream, 1, true);
    assert!(matches!(off.vision.picture(&stream, None).await, Err(PictureError::Off)));
    assert!(off.health.snapshot().is_empty());

    let settings = config::Vision {
        enabled: true,
        hw_profile: "intel_va".to_owned(),
        models: Vec::new(),
        hw_profiles: None,
        onnxruntime: None,
    };
    let vision = Vision::start(settings, Health::default(), mpsc::channel(1).0);
    let error = vision.picture(&stream, None).await.expect_err("no worker").to_string();
    assert!(error.contains("no hardware profile \"intel_va\""), "{error}");
}

#[tokio::test]
async fn a_long_gop_is_sent_up_to_its_newest_picture() {
    let mut bench = Bench::new(
        "ok = len(job['units']) > 1 and [u['is_rap'] for u in job['units']].count(True) == 1\n\
         looked(job, [{'class': 'person', 'score': 1 if ok else 0, 'box': [0,0,1,1]}])",
    );
    let stream = bench.watch("a");
    let filmed = stream.clone();
    tokio::spawn(async move {
        for seq in 0.. {
            push(&filmed, seq, seq == 0);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let first = bench.next().await;
    let (second, third) = (bench.next().await, bench.next().await);
    assert!(first.capture < second.capture && second.capture < third.capture);
    assert_eq!(third.detections[0].score, 1.0, "the key picture and all that follow");
    bench.vision.stop().await;
}
