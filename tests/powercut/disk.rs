//! The model of a disk: what may be found on it when the power is cut between two records of the journal.
//!
//! **Contents.** A sync of a file that has returned makes safe what was done to that file before it began. Of what came
//! later, the disk may hold ([`Unsynced`]): nothing; everything; a prefix, of which the last write is torn at any byte;
//! or any mixture of pages, each as it was after any of the writes to it, since the kernel writes pages back in any
//! order. The length is that of any moment since the sync: a file may have grown before its blocks were written, and
//! then holds zeros. What is torn inside a file that has grown is torn between two sectors.
//!
//! **Names.** A name is safe once the file it leads to is synced, as ext4, XFS and btrfs have it, or its folder is;
//! the folders above it are with it. Names that were made, changed or removed since may be as before or as after,
//! each for itself or up to some moment.
//!
//! A `-shm` is never on the disk: SQLite makes it anew.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

use super::{Change, Journal};

const PAGE: u64 = 4096;
const SECTOR: u64 = 512;

/// What became of that which was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    Lost,
    Kept,
    Prefix,
    Pages,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Folder,
    File(u32),
}

#[derive(Default)]
struct File {
    synced: Vec<u8>,
    /// Since then, with their place in the journal.
    unsynced: Vec<(u64, Edit)>,
}

#[derive(Clone)]
enum Edit {
    Write(u64, Range<usize>),
    Length(u64),
}

/// A change of names.
#[derive(Clone)]
enum Naming {
    Set(String, Node),
    Clear(String),
    Move(String, String, Node),
}

type Names = BTreeMap<String, Node>;

pub struct Disk<'j> {
    journal: &'j Journal,
    files: HashMap<u32, File>,
    /// Numbers of files that were there before, as the journal has them, to ours.
    seen: HashMap<u32, u32>,
    /// As the running system sees them.
    live: Names,
    safe: Names,
    pending: Vec<(u64, Naming)>,
    /// The record that comes next.
    next: usize,
}

