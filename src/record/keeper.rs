//! The keeper thread: syncs what the writer wrote, seals segments, removes the oldest ahead of need, and looks whether
//! what is recorded is still there.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::index::Row;
use super::segment::Segment;
use super::volume::Volume;
use super::{GapCause, RecordError, stream};
use crate::config::Record;
use crate::health::{self, CameraCause};
use crate::media::time::ticks_90k;
use crate::media::{Feed, VIDEO_CLOCK};

const RETENTION_EVERY: Duration = Duration::from_secs(5);

/// Room is made for what comes in so many seconds: longer than [`SETTLES`] and a round.
const AHEAD: u64 = 45;

/// Room that is made on a volume that has refused a write, at least.
const LAST_RESERVE: u64 = 64 << 20;

/// Space that was freed may show so late (btrfs and ZFS free at their next commit, and a file that is being exported goes
/// with its last reader): meanwhile free space says nothing.
const SETTLES: Duration = Duration::from_secs(30);

/// How often the kernel is told to write back what waits for a later sync.
const WRITE_BACK_EVERY: Duration = Duration::from_secs(1);

/// How often the clock is written down, and old gaps and pins are let go.
const NOTE_EVERY: Duration = Duration::from_secs(15);

/// How long it is known how complete an hour was.
const HOURS_KEPT: Duration = Duration::from_secs(400 * 86_400);

/// Segments removed in one transaction.
const BATCH: u32 = 64;

pub(super) fn run(volume: &Volume) {
    let mut keeper = Keeper::new(volume);
    loop {
        // Asked first: what the writer sealed before it ended is then seen below.
        let last = volume.writer_ended.load(Ordering::Acquire);
        *volume.kept() = Instant::now();
        if last || keeper.synced.is_none_or(|at| at.elapsed() >= volume.sync_every()) {
            keeper.sync();
        } else {
            volume.open_segments().iter().for_each(|segment| segment.start_write_back());
        }
        volume.alarms.tick();
        if last {
            return;
        }
        let steady = volume.clock.steady();
        let due = keeper.retained.is_none_or(|(at, _)| steady.saturating_sub(at) >= RETENTION_EVERY);
        let pressed = volume.pressed.swap(false, Ordering::Relaxed);
        if due || pressed {
            let free = free_bytes(&volume.shelf.recordings);
            let kept = keeper.retain(pressed, free);
            volume.alarms.index(kept.as_ref().err());
            if let Err(error) = &kept {
                volume.index_failed(error);
            }
            volume.check_index();
            volume.try_again();
            if let Err(error) = keeper.look_for_files() {
                volume.index_failed(&error);
            }
        }
        volume.wait(volume.sync_every().min(WRITE_BACK_EVERY));
    }
}

struct Keeper<'a> {
    volume: &'a Volume,
    /// Of the recordings, where the volume can be synced as a whole.
    folder: Option<File>,
    synced: Option<Instant>,
    /// When retention last ran, on the steady clock, and bytes written until then.
    retained: Option<(Duration, u64)>,
    noted: Option<Duration>,
    /// When evidence last had to give up room.
    unpinned: Option<Instant>,
    /// When a limit, not age, last removed footage.
    limited: Option<Instant>,
    /// When footage was last removed because the volume was short of space.
    freed: Option<Instant>,
    /// What could not be made room for then.
    unmet: Option<String>,
    /// The files of the folder behind it are looked for next.
    looked_at: String,
}

