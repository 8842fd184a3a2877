use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;
use crate::alert::{Alert, Disposition, Phase};
use crate::config::Kind;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn alert(n: u32, camera: &str) -> Alert {
    Alert {
        id: format!("01J{n:05}"),
        revision: 1,
        phase: Phase::Active,
        disposition: Disposition::Reported,
        kind: Kind::Fire,
        level: 1,
        camera: camera.into(),
        scene: "forest-fire".to_owned(),
        zone: None,
        grid: Some("610881103001002".to_owned()),
        position: Some([110.2345, 39.1234]),
        confidence: 0.87,
        model: "m@1".to_owned(),
        started_at: at(n.into()),
        ended_at: None,
        count: 3,
        boxes: vec![detection("fire", 0.87)],
        snapshot_at: at(n.into()),
        evidence_start: at(n.into()),
        evidence_end: at(n.into()),
        drill: false,
    }
}

fn detection(class: &str, score: f32) -> Detection {
    Detection { class: class.to_owned(), score, bbox: [0.1, 0.2, 0.3, 0.4] }
}

fn store() -> (tempfile::TempDir, Arc<Store>) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

fn to(destination: &str, text: &'static str) -> (String, Bytes) {
    (destination.to_owned(), Bytes::from_static(text.as_bytes()))
}

#[test]
fn an_alert_comes_back_as_it_was_with_its_snapshot_after_a_restart() {
    let (folder, store) = store();
    let mut alert = alert(1, "forest-1");
    store.put_alert(&alert, Some(&Bytes::from_static(b"one")), &[]).unwrap();
    alert.revision = 2;
    alert.count = 9;
    store.put_alert(&alert, None, &[]).unwrap();
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.alert(&alert.id).unwrap().unwrap(), alert);
    assert_eq!(store.snapshot(&alert.id).unwrap().unwrap(), "one");
    assert_eq!(store.open_alerts().unwrap(), std::slice::from_ref(&alert));
    alert.revision = 3;
    alert.phase = Phase::Ended;
    alert.ended_at = Some(at(9));
    store.put_alert(&alert, Some(&Bytes::from_static(b"two")), &[]).unwrap();
    assert_eq!(store.open_alerts().unwrap(), []);
    assert_eq!(store.snapshot(&alert.id).unwrap().unwrap(), "two");
    assert_eq!(store.alert("01J").unwrap(), None);
    assert_eq!(store.snapshot("01J").unwrap(), None);
}

#[test]
fn a_revision_may_be_put_again_but_not_changed() {
    let (_folder, store) = store();
    let mut alert = alert(1, "forest-1");
    let entries = [to("desk", "{}")];
    store.put_alert(&alert, None, &entries).unwrap();
    let first = store.due("desk", Timestamp::now(), 10).unwrap();
    store.put_alert(&alert, None, &entries).unwrap();
    assert_eq!(store.due("desk", Timestamp::now(), 10).unwrap(), first);
    alert.count = 99;
    assert!(matches!(store.put_alert(&alert, None, &entries), Err(StoreError::Stale { newest: 1, .. })));
    assert_eq!(store.alert(&alert.id).unwrap().unwrap().count, 3);
}

#[test]
fn alerts_are_filtered() {
    let (_folder, store) = store();
    for n in 0..6 {
        store.put_alert(&alert(n, if n % 2 == 0 { "even" } else { "odd" }), None, &[]).unwrap();
    }
    let ids = |filter: Filter| -> Vec<String> {
        store.alerts(&filter).unwrap().items.into_iter().map(|alert| alert.id).collect()
    };
    let all = Filter { limit: 100, ..Filter::default() };
    assert_eq!(ids(all.clone()).len(), 6);
    assert_eq!(
        ids(Filter { cameras: Some(vec!["odd".to_owned(), "none".to_owned()]), ..all.clone() }),
        ["01J00005", "01J00003", "01J00001"]
    );
    assert!(ids(Filter { cameras: Some(Vec::new()), ..all.clone() }).is_empty());
    assert_eq!(ids(Filter { range: Some(at(2)..at(4)), ..all.clone() }), ["01J00003", "01J00002"]);
    for cursor in ["", "x", "bnVsbA", "WzFd", "////"] {
        let foreign = store.alerts(&Filter { cursor: Some(cursor.to_owned()), ..all.clone() });
        assert!(matches!(foreign, Err(StoreError::Cursor)), "{cursor:?}");
    }
}

