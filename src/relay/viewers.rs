//! Who watches by HLS: a player that asks for pieces holds no connection that could be counted.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::access::By;
use crate::health::{Metrics, PathProtocol};

/// A player that asks for nothing for so long has left: longer than segments are apart for most cameras.
const PRESENT: Duration = Duration::from_secs(15);

/// Viewers remembered. Past it the count is too low, and memory is not.
const MOST: usize = 4_096;

/// Who has asked for a piece of which path, and when.
#[derive(Default)]
pub struct Viewers {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    by_viewer: HashMap<(String, By), Instant>,
    /// Paths that the metric shows: one that nobody watches any more shows 0.
    shown: BTreeMap<String, i64>,
}

impl Viewers {
    /// Somebody has asked for a playlist, an init segment or a segment of the stream at `path`.
    pub fn seen(&self, path: &str, by: By) {
        self.lock().note(path, by, Instant::now());
    }

    /// Brings `liuta_relay_readers` up to date: for whoever is about to read it.
    pub fn count(&self, metrics: &Metrics) {
        for (path, viewers) in self.lock().count(Instant::now()) {
            metrics.relay_readers.get_or_create(&PathProtocol::new(path, "hls")).set(*viewers);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Seen {
    fn note(&mut self, path: &str, by: By, now: Instant) {
        if self.by_viewer.len() >= MOST {
            self.forget(now);
        }
        let viewer = (path.to_owned(), by);
        if self.by_viewer.len() < MOST || self.by_viewer.contains_key(&viewer) {
            self.by_viewer.insert(viewer, now);
        }
    }

    fn forget(&mut self, now: Instant) {
        self.by_viewer.retain(|_, at| now.duration_since(*at) < PRESENT);
    }

    fn count(&mut self, now: Instant) -> &BTreeMap<String, i64> {
        self.forget(now);
        self.shown.values_mut().for_each(|viewers| *viewers = 0);
        for (path, _) in self.by_viewer.keys() {
            *self.shown.entry(path.clone()).or_default() += 1;
        }
        &self.shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(name: &str, last: u8) -> By {
        By { name: name.to_owned(), address: Some([192, 0, 2, last].into()) }
    }

    #[test]
    fn a_viewer_counts_once_and_until_they_stop_asking() {
        let mut seen = Seen::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        for second in 0..10 {
            seen.note("gate-1", by("li", 1), after(second));
            seen.note("gate-1", by("anonymous", 1), after(second));
        }
        // The same token on two screens; another camera.
        seen.note("gate-1", by("anonymous", 2), after(0));
        seen.note("gate-2", by("li", 1), after(2));
        let count = |seen: &mut Seen, now| seen.count(now).values().copied().collect::<Vec<_>>();
        assert_eq!(count(&mut seen, after(10)), [3, 1]);
        assert_eq!(count(&mut seen, after(16)), [2, 1]);
        assert_eq!(count(&mut seen, after(23)), [2, 0]);
        assert_eq!(count(&mut seen, after(24)), [0, 0]);
        assert!(seen.by_viewer.is_empty());
    }

    #[test]
    fn many_strangers_cost_bounded_memory() {
        let mut seen = Seen::default();
        let now = Instant::now();
        for n in 0..2 * MOST {
            seen.note("gate-1", by(&n.to_string(), 1), now);
        }
        assert_eq!(seen.by_viewer.len(), MOST);
        seen.note("gate-1", by("late", 1), now + PRESENT);
        assert_eq!(seen.by_viewer.len(), 1);
    }
}
