//! Model manifests (`models/*.toml`): what a model takes and gives, its licence, hash and origin; list, verify, pull.
//!
//! A manifest's file is looked for beside the manifest. `liuta models pull` therefore puts both, the file and a copy of
//! the manifest, into `<data>/models`, which needs no rights on the folders that the program was installed to. Running
//! a model is the worker's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::config::reader::{Problem, Problems, Source};

/// Largest model file that is read or fetched, in bytes.
pub const MAX_FILE: u64 = 1 << 30;

/// A fetch that brings nothing for so long is given up.
const FETCH_PATIENCE: Duration = Duration::from_secs(30);

/// A manifest, see `models/yolox-nano.toml`.
#[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub name: String,
    pub version: String,
    /// Beside the manifest.
    pub file: PathBuf,
    pub sha256: String,
    pub licence: String,
    pub origin: String,
    pub family: Family,
    pub input: Input,
    pub output: Output,
    /// Recommended least score by class.
    #[serde(default)]
    pub thresholds: BTreeMap<String, f32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Raw grid output `[1, cells, 5 + classes]`, strides 8, 16, 32: YOLOX and the project's own.
    Yolox,
}

#[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Width, height in pixels.
    pub size: [u32; 2],
    pub layout: Layout,
    pub channels: Channels,
    /// tensor = (pixel - mean) * scale, per channel in the order of `channels`.
    pub mean: [f32; 3],
    pub scale: [f32; 3],
    pub fit: Fit,
    pub pad: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    Nchw,
    Nhwc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    Rgb,
    Bgr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// Scaled to fit, at the top left, the rest padded.
    LetterboxTopLeft,
    /// The same, in the middle.
    LetterboxCentre,
    /// Stretched.
    Stretch,
}

#[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Class names in the order of the output's columns.
    pub labels: Vec<String>,
    /// Which labels become which class; empty: each label is a class of its own name.
    #[serde(default)]
    pub map: BTreeMap<String, String>,
}

impl Manifest {
    /// `name@version`.
    pub fn label(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// The classes that its detections can have.
    pub fn classes(&self) -> BTreeSet<&str> {
        let labels = if self.output.map.is_empty() {
            self.output.labels.iter().collect::<Vec<_>>()
        } else {
            self.output.map.values().collect()
        };
        labels.into_iter().map(String::as_str).collect()
    }
}

/// Reads and validates one manifest.
pub fn read(path: &Path) -> Result<Manifest, Problems> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(path, text),
        Err(error) => {
            let what = format!("cannot be read: {error}");
            Err(Problems(vec![Problem::of_file(path, what)]))
        }
    }
}

fn parse(path: &Path, text: String) -> Result<Manifest, Problems> {
    let read = toml::from_str::<Manifest>(&text);
    let source = Source::new(path, text.clone());
    match read {
        Ok(manifest) => {
            check(&manifest, &text, &source);
            let problems = source.into_problems();
            if problems.is_empty() { Ok(manifest) } else { Err(Problems(problems)) }
        }
        Err(error) => {
            source.report(error.span().unwrap_or(0..0), error.message().trim());
            Err(Problems(source.into_problems()))
        }
    }
}

