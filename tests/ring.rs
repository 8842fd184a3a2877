//! The ring on real disks with real pictures: what goes in is found, played and exported, whatever happens in between.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::parts::{ago, clip, later, list, minute, parts, recorded, run, until};
use jiff::Timestamp;
use liuta::config::{Id, Record};
use liuta::health::{Health, Severity};
use liuta::media::cmaf::{Packager, Part};
use liuta::media::{AccessUnit, Feed, Sample, VIDEO_CLOCK, time};
use liuta::record::{GapCause, RecordError, Recorder, Ring, Stretch};

fn settings() -> Record {
    Record {
        retention: Duration::from_secs(86_400),
        min_free: 0,
        sync: Some(Duration::from_millis(100)),
        evidence_retention: Duration::from_secs(30 * 86_400),
        ..Record::default()
    }
}

fn open(data: &Path) -> Arc<Ring> {
    Ring::open(data, settings(), Health::default()).unwrap()
}

fn camera(name: &str) -> Id {
    Id::from(name)
}

fn push(recorder: &Recorder, parts: &[Arc<Part>]) {
    parts.iter().for_each(|part| recorder.push(part.clone()));
}

fn close(ring: &Ring) {
    assert!(ring.close(Duration::from_secs(60)));
}

fn files(data: &Path) -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(&data.join("recordings"), &mut found);
    found.sort();
    found
}

/// Decodes everything without a warning and counts the pictures.
fn pictures(path: &Path) -> usize {
    let args =
        ["-v", "warning", "-i", path.to_str().unwrap(), "-fps_mode", "passthrough", "-f", "framemd5", "-"];
    let (out, warnings) = run("ffmpeg", &args);
    assert_eq!(warnings, "", "{}", path.display());
    out.lines().filter(|line| !line.starts_with('#')).count()
}

