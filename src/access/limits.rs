//! How often somebody may guess: waits that grow with each failure, for each network, and for each account from it.
//!
//! Nobody is locked out. What others do elsewhere makes nobody wait: who guesses at an account from afar does not keep
//! its owner out. Where an account has signed in from lately, only its own failures count. Waits have an upper bound,
//! what is refused meanwhile does not make them longer, and a success ends those that its account has caused.
//!
//! Players show keys that nobody guesses (256 random bits). Theirs is a limit of noise, apart from the other: a
//! recorder with an old key keeps nobody behind the same address from signing in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::passwords::Turn;
use super::{Hash, hash};

/// Of each kind; the longest quiet ones make room.
const REMEMBERED: usize = 4_096;

/// Failures older than this count no more.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// For so long a network counts as one that somebody signs in from.
const FAMILIAR: Duration = Duration::from_secs(30 * 24 * 3600);

struct Rule {
    /// Failures that cost nothing: people mistype.
    free: u32,
    longest: Duration,
}

/// One account, from one network.
const ACCOUNT: Rule = Rule { free: 4, longest: Duration::from_secs(30) };

/// Whatever account.
const NETWORK: Rule = Rule { free: 9, longest: Duration::from_secs(300) };

/// Ten failures a second; a recorder that tries again every second leaves nine to others.
const PLAYERS: Rule = Rule { free: 9, longest: Duration::from_millis(100) };

