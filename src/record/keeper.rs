//! The keeper thread: syncs what the writer wrote, seals segments, and removes the oldest ahead of need.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::RecordError;
use super::index::Row;
use super::segment::Segment;
use super::volume::Volume;
use crate::health;
use crate::media::{VIDEO_CLOCK, time};

const RETENTION_EVERY: Duration = Duration::from_secs(5);

/// Room is made for what comes in so many seconds: longer than [`SETTLES`] and a round.
const AHEAD: u64 = 45;

/// With less than this left and nothing unpinned to remove, evidence older than the ring's own age goes.
const LAST_RESERVE: u64 = 64 << 20;

/// Space that was freed may show so late (btrfs and ZFS free at their next commit, and a file that is being exported goes
/// with its last reader): meanwhile free space says nothing.
const SETTLES: Duration = Duration::from_secs(30);

/// Segments removed in one transaction.
const BATCH: u32 = 64;

pub(super) fn run(volume: &Volume) {
    let mut keeper = Keeper::new(volume);
    loop {
        // Asked first: what the writer sealed before it ended is then seen below.
        let last = volume.writer_ended.load(Ordering::Acquire);
        *volume.kept() = Instant::now();
        keeper.sync();
        volume.alarms.tick();
        if last {
            return;
        }
        let due = keeper.retained.is_none_or(|(at, _)| at.elapsed() >= RETENTION_EVERY);
        let pressed = volume.pressed.swap(false, Ordering::Relaxed);
        if due || pressed {
            let free = free_bytes(&volume.shelf.recordings);
            let kept = keeper.retain(pressed, free);
            volume.alarms.index(kept.as_ref().err());
        }
        volume.wait(volume.settings().sync);
    }
}

struct Keeper<'a> {
    volume: &'a Volume,
    /// When retention last ran, and bytes written until then.
    retained: Option<(Instant, u64)>,
    /// When a limit, not age, last removed footage.
    limited: Option<Instant>,
    /// When footage was last removed because the volume was short of space.
    freed: Option<Instant>,
    /// What could not be made room for then.
    unmet: Option<String>,
}

