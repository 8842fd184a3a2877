//! The files that make the configuration: the main file, and over it `<data>/conf.d/*.toml` in the order of their names.
//!
//! Tables merge by key; everything else, a list too, replaces what was before. A table that says `removed = true` and
//! nothing beside it removes what the files before say under its key, be it a camera or a single value. `{ file = "…" }`
//! and the like, which tell where a secret is kept, are values and replace each other as a whole.
//!
//! [`lay`] is the one place that merges. [`difference`] is its inverse: `lay(difference(base, wanted), base) = wanted`.
//!
//! What does not belong here: what the keys mean ([`super::file`]), and who changes them ([`crate::settings`]).

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Spanned, Table, Value};

use super::reader::{Problem, Problems, Source};
use crate::owner;

/// Below the data folder.
pub const FOLDER: &str = "conf.d";

/// What was changed through the API. Files that people lay beside it are laid before or after it by their names.
pub const API_FILE: &str = "90-api.toml";

const API_HEADER: &str = "# Written by liuta: what was changed through its API, laid over the files before.\n\
                          # Comments are not kept. After a change by hand: systemctl reload liuta\n\n";

/// How a secret is referred to.
pub const REFERENCES: [&str; 3] = ["file", "env", "credential"];

/// What removes the table that it stands in.
pub const REMOVED: &str = "removed";

/// One file's text.
#[derive(Clone, PartialEq, Eq)]
pub struct Layer {
    pub path: PathBuf,
    /// As provenance names it: `liuta.toml`, `conf.d/90-api.toml`.
    pub name: String,
    pub text: String,
}

impl Layer {
    /// A file by its own name.
    pub fn new(path: &Path, text: String) -> Layer {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Layer { path: path.to_owned(), name, text }
    }

    fn overlay(path: &Path, text: String) -> Layer {
        let layer = Layer::new(path, text);
        Layer { name: format!("{FOLDER}/{}", layer.name), ..layer }
    }

    /// It is what the API writes.
    pub fn is_api(&self) -> bool {
        self.path.file_name().is_some_and(|name| name == API_FILE)
    }
}

/// Texts hold passwords.
impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

/// Reads the files of `<data>/conf.d`; none where the folder is missing.
pub fn read(data: &Path) -> Result<Vec<Layer>, Problems> {
    let folder = data.join(FOLDER);
    let refused = |path: &Path, error: std::io::Error| {
        let what = match error.kind() {
            std::io::ErrorKind::InvalidData => "is no UTF-8 text".to_owned(),
            _ => owner::explain(path, error).to_string(),
        };
        Problems(vec![Problem::of_file(path, what)])
    };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(refused(&folder, error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| refused(&folder, error))?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    let read = |path: PathBuf| match read_file(&path) {
        Ok(text) => Ok(Layer::overlay(&path, text)),
        Err(error) => Err(refused(&path, error)),
    };
    paths.into_iter().map(read).collect()
}

/// What is no file, a pipe say, could keep the reader waiting for ever.
fn read_file(path: &Path) -> std::io::Result<String> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("is no file"));
    }
    std::fs::read_to_string(path)
}

/// What the API's file may change, and what its changes make of it.
pub struct Api {
    /// What the files before it say.
    below: Table,
    /// The same with the API's file over it.
    pub here: Table,
}

impl Api {
    pub fn of(layers: &[Layer]) -> Api {
        let (at, there) = place(layers);
        Api { below: tree(&layers[..at]), here: tree(&layers[..at + usize::from(there)]) }
    }

    /// The layers with the API's file so that it makes [`here`](Self::here).
    pub fn onto(&self, layers: &[Layer], data: &Path) -> Vec<Layer> {
        let text = format!("{API_HEADER}{}", difference(&self.below, &self.here));
        let layer = Layer::overlay(&data.join(FOLDER).join(API_FILE), text);
        let (at, there) = place(layers);
        let mut layers = layers.to_vec();
        layers.splice(at..at + usize::from(there), [layer]);
        layers
    }
}

/// Where the API's file stands among the layers, or would; and whether it is there.
fn place(layers: &[Layer]) -> (usize, bool) {
    let before = |layer: &Layer| layer.path.file_name().is_some_and(|name| name < API_FILE);
    let at = 1 + layers[1..].iter().take_while(|layer| before(layer)).count();
    (at, layers.get(at).is_some_and(Layer::is_api))
}

/// Why the API's file was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("conf.d/{API_FILE} was changed by hand: reload the configuration, and repeat the change")]
    ByHand,
    #[error("{}: {error}", file.display())]
    Io { file: PathBuf, error: std::io::Error },
}

