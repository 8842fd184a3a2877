//! Where the box may connect to by itself: cameras and destinations, whose addresses people write.
//!
//! Whoever may name a camera must not thereby reach what only the box can reach: its own services, a cloud's metadata, a
//! neighbour on the wire. Names are therefore judged by the address that they lead to, at each connection.
//! What does not belong here: resolving names, and connecting (`net::outbound`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

/// `[network] cameras`, `[network] destinations`: the networks that may be reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reach {
    /// `None`: every network that is not barred for all. Loopback then counts only where it is written as such, so that
    /// no name server can point a camera's name at the box itself.
    only: Option<Arc<[IpNet]>>,
}

/// An address that is not connected to, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {why}")]
pub struct Barred {
    pub address: IpAddr,
    pub why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No configuration opens it; what it is.
    Never(&'static str),
    /// A name that leads to the box itself.
    Loopback,
    Outside,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Never(what) => write!(f, "{what}, which is never connected to"),
            Why::Loopback => f.write_str(
                "this box itself, reached by a name: write the address as 127.0.0.1 if that is meant",
            ),
            Why::Outside => f.write_str("outside the networks that [network] allows"),
        }
    }
}

impl Reach {
    pub fn only(networks: impl IntoIterator<Item = IpNet>) -> Reach {
        Reach { only: Some(networks.into_iter().collect()) }
    }

    /// Whether `address` may be connected to, to which `host`, as written in a URL, leads.
    pub fn check(&self, host: &str, address: IpAddr) -> Result<(), Barred> {
        let barred = |why| Err(Barred { address, why });
        let inner = unwrapped(address);
        if let Some(what) = never(address).or_else(|| never(inner)) {
            return barred(Why::Never(what));
        }
        match &self.only {
            Some(networks) => {
                let inside = networks.iter().any(|net| net.contains(&inner) || net.contains(&address));
                if inside { Ok(()) } else { barred(Why::Outside) }
            }
            None if inner.is_loopback() && !names_loopback(host) => barred(Why::Loopback),
            None => Ok(()),
        }
    }

    /// The same for a host that is an address already; names are judged when they are resolved.
    pub fn check_literal(&self, host: &str) -> Result<(), Barred> {
        literal(host).map_or(Ok(()), |address| self.check(host, address))
    }
}

/// The address that a URL's host is; `None` for a name.
pub fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn names_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || literal(host).is_some_and(|address| unwrapped(address).is_loopback())
}