impl Keeper<'_> {
    fn new(volume: &Volume) -> Keeper<'_> {
        Keeper { volume, retained: None, limited: None, freed: None, unmet: None }
    }

    fn sync(&mut self) {
        let sealing: Vec<Arc<Segment>> = std::mem::take(&mut *self.volume.sealing());
        let open: Vec<Arc<Segment>> = self.volume.shelf.open().values().cloned().collect();
        for segment in open {
            *self.volume.kept() = Instant::now();
            if let Err(error) = segment.sync() {
                let path = self.volume.shelf.recordings.join(segment.row().path);
                self.volume.alarms.disk(Some(format!(
                    "{}: {error}; its last seconds may be lost; check the disk and its cables",
                    path.display()
                )));
            }
        }
        for segment in sealing {
            *self.volume.kept() = Instant::now();
            if let Err(error) = segment.sync() {
                tracing::error!("{}: {error}", segment.row().path);
            }
            // A failed segment keeps its row unsealed: the next start looks at what is really there.
            let row = Row { sealed: !segment.failed(), ..segment.row() };
            let put = self.volume.shelf.index.put(&row);
            self.volume.alarms.index(put.as_ref().err());
            if put.is_ok() {
                self.volume.shelf.open().remove(&row.path);
            } else {
                self.volume.sealing().push(segment);
            }
        }
    }

    /// `pressed`: the volume has refused a write, so that room is made whatever `record.min_free` says. `free`: bytes on
    /// the volume, asked once; what this pass removes is added.
    fn retain(&mut self, pressed: bool, free: Option<u64>) -> rusqlite::Result<()> {
        let (volume, settings) = (self.volume, self.volume.settings());
        let now = time::to_90k(Timestamp::now());
        let before = |age: Duration| now - (age.as_secs_f64() * VIDEO_CLOCK as f64) as i64;
        let ring_end = before(settings.retention);
        let evidence_end = before(settings.evidence_retention);
        // On a full volume the index may refuse until room is made, which must not wait for it.
        let forgotten = volume.shelf.index.forget(evidence_end, ring_end.min(evidence_end));

        let written = volume.written.load(Ordering::Relaxed);
        let ahead = match self.retained.replace((Instant::now(), written)) {
            Some((at, then)) => (written - then) * AHEAD / at.elapsed().as_secs().max(1),
            None => 0,
        };
        let mut total = volume.shelf.index.total_bytes()?;
        total += volume.shelf.open().values().map(|segment| segment.row().bytes).sum::<u64>();
        let min_free = if pressed { settings.min_free.max(LAST_RESERVE) } else { settings.min_free };
        let settling = !pressed && self.freed.is_some_and(|at| at.elapsed() < SETTLES);
        let (mut removed, mut evidence_sacrificed) = (0, false);
        loop {
            *volume.kept() = Instant::now();
            let free = free.filter(|_| !settling).map(|free| free + removed);
            let over = settings.max_size.map_or(0, |max| (total + ahead).saturating_sub(max));
            let short = free.map_or(0, |free| (min_free + ahead).saturating_sub(free));
            let need = over.max(short);
            let oldest = volume.shelf.index.oldest_unpinned(BATCH)?;
            let (mut doomed, mut freed) = (Vec::new(), 0);
            for row in oldest {
                let aged = row.end_90k < ring_end;
                if !aged && freed >= need {
                    break;
                }
                if !aged {
                    self.limited = Some(Instant::now());
                }
                freed += row.bytes;
                doomed.push(row);
            }
            let full = free.is_some_and(|free| free < LAST_RESERVE + ahead.min(settings.min_free));
            if doomed.is_empty() && need > 0 && full {
                // Recording goes on whatever is pinned: the oldest evidence beyond the ring's age makes room.
                doomed = volume.shelf.index.oldest(ring_end, 4)?;
                evidence_sacrificed |= !doomed.is_empty();
            }
            if doomed.is_empty() {
                if need > 0 {
                    let wanted = Wanted { over, short, at_least: min_free + ahead };
                    self.unmet = Some(wanted.told(&volume.shelf.recordings));
                } else if !settling {
                    self.unmet = None;
                }
                self.tell(evidence_sacrificed, ring_end, now)?;
                break;
            }
            if short > 0 {
                self.freed = Some(Instant::now());
            }
            let bytes: u64 = doomed.iter().map(|row| row.bytes).sum();
            (total, removed) = (total.saturating_sub(bytes), removed + bytes);
            self.remove(&doomed, pressed || short > 0)?;
        }
        if let Some(free) = free_bytes(&volume.shelf.recordings) {
            let label = health::Volume::new(volume.shelf.recordings.display().to_string());
            volume.health.metrics.ring_free_bytes.get_or_create(&label).set(free as f64);
        }
        forgotten
    }

    /// Rows first: a crash in between leaves a file that the next start indexes and retention removes again, but never
    /// a row that promises footage. Where space is `short` files go even if the index refuses, as it may for that very
    /// reason: what rows promise too much then is put right here once there is room, or by the next start.
    fn remove(&self, doomed: &[Row], short: bool) -> rusqlite::Result<()> {
        let remove_rows = || self.volume.shelf.index.remove(doomed.iter().map(|row| &*row.path));
        let refused = match remove_rows() {
            Err(error) if !short => return Err(error),
            removed => removed.is_err(),
        };
        for row in doomed {
            let path = self.volume.shelf.recordings.join(&row.path);
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!("{}: {error}", path.display());
            }
            // The day's and the camera's folder, where this was the last: they refuse while they are not empty.
            let folders = path.ancestors().skip(1).take(2);
            folders.take_while(|folder| std::fs::remove_dir(folder).is_ok()).for_each(drop);
        }
        if refused { remove_rows() } else { Ok(()) }
    }

    fn tell(&mut self, sacrificed: bool, ring_end: i64, now: i64) -> rusqlite::Result<()> {
        let settings = self.volume.settings();
        let promised = settings.retention.as_secs_f64() / 3600.0;
        let recently = self.limited.is_some_and(|at| at.elapsed() < Duration::from_secs(3600));
        let oldest = self.volume.shelf.index.oldest_start()?.filter(|&start| recently && start > ring_end);
        let short = oldest.map(|start| {
            let hours = (now - start) as f64 / (3600 * VIDEO_CLOCK) as f64;
            format!(
                "the ring holds {hours:.1} hours of the {promised:.1} promised: raise record.max_size, lower \
                 record.min_free, add a disk, or lower record.retention"
            )
        });
        let pinned = self.unmet.as_ref().map(|unmet| {
            let gone =
                if sacrificed { "; the oldest evidence has been removed to go on recording" } else { "" };
            format!(
                "{unmet}, and all recordings that are left are pinned evidence or still being written{gone}"
            )
        });
        self.volume.alarms.limits(short, pinned);
        Ok(())
    }
}