impl Keeper<'_> {
    fn new(volume: &Volume) -> Keeper<'_> {
        Keeper {
            volume,
            folder: File::open(&volume.shelf.recordings).ok().filter(syncs_as_a_whole),
            synced: None,
            retained: None,
            noted: None,
            unpinned: None,
            limited: None,
            freed: None,
            unmet: None,
            looked_at: String::new(),
        }
    }

    fn sync(&mut self) {
        self.synced = Some(Instant::now());
        let sealing: Vec<Arc<Segment>> = std::mem::take(&mut *self.volume.sealing());
        let open = self.volume.open_segments();
        let dirty: Vec<_> =
            open.into_iter().filter_map(|segment| Some((segment.take_dirty()?, segment))).collect();
        // Before the files: what is missing before footage that is safe is then known as well.
        let index = self.volume.shelf.index.sync();
        self.volume.alarms.index_sync(index.as_ref().err());
        *self.volume.kept() = Instant::now();
        if !dirty.is_empty() && self.sync_volume() {
            dirty.iter().for_each(|(written, segment)| segment.release(*written));
        } else {
            self.sync_each(dirty.iter().map(|(_, segment)| segment));
        }
        for segment in sealing {
            self.sync_each(std::iter::once(&segment));
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

    /// All that is dirty on the volume at once: a sync of each file would have the disk flush its cache as often. False
    /// where it failed, or says nothing: then each file is to be asked.
    fn sync_volume(&self) -> bool {
        let Some(folder) = &self.folder else { return false };
        rustix::fs::syncfs(folder).is_ok()
    }

    fn sync_each<'s>(&self, dirty: impl Iterator<Item = &'s Arc<Segment>>) {
        for segment in dirty {
            *self.volume.kept() = Instant::now();
            if let Err(error) = segment.sync() {
                let path = self.volume.shelf.recordings.join(segment.row().path);
                self.volume.alarms.disk(Some(format!(
                    "{}: {error}; its last seconds may be lost; check the disk and its cables",
                    path.display()
                )));
            }
        }
    }

    /// `pressed`: the volume has refused a write, so that room is made whatever `record.min_free` says. `free`: bytes on
    /// the volume, asked once; what this pass removes is added.
    fn retain(&mut self, pressed: bool, free: Option<u64>) -> rusqlite::Result<()> {
        let (volume, settings) = (self.volume, self.volume.settings());
        let index = &volume.shelf.index;
        let now = volume.clock.now_90k();
        let ring_end = now - ticks_90k(settings.retention);
        // On a full volume the index may refuse until room is made, which must not wait for it.
        let forgotten = self.forget(&settings, now);
        self.unpin(&settings)?;

        let written = volume.written.load(Ordering::Relaxed);
        let ahead = match self.retained.replace((volume.clock.steady(), written)) {
            Some((at, then)) => {
                let elapsed = volume.clock.steady().saturating_sub(at);
                (written - then) * AHEAD / elapsed.as_secs().max(1)
            }
            None => 0,
        };
        let being_written = volume.shelf.open().values().map(|segment| segment.row().bytes).sum::<u64>();
        let min_free = volume.config.min_free.unwrap_or(settings.min_free);
        let min_free = if pressed { min_free.max(LAST_RESERVE) } else { min_free };
        let settling = !pressed && self.freed.is_some_and(|at| at.elapsed() < SETTLES);
        self.keep_cameras_within(&settings)?;
        let mut removed = 0;
        loop {
            *volume.kept() = Instant::now();
            let total = index.total_bytes() + being_written;
            volume.totals.set(total);
            let free = free.filter(|_| !settling).map(|free| free + removed);
            // Of what all volumes hold too much, each gives up in proportion.
            let all = volume.totals.sum().max(1);
            let share = |over: u64| (u128::from(over) * u128::from(total) / u128::from(all)) as u64;
            let over = settings.max_size.map_or(0, |max| share((all + ahead).saturating_sub(max)));
            let over = over.max(volume.config.max_size.map_or(0, |max| (total + ahead).saturating_sub(max)));
            let short = free.map_or(0, |free| (min_free + ahead).saturating_sub(free));
            let need = over.max(short);
            let (mut doomed, mut freed) = (Vec::new(), 0);
            for row in index.oldest_unpinned(BATCH)? {
                let aged = row.ring_90k < ring_end;
                if !aged && freed >= need {
                    break;
                }
                if !aged {
                    self.limited = Some(Instant::now());
                }
                freed += row.bytes;
                doomed.push(row);
            }
            if doomed.is_empty() {
                if need > 0 {
                    let wanted = Wanted { over, short, at_least: min_free + ahead };
                    self.unmet = Some(wanted.told(&volume.shelf.recordings));
                } else if !settling {
                    self.unmet = None;
                }
                self.tell(ring_end, now)?;
                break;
            }
            if short > 0 {
                self.freed = Some(Instant::now());
            }
            removed += freed;
            self.remove(&doomed, pressed || short > 0)?;
        }
        if let Some(free) = free_bytes(&volume.shelf.recordings) {
            let label = health::Volume::new(volume.shelf.recordings.display().to_string());
            volume.health.metrics.ring_free_bytes.get_or_create(&label).set(free as f64);
        }
        forgotten
    }

    /// Lets go what is remembered of footage that is gone, and notes the clock, both of which may wait.
    fn forget(&mut self, settings: &Record, now: i64) -> rusqlite::Result<()> {
        let steady = self.volume.clock.steady();
        if self.noted.is_some_and(|at| steady.saturating_sub(at) < NOTE_EVERY) {
            return Ok(());
        }
        self.noted = Some(steady);
        let index = &self.volume.shelf.index;
        let pins = now - ticks_90k(settings.evidence_retention);
        // By whichever clock is behind: a box whose clock jumps ahead forgets nothing for it.
        let wall = now.min(self.volume.clock.wall_90k());
        let gaps = wall - ticks_90k(settings.retention.max(settings.evidence_retention));
        let hours = (wall - ticks_90k(HOURS_KEPT)).div_euclid(3600 * VIDEO_CLOCK);
        index.forget(pins, gaps, hours)?;
        index.put_clock(now, self.volume.clock.wall_90k())
    }

    /// Evidence has its own room, so that it is never removed for footage; past it the oldest evidence goes.
    fn unpin(&mut self, settings: &Record) -> rusqlite::Result<()> {
        let index = &self.volume.shelf.index;
        let half = room(&self.volume.shelf.recordings).map_or(u64::MAX, |(_, total)| total / 2);
        let most = settings.evidence_max_size.min(half);
        while index.pinned_bytes() > most && index.unpin_oldest()? {
            self.unpinned = Some(Instant::now());
        }
        Ok(())
    }

    fn keep_cameras_within(&mut self, settings: &Record) -> rusqlite::Result<()> {
        if settings.max_size_per_camera.is_none() && settings.cameras.is_empty() {
            return Ok(());
        }
        let index = &self.volume.shelf.index;
        for camera in index.cameras() {
            let most = settings.cameras.get(&*camera).copied().or(settings.max_size_per_camera);
            let Some(most) = most else { continue };
            loop {
                let over = index.bytes_of(&camera).saturating_sub(most);
                let (mut doomed, mut freed) = (Vec::new(), 0);
                for row in index.oldest_unpinned_of(&camera, BATCH)? {
                    if freed >= over {
                        break;
                    }
                    freed += row.bytes;
                    doomed.push(row);
                }
                if doomed.is_empty() {
                    break;
                }
                self.remove(&doomed, false)?;
            }
        }
        Ok(())
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
        // Else a power cut could bring rows back without their files. An error is told by the next round.
        let _ = self.volume.shelf.index.sync();
        for row in doomed {
            let path = self.volume.shelf.recordings.join(&row.path);
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!("{}: {error}", path.display());
            }
            // The day's and the camera's folder, where this was the last: they refuse while they are not empty.
            let folders = path.ancestors().skip(1).take(2);
            folders.take_while(|folder| std::fs::remove_dir(folder).is_ok()).for_each(drop);
        }
        if refused { remove_rows() } else { Ok(()) }
    }

    /// Whether a camera's day is still there, one after the other. What somebody else has removed becomes a gap at once,
    /// not with the next start.
    fn look_for_files(&mut self) -> rusqlite::Result<()> {
        let volume = self.volume;
        let Some((folder, rows)) = volume.shelf.index.next_folder(&self.looked_at)? else {
            self.looked_at.clear();
            return Ok(());
        };
        self.looked_at = format!("{folder}/~");
        let there: io::Result<HashSet<_>> = match std::fs::read_dir(volume.shelf.recordings.join(&folder)) {
            Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HashSet::new()),
            Err(error) => Err(error),
        };
        // Of a folder that cannot be read nothing is known.
        let Ok(there) = there else { return Ok(()) };
        let is_gone = |row: &Row| Path::new(&row.path).file_name().is_some_and(|name| !there.contains(name));
        let lost: Vec<Row> = rows.into_iter().filter(is_gone).collect();
        // Nor of one below the mount point of a disk that is gone.
        let (Some(first), Ok(())) = (lost.first(), volume.is_there()) else { return Ok(()) };
        let message = format!(
            "{} recordings in {} are gone ({} is the first), and liuta has not removed them: what they held is shown as \
             a gap; leave what is recorded to record.retention and record.max_size",
            lost.len(),
            volume.shelf.recordings.join(&folder).display(),
            first.path
        );
        volume.shelf.index.lose(&lost)?;
        for row in lost.iter().filter(|row| row.stream == stream(Feed::Main)) {
            let label = CameraCause::new(row.camera.as_str(), GapCause::Disk.as_str());
            let seconds = (row.end_90k - row.start_90k) as f64 / VIDEO_CLOCK as f64;
            volume.health.metrics.gap_seconds.get_or_create(&label).inc_by(seconds);
        }
        volume.alarms.removed(message);
        Ok(())
    }

    fn tell(&mut self, ring_end: i64, now: i64) -> rusqlite::Result<()> {
        let (volume, settings) = (self.volume, self.volume.settings());
        let hours = |length: Duration| length.as_secs_f64() / 3600.0;
        let lately = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < Duration::from_secs(3600));
        let oldest = volume.shelf.index.oldest()?.filter(|&oldest| lately(self.limited) && oldest > ring_end);
        let short = oldest.map(|oldest| {
            format!(
                "the ring holds {:.1} hours of the {:.1} promised: raise record.max_size, lower record.min_free, add a \
                 disk, or lower record.retention",
                (now - oldest) as f64 / (3600 * VIDEO_CLOCK) as f64,
                hours(settings.retention)
            )
        });
        let evidence = lately(self.unpinned).then(|| {
            "evidence takes all the room that it may have, and the oldest has become footage again: raise \
             record.evidence_max_size (at most half of the disk counts), or lower record.evidence_retention"
                .to_owned()
        });
        let pinned = self.unmet.as_ref().map(|unmet| {
            format!("{unmet}, and all recordings that are left are pinned evidence or still being written")
        });
        volume.alarms.limits(short, evidence, pinned);
        Ok(())
    }
}

