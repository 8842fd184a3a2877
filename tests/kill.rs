//! `kill -9` at random moments, under load: four cameras are recorded, read over RTSP and exported. Afterwards the box is
//! back within seconds, has lost two at most, and all that it knows plays.
//!
//! The seed is printed; LIUTA_SEED sets it.

mod common;

use std::collections::HashSet;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::Daemon;
use common::camera::{Camera, Mount};
use common::recordings::all_play;
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);

/// What a kill may cost at the end of a recording, in seconds.
const LOSS: f64 = 2.0;

/// From the start to the first answer.
const BACK: Duration = Duration::from_secs(5);

const CAMERAS: [&str; 4] = ["north", "east", "south", "west"];

#[tokio::test(flavor = "multi_thread")]
async fn a_box_killed_again_and_again_is_back_at_once_and_loses_two_seconds_each_time() {
    kill_again_and_again(20).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "many minutes; make soak"]
async fn a_box_killed_hundreds_of_times_loses_two_seconds_each_time() {
    kill_again_and_again(300).await;
}

async fn kill_again_and_again(rounds: u32) {
    let seed =
        std::env::var("LIUTA_SEED").map_or_else(|_| rand::rng().random(), |text| text.parse().unwrap());
    eprintln!("LIUTA_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    // A key picture every second, so that two seconds are a meaningful bound.
    let encoder = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-pix_fmt", "yuv420p"];
    let source = ["testsrc2=s=320x240:r=25:d=20"];
    let clip = common::test_clip(folder.path(), "bars.mp4", &[&source[..], &encoder].concat());
    let camera = Camera::start(&[Mount::clip("bars", &clip)]);
    let mut sections = String::from("[vision]\nenabled = false\n[record]\nmin_free = \"0GB\"\n");
    for id in CAMERAS {
        sections += &format!("[cameras.{id}]\nurl = \"{}\"\n", camera.url("bars"));
    }
    let mut daemon = Daemon::start(&sections).await;
    let began = Timestamp::now();
    let mut seen = HashSet::new();
    let (mut worst, mut slowest) = (0.0f64, Duration::ZERO);
    for round in 1..=rounds {
        for id in CAMERAS {
            let (name, label) = ("liuta_recorded_access_units_total", format!("camera=\"{id}\""));
            daemon.until_metric(MINUTE, name, &[&label], 25.0).await;
        }
        let load = Load::start(&daemon, began).await;
        tokio::time::sleep(Duration::from_secs_f64(random.random_range(0.0..1.5))).await;
        let killed = Timestamp::now();
        daemon.kill();
        drop(load);
        let started = Instant::now();
        daemon = daemon.restart().await;
        let back = started.elapsed();
        assert!(back <= BACK, "round {round}: back after {back:?}");
        slowest = slowest.max(back);
        for id in CAMERAS {
            let list = daemon.json(&format!("/list?path={id}")).await;
            let end = last_end(&list, killed);
            let lost = killed.duration_since(end).as_secs_f64();
            assert!(lost <= LOSS, "round {round}: {lost:.2} s of {id} before the kill are lost: {list}");
            worst = worst.max(lost);
        }
        all_play(&daemon.data(), &mut seen);
    }
    daemon.terminate().await;
    all_play(&daemon.data(), &mut seen);
    eprintln!(
        "{rounds} kills of {} cameras: at most {worst:.2} s lost, back after at most {:.2} s, {} files decoded",
        CAMERAS.len(),
        slowest.as_secs_f64(),
        seen.len()
    );
}

/// Readers over RTSP, and an export of all that there is.
struct Load(Vec<Child>, tokio::task::JoinHandle<()>);

impl Load {
    async fn start(daemon: &Daemon, began: Timestamp) -> Load {
        let reader = |id: &&str| {
            Command::new("ffmpeg")
                .args(["-v", "quiet", "-rtsp_transport", "tcp", "-i"])
                .arg(format!("rtsp://{}/{id}", daemon.rtsp))
                .args(["-c", "copy", "-f", "null", "-"])
                .stdin(Stdio::null())
                .spawn()
                .expect("ffmpeg")
        };
        let readers = CAMERAS.iter().take(2).map(reader).collect();
        let url = daemon.url(&format!("/get?path=north&start={began}&duration=7200"));
        let token = daemon.token_of("admin", &[]);
        let export = tokio::spawn(async move {
            let client = reqwest::Client::new();
            // It ends with the daemon.
            while let Ok(answer) = client.get(&url).bearer_auth(&token).send().await {
                let _ = answer.bytes().await;
            }
        });
        Load(readers, export)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.1.abort();
        for reader in &mut self.0 {
            let _ = reader.kill();
            let _ = reader.wait();
        }
    }
}

/// Where the recording that ran at `killed` ends.
fn last_end(list: &Value, killed: Timestamp) -> Timestamp {
    let ends = list.as_array().unwrap().iter().filter(|one| one.get("gap").is_none()).filter_map(|one| {
        let start: Timestamp = one["start"].as_str().unwrap().parse().unwrap();
        let length = jiff::SignedDuration::from_secs_f64(one["duration"].as_f64().unwrap());
        (start < killed).then_some(start + length)
    });
    ends.max().unwrap_or_else(|| panic!("nothing is left: {list}"))
}
