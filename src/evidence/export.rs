//! Writing clips with a signed manifest.
//!
//! Everything is written under hidden names first, synced, and gets its name when all of it is whole: the manifest's
//! signature comes last. Whatever ends an export before that, a full disk or Ctrl-C, leaves nothing.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use super::key::SigningKey;
use super::manifest::{Manifest, Missing, Place, Source, Span, VERSION};
use super::{MANIFEST, MANIFEST_ENDING, SIGNATURE_ENDING, hex, manifest, with_ending};
use crate::access::By;
use crate::config::Config;
use crate::owner;
use crate::record::{Archive, Clip, RecordError, Recording, Stretch};

/// Of a name that a file has while it is written.
const DRAFT_ENDING: &str = ".partial";

/// Less than this is no gap: pictures come some time apart.
const GAP: SignedDuration = SignedDuration::from_millis(500);

/// What to export.
#[derive(Clone, Debug)]
pub struct Request {
    pub cameras: Vec<String>,
    pub range: Range<Timestamp>,
    /// The clip, or for several cameras, or where there is one, the folder.
    pub to: PathBuf,
    /// Replace what is there.
    pub force: bool,
    /// For the manifest: a case's number, say.
    pub note: Option<String>,
}

/// What was written.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Exported {
    pub manifest: PathBuf,
    pub signature: PathBuf,
    #[serde(flatten)]
    pub says: Manifest,
}

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("{0} is there already; --force replaces it")]
    Exists(String),
    #[error(
        "{0} is a folder with something in it, which would look as if it were signed: name the clip or a new folder, or \
         write into it all the same with --force"
    )]
    Used(String),
    #[error("{0}: the name is no UTF-8, and a manifest could not tell it")]
    Name(String),
    #[error("{path}: the disk is full; make room on it, or export to another one. Nothing was left there")]
    Full { path: String },
    #[error("{path}: {error}")]
    Io { path: String, error: io::Error },
    #[error("{camera}: the recordings cannot be read: {error}")]
    Read { camera: String, error: io::Error },
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("{0}")]
    Manifest(#[from] serde_json::Error),
}

impl ExportError {
    fn io(path: &Path) -> impl Fn(io::Error) -> ExportError + '_ {
        move |error| {
            let (path, full) = (path.display().to_string(), error.kind() == io::ErrorKind::StorageFull);
            if full { ExportError::Full { path } } else { ExportError::Io { path, error } }
        }
    }
}

/// Told of bytes that are done, and of how many there are.
pub type Progress<'p> = &'p mut (dyn FnMut(&str, u64, u64) + Send);

/// Writes the clips, their manifest and its signature. Dropped before it is ready, it leaves nothing. The audit trail is
/// the caller's: its rows come first.
pub async fn export(
    archive: &Archive,
    config: &Config,
    key: &SigningKey,
    by: &By,
    request: Request,
    progress: Progress<'_>,
) -> Result<Exported, ExportError> {
    let target = Target::of(&request)?;
    let mut files = Vec::new();
    let mut drafts = Drafts::make(&target)?;
    // All of them before the first is written: who has nothing is told at once.
    let mut films = Vec::new();
    for camera in &request.cameras {
        let mut number = 0;
        for range in archive.films(camera, request.range.clone())? {
            let segments = archive.recordings(camera, &range)?;
            if !segments.is_empty() {
                number += 1;
                films.push(Film { camera, path: target.clip(camera, number)?, range, segments });
            }
        }
        if number == 0 {
            return Err(RecordError::Nothing { camera: camera.clone() }.into());
        }
    }
    let (mut done, total) = (0, films.iter().map(Film::size).sum());
    for film in films {
        let Film { camera, path, .. } = &film;
        let (mut file, draft) = drafts.create(path)?;
        let mut hash = Sha256::new();
        let mut bytes = 0;
        let mut chunks = archive.export(camera, film.range.clone())?.chunks;
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk.map_err(film.unreadable())?;
            file.write_all(&chunk).map_err(ExportError::io(path))?;
            hash.update(&chunk);
            bytes += chunk.len() as u64;
            progress(camera, done + bytes, total);
        }
        file.sync_all().map_err(ExportError::io(path))?;
        let clip = File::open(&draft).and_then(|file| Clip::read(&file)).map_err(ExportError::io(path))?;
        let Some(clip) = clip else {
            return Err(RecordError::Nothing { camera: camera.to_string() }.into());
        };
        done += film.size();
        let configured = config.cameras.get(camera.as_str());
        files.push(manifest::Clip {
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            bytes,
            sha256: hex(&hash.finalize()),
            camera: camera.to_string(),
            place: configured.map_or_else(Place::default, |camera| Place {
                name: Some(camera.name.clone()),
                grid: camera.grid.clone(),
                position: camera.position,
            }),
            codec: clip.codec.clone(),
            asked: Span { start: film.range.start, end: film.range.end },
            given: Span { start: clip.first, end: clip.last },
            pictures: clip.pictures,
            gaps: gaps(&clip, &film.range, &archive.list(camera, film.range.clone())?),
            camera_clock_error_seconds: film.segments.iter().find_map(Recording::camera_clock_error_seconds),
            segments: check(film.segments.clone()).await.map_err(film.unreadable())?,
        });
    }
    let says = Manifest {
        version: VERSION,
        site: config.site.id.clone(),
        liuta: env!("CARGO_PKG_VERSION").to_owned(),
        exported_at: Timestamp::now(),
        exported_by: by.name.clone(),
        note: request.note,
        public_key: key.public(),
        fingerprint: key.public().fingerprint(),
        files,
    };
    let mut text = serde_json::to_vec_pretty(&says)?;
    text.push(b'\n');
    let (manifest, signature) = (target.manifest(), target.signature());
    drafts.write(&manifest, &text)?;
    drafts.write(&signature, &key.sign(&text))?;
    drafts.publish()?;
    Ok(Exported { manifest, signature, says })
}

