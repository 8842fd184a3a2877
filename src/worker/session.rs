//! Running models. The only place that uses ONNX Runtime.
//!
//! What does not belong here: what goes into a tensor and what its output means.

use std::path::{Path, PathBuf};

use liuta::vision::model::{self, Family, Layout, Manifest};
use ort::ep::{CUDA, ExecutionProviderDispatch, OpenVINO, TensorRT};
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{TensorRef, ValueType};
use sha2::{Digest, Sha256};

use crate::postprocess::{self, Classes};

/// Largest model file that is loaded, in bytes.
const MAX_MODEL: u64 = 1 << 30;

/// ONNX Runtime, loaded once a process.
pub struct Runtime {
    environment: ort::environment::Environment,
}

impl Runtime {
    /// Loads the shared library from where the configuration says, else from the usual places.
    pub fn load(library: Option<&Path>) -> Result<Runtime, String> {
        let library = match library {
            Some(library) => library.to_owned(),
            None => {
                usual_places().into_iter().find(|place| place.is_file()).unwrap_or("libonnxruntime.so".into())
            }
        };
        let failed = |error: &dyn std::fmt::Display| {
            format!(
                "ONNX Runtime cannot be loaded ({error}): run `make setup`, or name it in [vision] onnxruntime"
            )
        };
        let builder = ort::init_from(&library).map_err(|error| failed(&error))?;
        let environment = builder
            .with_name("liuta-vision")
            .with_telemetry(false)
            .build()
            .map_err(|error| failed(&error))?;
        tracing::debug!("ONNX Runtime from {}", library.display());
        Ok(Runtime { environment })
    }
}

/// Folders that [`Runtime::load`] reads: the named library's, or the usual ones.
pub fn library_folders(library: Option<&Path>) -> Vec<PathBuf> {
    match library {
        Some(library) => library.parent().map(Path::to_owned).into_iter().collect(),
        None => usual_folders(),
    }
}

/// Beside this binary, in the build folder that it lies in, and where the package installs it.
fn usual_folders() -> Vec<PathBuf> {
    let executable = std::env::current_exe().unwrap_or_default();
    let mut folders: Vec<PathBuf> = Vec::new();
    for (depth, folder) in executable.ancestors().skip(1).take(3).enumerate() {
        folders.push(if depth == 0 { folder.to_owned() } else { folder.join("onnxruntime") });
    }
    folders.push("/usr/lib/liuta".into());
    folders
}

fn usual_places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    for folder in usual_folders() {
        places.push(folder.join("libonnxruntime.so"));
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let versioned =
            |path: &PathBuf| name(path).is_some_and(|name| name.starts_with("libonnxruntime.so."));
        places.extend(entries.map(|entry| entry.path()).filter(versioned));
    }
    places
}

/// A model that runs, with what its manifest says.
pub struct Model {
    pub manifest: Manifest,
    pub classes: Classes,
    session: Session,
}

impl Model {
    /// Reads the manifest, checks the file's hash and shapes, and loads it on the first execution provider that takes
    /// it. One inference is run, so that a model that fails does so now.
    pub fn load(runtime: &Runtime, manifest: &Path, providers: &[String]) -> Result<Model, String> {
        let (manifest, bytes) = read(manifest)?;
        let mut whys = Vec::new();
        for provider in providers {
            match Model::on(runtime, &manifest, &bytes, provider) {
                Ok(model) => {
                    let (name, version) = (&manifest.name, &manifest.version);
                    tracing::info!("{name}@{version} runs on {provider}");
                    return Ok(model);
                }
                Err(why) => {
                    tracing::debug!("{}: {provider}: {why}", manifest.name);
                    whys.push(why);
                }
            }
        }
        whys.dedup();
        Err(format!("{}: {}", manifest.name, whys.join("; ")))
    }

    fn on(runtime: &Runtime, manifest: &Manifest, bytes: &[u8], provider: &str) -> Result<Model, String> {
        let session = session(runtime, bytes, dispatch(provider)?).map_err(|error| error.to_string())?;
        check_declared(&session, manifest)?;
        let classes = Classes::new(&manifest.output);
        let mut model = Model { manifest: manifest.clone(), classes, session };
        let blank = vec![0.0; input_shape(manifest).iter().product()];
        model.infer(&blank)?;
        Ok(model)
    }

    /// `name@version`.
    pub fn label(&self) -> String {
        label(&self.manifest)
    }

