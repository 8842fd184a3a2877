//! What is written into the audit trail, and what happens where it cannot be.
//!
//! Changes and exports fail closed: what cannot be written down is not done. Watching and wrong sign-ins fail open: they
//! go through a queue that nobody waits for, and what it does not take is a health alarm. The chain itself is `store`'s.
//!
//! Nobody may fill the disk with rows, and nobody may hide a row behind many: what repeats is one row in a while, and
//! wrong sign-ins have a budget of rows for each kind and account.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::By;
use crate::health::{Health, Severity};
use crate::store::{AuditEntry, Store, StoreError};

/// Rows that wait for the disk.
const QUEUE: usize = 4_096;

/// Rows of one transaction.
const AT_ONCE: usize = 256;

/// A player that asks for each piece (HLS, single pictures) is written down once in so long.
const PIECES: Duration = Duration::from_secs(600);

/// A stream that is opened again and again is one: whoever may watch must not be able to fill the disk.
const STREAMS: Duration = Duration::from_secs(10);

/// The same export again, so soon, is the same one.
const REPEATED: Duration = Duration::from_secs(60);

/// Who watches or exports what, remembered for that.
const REMEMBERED: usize = 4_096;

/// Wrong sign-ins of one kind and account that are written down in [`MINUTE`]; the rest are counted, and told at its end.
/// Whoever reaches the box can make them.
const FAILURES: u32 = 20;

const MINUTE: Duration = Duration::from_secs(60);

/// The health state of the trail.
const SUBJECT: &str = "store/audit";

/// What somebody has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    SignIn,
    SignInFailed,
    SignOut,
    /// A stream or a picture was opened.
    Watch,
    /// A recording left the box.
    Export,
    /// Settings, people, tokens.
    Change,
    /// An alert's transition.
    Acknowledge,
}

impl Event {
    pub fn name(self) -> &'static str {
        match self {
            Event::SignIn => "sign-in",
            Event::SignInFailed => "sign-in-failed",
            Event::SignOut => "sign-out",
            Event::Watch => "watch",
            Event::Export => "export",
            Event::Change => "change",
            Event::Acknowledge => "acknowledge",
        }
    }
}

/// A row to be: `object` names what it concerns (`camera/gate-1`, `user/li`), `detail` says more, and never a secret.
pub fn entry(by: &By, event: Event, object: impl Into<String>, detail: impl Into<String>) -> AuditEntry {
    AuditEntry {
        who: by.name.clone(),
        address: by.address.map(|address| address.to_canonical().to_string()).unwrap_or_default(),
        action: event.name(),
        object: object.into(),
        detail: detail.into(),
    }
}

/// The way into the trail. Cheap to clone; the last clone waits for what is queued.
#[derive(Clone)]
pub struct Audit {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<Store>,
    health: Health,
    queue: Option<SyncSender<AuditEntry>>,
    writer: Option<JoinHandle<()>>,
    closing: Arc<AtomicBool>,
    /// Who did what with which object, and when it was last written down.
    lately: Mutex<HashMap<(By, String, String), Instant>>,
    failures: Arc<Mutex<Failures>>,
}

/// By kind and account.
type Failures = HashMap<(String, String), Minute>;

/// Wrong sign-ins from `since` on.
struct Minute {
    since: Instant,
    written: u32,
    left_out: u32,
}

