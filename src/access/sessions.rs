//! Console sessions, in memory: a restart signs everybody out.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Hash;

/// From sign-in to the end, however busy.
pub const LIFE: Duration = Duration::from_secs(12 * 3600);

/// Sessions at once; past it the oldest ends.
const MOST: usize = 1024;

/// By the hash of the cookie's value; the token is kept as its hash as well, and asked for again at every request.
#[derive(Default)]
pub struct Sessions(HashMap<Hash, Session>);

struct Session {
    token: Hash,
    opened: Instant,
}

impl Sessions {
    pub fn open(&mut self, value: Hash, token: Hash, now: Instant) {
        self.0.retain(|_, session| now.duration_since(session.opened) < LIFE);
        if self.0.len() >= MOST
            && let Some(oldest) =
                self.0.iter().min_by_key(|(_, session)| session.opened).map(|(value, _)| *value)
        {
            self.0.remove(&oldest);
        }
        self.0.insert(value, Session { token, opened: now });
    }

    pub fn token(&self, value: &Hash, now: Instant) -> Option<Hash> {
        self.0
            .get(value)
            .filter(|session| now.duration_since(session.opened) < LIFE)
            .map(|session| session.token)
    }

    pub fn close(&mut self, value: &Hash) {
        self.0.remove(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_end_and_are_bounded() {
        let mut sessions = Sessions::default();
        let start = Instant::now();
        let name = |n: usize| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_le_bytes());
            hash
        };
        for n in 0..MOST + 10 {
            sessions.open(name(n), [7; 32], start + Duration::from_millis(n as u64));
        }
        assert_eq!(sessions.0.len(), MOST);
        assert_eq!(sessions.token(&name(9), start), None, "the oldest made room");
        assert_eq!(sessions.token(&name(10), start), Some([7; 32]));
        assert_eq!(sessions.token(&name(10), start + LIFE + Duration::from_secs(1)), None);
        sessions.open(name(1), [8; 32], start + 2 * LIFE);
        assert_eq!(sessions.0.len(), 1, "ended sessions are forgotten");
    }
}
