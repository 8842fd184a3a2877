//! The edge to the network: what every listener shares, whatever it speaks, and how the box connects to others.
//!
//! [`listener`] lets clients in, [`connections`] counts them, [`tls`] is the certificate that they see, [`outbound`] leads
//! to cameras and destinations.
//! What does not belong here: protocols (`api`, `relay`), permission (`access`), and which addresses may be reached
//! (`config::reach`).

pub mod connections;
pub mod listener;
pub mod outbound;
pub mod tls;

use std::net::SocketAddr;

/// Who is at the other end of a connection. Every HTTP request bears it in its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub address: SocketAddr,
    /// The connection is encrypted.
    pub tls: bool,
}
