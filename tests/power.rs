//! Power cuts, from outside: the real binary records and is asked for things, a journal keeps every change to its data
//! folder (`powercut`), and a model of a disk (`powercut::disk`) says what may be found after a cut at any of them.
//! From each such folder the real binary starts, and what stands in `src/record/mod.rs` and `src/store/mod.rs` must hold:
//!
//! - it starts, and every footage that it knows plays;
//! - footage that was synced is there, and what is missing between two recordings is told as a gap;
//! - what the API has answered for is in `state.db`, and the audit trail is unbroken.

mod common;
mod powercut;

use std::collections::{BTreeMap, HashSet};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::camera::{Camera, Mount, Options};
use common::client::Client;
use common::recordings::sealed;
use common::{Daemon, config_head};
use liuta::media::VIDEO_CLOCK;
use liuta::store::Store;
use powercut::disk::{Disk, Image};
use powercut::{Change, Journal, Preload, Record};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::StatusCode;
use serde_json::json;
use sha2::{Digest, Sha256};

const MINUTE: Duration = Duration::from_secs(60);

/// `record.sync` and a second: older than this nothing waits to be safe.
const UNSYNCED: Duration = Duration::from_secs(2);

/// By which a busy machine may exceed it.
const BUSY: Duration = Duration::from_secs(2);

/// Shorter holes are no gaps.
const TOLERANCE_90K: i64 = VIDEO_CLOCK;

