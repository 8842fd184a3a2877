//! Decoding access units to pictures. The only place that uses GStreamer.
//!
//! A look begins at a random access point, so that a decoder needs no memory of the camera: one pipeline serves all
//! streams of a codec and size. After each look it gets the end of the stream, which brings out the pictures that a
//! decoder still holds back for reordering (a GAP event does not: tried), and a flushing seek, after which it starts
//! anew without references. What is remembered by stream is only which decoder works for it.
//!
//! What does not belong here: what a picture shows, and how a model wants it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::{AppSink, AppSrc};
use gstreamer_video as video;
use liuta::hw::{Decoder, Element, Profile};
use liuta::media::VideoCodec;
use liuta::vision::wire::Unit;

use crate::annexb;
use crate::preprocess::Rgb;

/// Longest time for decoding one look, over all decoders tried; below [`liuta::vision::wire::PATIENCE`].
const LOOK_TIMEOUT: Duration = Duration::from_secs(6);

/// The largest picture that is decoded: 8K. A camera that names more would have the worker take gigabytes.
const MAX_PIXELS: u64 = 7680 * 4320;

/// Pictures that all kept pipelines may hold, by their pixels: about 24 of 1080p, or 6 of 4K. A decoder holds up to 16.
const KEPT_PIXELS: u64 = 50_000_000;

/// Looks in a row in which a decoder failed and another one did not, until the stream stays with the other.
const FAULTS: u32 = 3;

/// When a stream that left its decoder tries it again.
const SECOND_CHANCE: Duration = Duration::from_secs(600);

/// Ten pictures, a random access point first: colour bars, and in the last picture a white square whose middle is at
/// 532, 312. Each made by
/// `ffmpeg -f lavfi -i smptebars=size=640x360:rate=25 -f lavfi -i color=white:size=64x64:rate=25
/// -filter_complex "[0][1]overlay=x=50*n:y=280" -frames:v 10 -pix_fmt yuv420p -preset slow` and
/// `-c:v libx264 -x264-params keyint=10:min-keyint=10:aud=1:bframes=0:scenecut=0` or
/// `-c:v libx265 -x265-params keyint=10:min-keyint=10:aud=1:bframes=0:scenecut=0:info=0:repeat-headers=1`.
fn clip(codec: VideoCodec) -> &'static [u8] {
    match codec {
        VideoCodec::H264 => include_bytes!("clips/bars.h264"),
        VideoCodec::H265 => include_bytes!("clips/bars.h265"),
    }
}

const CLIP_SIZE: [u32; 2] = [640, 360];
const CLIP_SQUARE: [u32; 2] = [532, 312];
const CLIP_BARS: [[u8; 3]; 7] =
    [[191, 191, 191], [191, 191, 0], [0, 191, 191], [0, 191, 0], [191, 0, 191], [191, 0, 0], [0, 0, 191]];

/// A decoded picture, still in the decoder's own format.
pub struct RawFrame {
    sample: gst::Sample,
    info: video::VideoInfo,
}

impl RawFrame {
    pub fn width(&self) -> u32 {
        self.info.width()
    }

    pub fn height(&self) -> u32 {
        self.info.height()
    }

