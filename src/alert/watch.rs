//! One camera's alerts: a state machine for every rule in every zone, driven by looks.
//!
//! *Pending* is the window of recent looks in which hits gather; it lives here alone. Only what is confirmed leaves this
//! module, since an alert is "a confirmed event that dispatch must know": it is *active* from its first revision on,
//! and *ended* with its last.
//!
//! Time is the looks' capture time and nothing else. Looks may come out of order, rarely, or never; the box's clock may
//! step. What does not belong here: pictures, storage, sending.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use super::zone::{self, Anchor};
use super::{Alert, Detection, Disposition, Phase};
use crate::config::{Camera, Rule, Scene, Zone};

/// Looks further apart than this do not confirm each other, and a time without looks says nothing about an alert's end.
/// Also how far back a look may lie before it means that the clock has stepped. Never less than ten looks.
const GAP: Duration = Duration::from_secs(60);

/// Where nobody looked, what is seen again within so long is the same event: a restart, a camera that was away.
const SAME_EVENT: SignedDuration = SignedDuration::from_mins(30);

/// Revisions of an active alert are at least so far apart …
const REVISE_EVERY: SignedDuration = SignedDuration::from_secs(10);
/// … and come for a score that is better by this, or for boxes that cover [`GROWTH`] times as much.
const BETTER: f32 = 0.1;
const GROWTH: f32 = 2.0;
/// An event that goes on says so after so long even when nothing about it changed.
const GOES_ON: SignedDuration = SignedDuration::from_secs(300);
/// The evidence of an event that goes on is widened this often.
const WIDEN_EVERY: SignedDuration = SignedDuration::from_secs(30);

/// Longest clean JPEG that waits here for its alert's confirmation.
const MAX_JPEG: usize = 8 << 20;

/// What the watch must know of one look.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Capture time of the picture.
    pub at: Timestamp,
    pub detections: &'a [Detection],
    /// The clean picture.
    pub jpeg: Option<&'a Bytes>,
    /// `name@version`.
    pub model: &'a str,
}

/// What a look led to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The detections that count: of a class and score that some rule asks for, inside one of its zones.
    pub counted: Vec<Detection>,
    pub changes: Vec<Change>,
}

/// Something about an alert that others must know.
#[derive(Clone, Debug)]
pub struct Change {
    pub what: What,
    pub alert: Alert,
    /// The clean picture that the snapshot is drawn on, where the snapshot is new.
    pub picture: Option<Bytes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The first revision.
    Confirmed,
    /// A later one.
    Revised,
    /// The last one.
    Ended,
    /// No revision: only the evidence range reaches further.
    Widened,
}

/// All state machines of one camera.
pub struct Watch {
    camera: Arc<Camera>,
    newest: Option<Timestamp>,
    spots: Vec<Spot>,
}

/// One rule in one zone.
struct Spot {
    rule: Rule,
    /// `None`: the whole picture.
    zone: Option<Zone>,
    /// The last M looks, in the order of their capture times.
    window: VecDeque<Seen>,
    state: State,
}

/// What one look showed to one spot.
struct Seen {
    at: Timestamp,
    hit: Option<Hit>,
}

#[derive(Clone)]
struct Hit {
    score: f32,
    boxes: Vec<Detection>,
    jpeg: Option<Bytes>,
}

enum State {
    Quiet,
    Active(Box<Active>),
    /// Over; no new alert until then.
    Cooling(Timestamp),
}

struct Active {
    /// As last told to the world, but for `count` and the evidence's end, which are current.
    alert: Alert,
    last_hit: Timestamp,
    /// From when on the absence of hits counts; `None`: from the next look on.
    quiet_since: Option<Timestamp>,
    revised: Timestamp,
    widened: Timestamp,
    best_score: f32,
    /// A hit that would make a better snapshot.
    better: Option<(Timestamp, Hit)>,
}

impl Watch {
    pub fn new(camera: Arc<Camera>) -> Watch {
        let spots = spots(&camera);
        Watch { camera, newest: None, spots }
    }

