//! The ring of the newest events, and the places in it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Draft, Event, Subject};
use crate::store::ALERTS_LOGGED;

/// Events and bytes that are held: hours of a quiet box, and minutes of one where every camera comes and goes.
const EVENTS: usize = 4_096;
const BYTES: usize = 4 << 20;

/// Revisions that a client may have missed. Half of what the store holds, so that none is dropped while they are read.
const MISSED: u64 = ALERTS_LOGGED / 2;

/// A place between two events: behind so many revisions of alerts, and so many events of this process.
///
/// Written as `ALERTS-BOOT-COUNT`, it is an event's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Number of the newest revision in the store's log that was passed.
    pub alerts: u64,
    count: u64,
}

/// What lies behind a place.
#[derive(Debug)]
pub enum Step {
    Event(Arc<Event>),
    /// Revisions up to this one that the ring does not hold, and the store does.
    Alerts {
        until: u64,
    },
    /// Nothing is known of what happened to these.
    Lost(Vec<Subject>),
    /// Nothing yet.
    Wait,
}

pub struct Log {
    /// Tells the events of this process from those of another.
    boot: String,
    /// Each with the newest revision up to it.
    events: VecDeque<(u64, Arc<Event>)>,
    bytes: usize,
    /// How many events were dropped, and the newest revision among them.
    dropped: u64,
    dropped_alerts: u64,
    /// The newest revision of all.
    alerts: u64,
}

impl Log {
    pub fn new(boot: String, alerts: u64) -> Log {
        let events = VecDeque::new();
        Log { boot, events, bytes: 0, dropped: 0, dropped_alerts: alerts, alerts }
    }

    /// Behind everything.
    pub fn end(&self) -> Position {
        Position { alerts: self.alerts, count: self.count() }
    }

    pub fn id(&self, at: Position) -> String {
        format!("{}-{}-{}", at.alerts, self.boot, at.count)
    }

    /// The place that an id names. Of another process it tells the alerts alone; what is no id, nothing.
    pub fn position(&self, id: &str) -> Position {
        let lost = Position { alerts: u64::MAX, count: u64::MAX };
        let mut parts = id.trim().splitn(3, '-');
        let (Some(alerts), Some(boot), Some(count)) = (parts.next(), parts.next(), parts.next()) else {
            return lost;
        };
        let (Ok(alerts), Ok(count)) = (alerts.parse(), count.parse()) else { return lost };
        Position { alerts, count: if boot == self.boot { count } else { u64::MAX } }
    }

    /// Appends an event; `seq` is a revision's number in the store's log. A revision that cannot be told is passed all
    /// the same.
    pub fn push(&mut self, seq: Option<u64>, draft: Option<Draft>) {
        self.alerts = seq.unwrap_or(self.alerts);
        let Some(draft) = draft else {
            let passed = self.events.back_mut().map_or(&mut self.dropped_alerts, |(alerts, _)| alerts);
            *passed = self.alerts;
            return;
        };
        let at = Position { alerts: self.alerts, count: self.count() + 1 };
        let event = Event::new(&self.id(at), &draft);
        self.bytes += event.bytes();
        self.events.push_back((self.alerts, Arc::new(event)));
        while self.events.len() > EVENTS || self.bytes > BYTES {
            let Some((alerts, oldest)) = self.events.pop_front() else { break };
            self.bytes -= oldest.bytes();
            self.dropped += 1;
            self.dropped_alerts = alerts;
        }
    }

    /// What comes next, and past it.
    pub fn step(&self, at: &mut Position) -> Step {
        let mut lost = Vec::new();
        if !(self.dropped..=self.count()).contains(&at.count) {
            lost.extend([Subject::Cameras, Subject::Channels, Subject::Health]);
            at.count = self.count();
        }
        let passed = self.alerts_at(at.count);
        if at.alerts > passed || self.alerts - at.alerts > MISSED {
            lost.push(Subject::Alerts);
            at.alerts = passed;
        }
        if !lost.is_empty() {
            return Step::Lost(lost);
        }
        if at.alerts < passed {
            return Step::Alerts { until: passed };
        }
        match self.events.get((at.count - self.dropped) as usize) {
            None => Step::Wait,
            Some((alerts, event)) => {
                *at = Position { alerts: *alerts, count: at.count + 1 };
                Step::Event(event.clone())
            }
        }
    }

    fn count(&self) -> u64 {
        self.dropped + self.events.len() as u64
    }

