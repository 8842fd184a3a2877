//! Whether clips and their manifest are as they were when the box signed them.
//!
//! Everything that is read here may be forged: names lead nowhere but beside the manifest, and sizes are bounded.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::key::{KnownKey, PublicKey};
use super::manifest::{Manifest, VERSION};
use super::{MANIFEST, MANIFEST_ENDING, SIGNATURE_ENDING, hex, with_ending};
use crate::record::Condition;

/// One of 256 cameras and three days is shorter.
const LONGEST_MANIFEST: u64 = 256 << 20;

const CHUNK: usize = 1 << 20;

/// What is said of one manifest and of what it vouches for.
#[derive(Debug, Serialize)]
pub struct Report {
    pub manifest: PathBuf,
    /// Nothing is wrong.
    pub ok: bool,
    /// The signing key is one of those that were given; none where none was given.
    pub key_is_known: Option<bool>,
    pub flaws: Vec<Flaw>,
    /// What is as it was signed, and yet worth knowing: recordings that were damaged before the export, gaps.
    pub remarks: Vec<String>,
    /// As it stands, where it can be read: to be believed only where its signature fits.
    pub says: Option<Manifest>,
}

/// One thing that is not as it was signed.
#[derive(Debug, Serialize)]
pub struct Flaw {
    pub kind: FlawKind,
    /// The file that it concerns.
    pub file: String,
    /// For people.
    pub what: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlawKind {
    NoManifest,
    UnreadableManifest,
    UnknownVersion,
    NoSignature,
    /// Manifest or signature were changed.
    WrongSignature,
    OtherKey,
    Missing,
    Changed,
    /// Nothing vouches for it.
    Extra,
}

/// What every version says.
#[derive(Deserialize)]
struct AnyVersion {
    version: u32,
}

/// The manifests at `path`: a clip's own, the one of a folder, all of a folder, or the manifest itself.
pub fn manifests(path: &Path) -> io::Result<Vec<PathBuf>> {
    let text = path.as_os_str().to_string_lossy();
    if !path.is_dir() {
        // A path that is not there has no name of a manifest either; what is missing is told of its clip.
        let is_manifest = text.ends_with(MANIFEST_ENDING) || path.file_name().is_some_and(|n| n == MANIFEST);
        let own = with_ending(path, MANIFEST_ENDING);
        let of_folder = path.with_file_name(MANIFEST);
        return Ok(vec![match () {
            () if is_manifest => path.to_owned(),
            () if !own.exists() && of_folder.exists() => of_folder,
            () => own,
        }]);
    }
    if path.join(MANIFEST).exists() {
        return Ok(vec![path.join(MANIFEST)]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(MANIFEST_ENDING) {
            found.push(entry.path());
        }
    }
    found.sort();
    // None: then the one that is missed is named.
    Ok(if found.is_empty() { vec![path.join(MANIFEST)] } else { found })
}

/// Looks at everything that a manifest vouches for. `known`: keys that whoever asks has from the box itself. `progress`
/// is told bytes that were read, and how many there are.
pub fn verify(manifest: &Path, known: &[KnownKey], progress: &mut dyn FnMut(u64, u64)) -> Report {
    let mut report = Report {
        manifest: manifest.to_owned(),
        ok: false,
        key_is_known: None,
        flaws: Vec::new(),
        remarks: Vec::new(),
        says: None,
    };
    report.look(known, progress);
    report.ok = report.flaws.is_empty();
    report
}

impl Report {
    fn look(&mut self, known: &[KnownKey], progress: &mut dyn FnMut(u64, u64)) {
        let path = self.manifest.clone();
        let name = path.display().to_string();
        let bytes = match read(&path, LONGEST_MANIFEST) {
            Ok(bytes) => bytes,
            Err(error) => {
                let what = format!("there is no manifest that could be read: {error}");
                return self.flaw(FlawKind::NoManifest, &name, what);
            }
        };
        let version = serde_json::from_slice::<AnyVersion>(&bytes).map(|any| any.version);
        let said = match version {
            Ok(VERSION) => serde_json::from_slice::<Manifest>(&bytes),
            Ok(version) => {
                let what = format!(
                    "it has version {version}, and this liuta knows {VERSION}: take the liuta that made it, or a newer one"
                );
                return self.flaw(FlawKind::UnknownVersion, &name, what);
            }
            Err(error) => Err(error),
        };
        let manifest = match said {
            Ok(manifest) => manifest,
            Err(error) => {
                let what = format!("it was changed, or is no manifest of liuta's: {error}");
                return self.flaw(FlawKind::UnreadableManifest, &name, what);
            }
        };
        if manifest.fingerprint != manifest.public_key.fingerprint() {
            let what = "the fingerprint that it names is not that of its key".to_owned();
            self.flaw(FlawKind::OtherKey, &name, what);
        }
        self.look_at_signature(&bytes, &manifest.public_key, known);
        self.look_at_files(&manifest, progress);
        self.says = Some(manifest);
    }

    fn look_at_signature(&mut self, bytes: &[u8], key: &PublicKey, known: &[KnownKey]) {
        let path = with_ending(&self.manifest, SIGNATURE_ENDING);
        let name = path.display().to_string();
        match read(&path, 4096) {
            Err(error) => {
                let what = format!("there is no signature that could be read: {error}");
                self.flaw(FlawKind::NoSignature, &name, what);
            }
            Ok(signature) if !key.has_signed(bytes, &signature) => {
                let what = "the signature does not fit the manifest: one of the two was changed".to_owned();
                self.flaw(FlawKind::WrongSignature, &name, what);
            }
            Ok(_) if !known.is_empty() => {
                let is_known = known.iter().any(|known| known.is(key));
                self.key_is_known = Some(is_known);
                if !is_known {
                    let what = format!(
                        "it was not signed by the key that you gave, but by the one with the fingerprint {}",
                        key.fingerprint()
                    );
                    self.flaw(FlawKind::OtherKey, &name, what);
                }
            }
            Ok(_) => {}
        }
    }

    fn look_at_files(&mut self, manifest: &Manifest, progress: &mut dyn FnMut(u64, u64)) {
        let folder = self.manifest.parent().unwrap_or(Path::new("")).to_owned();
        let total = manifest.files.iter().fold(0, |sum: u64, clip| sum.saturating_add(clip.bytes));
        let mut done: u64 = 0;
        for clip in &manifest.files {
            if !is_plain(&clip.name) {
                let what = "the manifest names a file that does not lie beside it".to_owned();
                self.flaw(FlawKind::UnreadableManifest, &clip.name, what);
                continue;
            }
            let hash = hash(&folder.join(&clip.name), &mut |read| progress(done.saturating_add(read), total));
            match hash {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let what = "it is missing: a file that was given another name must get this one back";
                    self.flaw(FlawKind::Missing, &clip.name, what.to_owned());
                }
                Err(error) => self.flaw(FlawKind::Missing, &clip.name, format!("it cannot be read: {error}")),
                Ok((bytes, _)) if bytes != clip.bytes => {
                    let what = format!(
                        "it was changed: it has {bytes} bytes, and had {} when it was signed",
                        clip.bytes
                    );
                    self.flaw(FlawKind::Changed, &clip.name, what);
                }
                Ok((_, sha256)) if sha256 != clip.sha256 => {
                    let what = format!(
                        "it was changed: its SHA-256 is {sha256}, and was {} when it was signed",
                        clip.sha256
                    );
                    self.flaw(FlawKind::Changed, &clip.name, what);
                }
                Ok(_) => {}
            }
            done = done.saturating_add(clip.bytes);
            for source in &clip.segments {
                if let Condition::Damaged { why } = &source.condition {
                    self.remarks.push(format!(
                        "{}: the recording {} was damaged on the box before it was exported: {why}",
                        clip.name, source.path
                    ));
                }
            }
        }
        if self.manifest.file_name().is_some_and(|name| name == MANIFEST) {
            self.look_for_others(&folder, manifest);
        }
    }

    /// A folder is signed as a whole: what else lies in it looks as if it were too.
    fn look_for_others(&mut self, folder: &Path, manifest: &Manifest) {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let signature = format!("{MANIFEST}{SIGNATURE_ENDING}");
        let signed: BTreeSet<&str> = (manifest.files.iter().map(|clip| clip.name.as_str()))
            .chain([MANIFEST, signature.as_str()])
            .collect();
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        // What systems put into every folder they show is hidden.
        for name in names.iter().filter(|name| !name.starts_with('.') && !signed.contains(name.as_str())) {
            let what = "it is no part of what was signed: nothing vouches for it".to_owned();
            self.flaw(FlawKind::Extra, name, what);
        }
    }

    fn flaw(&mut self, kind: FlawKind, file: &str, what: String) {
        self.flaws.push(Flaw { kind, file: file.to_owned(), what });
    }
}

/// A name that leads nowhere.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(_)), None))
        && !name.ends_with('/')
}

