//! How complete the recordings are, by camera and day (录像完整率).

use std::collections::BTreeMap;

use axum::Json;
use axum::response::IntoResponse;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::Serialize;
use utoipa::ToSchema;

use super::door::{Answer, Asked};
use super::problem::Problem;
use crate::access::{Action, Denied};
use crate::record::{self, Completeness, GapCause};

/// Days that are told where the request names none.
const DAYS: i32 = 7;
/// More than is remembered.
const MOST_DAYS: i32 = 400;

/// Of a camera's main feed.
#[derive(Serialize, ToSchema)]
pub struct Day {
    camera: String,
    #[schema(value_type = String, format = Date)]
    day: Date,
    /// Seconds.
    recorded: f64,
    /// Seconds by cause, as `/list` has them.
    #[schema(value_type = BTreeMap<String, f64>)]
    missing: BTreeMap<GapCause, f64>,
    /// Recorded of what should have been, 0 to 1; null where recording was off.
    ratio: Option<f64>,
}

#[derive(Serialize, ToSchema)]
pub struct Days {
    items: Vec<Day>,
    /// There are no further pages.
    #[schema(value_type = Option<String>)]
    next: (),
}

#[utoipa::path(
    get, path = "/api/v1/completeness", tag = "recordings",
    params(
        ("camera" = Option<String>, Query, description = "Without it every camera that is configured"),
        ("from" = Option<String>, Query, description = "First day, as 2026-05-01; without it a week ago"),
        ("to" = Option<String>, Query, description = "Last day; without it today"),
        ("zone" = Option<String>, Query, description = "Whose days, as Asia/Shanghai; without it the box's"),
    ),
    responses(
        (status = 200, description = "Cameras by id, each oldest day first", body = Days),
        (status = 404, description = "Problem not-found: no such camera"),
    )
)]
pub async fn completeness(asked: Asked) -> Answer {
    let zone = match asked.query("zone") {
        None => TimeZone::system(),
        Some(name) => TimeZone::get(name).map_err(|_| {
            Problem::bad_request("zone: a name of the time zone database was expected, like Asia/Shanghai")
        })?,
    };
    let today = Timestamp::now().to_zoned_datetime(zone.clone()).date();
    let to = day(&asked, "to")?.unwrap_or(today);
    let from = day(&asked, "from")?.unwrap_or_else(|| to.saturating_sub((DAYS - 1).days()));
    let days = to.since(from).map_or(i32::MAX, |span| span.get_days());
    if !(0..MOST_DAYS).contains(&days) {
        return Err(Problem::bad_request(format!("from, to: 1 to {MOST_DAYS} days were expected, in order")));
    }
    let configured: Vec<String> =
        asked.state.settings.config().cameras.keys().map(ToString::to_string).collect();
    let cameras = match asked.query("camera") {
        Some(camera) if !asked.may(Action::Recordings, Some(camera)) => return Err(Denied::Forbidden.into()),
        Some(camera) => vec![camera.to_owned()],
        None => {
            let may = |camera: &&String| asked.may(Action::Recordings, Some(camera));
            configured.iter().filter(may).cloned().collect()
        }
    };
    let unknown = asked.query("camera").filter(|camera| !configured.iter().any(|known| known == camera));
    let unknown = unknown.map(ToOwned::to_owned);
    let items = asked
        .ask(move |state| {
            let mut items = Vec::new();
            for camera in cameras {
                let range = start_of(from, &zone)..start_of(to.tomorrow().unwrap_or(Date::MAX), &zone);
                let mut days: BTreeMap<Date, Vec<Completeness>> = BTreeMap::new();
                for hour in state.ring.archive().completeness(&camera, range)? {
                    days.entry(hour.start.to_zoned_datetime(zone.clone()).date()).or_default().push(hour);
                }
                items.extend(days.into_iter().map(|(day, hours)| {
                    let whole = record::sum(&hours);
                    Day {
                        camera: camera.clone(),
                        day,
                        recorded: whole.recorded,
                        ratio: whole.ratio(),
                        missing: whole.missing,
                    }
                }));
            }
            Ok::<_, record::RecordError>(items)
        })
        .await?;
    if let Some(camera) = unknown.filter(|_| items.is_empty()) {
        return Err(Problem::not_found(format!(
            "there is no camera {camera:?}, and nothing is known of one"
        )));
    }
    Ok(Json(Days { items, next: () }).into_response())
}

fn day(asked: &Asked, name: &str) -> Result<Option<Date>, Problem> {
    let day = asked.query(name).map(str::parse).transpose();
    day.map_err(|_| Problem::bad_request(format!("{name}: a day was expected, like 2026-05-01")))
}

fn start_of(day: Date, zone: &TimeZone) -> Timestamp {
    day.to_zoned_datetime(zone.clone()).map_or(Timestamp::MAX, |day| day.timestamp())
}
