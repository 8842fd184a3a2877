//! What is told of sign-ins that fail: a row of the audit trail, and a line of the log for programs that bar addresses.
//!
//! Whoever reaches the box can make them, so a minute has room for so many lines in all, and for so many of a network.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::limits::network;
use super::{Access, By, Keeper, tokens};

const MINUTE: Duration = Duration::from_secs(60);

/// Lines of one network in a minute: as many as it takes to bar it.
const OF_NETWORK: u32 = 20;

/// In all.
const LINES: u32 = 600;

/// The lines of the present minute.
#[derive(Default)]
pub struct Lines {
    since: Option<Instant>,
    written: u32,
    networks: HashMap<IpAddr, u32>,
}

impl Lines {
    fn has_room(&mut self, address: IpAddr, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= MINUTE) {
            *self = Lines { since: Some(now), ..Lines::default() };
        }
        if self.written >= LINES {
            return false;
        }
        let of_network = self.networks.entry(network(address)).or_default();
        if *of_network >= OF_NETWORK {
            return false;
        }
        *of_network += 1;
        self.written += 1;
        true
    }
}

impl Access {
    /// Somebody who claims to be `name` was refused. Who exists is named. What else stands in that field may be a
    /// password that was typed too early.
    pub(super) fn failed(&self, name: Option<&str>, address: IpAddr, how: &str) {
        let Keeper::Box { audit, .. } = &self.inner.keeper else { return };
        let by = By { name: name.unwrap_or("unknown").to_owned(), address: Some(address) };
        audit.failed(&by, how);
        let mut lines = self.inner.lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if lines.has_room(address, Instant::now()) {
            // Programs look for this line: the reference describes it.
            tracing::warn!("sign-in failed from {} for {:?}: {how}", address.to_canonical(), by.name);
        }
    }

    /// The same for a player. Blocks.
    pub(super) fn player_failed(&self, user: &str, address: IpAddr) {
        let exists = match &self.inner.keeper {
            Keeper::Box { store, .. } => user == tokens::USER || matches!(store.person(user), Ok(Some(_))),
            Keeper::Simulated(_) => false,
        };
        self.failed(exists.then_some(user), address, "RTSP");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_for_each_network_and_in_all() {
        let mut lines = Lines::default();
        let now = Instant::now();
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        assert_eq!((0..100).filter(|_| lines.has_room(address(1), now)).count(), OF_NETWORK as usize);
        assert!(lines.has_room(address(2), now));
        let all = (3..10_000).filter(|n| lines.has_room(address(*n), now)).count();
        assert_eq!(all, (LINES - OF_NETWORK - 1) as usize);
        assert!(lines.networks.len() <= LINES as usize);
        assert!(lines.has_room(address(1), now + MINUTE));
    }
}
