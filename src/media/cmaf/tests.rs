//! Packaged output judged by ffprobe and ffmpeg: what goes in comes out, picture by picture.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::read::{Fragment, Head};
use super::*;
use crate::media::{AudioCodec, VideoCodec};

/// 2026-01-02T03:04:05Z.
const EPOCH_90K: i64 = 1_767_323_045 * VIDEO_CLOCK;

pub(crate) fn run(program: &str, args: &[&str]) -> (String, String) {
    let out = Command::new(program).args(args).output().expect(program);
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{program} {args:?}: {}", text(&out.stderr));
    (text(&out.stdout), text(&out.stderr))
}

fn footage(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("LIUTA_FOOTAGE").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/footage"));
    Some(folder.join(name)).filter(|path| path.exists())
}

/// Encodes a test picture with a tone into `folder`.
fn encode(folder: &Path, name: &str, args: &str) -> PathBuf {
    let path = folder.join(name);
    let mut all = vec!["-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=size=320x240:rate=25:duration=6"];
    all.extend(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration=6"]);
    all.extend(args.split_whitespace());
    all.push(path.to_str().unwrap());
    run("ffmpeg", &all);
    path
}

/// A clip's samples in the order of decoding, with audio in between as it would arrive.
fn samples(clip: &Path) -> Vec<Sample> {
    let bytes = std::fs::read(clip).unwrap();
    let clip = clip.to_str().unwrap();
    let (found, _) = run(
        "ffprobe",
        &[
            "-v",
            "error",
            "-of",
            "compact=p=0:nk=1",
            "-show_entries",
            "stream=codec_name,codec_type,width,height,sample_rate,channels,time_base",
            clip,
        ],
    );
    let (mut video, mut audio) = (None, None);
    for line in found.lines().filter(|line| !line.is_empty()) {
        let fields: Vec<_> = line.split('|').collect();
        if fields[1] == "video" {
            let codec = if fields[0] == "h264" { VideoCodec::H264 } else { VideoCodec::H265 };
            video = Some(Arc::new(VideoParams {
                parameter_sets: parameter_sets(&bytes, codec),
                codec,
                width: fields[2].parse().unwrap(),
                height: fields[3].parse().unwrap(),
                reorder: 2,
                rfc6381: "avc1.64001f".into(),
            }));
        } else {
            let codec = match fields[0] {
                "aac" => AudioCodec::Aac { config: aac_config(&bytes) },
                "pcm_alaw" => AudioCodec::Pcma,
                _ => AudioCodec::Pcmu,
            };
            let clock_rate: u32 = fields[2].parse().unwrap();
            audio = Some(Arc::new(AudioParams { codec, clock_rate, channels: fields[3].parse().unwrap() }));
        }
    }
    let video = video.unwrap();
    let (packets, _) = run(
        "ffprobe",
        &[
            "-v",
            "error",
            "-of",
            "csv=p=0",
            "-show_entries",
            "packet=codec_type,pts_time,dts_time,duration_time,size,pos,flags",
            clip,
        ],
    );
    let mut samples = Vec::new();
    for (seq, line) in packets.lines().filter(|line| line.contains(',')).enumerate() {
        let fields: Vec<_> = line.split(',').collect();
        let seconds = |at: usize| fields[at].parse::<f64>().unwrap();
        let (size, pos): (usize, usize) = (fields[4].parse().unwrap(), fields[5].parse().unwrap());
        let data = Bytes::copy_from_slice(&bytes[pos..pos + size]);
        let ticks = |s: f64, rate: u32| (s * f64::from(rate)).round() as i64;
        if fields[0] == "video" {
            samples.push(Sample::Video(Arc::new(AccessUnit {
                seq: seq as u64,
                run: 1,
                pts_90k: EPOCH_90K + ticks(seconds(1), 90_000),
                dts_90k: EPOCH_90K + ticks(seconds(2), 90_000),
                is_rap: fields[6].starts_with('K'),
                params: video.clone(),
                data,
            })));
        } else {
            let params: Arc<AudioParams> = audio.clone().unwrap();
            let rate = params.clock_rate;
            samples.push(Sample::Audio(Arc::new(AudioFrame {
                run: 1,
                pts: EPOCH_90K / 90_000 * i64::from(rate) + ticks(seconds(1), rate),
                duration: ticks(seconds(3), rate) as u32,
                params,
                data,
            })));
        }
    }
    samples
}

fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|window| window == what).expect("the box is there") + what.len()
}

