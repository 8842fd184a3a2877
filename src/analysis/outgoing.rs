//! Revisions of alerts on their way to the store, in order; what the store does not take in time goes out from memory.
//!
//! One step at a time runs on a thread of its own and nothing waits for it, so that a disk that hangs holds one thread
//! and no alert: after [`PATIENCE`] the alert is sent under the id that it keeps, and stored once that works.
//!
//! Others change an alert, too: what people did with it stands in the store. So the stored alert is read before each
//! revision, which takes over its disposition and follows its number. A change made in between makes the revision
//! stale, and the same is done again.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::backlog::{Backlog, Pending};
use super::{PATIENCE, SUBJECT, at};
use crate::alert::Alert;
use crate::dispatch::Dispatch;
use crate::health::{Health, Severity};
use crate::store::{Store, StoreError};

/// Pauses between attempts to store, growing from the first to the second.
const RETRY: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(15)];

pub struct Outgoing {
    store: Arc<Store>,
    dispatch: Arc<Dispatch>,
    health: Health,
    backlog: Backlog,
    /// What is being done with the first of the backlog.
    step: Option<JoinHandle<Result<Step, StoreError>>>,
    retry_at: Option<Instant>,
    pause: Duration,
}

enum Step {
    /// The alert as it is stored, if it is.
    Read(Box<Option<Alert>>),
    Stored,
}

impl Outgoing {
    pub fn new(store: Arc<Store>, dispatch: Arc<Dispatch>, health: Health) -> Outgoing {
        Outgoing {
            store,
            dispatch,
            health,
            backlog: Backlog::default(),
            step: None,
            retry_at: None,
            pause: RETRY[0],
        }
    }

    pub fn push(&mut self, pending: Pending) {
        self.backlog.push(pending);
        if self.retry_at.is_none() {
            self.begin();
        }
    }

    /// The next alert that is stored, as it is stored. Waits for ever where nothing is on its way; may be dropped and
    /// called again at any time.
    pub async fn next(&mut self) -> Alert {
        loop {
            let late_at = self.backlog.iter().find(|pending| !pending.sent).map(|one| one.since + PATIENCE);
            tokio::select! {
                done = finished(&mut self.step) => {
                    if let Some(alert) = self.settle(done) {
                        return alert;
                    }
                }
                () = at(self.retry_at) => {
                    self.retry_at = None;
                    self.begin();
                }
                () = at(late_at) => self.send_from_memory("it did not commit within a second"),
            }
        }
    }

    /// Nobody waits for long any more: the next attempt is now.
    pub fn hurry(&mut self) {
        self.pause = RETRY[0];
        self.retry_at = self.retry_at.map(|_| Instant::now());
    }

    pub fn waiting(&self) -> impl Iterator<Item = &Alert> {
        self.backlog.iter().map(|pending| &pending.alert)
    }

    pub fn is_empty(&self) -> bool {
        self.backlog.is_empty()
    }

    /// Reads how the first of the backlog is stored, unless something is being done already.
    fn begin(&mut self) {
        if self.step.is_some() {
            return;
        }
        let Some(pending) = self.backlog.front() else { return };
        let (store, id) = (self.store.clone(), pending.alert.id.clone());
        self.step = Some(tokio::task::spawn_blocking(move || match store.alert(&id) {
            Ok(stored) => Ok(Step::Read(Box::new(stored))),
            Err(StoreError::Sqlite(rusqlite::Error::FromSqlConversionFailure(_, _, error))) => {
                tracing::error!(alert = id, "what is stored of it cannot be read and is replaced: {error}");
                Ok(Step::Read(Box::default()))
            }
            Err(error) => Err(error),
        }));
    }

    fn put(&mut self) {
        let Some(pending) = self.backlog.front_mut() else { return };
        let events = pending.events(&self.dispatch);
        let (store, alert, snapshot) = (self.store.clone(), pending.alert.clone(), pending.snapshot.clone());
        self.step = Some(tokio::task::spawn_blocking(move || {
            store.put_alert(&alert, snapshot.as_ref(), &events).map(|()| Step::Stored)
        }));
    }

    fn settle(&mut self, done: Result<Step, StoreError>) -> Option<Alert> {
        match done {
            Ok(Step::Read(stored)) => {
                let follows = match (self.backlog.front_mut(), *stored) {
                    (Some(pending), Some(stored)) => pending.follow(&stored),
                    _ => true,
                };
                if follows {
                    self.put()
                } else {
                    self.drop_first()
                }
                None
            }
            Ok(Step::Stored) => {
                let stored = self.backlog.pop();
                self.dispatch.wake();
                self.pause = RETRY[0];
                if self.backlog.is_empty() {
                    self.health.ok(SUBJECT);
                }
                self.begin();
                stored.map(|pending| pending.alert)
            }
            Err(StoreError::Stale { newest, .. }) => {
                let follows = self.backlog.front_mut().is_none_or(|pending| pending.renumber(newest));
                if follows {
                    self.begin()
                } else {
                    self.drop_first()
                }
                None
            }
            Err(error) => {
                self.send_from_memory(&error.to_string());
                self.retry_at = Some(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(RETRY[1]);
                None
            }
        }
    }

    /// Nothing that is stored can make this one acceptable: the others must not wait for it.
    fn drop_first(&mut self) {
        if let Some(Pending { alert, .. }) = self.backlog.pop() {
            tracing::error!(
                alert = alert.id,
                "no revision number is left above the stored one; a revision is lost"
            );
        }
        self.begin();
    }

    fn send_from_memory(&mut self, why: &str) {
        for pending in self.backlog.iter_mut().filter(|pending| !pending.sent) {
            let events = pending.events(&self.dispatch);
            self.dispatch.send_unstored(&pending.alert, &events);
            pending.sent = true;
        }
        let message = format!(
            "state.db does not take alerts: {why}; {} were sent from memory and are stored once it does, or lost with a \
             restart: look at the disk that holds it",
            self.backlog.len()
        );
        self.health.set(SUBJECT, Severity::Failed, message);
    }
}

/// The step's outcome; for ever where there is none. Dropped early, it leaves the step as it is.
async fn finished(step: &mut Option<JoinHandle<Result<Step, StoreError>>>) -> Result<Step, StoreError> {
    let Some(running) = step else { return std::future::pending().await };
    let done = running.await;
    *step = None;
    done.unwrap_or_else(|error| Err(StoreError::Corrupt(format!("the query did not end: {error}"))))
}
