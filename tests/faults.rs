//! The disk fails under the box, call by call: the library of `powercut` refuses or delays what the real binary asks of
//! it. Whatever is refused, the box lives, cameras are relayed, the API answers, memory stays bounded, `record/ring`
//! says what is wrong, and what is missing is a gap with its cause; when the disk is well again, recording goes on by
//! itself, and all that the index knows plays.

mod common;
mod powercut;

use std::collections::HashSet;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::camera::{Camera, Mount, Options};
use common::disk::SmallDisk;
use common::recordings::{all_play, sealed};
use common::{Daemon, decoded_pictures, until};
use jiff::Timestamp;
use powercut::{HALF, Preload, Rule, Rules, calls};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);

/// What a fault may cost in memory: the writer's queue holds some seconds of two small cameras.
const GROWTH: u64 = 64 << 20;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

const CAMERAS: [&str; 2] = ["left", "right"];

/// A box that records two cameras on a disk that obeys.
struct Faulty {
    daemon: Daemon,
    rules: Rules,
    clip: PathBuf,
    camera: Option<Camera>,
    port: u16,
    memory: u64,
    _folder: tempfile::TempDir,
}

impl Faulty {
    async fn start(record: &str) -> Faulty {
        let folder = tempfile::tempdir().unwrap();
        let encoder = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-pix_fmt", "yuv420p"];
        let source = ["testsrc2=s=160x120:r=10:d=20"];
        let clip = common::test_clip(folder.path(), "bars.mp4", &[&source[..], &encoder].concat());
        let camera = Camera::start(&[Mount::clip("bars", &clip)]);
        let port = camera.port();
        let mut sections =
            format!("[vision]\nenabled = false\n[record]\nmin_free = \"0GB\"\nsync = \"300ms\"\n{record}\n");
        for id in CAMERAS {
            sections += &format!("[cameras.{id}]\nurl = \"{}\"\n", camera.url("bars"));
        }
        let mut daemon = Daemon::start(&sections).await;
        daemon.terminate().await;
        let rules = Rules::new(&folder.path().join("rules"));
        let preload = Preload::new(&daemon.data()).rules(&rules);
        let (data, http, rtsp) = (daemon.folder.clone(), daemon.http, daemon.rtsp);
        let daemon = Daemon::start_in(data, http, rtsp, &preload.environment()).await;
        let mut faulty =
            Faulty { daemon, rules, clip, camera: Some(camera), port, memory: 0, _folder: folder };
        faulty.records().await;
        faulty.memory = faulty.daemon.memory();
        faulty
    }

    /// Waits for further recorded pictures of both cameras.
    async fn records(&mut self) {
        for id in CAMERAS {
            let (name, label) = ("liuta_recorded_access_units_total", format!("camera=\"{id}\""));
            let before = self.daemon.metric(name, &[&label]).await;
            self.daemon.until_metric(MINUTE, name, &[&label], before + 15.0).await;
        }
    }

    async fn state(&mut self) -> (String, String) {
        let health = self.daemon.health().await;
        let state = &health["states"]["record/ring"];
        let text = |key: &str| state[key].as_str().unwrap_or_default().to_owned();
        (text("severity"), text("message"))
    }

