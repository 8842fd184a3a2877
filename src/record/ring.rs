//! The ring as its users have it: recorders that find a volume that works, and volumes that come and go.
//!
//! Each volume has its own threads: a disk that is slow or broken holds up nobody else's cameras. A thread of the ring's
//! looks after the volumes: one whose disk or index is not what was opened is closed, and opened again when it is back.
//!
//! What does not belong here: what happens on a volume (`volume`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::{SignedDuration, Timestamp};

use super::archive::Archive;
use super::index::Gap;
use super::volume::{Opening, Totals, Volume};
use super::writer::{Key, Message, Taken};
use super::{GapCause, Lock, RecordError, alarms, marker, thread, ticks, volumes};
use crate::config::{self, Id};
use crate::health::{CameraCause, CameraLabel, Health, Severity};
use crate::media::Feed;
use crate::media::cmaf::Part;
use crate::media::time::{Clock, SystemClock, to_90k};
use crate::owner;

/// How often the volumes are looked after, and one that is away is looked for.
const LOOK_AFTER: Duration = Duration::from_secs(2);

/// How often it is told how complete the last day is.
const TELL_COMPLETENESS: Duration = Duration::from_secs(60);

/// A volume that is lost has so long to end: its disk may hang for good.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// The ring: what writes it, and what is read of it.
pub struct Ring {
    inner: Arc<Inner>,
}

struct Inner {
    data: PathBuf,
    slots: Vec<Slot>,
    totals: Arc<[AtomicU64]>,
    archive: Archive,
    settings: ArcSwap<config::Record>,
    clock: Arc<dyn Clock>,
    health: Health,
    /// Which volume a stream records on, and whether it still does: a camera that is started anew goes on there.
    placed: Mutex<BTreeMap<Key, (usize, bool)>>,
    closing: Mutex<Closing>,
    changed: Condvar,
}

#[derive(PartialEq)]
enum Closing {
    No,
    Asked,
    /// Nobody opens volumes any more.
    Done,
}

/// A place for a volume.
struct Slot {
    config: config::Volume,
    /// Whether new footage goes there.
    takes: bool,
    volume: ArcSwapOption<Volume>,
}

impl Ring {
    /// Opens (and recovers) what is recorded below `data`, or on the volumes that the settings name, and starts to keep
    /// it. A named volume that is away is looked for while the others record.
    pub fn open(data: &Path, settings: config::Record, health: Health) -> Result<Arc<Ring>, RecordError> {
        Ring::open_by(Arc::new(SystemClock), data, settings, health)
    }

