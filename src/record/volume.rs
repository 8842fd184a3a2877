//! One volume of the ring: its index, and the two threads that write, sync, seal and remove its files.
//!
//! What does not belong here: which camera records on which volume (`super`), and reading (`archive`).

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::alarms::Alarms;
use super::archive::{Shelf, places};
use super::clock::RingClock;
use super::index::{self, Index};
use super::marker::Place;
use super::segment::Segment;
use super::writer::Queue;
use super::{RecordError, keeper, recovery, thread, writer};
use crate::config;
use crate::health::Health;
use crate::media::time::Clock;
use crate::owner;

/// A writer that is so long at one write hangs; slow disks take seconds.
const HUNG: Duration = Duration::from_secs(60);

/// A keeper that is so long at one sync hangs; a disk at its limit takes many seconds for one.
pub(super) const KEEPER_HUNG: Duration = Duration::from_secs(120);

/// A writer that is so long at one write is left by the cameras, where another volume takes them.
const SLOW: Duration = Duration::from_secs(10);

/// What its threads and the recorders share.
pub(super) struct Volume {
    pub config: config::Volume,
    pub shelf: Arc<Shelf>,
    pub clock: RingClock,
    /// What each volume of the ring holds, in bytes, and which of them is this.
    pub totals: Totals,
    pub queue: Queue,
    pub health: Health,
    pub alarms: Alarms,
    /// Bytes since the start.
    pub written: AtomicU64,
    /// It is full: room is needed now.
    pub pressed: AtomicBool,
    pub writer_ended: AtomicBool,
    settings: ArcSwap<config::Record>,
    /// Longest time between a write and its being safe, where the settings leave it to the disk.
    disk_sync: Duration,
    /// The folder as it was when it was opened.
    place: Place,
    /// Its disk refuses writes.
    refusing: AtomicBool,
    /// It is to be opened anew: its disk or its index is not what was opened.
    lost: AtomicBool,
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

/// What a volume is opened with.
pub(super) struct Opening {
    pub config: config::Volume,
    pub place: Place,
    pub totals: Totals,
    pub settings: Arc<config::Record>,
    pub clock: Arc<dyn Clock>,
    pub health: Health,
}

impl Volume {
    /// Opens (and recovers) the recordings and the index of the volume, and starts the threads. `closed` is dropped when
    /// the last of them has ended.
    pub(super) fn open(opening: Opening, closed: impl Send + 'static) -> Result<Arc<Volume>, RecordError> {
        let Opening { config, place, totals, settings, clock, health } = opening;
        let (recordings, index) = places(&config.path);
        owner::make_folders(&recordings, 0o750).map_err(RecordError::io(&recordings))?;
        let (index, damaged) = Index::open(&index)?;
        let is_new = index.clock()?.is_none();
        let newest = recovery::recover(&recordings, &index, &mut |_| ())?;
        if let Some(aside) = damaged {
            tracing::error!(
                "the index was damaged and is rebuilt from the recordings; see {}",
                aside.display()
            );
            if let Err(error) = index.carry(&aside) {
                tracing::error!("{}: {error}; what only it knew is lost", aside.display());
            }
        }
        // Where there are more volumes another may have what is missing here.
        if is_new && totals.all.len() == 1 {
            recovery::note_holes(&[&index])?;
        }
        let clock = RingClock::resume(clock, index.clock()?, newest);
        index.put_clock(clock.now_90k(), clock.wall_90k())?;
        totals.set(index.total_bytes());
        let volume = Arc::new(Volume {
            shelf: Arc::new(Shelf::new(recordings, index)),
            clock,
            totals,
            queue: Queue::default(),
            settings: ArcSwap::new(settings),
            disk_sync: if rotates(&config.path) { Duration::from_secs(5) } else { Duration::from_secs(1) },
            place,
            refusing: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            alarms: Alarms::new(&config.name, health.clone()),
            config,
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

    pub(super) fn reconfigure(&self, settings: Arc<config::Record>) {
        self.settings.store(settings);
    }

    /// Longest time between a write and its being safe.
    pub(super) fn sync_every(&self) -> Duration {
        self.settings().sync.unwrap_or(self.disk_sync)
    }

    /// An error where the disk is not the one that was opened.
    pub(super) fn is_there(&self) -> std::io::Result<()> {
        if Place::of(&self.config.path).is_ok_and(|place| place == self.place) && !self.is_lost() {
            return Ok(());
        }
        self.lost.store(true, Ordering::Release);
        Err(std::io::Error::other("the disk is not mounted any more, or another is"))
    }

    pub(super) fn index_failed(&self, error: &rusqlite::Error) {
        if index::is_damage(error) {
            self.lost.store(true, Ordering::Release);
        }
    }

    /// Looks whether somebody has taken the index away.
    pub(super) fn check_index(&self) {
        if !self.shelf.index.is_there() {
            // Not below the mount point of a disk that is gone.
            if self.is_there().is_ok()
                && let Err(error) = self.shelf.index.put_back()
            {
                tracing::error!("{error}; the index is rebuilt from the recordings, without gaps");
            }
            self.lost.store(true, Ordering::Release);
        }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Another volume, where there is one, serves better.
    pub(super) fn is_out(&self) -> bool {
        self.is_lost() || self.refusing.load(Ordering::Relaxed) || self.queue.busy_for() > SLOW
    }

    /// A write was refused: room is needed, or the disk is broken.
    pub(super) fn refuses(&self) {
        self.pressed.store(true, Ordering::Relaxed);
        self.refusing.store(true, Ordering::Relaxed);
    }

    /// Where others have taken what a volume refused, nobody writes there to find out that it takes again.
    pub(super) fn try_again(&self) {
        if self.totals.all.len() > 1 && self.refusing.load(Ordering::Relaxed) {
            let trial = self.shelf.recordings.join(".trial");
            let tried = File::create(&trial).and_then(|mut file| {
                file.write_all(&[0; 64 << 10])?;
                file.sync_all()
            });
            let _ = std::fs::remove_file(&trial);
            if tried.is_ok() {
                self.accepts();
            }
        }
    }

    pub(super) fn accepts(&self) {
        self.refusing.store(false, Ordering::Relaxed);
        self.alarms.disk(None);
    }

    pub(super) fn settings(&self) -> Arc<config::Record> {
        self.settings.load_full()
    }

    pub(super) fn sealing(&self) -> MutexGuard<'_, Vec<Arc<Segment>>> {
        self.sealing.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// As they are now: nothing is held up while something is done to them.
    pub(super) fn open_segments(&self) -> Vec<Arc<Segment>> {
        self.shelf.open().values().cloned().collect()
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
        let patience = KEEPER_HUNG + self.sync_every();
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
}

/// What each volume of a ring holds, in bytes, and which of them is meant.
#[derive(Clone)]
pub(super) struct Totals {
    pub all: Arc<[AtomicU64]>,
    pub this: usize,
}

impl Totals {
    pub(super) fn set(&self, bytes: u64) {
        if let Some(total) = self.all.get(self.this) {
            total.store(bytes, Ordering::Relaxed);
        }
    }

    /// Of all volumes together.
    pub(super) fn sum(&self) -> u64 {
        self.all.iter().map(|total| total.load(Ordering::Relaxed)).sum()
    }
}

/// Whether the disk below has platters (sysfs, `queue/rotational`); a partition's disk is the folder above.
fn rotates(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(device) = std::fs::metadata(path).map(|found| found.dev()) else { return false };
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let of = |inner: &str| std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/{inner}"));
    of("queue/rotational").or_else(|_| of("../queue/rotational")).is_ok_and(|text| text.trim() == "1")
}
