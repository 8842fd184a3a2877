//! Hardware profiles (`hw-profiles/*.toml`): which decoder, scaler and execution provider, in order of preference; and
//! the probe that tells what of it works on this box.
//!
//! A profile is data; trying it out happens in the worker, which [`probe`] asks. What does not belong here: GStreamer
//! and ONNX Runtime.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use comfy_table::{Table, presets};

use crate::config::reader::{Problem, Problems, Source, nearest};
use crate::media::VideoCodec;
use crate::vision::wire::Sandbox;

/// Profiles that come with the program, hardware first: `auto` takes the first that really decodes.
const BUILT_IN: [(&str, &str); 6] = [
    ("nvidia", include_str!("../hw-profiles/nvidia.toml")),
    ("jetson", include_str!("../hw-profiles/jetson.toml")),
    ("rockchip", include_str!("../hw-profiles/rockchip.toml")),
    ("intel-va", include_str!("../hw-profiles/intel-va.toml")),
    ("v4l2", include_str!("../hw-profiles/v4l2.toml")),
    (SOFTWARE, include_str!("../hw-profiles/software.toml")),
];

/// The profile that every choice ends with.
const SOFTWARE: &str = "software";

/// Execution providers that the worker knows; `cpu` always works.
pub const PROVIDERS: [&str; 4] = ["cpu", "cuda", "tensorrt", "openvino"];

/// How long a probe may take: a first start of GStreamer scans every plug-in, TensorRT compiles the model.
const PROBE_PATIENCE: Duration = Duration::from_secs(180);

/// One hardware profile as its file says.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub name: String,
    /// For people: which boxes it is for.
    pub about: String,
    /// Decoder element chains by codec, in order of preference.
    pub decoders: Vec<Decoder>,
    /// Execution providers of ONNX Runtime, in order of preference; `cpu` always works.
    pub providers: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decoder {
    pub codec: VideoCodec,
    /// GStreamer element factory and its properties, `avdec_h264 max-threads=1`.
    pub element: String,
    /// Elements that bring the picture into system memory, `a ! b property=value`; empty where the decoder does.
    #[serde(default)]
    pub download: String,
}

impl Decoder {
    /// The decoder and what follows it, one by one.
    pub fn elements(&self) -> Result<Vec<Element>, String> {
        let mut elements = vec![Element::parse(&self.element)?];
        if !self.download.trim().is_empty() {
            for element in self.download.split('!') {
                elements.push(Element::parse(element)?);
            }
        }
        Ok(elements)
    }

    /// The decoder's factory without its properties.
    pub fn factory(&self) -> &str {
        self.element.split_ascii_whitespace().next().unwrap_or_default()
    }
}

/// One element of a chain. Made by its factory and given its properties one by one: no text of a profile is ever read
/// as a pipeline description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub factory: String,
    pub properties: Vec<(String, String)>,
}

impl Element {
    fn parse(text: &str) -> Result<Element, String> {
        let mut words = text.split_ascii_whitespace();
        let factory = words.next().ok_or("an element's name is missing")?;
        if !word(factory, "_-") {
            return Err(format!("{factory:?} is no element's name, such as avdec_h264"));
        }
        let mut properties = Vec::new();
        for pair in words {
            match pair.split_once('=') {
                Some((name, value)) if word(name, "-") && word(value, "_-.+") => {
                    properties.push((name.to_owned(), value.to_owned()));
                }
                _ => return Err(format!("{pair:?} is no property of {factory}, such as max-threads=1")),
            }
        }
        Ok(Element { factory: factory.to_owned(), properties })
    }
}

fn word(text: &str, also: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
}

/// The profiles to try, in order. `name`: "auto", which means every profile in `folder` that is not built in, then the
/// built-in ones (or the file of the same name in `folder` in their place); or one profile. Software comes last always,
/// so that a driver that fails costs speed and no look.
pub fn profiles(name: &str, folder: Option<&Path>) -> Result<Vec<Profile>, Problems> {
    let mut found = all(folder)?;
    if name != "auto" && !found.iter().any(|profile| profile.name == name) {
        let known: Vec<&str> = found.iter().map(|profile| profile.name.as_str()).collect();
        let hint = match nearest(name, &known) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("known: auto, {}", known.join(", ")),
        };
        let what = format!("there is no hardware profile {name:?}; {hint}");
        let file = folder.map_or_else(|| PathBuf::from("hw-profiles"), Path::to_owned);
        return Err(Problems(vec![Problem::of_file(&file, what)]));
    }
    found.retain(|profile| name == "auto" || profile.name == name || profile.name == SOFTWARE);
    Ok(found)
}

