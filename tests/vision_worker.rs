//! The real `liuta-vision` over its real socket: what it decodes, finds, refuses and survives.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use liuta::hw;
use liuta::media::{AccessUnit, VideoCodec, VideoParams};
use liuta::vision::wire::{self, Job, PictureWanted, Report};
use tokio::net::UnixStream;

const WORKER: &str = env!("CARGO_BIN_EXE_liuta-vision");

/// Generous: builders are slow, and a first start of GStreamer scans every plug-in.
const PATIENCE: Duration = Duration::from_secs(60);

struct Worker {
    child: Child,
    socket: UnixStream,
    next: u64,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Worker {
    fn spawn() -> Worker {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let child = Command::new(WORKER).stdin(Stdio::from(OwnedFd::from(theirs))).spawn().unwrap();
        Worker { child, socket: UnixStream::from_std(ours).unwrap(), next: 0 }
    }

    async fn start(&mut self, profile: &str, models: &[PathBuf]) -> Report {
        self.start_with(hw::profiles(profile, None).unwrap(), profile != "auto", None, models).await
    }

    async fn start_with(
        &mut self,
        profiles: Vec<hw::Profile>,
        named: bool,
        onnxruntime: Option<PathBuf>,
        models: &[PathBuf],
    ) -> Report {
        let profiles = profiles.iter().map(|profile| serde_json::to_value(profile).unwrap()).collect();
        let job = Job::Start { profiles, named, onnxruntime, models: models.to_vec() };
        wire::write_job(&mut self.socket, &job, &[]).await.unwrap();
        self.report().await.0
    }

    async fn report(&mut self) -> (Report, Bytes) {
        let report = wire::read_report(&mut self.socket);
        tokio::time::timeout(PATIENCE, report).await.expect("an answer").unwrap().expect("the worker lives")
    }

    async fn look(
        &mut self,
        units: &[Arc<AccessUnit>],
        model: Option<&str>,
        picture: PictureWanted,
    ) -> (Report, Bytes) {
        self.next += 1;
        let (named, blobs) = wire::look_units(units);
        let params = &units[0].params;
        let job = Job::Look {
            id: self.next,
            stream: "gate-1".into(),
            codec: params.codec,
            width: params.width,
            height: params.height,
            units: named,
            model: model.map(str::to_owned),
            tiles: 1,
            min_score: 0.3,
            picture,
        };
        wire::write_job(&mut self.socket, &job, &blobs).await.unwrap();
        self.report().await
    }

    /// The picture, as the worker's JPEG.
    async fn picture(&mut self, units: &[Arc<AccessUnit>]) -> image::RgbImage {
        let (report, jpeg) = self.look(units, None, PictureWanted::Always { max_width: None }).await;
        assert!(matches!(report, Report::Looked { .. }), "{report:?}");
        image::load_from_memory(&jpeg).unwrap().to_rgb8()
    }
}

fn shared(variable: &str, folder: &str) -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(folder);
    std::env::var_os(variable).map_or_else(beside, PathBuf::from)
}

/// A real clip where there are some, else a drawn one.
fn footage(name: &str) -> Vec<String> {
    let file = shared("LIUTA_FOOTAGE", "footage").join(name);
    if file.is_file() {
        return ["-i", file.to_str().unwrap()].map(str::to_owned).to_vec();
    }
    drawn()
}

/// Sixty pictures, no two alike.
fn drawn() -> Vec<String> {
    ["-f", "lavfi", "-i", "testsrc2=size=640x360:rate=10:duration=6"].map(str::to_owned).to_vec()
}