    /// The same by another clock.
    pub fn open_by(
        clock: Arc<dyn Clock>,
        data: &Path,
        settings: config::Record,
        health: Health,
    ) -> Result<Arc<Ring>, RecordError> {
        owner::make_folders(data, 0o750).map_err(RecordError::io(data))?;
        let lock = Arc::new(Lock::take(data)?);
        let slots: Vec<Slot> = (volumes(data, &settings).into_iter())
            .map(|(config, takes)| Slot { config, takes, volume: ArcSwapOption::empty() })
            .collect();
        let inner = Arc::new(Inner {
            data: data.to_owned(),
            totals: slots.iter().map(|_| AtomicU64::new(0)).collect(),
            archive: Archive::new(slots.len()),
            slots,
            settings: ArcSwap::from_pointee(settings),
            clock,
            health,
            placed: Mutex::default(),
            closing: Mutex::new(Closing::No),
            changed: Condvar::new(),
        });
        for at in 0..inner.slots.len() {
            match inner.open_volume(at, &lock) {
                // The data folder's own has nobody to stand in for it, and no mount to wait for.
                Err(error) if inner.settings.load().volumes.is_empty() => return Err(error),
                Err(error @ (RecordError::Newer { .. } | RecordError::Locked { .. })) => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        let configured: Vec<&str> = inner.slots.iter().map(|slot| slot.config.name.as_str()).collect();
        for name in marker::left_out(data, &configured)? {
            let message = format!(
                "it is not in [record.volumes] any more: what was recorded on it is neither shown nor removed. Name it \
                 again, or run `liuta ring forget {name}`"
            );
            inner.health.set(&alarms::subject(&name), Severity::Degraded, message);
        }
        let looking = inner.clone();
        thread("liuta-volumes", move || {
            looking.look_after(&lock);
            drop(lock);
            *looking.closing() = Closing::Done;
            looking.changed.notify_all();
        })?;
        Ok(Arc::new(Ring { inner }))
    }

    /// What it holds, to be read.
    pub fn archive(&self) -> &Archive {
        &self.inner.archive
    }

    /// A reload's new limits. Which volumes there are is decided at the start.
    pub fn reconfigure(&self, settings: config::Record) {
        let settings = Arc::new(settings);
        self.inner.settings.store(settings.clone());
        for volume in self.inner.volumes() {
            volume.reconfigure(settings.clone());
        }
    }

    pub fn recorder(self: &Arc<Self>, camera: &Id, feed: Feed) -> Recorder {
        let key = (camera.clone(), feed);
        // From zero on, so that the first gap is an increase.
        let metrics = &self.inner.health.metrics;
        for cause in GapCause::ALL {
            drop(metrics.gap_seconds.get_or_create(&CameraCause::new(&**camera, cause.as_str())));
        }
        let volume = self.inner.best_volume(&key);
        let mut missing = None;
        match &volume {
            Some(volume) => volume.queue.send(&key, Message::Opened(self.inner.archive.clone())),
            None => missing = Some(no_volume_since(to_90k(self.inner.clock.wall()))),
        }
        let place = Mutex::new(RecorderPlace { volume, end_90k: None, missing });
        Recorder { key, inner: self.inner.clone(), place, refusing: AtomicBool::new(false) }
    }

    /// Keeps a camera's range beyond the ring's age, as evidence of `alert`; called again it widens the range.
    pub fn pin(&self, alert: &str, camera: &str, range: Range<Timestamp>) -> Result<(), RecordError> {
        let range = ticks(&range)?;
        for volume in self.inner.volumes() {
            let end_by_ring = range.end + volume.clock.offset_90k();
            volume.shelf.index.pin(alert, camera, range.start, range.end, end_by_ring)?;
        }
        Ok(())
    }

    /// Whether every volume knows of some evidence: an index that was made anew knows of none.
    pub fn has_pins(&self) -> Result<bool, RecordError> {
        for volume in self.inner.volumes() {
            if !volume.shelf.index.has_pins()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether writers and keepers make progress: a disk that hangs for long is not waited for in silence.
    pub fn is_responsive(&self) -> bool {
        self.inner.volumes().all(|volume| volume.is_responsive())
    }

    /// Finishes and syncs every segment, and ends the threads. False when that took longer than `deadline`.
    pub fn close(&self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        {
            let mut closing = self.inner.closing();
            if *closing == Closing::No {
                *closing = Closing::Asked;
            }
        }
        self.inner.changed.notify_all();
        let mut closing = self.inner.closing();
        // First, so that no volume is opened behind our back.
        while *closing != Closing::Done {
            let Some(rest) = until.checked_duration_since(Instant::now()) else { break };
            let waited = self.inner.changed.wait_timeout(closing, rest);
            closing = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        let done = *closing == Closing::Done;
        drop(closing);
        let volumes: Vec<_> = self.inner.volumes().collect();
        volumes.iter().for_each(|volume| volume.close());
        volumes.iter().fold(done, |done, volume| volume.wait_closed(until) && done)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}

impl Inner {
    fn closing(&self) -> MutexGuard<'_, Closing> {
        self.closing.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn placed(&self) -> MutexGuard<'_, BTreeMap<Key, (usize, bool)>> {
        self.placed.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn volumes(&self) -> impl Iterator<Item = Arc<Volume>> + '_ {
        self.slots.iter().filter_map(|slot| slot.volume.load_full())
    }

    /// Opens the volume of a slot, and tells of it in its health state.
    fn open_volume(&self, at: usize, lock: &Arc<Lock>) -> Result<(), RecordError> {
        let Some(slot) = self.slots.get(at) else { return Ok(()) };
        let opened = marker::identify(&self.data, &slot.config).and_then(|place| {
            let opening = Opening {
                config: slot.config.clone(),
                place,
                totals: Totals { all: self.totals.clone(), this: at },
                settings: self.settings.load_full(),
                clock: self.clock.clone(),
                health: self.health.clone(),
            };
            Volume::open(opening, lock.clone())
        });
        match opened {
            Ok(volume) => {
                self.archive.put(at, Some(volume.shelf.clone()));
                slot.volume.store(Some(volume));
                Ok(())
            }
            Err(error) => {
                let message = format!("nothing is recorded on it: {error}");
                self.health.set(&alarms::subject(&slot.config.name), Severity::Failed, message);
                Err(error)
            }
        }
    }

    /// Until the ring is closed.
    fn look_after(&self, lock: &Arc<Lock>) {
        let mut told: Option<Instant> = None;
        loop {
            let closing = self.closing();
            let waited =
                self.changed.wait_timeout_while(closing, LOOK_AFTER, |closing| *closing == Closing::No);
            let is_closing = *waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0 != Closing::No;
            if is_closing {
                return;
            }
            for (at, slot) in self.slots.iter().enumerate() {
                match slot.volume.load_full() {
                    Some(volume) if volume.is_lost() => {
                        tracing::error!("{}: lost; it is opened anew", alarms::subject(&slot.config.name));
                        slot.volume.store(None);
                        self.archive.put(at, None);
                        volume.close();
                        if !volume.wait_closed(Instant::now() + ENDS_WITHIN) {
                            tracing::error!("{}: its disk hangs", alarms::subject(&slot.config.name));
                        }
                    }
                    Some(_) => {}
                    None => drop(self.open_volume(at, lock)),
                }
            }
            if told.is_none_or(|at| at.elapsed() >= TELL_COMPLETENESS) {
                told = Some(Instant::now());
                self.tell_completeness();
            }
        }
    }

    /// Of the last 24 hours, for whoever draws it.
    fn tell_completeness(&self) {
        let now = self.clock.wall();
        let active = |(key, (_, active)): (&Key, &(usize, bool))| active.then(|| key.0.clone());
        let cameras: Vec<Id> = self.placed().iter().filter_map(active).collect();
        for camera in cameras {
            let day = now - SignedDuration::from_hours(24)..now;
            let Ok(hours) = self.archive.completeness(&camera, day) else { continue };
            if let Some(ratio) = super::archive::sum(&hours).ratio() {
                let gauge = &self.health.metrics.record_completeness;
                gauge.get_or_create(&CameraLabel::new(&*camera)).set(ratio);
            }
        }
    }

    /// The volume that works and has the stream already, else the fewest streams; notes the stream there.
    fn best_volume(&self, key: &Key) -> Option<Arc<Volume>> {
        let mut placed = self.placed();
        let former = placed.get(key).map(|(at, _)| *at);
        let working = self.slots.iter().enumerate().filter_map(|(at, slot)| {
            let volume = slot.volume.load_full().filter(|volume| slot.takes && !volume.is_out())?;
            let streams = placed.values().filter(|place| **place == (at, true)).count();
            Some((Some(at) != former, streams, at, volume))
        });
        let (.., at, volume) = working.min_by_key(|(elsewhere, streams, ..)| (*elsewhere, *streams))?;
        placed.insert(key.clone(), (at, true));
        Some(volume)
    }
}

/// One feed's way into the ring. Dropping it finishes its segment.
pub struct Recorder {
    key: Key,
    inner: Arc<Inner>,
    place: Mutex<RecorderPlace>,
    /// The budget was full: parts are refused up to an independent one.
    refusing: AtomicBool,
}

struct RecorderPlace {
    volume: Option<Arc<Volume>>,
    /// End of the last part that a volume took.
    end_90k: Option<i64>,
    /// There is no volume to record on.
    missing: Option<Gap>,
}

fn no_volume_since(start_90k: i64) -> Gap {
    Gap { start_90k, end_90k: start_90k, cause: GapCause::Disk }
}

impl Recorder {
    fn place(&self) -> MutexGuard<'_, RecorderPlace> {
        self.place.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes a part for the disk. Never blocks and never loses silently: past the byte budget the part is refused, a
    /// gap row is written, and recording goes on at the next independent part; on another volume where one works and
    /// this one does not.
    pub fn push(&self, part: Arc<Part>) {
        let mut place = self.place();
        if part.independent && place.volume.as_ref().is_none_or(|volume| volume.is_out()) {
            self.move_on(&mut place);
        }
        let (start_90k, end_90k) = (part.start_90k, part.start_90k + part.duration_90k);
        let taken = match &place.volume {
            Some(volume) => {
                let taken = volume.queue.part(&self.key, part, &self.refusing);
                // Told here: a writer that hangs in the disk cannot.
                if taken == (Taken::Refused { first: true }) {
                    volume.alarms.overflow();
                }
                taken
            }
            None => Taken::Closed,
        };
        match taken {
            Taken::In => place.end_90k = Some(end_90k),
            Taken::Refused { .. } => {}
            Taken::Closed => {
                let since = place.end_90k.unwrap_or(start_90k);
                place.missing.get_or_insert_with(|| no_volume_since(since));
            }
        }
    }

    /// Goes to a volume that works. Where none does it stays, unless what it had is lost.
    fn move_on(&self, place: &mut RecorderPlace) {
        let better = self.inner.best_volume(&self.key);
        if better.is_none() && !place.volume.as_ref().is_some_and(|volume| volume.is_lost()) {
            return;
        }
        if let Some(left) = place.volume.take() {
            // What is missing there already goes along, or begins with what it took last.
            let running = left.shelf.gaps().get(&self.key).cloned();
            left.queue.send(&self.key, Message::Left);
            place.missing = running.or(place.missing.take()).or(place.end_90k.map(no_volume_since));
        }
        if let Some(better) = better {
            better.queue.send(&self.key, Message::Arrived(place.missing.take()));
            place.volume = Some(better);
            self.refusing.store(false, Ordering::Relaxed);
        }
    }

    /// The run ended: the segment is finished, and a gap with this cause begins.
    pub fn end(&self, cause: GapCause) {
        let now = to_90k(self.inner.clock.wall());
        if let Some(volume) = &self.place().volume {
            volume.queue.send(&self.key, Message::End(cause, now));
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some((_, active)) = self.inner.placed().get_mut(&self.key) {
            *active = false;
        }
        if let Some(volume) = &self.place().volume {
            volume.queue.send(&self.key, Message::Closed);
        }
    }
}