    /// The whole picture scaled to a size, as RGB with the colours that its stream names.
    pub fn rgb(&self, width: u32, height: u32) -> Result<Rgb, String> {
        let failed = |what: &str| format!("the picture cannot be converted to RGB: {what}");
        let row = width as usize * 3;
        // GStreamer's rows of RGB begin at multiples of four bytes.
        let stride = row.next_multiple_of(4);
        let out = video::VideoInfo::builder(video::VideoFormat::Rgb, width, height)
            .fps(self.info.fps())
            .interlace_mode(self.info.interlace_mode())
            .stride(&[stride as i32])
            .build()
            .map_err(|error| failed(&error.to_string()))?;
        let mut config = video::VideoConverterConfig::new();
        config.set_resampler_method(video::VideoResamplerMethod::Linear);
        config.set_threads(1);
        let converter = video::VideoConverter::new(&self.info, &out, Some(config))
            .map_err(|error| failed(&error.to_string()))?;
        let input = self.sample.buffer_owned().ok_or_else(|| failed("it is empty"))?;
        let input = video::VideoFrame::from_buffer_readable(input, &self.info)
            .map_err(|_| failed("it cannot be read"))?;
        let buffer = gst::Buffer::from_mut_slice(vec![0; stride * height as usize]);
        let mut output = video::VideoFrame::from_buffer_writable(buffer, &out)
            .map_err(|_| failed("there is no room for it"))?;
        converter.frame(&input, &mut output);
        let data = output.plane_data(0).map_err(|error| failed(&error.to_string()))?;
        let data =
            data.chunks(stride).flat_map(|line| line.get(..row).unwrap_or_default()).copied().collect();
        Ok(Rgb { width, height, data })
    }
}

/// A picture and what decoded it.
pub struct Decoded {
    pub frame: RawFrame,
    /// GStreamer element.
    pub decoder: String,
    pub profile: String,
}

/// Why there is no picture.
#[derive(Debug)]
enum Fault {
    /// The decoder is not there, reported an error or hung.
    Decoder(String),
    /// It took the access units and gave no whole picture: they are damaged, or it cannot do them.
    NoPicture(String),
    /// The picture is refused before it is decoded.
    Refused(String),
}

impl Fault {
    fn text(self) -> String {
        match self {
            Fault::Decoder(text) | Fault::NoPicture(text) | Fault::Refused(text) => text,
        }
    }
}

/// The access units of a look, as a byte stream each.
pub struct Input {
    pub codec: VideoCodec,
    pub width: u32,
    pub height: u32,
    units: Vec<(Unit, Bytes)>,
}

impl Input {
    /// From a look's blob, in which NAL units stand behind lengths.
    pub fn new(
        codec: VideoCodec,
        size: [u32; 2],
        units: &[Unit],
        mut blob: Vec<u8>,
    ) -> Result<Input, String> {
        if !units.first().is_some_and(|unit| unit.is_rap) {
            return Err("a look must begin at a random access point".to_owned());
        }
        let mut rest = blob.as_mut_slice();
        for unit in units {
            let (bytes, after) = rest
                .split_at_mut_checked(unit.bytes as usize)
                .ok_or("a look's access units are longer than what was sent")?;
            annexb::from_lengths(bytes)?;
            rest = after;
        }
        Ok(Input::cut(codec, size, units, Bytes::from(blob)))
    }

    /// The built-in clip of a codec.
    pub fn clip(codec: VideoCodec) -> Input {
        let stream = Bytes::from_static(clip(codec));
        let units = annexb::access_units(&stream, codec);
        let units: Vec<Unit> = units
            .iter()
            .zip(0..)
            .map(|(range, number)| Unit {
                bytes: range.len() as u32,
                pts_90k: number * 3600,
                is_rap: number == 0,
            })
            .collect();
        Input::cut(codec, CLIP_SIZE, &units, stream)
    }

    fn cut(codec: VideoCodec, [width, height]: [u32; 2], units: &[Unit], mut stream: Bytes) -> Input {
        let cut = |unit: &Unit| (*unit, stream.split_to(stream.len().min(unit.bytes as usize)));
        Input { codec, width, height, units: units.iter().map(cut).collect() }
    }

    pub fn pictures(&self) -> usize {
        self.units.len()
    }
}

/// One decoder of one profile.
struct Candidate {
    profile: String,
    decoder: Decoder,
    elements: Vec<Element>,
}

/// What a stream has seen of a codec's decoders.
#[derive(Default)]
struct Choice {
    /// Into the candidates of the codec.
    index: usize,
    faults: u32,
    left_at: Option<Instant>,
}