fn export(ring: &Arc<Ring>, camera: &str, from: Timestamp, to: Timestamp, path: &Path) {
    let mut stream = ring.archive().export(camera, from..to).unwrap().chunks;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.blocking_recv() {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_recorded_is_listed_played_and_exported() {
    let data = tempfile::tempdir().unwrap();
    let clips = tempfile::tempdir().unwrap();
    let health = Health::default();
    let ring = Ring::open(data.path(), settings(), health.clone()).unwrap();
    let recorder = ring.recorder(&camera("gate"), Feed::Main);
    let start = ago(200);
    push(&recorder, &parts("320x240", 1, start, 15));
    recorder.end(GapCause::Camera);
    until("recorded", || list(&ring, "gate").first() == Some(&recorded(start, 150.0)));

    // The segment being written is part of it, and a gap runs since.
    let told = list(&ring, "gate");
    assert!(matches!(told[1], Stretch::Gap { cause: GapCause::Camera, .. }), "{told:?}");
    let whole = clips.path().join("whole.mp4");
    export(&ring, "gate", start, Timestamp::now(), &whole);
    assert_eq!(pictures(&whole), 15 * 250);

    close(&ring);
    let files = files(data.path());
    assert!((3..=4).contains(&files.len()), "{files:?}");
    assert_eq!(files.iter().map(|file| pictures(file)).sum::<usize>(), 15 * 250);
    drop((recorder, ring));

    let metrics = health.metrics.encode();
    assert!(metrics.contains("liuta_recorded_access_units_total{camera=\"gate\"} 3750\n"), "{metrics}");

    // Only whole minutes of the clock end a segment.
    for file in &files[1..] {
        assert!(file.to_str().unwrap().ends_with("-00.mp4"), "{files:?}");
    }
    let ring = open(data.path());
    let recorder = ring.recorder(&camera("gate"), Feed::Main);
    until("the daemon's gap", || {
        list(&ring, "gate")
            .iter()
            .any(|stretch| matches!(stretch, Stretch::Gap { cause: GapCause::Daemon, .. }))
    });
    assert_eq!(list(&ring, "gate")[0], recorded(start, 150.0));
    drop(recorder);
}

#[test]
fn an_excerpt_starts_at_its_picture() {
    let (data, clips) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ring = open(data.path());
    let recorder = ring.recorder(&camera("gate"), Feed::Main);
    let start = ago(100);
    push(&recorder, &parts("320x240", 1, start, 9));
    until("recorded", || list(&ring, "gate").first() == Some(&recorded(start, 90.0)));
    let path = clips.path().join("excerpt.mp4");
    // From between two key pictures, over the end of a segment.
    export(&ring, "gate", later(start, 5.5), later(start, 75.0), &path);
    let file = path.to_str().unwrap();
    let show =
        ["-v", "warning", "-select_streams", "v", "-show_entries", "packet=pts_time", "-of", "csv=p=0", file];
    let (times, warnings) = run("ffprobe", &show);
    assert_eq!(warnings, "");
    let mut times: Vec<f64> = times.lines().map(|line| line.trim_end_matches(',').parse().unwrap()).collect();
    times.sort_by(f64::total_cmp);
    // The key picture is 13 pictures (0.52 s) before the first that is shown, which is at zero.
    assert!((times[0] + 0.52).abs() < 0.001, "{}", times[0]);
    assert!(times.contains(&0.0));
    assert!((69.0..70.5).contains(times.last().unwrap()), "{:?}", times.last());
    let shown = times.iter().filter(|&&time| time >= 0.0).count();
    let location = format!("location={file}");
    let mut args = vec!["-v", "filesrc", &location, "!", "qtdemux", "!", "h264parse", "!", "avdec_h264", "!"];
    args.extend(["fakesink", "silent=false", "sync=false"]);
    let (out, _) = run("gst-launch-1.0", &args);
    let played = out.lines().filter(|line| line.contains("last-message = chain")).count();
    assert!(played.abs_diff(shown) <= 1, "GStreamer shows {played} of {shown}");
    drop(recorder);
}

#[test]
fn changed_parameters_and_gaps_are_exported_in_one_file() {
    let (data, clips) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ring = open(data.path());
    let recorder = ring.recorder(&camera("gate"), Feed::Main);
    let start = ago(100);
    push(&recorder, &parts("320x240", 1, start, 1));
    recorder.end(GapCause::Camera);
    push(&recorder, &parts("640x480", 2, later(start, 20.0), 1));
    recorder.end(GapCause::Camera);
    push(&recorder, &parts("320x240", 3, later(start, 30.0), 1));
    until("recorded", || list(&ring, "gate").len() >= 3);
    close(&ring);
    let path = clips.path().join("all.mp4");
    export(&ring, "gate", start, Timestamp::now(), &path);
    let args =
        ["-v", "warning", "-of", "csv=p=0", "-show_entries", "frame=pts_time,width", path.to_str().unwrap()];
    let (frames, warnings) = run("ffprobe", &args);
    assert_eq!(warnings, "");
    let frames: Vec<(f64, u32)> = frames
        .lines()
        .filter_map(|line| line.trim_end_matches(',').split_once(','))
        .map(|(at, width)| (at.parse().unwrap(), width.split(',').next().unwrap().parse().unwrap()))
        .collect();
    assert_eq!(frames.len(), 750);
    assert_eq!([frames[249].1, frames[250].1, frames[499].1, frames[500].1], [320, 640, 640, 320]);
    assert!((frames[250].0 - 20.0).abs() < 0.001, "the gap keeps its length: {}", frames[250].0);
    drop(recorder);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    run("cp", &["-a", &format!("{}/.", from.display()), to.to_str().unwrap()]);
}

#[test]
fn torn_files_are_cut_to_their_whole_parts() {
    let (data, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ring = open(data.path());
    let recorder = ring.recorder(&camera("gate"), Feed::Main);
    // One segment: a minute begins with its first picture.
    let start = minute(ago(120));
    let parts = parts("320x240", 1, start, 2);
    push(&recorder, &parts);
    until("recorded", || list(&ring, "gate").first() == Some(&recorded(start, 20.0)));
    let file = files(data.path()).remove(0);
    let length = std::fs::metadata(&file).unwrap().len();
    let head = length - parts.iter().map(|part| part.len() as u64).sum::<u64>();
    let name = file.strip_prefix(data.path()).unwrap();
    let mut random = 12_345_u64;
    for round in 0..30_u64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let cut = if round == 0 { length } else { random % length };
        // As a crash leaves it: the ring is never closed.
        let place = copies.path().join(round.to_string());
        copy(data.path(), &place);
        let torn = place.join(name);
        std::fs::File::options().write(true).open(&torn).unwrap().set_len(cut).unwrap();
        if round % 3 == 1 {
            // Without an index too.
            for side in ["index.db", "index.db-wal", "index.db-shm"] {
                let _ = std::fs::remove_file(place.join(side));
            }
        }
        if round % 3 == 2 {
            // Grown, but never written.
            std::fs::File::options().write(true).open(&torn).unwrap().set_len(cut + 5000).unwrap();
        }
        let mut end = head;
        let whole: Vec<_> = parts
            .iter()
            .take_while(|part| {
                end += part.len() as u64;
                end <= cut
            })
            .collect();
        let ring = open(&place);
        let told = list(&ring, "gate");
        if whole.is_empty() {
            assert_eq!(
                told,
                [],
                "round {round}: cut at {cut} of {length}, the head is {head}, the first part {}",
                parts[0].len()
            );
            assert!(!torn.exists());
        } else {
            let seconds = whole.iter().map(|part| part.duration_90k).sum::<i64>() as f64 / 90_000.0;
            assert_eq!(told.len(), 1);
            let Stretch::Recorded { start: from, end } = told[0] else { panic!("{told:?}") };
            assert_eq!(from, start);
            let found = (time::to_90k(end) - time::to_90k(start)) as f64 / 90_000.0;
            assert!((found - seconds).abs() < 0.13, "{found} for {seconds}");
            if round % 5 == 0 {
                assert_eq!(pictures(&torn), whole.iter().map(|part| part.pictures as usize).sum::<usize>());
            }
        }
        close(&ring);
    }
    drop(recorder);
}

/// Ten seconds whose pictures' last NAL units end in so many zeros.
fn padded(start: Timestamp, zeros: usize) -> Vec<Arc<Part>> {
    let mut packager = Packager::new(1, 0, None);
    let mut parts = Vec::new();
    for unit in clip("320x240").iter() {
        let (mut data, mut last, mut at) = (unit.data.to_vec(), 0, 0);
        while at < data.len() {
            last = at;
            at += 4 + u32::from_be_bytes(data[at..at + 4].try_into().unwrap()) as usize;
        }
        let length = (data.len() - last - 4 + zeros) as u32;
        data[last..last + 4].copy_from_slice(&length.to_be_bytes());
        data.resize(data.len() + zeros, 0);
        let offset = time::to_90k(start);
        let unit = AccessUnit {
            run: 1,
            pts_90k: unit.pts_90k + offset,
            dts_90k: unit.dts_90k + offset,
            data: data.into(),
            ..unit.clone()
        };
        parts.extend(packager.push(&Sample::Video(Arc::new(unit))).map(Arc::new));
    }
    parts.extend(packager.finish().map(Arc::new));
    parts
}

#[test]
fn pictures_that_end_in_zeros_are_recovered_and_what_may_be_footage_is_never_removed() {
    for (zeros, whole) in [(8, true), (600, false)] {
        let (data, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ring = open(data.path());
        let recorder = ring.recorder(&camera("gate"), Feed::Main);
        let start = minute(ago(120));
        push(&recorder, &padded(start, zeros));
        until("recorded", || list(&ring, "gate").first() == Some(&recorded(start, 10.0)));
        copy(data.path(), crashed.path());
        let ring = open(crashed.path());
        let found = files(crashed.path());
        assert_eq!(found.len(), 1);
        if whole {
            let Stretch::Recorded { end, .. } = list(&ring, "gate")[0] else { panic!("nothing is recorded") };
            assert!((end.duration_since(later(start, 10.0)).as_secs_f64()).abs() < 0.13, "{end}");
        } else {
            assert_eq!(list(&ring, "gate"), []);
            assert!(found[0].to_str().unwrap().ends_with(".mp4.damaged"), "{found:?}");
        }
        close(&ring);
        drop(recorder);
    }
}

#[test]
fn a_gap_ends_where_recording_begins_and_a_restarted_camera_was_not_off() {
    let data = tempfile::tempdir().unwrap();
    let ring = open(data.path());
    let all = || ring.archive().list("gate", ago(3600)..later(Timestamp::now(), 3600.0)).unwrap();
    let recorder = ring.recorder(&camera("gate"), Feed::Main);
    // The first part comes long after its first picture, when the running gap has been looked at again.
    std::thread::sleep(Duration::from_millis(3000));
    let start = ago(0);
    std::thread::sleep(Duration::from_millis(3500));
    push(&recorder, &parts("320x240", 1, start, 1));
    until("recorded", || all().contains(&recorded(start, 10.0)));
    let told = all();
    assert!(
        matches!(told[0], Stretch::Gap { cause: GapCause::Camera, end, .. } if end == start),
        "{told:?} {start}"
    );
    // As a reload does it.
    recorder.end(GapCause::Daemon);
    drop(recorder);
    let recorder = ring.recorder(&camera("gate"), Feed::Main);
    let again = later(start, 15.0);
    push(&recorder, &parts("320x240", 2, again, 1));
    until("recorded again", || all().contains(&recorded(again, 10.0)));
    let between = Stretch::Gap { start: later(start, 10.0), end: again, cause: GapCause::Camera };
    assert_eq!(all()[1..], [recorded(start, 10.0), between, recorded(again, 10.0)]);
    drop(recorder);
}

#[test]
fn a_lost_file_is_a_gap_and_a_lost_or_damaged_index_is_rebuilt() {
    let data = tempfile::tempdir().unwrap();
    let ring = open(data.path());
    let recorder = ring.recorder(&camera("gate"), Feed::Main);
    let start = ago(200);
    push(&recorder, &parts("320x240", 1, start, 13));
    until("recorded", || list(&ring, "gate").first() == Some(&recorded(start, 130.0)));
    close(&ring);
    drop((recorder, ring));
    std::fs::write(
        data.path().join("index.db"),
        "no database at all, but long enough to be read as one".repeat(90),
    )
    .unwrap();
    let ring = open(data.path());
    assert_eq!(list(&ring, "gate"), [recorded(start, 130.0)]);
    close(&ring);
    drop(ring);
    std::fs::remove_file(&files(data.path())[1]).unwrap();
    let ring = open(data.path());
    let told = list(&ring, "gate");
    assert!(matches!(told[1], Stretch::Gap { cause: GapCause::Disk, .. }), "{told:?}");
    close(&ring);
}

#[test]
fn a_newer_index_and_a_second_daemon_are_refused() {
    let data = tempfile::tempdir().unwrap();
    let ring = open(data.path());
    let second = Ring::open(data.path(), settings(), Health::default()).err().expect("refused");
    assert!(matches!(second, RecordError::Locked { .. }));
    assert!(second.to_string().contains(&format!("process {}", std::process::id())), "{second}");
    close(&ring);
    drop(ring);
    let db = rusqlite::Connection::open(data.path().join("index.db")).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    until("the lock is free", || {
        matches!(
            Ring::open(data.path(), settings(), Health::default()),
            Err(RecordError::Newer { found: 99, .. })
        )
    });
}

#[test]
fn bad_ranges_are_told_apart() {
    let data = tempfile::tempdir().unwrap();
    let ring = open(data.path());
    let of = |from, to| ring.archive().export("gate", ago(from)..ago(to)).expect_err("refused");
    assert!(matches!(of(10, 20), RecordError::Reversed { .. }));
    assert!(matches!(of(400_000, 20), RecordError::TooLong));
    assert!(matches!(of(20, 10), RecordError::Nothing { .. }));
}

#[test]
fn the_oldest_goes_first_and_pinned_evidence_stays() {
    let data = tempfile::tempdir().unwrap();
    let health = Health::default();
    let ring = Ring::open(data.path(), settings(), health.clone()).unwrap();
    let recorder = ring.recorder(&camera("removed-from-the-configuration"), Feed::Main);
    // Two days old, in two folders, and one of today.
    let (old, older) = (minute(ago(2 * 86_400)), minute(ago(3 * 86_400)));
    ring.pin("alert-1", "removed-from-the-configuration", old..later(old, 1.0)).unwrap();
    push(&recorder, &parts("320x240", 1, older, 1));
    push(&recorder, &parts("320x240", 2, old, 1));
    let today = minute(ago(600));
    push(&recorder, &parts("320x240", 3, today, 1));
    drop(recorder);
    let days =
        || std::fs::read_dir(data.path().join("recordings/removed-from-the-configuration")).unwrap().count();
    until("age", || files(data.path()).len() == 2 && days() == 2);
    let told = list(&ring, "removed-from-the-configuration");
    let kept = |start| told.contains(&recorded(start, 10.0));
    assert!(kept(old) && kept(today) && !kept(older), "{told:?}");

    // A byte limit takes what is not pinned, and says how short the ring has become.
    ring.reconfigure(Record { max_size: Some(1), ..settings() });
    until("size", || files(data.path()).len() == 1);
    until("alarm", || {
        let state = health.snapshot().remove("record/ring").unwrap();
        state.severity == Severity::Degraded && state.message.contains("pinned")
    });
    let evidence = Record { evidence_retention: Duration::from_secs(3600), ..settings() };
    ring.reconfigure(evidence);
    until("evidence ends", || files(data.path()).is_empty());
    close(&ring);
}

/// A small file system of its own, where root may mount one.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(size: &str) -> Option<Small> {
        let folder = tempfile::tempdir().unwrap();
        let option = format!("size={size}");
        let path = folder.path().to_str().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &option, "liuta", path]).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Small(folder));
        }
        println!("not tried: no right to mount a small file system");
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_told_and_got_over() {
    let Some(small) = Small::mount("6m") else { return };
    let data = small.0.path().join("data");
    let health = Health::default();
    let ring = Ring::open(&data, settings(), health.clone()).unwrap();
    let ballast = small.0.path().join("ballast");
    std::fs::write(ballast, vec![1; 3_500_000]).unwrap();
    let recorder = ring.recorder(&camera("gate"), Feed::Main);
    let start = ago(1000);
    let mut sent = parts("640x480", 1, start, 40).into_iter();
    let state = || health.snapshot().remove("record/ring").unwrap();
    until("the disk is full", || {
        sent.by_ref().take(4).for_each(|part| recorder.push(part));
        std::thread::sleep(Duration::from_millis(20));
        state().severity == Severity::Failed
    });
    assert!(state().message.contains("the volume is full"), "{}", state().message);
    // What is sealed makes room, and recording goes on by itself.
    until("recording again", || {
        sent.by_ref().take(1).for_each(|part| recorder.push(part));
        std::thread::sleep(Duration::from_millis(150));
        state().severity != Severity::Failed
    });
    let told = list(&ring, "gate");
    assert!(told.iter().any(|s| matches!(s, Stretch::Gap { cause: GapCause::Disk, .. })), "{told:?}");
    close(&ring);
    for file in files(&data) {
        assert!(pictures(&file) > 0);
    }
    drop((recorder, ring));
}

