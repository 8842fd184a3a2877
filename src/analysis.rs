//! From looks to alerts that are stored, pinned and sent: the one place where vision, the alert logic, the ring, the
//! store and the outbox meet.
//!
//! The logic itself is pure and lives in [`crate::alert`]. Alerts are never dropped: what the store does not take in
//! time is sent from memory and stored later ([`outgoing`]). Nothing here waits long for a disk: one that hangs must not
//! keep the next alert from being seen.

mod backlog;
mod outgoing;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::alert::watch::{self, Change, Look, Watch, What};
use crate::alert::{Alert, Detection, picture};
use crate::config::{self, Id};
use crate::dispatch::{self, Dispatch};
use crate::health::{CameraClass, CameraKind, Health, Severity};
use crate::record::{Pin, Ring};
use crate::store::{Filter, Store, StoreError};
use crate::vision::Looked;
use backlog::Pending;
use outgoing::Outgoing;

/// The health subject of what cannot be stored.
const SUBJECT: &str = "store/alerts";

/// So much of an event's recording is kept as evidence. The rest of one that goes on for hours lives as long as the
/// ring: an alarm that never ends must not push everything else out of it.
const EVIDENCE_MOST: Duration = Duration::from_secs(600);

/// Open alerts of cameras that nobody watches so long after the start end: the camera is no longer configured.
const ORPHANED_AFTER: Duration = Duration::from_secs(60);

/// A disk that does not answer for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// The start waits so long for the alerts that were open, since without them their events make second ones.
const START_PATIENCE: Duration = Duration::from_secs(10);

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
            outgoing: Outgoing::new(store.clone(), dispatch, health.clone()),
            store,
            ring,
            health,
            watches: BTreeMap::new(),
            open: BTreeMap::new(),
            orphaned_at: Some(Instant::now() + ORPHANED_AFTER),
            snapshots: HashMap::new(),
            state_db: Disk::default(),
            index_db: Disk::default(),
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

    /// False once stopped, or should the task have failed.
    pub fn is_running(&self) -> bool {
        !self.commands.is_closed()
    }

    fn tell(&self, command: Command) {
        // Fails only once the task has been stopped, when there is nothing to tell it any more.
        let _ = self.commands.send(command);
    }
}