/// Room that retention could not make.
struct Wanted {
    /// Bytes beyond `record.max_size`.
    over: u64,
    /// Bytes that the volume lacks.
    short: u64,
    /// Bytes that should be free on the volume.
    at_least: u64,
}

impl Wanted {
    /// For people: what is the matter, and what to do.
    fn told(&self, recordings: &Path) -> String {
        let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
        if self.over >= self.short {
            return format!(
                "recordings take {} MB more than record.max_size: raise it, or shorten record.evidence_retention",
                megabytes(self.over)
            );
        }
        let (at, wanted) = (recordings.display(), megabytes(self.at_least));
        let (free, total) = room(recordings).unwrap_or_default();
        if total < self.at_least {
            return format!(
                "the disk of {at} has {} MB in all, and {wanted} MB are to be free (record.min_free, and what the next \
                 seconds bring): use a larger one, or lower record.min_free",
                megabytes(total)
            );
        }
        format!(
            "the disk of {at} has {} MB free, and {wanted} MB are to be (record.min_free, and what the next seconds \
             bring): remove what is not liuta's, add a disk, lower record.min_free, or shorten record.evidence_retention",
            megabytes(free)
        )
    }
}

/// Bytes that an unprivileged process may still write on the volume of `path`.
pub(super) fn free_bytes(path: &Path) -> Option<u64> {
    room(path).map(|(free, _)| free)
}

/// The same, and the volume's size.
fn room(path: &Path) -> Option<(u64, u64)> {
    let volume = rustix::fs::statvfs(path).ok()?;
    Some((volume.f_bavail * volume.f_frsize, volume.f_blocks * volume.f_frsize))
}

/// What [`estimate`] says, in bytes.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// For `record.retention` of every recorded camera.
    pub needed: u64,
    /// What the limits leave to recordings, those already there included.
    pub available: u64,
    /// What `available` holds; infinite where nothing is recorded.
    pub hours: f64,
}

/// For people, in two lines.
impl std::fmt::Display for Estimate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        write!(
            f,
            "recordings need about {:.1} GB at {} Mbit/s a camera; the disk and the limits leave {:.1} GB",
            gigabytes(self.needed),
            ASSUMED_BITRATE / 1_000_000,
            gigabytes(self.available)
        )?;
        if self.needed > self.available {
            write!(
                f,
                "\nthat holds {:.0} hours, not what record.retention promises: add a disk, or shorten it",
                self.hours
            )?;
        }
        Ok(())
    }
}

/// Bits a second that a camera's main stream is taken to have: 1080p25 H.264 as most cameras are delivered.
pub const ASSUMED_BITRATE: u64 = 4_000_000;

/// How much room the ring needs and has, for `liuta check`. Reads the volume's free space and, where there is one, the
/// index; changes nothing.
pub fn estimate(config: &crate::config::Config) -> Estimate {
    let cameras = config.cameras.values().filter(|camera| camera.record).count() as u64;
    let rate = cameras * ASSUMED_BITRATE / 8;
    let used = used(&config.data).unwrap_or(0);
    let existing = config.data.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let room = free_bytes(existing).unwrap_or(0).saturating_add(used).saturating_sub(config.record.min_free);
    let available = config.record.max_size.map_or(room, |max| max.min(room));
    Estimate {
        needed: rate * config.record.retention.as_secs(),
        available,
        hours: if rate == 0 { f64::INFINITY } else { available as f64 / rate as f64 / 3600.0 },
    }
}