#[test]
fn a_disk_that_refuses_one_camera_is_told_and_tried_again() {
    let data = tempfile::tempdir().unwrap();
    let health = Health::default();
    let ring = Ring::open(data.path(), settings(), health.clone()).unwrap();
    let in_the_way = data.path().join("recordings/gate");
    std::fs::write(&in_the_way, "no folder").unwrap();
    let (gate, yard) =
        (ring.recorder(&camera("gate"), Feed::Main), ring.recorder(&camera("yard"), Feed::Main));
    let start = minute(ago(3600));
    push(&yard, &parts("320x240", 1, start, 1));
    until("the other camera", || list(&ring, "yard").first() == Some(&recorded(start, 10.0)));
    let mut sent = parts("320x240", 1, start, 60).into_iter();
    gate.push(sent.next().unwrap());
    let state = || health.snapshot().remove("record/ring").unwrap();
    until("told", || state().severity == Severity::Failed);
    assert!(state().message.starts_with("gate is not recorded: "), "{}", state().message);
    std::fs::remove_file(&in_the_way).unwrap();
    until("recording again", || {
        sent.by_ref().take(1).for_each(|part| gate.push(part));
        state().severity == Severity::Ok
    });
    let told = list(&ring, "gate");
    assert!(matches!(told[0], Stretch::Gap { cause: GapCause::Disk, .. }), "{told:?}");
    assert!(matches!(told[1], Stretch::Recorded { .. }), "{told:?}");
    drop((gate, yard));
}