#[test]
fn pages_stay_put_while_alerts_come_in() {
    let (_folder, store) = store();
    for n in 0..10 {
        store.put_alert(&alert(n, "a"), None, &[]).unwrap();
    }
    let mut filter = Filter { limit: 4, ..Filter::default() };
    let mut seen = Vec::new();
    for round in 0.. {
        let page = store.alerts(&filter).unwrap();
        seen.extend(page.items.into_iter().map(|alert| alert.id));
        store.put_alert(&alert(100 + round, "a"), None, &[]).unwrap();
        match page.next {
            Some(next) => filter.cursor = Some(next),
            None => break,
        }
    }
    let expected: Vec<String> = (0..10).rev().map(|n| format!("01J{n:05}")).collect();
    assert_eq!(seen, expected);
}

#[test]
fn detections_come_back_by_camera_and_time() {
    let (_folder, store) = store();
    for second in 0..5 {
        let found = [detection("fire", 0.5), detection("smoke", 0.25)];
        store.put_detections("b", at(second), "m@1", &found).unwrap();
        store.put_detections("a", at(second), "m@1", &found[..1]).unwrap();
    }
    store.put_detections("a", at(9), "m@1", &[]).unwrap();
    let filter = Filter { limit: 1000, ..Filter::default() };
    assert_eq!(store.detections(&filter).unwrap().items.len(), 15);
    let only =
        Filter { cameras: Some(vec!["a".to_owned(), "a".to_owned(), "?".to_owned()]), ..filter.clone() };
    let page = store.detections(&only).unwrap();
    assert_eq!(page.items.len(), 5);
    let newest = StoredDetection {
        camera: "a".to_owned(),
        at: at(4),
        model: "m@1".to_owned(),
        detection: detection("fire", 0.5),
    };
    assert_eq!(page.items[0], newest);
    let some = Filter { range: Some(at(1)..at(3)), ..filter };
    assert_eq!(store.detections(&some).unwrap().items.len(), 6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// Pages of any size, with or without a list of cameras, put together are the whole, newest first.
    #[test]
    fn pages_of_detections_are_the_whole(
        looks in proptest::collection::vec((0..3u8, 0..6i64, 1..4usize), 0..25),
        limit in 1..7usize,
        listed in any::<bool>(),
    ) {
        let (_folder, store) = store();
        for (camera, second, count) in &looks {
            let found = vec![detection("fire", 0.5); *count];
            store.put_detections(&format!("c{camera}"), at(*second), "m", &found).unwrap();
        }
        let cameras = listed.then(|| (0..3).map(|camera| format!("c{camera}")).collect());
        let whole = store.detections(&Filter { limit: 1000, ..Filter::default() }).unwrap();
        prop_assert!(whole.items.is_sorted_by(|a, b| a.at >= b.at));
        let mut filter = Filter { limit, cameras, ..Filter::default() };
        let mut paged = Vec::new();
        loop {
            let page = store.detections(&filter).unwrap();
            prop_assert!(page.items.len() <= limit);
            paged.extend(page.items);
            match page.next {
                Some(next) => filter.cursor = Some(next),
                None => break,
            }
        }
        prop_assert_eq!(paged, whole.items);
    }
}

#[test]
fn the_outbox_keeps_the_order_of_an_alerts_revisions() {
    let (_folder, store) = store();
    let now = Timestamp::now() + Duration::from_secs(1);
    let (mut first, second) = (alert(1, "a"), alert(2, "a"));
    store.put_alert(&first, None, &[to("desk", "1.1"), to("other", "1.1")]).unwrap();
    first.revision = 2;
    store.put_alert(&first, None, &[to("desk", "1.2")]).unwrap();
    store.put_alert(&second, None, &[to("desk", "2.1")]).unwrap();
    let events = |now| -> Vec<String> {
        store.due("desk", now, 10).unwrap().into_iter().map(|entry| entry.event).collect()
    };
    assert_eq!(events(now), ["01J00001.1", "01J00002.1"]);
    assert_eq!(store.outbox_state("desk").unwrap().1, 3);

    let row = store.due("desk", now, 1).unwrap()[0].row;
    store.failed(row, "refused", now + Duration::from_secs(60)).unwrap();
    assert_eq!(events(now), ["01J00002.1"], "the second revision waits for the first");
    store.acknowledged(store.due("desk", now, 1).unwrap()[0].row).unwrap();
    assert_eq!(store.outbox_state("desk").unwrap(), (Some(now + Duration::from_secs(60)), 2));
    store.hasten("desk", now).unwrap();
    let entry = store.due("desk", now, 1).unwrap().remove(0);
    assert_eq!((entry.attempts, entry.body.as_ref()), (1, &b"1.1"[..]));

    store.give_up(entry.row, "expired").unwrap();
    assert_eq!(events(now), ["01J00001.2"]);
    let (count, latest) = store.dead_letters("desk", at(0) - Duration::from_secs(1_000_000_000)).unwrap();
    assert_eq!((count, latest.unwrap().reason.as_str()), (1, "expired; last error: refused"));
    assert_eq!(store.outbox_state("other").unwrap().1, 1);
}

#[test]
fn a_transaction_that_fails_leaves_nothing() {
    let (_folder, store) = store();
    let refused = store.write(|db| {
        outbox::enqueue(db, &alert(1, "a"), &[to("desk", "{}")])?;
        db.execute("INSERT INTO alerts (id) VALUES ('x')", [])
    });
    assert!(refused.is_err());
    assert_eq!(store.outbox_state("desk").unwrap(), (None, 0));
}

#[test]
fn a_full_database_refuses_whole_and_takes_the_same_alert_later() {
    let (_folder, store) = store();
    store.put_alert(&alert(1, "a"), None, &[]).unwrap();
    let limit = |pages: i64| {
        let writer = store.writer();
        writer.durable.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
    };
    limit(1);
    let jpeg = Bytes::from(vec![0; 200_000]);
    let entries = [to("desk", "{}")];
    let error = store.put_alert(&alert(2, "a"), Some(&jpeg), &entries).unwrap_err();
    assert!(error.to_string().contains("full"), "{error}");
    assert_eq!(store.alert("01J00002").unwrap(), None);
    assert_eq!(store.outbox_state("desk").unwrap(), (None, 0));
    assert!(store.alert("01J00001").unwrap().is_some());
    limit(i64::from(i32::MAX));
    store.put_alert(&alert(2, "a"), Some(&jpeg), &entries).unwrap();
    assert_eq!(store.outbox_state("desk").unwrap().1, 1);
}

#[test]
fn what_is_due_is_found_through_an_index() {
    let (_folder, store) = store();
    let plan: Vec<String> = store
        .read(|db| {
            db.prepare(
                "EXPLAIN QUERY PLAN SELECT row FROM outbox AS entry WHERE destination = 'd' AND due <= 1 AND NOT EXISTS
                     (SELECT 1 FROM outbox AS earlier WHERE earlier.destination = 'd'
                          AND earlier.alert = entry.alert AND earlier.row < entry.row)
                 ORDER BY row LIMIT 4",
            )?
            .query_map([], |row| row.get(3))?
            .collect()
        })
        .unwrap();
    assert!(plan[0].contains("COVERING INDEX outbox_due"), "{plan:?}");
    assert!(plan.iter().all(|step| !step.contains("TEMP B-TREE")), "{plan:?}");
}

#[test]
fn secrets_are_made_once() {
    let (folder, store) = store();
    let secret = store.secret("links").unwrap();
    assert_ne!(secret, store.secret("other").unwrap());
    assert_eq!(Store::open(folder.path()).unwrap().secret("links").unwrap(), secret);
}

#[test]
fn old_things_are_forgotten_and_open_alerts_are_not() {
    let (_folder, store) = store();
    let old = Timestamp::now() - Duration::from_secs(3600);
    let mut ended = alert(1, "a");
    (ended.started_at, ended.ended_at, ended.phase) = (old, Some(old), Phase::Ended);
    let mut open = alert(2, "a");
    open.started_at = old;
    for alert in [&ended, &open] {
        store.put_alert(alert, Some(&Bytes::from_static(b"jpeg")), &[]).unwrap();
    }
    store.put_detections("a", old, "m", &vec![detection("fire", 0.5); 12_000]).unwrap();
    store.put_detections("a", Timestamp::now(), "m", &[detection("fire", 0.5)]).unwrap();
    store.forget(Duration::from_secs(60), Duration::from_secs(60)).unwrap();
    let filter = Filter { limit: 10, ..Filter::default() };
    assert_eq!(store.alerts(&filter).unwrap().items, [open]);
    assert_eq!(store.snapshot(&ended.id).unwrap(), None);
    assert_eq!(store.detections(&filter).unwrap().items.len(), 1);
}

#[test]
fn only_the_owner_may_read_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let store = Store::open(&data).unwrap();
    store.put_alert(&alert(1, "a"), None, &[]).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        assert_eq!(mode(&data.join(name)), 0o600, "{name}");
    }
}

