//! What a start does: the index and the files are made to agree.
//!
//! A sealed row vouches for its file: only its name is looked for. Every other file is read part by part, cut behind
//! its last whole part, synced and sealed. A row without a file becomes a gap. Nothing that may be somebody's footage is
//! removed: what cannot be played is set aside under another name.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::index::{Gap, Index, Row};
use super::{GapCause, RecordError};
use crate::media::cmaf::read::{Fragment, Head};

/// A head is far shorter.
const HEAD: usize = 64 << 10;

/// So many zeros are blocks that were never written; cameras may pad a NAL unit with a few.
const ZEROS: usize = 512;

/// The packager ends a part at 16 MiB and the picture that passes it.
const MAX_PICTURES: u64 = 128 << 20;

pub(super) fn recover(recordings: &Path, index: &Index) -> Result<(), RecordError> {
    let mut known: HashMap<String, Row> =
        index.all()?.into_iter().map(|row| (row.path.clone(), row)).collect();
    let mut inspected = 0;
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
                match known.remove(&path) {
                    Some(row) if row.sealed => {}
                    row => {
                        inspected += 1;
                        match inspect(recordings, &path, row.is_some()) {
                            Some(row) => found.push(row),
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
            if inspected > before {
                tracing::info!("{folder}: recovered; {inspected} files inspected so far");
            }
        }
    }
    for row in known.values() {
        tracing::warn!("{}: the file is gone", row.path);
        // Of an unsealed one nothing is known; what is missing then is the daemon's gap.
        if row.sealed {
            let gap = Gap { start_90k: row.start_90k, end_90k: row.end_90k, cause: GapCause::Disk };
            index.put_gap(&row.camera, &row.stream, &gap)?;
        }
    }
    index.remove(known.keys().map(String::as_str))?;
    Ok(())
}

/// A folder that cannot be read keeps no camera from being recorded, and its rows stay for better days.
fn unreadable(error: &RecordError, known: &mut HashMap<String, Row>, folder: &str) -> Vec<String> {
    tracing::error!("{error}; what is recorded there is left as it is; check the disk");
    known.retain(|path, _| path.strip_prefix(folder).is_none_or(|rest| !rest.starts_with('/')));
    Vec::new()
}

/// Cuts a torn file to its whole parts and describes it. One without any is set aside when it is `ours`.
fn inspect(recordings: &Path, path: &str, ours: bool) -> Option<Row> {
    let full = recordings.join(path);
    let result = File::options().read(true).write(true).open(&full).and_then(|file| {
        let row = read(&file, path)?;
        if let Some(row) = &row {
            if file.metadata()?.len() > row.bytes {
                tracing::info!("{path}: cut behind its last whole part");
                file.set_len(row.bytes)?;
            }
            file.sync_all()?;
        } else if file.metadata()?.len() == 0 {
            std::fs::remove_file(&full)?;
        } else if ours || begins_like_ours(&file) {
            std::fs::rename(&full, full.with_extension("mp4.damaged"))?;
            tracing::warn!(
                "{path}: nothing in it can be played; set aside as {path}.damaged, yours to delete"
            );
        } else {
            tracing::warn!("{path}: not written by liuta; left alone");
        }
        Ok(row)
    });
    result.unwrap_or_else(|error| {
        tracing::error!("{}: {error}", full.display());
        None
    })
}

/// What the file holds up to its last whole part; nothing where it has none.
pub(super) fn read(file: &File, path: &str) -> io::Result<Option<Row>> {
    let Some(head) = head(file)? else { return Ok(None) };
    let mut parts = Parts::new(file, head.size() as u64, file.metadata()?.len());
    // Presentation runs behind decoding by the delay that the first picture has.
    let shift = head.about.start_90k - head.about.origin_90k;
    let mut whole = Vec::new();
    while let Some((at, fragment)) = parts.next()? {
        let end_90k = head.about.origin_90k + fragment.video.decode_time + fragment.video.duration() + shift;
        whole.push((at, parts.at, end_90k));
    }
    while let Some(&(at, ..)) = whole.last()
        && !is_written(file, at, parts.end)?
    {
        whole.pop();
    }
    let Some(&(_, bytes, end_90k)) = whole.last() else { return Ok(None) };
    Ok(Some(Row {
        path: path.to_owned(),
        camera: head.about.camera,
        stream: head.about.stream,
        start_90k: head.about.start_90k,
        end_90k,
        bytes,
        sealed: true,
    }))
}

/// Whether the part's pictures are NAL units to the end. After power loss a file may have its length but zeros instead
/// of its last blocks. No NAL unit should end with a zero (ITU-T H.264 and H.265, 7.4.1), but some cameras' do.
fn is_written(file: &File, at: u64, end: u64) -> io::Result<bool> {
    let Some((_, fragment)) = Parts::new(file, at, end).next()? else { return Ok(false) };
    let mut pictures = vec![0; fragment.video.bytes().min(MAX_PICTURES) as usize];
    file.read_exact_at(&mut pictures, at + fragment.header.len() as u64)?;
    let mut rest = &pictures[..];
    for sample in &fragment.video.samples {
        let Some((mut picture, behind)) = rest.split_at_checked(sample.size as usize) else {
            return Ok(false);
        };
        rest = behind;
        while let Some((length, nal)) = picture.split_first_chunk::<4>() {
            let Some((nal, next)) = nal.split_at_checked(u32::from_be_bytes(*length) as usize) else {
                return Ok(false);
            };
            let zeros = nal.iter().rev().take_while(|&&byte| byte == 0).count();
            if zeros == nal.len() || zeros >= ZEROS {
                return Ok(false);
            }
            picture = next;
        }
    }
    Ok(true)
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
