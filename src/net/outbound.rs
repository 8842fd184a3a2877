//! How the box connects to cameras and destinations: to an address that was judged, never to a name.
//!
//! A name is resolved once for each connection, and what is connected to is the very address that [`Reach`] let pass: a
//! name server that answers otherwise a moment later changes nothing.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::config::reach::{Barred, Reach};

/// How long a name server may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a host's address is not known. Holds no more of a URL than its host.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("{0}")]
    Failed(io::Error),
    #[error("no address")]
    Nothing,
    #[error("no answer")]
    Silent,
    #[error(transparent)]
    Barred(#[from] Barred),
}

/// An address of `host`, as written in a URL, that may be connected to.
pub async fn resolve(host: &str, port: u16, reach: &Reach) -> Result<SocketAddr, ResolveError> {
    let mut addresses = judged(host, port, reach).await?.into_iter();
    addresses.next().ok_or(ResolveError::Nothing)
}

/// All of them; fails where the host has addresses and each is barred.
async fn judged(host: &str, port: u16, reach: &Reach) -> Result<Vec<SocketAddr>, ResolveError> {
    // A literal IPv6 address stands in brackets in a URL.
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let lookup = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((bare, port)));
    let found = lookup.await.map_err(|_| ResolveError::Silent)?.map_err(ResolveError::Failed)?;
    let mut barred = None;
    let mut addresses = Vec::new();
    for address in found {
        match reach.check(host, address.ip()) {
            Ok(()) => addresses.push(address),
            Err(why) => barred = Some(why),
        }
    }
    match barred {
        Some(why) if addresses.is_empty() => Err(why.into()),
        _ => Ok(addresses),
    }
}

/// The same for HTTP clients. They resolve names alone; judge a URL's literal address before it is used.
pub struct Resolver(pub Reach);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0.clone();
        Box::pin(async move {
            // The client puts in its own port.
            let addresses = judged(name.as_str(), 0, &reach).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_leads_to() {
        let everywhere = Reach::default();
        let found = resolve("localhost", 554, &everywhere).await.unwrap();
        assert!(found.ip().is_loopback() && found.port() == 554);
        // Old spellings of 127.0.0.1, which name servers need not be asked for.
        for spelling in ["127.1", "2130706433", "0x7f000001", "0177.0.0.1"] {
            let error = resolve(spelling, 554, &everywhere).await.unwrap_err();
            assert!(matches!(error, ResolveError::Barred(_)), "{spelling}: {error}");
        }
        for host in
            ["169.254.169.254", "0.0.0.0", "[fe80::1]", "[::ffff:169.254.0.1]", "224.0.0.1", "2852039166"]
        {
            let error = resolve(host, 80, &everywhere).await.unwrap_err();
            assert!(matches!(error, ResolveError::Barred(_)), "{host}: {error}");
        }
        let elsewhere = Reach::only(["10.0.0.0/8".parse().unwrap()]);
        let error = resolve("localhost", 554, &elsewhere).await.unwrap_err();
        assert!(matches!(error, ResolveError::Barred(_)), "{error}");
    }
}