fn ffmpeg(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("ffmpeg").args(["-v", "error", "-nostdin"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

struct Clip {
    folder: tempfile::TempDir,
    codec: VideoCodec,
    size: [u32; 2],
    /// In decoding order.
    units: Vec<Arc<AccessUnit>>,
}

impl Clip {
    /// Encodes footage anew: `options` for the encoder, at most 60 pictures.
    fn encode(codec: VideoCodec, source: &[String], size: [u32; 2], options: &[&str]) -> Clip {
        let folder = tempfile::tempdir().unwrap();
        let (encoder, file) = match codec {
            VideoCodec::H264 => ("libx264", folder.path().join("clip.h264")),
            VideoCodec::H265 => ("libx265", folder.path().join("clip.h265")),
        };
        let [width, height] = size;
        let filter = format!("scale={width}:{height},format=yuv420p");
        let mut arguments: Vec<&str> = source.iter().map(String::as_str).collect();
        arguments.extend(["-frames:v", "60", "-vf", &filter, "-an", "-c:v", encoder, "-preset", "veryfast"]);
        arguments.extend(options);
        let path = file.to_str().unwrap();
        arguments.push(path);
        ffmpeg(&arguments);
        let units = access_units(&std::fs::read(&file).unwrap(), codec, size);
        Clip { folder, codec, size, units }
    }

    /// Every picture in presentation order, decoded by ffmpeg.
    fn expected(&self) -> Vec<image::RgbImage> {
        let name = match self.codec {
            VideoCodec::H264 => "clip.h264",
            VideoCodec::H265 => "clip.h265",
        };
        let path = self.folder.path().join(name);
        let [width, height] = self.size;
        let raw = ffmpeg(&[
            "-i",
            path.to_str().unwrap(),
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-vsync",
            "0",
            "-",
        ]);
        let pictures = raw.chunks_exact((width * height * 3) as usize);
        pictures.map(|picture| image::RgbImage::from_raw(width, height, picture.to_vec()).unwrap()).collect()
    }
}

/// Cuts a byte stream whose access units begin with delimiters. Times are made up: one tick of 3600 a picture, in
/// decoding order.
fn access_units(stream: &[u8], codec: VideoCodec, [width, height]: [u32; 2]) -> Vec<Arc<AccessUnit>> {
    let mut starts: Vec<usize> =
        (0..stream.len() - 3).filter(|&at| stream[at..at + 3] == [0, 0, 1]).map(|at| at + 3).collect();
    starts.push(stream.len() + 3);
    let nals = starts.windows(2).map(|pair| {
        let nal = &stream[pair[0]..pair[1] - 3];
        &nal[..nal.len() - nal.iter().rev().take_while(|&&byte| byte == 0).count()]
    });
    let mut sets: Vec<Bytes> = Vec::new();
    let mut units: Vec<(bool, Vec<u8>)> = Vec::new();
    for nal in nals {
        let (kind, delimiter, set, rap) = match codec {
            VideoCodec::H264 => (nal[0] & 0x1f, 9, 7..=8, 5..=5),
            VideoCodec::H265 => ((nal[0] >> 1) & 0x3f, 35, 32..=34, 16..=21),
        };
        if kind == delimiter {
            units.push((false, Vec::new()));
        } else if set.contains(&kind) {
            if !sets.iter().any(|known| known == nal) {
                sets.push(Bytes::copy_from_slice(nal));
            }
        } else {
            let unit = units.last_mut().unwrap();
            unit.0 |= rap.contains(&kind);
            unit.1.extend((nal.len() as u32).to_be_bytes());
            unit.1.extend(nal);
        }
    }
    let params =
        VideoParams { codec, parameter_sets: sets, width, height, reorder: 0, rfc6381: String::new() };
    let params = Arc::new(params);
    let unit = |(number, (is_rap, data)): (usize, (bool, Vec<u8>))| {
        let (params, pts_90k) = (params.clone(), number as i64 * 3600);
        Arc::new(AccessUnit {
            seq: number as u64,
            run: 0,
            pts_90k,
            dts_90k: pts_90k,
            is_rap,
            params,
            data: data.into(),
        })
    };
    units.into_iter().enumerate().map(unit).collect()
}

fn difference(a: &image::RgbImage, b: &image::RgbImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    let sum: u64 = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.as_raw().len() as f64
}

/// Which of the pictures is meant: the closest, which must be close. JPEG and chroma interpolation differ a little.
fn closest(picture: &image::RgbImage, among: &[image::RgbImage]) -> usize {
    let differences: Vec<f64> = among.iter().map(|other| difference(picture, other)).collect();
    let best = (0..among.len()).min_by(|&a, &b| differences[a].total_cmp(&differences[b])).unwrap();
    assert!(differences[best] < 4.0, "the closest picture differs by {}", differences[best]);
    best
}

const H264_PLAIN: [&str; 2] = ["-x264-params", "keyint=20:min-keyint=20:scenecut=0:bframes=0:aud=1"];
const H265_PLAIN: [&str; 2] =
    ["-x265-params", "keyint=20:min-keyint=20:scenecut=0:bframes=0:aud=1:repeat-headers=1:log-level=error"];

#[tokio::test]
async fn a_key_picture_alone_comes_out_at_once_in_both_codecs() {
    for (codec, options) in [(VideoCodec::H264, H264_PLAIN), (VideoCodec::H265, H265_PLAIN)] {
        let clip = Clip::encode(codec, &footage("one-by-one-person-detection.mp4"), [640, 360], &options);
        let expected = clip.expected();
        let mut worker = Worker::spawn();
        let report = worker.start("auto", &[]).await;
        assert!(matches!(&report, Report::Ready { problems, .. } if problems.is_empty()), "{report:?}");
        let raps: Vec<usize> = (0..clip.units.len()).filter(|&index| clip.units[index].is_rap).collect();
        assert!(raps.len() >= 3, "{raps:?}");
        for index in raps {
            let picture = worker.picture(&clip.units[index..=index]).await;
            assert!(difference(&picture, &expected[index]) < 4.0);
        }
        // And a picture that needs the ones before it, of pictures that all differ.
        let clip = Clip::encode(codec, &drawn(), [640, 360], &options);
        let picture = worker.picture(&clip.units[20..35]).await;
        assert_eq!(closest(&picture, &clip.expected()), 34);
    }
}

#[tokio::test]
async fn of_reordered_pictures_the_last_in_decoding_order_comes_out() {
    let options =
        ["-x264-params", "keyint=30:min-keyint=30:scenecut=0:bframes=3:b-adapt=0:b-pyramid=0:aud=1"];
    let mut clip = Clip::encode(VideoCodec::H264, &drawn(), [640, 360], &options);
    let expected = clip.expected();
    // I0 P4 B1 B2 B3 P8 …: what presentation order the encoder chose.
    let shown = |decoded: usize| match decoded {
        0 => 0,
        _ if decoded % 4 == 1 => decoded + 3,
        _ => decoded - 1,
    };
    for (decoded, unit) in clip.units.iter_mut().enumerate().take(30) {
        let pts_90k = shown(decoded) as i64 * 3600;
        *unit = Arc::new(AccessUnit { pts_90k, ..AccessUnit::clone(unit) });
    }
    let mut worker = Worker::spawn();
    worker.start("software", &[]).await;
    for last in [1, 2, 3, 9, 10] {
        let picture = worker.picture(&clip.units[..=last]).await;
        assert_eq!(closest(&picture, &expected), shown(last), "after {last} units");
    }
}

#[tokio::test]
async fn damaged_input_fails_its_look_and_no_other() {
    let clip = Clip::encode(VideoCodec::H264, &footage("car-detection.mp4"), [640, 360], &H264_PLAIN);
    let mut worker = Worker::spawn();
    worker.start("software", &[]).await;
    let wanted = PictureWanted::Always { max_width: Some(320) };
    let key = clip.units[0].clone();
    let with = |data: Vec<u8>| [Arc::new(AccessUnit { data: data.into(), ..AccessUnit::clone(&key) })];
    let mut noise = key.data.to_vec();
    let mut state = 1u32;
    for byte in &mut noise[5..] {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    let lies = [vec![0xff; 200], key.data[..key.data.len() / 2].to_vec(), Vec::new(), noise];
    for (number, data) in lies.into_iter().enumerate() {
        let (report, jpeg) = worker.look(&with(data), None, wanted).await;
        assert!(matches!(&report, Report::Failed { why, .. } if !why.is_empty()), "{number}: {report:?}");
        assert!(jpeg.is_empty());
        let (report, jpeg) = worker.look(&clip.units[..1], None, wanted).await;
        assert!(matches!(report, Report::Looked { .. }), "after {number}: {report:?}");
        assert_eq!(image::load_from_memory(&jpeg).unwrap().width(), 320);
    }
    let (report, _) = worker.look(&clip.units[1..2], None, wanted).await;
    assert!(
        matches!(&report, Report::Failed { why, .. } if why.contains("random access point")),
        "{report:?}"
    );
}

#[tokio::test]
async fn a_decoder_that_is_missing_gives_way_to_the_next() {
    let software = hw::profiles("software", None).unwrap();
    let mut broken = software[0].clone();
    broken.name = "broken".into();
    for decoder in &mut broken.decoders {
        // One that does not exist, and one that exists and decodes nothing.
        decoder.element = if decoder.codec == VideoCodec::H264 { "nosuchdec" } else { "identity" }.into();
    }
    let profiles = vec![broken.clone(), software[0].clone()];
    let report = Worker::spawn().start_with(profiles.clone(), true, None, &[]).await;
    let Report::Ready { problems, .. } = &report else { panic!("{report:?}") };
    assert!(problems.len() == 2 && problems[0].contains("nosuchdec"), "chosen by somebody: {problems:?}");
    let mut worker = Worker::spawn();
    let report = worker.start_with(profiles, false, None, &[]).await;
    assert!(matches!(&report, Report::Ready { problems, .. } if problems.is_empty()), "{report:?}");
    for (codec, options) in [(VideoCodec::H264, H264_PLAIN), (VideoCodec::H265, H265_PLAIN)] {
        let clip = Clip::encode(codec, &footage("car-detection.mp4"), [320, 180], &options);
        let (report, _) = worker.look(&clip.units[..1], None, PictureWanted::Never).await;
        assert!(matches!(&report, Report::Looked { profile, .. } if profile == "software"), "{report:?}");
    }
    let mut worker = Worker::spawn();
    let report = worker.start_with(vec![broken], true, None, &[]).await;
    assert!(matches!(&report, Report::Unfit { why } if why.contains("nosuchdec")), "{report:?}");
}

/// A network that gives the same output for every picture, as an ONNX file: `Identity` of a stored tensor.
mod constant {
    /// A field with bytes: protocol buffers' wire type 2.
    fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
        out.push(field << 3 | 2);
        varint(out, value.len() as u64);
        out.extend(value);
    }

    fn number(out: &mut Vec<u8>, field: u8, value: u64) {
        out.push(field << 3);
        varint(out, value);
    }

    fn varint(out: &mut Vec<u8>, mut value: u64) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    fn message(fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        fill(&mut out);
        out
    }

    /// ValueInfoProto of a float tensor.
    fn value(name: &str, shape: &[u64]) -> Vec<u8> {
        let dimensions = message(|out| {
            for &side in shape {
                bytes(out, 1, &message(|out| number(out, 1, side)));
            }
        });
        let tensor = message(|out| {
            number(out, 1, 1);
            bytes(out, 2, &dimensions);
        });
        message(|out| {
            bytes(out, 1, name.as_bytes());
            bytes(out, 2, &message(|out| bytes(out, 1, &tensor)));
        })
    }

    pub fn onnx(input: &[u64], output: &[u64], data: &[f32]) -> Vec<u8> {
        let stored = message(|out| {
            output.iter().for_each(|&side| number(out, 1, side));
            number(out, 2, 1);
            bytes(out, 8, b"stored");
            bytes(out, 9, &data.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
        });
        let node = message(|out| {
            bytes(out, 1, b"stored");
            bytes(out, 2, b"output");
            bytes(out, 4, b"Identity");
        });
        let graph = message(|out| {
            bytes(out, 1, &node);
            bytes(out, 2, b"constant");
            bytes(out, 5, &stored);
            bytes(out, 11, &value("images", input));
            bytes(out, 12, &value("output", output));
        });
        message(|out| {
            number(out, 1, 8);
            bytes(out, 7, &graph);
            bytes(out, 8, &message(|out| number(out, 2, 13)));
        })
    }
}

/// A folder with a model for inputs of 64×64, three labels of which two are one class, and its manifest.
fn constant_model(predictions: &[(usize, [f32; 8])], input: &[u64]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let mut data = vec![0.0; 84 * 8];
    for (index, prediction) in predictions {
        data[index * 8..index * 8 + 8].copy_from_slice(prediction);
    }
    let onnx = constant::onnx(input, &[1, 84, 8], &data);
    std::fs::write(folder.path().join("constant.onnx"), &onnx).unwrap();
    let hash: String = {
        use sha2::Digest;
        sha2::Sha256::digest(&onnx).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let manifest = format!(
        "name = \"constant\"\nversion = \"1.0.0\"\nfile = \"constant.onnx\"\nsha256 = \"{hash}\"\nlicence = \"MIT\"\n\
         origin = \"https://example.com/constant.onnx\"\nfamily = \"yolox\"\n[input]\nsize = [64, 64]\n\
         layout = \"nchw\"\nchannels = \"bgr\"\nmean = [0.0, 0.0, 0.0]\nscale = [1.0, 1.0, 1.0]\n\
         fit = \"letterbox-top-left\"\npad = 114\n[output]\nlabels = [\"person\", \"car\", \"truck\"]\n\
         [output.map]\nperson = \"person\"\ncar = \"vehicle\"\ntruck = \"vehicle\"\n"
    );
    let path = folder.path().join("constant.toml");
    std::fs::write(&path, manifest).unwrap();
    (folder, path)
}

#[tokio::test]
async fn detections_lie_where_the_model_says() {
    // Cell 9 is column 1, row 1 of the grid of stride 8: a box of 16×8 pixels around (12, 12), in a picture that takes
    // 64×36 of the input.
    let side = 2.0f32.ln();
    let car = [0.5, 0.5, side, 0.0, 0.9, 0.1, 0.2, 1.0];
    let nan = [0.5, 0.5, f32::NAN, 0.0, 0.9, 0.1, 0.2, 1.0];
    let huge = [0.5, 0.5, 50.0, 0.0, 0.9, 0.1, 0.2, 1.0];
    let faint = [0.5, 0.5, 0.0, 0.0, 0.2, 1.0, 0.0, 0.0];
    let (_folder, manifest) =
        constant_model(&[(9, car), (20, nan), (21, huge), (22, faint)], &[1, 3, 64, 64]);
    let clip = Clip::encode(VideoCodec::H264, &footage("car-detection.mp4"), [640, 360], &H264_PLAIN);
    let mut worker = Worker::spawn();
    let report = worker.start("software", &[manifest]).await;
    assert!(matches!(&report, Report::Ready { models, .. } if models == &["constant@1.0.0"]), "{report:?}");
    let (report, jpeg) = worker.look(&clip.units[..1], Some("constant"), PictureWanted::Candidate).await;
    let Report::Looked { detections, rejected, model, .. } = report else { panic!("{report:?}") };
    assert_eq!((model.as_str(), rejected), ("constant@1.0.0", 2));
    assert_eq!(detections.len(), 1, "{detections:?}");
    assert_eq!(detections[0].class, "vehicle");
    assert!((detections[0].score - 0.9).abs() < 1e-6);
    let expected = [4.0 / 64.0, 8.0 / 36.0, 20.0 / 64.0, 16.0 / 36.0];
    for (is, should) in detections[0].bbox.iter().zip(expected) {
        assert!((is - should).abs() < 1e-5, "{:?}", detections[0].bbox);
    }
    assert_eq!(image::load_from_memory(&jpeg).unwrap().width(), 640);
    let (report, _) = worker.look(&clip.units[..1], Some("absent"), PictureWanted::Never).await;
    assert!(matches!(&report, Report::Failed { why, .. } if why.contains("absent")), "{report:?}");
}

#[tokio::test]
async fn a_model_that_does_not_fit_its_manifest_is_refused() {
    let (_folder, manifest) = constant_model(&[], &[1, 3, 96, 64]);
    let report = Worker::spawn().start("software", std::slice::from_ref(&manifest)).await;
    let why = unloaded(report);
    assert!(why.contains("[1, 3, 96, 64]") && why.contains("[1, 3, 64, 64]"), "{why}");

    let (folder, manifest) = constant_model(&[], &[1, 3, 64, 64]);
    std::fs::OpenOptions::new()
        .append(true)
        .open(folder.path().join("constant.onnx"))
        .unwrap()
        .write_all(b"x")
        .unwrap();
    let report = Worker::spawn().start("software", std::slice::from_ref(&manifest)).await;
    assert!(unloaded(report).contains("sha256"));
    std::fs::remove_file(folder.path().join("constant.onnx")).unwrap();
    let report = Worker::spawn().start("software", &[manifest]).await;
    assert!(unloaded(report).contains("models pull"));
}

/// Why no model was loaded.
fn unloaded(report: Report) -> String {
    let Report::Ready { models, problems, .. } = report else { panic!("{report:?}") };
    assert!(models.is_empty(), "{models:?}");
    problems.join("; ")
}

#[tokio::test]
async fn without_onnx_runtime_pictures_come_still_and_it_says_what_to_do() {
    let (_folder, manifest) = constant_model(&[], &[1, 3, 64, 64]);
    let profiles = hw::profiles("software", None).unwrap();
    let library = Some(PathBuf::from("/nonexistent/libonnxruntime.so"));
    let mut worker = Worker::spawn();
    let why = unloaded(worker.start_with(profiles, true, library, &[manifest]).await);
    assert!(why.contains("make setup"), "{why}");
    let clip = Clip::encode(VideoCodec::H264, &drawn(), [640, 360], &H264_PLAIN);
    let (report, _) = worker.look(&clip.units[..1], Some("constant"), PictureWanted::Never).await;
    assert!(matches!(&report, Report::Failed { why, .. } if why.contains("constant")), "{report:?}");
    assert_eq!(worker.picture(&clip.units[..1]).await.dimensions(), (640, 360));
}

/// YOLOX-nano where its file lies at hand: people and cars of real clips.
#[tokio::test]
async fn people_and_cars_are_found() {
    let file = shared("LIUTA_MODELS", "models").join("yolox_nano_416.onnx");
    if !file.is_file() {
        // The output's way to detections is held above for a model of known output.
        eprintln!("no {}: nothing to find people with", file.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("yolox-nano.toml");
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/yolox-nano.toml"), &manifest).unwrap();
    std::os::unix::fs::symlink(&file, folder.path().join("yolox_nano_416.onnx")).unwrap();
    let mut worker = Worker::spawn();
    let report = worker.start("software", &[manifest]).await;
    assert!(matches!(report, Report::Ready { .. }), "{report:?}");
    let cases =
        [("people-detection-preview.mp4", "person"), ("person-bicycle-car-detection-preview.mp4", "vehicle")];
    for (name, class) in cases {
        // Fifteen seconds, a key picture each.
        let options = ["-r", "4", "-x264-params", "keyint=4:min-keyint=4:scenecut=0:bframes=0:aud=1"];
        let clip = Clip::encode(VideoCodec::H264, &footage(name), [768, 432], &options);
        let mut hits = 0;
        let raps = clip.units.iter().filter(|unit| unit.is_rap);
        for unit in raps {
            let unit = std::slice::from_ref(unit);
            let (report, jpeg) = worker.look(unit, Some("yolox-nano"), PictureWanted::Candidate).await;
            let Report::Looked { detections, rejected, .. } = report else { panic!("{report:?}") };
            assert_eq!(rejected, 0);
            assert_eq!(detections.is_empty(), jpeg.is_empty());
            assert!(detections.iter().all(|found| ["person", "vehicle"].contains(&found.class.as_str())));
            hits += usize::from(detections.iter().any(|found| found.class == class));
        }
        assert!(hits > 0, "no {class} in {name}");
    }
}

#[tokio::test]
async fn it_ends_with_its_parent_even_before_the_start() {
    let mut worker = Worker::spawn();
    let (ours, _) = StdUnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    worker.socket = UnixStream::from_std(ours).unwrap();
    let begun = Instant::now();
    while worker.child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < PATIENCE, "an orphan stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn by_hand_it_says_who_starts_it() {
    let output = Command::new(WORKER).stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(stderr.contains("started by liuta") && stderr.lines().count() == 1, "{stderr}");
    let version = Command::new(WORKER).arg("--version").output().unwrap();
    assert!(version.status.success() && version.stdout.starts_with(b"liuta-vision "));
    let help = Command::new(WORKER).arg("--help").output().unwrap();
    assert!(help.status.success() && !help.stdout.is_empty());
}

#[test]
fn the_probe_tells_what_works() {
    let (_folder, manifest) = constant_model(&[], &[1, 3, 64, 64]);
    let profiles = hw::profiles("auto", None).unwrap();
    let request = hw::ProbeRequest { profiles, onnxruntime: None, models: vec![manifest] };
    let found = hw::probe(&request).unwrap();
    for codec in [VideoCodec::H264, VideoCodec::H265] {
        let chosen: Vec<_> = found.decoders.iter().filter(|row| row.chosen && row.codec == codec).collect();
        assert_eq!(chosen.len(), 1, "{found:?}");
        assert!(chosen[0].problem.is_none() && chosen[0].pictures_per_second > 0.0);
    }
    assert!(found.models.iter().any(|row| row.chosen && row.provider == "cpu"), "{found:?}");
    let table = found.table();
    assert!(table.contains("avdec_h264") && table.contains("constant@1.0.0"), "{table}");
}
