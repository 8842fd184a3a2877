//! One listener: which connections come in, and how they are encrypted.
//!
//! The accept loop never waits for a client: what takes its time, the handshake, is the connection's own task's.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Peer;
use super::connections::{Connections, Place};
use super::tls::Tls;

/// From the first byte of a TLS handshake to its last.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The first byte of a TLS handshake (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

pub struct Listener {
    tcp: TcpListener,
    connections: Connections,
    tls: Option<Arc<Encryption>>,
}

struct Encryption {
    tls: Arc<Tls>,
    acceptor: TlsAcceptor,
    /// What is told to who begins without a handshake.
    hint: &'static [u8],
}

/// A connection that was let in, before a byte was read.
pub struct Incoming {
    socket: TcpStream,
    place: Place,
    tls: Option<Arc<Encryption>>,
    pub peer: Peer,
}

/// A connection's bytes, encrypted or not.
pub struct Socket {
    stream: Stream,
    /// Counts as long as the socket is there.
    place: Place,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Listener {
    /// Without encryption. `connections` may be shared with other listeners of the same server.
    pub fn new(tcp: TcpListener, connections: Connections) -> Listener {
        Listener { tcp, connections, tls: None }
    }

    /// Over TLS. `alpn` names the protocol, where it has a name; `hint` answers clients that begin without TLS, in words
    /// of the protocol.
    pub fn over(self, tls: &Arc<Tls>, alpn: &[&[u8]], hint: &'static [u8]) -> Listener {
        Listener {
            tls: Some(Arc::new(Encryption { tls: tls.clone(), acceptor: tls.acceptor(alpn), hint })),
            ..self
        }
    }

    /// The next connection. Surplus ones are answered with `refusal` (in plain text alone) and closed.
    pub async fn accept(&self, refusal: &[u8]) -> Incoming {
        loop {
            let (socket, address) = match self.tcp.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, mostly: others must close first. The listener itself is sound.
                    tracing::warn!(
                        "{}: a connection could not be accepted: {error}",
                        self.connections.server()
                    );
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some(place) = self.connections.admit(address.ip()) else {
                if self.tls.is_none() {
                    // A new socket's buffer has room for it; a client that is refused is owed no more.
                    let _ = socket.try_write(refusal);
                }
                continue;
            };
            // Small answers must not wait for more to come; where it fails they do, and nothing else.
            let _ = socket.set_nodelay(true);
            // Version 4 clients of a listener for both versions are known by their own address.
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            let peer = Peer { address, tls: self.tls.is_some() };
            return Incoming { socket, place, tls: self.tls.clone(), peer };
        }
    }
}

impl Incoming {
    /// For socket options.
    pub fn tcp(&self) -> &TcpStream {
        &self.socket
    }

    /// It is encrypted, and others than the box itself vouch for the certificate.
    pub fn is_vouched_for(&self) -> bool {
        self.tls.as_ref().is_some_and(|encryption| !encryption.tls.is_self_signed())
    }

    /// The connection's bytes, after the handshake where there is one.
    pub async fn open(self) -> io::Result<Socket> {
        let Incoming { socket, place, tls, .. } = self;
        let Some(tls) = tls else { return Ok(Socket { stream: Stream::Plain(socket), place }) };
        let greeted = tokio::select! {
            () = place.given_up() => return Err(io::ErrorKind::ConnectionAborted.into()),
            greeted = tokio::time::timeout(HANDSHAKE, greet(socket, &tls)) => greeted,
        };
        match greeted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => Ok(Socket { stream: Stream::Tls(Box::new(stream)), place }),
            Err(error) => {
                place.refused("handshake");
                Err(error)
            }
        }
    }
}

impl Socket {
    pub fn place(&self) -> &Place {
        &self.place
    }
}

async fn greet(socket: TcpStream, tls: &Encryption) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0];
    if socket.peek(&mut first).await? == 1 && first[0] != HANDSHAKE_RECORD {
        let _ = socket.try_write(tls.hint);
        // Closing a socket with unread input would take the answer back.
        let _ = socket.try_read(&mut [0; 4_096]);
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it speaks no TLS"));
    }
    tls.acceptor.accept(socket).await
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