impl Audit {
    pub fn new(store: Arc<Store>, health: Health) -> Audit {
        let (queue, entries) = sync_channel(QUEUE);
        let closing = Arc::new(AtomicBool::new(false));
        let failures = Arc::<Mutex<Failures>>::default();
        let (to, said, ending, counted) = (store.clone(), health.clone(), closing.clone(), failures.clone());
        // A thread, since the command line writes rows as well and has no runtime.
        let writer = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write(&to, &said, &entries, &ending, &counted))
            .inspect_err(|error| tracing::error!("the audit trail's thread does not start: {error}"))
            .ok();
        let inner =
            Inner { store, health, queue: Some(queue), writer, closing, lately: Mutex::default(), failures };
        Audit { inner: Arc::new(inner) }
    }

    /// Writes a row that must be there before what it tells of is done. Blocks until it is safe.
    pub fn note(&self, by: &By, event: Event, object: &str, detail: &str) -> Result<(), StoreError> {
        self.inner.store.append_audit(&[entry(by, event, object, detail)])
    }

    /// The same for a recording that is about to leave the box; one that was just written down is not again.
    pub fn export(&self, by: &By, object: &str, detail: &str) -> Result<(), StoreError> {
        let key = (by.clone(), object.to_owned(), detail.to_owned());
        if self.was_lately(&key, REPEATED) {
            return Ok(());
        }
        self.note(by, Event::Export, object, detail)?;
        self.remember(key);
        Ok(())
    }

    /// Writes a row as soon as the disk takes it: of what must be possible on a full one.
    pub fn later(&self, by: &By, event: Event, object: &str, detail: &str) {
        self.queue(entry(by, event, object, detail));
    }

    /// Somebody opens a stream that stays open; `how` tells the protocol.
    pub fn watch(&self, by: &By, object: &str, how: &str) {
        self.watch_once(by, object, how, STREAMS);
    }

    /// The same for a player that asks for each piece.
    pub fn watch_pieces(&self, by: &By, object: &str, how: &str) {
        self.watch_once(by, object, how, PIECES);
    }

    fn watch_once(&self, by: &By, object: &str, how: &str, within: Duration) {
        let key = (by.clone(), object.to_owned(), how.to_owned());
        if !self.was_lately(&key, within) {
            self.remember(key);
            self.queue(entry(by, Event::Watch, object, how));
        }
    }

    fn was_lately(&self, key: &(By, String, String), within: Duration) -> bool {
        self.lately().get(key).is_some_and(|since| since.elapsed() < within)
    }

    fn remember(&self, key: (By, String, String)) {
        let mut lately = self.lately();
        if lately.len() >= REMEMBERED {
            lately.retain(|_, since| since.elapsed() < PIECES);
        }
        // Past the bound a row too many is written, and none is missing.
        if lately.len() < REMEMBERED {
            lately.insert(key, Instant::now());
        }
    }

    fn lately(&self) -> MutexGuard<'_, HashMap<(By, String, String), Instant>> {
        self.inner.lately.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A sign-in that was refused. `by` names an account that exists, or `unknown`; `how` is the kind.
    pub fn failed(&self, by: &By, how: &str) {
        {
            let mut failures = self.inner.failures.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let mut key = (how.to_owned(), by.name.clone());
            if failures.len() >= REMEMBERED && !failures.contains_key(&key) {
                // More accounts than boxes have: they share one budget.
                key = (how.to_owned(), String::new());
            }
            let fresh = || Minute { since: Instant::now(), written: 0, left_out: 0 };
            let minute = failures.entry(key).or_insert_with(fresh);
            if minute.written >= FAILURES {
                minute.left_out = minute.left_out.saturating_add(1);
                return;
            }
            minute.written += 1;
        }
        self.queue(entry(by, Event::SignInFailed, "session", how));
    }

    fn queue(&self, entry: AuditEntry) {
        let taken = self.inner.queue.as_ref().is_some_and(|queue| queue.try_send(entry).is_ok());
        if !taken {
            let message = "somebody watched or tried to sign in, and it could not be written down";
            self.inner.health.set(SUBJECT, Severity::Degraded, message);
        }
    }
}

/// Empties the queue until nobody can fill it.
fn write(
    store: &Store,
    health: &Health,
    entries: &Receiver<AuditEntry>,
    closing: &AtomicBool,
    failures: &Mutex<Failures>,
) {
    let mut waiting = Vec::new();
    loop {
        let received = entries.recv_timeout(Duration::from_secs(1));
        let last = matches!(received, Err(RecvTimeoutError::Disconnected));
        waiting.extend(received);
        while waiting.len() < AT_ONCE
            && let Ok(entry) = entries.try_recv()
        {
            waiting.push(entry);
        }
        waiting.extend(left_out(failures, last));
        if waiting.is_empty() {
            if last {
                return;
            }
            continue;
        }
        while let Err(error) = store.append_audit(&waiting) {
            let message = format!("rows of the audit trail wait, and are tried again: {error}");
            health.set(SUBJECT, Severity::Degraded, message);
            if closing.load(Ordering::Relaxed) {
                tracing::error!("{} rows of the audit trail are lost: {error}", waiting.len());
                return;
            }
            std::thread::sleep(Duration::from_secs(1));
        }
        health.ok(SUBJECT);
        waiting.clear();
    }
}

