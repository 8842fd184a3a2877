//! When to try again: back-off after failures, and restraint with passwords that a camera refuses.
//!
//! What does not belong here: the attempts themselves, and what is told of them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::source::{Session, SessionError, Target};
use crate::media::Feed;

/// The pause between attempts: exponential and jittered, short while the camera may be back any moment.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
    last_worked: Option<Instant>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(30);
    /// A camera that worked lately is rebooting or its cable is being moved: it should be recorded seconds after it
    /// returns.
    const LONGEST_LATELY: Duration = Duration::from_secs(3);
    const LATELY: Duration = Duration::from_secs(15 * 60);

    /// The pause after an attempt that ended at `now`; `worked`: it had delivered pictures. `jitter` is 0 to 1.
    pub fn pause(&mut self, worked: bool, now: Instant, jitter: f64) -> Duration {
        if worked {
            self.failures = 0;
            self.last_worked = Some(now);
            return Self::FIRST.mul_f64(0.2 + 0.3 * jitter);
        }
        let lately = self.last_worked.is_some_and(|at| now.saturating_duration_since(at) < Self::LATELY);
        let longest = if lately { Self::LONGEST_LATELY } else { Self::LONGEST };
        let pause = Self::FIRST.saturating_mul(1 << self.failures.min(5)).min(longest);
        self.failures += 1;
        pause.mul_f64(0.75 + 0.25 * jitter)
    }
}

/// A camera's password, which its main and sub stream share. Cameras lock out whoever is wrong about five times, so
/// a refused one is tried twice, over both feeds, then every 15 minutes. The second try, at once, is what a nonce that
/// grew stale needs. Changed credentials come with a new camera, hence afresh.
///
/// A camera may take the password for one feed and refuse it for the other. So a feed for which it was taken waits for
/// no refusal but its own: the recording returns at once, whatever becomes of the sub stream. Where the camera's
/// password is changed meanwhile that costs one more try.
#[derive(Debug, Default)]
pub struct Password {
    state: Mutex<State>,
    /// Only one feed at a time asks, of those for which the password is not known to be right.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// By feed: it was taken, and not refused since.
    taken: [bool; 2],
    refusals: u32,
    not_before: Option<Instant>,
}

impl State {
    const TRIES: u32 = 2;
    const REST: Duration = Duration::from_secs(15 * 60);

    fn note(&mut self, feed: Feed, refused: Option<bool>, now: Instant) {
        let taken = &mut self.taken[feed as usize];
        match refused {
            // Proves nothing new of what the other feed was refused.
            Some(false) if *taken => {}
            Some(false) => {
                *taken = true;
                (self.refusals, self.not_before) = (0, None);
            }
            Some(true) => {
                *taken = false;
                self.refusals += 1;
                self.not_before = (self.refusals >= Self::TRIES).then(|| now + Self::REST);
            }
            None => {}
        }
    }

    fn wait(&self, now: Instant) -> Duration {
        self.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
}

impl Password {
    /// Opens a session of the feed when the password may be tried.
    pub async fn open(
        &self,
        feed: Feed,
        target: &Target,
        run: u64,
        next_seq: u64,
    ) -> Result<Session, SessionError> {
        let taken = self.lock().taken[feed as usize];
        let _asking = if taken { None } else { Some(self.turn().await) };
        let opened = Session::open(target, run, next_seq).await;
        let refused = match &opened {
            Ok(_) => Some(false),
            Err(error) if error.is_password() => Some(true),
            Err(_) => None,
        };
        self.lock().note(feed, refused, Instant::now());
        opened
    }

    async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        let turn = self.asking.lock().await;
        loop {
            let wait = self.lock().wait(Instant::now());
            if wait.is_zero() {
                return turn;
            }
            // Again afterwards: a feed that did not wait may have been refused meanwhile.
            tokio::time::sleep(wait).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_minute() {
        let mut backoff = Backoff::default();
        let now = Instant::now();
        let pauses: Vec<_> = (0..8).map(|_| backoff.pause(false, now, 1.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert!(backoff.pause(false, now, 0.0) >= Duration::from_secs(22));
    }

    #[test]
    fn a_camera_that_worked_is_tried_at_once_and_then_often() {
        let mut backoff = Backoff::default();
        let start = Instant::now();
        assert!(backoff.pause(true, start, 1.0) <= Duration::from_millis(500));
        for second in 1..600 {
            let pause = backoff.pause(false, start + Duration::from_secs(second), 1.0);
            assert!(pause <= Duration::from_secs(3));
        }
        assert_eq!(backoff.pause(false, start + Backoff::LATELY, 1.0), Backoff::LONGEST);
    }

    #[test]
    fn a_wrong_password_is_tried_twice_then_every_quarter_of_an_hour() {
        let mut state = State::default();
        let start = Instant::now();
        state.note(Feed::Main, Some(true), start);
        assert_eq!(state.wait(start), Duration::ZERO);
        state.note(Feed::Sub, Some(true), start);
        assert_eq!(state.wait(start), State::REST);
        state.note(Feed::Main, None, start);
        assert_eq!(state.wait(start + State::REST), Duration::ZERO);
        state.note(Feed::Main, Some(true), start + State::REST);
        assert_eq!(state.wait(start + State::REST), State::REST);
        state.note(Feed::Main, Some(false), start);
        assert_eq!((state.taken, state.refusals), ([true, false], 0));
        assert_eq!(state.wait(start), Duration::ZERO);
    }

    #[test]
    fn a_feed_that_is_refused_alone_rests_alone() {
        let mut state = State::default();
        let start = Instant::now();
        state.note(Feed::Main, Some(false), start);
        state.note(Feed::Sub, Some(true), start);
        state.note(Feed::Sub, Some(true), start);
        assert!(state.taken[Feed::Main as usize], "it does not wait");
        // However often the main stream comes and goes, the sub stream rests.
        state.note(Feed::Main, Some(false), start);
        assert_eq!(state.wait(start), State::REST);
        // The camera's password was changed: one try shows it.
        state.note(Feed::Main, Some(true), start);
        assert!(!state.taken[Feed::Main as usize]);
        assert_eq!(state.wait(start), State::REST);
    }
}