fn check(manifest: &Manifest, text: &str, source: &Source) {
    // serde has dropped the places by now; a key stands at the beginning of its line.
    let report = |key: &str, what: String| {
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            if line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('=')) {
                break;
            }
            at += line.len();
        }
        let at = if at >= text.len() { 0 } else { at };
        source.report(at..at, format!("{key}: {what}"));
    };
    for (key, value) in [("name", &manifest.name), ("version", &manifest.version)] {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
        if value.is_empty() || value.len() > 64 || !value.chars().all(fits) {
            report(key, format!("{value:?}: 1 to 64 letters, digits and -_.+ were expected"));
        }
    }
    let file = manifest.file.to_str().unwrap_or_default();
    if file.is_empty() || file.starts_with('.') || file.contains(['/', '\\', '\0']) {
        report("file", "the name of a file beside the manifest was expected, without folders".to_owned());
    }
    if manifest.sha256.len() != 64 || !manifest.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    {
        report("sha256", "64 hexadecimal digits in lower case were expected".to_owned());
    }
    let [width, height] = manifest.input.size;
    let stride = |side: u32| (32..=4096).contains(&side) && side.is_multiple_of(32);
    if !stride(width) || !stride(height) {
        report("size", format!("{width} × {height}: multiples of 32 from 32 to 4096 were expected"));
    }
    if !manifest.input.mean.iter().all(|mean| mean.is_finite()) {
        report("mean", "finite numbers were expected".to_owned());
    }
    if !manifest.input.scale.iter().all(|scale| scale.is_finite() && *scale != 0.0) {
        report("scale", "finite numbers other than 0 were expected".to_owned());
    }
    let labels: BTreeSet<&String> = manifest.output.labels.iter().collect();
    if labels.is_empty() || labels.len() != manifest.output.labels.len() || labels.len() > 10_000 {
        report("labels", "1 to 10000 names, each once, were expected".to_owned());
    }
    for label in manifest.output.map.keys().filter(|label| !labels.contains(label)) {
        report(label, "[output.map] names a label that `labels` lacks".to_owned());
    }
    let classes = manifest.classes();
    for (class, score) in &manifest.thresholds {
        if !(0.0..=1.0).contains(score) {
            report(class, format!("{score}: a score from 0 to 1 was expected"));
        }
        if !classes.contains(class.as_str()) {
            report(class, "[thresholds] names a class that the model does not give".to_owned());
        }
    }
}

/// Every readable manifest of the folders in their order, and what is wrong with the others.
fn manifests(folders: &[PathBuf]) -> (Vec<(Manifest, PathBuf)>, Vec<Problem>) {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for folder in folders {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut paths: Vec<PathBuf> =
            entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
        paths.sort();
        for path in paths {
            match read(&path) {
                Ok(manifest) => found.push((manifest, path)),
                Err(Problems(more)) => problems.extend(more),
            }
        }
    }
    (found, problems)
}

/// Where the manifest's file is.
pub fn file_of(manifest: &Manifest, path: &Path) -> PathBuf {
    path.with_file_name(&manifest.file)
}

/// Finds a model by name in the folders: its manifest and the manifest's path. The first whose file is there wins, else
/// the first.
pub fn find(name: &str, folders: &[PathBuf]) -> Option<(Manifest, PathBuf)> {
    chosen(folders).0.remove(name)
}

/// By name what [`find`] finds.
fn chosen(folders: &[PathBuf]) -> (BTreeMap<String, (Manifest, PathBuf)>, Vec<Problem>) {
    let mut chosen = BTreeMap::<String, (Manifest, PathBuf)>::new();
    let (found, problems) = manifests(folders);
    let present = |(manifest, path): &(Manifest, PathBuf)| file_of(manifest, path).is_file();
    for found in found {
        match chosen.get(&found.0.name) {
            Some(before) if present(before) || !present(&found) => {}
            _ => {
                chosen.insert(found.0.name.clone(), found);
            }
        }
    }
    (chosen, problems)
}

/// A model as `liuta models list` and `verify` show it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Listed {
    pub name: String,
    pub version: String,
    pub licence: String,
    pub family: Family,
    /// Width, height of the input in pixels.
    pub input: [u32; 2],
    pub manifest: PathBuf,
    pub file: PathBuf,
    /// Of the file in bytes; `None`: it is missing.
    pub bytes: Option<u64>,
    pub state: FileState,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "is", content = "why")]
pub enum FileState {
    /// There; its hash was not looked at.
    Present,
    /// There, and its sha256 is the manifest's.
    Verified,
    /// `liuta models pull` fetches it.
    Missing,
    /// There, and not what the manifest says.
    Wrong(String),
}