/// Puts the API's file of `after` onto the disk, whole or not at all, and safe from a power cut once this returns.
/// `before`: the layers as they were read, or written last.
pub fn write(before: &[Layer], after: &[Layer]) -> Result<(), WriteError> {
    let Some(wanted) = after.iter().find(|layer| layer.is_api()) else { return Ok(()) };
    let failed = |error| WriteError::Io { file: wanted.path.clone(), error };
    let on_disk = match std::fs::read_to_string(&wanted.path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    if on_disk.as_ref() != before.iter().find(|layer| layer.is_api()).map(|layer| &layer.text) {
        return Err(WriteError::ByHand);
    }
    let folder = wanted.path.parent().unwrap_or(Path::new("."));
    owner::make_folders(folder, 0o700).map_err(failed)?;
    owner::replace(&wanted.path, &wanted.text, 0o600).map_err(failed)
}

/// What the layers say together; what cannot be parsed says nothing.
pub fn tree(layers: &[Layer]) -> Table {
    let source = Source::layered(layers.to_vec());
    let merged = Spanned::new(0..0, DeValue::Table(source.merged()));
    Table::deserialize(ValueDeserializer::from(merged)).unwrap_or_default()
}

/// Lays a table over another.
pub fn lay<'t>(
    over: DeTable<'t>,
    onto: &mut DeTable<'t>,
    report: &mut dyn FnMut(Range<usize>, &'static str),
) {
    for (key, value) in over {
        let span = value.span();
        // The key goes too: its place is the later file's.
        let before = onto.remove(key.get_ref().as_ref()).map(Spanned::into_inner);
        let table = match value.into_inner() {
            DeValue::Table(table) if is_removal(&table) => {
                if table.len() > 1 {
                    report(key.span(), "removed = true stands alone; what is to stay is not removed");
                }
                continue;
            }
            DeValue::Table(table) if merges(&table) => table,
            other => {
                onto.insert(key, Spanned::new(span, other));
                continue;
            }
        };
        let (mut merged, was_there) = match before {
            Some(DeValue::Table(below)) if merges(&below) => (below, true),
            _ => (DeTable::default(), false),
        };
        let is_empty = table.is_empty();
        lay(table, &mut merged, report);
        // Removals alone, where there is nothing, make nothing.
        if is_empty || was_there || !merged.is_empty() {
            onto.insert(key, Spanned::new(span, DeValue::Table(merged)));
        }
    }
}

fn is_removal(table: &DeTable<'_>) -> bool {
    table.get(REMOVED).is_some_and(|value| value.get_ref().as_bool() == Some(true))
}

/// Whether a table is merged by key, and no reference to a secret.
fn merges(table: &DeTable<'_>) -> bool {
    let mut entries = table.iter();
    table.len() != 1 || !entries.any(|(key, value)| is_reference(key.get_ref(), value.get_ref().is_str()))
}

/// Of the one entry of a table.
fn is_reference(key: &str, is_text: bool) -> bool {
    is_text && REFERENCES.contains(&key)
}

/// What laid over `base` makes `wanted`.
pub fn difference(base: &Table, wanted: &Table) -> Table {
    let merges = |table: &Table| {
        table.len() != 1 || !table.iter().any(|(key, value)| is_reference(key, value.is_str()))
    };
    let mut over = Table::new();
    for key in base.keys().filter(|key| !wanted.contains_key(*key)) {
        over.insert(key.clone(), Value::Table(Table::from_iter([(REMOVED.to_owned(), true.into())])));
    }
    for (key, value) in wanted {
        match (base.get(key), value) {
            (Some(below), value) if below == value => {}
            (Some(Value::Table(below)), Value::Table(table)) if merges(below) && merges(table) => {
                let mut inner = difference(below, table);
                if !merges(&inner) {
                    // Alone it would be taken for a reference: something that stays goes with it.
                    let stays = table.iter().find(|(key, _)| !inner.contains_key(*key));
                    inner.extend(stays.map(|(key, value)| (key.clone(), value.clone())));
                }
                over.insert(key.clone(), Value::Table(inner));
            }
            _ => {
                over.insert(key.clone(), value.clone());
            }
        }
    }
    over
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Files by what they say, the first the main one.
    fn layers(tables: &[&Table]) -> Vec<Layer> {
        let layer = |(at, table): (usize, &&Table)| {
            Layer::overlay(Path::new(&format!("{at}0.toml")), toml::to_string(table).unwrap())
        };
        tables.iter().enumerate().map(layer).collect()
    }

    fn laid(tables: &[&Table]) -> Table {
        tree(&layers(tables))
    }

    /// Few keys, so that tables meet; among them those with a meaning.
    fn tables() -> impl Strategy<Value = Table> {
        let scalar = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e9..1e9f64).prop_map(Value::from),
            "\\PC{0,6}".prop_map(Value::from),
            prop::collection::vec(any::<i64>().prop_map(Value::from), 0..3).prop_map(Value::Array),
        ];
        let value = scalar.prop_recursive(4, 32, 4, |inner| {
            let key = prop::sample::select(vec!["a", "b", "c", "file", "env", "zones"]);
            prop::collection::btree_map(key, inner, 0..4)
                .prop_map(|map| Value::Table(map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()))
        });
        prop::collection::btree_map("[abcd]", value, 0..4).prop_map(|map| map.into_iter().collect())
    }

    proptest! {
        #[test]
        fn a_difference_laid_over_its_base_makes_what_was_wanted(base in tables(), wanted in tables()) {
            prop_assert_eq!(laid(&[&base, &difference(&base, &wanted)]), wanted);
        }

        #[test]
        fn nothing_laid_over_a_table_and_a_table_over_itself_change_nothing(table in tables()) {
            prop_assert_eq!(laid(&[&table]), table.clone());
            prop_assert_eq!(laid(&[&table, &Table::new()]), table.clone());
            prop_assert_eq!(laid(&[&table, &table]), table.clone());
            prop_assert_eq!(difference(&table, &table), Table::new());
        }

        #[test]
        fn the_later_file_wins_and_what_it_does_not_name_stays(below in tables(), over in tables()) {
            let merged = laid(&[&below, &over]);
            for (key, value) in &merged {
                let expected = over.get(key).or_else(|| below.get(key)).unwrap();
                prop_assert!(value == expected || value.is_table() && expected.is_table(), "{}", key);
            }
            for key in below.keys().chain(over.keys()) {
                prop_assert!(merged.contains_key(key), "{}", key);
            }
        }

        #[test]
        fn files_merge_the_same_whichever_two_are_merged_first(a in tables(), b in tables(), c in tables()) {
            prop_assert_eq!(laid(&[&laid(&[&a, &b]), &c]), laid(&[&a, &b, &c]));
        }

        #[test]
        fn what_was_removed_can_be_written_anew(base in tables(), fresh in tables()) {
            let gone = difference(&base, &Table::new());
            prop_assert_eq!(laid(&[&base, &gone]), Table::new());
            prop_assert_eq!(laid(&[&base, &gone, &fresh]), laid(&[&fresh]));
        }

        #[test]
        fn what_the_api_writes_makes_what_it_was_told_to(
            main in tables(), own in tables(), before in tables(), late in tables(), wanted in tables(),
        ) {
            let named = |name: &str, table: &Table| {
                Layer::overlay(&Path::new("conf.d").join(name), toml::to_string(table).unwrap())
            };
            let files =
                vec![named("liuta.toml", &main), named("10-own.toml", &own), named(API_FILE, &before), named("99-late.toml", &late)];
            let mut api = Api::of(&files);
            api.here = wanted.clone();
            let changed = api.onto(&files, Path::new(""));
            prop_assert_eq!(changed.len(), 4);
            prop_assert_eq!(Api::of(&changed).here, wanted.clone());
            prop_assert_eq!(tree(&changed), laid(&[&wanted, &late]));
            // The same where there was no such file yet.
            let fresh = [files[0].clone(), files[1].clone(), files[3].clone()];
            let changed = api.onto(&fresh, Path::new(""));
            prop_assert_eq!(tree(&changed[..3]), wanted);
        }
    }

    #[test]
    fn what_only_looks_like_a_reference_removes_nothing() {
        let base: Table = "[zones.east]\nx = 1".parse().unwrap();
        for wanted in ["[zones.east]\nx = 1\n[zones.file]\nx = 2", "[zones]\nfile = \"a\"\neast = { x = 1 }"]
        {
            let wanted: Table = wanted.parse().unwrap();
            assert_eq!(laid(&[&base, &difference(&base, &wanted)]), wanted);
        }
    }

    #[test]
    fn references_to_secrets_replace_each_other_as_a_whole() {
        let below: Table = "[a]\npassword = { file = \"x\" }".parse().unwrap();
        for over in ["[a]\npassword = \"plain\"", "[a]\npassword = { env = \"Y\" }"] {
            let over: Table = over.parse().unwrap();
            assert_eq!(laid(&[&below, &over]), over);
            assert_eq!(laid(&[&below, &difference(&below, &over)]), over);
        }
    }

    #[test]
    fn what_is_written_is_whole_and_private_and_spares_what_people_wrote() {
        use std::os::unix::fs::PermissionsExt;
        let data = tempfile::tempdir().unwrap();
        let main = [Layer::new(Path::new("liuta.toml"), "[a]\nx = 1\n".to_owned())];
        let mut api = Api::of(&main);
        api.here = "[a]\ny = 2".parse().unwrap();
        let changed = api.onto(&main, data.path());
        write(&main, &changed).unwrap();
        let file = data.path().join(FOLDER).join(API_FILE);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(data.path()).unwrap(), changed[1..]);
        std::fs::write(&file, "[a]\ny = 3 # by hand\n").unwrap();
        assert!(matches!(write(&changed, &main_and(&changed)), Err(WriteError::ByHand)));
        assert!(std::fs::read_to_string(&file).unwrap().contains("by hand"));

        fn main_and(layers: &[Layer]) -> Vec<Layer> {
            let mut layers = layers.to_vec();
            layers[1].text.push_str("z = 3\n");
            layers
        }
    }
}
