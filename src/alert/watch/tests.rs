use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::config::{Kind, file};

fn camera(toml: &str) -> Arc<Camera> {
    let text = format!("[cameras.cam]\nurl = \"rtsp://127.0.0.1/cam\"\n{toml}");
    with_fixed_rules(&file::parse(std::path::Path::new("/nowhere/liuta.toml"), text).unwrap().cameras["cam"])
}

/// The camera with thresholds that do not follow what the shipped scenes learn: fire and smoke from 0.4, hits from 0.6,
/// 3 of 5 and 4 of 6.
pub fn with_fixed_rules(camera: &Camera) -> Arc<Camera> {
    let mut camera = camera.clone();
    if let Some(scene) = &mut camera.scene {
        for rule in &mut Arc::make_mut(scene).rules {
            let confirm = match rule.kind {
                Kind::Fire => [3, 5],
                Kind::Smoke => [4, 6],
                _ => continue,
            };
            (rule.min_score, rule.threshold, rule.confirm) = (0.4, 0.6, confirm);
        }
    }
    Arc::new(camera)
}

/// Fire: min_score 0.4, threshold 0.6, 3 of 5, end_after 30 s, cooldown 60 s.
fn forest() -> Arc<Camera> {
    camera("scene = \"forest-fire\"")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn fire(score: f32) -> Detection {
    Detection { class: "fire".into(), score, bbox: [0.4, 0.5, 0.5, 0.6] }
}

/// Shows the watch one picture; the changes, without mere widenings.
fn see(watch: &mut Watch, second: i64, detections: &[Detection]) -> Vec<Change> {
    let jpeg = Bytes::from(format!("picture {second}"));
    let look = Look { at: at(second), detections, jpeg: Some(&jpeg), model: "m@1" };
    let changes = watch.look(&look).changes;
    changes.into_iter().filter(|change| change.what != What::Widened).collect()
}

fn one(mut changes: Vec<Change>) -> Change {
    assert_eq!(changes.len(), 1, "{changes:?}");
    changes.remove(0)
}

/// A watch with an active fire, hits at 0, 2, 4.
fn burning() -> (Watch, Alert) {
    let mut watch = Watch::new(forest());
    assert!(see(&mut watch, 0, &[fire(0.7)]).is_empty());
    assert!(see(&mut watch, 2, &[fire(0.65)]).is_empty());
    let change = one(see(&mut watch, 4, &[fire(0.6)]));
    (watch, change.alert)
}

#[test]
fn the_third_hit_of_five_confirms_with_the_best_picture() {
    let mut watch = Watch::new(forest());
    see(&mut watch, 0, &[fire(0.62)]);
    see(&mut watch, 2, &[]);
    see(&mut watch, 4, &[fire(0.9)]);
    see(&mut watch, 6, &[fire(0.5)]);
    let Change { what, alert, picture } = one(see(&mut watch, 8, &[fire(0.7), fire(0.3)]));
    assert_eq!(
        (what, alert.revision, alert.phase, alert.kind),
        (What::Confirmed, 1, Phase::Active, Kind::Fire)
    );
    assert_eq!((alert.started_at, alert.count, alert.confidence), (at(0), 3, 0.9));
    assert_eq!((alert.snapshot_at, picture.unwrap()), (at(4), Bytes::from("picture 4")));
    assert_eq!((alert.evidence_start, alert.evidence_end), (at(-10), at(28)));
    assert_eq!(alert.boxes, [fire(0.9)]);
}

#[test]
fn it_ends_after_end_after_and_cools_down() {
    let (mut watch, alert) = burning();
    for second in (6..34).step_by(2) {
        assert!(see(&mut watch, second, &[]).is_empty());
    }
    let ended = one(see(&mut watch, 34, &[]));
    assert_eq!((ended.what, ended.alert.revision, ended.alert.ended_at), (What::Ended, 2, Some(at(4))));
    assert_eq!(ended.alert.id, alert.id);
    for second in (36..94).step_by(2) {
        assert!(see(&mut watch, second, &[fire(0.9)]).is_empty(), "cooling down at {second}");
    }
    assert_eq!(one(see(&mut watch, 94, &[fire(0.9)])).what, What::Confirmed);
}

#[test]
fn revisions_come_for_what_matters_and_not_too_often() {
    let (mut watch, _) = burning();
    assert!(see(&mut watch, 6, &[fire(0.95)]).is_empty(), "only two seconds after the last");
    let better = one(see(&mut watch, 14, &[fire(0.7)]));
    assert_eq!((better.what, better.alert.revision, better.alert.confidence), (What::Revised, 2, 0.95));
    assert_eq!((better.alert.snapshot_at, better.alert.boxes), (at(6), vec![fire(0.95)]));
    assert_eq!(better.picture.unwrap(), Bytes::from("picture 6"));
    assert!(see(&mut watch, 26, &[fire(0.96)]).is_empty(), "hardly better");
    let spread = Detection { bbox: [0.3, 0.4, 0.6, 0.7], ..fire(0.7) };
    assert_eq!(one(see(&mut watch, 28, &[spread])).alert.revision, 3);
    let mut goes_on = Vec::new();
    for second in (30..340).step_by(2) {
        goes_on.extend(see(&mut watch, second, &[fire(0.7)]));
    }
    assert_eq!(one(goes_on).alert.revision, 4);
}

#[test]
fn evidence_is_widened_between_revisions() {
    let (mut watch, alert) = burning();
    let mut widened = Vec::new();
    for second in (6..100).step_by(2) {
        let look = Look { at: at(second), detections: &[fire(0.6)], jpeg: None, model: "m@1" };
        widened.extend(watch.look(&look).changes);
    }
    assert!(widened.iter().all(|change| change.what == What::Widened && change.alert.revision == 1));
    assert_eq!(widened.len(), 3);
    assert!(widened[2].alert.evidence_end > alert.evidence_end);
}

#[test]
fn scattered_single_detections_do_not_add_up_to_a_fire() {
    let mut watch = Watch::new(forest());
    for (second, x) in (0..40).step_by(2).zip([0.1, 0.5, 0.9, 0.3, 0.7].into_iter().cycle()) {
        let flicker = Detection { bbox: [x - 0.03, 0.2, x, 0.25], ..fire(0.9) };
        assert!(see(&mut watch, second, &[flicker]).is_empty());
    }
}

#[test]
fn a_crowd_needs_its_number_inside_the_zone() {
    let zone = "scene = \"school-gate\"\n[cameras.cam.zones.pavement]\n\
                points = [[0.0, 0.5], [1.0, 0.5], [1.0, 1.0], [0.0, 1.0]]\nkinds = [\"crowd\"]";
    let person = |n: usize, bottom: f32| Detection {
        class: "person".into(),
        score: 0.8,
        bbox: [n as f32 * 0.1, bottom - 0.3, n as f32 * 0.1 + 0.05, bottom],
    };
    let mut people: Vec<_> = (0..7).map(|n| person(n, 0.9)).chain([person(7, 0.4)]).collect();
    let mut watch = Watch::new(camera(zone));
    for second in 0..10 {
        assert!(see(&mut watch, second, &people).is_empty(), "only seven stand on the pavement");
    }
    people.push(person(8, 0.6));
    let mut changes = Vec::new();
    for second in 10..20 {
        changes.extend(see(&mut watch, second, &people));
    }
    let alert = one(changes).alert;
    assert_eq!((alert.kind, alert.zone.as_deref(), alert.boxes.len()), (Kind::Crowd, Some("pavement"), 8));
    let outcome = watch.look(&Look { at: at(30), detections: &people, jpeg: None, model: "m@1" });
    assert_eq!(outcome.counted.len(), 8);
}

#[test]
fn a_time_without_looks_neither_confirms_nor_ends() {
    let mut watch = Watch::new(forest());
    see(&mut watch, 0, &[fire(0.9)]);
    see(&mut watch, 2, &[fire(0.9)]);
    assert!(see(&mut watch, 600, &[fire(0.9)]).is_empty(), "hits ten minutes apart");
    let (mut watch, _) = burning();
    assert!(see(&mut watch, 1000, &[]).is_empty(), "nobody looked meanwhile");
    assert!(see(&mut watch, 1020, &[]).is_empty());
    assert_eq!(one(see(&mut watch, 1030, &[])).what, What::Ended);
}

#[test]
fn slow_looks_still_confirm() {
    let mut watch = Watch::new(forest());
    see(&mut watch, 0, &[fire(0.9)]);
    see(&mut watch, 50, &[fire(0.9)]);
    assert_eq!(one(see(&mut watch, 100, &[fire(0.9)])).what, What::Confirmed);
}

#[test]
fn a_clock_that_steps_back_an_hour_loses_no_fire() {
    let (mut watch, alert) = burning();
    assert!(see(&mut watch, -3600, &[fire(0.9)]).is_empty());
    for second in (-3598..-3570).step_by(2) {
        assert!(see(&mut watch, second, &[]).is_empty());
    }
    let ended = one(see(&mut watch, -3570, &[]));
    assert_eq!((ended.what, &ended.alert.id), (What::Ended, &alert.id));
    assert!(ended.alert.ended_at >= Some(ended.alert.started_at));
    let mut again = Vec::new();
    for second in (-3568..-3400).step_by(2) {
        again.extend(see(&mut watch, second, &[fire(0.9)]));
    }
    assert_eq!(again[0].what, What::Confirmed);
}

#[test]
fn a_restart_takes_up_the_alert_and_makes_no_second_one() {
    let (_, alert) = burning();
    let mut watch = Watch::new(forest());
    assert!(watch.resume(alert.clone()).is_none());
    for second in (20..60).step_by(2) {
        let changes = see(&mut watch, second, &[fire(0.65)]);
        assert!(changes.iter().all(|change| change.alert.id == alert.id && change.what == What::Revised));
    }
    let ended = one(watch.close());
    assert_eq!((&ended.alert.id, ended.alert.ended_at), (&alert.id, Some(at(58))));

    let mut elsewhere = Watch::new(camera("scene = \"trunk-road\""));
    let smoke = Alert { kind: Kind::Smoke, ..alert };
    let orphan = elsewhere.resume(smoke).unwrap();
    assert_eq!((orphan.what, orphan.alert.phase, orphan.alert.revision), (What::Ended, Phase::Ended, 2));
}

#[test]
fn a_fire_long_after_the_last_look_is_a_new_alert() {
    let (mut away, alert) = burning();
    let mut restarted = Watch::new(forest());
    assert!(restarted.resume(alert.clone()).is_none());
    for watch in [&mut away, &mut restarted] {
        let ended = one(see(watch, 8 * 3600, &[fire(0.9)]));
        assert_eq!((ended.what, &ended.alert.id), (What::Ended, &alert.id));
        assert!(ended.alert.ended_at < Some(at(600)), "when it was last seen");
        let mut again = Vec::new();
        for second in (2..30).step_by(2) {
            again.extend(see(watch, 8 * 3600 + second, &[fire(0.9)]));
        }
        assert_eq!(again[0].what, What::Confirmed);
        assert_ne!(again[0].alert.id, alert.id);
    }
}

#[test]
fn a_reload_keeps_what_is_unchanged_and_ends_what_is_gone() {
    let (mut watch, alert) = burning();
    assert!(watch.retune(camera("name = \"other\"\nscene = \"forest-fire\"")).is_empty());
    let ended = one(watch.retune(camera("")));
    assert_eq!((ended.alert.id, ended.alert.phase), (alert.id, Phase::Ended));
    assert!(see(&mut watch, 10, &[fire(0.9)]).is_empty());
}

/// Looks of a camera: seconds since the one before (now and then backwards), and what was seen.
fn looks() -> impl Strategy<Value = Vec<(i64, Option<f32>)>> {
    let step = prop_oneof![8 => 1i64..4, 1 => 5i64..70, 1 => -6i64..0];
    prop::collection::vec((step, prop::option::weighted(0.5, 0.3f32..1.0)), 1..120)
}

proptest! {
    #[test]
    fn fewer_than_n_hits_never_alert(gaps in prop::collection::vec(3usize..6, 1..40)) {
        // After every two hits at least three misses: never three hits in five looks.
        let mut watch = Watch::new(forest());
        let mut second = 0;
        for misses in gaps {
            for hit in [true, true].into_iter().chain(vec![false; misses]) {
                second += 2;
                let seen = if hit { vec![fire(0.99)] } else { vec![] };
                prop_assert!(see(&mut watch, second, &seen).is_empty());
            }
        }
    }

    #[test]
    fn whatever_comes_alerts_are_told_in_order_and_well_formed(looks in looks()) {
        let mut watch = Watch::new(forest());
        let (mut second, mut newest) = (0, i64::MIN);
        let mut open: Option<Alert> = None;
        let mut over: Option<Timestamp> = None;
        let mut ids = BTreeSet::new();
        let mut hits = 0;
        for (step, seen) in looks {
            second += step;
            newest = newest.max(second);
            hits += u32::from(seen.is_some_and(|score| score >= 0.6));
            let boxes: Vec<_> = seen.map(fire).into_iter().collect();
            for Change { what, alert, .. } in see(&mut watch, second, &boxes) {
                match what {
                    What::Confirmed => {
                        prop_assert!(open.is_none() && alert.revision == 1 && alert.count >= 3);
                        prop_assert!(ids.insert(alert.id.clone()));
                        prop_assert!(over.is_none_or(|over| at(newest) >= over));
                        open = Some(alert.clone());
                    }
                    What::Revised | What::Ended => {
                        let before = open.take().unwrap();
                        prop_assert_eq!(&before.id, &alert.id);
                        prop_assert_eq!(before.revision + 1, alert.revision);
                        prop_assert!(alert.evidence_end >= before.evidence_end);
                        prop_assert!(alert.confidence >= before.confidence);
                        if what == What::Revised {
                            open = Some(alert.clone());
                        } else {
                            let ended = alert.ended_at.unwrap();
                            prop_assert!(at(second).duration_since(ended) >= SignedDuration::from_secs(30));
                            over = Some(ended + SignedDuration::from_secs(90));
                        }
                    }
                    What::Widened => unreachable!("left out by see()"),
                }
                prop_assert!(alert.count <= hits);
                prop_assert_eq!(alert.phase == Phase::Ended, alert.ended_at.is_some());
                prop_assert!(alert.evidence_start <= alert.started_at && alert.started_at <= alert.evidence_end);
            }
        }
    }
}