#[test]
fn an_abandoned_export_ends() {
    let data = tempfile::tempdir().unwrap();
    let ring = open(data.path());
    let recorder = ring.recorder(&camera("gate"), Feed::Main);
    let start = ago(100);
    push(&recorder, &parts("640x480", 1, start, 9));
    until("recorded", || list(&ring, "gate").first() == Some(&recorded(start, 90.0)));
    for _ in 0..200 {
        // More than may run at once: each gives its place back.
        until("a place", || match ring.archive().export("gate", start..Timestamp::now()) {
            Ok(stream) => {
                drop(stream);
                true
            }
            Err(RecordError::Busy) => false,
            Err(error) => panic!("{error}"),
        });
    }
    drop(recorder);
}

#[test]
fn the_room_that_a_configuration_needs_is_estimated() {
    let data = tempfile::tempdir().unwrap();
    let text = format!(
        "data = {:?}\n[record]\nmax_size = \"36GB\"\nmin_free = \"0GB\"\n[cameras.a]\nurl = \"rtsp://h/a\"\n\
         [cameras.b]\nurl = \"rtsp://h/b\"\n[cameras.c]\nurl = \"rtsp://h/c\"\nrecord = false\n",
        data.path()
    );
    let config = liuta::config::file::parse(Path::new("t.toml"), text).unwrap();
    let estimate = liuta::record::estimate(&config);
    // Two cameras of half a megabyte a second.
    assert_eq!(estimate.needed, 86_400_000_000);
    assert!(estimate.available <= 36_000_000_000);
    assert!((estimate.hours - estimate.available as f64 / 3.6e9).abs() < 1e-6);
}