#[test]
fn a_newer_database_is_refused_and_left_alone() {
    let (folder, store) = store();
    drop(store);
    let path = folder.path().join("state.db");
    let db = Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    let before = std::fs::read(&path).unwrap();
    let error = Store::open(folder.path()).err().expect("refused");
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_damaged_database_is_named_and_left_alone() {
    let (folder, store) = store();
    store.put_alert(&alert(1, "a"), None, &[]).unwrap();
    drop(store);
    let path = folder.path().join("state.db");
    for damage in [&b"this is no database, it is a note of somebody"[..], &[0xFF; 300]] {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[..damage.len()].copy_from_slice(damage);
        std::fs::write(&path, &bytes).unwrap();
        let error = Store::open(folder.path()).err().expect("refused").to_string();
        assert!(error.contains("state.db is damaged") && error.contains("backup"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn a_migration_leaves_a_copy_of_what_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    schema::create_file(folder.path(), &path).unwrap();
    let mut db = connect(&path).unwrap();
    schema::migrate(&mut db, &path, &schema::MIGRATIONS[..1]).unwrap();
    db.execute(
        "INSERT INTO alerts (id, revision, phase, camera, started_at, body) VALUES ('1', 1, '', '', 0, '')",
        [],
    )
    .unwrap();
    let broken = [schema::MIGRATIONS[0], "ALTER TABLE alerts ADD COLUMN x TEXT; SELECT nonsense"];
    assert!(schema::migrate(&mut db, &path, &broken).is_err());
    assert!(db.prepare("SELECT x FROM alerts").is_err(), "a migration that fails changes nothing");
    schema::migrate(&mut db, &path, &[schema::MIGRATIONS[0], "ALTER TABLE alerts ADD COLUMN x TEXT"])
        .unwrap();
    db.prepare("SELECT x FROM alerts").unwrap();
    let copy = folder.path().join("state.db.v1");
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    let copy = Connection::open(copy).unwrap();
    let alerts: i64 = copy.query_row("SELECT count(*) FROM alerts", [], |row| row.get(0)).unwrap();
    assert_eq!(alerts, 1);
    assert!(copy.prepare("SELECT x FROM alerts").is_err());
}

#[test]
fn tokens_of_the_first_schema_open_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    schema::create_file(folder.path(), &path).unwrap();
    let mut db = connect(&path).unwrap();
    schema::migrate(&mut db, &path, &schema::MIGRATIONS[..1]).unwrap();
    db.execute(
        "INSERT INTO tokens (id, sha256, role, cameras, created, expires) VALUES ('01A', ?1, 'operator', ?2, 7, 8)",
        ([9u8; 32], "[\"gate-1\"]"),
    )
    .unwrap();
    drop(db);
    let store = Store::open(folder.path()).unwrap();
    let token = store.token(&[9; 32]).unwrap().unwrap();
    assert_eq!((token.id.as_str(), token.role.as_str(), token.name.as_str()), ("01A", "operator", ""));
    assert_eq!(token.cameras, Some(vec!["gate-1".to_owned()]));
    assert_eq!((nanos(token.created), token.expires.map(nanos)), (7, Some(8)));
    assert_eq!((token.actions, token.revoked), (None, None));
    assert_eq!(store.people().unwrap().len(), 0);
    assert_eq!(store.verify_audit().unwrap().rows, 0);
    assert!(folder.path().join("state.db.v1").exists());
}

#[test]
fn revisions_are_logged_in_their_order_and_the_newest_are_kept() {
    let (folder, store) = store();
    let logged = |after: u64, until: u64, limit: usize| -> Vec<(u64, String, u32)> {
        let rows = store.alert_log(after, until, limit).unwrap();
        let read = |(seq, alert): (u64, Option<Alert>)| alert.map(|alert| (seq, alert.id, alert.revision));
        rows.into_iter().filter_map(read).collect()
    };
    assert_eq!(store.alert_log_end().unwrap(), 0);
    for (n, revision) in [(1, 1), (2, 1), (1, 2)] {
        let revision = Alert { revision, phase: Phase::Ended, ended_at: Some(at(9)), ..alert(n, "gate-1") };
        store.put_alert(&revision, None, &[]).unwrap();
        // The same again is no other revision.
        store.put_alert(&revision, None, &[]).unwrap();
    }
    let (one, two) = ("01J00001".to_owned(), "01J00002".to_owned());
    assert_eq!(logged(0, u64::MAX, 10), [(1, one.clone(), 1), (2, two.clone(), 1), (3, one.clone(), 2)]);
    assert_eq!(logged(1, 2, 10), [(2, two.clone(), 1)]);
    assert_eq!(logged(1, u64::MAX, 1), [(2, two, 1)]);
    // Another process, and one that cannot be read.
    let other = Store::open(folder.path()).unwrap();
    other.put_alert(&Alert { revision: 3, ..alert(1, "gate-1") }, None, &[]).unwrap();
    other.write(|db| db.execute("UPDATE alert_log SET body = '{' WHERE seq = 3", []).map(drop)).unwrap();
    let unreadable = store.alert_log(2, u64::MAX, 10).unwrap();
    assert_eq!(
        unreadable.iter().map(|(seq, alert)| (*seq, alert.is_some())).collect::<Vec<_>>(),
        [(3, false), (4, true)]
    );
    // What is forgotten is forgotten here, too, and no number comes twice.
    other.write(|db| db.execute("DELETE FROM alerts", []).map(drop)).unwrap();
    assert_eq!((logged(0, u64::MAX, 10).len(), store.alert_log_end().unwrap()), (0, 4));
    store.put_alert(&alert(3, "gate-1"), None, &[]).unwrap();
    let far = "UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'alert_log'";
    store.write(|db| db.execute(far, [ALERTS_LOGGED as i64 + 3]).map(drop)).unwrap();
    let numbers = || logged(0, u64::MAX, 10).into_iter().map(|(seq, ..)| seq).collect::<Vec<_>>();
    store.put_alert(&alert(4, "gate-1"), None, &[]).unwrap();
    assert_eq!(numbers(), [5, ALERTS_LOGGED + 4]);
    store.put_alert(&alert(5, "gate-1"), None, &[]).unwrap();
    assert_eq!(numbers(), [ALERTS_LOGGED + 4, ALERTS_LOGGED + 5]);
}

#[test]
fn two_processes_write_at_the_same_time() {
    let (folder, store) = store();
    let other = Store::open(folder.path()).unwrap();
    std::thread::scope(|scope| {
        for (n, store) in [&store, &other].into_iter().enumerate() {
            scope.spawn(move || {
                for i in 0..30 {
                    store.put_alert(&alert(n as u32 * 1000 + i, "a"), None, &[to("desk", "{}")]).unwrap();
                }
            });
        }
    });
    assert_eq!(store.outbox_state("desk").unwrap().1, 60);
}

#[test]
fn the_file_alone_holds_everything_after_a_checkpoint() {
    let (folder, store) = store();
    store.put_alert(&alert(1, "a"), None, &[]).unwrap();
    let alone = || {
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::copy(folder.path().join("state.db"), elsewhere.path().join("state.db")).unwrap();
        let copy = Store::open(elsewhere.path()).unwrap();
        copy.alerts(&Filter { limit: 10, ..Filter::default() }).unwrap().items.len()
    };
    assert_eq!(alone(), 0, "all of it lies in the log");
    store.checkpoint().unwrap();
    assert_eq!(alone(), 1);
}

#[test]
fn a_backup_is_whole_private_and_overwrites_nothing() {
    let (folder, store) = store();
    store.put_alert(&alert(1, "a"), None, &[]).unwrap();
    let copy = folder.path().join("copy.db");
    store.back_up(&copy).unwrap();
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(store.back_up(&copy).is_err());
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::rename(&copy, elsewhere.path().join("state.db")).unwrap();
    let restored = Store::open_existing(elsewhere.path()).unwrap();
    assert_eq!(restored.alerts(&Filter { limit: 10, ..Filter::default() }).unwrap().items.len(), 1);
    let nowhere = store.back_up(Path::new("/nowhere/copy.db"));
    assert!(nowhere.unwrap_err().to_string().starts_with("/nowhere/copy.db: "));
}

#[test]
fn only_looking_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for data in [folder.path().to_owned(), folder.path().join("missing")] {
        assert!(matches!(Store::open_existing(&data), Err(StoreError::Missing(_))));
        assert!(!data.join("state.db").exists());
    }
}
