//! One destination's deliveries: takes what is due from the outbox, keeps each alert's revisions in order, and says
//! in metrics and health how it goes. A lane waits for nothing of another's.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::memory::{Job, Memory};
use super::pace::Pace;
use super::webhook::{Client, Failure, shown};
use crate::alert::Alert;
use crate::config::{Destination, DestinationKind};
use crate::health::{DestinationLabel, Health, Severity};
use crate::store::{DeadLetter, Store, StoreError};

/// How often the outbox is looked at when nothing calls for it.
const IDLE: Duration = Duration::from_secs(60);

/// After a failure that the store could not note.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// While something is under way, the outbox is looked at this often for something else.
const BUSY: Duration = Duration::from_secs(1);

/// Writes to the store at once. A store that hangs holds as many threads and stored events; ones in memory go on.
const MOST_NOTES: usize = 16;

/// Attempts that are under way at a stop have this long.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Failures in a row for this long are no hiccup.
const HICCUP: Duration = Duration::from_secs(60);

/// Dead letters are shown in health for this long.
const MOURNED: Duration = Duration::from_secs(86_400);

/// What all lanes need.
#[derive(Clone)]
pub struct Shared {
    pub store: Arc<Store>,
    pub health: Health,
}

/// The handle to a destination's task.
pub struct Lane {
    destination: Arc<Destination>,
    memory: Arc<Mutex<Memory>>,
    wake: Arc<Notify>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// A lane that is dropped ends, too.
    _end: DropGuard,
}

impl Lane {
    /// Starts once `before`, the same destination's lane with other settings, has ended, and takes over its memory.
    pub fn start(destination: Arc<Destination>, shared: Shared, before: Option<Lane>) -> Lane {
        let memory = before.as_ref().map(|lane| lane.memory.clone()).unwrap_or_default();
        let wake = Arc::new(Notify::new());
        let stop = CancellationToken::new();
        let deliveries = Deliveries {
            subject: format!("dispatch/{}", destination.name),
            label: DestinationLabel::new(&destination.name),
            destination: destination.clone(),
            client: Client::new(destination.reach.clone()),
            shared,
            memory: memory.clone(),
            wake: wake.clone(),
            stop: stop.clone(),
            pace: Pace::default(),
            attempts: JoinSet::new(),
            notes: JoinSet::new(),
            tidying: false,
            under_way: HashSet::new(),
            refused: BTreeMap::new(),
            trouble: None,
            unnoted: None,
        };
        drop(deliveries.shared.health.metrics.outbox_delivery_seconds.get_or_create(&deliveries.label));
        let task = tokio::spawn(async move {
            if let Some(before) = before {
                before.cancel();
                before.ended().await;
            }
            deliveries.run().await;
        });
        let _end = stop.clone().drop_guard();
        Lane { destination, memory, wake, stop, task, _end }
    }

    pub fn serves(&self, destination: &Arc<Destination>) -> bool {
        self.destination == *destination
    }

    pub fn wake(&self) {
        self.wake.notify_one();
    }

    pub fn send_unstored(&self, alert: &Alert, body: Bytes) {
        let now = Timestamp::now();
        let event = format!("{}.{}", alert.id, alert.revision);
        lock(&self.memory).hold(Job { row: None, event, body, created: now, attempts: 0, due: now });
        self.wake();
    }

    pub fn cancel(&self) {
        self.stop.cancel();
    }

    pub async fn ended(self) {
        if let Err(error) = self.task.await {
            tracing::error!(destination = self.destination.name, "the deliveries ended badly: {error}");
        }
    }

    /// The destination is no longer configured.
    pub fn remove(&self, health: &Health) {
        self.cancel();
        let subject = format!("dispatch/{}", self.destination.name);
        health.remove(&subject);
        health.remove(&format!("{subject}/undelivered"));
        health.metrics.outbox_pending.remove(&DestinationLabel::new(&self.destination.name));
    }
}