/// A day of 64 cameras.
#[test]
#[ignore = "makes 92,160 files, which takes a busy machine a minute"]
fn a_full_ring_opens_quickly() {
    let data = tempfile::tempdir().unwrap();
    close(&open(data.path()));
    let mut db = rusqlite::Connection::open(data.path().join("index.db")).unwrap();
    let rows = db.transaction().unwrap();
    let from = time::to_90k(ago(80_000));
    let insert = "INSERT INTO segments (path, camera, stream, start_90k, end_90k, bytes, sealed, ring_90k)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    for camera in 0..64 {
        let folder = data.path().join(format!("recordings/camera-{camera}/2026-01-02"));
        std::fs::create_dir_all(&folder).unwrap();
        for minute in 0..1440_i64 {
            let name = format!("{:02}-{:02}-00.mp4", minute / 60, minute % 60);
            std::fs::write(folder.join(&name), "").unwrap();
            let path = format!("camera-{camera}/2026-01-02/{name}");
            let start = from + minute * 60 * VIDEO_CLOCK;
            let end = start + 60 * VIDEO_CLOCK;
            let values = (path, format!("camera-{camera}"), "main", start, end, 1, true, end);
            rows.execute(insert, values).unwrap();
        }
    }
    rows.commit().unwrap();
    drop(db);
    let begin = Instant::now();
    let ring = open(data.path());
    println!("opened 92,160 segments in {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(5));
    close(&ring);
}
