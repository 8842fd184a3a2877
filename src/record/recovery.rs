//! What a start does: the index and the files are made to agree.
//!
//! A sealed row vouches for its file: only its name is looked for. Every other file is read part by part, cut behind
//! its last whole part, synced and sealed. A row without a file becomes a gap, and so does a hole before a file that had
//! to be read: its row may have been lost. Nothing that may be somebody's footage is removed: what cannot be played is
//! set aside under another name.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::archive::JOIN_90K;
use super::clock::BELIEVED_90K;
use super::index::{Gap, Index, Row};
use super::{GapCause, RecordError};
use crate::media::cmaf::read::{Fragment, Head};
use crate::media::cmaf::tail::{Point, Tail};

/// A file that nobody has written to for so long is on the disk, if the disk keeps its word.
const SETTLED: std::time::Duration = std::time::Duration::from_secs(300);

/// A head is far shorter.
const HEAD: usize = 64 << 10;

/// So many zeros are blocks that were never written: no NAL unit holds more than two in a row (ITU-T H.264 and H.265,
/// 7.4.1), though some cameras' end with a few.
const ZEROS: usize = 256;

/// The packager ends a part at 16 MiB and the picture that passes it.
const MAX_PAYLOAD: usize = 128 << 20;

/// Gives back when the newest footage ends, on the ring's clock. `progress` is told how many files have been looked at.
pub(super) fn recover(
    recordings: &Path,
    index: &Index,
    progress: &mut dyn FnMut(u64),
) -> Result<Option<i64>, RecordError> {
    let mut known: HashMap<String, Row> =
        index.all()?.into_iter().map(|row| (row.path.clone(), row)).collect();
    let mut newest = known.values().map(|row| row.ring_90k).max();
    let is_new = known.is_empty();
    let (mut inspected, mut seen, mut begun) = (0, 0, Vec::new());
    for camera in folders(recordings)? {
        let days = folders(&recordings.join(&camera))
            .unwrap_or_else(|error| unreadable(&error, &mut known, &camera));
        for day in days {
            let folder = format!("{camera}/{day}");
            let names = entries(&recordings.join(&folder));
            let names = names.unwrap_or_else(|error| unreadable(&error, &mut known, &folder));
            let (mut found, before) = (Vec::new(), inspected);
            for name in names.into_iter().filter(|name| name.ends_with(".mp4")) {
                let path = format!("{folder}/{name}");
                seen += 1;
                progress(seen);
                match known.remove(&path) {
                    Some(row) if row.sealed => {}
                    row => {
                        inspected += 1;
                        match inspect(recordings, &path, row.as_ref()) {
                            Some(row) => {
                                newest = newest.max(Some(row.ring_90k));
                                found.push(row);
                            }
                            // Its row goes like that of any file that is not there.
                            None if !recordings.join(&path).exists() => {
                                known.extend(row.map(|row| (path, row)));
                            }
                            None => {}
                        }
                    }
                }
            }
            // By the day, so that a start that is cut off is not for nothing.
            index.put_all(&found)?;
            begun.extend(found.into_iter().map(|row| (row.camera, row.stream, row.start_90k)));
            if inspected > before {
                tracing::info!("{folder}: recovered; {inspected} files inspected so far");
            }
        }
    }
    let lost: Vec<Row> = known.into_values().collect();
    for row in &lost {
        tracing::warn!("{}: the file is gone", row.path);
    }
    index.lose(&lost)?;
    // A new index knows of no cause at all; see `note_holes`.
    if !is_new {
        tell_holes(index, begun)?;
    }
    Ok(newest)
}

/// A row of the index that a power cut has taken may have told why nothing was recorded before one of these files.
fn tell_holes(index: &Index, mut begun: Vec<(String, String, i64)>) -> Result<(), RecordError> {
    begun.sort();
    for (camera, stream, start_90k) in begun {
        if let Some(before) = index.last_end_before(&camera, &stream, start_90k)?
            && start_90k - before > JOIN_90K
        {
            let gap = Gap { start_90k: before, end_90k: start_90k, cause: GapCause::Daemon };
            index.put_gap(&camera, &stream, &gap)?;
        }
    }
    Ok(())
}

