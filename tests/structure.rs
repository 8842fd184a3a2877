//! The walls between the modules, held by reading the sources: who may use whom, which code stays pure, and that the
//! daemon's binary loads no decoder and no model runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules from the top to the bottom: each may use those on later lines only, and nothing on its own line.
const LAYERS: [&[&str]; 12] = [
    &["cli"],
    &["app", "demo"],
    &["api", "simulate"],
    &["events"],
    &["analysis", "relay"],
    &["camera", "dispatch", "evidence", "settings"],
    &["vision", "record"],
    &["access", "hw"],
    &["live", "store", "net"],
    &["alert", "log"],
    &["media", "config", "health"],
    &["owner"],
];

/// Uses beside their layer, each with its reason.
const ALLOWED: [(&str, &str, &str); 2] = [
    ("media", "config", "codec names in configurations"),
    ("hw", "vision", "the probe speaks the worker's manifest types"),
];

/// No sockets, files, clocks, native code or database in here.
const PURE: [&str; 4] = ["src/media", "src/alert", "src/worker/preprocess.rs", "src/worker/postprocess.rs"];
const IMPURE_CRATES: [&str; 9] =
    ["tokio", "gstreamer", "gstreamer_app", "ort", "rusqlite", "retina", "axum", "reqwest", "rustix"];

fn sources(below: &Path) -> Vec<PathBuf> {
    if below.is_file() {
        return vec![below.to_owned()];
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(below).unwrap_or_else(|error| panic!("{}: {error}", below.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() || path.extension().is_some_and(|extension| extension == "rs") {
            found.extend(sources(&path));
        }
    }
    found
}

/// A source without its tests, comments and documentation, which may name what they like.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

/// The first segment after every `prefix`, `crate::` say.
fn names_after<'t>(text: &'t str, prefix: &'t str) -> impl Iterator<Item = &'t str> {
    text.match_indices(prefix).flat_map(move |(at, _)| {
        let rest = &text[at + prefix.len()..];
        let group = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let named = group.map_or(rest, |(inside, _)| inside);
        let pieces: Vec<&str> = if group.is_some() { named.split(',').collect() } else { vec![named] };
        pieces.into_iter().map(|piece| {
            let piece = piece.trim();
            &piece[..piece.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(piece.len())]
        })
    })
}

#[test]
fn imports_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let layer_of: BTreeMap<&str, usize> =
        LAYERS.iter().enumerate().flat_map(|(at, names)| names.iter().map(move |name| (*name, at))).collect();
    let mut wrong = BTreeSet::new();
    for path in sources(&root) {
        let relative = path.strip_prefix(&root).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if ["main", "lib", "worker"].contains(&module) {
            continue;
        }
        let layer = *layer_of.get(module).unwrap_or_else(|| panic!("{module} stands in no layer"));
        let code = code(&path);
        for used in names_after(&code, "crate::") {
            let Some(&below) = layer_of.get(used) else { continue };
            let allowed = ALLOWED.iter().any(|(user, other, _)| (*user, *other) == (module, used));
            if used != module && below <= layer && !allowed {
                wrong.insert(format!("{} uses {used}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn pure_modules_stay_pure() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for place in PURE {
        for path in sources(&root.join(place)) {
            let code = code(&path);
            for krate in IMPURE_CRATES {
                let uses = code.contains(&format!("use {krate}")) || code.contains(&format!(" {krate}::"));
                assert!(!uses, "{} uses {krate}", path.display());
            }
        }
    }
}

/// Recordings are opened by rows of the index, pictures lie in the store, the page in the binary: no path is ever made of
/// what a request says.
#[test]
fn what_serves_clients_opens_no_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for place in ["src/api", "src/relay"] {
        for path in sources(&root.join(place)) {
            let code = code(&path);
            for opens in ["fs::", "File::", "ServeDir", "ServeFile"] {
                assert!(!code.contains(opens), "{} uses {opens}", path.display());
            }
        }
    }
}

#[test]
fn the_daemon_links_neither_gstreamer_nor_onnxruntime() {
    let libraries = |binary: &str| {
        let output = Command::new("ldd").arg(binary).output().expect("ldd");
        assert!(output.status.success(), "ldd {binary}");
        String::from_utf8(output.stdout).unwrap()
    };
    let daemon = libraries(env!("CARGO_BIN_EXE_liuta"));
    assert!(!daemon.contains("libgst") && !daemon.contains("onnxruntime"), "{daemon}");
    // The check can fail: the worker does link GStreamer.
    assert!(libraries(env!("CARGO_BIN_EXE_liuta-vision")).contains("libgst"));
}