/// From the clip's own `avcC` or `hvcC`.
fn parameter_sets(bytes: &[u8], codec: VideoCodec) -> Vec<Bytes> {
    let mut sets = Vec::new();
    let mut take = |bytes: &[u8], mut at: usize, count: usize| {
        for _ in 0..count {
            let length = usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
            sets.push(Bytes::copy_from_slice(&bytes[at + 2..at + 2 + length]));
            at += 2 + length;
        }
        at
    };
    match codec {
        VideoCodec::H264 => {
            let record = &bytes[find(bytes, b"avcC")..];
            let at = take(record, 6, usize::from(record[5] & 0x1f));
            take(record, at + 1, usize::from(record[at]));
        }
        VideoCodec::H265 => {
            let record = &bytes[find(bytes, b"hvcC")..];
            let mut at = 23;
            for _ in 0..record[22] {
                at = take(record, at + 3, usize::from(record[at + 2]));
            }
        }
    }
    sets
}

fn aac_config(bytes: &[u8]) -> Bytes {
    let esds = &bytes[find(bytes, b"esds")..];
    // Tag 5, a length that ffmpeg writes in four bytes, the config.
    let at = esds.windows(4).position(|window| window == [0x05, 0x80, 0x80, 0x80]).unwrap() + 4;
    Bytes::copy_from_slice(&esds[at + 1..at + 1 + usize::from(esds[at])])
}

pub(crate) fn package(samples: &[Sample]) -> Vec<Part> {
    let audio = samples.iter().find_map(|sample| match sample {
        Sample::Audio(frame) => Some(frame.params.clone()),
        Sample::Video(_) => None,
    });
    let mut packager = Packager::new(1, 0, audio);
    let mut parts: Vec<_> = samples.iter().filter_map(|sample| packager.push(sample)).collect();
    parts.extend(packager.finish());
    assert!(parts.iter().map(|part| part.seq).eq(0..parts.len() as u64));
    parts
}

fn write(path: &Path, head: &[u8], parts: &[Part]) {
    let mut bytes = head.to_vec();
    for part in parts {
        bytes.extend_from_slice(&part.header);
        part.payload.iter().for_each(|slice| bytes.extend_from_slice(slice));
    }
    std::fs::write(path, bytes).unwrap();
}

/// As the recorder does: the file counts from its own first picture.
fn write_file(path: &Path, parts: &[Part]) {
    let origin = parts[0].decode_90k().unwrap();
    let rebased = |part: &Part| Part { header: part.rebased(origin).unwrap(), ..part.clone() };
    let head = parts[0].init.for_file("gate", "main", origin, parts[0].start_90k, None);
    write(path, &head, &parts.iter().map(rebased).collect::<Vec<_>>());
}

fn units(samples: &[Sample]) -> Vec<&AccessUnit> {
    samples.iter().filter_map(|s| if let Sample::Video(unit) = s { Some(&**unit) } else { None }).collect()
}

/// MD5 of every decoded picture or of the audio, in order.
fn decoded(path: &Path, stream: &str) -> Vec<String> {
    let path = path.to_str().unwrap();
    let (out, warnings) = run(
        "ffmpeg",
        &["-v", "warning", "-i", path, "-map", stream, "-fps_mode", "passthrough", "-f", "framemd5", "-"],
    );
    // Containers without a channel layout make ffmpeg guess, G.711 over RTP likewise.
    let warnings: Vec<_> =
        warnings.lines().filter(|line| !line.starts_with("Guessed Channel Layout")).collect();
    assert!(warnings.is_empty(), "{path}: {warnings:?}");
    out.lines()
        .filter(|l| !l.starts_with('#'))
        .map(|l| l.rsplit(',').next().unwrap().trim().to_owned())
        .collect()
}