    /// The newest revision among the first `count` events.
    fn alerts_at(&self, count: u64) -> u64 {
        match (count - self.dropped).checked_sub(1) {
            None => self.dropped_alerts,
            Some(last) => self.events.get(last as usize).map_or(self.alerts, |(alerts, _)| *alerts),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::events::About;

    fn draft(name: &'static str, bytes: usize) -> Draft {
        Draft { about: About::Everyone, name, data: "x".repeat(bytes), brief: None }
    }

    fn name(event: &Event) -> String {
        let text = std::str::from_utf8(&event.frame).unwrap();
        text.lines().find_map(|line| line.strip_prefix("event: ")).unwrap().to_owned()
    }

    fn steps(log: &Log, at: &mut Position) -> Vec<String> {
        let mut met = Vec::new();
        loop {
            met.push(match log.step(at) {
                Step::Event(event) => name(&event),
                Step::Alerts { until } => {
                    at.alerts = until;
                    format!("read to {until}")
                }
                Step::Lost(subjects) => format!("lost {subjects:?}"),
                Step::Wait => return met,
            });
        }
    }

    #[test]
    fn every_place_has_one_way_on() {
        let mut log = Log::new("b".to_owned(), 7);
        let start = log.end();
        assert_eq!(log.id(start), "7-b-0");
        log.push(None, Some(draft("camera", 1)));
        log.push(Some(9), Some(draft("alert", 1)));
        // Somebody's hand has made this one unreadable; it is passed.
        log.push(Some(10), None);
        log.push(None, Some(draft("health", 1)));
        let from = |id: &str| steps(&log, &mut log.position(id));
        assert_eq!(from("7-b-0"), ["camera", "alert", "health"]);
        assert_eq!(from("7-b-1"), ["alert", "health"]);
        assert_eq!(from("10-b-3"), [""; 0]);
        // Revisions that were told by another process, or that the ring has passed while the client was away.
        assert_eq!(from("3-b-0"), ["read to 7", "camera", "alert", "health"]);
        assert_eq!(from("9-b-2"), ["read to 10", "health"]);
        let states = "lost [Cameras, Channels, Health]";
        assert_eq!(from("3-a-0"), [states, "read to 10"]);
        assert_eq!(from("10-a-2"), [states]);
        assert_eq!(from("10-b-4"), [states], "an id that is yet to come");
        // A database that was restored knows less than the client.
        assert_eq!(from("12-b-3"), ["lost [Alerts]"]);
        for id in
            ["", "-", "--", "7", "7-b", "x-b-0", "7-b-x", "7-b-0-0", "-7-b-0", "99999999999999999999-b-0"]
        {
            assert_eq!(from(id), ["lost [Cameras, Channels, Health, Alerts]"], "{id:?}");
        }
        let end = log.end();
        assert_eq!(log.id(end), "10-b-3");
        assert_eq!(steps(&log, &mut log.end()), [""; 0]);
    }

    #[test]
    fn what_is_held_is_bounded_and_who_is_too_late_learns_it() {
        let mut log = Log::new("b".to_owned(), 0);
        let mut slow = log.end();
        for n in 1..=2 * EVENTS as u64 {
            log.push(Some(n), Some(draft("alert", 1)));
        }
        assert_eq!(log.events.len(), EVENTS);
        let last = 2 * EVENTS as u64;
        let alerts = if last > MISSED { ", Alerts" } else { "" };
        assert_eq!(steps(&log, &mut slow)[0], format!("lost [Cameras, Channels, Health{alerts}]"));
        let mut missed = log.position(&format!("{}-a-0", last - MISSED));
        assert_eq!(
            steps(&log, &mut missed),
            ["lost [Cameras, Channels, Health]".to_owned(), format!("read to {last}")]
        );
        for _ in 0..100 {
            log.push(None, Some(draft("health", BYTES / 10)));
        }
        assert!(log.bytes <= BYTES && log.events.len() < 6, "{} {}", log.bytes, log.events.len());
        log.push(None, Some(draft("health", 2 * BYTES)));
        assert!(log.events.is_empty() && log.bytes == 0);
        assert_eq!(steps(&log, &mut log.end()), [""; 0]);
    }

    proptest! {
        #[test]
        fn ids_are_read_as_they_are_written_and_nothing_else_panics(
            alerts in any::<u64>(), count in any::<u64>(), other in ".{0,40}",
        ) {
            let log = Log::new("0badcafe".to_owned(), 3);
            let at = Position { alerts, count };
            prop_assert_eq!(log.position(&log.id(at)), at);
            steps(&log, &mut log.position(&other));
            steps(&log, &mut log.position(&log.id(at)));
        }
    }
}