/// The models that are known, by name, without reading their files; and what is wrong with manifests.
pub fn list(folders: &[PathBuf]) -> (Vec<Listed>, Vec<Problem>) {
    let (chosen, problems) = chosen(folders);
    (chosen.values().map(|(manifest, path)| listed(manifest, path)).collect(), problems)
}

fn listed(manifest: &Manifest, path: &Path) -> Listed {
    let file = file_of(manifest, path);
    let bytes = std::fs::metadata(&file).ok().filter(|found| found.is_file()).map(|found| found.len());
    Listed {
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        licence: manifest.licence.clone(),
        family: manifest.family,
        input: manifest.input.size,
        manifest: path.to_owned(),
        state: if bytes.is_some() { FileState::Present } else { FileState::Missing },
        file,
        bytes,
    }
}

/// How far reading or fetching a model's file is: its name, bytes done, bytes in all where known.
pub type Progress<'p> = &'p mut (dyn FnMut(&str, u64, Option<u64>) + Send);

/// The same list with every file read and its hash compared. Blocks while it reads.
pub fn verify(folders: &[PathBuf], progress: Progress<'_>) -> (Vec<Listed>, Vec<Problem>) {
    let (chosen, problems) = chosen(folders);
    let check = |(manifest, path): &(Manifest, PathBuf)| {
        let mut listed = listed(manifest, path);
        if listed.bytes.is_some() {
            let hash = File::open(&listed.file).and_then(|mut file| {
                copy(&mut file, &mut io::sink(), |done| progress(&manifest.name, done, listed.bytes))
            });
            listed.state = match hash {
                Ok(hash) if hash == manifest.sha256 => FileState::Verified,
                Ok(hash) => FileState::Wrong(mismatch(&manifest.sha256, &hash)),
                Err(error) => FileState::Wrong(format!("cannot be read: {error}")),
            };
        }
        listed
    };
    (chosen.values().map(check).collect(), problems)
}

fn mismatch(expected: &str, found: &str) -> String {
    format!("its sha256 is {found}, the manifest says {expected}")
}