/// Gives every hole between recordings that no gap tells of a gap without a cause: how many there were. For indexes that
/// were made anew; what one volume misses may lie on another.
pub(super) fn note_holes(indexes: &[&Index]) -> Result<u64, RecordError> {
    let mut rows = Vec::new();
    for index in indexes {
        rows.extend(index.all()?.into_iter().map(|row| (*index, row)));
    }
    let stream = |row: &Row| (row.camera.clone(), row.stream.clone());
    rows.sort_by_cached_key(|(_, row)| (stream(row), row.start_90k));
    let mut noted = 0;
    for rows in rows.chunk_by(|(_, a), (_, b)| (&a.camera, &a.stream) == (&b.camera, &b.stream)) {
        let mut end: Option<i64> = None;
        for (index, Row { camera, stream, start_90k, end_90k, .. }) in rows {
            let mut at = end.unwrap_or(*start_90k);
            if start_90k - at > JOIN_90K {
                let mut gaps = Vec::new();
                for index in indexes {
                    gaps.append(&mut index.gaps(camera, stream, at, *start_90k)?);
                }
                gaps.sort_by_key(|gap| gap.start_90k);
                let told = gaps.iter().map(|gap| (gap.start_90k, gap.end_90k));
                for (next, behind) in told.chain([(*start_90k, *start_90k)]) {
                    if next - at > JOIN_90K {
                        let gap = Gap { start_90k: at, end_90k: next, cause: GapCause::Unknown };
                        index.put_gap(camera, stream, &gap)?;
                        noted += 1;
                    }
                    at = at.max(behind);
                }
            }
            end = end.max(Some(*end_90k));
        }
    }
    Ok(noted)
}

/// A folder that cannot be read keeps no camera from being recorded, and its rows stay for better days.
fn unreadable(error: &RecordError, known: &mut HashMap<String, Row>, folder: &str) -> Vec<String> {
    tracing::error!("{error}; what is recorded there is left as it is; check the disk");
    known.retain(|path, _| path.strip_prefix(folder).is_none_or(|rest| !rest.starts_with('/')));
    Vec::new()
}

/// Cuts a torn file to its whole parts, finishes and describes it. One without any is set aside when it is ours; `known`
/// is its row.
fn inspect(recordings: &Path, path: &str, known: Option<&Row>) -> Option<Row> {
    let full = recordings.join(path);
    let result = File::options().read(true).write(true).open(&full).and_then(|file| {
        let row = match finished(&file, path, known.is_none())? {
            Some(row) => Some(row),
            None => finish(&file, path)?,
        };
        if row.is_some() {
            return Ok(row);
        }
        if file.metadata()?.len() == 0 {
            std::fs::remove_file(&full)?;
        } else if known.is_some() || begins_like_ours(&file) {
            std::fs::rename(&full, full.with_extension("mp4.damaged"))?;
            tracing::warn!(
                "{path}: nothing in it can be played; set aside as {path}.damaged, yours to delete"
            );
        } else {
            tracing::warn!("{path}: not written by liuta; left alone");
        }
        Ok(None)
    });
    let row = result.unwrap_or_else(|error| {
        tracing::error!("{}: {error}", full.display());
        None
    })?;
    let ring_90k = match known {
        Some(known) => known.ring_90k + (row.end_90k - known.end_90k).max(0),
        None => row.end_90k.max(BELIEVED_90K),
    };
    Some(Row { ring_90k, ..row })
}

/// A file that was finished. One that a crash or power cut may have caught is believed only by its CRC; in a ring without
/// an index (`settled`) those that were left alone for long are believed by what stands at both ends.
fn finished(file: &File, path: &str, settled: bool) -> io::Result<Option<Row>> {
    let Some((tail, size)) = tail(file)? else { return Ok(None) };
    let Some(head) = head(file)? else { return Ok(None) };
    let metadata = file.metadata()?;
    let old = metadata.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > SETTLED));
    if !(settled && old) && crc(file, metadata.len() - Tail::UNCOVERED)?.finalize() != tail.crc {
        return Ok(None);
    }
    let begins = head.size() as u64 == tail.points.first().map_or(0, |point| point.offset);
    let believed = tail.end_90k > head.about.start_90k && begins && size < metadata.len();
    Ok(believed.then(|| row(path, &head, tail.end_90k, metadata.len())))
}

/// Cuts the file behind its last whole part and gives it a tail.
fn finish(file: &File, path: &str) -> io::Result<Option<Row>> {
    let Some(whole) = Whole::written(file)? else { return Ok(None) };
    let length = file.metadata()?.len();
    // Whole but for some bytes: its CRC goes on telling that they are not what was written.
    if tail(file)?.is_some_and(|(_, size)| whole.bytes + size == length) {
        return Ok(Some(row(path, &whole.head, whole.end_90k, length)));
    }
    if length > whole.bytes {
        tracing::info!("{path}: cut behind its last whole part");
        file.set_len(whole.bytes)?;
    }
    let tail = Tail::write(&whole.points, whole.end_90k, crc(file, whole.bytes)?);
    // A full disk takes nothing from the file: it will be read part by part again.
    let bytes = match file.write_all_at(&tail, whole.bytes) {
        Ok(()) => whole.bytes + tail.len() as u64,
        Err(error) => {
            tracing::debug!("{path}: no tail: {error}");
            file.set_len(whole.bytes)?;
            whole.bytes
        }
    };
    file.sync_all()?;
    Ok(Some(row(path, &whole.head, whole.end_90k, bytes)))
}

