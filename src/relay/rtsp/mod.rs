//! The RTSP server (RFC 2326), TCP interleaved, plain or over TLS.
//!
//! One task a client (`connection`), which reads its requests and sends it a stream's packets as its own cursor
//! meets them. What a client costs is bounded: one sample's packets, which it shares with every other reader, a socket
//! buffer, and [`request::MAX_HEAD`] and [`request::MAX_BODY`] bytes of input.
//!
//! What does not belong here: packets (`media::rtp`), permission (`access`), and how many may connect (`net`).

mod connection;
mod exchange;
mod output;
// Public for the fuzzer alone: its input is anybody's.
pub mod request;
mod rtcp;
mod sdp;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::health::Health;
use crate::live::Directory;
use crate::net::listener::{Incoming, Listener};
use connection::Connection;

/// Bytes that the kernel keeps for a reader which does not read. A second of a camera at 8 Mbit/s.
const SEND_BUFFER: usize = 1 << 20;

/// Silence after which the kernel asks whether a client is still there: a reader of a camera that is away sends and
/// gets nothing for a long time.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// To who speaks RTSP where RTSPS is spoken.
pub const USE_RTSPS: &[u8] =
    b"RTSP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 44\r\n\r\n\
    This address speaks RTSPS: write rtsps://...";

pub struct Server {
    stop: CancellationToken,
    accepting: JoinHandle<()>,
}

/// What every connection reaches.
struct Shared {
    streams: Arc<Directory>,
    access: Access,
    health: Health,
}

impl Server {
    /// Serves every stream of the directory at its path, at each of the listeners.
    pub fn start(
        listeners: Vec<Listener>,
        streams: Arc<Directory>,
        access: Access,
        health: Health,
    ) -> Server {
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared { streams, access, health });
        let accepting = listeners.into_iter().map(|listener| accept(listener, shared.clone(), stop.clone()));
        let accepting = tokio::spawn(futures::future::join_all(accepting.collect::<Vec<_>>()).map(drop));
        Server { stop, accepting }
    }

    /// False once stopped, or should accepting have failed.
    pub fn is_running(&self) -> bool {
        !self.accepting.is_finished()
    }

    /// Closes the listeners and every session.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.accepting.await {
            tracing::error!("RTSP server: {error}");
        }
    }
}

async fn accept(listener: Listener, shared: Arc<Shared>, stop: CancellationToken) {
    let refusal = request::Response::new(503).saying("too many connections").encode(None);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!("RTSP connection: {error}");
                }
            }
            incoming = listener.accept(&refusal) => {
                tune(incoming.tcp());
                connections.spawn(serve(incoming, shared.clone(), stop.clone()));
            }
        }
    }
    drop(listener);
    // They watch `stop` too.
    while connections.join_next().await.is_some() {}
}

async fn serve(incoming: Incoming, shared: Arc<Shared>, stop: CancellationToken) {
    let peer = incoming.peer;
    let talk = async {
        let socket = incoming.open().await?;
        let place = socket.place().clone();
        tokio::select! {
            () = place.given_up() => Err(io::Error::from(io::ErrorKind::ConnectionAborted).into()),
            ended = Connection::new(socket, peer.address.ip(), shared).run() => ended,
        }
    };
    let ended = tokio::select! {
        () = stop.cancelled() => return,
        ended = talk => ended,
    };
    match ended {
        Ok(()) => tracing::debug!(peer = %peer.address, "RTSP client left"),
        // Anybody can have these, as often as they like.
        Err(why) if why.is_strangers() => tracing::debug!(peer = %peer.address, "RTSP client closed: {why}"),
        Err(why) => tracing::info!(peer = %peer.address, "RTSP client closed: {why}"),
    }
}

/// A reader that does not read costs a bounded part of the kernel's memory.
fn tune(socket: &TcpStream) {
    use rustix::net::sockopt;
    let tuned = (|| {
        // Linux doubles what it is told, for its own bookkeeping.
        sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER / 2)?;
        sockopt::set_socket_keepalive(socket, true)?;
        sockopt::set_tcp_keepidle(socket, KEEPALIVE)?;
        sockopt::set_tcp_keepintvl(socket, KEEPALIVE / 3)?;
        sockopt::set_tcp_keepcnt(socket, 3)
    })();
    if let Err(error) = tuned {
        tracing::debug!("RTSP: socket options: {error}");
    }
}