    /// Goes by a changed configuration. What is unchanged keeps its state; alerts of rules and zones that are gone end.
    pub fn retune(&mut self, camera: Arc<Camera>) -> Vec<Change> {
        let mut ended = Vec::new();
        let old_camera = std::mem::replace(&mut self.camera, camera);
        let mut spots = spots(&self.camera);
        for mut old in std::mem::take(&mut self.spots) {
            match spots.iter_mut().find(|new| new.is(old.rule.kind, old.zone_name())) {
                Some(new) => {
                    new.state = old.state;
                    if new.rule == old.rule && new.zone == old.zone {
                        new.window = old.window;
                    }
                }
                None => ended.extend(old_camera.scene.as_ref().and_then(|scene| old.end(scene))),
            }
        }
        self.spots = spots;
        ended
    }

    /// Takes up an alert that was active when the daemon stopped, so that its event makes no second one; one that
    /// nothing watches for any more ends.
    pub fn resume(&mut self, alert: Alert) -> Option<Change> {
        let spot = self
            .spots
            .iter_mut()
            .find(|spot| spot.is(alert.kind, alert.zone.as_deref()) && matches!(spot.state, State::Quiet));
        let (Some(spot), Some(scene)) = (spot, &self.camera.scene) else { return ended(alert) };
        let last_hit = (alert.evidence_end - signed(scene.post_capture)).max(alert.started_at);
        spot.state = State::Active(Box::new(Active {
            last_hit,
            // Nobody looked while the daemon was down.
            quiet_since: None,
            revised: last_hit,
            widened: last_hit,
            best_score: alert.confidence,
            better: None,
            alert,
        }));
        None
    }

    /// Goes on from the alert as it is stored: what people did with it, and the numbers that their changes took.
    pub fn adopt(&mut self, stored: &Alert) {
        for spot in &mut self.spots {
            if let State::Active(active) = &mut spot.state
                && active.alert.id == stored.id
            {
                active.alert.disposition = stored.disposition;
                active.alert.revision = active.alert.revision.max(stored.revision);
            }
        }
    }

    /// Ends every active alert: the camera is no longer watched.
    pub fn close(&mut self) -> Vec<Change> {
        let Some(scene) = self.camera.scene.clone() else { return Vec::new() };
        self.spots.iter_mut().filter_map(|spot| spot.end(&scene)).collect()
    }

    pub fn look(&mut self, look: &Look<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(scene) = self.camera.scene.clone() else { return outcome };
        outcome.changes.extend(self.end_forgotten(look.at, &scene));
        self.follow_clock(look.at, &scene);
        let late = self.newest.is_some_and(|newest| look.at <= newest);
        self.newest = self.newest.max(Some(look.at));
        let mut counted = vec![false; look.detections.len()];
        for spot in &mut self.spots {
            let boxes = spot.inside(look.detections, &mut counted);
            let hit = spot.hit(boxes, look.jpeg);
            outcome.changes.extend(spot.advance(look, hit, late, &self.camera, &scene));
        }
        let counting = look.detections.iter().zip(counted).filter(|(_, counts)| *counts);
        outcome.counted = counting.map(|(detection, _)| detection.clone()).collect();
        outcome
    }

    /// Ends what was last seen long ago, where nobody has looked since: what burns now is another fire.
    fn end_forgotten(&mut self, at: Timestamp, scene: &Scene) -> Vec<Change> {
        if self.newest.is_some_and(|newest| at <= newest + signed(GAP.max(scene.look_every * 10))) {
            return Vec::new();
        }
        let forgotten = |spot: &&mut Spot| match &spot.state {
            State::Active(active) => {
                let over = signed(spot.rule.end_after + spot.rule.cooldown).max(SAME_EVENT);
                at > active.last_hit + over
            }
            _ => false,
        };
        self.spots.iter_mut().filter(forgotten).filter_map(|spot| spot.end(scene)).collect()
    }