/// All decoders, and the pipelines that are kept.
pub struct Decoders {
    h264: Vec<Candidate>,
    h265: Vec<Candidate>,
    /// By stream and codec, since a camera may be set to the other one.
    choices: HashMap<(String, VideoCodec), Choice>,
    /// The longest unused first.
    kept: Vec<(PipelineKey, Pipeline)>,
}

#[derive(Clone, PartialEq, Eq)]
struct PipelineKey {
    codec: VideoCodec,
    candidate: usize,
    width: u32,
    height: u32,
}

impl Decoders {
    /// Loads GStreamer and leaves out the decoders that come before the first that decodes the built-in clip. `named`:
    /// somebody chose the first profile. Second: what does not work, for people.
    pub fn start(profiles: &[Profile], named: bool) -> Result<(Decoders, Vec<String>), String> {
        init()?;
        let mut problems = Vec::new();
        let mut choose = |codec, name: &str| {
            let mut candidates = candidates(profiles, codec);
            let mut whys = Vec::new();
            let mut broken = Vec::new();
            while let Some(candidate) = candidates.first() {
                match try_clip(candidate, codec) {
                    Ok(()) => {
                        let (decoder, profile) = (candidate.decoder.factory(), &candidate.profile);
                        tracing::debug!("{name} is decoded by {decoder} (profile {profile})");
                        if profile == "software" && !broken.is_empty() {
                            let broken = broken.join("; ");
                            let what = format!(
                                "{name} is decoded in software ({decoder}) because the hardware decoder fails: \
                                 {broken}"
                            );
                            if named {
                                problems.push(format!(
                                    "{what} (see `liuta probe`; hw_profile = \"auto\" accepts it)"
                                ));
                            } else {
                                tracing::info!("{what}");
                            }
                        }
                        break;
                    }
                    Err(why) => {
                        let why = format!("{}: {why}", candidate.decoder.factory());
                        // Of what is only tried out most is not there. What is may still lack its device: some
                        // plug-ins register their decoders without.
                        let counts =
                            named || gst::ElementFactory::find(candidate.decoder.factory()).is_some();
                        if counts && candidate.profile != "software" {
                            broken.push(why.clone());
                        }
                        whys.push(why);
                    }
                }
                candidates.remove(0);
            }
            if candidates.is_empty() {
                let whys = whys.join("; ");
                problems.push(format!("no decoder works for {name} (install gstreamer1.0-libav): {whys}"));
            }
            candidates
        };
        let (h264, h265) = (choose(VideoCodec::H264, "H.264"), choose(VideoCodec::H265, "H.265"));
        if h264.is_empty() && h265.is_empty() {
            return Err(problems.join("; "));
        }
        Ok((Decoders { h264, h265, choices: HashMap::new(), kept: Vec::new() }, problems))
    }

    fn candidates(&self, codec: VideoCodec) -> &[Candidate] {
        match codec {
            VideoCodec::H264 => &self.h264,
            VideoCodec::H265 => &self.h265,
        }
    }

    /// The last picture of the input in decoding order.
    ///
    /// A decoder that fails is followed by the next one at once; when it failed [`FAULTS`] looks in a row the stream
    /// stays with the next one for a while.
    pub fn decode(&mut self, stream: &str, input: &Input) -> Result<Decoded, String> {
        let deadline = Instant::now() + LOOK_TIMEOUT;
        let choice = self.choices.entry((stream.to_owned(), input.codec)).or_default();
        if choice.left_at.is_some_and(|at| at.elapsed() > SECOND_CHANCE) {
            *choice = Choice::default();
        }
        let first = choice.index;
        let mut why: Option<Fault> = None;
        for index in first..self.candidates(input.codec).len() {
            if let Some(why) = &why
                && !self.is_next(input.codec, index, why)
            {
                continue;
            }
            match self.decode_by(index, input, deadline) {
                Ok(frame) => {
                    self.note(stream, input.codec, first, index, why);
                    let by = &self.candidates(input.codec)[index];
                    let decoder = by.decoder.factory().to_owned();
                    return Ok(Decoded { frame, decoder, profile: by.profile.clone() });
                }
                Err(Fault::Refused(why)) => return Err(why),
                Err(fault) => {
                    why.get_or_insert(fault);
                }
            }
        }
        Err(why.map_or_else(|| "no decoder works for this codec".to_owned(), Fault::text))
    }