struct Deliveries {
    destination: Arc<Destination>,
    subject: String,
    label: DestinationLabel,
    client: Client,
    shared: Shared,
    memory: Arc<Mutex<Memory>>,
    wake: Arc<Notify>,
    stop: CancellationToken,
    pace: Pace,
    attempts: JoinSet<Attempt>,
    /// What is being written to the store. Never waited for: a store that hangs must not hold up other alerts.
    notes: JoinSet<Note>,
    tidying: bool,
    /// Alerts with an attempt under way, or its outcome not yet noted.
    under_way: HashSet<String>,
    /// Events that the destination says no to, and its last words.
    refused: BTreeMap<String, String>,
    /// The destination's last failure.
    trouble: Option<String>,
    /// Why the store did not take the last note.
    unnoted: Option<String>,
}

/// What waits for a destination.
#[derive(Default)]
struct Survey {
    due: Vec<Job>,
    next_due: Option<Timestamp>,
    pending: u64,
    dead: (u64, Option<DeadLetter>),
    /// Rows that have arrived, and rows that are too old: still to be noted.
    arrived: Vec<i64>,
    expired: Vec<(i64, String)>,
    /// Where the store could not be asked everything.
    error: Option<String>,
}

impl Survey {
    /// The store's part.
    fn stored(
        &mut self,
        store: &Store,
        name: &str,
        memory: &Mutex<Memory>,
        (before, now): (Timestamp, Timestamp),
        limit: usize,
    ) -> Result<(), StoreError> {
        for entry in store.due(name, now, limit)?.into_iter().filter(|entry| entry.created >= before) {
            let mut memory = lock(memory);
            if memory.has_arrived(&entry.event) {
                self.arrived.push(entry.row);
                continue;
            }
            memory.forget(&entry.event);
            self.due.push(Job {
                row: Some(entry.row),
                event: entry.event,
                body: entry.body,
                created: entry.created,
                attempts: entry.attempts,
                due: entry.due,
            });
        }
        (self.next_due, self.pending) = store.outbox_state(name)?;
        let expired = store.expired(name, before, 100)?;
        self.expired = expired.into_iter().map(|entry| (entry.row, entry.event)).collect();
        self.dead = store.dead_letters(name, now.saturating_sub(MOURNED).unwrap_or(Timestamp::MIN))?;
        Ok(())
    }
}

/// Something was written to the store, or not.
struct Note {
    error: Option<String>,
    about: About,
}

enum About {
    /// An attempt of this alert.
    Arrived(String),
    Failed(String),
    /// What a survey has left to be written.
    Tidied,
}

type Attempt = (Job, Result<(), Failure>);