    /// Begins anew where the looks leave a gap or the clock steps; small steps back are looks out of order.
    fn follow_clock(&mut self, at: Timestamp, scene: &Scene) {
        let Some(newest) = self.newest else { return };
        let gap = signed(GAP.max(scene.look_every * 10));
        let stepped_back = at < newest - gap;
        if !stepped_back && at <= newest + gap {
            return;
        }
        for spot in &mut self.spots {
            spot.window.clear();
            match &mut spot.state {
                State::Quiet => {}
                State::Active(active) => {
                    active.quiet_since = Some(at);
                    if stepped_back {
                        active.last_hit = active.last_hit.min(at);
                        active.revised = active.revised.min(at);
                        active.widened = active.widened.min(at);
                    }
                }
                State::Cooling(until) => *until = (*until).min(at + signed(spot.rule.cooldown)),
            }
        }
        if stepped_back {
            self.newest = None;
        }
    }
}

fn spots(camera: &Camera) -> Vec<Spot> {
    let Some(scene) = &camera.scene else { return Vec::new() };
    let spot = |rule: &Rule, zone: Option<&Zone>| Spot {
        rule: rule.clone(),
        zone: zone.cloned(),
        window: VecDeque::new(),
        state: State::Quiet,
    };
    let mut spots = Vec::new();
    for rule in &scene.rules {
        if camera.zones.is_empty() {
            spots.push(spot(rule, None));
        }
        let zones =
            camera.zones.iter().filter(|zone| zone.kinds.is_empty() || zone.kinds.contains(&rule.kind));
        spots.extend(zones.map(|zone| spot(rule, Some(zone))));
    }
    spots
}

impl Spot {
    fn zone_name(&self) -> Option<&str> {
        self.zone.as_ref().map(|zone| zone.name.as_str())
    }

    fn is(&self, kind: crate::config::Kind, zone: Option<&str>) -> bool {
        self.rule.kind == kind && self.zone_name() == zone
    }

    /// The detections that count here, and the same marked in `counted`.
    fn inside(&self, detections: &[Detection], counted: &mut [bool]) -> Vec<Detection> {
        let anchor = Anchor::of(&self.rule.class);
        let mut boxes = Vec::new();
        for (detection, counted) in detections.iter().zip(counted) {
            let asked_for = detection.class == self.rule.class && detection.score >= self.rule.min_score;
            let placed = |zone: &Zone| zone::counts(&zone.points, detection.bbox, anchor);
            if asked_for && self.zone.as_ref().is_none_or(placed) {
                *counted = true;
                boxes.push(detection.clone());
            }
        }
        boxes
    }

    fn hit(&self, boxes: Vec<Detection>, jpeg: Option<&Bytes>) -> Option<Hit> {
        let score = boxes.iter().map(|detection| detection.score).fold(0.0, f32::max);
        let enough = boxes.len() >= self.rule.min_count.max(1) as usize && score >= self.rule.threshold;
        let jpeg = jpeg.filter(|jpeg| jpeg.len() <= MAX_JPEG).cloned();
        enough.then_some(Hit { score, boxes, jpeg })
    }

    /// `late`: the look is not newer than an earlier one.
    fn advance(
        &mut self,
        look: &Look<'_>,
        hit: Option<Hit>,
        late: bool,
        camera: &Camera,
        scene: &Scene,
    ) -> Option<Change> {
        if let State::Cooling(until) = self.state
            && look.at >= until
        {
            self.state = State::Quiet;
        }
        self.remember(look.at, hit.clone())?;
        match &mut self.state {
            State::Cooling(_) => None,
            State::Quiet => {
                hit?;
                let (alert, picture, last_hit) = self.confirmed(look.model, camera, scene)?;
                self.state = State::Active(Box::new(Active {
                    last_hit,
                    quiet_since: Some(last_hit),
                    revised: last_hit,
                    widened: last_hit,
                    best_score: alert.confidence,
                    better: None,
                    alert: alert.clone(),
                }));
                Some(Change { what: What::Confirmed, alert, picture })
            }
            State::Active(active) => match hit {
                Some(hit) => active.goes_on(look.at, hit, scene),
                None if late => None,
                None => {
                    let quiet = look.at.duration_since(*active.quiet_since.get_or_insert(look.at));
                    if quiet >= signed(self.rule.end_after) { self.end(scene) } else { None }
                }
            },
        }
    }

