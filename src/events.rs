//! Live events: what happens on the box, in one order, for whoever follows.
//!
//! Alerts are followed along the store's log, which outlives the process. States (cameras, channels, health) are looked
//! at when something says that it has changed, and what differs is told; they lie in a bounded ring and are gone with the
//! process. So a client that was away gets every revision of every alert, and of states either each change or a `reset`
//! that names what to fetch again.
//!
//! Each event is written once, however many follow. A follower is a place in the ring and holds nothing: one that is slow
//! finds its place gone and is reset. What does not belong here: HTTP.

mod differences;
mod log;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::access::{Action, Person};
use crate::alert::Alert;
use crate::config::Id;
use crate::dispatch::Document;
use crate::health::{Health, Severity};
use crate::live::Directory;
use crate::relay::channels::Channels;
use crate::settings::Settings;
use crate::store::{Store, StoreError};
use differences::Seen;
pub use differences::{CameraHealth, CameraState, OnAirNow, SubjectState};
use log::{Log, Position, Step};

/// How often is looked for what nobody signals: alerts that another process has stored, another configuration.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// States that change more often are told of together.
const TOGETHER: Duration = Duration::from_millis(100);

/// Revisions of alerts that are read at once.
const BATCH: usize = 100;

/// Followers of one person or, of those who are not signed in, one address; and in all.
const OF_ONE: usize = 16;
const IN_ALL: usize = 256;

/// The health subject of alerts that cannot be followed.
const SUBJECT: &str = "events";

/// What a client cannot know and must fetch again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = EventSubject)]
pub enum Subject {
    Alerts,
    Cameras,
    Channels,
    Health,
}

/// `event: reset`
#[derive(serde::Serialize, utoipa::ToSchema)]
#[schema(as = ResetEvent)]
pub struct Reset {
    pub refetch: Vec<Subject>,
}

/// Whom an event concerns.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum About {
    Alert(Id),
    Camera(Id),
    /// A channel that went from one camera to another.
    Channel {
        from: Option<Id>,
        to: Id,
    },
    Box,
    Everyone,
}

/// An event as it is sent.
#[derive(Debug)]
pub struct Event {
    about: About,
    /// In the event stream format.
    frame: Bytes,
    /// The same for who may know less of it.
    brief: Bytes,
}

impl Event {
    fn new(id: &str, draft: &Draft) -> Event {
        let frame = |data: &str| Bytes::from(format!("id: {id}\nevent: {}\ndata: {data}\n\n", draft.name));
        let full = frame(&draft.data);
        let brief = draft.brief.as_deref().map_or_else(|| full.clone(), frame);
        Event { about: draft.about.clone(), frame: full, brief }
    }

    /// What this person is told of it, if anything.
    pub fn told_to(&self, person: &Person) -> Option<Bytes> {
        use Action::{Alerts, Live, Metrics, Recordings};
        let may = |action, camera: &Id| person.may(action, Some(camera));
        let (knows, whole) = match &self.about {
            About::Alert(camera) => (may(Alerts, camera), true),
            // Causes name addresses of the inner network.
            About::Camera(camera) => (may(Live, camera), may(Recordings, camera)),
            About::Channel { from, to } => {
                let whole = may(Live, to);
                (whole || from.as_ref().is_some_and(|from| may(Live, from)), whole)
            }
            About::Box => (person.may(Metrics, None), true),
            About::Everyone => (true, true),
        };
        knows.then(|| if whole { self.frame.clone() } else { self.brief.clone() })
    }

    fn bytes(&self) -> usize {
        self.frame.len() + self.brief.len()
    }
}

/// An event that has no place yet.
pub(crate) struct Draft {
    about: About,
    name: &'static str,
    data: String,
    brief: Option<String>,
}

impl Draft {
    fn new(about: About, name: &'static str, data: &impl serde::Serialize) -> Draft {
        Draft { about, name, data: json(data), brief: None }
    }

