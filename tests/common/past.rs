//! A past: what a camera has sent, recorded into a data folder before a daemon opens it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use liuta::config::{Id, Record};
use liuta::health::Health;
use liuta::media::cmaf::Packager;
use liuta::media::{AccessUnit, AudioFrame, Feed, Sample, VIDEO_CLOCK, time};
use liuta::record::{GapCause, Ring, Stretch};
use liuta::simulate::clip::Clip;

/// One run of a camera: a clip, played again and again.
pub struct Run<'c> {
    pub clip: &'c Clip,
    /// When its first picture is shown.
    pub start: Timestamp,
    pub rounds: i64,
}

/// Records the runs one after the other; between two there is a gap of the camera.
pub fn record(data: &Path, camera: &str, runs: &[Run<'_>]) {
    let settings = Record {
        retention: Duration::from_secs(40 * 86_400),
        min_free: 0,
        ..liuta::config::file::parse(Path::new("t.toml"), format!("data = {data:?}\n"))
            .unwrap()
            .record
            .clone()
    };
    let ring = Ring::open(data, settings, Health::default()).unwrap();
    let recorder = ring.recorder(&Id::from(camera), Feed::Main);
    for (number, run) in (1..).zip(runs) {
        for part in parts(run, number) {
            recorder.push(part);
        }
        recorder.end(GapCause::Camera);
        let end = time::to_90k(run.start) + run.rounds * run.clip.duration_90k;
        let written = |stretch: &Stretch| {
            matches!(stretch, Stretch::Recorded { end: at, .. }
            if (time::to_90k(*at) - end).abs() < VIDEO_CLOCK)
        };
        let began = Instant::now();
        let all = Timestamp::UNIX_EPOCH..Timestamp::now();
        while !ring.archive().list(camera, all.clone()).unwrap().iter().any(written) {
            assert!(began.elapsed() < Duration::from_secs(60), "run {number} is not written");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    drop(recorder);
    assert!(ring.close(Duration::from_secs(60)));
}

fn parts(run: &Run<'_>, number: u64) -> Vec<Arc<liuta::media::cmaf::Part>> {
    let clip = run.clip;
    let audio = clip.audio.as_ref().map(|sound| sound.params.clone());
    let mut packager = Packager::new(number, number * 1_000_000, audio);
    let mut parts = Vec::new();
    let delay_90k = clip.pictures.iter().map(|picture| picture.pts_90k).min().unwrap();
    for round in 0..run.rounds {
        let offset = time::to_90k(run.start) - delay_90k + round * clip.duration_90k;
        let mut frames = clip
            .audio
            .iter()
            .flat_map(|sound| sound.frames.iter().map(move |frame| (sound, frame)))
            .peekable();
        for picture in &clip.pictures {
            let unit = AccessUnit {
                seq: 0,
                run: number,
                pts_90k: picture.pts_90k + offset,
                dts_90k: picture.dts_90k + offset,
                is_rap: picture.is_rap,
                params: clip.video.clone(),
                data: picture.data.clone(),
            };
            parts.extend(packager.push(&Sample::Video(Arc::new(unit))));
            while let Some((sound, frame)) = frames.next_if(|(sound, frame)| {
                frame.pts * VIDEO_CLOCK / i64::from(sound.params.clock_rate) <= picture.dts_90k
            }) {
                let rate = i64::from(sound.params.clock_rate);
                let frame = AudioFrame {
                    run: number,
                    pts: frame.pts + (i128::from(offset) * i128::from(rate) / i128::from(VIDEO_CLOCK)) as i64,
                    duration: frame.duration,
                    params: sound.params.clone(),
                    data: frame.data.clone(),
                };
                packager.push(&Sample::Audio(Arc::new(frame)));
            }
        }
    }
    parts.extend(packager.finish());
    parts.into_iter().map(Arc::new).collect()
}