fn all(folder: Option<&Path>) -> Result<Vec<Profile>, Problems> {
    let mut own = Vec::new();
    let mut problems = Vec::new();
    for file in folder.map(profile_files).transpose()?.unwrap_or_default() {
        match std::fs::read_to_string(&file) {
            Ok(text) => match read(&file, text) {
                Ok(profile) => own.push(profile),
                Err(found) => problems.extend(found.0),
            },
            Err(error) => problems.push(Problem::of_file(&file, error.to_string())),
        }
    }
    let mut built_in = Vec::new();
    for (name, text) in BUILT_IN {
        match own.iter().position(|profile| profile.name == name) {
            Some(index) => built_in.push(own.remove(index)),
            None => match read(Path::new(&format!("hw-profiles/{name}.toml")), text.to_owned()) {
                Ok(profile) => built_in.push(profile),
                Err(found) => problems.extend(found.0),
            },
        }
    }
    own.append(&mut built_in);
    if problems.is_empty() { Ok(own) } else { Err(Problems(problems)) }
}

/// The `*.toml` of a folder by name; an absent folder has none.
fn profile_files(folder: &Path) -> Result<Vec<PathBuf>, Problems> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            let (file, what) = (folder.to_owned(), error.to_string());
            return Err(Problems(vec![Problem::of_file(&file, what)]));
        }
    };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    Ok(files)
}

fn read(file: &Path, text: String) -> Result<Profile, Problems> {
    let source = Source::new(file, text);
    let mut root = source.root();
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let name = root.get_or("name", String::new());
    if name != stem {
        root.report(0..0, format!("name: {stem:?} was expected, as the file is called"));
    }
    let about = root.get_or("about", String::new());
    let mut decoders = Vec::new();
    match root.get::<Vec<Decoder>>("decoders") {
        Some(at) => {
            for decoder in &at.value {
                if let Err(what) = decoder.elements() {
                    root.report(at.span.clone(), what);
                }
            }
            decoders = at.value;
        }
        None => root.report(0..0, "a profile needs at least one [[decoders]]"),
    }
    let mut providers = vec!["cpu".to_owned()];
    if let Some(at) = root.get::<Vec<String>>("providers") {
        for provider in at.value.iter().filter(|provider| !PROVIDERS.contains(&provider.as_str())) {
            let known = PROVIDERS.join(", ");
            root.report(at.span.clone(), format!("unknown execution provider {provider:?}; known: {known}"));
        }
        providers = at.value;
    }
    root.finish(&["name", "about", "decoders", "providers"]);
    let problems = source.into_problems();
    if problems.is_empty() {
        Ok(Profile { name, about, decoders, providers })
    } else {
        Err(Problems(problems))
    }
}

/// The worker's binary: it lies beside this one.
pub fn worker() -> PathBuf {
    let here = std::env::current_exe().unwrap_or_default();
    let folder = here.parent().unwrap_or(Path::new(""));
    // Test binaries lie one folder below.
    let candidates = [folder.join("liuta-vision"), folder.join("../liuta-vision")];
    let [first, _] = &candidates;
    candidates.iter().find(|path| path.is_file()).unwrap_or(first).clone()
}

/// What to try: on the worker's stdin as JSON, `liuta-vision --probe`.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct ProbeRequest {
    pub profiles: Vec<Profile>,
    /// `None`: where the worker finds it.
    pub onnxruntime: Option<PathBuf>,
    /// Manifest files.
    pub models: Vec<PathBuf>,
}

/// What the worker found, on its stdout as JSON.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Probe {
    /// What keeps the worker from doing harm on this kernel.
    pub sandbox: Sandbox,
    pub decoders: Vec<DecoderProbe>,
    pub models: Vec<ModelProbe>,
}

