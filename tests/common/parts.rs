//! What a ring is fed with: parts of a real clip, made once and placed anywhere in time.

use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use liuta::media::cmaf::{Packager, Part};
use liuta::media::{AccessUnit, Sample, VIDEO_CLOCK, VideoCodec, VideoParams, time};
use liuta::record::{Ring, Stretch};

pub fn run(program: &str, args: &[&str]) -> (String, String) {
    let out = Command::new(program).args(args).output().expect(program);
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{program} {args:?}: {}", text(&out.stderr));
    (text(&out.stdout), text(&out.stderr))
}

/// Ten seconds of a test picture at 25 a second, a key picture every second.
pub fn clip(size: &'static str) -> Arc<Vec<AccessUnit>> {
    static SMALL: OnceLock<Arc<Vec<AccessUnit>>> = OnceLock::new();
    static LARGE: OnceLock<Arc<Vec<AccessUnit>>> = OnceLock::new();
    let cell = if size == "320x240" { &SMALL } else { &LARGE };
    cell.get_or_init(|| Arc::new(encode(size))).clone()
}

pub fn encode(size: &str) -> Vec<AccessUnit> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.mp4");
    let source = format!("testsrc2=size={size}:rate=25:duration=10");
    let file = path.to_str().unwrap();
    let encoder = ["-c:v", "libx264", "-g", "25", "-bf", "2", "-sc_threshold", "0", "-pix_fmt", "yuv420p"];
    let mut args = vec!["-v", "error", "-f", "lavfi", "-i", &source];
    args.extend(encoder);
    args.push(file);
    run("ffmpeg", &args);
    let bytes = std::fs::read(&path).unwrap();
    let record = bytes.windows(4).position(|window| window == b"avcC").unwrap() + 4;
    let set = |at: usize| {
        let length = usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        (Bytes::copy_from_slice(&bytes[at + 2..at + 2 + length]), at + 2 + length)
    };
    let (sps, at) = set(record + 6);
    let (pps, _) = set(at + 1);
    let (width, height) = size.split_once('x').unwrap();
    let params = Arc::new(VideoParams {
        codec: VideoCodec::H264,
        parameter_sets: vec![sps, pps],
        width: width.parse().unwrap(),
        height: height.parse().unwrap(),
        reorder: 2,
        rfc6381: "avc1.64000d".into(),
    });
    let entries = "packet=pts_time,dts_time,size,pos,flags";
    let (packets, _) = run("ffprobe", &["-v", "error", "-of", "csv=p=0", "-show_entries", entries, file]);
    let unit = |line: &str| {
        let fields: Vec<_> = line.split(',').collect();
        let ticks = |at: usize| (fields[at].parse::<f64>().unwrap() * 90_000.0).round() as i64;
        let (size, pos): (usize, usize) = (fields[2].parse().unwrap(), fields[3].parse().unwrap());
        AccessUnit {
            seq: 0,
            run: 0,
            pts_90k: ticks(0),
            dts_90k: ticks(1),
            is_rap: fields[4].starts_with('K'),
            params: params.clone(),
            data: Bytes::copy_from_slice(&bytes[pos..pos + size]),
        }
    };
    let units: Vec<_> = packets.lines().filter(|line| line.contains(',')).map(unit).collect();
    assert_eq!(units.len(), 250);
    units
}

/// Parts of the clip, played again and again from `start` for tens of seconds.
pub fn parts(size: &'static str, run: u64, start: Timestamp, tens: i64) -> Vec<Arc<Part>> {
    let mut packager = Packager::new(run, run * 100_000, None);
    let mut parts = Vec::new();
    for round in 0..tens {
        for unit in clip(size).iter() {
            let offset = time::to_90k(start) + round * 10 * VIDEO_CLOCK;
            let unit = AccessUnit {
                run,
                pts_90k: unit.pts_90k + offset,
                dts_90k: unit.dts_90k + offset,
                ..unit.clone()
            };
            parts.extend(packager.push(&Sample::Video(Arc::new(unit))));
        }
    }
    parts.extend(packager.finish());
    parts.into_iter().map(Arc::new).collect()
}

/// Waits until something is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn ago(seconds: i64) -> Timestamp {
    let now = Timestamp::now().as_second();
    Timestamp::from_second(now - seconds).unwrap()
}

/// The minute of the clock that it lies in: ten seconds from there are one segment.
pub fn minute(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second() / 60 * 60).unwrap()
}

pub fn later(at: Timestamp, seconds: f64) -> Timestamp {
    time::from_90k(time::to_90k(at) + (seconds * 90_000.0) as i64)
}

pub fn list(ring: &Ring, camera: &str) -> Vec<Stretch> {
    ring.archive().list(camera, ago(7 * 86_400)..Timestamp::now()).unwrap()
}

pub fn recorded(start: Timestamp, seconds: f64) -> Stretch {
    Stretch::Recorded { start, end: later(start, seconds) }
}
