//! Clips that can be proved, and rings that can be rebuilt: `liuta export`, `verify`, `signing-key` and `ring` with the real
//! binary, real recordings, and ffprobe and OpenSSL as judges.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::alert::alert;
use common::camera::{Camera, Mount};
use common::disk::SmallDisk;
use common::{Daemon, decoded_pictures, rendered, run, strict};
use jiff::{SignedDuration, Timestamp};
use liuta::store::{AuditFilter, Filter, Store};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);

/// A daemon that records two cameras.
async fn recording(seconds: u64) -> (Daemon, Camera) {
    let mounts = ["forest-1", "gate-1"].map(|name| Mount::clip(name, &rendered(&format!("{name}.mp4"))));
    let camera = Camera::start(&mounts);
    let section = |id: &str, more: &str| format!("[cameras.{id}]\nurl = {:?}\n{more}", camera.url(id));
    let place = "name = \"神东林区 1 号\"\ngrid = \"610881103001002\"\nposition = [110.2345, 39.1234]\n";
    let sections =
        format!("[vision]\nenabled = false\n{}{}", section("forest-1", place), section("gate-1", ""));
    let mut daemon = Daemon::start(&sections).await;
    for id in ["forest-1", "gate-1"] {
        let label = format!("camera={id:?}");
        let pictures = (seconds * 10) as f64;
        daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &[&label], pictures).await;
    }
    (daemon, camera)
}

