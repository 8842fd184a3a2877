//! How many connections a server holds, in all and of one place, so that one client cannot shut out the others.
//!
//! Where there is no room, strangers make it: of the place that has most of them the one that came first. Whoever has
//! signed in on a connection keeps it.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::health::{Health, ListenerCause, ListenerLabel};

/// Connections in all. Each may hold a send buffer in the kernel, a megabyte at most.
const IN_ALL: usize = 2_048;

/// Connections of one place: a wall of screens behind one address translator is one.
const OF_ONE_PLACE: usize = 512;

/// A place that is refused is named in the log this often.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Places remembered as named; whoever has more addresses than that is named no more often.
const MOST_TOLD: usize = 1_024;

/// The connections of one server, over all its listeners. Cheap to clone.
#[derive(Clone)]
pub struct Connections(Arc<Shared>);

struct Shared {
    server: &'static str,
    health: Health,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    in_all: usize,
    by_place: HashMap<IpAddr, Held>,
    /// Numbers connections in the order in which they came.
    newest: u64,
    told: HashMap<IpAddr, Instant>,
}

/// Connections of one place.
#[derive(Default)]
struct Held {
    count: usize,
    /// On which nobody has signed in, oldest first.
    strangers: BTreeMap<u64, CancellationToken>,
}

/// A connection's place among the others, until the last clone is dropped.
#[derive(Clone)]
pub struct Place(Arc<Seat>);

struct Seat {
    connections: Connections,
    of: IpAddr,
    number: u64,
    given_up: CancellationToken,
}

/// Whom an address counts for: an IPv4 address for itself, an IPv6 one for the /64 that a provider gives one customer.
pub fn place_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

impl Connections {
    /// `server` names them in metrics and logs: `http`, `rtsp`.
    pub fn new(server: &'static str, health: Health) -> Connections {
        Connections(Arc::new(Shared { server, health, open: Mutex::default() }))
    }

    /// A place for one more connection from `address`; none where there are too many of people who have signed in, or
    /// of this address.
    pub fn admit(&self, address: IpAddr) -> Option<Place> {
        let of = place_of(address);
        let mut open = self.open();
        let count = open.by_place.get(&of).map_or(0, |held| held.count);
        let cause = if count >= OF_ONE_PLACE {
            "address"
        } else if open.in_all >= IN_ALL && !open.give_up_a_stranger() {
            "all"
        } else {
            open.in_all += 1;
            open.newest += 1;
            let (number, given_up) = (open.newest, CancellationToken::new());
            let held = open.by_place.entry(of).or_default();
            held.count += 1;
            held.strangers.insert(number, given_up.clone());
            drop(open);
            self.gauge(1);
            return Some(Place(Arc::new(Seat { connections: self.clone(), of, number, given_up })));
        };
        let tell = open.tells(of);
        drop(open);
        self.refused(cause);
        if tell {
            let server = self.server();
            tracing::warn!(
                "{server}: too many connections, {of} gets no more ({OF_ONE_PLACE} an address, {IN_ALL} in all)"
            );
        }
        None
    }

    fn refused(&self, cause: &str) {
        let label = ListenerCause::new(self.server(), cause);
        self.0.health.metrics.connections_refused.get_or_create(&label).inc();
    }

