//! From looks to alerts that are stored, pinned and sent: the one place where vision, the alert logic, the ring, the
//! store and the outbox meet.
//!
//! The logic itself is pure and lives in [`crate::alert`]. Alerts are never dropped: while the store refuses, they wait
//! in memory, in order, and are tried again until it takes them.

mod backlog;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::alert::watch::{self, Change, Look, Watch, What};
use crate::alert::{Alert, Detection, picture};
use crate::config::{self, Id};
use crate::dispatch::Dispatch;
use crate::health::{CameraClass, CameraKind, Health, Severity};
use crate::record::Ring;
use crate::store::{Store, StoreError};
use crate::vision::Looked;
use backlog::{Backlog, Pending};

/// The health subject of what cannot be stored.
const SUBJECT: &str = "store/alerts";

/// Open alerts of cameras that nobody watches so long after the start end: the camera is no longer configured.
const ORPHANED_AFTER: Duration = Duration::from_secs(60);

/// Pauses between attempts to store, growing from the first to the second.
const RETRY: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(15)];

/// Detections of one look that are considered, best first: no scene has more, and a broken model may.
const MAX_DETECTIONS: usize = 200;

/// Handle to the one task that owns every camera's [`Watch`].
pub struct Analysis {
    commands: mpsc::UnboundedSender<Command>,
}

enum Command {
    Watch(Arc<config::Camera>),
    Unwatch(String),
    /// Finish by then; answered with whether nothing was left.
    Stop(Instant, oneshot::Sender<bool>),
}

impl Analysis {
    /// Takes up the alerts that were open at the last stop, and what comes out of `found` from now on.
    pub fn start(
        store: Arc<Store>,
        ring: Arc<Ring>,
        dispatch: Arc<Dispatch>,
        health: Health,
        found: mpsc::Receiver<Looked>,
    ) -> Arc<Analysis> {
        // Unbounded, but written by the configuration alone.
        let (commands, received) = mpsc::unbounded_channel();
        let task = Task {
            sinks: Sinks { store, ring, dispatch, health },
            watches: BTreeMap::new(),
            open: BTreeMap::new(),
            orphaned_at: Some(Instant::now() + ORPHANED_AFTER),
            snapshots: HashMap::new(),
            backlog: Backlog::default(),
            retry_at: None,
            pause: RETRY[0],
        };
        tokio::spawn(task.run(received, found));
        Arc::new(Analysis { commands })
    }

    /// The camera's scene and zones from now on.
    pub fn watch(&self, camera: Arc<config::Camera>) {
        self.tell(Command::Watch(camera));
    }

    /// The camera is no longer configured: its open alerts end.
    pub fn unwatch(&self, camera: &str) {
        self.tell(Command::Unwatch(camera.to_owned()));
    }

    /// Finishes what has been found, within the deadline; false when something had to be left.
    pub async fn stop(&self, deadline: Duration) -> bool {
        let (answer, answered) = oneshot::channel();
        self.tell(Command::Stop(Instant::now() + deadline, answer));
        matches!(tokio::time::timeout(deadline, answered).await, Ok(Ok(true)))
    }

    fn tell(&self, command: Command) {
        // Fails only once the task has been stopped, when there is nothing to tell it any more.
        let _ = self.commands.send(command);
    }
}

/// Where alerts and detections go.
#[derive(Clone)]
struct Sinks {
    store: Arc<Store>,
    ring: Arc<Ring>,
    dispatch: Arc<Dispatch>,
    health: Health,
}

struct Task {
    sinks: Sinks,
    watches: BTreeMap<Id, Watch>,
    /// Alerts that were open at the last stop, by camera, until that camera is watched again.
    open: BTreeMap<Id, Vec<Alert>>,
    orphaned_at: Option<Instant>,
    /// SHA-256 of the open alerts' snapshots as stored, which later revisions name again.
    snapshots: HashMap<String, String>,
    backlog: Backlog,
    retry_at: Option<Instant>,
    pause: Duration,
}

