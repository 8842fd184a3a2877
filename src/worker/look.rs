//! One look: decode, infer, and the picture that people are shown.

use std::time::Instant;

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use liuta::alert::Detection;
use liuta::hw::Profile;
use liuta::vision::wire::{PictureWanted, Report};

use crate::decode::{Decoders, Input, RawFrame};
use crate::postprocess;
use crate::preprocess::{self, Rgb};
use crate::session::{Model, Runtime};
use crate::tiles::Tiles;

/// Of 100: boxes and smoke stay clean, a picture of 1080p takes about 300 kB.
const JPEG_QUALITY: u8 = 85;

/// Everything that looks need.
pub struct Looks {
    decoders: Decoders,
    models: Vec<Model>,
    /// Kept between looks for its memory.
    tensor: Vec<f32>,
}

/// A look as asked for.
pub struct Look<'a> {
    pub id: u64,
    pub stream: &'a str,
    pub model: Option<&'a str>,
    pub tiles: u32,
    pub min_score: f32,
    pub picture: PictureWanted,
}

impl Looks {
    /// Tries out the profiles (`named`: see [`Decoders::start`]) and loads the models. Second: what does not work. Without a model, or without ONNX
    /// Runtime, pictures are served still; an error: nothing decodes.
    pub fn start(
        profiles: &[Profile],
        named: bool,
        onnxruntime: Option<&std::path::Path>,
        manifests: &[std::path::PathBuf],
    ) -> Result<(Looks, Vec<String>), String> {
        let (decoders, mut problems) = Decoders::start(profiles, named)?;
        let mut models = Vec::new();
        if !manifests.is_empty() {
            match Runtime::load(onnxruntime) {
                Ok(runtime) => {
                    let providers = providers(profiles);
                    for manifest in manifests {
                        match Model::load(&runtime, manifest, &providers) {
                            Ok(model) => models.push(model),
                            Err(why) => problems.push(why),
                        }
                    }
                }
                Err(why) => problems.push(why),
            }
        }
        Ok((Looks { decoders, models, tensor: Vec::new() }, problems))
    }

    /// `name@version` of each.
    pub fn models(&self) -> Vec<String> {
        self.models.iter().map(Model::label).collect()
    }

    pub fn forget(&mut self, stream: &str) {
        self.decoders.forget(stream);
    }

    /// The report and its JPEG.
    pub fn look(&mut self, look: &Look, input: Result<Input, String>) -> (Report, Vec<u8>) {
        match input.and_then(|input| self.try_look(look, &input)) {
            Ok(looked) => looked,
            Err(why) => (Report::Failed { id: look.id, why }, Vec::new()),
        }
    }

    fn try_look(&mut self, look: &Look, input: &Input) -> Result<(Report, Vec<u8>), String> {
        if let Some(name) = look.model
            && !self.models.iter().any(|model| model.manifest.name == name)
        {
            return Err(format!("the model {name} is not loaded"));
        }
        let started = Instant::now();
        let decoded = self.decoders.decode(look.stream, input)?;
        let decode_us = started.elapsed().as_micros() as u64;
        let started = Instant::now();
        let (mut detections, mut rejected, mut model_label) = (Vec::new(), 0, String::new());
        let wanted = |model: &&mut Model| look.model == Some(model.manifest.name.as_str());
        if let Some(model) = self.models.iter_mut().find(wanted) {
            (detections, rejected) = infer(model, &mut self.tensor, &decoded.frame, look)?;
            model_label = model.label();
        }
        let infer_us = started.elapsed().as_micros() as u64;
        let jpeg = match look.picture {
            PictureWanted::Always { max_width } => jpeg(&decoded.frame, max_width)?,
            PictureWanted::Candidate if !detections.is_empty() => jpeg(&decoded.frame, None)?,
            PictureWanted::Candidate | PictureWanted::Never => Vec::new(),
        };
        let report = Report::Looked {
            id: look.id,
            detections,
            rejected,
            jpeg: jpeg.len() as u32,
            decoder: decoded.decoder,
            profile: decoded.profile,
            model: model_label,
            decode_us,
            infer_us,
        };
        Ok((report, jpeg))
    }
}

fn infer(
    model: &mut Model,
    tensor: &mut Vec<f32>,
    frame: &RawFrame,
    look: &Look,
) -> Result<(Vec<Detection>, u32), String> {
    let placement = preprocess::place(&model.manifest.input, frame.width(), frame.height());
    let mut infer = |picture: &Rgb| -> Result<(Vec<Detection>, u32), String> {
        preprocess::fill(tensor, &model.manifest.input, placement, picture);
        let output = model.infer(tensor)?;
        Ok(postprocess::yolox(&output, &model.manifest.input, placement, &model.classes, look.min_score))
    };
    let (mut detections, mut rejected) = infer(&frame.rgb(placement.width, placement.height)?)?;
    if look.tiles > 1 {
        let tiles = Tiles::of(look.tiles, placement.width, placement.height);
        let picture = frame.rgb(tiles.width, tiles.height)?;
        for tile in tiles.places() {
            let (seen, sound) = infer(&tiles.cut(&picture, tile))?;
            rejected += sound;
            detections.extend(seen.into_iter().map(|one| tiles.on_picture(one, tile)));
        }
        detections = postprocess::merge(detections);
    }
    Ok((detections, rejected))
}

/// The execution providers of all profiles in order; the processor last.
pub fn providers(profiles: &[Profile]) -> Vec<String> {
    let mut providers: Vec<String> = Vec::new();
    for provider in profiles.iter().flat_map(|profile| &profile.providers) {
        if provider != "cpu" && !providers.contains(provider) {
            providers.push(provider.clone());
        }
    }
    providers.push("cpu".to_owned());
    providers
}

fn jpeg(frame: &RawFrame, max_width: Option<u32>) -> Result<Vec<u8>, String> {
    let (width, height) = (frame.width(), frame.height());
    let (width, height) = match max_width {
        Some(limit) if limit < width => {
            let limit = limit.max(16);
            (limit, ((u64::from(height) * u64::from(limit) / u64::from(width)) as u32).max(1))
        }
        _ => (width, height),
    };
    let picture = frame.rgb(width, height)?;
    let mut bytes = Vec::with_capacity(picture.data.len() / 8);
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
        .encode(&picture.data, width, height, ExtendedColorType::Rgb8)
        .map_err(|error| format!("the picture cannot be written as JPEG: {error}"))?;
    Ok(bytes)
}