    pub fn server(&self) -> &'static str {
        self.0.server
    }

    fn gauge(&self, by: i64) {
        let label = ListenerLabel::new(self.server());
        self.0.health.metrics.connections.get_or_create(&label).inc_by(by);
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Open {
    /// Takes a stranger's place, where there is one.
    fn give_up_a_stranger(&mut self) -> bool {
        let most = self.by_place.iter().max_by_key(|(_, held)| held.strangers.len()).map(|(of, _)| *of);
        let Some(of) = most else { return false };
        let Some(held) = self.by_place.get_mut(&of) else { return false };
        let Some((_, oldest)) = held.strangers.pop_first() else { return false };
        oldest.cancel();
        self.leave(of);
        true
    }

    /// One connection fewer.
    fn leave(&mut self, of: IpAddr) {
        self.in_all -= 1;
        if let Some(held) = self.by_place.get_mut(&of) {
            held.count -= 1;
            if held.count == 0 {
                self.by_place.remove(&of);
            }
        }
    }

    /// Whether a refusal is worth a line in the log.
    fn tells(&mut self, of: IpAddr) -> bool {
        let now = Instant::now();
        if self.told.get(&of).is_some_and(|at| now.duration_since(*at) < TOLD_EVERY) {
            return false;
        }
        if self.told.len() >= MOST_TOLD {
            self.told.retain(|_, at| now.duration_since(*at) < TOLD_EVERY);
        }
        let room = self.told.len() < MOST_TOLD;
        if room {
            self.told.insert(of, now);
        }
        room
    }
}

impl Place {
    /// The connection comes to nothing for this cause.
    pub fn refused(&self, cause: &str) {
        self.0.connections.refused(cause);
    }

    /// Somebody has signed in on the connection: it is given up for nobody any more.
    pub fn is_known(&self) {
        if let Some(held) = self.0.connections.open().by_place.get_mut(&self.0.of) {
            held.strangers.remove(&self.0.number);
        }
    }

    /// Others need the place: the connection is to end soon.
    pub fn is_given_up(&self) -> bool {
        self.0.given_up.is_cancelled()
    }

    /// Waits until the place is needed by others; the connection ends then.
    pub async fn given_up(&self) {
        self.0.given_up.cancelled().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        // What was given up has left already.
        if !self.given_up.is_cancelled() {
            if let Some(held) = open.by_place.get_mut(&self.of) {
                held.strangers.remove(&self.number);
            }
            open.leave(self.of);
        }
        drop(open);
        if self.given_up.is_cancelled() {
            self.connections.refused("stranger");
        }
        self.connections.gauge(-1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_place_is_an_address_or_a_customers_network() {
        assert_eq!(place_of(address("192.0.2.7")), address("192.0.2.7"));
        assert_eq!(place_of(address("::ffff:192.0.2.7")), address("192.0.2.7"));
        assert_eq!(place_of(address("2001:db8:1:2:3:4:5:6")), address("2001:db8:1:2::"));
        assert_ne!(place_of(address("2001:db8:1:2::1")), place_of(address("2001:db8:1:3::1")));
    }

    #[test]
    fn one_place_cannot_take_all_and_leaves_what_it_had() {
        let health = Health::default();
        let connections = Connections::new("http", health.clone());
        let greedy = |n: usize| address(&format!("2001:db8::{n:x}"));
        let mut held: Vec<_> = (0..OF_ONE_PLACE).map(|n| connections.admit(greedy(n)).unwrap()).collect();
        assert!(connections.admit(greedy(0xffff)).is_none());
        let other = connections.admit(address("192.0.2.1"));
        assert!(other.is_some());
        let open = health.metrics.connections.get_or_create(&ListenerLabel::new("http")).get();
        assert_eq!(open, OF_ONE_PLACE as i64 + 1);
        let refused = ListenerCause::new("http", "address");
        assert_eq!(health.metrics.connections_refused.get_or_create(&refused).get(), 1);
        held.pop();
        held.push(connections.admit(greedy(1)).unwrap());
        // From everywhere at once.
        let others =
            (0..IN_ALL).map_while(|n| connections.admit(address(&format!("10.0.{}.{}", n / 250, n % 250))));
        let others = others.inspect(Place::is_known).take(IN_ALL - OF_ONE_PLACE - 1).collect::<Vec<_>>();
        held.iter().chain(&other).for_each(Place::is_known);
        assert!(connections.admit(address("198.51.100.1")).is_none(), "all of them have signed in");
        drop((held, other, others));
        let open = connections.open();
        assert_eq!((open.in_all, open.by_place.len()), (0, 0));
    }

    #[test]
    fn strangers_make_room_and_whoever_has_signed_in_stays() {
        let connections = Connections::new("http", Health::default());
        let crowd = |n: usize| address(&format!("192.0.2.{}", n / OF_ONE_PLACE));
        let mut held: Vec<_> = (0..IN_ALL - 1).map(|n| connections.admit(crowd(n)).unwrap()).collect();
        held[0].is_known();
        let quiet = connections.admit(address("198.51.100.1")).unwrap();
        let gone = |held: &[Place]| -> Vec<usize> {
            (0..held.len()).filter(|n| held[*n].0.given_up.is_cancelled()).collect()
        };
        // Of those with the most strangers the oldest go, one for one; the first has signed in.
        for n in 0..3 {
            held.push(connections.admit(address("198.51.100.2")).unwrap());
            assert_eq!(gone(&held).len(), n + 1);
        }
        assert!(!gone(&held).contains(&0) && !quiet.0.given_up.is_cancelled());
        assert_eq!(connections.open().in_all, IN_ALL);
        drop((held, quiet));
        let open = connections.open();
        assert_eq!((open.in_all, open.by_place.len()), (0, 0));
    }

    #[test]
    fn each_place_is_named_once_a_minute_and_not_all_of_the_internet() {
        let mut open = Open::default();
        assert!(open.tells(address("192.0.2.1")));
        assert!(!open.tells(address("192.0.2.1")));
        assert!(open.tells(address("192.0.2.2")));
        let told =
            (0..5_000u32).filter(|n| open.tells(std::net::Ipv4Addr::from(n + 1_000_000).into())).count();
        assert_eq!(told, MOST_TOLD - 2);
    }
}
