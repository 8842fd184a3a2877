//! When to try again.
//!
//! Two clocks: each event waits longer after each of its own failures (1 s up to 5 min), and the whole destination
//! pauses after failures in a row (0.5 s up to 30 s), trying one event at a time. A pause is always shorter than the
//! event's own wait, so one event that a destination chokes on never keeps the others from it, and a dead destination
//! with a long backlog is knocked at twice a minute, not once for every event.

use std::time::{Duration, Instant};

/// Attempts at once while all goes well, each of another alert.
const ABREAST: usize = 4;

/// A destination's `Retry-After` is believed up to here.
const LONGEST: Duration = Duration::from_secs(300);

#[derive(Default)]
pub struct Pace {
    failures: u32,
    since: Option<Instant>,
    until: Option<Instant>,
}

impl Pace {
    /// How many attempts may run at once now.
    pub fn abreast(&self, now: Instant) -> usize {
        match (self.until, self.failures) {
            (Some(until), _) if until > now => 0,
            (_, 0) => ABREAST,
            _ => 1,
        }
    }

    pub fn paused_until(&self) -> Option<Instant> {
        self.until
    }

    /// Failures in a row, and since when.
    pub fn failing(&self) -> Option<(u32, Instant)> {
        Some((self.failures, self.since?))
    }

    /// True when the destination was away for a while, and everything should be tried again now.
    pub fn succeeded(&mut self) -> bool {
        std::mem::take(self).failures >= 3
    }

    /// An event's attempt failed, after so many before it: how long it waits.
    pub fn failed(&mut self, attempts: u32, retry_after: Option<Duration>, now: Instant) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.since.get_or_insert(now);
        let asked = retry_after.unwrap_or_default().min(LONGEST);
        self.pause(
            backoff(Duration::from_millis(500), self.failures - 1, Duration::from_secs(30)).max(asked),
            now,
        );
        backoff(Duration::from_secs(1), attempts, LONGEST).max(asked)
    }

    pub fn pause(&mut self, pause: Duration, now: Instant) {
        self.until = self.until.max(Some(now + pause));
    }
}

/// Doubling, a fifth up or down, at most `longest`.
fn backoff(first: Duration, doublings: u32, longest: Duration) -> Duration {
    let length = first.saturating_mul(1 << doublings.min(16)).min(longest);
    length.mul_f64(rand::random_range(0.8..1.2)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_five_minutes_and_pauses_stay_shorter() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.abreast(now), ABREAST);
        let mut last = Duration::ZERO;
        for attempts in 0..40 {
            let wait = pace.failed(attempts, None, now);
            assert!(wait >= Duration::from_millis(800) && wait <= LONGEST, "{wait:?}");
            assert!(pace.paused_until().unwrap() - now < wait, "attempt {attempts}");
            last = wait;
        }
        assert!(last > LONGEST / 2);
        assert_eq!((pace.abreast(now), pace.abreast(now + Duration::from_secs(31))), (0, 1));
        assert!(pace.succeeded());
        assert_eq!((pace.abreast(now), pace.failing()), (ABREAST, None));
    }

    #[test]
    fn retry_after_is_honoured_within_reason() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.failed(0, Some(Duration::from_secs(60)), now), Duration::from_secs(60));
        assert_eq!(pace.paused_until().unwrap() - now, Duration::from_secs(60));
        assert_eq!(pace.failed(0, Some(Duration::MAX), now), LONGEST);
    }
}