/// One clip to be: what a camera has recorded with one codec.
struct Film<'r> {
    camera: &'r String,
    path: PathBuf,
    range: Range<Timestamp>,
    segments: Vec<Recording>,
}

impl Film<'_> {
    fn size(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes_in(&self.range)).sum()
    }

    fn unreadable(&self) -> impl Fn(io::Error) -> ExportError + '_ {
        |error| ExportError::Read { camera: self.camera.clone(), error }
    }
}

/// Reads every recorded file whole, on a thread: the disk is slow.
async fn check(segments: Vec<Recording>) -> io::Result<Vec<Source>> {
    let reading = tokio::task::spawn_blocking(move || {
        let source = |segment: &Recording| Source {
            path: segment.path().to_owned(),
            bytes: segment.bytes(),
            condition: segment.check(),
        };
        segments.iter().map(source).collect()
    });
    reading.await.map_err(io::Error::other)
}

/// What is missing of the range in the clip, with the cause that the index knows.
fn gaps(clip: &Clip, asked: &Range<Timestamp>, listed: &[Stretch]) -> Vec<Missing> {
    let ends = [asked.start..clip.first, clip.end..asked.end];
    let [before, behind] = ends;
    let all = std::iter::once(before).chain(clip.holes.iter().cloned()).chain([behind]);
    let missing = all.filter(|hole| hole.end.duration_since(hole.start) > GAP);
    missing
        .map(|hole| {
            let shared = |stretch: &Stretch| match *stretch {
                Stretch::Gap { start, end, cause } => {
                    let shared = end.min(hole.end).duration_since(start.max(hole.start));
                    shared.is_positive().then_some((shared, cause))
                }
                Stretch::Recorded { .. } => None,
            };
            let longest = listed.iter().filter_map(shared).max_by_key(|(shared, _)| *shared);
            Missing { start: hole.start, end: hole.end, cause: longest.map(|(_, cause)| cause) }
        })
        .collect()
}

/// Where things go.
enum Target {
    Clip { first: PathBuf, force: bool },
    Folder(PathBuf),
}

/// Nothing is there, or what is there may be replaced.
fn free(path: &Path, force: bool) -> Result<(), ExportError> {
    match path.symlink_metadata() {
        Ok(_) if !force => Err(ExportError::Exists(path.display().to_string())),
        Ok(found) if found.is_dir() => Err(ExportError::io(path)(io::ErrorKind::IsADirectory.into())),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(ExportError::io(path)(error)),
    }
}