impl Task {
    async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        mut found: mpsc::Receiver<Looked>,
    ) {
        self.take_up_open_alerts().await;
        let mut looking = true;
        loop {
            let (retry_at, orphaned_at) = (self.retry_at, self.orphaned_at);
            tokio::select! {
                // Commands first: a camera is known before its looks are judged.
                biased;
                command = commands.recv() => match command {
                    Some(Command::Watch(camera)) => self.watch(camera).await,
                    Some(Command::Unwatch(camera)) => self.unwatch(&camera).await,
                    Some(Command::Stop(deadline, answer)) => {
                        let finished = self.finish(found, deadline).await;
                        let _ = answer.send(finished);
                        return;
                    }
                    None => return,
                },
                () = at(retry_at), if retry_at.is_some() => self.flush().await,
                () = at(orphaned_at), if orphaned_at.is_some() => self.end_orphans().await,
                looked = found.recv(), if looking => match looked {
                    Some(looked) => self.look(looked).await,
                    None => looking = false,
                },
            }
        }
    }

    /// Asks the store a few times; a box whose store stays shut must still watch.
    async fn take_up_open_alerts(&mut self) {
        for attempt in 1..=3 {
            let loaded = blocking(&self.sinks, |sinks| {
                let with_hash = |alert: Alert| {
                    let snapshot = sinks.store.snapshot(&alert.id)?;
                    Ok((alert, snapshot.map(|jpeg| sha256(&jpeg))))
                };
                sinks.store.open_alerts()?.into_iter().map(with_hash).collect::<Result<Vec<_>, StoreError>>()
            });
            match loaded.await {
                Ok(alerts) => {
                    for (alert, hash) in alerts {
                        self.snapshots.extend(hash.map(|hash| (alert.id.clone(), hash)));
                        self.open.entry(alert.camera.clone()).or_default().push(alert);
                    }
                    return;
                }
                Err(error) => {
                    self.sinks.health.set(
                        SUBJECT,
                        Severity::Failed,
                        format!("open alerts are not known: {error}"),
                    );
                    tokio::time::sleep(RETRY[0] * attempt).await;
                }
            }
        }
    }

    async fn watch(&mut self, camera: Arc<config::Camera>) {
        let id = camera.id.clone();
        let mut changes = Vec::new();
        let watch = match self.watches.remove(&id) {
            Some(mut watch) => {
                changes.extend(watch.retune(camera));
                watch
            }
            None => Watch::new(camera),
        };
        let watch = self.watches.entry(id.clone()).or_insert(watch);
        for alert in self.open.remove(&id).unwrap_or_default() {
            changes.extend(watch.resume(alert));
        }
        self.take(changes).await;
    }

    async fn unwatch(&mut self, camera: &str) {
        let mut changes = Vec::new();
        if let Some(mut watch) = self.watches.remove(camera) {
            changes.extend(watch.close());
        }
        changes.extend(self.open.remove(camera).unwrap_or_default().into_iter().filter_map(watch::ended));
        self.take(changes).await;
    }

    async fn end_orphans(&mut self) {
        self.orphaned_at = None;
        let orphans = std::mem::take(&mut self.open).into_values().flatten();
        self.take(orphans.filter_map(watch::ended).collect()).await;
    }

    async fn look(&mut self, looked: Looked) {
        let Some(watch) = self.watches.get_mut(&looked.camera) else { return };
        let detections = plausible(looked.detections);
        let look = Look {
            at: looked.capture,
            detections: &detections,
            jpeg: looked.jpeg.as_ref(),
            model: &looked.model,
        };
        let outcome = watch.look(&look);
        if !outcome.counted.is_empty() {
            let metrics = &self.sinks.health.metrics.detections;
            for detection in &outcome.counted {
                metrics.get_or_create(&CameraClass::new(&*looked.camera, &detection.class)).inc();
            }
            let (camera, capture, model) = (looked.camera, looked.capture, looked.model);
            let stored = blocking(&self.sinks, move |sinks| {
                sinks.store.put_detections(&camera, capture, &model, &outcome.counted)
            });
            if let Err(error) = stored.await {
                let message =
                    format!("detections are not stored: {error}; look at the disk that holds state.db");
                self.sinks.health.set("store/detections", Severity::Degraded, message);
            } else {
                self.sinks.health.ok("store/detections");
            }
        }
        self.take(outcome.changes).await;
    }

    /// Draws, pins, stores and sends what changed.
    async fn take(&mut self, changes: Vec<Change>) {
        for change in changes {
            if change.what == What::Widened {
                pin(&self.sinks, change.alert).await;
                continue;
            }
            if change.what == What::Confirmed {
                let label = CameraKind::new(&*change.alert.camera, kind_name(&change.alert));
                self.sinks.health.metrics.alerts.get_or_create(&label).inc();
            }
            let Alert { id, kind, camera, revision, phase, .. } = &change.alert;
            tracing::info!(%camera, ?kind, alert = %id, revision, ?phase, "alert");
            let snapshot = match change.picture {
                Some(clean) => draw(clean, change.alert.boxes.clone()).await,
                None => None,
            };
            let hash = match &snapshot {
                Some(jpeg) => {
                    let hash = sha256(jpeg);
                    self.snapshots.insert(change.alert.id.clone(), hash.clone());
                    Some(hash)
                }
                None => self.snapshots.get(&change.alert.id).cloned(),
            };
            if change.what == What::Ended {
                self.snapshots.remove(&change.alert.id);
            }
            self.backlog.push(Pending { alert: change.alert, snapshot, snapshot_sha256: hash });
        }
        if self.retry_at.is_none() {
            self.flush().await;
        }
    }

    /// Stores what waits, oldest first, until the store refuses.
    async fn flush(&mut self) {
        self.retry_at = None;
        while let Some(pending) = self.backlog.front() {
            let pending = pending.clone();
            pin(&self.sinks, pending.alert.clone()).await;
            let stored = blocking(&self.sinks, move |sinks| {
                let events = sinks.dispatch.events(&pending.alert, pending.snapshot_sha256.as_deref());
                sinks.store.put_alert(&pending.alert, pending.snapshot.as_ref(), &events)
            });
            match stored.await {
                Ok(()) => {
                    self.backlog.pop();
                    self.sinks.dispatch.wake();
                    self.pause = RETRY[0];
                    self.sinks.health.ok(SUBJECT);
                }
                Err(error) => {
                    let message = format!(
                        "{} alerts wait in memory, state.db does not take them: {error}; they are sent once it does: \
                         look at the disk that holds it",
                        self.backlog.len()
                    );
                    self.sinks.health.set(SUBJECT, Severity::Failed, message);
                    self.retry_at = Some(Instant::now() + self.pause);
                    self.pause = (self.pause * 2).min(RETRY[1]);
                    return;
                }
            }
        }
    }

    /// Looks at what has been found, stores what waits. Active alerts stay open for the next start.
    async fn finish(&mut self, mut found: mpsc::Receiver<Looked>, deadline: Instant) -> bool {
        let work = async {
            found.close();
            while let Some(looked) = found.recv().await {
                self.look(looked).await;
            }
            while !self.backlog.is_empty() {
                tokio::time::sleep(RETRY[0]).await;
                self.flush().await;
            }
        };
        if tokio::time::timeout_at(deadline, work).await.is_ok() {
            return true;
        }
        let ids: Vec<_> = self.backlog.iter().map(|pending| pending.alert.id.as_str()).collect();
        tracing::error!(alerts = ids.join(" "), "these alerts could not be stored before the stop");
        false
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Runs what blocks on a thread where it may.
async fn blocking<T: Send + 'static>(
    sinks: &Sinks,
    work: impl FnOnce(&Sinks) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let sinks = sinks.clone();
    match tokio::task::spawn_blocking(move || work(&sinks)).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::Corrupt(format!("the query did not end: {error}"))),
    }
}

