//! A full ring: 64 cameras and 24 hours of minutes, written by the recorder itself from pictures of a few bytes, so that it
//! fits every disk. It is written in memory and copied: a day's worth of syncs would take longer than all else.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use liuta::config::{self, Id};
use liuta::health::Health;
use liuta::media::cmaf::Packager;
use liuta::media::{AccessUnit, Feed, Sample, VIDEO_CLOCK, VideoParams, time};
use liuta::record::Ring;
use liuta::simulate::clip::Clip;

pub const CAMERAS: usize = 64;
const MINUTES: i64 = 24 * 60;

/// From one picture to the next, each decodable alone: as far apart as the key pictures of cameras that save bits are.
const GOP: i64 = 6 * VIDEO_CLOCK;

/// Cameras written at once: what waits for the disk meanwhile stays within the recorder's budget.
const AT_ONCE: usize = 4;

/// A full ring at `data`, of pictures that decode as those of `clip`; gives back when it begins.
pub fn write(data: &Path, clip: &Path) -> Timestamp {
    let memory = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let begins = record(memory.path(), clip);
    let copied = Command::new("cp").arg("-rT").arg(memory.path()).arg(data).status();
    assert!(copied.is_ok_and(|status| status.success()), "cp");
    begins
}

fn record(data: &Path, clip: &Path) -> Timestamp {
    let params = Clip::open(clip).expect("a clip").video;
    let text = format!("data = {data:?}\n[record]\nretention = \"48h\"\nmin_free = \"0B\"\n");
    let config = config::file::parse("past.toml".as_ref(), text).expect("a configuration");
    let newest = Timestamp::now() - SignedDuration::from_secs(120);
    let begins = Timestamp::from_second((newest.as_second() / 60 - MINUTES) * 60).expect("a time");
    for first in (0..CAMERAS).step_by(AT_ONCE) {
        let ring = Ring::open(data, config.record.clone(), Health::default()).expect("a ring");
        let cameras: Vec<_> = (first..first + AT_ONCE).map(camera).collect();
        let mut ways: Vec<_> = (cameras.iter())
            .map(|id| (ring.recorder(&Id::from(id.as_str()), Feed::Main), Packager::new(1, 0, None)))
            .collect();
        let mut parts = 0;
        for at in 0..=MINUTES * 60 * VIDEO_CLOCK / GOP {
            let unit = picture(&params, at, time::to_90k(begins) + at * GOP);
            for (recorder, packager) in &mut ways {
                if let Some(part) = packager.push(&unit) {
                    recorder.push(Arc::new(part));
                    parts += 1;
                }
            }
        }
        assert!(parts > 0);
        drop(ways);
        assert!(ring.close(Duration::from_secs(120)), "the recorder does not finish");
    }
    begins
}

pub fn camera(number: usize) -> String {
    format!("camera-{number}")
}

fn picture(params: &Arc<VideoParams>, seq: i64, at_90k: i64) -> Sample {
    // A slice of a key picture, without what it would show.
    let mut data = vec![0x41; 200];
    data[..5].copy_from_slice(&[0, 0, 0, 196, 0x65]);
    Sample::Video(Arc::new(AccessUnit {
        seq: seq as u64,
        run: 1,
        pts_90k: at_90k,
        dts_90k: at_90k,
        is_rap: true,
        params: params.clone(),
        data: Bytes::from(data),
    }))
}