    /// Whether a decoder is worth trying after the fault of the one before it. Damaged access units are no reason to
    /// take a decoder of the same profile that conceals the damage.
    fn is_next(&self, codec: VideoCodec, index: usize, why: &Fault) -> bool {
        let candidates = self.candidates(codec);
        match why {
            Fault::Decoder(_) => true,
            Fault::NoPicture(_) => candidates[index].profile != candidates[index - 1].profile,
            Fault::Refused(_) => false,
        }
    }

    /// Remembers whether the stream's first choice did the work.
    fn note(&mut self, stream: &str, codec: VideoCodec, first: usize, did: usize, why: Option<Fault>) {
        let Some(choice) = self.choices.get_mut(&(stream.to_owned(), codec)) else { return };
        let Some(why) = why else {
            choice.faults = 0;
            return;
        };
        choice.faults += 1;
        if choice.faults >= FAULTS {
            *choice = Choice { index: did, faults: 0, left_at: Some(Instant::now()) };
            let candidates = self.candidates(codec);
            let (failed, used) = (candidates[first].decoder.factory(), candidates[did].decoder.factory());
            let why = why.text();
            tracing::warn!("{stream}: {failed} failed {FAULTS} looks in a row ({why}); {used} decodes now");
        }
    }

    fn decode_by(&mut self, candidate: usize, input: &Input, deadline: Instant) -> Result<RawFrame, Fault> {
        let Input { codec, width, height, .. } = *input;
        let key = PipelineKey { codec, candidate, width, height };
        let at = self.kept.iter().position(|(kept, _)| *kept == key);
        let kept = at.map(|index| self.kept.remove(index).1).filter(|pipeline| pipeline.rewind().is_ok());
        let mut pipeline = match kept {
            Some(pipeline) => pipeline,
            None => Pipeline::build(&self.candidates(codec)[candidate].elements, codec)?,
        };
        match pipeline.decode(input, deadline) {
            Ok(frame) => {
                self.kept.push((key, pipeline));
                let mut pixels = 0;
                let within = |(_, pipeline): &&(PipelineKey, Pipeline)| {
                    pixels += pipeline.pixels;
                    pixels <= KEPT_PIXELS
                };
                let keep = self.kept.iter().rev().take_while(within).count().max(1);
                self.kept.drain(..self.kept.len() - keep);
                Ok(frame)
            }
            // What a decoder does after damaged input is not known: the next look gets a fresh one.
            Err(fault) => Err(fault),
        }
    }

    pub fn forget(&mut self, stream: &str) {
        self.choices.retain(|(known, _), _| known != stream);
    }
}

/// Loads GStreamer's plug-ins, in this process: the helper that would else scan them is another program, which the
/// sandbox does not start.
pub fn init() -> Result<(), String> {
    // SAFETY: sets a flag; made to be called before GStreamer starts.
    unsafe { gst::ffi::gst_registry_fork_set_enabled(gst::glib::ffi::GFALSE) };
    gst::init().map_err(|error| format!("GStreamer does not start: {error}"))
}

fn candidates(profiles: &[Profile], codec: VideoCodec) -> Vec<Candidate> {
    let of = |profile: &Profile, decoder: &Decoder| {
        let (profile, decoder) = (profile.name.clone(), decoder.clone());
        // The main process validated the profile.
        let elements = decoder.elements().ok()?;
        Some(Candidate { profile, decoder, elements })
    };
    let decoders =
        profiles.iter().flat_map(|profile| profile.decoders.iter().map(move |decoder| (profile, decoder)));
    decoders
        .filter(|(_, decoder)| decoder.codec == codec)
        .filter_map(|(profile, decoder)| of(profile, decoder))
        .collect()
}

