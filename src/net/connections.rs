//! How many connections a server holds, in all and of one place, so that one client cannot shut out the others.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

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
    by_place: HashMap<IpAddr, usize>,
    told: HashMap<IpAddr, Instant>,
}

/// A connection's place among the others, until it is dropped.
pub struct Place {
    connections: Connections,
    of: IpAddr,
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

    /// A place for one more connection from `address`; none where there are too many.
    pub fn admit(&self, address: IpAddr) -> Option<Place> {
        let of = place_of(address);
        let mut open = self.open();
        let count = open.by_place.get(&of).copied().unwrap_or_default();
        let cause = if count >= OF_ONE_PLACE {
            "address"
        } else if open.in_all >= IN_ALL {
            "all"
        } else {
            open.in_all += 1;
            open.by_place.insert(of, count + 1);
            drop(open);
            self.gauge(1);
            return Some(Place { connections: self.clone(), of });
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
        self.connections.refused(cause);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        open.in_all -= 1;
        if let Some(count) = open.by_place.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                open.by_place.remove(&self.of);
            }
        }
        drop(open);
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
        let others = others.collect::<Vec<_>>();
        assert_eq!(others.len(), IN_ALL - OF_ONE_PLACE - 1);
        assert!(connections.admit(address("198.51.100.1")).is_none());
        drop((held, other, others));
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
