//! The indexes made anew from the files alone: for one that is lost, damaged, or wrong in a way that nobody has foreseen.
//!
//! It is what a start does with an empty index (`recovery`). What the files do not know, the causes of gaps, pins and how
//! complete hours are that have gone, comes from the old index where that can be read, and pins from whoever asks as well.
//! The old index is kept aside.

use std::ops::Range;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;

use super::archive::places;
use super::index::Index;
use super::{Lock, RecordError, marker, recovery, ticks, volumes};
use crate::config::Config;
use crate::owner;

/// Evidence that is kept beyond the ring's age.
#[derive(Clone, Debug, PartialEq)]
pub struct Pin {
    pub alert: String,
    pub camera: String,
    pub range: Range<Timestamp>,
}

/// What became of the indexes.
#[derive(Clone, Debug, Serialize)]
pub struct Rebuilt {
    pub volumes: Vec<Volume>,
    /// Gaps without a cause: the files do not know it, and no old index could be asked.
    pub unexplained_gaps: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Volume {
    pub index: PathBuf,
    /// Where the old one lies; none where there was none.
    pub aside: Option<PathBuf>,
    pub files: u64,
    pub bytes: u64,
}

/// Makes every index anew. `progress` is told files that were looked at, and how many there are.
///
/// # Errors
/// [`RecordError::Locked`] while a daemon runs. A volume that is away fails it before anything is touched.
pub fn rebuild(
    config: &Config,
    pins: &[Pin],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Rebuilt, RecordError> {
    let _lock = Lock::take(&config.data)?;
    let (mut there, mut total) = (Vec::new(), 0);
    for (volume, _) in volumes(&config.data, &config.record) {
        marker::identify(&config.data, &volume)?;
        let (recordings, index) = places(&volume.path);
        owner::make_folders(&recordings, 0o750).map_err(RecordError::io(&recordings))?;
        total += recovery::files(&recordings)?.len() as u64;
        there.push((recordings, index));
    }
    let (mut told, mut indexes, mut done) = (Vec::new(), Vec::new(), 0);
    for (recordings, path) in there {
        // Its log is brought into it when it is closed here.
        let is_readable = Index::read(&path).is_ok();
        let aside = path.exists().then(|| Index::set_aside(&path, "replaced")).transpose()?;
        let (index, _) = Index::open(&path)?;
        let mut seen = 0;
        recovery::recover(&recordings, &index, &mut |files| {
            seen = files;
            progress(done + seen, total);
        })?;
        done += seen;
        if let Some(old) = aside.as_ref().filter(|_| is_readable)
            && let Err(error) = index.carry(old)
        {
            tracing::warn!("{}: {error}; what only it knew is lost", old.display());
        }
        let files = index.all()?.len() as u64;
        told.push(Volume { index: path, aside, files, bytes: index.total_bytes() });
        indexes.push(index);
    }
    for Pin { alert, camera, range } in pins {
        let range = ticks(range)?;
        for index in &indexes {
            index.pin(alert, camera, range.start, range.end, range.end)?;
        }
    }
    let unexplained_gaps = recovery::note_holes(&indexes.iter().collect::<Vec<_>>())?;
    Ok(Rebuilt { volumes: told, unexplained_gaps })
}
