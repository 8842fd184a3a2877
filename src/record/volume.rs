//! One volume of the ring: its index, and the two threads that write, sync, seal and remove its files.
//!
//! What does not belong here: which camera records on which volume (`super`), and reading (`archive`).

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::alarms::Alarms;
use super::archive::{Shelf, places};
use super::index::Index;
use super::segment::Segment;
use super::writer::{Message, Queue};
use super::{RecordError, keeper, recovery, thread, writer};
use crate::config;
use crate::health::Health;
use crate::owner;

/// A writer that is so long at one write hangs; slow disks take seconds.
const HUNG: Duration = Duration::from_secs(60);

/// A keeper that is so long at one sync hangs; a disk at its limit takes many seconds for one.
pub(super) const KEEPER_HUNG: Duration = Duration::from_secs(120);

/// What its threads and the recorders share.
pub(super) struct Volume {
    pub shelf: Arc<Shelf>,
    pub queue: Queue,
    pub health: Health,
    pub alarms: Alarms,
    /// Bytes since the start.
    pub written: AtomicU64,
    /// It is full: room is needed now.
    pub pressed: AtomicBool,
    pub writer_ended: AtomicBool,
    settings: ArcSwap<config::Record>,
    /// Finished ones for the keeper to seal; they stay open on the shelf until then.
    sealing: Mutex<Vec<Arc<Segment>>>,
    /// When the keeper last got something done.
    kept: Mutex<Instant>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(PartialEq)]
enum State {
    Running,
    Closing,
    Closed,
}

impl Volume {
    /// Opens (and recovers) the recordings and the index below `root`, and starts the threads. `closed` is dropped when
    /// the last of them has ended.
    pub(super) fn open(
        root: &Path,
        settings: config::Record,
        health: Health,
        closed: impl Send + 'static,
    ) -> Result<Arc<Volume>, RecordError> {
        let (recordings, index) = places(root);
        owner::make_folders(&recordings, 0o750).map_err(RecordError::io(&recordings))?;
        let (index, damaged) = Index::open(&index)?;
        if let Some(aside) = damaged {
            tracing::error!(
                "the index was damaged: it is rebuilt from the recordings, without the pins; see {aside}"
            );
        }
        recovery::recover(&recordings, &index)?;
        let volume = Arc::new(Volume {
            shelf: Arc::new(Shelf::new(recordings, index)),
            queue: Queue::default(),
            settings: ArcSwap::from_pointee(settings),
            alarms: Alarms::new(health.clone()),
            health,
            sealing: Mutex::default(),
            written: AtomicU64::new(0),
            pressed: AtomicBool::new(false),
            kept: Mutex::new(Instant::now()),
            writer_ended: AtomicBool::new(false),
            state: Mutex::new(State::Running),
            changed: Condvar::new(),
        });
        let writing = volume.clone();
        thread("liuta-writer", move || {
            writer::run(&writing);
            writing.writer_ended.store(true, Ordering::Release);
            writing.changed.notify_all();
        })?;
        let keeping = volume.clone();
        thread("liuta-keeper", move || {
            keeper::run(&keeping);
            drop(closed);
            *keeping.state() = State::Closed;
            keeping.changed.notify_all();
        })?;
        Ok(volume)
    }

    pub(super) fn reconfigure(&self, settings: config::Record) {
        self.settings.store(Arc::new(settings));
    }

    pub(super) fn settings(&self) -> Arc<config::Record> {
        self.settings.load_full()
    }

    pub(super) fn sealing(&self) -> MutexGuard<'_, Vec<Arc<Segment>>> {
        self.sealing.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Instant> {
        self.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The keeper's rest, cut short when the volume is closing.
    pub(super) fn wait(&self, rest: Duration) {
        let state = self.state();
        // While the writer drains its queue there is something to sync all the time.
        let rest = if *state == State::Running { rest } else { Duration::from_millis(10) };
        drop(self.changed.wait_timeout(state, rest));
    }

    /// Whether writer and keeper make progress: a disk that hangs for longer than this is not waited for in silence.
    pub(super) fn is_responsive(&self) -> bool {
        let patience = KEEPER_HUNG + self.settings().sync;
        self.queue.busy_for() < HUNG && self.kept().elapsed() < patience
    }

    /// Has every segment finished and synced, and the threads ended.
    pub(super) fn close(&self) {
        {
            let mut state = self.state();
            if *state == State::Running {
                *state = State::Closing;
            }
        }
        self.changed.notify_all();
        self.queue.close();
    }

    /// Waits until that is done; false when it takes longer than until then.
    pub(super) fn wait_closed(&self, until: Instant) -> bool {
        let mut state = self.state();
        while *state != State::Closed {
            let Some(rest) = until.checked_duration_since(Instant::now()) else { return false };
            let waited = self.changed.wait_timeout(state, rest);
            state = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        true
    }

    /// Takes what a recorder has, in order.
    pub(super) fn send(&self, key: &writer::Key, message: Message) {
        self.queue.send(key, message);
    }
}
