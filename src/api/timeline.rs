//! `/api/v1/timeline`: what a console's time bar shows at any zoom, in one query.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use axum::Json;
use axum::response::IntoResponse;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::door::{Answer, Asked};
use super::media::{camera_id, is_known};
use super::problem::Problem;
use crate::access::{Action, Denied};
use crate::record::{GapSpan, RecordedSpan};
use crate::store::{AlertMark, DetectionCount};

/// Steps of a range where the request does not say.
const WIDTH: usize = 1000;
const MAX_WIDTH: usize = 5000;

/// Cameras of one request.
const MAX_CAMERAS: usize = 64;

/// More than any ring holds.
const LONGEST: SignedDuration = SignedDuration::from_hours(24 * 400);

/// Time bars of some cameras. What lies less than `step` apart is told as one, and says so in `merged`.
#[derive(Serialize, ToSchema)]
pub struct Timeline {
    #[schema(value_type = String, format = DateTime)]
    start: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    end: Timestamp,
    /// Seconds.
    step: f64,
    /// Seconds; steps of detections begin at multiples of it since the Unix epoch.
    detection_step: f64,
    cameras: Vec<CameraTimeline>,
}

#[derive(Serialize, ToSchema)]
pub struct CameraTimeline {
    camera: String,
    recorded: Vec<RecordedSpan>,
    gaps: Vec<GapSpan>,
    /// Null for who may not see alerts, like `detections`.
    alerts: Option<Vec<AlertSpan>>,
    detections: Option<Vec<DetectionStep>>,
}

/// An alert, or the most severe one of several that begin within one step.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub struct AlertSpan {
    #[serde(flatten)]
    alert: AlertMark,
    /// So many alerts; `start` and `end` are those of all of them.
    merged: u32,
}

/// Detections by class within one step. Steps without any are left out.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub struct DetectionStep {
    #[schema(value_type = String, format = DateTime)]
    start: Timestamp,
    counts: BTreeMap<String, u64>,
}

#[utoipa::path(
    get, path = "/api/v1/timeline", tag = "recordings",
    params(
        ("camera" = Vec<String>, Query, description = "1 to 64, each as `camera=ID`", explode),
        ("start" = Option<String>, Query, description = "RFC 3339; a day before `end`"),
        ("end" = Option<String>, Query, description = "RFC 3339, at most 400 days after `start`; now"),
        ("width" = Option<u32>, Query, minimum = 1, maximum = 5000, description = "Steps of the range; 1000"),
    ),
    responses(
        (
            status = 200, description = "What is recorded, what is missing, alerts and detections, each oldest first",
            body = Timeline,
        ),
        (status = 404, description = "Problem not-found: there is no such camera, and no recording of one"),
    )
)]
pub async fn timeline(asked: Asked) -> Answer {
    let cameras = cameras(&asked)?;
    let end = asked.time("end")?.unwrap_or_else(Timestamp::now);
    let start = match asked.time("start")? {
        Some(start) => start,
        None => end.checked_sub(SignedDuration::from_hours(24)).unwrap_or(Timestamp::MIN),
    };
    if end <= start {
        return Err(Problem::bad_request("end: not after start"));
    }
    if end.duration_since(start) > LONGEST {
        return Err(Problem::bad_request("end: at most 400 days after start"));
    }
    let width = match asked.query("width").map(str::parse) {
        None => WIDTH,
        Some(Ok(width @ 1..=MAX_WIDTH)) => width,
        Some(_) => return Err(Problem::bad_request(format!("width: 1 to {MAX_WIDTH}"))),
    };
    for camera in &cameras {
        is_known(&asked, camera).await?;
    }
    let bar = Bar::new(start..end, width);
    let cameras: Vec<(String, bool)> = (cameras.into_iter())
        .map(|camera| (camera.clone(), asked.may(Action::Alerts, Some(&camera))))
        .collect();
    let timeline = asked.ask(move |state| {
        let told = cameras.into_iter().map(|(camera, sees_alerts)| bar.of(state, camera, sees_alerts));
        Ok::<_, Problem>(Timeline {
            start,
            end,
            step: bar.step.as_secs_f64(),
            detection_step: bar.detection_step.as_secs_f64(),
            cameras: told.collect::<Result<_, Problem>>()?,
        })
    });
    Ok(Json(timeline.await?).into_response())
}

/// Each one that is asked for, once.
fn cameras(asked: &Asked) -> Result<Vec<String>, Problem> {
    let mut cameras: Vec<String> = Vec::new();
    for camera in asked.queries("camera") {
        let camera = camera_id(camera)?;
        if !asked.may(Action::Recordings, Some(camera)) {
            return Err(Denied::Forbidden.into());
        }
        if !cameras.iter().any(|known| known == camera) {
            cameras.push(camera.to_owned());
        }
    }
    match cameras.len() {
        0 => Err(Problem::bad_request("camera: is missing")),
        1..=MAX_CAMERAS => Ok(cameras),
        _ => Err(Problem::bad_request(format!("camera: at most {MAX_CAMERAS} at once"))),
    }
}