#[derive(Default)]
pub struct Limits {
    accounts: HashMap<(IpAddr, Hash), Failures>,
    networks: HashMap<IpAddr, Failures>,
    players: HashMap<IpAddr, Failures>,
    /// What was right from where: names of accounts, and keys of players.
    familiar: HashMap<(IpAddr, Hash), Instant>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Limits {
    /// Counts an attempt as failed before it is made, so that many at once count as many; whose turn it is, or how
    /// long to wait.
    pub fn begin(&mut self, account: &str, address: IpAddr, now: Instant) -> Result<Turn, Duration> {
        let network = network(address);
        let account = (network, hash(account));
        let stranger = !self.is_familiar(&account, now);
        let waits = [
            wait(self.accounts.get(&account), &ACCOUNT, now),
            wait(self.networks.get(&network).filter(|_| stranger), &NETWORK, now),
        ];
        let longest = waits.into_iter().max().unwrap_or_default();
        if !longest.is_zero() {
            return Err(longest);
        }
        let of_account = count(&mut self.accounts, account, now);
        let of_network = count(&mut self.networks, network, now);
        Ok(Turn { stranger, failures: if stranger { of_network } else { of_account } })
    }

    pub fn succeeded(&mut self, account: &str, address: IpAddr, now: Instant) {
        let network = network(address);
        let account = (network, hash(account));
        // Who has an account of their own cannot wipe out with it what they guessed at others.
        let own = self.accounts.remove(&account).map_or(0, |failures| failures.count);
        if let Some(failures) = self.networks.get_mut(&network) {
            failures.count = failures.count.saturating_sub(own);
        }
        self.welcome(account, now);
    }

    /// The attempt was not made after all.
    pub fn withdraw(&mut self, account: &str, address: IpAddr) {
        let network = network(address);
        let counted = [self.accounts.get_mut(&(network, hash(account))), self.networks.get_mut(&network)];
        for failures in counted.into_iter().flatten() {
            failures.count = failures.count.saturating_sub(1);
        }
    }

    /// Whether a player is told that its key (by its mark, where it is right) is right or wrong. A key that was right
    /// from there lately always is.
    pub fn player(&mut self, key: Option<Hash>, address: IpAddr, now: Instant) -> bool {
        let network = network(address);
        let told = wait(self.players.get(&network), &PLAYERS, now).is_zero();
        let Some(key) = key.map(|mark| (network, mark)) else {
            if told {
                count(&mut self.players, network, now);
            }
            return told;
        };
        let told = told || self.is_familiar(&key, now);
        if told {
            self.welcome(key, now);
        }
        told
    }

    fn is_familiar(&self, who: &(IpAddr, Hash), now: Instant) -> bool {
        self.familiar.get(who).is_some_and(|last| now.duration_since(*last) < FAMILIAR)
    }

    fn welcome(&mut self, who: (IpAddr, Hash), now: Instant) {
        make_room(&mut self.familiar, &who, |last| *last);
        self.familiar.insert(who, now);
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

/// Failures before this one.
fn count<K: std::hash::Hash + Eq + Clone>(of: &mut HashMap<K, Failures>, key: K, now: Instant) -> u32 {
    make_room(of, &key, |failures| failures.last);
    let failures = of.entry(key).or_insert(Failures { count: 0, last: now });
    if now.duration_since(failures.last) >= FORGOTTEN {
        failures.count = 0;
    }
    let before = failures.count;
    *failures = Failures { count: before.saturating_add(1), last: now };
    before
}

fn make_room<K, V>(of: &mut HashMap<K, V>, new: &K, last: impl Fn(&V) -> Instant)
where
    K: std::hash::Hash + Eq + Clone,
{
    if of.len() < REMEMBERED || of.contains_key(new) {
        return;
    }
    if let Some(quietest) = of.iter().min_by_key(|(_, value)| last(value)).map(|(key, _)| key.clone()) {
        of.remove(&quietest);
    }
}

/// Who has one address of IPv6 has 2⁶⁴ of them.
pub fn network(address: IpAddr) -> IpAddr {
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
        for failures in 0..ACCOUNT.free {
            assert_eq!(limits.begin("li", address(7), now), Ok(Turn { stranger: true, failures }));
        }
        let mut waits = Vec::new();
        for n in 0..5 {
            let wait = limits.begin("li", address(7), now).unwrap_err();
            assert_eq!(limits.begin("li", address(7), now), Err(wait), "refusals do not add up");
            assert!(limits.begin("wang", address(7), now).is_ok(), "another account");
            limits.withdraw("wang", address(7));
            assert!(limits.begin("li", address(100 + n), now).is_ok(), "another network");
            waits.push(wait.as_secs());
            now += wait;
            assert!(limits.begin("li", address(7), now).is_ok(), "nobody is locked out");
        }
        assert_eq!(waits, [1, 2, 4, 8, 16]);
        limits.succeeded("li", address(7), now);
        assert_eq!(limits.begin("li", address(7), now), Ok(Turn::FIRST));
    }

    #[test]
    fn who_guesses_elsewhere_keeps_nobody_waiting() {
        let mut limits = Limits::default();
        let now = Instant::now();
        for n in 0..3 * REMEMBERED as u32 {
            limits.begin("li", address(1_000 + n), now).unwrap();
        }
        assert_eq!(limits.begin("li", address(1), now), Ok(Turn { stranger: true, failures: 0 }));
    }

    #[test]
    fn a_network_waits_whatever_account_it_tries_but_those_that_sign_in_from_it() {
        let mut limits = Limits::default();
        let now = Instant::now();
        limits.begin("li", address(1), now).unwrap();
        limits.succeeded("li", address(1), now);
        for n in 0..NETWORK.free {
            assert!(limits.begin(&format!("name-{n}"), address(1), now).is_ok());
        }
        assert_eq!(limits.begin("another", address(1), now), Err(Duration::from_secs(1)));
        assert!(limits.begin("another", address(2), now).is_ok());
        assert_eq!(limits.begin("li", address(1), now), Ok(Turn::FIRST));
        limits.succeeded("li", address(1), now);
        assert!(limits.begin("another", address(1), now).is_err(), "one's own success ends no other's waits");
        assert!(limits.begin("yet another", address(1), now + FORGOTTEN).is_ok());
        // One network of IPv6 is one address.
        for n in 0..u128::from(NETWORK.free) {
            limits.begin(&format!("six-{n}"), IpAddr::from((0x2001 << 112 | n).to_be_bytes()), now).unwrap();
        }
        assert!(limits.begin("six", IpAddr::from((0x2001_u128 << 112 | 99).to_be_bytes()), now).is_err());
    }

    #[test]
    fn players_are_limited_apart_and_keys_that_were_right_are_spared() {
        let mut limits = Limits::default();
        let now = Instant::now();
        let (key, other) = (Some([1; 32]), Some([2; 32]));
        assert!(limits.player(key, address(1), now));
        let told = (0..1_000).filter(|_| limits.player(None, address(1), now)).count();
        assert_eq!(told, PLAYERS.free as usize);
        assert!(limits.player(key, address(1), now), "a player that comes back");
        assert!(!limits.player(other, address(1), now) && limits.player(other, address(2), now));
        assert!(limits.player(other, address(1), now + PLAYERS.longest));
        assert!(limits.begin("li", address(1), now).is_ok());
    }

    #[test]
    fn memory_is_bounded() {
        let mut limits = Limits::default();
        let start = Instant::now();
        for n in 0..REMEMBERED as u32 + 100 {
            let now = start + Duration::from_millis(n.into());
            limits.begin(&format!("name-{n}"), address(n), now).unwrap();
            limits.player(None, address(n), now);
            limits.player(Some(hash(&n.to_string())), address(n), now);
        }
        assert_eq!(
            [limits.accounts.len(), limits.networks.len(), limits.players.len(), limits.familiar.len()],
            [REMEMBERED; 4]
        );
        assert!(!limits.networks.contains_key(&address(99)) && limits.networks.contains_key(&address(100)));
    }

    #[test]
    fn what_was_not_tried_does_not_count() {
        let mut limits = Limits::default();
        let now = Instant::now();
        for _ in 0..100 {
            assert!(limits.begin("li", address(1), now).is_ok());
            limits.withdraw("li", address(1));
        }
    }
}