/// Whether a decoder gives the picture that it should.
fn try_clip(candidate: &Candidate, codec: VideoCodec) -> Result<(), String> {
    let mut pipeline = Pipeline::build(&candidate.elements, codec).map_err(Fault::text)?;
    decode_clip(&mut pipeline, codec)
}

fn decode_clip(pipeline: &mut Pipeline, codec: VideoCodec) -> Result<(), String> {
    let frame = pipeline.decode(&Input::clip(codec), Instant::now() + LOOK_TIMEOUT).map_err(Fault::text)?;
    let [width, height] = CLIP_SIZE;
    if [frame.width(), frame.height()] != CLIP_SIZE {
        let (got_width, got_height) = (frame.width(), frame.height());
        return Err(format!("gave a picture of {got_width}×{got_height} for one of {width}×{height}"));
    }
    let picture = frame.rgb(width, height)?;
    let near = |x: u32, y: u32, colour: [u8; 3]| {
        let at = (y * width + x) as usize * 3;
        picture.data[at..at + 3].iter().zip(colour).all(|(&is, should)| is.abs_diff(should) < 24)
    };
    let bars = CLIP_BARS.iter().zip(0..).all(|(&colour, bar)| near(width * (2 * bar + 1) / 14, 100, colour));
    let [x, y] = CLIP_SQUARE;
    if bars && near(x, y, [255; 3]) {
        Ok(())
    } else {
        Err("gave a wrong picture of the built-in clip".to_owned())
    }
}

/// Speed of one decoder on the built-in clip, for the probe.
pub struct Bench {
    pipeline: Pipeline,
    input: Input,
}

impl Bench {
    /// Builds it and checks that it really decodes.
    pub fn start(decoder: &Decoder) -> Result<Bench, String> {
        let codec = decoder.codec;
        let mut pipeline = Pipeline::build(&decoder.elements()?, codec).map_err(Fault::text)?;
        decode_clip(&mut pipeline, codec)?;
        Ok(Bench { pipeline, input: Input::clip(codec) })
    }

    /// Decodes the clip once; how many pictures that is.
    pub fn run(&mut self) -> Result<usize, String> {
        self.pipeline.rewind().map_err(Fault::text)?;
        self.pipeline.decode(&self.input, Instant::now() + LOOK_TIMEOUT).map_err(Fault::text)?;
        Ok(self.input.pictures())
    }
}

/// `appsrc ! parser ! decoder and download ! appsink`.
struct Pipeline {
    pipeline: gst::Pipeline,
    source: AppSrc,
    sink: AppSink,
    bus: gst::Bus,
    /// Why the parser's picture size was refused.
    refused: Arc<Mutex<Option<String>>>,
    /// Of the last picture.
    pixels: u64,
}