struct Task {
    store: Arc<Store>,
    ring: Arc<Ring>,
    health: Health,
    watches: BTreeMap<Id, Watch>,
    /// Alerts that were open at the last stop, by camera, until that camera is watched again.
    open: BTreeMap<Id, Vec<Alert>>,
    orphaned_at: Option<Instant>,
    /// SHA-256 of the open alerts' snapshots as stored, which later revisions name again.
    snapshots: HashMap<String, String>,
    outgoing: Outgoing,
    /// For open alerts and detections.
    state_db: Disk,
    /// For pins.
    index_db: Disk,
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
            let orphaned_at = self.orphaned_at;
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
                stored = self.outgoing.next() => self.adopt(&stored),
                () = at(orphaned_at) => self.end_orphans().await,
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
            let store = self.store.clone();
            let loaded = self.state_db.call(START_PATIENCE, move || {
                let with_hash = |alert: Alert| {
                    let snapshot = store.snapshot(&alert.id)?;
                    Ok((alert, snapshot.map(|jpeg| dispatch::sha256(&jpeg))))
                };
                store.open_alerts()?.into_iter().map(with_hash).collect::<Result<Vec<_>, StoreError>>()
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
                    let message = format!("open alerts are not known: {error}");
                    self.health.set(SUBJECT, Severity::Failed, message);
                    tokio::time::sleep(Duration::from_millis(500) * attempt).await;
                }
            }
        }
    }

    async fn watch(&mut self, camera: Arc<config::Camera>) {
        let id = camera.id.clone();
        for rule in camera.scene.iter().flat_map(|scene| &scene.rules) {
            // From zero on, so that the first one is an increase.
            let metrics = &self.health.metrics;
            drop(metrics.alerts.get_or_create(&CameraKind::new(&*id, rule.kind.as_str())));
            drop(metrics.detections.get_or_create(&CameraClass::new(&*id, &rule.class)));
        }
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
        self.take(outcome.changes).await;
        if !outcome.counted.is_empty() {
            let metrics = &self.health.metrics.detections;
            for detection in &outcome.counted {
                metrics.get_or_create(&CameraClass::new(&*looked.camera, &detection.class)).inc();
            }
            self.log(looked.camera, looked.capture, looked.model, outcome.counted).await;
        }
    }

    /// Remembers detections; they are a log, and what the store does not take is not tried again.
    async fn log(&mut self, camera: Id, capture: Timestamp, model: Arc<str>, counted: Vec<Detection>) {
        let store = self.store.clone();
        let write = move || store.put_detections(&camera, capture, &model, &counted);
        match self.state_db.call(PATIENCE, write).await {
            Ok(()) => self.health.ok("store/detections"),
            Err(error) => {
                let message =
                    format!("detections are not stored: {error}; look at the disk that holds state.db");
                self.health.set("store/detections", Severity::Degraded, message);
            }
        }
    }

    /// What others did with the alert is what its next revision begins from.
    fn adopt(&mut self, stored: &Alert) {
        if let Some(watch) = self.watches.get_mut(&stored.camera) {
            watch.adopt(stored);
        }
    }

    /// Pins and draws what changed, and has it stored and sent.
    async fn take(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.pin(&change.alert).await;
            if change.what == What::Widened {
                continue;
            }
            if change.what == What::Confirmed {
                let label = CameraKind::new(&*change.alert.camera, change.alert.kind.as_str());
                self.health.metrics.alerts.get_or_create(&label).inc();
            }
            let Alert { id, kind, camera, revision, phase, .. } = &change.alert;
            tracing::info!(%camera, ?kind, alert = %id, revision, ?phase, "alert");
            let snapshot = match change.picture {
                Some(clean) => draw(clean, change.alert.boxes.clone()).await,
                None => None,
            };
            let hash = match &snapshot {
                Some(jpeg) => {
                    let hash = dispatch::sha256(jpeg);
                    self.snapshots.insert(change.alert.id.clone(), hash.clone());
                    Some(hash)
                }
                None => self.snapshots.get(&change.alert.id).cloned(),
            };
            if change.what == What::Ended {
                self.snapshots.remove(&change.alert.id);
            }
            self.outgoing.push(Pending::new(change.alert, snapshot, hash));
        }
    }

    /// Keeps the alert's evidence in the ring; the next revision or widening tries again what fails.
    async fn pin(&mut self, alert: &Alert) {
        let subject = format!("record/evidence/{}", alert.camera);
        let (ring, id, camera) = (self.ring.clone(), alert.id.clone(), alert.camera.clone());
        let range = kept(alert.started_at, alert.evidence_start..alert.evidence_end);
        match self.index_db.call(PATIENCE, move || ring.pin(&id, &camera, range)).await {
            Ok(()) => self.health.remove(&subject),
            Err(error) => {
                let message = format!("the evidence of an alert is not kept beyond the ring's age: {error}");
                self.health.set(&subject, Severity::Degraded, message);
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
            self.outgoing.hurry();
            while !self.outgoing.is_empty() {
                self.outgoing.next().await;
            }
        };
        if tokio::time::timeout_at(deadline, work).await.is_ok() {
            return true;
        }
        let ids: Vec<_> = self.outgoing.waiting().map(|alert| alert.id.as_str()).collect();
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

/// One blocking call at a time to a disk that may hang: then it holds one thread, and nobody waits behind it.
#[derive(Default)]
struct Disk {
    call: Option<AbortHandle>,
}

impl Disk {
    /// Fails where the call does, or is not done within that time; it still runs on then.
    async fn call<T: Send + 'static, E: std::fmt::Display + Send + 'static>(
        &mut self,
        within: Duration,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, String> {
        if self.call.as_ref().is_some_and(|call| !call.is_finished()) {
            return Err("the disk has not answered an earlier call yet".to_owned());
        }
        let call = tokio::task::spawn_blocking(work);
        self.call = Some(call.abort_handle());
        match tokio::time::timeout(within, call).await {
            Ok(Ok(done)) => done.map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the disk did not answer within {within:?}")),
        }
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

/// What the alerts that are stored keep in the ring, for an index that has lost it.
pub fn pins(store: &Store) -> Result<Vec<Pin>, StoreError> {
    let mut filter = Filter { limit: 1000, ..Filter::default() };
    let mut pins = Vec::new();
    loop {
        let page = store.alerts(&filter)?;
        pins.extend(page.items.iter().map(|alert| Pin {
            alert: alert.id.clone(),
            camera: alert.camera.to_string(),
            range: kept(alert.started_at, alert.evidence_start..alert.evidence_end),
        }));
        if page.next.is_none() {
            return Ok(pins);
        }
        filter.cursor = page.next;
    }
}

/// Pins the evidence of every stored alert again, where an index has lost it.
pub fn pin_again(store: &Store, ring: &Ring) -> anyhow::Result<()> {
    if ring.has_pins()? {
        return Ok(());
    }
    for Pin { alert, camera, range } in pins(store)? {
        ring.pin(&alert, &camera, range)?;
    }
    Ok(())
}

/// What of the evidence of an event that began then outlives the ring.
fn kept(began: Timestamp, evidence: Range<Timestamp>) -> Range<Timestamp> {
    let most = began.checked_add(EVIDENCE_MOST).unwrap_or(evidence.end);
    evidence.start..evidence.end.min(most)
}

#[cfg(test)]
mod tests;
