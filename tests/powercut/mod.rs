//! Between the daemon and its disk: a journal of every change to the files below a folder, and calls that fail when
//! they are told to. The work is done by `powercut.c`, preloaded into the real binary; here it is built, told what to
//! refuse, and its journal is read. What a disk may hold after a power cut is [`disk`]'s.

#![allow(dead_code)] // Each test binary uses its part of it.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub mod disk;

/// The library, built once a test binary.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (built, draft) = (folder.join("powercut.so"), format!("powercut-{}.so", std::process::id()));
        let draft = folder.join(draft);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/powercut/powercut.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]);
        let done = compiler.arg(&draft).arg(source).arg("-ldl").status().expect("cc");
        assert!(done.success(), "powercut.c does not build");
        // Another test binary may be loading it.
        std::fs::rename(draft, &built).unwrap();
        built
    })
}

/// The environment in which a process is watched.
pub struct Preload(Vec<(&'static str, String)>);

impl Preload {
    /// `below` is where its data will lie; it has to exist.
    pub fn new(below: &Path) -> Preload {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        Preload(vec![("LD_PRELOAD", text(library())), ("POWERCUT_BELOW", text(below))])
    }

    pub fn journal(mut self, to: &Path) -> Preload {
        self.0.push(("POWERCUT_JOURNAL", to.to_str().unwrap().to_owned()));
        self
    }

    pub fn rules(mut self, rules: &Rules) -> Preload {
        self.0.push(("POWERCUT_RULES", rules.path.to_str().unwrap().to_owned()));
        self
    }

    pub fn environment(&self) -> Vec<(&str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }
}

/// System calls that a rule may mean.
pub mod calls {
    pub const OPEN: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const FTRUNCATE: u32 = 4;
    pub const FSYNC: u32 = 8;
    pub const FDATASYNC: u32 = 16;
    pub const MKDIR: u32 = 32;
    pub const RENAME: u32 = 64;
    pub const UNLINK: u32 = 128;
    pub const RMDIR: u32 = 256;
    pub const READ: u32 = 512;
}

/// As the error of a write: half of it is written.
pub const HALF: i32 = -1;

/// Calls on paths that hold `path`: after `skip` of them `count` are delayed, and fail where `error` is not 0.
#[derive(Clone, Copy, Debug)]
pub struct Rule<'a> {
    pub calls: u32,
    pub path: &'a str,
    pub error: i32,
    pub delay_ms: u32,
    pub skip: u32,
    pub count: u32,
}

impl<'a> Rule<'a> {
    /// From now on every such call fails.
    pub fn fail(calls: u32, path: &'a str, error: i32) -> Rule<'a> {
        Rule { calls, path, error, delay_ms: 0, skip: 0, count: u32::MAX }
    }
}

/// The rules of a running process, which hold from the moment that they are set.
pub struct Rules {
    path: PathBuf,
    file: std::fs::File,
}

impl Rules {
    const COUNT: u64 = 4;
    const SIZE: u64 = 128;
    const HITS: u64 = 20;

    pub fn new(path: &Path) -> Rules {
        let file =
            std::fs::File::options().create(true).truncate(true).read(true).write(true).open(path).unwrap();
        file.set_len(Rules::COUNT * Rules::SIZE).unwrap();
        Rules { path: path.to_owned(), file }
    }

    pub fn set(&self, slot: u64, rule: Rule<'_>) {
        assert!(slot < Rules::COUNT && rule.path.len() < 104);
        self.clear(slot);
        let numbers = [rule.error as u32, rule.delay_ms, rule.skip, rule.count, 0];
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        bytes.extend_from_slice(rule.path.as_bytes());
        bytes.resize(Rules::SIZE as usize - 4, 0);
        self.file.write_all_at(&bytes, slot * Rules::SIZE + 4).unwrap();
        // Last: with it the rule is there.
        self.file.write_all_at(&rule.calls.to_ne_bytes(), slot * Rules::SIZE).unwrap();
    }

    pub fn clear(&self, slot: u64) {
        self.file.write_all_at(&[0; 4], slot * Rules::SIZE).unwrap();
    }

    /// Calls that the rule has meant so far, refused or not.
    pub fn hits(&self, slot: u64) -> u32 {
        let mut hits = [0; 4];
        self.file.read_exact_at(&mut hits, slot * Rules::SIZE + Rules::HITS).unwrap();
        u32::from_ne_bytes(hits)
    }
}

/// What was done to the files below the folder, in the order in which it was.
pub struct Journal {
    bytes: Vec<u8>,
    pub records: Vec<Record>,
}

#[derive(Clone, Debug)]
pub struct Record {
    pub change: Change,
    /// Bytes of the journal before it: what a `began` is compared with.
    pub place: u64,
    /// Of the clock, when it was done.
    pub nanoseconds: u64,
}

/// Paths lie below the folder; a file's number is never used for another one.
#[derive(Clone, Debug)]
pub enum Change {
    Create {
        file: u32,
        path: String,
    },
    /// One that was there before.
    Seen {
        file: u32,
        path: String,
    },
    /// `data` lies in the journal.
    Write {
        file: u32,
        at: u64,
        data: Range<usize>,
    },
    Length {
        file: u32,
        length: u64,
    },
    /// Safe is what was done before the journal was `began` long.
    Sync {
        file: u32,
        began: u64,
    },
    SyncFolder {
        path: String,
        began: u64,
    },
    SyncAll {
        began: u64,
    },
    MakeFolder {
        path: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        path: String,
    },
    RemoveFolder {
        path: String,
    },
    Link {
        from: String,
        to: String,
    },
}

impl Journal {
    const HEADER: usize = 32;

    /// As far as it is whole: its writer may have been killed.
    pub fn read(path: &Path) -> Journal {
        let bytes = std::fs::read(path).unwrap();
        let mut records = Vec::new();
        let mut place = 0;
        while let Some((record, end)) = Journal::record(&bytes, place) {
            records.push(record);
            place = end;
        }
        Journal { bytes, records }
    }

    fn record(bytes: &[u8], place: usize) -> Option<(Record, usize)> {
        let header = bytes.get(place..place + Journal::HEADER)?;
        let short = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_ne_bytes(header[at..at + 8].try_into().unwrap());
        let (kind, file, nanoseconds, at) = (short(0), short(4), long(8), long(16));
        let behind_path = place + Journal::HEADER + short(24) as usize;
        let end = behind_path + short(28) as usize;
        let text = |range: Range<usize>| Some(std::str::from_utf8(bytes.get(range)?).unwrap().to_owned());
        let path = text(place + Journal::HEADER..behind_path)?;
        bytes.get(behind_path..end)?;
        let change = match kind {
            1 => Change::Create { file, path },
            2 => Change::Seen { file, path },
            3 => Change::Write { file, at, data: behind_path..end },
            4 => Change::Length { file, length: at },
            5 => Change::Sync { file, began: at },
            6 => Change::SyncFolder { path, began: at },
            7 => Change::SyncAll { began: at },
            8 => Change::MakeFolder { path },
            9 => Change::Rename { from: path, to: text(behind_path..end)? },
            10 => Change::Remove { path },
            11 => Change::RemoveFolder { path },
            12 => Change::Link { from: path, to: text(behind_path..end)? },
            _ => panic!("a record of kind {kind} at {place}"),
        };
        Some((Record { change, place: place as u64, nanoseconds }, end))
    }

    pub fn data(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }
}