/// What is asked for of each camera.
struct Bar {
    range: Range<Timestamp>,
    width: usize,
    step: Duration,
    detection_step: Duration,
}

impl Bar {
    fn new(range: Range<Timestamp>, width: usize) -> Bar {
        let whole = range.end.duration_since(range.start).unsigned_abs().as_millis() as u64;
        let step = whole.div_ceil(width as u64).max(1);
        // Detections are counted by the minute and the quarter of an hour as they come.
        let counted = [900_000, 60_000].into_iter().find(|span| step >= *span);
        let detection_step = counted.map_or(step, |span| step.next_multiple_of(span));
        let [step, detection_step] = [step, detection_step].map(Duration::from_millis);
        Bar { range, width, step, detection_step }
    }

    fn of(&self, state: &Shared, camera: String, sees_alerts: bool) -> Result<CameraTimeline, Problem> {
        let (recorded, gaps) = state.ring.archive().timeline(&camera, &self.range, self.step)?;
        let (mut alerts, mut detections) = (None, None);
        if sees_alerts {
            alerts = Some(self.merge(state.store.alert_marks(&camera, &self.range)?));
            let counts = state.store.detection_counts(&camera, &self.range, self.detection_step)?;
            detections = Some(by_step(counts));
        }
        Ok(CameraTimeline { camera, recorded, gaps, alerts, detections })
    }

    /// All of them while they are few; else those that begin within one step are told as one.
    fn merge(&self, alerts: Vec<AlertMark>) -> Vec<AlertSpan> {
        let few = alerts.len() <= self.width;
        let step = self.step.as_nanos().max(1) as i128;
        let from = self.range.start.as_nanosecond();
        let place = |alert: &AlertMark| (alert.start.as_nanosecond() - from).max(0) / step;
        let mut merged: Vec<AlertSpan> = Vec::new();
        for alert in alerts {
            match merged.last_mut().filter(|last| !few && place(&last.alert) == place(&alert)) {
                Some(last) => {
                    last.merged += 1;
                    let (start, end) =
                        (last.alert.start, last.alert.end.zip(alert.end).map(|(a, b)| a.max(b)));
                    if alert.level < last.alert.level {
                        last.alert = alert;
                    }
                    (last.alert.start, last.alert.end) = (start, end);
                }
                None => merged.push(AlertSpan { alert, merged: 1 }),
            }
        }
        merged
    }
}

fn by_step(counts: Vec<DetectionCount>) -> Vec<DetectionStep> {
    let mut steps: Vec<DetectionStep> = Vec::new();
    for DetectionCount { start, class, count } in counts {
        match steps.last_mut().filter(|last| last.start == start) {
            Some(last) => {
                last.counts.insert(class, count);
            }
            None => steps.push(DetectionStep { start, counts: BTreeMap::from([(class, count)]) }),
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::{Disposition, Phase};
    use crate::config::Kind;

    fn second(at: i64) -> Timestamp {
        Timestamp::from_second(at).unwrap()
    }

    fn alert(start: i64, end: Option<i64>, level: u8) -> AlertMark {
        AlertMark {
            id: format!("at-{start}"),
            kind: Kind::Fire,
            level,
            phase: Phase::Active,
            disposition: Disposition::Reported,
            start: second(start),
            end: end.map(second),
        }
    }

    #[test]
    fn steps_of_detections_fit_what_they_are_counted_by() {
        let steps = |seconds: i64, width| {
            let bar = Bar::new(second(0)..second(seconds), width);
            (bar.step.as_secs_f64(), bar.detection_step.as_secs_f64())
        };
        assert_eq!(steps(600, 1000), (0.6, 0.6));
        assert_eq!(steps(86_400, 1000), (86.4, 120.0));
        assert_eq!(steps(86_400, 1440), (60.0, 60.0));
        assert_eq!(steps(30 * 86_400, 1000), (2592.0, 2700.0));
        assert_eq!(steps(1, 5000).0, 0.001);
    }

    #[test]
    fn alerts_are_merged_only_where_there_are_too_many() {
        let alerts =
            vec![alert(-50, Some(5), 3), alert(10, Some(20), 2), alert(15, Some(90), 1), alert(80, None, 4)];
        let bar = |width| Bar::new(second(0)..second(100), width);
        let told = |width| {
            let merged = bar(width).merge(alerts.clone());
            merged.into_iter().map(|span| (span.alert.id, span.merged)).collect::<Vec<_>>()
        };
        assert_eq!(told(4).len(), 4);
        assert_eq!(told(3), [("at-15".to_owned(), 3), ("at-80".to_owned(), 1)]);
        let merged = bar(2).merge(alerts.clone());
        assert_eq!((merged[0].alert.start, merged[0].alert.end), (second(-50), Some(second(90))));
        assert_eq!(merged[1].alert.end, None);
    }
}