/// Opens a plain file: whatever else has its name could be read for ever.
fn open(path: &Path) -> io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("this is no plain file"));
    }
    File::open(path)
}

fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it is longer than {most} bytes")));
    }
    Ok(bytes)
}

/// Length and SHA-256.
fn hash(path: &Path, progress: &mut dyn FnMut(u64)) -> io::Result<(u64, String)> {
    let mut file = open(path)?;
    let (mut hash, mut read, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK]);
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok((read, hex(&hash.finalize()))),
            Ok(length) => {
                hash.update(&chunk[..length]);
                read += length as u64;
                progress(read);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_files_lead_nowhere() {
        for name in ["clip.mp4", "门 1.mp4", ".hidden"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["", ".", "..", "/", "/etc/passwd", "a/b", "../a", "a/", "./a"] {
            assert!(!is_plain(name), "{name}");
        }
    }

    #[test]
    fn a_pipe_keeps_nobody_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("manifest.json");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let report = verify(&pipe, &[], &mut |_, _| ());
        assert_eq!(report.flaws[0].kind, FlawKind::NoManifest);
        assert!(verify(folder.path(), &[], &mut |_, _| ()).flaws[0].what.contains("plain file"));
    }

    proptest! {
        #[test]
        fn whatever_a_manifest_says_is_looked_at(
            text in "(\\{\"version\": ?[0-9]{1,20},?)?[\\[\\]{}\":,0-9a-z. /\\\\]{0,80}",
        ) {
            let folder = tempfile::tempdir().unwrap();
            let manifest = folder.path().join("manifest.json");
            std::fs::write(&manifest, text).unwrap();
            prop_assert!(!verify(&manifest, &[], &mut |_, _| ()).ok);
        }
    }
}
