//! What a data folder's index vouches for, judged by ffprobe.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::decoded_pictures;

/// Sealed files and the bytes that the index knows of each.
pub fn sealed(data: &Path) -> BTreeMap<PathBuf, u64> {
    let index = rusqlite::Connection::open(data.join("index.db")).unwrap();
    let mut rows = index.prepare("SELECT path, bytes FROM segments WHERE sealed").unwrap();
    let rows = rows.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))).unwrap();
    let file = |row: rusqlite::Result<(String, i64)>| {
        let (path, bytes) = row.unwrap();
        (data.join("recordings").join(path), bytes as u64)
    };
    rows.map(file).collect()
}

/// Every sealed file is there, as long as the index says, and decodes without a warning; those in `seen` have been
/// decoded.
pub fn all_play(data: &Path, seen: &mut HashSet<PathBuf>) {
    let sealed = sealed(data);
    assert!(!sealed.is_empty(), "nothing is recorded");
    for (file, bytes) in sealed {
        let length =
            std::fs::metadata(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())).len();
        assert_eq!(length, bytes, "{}", file.display());
        if seen.insert(file.clone()) {
            assert!(decoded_pictures(&file) > 0, "{}", file.display());
        }
    }
}