impl Deliveries {
    async fn run(mut self) {
        while !self.stop.is_cancelled() {
            let wait = self.pass().await;
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = self.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
                Some(attempt) = self.attempts.join_next() => self.settle(attempt.ok()),
                Some(note) = self.notes.join_next() => self.noted(note.ok()),
            }
        }
        let _ = tokio::time::timeout(LAST_WORD, async {
            while let Some(attempt) = self.attempts.join_next().await {
                self.settle(attempt.ok());
            }
            while self.notes.join_next().await.is_some() {}
        })
        .await;
    }

    /// Starts what may start now; tells how long nothing new is expected.
    async fn pass(&mut self) -> Duration {
        let mut survey = self.survey().await;
        self.tidy(std::mem::take(&mut survey.arrived), std::mem::take(&mut survey.expired));
        let room = self.pace.abreast(Instant::now()).saturating_sub(self.attempts.len());
        let mut started = 0;
        for job in survey.due {
            if started == room {
                break;
            }
            // Each note may hold a thread while the store hangs; what memory has needs none.
            let notable = job.row.is_none() || self.notes.len() < MOST_NOTES;
            if notable && self.under_way.insert(job.alert().to_owned()) {
                started += 1;
                self.attempt(job);
            }
        }
        self.mourn(survey.dead);
        self.report(survey.error.as_deref().or(self.unnoted.as_deref()), survey.pending);

        let now = Timestamp::now();
        let due = survey
            .next_due
            .map_or(IDLE, |due| Duration::try_from(due.duration_since(now)).unwrap_or_default());
        let paused =
            self.pace.paused_until().map_or(Duration::ZERO, |until| until.duration_since(Instant::now()));
        // What is under way is due as well; it wakes this task by itself when it is done.
        let busy = !self.attempts.is_empty() || !self.notes.is_empty() || self.unnoted.is_some();
        let floor = if busy || survey.error.is_some() { BUSY } else { Duration::from_millis(10) };
        due.max(paused).max(floor).min(IDLE)
    }

    fn attempt(&mut self, job: Job) {
        let (client, destination) = (self.client.clone(), self.destination.clone());
        self.attempts.spawn(async move {
            let DestinationKind::Webhook { url, secret } = &destination.kind;
            let outcome = client.post(url, secret.as_ref(), &job.event, job.body.clone()).await;
            (job, outcome)
        });
    }

    fn tidy(&mut self, arrived: Vec<i64>, expired: Vec<(i64, String)>) {
        if self.tidying || (arrived.is_empty() && expired.is_empty()) {
            return;
        }
        self.tidying = true;
        expired.iter().for_each(|(_, event)| _ = self.refused.remove(event));
        let reason = format!("not acknowledged within {:?}", self.destination.expire);
        self.note(About::Tidied, move |store| {
            arrived.into_iter().try_for_each(|row| store.acknowledged(row))?;
            expired.into_iter().try_for_each(|(row, _)| store.give_up(row, &reason))
        });
    }

    /// Never fails as a whole: with a store that refuses, what memory holds is sent all the same.
    async fn survey(&self) -> Survey {
        let memory = self.memory.clone();
        let name = self.destination.name.clone();
        let expire = self.destination.expire;
        // Events that cannot be sent now still stand in front of the others.
        let limit = self.under_way.len() + lock(&memory).arrived() + 8;
        let survey = self.in_store(move |store| {
            let mut survey = Survey::default();
            let now = Timestamp::now();
            let before = now.saturating_sub(expire).unwrap_or(Timestamp::MIN);
            lock(&memory).expire(before);
            let stored = survey.stored(store, &name, &memory, (before, now), limit);
            survey.error = stored.err().map(|error| error.to_string());
            let unstored = lock(&memory).first_of_each();
            for job in unstored.into_iter().filter(|job| job.due <= now) {
                // An earlier revision may wait in the outbox. Where that cannot be read, arriving counts for more.
                if !store.waits(&name, job.alert()).unwrap_or(false) {
                    survey.due.push(job);
                }
            }
            survey.next_due = [survey.next_due, lock(&memory).next_due()].into_iter().flatten().min();
            survey.pending += lock(&memory).len() as u64;
            Ok(survey)
        });
        survey.await.unwrap_or_else(|error| Survey { error: Some(error), ..Survey::default() })
    }

    /// `None`: the attempt's task died, which only a bug can do; everything is due again.
    fn settle(&mut self, attempt: Option<Attempt>) {
        match attempt {
            Some((job, Ok(()))) => self.arrived(job),
            Some((job, Err(failure))) => self.failed(job, failure),
            None => {
                self.under_way.clear();
                self.pace.failed(0, None, Instant::now());
            }
        }
    }

    fn arrived(&mut self, job: Job) {
        let delay = Timestamp::now().duration_since(job.created).as_secs_f64().max(0.0);
        self.shared.health.metrics.outbox_delivery_seconds.get_or_create(&self.label).observe(delay);
        self.refused.remove(&job.event);
        let was_away = self.pace.succeeded();
        {
            let mut memory = lock(&self.memory);
            // Until the store has it noted, this is what keeps the event from being sent again.
            memory.note_arrived(&job.event);
            memory.forget(&job.event);
            if was_away {
                memory.hasten(Timestamp::now());
            }
        }
        let alert = job.alert().to_owned();
        if job.row.is_none() && !was_away {
            self.under_way.remove(&alert);
            return;
        }
        let name = self.destination.name.clone();
        self.note(About::Arrived(alert), move |store| {
            if let Some(row) = job.row {
                store.acknowledged(row)?;
            }
            if was_away { store.hasten(&name, Timestamp::now()) } else { Ok(()) }
        });
    }

    fn failed(&mut self, job: Job, failure: Failure) {
        let wait = self.pace.failed(job.attempts, failure.retry_after, Instant::now());
        let last = job.created.saturating_add(self.destination.expire).unwrap_or(Timestamp::MAX);
        let due = Timestamp::now().saturating_add(wait).unwrap_or(Timestamp::MAX).min(last);
        tracing::debug!(destination = self.destination.name, event = job.event, "{}", failure.cause);
        // Bounded: what is refused beyond this is one of many.
        if failure.refused && self.refused.len() < 1000 {
            self.refused.insert(job.event.clone(), failure.cause.clone());
        }
        self.trouble = Some(failure.cause.clone());
        let alert = job.alert().to_owned();
        match job.row {
            Some(row) => {
                self.note(About::Failed(alert), move |store| store.failed(row, &failure.cause, due));
            }
            None => {
                lock(&self.memory).retry(&job.event, due);
                self.under_way.remove(&alert);
            }
        }
    }

    fn note(&mut self, about: About, write: impl FnOnce(&Store) -> Result<(), StoreError> + Send + 'static) {
        let store = self.shared.store.clone();
        self.notes.spawn_blocking(move || Note {
            error: write(&store).err().map(|error| error.to_string()),
            about,
        });
    }

    /// `None`: the note's task died, which only a bug can do; what is in the store counts.
    fn noted(&mut self, note: Option<Note>) {
        let Some(note) = note else {
            self.tidying = false;
            self.under_way.clear();
            return;
        };
        match note.about {
            About::Tidied => self.tidying = false,
            About::Arrived(alert) => _ = self.under_way.remove(&alert),
            About::Failed(alert) => {
                self.under_way.remove(&alert);
                if note.error.is_some() {
                    // The store still calls it due: without a pause it would be tried without end.
                    self.pace.pause(STORE_PAUSE, Instant::now());
                }
            }
        }
        self.unnoted = note.error;
    }

    fn report(&self, store_error: Option<&str>, pending: u64) {
        if self.stop.is_cancelled() {
            return;
        }
        let Shared { health, .. } = &self.shared;
        let DestinationKind::Webhook { url, .. } = &self.destination.kind;
        let address = shown(url);
        if let Some(error) = store_error {
            let what = format!("{address}: the outbox cannot be read or written: {error}");
            health.set(&self.subject, Severity::Failed, what);
            return;
        }
        health.metrics.outbox_pending.get_or_create(&self.label).set(pending as i64);
        let (Some((failures, since)), Some(trouble)) = (self.pace.failing(), &self.trouble) else {
            match self.refused.first_key_value() {
                None => health.ok(&self.subject),
                Some((event, cause)) => {
                    let what = format!(
                        "{address} refuses {} of {pending} waiting events, such as {event}: {cause}",
                        self.refused.len()
                    );
                    health.set(&self.subject, Severity::Degraded, what);
                }
            }
            return;
        };
        let lasting = since.elapsed() >= HICCUP || !self.refused.is_empty();
        let severity = if lasting { Severity::Failed } else { Severity::Degraded };
        let what = format!("{address}: {trouble} ({failures} failures in a row, {pending} events wait)");
        health.set(&self.subject, severity, what);
    }

    /// Dead letters have a health subject of their own: the destination's recovery does not hide them.
    fn mourn(&self, (count, latest): (u64, Option<DeadLetter>)) {
        let subject = format!("{}/undelivered", self.subject);
        if self.stop.is_cancelled() {
            return;
        }
        let Some(latest) = latest else {
            self.shared.health.remove(&subject);
            return;
        };
        let what = format!(
            "{count} events were given up in the last 24 h, the latest {}: {}",
            latest.event, latest.reason
        );
        self.shared.health.set(&subject, Severity::Degraded, what);
    }

    async fn in_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, String> {
        let store = self.shared.store.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(done) => done.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
