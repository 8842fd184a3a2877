//! The models that scenes name: which files they are, and what they may say.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::alert::Detection;
use crate::vision::model;

/// More detections on one picture than any model gives.
const MAX_DETECTIONS: usize = 1000;

/// A model whose manifest and file are there.
pub struct Model {
    pub manifest: PathBuf,
    /// `name@version`.
    pub label: Arc<str>,
    classes: BTreeSet<String>,
}

impl Model {
    /// Looks for it; an error says what is missing and what to do.
    pub fn resolve(name: &str, folders: &[PathBuf]) -> Result<Model, String> {
        let Some((manifest, path)) = model::find(name, folders) else {
            let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
            return Err(format!(
                "there is no model {name} in {}; `liuta models list` shows all",
                folders.join(", ")
            ));
        };
        let file = model::file_of(&manifest, &path);
        if !file.is_file() {
            return Err(format!("model file missing: {}; run `liuta models pull`", file.display()));
        }
        let classes = manifest.classes().into_iter().map(str::to_owned).collect();
        Ok(Model { label: Arc::from(manifest.label()), manifest: path, classes })
    }

    /// Whether it can have found this; an error is nonsense.
    pub fn check(&self, detections: &[Detection]) -> Result<(), String> {
        if detections.len() > MAX_DETECTIONS {
            return Err(format!("{} detections on one picture", detections.len()));
        }
        for Detection { class, score, bbox: [x0, y0, x1, y1] } in detections {
            let inside = [score, x0, y0, x1, y1].into_iter().all(|number| (0.0..=1.0).contains(number));
            if !inside || x0 > x1 || y0 > y1 {
                return Err(format!("a detection outside the picture: {score} at {x0} {y0} {x1} {y1}"));
            }
            if !self.classes.contains(class) {
                return Err(format!("a detection of {class:?}, which the model does not give"));
            }
        }
        Ok(())
    }
}
