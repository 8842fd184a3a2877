//! How often somebody may guess: waits that grow with each failure, per account and per address.
//!
//! Nobody is locked out: waits have an upper bound, and what is refused meanwhile does not make them longer. A success
//! ends them. An account's waits are short, so that who guesses at it does not keep its owner out; an address's are
//! long.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Accounts and addresses remembered, each; the longest quiet ones make room.
const REMEMBERED: usize = 4_096;

/// Failures older than this count no more.
const FORGOTTEN: Duration = Duration::from_secs(3600);

struct Rule {
    /// Failures that cost nothing: people mistype.
    free: u32,
    longest: Duration,
}

const ACCOUNT: Rule = Rule { free: 4, longest: Duration::from_secs(30) };
const ADDRESS: Rule = Rule { free: 9, longest: Duration::from_secs(300) };

#[derive(Default)]
pub struct Limits {
    accounts: HashMap<String, Failures>,
    addresses: HashMap<IpAddr, Failures>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Limits {
    /// Counts an attempt as failed before it is made, so that many at once count as many; or how long to wait.
    pub fn begin(&mut self, account: &str, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let address = network(address);
        let waits = [
            wait(self.accounts.get(account), &ACCOUNT, now),
            wait(self.addresses.get(&address), &ADDRESS, now),
        ];
        let longest = waits.into_iter().max().unwrap_or_default();
        if !longest.is_zero() {
            return Err(longest);
        }
        count(&mut self.accounts, account.to_owned(), now);
        count(&mut self.addresses, address, now);
        Ok(())
    }

    pub fn succeeded(&mut self, account: &str, address: IpAddr) {
        self.accounts.remove(account);
        self.addresses.remove(&network(address));
    }

    /// The attempt was not made after all.
    pub fn withdraw(&mut self, account: &str, address: IpAddr) {
        let counted = [self.accounts.get_mut(account), self.addresses.get_mut(&network(address))];
        for failures in counted.into_iter().flatten() {
            failures.count = failures.count.saturating_sub(1);
        }
    }
}

fn wait(failures: Option<&Failures>, rule: &Rule, now: Instant) -> Duration {
    let Some(failures) = failures else { return Duration::ZERO };
    if failures.count < rule.free {
        return Duration::ZERO;
    }
    let doublings = (failures.count - rule.free).min(16);
    let due = Duration::from_secs(1 << doublings).min(rule.longest);
    due.saturating_sub(now.duration_since(failures.last))
}

fn count<K: Hash + Eq + Clone>(of: &mut HashMap<K, Failures>, key: K, now: Instant) {
    if of.len() >= REMEMBERED && !of.contains_key(&key) {
        of.retain(|_, failures| now.duration_since(failures.last) < FORGOTTEN);
        let quietest = of.iter().min_by_key(|(_, failures)| failures.last).map(|(key, _)| key.clone());
        if of.len() >= REMEMBERED
            && let Some(quietest) = quietest
        {
            of.remove(&quietest);
        }
    }
    let failures = of.entry(key).or_insert(Failures { count: 0, last: now });
    if now.duration_since(failures.last) >= FORGOTTEN {
        failures.count = 0;
    }
    failures.count = failures.count.saturating_add(1);
    failures.last = now;
}

/// Who has one address of IPv6 has 2⁶⁴ of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn waits_grow_to_a_bound_and_end_with_a_success() {
        let mut limits = Limits::default();
        let mut now = Instant::now();
        for n in 0..ACCOUNT.free {
            assert_eq!(limits.begin("li", address(n), now), Ok(()));
        }
        let mut waits = Vec::new();
        for n in 0..8 {
            let wait = limits.begin("li", address(100 + n), now).unwrap_err();
            assert_eq!(limits.begin("li", address(7), now), Err(wait), "refusals do not add up");
            assert_eq!(limits.begin("wang", address(1_000), now), Ok(()), "others are not concerned");
            limits.succeeded("wang", address(1_000));
            waits.push(wait.as_secs());
            now += wait;
            assert_eq!(limits.begin("li", address(100 + n), now), Ok(()), "nobody is locked out");
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        limits.succeeded("li", address(7));
        assert_eq!(limits.begin("li", address(7), now), Ok(()));
    }

    #[test]
    fn an_address_waits_whatever_account_it_tries() {
        let mut limits = Limits::default();
        let now = Instant::now();
        for n in 0..ADDRESS.free {
            assert_eq!(limits.begin(&format!("name-{n}"), address(1), now), Ok(()));
        }
        assert_eq!(limits.begin("another", address(1), now), Err(Duration::from_secs(1)));
        assert_eq!(limits.begin("another", address(2), now), Ok(()));
        assert_eq!(limits.begin("yet another", address(1), now + FORGOTTEN), Ok(()));
        // One network of IPv6 is one address.
        for n in 0..u128::from(ADDRESS.free) {
            limits.begin(&format!("six-{n}"), IpAddr::from((0x2001 << 112 | n).to_be_bytes()), now).unwrap();
        }
        assert!(limits.begin("six", IpAddr::from((0x2001_u128 << 112 | 99).to_be_bytes()), now).is_err());
    }

    #[test]
    fn memory_is_bounded() {
        let mut limits = Limits::default();
        let start = Instant::now();
        for n in 0..REMEMBERED as u32 + 100 {
            let now = start + Duration::from_millis(n.into());
            limits.begin(&format!("name-{n}"), address(n), now).unwrap();
        }
        assert_eq!((limits.accounts.len(), limits.addresses.len()), (REMEMBERED, REMEMBERED));
        assert!(!limits.accounts.contains_key("name-99") && limits.accounts.contains_key("name-100"));
    }

    #[test]
    fn what_was_not_tried_does_not_count() {
        let mut limits = Limits::default();
        let now = Instant::now();
        for _ in 0..100 {
            assert_eq!(limits.begin("li", address(1), now), Ok(()));
            limits.withdraw("li", address(1));
        }
    }
}
