//! The RTSP server (RFC 2326): live streams and recordings, over the connection itself (TCP interleaved, plain or over
//! TLS) or by UDP.
//!
//! One task a client (`connection`, `methods`), which reads its requests and sends it the packets of what it plays
//! (`session`): a live stream's, shared with every other reader, as its own cursor meets them, or a recording's at its
//! own pace (`playback`). What a client costs is bounded: one sample's packets, one part of a recording and the one
//! after it, a socket buffer, and [`request::MAX_HEAD`] and [`request::MAX_BODY`] bytes of input; and how many there are
//! is (`limits`).
//!
//! What does not belong here: packets (`media::rtp`), what is recorded (`record`), permission (`access`), and how many
//! may connect (`net`).

mod connection;
mod exchange;
mod limits;
mod methods;
mod output;
mod playback;
// Public for the fuzzer alone, as is all that reads what anybody sends.
pub mod range;
pub mod request;
pub mod rtcp;
mod sdp;
mod session;
pub mod transport;
pub mod udp;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::config::ReaderLimits;
use crate::health::Health;
use crate::live::Directory;
use crate::net::listener::{Incoming, Listener};
use crate::record::Archive;
use connection::{Connection, Ends};
use limits::Limits;

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

/// What a server serves, and where.
pub struct Setup {
    pub listeners: Vec<Listener>,
    /// RTP by UDP, where it is served.
    pub udp: Option<Arc<udp::Pair>>,
    /// Every stream is served at its path.
    pub streams: Arc<Directory>,
    /// Recordings, where there are any, at `playback/CAMERA`.
    pub archive: Option<Archive>,
    pub limits: ReaderLimits,
    pub access: Access,
    pub health: Health,
}

/// What every connection reaches.
struct Shared {
    streams: Arc<Directory>,
    archive: Option<Archive>,
    udp: Option<Arc<udp::Pair>>,
    limits: Limits,
    access: Access,
    health: Health,
}

impl Server {
    pub fn start(setup: Setup) -> Server {
        let Setup { listeners, udp, streams, archive, limits, access, health } = setup;
        let stop = CancellationToken::new();
        let limits = Limits::new(limits);
        let shared = Arc::new(Shared { streams, archive, udp: udp.clone(), limits, access, health });
        let accepting = listeners.into_iter().map(|listener| accept(listener, shared.clone(), stop.clone()));
        let accepting = futures::future::join_all(accepting.collect::<Vec<_>>()).map(drop);
        let hearing = async {
            match udp {
                Some(pair) => pair.listen().await,
                None => std::future::pending().await,
            }
        };
        let accepting = tokio::spawn(async {
            tokio::select! {
                () = accepting => {}
                () = hearing => {}
            }
        });
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
                connections.spawn(serve(incoming, shared.clone()));
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn serve(incoming: Incoming, shared: Arc<Shared>) {
    let peer = incoming.peer;
    // Where it cannot be told the connection has ended already.
    let local = incoming.tcp().local_addr().map_or(peer.address.ip(), |local| local.ip().to_canonical());
    let ends = Ends { client: peer.address.ip(), local, is_encrypted: peer.tls };
    // On the heap while it lasts: a connection keeps no room for a handshake.
    let ended = match Box::pin(incoming.open()).await {
        Ok(socket) => Connection::new(socket, ends, shared).run().await,
        Err(error) => Err(error.into()),
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
