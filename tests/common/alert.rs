//! An alert as vision raises it.

use jiff::{SignedDuration, Timestamp};
use liuta::alert::{Alert, Detection, Disposition, Phase};
use liuta::config::Kind;

/// Revision 1 of a fire that a camera has seen.
pub fn alert(id: &str, camera: &str, at: Timestamp) -> Alert {
    Alert {
        id: id.to_owned(),
        revision: 1,
        phase: Phase::Active,
        disposition: Disposition::Reported,
        kind: Kind::Fire,
        level: 1,
        camera: camera.into(),
        scene: "forest-fire".into(),
        zone: None,
        grid: None,
        position: None,
        confidence: 0.9,
        model: "m@1".into(),
        started_at: at,
        ended_at: None,
        count: 3,
        boxes: vec![Detection { class: "fire".into(), score: 0.9, bbox: [0.1, 0.2, 0.3, 0.4] }],
        snapshot_at: at,
        evidence_start: at - SignedDuration::from_secs(10),
        evidence_end: at + SignedDuration::from_secs(20),
        drill: false,
    }
}