/// Images that are looked at at the same time.
const AT_ONCE: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn whenever_the_power_is_cut_the_box_starts_and_knows_what_it_had() {
    Recording::make(Duration::from_secs(25)).await.cut(200, 4);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make soak"]
async fn wherever_the_power_is_cut_the_box_starts_and_knows_what_it_had() {
    // Long enough for two ends of a minute.
    Recording::make(Duration::from_secs(100)).await.cut(5000, 4);
}

/// What the daemon did, and what it promised meanwhile.
struct Recording {
    folder: tempfile::TempDir,
    journal: Journal,
    /// The configuration without the limit: what was there at the cut is not to be removed before it is looked at.
    cameras: String,
    /// Tokens that were made, and how long the journal was when that had been answered.
    acknowledged: Vec<(u64, String)>,
}

impl Recording {
    /// Three cameras, one that comes and goes, tokens that are made, and a limit that removes the oldest.
    async fn make(length: Duration) -> Recording {
        let folder = tempfile::tempdir().unwrap();
        let encoder = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-pix_fmt", "yuv420p"];
        let source = ["testsrc2=s=160x120:r=10:d=20"];
        let clip = common::test_clip(folder.path(), "bars.mp4", &[&source[..], &encoder].concat());
        let clip = || [Mount::clip("bars", &clip)];
        let steady = Camera::start(&clip());
        let mut flapping = Some(Camera::start(&clip()));
        let port = flapping.as_ref().map_or(0, Camera::port);
        let mut cameras =
            String::from("[vision]\nenabled = false\n[record]\nmin_free = \"0GB\"\nsync = \"1s\"\n");
        for (id, port) in [("a", steady.port()), ("b", steady.port()), ("c", steady.port()), ("flaps", port)]
        {
            cameras += &format!("[cameras.{id}]\nurl = \"rtsp://127.0.0.1:{port}/bars\"\n");
        }

        // What people make is there before.
        let sections = cameras.replace("[record]\n", "[record]\nmax_size = \"600KB\"\n");
        let mut daemon = Daemon::start(&sections).await;
        let client = Client::of(&daemon, "admin", &[]);
        daemon.terminate().await;
        let base = folder.path().join("base");
        common::run(Command::new("cp").arg("-a").arg(daemon.data()).arg(&base));
        let journal = folder.path().join("journal");
        let preload = Preload::new(&daemon.data()).journal(&journal);
        let mut daemon =
            Daemon::start_in(daemon.folder.clone(), daemon.http, daemon.rtsp, &preload.environment()).await;

        let (began, mut turned) = (Instant::now(), Instant::now());
        let mut acknowledged = Vec::new();
        while began.elapsed() < length {
            let name = format!("token-{}", acknowledged.len());
            let made = client.post("/api/v1/tokens", json!({ "name": name, "role": "viewer" })).await;
            let made = made.is(StatusCode::CREATED);
            let id = made.body["id"].as_str().unwrap().to_owned();
            acknowledged.push((std::fs::metadata(&journal).unwrap().len(), id));
            if turned.elapsed() > Duration::from_secs(3) {
                turned = Instant::now();
                flapping = match flapping {
                    Some(_) => None,
                    None => Some(Camera::start_with(
                        Options { port, ..Options::default() },
                        &[Mount::clip("bars", &folder.path().join("bars.mp4"))],
                    )),
                };
            }
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        daemon.kill();
        let journal = Journal::read(&journal);
        let removed = |record: &powercut::Record| matches!(&record.change, Change::Remove { path } if path.ends_with(".mp4"));
        assert!(journal.records.iter().any(removed), "retention has removed nothing\n{}", daemon.log());
        Recording { folder, journal, cameras, acknowledged }
    }

    /// Cuts the power at so many places, seeded, and looks at what each leaves.
    fn cut(&self, cuts: usize, seed: u64) {
        let base = self.folder.path().join("base");
        let (disk, random) = (Disk::new(&self.journal, &base), StdRng::seed_from_u64(seed));
        let source = Mutex::new((disk, random, 0));
        let judge = Judge { recording: self, sound: Mutex::default(), slowest: Mutex::default() };
        let records = self.journal.records.len();
        let (wrong, oldest) = (Mutex::new(Vec::new()), Mutex::new(Duration::ZERO));
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    loop {
                        let mut guard = source.lock().unwrap();
                        let (disk, random, done) = &mut *guard;
                        if *done == cuts {
                            return;
                        }
                        // One in each of as many equal stretches.
                        let at = (*done * records + random.random_range(0..records)) / cuts + 1;
                        disk.advance(at);
                        let cut = Cut::of(disk, &self.journal, at, random);
                        *done += 1;
                        drop(guard);
                        let mut oldest = oldest.lock().unwrap();
                        *oldest = cut.unsynced.max(*oldest);
                        drop(oldest);
                        if let Err(what) = judge.judge(&cut) {
                            wrong.lock().unwrap().push(format!("cut at {at} of {records}: {what}"));
                        }
                    }
                });
            }
        });
        let (wrong, oldest) = (wrong.into_inner().unwrap(), oldest.into_inner().unwrap());
        eprintln!(
            "{cuts} cuts in {records} changes took {:.0} s; {} stretches of footage decoded; at most {:.2} s not synced; \
             slowest start {:.2} s",
            began.elapsed().as_secs_f64(),
            judge.sound.lock().unwrap().len(),
            oldest.as_secs_f64(),
            judge.slowest.lock().unwrap().as_secs_f64(),
        );
        let some = wrong.iter().take(10).cloned().collect::<Vec<_>>().join("\n");
        assert!(wrong.is_empty(), "{} of {cuts} cuts:\n{some}", wrong.len());
        assert!(oldest <= UNSYNCED + BUSY, "{oldest:?} of footage were not synced");
    }
}

/// What one cut leaves, and what must be in it.
struct Cut {
    image: Image,
    promised: BTreeMap<String, Vec<u8>>,
    /// Since when footage was not synced.
    unsynced: Duration,
    /// What retention had removed: camera, and when it began.
    removed: Vec<(String, i64)>,
    place: u64,
    at: usize,
}

fn is_footage(path: &str) -> bool {
    path.starts_with("recordings/") && path.ends_with(".mp4")
}

