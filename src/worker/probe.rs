//! Trying out what this box can do, for `liuta probe`: every decoder on the built-in clip, every model on every
//! execution provider.

use std::time::{Duration, Instant};

use liuta::hw::{Decoder, DecoderProbe, ModelProbe, Probe, ProbeRequest};
use liuta::vision::model;

use crate::decode::{self, Bench};
use crate::look::providers;
use crate::sandbox;
use crate::session::{self, Model, Runtime, label};

/// How long each decoder and each model is measured.
const MEASURE: Duration = Duration::from_millis(500);

pub fn run(request: &ProbeRequest) -> Result<Probe, String> {
    let sandbox = sandbox::enter(&session::library_folders(request.onnxruntime.as_deref()), &request.models);
    decode::init()?;
    let mut decoders: Vec<DecoderProbe> = Vec::new();
    for profile in &request.profiles {
        for decoder in &profile.decoders {
            let mut row = DecoderProbe {
                profile: profile.name.clone(),
                codec: decoder.codec,
                decoder: decoder.factory().to_owned(),
                problem: None,
                chosen: false,
                pictures_per_second: 0.0,
                cpu_ms: 0.0,
            };
            match speed(decoder) {
                Ok((rate, cpu_ms)) => {
                    row.chosen = !decoders.iter().any(|other| other.chosen && other.codec == decoder.codec);
                    (row.pictures_per_second, row.cpu_ms) = (rate, cpu_ms);
                }
                Err(why) => row.problem = Some(why),
            }
            decoders.push(row);
        }
    }
    Ok(Probe { sandbox, decoders, models: models(request) })
}

/// Pictures a second, and milliseconds of processor time a picture.
fn speed(decoder: &Decoder) -> Result<(f64, f64), String> {
    let mut bench = Bench::start(decoder)?;
    let (started, cpu) = (Instant::now(), cpu_time());
    let mut pictures = 0;
    while started.elapsed() < MEASURE {
        pictures += bench.run()?;
    }
    let (wall, cpu) = (started.elapsed(), cpu_time().saturating_sub(cpu));
    Ok((pictures as f64 / wall.as_secs_f64(), cpu.as_secs_f64() * 1e3 / pictures as f64))
}

/// Processor time of all threads of this process that live.
fn cpu_time() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_ascii_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

fn models(request: &ProbeRequest) -> Vec<ModelProbe> {
    let mut rows: Vec<ModelProbe> = Vec::new();
    if request.models.is_empty() {
        return rows;
    }
    let runtime = Runtime::load(request.onnxruntime.as_deref());
    for manifest in &request.models {
        let name = model::read(manifest).map_or_else(|_| manifest.display().to_string(), |read| label(&read));
        for provider in providers(&request.profiles) {
            let mut row = ModelProbe {
                model: name.clone(),
                provider: provider.clone(),
                problem: None,
                chosen: false,
                inference_ms: 0.0,
            };
            let loaded = runtime.as_ref().map_err(String::clone);
            match loaded.and_then(|runtime| Model::load(runtime, manifest, &[provider])).and_then(median) {
                Ok(inference_ms) => {
                    row.chosen = !rows.iter().any(|other| other.chosen && other.model == name);
                    row.inference_ms = inference_ms;
                }
                Err(why) => row.problem = Some(why),
            }
            rows.push(row);
        }
    }
    rows
}

/// Of an inference, in milliseconds.
fn median(mut model: Model) -> Result<f64, String> {
    let [width, height] = model.manifest.input.size.map(|side| side as usize);
    let tensor = vec![0.5; 3 * width * height];
    let mut times = Vec::new();
    let started = Instant::now();
    while started.elapsed() < MEASURE || times.len() < 5 {
        let begun = Instant::now();
        model.infer(&tensor)?;
        times.push(begun.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2].as_secs_f64() * 1e3)
}