/// Presentation times in seconds as ffprobe tells them, sorted.
fn times(path: &Path) -> Vec<f64> {
    let path = path.to_str().unwrap();
    let args =
        ["-v", "warning", "-select_streams", "v", "-show_entries", "packet=pts_time", "-of", "csv=p=0", path];
    let (out, warnings) = run("ffprobe", &args);
    assert_eq!(warnings, "", "{path}");
    let mut times: Vec<f64> = out.lines().map(|line| line.trim_end_matches(',').parse().unwrap()).collect();
    times.sort_by(f64::total_cmp);
    times
}

/// Packages a clip, as a file and as HLS would have it, and compares both with the clip.
fn holds_up(clip: &Path, folder: &Path) -> Vec<Part> {
    let samples = samples(clip);
    let parts = package(&samples);
    let units = units(&samples);
    assert_eq!(parts.iter().map(|part| part.pictures as usize).sum::<usize>(), units.len());
    assert!(parts[0].independent);
    for pair in parts.windows(2) {
        assert_eq!(pair[0].start_90k + pair[0].duration_90k, pair[1].start_90k);
        assert!(pair[0].duration_90k <= Packager::PART_90K, "{}", pair[0].duration_90k);
    }
    let raps: Vec<_> = units.iter().filter(|unit| unit.is_rap).map(|unit| unit.pts_90k).collect();
    assert_eq!(parts.iter().filter(|p| p.independent).map(|p| p.start_90k).collect::<Vec<_>>(), raps);

    let stem = clip.file_stem().unwrap().to_str().unwrap();
    let file = folder.join(format!("{stem}-file.mp4"));
    write_file(&file, &parts);
    let hls = folder.join(format!("{stem}-hls.mp4"));
    write(&hls, &parts[0].init.bytes, &parts);
    let expected = decoded(clip, "0:v");
    assert_eq!(decoded(&file, "0:v"), expected);
    assert_eq!(decoded(&hls, "0:v"), expected);
    let mut shown: Vec<_> = units.iter().map(|u| (u.pts_90k - units[0].pts_90k) as f64 / 90_000.0).collect();
    shown.sort_by(f64::total_cmp);
    for (found, shown) in times(&file).into_iter().zip(shown) {
        assert!((found - shown).abs() < 0.0001, "{found} for {shown}");
    }
    parts
}

#[test]
fn h264_without_reordering() {
    let folder = tempfile::tempdir().unwrap();
    let clip = encode(folder.path(), "a.mp4", "-an -c:v libx264 -bf 0 -g 50 -pix_fmt yuv420p");
    let parts = holds_up(&clip, folder.path());
    assert_eq!(parts.iter().filter(|part| part.independent).count(), 3);
    // Four of 12 pictures and one of two.
    assert_eq!(parts.len(), 15);
}