/// What is found after the power cut.
pub struct Image {
    folders: Vec<String>,
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Image {
    pub fn write(&self, to: &Path) {
        for folder in &self.folders {
            std::fs::create_dir_all(to.join(folder)).unwrap();
        }
        for (path, content) in &self.files {
            let path = to.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }
}

impl<'j> Disk<'j> {
    /// As it was when the journal began: all that lies in `base` is safe.
    pub fn new(journal: &'j Journal, base: &Path) -> Disk<'j> {
        let (mut files, mut live) = (HashMap::new(), Names::new());
        let mut folders = vec![base.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(base).unwrap().to_str().unwrap().to_owned();
                let node = if path.is_dir() {
                    folders.push(path);
                    Node::Folder
                } else {
                    let number = u32::MAX - files.len() as u32;
                    files.insert(number, File { synced: std::fs::read(path).unwrap(), unsynced: Vec::new() });
                    Node::File(number)
                };
                live.insert(name, node);
            }
        }
        let safe = live.clone();
        Disk { journal, files, seen: HashMap::new(), live, safe, pending: Vec::new(), next: 0 }
    }

    /// On to the moment before the record with this number.
    pub fn advance(&mut self, to: usize) {
        while self.next < to {
            let record = &self.journal.records[self.next];
            self.apply(record.place, &record.change);
            self.next += 1;
        }
    }

    fn apply(&mut self, place: u64, change: &Change) {
        match change {
            Change::Create { file, path } => self.name(place, Naming::Set(path.clone(), Node::File(*file))),
            Change::Seen { file, path } => {
                if let Some(&Node::File(known)) = self.live.get(path) {
                    self.seen.insert(*file, known);
                }
            }
            Change::Write { file, at, data } => self.edit(*file, place, Edit::Write(*at, data.clone())),
            Change::Length { file, length } => self.edit(*file, place, Edit::Length(*length)),
            Change::Sync { file, began } => self.sync(self.number(*file), *began),
            Change::SyncFolder { path, began } => {
                let of = |name: &str| name.rsplit_once('/').map_or("", |(folder, _)| folder) == path;
                self.keep_names(*began, |naming| naming.paths().any(of));
            }
            Change::SyncAll { began } => {
                let files: Vec<u32> = self.files.keys().copied().collect();
                files.into_iter().for_each(|file| self.sync(file, *began));
                self.keep_names(*began, |_| true);
            }
            Change::MakeFolder { path } => self.name(place, Naming::Set(path.clone(), Node::Folder)),
            Change::Remove { path } | Change::RemoveFolder { path } => {
                self.name(place, Naming::Clear(path.clone()));
            }
            Change::Rename { from, to } => {
                if let Some(&node) = self.live.get(from) {
                    self.name(place, Naming::Move(from.clone(), to.clone(), node));
                }
            }
            Change::Link { from, to } => {
                if let Some(&node) = self.live.get(from) {
                    self.name(place, Naming::Set(to.clone(), node));
                }
            }
        }
    }

    fn number(&self, file: u32) -> u32 {
        self.seen.get(&file).copied().unwrap_or(file)
    }

    fn edit(&mut self, file: u32, place: u64, edit: Edit) {
        let file = self.number(file);
        self.files.entry(file).or_default().unsynced.push((place, edit));
    }

    fn name(&mut self, place: u64, naming: Naming) {
        naming.apply(&mut self.live);
        self.pending.push((place, naming));
    }

    fn sync(&mut self, file: u32, began: u64) {
        if let Some(found) = self.files.get_mut(&file) {
            let done = found.unsynced.partition_point(|(place, _)| *place < began);
            for (_, edit) in found.unsynced.drain(..done) {
                edit.apply(&mut found.synced, self.journal);
            }
        }
        self.keep_names(began, |naming| naming.node() == Some(Node::File(file)));
    }

    /// Makes these changes of names safe, and what was done to the same names before.
    fn keep_names(&mut self, began: u64, which: impl Fn(&Naming) -> bool) {
        let mut wanted: Vec<String> = Vec::new();
        let mut kept = vec![false; self.pending.len()];
        for (at, (place, naming)) in self.pending.iter().enumerate().rev() {
            let same = naming.paths().any(|path| wanted.iter().any(|wanted| wanted == path));
            if *place < began && (same || which(naming)) {
                wanted.extend(naming.paths().map(str::to_owned));
                kept[at] = true;
            }
        }
        let mut at = 0;
        for (_, naming) in self.pending.extract_if(.., |_| {
            at += 1;
            kept[at - 1]
        }) {
            naming.apply(&mut self.safe);
        }
    }

    /// A file that has to be there with at least what is given, whatever became of the rest: synced under a safe name,
    /// which nobody has removed or changed since.
    pub fn promised(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.safe.iter().filter_map(|(path, node)| {
            let Node::File(file) = node else { return None };
            let touched = self.pending.iter().any(|(_, naming)| naming.paths().any(|other| other == path));
            let content = &self.files.get(file)?.synced[..];
            (!touched && !content.is_empty()).then_some((&**path, content))
        })
    }

    /// When what would be lost of a file was first written, in nanoseconds of the clock, by path.
    pub fn unsynced_since(&self) -> impl Iterator<Item = (&str, u64)> {
        self.live.iter().filter_map(|(path, node)| {
            let Node::File(file) = node else { return None };
            let (place, _) = self.files.get(file)?.unsynced.first()?;
            let record = self.journal.records.partition_point(|record| record.place < *place);
            Some((&**path, self.journal.records[record].nanoseconds))
        })
    }

    /// One of the states in which the disk may be found now.
    pub fn image(&self, random: &mut StdRng) -> Image {
        let ways = [Unsynced::Lost, Unsynced::Kept, Unsynced::Prefix, Unsynced::Pages];
        let names = *ways.choose(random).unwrap();
        // Or each file has its own fate.
        let common = ways.choose(random).copied().filter(|_| random.random());
        let mut found = self.safe.clone();
        for naming in self.surviving_names(names, random) {
            naming.apply(&mut found);
        }
        let mut image = Image { folders: Vec::new(), files: BTreeMap::new() };
        for (path, node) in found {
            match node {
                Node::Folder => image.folders.push(path),
                Node::File(_) if path.ends_with("-shm") => {}
                Node::File(file) => {
                    let way = common.unwrap_or_else(|| *ways.choose(random).unwrap());
                    let content =
                        self.files.get(&file).map_or_else(Vec::new, |file| self.content(file, way, random));
                    image.files.insert(path, content);
                }
            }
        }
        image
    }

    fn surviving_names(&self, way: Unsynced, random: &mut StdRng) -> Vec<&Naming> {
        let all = self.pending.iter().map(|(_, naming)| naming);
        match way {
            Unsynced::Lost => Vec::new(),
            Unsynced::Kept => all.collect(),
            Unsynced::Prefix => all.take(random.random_range(0..=self.pending.len())).collect(),
            Unsynced::Pages => all.filter(|_| random.random()).collect(),
        }
    }

    fn content(&self, file: &File, way: Unsynced, random: &mut StdRng) -> Vec<u8> {
        let mut content = file.synced.clone();
        let edits: Vec<&Edit> = file.unsynced.iter().map(|(_, edit)| edit).collect();
        match way {
            Unsynced::Lost => {}
            Unsynced::Kept => edits.iter().for_each(|edit| edit.apply(&mut content, self.journal)),
            Unsynced::Prefix => {
                let whole = random.random_range(0..=edits.len());
                edits[..whole].iter().for_each(|edit| edit.apply(&mut content, self.journal));
                let grown = random.random();
                if let Some(Edit::Write(at, data)) = edits.get(whole) {
                    let mut end = at + random.random_range(0..=data.len() as u64);
                    if grown {
                        end = (end / SECTOR * SECTOR).max(*at);
                    }
                    let torn = data.start..data.start + (end - at) as usize;
                    Edit::Write(*at, torn).apply(&mut content, self.journal);
                }
                if grown {
                    let length = length_after(file.synced.len() as u64, &edits);
                    content.resize((length as usize).max(content.len()), 0);
                }
            }
            Unsynced::Pages => self.pages(&mut content, &edits, random),
        }
        content
    }

    /// Each page as it was after some of the edits, the length as it was after some of them.
    fn pages(&self, content: &mut Vec<u8>, edits: &[&Edit], random: &mut StdRng) {
        let some = |random: &mut dyn Rng| match random.random_range(0..3) {
            0 => 0,
            1 => edits.len(),
            _ => random.random_range(0..=edits.len()),
        };
        let length = length_after(content.len() as u64, &edits[..some(random)]);
        let mut fates: HashMap<u64, usize> = HashMap::new();
        for (nth, edit) in edits.iter().enumerate() {
            let (range, data) = match edit {
                Edit::Write(at, data) => (*at..at + data.len() as u64, Some(self.journal.data(data))),
                Edit::Length(length) => (*length..(content.len() as u64).max(*length), None),
            };
            if content.len() < range.end as usize {
                content.resize(range.end as usize, 0);
            }
            let mut at = range.start;
            while at < range.end {
                let end = (at / PAGE * PAGE + PAGE).min(range.end);
                let fate = *fates.entry(at / PAGE).or_insert_with(|| some(random));
                if nth < fate {
                    let piece = &mut content[at as usize..end as usize];
                    match data {
                        Some(data) => {
                            let from = (at - range.start) as usize;
                            piece.copy_from_slice(&data[from..from + piece.len()]);
                        }
                        None => piece.fill(0),
                    }
                }
                at = end;
            }
        }
        content.resize(length as usize, 0);
    }
}

fn length_after(before: u64, edits: &[&Edit]) -> u64 {
    edits.iter().fold(before, |length, edit| match edit {
        Edit::Write(at, data) => length.max(at + data.len() as u64),
        Edit::Length(length) => *length,
    })
}

impl Edit {
    fn apply(&self, content: &mut Vec<u8>, journal: &Journal) {
        match self {
            Edit::Write(at, data) => {
                let (at, data) = (*at as usize, journal.data(data));
                if content.len() < at + data.len() {
                    content.resize(at + data.len(), 0);
                }
                content[at..at + data.len()].copy_from_slice(data);
            }
            Edit::Length(length) => content.resize(*length as usize, 0),
        }
    }
}

impl Naming {
    fn paths(&self) -> impl Iterator<Item = &str> {
        let (first, second) = match self {
            Naming::Set(path, _) | Naming::Clear(path) => (path, None),
            Naming::Move(from, to, _) => (from, Some(to)),
        };
        [Some(first), second].into_iter().flatten().map(String::as_str)
    }

    fn node(&self) -> Option<Node> {
        match self {
            Naming::Set(_, node) | Naming::Move(_, _, node) => Some(*node),
            Naming::Clear(_) => None,
        }
    }

    /// With the folders above, which are there when the name is.
    fn apply(&self, names: &mut Names) {
        let mut set = |path: &str, node| {
            for (at, _) in path.match_indices('/') {
                names.entry(path[..at].to_owned()).or_insert(Node::Folder);
            }
            names.insert(path.to_owned(), node);
        };
        match self {
            Naming::Set(path, node) => set(path, *node),
            Naming::Move(from, to, node) => {
                set(to, *node);
                names.remove(from);
            }
            Naming::Clear(path) => {
                let inside = format!("{path}/");
                let is_empty =
                    names.range(inside.clone()..).next().is_none_or(|(next, _)| !next.starts_with(&inside));
                // What lies in it has survived, and so has the folder.
                if is_empty {
                    names.remove(path);
                }
            }
        }
    }
}