/// By its path, in ticks of 90 kHz.
fn removed_footage(record: &Record) -> Option<(String, i64)> {
    let Change::Remove { path } = &record.change else { return None };
    let (camera, name) = path.strip_prefix("recordings/")?.split_once('/')?;
    let began = format!("{} +0000", name.get(..19)?);
    let began = jiff::Timestamp::strptime("%Y-%m-%d/%H-%M-%S %z", began).ok()?;
    Some((camera.to_owned(), liuta::media::time::to_90k(began)))
}

impl Cut {
    fn of(disk: &Disk<'_>, journal: &Journal, at: usize, random: &mut StdRng) -> Cut {
        let last = &journal.records[at - 1];
        let footage = disk.promised().filter(|(path, _)| is_footage(path));
        let since = disk.unsynced_since().filter(|(path, _)| is_footage(path)).map(|(_, since)| since).min();
        Cut {
            image: disk.image(random),
            promised: footage.map(|(path, content)| (path.to_owned(), content.to_owned())).collect(),
            unsynced: since
                .map_or(Duration::ZERO, |since| Duration::from_nanos(last.nanoseconds.saturating_sub(since))),
            removed: journal.records[..at].iter().filter_map(removed_footage).collect(),
            place: journal.records.get(at).map_or(u64::MAX, |next| next.place),
            at,
        }
    }
}

/// Starts the box on what a cut has left.
struct Judge<'r> {
    recording: &'r Recording,
    /// Hashes of footage that plays: most of it is the same in many images.
    sound: Mutex<HashSet<[u8; 32]>>,
    slowest: Mutex<Duration>,
}