#[test]
fn h264_with_b_frames_and_aac() {
    let folder = tempfile::tempdir().unwrap();
    let clip = encode(folder.path(), "b.mp4", "-c:v libx264 -bf 3 -g 40 -pix_fmt yuv420p -c:a aac");
    let parts = holds_up(&clip, folder.path());
    // The ends differ: what the encoder puts before the first picture is the clip's edit list's affair.
    let (source, ours) = (decoded(&clip, "0:a"), decoded(&folder.path().join("b-file.mp4"), "0:a"));
    assert!(ours.windows(250).any(|window| window == &source[10..260]), "{} of {}", ours.len(), source.len());
    // Audio lies in the part whose pictures it belongs to.
    for part in &parts[1..parts.len() - 1] {
        let fragment = Fragment::parse(&part.header).unwrap();
        let audio = fragment.audio.expect("every part has audio");
        let start = (part.start_90k - part.init.origin_90k) as f64 / 90_000.0;
        assert!((audio.decode_time as f64 / 48_000.0 - start).abs() < 0.15);
    }
    // A part that is cut short reads back as what is left of it.
    for part in &parts {
        let whole = Fragment::parse(&part.header).unwrap();
        let until = whole.audio.as_ref().map_or(0, |audio| audio.decode_time + 1500);
        for (keep, until) in (1..=whole.video.samples.len()).flat_map(|keep| [(keep, 0), (keep, until)]) {
            let mut cut = whole.clone();
            let kept = cut.truncate(keep, until);
            let read = Fragment::parse(&cut.header).expect("a well-formed part");
            let frames = |fragment: &Fragment| fragment.audio.as_ref().map_or(0, |audio| audio.samples.len());
            assert_eq!((read.video.samples.len(), read.size), (keep, cut.size));
            assert_eq!(frames(&read), if until == 0 { 0 } else { frames(&whole).min(2) });
            let payload: u64 = kept.iter().map(|kept| kept.end - kept.start).sum();
            assert_eq!(payload, (read.size - read.header.len()) as u64);
            assert_eq!(kept[1].start, whole.video.bytes());
        }
    }
    // The pictures do without their audio.
    let silent: Vec<_> = (parts.iter())
        .map(|part| {
            let mut fragment = Fragment::parse(&part.header).unwrap();
            let payload = part.payload[..fragment.video.samples.len()].to_vec();
            fragment.drop_audio();
            Part { header: fragment.header.into(), payload, ..part.clone() }
        })
        .collect();
    let file = folder.path().join("silent.mp4");
    write_file(&file, &silent);
    assert_eq!(decoded(&file, "0:v"), decoded(&clip, "0:v"));
}

#[test]
fn h265_with_open_gops() {
    let folder = tempfile::tempdir().unwrap();
    let clip =
        encode(folder.path(), "c.mp4", "-an -c:v libx265 -x265-params log-level=error:keyint=30 -tag:v hvc1");
    let parts = holds_up(&clip, folder.path());
    let head = Head::parse(&parts[0].init.for_file("gate", "main", 0, 0, None)).unwrap();
    let sets: Vec<u8> = (parts[0].init.video.parameter_sets.iter())
        .filter(|set| (32..35).contains(&(set[0] >> 1)))
        .flat_map(|set| [&(set.len() as u32).to_be_bytes()[..], set].concat())
        .collect();
    assert_eq!(head.parameter_sets().unwrap(), sets);
}

#[test]
fn g711_of_both_laws() {
    let folder = tempfile::tempdir().unwrap();
    for law in ["alaw", "mulaw"] {
        let args = format!("-c:v libx264 -bf 0 -g 50 -pix_fmt yuv420p -ar 8000 -c:a pcm_{law}");
        let clip = encode(folder.path(), &format!("{law}.mov"), &args);
        holds_up(&clip, folder.path());
        let pcm = |path: &Path| {
            let args = ["-v", "error", "-i", path.to_str().unwrap(), "-vn", "-f", "md5", "-"];
            run("ffmpeg", &args)
        };
        let ours = folder.path().join(format!("{law}-file.mp4"));
        assert_eq!(pcm(&ours), pcm(&clip));
    }
}

#[test]
fn real_footage() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["furg_house6.mp4", "people-detection-preview.mp4"] {
        if let Some(clip) = footage(name) {
            holds_up(&clip, folder.path());
        }
    }
}