/// Copies at most [`MAX_FILE`] bytes and gives their sha256.
fn copy(from: &mut impl Read, to: &mut impl Write, mut done: impl FnMut(u64)) -> io::Result<String> {
    let (mut hash, mut total, mut buffer) = (Sha256::new(), 0, vec![0; 256 << 10]);
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex(hash));
        }
        total += read as u64;
        if total > MAX_FILE {
            return Err(io::Error::other(format!("longer than {MAX_FILE} bytes")));
        }
        hash.update(&buffer[..read]);
        to.write_all(&buffer[..read])?;
        done(total);
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What `pull` did for one model.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Pulled {
    pub name: String,
    pub version: String,
    /// Where the file is, or would be.
    pub file: PathBuf,
    #[serde(flatten)]
    pub outcome: PullOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome", content = "why")]
pub enum PullOutcome {
    /// It was there already, with the right hash.
    Kept,
    Fetched,
    /// Nothing was changed; what failed and what to do.
    Failed(String),
}

/// Fetches every known model's file that is missing or wrong into `into` (`<data>/models`), with a copy of its
/// manifest: from the folder `mirror`, else from the manifest's `origin` by https. A file appears under its name only
/// when its hash is right and it is safe on the medium.
pub async fn pull(
    mirror: Option<&Path>,
    folders: &[PathBuf],
    into: &Path,
    progress: Progress<'_>,
) -> (Vec<Pulled>, Vec<Problem>) {
    let (chosen, problems) = chosen(folders);
    let mut pulled = Vec::new();
    for (manifest, path) in chosen.values() {
        let present = file_of(manifest, path);
        let there = File::open(&present).and_then(|mut file| copy(&mut file, &mut io::sink(), |_| ()));
        let (file, outcome) = if there.is_ok_and(|hash| hash == manifest.sha256) {
            (present, PullOutcome::Kept)
        } else {
            let outcome = match fetch(mirror, manifest, path, into, progress).await {
                Ok(()) => PullOutcome::Fetched,
                Err(why) => PullOutcome::Failed(why),
            };
            (into.join(&manifest.file), outcome)
        };
        let (name, version) = (manifest.name.clone(), manifest.version.clone());
        pulled.push(Pulled { name, version, file, outcome });
    }
    (pulled, problems)
}

async fn fetch(
    mirror: Option<&Path>,
    manifest: &Manifest,
    path: &Path,
    into: &Path,
    progress: Progress<'_>,
) -> Result<(), String> {
    let cannot = |error: io::Error| {
        format!("{}: {error}; is the disk full, or owned by another user?", into.display())
    };
    std::fs::create_dir_all(into).map_err(cannot)?;
    let temporary = into.join(format!(".{}.{}.part", manifest.file.display(), std::process::id()));
    let fetched = async {
        let mut file = File::create(&temporary).map_err(cannot)?;
        let (source, hash) = match mirror {
            Some(mirror) => {
                let source = mirror.join(&manifest.file);
                let hash = File::open(&source).and_then(|mut from| {
                    let all = from.metadata().ok().map(|found| found.len());
                    copy(&mut from, &mut file, |done| progress(&manifest.name, done, all))
                });
                let hash =
                    hash.map_err(|error| format!("{}: {error}; put the file there", source.display()))?;
                (source.display().to_string(), hash)
            }
            None => {
                let hash = download(manifest, &mut file, progress).await;
                let hash = hash.map_err(|why| {
                    format!("{}: {why}; where the box has no way out, use --mirror DIR", manifest.origin)
                })?;
                (manifest.origin.clone(), hash)
            }
        };
        if hash != manifest.sha256 {
            return Err(format!("{source}: {}; nothing was changed", mismatch(&manifest.sha256, &hash)));
        }
        file.sync_all().map_err(cannot)?;
        std::fs::rename(&temporary, into.join(&manifest.file)).map_err(cannot)?;
        let copy = into.join(format!("{}.toml", manifest.name));
        if path != copy {
            place(path, &copy).map_err(cannot)?;
        }
        File::open(into).and_then(|folder| folder.sync_all()).map_err(cannot)
    };
    let outcome = fetched.await;
    if outcome.is_err() {
        // Not there where it was never made; else rubbish under a name that nobody reads.
        let _ = std::fs::remove_file(&temporary);
    }
    outcome
}

fn place(from: &Path, to: &Path) -> io::Result<()> {
    let temporary = to.with_extension("toml.part");
    let mut file = File::create(&temporary)?;
    file.write_all(&std::fs::read(from)?)?;
    file.sync_all()?;
    std::fs::rename(&temporary, to)
}

async fn download(manifest: &Manifest, to: &mut File, progress: Progress<'_>) -> Result<String, String> {
    if !manifest.origin.starts_with("https://") {
        return Err("the manifest's origin is no https address".to_owned());
    }
    // Fails only where somebody has installed one before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .https_only(true)
        .connect_timeout(FETCH_PATIENCE)
        .read_timeout(FETCH_PATIENCE)
        .build()
        .map_err(chain)?;
    let mut response =
        client.get(&manifest.origin).send().await.map_err(chain)?.error_for_status().map_err(chain)?;
    let all = response.content_length();
    let (mut hash, mut total) = (Sha256::new(), 0);
    while let Some(chunk) = response.chunk().await.map_err(chain)? {
        total += chunk.len() as u64;
        if total > MAX_FILE {
            return Err(format!("longer than {MAX_FILE} bytes"));
        }
        hash.update(&chunk);
        to.write_all(&chunk).map_err(|error| error.to_string())?;
        progress(&manifest.name, total, all);
    }
    Ok(hex(hash))
}

/// An error with its causes: reqwest's own text ends before what matters. Without the address, which is said already.
fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = include_str!("../../models/yolox-nano.toml");

    fn problems(text: String) -> String {
        parse(Path::new("m.toml"), text).expect_err("a problem").to_string()
    }

    #[test]
    fn the_manifest_of_the_project_reads() {
        let manifest = parse(Path::new("m.toml"), MANIFEST.to_owned()).expect("valid");
        assert_eq!(manifest.label(), "yolox-nano@1.0.0");
        assert_eq!(manifest.classes(), BTreeSet::from(["person", "vehicle"]));
    }

    #[test]
    fn problems_have_their_line() {
        let size = problems(MANIFEST.replace("size = [416, 416]", "size = [0, 416]"));
        assert!(size.starts_with("m.toml:12:1: size: 0 × 416"), "{size}");
        let file = problems(MANIFEST.replace("\"yolox_nano_416.onnx\"", "\"../../etc/passwd\""));
        assert!(file.starts_with("m.toml:5:1: file:"), "{file}");
        let twice = problems(MANIFEST.replace("\"bicycle\"", "\"car\""));
        assert!(twice.contains("labels: "), "{twice}");
        let score = problems(MANIFEST.replace("vehicle = 0.4", "vehicle = 1.4"));
        assert!(score.contains("vehicle: 1.4"), "{score}");
        let unknown = problems(MANIFEST.replace("licence =", "license ="));
        assert!(unknown.contains("m.toml:7:1: unknown field `license`"), "{unknown}");
    }

    #[tokio::test]
    async fn a_file_is_pulled_only_when_its_hash_is_right() {
        let folder = tempfile::tempdir().expect("a folder");
        let [shipped, mirror, data] = ["shipped", "mirror", "data"].map(|name| folder.path().join(name));
        for made in [&shipped, &mirror] {
            std::fs::create_dir(made).expect("a folder");
        }
        let hash = copy(&mut b"a model".as_slice(), &mut io::sink(), |_| ()).expect("hashed");
        let text =
            MANIFEST.replace("c789161ed43c8269fcd4e67c67eeeb4e80c622da2eb296a20bc6007bd18a0b7d", &hash);
        std::fs::write(shipped.join("m.toml"), text).expect("written");
        let folders = [data.clone(), shipped.clone()];
        assert_eq!(list(&folders).0[0].state, FileState::Missing);

        let (pulled, _) = pull(Some(&mirror), &folders, &data, &mut |_, _, _| ()).await;
        assert!(
            matches!(&pulled[0].outcome, PullOutcome::Failed(why) if why.contains("mirror/yolox_nano_416.onnx"))
        );
        std::fs::write(mirror.join("yolox_nano_416.onnx"), "no model").expect("written");
        let (pulled, _) = pull(Some(&mirror), &folders, &data, &mut |_, _, _| ()).await;
        assert!(
            matches!(&pulled[0].outcome, PullOutcome::Failed(why) if why.contains("sha256")),
            "{pulled:?}"
        );
        assert_eq!(std::fs::read_dir(&data).expect("a folder").count(), 0, "nothing is left behind");

        std::fs::write(mirror.join("yolox_nano_416.onnx"), "a model").expect("written");
        let (pulled, _) = pull(Some(&mirror), &folders, &data, &mut |_, _, _| ()).await;
        assert_eq!(pulled[0].outcome, PullOutcome::Fetched);
        let (_, path) = find("yolox-nano", &folders).expect("found");
        assert_eq!(path, data.join("yolox-nano.toml"));
        assert_eq!(verify(&folders, &mut |_, _, _| ()).0[0].state, FileState::Verified);
        std::fs::write(data.join("yolox_nano_416.onnx"), "a m0del").expect("written");
        assert!(matches!(verify(&folders, &mut |_, _, _| ()).0[0].state, FileState::Wrong(_)));
        let (pulled, _) = pull(Some(&mirror), &folders, &data, &mut |_, _, _| ()).await;
        assert_eq!(pulled[0].outcome, PullOutcome::Fetched);
    }
}