/// `syncfs` ends at the kernel's side of a file system that a program serves (FUSE).
fn syncs_as_a_whole(folder: &File) -> bool {
    const FUSE: i64 = 0x6573_5546;
    rustix::fs::fstatfs(folder).is_ok_and(|volume| volume.f_type != FUSE)
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
    let volumes = super::volumes(&config.data, &config.record);
    let room = volumes.into_iter().filter(|(_, takes)| *takes).map(|(volume, _)| {
        let existing = volume.path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let free = free_bytes(existing).unwrap_or(0).saturating_add(used(&volume.path).unwrap_or(0));
        let room = free.saturating_sub(volume.min_free.unwrap_or(config.record.min_free));
        volume.max_size.map_or(room, |max| max.min(room))
    });
    let room = room.fold(0, u64::saturating_add);
    let available = config.record.max_size.map_or(room, |max| max.min(room));
    Estimate {
        needed: rate * config.record.retention.as_secs(),
        available,
        hours: if rate == 0 { f64::INFINITY } else { available as f64 / rate as f64 / 3600.0 },
    }
}

fn used(root: &Path) -> Result<u64, RecordError> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let db = rusqlite::Connection::open_with_flags(root.join("index.db"), flags)?;
    let total: i64 = db.query_row("SELECT COALESCE(SUM(bytes), 0) FROM segments", [], |row| row.get(0))?;
    Ok(total.max(0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    use crate::health::Health;
    use crate::media::time::SystemClock;
    use crate::record::marker::Place;
    use crate::record::volume::KEEPER_HUNG;
    use crate::record::volume::{Opening, Totals};

    const SIZE: u64 = 100 << 20;

    /// A volume with sealed segments that say they are 100 MB each.
    fn volume(data: &Path, segments: i64) -> Arc<Volume> {
        let settings = Record { min_free: 0, sync: Some(Duration::from_secs(1)), ..Record::default() };
        let config = crate::config::Volume {
            name: "ring".into(),
            path: data.to_owned(),
            max_size: None,
            min_free: None,
        };
        let opening = Opening {
            config,
            place: Place::of(data).unwrap(),
            totals: Totals { all: Arc::new([AtomicU64::new(0)]), this: 0 },
            settings: Arc::new(settings),
            clock: Arc::new(SystemClock),
            health: Health::default(),
        };
        let volume = Volume::open(opening, ()).unwrap();
        let now = volume.clock.wall_90k();
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
                ring_90k: start_90k + 60 * VIDEO_CLOCK,
                entries: 0,
            };
            volume.shelf.index.put(&row).unwrap();
        }
        volume
    }

    fn left(volume: &Volume) -> (usize, usize) {
        let files = std::fs::read_dir(volume.shelf.recordings.join("gate/today")).unwrap().count();
        (files, volume.shelf.index.all().unwrap().len())
    }

    #[test]
    fn space_that_shows_late_costs_no_more_than_was_needed() {
        let data = tempfile::tempdir().unwrap();
        let volume = volume(data.path(), 10);
        let mut keeper = Keeper::new(&volume);
        // Free space never grows, as on a file system that frees later.
        keeper.retain(true, Some(0)).unwrap();
        assert_eq!(left(&volume), (9, 9), "one is more than the reserve");
        let mut settings = Record::clone(&volume.settings());
        settings.min_free = 1;
        volume.reconfigure(Arc::new(settings));
        keeper.retain(false, Some(0)).unwrap();
        assert_eq!(left(&volume), (9, 9), "what was removed has had no time to show");
        keeper.retain(true, Some(0)).unwrap();
        assert_eq!(left(&volume), (8, 8), "a refused write does not wait");
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
        let volume = volume(data.path(), 3);
        let db = rusqlite::Connection::open(data.path().join("index.db")).unwrap();
        db.execute_batch(
            "CREATE TRIGGER full BEFORE DELETE ON segments BEGIN SELECT RAISE(ABORT, 'full'); END",
        )
        .unwrap();
        let mut keeper = Keeper::new(&volume);
        assert!(keeper.retain(true, Some(0)).is_err());
        assert_eq!(left(&volume), (2, 3));
        db.execute_batch("DROP TRIGGER full").unwrap();
        keeper.retain(true, Some(0)).unwrap();
        assert_eq!(left(&volume), (2, 2), "the row went with its file");
    }

    #[test]
    fn a_keeper_that_hangs_is_noticed() {
        let data = tempfile::tempdir().unwrap();
        let volume = volume(data.path(), 0);
        assert!(volume.is_responsive());
        volume.close();
        assert!(volume.wait_closed(Instant::now() + Duration::from_secs(60)));
        let Some(long_ago) = Instant::now().checked_sub(2 * KEEPER_HUNG) else { return };
        *volume.kept() = long_ago;
        assert!(!volume.is_responsive());
    }
}