    async fn until_state(&mut self, severities: &[&str]) -> String {
        let began = Instant::now();
        loop {
            let (severity, message) = self.state().await;
            if severities.contains(&&*severity) {
                return message;
            }
            assert!(began.elapsed() < MINUTE, "record/ring is {severity}: {message}\n{}", self.daemon.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// For so long pictures are relayed, the API answers, and memory is bounded.
    async fn goes_on(&mut self, length: Duration) {
        let began = Instant::now();
        let mut playlist = String::new();
        while began.elapsed() < length {
            let asked = Instant::now();
            self.daemon.json("/list?path=left").await;
            self.daemon.json("/api/v1/cameras").await;
            assert!(asked.elapsed() < Duration::from_secs(5), "the API took {:?}", asked.elapsed());
            let grown = self.daemon.memory().saturating_sub(self.memory);
            assert!(grown < GROWTH, "{grown} bytes more");
            let daemon = &mut self.daemon;
            playlist = until(Duration::from_secs(10), "live pictures", async || {
                let now = daemon.get("/left/index.m3u8").await.text().await.unwrap();
                (now != playlist).then_some(now)
            })
            .await;
        }
    }

    /// A gap of the camera with this cause that began then or later.
    async fn until_gap(&mut self, camera: &str, cause: &str, since: Timestamp) {
        let path = format!("/list?path={camera}");
        let daemon = &mut self.daemon;
        let mut last = Value::Null;
        let found = async || {
            last = daemon.json(&path).await;
            let found = last.as_array().unwrap().iter().any(|one| {
                let start: Timestamp = one["start"].as_str().unwrap().parse().unwrap();
                one["gap"] == cause && start >= since
            });
            found.then_some(())
        };
        let waited = tokio::time::timeout(MINUTE, until(2 * MINUTE, "a gap", found)).await;
        assert!(waited.is_ok(), "no gap of {camera} by {cause} since {since}: {last}");
    }

    /// Sets the rules, has the box go on, ends them, and waits until all is well again; gives back what was told.
    async fn suffers(&mut self, rules: &[Rule<'_>], length: Duration) -> String {
        for (slot, rule) in rules.iter().enumerate() {
            self.rules.set(slot as u64, *rule);
        }
        let told = self.until_state(&["failed", "degraded"]).await;
        self.goes_on(length).await;
        for (slot, rule) in rules.iter().enumerate() {
            assert!(self.rules.hits(slot as u64) > 0, "nothing has met {rule:?}");
            self.rules.clear(slot as u64);
        }
        self.until_state(&["ok"]).await;
        self.records().await;
        told
    }

    /// The newest file of a camera, below the data folder.
    fn newest(&self, camera: &str) -> String {
        let index = rusqlite::Connection::open(self.daemon.data().join("index.db")).unwrap();
        let sql = "SELECT path FROM segments WHERE camera = ? ORDER BY start_90k DESC LIMIT 1";
        let path: String = index.query_row(sql, [camera], |row| row.get(0)).unwrap();
        format!("recordings/{path}")
    }

    async fn camera_goes(&mut self) {
        self.camera = None;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }

    async fn camera_comes(&mut self) {
        let options = Options { port: self.port, ..Options::default() };
        self.camera = Some(Camera::start_with(options, &[Mount::clip("bars", &self.clip)]));
        self.records().await;
    }

    /// Stops; all that the index knows is there and plays, before and after the next start.
    async fn ends_well(mut self) {
        self.daemon.terminate().await;
        all_play(&self.daemon.data(), &mut HashSet::new());
        self.daemon = self.daemon.restart().await;
        self.daemon.terminate().await;
        all_play(&self.daemon.data(), &mut HashSet::new());
    }
}

const SECONDS: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_refuses_to_write_costs_a_gap_and_no_more() {
    let mut faulty = Faulty::start("").await;
    for error in [EIO, ENOSPC, EROFS] {
        let since = Timestamp::now() - jiff::SignedDuration::from_secs(2);
        let told = faulty.suffers(&[Rule::fail(calls::WRITE, "recordings/", error)], SECONDS).await;
        let wanted = if error == ENOSPC { "the volume is full" } else { "check the disk" };
        assert!(told.contains(wanted) && told.contains("is not recorded"), "{told}");
        for camera in CAMERAS {
            faulty.until_gap(camera, "disk", since).await;
        }
    }

    // A write that is torn, and cannot be taken back.
    let torn = [
        Rule { count: 1, ..Rule::fail(calls::WRITE, "recordings/left", HALF) },
        Rule { skip: 1, ..Rule::fail(calls::WRITE, "recordings/left", ENOSPC) },
        Rule::fail(calls::FTRUNCATE, "recordings/left", EIO),
    ];
    let since = Timestamp::now() - jiff::SignedDuration::from_secs(2);
    faulty.suffers(&torn, SECONDS).await;
    faulty.until_gap("left", "disk", since).await;
    faulty.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_sync_failed_is_left_and_never_synced_again() {
    let mut faulty = Faulty::start("").await;
    for call in [calls::FDATASYNC, calls::FSYNC] {
        let since = Timestamp::now() - jiff::SignedDuration::from_secs(2);
        let file = faulty.newest("left");
        let all = calls::FDATASYNC | calls::FSYNC;
        let rules = if call == calls::FDATASYNC {
            // The volume's sync fails as a whole, and then the file's own.
            let as_a_whole = Rule { count: 5, ..Rule::fail(calls::FSYNC, "recordings", EIO) };
            vec![Rule { count: 1, ..Rule::fail(all, &file, EIO) }, as_a_whole]
        } else {
            // The folder is synced with a file's first data: a refused write makes a new file.
            let begins_anew = Rule { count: 1, ..Rule::fail(calls::WRITE, "recordings/left", EIO) };
            vec![Rule { count: 1, ..Rule::fail(call, "recordings/left", EIO) }, begins_anew]
        };
        for (slot, rule) in rules.iter().enumerate() {
            faulty.rules.set(slot as u64, *rule);
        }
        faulty.until_state(&["failed"]).await;
        faulty.goes_on(2 * SECONDS).await;
        faulty.until_gap("left", "disk", since).await;
        faulty.until_state(&["ok"]).await;
        faulty.records().await;
        if call == calls::FDATASYNC {
            assert_eq!(faulty.rules.hits(0), 1, "{file} was synced again");
            let index = rusqlite::Connection::open(faulty.daemon.data().join("index.db")).unwrap();
            let sql = "SELECT sealed FROM segments WHERE path = ?";
            let path = file.strip_prefix("recordings/").unwrap();
            let sealed: bool = index.query_row(sql, [path], |row| row.get(0)).unwrap();
            assert!(!sealed, "{file} is vouched for");
        }
        assert_ne!(faulty.newest("left"), file);
        (0..rules.len()).for_each(|slot| faulty.rules.clear(slot as u64));
    }
    faulty.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_the_disk_does_not_make_are_tried_again() {
    let mut faulty = Faulty::start("").await;
    for error in [EIO, EROFS, ENOSPC] {
        // A refused write makes a new file.
        let begins_anew = Rule { count: 1, ..Rule::fail(calls::WRITE, "recordings/left", EIO) };
        let since = Timestamp::now() - jiff::SignedDuration::from_secs(2);
        faulty.suffers(&[Rule::fail(calls::OPEN, "recordings/", error), begins_anew], 3 * SECONDS).await;
        faulty.until_gap("left", "disk", since).await;
    }
    faulty.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_cannot_remove_holds_nothing_up() {
    let mut faulty = Faulty::start("max_size = \"300KB\"").await;
    faulty.rules.set(0, Rule::fail(calls::UNLINK | calls::RMDIR, "recordings/", EIO));
    let began = Instant::now();
    while faulty.rules.hits(0) == 0 {
        assert!(began.elapsed() < MINUTE, "retention removes nothing");
        faulty.camera_goes().await;
        faulty.camera_comes().await;
    }
    faulty.goes_on(SECONDS).await;
    faulty.rules.clear(0);
    faulty.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_camera_whose_folder_cannot_be_made_is_tried_again() {
    let mut faulty = Faulty::start("").await;
    faulty.rules.set(0, Rule::fail(calls::MKDIR, "recordings/late", EIO));
    let url = faulty.camera.as_ref().unwrap().url("bars");
    let file = faulty.daemon.config_file();
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{config}[cameras.late]\nurl = \"{url}\"\n")).unwrap();
    faulty.daemon.signal(rustix::process::Signal::HUP);
    let daemon = &mut faulty.daemon;
    let told = until(MINUTE, "an alarm", async || {
        let health = daemon.health().await;
        let state = &health["states"]["record/ring"];
        (state["severity"] == "failed").then(|| state["message"].as_str().unwrap().to_owned())
    })
    .await;
    assert!(told.contains("late is not recorded"), "{told}");
    faulty.goes_on(SECONDS).await;
    faulty.rules.clear(0);
    let label = ["camera=\"late\""];
    faulty.daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &label, 10.0).await;
    faulty.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_the_disk_refuses_costs_no_footage_and_no_gap_is_forgotten() {
    let mut faulty = Faulty::start("").await;
    let refusals = [(calls::WRITE, EIO), (calls::WRITE, ENOSPC), (calls::FDATASYNC | calls::FSYNC, EIO)];
    for (call, error) in refusals {
        let pictures = faulty.daemon.metric("liuta_recorded_access_units_total", &[]).await;
        faulty.rules.set(0, Rule::fail(call, "index.db", error));
        let since = Timestamp::now() - jiff::SignedDuration::from_secs(2);
        // What comes and goes meanwhile is not lost either.
        faulty.camera_goes().await;
        faulty.camera_comes().await;
        let told = faulty.until_state(&["degraded"]).await;
        assert!(told.contains("index.db"), "{told}");
        assert!(faulty.rules.hits(0) > 0);
        assert!(faulty.daemon.metric("liuta_recorded_access_units_total", &[]).await > pictures);
        faulty.rules.clear(0);
        faulty.until_state(&["ok"]).await;
        for camera in CAMERAS {
            faulty.until_gap(camera, "camera", since).await;
        }
    }
    faulty.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_cannot_be_read_for_a_while_is_not_given_up() {
    let mut faulty = Faulty::start("").await;
    let since = Timestamp::now();
    faulty.camera_goes().await;
    faulty.camera_comes().await;
    faulty.until_gap("left", "camera", since).await;
    faulty.rules.set(0, Rule::fail(calls::READ | calls::WRITE, "index.db", EIO));
    faulty.until_state(&["failed", "degraded"]).await;
    tokio::time::sleep(3 * SECONDS).await;
    assert!(faulty.rules.hits(0) > 0);
    faulty.rules.clear(0);
    faulty.until_state(&["ok"]).await;
    faulty.records().await;
    // It knows what no file tells.
    faulty.until_gap("left", "camera", since).await;
    faulty.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-pix_fmt", "yuv420p"];
    let clip = common::test_clip(
        folder.path(),
        "bars.mp4",
        &[&["testsrc2=s=160x120:r=10:d=20"], &encoder[..]].concat(),
    );
    let camera = Camera::start(&[Mount::clip("bars", &clip)]);
    let any = "127.0.0.1:0".parse().unwrap();
    // The other camera has something to be told of.
    let config = common::config_head(folder.path(), any, any)
        + "[vision]\nenabled = false\n[record]\nmin_free = \"0GB\"\n[cameras.dead]\nurl = \"rtsp://127.0.0.1:1/a\"\n"
        + &format!("[cameras.left]\nurl = \"{}\"\n", camera.url("bars"));
    std::fs::write(folder.path().join("liuta.toml"), config).unwrap();
    let mut daemon = std::process::Command::new(env!("CARGO_BIN_EXE_liuta"))
        .args(["run", "--config"])
        .arg(folder.path().join("liuta.toml"))
        .stderr(std::fs::File::options().write(true).open("/dev/full").unwrap())
        .spawn()
        .unwrap();
    let recorded = async || {
        if let Some(status) = daemon.try_wait().unwrap() {
            panic!("it ended: {status}");
        }
        let camera = std::fs::read_dir(folder.path().join("data/recordings/left")).ok()?;
        let mut files =
            camera.flatten().filter_map(|day| std::fs::read_dir(day.path()).ok()).flatten().flatten();
        files.any(|file| file.metadata().is_ok_and(|file| file.len() > 30_000)).then_some(())
    };
    until(MINUTE, "a recording", recorded).await;
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

/// Waits out a disk whose every such call takes so long: nothing is missing afterwards.
async fn nothing_is_missing_after(call: u32, delay_ms: u32, length: Duration) {
    let mut faulty = Faulty::start("").await;
    faulty.rules.set(0, Rule { delay_ms, ..Rule::fail(call, "recordings", 0) });
    faulty.goes_on(length).await;
    assert!(faulty.rules.hits(0) > 0);
    faulty.rules.clear(0);
    faulty.records().await;
    for camera in CAMERAS {
        let list = faulty.daemon.json(&format!("/list?path={camera}")).await;
        let gaps: Vec<_> = list
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one.get("gap").is_some_and(|gap| gap == "overflow" || gap == "disk"))
            .collect();
        assert!(gaps.is_empty(), "{gaps:?}");
    }
    faulty.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_syncs_slowly_is_waited_for() {
    nothing_is_missing_after(calls::FDATASYNC | calls::FSYNC, 5000, 4 * SECONDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_writes_slowly_is_waited_for() {
    nothing_is_missing_after(calls::WRITE, 1500, 4 * SECONDS).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute; make soak"]
async fn a_disk_that_syncs_slowly_for_a_minute_is_waited_for() {
    nothing_is_missing_after(calls::FDATASYNC | calls::FSYNC, 5000, MINUTE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_that_somebody_removes_is_a_gap_after_the_next_start() {
    let mut faulty = Faulty::start("").await;
    let began = Timestamp::now();
    faulty.camera_goes().await;
    let file = faulty.newest("left");
    faulty.camera_comes().await;
    std::fs::remove_file(faulty.daemon.data().join(&file)).unwrap();
    // What is left can be had.
    let path = format!("/get?path=left&start={}&duration=60", began - jiff::SignedDuration::from_secs(30));
    assert!(decoded_pictures(&faulty.daemon.save(&path, "left.mp4").await) > 0);
    faulty.goes_on(SECONDS).await;
    faulty.daemon.terminate().await;
    faulty.daemon = faulty.daemon.restart().await;
    faulty.until_gap("left", "disk", began - jiff::SignedDuration::from_secs(60)).await;
    faulty.ends_well().await;
}

/// A box whose data lie on a real file system of 64 MB, already half full of its own footage.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_disk_is_recorded_onto_for_ever_and_what_others_take_is_a_gap() {
    let Some(disk) = SmallDisk::ext4(64) else { return };
    let folder = Arc::new(tempfile::Builder::new().prefix("liuta-test-").tempdir().unwrap());
    std::os::unix::fs::symlink(disk.path(), folder.path().join("data")).unwrap();
    let encoder = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-pix_fmt", "yuv420p"];
    let rate = ["-b:v", "2M", "-minrate", "2M", "-maxrate", "2M", "-bufsize", "2M"];
    let source = ["testsrc2=s=640x360:r=25:d=10,noise=alls=40:allf=t"];
    let clip = common::test_clip(folder.path(), "noise.mp4", &[&source[..], &encoder, &rate].concat());
    let camera = Camera::start(&[Mount::clip("noise", &clip)]);
    let (http, rtsp) = (common::free_address(), common::free_address());
    let mut config = common::config_head(folder.path(), http, rtsp)
        + "[vision]\nenabled = false\n[record]\nmin_free = \"4MB\"\n";
    for id in CAMERAS {
        config += &format!("[cameras.{id}]\nurl = \"{}\"\n", camera.url("noise"));
    }
    std::fs::write(folder.path().join("liuta.toml"), config).unwrap();

    let mut daemon = Daemon::start_in(folder, http, rtsp, &[]).await;
    let (units, bytes) = ("liuta_recorded_access_units_total", "liuta_recorded_bytes_total");
    daemon.until_metric(MINUTE, bytes, &["camera=\"left\""], 2e6).await;
    daemon.terminate().await;
    let first = sealed(&daemon.data()).pop_first().unwrap().0;
    let old: Vec<PathBuf> =
        (0..).map(|nth| first.with_file_name(format!("00-00-{nth:02}.mp4"))).take(16).collect();
    for copy in &old {
        std::fs::copy(&first, copy).unwrap();
    }
    let began = Timestamp::now();
    let mut daemon = daemon.restart().await;

    // It is full for as long as this lasts, of what can be removed.
    let watched = Instant::now();
    while watched.elapsed() < MINUTE / 2 {
        let log = daemon.log();
        assert!(!log.contains("is not recorded"), "{log}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(old.iter().filter(|file| file.exists()).count() < old.len(), "nothing was removed");
    assert!(daemon.metric(bytes, &[]).await > 8e6);
    for camera in CAMERAS {
        let list = daemon.json(&format!("/list?path={camera}&start={began}")).await;
        assert!(list.as_array().unwrap().iter().all(|one| one["gap"] != "disk"), "{list}");
    }

    let hog = disk.fill();
    until(MINUTE, "an alarm", async || {
        let health = daemon.health().await;
        let state = &health["states"]["record/ring"];
        (state["severity"] == "failed" && state["message"].as_str()?.contains("the volume is full"))
            .then_some(())
    })
    .await;
    std::fs::remove_file(hog).unwrap();
    until(MINUTE, "all is well", async || {
        let health = daemon.health().await;
        (health["states"]["record/ring"]["severity"] != "failed").then_some(())
    })
    .await;
    for camera in CAMERAS {
        let label = format!("camera=\"{camera}\"");
        let before = daemon.metric(units, &[&label]).await;
        daemon.until_metric(MINUTE, units, &[&label], before + 50.0).await;
    }
    // The first camera that is refused makes room for the other one.
    let lists = [daemon.json("/list?path=left").await, daemon.json("/list?path=right").await];
    let mut told = lists.iter().flat_map(|list| list.as_array().unwrap());
    assert!(told.any(|one| one["gap"] == "disk"), "{lists:?}");
    daemon.terminate().await;
    all_play(&daemon.data(), &mut HashSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_somebody_removes_is_made_again_with_all_that_was_in_it() {
    let mut faulty = Faulty::start("").await;
    let since = Timestamp::now();
    faulty.camera_goes().await;
    faulty.camera_comes().await;
    faulty.until_gap("left", "camera", since).await;
    let before = faulty.daemon.json("/list?path=left").await;
    for file in ["index.db", "index.db-wal", "index.db-shm"] {
        std::fs::remove_file(faulty.daemon.data().join(file)).unwrap();
    }
    faulty.goes_on(3 * SECONDS).await;
    assert!(faulty.daemon.data().join("index.db").exists(), "{}", faulty.daemon.log());
    let after = faulty.daemon.json("/list?path=left").await;
    assert_eq!(after[0], before[0], "{after}");
    faulty.until_gap("left", "camera", since).await;
    faulty.daemon.kill();
    faulty.daemon = faulty.daemon.restart().await;
    faulty.until_gap("left", "camera", since).await;
    faulty.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_is_rebuilt_while_recording_goes_on() {
    let mut faulty = Faulty::start("").await;
    let since = Timestamp::now();
    faulty.camera_goes().await;
    faulty.camera_comes().await;
    faulty.until_gap("left", "camera", since).await;
    let known = sealed(&faulty.daemon.data());
    let path = faulty.daemon.data().join("index.db");
    let other = rusqlite::Connection::open(&path).unwrap();
    other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let length = std::fs::metadata(&path).unwrap().len();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&vec![0xa5; length as usize - 4096], 4096).unwrap();
    // Another's change has the daemon read the file anew.
    other
        .pragma_update(
            None,
            "user_version",
            other.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0)).unwrap(),
        )
        .unwrap();
    drop((file, other));
    let log = async |daemon: &Daemon| daemon.log().contains("is rebuilt from the recordings").then_some(());
    until(MINUTE, "a new index", async || log(&faulty.daemon).await).await;
    faulty.goes_on(SECONDS).await;
    faulty.until_state(&["ok"]).await;
    let again = sealed(&faulty.daemon.data());
    assert!(known.iter().all(|(file, bytes)| again.get(file) == Some(bytes)), "{known:?} {again:?}");
    faulty.ends_well().await;
}
