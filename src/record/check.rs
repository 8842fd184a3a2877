//! Whether recorded files are as they were written, and whether index and files agree. Reads, and changes nothing: what
//! makes them agree is `recovery`.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use jiff::Timestamp;
use rustix::fs::Advice;
use serde::{Deserialize, Serialize};

use super::archive::{Archive, Found, Shelf};
use super::index::Row;
use super::recovery::{self, Whole};
use super::{RecordError, ticks};
use crate::media::cmaf::tail::Tail;
use crate::media::time;

/// What is said of a recorded file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Condition {
    /// Every byte is as it was written.
    Whole {
        crc32: String,
    },
    /// Its parts are whole, and nothing says that their bytes are: it is being written, or was when the box went down.
    Unproved,
    Damaged {
        why: String,
    },
    Missing,
}

/// A recorded file.
#[derive(Clone)]
pub struct Recording(Found);

impl Recording {
    /// Below the folder of recordings.
    pub fn path(&self) -> &str {
        &self.0.row.path
    }

    pub fn bytes(&self) -> u64 {
        self.0.row.bytes
    }

    /// About so many of its bytes lie in the range.
    pub fn bytes_in(&self, range: &Range<Timestamp>) -> u64 {
        let Row { start_90k, end_90k, bytes, .. } = self.0.row;
        let shared = time::to_90k(range.end).min(end_90k) - time::to_90k(range.start).max(start_90k);
        let part = shared.max(0) as f64 / (end_90k - start_90k).max(1) as f64;
        (bytes as f64 * part.min(1.0)) as u64
    }

    /// The camera's clock minus the box's when it was begun; none where that was not known, or where it is gone.
    pub fn camera_clock_error_seconds(&self) -> Option<f64> {
        let file = self.0.open().ok()??;
        recovery::head(&file).ok()??.about.camera_clock_error_seconds
    }

    /// Reads it whole.
    pub fn check(&self) -> Condition {
        let checked = self.0.open().and_then(|file| match file {
            Some(file) => check(&file, &self.0.row, &mut |_| ()),
            None => Ok(Condition::Missing),
        });
        checked.unwrap_or_else(|error| Condition::Damaged { why: format!("it cannot be read: {error}") })
    }
}

/// What to look at: everything, or these cameras', or what overlaps this range.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    pub cameras: Vec<String>,
    pub range: Option<Range<Timestamp>>,
}

