//! What is written into the audit trail, and what happens where it cannot be.
//!
//! Changes and exports fail closed: what cannot be written down is not done. Watching and wrong sign-ins fail open: they
//! go through a queue that nobody waits for, and what it does not take is a health alarm. The chain itself is `store`'s.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
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

/// Who watches what, remembered for that.
const REMEMBERED: usize = 4_096;

/// Wrong sign-ins written down in a minute; the rest are counted. Whoever reaches the box can make them.
const FAILURES: u32 = 60;

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
    watching: Mutex<HashMap<(By, String, &'static str), Instant>>,
    failures: Mutex<Failures>,
}

/// Of the present minute.
struct Failures {
    since: Instant,
    written: u32,
    left_out: u32,
}

impl Audit {
    pub fn new(store: Arc<Store>, health: Health) -> Audit {
        let (queue, entries) = sync_channel(QUEUE);
        let closing = Arc::new(AtomicBool::new(false));
        let (to, said, ending) = (store.clone(), health.clone(), closing.clone());
        // A thread, since the command line writes rows as well and has no runtime.
        let writer = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write(&to, &said, &entries, &ending))
            .inspect_err(|error| tracing::error!("the audit trail's thread does not start: {error}"))
            .ok();
        let failures = Mutex::new(Failures { since: Instant::now(), written: 0, left_out: 0 });
        let inner = Inner {
            store,
            health,
            queue: Some(queue),
            writer,
            closing,
            watching: Mutex::default(),
            failures,
        };
        Audit { inner: Arc::new(inner) }
    }

    /// Writes a row that must be there before what it tells of is done. Blocks until it is safe.
    pub fn note(&self, by: &By, event: Event, object: &str, detail: &str) -> Result<(), StoreError> {
        self.inner.store.append_audit(&[entry(by, event, object, detail)])
    }

    /// Somebody opens a stream that stays open; `how` tells the protocol.
    pub fn watch(&self, by: &By, object: &str, how: &'static str) {
        self.watch_once(by, object, how, STREAMS);
    }

    /// The same for a player that asks for each piece.
    pub fn watch_pieces(&self, by: &By, object: &str, how: &'static str) {
        self.watch_once(by, object, how, PIECES);
    }

    fn watch_once(&self, by: &By, object: &str, how: &'static str, within: Duration) {
        let now = Instant::now();
        let mut watching = self.inner.watching.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let key = (by.clone(), object.to_owned(), how);
        if watching.get(&key).is_some_and(|since| now.duration_since(*since) < within) {
            return;
        }
        if watching.len() >= REMEMBERED {
            watching.retain(|_, since| now.duration_since(*since) < PIECES);
        }
        // Past the bound a row too many is written, and none is missing.
        if watching.len() < REMEMBERED {
            watching.insert(key, now);
        }
        drop(watching);
        self.queue(entry(by, Event::Watch, object, how));
    }

    /// A sign-in that was refused. `by` is who it claims to be.
    pub fn failed(&self, by: &By, how: &str) {
        let mut failures = self.inner.failures.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if failures.since.elapsed() >= Duration::from_secs(60) {
            *failures = Failures { since: Instant::now(), written: 0, left_out: failures.left_out };
        }
        if failures.written >= FAILURES {
            failures.left_out = failures.left_out.saturating_add(1);
            return;
        }
        failures.written += 1;
        let detail = match std::mem::take(&mut failures.left_out) {
            0 => how.to_owned(),
            more => format!("{how}; {more} more before it were not written down"),
        };
        drop(failures);
        self.queue(entry(by, Event::SignInFailed, "session", detail));
    }

    fn queue(&self, entry: AuditEntry) {
        let taken = self.inner.queue.as_ref().is_some_and(|queue| queue.try_send(entry).is_ok());
        if !taken {
            let message = "somebody watched or failed to sign in, and it could not be written down";
            self.inner.health.set(SUBJECT, Severity::Degraded, message);
        }
    }
}

/// Empties the queue until nobody can fill it.
fn write(store: &Store, health: &Health, entries: &Receiver<AuditEntry>, closing: &AtomicBool) {
    let mut waiting = Vec::new();
    loop {
        match entries.recv_timeout(Duration::from_secs(1)) {
            Ok(entry) => waiting.push(entry),
            Err(RecvTimeoutError::Timeout) if waiting.is_empty() => continue,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) if waiting.is_empty() => return,
            Err(RecvTimeoutError::Disconnected) => {}
        }
        while waiting.len() < AT_ONCE
            && let Ok(entry) = entries.try_recv()
        {
            waiting.push(entry);
        }
        while let Err(error) = store.append_audit(&waiting) {
            let message = format!("who watches is not written down, and is tried again: {error}");
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
        for _ in 0..500 {
            audit.failed(&by("admin"), "wrong password");
        }
        audit.note(&by("li"), Event::Change, "camera/gate-1", "renamed").unwrap();
        drop(audit);
        let rows = rows(&store);
        let count = |action: &str| rows.iter().filter(|row| row.action == action).count();
        assert_eq!((count("watch"), count("sign-in-failed"), count("change")), (4, FAILURES as usize, 1));
        assert!(rows.iter().all(|row| row.address == "192.0.2.7"));
        assert_eq!(store.verify_audit().unwrap().broken, None);
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