/// One decoder on the built-in clip of 640×360.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct DecoderProbe {
    pub profile: String,
    pub codec: VideoCodec,
    /// GStreamer element.
    pub decoder: String,
    /// Why it does not work; `None`: it does.
    pub problem: Option<String>,
    /// The first of its codec that works.
    pub chosen: bool,
    pub pictures_per_second: f64,
    /// Processor time of a picture in milliseconds.
    pub cpu_ms: f64,
}

/// One model on one execution provider.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ModelProbe {
    /// `name@version`, or the manifest file where it cannot be read.
    pub model: String,
    pub provider: String,
    /// Why it does not work; `None`: it does.
    pub problem: Option<String>,
    /// The first of this model that works.
    pub chosen: bool,
    /// Median of an inference in milliseconds.
    pub inference_ms: f64,
}

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("{path} cannot be started ({error}): it is installed beside liuta")]
    Start { path: PathBuf, error: io::Error },
    /// With the last of what the worker wrote to stderr.
    #[error("the vision worker ended ({status}): {stderr}")]
    Ended { status: std::process::ExitStatus, stderr: String },
    #[error("the vision worker did not finish its probe within {} s", PROBE_PATIENCE.as_secs())]
    Hung,
    #[error("the vision worker's answer cannot be read: {0}")]
    Answer(#[from] serde_json::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Has the worker try every decoder on a real clip and every model on every provider. Blocks for seconds.
pub fn probe(request: &ProbeRequest) -> Result<Probe, ProbeError> {
    probe_with(&worker(), request)
}

fn probe_with(path: &Path, request: &ProbeRequest) -> Result<Probe, ProbeError> {
    let mut command = Command::new(path);
    command.arg("--probe").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| ProbeError::Start { path: path.to_owned(), error })?;
    let (done, outcome) = mpsc::channel();
    if let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    {
        let request = serde_json::to_vec(request)?;
        std::thread::spawn(move || {
            // A worker that does not start reads nothing; its exit status tells why.
            let _ = stdin.write_all(&request);
        });
        let stderr = std::thread::spawn(move || read_text(stderr));
        std::thread::spawn(move || {
            let stdout = read_text(stdout);
            let _ = done.send((stdout, stderr.join().unwrap_or_default()));
        });
    }
    let Ok((stdout, stderr)) = outcome.recv_timeout(PROBE_PATIENCE) else {
        child.kill()?;
        child.wait()?;
        return Err(ProbeError::Hung);
    };
    let status = child.wait()?;
    if !status.success() {
        let last: Vec<&str> = stderr.lines().rev().take(3).collect();
        let stderr = last.into_iter().rev().collect::<Vec<&str>>().join("; ");
        return Err(ProbeError::Ended { status, stderr });
    }
    Ok(serde_json::from_str(&stdout)?)
}

/// Text up to a bound that no honest worker reaches.
fn read_text(from: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = from.take(1 << 20).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Probe {
    /// For people.
    pub fn table(&self) -> String {
        let mut decoders = Table::new();
        decoders.load_style(presets::NOTHING);
        decoders.set_header(["", "PROFILE", "CODEC", "DECODER", "PICTURES/S", "CPU MS/PICTURE", ""]);
        for row in &self.decoders {
            let codec = match row.codec {
                VideoCodec::H264 => "H.264",
                VideoCodec::H265 => "H.265",
            };
            let (rate, cpu) = (format!("{:.0}", row.pictures_per_second), format!("{:.1}", row.cpu_ms));
            let figures = figures(&row.problem, [rate, cpu]);
            let [rate, cpu, problem] = figures;
            decoders.add_row([mark(row.chosen), &row.profile, codec, &row.decoder, &rate, &cpu, &problem]);
        }
        let mut models = Table::new();
        models.load_style(presets::NOTHING);
        models.set_header(["", "MODEL", "PROVIDER", "MS/INFERENCE", ""]);
        for row in &self.models {
            let [ms, problem] = figures(&row.problem, [format!("{:.1}", row.inference_ms)]);
            models.add_row([mark(row.chosen), &row.model, &row.provider, &ms, &problem]);
        }
        let mut text = format!("Decoding a clip of 640×360 (* is used)\n{}\n", decoders.trim_fmt());
        if !self.models.is_empty() {
            text.push_str(&format!("\nInference (* is used)\n{}\n", models.trim_fmt()));
        }
        text.push_str(&format!("\nThe worker's sandbox: {}\n", self.sandbox));
        text
    }
}

fn mark(chosen: bool) -> &'static str {
    if chosen { "*" } else { "" }
}