/// Forgets the minutes that are over, or all of them, and tells how many wrong sign-ins of each were only counted.
fn left_out(failures: &Mutex<Failures>, all: bool) -> Vec<AuditEntry> {
    let mut failures = failures.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let over = failures.extract_if(|_, minute| all || minute.since.elapsed() >= MINUTE);
    let left_out = over.filter(|(_, minute)| minute.left_out > 0);
    let told = left_out.map(|((how, name), minute)| {
        let detail = format!("{how}, {} more within a minute", minute.left_out);
        entry(&By { name, address: None }, Event::SignInFailed, "session", detail)
    });
    told.collect()
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        self.queue = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the audit trail's thread has failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{AuditFilter, AuditRow, Filter};

    fn rows(store: &Store) -> Vec<AuditRow> {
        let page = Filter { limit: 1000, ..Filter::default() };
        store.audit(&AuditFilter { page, ..AuditFilter::default() }).unwrap().items
    }

    fn by(name: &str) -> By {
        By { name: name.to_owned(), address: Some("::ffff:192.0.2.7".parse().unwrap()) }
    }

    #[test]
    fn players_of_pieces_are_written_down_once_and_failures_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let audit = Audit::new(store.clone(), Health::default());
        for _ in 0..50 {
            audit.watch_pieces(&by("li"), "camera/gate-1", "HLS");
        }
        audit.watch_pieces(&by("li"), "camera/gate-2", "HLS");
        audit.watch_pieces(&by("wang"), "camera/gate-1", "HLS");
        for _ in 0..50 {
            audit.watch(&by("li"), "camera/gate-1", "RTSP");
        }
        // Whoever makes many failures hides nobody else's.
        for _ in 0..500 {
            audit.failed(&by("unknown"), "RTSP");
            audit.failed(&by("admin"), "wrong password");
        }
        audit.failed(&by("boss"), "wrong password");
        audit.failed(&by("unknown"), "wrong set-up token");
        audit.note(&by("li"), Event::Change, "camera/gate-1", "renamed").unwrap();
        drop(audit);
        let rows = rows(&store);
        let count = |action: &str| rows.iter().filter(|row| row.action == action).count();
        assert_eq!(
            (count("watch"), count("sign-in-failed"), count("change")),
            (4, 2 * FAILURES as usize + 4, 1)
        );
        let told = |who: &str, detail: &str| rows.iter().any(|row| row.who == who && row.detail == detail);
        assert!(told("boss", "wrong password"));
        assert!(told("unknown", "wrong set-up token"));
        assert!(told("unknown", "RTSP, 480 more within a minute"), "{rows:?}");
        assert!(told("admin", "wrong password, 480 more within a minute"));
        assert!(rows.iter().all(|row| row.address == "192.0.2.7" || row.detail.contains(" more ")));
        assert_eq!(store.verify_audit().unwrap().broken, None);
    }

    #[test]
    fn an_export_is_written_down_before_it_begins_and_once_where_it_repeats() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let audit = Audit::new(store.clone(), Health::default());
        for _ in 0..100 {
            audit.export(&by("li"), "camera/gate-1", "8:00 to 8:01").unwrap();
        }
        assert_eq!(rows(&store).len(), 1);
        for minute in 0..20 {
            audit.export(&by("li"), "camera/gate-1", &format!("9:{minute} to 10:00")).unwrap();
        }
        audit.export(&by("wang"), "camera/gate-1", "8:00 to 8:01").unwrap();
        assert_eq!(rows(&store).len(), 22, "every other range, and everybody else's");
        // What could not be written down is not remembered as if it were.
        let other = rusqlite::Connection::open(folder.path().join("state.db")).unwrap();
        let refuse = "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'full'); END";
        other.execute_batch(refuse).unwrap();
        for _ in 0..2 {
            audit.export(&by("li"), "camera/gate-2", "8:00 to 8:01").unwrap_err();
        }
        other.execute_batch("DROP TRIGGER full").unwrap();
        audit.export(&by("li"), "camera/gate-2", "8:00 to 8:01").unwrap();
        assert_eq!(rows(&store).len(), 23);
    }

    #[test]
    fn what_cannot_be_queued_is_an_alarm_and_keeps_nobody_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let health = Health::default();
        let audit = Audit::new(store.clone(), health.clone());
        // Another process holds the database's write lock.
        let other = rusqlite::Connection::open(folder.path().join("state.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let began = Instant::now();
        for n in 0..2 * QUEUE + AT_ONCE {
            audit.watch(&by("li"), &format!("camera/{n}"), "RTSP");
        }
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(health.snapshot()[SUBJECT].severity, Severity::Degraded);
        other.execute_batch("ROLLBACK").unwrap();
        drop(audit);
        assert!(rows(&store).len() == 1000, "what was queued is written");
        assert_eq!(health.snapshot()[SUBJECT].severity, Severity::Ok);
    }
}
