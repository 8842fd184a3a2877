//! The real worker below the real schedule: simulated cameras are looked at, their pictures come, and a killed worker
//! comes back and leaves no zombie.

mod common;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{rendered, root, test_clip, until};
use jiff::Timestamp;
use liuta::config::{self, Kind, Rule, Scene, Transport};
use liuta::health::Health;
use liuta::live::{LiveStream, Next};
use liuta::media::{Feed, Sample};
use liuta::simulate::{clip::Clip, play};
use liuta::vision::{Looked, Vision};
use tokio::sync::mpsc;

const MINUTE: Duration = Duration::from_secs(60);

/// The tests count this process's workers, so they run one after the other.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn start() -> (Arc<Vision>, mpsc::Receiver<Looked>, Health) {
    let settings = config::Vision {
        enabled: true,
        hw_profile: "auto".to_owned(),
        models: vec![root().join("models")],
        hw_profiles: None,
        onnxruntime: None,
    };
    let (health, (sender, found)) = (Health::default(), mpsc::channel(8));
    (Vision::start(settings, health.clone(), sender), found, health)
}

fn camera(id: &str) -> Arc<config::Camera> {
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
        model: "liuta-watch-n".to_owned(),
        look_every: Duration::from_secs(1),
        tiles: 1,
        pre_capture: Duration::ZERO,
        post_capture: Duration::ZERO,
        rules: vec![rule],
    };
    Arc::new(config::Camera {
        id: id.into(),
        name: id.to_owned(),
        url: "rtsp://127.0.0.1/".parse().unwrap(),
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

/// A clip as a live stream, and the capture times of the pictures that it has had.
struct Film {
    stream: Arc<LiveStream>,
    captures: Arc<Mutex<HashSet<Timestamp>>>,
}

impl Film {
    fn of(file: &Path, id: &str, feed: Feed) -> Film {
        let stream = LiveStream::new(id.into(), feed, 16 << 20);
        let captures = Arc::new(Mutex::new(HashSet::new()));
        let (noted, mut cursor) = (captures.clone(), stream.cursor());
        tokio::spawn(async move {
            loop {
                match cursor.next().await {
                    Next::Sample(Sample::Video(unit), _) => noted.lock().unwrap().insert(unit.capture()),
                    Next::Closed => break,
                    _ => continue,
                };
            }
        });
        tokio::spawn(play(Clip::open(file).unwrap(), stream.clone()));
        Film { stream, captures }
    }

    fn has(&self, capture: Timestamp) -> bool {
        self.captures.lock().unwrap().contains(&capture)
    }
}

/// This process's workers: process id and state, `Z` for a zombie.
fn workers() -> Vec<(i32, char)> {
    let me = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    let worker = |stat: String| {
        let (pid, rest) = stat.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let (state, rest) = rest.split_once(' ')?;
        let parent = rest.split(' ').next()?;
        (parent == me && name == "liuta-vision").then_some((pid.parse().ok()?, state.chars().next()?))
    };
    stats.filter_map(worker).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_comes_back_and_is_reaped() {
    let _alone = ALONE.lock().await;
    let (vision, mut found, health) = start();
    let file = rendered("gate-1.mp4");
    let film = Film::of(&file, "gate-1", Feed::Main);
    vision.watch(camera("gate-1"), film.stream.clone(), None);
    let looked = tokio::time::timeout(2 * MINUTE, found.recv()).await;
    let looked = looked.unwrap_or_else(|_| panic!("no look: {:?}", health.snapshot())).unwrap();
    assert_eq!((&*looked.camera, &*looked.model), ("gate-1", "liuta-watch-n@0.1.0"));
    assert!(film.has(looked.capture), "no picture of {}", looked.capture);
    assert_eq!(looked.jpeg.is_some(), !looked.detections.is_empty());
    let video = Clip::open(&file).unwrap().video;
    let small = (320, 320 * video.height / video.width);
    for (max_width, size) in [(None, (video.width, video.height)), (Some(320), small)] {
        let picture = vision.picture(&film.stream, max_width).await.unwrap();
        let jpeg = image::load_from_memory_with_format(&picture.jpeg, image::ImageFormat::Jpeg).unwrap();
        assert_eq!((jpeg.width(), jpeg.height()), size);
        assert!(film.has(picture.capture), "no picture of {}", picture.capture);
    }
    for _ in 0..3 {
        let pid = until(MINUTE, "a worker", async || {
            workers().into_iter().find(|(_, state)| *state != 'Z').map(|(pid, _)| pid)
        })
        .await;
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let killed = Timestamp::now();
        let again = async { while found.recv().await.unwrap().capture <= killed {} };
        let again = tokio::time::timeout(2 * MINUTE, again).await;
        again.unwrap_or_else(|_| panic!("looks do not return: {:?}", health.snapshot()));
    }
    let left = workers();
    assert!(left.len() == 1 && left[0].1 != 'Z', "one worker and no zombie: {left:?}");
    vision.stop().await;
    assert_eq!(workers(), [], "the worker is gone and reaped");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sub_stream_is_looked_at_where_the_main_one_has_long_gops() {
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let encode = |name: &str, size: &str, gop: &str| {
        let source = format!("testsrc2=size={size}:rate=10:duration=40");
        let encoder = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-preset", "ultrafast", "-bf", "0"];
        let arguments = [&[source.as_str()], &encoder[..], &["-g", gop, "-sc_threshold", "0"]].concat();
        test_clip(folder.path(), name, &arguments)
    };
    let (main, sub) = (encode("main.mp4", "640x360", "100"), encode("sub.mp4", "320x180", "5"));
    let main = Film::of(&main, "a", Feed::Main);
    // Pictures every 100 ms each, and never two at the same time: the capture tells which was looked at.
    tokio::time::sleep(Duration::from_millis(37)).await;
    let sub = Film::of(&sub, "a", Feed::Sub);
    let (vision, mut found, health) = start();
    vision.watch(camera("a"), main.stream.clone(), Some(sub.stream.clone()));
    let looks = async {
        let mut in_a_row = 0;
        while in_a_row < 3 {
            let capture = found.recv().await.unwrap().capture;
            let of = (main.has(capture), sub.has(capture));
            assert!(of.0 != of.1, "{capture}: of main, of sub {of:?}");
            in_a_row = if of.1 { in_a_row + 1 } else { 0 };
        }
    };
    let looks = tokio::time::timeout(2 * MINUTE, looks).await;
    looks.unwrap_or_else(|_| panic!("no looks at the sub stream: {:?}", health.snapshot()));
    let metrics = health.metrics.encode();
    assert!(metrics.contains("liuta_decoder_info{camera=\"a\""), "{metrics}");
    vision.stop().await;
}
