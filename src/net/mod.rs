//! The edge to the network: what every listener shares, whatever it speaks.
//!
//! What does not belong here: protocols (`api`, `relay`) and permission (`access`).

use std::net::SocketAddr;

/// Who is at the other end of a connection. Every HTTP request bears it in its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub address: SocketAddr,
    /// The connection is encrypted.
    pub tls: bool,
}