#[test]
fn gstreamer_plays_a_file_from_zero() {
    let folder = tempfile::tempdir().unwrap();
    let clip = encode(folder.path(), "g.mp4", "-an -c:v libx264 -bf 2 -g 25 -pix_fmt yuv420p");
    let parts = package(&samples(&clip));
    // A segment from the middle of a run, whose decode times are large.
    let from = parts.iter().rposition(|part| part.independent).unwrap();
    let from = parts[..from].iter().rposition(|part| part.independent).unwrap();
    let file = folder.path().join("late.mp4");
    write_file(&file, &parts[from..]);
    let found = times(&file);
    assert_eq!((found.len(), found[0]), (50, 0.0));
    let location = format!("location={}", file.display());
    let pipeline = ["filesrc", &location, "!", "qtdemux", "!", "h264parse", "!", "avdec_h264", "!"];
    let mut args = pipeline.to_vec();
    args.extend(["fakesink", "silent=false", "sync=false", "-v"]);
    let (out, _) = run("gst-launch-1.0", &args);
    let shown = out.lines().filter(|line| line.contains("last-message = chain")).count();
    assert_eq!(shown, 50, "{out}");
    // The two reordered pictures' delay is where the segment starts, at time zero.
    assert!(out.contains("start=(guint64)80000000") && out.contains("time=(guint64)0"), "{out}");
    assert!(out.contains("pts: 0:00:00.080000000"), "{out}");
}

fn unit(at: i64, is_rap: bool, params: &Arc<VideoParams>) -> Sample {
    let (pts_90k, dts_90k) = (EPOCH_90K + at * 3600, EPOCH_90K + at * 3600);
    let data = Bytes::from_static(&[0, 0, 0, 1, 9]);
    let params = params.clone();
    Sample::Video(Arc::new(AccessUnit { seq: at as u64, run: 1, pts_90k, dts_90k, is_rap, params, data }))
}

fn params(width: u32) -> Arc<VideoParams> {
    let sets = vec![Bytes::from_static(&[0x67, 66, 0, 30]), Bytes::from_static(&[0x68, 1])];
    Arc::new(VideoParams {
        codec: VideoCodec::H264,
        parameter_sets: sets,
        width,
        height: 240,
        reorder: 0,
        rfc6381: "avc1.42001e".into(),
    })
}

#[test]
fn audio_that_never_comes_loses_its_track() {
    let (video, audio) =
        (params(320), AudioParams { codec: AudioCodec::Pcma, clock_rate: 8000, channels: 1 });
    let mut packager = Packager::new(1, 7, Some(Arc::new(audio.clone())));
    let parts: Vec<_> = (0..400).filter_map(|at| packager.push(&unit(at, at % 25 == 0, &video))).collect();
    assert_eq!(parts[0].seq, 7);
    assert!(parts[0].init.audio.is_some());
    assert!(parts.last().unwrap().init.audio.is_none());
    let changes = parts.windows(2).filter(|pair| !Arc::ptr_eq(&pair[0].init, &pair[1].init)).count();
    assert_eq!(changes, 1);
    // It comes after all, and is there from the next random access point on.
    let mut late = Vec::new();
    for at in 400..500 {
        late.extend(packager.push(&unit(at, at % 25 == 0, &video)));
        late.extend(packager.push(&Sample::Audio(Arc::new(AudioFrame {
            run: 1,
            pts: EPOCH_90K / 90_000 * 8000 + at * 320,
            duration: 320,
            params: Arc::new(audio.clone()),
            data: Bytes::from_static(&[0; 320]),
        }))));
    }
    assert!(late.last().unwrap().init.audio.is_some());
    assert_eq!(late.last().unwrap().payload.len() as u32, late.last().unwrap().pictures * 2);
}

#[test]
fn changed_parameters_begin_a_new_init_at_a_random_access_point() {
    let (small, large) = (params(320), params(640));
    let mut packager = Packager::new(1, 0, None);
    assert!(packager.push(&unit(0, false, &small)).is_none(), "nothing to decode yet");
    let mut parts: Vec<_> = (1..20).filter_map(|at| packager.push(&unit(at, at % 10 == 1, &small))).collect();
    parts.extend((20..40).filter_map(|at| packager.push(&unit(at, at % 10 == 0, &large))));
    parts.extend(packager.finish());
    let widths: Vec<_> = parts.iter().map(|part| part.init.video.width).collect();
    assert_eq!(widths, [320, 320, 640, 640]);
    assert_eq!(parts.iter().map(|part| part.pictures).collect::<Vec<_>>(), [10, 9, 10, 10]);
    assert!(packager.finish().is_none());
}