impl Scope {
    fn has(&self, camera: &str, start_90k: i64, end_90k: i64) -> bool {
        let ticks = self.range.as_ref().map(|range| time::to_90k(range.start)..time::to_90k(range.end));
        (self.cameras.is_empty() || self.cameras.iter().any(|id| id == camera))
            && ticks.is_none_or(|range| start_90k < range.end && end_90k > range.start)
    }
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Checked {
    /// Files that are as they were written.
    pub whole: u64,
    /// Files of which nothing says so.
    pub unproved: u64,
    pub bytes: u64,
    pub flaws: Vec<Flaw>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Flaw {
    pub file: PathBuf,
    pub kind: FlawKind,
    /// For people.
    pub what: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlawKind {
    Missing,
    Damaged,
    /// The index does not know it.
    Orphan,
}

impl Archive {
    /// The files that hold the range of a camera's main feed, oldest first.
    pub fn recordings(&self, camera: &str, range: &Range<Timestamp>) -> Result<Vec<Recording>, RecordError> {
        Ok(self.segments(camera, &ticks(range)?)?.into_iter().map(Recording).collect())
    }

    /// Reads every finished file, and looks for files that the index does not know. The daemon may run meanwhile.
    /// `progress` is told bytes that were read, and how many there are.
    pub fn check(
        &self,
        scope: &Scope,
        progress: &mut dyn FnMut(&str, u64, u64),
    ) -> Result<Checked, RecordError> {
        let mut found = Checked::default();
        for (path, error) in self.away() {
            let what = format!("the volume is away, and what it holds was not looked at: {error}");
            found.flaws.push(Flaw { file: path.clone(), kind: FlawKind::Missing, what });
        }
        let mut volumes = Vec::new();
        for shelf in self.shelves() {
            let mut rows = shelf.index.all()?;
            rows.sort_by(|a, b| a.path.cmp(&b.path));
            volumes.push((shelf, rows));
        }
        let in_scope = |row: &&Row| row.sealed && scope.has(&row.camera, row.start_90k, row.end_90k);
        let rows = volumes.iter().flat_map(|(_, rows)| rows.iter().filter(in_scope));
        let total = rows.map(|row| row.bytes).sum();
        for (shelf, rows) in &volumes {
            for row in rows.iter().filter(in_scope) {
                let begin = found.bytes;
                let told = &mut |read| progress(&row.camera, begin + read, total);
                found.look(shelf, row, told)?;
            }
            let known: HashSet<&str> = rows.iter().map(|row| row.path.as_str()).collect();
            found.look_for_orphans(shelf, &known, scope)?;
        }
        Ok(found)
    }
}

impl Checked {
    fn look(&mut self, shelf: &Shelf, row: &Row, progress: &mut dyn FnMut(u64)) -> Result<(), RecordError> {
        let full = shelf.recordings.join(&row.path);
        let condition = match File::open(&full) {
            Ok(file) => {
                let condition = check(&file, row, progress);
                // It was read for this alone: what others read stays in memory instead.
                let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
                condition
                    .unwrap_or_else(|error| Condition::Damaged { why: format!("it cannot be read: {error}") })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Condition::Missing,
            Err(error) => Condition::Damaged { why: format!("it cannot be opened: {error}") },
        };
        self.bytes += row.bytes;
        let (kind, what) = match condition {
            Condition::Whole { .. } => {
                self.whole += 1;
                return Ok(());
            }
            Condition::Unproved => {
                self.unproved += 1;
                return Ok(());
            }
            // Retention takes the row first: what has none any more was meant to go.
            Condition::Missing if shelf.index.row(&row.path)?.is_none() => return Ok(()),
            Condition::Missing => (FlawKind::Missing, "the index knows it, and it is gone".to_owned()),
            Condition::Damaged { why } => (FlawKind::Damaged, why),
        };
        self.flaws.push(Flaw { file: full, kind, what });
        Ok(())
    }

    fn look_for_orphans(
        &mut self,
        shelf: &Shelf,
        known: &HashSet<&str>,
        scope: &Scope,
    ) -> Result<(), RecordError> {
        for path in recovery::files(&shelf.recordings)? {
            // The writer may have made it since.
            if known.contains(path.as_str()) || shelf.index.row(&path)?.is_some() {
                continue;
            }
            let full = shelf.recordings.join(&path);
            let file = match File::open(&full) {
                Ok(file) => file,
                // Retention takes the row first.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(RecordError::io(&full)(error)),
            };
            let what = match Whole::read(&file).map_err(RecordError::io(&full))? {
                Some(whole)
                    if scope.has(&whole.head.about.camera, whole.head.about.start_90k, whole.end_90k) =>
                {
                    "the index does not know it: the daemon's next start takes it in, so does `liuta ring rebuild`"
                }
                None if scope.cameras.is_empty() && scope.range.is_none() => {
                    "the index does not know it, and nothing in it can be played"
                }
                _ => continue,
            };
            self.flaws.push(Flaw { file: full, kind: FlawKind::Orphan, what: what.to_owned() });
        }
        Ok(())
    }
}

/// Reads a file whole. One without a tail, of an older version or a full disk, is judged by its structure alone.
fn check(file: &File, row: &Row, progress: &mut dyn FnMut(u64)) -> io::Result<Condition> {
    let length = file.metadata()?.len();
    if row.sealed && length != row.bytes {
        let why = format!("it has {length} bytes, and had {} when it was finished", row.bytes);
        return Ok(Condition::Damaged { why });
    }
    if let Some((tail, _)) = recovery::tail(file)?.filter(|_| row.sealed) {
        let crc = recovery::crc_of(file, length.saturating_sub(Tail::UNCOVERED), progress)?.finalize();
        return Ok(if crc == tail.crc {
            Condition::Whole { crc32: format!("{crc:08x}") }
        } else {
            let was = tail.crc;
            Condition::Damaged {
                why: format!("its CRC-32 is {crc:08x}, and was {was:08x} when it was finished"),
            }
        });
    }
    let whole = Whole::read(file)?;
    progress(row.bytes);
    Ok(match whole {
        Some(whole) if whole.bytes >= row.bytes => Condition::Unproved,
        Some(whole) => {
            let why = format!("only its first {} of {} bytes can be played", whole.bytes, row.bytes);
            Condition::Damaged { why }
        }
        None => Condition::Damaged { why: "nothing in it can be played".to_owned() },
    })
}
