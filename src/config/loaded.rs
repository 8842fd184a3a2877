//! The configuration together with the files that it came from: what can be shown with its origin, and changed.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use toml::{Table, Value};

use super::overlay::{self, Layer, WriteError};
use super::reader::{Problem, Problems, Setting};
use super::{Config, file};

/// The API's file grows no further: thousands of cameras' worth, which is still read in no time.
const MOST_WRITTEN: usize = 1 << 20;

/// Never changed in place: [`with`](Loaded::with) makes another.
#[derive(Debug)]
pub struct Loaded {
    pub config: Arc<Config>,
    /// Every value that counts, by key, and where it came from.
    pub settings: Vec<Setting>,
    /// The main file first.
    layers: Vec<Layer>,
    /// What they say together.
    tree: Table,
}

impl Loaded {
    pub(super) fn new(config: Config, settings: Vec<Setting>, layers: Vec<Layer>) -> Loaded {
        let tree = overlay::tree(&layers);
        Loaded { config: Arc::new(config), settings, layers, tree }
    }

    /// What stands under these keys, as it was written, secrets too.
    pub fn written(&self, keys: &[&str]) -> Option<&Value> {
        let (last, path) = keys.split_last()?;
        let table = path.iter().try_fold(&self.tree, |table, key| table.get(*key)?.as_table())?;
        table.get(*last)
    }

    /// The whole as it was written, secrets too.
    pub fn tree(&self) -> &Table {
        &self.tree
    }

    /// Files that hold passwords of cameras and can be read by everybody on the box.
    pub fn exposed(&self) -> Vec<&Path> {
        let holds_passwords = |layer: &&Layer| {
            let here = format!("{}:", layer.name);
            let mut passwords = self.settings.iter().filter(|setting| setting.key.ends_with(".password"));
            passwords.any(|setting| setting.from.starts_with(&here))
        };
        let is_open = |layer: &&Layer| {
            std::fs::metadata(&layer.path).is_ok_and(|found| found.permissions().mode() & 0o004 != 0)
        };
        self.layers.iter().filter(holds_passwords).filter(is_open).map(|layer| &*layer.path).collect()
    }

    /// What the API's file and those before it say under these keys: what a change is made to.
    pub fn writable(&self, keys: &[&str]) -> Option<Value> {
        let (last, path) = keys.split_last()?;
        let here = overlay::Api::of(&self.layers).here;
        let table = path.iter().try_fold(&here, |table, key| table.get(*key)?.as_table())?;
        table.get(*last).cloned()
    }

    /// The same configuration with another value under these keys, or none, as the API's file can say it. Nothing is
    /// written yet. A file that is laid over the API's may win all the same.
    pub fn with(&self, keys: &[&str], value: Option<Value>) -> Result<Loaded, Problems> {
        let mut api = overlay::Api::of(&self.layers);
        put(&mut api.here, keys, value);
        let layers = api.onto(&self.layers, &self.config.data);
        if let Some(long) = layers.iter().find(|layer| layer.is_api() && layer.text.len() > MOST_WRITTEN) {
            let what = format!(
                "would be longer than {} KiB; larger sets of cameras go into files",
                MOST_WRITTEN >> 10
            );
            return Err(Problems(vec![Problem::of_file(&long.path, format!("{}: {what}", long.name))]));
        }
        file::parse_layers(layers)
    }

    /// Puts what differs from `before`, which was read from the files or written last, onto the disk.
    pub fn write(&self, before: &Loaded) -> Result<(), WriteError> {
        overlay::write(&before.layers, &self.layers)
    }
}

fn put(table: &mut Table, keys: &[&str], value: Option<Value>) {
    match (keys, value) {
        ([], _) => {}
        ([last], Some(value)) => {
            table.insert((*last).to_owned(), value);
        }
        ([last], None) => {
            table.remove(*last);
        }
        ([first, rest @ ..], value) => {
            let entry = table.entry((*first).to_owned()).or_insert_with(|| Table::new().into());
            if !entry.is_table() {
                *entry = Table::new().into();
            }
            if let Some(below) = entry.as_table_mut() {
                put(below, rest, value);
            }
        }
    }
}