impl Judge<'_> {
    fn judge(&self, cut: &Cut) -> Result<(), String> {
        let place = tempfile::Builder::new().prefix("liuta-cut-").tempdir_in("/dev/shm").unwrap();
        let data = place.path().join("data");
        std::fs::create_dir(&data).unwrap();
        cut.image.write(&data);
        let judged = self.start(place.path()).and_then(|()| self.look(cut, &data));
        judged.map_err(|what| {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("powercut-{}", cut.at));
            let _ = std::fs::remove_dir_all(&kept);
            cut.image.write(&kept);
            let log = std::fs::read_to_string(place.path().join("log")).unwrap_or_default();
            format!("{what}; as it was found: {}\n{log}", kept.display())
        })
    }

    /// Runs the daemon until it says that it is ready, and stops it.
    fn start(&self, folder: &Path) -> Result<(), String> {
        let any = "127.0.0.1:0".parse().unwrap();
        std::fs::write(folder.join("liuta.toml"), config_head(folder, any, any) + &self.recording.cameras)
            .unwrap();
        let socket = UnixDatagram::bind(folder.join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let began = Instant::now();
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_liuta"))
            .args(["run", "--config"])
            .arg(folder.join("liuta.toml"))
            .env("NOTIFY_SOCKET", folder.join("notify"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log")).unwrap())
            .spawn()
            .expect("liuta");
        let mut said = [0; 1024];
        let ready = loop {
            match socket.recv(&mut said) {
                Ok(length) if said[..length].windows(7).any(|word| word == b"READY=1") => break Ok(()),
                _ if began.elapsed() > MINUTE => break Err("it did not become ready".to_owned()),
                _ => {}
            }
            if let Some(status) = daemon.try_wait().unwrap() {
                break Err(format!("it ended at its start: {status}"));
            }
        };
        let took = began.elapsed();
        let mut slowest = self.slowest.lock().unwrap();
        *slowest = took.max(*slowest);
        drop(slowest);
        let process = rustix::process::Pid::from_raw(daemon.id() as i32).unwrap();
        let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
        let _ = daemon.wait();
        ready
    }

    fn look(&self, cut: &Cut, data: &Path) -> Result<(), String> {
        self.footage(cut, data)?;
        nothing_is_missing_silently(data, &cut.removed)?;
        let store = Store::open(data).map_err(|error| error.to_string())?;
        for (_, token) in self.recording.acknowledged.iter().filter(|(when, _)| *when <= cut.place) {
            if store.token_by_id(token).map_err(|error| error.to_string())?.is_none() {
                return Err(format!("token {token} is lost"));
            }
        }
        let trail = store.verify_audit().map_err(|error| error.to_string())?;
        trail.broken.map_or(Ok(()), |broken| Err(format!("the audit trail: {broken:?}")))
    }

    fn footage(&self, cut: &Cut, data: &Path) -> Result<(), String> {
        let index = rusqlite::Connection::open(data.join("index.db")).unwrap();
        let text = |sql: &str| -> String { index.query_row(sql, [], |row| row.get(0)).unwrap() };
        if text("PRAGMA integrity_check") != "ok" {
            return Err("index.db is damaged".into());
        }
        let mut found = BTreeMap::new();
        for (file, bytes) in sealed(data) {
            let content = std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            if content.len() as u64 != bytes {
                return Err(format!("{} has {} bytes, not {bytes}", file.display(), content.len()));
            }
            self.plays(&file, &content)?;
            found.insert(file.strip_prefix(data).unwrap().to_str().unwrap().to_owned(), content);
        }
        for (path, safe) in &cut.promised {
            let content = found.get(path).ok_or_else(|| format!("{path} is lost"))?;
            if !content.starts_with(safe) {
                let same = content.iter().zip(safe).take_while(|(one, other)| one == other).count();
                return Err(format!("{path}: {} bytes were safe, {same} are left", safe.len()));
            }
        }
        Ok(())
    }

    fn plays(&self, file: &Path, content: &[u8]) -> Result<(), String> {
        let hash: [u8; 32] = Sha256::digest(content).into();
        if self.sound.lock().unwrap().contains(&hash) {
            return Ok(());
        }
        let decoded = Command::new("ffprobe")
            .args(["-v", "warning", "-count_frames", "-select_streams", "v:0"])
            .args(["-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"])
            .arg(file)
            .stdin(Stdio::null())
            .output()
            .expect("ffprobe");
        let (pictures, complaints) =
            (String::from_utf8_lossy(&decoded.stdout), String::from_utf8_lossy(&decoded.stderr));
        let pictures: u64 = pictures.trim().trim_end_matches(',').parse().unwrap_or(0);
        if pictures == 0 || !complaints.is_empty() {
            return Err(format!("{}: {pictures} pictures; {complaints}", file.display()));
        }
        self.sound.lock().unwrap().insert(hash);
        Ok(())
    }
}

/// Between two recordings of a camera lies a gap, or what retention has removed.
fn nothing_is_missing_silently(data: &Path, removed: &[(String, i64)]) -> Result<(), String> {
    let index = rusqlite::Connection::open(data.join("index.db")).unwrap();
    let known = |sql: &str| -> Vec<(String, i64, i64, String)> {
        let mut rows = index.prepare(sql).unwrap();
        let rows =
            rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
        rows.collect::<rusqlite::Result<_>>().unwrap()
    };
    let mut all = known("SELECT camera, start_90k, end_90k, 'recorded' FROM segments");
    all.extend(known("SELECT camera, start_90k, end_90k, cause FROM gaps"));
    all.sort();
    if let Some(gap) = all.iter().find(|(.., cause)| cause == "disk") {
        return Err(format!("a gap that no disk has made: {gap:?}"));
    }
    let mut until: Option<(String, i64)> = None;
    for (camera, start, end, _) in &all {
        let before = until.take().filter(|(of, _)| of == camera).map_or(*start, |(_, until)| until);
        let was_removed = removed
            .iter()
            .any(|(of, began)| of == camera && (before - TOLERANCE_90K..*start).contains(began));
        if start - before > TOLERANCE_90K && !was_removed {
            let seconds = (start - before) as f64 / VIDEO_CLOCK as f64;
            let told: Vec<_> = all.iter().filter(|(of, ..)| of == camera).collect();
            return Err(format!("{seconds:.1} s of {camera} are missing without a word: {told:?}"));
        }
        until = Some((camera.clone(), before.max(*end)));
    }
    Ok(())
}
