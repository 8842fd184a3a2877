//! What a destination's task knows beyond the outbox: events that the store could not take yet, and events that have
//! arrived although the store could not note it.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use jiff::Timestamp;

/// Events of each sort; more are left to the store.
pub const MOST: usize = 1024;

/// An event on its way.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its row in the outbox; `None` while only memory has it.
    pub row: Option<i64>,
    pub event: String,
    pub body: Bytes,
    pub created: Timestamp,
    pub attempts: u32,
    pub due: Timestamp,
}

impl Job {
    pub fn alert(&self) -> &str {
        self.event.split_once('.').map_or(&self.event, |(alert, _)| alert)
    }
}

#[derive(Default)]
pub struct Memory {
    unstored: VecDeque<Job>,
    arrived: HashSet<String>,
    arrived_order: VecDeque<String>,
}

impl Memory {
    pub fn len(&self) -> usize {
        self.unstored.len()
    }

    pub fn hold(&mut self, job: Job) {
        let known = self.has_arrived(&job.event) || self.unstored.iter().any(|held| held.event == job.event);
        if !known && self.unstored.len() < MOST {
            self.unstored.push_back(job);
        }
    }

    /// The earliest held event of each alert.
    pub fn first_of_each(&self) -> Vec<Job> {
        let mut alerts = HashSet::new();
        self.unstored.iter().filter(|job| alerts.insert(job.alert().to_owned())).cloned().collect()
    }

    pub fn next_due(&self) -> Option<Timestamp> {
        self.first_of_each().into_iter().map(|job| job.due).min()
    }

    pub fn retry(&mut self, event: &str, due: Timestamp) {
        if let Some(job) = self.unstored.iter_mut().find(|job| job.event == event) {
            job.attempts += 1;
            job.due = due;
        }
    }

    pub fn hasten(&mut self, now: Timestamp) {
        self.unstored.iter_mut().for_each(|job| job.due = job.due.min(now));
    }

    /// The store has it, or it has arrived.
    pub fn forget(&mut self, event: &str) {
        self.unstored.retain(|job| job.event != event);
    }

    pub fn expire(&mut self, before: Timestamp) {
        self.unstored.retain(|job| job.created >= before);
    }

    pub fn note_arrived(&mut self, event: &str) {
        if self.arrived.insert(event.to_owned()) {
            self.arrived_order.push_back(event.to_owned());
        }
        if self.arrived_order.len() > MOST
            && let Some(oldest) = self.arrived_order.pop_front()
        {
            self.arrived.remove(&oldest);
        }
    }

    pub fn has_arrived(&self, event: &str) -> bool {
        self.arrived.contains(event)
    }

    pub fn arrived(&self) -> usize {
        self.arrived.len()
    }
}