    /// Puts the look in its place in the window; `None` for one that is there already or too old for it.
    fn remember(&mut self, at: Timestamp, hit: Option<Hit>) -> Option<()> {
        let size = self.rule.confirm[1].max(1) as usize;
        let place = self.window.partition_point(|seen| seen.at < at);
        if self.window.get(place).is_some_and(|seen| seen.at == at)
            || (place == 0 && self.window.len() >= size)
        {
            return None;
        }
        self.window.insert(place, Seen { at, hit });
        while self.window.len() > size {
            self.window.pop_front();
        }
        // Only the picture that would be the snapshot, and the newest in case that one leaves the window first.
        let best = self.best().map(|(at, _)| at);
        let newest = self.window.iter().rev().find(|seen| seen.hit.is_some()).map(|seen| seen.at);
        for seen in &mut self.window {
            if let Some(hit) = &mut seen.hit
                && Some(seen.at) != best
                && Some(seen.at) != newest
            {
                hit.jpeg = None;
            }
        }
        Some(())
    }

    fn hits(&self) -> impl DoubleEndedIterator<Item = (Timestamp, &Hit)> {
        self.window.iter().filter_map(|seen| Some((seen.at, seen.hit.as_ref()?)))
    }

    /// The hit for the snapshot: the best score among those with a picture, else the best.
    fn best(&self) -> Option<(Timestamp, &Hit)> {
        self.hits().max_by(|(_, a), (_, b)| {
            a.jpeg.is_some().cmp(&b.jpeg.is_some()).then(a.score.total_cmp(&b.score))
        })
    }

    /// A new alert with its clean picture and the time of its last hit, once N of the last M looks are hits. Flames and
    /// smoke stay where they are: their hits must lie in one place, so that single false detections here and there do
    /// not add up. People and vehicles move.
    fn confirmed(
        &self,
        model: &str,
        camera: &Camera,
        scene: &Scene,
    ) -> Option<(Alert, Option<Bytes>, Timestamp)> {
        let needed = self.rule.confirm[0].max(1) as usize;
        if self.hits().count() < needed {
            return None;
        }
        if Anchor::of(&self.rule.class) == Anchor::Plume {
            let in_one_place = self.hits().flat_map(|(_, hit)| hit.strong(&self.rule)).any(|place| {
                let same = |hit: &Hit| hit.strong(&self.rule).any(|other| near(place.bbox, other.bbox));
                self.hits().filter(|(_, hit)| same(hit)).count() >= needed
            });
            if !in_one_place {
                return None;
            }
        }
        let (started_at, _) = self.hits().next()?;
        let (last_hit, _) = self.hits().next_back()?;
        let (snapshot_at, best) = self.best()?;
        let best_score = self.hits().map(|(_, hit)| hit.score).fold(0.0, f32::max);
        let alert = Alert {
            id: new_id(started_at),
            revision: 1,
            phase: Phase::Active,
            disposition: Disposition::Reported,
            kind: self.rule.kind,
            level: self.rule.level,
            camera: camera.id.clone(),
            scene: scene.name.clone(),
            zone: self.zone_name().map(str::to_owned),
            grid: camera.grid.clone(),
            position: camera.position,
            confidence: best_score,
            model: model.to_owned(),
            started_at,
            ended_at: None,
            count: u32::try_from(self.hits().count()).unwrap_or(u32::MAX),
            boxes: best.boxes.clone(),
            snapshot_at,
            evidence_start: started_at - signed(scene.pre_capture),
            evidence_end: last_hit + signed(scene.post_capture),
            drill: false,
        };
        Some((alert, best.jpeg.clone(), last_hit))
    }

    /// Ends the alert, if there is one, and begins the cool-down.
    fn end(&mut self, scene: &Scene) -> Option<Change> {
        let State::Active(active) = std::mem::replace(&mut self.state, State::Quiet) else { return None };
        let Active { mut alert, last_hit, best_score, better, .. } = *active;
        let over = last_hit + signed(self.rule.end_after);
        self.state = State::Cooling(over + signed(self.rule.cooldown));
        self.window.clear();
        let picture = better.and_then(|(at, hit)| show(&mut alert, at, hit));
        alert.confidence = best_score;
        alert.evidence_end = alert.evidence_end.max(last_hit + signed(scene.post_capture));
        alert.ended_at = Some(last_hit.max(alert.started_at));
        Some(Change { picture, ..ended(alert)? })
    }
}

