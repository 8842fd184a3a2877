//! `state.db` through crashes: what a process was told is stored is there after `kill -9`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use jiff::Timestamp;
use liuta::alert::{Alert, Disposition, Phase};
use liuta::config::Kind;
use liuta::store::{Filter, Store};

/// Set for the copy of this test binary that writes until it is killed.
const WRITE_TO: &str = "LIUTA_TEST_WRITE_TO";

fn alert(n: u32) -> Alert {
    let at = Timestamp::from_second(1_800_000_000 + i64::from(n)).unwrap();
    Alert {
        id: format!("01J{n:06}"),
        revision: 1,
        phase: Phase::Active,
        disposition: Disposition::Reported,
        kind: Kind::Smoke,
        level: 2,
        camera: "forest-1".into(),
        scene: "forest-fire".to_owned(),
        zone: None,
        grid: None,
        position: None,
        confidence: 0.5,
        model: "m@1".to_owned(),
        started_at: at,
        ended_at: None,
        count: 1,
        boxes: Vec::new(),
        snapshot_at: at,
        evidence_start: at,
        evidence_end: at,
        drill: false,
    }
}

/// Not a test of its own: the process that the others start and kill.
#[test]
fn writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(WRITE_TO).map(PathBuf::from) else { return };
    let store = Store::open(&folder).unwrap();
    let first = store.open_alerts().unwrap().len() as u32;
    let mut out = std::io::stderr();
    for n in first.. {
        let snapshot = Bytes::from(vec![n as u8; 20_000]);
        store
            .put_alert(&alert(n), Some(&snapshot), &[("desk".to_owned(), Bytes::from_static(b"{}"))])
            .unwrap();
        writeln!(out, "stored {n}").unwrap();
    }
}

fn writer(folder: &Path) -> (Child, impl Iterator<Item = u32> + use<>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writes_until_it_is_killed", "--nocapture"])
        .env(WRITE_TO, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let stored = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("stored ")?.parse().ok());
    (child, stored)
}

#[test]
fn nothing_that_was_stored_is_lost_by_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 1..=5u32 {
        let (mut child, mut stored) = writer(folder.path());
        last = stored.by_ref().find(|&n| n >= last + 3 * round).expect("the writer stored something");
        child.kill().unwrap();
        child.wait().unwrap();
        // Said before the kill, read after it.
        last = stored.last().unwrap_or(last);

        let store = Store::open(folder.path()).unwrap();
        let alerts = store.open_alerts().unwrap();
        assert!(alerts.len() as u32 > last, "round {round}: {} alerts, {last} was stored", alerts.len());
        for (n, found) in alerts.iter().enumerate() {
            assert_eq!(found, &alert(n as u32));
            assert_eq!(store.snapshot(&found.id).unwrap().unwrap(), vec![n as u8; 20_000]);
        }
        let (_, pending) = store.outbox_state("desk").unwrap();
        assert_eq!(pending, alerts.len() as u64, "each alert with its outbox entry, or neither");
    }
}

#[test]
fn another_process_reads_and_writes_beside_a_busy_writer() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, mut stored) = writer(folder.path());
    stored.next().expect("the writer stored something");
    let store = Store::open(folder.path()).unwrap();
    for n in 0..20 {
        store.secret(&format!("secret {n}")).unwrap();
        store.alerts(&Filter { limit: 10, ..Filter::default() }).unwrap();
    }
    // It may have had to wait its turn for all of these.
    stored.next().expect("the writer goes on");
    child.kill().unwrap();
    child.wait().unwrap();
}