fn row(path: &str, head: &Head, end_90k: i64, bytes: u64) -> Row {
    Row {
        path: path.to_owned(),
        camera: head.about.camera.clone(),
        stream: head.about.stream.clone(),
        start_90k: head.about.start_90k,
        end_90k,
        bytes,
        sealed: true,
        ring_90k: end_90k,
        entries: head.entries(),
    }
}

/// CRC-32 of the file's first `bytes`.
pub(super) fn crc(file: &File, bytes: u64) -> io::Result<crc32fast::Hasher> {
    crc_of(file, bytes, &mut |_| ())
}

/// The same; `progress` is told how many have been read.
pub(super) fn crc_of(
    file: &File,
    bytes: u64,
    progress: &mut dyn FnMut(u64),
) -> io::Result<crc32fast::Hasher> {
    let (mut crc, mut at) = (crc32fast::Hasher::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    while at < bytes {
        let some = buffer.len().min(usize::try_from(bytes - at).unwrap_or(usize::MAX));
        let filled = read_up_to(file, &mut buffer[..some], at)?;
        if filled == 0 {
            break;
        }
        crc.update(&buffer[..filled]);
        at += filled as u64;
        progress(at);
    }
    Ok(crc)
}

/// The tail of a finished file, and its size.
pub(super) fn tail(file: &File) -> io::Result<Option<(Tail, u64)>> {
    let end = file.metadata()?.len();
    let mut last = [0; 4];
    let Some(at) = end.checked_sub(last.len() as u64) else { return Ok(None) };
    file.read_exact_at(&mut last, at)?;
    let Some((size, at)) = Tail::size(last).and_then(|size| Some((size, end.checked_sub(size as u64)?)))
    else {
        return Ok(None);
    };
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, at)?;
    Ok(Tail::parse(&bytes).map(|tail| (tail, size as u64)))
}

/// What a file holds up to its last whole part.
pub(super) struct Whole {
    pub head: Head,
    pub points: Vec<Point>,
    pub end_90k: i64,
    pub bytes: u64,
}

impl Whole {
    /// Reads the file part by part; nothing where it has none that is whole. That its pictures were written is taken on
    /// trust: so it is while the system runs.
    pub(super) fn read(file: &File) -> io::Result<Option<Whole>> {
        Whole::read_while(file, |_, _| Ok(true))
    }

    /// The same after a crash or a power cut, up to the first part of which something is missing.
    fn written(file: &File) -> io::Result<Option<Whole>> {
        let (mut written, length) = (Written::default(), file.metadata()?.len());
        Whole::read_while(file, |at, part| {
            let is_last = Parts::new(file, at + part.size as u64, length).next()?.is_none();
            written.look(file, at, part, is_last)
        })
    }

    /// `sound` is asked of each part, with its place.
    fn read_while(
        file: &File,
        mut sound: impl FnMut(u64, &Fragment) -> io::Result<bool>,
    ) -> io::Result<Option<Whole>> {
        let Some(head) = head(file)? else { return Ok(None) };
        let mut parts = Parts::new(file, head.size() as u64, file.metadata()?.len());
        // Presentation runs behind decoding by the delay that the first picture has.
        let shift = head.about.start_90k - head.about.origin_90k;
        let (mut whole, mut points) = (None, Vec::new());
        while let Some((offset, fragment)) = parts.next()? {
            if !sound(offset, &fragment)? {
                break;
            }
            let decode = head.about.origin_90k + fragment.video.decode_time;
            if fragment.video.independent && points.len() < Tail::MOST_POINTS {
                let first = fragment.video.presentation().next().unwrap_or(fragment.video.decode_time);
                points.push(Point { offset, start_90k: head.about.origin_90k + first });
            }
            whole = Some((parts.at, decode + fragment.video.duration() + shift));
        }
        Ok(whole.map(|(bytes, end_90k)| Whole { head, points, end_90k, bytes }))
    }
}