impl Hit {
    /// The boxes that made the look a hit; the first few will do.
    fn strong(&self, rule: &Rule) -> impl Iterator<Item = &Detection> {
        self.boxes.iter().filter(|detection| detection.score >= rule.threshold).take(16)
    }
}

impl Active {
    /// Another hit. Gives a revision where one is worth it and the last is long enough ago.
    fn goes_on(&mut self, at: Timestamp, hit: Hit, scene: &Scene) -> Option<Change> {
        self.last_hit = self.last_hit.max(at);
        self.quiet_since = self.quiet_since.max(Some(self.last_hit));
        self.best_score = self.best_score.max(hit.score);
        self.alert.count = self.alert.count.saturating_add(1);
        self.alert.evidence_end = self.alert.evidence_end.max(self.last_hit + signed(scene.post_capture));
        let (score, covered) = match &self.better {
            Some((_, better)) => (better.score, area(&better.boxes)),
            None => (self.alert.confidence, area(&self.alert.boxes)),
        };
        if hit.jpeg.is_some() && (hit.score > score || area(&hit.boxes) >= covered * GROWTH) {
            self.better = Some((at, hit));
        }
        let grown = |(_, better): &(_, Hit)| area(&better.boxes) >= area(&self.alert.boxes) * GROWTH;
        let worth_it =
            self.best_score >= self.alert.confidence + BETTER || self.better.as_ref().is_some_and(grown);
        let since = at.duration_since(self.revised);
        if (worth_it && since >= REVISE_EVERY) || since >= GOES_ON {
            let picture = self.better.take().and_then(|(at, hit)| show(&mut self.alert, at, hit));
            self.alert.confidence = self.best_score;
            self.alert.revision += 1;
            self.revised = at;
            self.widened = at;
            return Some(Change { what: What::Revised, alert: self.alert.clone(), picture });
        }
        if at.duration_since(self.widened) >= WIDEN_EVERY {
            self.widened = at;
            return Some(Change { what: What::Widened, alert: self.alert.clone(), picture: None });
        }
        None
    }
}

/// Makes the hit the one that the alert shows, where it has a picture to show.
fn show(alert: &mut Alert, at: Timestamp, hit: Hit) -> Option<Bytes> {
    let picture = hit.jpeg?;
    alert.boxes = hit.boxes;
    alert.snapshot_at = at;
    Some(picture)
}

/// The last revision of an alert.
pub fn ended(mut alert: Alert) -> Option<Change> {
    if alert.phase == Phase::Ended {
        return None;
    }
    alert.phase = Phase::Ended;
    alert.revision += 1;
    alert.ended_at.get_or_insert(alert.snapshot_at.max(alert.started_at));
    Some(Change { what: What::Ended, alert, picture: None })
}

fn area(boxes: &[Detection]) -> f32 {
    boxes.iter().map(|Detection { bbox: [x0, y0, x1, y1], .. }| (x1 - x0) * (y1 - y0)).sum()
}

/// Are two boxes in the same place? Each may be off by half its own size, and by a hundredth of the picture.
fn near(a: [f32; 4], b: [f32; 4]) -> bool {
    let grown = |[x0, y0, x1, y1]: [f32; 4]| {
        let (dx, dy) = ((x1 - x0) / 4.0 + 0.005, (y1 - y0) / 4.0 + 0.005);
        [x0 - dx, y0 - dy, x1 + dx, y1 + dy]
    };
    let (a, b) = (grown(a), grown(b));
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

/// A ULID of that instant, so that ids sort by the alerts' beginnings.
fn new_id(at: Timestamp) -> String {
    let millisecond = u64::try_from(at.as_millisecond()).unwrap_or(0);
    ulid::Ulid::from_parts(millisecond, rand::random()).to_string()
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
pub mod tests;
