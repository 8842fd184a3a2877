//! The RTSP server (RFC 2326), TCP interleaved: who may connect, and how many.
//!
//! One task a client (`connection`), which reads its requests and sends it a stream's packets as its own cursor
//! meets them. What a client costs is bounded: one sample's packets, which it shares with every other reader, a socket
//! buffer, and [`request::MAX_HEAD`] and [`request::MAX_BODY`] bytes of input.
//!
//! What does not belong here: packets (`media::rtp`) and permission (`access`).

mod connection;
mod output;
// Public for the fuzzer alone: its input is anybody's.
pub mod request;
mod rtcp;
mod sdp;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::health::Health;
use crate::live::Directory;
use connection::Connection;

/// Connections in all. Each may hold [`SEND_BUFFER`] in the kernel.
const MAX_CONNECTIONS: usize = 2_048;

/// Connections of one address: a wall of screens behind one address translator is one.
const MAX_PER_ADDRESS: usize = 512;

/// Bytes that the kernel keeps for a reader which does not read. A second of a camera at 8 Mbit/s.
const SEND_BUFFER: usize = 1 << 20;

/// Silence after which the kernel asks whether a client is still there: a reader of a camera that is away sends and
/// gets nothing for a long time.
const KEEPALIVE: Duration = Duration::from_secs(30);

pub struct Server {
    stop: CancellationToken,
    accepting: JoinHandle<()>,
}

/// What every connection reaches.
struct Shared {
    streams: Arc<Directory>,
    access: Access,
    health: Health,
    clients: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection's place among [`MAX_CONNECTIONS`].
struct Place {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl Server {
    /// Serves every stream of the directory at its path.
    pub fn start(listener: TcpListener, streams: Arc<Directory>, access: Access, health: Health) -> Server {
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared { streams, access, health, clients: Mutex::default() });
        let accepting = tokio::spawn(accept(listener, shared, stop.clone()));
        Server { stop, accepting }
    }

    /// False once stopped, or should accepting have failed.
    pub fn is_running(&self) -> bool {
        !self.accepting.is_finished()
    }

    /// Closes the listener and every session.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.accepting.await {
            tracing::error!("RTSP server: {error}");
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!("RTSP connection: {error}");
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => {
                    let Some(place) = shared.place(peer.ip()) else {
                        refuse(&socket, peer);
                        continue;
                    };
                    tune(&socket);
                    connections.spawn(serve(socket, peer, place, stop.clone()));
                }
                Err(error) => {
                    // Out of descriptors, or a client that left at once: the listener itself is sound.
                    tracing::warn!("RTSP: accepting a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    // They watch `stop` too.
    while connections.join_next().await.is_some() {}
}

async fn serve(socket: TcpStream, peer: SocketAddr, place: Place, stop: CancellationToken) {
    let connection = Connection::new(socket, peer.ip(), place.shared.clone());
    let ended = tokio::select! {
        () = stop.cancelled() => return,
        ended = connection.run() => ended,
    };
    match ended {
        Ok(()) => tracing::debug!(%peer, "RTSP client left"),
        Err(why) => tracing::info!(%peer, "RTSP client closed: {why}"),
    }
}

fn refuse(socket: &TcpStream, peer: SocketAddr) {
    tracing::warn!(%peer, "RTSP: too many connections ({MAX_PER_ADDRESS} an address, {MAX_CONNECTIONS} in all)");
    let answer = request::Response::new(503).saying("too many connections").encode(None);
    // A new socket's buffer has room for it; a client that is refused is owed no more.
    let _ = socket.try_write(&answer);
}

/// Small pictures go out at once, and a reader that does not read costs a bounded part of the kernel's memory.
fn tune(socket: &TcpStream) {
    use rustix::net::sockopt;
    let tuned = socket.set_nodelay(true).and_then(|()| {
        // Linux doubles what it is told, for its own bookkeeping.
        sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER / 2)?;
        sockopt::set_socket_keepalive(socket, true)?;
        sockopt::set_tcp_keepidle(socket, KEEPALIVE)?;
        sockopt::set_tcp_keepintvl(socket, KEEPALIVE / 3)?;
        Ok(sockopt::set_tcp_keepcnt(socket, 3)?)
    });
    if let Err(error) = tuned {
        tracing::debug!("RTSP: socket options: {error}");
    }
}

impl Shared {
    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.clients.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn place(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut clients = self.clients();
        let of_address = clients.get(&address).copied().unwrap_or_default();
        if of_address >= MAX_PER_ADDRESS || clients.values().sum::<usize>() >= MAX_CONNECTIONS {
            return None;
        }
        clients.insert(address, of_address + 1);
        Some(Place { shared: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut clients = self.shared.clients();
        if let Some(count) = clients.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.address);
            }
        }
    }
}