/// The figures of a row that works, else dashes, and the problem behind them.
fn figures<const N: usize, const M: usize>(problem: &Option<String>, figures: [String; N]) -> [String; M] {
    let works = problem.is_none();
    let mut cells = figures.map(|figure| if works { figure } else { "-".to_owned() }).into_iter();
    std::array::from_fn(|_| cells.next().or_else(|| problem.clone()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(profiles: &[Profile]) -> Vec<&str> {
        profiles.iter().map(|profile| profile.name.as_str()).collect()
    }

    #[test]
    fn every_choice_ends_with_software() {
        let auto = profiles("auto", None).unwrap();
        assert_eq!(names(&auto), BUILT_IN.map(|(name, _)| name));
        assert_eq!(names(&auto), crate::config::HW_PROFILES);
        assert_eq!(names(&profiles("intel-va", None).unwrap()), ["intel-va", "software"]);
        assert_eq!(names(&profiles("software", None).unwrap()), ["software"]);
        for profile in &auto {
            assert!(!profile.about.is_empty() && profile.providers.last().is_some_and(|last| last == "cpu"));
            for codec in [VideoCodec::H264, VideoCodec::H265] {
                assert!(profile.decoders.iter().any(|decoder| decoder.codec == codec), "{}", profile.name);
            }
        }
        let problems = profiles("intel_va", None).unwrap_err();
        assert!(problems.to_string().contains("did you mean \"intel-va\"?"), "{problems}");
    }

    #[test]
    fn a_folder_adds_and_overrides() {
        let folder = tempfile::tempdir().unwrap();
        let profile = |name: &str| {
            format!(
                "name = \"{name}\"\nabout = \"ours\"\nproviders = [\"cpu\"]\n\
                 [[decoders]]\ncodec = \"h264\"\nelement = \"ourdec a=1\"\n"
            )
        };
        std::fs::write(folder.path().join("nvidia.toml"), profile("nvidia")).unwrap();
        std::fs::write(folder.path().join("board.toml"), profile("board")).unwrap();
        let auto = profiles("auto", Some(folder.path())).unwrap();
        assert_eq!(names(&auto)[..3], ["board", "nvidia", "jetson"]);
        assert_eq!(auto[1].about, "ours");
        assert_eq!(names(&profiles("board", Some(folder.path())).unwrap()), ["board", "software"]);
        assert!(profiles("auto", Some(&folder.path().join("absent"))).is_ok());
    }

    #[test]
    fn a_bad_profile_is_told_with_its_place() {
        let text =
            "name = \"x\"\nprovider = []\n[[decoders]]\ncodec = \"h264\"\nelement = \"a ! filesink\"\n";
        let problems = read(Path::new("x.toml"), text.to_owned()).unwrap_err().to_string();
        assert!(problems.contains("x.toml:2:1: unknown key \"provider\""), "{problems}");
        assert!(problems.contains("\"!\" is no property of a"), "{problems}");
    }

    #[test]
    fn pipeline_text_does_not_pass_as_an_element() {
        for text in ["", "a!b", "a location=/etc/passwd", "a ! b", "a caps=\"x\"", "a.b", "a name=(x)", "a ="]
        {
            assert!(Element::parse(text).is_err(), "{text:?}");
        }
        let element = Element::parse("avdec_h264  max-threads=1 output-corrupt=false").unwrap();
        assert_eq!(element.factory, "avdec_h264");
        let properties = [("max-threads", "1"), ("output-corrupt", "false")];
        assert_eq!(element.properties, properties.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_missing_or_failing_worker_is_told() {
        let request = ProbeRequest { profiles: Vec::new(), onnxruntime: None, models: Vec::new() };
        let missing = probe_with(Path::new("/nonexistent/liuta-vision"), &request).unwrap_err();
        assert!(matches!(missing, ProbeError::Start { .. }), "{missing}");
        let failing = probe_with(Path::new("/bin/false"), &request).unwrap_err();
        assert!(matches!(failing, ProbeError::Ended { .. }), "{failing}");
    }
}