fn used(data: &Path) -> Result<u64, RecordError> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let db = rusqlite::Connection::open_with_flags(data.join("index.db"), flags)?;
    let total: i64 = db.query_row("SELECT COALESCE(SUM(bytes), 0) FROM segments", [], |row| row.get(0))?;
    Ok(total.max(0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Health;
    use crate::record::Ring;
    use crate::record::volume::KEEPER_HUNG;

    const SIZE: u64 = 100 << 20;

    /// A ring with sealed segments that say they are 100 MB each.
    fn ring(data: &Path, segments: i64) -> Arc<Ring> {
        let settings = crate::config::Record {
            retention: Duration::from_secs(86_400),
            max_size: None,
            min_free: 0,
            sync: Duration::from_secs(1),
            evidence_retention: Duration::from_secs(86_400),
        };
        let ring = Ring::open(data, settings, Health::default()).unwrap();
        let now = time::to_90k(Timestamp::now());
        std::fs::create_dir_all(data.join("recordings/gate/today")).unwrap();
        for at in 0..segments {
            let path = format!("gate/today/{at}.mp4");
            std::fs::write(data.join("recordings").join(&path), "footage").unwrap();
            let start_90k = now + (at - segments) * 60 * VIDEO_CLOCK;
            let row = Row {
                path,
                camera: "gate".into(),
                stream: "main".into(),
                start_90k,
                end_90k: start_90k + 60 * VIDEO_CLOCK,
                bytes: SIZE,
                sealed: true,
            };
            ring.volume.shelf.index.put(&row).unwrap();
        }
        ring
    }

    fn left(ring: &Ring) -> (usize, usize) {
        let files = std::fs::read_dir(ring.volume.shelf.recordings.join("gate/today")).unwrap().count();
        (files, ring.volume.shelf.index.all().unwrap().len())
    }

    #[test]
    fn space_that_shows_late_costs_no_more_than_was_needed() {
        let data = tempfile::tempdir().unwrap();
        let ring = ring(data.path(), 10);
        let mut keeper = Keeper::new(&ring.volume);
        // Free space never grows, as on a file system that frees later.
        keeper.retain(true, Some(0)).unwrap();
        assert_eq!(left(&ring), (9, 9), "one is more than the reserve");
        let mut settings = crate::config::Record::clone(&ring.volume.settings());
        settings.min_free = 1;
        ring.reconfigure(settings);
        keeper.retain(false, Some(0)).unwrap();
        assert_eq!(left(&ring), (9, 9), "what was removed has had no time to show");
        keeper.retain(true, Some(0)).unwrap();
        assert_eq!(left(&ring), (8, 8), "a refused write does not wait");
    }

    #[test]
    fn what_cannot_be_made_room_for_is_told_by_the_disks_own_measure() {
        let data = tempfile::tempdir().unwrap();
        let (free, total) = room(data.path()).unwrap();
        let told = |over, short, at_least| Wanted { over, short, at_least }.told(data.path());
        assert!(told(72_000_000, 0, 64 << 20).starts_with("recordings take 72 MB more than record.max_size"));
        let larger = told(0, total, total + 1);
        assert!(larger.contains(&format!("has {} MB in all", total.div_ceil(1_000_000))), "{larger}");
        assert!(told(0, 1, free / 2).contains(" MB free, and "));
    }

    #[test]
    fn files_go_from_a_full_volume_though_the_index_refuses() {
        let data = tempfile::tempdir().unwrap();
        let ring = ring(data.path(), 3);
        let db = rusqlite::Connection::open(data.path().join("index.db")).unwrap();
        db.execute_batch(
            "CREATE TRIGGER full BEFORE DELETE ON segments BEGIN SELECT RAISE(ABORT, 'full'); END",
        )
        .unwrap();
        let mut keeper = Keeper::new(&ring.volume);
        assert!(keeper.retain(true, Some(0)).is_err());
        assert_eq!(left(&ring), (2, 3));
        db.execute_batch("DROP TRIGGER full").unwrap();
        keeper.retain(true, Some(0)).unwrap();
        assert_eq!(left(&ring), (2, 2), "the row went with its file");
    }

    #[test]
    fn a_keeper_that_hangs_is_noticed() {
        let data = tempfile::tempdir().unwrap();
        let ring = ring(data.path(), 0);
        assert!(ring.is_responsive());
        assert!(ring.close(Duration::from_secs(60)));
        let Some(long_ago) = Instant::now().checked_sub(2 * KEEPER_HUNG) else { return };
        *ring.volume.kept() = long_ago;
        assert!(!ring.is_responsive());
    }
}
