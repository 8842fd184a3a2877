//! A start on a ring whose newest file holds anything, and an export of what was found in it.
#![no_main]

use std::path::Path;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use liuta::config::Record;
use liuta::health::Health;
use liuta::media::cmaf::read::Head;
use liuta::media::time;
use liuta::record::Ring;

fuzz_target!(|file: &[u8]| {
    // In memory where there is such a folder: a start syncs what it found.
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let data = tempfile::tempdir_in(base).expect("a folder");
    let day = data.path().join("recordings/gate/2026-01-01");
    std::fs::create_dir_all(&day).expect("a folder");
    std::fs::write(day.join("00-00-00.mp4"), file).expect("a file");
    let settings = Record {
        retention: Duration::from_secs(u64::from(u32::MAX)),
        min_free: 0,
        sync: Some(Duration::from_secs(1)),
        evidence_retention: Duration::from_secs(1),
        ..Record::default()
    };
    let ring = Ring::open(data.path(), settings, Health::default()).expect("a bad file stops no start");
    let Some(head) = Head::parse(file) else { return };
    let from = time::from_90k(head.about.start_90k.saturating_sub(90_000));
    let to = time::from_90k(head.about.start_90k.saturating_add(3600 * 90_000));
    if from < to {
        ring.archive().list(&head.about.camera, from..to).expect("a list");
        if let Ok(mut export) = ring.archive().export(&head.about.camera, from..to) {
            while let Some(chunk) = export.chunks.blocking_recv() {
                chunk.expect("an export of what is there");
            }
        }
    }
    assert!(ring.close(Duration::from_secs(10)));
});