    fn with_brief(self, data: &impl serde::Serialize) -> Draft {
        Draft { brief: Some(json(data)), ..self }
    }

    fn alert(alert: &Alert) -> Draft {
        Draft::new(About::Alert(alert.camera.clone()), "alert", &Document::of(alert))
    }

    fn reset(refetch: Vec<Subject>) -> Draft {
        Draft::new(About::Everyone, "reset", &Reset { refetch })
    }
}

/// On one line, as the event stream format needs it.
fn json(data: &impl serde::Serialize) -> String {
    serde_json::to_string(data).unwrap_or_else(|error| {
        // Our own structures hold nothing that JSON could not write.
        tracing::error!("an event cannot be written: {error}");
        "null".to_owned()
    })
}

/// The events, from the start of the process on.
pub struct Events {
    store: Arc<Store>,
    health: Health,
    log: Mutex<Log>,
    /// Counts events; signalled after the lock on `log` is released.
    pushed: watch::Sender<u64>,
    followers: Mutex<HashMap<String, usize>>,
    stop: CancellationToken,
    task: OnceLock<AbortHandle>,
}

/// What is watched for changes of state.
pub struct Watched {
    pub settings: Settings,
    pub streams: Arc<Directory>,
    pub channels: Arc<Channels>,
    pub health: Health,
}

/// Why somebody may not follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMany {
    /// Of this person or address.
    OfOne,
    InAll,
}

