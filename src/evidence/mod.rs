//! Clips that leave the box and can be proved unchanged: exports with a signed manifest, and checking them anywhere.
//!
//! [`export`] writes `clip.mp4`, `clip.mp4.manifest.json` and `clip.mp4.manifest.json.sig`, or for several cameras a folder
//! with one mp4 each, `manifest.json` and `manifest.json.sig`. The signature is 64 bytes of Ed25519 over the manifest's
//! bytes, so that OpenSSL alone can check it; the manifest holds the SHA-256 of each clip and the public key. [`verify`]
//! needs neither a box nor a configuration. `docs/evidence.md` says what that proves.
//!
//! What does not belong here: making the mp4 itself and judging recorded files (`record`), and keeping alerts' evidence
//! in the ring (`analysis`).

pub mod export;
pub mod key;
pub mod manifest;
pub mod verify;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Of a folder of clips.
const MANIFEST: &str = "manifest.json";

/// What a clip's name and its manifest's differ in.
const MANIFEST_ENDING: &str = ".manifest.json";

const SIGNATURE_ENDING: &str = ".sig";

/// A path with something behind its name.
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