impl Pipeline {
    fn build(chain: &[Element], codec: VideoCodec) -> Result<Pipeline, Fault> {
        let (parser, media) = match codec {
            VideoCodec::H264 => ("h264parse", "video/x-h264"),
            VideoCodec::H265 => ("h265parse", "video/x-h265"),
        };
        let caps =
            gst::Caps::builder(media).field("stream-format", "byte-stream").field("alignment", "au").build();
        let rewound = gstreamer_app::AppSrcCallbacks::builder().seek_data(|_, _| true).build();
        let source = AppSrc::builder()
            .caps(&caps)
            .format(gst::Format::Time)
            .stream_type(gstreamer_app::AppStreamType::Seekable)
            .callbacks(rewound)
            .max_bytes(0)
            .build();
        // Two: the decoder waits while we are not looking, instead of filling memory.
        let sink = AppSink::builder()
            .caps(&gst::Caps::new_empty_simple("video/x-raw"))
            .sync(false)
            .async_(false)
            .enable_last_sample(false)
            .max_buffers(2)
            .build();
        let parser = make(&Element { factory: parser.to_owned(), properties: Vec::new() })?;
        let refused = refuse_large(&parser);
        let mut elements = vec![source.clone().upcast(), parser];
        for element in chain {
            elements.push(make(element)?);
        }
        elements.push(sink.clone().upcast());
        let broken = |error: gst::glib::BoolError| Fault::Decoder(error.to_string());
        let pipeline = gst::Pipeline::new();
        pipeline.add_many(&elements).map_err(broken)?;
        gst::Element::link_many(&elements).map_err(broken)?;
        let bus = pipeline.bus().ok_or_else(|| Fault::Decoder("a pipeline without a bus".to_owned()))?;
        let built = Pipeline { pipeline, source, sink, bus, refused, pixels: 0 };
        match built.pipeline.set_state(gst::State::Playing) {
            Ok(_) => Ok(built),
            Err(error) => Err(built.error().unwrap_or_else(|| Fault::Decoder(error.to_string()))),
        }
    }

    /// Decodes all and gives the last picture in decoding order. After an error the pipeline is of no more use.
    fn decode(&mut self, input: &Input, deadline: Instant) -> Result<RawFrame, Fault> {
        let earliest = input.units.iter().map(|(unit, _)| unit.pts_90k).min().unwrap_or_default();
        let offset = |pts_90k: i64| {
            let ticks = pts_90k.saturating_sub(earliest).clamp(0, 3600 * liuta::media::VIDEO_CLOCK) as u64;
            gst::ClockTime::from_nseconds(ticks * 100_000 / 9)
        };
        let mut wanted = gst::ClockTime::ZERO;
        for (unit, bytes) in &input.units {
            wanted = offset(unit.pts_90k);
            let mut buffer = gst::Buffer::from_slice(bytes.clone());
            if let Some(buffer) = buffer.get_mut() {
                buffer.set_pts(wanted);
                if !unit.is_rap {
                    buffer.set_flags(gst::BufferFlags::DELTA_UNIT);
                }
            }
            if self.source.push_buffer(buffer).is_err() {
                return Err(self.stopped());
            }
        }
        if self.source.end_of_stream().is_err() {
            return Err(self.stopped());
        }
        let sample = self.drain(wanted, deadline)?;
        let info = sample.caps().and_then(|caps| video::VideoInfo::from_caps(caps).ok());
        let info = info.ok_or_else(|| Fault::Decoder("a picture of unknown form".to_owned()))?;
        self.pixels = u64::from(info.width()) * u64::from(info.height());
        Ok(RawFrame { sample, info })
    }

    /// Takes what comes out until the end: the picture of that time, else the last.
    fn drain(&self, wanted: gst::ClockTime, deadline: Instant) -> Result<gst::Sample, Fault> {
        let mut found: Option<gst::Sample> = None;
        let pts = |sample: &gst::Sample| sample.buffer().and_then(|buffer| buffer.pts());
        loop {
            // An error does not wake the sink, so the bus is asked now and then.
            match self.sink.try_pull_sample(gst::ClockTime::from_mseconds(10)) {
                Some(sample) if found.as_ref().is_none_or(|found| pts(found) != Some(wanted)) => {
                    found = Some(sample);
                }
                Some(_) => {}
                None => {
                    if let Some(error) = self.error() {
                        return Err(error);
                    }
                    if self.sink.is_eos() {
                        let nothing =
                            || Fault::NoPicture("the access units hold no whole picture".to_owned());
                        return found.ok_or_else(nothing);
                    }
                }
            }
            if Instant::now() > deadline {
                return Err(Fault::Decoder("the decoder hangs".to_owned()));
            }
        }
    }