/// Whether a file's parts are NAL units to the end, and no block is missing. After power loss a file may have its length
/// but zeros instead of some of its blocks, and these need not be the last ones.
#[derive(Default)]
struct Written {
    /// Zeros that this camera's pictures end with: none, by the standards.
    padding: usize,
}

impl Written {
    fn look(&mut self, file: &File, at: u64, fragment: &Fragment, is_last: bool) -> io::Result<bool> {
        let mut payload = vec![0; fragment.size.saturating_sub(fragment.header.len()).min(MAX_PAYLOAD)];
        file.read_exact_at(&mut payload, at + fragment.header.len() as u64)?;
        // A run of twice as many holds such a piece wherever it begins.
        if payload.chunks_exact(ZEROS / 2).any(is_zero) {
            return Ok(false);
        }
        let mut rest = &payload[..];
        for sample in &fragment.video.samples {
            let Some((picture, behind)) = rest.split_at_checked(sample.size as usize) else {
                return Ok(false);
            };
            let zeros = picture.iter().rev().take_while(|&&byte| byte == 0).count();
            // The first block that is missing may begin within its last bytes.
            let is_cut = is_last && behind.is_empty() && zeros > self.padding;
            if is_cut || !is_nal_units(picture) {
                return Ok(false);
            }
            self.padding = self.padding.max(zeros);
            rest = behind;
        }
        Ok(true)
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

fn is_nal_units(mut picture: &[u8]) -> bool {
    while let Some((length, nal)) = picture.split_first_chunk::<4>() {
        let Some((nal, next)) = nal.split_at_checked(u32::from_be_bytes(*length) as usize) else {
            return false;
        };
        if is_zero(nal) {
            return false;
        }
        picture = next;
    }
    true
}

fn begins_like_ours(file: &File) -> bool {
    let mut start = [0; 20];
    file.read_exact_at(&mut start, 0).is_ok() && &start[4..12] == b"ftypiso6"
}

/// The parts of a file that are whole and hold NAL units, one after the other.
pub(super) struct Parts<'a> {
    file: &'a File,
    /// Where the next part begins.
    pub at: u64,
    end: u64,
}

impl<'a> Parts<'a> {
    pub(super) fn new(file: &'a File, at: u64, end: u64) -> Parts<'a> {
        Parts { file, at, end }
    }

    /// A part and its place. `None` at the end and where something else follows.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Fragment)>> {
        let mut peek = [0; Fragment::PEEK];
        if self.end < self.at + Fragment::PEEK as u64 {
            return Ok(None);
        }
        self.file.read_exact_at(&mut peek, self.at)?;
        let Some(size) = Fragment::header_size(&peek).filter(|&size| self.at + size as u64 + 4 <= self.end)
        else {
            return Ok(None);
        };
        // With the first NAL unit's length: a file that grew before its blocks were written has zeros there.
        let mut header = vec![0; size + 4];
        self.file.read_exact_at(&mut header, self.at)?;
        let (header, length) = header.split_at(size);
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
        let Some(fragment) = Fragment::parse(header) else { return Ok(None) };
        let first = fragment.video.samples.first().map_or(0, |sample| sample.size);
        if length == 0 || length > first.saturating_sub(4) || self.at + fragment.size as u64 > self.end {
            return Ok(None);
        }
        let at = self.at;
        self.at += fragment.size as u64;
        Ok(Some((at, fragment)))
    }
}

fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The head of a segment file.
pub(super) fn head(file: &File) -> io::Result<Option<Head>> {
    let mut start = vec![0; HEAD];
    let filled = read_up_to(file, &mut start, 0)?;
    Ok(Head::parse(&start[..filled]))
}

/// Every `.mp4` in the place of a segment, below `recordings`.
pub(super) fn files(recordings: &Path) -> Result<Vec<String>, RecordError> {
    let mut found = Vec::new();
    for camera in folders(recordings)? {
        for day in folders(&recordings.join(&camera))? {
            let names = entries(&recordings.join(&camera).join(&day))?;
            let names = names.into_iter().filter(|name| name.ends_with(".mp4"));
            found.extend(names.map(|name| format!("{camera}/{day}/{name}")));
        }
    }
    found.sort();
    Ok(found)
}

fn folders(path: &Path) -> Result<Vec<String>, RecordError> {
    // Nothing of ours is hidden (`lost+found` has no segments).
    Ok(entries(path)?.into_iter().filter(|name| !name.contains('.')).collect())
}

fn entries(path: &Path) -> Result<Vec<String>, RecordError> {
    match std::fs::read_dir(path) {
        Ok(found) => Ok(found.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(Vec::new()),
        Err(error) => Err(RecordError::io(path)(error)),
    }
}
