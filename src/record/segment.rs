//! One segment while it is written. Only the writer thread appends and finishes; the keeper syncs; readers ask how far
//! it is.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::Advice;

use super::index::Row;
use crate::media::cmaf::Part;
use crate::media::cmaf::read::Head;
use crate::media::cmaf::tail::{Point, Tail};
use crate::media::{Feed, time};
use crate::owner;

/// Names tried when a second segment begins in the same second.
const COLLISIONS: u32 = 1000;

/// At most so many slices a `pwritev` takes (IOV_MAX).
const SLICES: usize = 1024;

pub(super) struct Segment {
    file: File,
    folder: PathBuf,
    origin_90k: i64,
    progress: Mutex<Progress>,
    dirty: AtomicBool,
    /// A sync failed: the kernel may have dropped what it could not write and would call the next sync a success.
    failed: AtomicBool,
    folder_synced: AtomicBool,
}

/// Whole parts only.
struct Progress {
    row: Row,
    points: Vec<Point>,
    /// Of all bytes so far.
    crc: crc32fast::Hasher,
}

impl Segment {
    /// Creates the file and writes its head with `part`, its first, in one go. `offset_90k` leads from the box's clock to
    /// the ring's.
    pub(super) fn create(
        recordings: &Path,
        camera: &str,
        feed: Feed,
        part: &Part,
        offset_90k: i64,
        clock_error: Option<f64>,
    ) -> io::Result<Arc<Segment>> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "the part is none of the packager's");
        let origin_90k = part.decode_90k().ok_or_else(bad)?;
        let (file, path) = new_file(recordings, camera, feed, part.start_90k)?;
        let head = part.init.for_file(camera, super::stream(feed), origin_90k, part.start_90k, clock_error);
        let row = Row {
            camera: camera.to_owned(),
            stream: super::stream(feed).to_owned(),
            start_90k: part.start_90k,
            end_90k: part.start_90k,
            bytes: 0,
            sealed: false,
            ring_90k: part.start_90k + offset_90k,
            entries: Head::parse(&head).map_or(0, |head| head.entries()),
            path,
        };
        let segment = Segment {
            file,
            folder: recordings.join(&row.path).parent().unwrap_or(recordings).to_owned(),
            origin_90k,
            progress: Mutex::new(Progress { row, points: Vec::new(), crc: crc32fast::Hasher::new() }),
            dirty: AtomicBool::new(true),
            failed: AtomicBool::new(false),
            folder_synced: AtomicBool::new(false),
        };
        match segment.write(&head, part) {
            Ok(()) => Ok(Arc::new(segment)),
            Err(error) => {
                let _ = std::fs::remove_file(recordings.join(&segment.row().path));
                Err(error)
            }
        }
    }

    pub(super) fn append(&self, part: &Part) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier sync of this file failed"));
        }
        self.write(&[], part)
    }

    /// Writes the file's tail. Nothing is to be appended after it, whatever it answers.
    pub(super) fn finish(&self) -> io::Result<()> {
        if self.failed() {
            return Ok(());
        }
        let (tail, at) = {
            let now = self.lock();
            (Tail::write(&now.points, now.row.end_90k, now.crc.clone()), now.row.bytes)
        };
        let end = self.put(&[&tail], at)?;
        self.lock().row.bytes = end;
        self.dirty.store(true, Ordering::Release);
        Ok(())
    }

    /// About one system call a part, and no copy of the payload.
    fn write(&self, head: &[u8], part: &Part) -> io::Result<()> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "the part is none of the packager's");
        let header = part.rebased(self.origin_90k).ok_or_else(bad)?;
        let (begin, mut crc) = {
            let now = self.lock();
            (now.row.bytes, now.crc.clone())
        };
        let slices = [head, &header].into_iter().chain(part.payload.iter().map(|slice| &slice[..]));
        let slices: Vec<_> = slices.filter(|slice| !slice.is_empty()).collect();
        let end = self.put(&slices, begin)?;
        slices.iter().for_each(|slice| crc.update(slice));
        let mut now = self.lock();
        now.crc = crc;
        if part.independent && now.points.len() < Tail::MOST_POINTS {
            now.points.push(Point { offset: begin + head.len() as u64, start_90k: part.start_90k });
        }
        let grown = (part.start_90k + part.duration_90k - now.row.end_90k).max(0);
        now.row.bytes = end;
        now.row.end_90k += grown;
        now.row.ring_90k += grown;
        drop(now);
        self.dirty.store(true, Ordering::Release);
        Ok(())
    }

    /// Writes the slices one after the other, and gives back where they end; what was not written whole is cut off again.
    fn put(&self, slices: &[&[u8]], begin: u64) -> io::Result<u64> {
        let mut at = begin;
        for slices in slices.chunks(SLICES) {
            let mut vector: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
            let mut rest = &mut vector[..];
            while !rest.is_empty() {
                match rustix::io::pwritev(&self.file, rest, at) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => {
                        at += written as u64;
                        IoSlice::advance_slices(&mut rest, written);
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => {
                        // The whole parts before it stay readable.
                        let _ = self.file.set_len(begin);
                        return Err(error.into());
                    }
                }
            }
        }
        Ok(at)
    }

    /// Has the kernel begin to write back what is dirty, so that a sync has little left to wait for.
    pub(super) fn start_write_back(&self) {
        let (whole_file, flags) = (0, libc::SYNC_FILE_RANGE_WRITE);
        // SAFETY: the descriptor is open as long as the file; no memory is passed.
        unsafe { libc::sync_file_range(self.file.as_raw_fd(), 0, whole_file, flags) };
    }

    /// How far it is written, where that is further than when this was last asked; whoever asks makes it safe.
    pub(super) fn take_dirty(&self) -> Option<u64> {
        let dirty = !self.failed() && self.dirty.swap(false, Ordering::AcqRel);
        dirty.then(|| self.row().bytes)
    }

    /// What is safe up to there is not kept in memory: it would push out what is read again, and pages that come back
    /// soon cost the next write less than fresh ones.
    pub(super) fn release(&self, safe: u64) {
        let _ = rustix::fs::fadvise(&self.file, 0, std::num::NonZeroU64::new(safe), Advice::DontNeed);
    }

    /// Makes what is written safe; an error leaves the segment failed for good.
    pub(super) fn sync(&self) -> io::Result<()> {
        if self.failed() {
            return Ok(());
        }
        self.dirty.store(false, Ordering::Release);
        let written = self.row().bytes;
        let synced = rustix::fs::fdatasync(&self.file).map_err(io::Error::from).and_then(|()| {
            if !self.folder_synced.swap(true, Ordering::AcqRel) {
                File::open(&self.folder)?.sync_all()?;
            }
            Ok(())
        });
        match synced {
            Ok(()) => self.release(written),
            Err(_) => self.failed.store(true, Ordering::Release),
        }
        synced
    }

    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// How far it is: whole parts only.
    pub(super) fn row(&self) -> Row {
        self.lock().row.clone()
    }

    /// Where it may be entered so far.
    pub(super) fn points(&self) -> Vec<Point> {
        self.lock().points.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// `<camera>/YYYY-MM-DD/HH-MM-SS[-sub][-N].mp4`, UTC.
fn new_file(recordings: &Path, camera: &str, feed: Feed, start_90k: i64) -> io::Result<(File, String)> {
    let start = time::from_90k(start_90k);
    let (day, clock) = (start.strftime("%Y-%m-%d"), start.strftime("%H-%M-%S"));
    let sub = if feed == Feed::Sub { "-sub" } else { "" };
    for number in 1..COLLISIONS {
        let number = if number > 1 { format!("-{number}") } else { String::new() };
        let path = format!("{camera}/{day}/{clock}{sub}{number}.mp4");
        let full = recordings.join(&path);
        // Retention may remove the empty folder in between.
        for _ in 0..3 {
            let made = full.parent().map_or(Ok(()), |folder| owner::make_folders(folder, 0o750));
            let open = |()| File::options().read(true).write(true).create_new(true).open(&full);
            match made.and_then(open) {
                Ok(file) => {
                    owner::hand_over(&full);
                    return Ok((file, path));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Err(io::Error::other(format!("too many segments begin at {start}")))
}
