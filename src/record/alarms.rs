//! A volume's health subject, `record/ring` or `record/NAME`: what is wrong at once, told as one state.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::health::{Health, Severity};

/// How long an overflow is told after it happened.
const OVERFLOW_TOLD: Duration = Duration::from_secs(300);

/// The same of files that somebody has removed: nobody may look for hours.
const REMOVED_TOLD: Duration = Duration::from_secs(86_400);

pub(super) struct Alarms {
    health: Health,
    subject: String,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    disk: Option<String>,
    index: Option<String>,
    index_sync: Option<String>,
    overflow: Option<Instant>,
    removed: Option<(Instant, String)>,
    /// The ring is shorter than promised.
    short: Option<String>,
    /// Evidence is kept for less than promised.
    evidence: Option<String>,
    /// Only pinned footage is left to remove.
    pinned: Option<String>,
}

impl Alarms {
    pub(super) fn new(volume: &str, health: Health) -> Alarms {
        let subject = subject(volume);
        health.ok(&subject);
        Alarms { health, subject, now: Mutex::default() }
    }

    pub(super) fn disk(&self, message: Option<String>) {
        self.change(|now| now.disk = message);
    }

    pub(super) fn index(&self, error: Option<&rusqlite::Error>) {
        self.change(|now| {
            now.index = error.map(|error| {
                format!(
                    "index.db: {error}; recording goes on, but is not found until the index can be written; check the \
                     disk"
                )
            });
        });
    }

    pub(super) fn index_sync(&self, error: Option<&std::io::Error>) {
        self.change(|now| {
            now.index_sync = error.map(|error| {
                format!("index.db: {error}; after a power cut its last rows may be missing; check the disk")
            });
        });
    }

    pub(super) fn overflow(&self) {
        self.change(|now| now.overflow = Some(Instant::now()));
    }

    /// Files are gone that liuta has not removed.
    pub(super) fn removed(&self, message: String) {
        self.change(|now| now.removed = Some((Instant::now(), message)));
    }

    pub(super) fn limits(&self, short: Option<String>, evidence: Option<String>, pinned: Option<String>) {
        self.change(|now| (now.short, now.evidence, now.pinned) = (short, evidence, pinned));
    }

    /// Lets old news go.
    pub(super) fn tick(&self) {
        let overflow = |now: &Now| now.overflow.is_some_and(|at| at.elapsed() > OVERFLOW_TOLD);
        if overflow(&self.lock()) {
            self.change(|now| now.overflow = None);
        }
        let removed = |now: &Now| now.removed.as_ref().is_some_and(|(at, _)| at.elapsed() > REMOVED_TOLD);
        if removed(&self.lock()) {
            self.change(|now| now.removed = None);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn change(&self, change: impl FnOnce(&mut Now)) {
        let mut now = self.lock();
        let before = now.message();
        change(&mut now);
        let after = now.message();
        if before != after {
            self.health.set(&self.subject, after.0, after.1);
        }
    }
}

/// A volume's health subject.
pub(super) fn subject(volume: &str) -> String {
    format!("record/{volume}")
}

impl Now {
    fn message(&self) -> (Severity, String) {
        let overflow = self.overflow.map(|_| {
            "the disk was too slow and some footage is missing, see the gaps: use a faster disk or lower the cameras' \
             bit rates"
        });
        let told = [
            self.disk.as_deref(),
            self.index.as_deref(),
            self.index_sync.as_deref(),
            overflow,
            self.removed.as_ref().map(|(_, message)| message.as_str()),
            self.short.as_deref(),
            self.evidence.as_deref(),
            self.pinned.as_deref(),
        ];
        let severity = match told {
            [Some(_), ..] => Severity::Failed,
            [None, None, None, None, None, None, None, None] => Severity::Ok,
            _ => Severity::Degraded,
        };
        (severity, told.into_iter().flatten().collect::<Vec<_>>().join("; "))
    }
}