/// `liuta WHAT…`
fn liuta(what: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_liuta"));
    command.args(what).stdin(Stdio::null()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What `liuta WHAT… --config FILE --json` prints, which has to succeed.
fn told(daemon: &Daemon, what: &[&str]) -> Value {
    let output = raw(daemon, what);
    assert!(output.status.success(), "{what:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn raw(daemon: &Daemon, what: &[&str]) -> Output {
    let config = daemon.config_file();
    liuta(&[what, &["--json", "--config", config.to_str().unwrap()]].concat())
}

fn export(daemon: &Daemon, to: &Path, more: &[&str]) -> Output {
    let range = ["export", "--from", "-1h", "--to", "now", "-o", to.to_str().unwrap()];
    raw(daemon, &[&range, more].concat())
}

/// `liuta verify` of a path: whether it is as it was signed, and which flaws are told.
fn verify(path: &Path, keys: &[&str]) -> (bool, Vec<String>) {
    let keys = keys.iter().flat_map(|key| ["--key", key]);
    let what: Vec<&str> = ["verify", "--json", path.to_str().unwrap()].into_iter().chain(keys).collect();
    let output = liuta(&what);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let ok = report["ok"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(!ok)), "{output:?}");
    let flaws = report["manifests"].as_array().unwrap().iter();
    let flaws = flaws.flat_map(|manifest| manifest["flaws"].as_array().unwrap());
    (ok, flaws.map(|flaw| flaw["kind"].as_str().unwrap().to_owned()).collect())
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}{ending}", path.display()))
}

fn flip(path: &Path, at: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at as usize] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in names(from) {
        std::fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clip_is_exported_while_the_daemon_records_and_proved_by_others() {
    let (daemon, _camera) = recording(6).await;
    let folder = tempfile::tempdir().unwrap();
    let clip = folder.path().join("clip.mp4");
    let before = Timestamp::now();
    let done = told(&daemon, &{
        let to = clip.to_str().unwrap();
        ["export", "--camera", "forest-1", "--from", "-1h", "-o", to, "--note", "case 7"]
    });
    let manifest = with_ending(&clip, ".manifest.json");
    let signature = with_ending(&manifest, ".sig");
    assert_eq!(names(folder.path()), ["clip.mp4", "clip.mp4.manifest.json", "clip.mp4.manifest.json.sig"]);
    assert_eq!(done["manifest"], manifest.to_str().unwrap());

    // What it says is so.
    let text = std::fs::read(&manifest).unwrap();
    let says: Value = serde_json::from_slice(&text).unwrap();
    let file = &says["files"][0];
    assert_eq!(
        (&says["version"], &says["box"], &says["note"]),
        (&1.into(), &"edge-1".into(), &"case 7".into())
    );
    assert!(says["exported_by"].as_str().unwrap().starts_with("command line, uid "));
    assert!(time(&says["exported_at"]) >= before);
    assert_eq!(file["name"], "clip.mp4");
    assert_eq!(file["camera_name"], "神东林区 1 号");
    assert_eq!(file["grid"], "610881103001002");
    assert_eq!(file["position"][0], 110.2345);
    assert!(file["codec"].as_str().unwrap().starts_with("avc1."));
    let sum = run(Command::new("sha256sum").arg(&clip));
    assert_eq!(file["sha256"], sum.split(' ').next().unwrap());
    assert_eq!(file["bytes"], clip.metadata().unwrap().len());
    assert_eq!(decoded_pictures(&clip), file["pictures"].as_u64().unwrap());
    let show = ["-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0"];
    let (seconds, _) = strict(Command::new("ffprobe").args(show).arg(&clip));
    let given = time(&file["given"]["end"]).duration_since(time(&file["given"]["start"]));
    let difference = seconds.trim().parse::<f64>().unwrap() - given.as_secs_f64();
    assert!((0.0..0.2).contains(&difference), "{seconds} {given:?}: the last picture's own time");
    // An hour was asked for, and the camera came a moment ago.
    assert_eq!(file["gaps"][0]["start"], file["asked"]["start"]);
    assert_eq!(file["gaps"][0]["end"], file["given"]["start"]);
    let segments = file["segments"].as_array().unwrap();
    assert!(!segments.is_empty());
    for segment in segments {
        assert!(daemon.data().join("recordings").join(segment["path"].as_str().unwrap()).exists());
        assert!(["whole", "unproved"].contains(&segment["state"].as_str().unwrap()), "{segment}");
    }

    // The box's key, from the box itself, by two ways.
    let key = told(&daemon, &["signing-key"]);
    let mut daemon = daemon;
    assert_eq!(daemon.json("/api/v1/signing-key").await, key);
    assert_eq!(says["fingerprint"], key["fingerprint"]);
    let pem = folder.path().join("box.pem");
    let config = daemon.config_file();
    let printed = liuta(&["signing-key", "--config", config.to_str().unwrap()]).stdout;
    std::fs::write(&pem, printed).unwrap();
    let der = format!("openssl pkey -pubin -in {} -outform DER | sha256sum", pem.display());
    let fingerprint = run(Command::new("sh").args(["-c", &der]));
    assert_eq!(key["fingerprint"], fingerprint.split(' ').next().unwrap());

    // OpenSSL judges, with what docs/evidence.md says.
    let openssl = || {
        let mut command = Command::new("openssl");
        command.args(["pkeyutl", "-verify", "-pubin", "-rawin"]).arg("-inkey").arg(&pem);
        command.arg("-in").arg(&manifest).arg("-sigfile").arg(&signature);
        command.output().unwrap().status.success()
    };
    assert!(openssl());

    let fingerprint = key["fingerprint"].as_str().unwrap();
    for keys in [&[][..], &[pem.to_str().unwrap()], &[fingerprint], &[&"00".repeat(32), fingerprint]] {
        assert_eq!(verify(&clip, keys), (true, vec![]), "{keys:?}");
    }
    assert_eq!(verify(&manifest, &[]), (true, vec![]));
    assert_eq!(verify(folder.path(), &[fingerprint]), (true, vec![]));
    assert_eq!(verify(&clip, &[&"00".repeat(32)]), (false, vec!["other-key".to_owned()]));
    let people = liuta(&["verify", clip.to_str().unwrap()]);
    let people = String::from_utf8_lossy(&people.stdout).into_owned();
    assert!(people.contains("not proved") && people.contains(fingerprint), "{people}");

    // It was written down before it left.
    let store = Store::open(&daemon.data()).unwrap();
    let page = Filter { limit: 1000, ..Filter::default() };
    let rows = store.audit(&AuditFilter { page, ..AuditFilter::default() }).unwrap().items;
    let row = rows.iter().find(|row| row.action == "export").unwrap();
    assert_eq!(
        (&*row.object, &row.who),
        ("camera/forest-1", &says["exported_by"].as_str().unwrap().to_owned())
    );
    assert!(row.detail.contains("clip.mp4"), "{}", row.detail);

    // Nothing is replaced by mistake.
    let bytes = std::fs::read(&clip).unwrap();
    let again = export(&daemon, &clip, &["--camera", "gate-1"]);
    assert!(!again.status.success() && stderr(&again).contains("--force"), "{}", stderr(&again));
    assert_eq!((std::fs::read(&clip).unwrap() == bytes, openssl()), (true, true));
    assert!(export(&daemon, &clip, &["--camera", "gate-1", "--force"]).status.success());
    assert_eq!(verify(&clip, &[fingerprint]), (true, vec![]));
    assert!(!names(folder.path()).iter().any(|name| name.starts_with('.')));

    // What cannot be written down is not exported.
    let other = rusqlite::Connection::open(daemon.data().join("state.db")).unwrap();
    let refuse = "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'full'); END";
    other.execute_batch(refuse).unwrap();
    let refused = folder.path().join("refused.mp4");
    let output = export(&daemon, &refused, &["--camera", "gate-1"]);
    assert!(!output.status.success() && stderr(&output).contains("audit trail"), "{}", stderr(&output));
    assert!(!refused.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_changed_is_told() {
    let (mut daemon, _camera) = recording(4).await;
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    // The daemon need not run.
    daemon.terminate().await;
    let done = export(&daemon, &whole, &["--camera", "forest-1", "--camera", "gate-1", "--camera", "gate-1"]);
    assert!(done.status.success(), "{}", stderr(&done));
    assert_eq!(names(&whole), ["forest-1.mp4", "gate-1.mp4", "manifest.json", "manifest.json.sig"]);
    for name in ["forest-1.mp4", "gate-1.mp4"] {
        assert!(decoded_pictures(&whole.join(name)) > 20);
    }
    assert_eq!(verify(&whole, &[]), (true, vec![]));
    assert_eq!(verify(&whole.join("gate-1.mp4"), &[]), (true, vec![]));

    let size = whole.join("gate-1.mp4").metadata().unwrap().len();
    let manifest = std::fs::read_to_string(whole.join("manifest.json")).unwrap();
    let says: Value = serde_json::from_str(&manifest).unwrap();
    let hash = says["files"][0]["sha256"].as_str().unwrap();
    type Change<'c> = &'c dyn Fn(&Path);
    let write = |folder: &Path, text: String| std::fs::write(folder.join("manifest.json"), text).unwrap();
    let changes: [(&[&str], Change<'_>); 14] = [
        (&["changed"], &|f| flip(&f.join("gate-1.mp4"), 0)),
        (&["changed"], &|f| flip(&f.join("gate-1.mp4"), size / 2)),
        (&["changed"], &|f| flip(&f.join("gate-1.mp4"), size - 1)),
        (&["changed"], &|f| {
            let clip = std::fs::File::options().write(true).open(f.join("gate-1.mp4")).unwrap();
            clip.set_len(size - 1).unwrap();
        }),
        (&["missing"], &|f| std::fs::remove_file(f.join("forest-1.mp4")).unwrap()),
        (&["missing", "extra"], &|f| {
            std::fs::rename(f.join("forest-1.mp4"), f.join("renamed.mp4")).unwrap();
        }),
        (&["extra"], &|f| std::fs::write(f.join("more.mp4"), "").unwrap()),
        (&["wrong-signature"], &|f| flip(&f.join("manifest.json.sig"), 20)),
        (&["wrong-signature"], &|f| std::fs::write(f.join("manifest.json.sig"), "").unwrap()),
        (&["no-signature"], &|f| std::fs::remove_file(f.join("manifest.json.sig")).unwrap()),
        // Text that says the same.
        (&["wrong-signature"], &|f| write(f, manifest.trim_end().to_owned())),
        (&["wrong-signature", "changed"], &|f| write(f, manifest.replace(hash, &"0".repeat(64)))),
        (&["unknown-version"], &|f| write(f, manifest.replace("\"version\": 1", "\"version\": 2"))),
        (&["unreadable-manifest"], &|f| write(f, manifest[..manifest.len() / 2].to_owned())),
    ];
    for (number, (expected, change)) in changes.into_iter().enumerate() {
        let changed = folder.path().join(number.to_string());
        copy(&whole, &changed);
        change(&changed);
        assert_eq!(
            verify(&changed, &[]),
            (false, expected.iter().map(|&k| k.to_owned()).collect()),
            "{number}"
        );
    }

    // A manifest that leads elsewhere, signed by nobody; and none at all.
    let outside = folder.path().join("outside");
    copy(&whole, &outside);
    write(&outside, manifest.replace("gate-1.mp4", "../whole/gate-1.mp4"));
    assert_eq!(verify(&outside, &[]).1, ["wrong-signature", "unreadable-manifest", "extra"]);
    assert_eq!(verify(&folder.path().join("nothing.mp4"), &[]).1, ["no-manifest"]);

    // Somebody else's signature over everything: only who knows the box's key can tell.
    let (key, forged) = (folder.path().join("key.pem"), folder.path().join("forged"));
    run(Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(&key));
    let public = run(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&key));
    copy(&whole, &forged);
    flip(&forged.join("gate-1.mp4"), size / 2);
    let sum = run(Command::new("sha256sum").arg(forged.join("gate-1.mp4")));
    let der = format!("openssl pkey -in {} -pubout -outform DER | sha256sum", key.display());
    let fingerprint = run(Command::new("sh").args(["-c", &der]));
    let first = |text: &str| text.split(' ').next().unwrap().to_owned();
    let text = manifest
        .replace(says["files"][1]["sha256"].as_str().unwrap(), &first(&sum))
        .replace(says["public_key"].as_str().unwrap(), public.lines().nth(1).unwrap())
        .replace(says["fingerprint"].as_str().unwrap(), &first(&fingerprint));
    write(&forged, text);
    let mut sign = Command::new("openssl");
    sign.args(["pkeyutl", "-sign", "-rawin", "-inkey"]).arg(&key);
    sign.arg("-in").arg(forged.join("manifest.json")).arg("-out").arg(forged.join("manifest.json.sig"));
    run(&mut sign);
    assert_eq!(verify(&forged, &[]), (true, vec![]));
    let own = says["fingerprint"].as_str().unwrap();
    assert_eq!(verify(&forged, &[own]), (false, vec!["other-key".to_owned()]));
    assert_eq!(verify(&whole, &[own]), (true, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_cannot_end_leaves_nothing() {
    let (mut daemon, _camera) = recording(6).await;
    let folder = tempfile::tempdir().unwrap();
    let nothing = |output: &Output, says: &str| {
        assert!(!output.status.success() && stderr(output).contains(says), "{}", stderr(output));
        assert_eq!(names(folder.path()), Vec::<String>::new());
    };
    nothing(
        &export(&daemon, &folder.path().join("a.mp4"), &["--camera", "nobody"]),
        "there is no camera \"nobody\"",
    );
    let both = ["--camera", "gate-1", "--camera", "../../etc/passwd"];
    nothing(&export(&daemon, &folder.path().join("b"), &both), "there is no camera");
    nothing(&export(&daemon, &folder.path().join("no/such/c.mp4"), &["--camera", "gate-1"]), "no/such");
    let reversed = ["export", "--camera", "gate-1", "--from", "now", "--to", "-1h", "-o", "d.mp4"];
    let output = raw(&daemon, &reversed);
    assert!(stderr(&output).contains("ends") && !output.status.success(), "{}", stderr(&output));
    let endless = ["export", "--camera", "gate-1", "--from", "1999-01-01 00:00", "-o", "e.mp4"];
    assert!(stderr(&raw(&daemon, &endless)).contains("72 hours"));

    if let Some(disk) = SmallDisk::mount(1) {
        let hog = std::fs::File::options().write(true).open(disk.fill()).unwrap();
        hog.set_len(hog.metadata().unwrap().len() - (64 << 10)).unwrap();
        for to in ["clip.mp4", "folder/"] {
            let full = export(&daemon, &disk.path().join(to), &["--camera", "forest-1"]);
            assert!(!full.status.success() && stderr(&full).contains("is full"), "{}", stderr(&full));
            assert_eq!(names(disk.path()), ["hog"]);
        }
    }

    // Somebody stops it in the middle: a recording that cannot be read to its end holds it there.
    daemon.terminate().await;
    let day = daemon.data().join("recordings/gate-1");
    let day = day.join(&names(&day)[0]);
    let endless = day.join(&names(&day)[0]);
    std::fs::remove_file(&endless).unwrap();
    run(Command::new("mkfifo").arg(&endless));
    let clip = folder.path().join("f.mp4");
    let mut command = Command::new(env!("CARGO_BIN_EXE_liuta"));
    command.args(["export", "--camera", "gate-1", "--from", "-1h", "-o"]).arg(&clip);
    let mut child = command.arg("--config").arg(daemon.config_file()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while names(folder.path()) != [".f.mp4.partial"] {
        assert!(began.elapsed() < MINUTE && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_is_rebuilt_from_its_files() {
    let (mut daemon, _camera) = recording(4).await;
    let refused = raw(&daemon, &["ring", "rebuild"]);
    assert!(!refused.status.success() && stderr(&refused).contains("in use"), "{}", stderr(&refused));

    // A gap, and an alert whose evidence is pinned.
    daemon.kill();
    std::thread::sleep(Duration::from_secs(2));
    let mut daemon = daemon.restart().await;
    daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &["camera=\"gate-1\""], 40.0).await;
    let at = Timestamp::now() - SignedDuration::from_secs(2);
    // What the index said last lies in its log alone.
    daemon.kill();
    let store = Store::open(&daemon.data()).unwrap();
    store.put_alert(&alert("01PINNED", "gate-1", at), None, &[]).unwrap();
    drop(store);
    let index = daemon.data().join("index.db");
    let pins = || {
        let db = rusqlite::Connection::open(&index).unwrap();
        let mut pins = db.prepare("SELECT alert || camera FROM pins").unwrap();
        let pins = pins.query_map([], |row| row.get::<_, String>(0)).unwrap();
        pins.collect::<Result<Vec<_>, _>>().unwrap()
    };
    assert_eq!(pins(), Vec::<String>::new());

    // The same without a daemon that writes on, as `/list` says it.
    let listed = |daemon: &Daemon| {
        let config = liuta::config::file::load(&daemon.config_file()).unwrap().config;
        let archive = liuta::record::Archive::read(&config).unwrap();
        // Pictures may be as new as this moment; a part's end is known a little ahead.
        let now = Timestamp::now();
        let all = now - SignedDuration::from_hours(1)..now + SignedDuration::from_mins(1);
        ["gate-1", "forest-1"].map(|camera| format!("{:?}", archive.list(camera, all.clone()).unwrap()))
    };
    let before = listed(&daemon);
    assert!(before[0].contains("Daemon"), "{before:?}");
    let done = told(&daemon, &["ring", "rebuild"]);
    assert_eq!(listed(&daemon), before);
    assert_eq!(pins(), ["01PINNEDgate-1"]);
    assert!(done["rebuilt"]["volumes"][0]["aside"].as_str().unwrap().contains("index.replaced-"));
    assert_eq!((&done["pins"], &done["rebuilt"]["unexplained_gaps"]), (&1.into(), &0.into()));

    // Without the old one: the same recordings, and the gap has no cause any more.
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(daemon.data().join(format!("index.db{ending}")));
    }
    let done = told(&daemon, &["ring", "rebuild"]);
    assert_eq!(done["rebuilt"]["volumes"][0]["aside"], Value::Null);
    assert!(done["rebuilt"]["unexplained_gaps"].as_u64().unwrap() >= 2);
    assert_eq!(pins(), ["01PINNEDgate-1"]);
    let after = listed(&daemon);
    assert!(after[0].contains("Unknown"), "{after:?}");
    assert_eq!(after[0].matches("Recorded").count(), before[0].matches("Recorded").count());

    // A database that is none; by command, and by a start.
    std::fs::write(&index, "this is no database, whatever its name says").unwrap();
    told(&daemon, &["ring", "rebuild"]);
    assert_eq!(listed(&daemon), after);
    std::fs::remove_file(&index).unwrap();
    let mut daemon = daemon.restart().await;
    assert_eq!(pins(), ["01PINNEDgate-1"]);
    let gaps: Value = daemon.json("/list?path=gate-1").await;
    assert!(gaps.as_array().unwrap().iter().any(|item| item["gap"] == "unknown"), "{gaps}");
    daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &["camera=\"gate-1\""], 10.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_missing_and_unknown_recordings_are_found() {
    let (mut daemon, _camera) = recording(4).await;
    let verify = |daemon: &Daemon, more: &[&str]| {
        let output = raw(daemon, &[&["ring", "verify"], more].concat());
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.success(), told["ok"].as_bool().unwrap(), "{output:?}");
        let flaws = told["checked"]["flaws"].as_array().unwrap().clone();
        let flaw = |flaw: &Value| {
            (flaw["kind"].as_str().unwrap().to_owned(), flaw["file"].as_str().unwrap().to_owned())
        };
        flaws.iter().map(flaw).collect::<Vec<_>>()
    };
    assert_eq!(verify(&daemon, &[]), [], "while it records");
    daemon.terminate().await;
    assert_eq!(verify(&daemon, &[]), []);
    let recordings = daemon.data().join("recordings");
    let files = |camera: &str| {
        let day = recordings.join(camera);
        let day = day.join(&names(&day)[0]);
        names(&day).into_iter().map(|name| day.join(name)).collect::<Vec<_>>()
    };
    let of = |kind: &str, path: &Path| (kind.to_owned(), path.to_str().unwrap().to_owned());

    let flipped = files("gate-1")[0].clone();
    flip(&flipped, flipped.metadata().unwrap().len() / 2);
    assert_eq!(verify(&daemon, &[]), [of("damaged", &flipped)]);
    assert_eq!(verify(&daemon, &["--camera", "forest-1"]), []);
    assert_eq!(verify(&daemon, &["--to", "-1h"]), []);

    // It is exported all the same, and said.
    let folder = tempfile::tempdir().unwrap();
    let clip = folder.path().join("clip.mp4");
    let output = export(&daemon, &clip, &["--camera", "gate-1"]);
    assert!(output.status.success() && stderr(&output).contains("damaged"), "{}", stderr(&output));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let segments = told["files"][0]["segments"].as_array().unwrap();
    assert!(segments.iter().any(|segment| segment["state"] == "damaged"), "{segments:?}");
    let people = liuta(&["verify", clip.to_str().unwrap()]);
    assert!(people.status.success() && String::from_utf8_lossy(&people.stdout).contains("damaged"));

    let orphan = flipped.with_file_name("00-00-00.mp4");
    std::fs::copy(&flipped, &orphan).unwrap();
    let missing = files("forest-1")[0].clone();
    std::fs::rename(&missing, folder.path().join("away.mp4")).unwrap();
    let mut found = verify(&daemon, &[]);
    found.sort();
    let mut expected = [of("damaged", &flipped), of("missing", &missing), of("orphan", &orphan)];
    expected.sort();
    assert_eq!(found, expected);
}