#[test]
fn a_file_is_read_back() {
    let video = params(320);
    let mut packager = Packager::new(1, 0, None);
    let parts: Vec<_> = (0..100).filter_map(|at| packager.push(&unit(at, at % 25 == 0, &video))).collect();
    let first = parts.iter().filter(|part| part.independent).nth(1).unwrap();
    let bytes = first.init.for_file("gate", "main", EPOCH_90K, first.start_90k, None);
    let head = Head::parse(&bytes).unwrap();
    assert_eq!(head.size(), bytes.len());
    assert_eq!((head.about.camera.as_str(), head.about.start_90k), ("gate", first.start_90k));
    assert_eq!(head.about.origin_90k, EPOCH_90K);
    assert_eq!(head.parameter_sets().unwrap(), [0, 0, 0, 4, 0x67, 66, 0, 30, 0, 0, 0, 2, 0x68, 1]);
    let fragment = Fragment::parse(&first.header).unwrap();
    assert_eq!(fragment.size, first.len());
    assert_eq!(fragment.video.presentation().next(), Some(first.start_90k - EPOCH_90K));
    assert!(fragment.video.independent);
    for cut in 0..bytes.len() {
        assert!(Head::parse(&bytes[..cut]).is_none());
    }
    for cut in 0..first.header.len() {
        assert!(Fragment::parse(&first.header[..cut]).is_none());
    }
}

#[test]
fn the_sound_is_read_back_too() {
    let aac = |length: usize| AudioCodec::Aac { config: vec![0x12; length].into() };
    for (codec, clock_rate, channels) in [
        (aac(2), 44_100, 2),
        (aac(5), 96_000, 1),
        (aac(200), 48_000, 6),
        (AudioCodec::Pcma, 8_000, 1),
        (AudioCodec::Pcmu, 16_000, 2),
    ] {
        let audio = Arc::new(AudioParams { codec, clock_rate, channels });
        let (video, bytes) = (params(320), bytes::Bytes::new());
        let init = Init { video, audio: Some(audio.clone()), origin_90k: 0, bytes };
        let bytes = init.for_file("gate", "main", 0, 0, None);
        assert_eq!(Head::parse(&bytes).unwrap().audio_params().as_ref(), Some(&*audio));
    }
}

#[test]
fn times_that_nobody_recorded_are_not_believed() {
    let video = params(320);
    let mut packager = Packager::new(1, 0, None);
    let part = (0..30).find_map(|at| packager.push(&unit(at, at == 0, &video))).unwrap();
    assert!(Head::parse(&part.init.for_file("gate", "main", 1 << 60, 1 << 60, None)).is_none());
    let mut fragment = Fragment::parse(&part.header).unwrap();
    fragment.shift(i64::MAX, 0);
    fragment.shift(i64::MAX, 0);
    assert!(Fragment::parse(&fragment.header).is_none());
}

proptest::proptest! {
    /// Files are hostile: any byte may have changed.
    #[test]
    fn damaged_boxes_do_not_panic(at in 0usize..2000, value: u8) {
        let video = params(320);
        let mut packager = Packager::new(1, 0, None);
        let part = (0..30).find_map(|at| packager.push(&unit(at, at == 0, &video))).unwrap();
        let mut head = part.init.for_file("gate", "main", 0, part.start_90k, None).to_vec();
        let mut header = part.header.to_vec();
        let (in_head, in_header) = (at % head.len(), at % header.len());
        head[in_head] = value;
        header[in_header] = value;
        if let Some(head) = Head::parse(&head) {
            head.parameter_sets();
            head.audio_params();
            head.excerpt(0, 100, true);
        }
        if let Some(mut fragment) = Fragment::parse(&header) {
            fragment.shift(-5, 7);
            fragment.truncate(5, 0);
            fragment.shift(1, 1);
            fragment.grow_first(9);
            fragment.drop_audio();
        }
    }
}
