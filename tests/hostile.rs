//! Hostile cameras against real sessions. A test binary of its own, since it measures the memory of its process.

#[allow(dead_code, reason = "each test binary uses a part of the test cameras")]
mod cameras;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cameras::hostile::{Attack, serve};
use cameras::{GstCamera, mount};
use liuta::camera::source::{MEDIA_DEADLINE, Session, SessionError, Target};
use liuta::config::Transport;
use liuta::config::reach::Reach;
use liuta::media::Sample;

const MEMORY: u64 = 16 << 20;

/// The session's own deadline, and what a busy machine may add.
const TIME: Duration = MEDIA_DEADLINE.saturating_add(Duration::from_secs(5));

fn target(url: &str) -> Target {
    Target {
        url: url.parse().unwrap(),
        credentials: None,
        transport: Transport::Tcp,
        reach: Reach::default(),
    }
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

async fn play(target: Target) -> (u64, SessionError) {
    let mut pictures = 0;
    let mut session = match Session::open(&target, 1, 0).await {
        Ok(session) => session,
        Err(error) => return (0, error),
    };
    loop {
        match session.next().await {
            Ok(Sample::Video(_)) => pictures += 1,
            Ok(Sample::Audio(_)) => {}
            Err(error) => return (pictures, error),
        }
    }
}

/// Each attack costs at most 16 MB and its own session 5 s, and a camera beside them all loses no picture.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_cameras_cost_their_own_sessions_alone() {
    const PICTURES: &str = "1000";
    let good =
        GstCamera::start(&["--pictures", PICTURES, "--then", "end", &mount("good", "furg_house6.mp4")]);
    let good_session = tokio::spawn(play(target(good.url("good").as_str())));
    good.wait("play ");

    let peak = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let watcher = std::thread::spawn({
        let (peak, over) = (peak.clone(), over.clone());
        move || {
            while !over.load(Ordering::Relaxed) {
                peak.fetch_max(resident(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    for attack in Attack::ALL {
        let address = serve(attack).await;
        let before = resident();
        peak.store(before, Ordering::Relaxed);
        let start = Instant::now();
        let (_, error) = play(target(&format!("rtsp://{address}/x"))).await;
        let (took, cost) = (start.elapsed(), peak.load(Ordering::Relaxed).saturating_sub(before));
        println!("{attack:?}: {:.1} s, {:.1} MB: {error}", took.as_secs_f64(), cost as f64 / 1e6);
        assert!(took < TIME, "{attack:?} held its session for {took:?}");
        assert!(cost <= MEMORY, "{attack:?} cost {cost} bytes");
        assert!(error.to_string().len() < 400, "{attack:?}: {error}");
    }
    over.store(true, Ordering::Relaxed);
    watcher.join().unwrap();

    let (pictures, _) = good_session.await.unwrap();
    assert_eq!(pictures.to_string(), PICTURES, "the camera beside them lost pictures");
}