/// Keeps the alert's evidence in the ring; the next revision or widening tries again what fails.
async fn pin(sinks: &Sinks, alert: Alert) {
    let (ring, camera) = (sinks.ring.clone(), alert.camera.clone());
    let range = alert.evidence_start..alert.evidence_end;
    let subject = format!("record/evidence/{camera}");
    let pinned = tokio::task::spawn_blocking(move || ring.pin(&alert.id, &alert.camera, range)).await;
    match pinned {
        Ok(Ok(())) => sinks.health.remove(&subject),
        Ok(Err(error)) => {
            let message = format!("the evidence of an alert is not kept beyond the ring's age: {error}");
            sinks.health.set(&subject, Severity::Degraded, message);
        }
        Err(error) => tracing::error!(%camera, "pinning evidence: {error}"),
    }
}

/// The snapshot; the clean picture where it cannot be drawn on, since a picture without boxes beats none.
async fn draw(clean: Bytes, boxes: Vec<Detection>) -> Option<Bytes> {
    let drawing = tokio::task::spawn_blocking(move || match picture::draw(&clean, &boxes) {
        Ok(drawn) => drawn,
        Err(error) => {
            tracing::warn!("{error}");
            clean
        }
    });
    drawing.await.ok()
}

/// What the worker sent, as far as it can be: finite, ordered, inside the picture; the best come first.
fn plausible(detections: Vec<Detection>) -> Vec<Detection> {
    let inside = |mut detection: Detection| {
        let finite = detection.score.is_finite() && detection.bbox.iter().all(|value| value.is_finite());
        detection.bbox = detection.bbox.map(|value| value.clamp(0.0, 1.0));
        let [x0, y0, x1, y1] = detection.bbox;
        (finite && x0 < x1 && y0 < y1 && detection.class.len() <= 64).then_some(detection)
    };
    let mut plausible: Vec<_> = detections.into_iter().filter_map(inside).collect();
    plausible.sort_by(|a, b| b.score.total_cmp(&a.score));
    plausible.truncate(MAX_DETECTIONS);
    plausible
}

/// The kind's name in the contract.
fn kind_name(alert: &Alert) -> String {
    match serde_json::to_value(alert.kind) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