/// The IPv4 address inside an IPv6 one: mapped, compatible, translated (RFC 2765), NAT64 (RFC 6052, RFC 8215) and 6to4
/// (RFC 3056).
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => address,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0, 0, 0, 0, 0xffff, 0, high, low] | [0x64, 0xff9b, 1, _, _, _, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

/// What no camera and no destination is, whatever the configuration says.
fn never(address: IpAddr) -> Option<&'static str> {
    const METADATA: &str = "a cloud's metadata service";
    match address {
        IpAddr::V4(v4) => match v4.octets() {
            [169, 254, 169, 254] | [100, 100, 100, 200] | [168, 63, 129, 16] | [192, 0, 0, 192] => {
                Some(METADATA)
            }
            [169, 254, ..] => Some("a link-local address"),
            [0, ..] => Some("no host's address"),
            [224..=239, ..] => Some("a multicast address"),
            [255, 255, 255, 255] => Some("a broadcast address"),
            [240..=255, ..] => Some("a reserved address"),
            _ => None,
        },
        IpAddr::V6(v6) => {
            const EC2: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
            match v6 {
                EC2 => Some(METADATA),
                _ if v6.is_unspecified() => Some("no host's address"),
                _ if v6.is_multicast() => Some("a multicast address"),
                _ if v6.is_unicast_link_local() => Some("a link-local address"),
                _ if v6.segments()[0] & 0xffc0 == 0xfec0 => Some("a site-local address"),
                _ if v6.segments()[..2] == [0x2001, 0] => Some("a Teredo tunnel"),
                _ => None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn why(reach: &Reach, host: &str, address: &str) -> Option<Why> {
        reach.check(host, address.parse().unwrap()).err().map(|barred| barred.why)
    }

    #[test]
    fn private_and_public_addresses_are_reached_and_loopback_where_it_is_written() {
        let reach = Reach::default();
        for address in ["10.1.2.3", "192.168.1.64", "192.0.2.10", "203.0.113.9", "fd12::7", "2001:db8::1"] {
            assert_eq!(why(&reach, "gate.example", address), None, "{address}");
        }
        for (host, address) in
            [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("[::1]", "::1"), ("LOCALHOST", "::1")]
        {
            assert_eq!(why(&reach, host, address), None, "{host}");
        }
        for address in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"] {
            assert_eq!(why(&reach, "gate.example", address), Some(Why::Loopback), "{address}");
        }
    }

    #[test]
    fn a_list_opens_its_networks_alone() {
        let reach = Reach::only(["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        assert_eq!(why(&reach, "x", "10.255.0.1"), None);
        assert_eq!(why(&reach, "x", "::ffff:10.0.0.1"), None);
        assert_eq!(why(&reach, "x", "fd00::1"), None);
        for address in ["11.0.0.1", "127.0.0.1", "::1", "2001:db8::1"] {
            assert_eq!(why(&reach, address, address), Some(Why::Outside), "{address}");
        }
        let loopback = Reach::only(["127.0.0.0/8".parse().unwrap()]);
        assert_eq!(why(&loopback, "gate.example", "127.0.0.1"), None);
        assert_eq!(why(&Reach::only([]), "10.0.0.1", "10.0.0.1"), Some(Why::Outside));
    }

    proptest! {
        /// However it is wrapped, and whatever the list says.
        #[test]
        fn what_is_never_reached_stays_so(low in any::<u16>(), pick in 0usize..7, wrap in 0usize..7, open: bool) {
            let [c, d] = low.to_be_bytes();
            let v4 = [
                Ipv4Addr::new(169, 254, c, d),
                Ipv4Addr::new(100, 100, 100, 200),
                Ipv4Addr::new(224 + (c & 15), d, c, d),
                Ipv4Addr::new(240 + (c & 15), d, c, d),
                Ipv4Addr::new(0, 0, 0, d),
                Ipv4Addr::BROADCAST,
                Ipv4Addr::new(192, 0, 0, 192),
            ][pick];
            let [a, b, c, d] = v4.octets().map(u16::from);
            let (high, low) = (a << 8 | b, c << 8 | d);
            let address: IpAddr = match wrap {
                0 => v4.into(),
                1 => v4.to_ipv6_mapped().into(),
                2 => Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low).into(),
                3 => Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1).into(),
                4 => Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low).into(),
                5 => Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low).into(),
                // ::0.0.0.1 is IPv6's own loopback.
                _ if v4.octets()[0] == 0 => v4.into(),
                _ => Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low).into(),
            };
            let reach = if open {
                Reach::only(["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()])
            } else {
                Reach::default()
            };
            let judged = reach.check(&address.to_string(), address);
            prop_assert!(matches!(judged, Err(Barred { why: Why::Never(_), .. })), "{address}: {judged:?}");
        }

        /// What one name leads to is judged by the address alone, and a list never opens what it does not hold.
        #[test]
        fn a_list_holds_for_every_address(bits in any::<u32>(), prefix in 8u8..=32, other in any::<u32>()) {
            let network = ipnet::Ipv4Net::new(bits.into(), prefix).unwrap();
            let address = Ipv4Addr::from(other);
            let reach = Reach::only([network.into()]);
            let inside = network.contains(&address);
            let judged = reach.check("x", address.into()).is_ok();
            prop_assert!(!judged || inside, "{address} in {network}");
        }

        #[test]
        fn link_local_in_version_6_is_never_reached(low in any::<u128>()) {
            let address = Ipv6Addr::from(0xfe80u128 << 112 | low >> 10);
            prop_assert!(address.is_unicast_link_local());
            prop_assert!(Reach::default().check("x", address.into()).is_err());
        }
    }

    #[test]
    fn what_version_6_has_given_up_is_never_reached() {
        for address in ["fec0::1", "feff::1", "2001:0:a9fe:a9fe::1", "2001::5601:5601"] {
            assert!(matches!(why(&Reach::default(), "x", address), Some(Why::Never(_))), "{address}");
        }
        assert_eq!(why(&Reach::default(), "x", "2001:1::1"), None);
    }
}
