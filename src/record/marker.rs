//! Which disk a volume is: a file with an identity on it, which the data folder remembers.
//!
//! A mount that is missing leaves an empty folder on the system's disk, and one that was swapped leaves somebody else's
//! files. On neither is anything recorded.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::RecordError;
use crate::config;
use crate::owner;

/// On the volume.
const MARKER: &str = "liuta-volume";

/// In the data folder: the identities of all volumes, by name.
const KNOWN: &str = "volumes.json";

/// A folder as the kernel knows it: another disk that is mounted there has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    device: u64,
    inode: u64,
}

impl Place {
    pub(super) fn of(root: &Path) -> io::Result<Place> {
        let found = std::fs::metadata(root)?;
        Ok(Place { device: found.dev(), inode: found.ino() })
    }
}

/// Makes sure that what lies at the volume's path is the disk that was there before; one that is seen for the first time
/// is marked.
pub(super) fn identify(data: &Path, volume: &config::Volume) -> Result<Place, RecordError> {
    let (root, known_file) = (&volume.path, data.join(KNOWN));
    let place = Place::of(root).map_err(RecordError::io(root))?;
    let mut known = known(&known_file)?;
    let file = root.join(MARKER);
    let found = match std::fs::read_to_string(&file) {
        Ok(text) => Some(text.trim().to_owned()).filter(|id| !id.is_empty()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(RecordError::io(&file)(error)),
    };
    match (known.get(&volume.name), found) {
        (Some(known), Some(found)) if *known == found => {}
        (Some(_), found) => {
            return Err(RecordError::Foreign {
                volume: volume.name.clone(),
                path: root.display().to_string(),
                found: if found.is_some() { "another disk" } else { "an empty place" },
            });
        }
        (None, found) => {
            let id = match found {
                Some(id) => id,
                None => {
                    let id = ulid::Ulid::generate().to_string();
                    owner::replace(&file, &format!("{id}\n"), 0o640).map_err(RecordError::io(&file))?;
                    id
                }
            };
            known.insert(volume.name.clone(), id);
            remember(&known_file, &known)?;
        }
    }
    Ok(place)
}

/// Names of volumes that were recorded on and are not among `configured`.
pub(super) fn left_out(data: &Path, configured: &[&str]) -> Result<Vec<String>, RecordError> {
    let names = known(&data.join(KNOWN))?.into_keys();
    Ok(names.filter(|name| name != config::OWN_VOLUME && !configured.contains(&name.as_str())).collect())
}

/// Forgets which disk a volume was: what is found there at the next start is taken, and a volume that is not configured
/// is no longer asked for. What is recorded on it stays there. False where no volume of this name is known.
pub fn forget(data: &Path, name: &str) -> Result<bool, RecordError> {
    let known_file = data.join(KNOWN);
    let mut known = known(&known_file)?;
    let was_known = known.remove(name).is_some();
    if was_known {
        remember(&known_file, &known)?;
    }
    Ok(was_known)
}

fn remember(file: &Path, known: &BTreeMap<String, String>) -> Result<(), RecordError> {
    let text = serde_json::to_string_pretty(known).unwrap_or_default();
    owner::replace(file, &text, 0o600).map_err(RecordError::io(file))
}

fn known(file: &PathBuf) -> Result<BTreeMap<String, String>, RecordError> {
    match std::fs::read(file) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| {
            RecordError::Other(format!(
                "{}: {error}; remove it, and the volumes are taken as they are found",
                file.display()
            ))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(RecordError::io(file)(error)),
    }
}
