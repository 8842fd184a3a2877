//! Connections: how many, how long a client may take, and how they end.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming as Body;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::problem::Problem;
use crate::net::listener::{Incoming, Listener, Socket};

/// The longest header of a request together with its line; of header fields hyper takes a hundred.
const MAX_HEADER: usize = 32 << 10;
/// A client takes no longer to send its header, or stays idle between requests.
const HEADER_PATIENCE: Duration = Duration::from_secs(20);
/// An answer has begun by then: every handler has a shorter limit of its own, but for what nobody thought of.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);
/// A download that takes nothing for so long is ended.
const STALL_PATIENCE: Duration = Duration::from_secs(30);
/// Requests in flight get so long at the stop.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// To connections beyond the limit.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 10\r\nContent-Type: application/problem+json\r\n\
    Content-Length: 136\r\nConnection: close\r\n\r\n\
    {\"type\":\"urn:liuta:problem:too-many-connections\",\"title\":\"Too many connections\",\"status\":429,\
    \"detail\":\"close some, or come again later\"}";
/// To who speaks HTTP where HTTPS is spoken. No redirect: what was sent in clear would be sent so again.
pub const USE_HTTPS: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 45\r\n\
    Connection: close\r\n\r\nThis address speaks HTTPS: write https://...\n";

pub async fn serve(listener: Listener, router: Router, stop: CancellationToken) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            incoming = listener.accept(TOO_MANY) => incoming,
        };
        connections.spawn(converse(incoming, router.clone(), stop.clone()));
    }
    drop(listener);
    let last_words = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_WORDS, last_words).await.is_err() {
        tracing::info!(connections = connections.len(), "http: requests in flight are cut off");
        connections.shutdown().await;
    }
    Ok(())
}

async fn converse(incoming: Incoming, router: Router, stop: CancellationToken) {
    let peer = incoming.peer;
    let vouched = incoming.is_vouched_for();
    let opened = tokio::select! {
        () = stop.cancelled() => return,
        opened = incoming.open() => opened,
    };
    let socket = match opened {
        Ok(socket) => socket,
        Err(error) => {
            tracing::debug!(peer = %peer.address, "http: no handshake: {error}");
            return;
        }
    };
    let place = socket.place().clone();
    let io = TokioIo::new(Stalling::new(socket));
    let known = place.clone();
    let service = service_fn(move |mut request: hyper::Request<Body>| {
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(known.clone());
        let answer = TowerToHyperService::new(router.clone()).call(request);
        async move {
            let late = |_| Ok(Problem::unavailable("the answer took too long", 30).into_response());
            let answer: Result<_, Infallible> =
                tokio::time::timeout(ANSWER_PATIENCE, answer).await.unwrap_or_else(late);
            answer.map(|response| if vouched { only_encrypted(response) } else { response })
        }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_PATIENCE)
            .max_buf_size(MAX_HEADER)
            .serve_connection(io, service)
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = place.given_up() => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // Clients come and go as they please.
        tracing::debug!("http: a connection ended: {error}");
    }
}

/// Has browsers come back by HTTPS alone (RFC 6797), where they believe the certificate: without that they would be shut
/// out the day it changes.
fn only_encrypted(mut response: Response) -> Response {
    let a_year = HeaderValue::from_static("max-age=31536000");
    response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, a_year);
    response
}

/// A socket that gives up on a peer that takes nothing for [`STALL_PATIENCE`].
struct Stalling {
    socket: Socket,
    /// Runs while a write waits.
    patience: Pin<Box<Sleep>>,
    waiting: bool,
}

impl Stalling {
    fn new(socket: Socket) -> Stalling {
        Stalling { socket, patience: Box::pin(tokio::time::sleep(STALL_PATIENCE)), waiting: false }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.waiting = false;
            return poll;
        }
        if !self.waiting {
            self.waiting = true;
            self.patience.as_mut().reset(Instant::now() + STALL_PATIENCE);
        }
        match self.patience.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Stalling {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stalling {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.watch(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.watch(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.socket).poll_flush(cx);
        self.watch(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.socket).poll_shutdown(cx);
        self.watch(cx, poll)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_written_by_hand_are_as_long_as_they_say() {
        for answer in [TOO_MANY, USE_HTTPS] {
            let text = std::str::from_utf8(answer).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{text}");
        }
        let (_, problem) = std::str::from_utf8(TOO_MANY).unwrap().split_once("\r\n\r\n").unwrap();
        let problem: serde_json::Value = serde_json::from_str(problem).unwrap();
        assert_eq!(problem["status"], 429);
    }
}