impl Events {
    /// Begins with what the store and the box hold now; followers end with `stop`. Call it within a tokio runtime.
    pub fn start(
        store: Arc<Store>,
        watched: Watched,
        stop: CancellationToken,
    ) -> Result<Arc<Events>, StoreError> {
        let boot = format!("{:08x}", rand::random::<u32>());
        let log = Log::new(boot, store.alert_log_end()?);
        let events = Arc::new(Events {
            store,
            health: watched.health.clone(),
            log: Mutex::new(log),
            pushed: watch::Sender::new(0),
            followers: Mutex::default(),
            stop,
            task: OnceLock::new(),
        });
        let run = events.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = run.stop.cancelled() => {}
                () = run.watch_alerts() => {}
                () = run.watch_states(&watched) => {}
            }
        });
        events.task.get_or_init(|| task.abort_handle());
        Ok(events)
    }

    /// False once stopped, or should watching have failed.
    pub fn is_running(&self) -> bool {
        self.task.get().is_some_and(|task| !task.is_finished())
    }

    /// Follows what happens from now on or, with the id of an event, after that event. `who` is whom the follower counts
    /// for.
    pub fn follow(self: &Arc<Self>, who: &str, after: Option<&str>) -> Result<Follower, TooMany> {
        let mut followers = self.followers();
        let of_one = followers.get(who).copied().unwrap_or_default();
        if of_one >= OF_ONE {
            return Err(TooMany::OfOne);
        }
        if followers.values().sum::<usize>() >= IN_ALL {
            return Err(TooMany::InAll);
        }
        followers.insert(who.to_owned(), of_one + 1);
        drop(followers);
        self.health.metrics.event_followers.inc();
        let pushed = self.pushed.subscribe();
        let log = self.log();
        let at = after.map_or_else(|| log.end(), |id| log.position(id));
        drop(log);
        Ok(Follower { events: self.clone(), who: who.to_owned(), at, pushed, read: VecDeque::new() })
    }

    /// Follows the store's log, without waiting for anything else.
    async fn watch_alerts(&self) {
        let mut failed = false;
        loop {
            let last = self.log().end().alerts;
            match self.read(last, u64::MAX).await {
                Ok(rows) => {
                    if std::mem::take(&mut failed) {
                        self.health.remove(SUBJECT);
                    }
                    let more = rows.len() == BATCH;
                    let drafts =
                        rows.into_iter().map(|(seq, alert)| (Some(seq), alert.as_ref().map(Draft::alert)));
                    self.push(drafts);
                    if more {
                        continue;
                    }
                }
                Err(error) => {
                    failed = true;
                    let message =
                        format!("alerts are not told live: {error}; look at the disk that holds state.db");
                    self.health.set(SUBJECT, Severity::Degraded, message);
                }
            }
            // Failing, it must not be tried at once again.
            tokio::select! {
                () = self.store.alert_logged(), if !failed => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn watch_states(&self, watched: &Watched) {
        let mut seen = Seen::look(watched);
        loop {
            tokio::select! {
                () = watched.health.changed() => {}
                () = watched.channels.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let now = Seen::look(watched);
            self.push(seen.differences(&now).into_iter().map(|draft| (None, Some(draft))));
            seen = now;
            tokio::time::sleep(TOGETHER).await;
        }
    }

    /// Appends events, each with its number in the store's log where it has one.
    fn push(&self, drafts: impl Iterator<Item = (Option<u64>, Option<Draft>)>) {
        let mut log = self.log();
        let before = log.end();
        for (seq, draft) in drafts {
            log.push(seq, draft);
        }
        let changed = log.end() != before;
        drop(log);
        if changed {
            self.pushed.send_modify(|count| *count += 1);
        }
    }

    async fn read(&self, after: u64, until: u64) -> Result<Vec<(u64, Option<Alert>)>, StoreError> {
        let store = self.store.clone();
        let reading = tokio::task::spawn_blocking(move || store.alert_log(after, until, BATCH));
        reading
            .await
            .unwrap_or_else(|error| Err(StoreError::Corrupt(format!("the query did not end: {error}"))))
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn followers(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.followers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Somebody's place among the events.
pub struct Follower {
    events: Arc<Events>,
    who: String,
    at: Position,
    pushed: watch::Receiver<u64>,
    /// Revisions read from the store and not told yet.
    read: VecDeque<(u64, Option<Alert>)>,
}

impl Follower {
    /// The next event, whoever may know it; `None` where the box stops, or the store does not answer. Cancel safe.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            self.pushed.borrow_and_update();
            let step = self.events.log().step(&mut self.at);
            match step {
                Step::Event(event) => return Some(event),
                Step::Lost(subjects) => {
                    self.read.clear();
                    self.events.health.metrics.event_resets.inc();
                    return Some(Arc::new(Event::new(&self.id(), &Draft::reset(subjects))));
                }
                Step::Alerts { until } => {
                    if let Some(event) = self.catch_up(until).await? {
                        return Some(event);
                    }
                }
                Step::Wait => tokio::select! {
                    () = self.events.stop.cancelled() => return None,
                    changed = self.pushed.changed() => changed.ok()?,
                },
            }
        }
    }

    /// A comment that shows life, and moves the client's place past what it is not told.
    pub fn heartbeat(&self) -> Bytes {
        format!(":\nid: {}\n\n", self.id()).into()
    }

    fn id(&self) -> String {
        self.events.log().id(self.at)
    }

    /// The next revision of an alert that the store holds, up to the one of that number.
    async fn catch_up(&mut self, until: u64) -> Option<Option<Arc<Event>>> {
        if self.read.is_empty() {
            match self.events.read(self.at.alerts, until).await {
                Ok(rows) => self.read.extend(rows),
                Err(error) => {
                    tracing::warn!("live events: {error}");
                    return None;
                }
            }
        }
        match self.read.pop_front() {
            // What was there has been forgotten since.
            None => self.at.alerts = until,
            Some((seq, alert)) => {
                self.at.alerts = seq;
                if let Some(alert) = alert {
                    return Some(Some(Arc::new(Event::new(&self.id(), &Draft::alert(&alert)))));
                }
            }
        }
        Some(None)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.events.health.metrics.event_followers.dec();
        let mut followers = self.events.followers();
        if let Some(count) = followers.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                followers.remove(&self.who);
            }
        }
    }
}
