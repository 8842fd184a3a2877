//! The box's clock is set while the daemon runs: it boots in 1970, is put right, and jumps an hour both ways.

mod common;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::camera::{Camera, Mount};
use common::{Daemon, recordings, rendered};
use jiff::{SignedDuration, Timestamp};

const HOUR: i64 = 3600;

/// libfaketime, which answers whoever asks for the time of day; the steady clock stays the kernel's.
fn faketime() -> PathBuf {
    let libraries = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let found = libraries.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    found
        .into_iter()
        .find(|library| library.exists())
        .expect("libfaketime: `make setup` of the tests installs it")
}

/// Seconds by which the daemon's clock is off from now on.
fn set(file: &Path, off: i64) {
    let fresh = file.with_extension("fresh");
    std::fs::write(&fresh, format!("{off:+}\n")).unwrap();
    std::fs::rename(fresh, file).unwrap();
}

fn files(data: &Path) -> HashSet<String> {
    let found =
        common::run(std::process::Command::new("find").arg(data.join("recordings")).args(["-name", "*.mp4"]));
    found.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_clock_does_recording_goes_on_and_nothing_is_removed() {
    let camera = Camera::start(&[Mount::clip("gate", &rendered("gate-1.mp4"))]);
    let folder = tempfile::tempdir().unwrap();
    let (file, library) = (folder.path().join("off"), faketime());
    let since_1970 = Timestamp::now().as_second();
    set(&file, 600 - since_1970);
    let sections = format!(
        "[record]\nmin_free = \"0GB\"\n[vision]\nenabled = false\n[cameras.gate]\nurl = \"{}\"\n",
        camera.url("gate")
    );
    let mut daemon = Daemon::start_with(
        &sections,
        &[
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ],
    )
    .await;
    let mut kept = HashSet::new();
    let mut recorded = 0.0;
    for off in [600 - since_1970, 0, HOUR, 0, -HOUR, 0] {
        set(&file, off);
        // Long enough for the first segment of this time, and for a round of retention.
        recorded = daemon
            .until_metric(
                Duration::from_secs(60),
                "liuta_recorded_access_units_total",
                &["gate"],
                recorded + 100.0,
            )
            .await;
        let now = files(&daemon.data());
        assert!(kept.is_subset(&now), "with the clock {off} s off were removed: {:?}", kept.difference(&now));
        assert!(now.len() > kept.len(), "with the clock {off} s off nothing new was recorded");
        kept = now;
        let (from, to) = ((since_1970 + off - 60) * 1000, (since_1970 + off + 300) * 1000);
        let [from, to] = [from, to].map(|at| Timestamp::from_millisecond(at).unwrap());
        let listed = daemon.json(&format!("/list?path=gate&start={from}&end={to}")).await;
        let footage = listed.as_array().unwrap().iter().filter(|item| item["gap"].is_null());
        assert!(footage.count() > 0, "with the clock {off} s off nothing is listed of that time: {listed}");
    }
    // No instant has two recordings of one camera, whatever the clock has shown twice.
    let to = Timestamp::now() + SignedDuration::from_hours(3);
    let listed = daemon.json(&format!("/list?path=gate&start=1970-01-01T00:00:00Z&end={to}")).await;
    let mut before = Timestamp::MIN;
    for item in listed.as_array().unwrap() {
        let start: Timestamp = item["start"].as_str().unwrap().parse().unwrap();
        assert!(start + SignedDuration::from_millis(60) >= before, "{item} begins before {before}");
        before = start + SignedDuration::from_secs_f64(item["duration"].as_f64().unwrap());
    }
    let (_, status) = daemon.terminate().await;
    assert!(status.success(), "{status}\n{}", daemon.log());
    recordings::all_play(&daemon.data(), &mut HashSet::new());
}