impl Target {
    fn of(request: &Request) -> Result<Target, ExportError> {
        let (to, force) = (request.to.clone(), request.force);
        let slash = to.as_os_str().as_encoded_bytes().ends_with(b"/");
        if request.cameras.len() > 1 || slash || to.is_dir() {
            // What lies in the folder of a manifest looks as if it belonged to it.
            let used = match std::fs::read_dir(&to) {
                Ok(mut entries) => entries.next().is_some(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(ExportError::io(&to)(error)),
            };
            if used && !force {
                return Err(ExportError::Used(to.display().to_string()));
            }
            return Ok(Target::Folder(to));
        }
        if to.file_name().is_none_or(|name| name.to_str().is_none()) {
            return Err(ExportError::Name(to.display().to_string()));
        }
        let target = Target::Clip { first: to.clone(), force };
        [to, target.manifest(), target.signature()].iter().try_for_each(|path| free(path, force))?;
        Ok(target)
    }

    /// The camera's first clip, or where its codec changes its second, `…-2.mp4`, and so on.
    fn clip(&self, camera: &str, number: usize) -> Result<PathBuf, ExportError> {
        match self {
            Target::Clip { first, .. } if number == 1 => Ok(first.clone()),
            Target::Clip { first, force } => {
                let stem = first.file_stem().unwrap_or_default().to_string_lossy();
                let ending = first.extension().map(|ending| format!(".{}", ending.to_string_lossy()));
                let path = first.with_file_name(format!("{stem}-{number}{}", ending.unwrap_or_default()));
                free(&path, *force)?;
                Ok(path)
            }
            Target::Folder(folder) if number == 1 => Ok(folder.join(format!("{camera}.mp4"))),
            // No camera's id has a dot.
            Target::Folder(folder) => Ok(folder.join(format!("{camera}.{number}.mp4"))),
        }
    }

    fn manifest(&self) -> PathBuf {
        match self {
            Target::Clip { first, .. } => with_ending(first, MANIFEST_ENDING),
            Target::Folder(folder) => folder.join(MANIFEST),
        }
    }

    fn signature(&self) -> PathBuf {
        with_ending(&self.manifest(), SIGNATURE_ENDING)
    }
}

/// Files that have no names of their own yet. Dropped before they are published, they are gone.
struct Drafts {
    /// Made for this, to be removed with them.
    folder: Option<PathBuf>,
    files: Vec<(PathBuf, PathBuf)>,
}

impl Drafts {
    fn make(target: &Target) -> Result<Drafts, ExportError> {
        let mut folder = None;
        if let Target::Folder(path) = target
            && !path.is_dir()
        {
            std::fs::create_dir(path).map_err(ExportError::io(path))?;
            owner::hand_over(path);
            folder = Some(path.clone());
        }
        Ok(Drafts { folder, files: Vec::new() })
    }

    fn create(&mut self, path: &Path) -> Result<(File, PathBuf), ExportError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let draft = path.with_file_name(format!(".{name}{DRAFT_ENDING}"));
        // One that a power cut has left is nobody's.
        if let Err(error) = std::fs::remove_file(&draft)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(ExportError::io(path)(error));
        }
        let file =
            File::options().write(true).create_new(true).open(&draft).map_err(ExportError::io(path))?;
        owner::hand_over(&draft);
        self.files.push((draft.clone(), path.to_owned()));
        Ok((file, draft))
    }

    fn write(&mut self, path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
        let (mut file, _) = self.create(path)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(ExportError::io(path))
    }

    fn publish(mut self) -> Result<(), ExportError> {
        for (draft, path) in &self.files {
            std::fs::rename(draft, path).map_err(ExportError::io(path))?;
        }
        self.folder = None;
        let files = std::mem::take(&mut self.files);
        if let Some((_, path)) = files.first() {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new("."));
            match File::open(folder).and_then(|folder| folder.sync_all()) {
                // Not every file system of a stick can sync a folder.
                Err(error) if error.kind() != io::ErrorKind::InvalidInput => {
                    return Err(ExportError::io(folder)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Drafts {
    fn drop(&mut self) {
        for (draft, _) in &self.files {
            let _ = std::fs::remove_file(draft);
        }
        if let Some(folder) = &self.folder {
            let _ = std::fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::GapCause;

    #[test]
    fn what_is_missing_in_the_clip_is_told_with_the_cause_that_the_index_knows() {
        let at = |seconds: i64| Timestamp::from_second(1_790_000_000 + seconds).unwrap();
        let clip = Clip {
            codec: "avc1.64001f".to_owned(),
            first: at(10),
            last: at(89),
            end: at(90),
            pictures: 1000,
            holes: vec![at(30)..at(40), at(60)..at(61)],
        };
        let gap = |start, end, cause| Stretch::Gap { start: at(start), end: at(end), cause };
        let listed = [
            gap(29, 33, GapCause::Camera),
            gap(33, 40, GapCause::Daemon),
            Stretch::Recorded { start: at(40), end: at(90) },
            gap(90, 100, GapCause::Disk),
        ];
        let told = gaps(&clip, &(at(0)..at(95)), &listed);
        let missing = |start, end, cause| Missing { start: at(start), end: at(end), cause };
        let expected = [
            missing(0, 10, None),
            missing(30, 40, Some(GapCause::Daemon)),
            missing(60, 61, None),
            missing(90, 95, Some(GapCause::Disk)),
        ];
        assert_eq!(told, expected);
        assert_eq!(gaps(&Clip { holes: vec![], ..clip }, &(at(10)..at(90)), &listed), []);
    }
}