    /// The raw output for an input tensor.
    pub fn infer(&mut self, tensor: &[f32]) -> Result<Vec<f32>, String> {
        let (shape, expected) = (input_shape(&self.manifest), output_shape(&self.manifest));
        let input = TensorRef::from_array_view((shape, tensor)).map_err(|error| error.to_string())?;
        let outputs = self.session.run(ort::inputs![input]).map_err(|error| error.to_string())?;
        let output = outputs.values().next().ok_or("the model gives no output")?;
        let (shape, data) = output.try_extract_tensor::<f32>().map_err(|error| error.to_string())?;
        if !shape.iter().eq(expected.iter().map(|&side| side as i64).collect::<Vec<i64>>().iter()) {
            return Err(wrong_shape("gives", shape, &expected));
        }
        Ok(data.to_vec())
    }
}

pub fn label(manifest: &Manifest) -> String {
    format!("{}@{}", manifest.name, manifest.version)
}

/// A manifest and its model file, with the hash checked.
fn read(path: &Path) -> Result<(Manifest, Vec<u8>), String> {
    let manifest = model::read(path).map_err(|problems| problems.to_string())?;
    let file = path.parent().unwrap_or(Path::new("")).join(&manifest.file);
    let name = &manifest.name;
    let unread = |error: std::io::Error| {
        format!("{name}: {}: {error} (run `liuta models pull --mirror DIR`)", file.display())
    };
    let size = std::fs::metadata(&file).map_err(unread)?.len();
    if size > MAX_MODEL {
        return Err(format!("{name}: {} has {size} bytes, at most {MAX_MODEL} are loaded", file.display()));
    }
    let bytes = std::fs::read(&file).map_err(unread)?;
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if !hash.eq_ignore_ascii_case(&manifest.sha256) {
        let (file, expected) = (file.display(), &manifest.sha256);
        return Err(format!(
            "{name}: {file} has sha256 {hash}, its manifest says {expected}: fetch it again"
        ));
    }
    Ok((manifest, bytes))
}

fn input_shape(manifest: &Manifest) -> [usize; 4] {
    let [width, height] = manifest.input.size.map(|side| side as usize);
    match manifest.input.layout {
        Layout::Nchw => [1, 3, height, width],
        Layout::Nhwc => [1, height, width, 3],
    }
}

fn output_shape(manifest: &Manifest) -> [usize; 3] {
    match manifest.family {
        Family::Yolox => {
            [1, postprocess::predictions(&manifest.input), Classes::new(&manifest.output).columns()]
        }
    }
}

/// What the file declares against what the manifest says; a dimension that the file leaves open fits.
fn check_declared(session: &Session, manifest: &Manifest) -> Result<(), String> {
    let ([input], [output, ..]) = (session.inputs(), session.outputs()) else {
        let (inputs, outputs) = (session.inputs().len(), session.outputs().len());
        return Err(format!("the model has {inputs} inputs and {outputs} outputs, one of each was expected"));
    };
    let (takes, gives) = (input_shape(manifest), output_shape(manifest));
    for (verb, outlet, expected) in [("takes", input, takes.as_slice()), ("gives", output, gives.as_slice())]
    {
        let ValueType::Tensor { shape, .. } = outlet.dtype() else {
            return Err(format!("the model {verb} no tensor"));
        };
        let fits = |(&declared, &side): (&i64, &usize)| declared < 0 || declared == side as i64;
        // An output of unknown rank shows its shape in the first inference.
        let open = shape.is_empty() && verb == "gives";
        if !open && (shape.len() != expected.len() || !shape.iter().zip(expected).all(fits)) {
            return Err(wrong_shape(verb, shape, expected));
        }
    }
    Ok(())
}

fn wrong_shape(verb: &str, shape: &[i64], expected: &[usize]) -> String {
    format!("the model {verb} {shape:?}, its manifest (size, layout, family, labels) says {expected:?}")
}

/// One thread that does not spin: a second one saves an eighth of the time for half of the work again, and the looks of
/// many cameras fill the cores anyway.
fn session(
    runtime: &Runtime,
    model: &[u8],
    provider: Option<ExecutionProviderDispatch>,
) -> ort::Result<Session> {
    let mut builder = Session::builder(&runtime.environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(1)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?;
    if let Some(provider) = provider {
        builder = builder.with_execution_providers([provider])?;
    }
    builder.commit_from_memory(model)
}

/// `None`: the processor, which needs no provider.
fn dispatch(provider: &str) -> Result<Option<ExecutionProviderDispatch>, String> {
    let provider: ExecutionProviderDispatch = match provider {
        "cpu" => return Ok(None),
        "cuda" => CUDA::default().into(),
        "tensorrt" => TensorRT::default().into(),
        "openvino" => OpenVINO::default().into(),
        other => return Err(format!("unknown execution provider {other:?}")),
    };
    Ok(Some(provider.error_on_failure()))
}
