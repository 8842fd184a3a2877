//! Detections: many small rows, found by camera and time.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::page::Window;
use super::{DetectionCount, Filter, Page, Store, StoreError, StoredDetection, nanos, timestamp};
use crate::alert::Detection;

/// Capture time in nanoseconds, camera (row of `names`), number within the picture.
type Key = (i64, i64, i64);

const SELECT: &str = "SELECT d.at, d.camera, d.n, c.name, m.name, k.name, d.score, d.box
     FROM detections d JOIN names c ON c.id = d.camera JOIN names m ON m.id = d.model JOIN names k ON k.id = d.class
     WHERE d.at >= :from AND d.at < :until AND (d.at, d.camera, d.n) < (:after, :after_camera, :after_n)";

/// What detections are counted by as they come: a month of minutes would be too many rows for one answer.
const SPANS: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(900)];

const NEWEST_FIRST: &str = "ORDER BY d.at DESC, d.camera DESC, d.n DESC LIMIT :limit";

impl Store {
    /// Remembers what one look found. Not synced: see the module's words on durability.
    pub fn put_detections(
        &self,
        camera: &str,
        at: Timestamp,
        model: &str,
        detections: &[Detection],
    ) -> Result<(), StoreError> {
        if detections.is_empty() {
            return Ok(());
        }
        self.log(|db| {
            let (camera, model) = (intern(db, camera)?, intern(db, model)?);
            let mut classes: HashMap<&str, (i64, i64)> = HashMap::new();
            let mut insert = db.prepare_cached(
                "INSERT OR REPLACE INTO detections (camera, at, n, model, class, score, box)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            for (n, detection) in detections.iter().enumerate() {
                let class = match classes.get_mut(detection.class.as_str()) {
                    Some((class, count)) => {
                        *count += 1;
                        *class
                    }
                    None => {
                        let class = intern(db, &detection.class)?;
                        classes.insert(detection.class.as_str(), (class, 1));
                        class
                    }
                };
                let bbox: Vec<u8> = detection.bbox.iter().flat_map(|side| side.to_le_bytes()).collect();
                insert.execute((
                    camera,
                    nanos(at),
                    n as i64,
                    model,
                    class,
                    f64::from(detection.score),
                    bbox,
                ))?;
            }
            let mut counted = db.prepare_cached(
                "INSERT INTO detection_counts (camera, span, at, class, count) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET count = count + excluded.count",
            )?;
            for span in SPANS.map(|span| span.as_nanos() as i64) {
                for (class, count) in classes.values() {
                    counted.execute((camera, span, nanos(at) - nanos(at).rem_euclid(span), class, count))?;
                }
            }
            Ok(())
        })
    }

    pub fn detections(&self, filter: &Filter) -> Result<Page<StoredDetection>, StoreError> {
        let window = Window::<Key>::of(filter)?;
        let keyed = self.read(|db| {
            let Some(cameras) = &filter.cameras else { return select(db, &window, None) };
            // One camera at a time: an index gives each in order, where a query over several would sort them all.
            let mut keyed = Vec::new();
            for camera in cameras {
                if let Some(camera) = name(db, camera)? {
                    keyed.extend(select(db, &window, Some(camera))?);
                }
            }
            keyed.sort_by(|(a, _), (b, _)| b.cmp(a));
            keyed.dedup_by(|(a, _), (b, _)| a == b);
            Ok(keyed)
        })?;
        Ok(Page::of(keyed, window.limit))
    }

    /// How many detections of each class a camera had in each step of the range, oldest first; steps without any are
    /// left out. Steps begin at multiples of `step` since the Unix epoch. Steps of whole minutes are answered from
    /// counts, which see no less than a minute: of those at the ends of the range all counts.
    pub fn detection_counts(
        &self,
        camera: &str,
        range: &Range<Timestamp>,
        step: Duration,
    ) -> Result<Vec<DetectionCount>, StoreError> {
        let step = (step.as_nanos() as i64).max(1);
        let spans = SPANS.map(|span| span.as_nanos() as i64);
        let span = spans.into_iter().rev().find(|span| step % span == 0);
        let (from, until) = (nanos(range.start), nanos(range.end));
        self.read(|db| {
            let Some(camera) = name(db, camera)? else { return Ok(Vec::new()) };
            let (rows, from) = match span {
                Some(span) => {
                    ("SELECT at, class, count FROM detection_counts WHERE span = :span AND", from - span + 1)
                }
                None => ("SELECT at, class, 1 AS count FROM detections WHERE :span IS NULL AND", from),
            };
            db.prepare_cached(&format!(
                "SELECT step, names.name, count FROM
                 (SELECT at / :step AS step, class, SUM(count) AS count FROM
                     ({rows} camera = :camera AND at >= :from AND at < :until) GROUP BY step, class)
                 JOIN names ON names.id = class ORDER BY step, names.name",
            ))?
            .query_map(
                named_params! {
                    ":step": step, ":span": span, ":camera": camera, ":from": from, ":until": until,
                },
                |row| {
                    Ok(DetectionCount {
                        start: timestamp(row.get::<_, i64>(0)?.saturating_mul(step)),
                        class: row.get(1)?,
                        count: row.get::<_, i64>(2)?.unsigned_abs(),
                    })
                },
            )?
            .collect()
        })
    }
}

fn select(
    db: &Connection,
    window: &Window<Key>,
    camera: Option<i64>,
) -> rusqlite::Result<Vec<(Key, StoredDetection)>> {
    let (after, after_camera, after_n) = window.after.unwrap_or((i64::MAX, i64::MAX, i64::MAX));
    let limit = window.limit as i64 + 1;
    let params = named_params! {
        ":from": window.from, ":until": window.until,
        ":after": after, ":after_camera": after_camera, ":after_n": after_n, ":limit": limit,
    };
    match camera {
        None => {
            db.prepare_cached(&format!("{SELECT} {NEWEST_FIRST}"))?.query_map(params, detection)?.collect()
        }
        Some(camera) => {
            let mut statement =
                db.prepare_cached(&format!("{SELECT} AND d.camera = :camera {NEWEST_FIRST}"))?;
            let params = [params, named_params! { ":camera": camera }].concat();
            statement.query_map(params.as_slice(), detection)?.collect()
        }
    }
}

fn detection(row: &Row<'_>) -> rusqlite::Result<(Key, StoredDetection)> {
    let mut bbox = [0.0; 4];
    for (side, bytes) in bbox.iter_mut().zip(row.get_ref(7)?.as_blob()?.as_chunks::<4>().0) {
        *side = f32::from_le_bytes(*bytes);
    }
    let detection = Detection { class: row.get(5)?, score: row.get::<_, f64>(6)? as f32, bbox };
    let at = row.get(0)?;
    let stored = StoredDetection { camera: row.get(3)?, at: timestamp(at), model: row.get(4)?, detection };
    Ok(((at, row.get(1)?, row.get(2)?), stored))
}

fn name(db: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached("SELECT id FROM names WHERE name = ?1")?.query_row([name], |row| row.get(0)).optional()
}

fn intern(db: &Connection, text: &str) -> rusqlite::Result<i64> {
    if let Some(id) = name(db, text)? {
        return Ok(id);
    }
    db.prepare_cached("INSERT INTO names (name) VALUES (?1)")?.insert([text])
}
