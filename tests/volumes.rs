//! What keeps a ring within its limits and on the right disks: several volumes, quotas, and clocks that are wrong.

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::disk::SmallDisk;
use common::parts::{ago, clip, later, list, minute, parts, recorded, until};
use jiff::{SignedDuration, Timestamp};
use liuta::config::{Id, Record, Volume};
use liuta::health::{Health, Severity};
use liuta::media::cmaf::Packager;
use liuta::media::time::{self, Clock};
use liuta::media::{AccessUnit, Feed, Sample};
use liuta::record::{GapCause, Recorder, Ring, Stretch, sum};

fn settings() -> Record {
    Record { min_free: 0, sync: Some(Duration::from_millis(50)), ..Record::default() }
}

fn volume(name: &str, path: &Path) -> Volume {
    Volume { name: name.to_owned(), path: path.to_owned(), max_size: None, min_free: None }
}

fn files(below: &Path) -> usize {
    let entries = std::fs::read_dir(below).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

fn push(recorder: &Recorder, parts: &[Arc<liuta::media::cmaf::Part>]) {
    parts.iter().for_each(|part| recorder.push(part.clone()));
}

fn severity(health: &Health, subject: &str) -> Severity {
    health.snapshot().get(subject).map_or(Severity::Ok, |state| state.severity)
}

fn message(health: &Health, subject: &str) -> String {
    health.snapshot().remove(subject).map_or(String::new(), |state| state.message)
}

#[test]
fn cameras_are_spread_over_the_volumes_and_go_to_another_when_one_is_lost() {
    let (data, one) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Some(two) = SmallDisk::mount(64) else { return };
    let health = Health::default();
    let volumes = vec![volume("one", one.path()), volume("two", two.path())];
    let settings = Record { volumes, ..settings() };
    let ring = Ring::open(data.path(), settings.clone(), health.clone()).unwrap();
    let (gate, yard) =
        (ring.recorder(&Id::from("gate"), Feed::Main), ring.recorder(&Id::from("yard"), Feed::Main));
    let start = minute(ago(600));
    for recorder in [&gate, &yard] {
        push(recorder, &parts("320x240", 1, start, 1));
    }
    for camera in ["gate", "yard"] {
        until("recorded", || list(&ring, camera).first() == Some(&recorded(start, 10.0)));
    }
    assert_eq!((files(&one.path().join("recordings")), files(&two.path().join("recordings"))), (1, 1));

    // The disk goes away as a pulled cable takes it: what lies below its mount point is nobody's.
    common::run(std::process::Command::new("umount").arg("-l").arg(two.path()));
    let again = later(start, 120.0);
    push(&yard, &parts("320x240", 2, again, 1));
    until("told", || severity(&health, "record/two") == Severity::Failed);
    let mut n = 3;
    until("recorded on the other", || {
        push(&yard, &parts("320x240", n, later(again, 60.0 * n as f64), 1));
        n += 1;
        files(&one.path().join("recordings/yard")) > 0
    });
    assert_eq!(std::fs::read_dir(two.path()).unwrap().count(), 0, "nothing below the mount point");
    let by_disk = |stretch: &Stretch| matches!(stretch, Stretch::Gap { cause: GapCause::Disk, .. });
    until("what is missing is told", || list(&ring, "yard").iter().any(by_disk));
    until("what is wrong is told", || message(&health, "record/two").contains("an empty place is at"));
    assert!(ring.close(Duration::from_secs(60)));
}

#[test]
fn a_missing_or_swapped_disk_is_not_recorded_on_and_is_taken_up_when_it_is_back() {
    let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (disk, away) = (folder.path().join("disk"), folder.path().join("away"));
    std::fs::create_dir(&disk).unwrap();
    let settings = Record { volumes: vec![volume("disk", &disk)], ..settings() };
    let ring = Ring::open(data.path(), settings.clone(), Health::default()).unwrap();
    assert!(ring.close(Duration::from_secs(60)));
    drop(ring);
    std::fs::rename(&disk, &away).unwrap();
    std::fs::create_dir(&disk).unwrap();

    let health = Health::default();
    let ring = Ring::open(data.path(), settings, health.clone()).unwrap();
    let recorder = ring.recorder(&Id::from("gate"), Feed::Main);
    push(&recorder, &parts("320x240", 1, minute(ago(600)), 1));
    assert_eq!(severity(&health, "record/disk"), Severity::Failed);
    let told = message(&health, "record/disk");
    assert!(told.contains("an empty place is at"), "{told}");
    assert_eq!(std::fs::read_dir(&disk).unwrap().count(), 0);

    std::fs::remove_dir(&disk).unwrap();
    std::fs::rename(&away, &disk).unwrap();
    until("it is back", || severity(&health, "record/disk") == Severity::Ok);
    let again = later(Timestamp::now(), 1.0);
    push(&recorder, &parts("320x240", 2, again, 1));
    let all = || ring.archive().list("gate", ago(600)..later(Timestamp::now(), 600.0)).unwrap();
    until("recorded", || all().iter().any(|stretch| matches!(stretch, Stretch::Recorded { .. })));
    let told = all();
    assert!(matches!(told[0], Stretch::Gap { cause: GapCause::Disk, .. }), "{told:?}");
    drop(recorder);
    assert!(ring.close(Duration::from_secs(60)));
}

#[test]
fn a_volume_that_is_not_configured_any_more_is_asked_for_until_it_is_forgotten() {
    let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let [one, two] = ["one", "two"].map(|name| {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        volume(name, &path)
    });
    let open = |volumes: &[&Volume]| {
        let health = Health::default();
        let volumes = volumes.iter().copied().cloned().collect();
        let ring = Ring::open(data.path(), Record { volumes, ..settings() }, health.clone()).unwrap();
        assert!(ring.close(Duration::from_secs(60)));
        health
    };
    assert_eq!(severity(&open(&[&one, &two]), "record/two"), Severity::Ok);
    let health = open(&[&one]);
    assert_eq!(severity(&health, "record/two"), Severity::Degraded);
    assert!(message(&health, "record/two").contains("liuta ring forget two"));
    assert!(liuta::record::forget(data.path(), "two").unwrap());
    assert!(!liuta::record::forget(data.path(), "two").unwrap());
    assert_eq!(severity(&open(&[&one]), "record/two"), Severity::Ok);

    // A disk that was replaced on purpose.
    std::fs::remove_dir_all(&one.path).unwrap();
    std::fs::create_dir(&one.path).unwrap();
    let health = open(&[&one]);
    assert!(message(&health, "record/one").contains("liuta ring forget one"));
    assert!(liuta::record::forget(data.path(), "one").unwrap());
    assert_eq!(severity(&open(&[&one]), "record/one"), Severity::Ok);
}

#[test]
fn an_index_that_is_taken_away_while_it_is_used_is_made_anew() {
    let data = tempfile::tempdir().unwrap();
    let ring = Ring::open(data.path(), settings(), Health::default()).unwrap();
    let recorder = ring.recorder(&Id::from("gate"), Feed::Main);
    let start = minute(ago(600));
    push(&recorder, &parts("320x240", 1, start, 1));
    until("recorded", || list(&ring, "gate").first() == Some(&recorded(start, 10.0)));
    for file in ["index.db", "index.db-wal", "index.db-shm"] {
        let _ = std::fs::remove_file(data.path().join(file));
    }
    let mut n = 2;
    until("recording is found again", || {
        let at = later(start, 60.0 * n as f64);
        push(&recorder, &parts("320x240", n, at, 1));
        n += 1;
        data.path().join("index.db").exists() && list(&ring, "gate").len() > 2
    });
    assert!(list(&ring, "gate").contains(&recorded(start, 10.0)), "what was there before too");
    drop(recorder);
    assert!(ring.close(Duration::from_secs(60)));
}

#[test]
fn each_camera_keeps_within_its_own_limit() {
    let data = tempfile::tempdir().unwrap();
    let ring = Ring::open(data.path(), settings(), Health::default()).unwrap();
    let start = minute(ago(1200));
    for camera in ["large", "small"] {
        let recorder = ring.recorder(&Id::from(camera), Feed::Main);
        push(&recorder, &parts("320x240", 1, start, 60));
        drop(recorder);
        until("recorded", || files(&data.path().join("recordings").join(camera)) == 10);
    }
    let size: u64 =
        std::fs::read_dir(data.path().join("recordings/small").join(start.strftime("%Y-%m-%d").to_string()))
            .unwrap()
            .flatten()
            .map(|file| file.metadata().unwrap().len())
            .sum();
    let cameras = [(Id::from("small"), size / 2)].into();
    ring.reconfigure(Record { cameras, max_size_per_camera: Some(2 * size), ..settings() });
    until("within", || files(&data.path().join("recordings/small")) <= 5);
    assert_eq!(files(&data.path().join("recordings/large")), 10);
    assert!(ring.close(Duration::from_secs(60)));
}

#[test]
fn evidence_stays_within_its_quota_and_never_makes_room_for_footage() {
    let data = tempfile::tempdir().unwrap();
    let health = Health::default();
    let ring = Ring::open(data.path(), settings(), health.clone()).unwrap();
    let recorder = ring.recorder(&Id::from("gate"), Feed::Main);
    let start = minute(ago(1200));
    push(&recorder, &parts("320x240", 1, start, 60));
    drop(recorder);
    let recordings = data.path().join("recordings");
    until("recorded", || files(&recordings) == 10);
    ring.pin("01A", "gate", later(start, 10.0)..later(start, 20.0)).unwrap();
    ring.pin("01B", "gate", later(start, 190.0)..later(start, 200.0)).unwrap();
    ring.reconfigure(Record { max_size: Some(1), ..settings() });
    until("footage goes, evidence stays", || files(&recordings) == 2);
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(files(&recordings), 2);
    ring.reconfigure(Record { max_size: Some(1), evidence_max_size: 1, ..settings() });
    until("the quota is kept", || files(&recordings) == 0);
    until("told", || message(&health, "record/ring").contains("record.evidence_max_size"));
    assert!(ring.close(Duration::from_secs(60)));
}

/// A clock that the test turns: the wall may be set, time goes on only when told.
struct Turned {
    wall_offset: AtomicI64,
    passed: Mutex<Duration>,
}

impl Turned {
    const ORIGIN: i64 = 1_790_000_000;

    fn pass(&self, time: Duration) {
        *self.passed.lock().unwrap() += time;
    }

    fn set(&self, seconds: i64) {
        self.wall_offset.store(seconds, Ordering::SeqCst);
    }
}

impl Clock for Turned {
    fn wall(&self) -> Timestamp {
        let seconds = Self::ORIGIN + self.wall_offset.load(Ordering::SeqCst);
        Timestamp::from_second(seconds).unwrap() + SignedDuration::try_from(self.steady()).unwrap()
    }

    fn steady(&self) -> Duration {
        *self.passed.lock().unwrap()
    }
}

/// A picture every eight seconds, a key picture every 200.
struct Slow {
    recorder: Recorder,
    packager: Packager,
    run: u64,
    seq: u64,
}

impl Slow {
    const EVERY: u64 = 8;

    fn picture(&mut self, at: Timestamp) {
        let all = clip("320x240");
        let unit = &all[self.seq as usize % all.len()];
        let at_90k = time::to_90k(at);
        let unit = AccessUnit {
            seq: self.seq,
            run: self.run,
            pts_90k: at_90k + unit.pts_90k - unit.dts_90k,
            dts_90k: at_90k,
            ..unit.clone()
        };
        self.seq += 1;
        if let Some(part) = self.packager.push(&Sample::Video(Arc::new(unit))) {
            self.recorder.push(Arc::new(part));
        }
    }

    /// The camera's session ends and begins anew, as it does when the box's clock is set.
    fn begin_anew(&mut self) {
        if let Some(part) = self.packager.finish() {
            self.recorder.push(Arc::new(part));
        }
        self.recorder.end(GapCause::Camera);
        self.run += 1;
        self.seq = self.seq.next_multiple_of(clip("320x240").len() as u64);
        self.packager = Packager::new(self.run, self.run * 1_000_000, None);
    }
}

#[test]
fn three_days_with_a_wrong_clock_lose_nothing_and_keep_a_day() {
    const HOUR: i64 = 3600;
    let data = tempfile::tempdir().unwrap();
    let clock = Arc::new(Turned { wall_offset: AtomicI64::new(-Turned::ORIGIN), passed: Mutex::default() });
    let open = || Ring::open_by(clock.clone(), data.path(), settings(), Health::default()).unwrap();
    let mut ring = open();
    let new = |ring: &Arc<Ring>| ring.recorder(&Id::from("gate"), Feed::Main);
    let mut camera =
        Slow { recorder: new(&ring), packager: Packager::new(1, 1_000_000, None), run: 1, seq: 0 };
    let everything = || Timestamp::from_second(-1).unwrap()..Timestamp::from_second(4_000_000_000).unwrap();
    let held = |ring: &Ring| -> f64 {
        let told = ring.archive().list("gate", everything()).unwrap();
        told.iter()
            .map(|stretch| match stretch {
                Stretch::Recorded { start, end } => end.duration_since(*start).as_secs_f64(),
                Stretch::Gap { .. } => 0.0,
            })
            .sum()
    };
    for hour in 0..72_i64 {
        match hour {
            // Without a battery the box begins in 1970; then its clock is set, an hour ahead, and back.
            1 => clock.set(0),
            20 => clock.set(HOUR),
            40 => clock.set(0),
            _ => {}
        }
        if matches!(hour, 1 | 20 | 40) {
            camera.begin_anew();
        }
        if hour == 30 {
            // A restart forgets none of it.
            camera.begin_anew();
            drop(camera.recorder);
            assert!(ring.close(Duration::from_secs(60)));
            ring = open();
            camera.recorder = new(&ring);
            // What was missing is told when it begins, before this clock is turned on.
            std::thread::sleep(Duration::from_millis(500));
        }
        for _ in 0..3600 / Slow::EVERY {
            camera.picture(clock.wall());
            clock.pass(Duration::from_secs(Slow::EVERY));
        }
        // Of what is not old enough everything is there: but for what the packager holds, and the GOP that a session's
        // start waits for, which begins with a key picture here.
        let least = (hour + 1).min(23) * HOUR - 400;
        until("nothing is lost and nothing stalls", || held(&ring) >= least as f64);
        until("what is a day old goes", || held(&ring) <= (24 * HOUR + 1000) as f64);
    }
    let now = clock.wall();
    let hours = ring.archive().completeness("gate", now - SignedDuration::from_hours(80)..now).unwrap();
    let whole = sum(&hours);
    assert!(whole.ratio().unwrap() > 0.98, "{whole:?}");
    let hour_that_never_was = |stretch: &Stretch| match stretch {
        Stretch::Gap { start, end, cause: GapCause::Clock } => {
            (end.duration_since(*start).as_secs() - HOUR).abs() < 30
        }
        _ => false,
    };
    let told = ring.archive().list("gate", everything()).unwrap();
    assert!(told.iter().any(hour_that_never_was), "{told:?}");
    drop(camera);
    assert!(ring.close(Duration::from_secs(60)));
}