    /// Makes it ready for the next look.
    fn rewind(&self) -> Result<(), Fault> {
        let flags = gst::SeekFlags::FLUSH;
        self.source
            .seek_simple(flags, gst::ClockTime::ZERO)
            .map_err(|error| Fault::Decoder(error.to_string()))
    }

    fn stopped(&self) -> Fault {
        self.error().unwrap_or_else(|| Fault::Decoder("the decoder has stopped".to_owned()))
    }

    fn error(&self) -> Option<Fault> {
        if let Some(why) = self.refused.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take() {
            return Some(Fault::Refused(why));
        }
        let message = self.bus.pop_filtered(&[gst::MessageType::Error])?;
        match message.view() {
            gst::MessageView::Error(error) => {
                let element = error.src().map(|source| source.name().to_string()).unwrap_or_default();
                let why = format!("{element}: {}", error.error());
                let of_input = error.error().is::<gst::StreamError>();
                Some(if of_input { Fault::NoPicture(why) } else { Fault::Decoder(why) })
            }
            _ => None,
        }
    }
}

impl Drop for Pipeline {
    /// A decoder that hangs would hang us too when it is stopped, so that is done aside.
    fn drop(&mut self) {
        let pipeline = self.pipeline.clone();
        let stop = move || {
            let _ = pipeline.set_state(gst::State::Null);
        };
        if let Err(error) = std::thread::Builder::new().name("stop".to_owned()).spawn(stop) {
            tracing::error!("a decoder cannot be stopped: {error}");
        }
    }
}

fn make(element: &Element) -> Result<gst::Element, Fault> {
    let Element { factory, properties } = element;
    let made = gst::ElementFactory::make(factory).build().map_err(|_| {
        let what = format!("GStreamer has no element {factory} here; {}", package_of(factory));
        Fault::Decoder(what)
    })?;
    for (name, value) in properties {
        let wrong = || Fault::Decoder(format!("{factory} takes no {name}={value}"));
        let spec = made.find_property(name).ok_or_else(wrong)?;
        let value = gst::glib::Value::deserialize_with_pspec(value, &spec).map_err(|_| wrong())?;
        made.set_property_from_value(name, &value);
    }
    Ok(made)
}

/// What to install for an element that is missing, as Debian names it.
fn package_of(factory: &str) -> String {
    let package = match factory {
        "appsrc" | "appsink" | "videoconvertscale" | "videoconvert" | "videoscale" => {
            "gstreamer1.0-plugins-base"
        }
        "h264parse" | "h265parse" => "gstreamer1.0-plugins-bad",
        _ if factory.starts_with("avdec_") => "gstreamer1.0-libav",
        _ if factory.starts_with("v4l2") && !factory.starts_with("v4l2sl") => "gstreamer1.0-plugins-good",
        _ => return "its driver or plug-in is missing".to_owned(),
    };
    format!("install {package}")
}

/// Holds pictures back from the decoder whose parameter sets name a size beyond [`MAX_PIXELS`].
fn refuse_large(parser: &gst::Element) -> Arc<Mutex<Option<String>>> {
    let refused = Arc::new(Mutex::new(None));
    let Some(pad) = parser.static_pad("src") else { return refused };
    let why = refused.clone();
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        let Some(gst::PadProbeData::Event(event)) = &info.data else { return gst::PadProbeReturn::Ok };
        let gst::EventView::Caps(event) = event.view() else { return gst::PadProbeReturn::Ok };
        let Some(form) = event.caps().structure(0) else { return gst::PadProbeReturn::Ok };
        let side =
            |name| form.get::<i32>(name).ok().and_then(|side| u64::try_from(side).ok()).unwrap_or_default();
        let (width, height) = (side("width"), side("height"));
        if width * height <= MAX_PIXELS {
            return gst::PadProbeReturn::Ok;
        }
        let text = format!("a picture of {width}×{height} is beyond what is decoded (7680×4320)");
        *why.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(text);
        gst::PadProbeReturn::Drop
    });
    refused
}
